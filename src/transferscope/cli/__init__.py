"""The command line: each command parses, calls the library, and shows what came back.

Exit status: 0 when something was ranked or scored, 1 when nothing could be (or the store failed),
2 for wrong usage or input, 130 when interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer
from rich.markup import escape

from transferscope.cli._agreement import benchmarks, evaluate
from transferscope.cli._cache import cache
from transferscope.cli._distance import dataset_factors, layer_transferability
from transferscope.cli._features import extract, score, trace_ped
from transferscope.cli._ground_truth import finetune, pretrain, probe
from transferscope.cli._knowledge import shortlist
from transferscope.cli._listings import encoders, metrics
from transferscope.cli._ranking import rank, show_ranking
from transferscope.cli._relatedness import task_relatedness
from transferscope.cli._terminal import progress_bar, stderr, stdout
from transferscope.errors import StoreError, TransferscopeError

app = typer.Typer(
    name="transferscope",
    help="Which pre-trained encoder will transfer best to your data, how sure that is, and why.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
COMMANDS = (
    *(rank, score, extract, trace_ped),
    *(evaluate, benchmarks, probe, finetune, pretrain),
    *(task_relatedness, layer_transferability, dataset_factors),
    *(encoders, metrics, shortlist),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(cache, name="cache")

__all__ = ["app", "main", "progress_bar", "show_ranking", "stderr", "stdout"]


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    stderr.print(f"[yellow]warning[/] {escape(str(message))}", soft_wrap=True)


def main() -> None:
    """Run the command line; errors raised on purpose become one line on standard error."""
    # torch's threads would spin between two layers, on cores that the decoding threads need:
    # measured three times slower than with this on two cores. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.showwarning = _show_warning
    logging.getLogger("transferscope").addHandler(logging.NullHandler())
    try:
        app()
    except StoreError as error:
        stderr.print(f"[red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except TransferscopeError as error:
        stderr.print(f"[red]error[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
