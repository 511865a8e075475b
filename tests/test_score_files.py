"""Tables of scores and accuracies, read from files."""

from __future__ import annotations

import pytest

from transferscope.errors import InputError
from transferscope.evaluation import read_accuracy, read_scores


def test_long_and_wide_tables_are_the_same(tmp_path):
    write = lambda name, text: (tmp_path / name).write_text(text, "utf-8") and tmp_path / name  # noqa: E731
    long = write("a.csv", "encoder,dataset,metric,value\nv,p,x,1\nv,p,y,2\nr,p,x,3\n")
    wide = write("b.csv", "\ufeffdataset,encoder,x,y\np,v,1,2\n\np,r,3,\n")
    assert read_scores(long) == read_scores(wide) == {"p": {"x": {"v": 1.0, "r": 3.0},
                                                            "y": {"v": 2.0}}}  # fmt: skip
    long = write("c.csv", "dataset,encoder,accuracy\np,v,90\nq,v,80\np,r,70\n")
    wide = write("d.csv", "encoder,p,q\nv,90,80\nr,70,\n")
    assert read_accuracy(long) == read_accuracy(wide)


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_scores, "dataset,encoder,metric,value\np,v,x,1\np,v,x,1\n", "only once"),
        (read_scores, "dataset,encoder,x\np,v,1\np,v,2\n", "only once"),
        (read_scores, "dataset,encoder,x\np,v,nan\n", "finite numbers; x of v is 'nan' at line 2"),
        (read_scores, "dataset,encoder,x\np,v,high\n", "finite numbers"),
        (read_scores, "dataset,encoder,metric,value,seed\np,v,x,1,0\n", "has also seed"),
        (read_scores, "dataset,encoder,metric\np,v,x\n", "has no value"),
        (read_scores, "data,encoder,x\np,v,1\n", "has no dataset"),
        (read_scores, "dataset,encoder\np,v\n", "a column per metric"),
        (read_scores, "dataset,encoder,x\np,,1\n", "needs a value under encoder"),
        (read_scores, "dataset,encoder,x\np,v\n", "as many cells"),
        (read_scores, "dataset,encoder,x,x\np,v,1,2\n", "names of their own"),
        (read_scores, "dataset,encoder,x\n", "at least one row"),
        (read_accuracy, "dataset,encoder,accuracy\np,v,1\np,v,1\n", "only once"),
        (read_accuracy, "dataset,encoder,accuracy,split\np,v,1,test\n", "has also split"),
        (read_accuracy, "dataset,encoder\np,v\n", "has no accuracy"),
        (read_accuracy, "encoder,p\nv,inf\n", "finite numbers"),
        (read_accuracy, "encoder\nv\n", "a column per data set"),
    ],
)
def test_bad_table_is_named(tmp_path, reader, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        reader(path)


def test_no_table_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_scores(tmp_path / "absent.csv")
