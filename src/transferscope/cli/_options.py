"""The options that several commands have, each written once.

A command takes options that belong together as one record, such as `DatasetOptions`;
`with_option_records` shows Typer the record's fields as options of the command.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, get_type_hints

import typer
from typer.core import TyperCommand

from transferscope.cli._terminal import progress_bar, show_notes, stderr
from transferscope.errors import EncoderError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer._click.core import Context

    from transferscope.datasets import Dataset
    from transferscope.executor import Executor
    from transferscope.extraction import Extracted

_ENCODERS = typer.Option(
    "--encoders",
    "-e",
    help="Names with commas between, or the option again: mini/all, timm/NAME, "
    "torchvision/NAME, hf/ID or folder, checkpoint:FILE?arch=NAME; or a list: text-base, "
    "text-large, vision-base, vision-large, vision-ssl.",
    show_default=False,
)
EncodersOption = Annotated[list[str], _ENCODERS]
OptionalEncodersOption = Annotated[list[str] | None, _ENCODERS]
_ENCODER = typer.Option(
    "--encoder", "-e", help="One encoder, named as in `rank`.", show_default=False
)
EncoderOption = Annotated[list[str], _ENCODER]
OptionalEncoderOption = Annotated[list[str] | None, _ENCODER]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        "-m",
        help="Names with commas between, or the option again; each perhaps with +ped; all; "
        "all+ped.",
        show_default=False,
    ),
]
Format: TypeAlias = Literal["table", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="Form of the output.")]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", help="Draw the result to this .png, .pdf or .svg file."),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference", help="Data set (or corpus) like what the encoder was pre-trained on."
    ),
]


def _folder(store: Path | None) -> Path | None:
    """Refuse what Python callers mean by these words, and what would be a folder of that name."""
    if store is not None and str(store).casefold() in ("none", "cache"):
        raise InputError(
            f"--store takes a folder; got {store}. Leave it out for the user's cache folder, write "
            f"./{store} for a folder of that name; `rank --no-store` keeps nothing."
        )
    return store


StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        callback=_folder,
        help="Folder for features.  [default: the user's cache folder]",
    ),
]
BatchOption = Annotated[int, typer.Option(min=1, max=512, help="Samples per batch.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")]
ExactOption = Annotated[
    bool,
    typer.Option("--exact", help="Run encoders as they were built: slower, other rounding."),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Run encoders on the workers of a Ray cluster: local (of this machine), auto (the one "
        "that this machine belongs to), or HOST:6379.",
    ),
]
RayWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--ray-workers", min=1, help="How many.  [default: as many as the cluster has room for]"
    ),
]
RayCpusOption = Annotated[
    float, typer.Option("--ray-cpus", min=0, help="Processors of each worker.")
]
RayGpusOption = Annotated[
    float, typer.Option("--ray-gpus", min=0, help="GPUs of each worker; 0.25: four share one.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything random.")]


@dataclass(frozen=True)
class DatasetOptions:
    """Which data set a command reads, and which part of it."""

    dataset: Annotated[
        str,
        typer.Argument(
            help="Image folder, .npz, .csv, .json, .parquet, hf/ID, torchvision/NAME?root=DIR or "
            "sklearn/digits.",
            show_default=False,
        ),
    ]
    split: Annotated[
        str | None, typer.Option(help="Part of the data set, such as test.", show_default=False)
    ] = None
    input_column: Annotated[
        str | None,
        typer.Option(
            help="Column that holds the texts (or image paths); two, with a comma, are pairs."
        ),
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(help="Column that holds the labels; several, with commas, are targets."),
    ] = None
    task: Annotated[
        Literal["classification", "regression", "multilabel", "tags", "entities"] | None,
        typer.Option(help="What the labels mean.  [default: recognised from the labels]"),
    ] = None
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Use a stratified sample of this many.")
    ] = None
    per_class: Annotated[
        int | None, typer.Option(min=2, help="Use at most this many samples of each class.")
    ] = None
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False
    seed: SeedOption = 0

    def open(self) -> Dataset:
        """The part of the data set that was asked for."""
        return self._open(self.dataset, self.split, sampled=True)

    def open_other(self, source: str, split: str | None) -> Dataset:
        """Another data set with the same columns, and a sample drawn in the same way."""
        return self._open(source, split, sampled=True)

    def open_split(self, split: str | None) -> Dataset | None:
        """All samples of another part of the data set; None where none is named."""
        return None if split is None else self._open(self.dataset, split, sampled=False)

    def _open(self, source: str, split: str | None, *, sampled: bool) -> Dataset:
        from transferscope.datasets import open_dataset

        dataset = open_dataset(
            source,
            split=split,
            label_column=self.label_column,
            input_column=self.input_column,
            task=self.task,
            max_samples=self.max_samples if sampled else None,
            per_class=self.per_class if sampled else None,
            seed=self.seed,
            skip_unreadable=self.skip_unreadable,
        )
        return _with_notes_shown(dataset)

    def open_reference(self, source: str | None) -> Dataset | None:
        """The reference, with the columns of the data set where it has such; None without."""
        from transferscope.datasets import open_reference

        if source is None:
            return None
        return _with_notes_shown(
            open_reference(source, label_column=self.label_column, input_column=self.input_column)
        )


def _with_notes_shown(dataset: Dataset) -> Dataset:
    """Say at once, before a long computation, how a data set was read."""
    show_notes(dataset.notes, stderr)
    return dataset


@dataclass(frozen=True)
class RayOptions:
    """Workers that compute, where this process is not to do so itself."""

    ray: RayOption = None
    ray_workers: RayWorkersOption = None
    ray_cpus: RayCpusOption = 1
    ray_gpus: RayGpusOption = 0

    def executor(self) -> AbstractContextManager[Executor | None]:
        """The workers that were asked for, or None; they end with the block."""
        return ray_executor(self.ray, self.ray_workers, self.ray_cpus, self.ray_gpus)


@dataclass(frozen=True)
class ExtractionOptions(RayOptions):
    """How features are computed, and where they are kept."""

    store: StoreOption = None
    batch_size: BatchOption = 64
    device: DeviceOption = None
    exact: ExactOption = False

    def extract(
        self, datasets: Sequence[Dataset], encoders: Sequence[str], seed: int
    ) -> list[tuple[Extracted, ...]]:
        """Features of each data set, per encoder, with a progress bar."""
        from transferscope.extraction import ExtractionSettings, extract_together

        with progress_bar() as progress, self.executor() as executor:
            settings = ExtractionSettings(
                self.store or "cache",
                batch_size=self.batch_size,
                device=self.device,
                seed=seed,
                progress=progress,
                exact=self.exact,
                executor=executor,
            )
            return list(extract_together(datasets, encoders, settings))

    def extract_one(
        self, datasets: Sequence[Dataset], encoders: Sequence[str], seed: int
    ) -> tuple[Extracted, ...]:
        """Features of each data set under one encoder.

        Raises
        ------
        InputError
            If the name stands for several encoders.
        EncoderError
            If it fails on one of the data sets.
        """
        (items,) = self.extract(datasets, [one_encoder(encoders)], seed)
        for item in items:
            if item.error is not None:
                raise EncoderError(f"{item.identifier} failed on {item.dataset.name}: {item.error}")
        return items


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COUNTS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


def ray_executor(
    address: str | None, workers: int | None, cpus: float, gpus: float
) -> AbstractContextManager[Executor | None]:
    """Workers of a Ray cluster, which end with the block; None where there is no address."""
    from transferscope.ray_executor import RayExecutor

    if address is None:
        if workers is not None or cpus != 1 or gpus:
            raise InputError(
                "--ray-workers, --ray-cpus and --ray-gpus say what workers of --ray are like, "
                "which is not given. Write --ray local, auto or HOST:6379, too."
            )
        return nullcontext()
    return RayExecutor(address, workers=workers, cpus=cpus, gpus=gpus)


def duration(text: str, option: str) -> float:
    """Seconds of a time such as 90s, 10m, 1h or 1h30m.

    Raises
    ------
    InputError
        If it is none, or not above 0.
    """
    parts = re.findall(r"(\d+\.?\d*|\.\d+)([smhd])", text.strip().lower())
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text.strip().lower() or total <= 0:
        raise InputError(
            f"{option} must be a time above 0, with s, m, h or d after each number; got {text!r}. "
            "Write 90s, 10m or 1h30m."
        )
    return total


def count(text: str, option: str) -> float:
    """A number written as 86000000, 86M or 1.5B.

    Raises
    ------
    InputError
        If it is none, or not above 0.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([kmgb]?)b?", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise InputError(
            f"{option} must be a number above 0 with k, M, G or B, such as 100M; got {text!r}."
        )
    return float(match[1]) * _COUNTS[match[2]]


def one_encoder(encoders: Sequence[str]) -> str:
    """The only encoder that was named.

    Raises
    ------
    InputError
        If the names stand for several encoders.
    """
    from transferscope.encoders import expand_encoders

    names = expand_encoders(encoders)
    if len(names) != 1:
        raise InputError(
            f"--encoder takes one encoder; {', '.join(encoders)} stands for {len(names)}. Name one."
        )
    return str(names[0])


class OneValueCommand(TyperCommand):
    """A command that refuses an option given twice, of which only the last value would count."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Read the arguments, twice: the parser knows how often each was given."""
        given = Counter(self.make_parser(ctx).parse_args(args=list(args))[2])
        for option, count in given.items():
            if count > 1 and option.nargs == 1 and not getattr(option, "multiple", False):
                raise InputError(
                    f"{option.opts[0]} takes one value, and was given {count} times. Give it once."
                )
        return super().parse_args(ctx, args)


def with_option_records(command: Callable[..., None]) -> Callable[..., None]:
    """Let Typer see the fields of a command's records as its own options.

    Parameters
    ----------
    command : callable
        With keyword-only parameters; those annotated with a dataclass are records.

    Returns
    -------
    callable
        Takes every field by its name, builds the records, and calls the command.
    """
    hints = get_type_hints(command, include_extras=True)
    records = {
        name: hints[name]
        for name in inspect.signature(command).parameters
        if is_dataclass(hints[name])
    }
    options: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in records:
            options.append(parameter.replace(annotation=hints[name]))
            continue
        field_hints = get_type_hints(records[name], include_extras=True)
        for one in fields(records[name]):
            options.append(
                inspect.Parameter(
                    one.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if one.default is MISSING else one.default,
                    annotation=field_hints[one.name],
                )
            )

    def call(**given: object) -> None:
        for name, record in records.items():
            given[name] = record(**{one.name: given.pop(one.name) for one in fields(record)})
        command(**given)

    functools.update_wrapper(call, command, assigned=("__module__", "__name__", "__doc__"))
    vars(call)["__signature__"] = inspect.Signature(options)
    call.__annotations__ = {option.name: option.annotation for option in options}
    return call
