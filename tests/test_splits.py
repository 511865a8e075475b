"""Names of splits: what means the same, what is no split, and which part is read."""

from __future__ import annotations

import pytest

from transferscope.datasets._splits import (
    choose_split,
    find_split_column,
    known_splits,
    meaning_of,
    note_choice,
)
from transferscope.errors import DatasetError

TRAIN = "train Train TRAINING training_set train-set TrainSet trainset Train2017 train_images"
VALIDATION = "val Val valid VALIDATION validation_set dev DevSet val2017"
TEST = "test Testing TEST_SET test-data testImages tst"
NOT_ONE = "cat x_train train_station PublicTest train_test protest trains value 2017 é"


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        *((name, "train") for name in TRAIN.split()),
        *((name, "validation") for name in VALIDATION.split()),
        *((name, "test") for name in TEST.split()),
        *((name, None) for name in ["", *NOT_ONE.split()]),
    ],
)
def test_meaning_of_a_name(name, meaning):
    assert meaning_of(name) == meaning


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["seg_train", "seg_test", "seg_pred"], {"seg_train": "train", "seg_test": "test"}),
        (["cars_train", "cars_test"], {"cars_train": "train", "cars_test": "test"}),
        (["train_station", "test_tube"], {}),
        (["train_station"], {}),
        (["train_a", "train_b"], {}),
        (["Train", "dog"], {"Train": "train"}),
        ([], {}),
    ],
)
def test_words_that_all_names_share_do_not_count(names, known):
    assert known_splits(names) == known


@pytest.mark.parametrize(
    ("requested", "names", "chosen"),
    [
        (None, [], "all"),
        ("all", [], "all"),
        (None, ["only"], "only"),
        (None, ["test", "Training"], "Training"),
        (None, ["train", "Training"], "train"),
        (None, ["trainval", "test"], "trainval"),
        ("test", ["Training", "Testing"], "Testing"),
        ("dev", ["train", "validation_set"], "validation_set"),
        ("val", ["validation", "val"], "val"),
        ("fold_1", ["fold_1", "fold_2"], "fold_1"),
    ],
)
def test_the_part_that_is_read(requested, names, chosen):
    assert choose_split(requested, names, source="it") == chosen


@pytest.mark.parametrize(
    ("requested", "names", "message"),
    [
        (None, ["a", "b"], r"it has several splits \(a, b\), and none is called train"),
        (None, ["train_1", "train_2"], "train_1, train_2 may all be train"),
        ("dev", ["val", "valid", "train"], "val, valid may all be dev"),
        ("test", ["train"], "'test' does not exist in it, which has train"),
        ("test", [], "which has no splits. Leave it out"),
        ("", ["train", "test"], "'' does not exist in it"),
    ],
)
def test_parts_that_are_unclear_or_absent(requested, names, message):
    with pytest.raises(DatasetError, match=message):
        choose_split(requested, names, source="it")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"text": ["a"], "Split ": ["x"]}, "Split "),
        ({"usage": ["Training", "test"], "set": ["a", "b"]}, "usage"),
        ({"set": ["train", "tennis"]}, None),
        ({"text": ["train", "test"]}, None),
    ],
)
def test_column_of_splits(columns, found):
    assert find_split_column(columns) == found


def test_only_a_choice_is_noted():
    assert note_choice("train", "train", ["train", "test"]) == ()
    assert note_choice(None, "train", ["train"]) == ()
    (note,) = note_choice(None, "train", ["test", "train", "val"])
    assert note == "split train was read, the others were not (test, val)"
