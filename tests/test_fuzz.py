"""A few malformed inputs of each family; benchmarks/fuzz.py runs ten thousand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

for package in ("torch", "timm", "transformers", "datasets", "pyarrow"):
    pytest.importorskip(package)

from fuzzing import FAMILIES, outcome  # noqa: E402

#: Cases of each family; where one takes long, fewer.
CASES = {"feature store": 6, "model folders": 12, "checkpoints": 15}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_is_malformed_is_read_rightly_or_refused(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    seen = set()
    for number in range(CASES.get(family, 30)):
        folder = tmp_path / str(number)
        folder.mkdir()
        case = FAMILIES[family](np.random.default_rng([99, number]), folder)
        kind, said = outcome(case)
        assert kind in ("value", "refused"), f"case {number} [{case.label}]: {kind}: {said}"
        seen.add(kind)
    assert "value" in seen  # else nothing but the generator would be wrong
