"""`distance`, `dataset-factors`: what fine-tuning did to weights, and what goes with it."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from transferscope.cli._terminal import (
    BatchOption,
    DatasetArgument,
    DeviceOption,
    LabelOption,
    MaxOption,
    PerClassOption,
    PlainFormat,
    SeedOption,
    SkipOption,
    SplitOption,
    StoreOption,
    progress_bar,
    short_count,
    stderr,
    stdout,
)
from transferscope.errors import InputError, first_few
from transferscope.results import DatasetFactors, LayerDistances, TransferabilityForecast

if TYPE_CHECKING:
    from transferscope.extraction import Extracted


class MeasureName(StrEnum):
    """Distances between weights."""

    mean_abs = "mean_abs"
    l2 = "l2"
    relative_l2 = "relative_l2"
    cosine = "cosine"


class GroupName(StrEnum):
    """Rows of the table."""

    block = "block"
    parameter = "parameter"


class ParametersName(StrEnum):
    """Which parameters count."""

    weights = "weights"
    all = "all"
    with_statistics = "with_statistics"


class GapName(StrEnum):
    """Distances between sets of features."""

    frechet = "frechet"
    means = "means"


class VarianceName(StrEnum):
    """Scales of the variance within classes."""

    relative = "relative"
    absolute = "absolute"


def distance(
    pretrained: Annotated[
        str,
        typer.Option(
            help="Pre-trained weights: .safetensors, .pth, an index of shards, a Hugging Face "
            "folder, or timm/NAME.",
            show_default=False,
        ),
    ],
    finetuned: Annotated[
        str,
        typer.Option(
            help="Fine-tuned weights: the same, or the folder of a LoRA adapter.",
            show_default=False,
        ),
    ],
    random: Annotated[
        str | None, typer.Option(help="Weights that pre-training started from.")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            help="Without --random: draw the initialisation of this timm architecture, or of the "
            "model of a folder with config.json."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=0, help="Draws of --arch; 0 for the closed-form expectation.")
    ] = 3,
    measure: Annotated[
        MeasureName, typer.Option(help="Distance between weights.")
    ] = MeasureName.mean_abs,
    group: Annotated[GroupName, typer.Option(help="Rows.")] = GroupName.block,
    parameters: Annotated[
        ParametersName,
        typer.Option(help="What counts: weights of convolutions and linear layers, or more."),
    ] = ParametersName.weights,
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Spectral norm and effective rank, too (slow).")
    ] = False,
    head: Annotated[str | None, typer.Option(help="Module that is the head.")] = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
    plot: Annotated[
        Path | None, typer.Option(help="Draw it to this .png, .pdf or .svg file.")
    ] = None,
) -> None:
    """Say layer by layer how far pre-training carried the weights to where fine-tuning ended."""
    from transferscope.parameter_distance import architecture, layer_transferability

    if random is not None and arch is not None:
        raise InputError("--random and --arch both say where the initialisation comes from: one.")
    with stderr.status("comparing the checkpoints"):
        found = layer_transferability(
            architecture(arch) if arch is not None else random,
            pretrained,
            finetuned,
            measure=measure.value,
            group=group.value,
            parameters=parameters.value,
            seeds=seeds,
            spectra=spectra,
            head=head,
        )
    if plot is not None:
        from transferscope.plots import plot_layer_distances, save_figure

        save_figure(plot_layer_distances({Path(finetuned).name: found}), plot)
    if format is PlainFormat.json:
        sys.stdout.write(found.to_json() + "\n")
        return
    _show_layers(found, spectra=spectra)
    if plot is not None:
        stdout.print(f"drawn to {escape(str(plot))}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _show_layers(found: LayerDistances, *, spectra: bool) -> None:
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("layer", overflow="fold")
    columns = ["T", "D(random)", "D(pretrained)", "parameters", "drift", "cosine"]
    for name in [*columns, *(["spectral norm", "effective rank"] if spectra else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("notes")
    for layer in found.layers:
        value = _number(layer.transferability)
        if layer.spread is not None:
            value += f" ± {layer.spread:.2g}"
        cells = [
            value,
            _number(layer.distance_random),
            _number(layer.distance_pretrained),
            short_count(layer.n_parameters),
            "-" if layer.drift is None else f"{100 * layer.drift:.3g} %",
            "-" if layer.cosine is None else f"{layer.cosine:.5f}",
        ]
        if spectra:
            cells += [_number(layer.spectral_norm), _number(layer.effective_rank)]
        notes = "; ".join(filter(None, (layer.suggestion, layer.reason)))
        table.add_row(escape(layer.name), *cells, escape(notes))
    stdout.print(table)
    overall = _number(found.overall)
    if found.overall_spread is not None:
        overall += f" ± {found.overall_spread:.2g}"
    stdout.print(
        f"overall (mean without the head): {overall}; distance {found.measure}, parameters "
        f"{found.parameters}, initialisation: {found.random}",
        soft_wrap=True,
    )
    stdout.print(
        f"freeze: drift below {100 * found.freeze_threshold:g} % of the norm; reset: T at most 1",
        soft_wrap=True,
    )
    for note in found.notes:
        stdout.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    for kind, names in found.unmatched.items():
        if names:
            shown = f"{kind.replace('_', ' ')} ({len(names)}): {escape(first_few(names))}"
            stdout.print(f"[yellow]note[/] {shown}", soft_wrap=True)


def dataset_factors(
    dataset: DatasetArgument,
    encoder: Annotated[
        str, typer.Option("--encoder", "-e", help="One encoder, as for rank.", show_default=False)
    ],
    reference: Annotated[
        str | None,
        typer.Option(help="Data set like the encoder's pre-training, for the domain gap."),
    ] = None,
    gap: Annotated[GapName, typer.Option(help="Domain gap.")] = GapName.frechet,
    variance: Annotated[
        VarianceName, typer.Option(help="Share of the total variance, or squared units.")
    ] = VarianceName.relative,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Earlier runs to predict from: a .csv with domain_gap, intraclass_variance, "
            "n_samples and transferability, measured the same way."
        ),
    ] = None,
    format: Annotated[PlainFormat, typer.Option(help="What to write.")] = PlainFormat.table,
    store: StoreOption = None,
    split: SplitOption = None,
    label_column: LabelOption = None,
    max_samples: MaxOption = None,
    per_class: PerClassOption = None,
    skip_unreadable: SkipOption = False,
    batch_size: BatchOption = 64,
    device: DeviceOption = None,
    seed: SeedOption = 0,
) -> None:
    """Measure what of a data set goes with transferability: domain gap, variance, size."""
    from transferscope.datasets import open_dataset
    from transferscope.extraction import extract
    from transferscope.parameter_distance import dataset_factors as factors_of
    from transferscope.parameter_distance import predict_transferability
    from transferscope.storage.feature_store import FeatureStore

    sampling: dict[str, Any] = {"max_samples": max_samples, "per_class": per_class, "seed": seed}
    data = open_dataset(
        dataset,
        split=split,
        label_column=label_column,
        skip_unreadable=skip_unreadable,
        **sampling,
    )
    if data.task != "classification":
        raise InputError(f"{dataset} has no classes, so no variance within them.")
    sets = [data] if reference is None else [data, open_dataset(reference, seed=seed)]
    found: list[Extracted] = []
    with progress_bar() as progress:
        for one in sets:
            run = extract(
                one,
                [encoder],
                store=FeatureStore(store),
                batch_size=batch_size,
                device=device,
                seed=seed,
                progress=progress,
            )
            found += list(run)
    features = [item.embedding(seed).features for item in found]
    factors = factors_of(
        features[0],
        data.labels,
        reference_features=features[1] if reference is not None else None,
        gap=gap.value,
        variance=variance.value,
    )
    forecast = None
    if records is not None:
        forecast = predict_transferability(factors, _records(records))
    if format is PlainFormat.json:
        text = factors.to_json()
        if forecast is not None:
            text = f'{{"factors": {text}, "forecast": {forecast.to_json()}}}'
        sys.stdout.write(text + "\n")
        return
    _show_factors(factors, forecast)


def _records(path: Path) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as .csv ({error}).") from error


def _show_factors(factors: DatasetFactors, forecast: TransferabilityForecast | None) -> None:
    gap = "- (give --reference)" if factors.domain_gap is None else f"{factors.domain_gap:.4g}"
    stdout.print(f"domain gap ({factors.gap}): {gap}")
    stdout.print(f"variance within classes ({factors.variance}): {factors.intraclass_variance:.4g}")
    stdout.print(f"samples: {factors.n_samples:,} in {factors.n_classes} classes")
    warnings = list(factors.warnings)
    if forecast is not None:
        interval = f"{_number(forecast.low)} to {_number(forecast.high)}"
        stdout.print(
            f"expected transferability of the weights: {_number(forecast.transferability)} "
            f"(95 %: {interval}), from {forecast.n_records} runs, R² {forecast.r_squared:.2f}"
        )
        table = Table(header_style="bold", pad_edge=False)
        for name in ("term of ln T", "value", "95 % interval", "p", *forecast.published):
            table.add_column(name, no_wrap=True)
        for term, ours in forecast.coefficients.items():
            table.add_row(
                term,
                _number(ours["value"]),
                f"{ours['low']:.3g} to {ours['high']:.3g}",
                f"{ours['p_value']:.2g}",
                *(_number(theirs[term]) for theirs in forecast.published.values()),
            )
        stdout.print(table)
        stdout.print(escape(forecast.remark), soft_wrap=True)
        warnings += forecast.warnings
    for warning in warnings:
        stdout.print(f"[yellow]note[/] {escape(warning)}", soft_wrap=True)
