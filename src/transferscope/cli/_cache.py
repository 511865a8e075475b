"""`cache`: the features that are stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from transferscope.cli._options import StoreOption
from transferscope.cli._terminal import literal, short_bytes, stderr, stdout
from transferscope.errors import InputError

if TYPE_CHECKING:
    from transferscope.storage.feature_store import FeatureStore

cache = typer.Typer(help="List, check and delete stored features.", no_args_is_help=True)


@cache.command("list")
def cache_list(store: StoreOption = None) -> None:
    """Show what is stored, and how large it is."""
    features = _store(store)
    rows = features.entries()
    table = Table(header_style="bold", pad_edge=False)
    for name in ("key", "data set", "encoder", "layer", "samples", "complete", "size", "last used"):
        table.add_column(name, no_wrap=name in ("key", "size"), overflow="fold")
    for row in sorted(rows, key=lambda r: r.last_used, reverse=True):
        table.add_row(
            row.key[:10],
            literal(row.about.get("dataset", "")),
            literal(row.about.get("encoder", row.problem)),
            literal(row.layer),
            f"{row.n_samples:,}",
            f"{row.n_shards_present}/{row.n_shards}",
            short_bytes(row.n_bytes),
            f"{row.last_used:%Y-%m-%d %H:%M}",
        )
    stdout.print(table)
    stdout.print(
        f"{len(rows)} entries, {short_bytes(sum(r.n_bytes for r in rows))}, in "
        f"{literal(features.root)}",
        soft_wrap=True,
    )


@cache.command("clear")
def cache_clear(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys or their beginnings; none: everything.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Delete stored features: the entries named, or all."""
    features = _store(store)
    freed = features.clear(keys or None)
    stdout.print(f"{short_bytes(freed)} freed")
    kept = [row.key for row in features.entries() if not keys or row.key.startswith(tuple(keys))]
    if kept:
        stdout.print(f"{len(kept)} entries were kept: a running command uses them")


@cache.command("verify")
def cache_verify(store: StoreOption = None) -> None:
    """Read everything and check it against its checksums; exit status 1 if something is damaged."""
    features = _store(store)
    with stderr.status("reading every file"):
        damages = features.verify()
    for damage in damages:
        stdout.print(
            f"[red]damaged[/] {literal(damage.file)}: {literal(damage.reason)}", soft_wrap=True
        )
    stdout.print(f"{len(features.entries())} entries read, {len(damages)} damaged files")
    if damages:
        stdout.print("They are computed again when they are next needed.")
        raise typer.Exit(1)


def _store(path: Path | None) -> FeatureStore:
    from transferscope.storage.feature_store import FeatureStore

    features = FeatureStore(path)
    try:
        is_folder = features.root.is_dir() or not features.root.exists()
    except OSError as error:
        raise InputError(
            f"--store {features.root} cannot be a folder: {error.strerror}. Name another."
        ) from error
    if not is_folder:
        raise InputError(f"--store {features.root} is a file, and must be a folder. Name another.")
    return features
