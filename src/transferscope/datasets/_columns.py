"""Which columns of a table are the samples and which the labels, by name or by what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transferscope.datasets._request import Request
from transferscope.errors import DatasetError

#: Column names that are understood without being named by the user, in lower case
LABEL_COLUMNS = frozenset({"label", "labels", "class", "target", "category", "y"})
TEXT_COLUMNS = frozenset({"text", "sentence", "content", "review", "question", "tokens", "words"})
#: Two columns that together are the sample, if both are there
PAIR_COLUMNS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
IMAGE_COLUMNS = frozenset(
    {"image", "img", "path", "file", "filename", "file_name", "filepath", "image_path"}
)


def is_usual(name: str) -> bool:
    """Whether a name is a usual one of a column of labels, texts, images or splits."""
    paired = {part for pair in PAIR_COLUMNS for part in pair}
    known = {*LABEL_COLUMNS, *TEXT_COLUMNS, *IMAGE_COLUMNS, *paired, "split"}
    return name.strip().lower() in known


def may_lack_labels(request: Request, columns: Iterable[str]) -> bool:
    """Whether it is a reference and has no column of labels, which is allowed."""
    usual = any(name.strip().lower() in LABEL_COLUMNS for name in columns)
    return request.reference and request.label_column is None and not usual


def find_label_columns(
    requested: str | None, columns: Sequence[str], *, source: str
) -> tuple[str, ...]:
    """Find the column of labels, or several that are named with commas between.

    Raises
    ------
    DatasetError
        As `find_label_column` raises it.
    """
    if requested is None or requested in columns:
        return (find_label_column(requested, columns, source=source),)
    parts = [part.strip() for part in requested.split(",")]
    return tuple(find_label_column(part, columns, source=source) for part in parts)


def find_label_column(requested: str | None, columns: Sequence[str], *, source: str) -> str:
    """Find the column of labels by the name given, or by the usual names.

    Raises
    ------
    DatasetError
        If there is none, or more than one candidate.
    """
    present = ", ".join(map(str, columns))
    if requested is not None:
        if requested in columns:
            return requested
        raise DatasetError(
            f"label_column {requested!r} does not exist in {source}, whose columns are {present}. "
            "Choose one of them."
        )
    found = [name for name in columns if name.strip().lower() in LABEL_COLUMNS]
    if len(found) == 1:
        return found[0]
    state = f"has several candidates ({', '.join(found)})" if found else "has none of a usual name"
    raise DatasetError(
        f"{source} needs one column of labels and {state}; its columns are {present}. "
        "Name the right one with label_column=..."
    )


def find_input_columns(
    requested: str | None,
    columns: Sequence[str],
    images: Sequence[str],
    texts: Sequence[str],
    *,
    source: str,
) -> tuple[str, ...]:
    """Find the column of samples, or the two of pairs of texts.

    By name if given, else images before texts, pairs before one, known names first.

    Parameters
    ----------
    requested : str or None
        One column, or two with a comma between.
    columns : sequence of str
        All that may be named.
    images, texts : sequence of str
        Those that hold images, and those that hold texts.
    source : str
        What to call the table in messages.

    Raises
    ------
    DatasetError
        If there is none, or more than one candidate.
    """
    if requested is not None:
        return _named_input_columns(requested, columns, source=source)
    pairs = [pair for pair in PAIR_COLUMNS if set(pair) <= set(texts)]
    if len(pairs) == 1 and not images:
        return pairs[0]
    found: Sequence[str] = ()
    for candidates, known in ((images, IMAGE_COLUMNS), (texts, TEXT_COLUMNS)):
        found = [name for name in candidates if name.strip().lower() in known] or candidates
        if len(found) == 1:
            return (found[0],)
        if found:
            break
    state = f"several columns could be it ({', '.join(found)})" if found else "none could be found"
    raise DatasetError(
        f"{source} must have one column of images or texts, and {state}; its columns other than "
        f"the labels are {', '.join(columns) or 'none'}. Name the right one with input_column=..."
    )


def _named_input_columns(requested: str, columns: Sequence[str], *, source: str) -> tuple[str, ...]:
    if requested in columns:
        return (requested,)
    parts = [part.strip() for part in requested.split(",")]
    absent = [part for part in parts if part not in columns]
    if len(parts) == 2 and not absent:
        return (parts[0], parts[1])
    if absent:
        raise DatasetError(
            f"input_column {', '.join(map(repr, absent))} does not exist in {source}, which has "
            f"{', '.join(columns)}. Choose one of them, or two with a comma between for pairs."
        )
    raise DatasetError(
        f"input_column must be one column, or two with a comma between for pairs; got "
        f"{len(parts)}: {', '.join(parts)}. Choose two of them."
    )
