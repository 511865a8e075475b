"""From the tables to the model of each modality; offline, in the tool and in the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transferscope.knowledge._model import KINDS, Model, fit_model
from transferscope.knowledge._tables import (
    MODALITIES,
    KnownEncoder,
    Result,
    encoders_of,
    facts_matrix,
    published_results,
)
from transferscope.numerics.arrays import NumpyArray

#: Factors of tasks, per modality.
N_FACTORS = {"image": 3, "text": 4}
#: Sources that fine-tuned on the same data sets in the same way: their tasks are the same.
SAME_PROTOCOL = dict.fromkeys(("sfda-supervised", "ped-ssl", "mms-vit"), "sfda")
#: Tasks of fewer encoders say nothing about them.
FEWEST = 5


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

    def fit(self, *, n_factors: int) -> Model:
        """Learn the model; parts of one task (languages, say) share its weight.

        Parameters
        ----------
        n_factors : int

        Returns
        -------
        Model
        """
        # only the parts of mteb's tasks are named so; elsewhere these are tasks of their own
        tasks = [t.partition("/")[0] if s == "mteb" else f"{s} {t}" for s, t, _ in self.columns]
        parts = np.array([tasks.count(task) for task in tasks], float)
        facts, penalty = facts_matrix(self.encoders)
        return fit_model(
            self.accuracy,
            facts,
            np.array([KINDS.index(kind) for _, _, kind in self.columns]),
            importance=parts**-0.5,
            penalty=penalty,
            n_factors=n_factors,
        )


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
