"""Tasks that give every word of a sentence a tag: each word is a sample of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from transferscope.datasets._cells import pieces
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._request import Request
from transferscope.datasets._samples import Words
from transferscope.errors import DatasetError

# of BIO, IOB2, BILOU and BIOES
_PREFIX = re.compile(r"^[BIOLUSE]-(?=.)")


def wants_tags(request: Request, texts: Iterable[object], labels: Iterable[object]) -> bool:
    """Whether every word has a tag: because it was asked for, or because there are as many."""
    if request.task is not None:
        return request.task in ("tags", "entities")
    both = zip(texts, labels, strict=True)
    counts = [(len(pieces(text)), len(pieces(label))) for text, label in both]
    return all(n == m for n, m in counts) and any(n > 1 for n, _ in counts)


def make_tagged(
    name: str,
    texts: Iterable[object],
    labels: Iterable[object],
    request: Request,
    *,
    split: str = "all",
    rows: npt.NDArray[np.int64] | None = None,
) -> Dataset:
    """Make a data set of words of sentences with one tag each.

    Parameters
    ----------
    name : str
    texts, labels : iterables of equal length
        Words and tags of each sentence: lists, or texts with spaces between.
    request : Request
        With ``task="entities"`` the prefix that marks where an entity begins (``B-``, ``I-``, ...)
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
                f"sentence {number} of {name} has {len(sentence)} words and {len(its_tags)} tags, "
                "and every word needs one tag. Make the numbers agree."
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
