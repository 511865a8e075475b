"""`task-relatedness`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from rich.table import Table

from transferscope.cli._options import (
    DatasetOptions,
    ExtractionOptions,
    FormatOption,
    OptionalEncoderOption,
    PlotOption,
    one_encoder,
    with_option_records,
)
from transferscope.cli._outputs import ForceOption, claim, deliver, figure_content
from transferscope.cli._terminal import (
    literal,
    progress_bar,
    show_notes,
    stderr,
    stdout,
    write_line,
)
from transferscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transferscope.datasets import Dataset
    from transferscope.extraction import Extracted
    from transferscope.numerics.arrays import NumpyArray
    from transferscope.results import Relatedness, RelatednessPairs

#: What the command reads from a feature file.
ARRAYS = ("features", "labels", "test_features", "test_labels")
#: Samples of a reference data set, when none are asked for.
REFERENCE_SAMPLES = 5_000


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
    reference_input_column: Annotated[
        str | None, typer.Option(help="As --input-column, of the reference.  [default: the same]")
    ] = None,
    reference_label_column: Annotated[
        str | None, typer.Option(help="As --label-column, of the reference.  [default: the same]")
    ] = None,
    reference_samples: Annotated[
        int | None,
        typer.Option(
            min=6,
            help="Use a stratified sample of this many of the reference.  [default: 5 000, and all "
            "of a file of features]",
        ),
    ] = None,
    reference_per_class: Annotated[
        int | None,
        typer.Option(min=3, help="Use at most this many samples of each class of the reference."),
    ] = None,
    reference_classes: Annotated[
        int | None,
        typer.Option(
            min=2, help="With --match transport: this many classes of the reference take part."
        ),
    ] = None,
    reference_head: Annotated[
        Path | None,
        typer.Option(
            help="A head of the reference's classes, in their order: a .npz file of weights "
            "(classes, features) and bias (classes).  [default: trained here]",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Another data set to relate; may be given again.", show_default=False),
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
    refits: Annotated[
        int,
        typer.Option(
            min=0,
            help="Learn this often from other halves of the samples, for the bound's error.",
        ),
    ] = 0,
    format: FormatOption = "table",
    plot: PlotOption = None,
    plot_path: Annotated[
        Path | None,
        typer.Option(
            help="Draw terms and losses against the steepness of the heads to this file.",
        ),
    ] = None,
    force: ForceOption = False,
    data: DatasetOptions,
    extraction: ExtractionOptions,
) -> None:
    """Bound the loss on a data set by its relatedness to a reference task, term by term.

    With --encoder, DATASET and --reference are data sets; without, .npz or .safetensors files with
    features, labels and perhaps test_features, test_labels.
    """
    from transferscope.relatedness import task_relatedness as relate

    claim("task-relatedness", figures=(plot, plot_path), force=force)
    steepness = _steepness(tau)
    head = None if reference_head is None else _head(reference_head)
    sources = [data.dataset, *(also or [])]
    if len(set(sources)) < len(sources):
        raise InputError(f"each data set is related once, got {', '.join(sources)}. Name others.")
    if plot_path is not None and (len(sources) > 1 or head is not None):
        raise InputError(
            "--plot-path is of one data set and of heads that are trained here. Leave out --also "
            "and --reference-head."
        )
    if refits == 1:
        raise InputError("--refits must be 0, or at least 2 to tell a spread; got 1.")
    if encoder is not None:
        one_encoder(encoder)
        known_set = _open_reference(
            data,
            reference,
            reference_split,
            (reference_input_column, reference_label_column),
            (reference_samples, reference_per_class),
        )
        opened = [data.open(), *(data.open_other(source, data.split) for source in also or [])]
        _check(opened, known_set, head, match, unlabelled=unlabelled)
        items = extraction.extract_one([*opened, known_set], encoder, data.seed)
        *targets, known = map(_arrays, items)
    else:
        if data.split or reference_split:
            raise InputError(
                "--split and --reference-split choose parts of data sets, and feature files have "
                "none. Name the --encoder of the data sets."
            )
        targets, known = _read_files(
            sources, reference, reference_samples, reference_per_class, data.seed
        )
    results: dict[str, Relatedness] = {}

    def related(own: Mapping[str, NumpyArray], **options: Any) -> Relatedness:
        with progress_bar() as progress:
            return relate(
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
                reference_head=head,
                match=match,
                n_reference_classes=reference_classes,
                seed=data.seed,
                progress=progress,
                **options,
            )

    for source, own in zip(sources, targets, strict=True):
        results[source] = related(own, tau=steepness, n_refits=refits)
    if format == "json":
        _write_json(results)
    else:
        _show(results)
    deliver(
        "task-relatedness",
        (plot, lambda path: figure_content(_figure(results), path)),
        (plot_path, lambda path: figure_content(_curve(results[sources[0]], targets[0], related),
                                                path)),
    )  # fmt: skip


def _figure(results: Mapping[str, Relatedness]) -> Any:
    from transferscope.plots import plot_relatedness

    if len(results) == 1:
        return plot_relatedness(next(iter(results.values())))
    return plot_relatedness({Path(name).stem or name: one for name, one in results.items()})


def _curve(
    result: Relatedness, own: Mapping[str, NumpyArray], related: Callable[..., Relatedness]
) -> Any:
    """The terms at each value of the path, or at multiples of the value that was given."""
    from transferscope.plots import plot_steepness

    taus = [point.tau for point in result.steepness_path] or [
        result.tau * multiple for multiple in (0.25, 0.5, 1.0, 2.0, 4.0)
    ]
    return plot_steepness([related(own, tau=value, measure_noise=False) for value in taus])


def _steepness(text: str) -> float | Literal["reference", "width"]:
    """The value of --tau."""
    if text == "reference":
        return "reference"
    if text == "width":
        return "width"
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(
            f"--tau must be a number, reference or width; got {text!r}. Leave it out for reference."
        ) from error
    if not 0 < value < float("inf"):
        raise InputError(f"--tau must be positive and finite; got {text}.")
    return value


def _head(path: Path) -> tuple[NumpyArray, NumpyArray]:
    from transferscope.storage.npz_files import read_npz

    if path.suffix != ".npz" or not path.is_file():
        raise InputError(f"--reference-head must be a .npz file that exists; got {path}.")
    found = read_npz(path, ("weights", "bias"))
    if set(found) != {"weights", "bias"}:
        raise InputError(
            f"{path} must hold the arrays weights and bias; it holds "
            f"{', '.join(sorted(found)) or 'neither'}. Save both with numpy.savez."
        )
    return found["weights"], found["bias"]


def _open_reference(
    data: DatasetOptions,
    source: str,
    split: str | None,
    columns: tuple[str | None, str | None],
    sizes: tuple[int | None, int | None],
) -> Dataset:
    """The reference, of a bounded number of samples."""
    from transferscope.datasets import open_dataset

    (input_column, label_column), (samples, per_class) = columns, sizes
    if samples is None and per_class is None:
        samples = REFERENCE_SAMPLES
    dataset = open_dataset(
        source,
        split=split,
        input_column=input_column or data.input_column,
        label_column=label_column or data.label_column,
        task=data.task,
        max_samples=samples,
        per_class=per_class,
        seed=data.seed,
        skip_unreadable=data.skip_unreadable,
    )
    show_notes(dataset.notes, stderr)
    return dataset


def _check(
    targets: list[Dataset],
    reference: Dataset,
    head: tuple[NumpyArray, NumpyArray] | None,
    match: str,
    *,
    unlabelled: bool,
) -> None:
    """What can be known to be wrong before features are computed."""
    if reference.task != "classification":
        raise InputError(
            f"{reference.name} is a task of {reference.task}; a reference task needs classes. "
            "Choose another."
        )
    if head is not None and head[0].shape[:1] != (reference.n_classes,):
        raise InputError(
            f"--reference-head must have a row of weights for each of the {reference.n_classes} "
            f"classes of {reference.name}; its weights are of shape {head[0].shape}."
        )
    for target in targets:
        if not unlabelled and target.task != "classification":
            raise InputError(
                f"{target.name} is a task of {target.task}, and the bound is one for classes. "
                "Use --unlabelled to relate its features alone."
            )
        strange = sorted(set(target.class_names) - set(reference.class_names))
        if match == "name" and not unlabelled and strange:
            raise InputError(
                f"--match name needs a class of {reference.name} for each class of {target.name}; "
                f"there is none for {', '.join(strange[:5])}. Use --match transport."
            )


def _read_files(
    sources: list[str], reference: str, samples: int | None, per_class: int | None, seed: int
) -> tuple[list[dict[str, NumpyArray]], dict[str, NumpyArray]]:
    """Arrays of the targets' feature files and of the reference's."""
    from transferscope.storage.feature_files import read_feature_file

    *targets, known = (read_feature_file(file, ARRAYS) for file in (*sources, reference))
    if "labels" not in known:
        raise InputError(
            f"{reference} holds no labels, and a reference task needs them. Choose another."
        )
    for source, own in zip(sources, targets, strict=True):
        width, expected = own["features"].shape[-1], known["features"].shape[-1]
        if width != expected:
            raise InputError(
                f"{source} has {width} features a sample and {reference} {expected}; both must "
                "come from the same encoder. Extract them anew."
            )
    if samples is not None or per_class is not None:
        known = _fewer(known, samples, per_class, seed)
    return targets, known


def _fewer(
    known: dict[str, NumpyArray], samples: int | None, per_class: int | None, seed: int
) -> dict[str, NumpyArray]:
    """At most so many samples of each class, and in all."""
    from transferscope.numerics.sampling import by_class

    _, ids = np.unique(known["labels"], return_inverse=True)
    order, place, size = by_class(ids, np.random.default_rng(seed).permutation(len(ids)))
    if per_class is not None:
        order, place, size = (one[place < per_class] for one in (order, place, size))
        size = np.minimum(size, per_class)
    if samples is not None:
        order = order[np.argsort((place + 0.5) / size, kind="stable")[:samples]]
    rows = np.sort(order)
    return {**known, "features": known["features"][rows], "labels": known["labels"][rows]}


def _arrays(item: Extracted) -> dict[str, NumpyArray]:
    """Features and class labels, by name, as a feature file has them."""
    found = {"features": item.features}
    if item.labels is not None and item.dataset.task == "classification":
        found["labels"] = np.asarray(item.dataset.class_names)[item.labels]
    return found


def _write_json(results: Mapping[str, Relatedness]) -> None:
    """The record of one data set; of several an object by their names."""
    if len(results) == 1:
        write_line(next(iter(results.values())).to_json())
    else:
        plain = {name: json.loads(one.to_json()) for name, one in results.items()}
        write_line(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False))


def _show(results: Mapping[str, Relatedness]) -> None:
    shown = Table(header_style="bold", pad_edge=False)
    alone = len(results) == 1
    shown.add_column(next(iter(results.values())).setting, no_wrap=True)
    for name in results:
        shown.add_column("value" if alone else literal(name), justify="right", overflow="fold")
        if alone:
            shown.add_column("±", justify="right", no_wrap=True)
    frames = [one.to_frame() for one in results.values()]
    for name in dict.fromkeys(name for frame in frames for name in frame.index):
        cells = []
        for frame in frames:
            value, error = frame.loc[name] if name in frame.index else (float("nan"),) * 2
            cells += ["" if value != value else f"{value:.4g}"]
            cells += [] if not alone else ["" if error != error else f"{error:.2g}"]
        if any(cells):
            shown.add_row(str(name).replace("_", " "), *cells)
    stdout.print(shown)
    for name, one in results.items():
        show_notes(one.warnings if alone else tuple(f"{name}: {text}" for text in one.warnings))


def compare_pairs(
    *,
    files: Annotated[
        list[str],
        typer.Argument(
            help="What `task-relatedness --format json` wrote, a file per reference or encoder; "
            "NAME=FILE names it, else its file name does.",
            show_default=False,
        ),
    ],
    format: FormatOption = "table",
    plot: PlotOption = None,
    force: ForceOption = False,
) -> None:
    """Hold the bounds of several references and targets against what heads reach."""
    from transferscope.relatedness import compare_pairs as compare

    claim("compare-pairs", figures=(plot,), force=force)
    results: dict[str, dict[str, Relatedness]] = {}
    for spec in files:
        named = None if Path(spec).exists() else re.fullmatch(r"([\w.+-]+)=(.+)", spec)
        name, path = (named[1], named[2]) if named else (Path(spec).stem, spec)
        if name in results:
            raise InputError(
                f"each file needs a name of its own; two are called {name}. Write NAME=FILE."
            )
        results[name] = _read_json(Path(path))
    found = compare(results)
    if format == "json":
        write_line(found.to_json())
    else:
        _show_pairs(found)
    if plot is not None:
        from transferscope.plots import plot_relatedness_pairs

        figure = plot_relatedness_pairs(found)
        deliver("compare-pairs", (plot, lambda path: figure_content(figure, path)))


def _read_json(path: Path) -> dict[str, Relatedness]:
    """What `_write_json` wrote: of one data set under the name of the file."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} must be what `task-relatedness --format json` wrote; it cannot be read "
            f"({error}). Check the path."
        ) from error
    if not isinstance(plain, dict):
        raise InputError(f"{path} must be what `task-relatedness --format json` wrote; it is not.")
    from transferscope.results import Relatedness

    records = {path.stem: plain} if "bound" in plain else plain
    return {
        Path(name).stem or name: Relatedness.from_json(json.dumps(one))
        for name, one in records.items()
    }


def _show_pairs(found: RelatednessPairs) -> None:
    table = Table(header_style="bold", pad_edge=False)
    for name in ("reference", "target"):
        table.add_column(name, overflow="fold")
    for name in ("bound", "target loss", "target accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for pair in found.pairs:
        numbers = (pair.bound, pair.target_loss, pair.target_accuracy)
        cells = ("-" if value is None else f"{value:.4g}" for value in numbers)
        table.add_row(literal(pair.reference), literal(pair.target), *cells)
    stdout.print(table)
    for name, known in found.correlation.items():
        said = (f"{kind} {'-' if r is None else f'{r:.3f}'}" for kind, r in known.items())
        stdout.print(f"bound with {name.replace('_', ' ')}: {', '.join(said)}", soft_wrap=True)
