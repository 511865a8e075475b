"""The command line: each command parses, calls the library, and shows what came back.

Exit status: 0 when something was ranked or scored, 1 when nothing could be (or a file could not be
written), 2 for wrong usage or input, 130 when interrupted, 143 when terminated.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer

from transferscope.cli._agreement import benchmarks, evaluate
from transferscope.cli._benchmark import benchmark
from transferscope.cli._cache import cache
from transferscope.cli._distance import (
    compare_adapters,
    dataset_factors,
    layer_transferability,
    predict_transferability,
)
from transferscope.cli._features import extract, score, trace_ped
from transferscope.cli._ground_truth import finetune, pretrain, probe
from transferscope.cli._knowledge import shortlist
from transferscope.cli._listings import encoders, metrics
from transferscope.cli._options import OneValueCommand
from transferscope.cli._ranking import rank, show_ranking
from transferscope.cli._relatedness import compare_pairs, task_relatedness
from transferscope.cli._report import report
from transferscope.cli._selection import select
from transferscope.cli._streams import StoppedError, sheltered, stoppable
from transferscope.cli._terminal import literal, progress_bar, stderr, stdout
from transferscope.errors import StoreError, TransferscopeError

app = typer.Typer(
    name="transferscope",
    help="Which pre-trained encoder will transfer best to your data, how sure that is, and why.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
COMMANDS = (
    *(rank, report, score, extract, trace_ped),
    *(evaluate, benchmark, benchmarks, probe, finetune, select, pretrain),
    *(
        task_relatedness,
        compare_pairs,
        layer_transferability,
        compare_adapters,
        dataset_factors,
        predict_transferability,
    ),
    *(encoders, metrics, shortlist),
)
for command in COMMANDS:
    app.command(cls=OneValueCommand)(command)
app.add_typer(cache, name="cache")

__all__ = ["app", "main", "progress_bar", "show_ranking", "stderr", "stdout"]


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    stderr.print(f"[yellow]warning[/] {literal(message)}", soft_wrap=True)


def main() -> None:
    """Run the command line; errors raised on purpose become one line on standard error."""
    # torch's threads would spin between two layers, on cores that the decoding threads need:
    # measured three times slower than with this on two cores. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.showwarning = _show_warning
    logging.getLogger("transferscope").addHandler(logging.NullHandler())
    with sheltered() as output, stoppable():
        status = _run()
        output.flush()
        if output.is_abandoned:
            status = status or 141  # as if ended by SIGPIPE
        elif output.error is not None:
            status = status or _fail(f"standard output cannot be written: {output.error}.", 1)
    sys.exit(status)


def _run() -> int:
    """Run the command that was asked for; its exit status."""
    try:
        app()
    except StoppedError as stopped:
        stderr.print("; ".join(filter(None, ("interrupted", stopped.remark))))
        return int(str(stopped.code))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except StoreError as error:
        return _fail(error, 1)
    except TransferscopeError as error:
        return _fail(error, 2)
    return 0


def _fail(reason: object, status: int) -> int:
    stderr.print(f"[red]error[/] {literal(reason)}", soft_wrap=True)
    return status
