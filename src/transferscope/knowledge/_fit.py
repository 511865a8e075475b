"""From the tables to the model of each modality; offline, in the tool and in the benchmark."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transferscope.knowledge._conditioning import Cells
from transferscope.knowledge._model import KINDS, Model, fit_model
from transferscope.knowledge._tables import (
    MODALITIES,
    KnownEncoder,
    Result,
    encoders_of,
    facts_matrix,
    kin_of,
    published_results,
)
from transferscope.knowledge._tasks import LeftOut, with_tasks
from transferscope.numerics.arrays import NumpyArray

#: Factors of tasks, per modality.
N_FACTORS = {"image": 6, "text": 12}
#: Sources that fine-tuned on the same data sets in the same way: their tasks are the same.
SAME_PROTOCOL = dict.fromkeys(("sfda-supervised", "ped-ssl", "mms-vit"), "sfda")
#: Tasks of fewer encoders say nothing about them.
FEWEST = 5
#: What tasks are like is learned of tasks that were left out, every so many at a time.
FOLDS = 4


def stem(source: str, task: str) -> str:
    """What variants of a task (other languages, versions, translations) have in common.

    Parameters
    ----------
    source, task : str

    Returns
    -------
    str
    """
    name = task.partition("/")[0] if source in ("mteb", "mieb") else task
    name = re.sub(r"\.[vV]\d+$", "", name).replace("MultiLabel", "")
    name = re.sub(r"(VN|NL)?(Pair)?(Classification)?$", "", name)
    return re.sub(r"[-_ ]|oxford|iiit|fgvc|\d{3}$", "", name.lower())


@dataclass(frozen=True)
class Matrix:
    """Results of one modality as a matrix.

    Attributes
    ----------
    encoders : list of KnownEncoder
        Of the rows.
    columns : list of (str, str, str)
        Source, task and kind of measurement.
    accuracy : (n, t) array
        NaN where nobody measured.
    """

    encoders: list[KnownEncoder]
    columns: list[tuple[str, str, str]]
    accuracy: NumpyArray

    def keep(self, wanted: Callable[[str, str, str], bool]) -> Matrix:
        """The same results of some of the columns.

        Parameters
        ----------
        wanted : callable
            Of source, task and kind: whether to keep the column.

        Returns
        -------
        Matrix
        """
        places = [i for i, column in enumerate(self.columns) if wanted(*column)]
        return Matrix(self.encoders, [self.columns[i] for i in places], self.accuracy[:, places])

    def tasks(self) -> dict[str, tuple[int, NumpyArray]]:
        """Accuracies of whole tasks: the mean over what an encoder has of their parts.

        Returns
        -------
        dict of str to (int, (n,) array)
            Name -> place of the kind in `KINDS`, and accuracies.
        """
        found: dict[str, list[int]] = {}
        for t, (source, task, _) in enumerate(self.columns):
            name = task.partition("/")[0] if source in ("mteb", "mieb") else f"{source}: {task}"
            found.setdefault(name, []).append(t)
        tasks = {}
        for name, columns in found.items():
            values = self.accuracy[:, columns]
            count = (~np.isnan(values)).sum(axis=1)
            mean = np.where(count == 0, np.nan, np.nansum(values, axis=1) / np.maximum(count, 1))
            tasks[name] = (KINDS.index(self.columns[columns[0]][2]), mean)
        return tasks

    def fit(self, *, n_factors: int, at_large: bool = True) -> Model:
        """Learn the model; parts of one task (languages, say) share its weight.

        Parameters
        ----------
        n_factors : int
        at_large : bool
            Whether to learn what tasks are like, too; standings need none of that.

        Returns
        -------
        Model
        """
        # only the parts of mteb's tasks are named so; elsewhere these are tasks of their own
        names = [t.partition("/")[0] if s == "mteb" else f"{s} {t}" for s, t, _ in self.columns]
        parts = np.array([names.count(name) for name in names], float)
        facts, penalty = facts_matrix(self.encoders)
        model = fit_model(
            self.accuracy,
            facts,
            np.array([KINDS.index(kind) for _, _, kind in self.columns]),
            importance=parts**-0.5,
            penalty=penalty,
            kin=kin_of(self.encoders),
            n_factors=n_factors,
        )
        return with_tasks(model, list(self._left_out(n_factors))) if at_large else model

    def _left_out(self, n_factors: int) -> Iterator[LeftOut]:
        """Every task with a model that has seen neither it nor a variant of it."""
        stems = sorted({stem(source, task) for source, task, _ in self.columns})
        for first in range(FOLDS):
            out = set(stems[first::FOLDS])

            def left(source: str, task: str, _: str, out: set[str] = out) -> bool:
                return stem(source, task) in out

            rest = self.keep(lambda *column, left=left: not left(*column))
            model = rest.fit(n_factors=n_factors, at_large=False)
            for kind, values in self.keep(left).tasks().values():
                rows = np.flatnonzero(~np.isnan(values))
                yield LeftOut(model, kind, Cells(rows, values[rows]))


def result_matrix(modality: str, folder: Path | None = None) -> Matrix:
    """Results of one modality as a matrix.

    Parameters
    ----------
    modality : str
    folder : path, optional
        Of the tables; the package's own if not given.

    Returns
    -------
    Matrix
    """
    known = {} if folder is None else {"folder": folder}
    encoders = encoders_of(modality, **known)
    row = {one.name: i for i, one in enumerate(encoders)}
    is_text = modality == "text"
    cells: dict[tuple[str, str, str], list[Result]] = {}
    for one in published_results(**known):
        if (one.source == "mteb") == is_text and one.encoder in row:
            source = SAME_PROTOCOL.get(one.source, one.source)
            cells.setdefault((source, one.task, one.kind), []).append(one)
    columns = [column for column, found in cells.items() if len(found) >= FEWEST]
    accuracy = np.full((len(encoders), len(columns)), np.nan)
    for t, column in enumerate(columns):
        for one in cells[column]:
            accuracy[row[one.encoder], t] = one.value
    return Matrix(encoders, columns, accuracy)


def fit_tables(folder: Path) -> dict[str, Model]:
    """The model of each modality, of the tables in a folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict of str to Model
    """
    return {
        modality: result_matrix(modality, folder).fit(n_factors=N_FACTORS[modality])
        for modality in MODALITIES
    }
