"""Tasks that give every word of a sentence a tag: each word is a sample of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from transferscope.datasets._cells import Place, list_of, words_of
from transferscope.datasets._dataset import Dataset, make_dataset
from transferscope.datasets._request import Request
from transferscope.datasets._samples import Words
from transferscope.errors import DatasetError, first_few

# of BIO, IOB2, BILOU and BIOES
_PREFIX = re.compile(r"^[BIOLUSE]-(?=.)")


def find_tagged(
    request: Request,
    texts: Sequence[object],
    labels: Sequence[object],
    class_names: Sequence[str],
    place: Place,
) -> tuple[list[list[str]], list[list[str]]] | None:
    """Words and their tags, where every word has one: because it was asked for, or by the lists.

    Parameters
    ----------
    request : Request
    texts, labels : sequences of equal length
        Cells of the two columns.
    class_names : sequence of str
        If not empty, tags are ids of them.
    place : Place
        Names a row for messages.

    Returns
    -------
    (words, tags) or None
        Without being asked for, only for lists of words and lists of as many tags.

    Raises
    ------
    DatasetError
        If most lists are of equal length but some are not, or an id has no name.
    """
    if request.task is None:
        # most tables hold none: nothing is kept of a column but whether all of it is lists
        if not all(list_of(cell) is not None for column in (labels, texts) for cell in column):
            return None
        pairs = [(list_of(w) or [], list_of(t) or []) for w, t in zip(texts, labels, strict=True)]
        of_words = all(isinstance(word, str) for words, _ in pairs for word in words)
        wrong = [row for row, (words, tags) in enumerate(pairs) if len(words) != len(tags)]
        long = any(len(words) > 1 for words, _ in pairs)
        if not of_words or not long or 2 * len(wrong) >= len(pairs):
            return None
        if wrong:
            raise DatasetError(
                f"lists of words and of labels must be of equal length in every row, or they are "
                f"no tags; {len(wrong)} rows differ: {first_few(map(place, wrong))}. Correct them, "
                'or give task="multilabel" if labels belong to the whole text.'
            )
    elif request.task not in ("tags", "entities"):
        return None
    tags = words_of(labels, what="tags", place=place)
    if class_names:
        ids = {str(i): name for i, name in enumerate(class_names)}
        for row, its in enumerate(tags):
            if not set(its) <= ids.keys():
                raise DatasetError(
                    f"tags must be ids in 0..{len(ids) - 1}, one per class name; {place(row)} has "
                    f"{', '.join(its):.80}. Correct it."
                )
        tags = [[ids[tag] for tag in its] for its in tags]
    return words_of(texts, what="words", place=place), tags


def make_tagged(
    name: str,
    words: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    request: Request,
    *,
    split: str = "all",
    rows: npt.NDArray[np.int64] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """Make a data set of words of sentences with one tag each.

    Parameters
    ----------
    name : str
    words, tags : sequences of equal length
        Of each sentence.
    request : Request
        With ``task="entities"`` the prefix that marks where an entity begins (``B-``, ``I-``, ...)
        is dropped, and the classes are the types of entities.
    split : str
    rows : array of int or None
        Keep the words of these sentences; all of them take part in numbering the classes.
    notes : sequence of str
        As `Dataset.notes`.

    Raises
    ------
    DatasetError
        If a sentence has another number of words than of tags.
    """
    sentences = [tuple(its) for its in words]
    for number, (sentence, its_tags) in enumerate(zip(sentences, tags, strict=True)):
        if len(sentence) != len(its_tags):
            raise DatasetError(
                f"sentence {number} of {name} has {len(sentence)} words and {len(its_tags)} tags, "
                "and every word needs one tag. Make the numbers agree."
            )
    flat = [tag for its_tags in tags for tag in its_tags]
    if request.task == "entities":
        flat = [_PREFIX.sub("", tag) for tag in flat]
    whole = make_dataset(name, Words(sentences, name), flat, split=split, notes=notes)
    if rows is None:
        return whole
    sentence_of = np.repeat(np.arange(len(sentences)), [len(sentence) for sentence in sentences])
    return whole.subset(np.isin(sentence_of, rows))
