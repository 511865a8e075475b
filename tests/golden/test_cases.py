"""The golden cases are the arrays that public code was run on, to the last bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from golden.cases import RECIPES, make

#: case -> array -> sha256 of its bytes, taken from the arrays that the reference values belong to
STORED = json.loads((Path(__file__).parent / "sha256.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(STORED))
def test_every_array_is_bit_for_bit_the_stored_one(name):
    made = make(name)
    assert {
        key: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        for key, array in made.items()
    } == STORED[name]
    n, d = made["X"].shape
    assert made["P"].shape == made["L"].shape == (n, RECIPES[name].n_source_classes)
    assert (made["y"].shape, made["Y"].shape) == ((n,), (n, 3))
    assert made["G"].shape == (RECIPES[name].n_general, d)
    assert made["XS"].shape == (len(made["yS"]), d)
