"""The bar that a caller may ask for; elsewhere the library shows nothing."""

from __future__ import annotations

import sys

import pytest

from transferscope.errors import MissingExtraError
from transferscope.progress import progress_bar


@pytest.mark.needs("tqdm")
def test_bar_says_what_is_done_and_goes(capsys):
    with progress_bar() as progress:
        progress("loading", 0, 0)
        progress("looking at samples", 5, 20)
        progress("looking at samples", 20, 20)
    said = capsys.readouterr()
    assert said.out == ""
    assert "looking at samples:   0%|" in said.err
    assert "/20 [" in said.err
    assert said.err.endswith("\r")  # nothing is left of it


def test_without_tqdm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with (
        pytest.raises(MissingExtraError, match="is needed to show progress"),
        progress_bar(),
    ):
        pass
