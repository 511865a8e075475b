"""Tasks that give every word of a sentence a tag: each word is a sample of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transferscope.datasets._dataset import Dataset, Request, make_dataset
from transferscope.datasets._samples import Words
from transferscope.errors import DatasetError

# of BIO, IOB2, BILOU and BIOES
_PREFIX = re.compile(r"^[BIOLUSE]-(?=.)")


def are_tags(texts: Sequence[Any], labels: Sequence[Any]) -> bool:
    """Whether there is a tag for every word: as many pieces in each label as in its text."""
    both = zip(texts, labels, strict=True)
    counts = [(len(pieces(text)), len(pieces(label))) for text, label in both]
    return all(n == m for n, m in counts) and any(n > 1 for n, _ in counts)


def pieces(cell: Any) -> list[str]:
    """Words or tags of a cell: a list, or a text with spaces between them."""
    return cell.split() if isinstance(cell, str) else [str(piece) for piece in listed(cell)]


def listed(cell: Any) -> list[Any]:
    """The items of a list-like cell; nothing for anything else."""
    return list(cell) if isinstance(cell, list | tuple | np.ndarray) else []


def make_tagged(
    name: str,
    texts: Sequence[Any],
    labels: Sequence[Any],
    request: Request,
    *,
    split: str = "all",
    rows: npt.NDArray[np.int64] | None = None,
) -> Dataset:
    """Make a data set of words of sentences with one tag each.

    Parameters
    ----------
    name : str
    texts, labels : sequences of equal length
        Words and tags of each sentence: lists, or texts with spaces between.
    request : Request
        With ``task="entities"`` the prefix that says where an entity begins (``B-``, ``I-``, ...)
        is dropped, and the classes are the types of entities.
    split : str
    rows : array of int or None
        Keep the words of these sentences; all of them take part in numbering the classes.

    Raises
    ------
    DatasetError
        If a sentence has another number of words than of tags.
    """
    sentences = [tuple(pieces(text)) for text in texts]
    tags = [pieces(label) for label in labels]
    for number, (sentence, its_tags) in enumerate(zip(sentences, tags, strict=True)):
        if len(sentence) != len(its_tags):
            raise DatasetError(
                f"Every word needs one tag; sentence {number} of {name} has {len(sentence)} words "
                f"and {len(its_tags)} tags. Make the numbers agree."
            )
    flat = [tag for its_tags in tags for tag in its_tags]
    if request.task == "entities":
        flat = [_PREFIX.sub("", tag) for tag in flat]
    words = Words(sentences, name)
    whole = make_dataset(name, words, flat, split=split)
    if rows is None:
        return whole
    sentence_of = np.repeat(np.arange(len(sentences)), [len(sentence) for sentence in sentences])
    return whole.subset(np.isin(sentence_of, rows))
