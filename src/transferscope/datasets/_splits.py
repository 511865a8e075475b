"""Names of splits: which names mean the same part of a data set, and which part is read.

Folders, values of a table's column, keys of an ``.npz`` and splits of the hub are all compared
here: without regard to case, separators, digits and words such as "set" or "images".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from transferscope.errors import DatasetError

#: The usual words for a part, in lower case, and what they all mean.
_WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "validation": (
        *("val", "valid", "validation", "validate", "dev", "devel", "development"),
        *("eval", "evaluation"),
    ),
    "test": ("test", "testing", "tst"),
}
_MEANINGS = {word: meaning for meaning, words in _WORDS.items() for word in words}
#: Words that say nothing about which part it is.
_FILLERS = frozenset(
    {"set", "sets", "data", "dataset", "split", "image", "images", "img", "imgs", "samples"}
)
_COMPOUND = re.compile(rf"({'|'.join(_MEANINGS)})({'|'.join(_FILLERS)})")

#: Other names of a table's column of splits than "split", in lower case. They may mean anything
#: else, and count only where every value is a known split.
_SPLIT_COLUMNS = frozenset({"splits", "subset", "partition", "set", "usage", "phase"})


def _words_of(name: str) -> list[str]:
    """The words of a name in lower case: ``"trainImages_2017"`` has train and images."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", _COMPOUND.sub(r"\1 \2", parted.casefold()))


def meaning_of(name: str) -> str | None:
    """What a name means as the name of a split.

    Parameters
    ----------
    name : str

    Returns
    -------
    {"train", "validation", "test"} or None
        None where it has no word for a part, several, or words that could make a difference
        (``train_noisy``).
    """
    return _meaning(_words_of(name), _FILLERS)


def known_splits(names: Iterable[str]) -> dict[str, str]:
    """Find which of several names beside each other are splits.

    Words that all of the names share do not count: ``cars_train`` and ``cars_test`` are splits.

    Parameters
    ----------
    names : iterable of str

    Returns
    -------
    dict of str to str
        Name to "train", "validation" or "test", in the order given; other names are left out.
    """
    words = {name: _words_of(name) for name in names}
    shared = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    found = {name: _meaning(its, _FILLERS | shared - set(_MEANINGS)) for name, its in words.items()}
    return {name: meaning for name, meaning in found.items() if meaning is not None}


def _meaning(words: Iterable[str], fillers: Iterable[str]) -> str | None:
    left = {_MEANINGS.get(word, "") for word in words if word not in fillers}
    return (left.pop() or None) if len(left) == 1 else None


def find_split_column(columns: Mapping[str, Iterable[object]]) -> str | None:
    """Find the column that divides the rows of a table: "split", or one that holds only splits.

    Parameters
    ----------
    columns : mapping of str to iterable
        The cells of each column.

    Returns
    -------
    str or None
    """
    for name in columns:
        if name.strip().casefold() == "split":
            return name
    for name, cells in columns.items():
        if name.strip().casefold() in _SPLIT_COLUMNS:
            values = {str(cell) for cell in cells}
            if len(known_splits(values)) == len(values):
                return name
    return None


def choose_split(requested: str | None, available: Iterable[str], *, source: str) -> str:
    """Find the part of a source that was asked for; by default its training part.

    A name that is there as it is written comes first; else names that mean the same are the same.

    Parameters
    ----------
    requested : str or None
    available : iterable of str
        Names of the parts; none where the source is not divided.
    source : str
        What to call the source in messages.

    Returns
    -------
    str
        As the source writes it; ``"all"`` for a source without parts.

    Raises
    ------
    DatasetError
        If there is no such part or several, or none was asked for and it is not clear which to
        take.
    """
    names = list(available)
    if not names and requested in (None, "all"):
        return "all"
    wanted = "train" if requested is None else requested
    meaning, meanings = meaning_of(wanted), known_splits(names)
    same = [name for name in names if meaning is not None and meanings.get(name) == meaning]
    if wanted in names or len(same) == 1:
        return wanted if wanted in names else same[0]
    if requested is None and len(names) == 1:
        return names[0]
    listed = ", ".join(names)
    if same or requested is None:
        state = f"{', '.join(same)} may all be {wanted}" if same else "none is called train"
        raise DatasetError(
            f"{source} has several splits ({listed}), and {state}. "
            "Name one as it is written, with split=..."
        )
    raise DatasetError(
        f"split {requested!r} does not exist in {source}, which has {listed or 'no splits'}. "
        f"{'Choose one of them' if names else 'Leave it out'}."
    )


def note_choice(requested: str | None, chosen: str, available: Iterable[str]) -> tuple[str, ...]:
    """What to tell of a split that was chosen among several without being asked for, as a note."""
    others = [name for name in available if name != chosen]
    if requested is not None or not others:
        return ()
    return (f"split {chosen} was read, the others were not ({', '.join(others)})",)
