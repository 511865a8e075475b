"""`shortlist`: which encoders deserve a look, before any of them is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from transferscope.cli._options import FormatOption, SeedOption, count
from transferscope.cli._terminal import short_count, show_notes, stderr, stdout, write_line
from transferscope.results import Expectation


def shortlist(
    *,
    modality: Annotated[Literal["image", "text"], typer.Option(help="What is encoded.")],
    measured: Annotated[
        Path | None,
        typer.Option(help=".csv of encoder, accuracy: what you measured on your task, as shares."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(help=".csv of dataset, encoder, accuracy: your results on other tasks."),
    ] = None,
    kind: Annotated[
        Literal["probe", "fine-tuned"], typer.Option(help="What accuracy means.")
    ] = "probe",
    max_params: Annotated[
        str | None, typer.Option(help="Largest size, such as 100M or 1.5B.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="permissive, or the name of a licence such as mit.")
    ] = None,
    min_speed: Annotated[
        float | None, typer.Option(min=0, help="Images per second on an RTX 4090.")
    ] = None,
    max_dim: Annotated[int | None, typer.Option(min=1, help="Largest feature dimension.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many encoders to list.")] = 10,
    format: FormatOption = "table",
    seed: SeedOption = 0,
) -> None:
    """List the encoders that published results, and what you measured, speak for."""
    from transferscope.evaluation import read_measured
    from transferscope.knowledge import expect, select_encoders

    tried = {} if measured is None else read_measured(measured)
    conditions = (max_params, license, min_speed, max_dim)
    chosen = None
    if any(one is not None for one in conditions):
        chosen = select_encoders(
            modality,
            max_parameters=None if max_params is None else count(max_params, "--max-params"),
            license=license,
            min_speed=min_speed,
            max_dim=max_dim,
        )
    found = expect(tried, modality=modality, encoders=chosen, kind=kind, history=history, seed=seed)
    if format == "json":
        for note in found.warnings:
            stderr.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
        write_line(_as_json(found, n))
    else:
        _show(found, n)


def _as_json(found: Expectation, n: int) -> str:
    keys = ("encoder", "mean", "sd", "p_best", "expected_regret", "n_parameters", "license")
    rows = [
        {key: getattr(one, key) for key in keys}
        | {"license": one.license or None, "sources": list(one.sources)}
        for one in found.encoders[:n]
    ]
    return json.dumps({"encoders": rows}, indent=2, ensure_ascii=False)


def _show(found: Expectation, n: int) -> None:
    stdout.print(escape(found.headline), soft_wrap=True)
    table = Table(header_style="bold", pad_edge=False)
    table.add_column("encoder", no_wrap=True)
    for name in ("expected", "90 % interval", "p(best)", "regret", "params"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("licence")
    table.add_column("why")
    for one in found.encoders[:n]:
        table.add_row(
            escape(one.encoder),
            f"{one.mean:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            f"{one.p_best:.2f}",
            f"{100 * one.expected_regret:.1f}",
            short_count(one.n_parameters),
            escape(one.license),
            ("cheapest; " if one.cheapest else "") + escape(one.reason),
        )
    stdout.print(table)
    notes = list(found.warnings)
    if not found.n_measured:
        notes.append(
            "nothing is measured: expected is the mean over tasks like the published ones, its "
            "order the standing of the encoders."
        )
    notes.append(
        "regret: points of accuracy that taking it is expected to lose against the best. cheapest: "
        "within one point of the best, and nothing smaller is expected to be as good."
    )
    if found.next.measured is None:
        notes.append(f"to learn most, measure {found.next.encoder} next.")
    show_notes(notes)
