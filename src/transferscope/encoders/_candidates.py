"""Lists of encoders that are worth a try, each list under one name.

The lists are in ``candidates.csv``, as on the day in `CHECKED`. Vision: names and licences from the
registry of timm 1.0.31. Text: every licence was looked up, in stored copies of the models' pages on
the Hugging Face hub, and for E5, BGE, all-mpnet and all-MiniLM in the model list of mteb's
documentation; sizes were counted on the architectures of transformers 5.23. Pages change: read a
model's own before you depend on it. Sizes are parameters without head and pooler.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

#: When the table was made.
CHECKED = "2026-11-21"


@dataclass(frozen=True)
class Candidate:
    """One encoder of a list.

    Parameters
    ----------
    name : str
        What `load_encoder` takes.
    licence : str
        SPDX identifier in lower case, or the publisher's own name for it.
    n_parameters : int
        Without head and pooler.
    """

    name: str
    licence: str
    n_parameters: int


def _read_candidates() -> dict[str, tuple[Candidate, ...]]:
    table = resources.files("transferscope.encoders") / "candidates.csv"
    lists: dict[str, tuple[Candidate, ...]] = {}
    for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines()):
        one = Candidate(row["encoder"], row["licence"], int(row["n_parameters"]))
        lists[row["list"]] = (*lists.get(row["list"], ()), one)
    return lists


#: name of the list -> its encoders
CANDIDATES = _read_candidates()
