"""Published fine-tuned accuracies, so that metrics are compared on what the field compares them on.

Each benchmark is a table of accuracies (``published/<name>.csv``, encoder x data set, percent, an
empty cell where nobody fine-tuned); some have facts of the encoders that know nothing of the data
set (``<name>-baselines.csv``) and weighted tau as its authors published it
(``<name>-weighted-tau.csv``). The figures are re-arranged from their sources by
``tools/carry_published.py``; where a source could not be had, a cell is left empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from transferscope.errors import UnknownNameError
from transferscope.evaluation._agreement import evaluate
from transferscope.evaluation._tables import Scores, score_table
from transferscope.results import Agreement

if TYPE_CHECKING:
    import pandas as pd

_NO_LICENCE = "no licence stated; figures only, re-arranged"


@dataclass(frozen=True)
class Benchmark:
    """A published table of fine-tuned accuracies.

    Attributes
    ----------
    name, summary : str
    source : str
        Repository and commit of the accuracies.
    licence : str
    reference : str
        The paper.
    note : str
        How it was curated, and where baselines and published values come from.
    aliases : tuple of str
        Other names that it is known by.
    """

    name: str
    summary: str
    source: str
    licence: str
    reference: str
    note: str = ""
    aliases: tuple[str, ...] = ()

    def accuracy(self) -> dict[str, dict[str, float]]:
        """Accuracies after fine-tuning.

        Returns
        -------
        dict of data set to encoder to float
            In percent.
        """
        return _columns(f"{self.name}.csv")

    def baselines(self) -> dict[str, dict[str, float]]:
        """Facts of the encoders that know nothing of the data set, as scores to compare with.

        Returns
        -------
        dict of baseline to encoder to float
            Empty where none is known.
        """
        return _columns(f"{self.name}-baselines.csv")

    def weighted_tau(self) -> dict[str, dict[str, float]]:
        """Weighted tau of metrics as their authors published it.

        Returns
        -------
        dict of data set to metric to float
            Empty where none is known.
        """
        return _columns(f"{self.name}-weighted-tau.csv")


_BENCHMARKS = {
    row.name: row
    for row in (
        Benchmark(
            "ped-ssl",
            "12 self-supervised ResNet-50s on 11 data sets",
            "TencentARC/SFDA @ 3b7edf76bd68 (tw_group2.py); the same in lixiaotong97/PED",
            _NO_LICENCE,
            "Shao et al., ECCV 2022; Li et al., ICCV 2023",
            "All are ResNet-50: their parameter count cannot rank them and is not given. Baseline: "
            "linear ImageNet accuracy of the seven whose authors' pages state it (facebookresearch/"
            "swav @ 027a54a6ffa7, facebookresearch/moco @ 56700212990d, salesforce/PCL @ "
            "018a929c53fc), for the checkpoints that linusericsson/ssl-transfer lists by these "
            "names. Published weighted tau, with and without PED: README of lixiaotong97/PED (no "
            "licence stated; figures only).",
            ("sfda-selfsupervised", "sfda-self-supervised"),
        ),
        Benchmark(
            "sfda-supervised",
            "11 supervised CNNs on 11 data sets",
            "TencentARC/SFDA @ 3b7edf76bd68 (tw_group1.py); "
            "the same in BUserName/NCTI @ b18d39514a3f",
            "MIT in BUserName/NCTI; none stated in TencentARC/SFDA",
            "Shao et al., ECCV 2022",
            "Baselines: torchvision's weights IMAGENET1K_V1, as its documentation gives them. "
            "Published weighted tau: readme.md of TencentARC/SFDA @ 3b7edf76bd68.",
        ),
        Benchmark(
            "mms-vit",
            "13 vision transformers on 11 data sets",
            "OpenGVLab/Multitask-Model-Selector @ 24d100817c02",
            _NO_LICENCE,
            "Meng et al., NeurIPS 2023",
            "Baseline: ImageNet accuracy of the three DeiTs only (README_deit.md of "
            "facebookresearch/deit @ 4da66916c72c). Published weighted tau: none found in a "
            "source that we could read.",
        ),
        Benchmark(
            "parc-controlled",
            "196 transfers: 4 architectures x 8 source data sets to 7 targets",
            "dbolya/parc @ ddfca43a84d3 (oracles/controlled.csv)",
            _NO_LICENCE,
            "Bolya et al., NeurIPS 2021",
            "Encoders are architecture/source data set; a source is not transferred to itself. "
            "Baseline: torchvision's parameter counts of the architectures.",
        ),
        Benchmark(
            "parc-all",
            "459 transfers: 70 encoders to 7 targets",
            "dbolya/parc @ ddfca43a84d3 (oracles/all.csv)",
            _NO_LICENCE,
            "Bolya et al., NeurIPS 2021",
            "As parc-controlled; of its 469 rows ten hold -1, no accuracy, and are left out.",
        ),
        Benchmark(
            "transfergraph-images",
            "120 Hugging Face image models on 19 tasks, curated",
            "zLizy/transferability_graph @ 9c220479aa4d (doc/, ftrecords_img)",
            _NO_LICENCE,
            "Li et al., ICDE 2024 (TransferGraph)",
            "Curated from 6 971 runs: runs with a training loss above 20 or not finite (diverged) "
            "are left out; of the others the run of best validation accuracy counts, with its test "
            "accuracy; tasks with at least 200 models are kept, then models with all of these. "
            "Trained on 800 images for most tasks; on some the test split holds them too. "
            "Baseline: parameter counts of 81 models, from its doc/model_config_dataset.",
        ),
    )
}


def list_benchmarks() -> list[str]:
    """Names of the published benchmarks.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from transferscope.evaluation import list_benchmarks
    >>> list_benchmarks()[:2]
    ['ped-ssl', 'sfda-supervised']
    """
    return list(_BENCHMARKS)


def get_benchmark(name: str) -> Benchmark:
    """A published benchmark by its name.

    Parameters
    ----------
    name : str
        One of `list_benchmarks`, or an alias of one.

    Returns
    -------
    Benchmark

    Raises
    ------
    UnknownNameError
        If there is none of this name.

    Examples
    --------
    >>> from transferscope.evaluation import get_benchmark
    >>> get_benchmark("ped-ssl").accuracy()["aircraft"]["byol"]
    82.1
    """
    for benchmark in _BENCHMARKS.values():
        if name in (benchmark.name, *benchmark.aliases):
            return benchmark
    raise UnknownNameError(
        f"benchmark {name!r} is unknown; the known ones are {', '.join(_BENCHMARKS)}. "
        "`transferscope benchmarks` lists their sources."
    )


def evaluate_on(
    name: str, scores: Scores | pd.DataFrame | None = None, *, seed: int = 0
) -> Agreement:
    """Measure scores on a published benchmark, together with its dataset-agnostic baselines.

    Parameters
    ----------
    name : str
        Of the benchmark.
    scores : mapping of data set to metric to encoder to float, or DataFrame, optional
        As for `evaluate`, with the benchmark's names of data sets and encoders
        (`Benchmark.accuracy` has them). Without, only the baselines are measured.
    seed : int
        Of the resampling.

    Returns
    -------
    Agreement
        A metric of the same name as a baseline takes its place.

    Raises
    ------
    UnknownNameError
        If there is no such benchmark.
    InputError
        As for `evaluate`, and if there are neither scores nor baselines.

    Examples
    --------
    >>> from transferscope.evaluation import evaluate_on
    >>> result = evaluate_on("sfda-supervised")
    >>> round(result.average["imagenet_accuracy"]["weighted_tau"].value, 2)
    0.65
    """
    benchmark = get_benchmark(name)
    accuracy, baselines = benchmark.accuracy(), benchmark.baselines()
    own: Scores = {name: {} for name in accuracy} if scores is None else score_table(scores)
    together: dict[str, dict[str, Mapping[str, float]]] = {}
    for dataset, rows in own.items():
        together[dataset] = dict(rows)
        known = accuracy.get(dataset, {})
        for baseline, values in baselines.items() if known else ():
            agnostic = {encoder: values[encoder] for encoder in known if encoder in values}
            together[dataset].setdefault(baseline, agnostic)
    return evaluate(together, accuracy, seed=seed)


def _columns(file: str) -> dict[str, dict[str, float]]:
    """Column -> first cell of the row -> number; empty cells left out, no such file is empty."""
    path = files("transferscope.evaluation") / "published" / file
    if not path.is_file():
        return {}
    rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    names = next(rows)[1:]
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for first, *cells in rows:
        for name, cell in zip(names, cells, strict=True):
            if cell:
                table[name][first] = float(cell)
    return table
