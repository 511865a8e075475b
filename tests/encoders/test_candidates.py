"""The lists of candidates: their form, and what timm's own registry says of them."""

from __future__ import annotations

import datetime
import re

import pytest

from transferscope.encoders import CANDIDATES, CHECKED, expand_encoders, list_encoders

LICENCES = {"apache-2.0", "mit", "cc-by-nc-4.0", "dinov3-license"}
ROWS = [(group, one) for group, those in CANDIDATES.items() for one in those]


def test_the_lists_are_there_and_dated() -> None:
    assert list(CANDIDATES) == [
        "text-base", "text-large", "vision-base", "vision-large", "vision-ssl"
    ]  # fmt: skip
    assert datetime.date.fromisoformat(CHECKED) >= datetime.date(2026, 1, 1)
    names = [one.name for _, one in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("group", "one"), ROWS, ids=[one.name for _, one in ROWS])
def test_each_has_name_licence_and_size(group: str, one: object) -> None:
    kind = "hf/[^/ ,?]+/[^/ ,?]+" if group.startswith("text") else r"timm/[a-z0-9_]+\.[a-z0-9_]+"
    assert re.fullmatch(kind, one.name)  # type: ignore[attr-defined]
    assert one.licence in LICENCES  # type: ignore[attr-defined]
    low, high = {"base": (20e6, 300e6), "large": (150e6, 700e6), "ssl": (20e6, 100e6)}[
        group.partition("-")[2]
    ]
    assert low <= one.n_parameters <= high  # type: ignore[attr-defined]


def test_a_list_stands_for_its_encoders() -> None:
    names = [one.name for one in CANDIDATES["text-base"]]
    assert expand_encoders("text-base") == names
    mixed = expand_encoders(f"{names[0]}, text-base ,mini/resnet-random")
    assert mixed == [*names, "mini/resnet-random"]


def test_text_candidates_are_listed() -> None:
    (row,) = list_encoders("hf/microsoft/deberta-v3-base")
    assert "licence mit" in row.summary
    assert row.n_parameters == 183_831_552


@pytest.mark.parametrize(
    "one", [one for _, one in ROWS if one.name.startswith("timm/")], ids=lambda one: one.name
)
def test_vision_candidates_are_as_timm_says(one: object) -> None:
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    name = one.name.removeprefix("timm/")  # type: ignore[attr-defined]
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    assert config.license == one.licence  # type: ignore[attr-defined]
    with torch.device("meta"):
        model = timm.create_model(name.partition(".")[0], num_classes=0)
    assert sum(p.numel() for p in model.parameters()) == one.n_parameters  # type: ignore[attr-defined]
