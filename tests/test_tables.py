"""Tables of every form: what is read is what the file says, cell by cell, or it is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from transferscope.datasets import _hugging_face as hugging_face
from transferscope.datasets import open_dataset
from transferscope.datasets._cells import list_in, numbers_in
from transferscope.errors import DatasetError, InputError
from transferscope.numerics.checks import class_labels

hf = pytest.importorskip("datasets", reason="tables of the hub need the extra [text]")
Image = pytest.importorskip("PIL.Image", reason="images need the extra [vision]")
pandas = pytest.importorskip("pandas")

TEXTS = ["good film", "bad plot", "fine cast", "dull script", "great, really", "awful end"] * 4
NAMES = ["pos", "neg"] * 12
LISTS = [["news"], ["sport"], ["news", "sport"], []] * 6


@pytest.fixture(autouse=True)
def hf_cache_in_tmp(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf_cache"))


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def delimited(path: Path, separator: str = ",", /, **columns) -> Path:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return write(path, file.getvalue())


def lines(path: Path, texts=TEXTS, labels=NAMES) -> Path:
    records = [{"text": t, "label": label} for t, label in zip(texts, labels, strict=True)]
    return write(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records))


def read_as(data) -> list:
    """The labels of a data set as they would be written."""
    if data.task == "classification":
        return [data.class_names[label] for label in data.labels]
    if data.task == "multilabel":
        return [
            [n for n, hit in zip(data.class_names, row, strict=True) if hit] for row in data.labels
        ]
    return data.labels.tolist()


# --- delimited text ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('label,text\npos,"good film",x\nneg,bad\n', r"2 separated by commas; .* line 2 has 3\."),
        ("label,text\npos,good,\nneg,bad,\n", r"2 rows have not: line 2 has 3, line 3 has 3\."),
        ("text,label\na, b and c,neg\nd,pos\n", r"1 rows have not: line 2 has 3\."),
        ("text,label\na,neg\n\nb\nc,pos\n", r"1 rows have not: line 4 has 1\."),
        ("text,label,\na,x\nb,y\n", r"3 separated by commas; 2 rows"),
        ("text;label\na;b;x\nc;y\n", r"2 separated by semicolons; 1 rows .* line 2 has 3"),
        ("text\tlabel\na\tx\ty\n", r"separated by tabs; 1 rows"),
        ('text,label\n"good,neg\nbad,pos\n', r"never closed: the row from line 2 to"),
        ('text,label\na,x\n"good" film,neg\nb,y\n', r"closed within a cell: the row from line 3"),
        ('text,label\n"a,x\nb,y\n"c,x\nd,y\n', r"within a cell: the row from line 2 to line 4"),
        # closed where a cell ends: nothing but the rows inside shows it
        ('text,label\nz,x\ny,y\n"a,x\nb,y\nc",x\nd,y\n', r"line 4 that is closed on line 6 only"),
        ('text,label\nz,x\ny,y\n"a,x\nb",y\nd,y\n', r"line 4 that is closed on line 5 only"),
        ('label,text\nx,z\ny,y\nx,"a\ny,b\nx,c"\ny,d\n', r"line 4 that is closed on line 6"),
        ('n,text,label\n1,z,x\n2,y,y\n3,"a,x\n4,b",y\n5,d,y\n', r"quote on line 4 that is closed"),
        ('text,label\nz,1.5\ny,2.5\n"a,3.25\nb,4.75\nc",5.5\n', r"quote on line 4 that is closed"),
        ("text,label,label\na,x,x\nb,y,y\n", r"several are called label"),
        ("text,label\na,x\nb,y\ntext,label\nc,x\n", r"one header line; it stands again on line 4"),
        ("good film,pos\nbad plot,neg\nfine cast,pos\n", r"'pos' stands in .* of line 3"),
        ("good film,y\nbad plot,n\nfine cast,y\n", r"must begin with a header line"),
        ("a text,1\nb text,2\nc text,1\n", r"'1' stands in the same column of line 3"),
        ("", r"it is empty"),
        (" \n\n", r"is empty"),
        ("text,label\n", r"is empty"),
        ("text,label\na,x\nb,\0\n", r"a zero byte in line 3"),
    ],
)  # fmt: skip
def test_malformed_text_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        open_dataset(write(tmp_path / "a.csv", text))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings_are_named(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes("text,label\na,x\né,y\n".encode(encoding))
    with pytest.raises(DatasetError, match=r"line 3 has the byte 0xe9|is UTF-16"):
        open_dataset(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "text,label\n{0},{1}\n"),
        ("a.tsv", "text\tlabel\n{0}\t{1}\n"),
        ("a.csv", "text\tlabel\n{0}\t{1}\n"),
        ("a.csv", "text;label\n{0};{1}\n"),
        ("a.csv", "text|label\n{0}|{1}\n"),
        ("a.csv", "text, label\n{0}, {1}\n"),
        ("a.csv", "text , label \n{0}, {1}\n"),
        ("a.csv", "\ufefftext,label\n{0},{1}\n"),
        ("a.csv", '\ufeff"text","label"\r\n{0},"{1}"\r\n'),
        ("a.csv", "text,label\r{0},{1}\r"),
        ("a.csv", ",text,label\n1,{0},{1}\n"),
        ("a.csv", "text,label,\n{0},{1},\n"),
        ("a.csv", "Text,LABEL\n{0},{1}\n\n"),
        ("a.tsv", "text,label\n{0},{1}\n"),
    ],
)
def test_layouts_of_text_give_one_data_set(tmp_path, name, text):
    layout = io.StringIO(text, newline="").readlines()
    rows = [
        layout[1].format(f'"{t}"' if "," in t else t, n) for t, n in zip(TEXTS, NAMES, strict=True)
    ]
    path = write(tmp_path / name, "".join([layout[0], *rows, *layout[2:]]))
    data = open_dataset(path)
    assert list(data) == TEXTS
    assert read_as(data) == NAMES
    assert data.fingerprint == open_dataset((TEXTS, NAMES)).fingerprint
    assert data.notes[-1] in (
        "texts of column 'text', classes of column 'label'",
        "texts of column 'Text', classes of column 'LABEL'",
    )


def test_texts_of_several_lines_are_texts(tmp_path):
    texts = [
        "Well, yes\nNo",
        "one\n\ntwo, three",
        "It cost 1,000\nand more",
        'a "b"\r\nc',
        "x",
        "y",
    ]
    path = delimited(tmp_path / "a.csv", text=texts * 2, label=["x", "y"] * 6)
    assert list(open_dataset(path)) == texts * 2
    path = delimited(tmp_path / "b.csv", text=[*texts, *texts], label=[i / 4 for i in range(12)])
    assert list(open_dataset(path)) == texts * 2
    # what the first separator after the header is does not depend on texts
    path = delimited(tmp_path / "c.csv", ";", text=texts * 2, label=["x", "y"] * 6)
    assert list(open_dataset(path)) == texts * 2


def test_a_very_long_cell_is_read(tmp_path):
    texts = ["word " * 60_000 + str(i) for i in range(4)]
    assert (
        list(open_dataset(delimited(tmp_path / "a.csv", text=texts, label=list("aabb")))) == texts
    )
    assert csv.field_size_limit() < 300_000


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["3,5", "2", "-1,25", "4,75"], [3.5, 2, -1.25, 4.75]),
        (["0,125", "1,500", "2,000", "3,125"], [0.125, 1.5, 2, 3.125]),
        (["3.5", "2.5", "1.25", "4.75"], [3.5, 2.5, 1.25, 4.75]),
    ],
)
def test_a_comma_before_decimals_where_it_separates_nothing(tmp_path, cells, labels):
    for separator in ";\t":
        data = open_dataset(
            delimited(tmp_path / "a.csv", separator, text=list("abcd"), label=cells)
        )
        assert (data.task, data.labels.tolist()) == ("regression", labels)
        assert any("separated by" in note for note in data.notes)


def test_a_comma_that_may_stand_between_thousands_is_refused(tmp_path):
    path = delimited(
        tmp_path / "a.csv", ";", text=list("abcd"), label=["1,234", "2", "12,500", "3"]
    )
    for task in (None, "regression"):
        with pytest.raises(DatasetError, match=r"'1,234' at line 2 may be 1\.234 or 1234"):
            open_dataset(path, task=task)


# --- labels --------------------------------------------------------------------------------------

BIG = "12345678901234567890"


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1", "2", "10"], [1, 2, 10]),
        (["-1", "0", "9223372036854775807"], [-1, 0, 2**63 - 1]),
        (["1.5", "2", "3"], [1.5, 2, 3]),
        (["1.0", "2.5"], [1, 2.5]),
        (["0.50", "1.25"], [0.5, 1.25]),
        (["1e-05", "0.1"], [1e-5, 0.1]),
        (["1.25e-03", "2.50E+01"], [0.00125, 25]),
        (["1e-7", "0.25", "1"], [1e-7, 0.25, 1]),
        (["1.0E-5", "2.5E-3"], [1e-5, 2.5e-3]),
        ([".5", "-.25"], [0.5, -0.25]),
        ([".5", "0.5"], None),
        (["1e-5", "1e-05"], None),
        (["01", "1"], None),
        (["01", "02"], None),
        (["3.1", "3.10", "3.2"], None),
        (["3.9", "3.10", "3.11"], None),
        (["1E2", "100"], None),
        (["1E2", "2E2"], None),
        (["1e20", "2e20", "3"], None),
        (["1e+20", "2e+20"], None),
        ([BIG, BIG[:-1] + "1"], None),
        (["9223372036854775808", "1"], None),
        (["9007199254740993.0", "9007199254740992.0"], None),
        (["1.0", "1"], None),
        (["+1", "2"], None),
        (["1_0", "2"], None),
        (["0x10", "2"], None),
        (["-0", "0"], None),
        (["-0.0", "0.0"], None),
        (["1e400", "2.5"], None),
        (["1", "x"], None),
        (["\u0661", "\u0662"], None),
        (["nan", "inf"], None),
        (["9" * 5000, "1"], None),
        ([], None),
    ],
)  # fmt: skip
def test_numbers_only_if_writing_them_gives_every_cell_again(cells, numbers):
    found = numbers_in(cells)
    assert (found if found is None else found.tolist()) == numbers


def test_labels_that_only_look_like_numbers_are_said_to_be_names(tmp_path):
    for cells in (["5.0", "3.5", "4"], ["01", "1", "2"], ["3.1", "3.10", "3.2"]):
        data = open_dataset(delimited(tmp_path / "a.csv", text=TEXTS, label=cells * 8))
        assert read_as(data) == cells * 8
        assert "classes by name (numbers are not written like that)" in data.notes[-1]
        data = open_dataset(tmp_path / "a.csv", task="regression")
        assert data.labels.tolist() == [float(cell) for cell in cells * 8]


READERS = ["csv", "tsv", "json", "jsonl", "columns", "parquet", "hf csv", "hf jsonl", "hf object"]


def in_form(form: str, folder: Path, labels: list):
    """A data set of texts and labels, written in a form."""
    texts = [f"text {i}" for i in range(len(labels))]
    if form in ("csv", "tsv"):
        return delimited(
            folder / f"a.{form}", "," if form == "csv" else "\t", text=texts, label=labels
        )
    if form == "jsonl":
        return lines(folder / "a.jsonl", texts, labels)
    if form == "json":
        records = [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)]
        return write(folder / "a.json", json.dumps(records))
    if form == "columns":
        return write(folder / "a.json", json.dumps({"text": texts, "label": labels}))
    if form == "parquet":
        pandas.DataFrame({"text": texts, "label": labels}).to_parquet(folder / "a.parquet")
        return folder / "a.parquet"
    if form == "hf object":
        return hf.Dataset.from_dict({"text": texts, "label": labels})
    (folder / "data").mkdir()
    suffix = form.removeprefix("hf ")
    in_form(suffix, folder, labels).rename(folder / "data" / f"train.{suffix}")
    return f"hf/{folder / 'data'}"


@pytest.mark.parametrize("form", READERS)
def test_names_are_what_is_written_in_every_reader(form, tmp_path):
    names = ["nan", "NaN", "inf", "NA", "None", "null", "01", "1", "1E2", "100", "3.1", "3.10",
             BIG, BIG[:-1] + "1", "True", "é", "a b", "18446744073709551616"]  # fmt: skip
    data = open_dataset(in_form(form, tmp_path, names * 2))
    assert data.class_names == tuple(sorted(names))
    assert read_as(data) == names * 2


@pytest.mark.parametrize("form", ["json", "jsonl", "columns", "hf jsonl"])
@pytest.mark.parametrize(
    "labels", [[2**53, 2**53 + 1], [2**63, -1], [2**64, 2**64 + 1], [2**200, 1]]
)
def test_whole_numbers_of_json_keep_their_identity(form, labels, tmp_path):
    data = open_dataset(in_form(form, tmp_path, labels * 2))
    assert read_as(data) == list(map(str, labels * 2))


@pytest.mark.parametrize("labels", [[2**53, 2**53 + 1], [2**63, 2**63 + 1], [2**63, 5]])
def test_whole_numbers_of_parquet_and_arrays_keep_their_identity(labels, tmp_path):
    frame = pandas.DataFrame({"text": list("abcd"), "label": np.array(labels * 2, dtype=np.uint64)})
    frame.to_parquet(tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", (list("abcd"), labels * 2)):
        assert read_as(open_dataset(source)) == list(map(str, labels * 2))
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 2, 2), np.uint8), labels=np.uint64(labels * 2))
    assert read_as(open_dataset(tmp_path / "a.npz")) == list(map(str, labels * 2))


def test_ids_that_floating_point_may_have_merged_are_refused():
    for large in (2.0**53, 1e21):
        with pytest.raises(DatasetError, match=r"below 2\*\*53 .* floating point"):
            open_dataset((list("abcd"), np.array([1, large] * 2)))
        with pytest.raises(InputError, match=r"below 2\*\*53 .* floating point"):
            class_labels(np.array([1, large]), 2, np.zeros((2, 2)))
    assert open_dataset((list("abcd"), np.array([1, 2.0**52] * 2))).n_classes == 2


def test_numbers_and_texts_that_are_written_alike_are_refused():
    for labels in ([1, "1"], [True, "True"]):
        with pytest.raises(DatasetError, match=r"must differ when they are written as texts"):
            open_dataset((list("abcd"), labels * 2))
    assert open_dataset((list("abcd"), [1, "x"] * 2)).class_names == ("1", "x")


MISSING = {
    "csv": ["", " ", "\t"],
    "tsv": ["", "  "],
    "jsonl": [None, float("nan"), "", " "],
    "columns": [None, ""],
    "parquet": [None],
    "hf csv": [""],
    "hf jsonl": [None],
    "hf object": [None],
}


@pytest.mark.parametrize(
    ("form", "missing"), [(form, cell) for form, cells in MISSING.items() for cell in cells]
)
def test_a_missing_label_is_refused_with_its_row(form, missing, tmp_path):
    place = (
        "line 4" if form in ("csv", "tsv", "hf csv") else "line 3" if "jsonl" in form else "row 2"
    )
    source = in_form(form, tmp_path, ["x", "y", missing, "x", "y"])
    with pytest.raises(DatasetError, match=rf"1 are missing, the first at {place}\b"):
        open_dataset(source)


@pytest.mark.parametrize("word", ["nan", "NA", "null", "None", "inf", "-Infinity", "n/a"])
def test_a_word_for_no_number_among_numbers_is_refused(word, tmp_path):
    for numbers in (["1", "2"], ["1.5", "2.25"]):
        source = in_form("csv", tmp_path, [*numbers * 2, word])
        with pytest.raises(DatasetError, match=rf"1 are missing or not finite, line 6 \('{word}'"):
            open_dataset(source)


@pytest.mark.parametrize(
    ("form", "labels", "expected"),
    [
        # lists of names, of ids, of 0 and 1, of numbers
        ("jsonl", LISTS, LISTS),
        ("csv", [["a", "b"], ["a"], ["b"]] * 2, [["a", "b"], ["a"], ["b"]] * 2),
        ("csv", ['["a", "b\'s"]', '["a"]'] * 2, [["a", "b's"], ["a"]] * 2),
        ("csv", ["['a' 'b']", "['a']"] * 2, [["a", "b"], ["a"]] * 2),
        ("csv", ["('a', 'b')", "('a',)"] * 2, [["a", "b"], ["a"]] * 2),
        ("csv", ["[1 0 0]", "[0 1 0]"] * 2, [["0"], ["1"]] * 2),
        ("jsonl", [[1, 0, 0], [0, 1, 0], [0, 0, 0]] * 2, [["0"], ["1"], []] * 2),
        ("jsonl", [[1.0, 0.0], [1.0, 1.0]] * 2, [["0"], ["0", "1"]] * 2),
        ("jsonl", [[True, False], [False, True]] * 2, [["0"], ["1"]] * 2),
        ("parquet", [[1, 0], [0, 1]] * 2, [["0"], ["1"]] * 2),
        ("hf object", [[1, 0], [0, 1]] * 2, [["0"], ["1"]] * 2),
        ("jsonl", [[3, 17], [3], []] * 2, [["17", "3"], ["3"], []] * 2),
        ("jsonl", [[0.5, 1], [2, 3.25]] * 2, [[0.5, 1], [2, 3.25]] * 2),
        ("jsonl", [[3], [5]] * 2, ["3", "5"] * 2),
        ("jsonl", [True, False] * 2, ["True", "False"] * 2),
        # mixtures and what has no clear meaning
        ("jsonl", [["a"], "b", ["a", "b"]] * 2, r"list in 4 rows and text in 2 \(line 2, line 5\)"),
        ("jsonl", [1, "1", 1, 2], r"number in 3 rows and text in 1 \(line 2\)"),
        ("jsonl", [1, True, 1, 2], r"number in 3 rows and bool in 1 \(line 2\)"),
        ("jsonl", [["a"], [1], ["b"]] * 2, r"lists of the .* number in 2 \(line 2, line 5\)"),
        ("jsonl", [["a"], [None], ["b"]], r"lists of the labels .* nothing in 1 \(line 2\)"),
        ("jsonl", [{"a": 1}, {"a": 2}], r"they hold dict, the first at line 1"),
        ("jsonl", [[["a"]], [["b"]]], r"they are lists of list"),
        ("jsonl", [[], []], r"they are lists of nothing"),
        ("jsonl", [[3, 17], [4, 2]] * 2, r"may be ids of classes or quantities"),
        ("jsonl", [[0.5], [1, 2.5]] * 2, r"line 1 holds \[0\.5\]"),
        ("jsonl", [[1, -1], [2]] * 2, r"line 1 holds \[1, -1\]"),
        ("csv", ["['a']", "b", "['a', 'b']", "b"], r"lists or none; 2 are not, line 3, line 5"),
        ("csv", ["['a', 1]", "['b']"], r"lists of the labels .* number in 1 \(line 2\)"),
    ],
)  # fmt: skip
def test_every_cell_decides_what_labels_are(form, labels, expected, tmp_path):
    source = in_form(form, tmp_path, labels)
    if isinstance(expected, str):
        with pytest.raises(DatasetError, match=expected):
            open_dataset(source)
    else:
        data = open_dataset(source)
        assert read_as(data) == expected
        assert "column 'label'" in data.notes[-1]


def test_whole_numbers_in_lists_are_what_the_task_says(tmp_path):
    path = in_form("jsonl", tmp_path, [[3, 17], [4, 2]] * 2)
    assert open_dataset(path, task="regression").labels.tolist() == [[3, 17], [4, 2]] * 2
    assert open_dataset(path, task="multilabel").class_names == ("17", "2", "3", "4")


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("['a', 'b']", ["a", "b"]),
        (' [ "a" , "it\'s" ] ', ["a", "it's"]),
        (r"['it\'s', 'b\\c']", ["it's", r"b\c"]),
        ("[1, 2.5, -3e2]", [1, 2.5, -300.0]),
        ("[1. 0.]", [1.0, 0.0]),
        ("[]", []),
        ("{'a'}", ["a"]),
        ("[a, b]", None),
        ("['a' , [1]]", None),
        ("['a", None),
        ("(1)", None),
        ("{'a': 1}", None),
        ("[UNK]", None),
        ("pos", None),
    ],
)
def test_lists_that_texts_show(text, items):
    assert list_in(text) == items


@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [
        (["good film", "bad plot"], ["pos side", "neg side"], False),
        (["good film", "bad plot"], [["pos", "side"], ["neg", "side"]], False),
        ([["good", "film"], ["bad", "plot"]], ["pos side", "neg side"], False),
        ([["good", "film"], ["bad"]], [["A", "B"], ["A"]], True),
        ([["good", "film"], ["bad"]], [[0, 1], [1]], True),
        ([["good", "film"], ["bad", "plot"]], [["A"], ["B"]], False),
        ([["good"], ["bad"]], [["A"], ["B"]], False),
    ],
)
def test_tags_are_real_lists_of_as_many_items(texts, labels, words, tmp_path):
    data = open_dataset(lines(tmp_path / "a.jsonl", texts * 3, labels * 3))
    assert (type(data[0]).__name__ == "Word") == words
    assert data.notes[-1].startswith("words of" if words else "texts of")
    if isinstance(texts[0], list):
        in_memory = open_dataset((texts * 3, labels * 3)) if words else None
        assert in_memory is None or in_memory.fingerprint == data.fingerprint


def test_nothing_in_a_list_is_no_word_and_no_tag(tmp_path):
    words, tags = [["a", "b"]] * 6, [["X", "Y"]] * 6
    for texts, labels in (
        ([*words, ["a", None]], [*tags, tags[0]]),
        ([*words, words[0]], [*tags, ["X", None]]),
    ):
        for task in ("tags", "entities"):
            with pytest.raises(
                DatasetError, match=r"lists of texts; line 7 holds None in its list"
            ):
                open_dataset(lines(tmp_path / "a.jsonl", texts, labels), task=task)
    path = lines(tmp_path / "b.jsonl", [*words, ["a", None]], list("xyxyxyx"))
    with pytest.raises(DatasetError, match=r"lists of texts; line 7 holds None"):
        open_dataset(path)


def test_lists_of_words_with_a_few_unequal_lists_of_tags_are_refused(tmp_path):
    words, tags = [["a", "b"]] * 6, [["X", "Y"]] * 5 + [["X"]]
    path = lines(tmp_path / "a.jsonl", words, tags)
    with pytest.raises(DatasetError, match=r"1 rows differ: line 6\. .*task=\"multilabel\""):
        open_dataset(path)
    assert open_dataset(path, task="multilabel").task == "multilabel"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 5, "b", "c"], r"column 'text' .* text in 3 rows and number in 1 \(line 2\)"),
        (["a", ["b"], "b", "c"], r"text in 3 rows and list in 1 \(line 2\)"),
        (["a", None, "b", "c"], r"lacks 1, the first at line 2"),
        ([{"x": 1}] * 4, r"must hold texts; it holds dict, the first at line 1"),
    ],
)
def test_every_cell_of_the_texts_is_looked_at(texts, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        open_dataset(lines(tmp_path / "a.jsonl", texts, ["x", "y"] * 2), input_column="text")


# --- JSON ----------------------------------------------------------------------------------------

RECORDS = [{"text": t, "label": n} for t, n in zip(TEXTS, NAMES, strict=True)]
FRAME = pandas.DataFrame({"text": TEXTS, "label": NAMES})
NAMED_ROWS = FRAME.set_index(pandas.Index([f"r{i}" for i in range(24)]))


@pytest.mark.parametrize(
    "value",
    [
        RECORDS,
        {"text": TEXTS, "label": NAMES},
        {"data": RECORDS},
        {"version": "1.1", "data": RECORDS},
        {"data": {"text": TEXTS, "label": NAMES}},
        {"result": {"rows": RECORDS}},
        {"train": RECORDS},
        {"train": {"text": TEXTS, "label": NAMES}},
        *[
            json.loads(FRAME.to_json(orient=orient))
            for orient in ("records", "columns", "index", "split", "table")
        ],
        json.loads(NAMED_ROWS.to_json()),
        json.loads(NAMED_ROWS.to_json(orient="index")),
        FRAME.to_dict(orient="tight"),
        FRAME.rename(columns={"text": "body"}).to_dict(orient="list"),
    ],
)  # fmt: skip
def test_every_form_of_json_gives_one_data_set(value, tmp_path):
    expected = open_dataset((TEXTS, NAMES)).fingerprint
    data = open_dataset(write(tmp_path / "a.json", json.dumps(value, indent=1)))
    assert data.fingerprint == expected
    data = open_dataset(write(tmp_path / "a.jsonl", json.dumps(value)))
    assert data.fingerprint == expected


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_record_per_line(name, end, tmp_path):
    texts = [
        f"{t}{inside}b" for t, inside in zip(TEXTS, "\u2028\u2029\x85\x0b\x1c\x1e" * 4, strict=True)
    ]
    path = lines(tmp_path / name, texts)
    write(path, path.read_text("utf-8").replace("\n", end))
    data = open_dataset(path)
    assert list(data) == texts
    assert read_as(data) == NAMES


def test_splits_that_are_names_of_objects(tmp_path):
    value = {"train": RECORDS[:14], "test": RECORDS[14:]}
    path = write(tmp_path / "a.json", json.dumps(value))
    assert list(open_dataset(path)) == TEXTS[:14]
    assert list(open_dataset(path, split="test")) == TEXTS[14:]
    value["test"][1] = RECORDS[15] | {"label": None}
    with pytest.raises(DatasetError, match=r"the first at record 1 of test"):
        open_dataset(write(path, json.dumps(value)), split="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 50_000, r"RecursionError"),
        ('{"a":' * 50_000, r"RecursionError"),
        ('{"text": ["a"], "label": ["x", "y"]}', r"equal length; text has 1, label has 2"),
        ('{"text": {"0": "a"}, "label": {"1": "x"}}', r"objects with the same names"),
        ('{"a": {"b": 1}, "c": {"b": 2}}', r"may be rows or columns"),
        ('[["good", "pos"], ["bad", "neg"]]', r"record 0 .* first, which is no object"),
        ('[{"text": "a", "label": "x", "label": "y"}]', r"several values called label"),
        ('[{"text": "a"}, {"text": "a", "label": 1}]', r"record 1 is not like the first"),
        ('{"text": "a", "label": 1}\n{"text": "b"}\n', r"line 2 is not like the first"),
        ('{"text": "a"}\n{"text": \n', r"line 2 of .* it is not: Expecting value"),
        ('{\n"text": 1,\n}', r"it is not: .*: line [23] column"),
        ('{"a": [{"x": 1}], "b": [{"x": 2}]}', r"of which none or several could be the table"),
        ('{"text": ["a"], "version": 1}', r"of which none or several"),
        ('"text"', r"it is a str"),
        ("[]", r"is empty"),
        ("{}", r"it is a dict"),
        ('{"label": ' + "9" * 5000 + "}", r"4300 digits"),
    ],
)  # fmt: skip
def test_json_that_is_no_table(text, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        open_dataset(write(tmp_path / "a.json", text))


# --- columns, splits, classes --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["split", "Split", "SPLIT", " split", "subset"])
@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training_set"])
def test_a_column_of_splits_by_any_name(name, train, tmp_path):
    parts = [train, "test", train] * 8
    data = open_dataset(delimited(tmp_path / "a.csv", text=TEXTS, label=NAMES, **{name: parts}))
    assert list(data) == [t for t, part in zip(TEXTS, parts, strict=True) if part == train]
    assert data.split == train


def test_rows_without_a_split_are_refused(tmp_path):
    path = delimited(tmp_path / "a.csv", text=TEXTS, label=NAMES, split=["train", "", "test"] * 8)
    with pytest.raises(DatasetError, match=r"8 are empty, the first at line 3"):
        open_dataset(path)


def test_classes_of_other_splits_are_left_out_with_a_note(tmp_path):
    path = delimited(
        tmp_path / "a.csv",
        text=[*TEXTS, "odd one"],
        label=[*NAMES, "among"],
        split=["train"] * 24 + ["test"],
    )
    data = open_dataset(path)
    assert data.class_names == ("neg", "pos")
    assert read_as(data) == NAMES
    assert "classes without samples, left out: 1 (among)" in data.notes


def test_the_split_decides_what_is_read_and_not_what_cells_mean(tmp_path):
    labels = [*["10", "9"] * 6, *["10", "x"] * 6]
    parts = ["train"] * 12 + ["test"] * 12
    path = delimited(tmp_path / "a.csv", text=TEXTS, label=labels, split=parts)
    assert open_dataset(path).class_names == ("10", "9")


def image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("pattern", ["img/{}.png", "img\\{}.png", ".\\img\\{}.png", " img/{}.png "])
def test_paths_of_images_as_any_system_writes_them(pattern, tmp_path):
    for i in range(4):
        image(tmp_path / "img" / f"{i}.png", i)
    paths = [pattern.format(i) for i in range(4)]
    data = open_dataset(delimited(tmp_path / "a.csv", photo=paths, label=list("xxyy")))
    expected = [np.asarray(Image.open(tmp_path / "img" / f"{i}.png")) for i in range(4)]
    np.testing.assert_array_equal([np.asarray(one) for one in data], expected)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["https://ex.org/{}.png"],
            r"addresses of images, such as 'https://ex\.org/0\.png' at line 2",
        ),
        (["https://ex.org/{}.jpg?size=2"], r"addresses of images"),
        (["s3://bucket/{}.png"], r"addresses of images"),
        (["img/{}.png", "https://ex.org/{}.png"], r"addresses of images, .*line 3"),
        (["gone/{}.png"], r"4 do not exist, the first is 'gone/0\.png' at line 2"),
        (["C:\\gone\\{}.png"], r"4 do not exist"),
        (["x" * 5000 + "{}.png"], r"4 do not exist"),
        (["img/0.png", "gone/{}.png"], r"2 do not exist, the first is 'gone/1\.png' at line 3"),
    ],
)
def test_images_that_are_not_there_name_the_cause(cells, message, tmp_path):
    image(tmp_path / "img" / "0.png")
    paths = [cells[i % len(cells)].format(i) for i in range(4)]
    with pytest.raises(DatasetError, match=message):
        open_dataset(delimited(tmp_path / "a.csv", photo=paths, label=list("xxyy")))


def test_addresses_that_are_no_images_are_texts(tmp_path):
    urls = [f"http://ex.org/login?user={i}" for i in range(4)]
    data = open_dataset(delimited(tmp_path / "a.csv", url=urls, label=list("xxyy")))
    assert list(data) == urls
    with pytest.raises(DatasetError, match=r"addresses of images"):
        open_dataset(delimited(tmp_path / "b.csv", image_url=urls, label=list("xxyy")))
    tweets = ["look:", "https://ex.org/cat.png", "x" * 5000 + ".png", "https://ex.org"]
    assert (
        list(open_dataset(delimited(tmp_path / "c.csv", text=tweets, label=list("xxyy")))) == tweets
    )


def test_devices_pipes_and_endless_files_are_no_images(tmp_path):
    for i in range(6):
        image(tmp_path / f"{i}.png", i)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    for odd, message in (
        ("pipe.png", r"devices, pipes or folders, the first is 'pipe\.png' at line 8"),
        ("zero.png", r"devices, pipes or folders"),
        ("folder.png", r"devices, pipes or folders"),
        ("sparse.png", r"sparse\.png is not readable .* 1,099,511,627,776 bytes"),
    ):
        paths = [*(f"{i}.png" for i in range(6)), odd]
        path = delimited(tmp_path / "a.csv", path=paths, label=list("xxyyxyx"))
        with pytest.raises(DatasetError, match=message):
            list(open_dataset(path))
        kept = open_dataset(path, skip_unreadable=True)
        assert (len(kept), len(kept.skipped)) == (6, 1)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_pipe_in_place_of_a_table_is_refused_at_once(suffix, tmp_path):
    os.mkfifo(tmp_path / f"a.{suffix}")
    with pytest.raises(DatasetError, match=r"a folder or a regular file; .* is neither"):
        open_dataset(tmp_path / f"a.{suffix}")


def test_paths_in_a_data_set_without_a_folder_are_refused():
    table = hf.Dataset.from_dict({"photo": [f"{i}.png" for i in range(4)], "label": list("xxyy")})
    with pytest.raises(DatasetError, match=r"no folder that they are relative to"):
        open_dataset(table)


# --- parquet and the hub -------------------------------------------------------------------------


def arrow(path: Path, metadata: bytes | None = None, **columns) -> Path:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({b"huggingface": metadata})
    pyarrow.parquet.write_table(table, path)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        b"[]",
        b"{bad",
        b'{"info":{"features":{"text":{"dtype":"zzz","_type":"Value"}}}}',
        b'"x"',
        b"",
    ],
)
def test_parquet_with_damaged_types_is_refused_by_name(metadata, tmp_path):
    path = arrow(tmp_path / "a.parquet", metadata, text=TEXTS, label=NAMES)
    with pytest.raises(DatasetError, match=r"a\.parquet must be a Parquet file"):
        open_dataset(path)


def test_parquet_of_odd_types(tmp_path):
    import pyarrow

    times = pyarrow.array([1] * 12 + [2] * 12, pyarrow.time64("ns"))
    path = arrow(tmp_path / "a.parquet", text=TEXTS, label=times)
    assert open_dataset(path).class_names == ("00:00:00.000000001", "00:00:00.000000002")
    rows = hf.Dataset(pyarrow.table({"text": TEXTS, "label": times}))
    assert open_dataset(rows).class_names == open_dataset(path).class_names
    assert (
        len(open_dataset(arrow(tmp_path / "b.parquet", text=TEXTS, label=NAMES, when=times))) == 24
    )
    structs = [{"bytes": i} for i in range(24)]
    with pytest.raises(DatasetError, match=r"none could be found"):
        open_dataset(arrow(tmp_path / "c.parquet", image=structs, label=NAMES))
    counts = pyarrow.array([2**60, 2**60 + 1, None] * 8)
    with pytest.raises(DatasetError, match=r"8 are missing, the first at row 2"):
        open_dataset(arrow(tmp_path / "d.parquet", text=TEXTS, label=counts))
    frame = pandas.DataFrame({"text": TEXTS, "label": pandas.Categorical(NAMES)})
    frame.to_parquet(tmp_path / "e.parquet")
    assert read_as(open_dataset(tmp_path / "e.parquet")) == NAMES


def test_ids_of_named_classes_are_checked():
    kinds = hf.Features(
        {"text": hf.Value("string"), "label": hf.List(hf.ClassLabel(names=["a", "b"]))}
    )
    rows = {"text": list("wxyz"), "label": [[0], [1, 0], [], [1]]}
    assert read_as(open_dataset(hf.Dataset.from_dict(rows, features=kinds))) == [
        ["a"], ["a", "b"], [], ["b"],
    ]  # fmt: skip
    rows["label"][2] = [-1]
    with pytest.raises(DatasetError, match=r"ids in 0\.\.1, .* row 2 holds \[-1\]"):
        open_dataset(hf.Dataset.from_dict(rows, features=kinds))


def test_a_folder_of_csv_is_read_as_a_csv_is(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    delimited(folder / "train.csv", text=TEXTS, label=["NA", "None"] * 12)
    delimited(folder / "test.csv", text=TEXTS[:4], label=["01", "1"] * 2)
    assert read_as(open_dataset(f"hf/{folder}")) == ["NA", "None"] * 12
    assert read_as(open_dataset(f"hf/{folder}", split="test")) == ["01", "1"] * 2
    write(folder / "test.csv", "text,label\na,b,x\nc,y\n")
    with pytest.raises(DatasetError, match=r"test\.csv must have as many cells .* line 2 has 3"):
        open_dataset(f"hf/{folder}", split="test")


def test_several_files_of_a_split_are_one_table(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(2):
        rows = slice(12 * i, 12 * i + 12)
        delimited(folder / f"train-0000{i}-of-00002.csv", text=TEXTS[rows], label=NAMES[rows])
    data = open_dataset(f"hf/{folder}")
    assert (list(data), read_as(data), data.split) == (TEXTS, NAMES, "train")
    delimited(folder / "train-00001-of-00002.csv", text=TEXTS, label=[*NAMES[:-1], ""])
    with pytest.raises(DatasetError, match=r"the first at line 25 of .*train-00001"):
        open_dataset(f"hf/{folder}")
    delimited(folder / "train-00001-of-00002.csv", text=TEXTS, kind=NAMES)
    with pytest.raises(DatasetError, match=r"same columns in all files"):
        open_dataset(f"hf/{folder}")


def test_a_folder_full_of_other_files_is_not_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "_MOST_FOREIGN", 50)
    folder = tmp_path / "home" / "lib"
    folder.mkdir(parents=True)
    for i in range(60):
        (folder / f"{i}.py").touch()
    with pytest.raises(DatasetError, match=r"more than 50 files that are no data"):
        open_dataset(f"hf/{tmp_path / 'home'}")


# --- what was read rightly before stays ----------------------------------------------------------


TWELVE = [f"text, {i}" for i in range(12)]
TRIPLE = ["ant", "bee", "cat"] * 4


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"label": TRIPLE}, {}, "da866c681a18b649739b266614a9d4d7"),
        ({"label": [10, 9, 2] * 4}, {}, "9b1e02a9872c99396363abaaac500c67"),
        ({"label": [i / 2 for i in range(12)]}, {}, "b613405c53f8c0d24d747fa5fb4084c0"),
        ({"label": [f"{i / 2:.2f}" for i in range(12)]}, {}, "b613405c53f8c0d24d747fa5fb4084c0"),
        ({"label": ["1.5", "2", "3"] * 4}, {}, "2f556c5decac19cdf1e4fd21204b3c8e"),
        ({"label": [f"{i % 3}.0" for i in range(12)]}, {}, "58e515b8953a1499ce78ca7dedab9496"),
        ({"label": ["True", "False"] * 6}, {}, "d5bf347f1c4efa3b7283f23400579009"),
        (
            {"one": [0, 1, 1] * 4, "two": [1, 0, 1] * 4},
            {"label_column": "one,two"},
            "92961ca3c09062f1171c66e51285d65f",
        ),
        (
            {"label": TRIPLE, "split": ["train"] * 9 + ["test"] * 3},
            {},
            "9d1e79daca02e4c636b9bc89fde2cd14",
        ),
    ],
)
def test_fingerprints_of_tables_stay(columns, options, expected, tmp_path):
    path = delimited(tmp_path / "a.csv", text=TWELVE, **columns)
    assert open_dataset(path, **options).fingerprint == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["ant", "bee"][: 1 + i % 2] for i in range(12)], "85c19d5ebd09e1b3f0e140c281830d93"),
        ([bool(i % 2) for i in range(12)], "997c7abfd3e8f924a392fb0732e7d908"),
        ([i % 3 for i in range(12)], "58e515b8953a1499ce78ca7dedab9496"),
        ([i / 4 for i in range(12)], "c57dff052f155d7d293c7198ee145479"),
    ],
)
def test_fingerprints_of_json_stay(labels, expected, tmp_path):
    assert open_dataset(lines(tmp_path / "a.jsonl", TWELVE, labels)).fingerprint == expected


def test_fingerprints_of_typed_columns_stay(tmp_path):
    names = {"text": TWELVE, "label": ["10", "9", "2"] * 4}
    assert open_dataset(hf.Dataset.from_dict(names)).fingerprint == (
        "df26f8c2d0e2150b2b58a564e1e17e74"
    )
    pandas.DataFrame(names).to_parquet(tmp_path / "a.parquet")
    assert open_dataset(tmp_path / "a.parquet").fingerprint == "9b1e02a9872c99396363abaaac500c67"


# --- against a literal reader --------------------------------------------------------------------


def generated(seed: int) -> tuple[str, str, bool]:
    """A table as text, its separator, and whether it was damaged."""
    rng = random.Random(seed)
    separator = rng.choice([",", ";", "\t", "|"])
    alphabet = rng.choice(["abc ", "aé中\u2028\x85 ", "ab,;\t|\"' ", "a\nb\r\nc ", "0123. -"])
    kind = rng.choice(["names", "ids", "codes", "numbers", "versions", "words"])
    labels = {
        "names": lambda: rng.choice(["pos", "neg", "neu,tral"]),
        "ids": lambda: str(rng.randrange(3)),
        "codes": lambda: rng.choice(["01", "1", "02", "2"]),
        "numbers": lambda: f"{rng.randrange(400) / 100:.2f}",
        "versions": lambda: rng.choice(["3.1", "3.10", "3.2"]),
        "words": lambda: rng.choice(["nan", "NA", "None", "1E2", "100"]),
    }[kind]
    header = rng.sample(["text", "label", "note", "n"], 4)
    cells = {
        "text": lambda: "".join(rng.choices(alphabet, k=rng.randrange(1, 12))),
        "label": labels,
        "note": lambda: "".join(rng.choices("xyz", k=3)),
        "n": lambda: str(rng.randrange(1000)),
    }
    rows = [[cells[name]() for name in header] for _ in range(40)]
    file = io.StringIO(newline="")
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    end = rng.choice(["\n", "\r\n"])
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerow(header)
    writer.writerows(rows)
    text = file.getvalue()
    damage = rng.choice([None, None, None, "long", "short", "trailing"])
    if damage is not None:
        record = io.StringIO(newline="")
        row = rows[rng.randrange(40)]
        csv.writer(record, delimiter=separator, lineterminator=end).writerow(
            {"long": [*row, "x"], "short": row[:-1], "trailing": [*row, ""]}[damage]
        )
        text += record.getvalue()
    return ("\ufeff" if rng.random() < 0.3 else "") + text, separator, damage is not None


@pytest.mark.parametrize("seed", range(40))
def test_a_generated_table_is_what_a_literal_reader_reads(seed, tmp_path):
    text, separator, damaged = generated(seed)
    path = write(tmp_path / "a.csv", text)
    if damaged:
        with pytest.raises(DatasetError, match=r"as many cells in every row"):
            open_dataset(path)
        return
    header, *rows = csv.reader(
        io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=separator
    )
    data = open_dataset(path)
    assert list(data) == [row[header.index("text")] for row in rows]
    written = [row[header.index("label")] for row in rows]
    if data.task == "regression":
        assert [f"{label:.2f}" for label in data.labels] == written
    else:
        assert read_as(data) == written


@pytest.mark.parametrize("seed", range(12))
def test_damaged_bytes_are_read_or_refused_by_name(seed, tmp_path):
    rng = random.Random(seed)
    form = READERS[seed % 6]
    path = in_form(form, tmp_path, NAMES)
    whole = path.read_bytes()
    for _ in range(8):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(1, len(damaged))])])
        message = path.stem
        try:
            _ = open_dataset(path).fingerprint
        except DatasetError as error:  # and nothing else
            message = str(error)
        assert path.stem in message
