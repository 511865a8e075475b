"""`task-relatedness`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from transferscope.cli._options import (
    DatasetOptions,
    ExtractionOptions,
    FormatOption,
    OptionalEncoderOption,
    PlotOption,
    with_option_records,
)
from transferscope.cli._outputs import ForceOption, claim, deliver, figure_content
from transferscope.cli._terminal import show_notes, stderr, stdout, write_line
from transferscope.errors import InputError

if TYPE_CHECKING:
    from transferscope.extraction import Extracted
    from transferscope.numerics.arrays import NumpyArray
    from transferscope.results import Relatedness

#: What the command reads from a feature file.
ARRAYS = ("features", "labels", "test_features", "test_labels")


@with_option_records
def task_relatedness(
    *,
    reference: Annotated[
        str,
        typer.Option(
            help="Data set like what the encoder was pre-trained on; without --encoder a file of "
            "its features, as for DATASET.",
            show_default=False,
        ),
    ],
    reference_split: Annotated[
        str | None, typer.Option(help="Part of the reference.", show_default=False)
    ] = None,
    encoder: OptionalEncoderOption = None,
    setting: Annotated[
        Literal["sparse", "fixed_all", "learned_a", "learned_all"],
        typer.Option(help="Which parts of the transformation are learned."),
    ] = "sparse",
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Do not use the labels of the data set.")
    ] = False,
    match: Annotated[
        Literal["transport", "name", "random"], typer.Option(help="How classes are matched.")
    ] = "transport",
    tau: Annotated[
        str,
        typer.Option(
            help="Largest gradient that the reference head may have: a number; reference, chosen "
            "where the reference's bound for itself stays near its loss; or width, 2 / root of the "
            "number of features."
        ),
    ] = "reference",
    format: FormatOption = "table",
    plot: PlotOption = None,
    force: ForceOption = False,
    data: DatasetOptions,
    extraction: ExtractionOptions,
) -> None:
    """Bound the loss on a data set by its relatedness to a reference task, term by term.

    With --encoder, DATASET and --reference are data sets; without, .npz or .safetensors files with
    features, labels and perhaps test_features, test_labels.
    """
    from transferscope.relatedness import task_relatedness as relate

    claim("task-relatedness", plot, force=force, figures=True)
    if encoder is not None:
        datasets = [data.open(), data.open_other(reference, reference_split)]
        own, known = map(_arrays, extraction.extract_one(datasets, encoder, data.seed))
    else:
        from transferscope.storage.feature_files import read_feature_file

        if data.split or reference_split:
            raise InputError(
                "--split and --reference-split choose parts of data sets, and feature files have "
                "none. Name the --encoder of the data sets."
            )
        own, known = (read_feature_file(file, ARRAYS) for file in (data.dataset, reference))
    if "labels" not in known:
        raise InputError(
            f"{reference} holds no labels, and a reference task needs them. Choose another."
        )
    with stderr.status("relating the tasks"):
        result = relate(
            own["features"],
            own.get("labels"),
            reference_features=known["features"],
            reference_labels=known["labels"],
            setting=setting,
            unlabelled=unlabelled,
            test_features=own.get("test_features"),
            test_labels=own.get("test_labels"),
            reference_test_features=known.get("test_features"),
            reference_test_labels=known.get("test_labels"),
            tau=_steepness(tau),
            match=match,
            seed=data.seed,
        )
    if format == "json":
        write_line(result.to_json())
    else:
        _show(result)
    if plot is not None:
        from transferscope.plots import plot_relatedness

        deliver(
            "task-relatedness",
            (plot, lambda path: figure_content(plot_relatedness(result), path)),
        )


def _steepness(text: str) -> float | Literal["reference", "width"]:
    """The value of --tau."""
    if text == "reference":
        return "reference"
    if text == "width":
        return "width"
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            f"--tau must be a number, reference or width; got {text!r}. Leave it out for reference."
        ) from error


def _arrays(item: Extracted) -> dict[str, NumpyArray]:
    """Features and class labels as a feature file has them."""
    found = {"features": item.features}
    if item.labels is not None and item.dataset.task == "classification":
        found["labels"] = item.labels
    return found


def _show(result: Relatedness) -> None:
    shown = Table(header_style="bold", pad_edge=False)
    shown.add_column(result.setting, no_wrap=True)
    shown.add_column("value", justify="right", no_wrap=True)
    for name, value in result.to_frame()["value"].dropna().items():
        shown.add_row(str(name).replace("_", " "), f"{value:.4g}")
    stdout.print(shown)
    show_notes(result.warnings)
