"""What fine-tuning did to weights, as wholes and as deltas of adapters, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from transferscope.cli._options import (
    DatasetOptions,
    EncoderOption,
    ExtractionOptions,
    FormatOption,
    PlotOption,
    ReferenceOption,
    with_option_records,
)
from transferscope.cli._outputs import ForceOption, claim, deliver, figure_content
from transferscope.cli._terminal import (
    literal,
    short_count,
    show_notes,
    stderr,
    stdout,
    write_line,
)
from transferscope.errors import InputError, first_few
from transferscope.results import (
    AdapterDelta,
    AdapterDistances,
    DatasetFactors,
    LayerDistances,
    TransferabilityForecast,
)

if TYPE_CHECKING:
    import pandas as pd


def layer_transferability(
    *,
    pretrained: Annotated[
        str,
        typer.Option(
            help="Pre-trained weights: .safetensors, .pth, an index of shards, a Hugging Face "
            "folder, or timm/NAME.",
            show_default=False,
        ),
    ],
    finetuned: Annotated[
        list[str],
        typer.Option(
            help="Fine-tuned weights: the same, or the folder of a LoRA adapter. Several: the "
            "option again, for a table each and one figure.",
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
        Literal["mean_abs", "l2", "relative_l2", "cosine"],
        typer.Option(help="Distance between weights."),
    ] = "mean_abs",
    group: Annotated[
        Literal["block", "parameter"], typer.Option(help="Rows of the table.")
    ] = "block",
    parameters: Annotated[
        Literal["weights", "all", "with_statistics"],
        typer.Option(help="What counts: weights of convolutions and linear layers, or more."),
    ] = "weights",
    spectra: Annotated[
        bool, typer.Option("--spectra", help="Spectral norm and effective rank, too (slow).")
    ] = False,
    head: Annotated[str | None, typer.Option(help="Module that is the head.")] = None,
    format: FormatOption = "table",
    plot: PlotOption = None,
    force: ForceOption = False,
) -> None:
    """Show, layer by layer, how much closer pre-training brought the weights to the fine-tuned."""
    from transferscope.parameter_distance import architecture
    from transferscope.parameter_distance import layer_transferability as measure_layers

    if random is not None and arch is not None:
        raise InputError(
            "--random and --arch both name the initialisation; got both. Leave one of them out."
        )
    claim("layer-transferability", figures=(plot,), force=force)
    names = dict(zip(finetuned, _short_names(finetuned), strict=True))
    if len(names) < len(finetuned):
        raise InputError("--finetuned names a checkpoint twice. Name each once.")
    found = {}
    with stderr.status("comparing the checkpoints"):
        for source, name in names.items():
            found[name] = measure_layers(
                architecture(arch) if arch is not None else random,
                pretrained,
                source,
                measure=measure,
                group=group,
                parameters=parameters,
                seeds=seeds,
                spectra=spectra,
                head=head,
            )
    if format == "json":
        each = [f"{json.dumps(name)}: {one.to_json()}" for name, one in found.items()]
        only = next(iter(found.values()))
        write_line(only.to_json() if len(found) == 1 else f"{{{', '.join(each)}}}")
    else:
        for name, one in found.items():
            if len(found) > 1:
                stdout.print(f"[bold]{literal(name)}[/]", soft_wrap=True)
            _show_layers(one, spectra=spectra)
    if plot is not None:
        from transferscope.plots import plot_layer_distances

        deliver(
            "layer-transferability",
            (plot, lambda path: figure_content(plot_layer_distances(found), path)),
        )


def _short_names(sources: Sequence[str]) -> list[str]:
    """The ends of paths that tell them apart."""
    parts = [Path(source).parts for source in sources]
    for length in range(1, max(map(len, parts)) + 1):
        shown = [str(Path(*one[-length:])) for one in parts]
        if len(set(shown)) == len(set(sources)):
            return shown
    return list(sources)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


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
            _percent(layer.drift),
            "-" if layer.cosine is None else f"{layer.cosine:.5f}",
        ]
        if spectra:
            cells += [_number(layer.spectral_norm), _number(layer.effective_rank)]
        notes = "; ".join(filter(None, (layer.suggestion, layer.reason)))
        table.add_row(literal(layer.name), *cells, literal(notes))
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
    show_notes(found.notes)
    show_notes(
        f"{kind.replace('_', ' ')} ({len(names)}): {first_few(names)}"
        for kind, names in found.unmatched.items()
        if names
    )


def compare_adapters(
    *,
    pretrained: Annotated[
        str,
        typer.Option(
            help="The base that the adapters were trained on: .safetensors, .pth, an index of "
            "shards, a Hugging Face folder, or timm/NAME.",
            show_default=False,
        ),
    ],
    adapter: Annotated[
        list[str],
        typer.Option(
            help="Folder of a LoRA adapter as PEFT saves it. The option again: a second one, to "
            "compare with the first.",
            show_default=False,
        ),
    ],
    group: Annotated[
        Literal["block", "parameter"], typer.Option(help="Rows of the table.")
    ] = "block",
    format: FormatOption = "table",
) -> None:
    """Show, layer by layer, what adapters add to their base, and how alike two of them are."""
    from transferscope.parameter_distance import compare_adapters as compare

    if len(adapter) > 2:
        raise InputError(f"--adapter names one adapter or two; got {len(adapter)}. Leave some out.")
    if len(set(adapter)) < len(adapter):
        raise InputError(f"--adapter names {adapter[0]} twice. Name each once.")
    with stderr.status("comparing the adapters"):
        found = compare(pretrained, *adapter, group=group)
    if format == "json":
        write_line(found.to_json())
    else:
        _show_deltas(found)


def _show_deltas(found: AdapterDistances) -> None:
    is_pair = len(found.adapters) > 1
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("layer", overflow="fold")
    pair = ["drift of the first", "of the second", "distance", "cosine"]
    for name in ["parameters", "norm of the base", *(pair if is_pair else ["drift"])]:
        table.add_column(name, justify="right", no_wrap=True)

    def add(layer: AdapterDelta) -> None:
        cells = [short_count(layer.n_parameters), _number(layer.base_norm), _percent(layer.drift)]
        if is_pair:
            cells += [_percent(layer.other_drift), _percent(layer.distance)]
            cells.append("-" if layer.cosine is None else f"{layer.cosine:.4f}")
        table.add_row(literal(layer.name), *cells)

    for layer in found.layers:
        add(layer)
    table.add_section()
    add(found.overall)
    stdout.print(table)
    for word, name in zip(("first", "second"), found.adapters, strict=False):
        stdout.print(f"{word}: {literal(name)}", soft_wrap=True)
    stdout.print(
        "drift: norm of what an adapter adds, distance: of the difference; both as a share of the "
        "norm of the base's weights that are changed",
        soft_wrap=True,
    )
    show_notes(found.notes)
    if found.left_out:
        show_notes([f"left out ({len(found.left_out)}): {first_few(found.left_out)}"])


@with_option_records
def dataset_factors(
    *,
    encoder: EncoderOption,
    reference: ReferenceOption = None,
    gap: Annotated[Literal["frechet", "means"], typer.Option(help="Domain gap.")] = "frechet",
    variance: Annotated[
        Literal["relative", "absolute"],
        typer.Option(help="Share of the total variance, or squared units."),
    ] = "relative",
    records: Annotated[
        Path | None,
        typer.Option(
            help="Earlier runs to predict from: a .csv with domain_gap, intraclass_variance, "
            "n_samples and transferability, measured the same way."
        ),
    ] = None,
    format: FormatOption = "table",
    data: DatasetOptions,
    extraction: ExtractionOptions,
) -> None:
    """Measure what of a data set goes with transferability: domain gap, variance, size."""
    from transferscope.parameter_distance import dataset_factors as factors_of
    from transferscope.parameter_distance import predict_transferability

    dataset, known = data.open(), data.open_reference(reference)
    if dataset.task != "classification":
        raise InputError(
            f"{data.dataset} has no classes, so no variance within them. "
            "Choose a data set with classes."
        )
    datasets = [dataset] if known is None else [dataset, known]
    found = extraction.extract_one(datasets, encoder, data.seed)
    factors = factors_of(
        found[0].features,
        dataset.require_labels()[1],
        reference_features=found[1].features if known is not None else None,
        gap=gap,
        variance=variance,
    )
    forecast = None
    if records is not None:
        forecast = predict_transferability(factors, _records(records))
    if format == "json":
        text = factors.to_json()
        if forecast is not None:
            text = f'{{"factors": {text}, "forecast": {forecast.to_json()}}}'
        write_line(text)
        return
    _show_factors(factors, forecast)


def _records(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as .csv ({error}). Check the file.") from error


def predict_transferability(
    *,
    records: Annotated[
        Path | None,
        typer.Option(
            help="Runs of your own, a .csv with domain_gap, intraclass_variance, n_samples and "
            "transferability.  [default: the twelve that are published]"
        ),
    ] = None,
    domain_gap: Annotated[
        float | None, typer.Option(help="Of a new data set, with the two options below.")
    ] = None,
    intraclass_variance: Annotated[float | None, typer.Option(help="Of a new data set.")] = None,
    n_samples: Annotated[int | None, typer.Option(min=1, help="Of a new data set.")] = None,
    format: FormatOption = "table",
) -> None:
    """Show the runs and the regression of transferability on factors of data sets."""
    from transferscope.parameter_distance import predict_transferability as predict
    from transferscope.parameter_distance import published_runs

    new = {
        "domain_gap": domain_gap,
        "intraclass_variance": intraclass_variance,
        "n_samples": n_samples,
    }
    given = [name for name, value in new.items() if value is not None]
    if given and len(given) < len(new):
        raise InputError(
            f"a new data set needs --domain-gap, --intraclass-variance and --n-samples; got "
            f"{', '.join(given)} alone. Give all three or none."
        )
    runs = published_runs().reset_index() if records is None else _records(records)
    found = predict(new if given else None, runs)
    if format == "json":
        write_line(found.to_json())
        return
    table = Table(header_style="bold", pad_edge=False)
    for name in runs.columns:
        is_number = name in (*new, "transferability")
        table.add_column(literal(str(name)), justify="right" if is_number else "left")
    for row in runs.itertuples(index=False, name=None):
        table.add_row(
            *(f"{x:,.6g}" if isinstance(x, float | int) else literal(str(x)) for x in row)
        )
    stdout.print(table)
    _show_forecast(found)
    show_notes(found.warnings)


def _show_forecast(forecast: TransferabilityForecast) -> None:
    if forecast.transferability is not None:
        interval = f"{_number(forecast.low)} to {_number(forecast.high)}"
        stdout.print(
            f"expected transferability of the weights: {_number(forecast.transferability)} "
            f"(95 %: {interval})"
        )
    stdout.print(f"regression on {forecast.n_records} runs, R² {forecast.r_squared:.2f}")
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
    stdout.print(literal(forecast.remark), soft_wrap=True)


def _show_factors(factors: DatasetFactors, forecast: TransferabilityForecast | None) -> None:
    gap = "- (give --reference)" if factors.domain_gap is None else f"{factors.domain_gap:.4g}"
    stdout.print(f"domain gap ({factors.gap}): {gap}")
    stdout.print(f"variance within classes ({factors.variance}): {factors.intraclass_variance:.4g}")
    stdout.print(f"samples: {factors.n_samples:,} in {factors.n_classes} classes")
    warnings = list(factors.warnings)
    if forecast is not None:
        _show_forecast(forecast)
        warnings += forecast.warnings
    show_notes(warnings)
