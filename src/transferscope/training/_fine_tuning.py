"""Fine-tuning with a sweep over hyper-parameters, and supervised pre-training."""

from __future__ import annotations

import hashlib
import itertools
import math
import platform
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from transferscope.datasets import Dataset
from transferscope.encoders import (
    Encoder,
    TrainableEncoder,
    identity,
    load_encoder,
    refuse_other_modality,
)
from transferscope.errors import (
    EncoderError,
    InputError,
    StoreError,
    WorkerError,
    first_few,
    require,
)
from transferscope.executor import Executor, device_of
from transferscope.numerics.sampling import by_class
from transferscope.progress import ProgressCallback
from transferscope.results import FineTuningResult, TrainingRun
from transferscope.storage.atomic import mark_in_use, refuse_unwritable

if TYPE_CHECKING:
    from torch import nn

#: Learning rate, weight decay and seed of a run.
Hyper: TypeAlias = tuple[float, float, int]

MODES = ("full", "last-block", "head")
AUGMENTATIONS = ("none", "shift", "flip")

#: Share of each class of the training part on which epochs and hyper-parameters are chosen.
VALIDATION = 0.2
#: Share of each class that is held out to be tested on where no test part is given.
TEST = 0.3


def finetune(  # noqa: PLR0913  data, hyper-parameters and how it is run
    encoder: str | Encoder | nn.Module,
    train: Dataset,
    test: Dataset | None = None,
    *,
    learning_rates: Sequence[float] = (3e-4, 1e-3, 3e-3),
    weight_decays: Sequence[float] = (1e-4, 1e-2),
    n_seeds: int = 3,
    epochs: int = 20,
    batch_size: int = 64,
    mode: Literal["full", "last-block", "head"] = "full",
    augment: Literal["none", "shift", "flip"] = "none",
    patience: int | None = 5,
    max_gradient_norm: float | None = None,
    optimiser: Literal["adamw", "sgd"] = "adamw",
    keep: Literal["best", "last"] = "best",
    out: str | Path | None = None,
    part: tuple[int, int] = (1, 1),
    device: str | None = None,
    seed: int = 0,
    executor: Executor | None = None,
    progress: ProgressCallback | None = None,
) -> FineTuningResult:
    """Fine-tune an encoder: what a transferability score is worth is measured against this.

    A linear head on the pooled features is trained together with the encoder (`mode`);
    the learning rate rises over the first tenth of the steps and falls to zero along a cosine. A
    fifth of each class of `train` is held out; on it the best epoch of a run is chosen, and with
    the first seed the best pair of hyper-parameters, which then runs with the other seeds.
    `test` is only measured on.

    Parameters
    ----------
    encoder : str, Encoder or torch.nn.Module
        As `load_encoder` takes it. An object is trained in place and gets its weights back.
    train : Dataset
    test : Dataset, optional
        With the same classes. By default 30 % of each class of `train` is held out, the same for
        every encoder and seed.
    learning_rates, weight_decays : sequence of float
        All pairs are tried.
    n_seeds : int
        Runs of the chosen pair: seeds decide head, order, augmentation and dropout.
    epochs, batch_size : int
    mode : {"full", "last-block", "head"}
        What is trained beside the head: everything, the deepest block and what follows it, nothing.
    augment : {"none", "shift", "flip"}
        Shift images at random by up to an eighth of their side; ``"flip"`` mirrors every second one
        too, which changes the meaning of digits and letters.
    patience : int or None
        End a run after this many epochs without a better one on the held-out fifth.
    max_gradient_norm : float, optional
        Keep the head so small that no sample's loss can have a longer gradient in the features
        than this (τ of task-relatedness); not for regression, whose loss has no such bound.
    optimiser : {"adamw", "sgd"}
        The latter with a momentum of 0.9.
    keep : {"best", "last"}
        Which epoch's weights are kept and measured: the best one on the held-out fifth, or the
        last, with which `patience` does not count.
    out : path, optional
        Folder in which each run keeps its log and its checkpoint, so that the same call goes on
        after a kill; afterwards ``<run>/best.safetensors`` holds the weights of the chosen runs:
        the encoder's, and ``target_head.weight`` and ``.bias``. None: nothing is kept.
    part : (int, int)
        ``(2, 4)``: carry out only every fourth run of the sweep, from the second on, and give back
        what is there so far. Four processes share a sweep so; a last call without `part` adds the
        other seeds and gives the result.
    device : str, optional
        By default a GPU where torch sees one; there encoders compute in bfloat16 where they can.
    seed : int
        The first seed, and that of what is held out.
    executor : Executor, optional
        Workers that carry out the runs, such as `transferscope.RayExecutor`: the same bits where
        they have the same kind of processor and number of threads. They must see `out`.
    progress : callable, optional
        Called as ``progress(text, done, total)``.

    Returns
    -------
    FineTuningResult
        Its `value` is the mean over seeds of accuracy (classification), R² (regression) or mean
        average precision (multi-label) on the test part; `loss` is that of the cross-entropy (mean
        squared error of standardised numbers for regression).

    Raises
    ------
    InputError
        If hyper-parameters are out of range, `train` and `test` have other classes, or `out` holds
        runs of something else.
    EncoderError
        If the encoder cannot be loaded or trained, or every run diverged.
    StoreError
        If `out` cannot be written, or a file in it is damaged.
    WorkerError
        If `executor` has no workers, or several died of one run.

    Notes
    -----
    Cost: (pairs + n_seeds - 1) x epochs x three forward passes over the training part. Prepared
    samples are kept in memory up to 2 GB and decoded anew beyond that.

    On the CPU a run that was killed and repeated ends with the same bits.
    """
    _check(learning_rates, weight_decays, n_seeds, epochs, batch_size, part, max_gradient_norm)
    for name, value, known in (
        ("mode", mode, MODES),
        ("augment", augment, AUGMENTATIONS),
        ("optimiser", optimiser, ("adamw", "sgd")),
        ("keep", keep, ("best", "last")),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    if out is not None:
        refuse_unwritable(Path(out) / "run", elsewhere="choose another out")
    torch = require("torch", extra="vision", purpose="fine-tune")
    from transferscope.training._descent import restored

    started = time.perf_counter()
    if executor is None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        trained = trainable(encoder, device)
    else:
        device = device_of(executor, device)
        trained = trainable(encoder, "cpu")  # here it is looked at, and trained elsewhere
    refuse_other_modality(trained, train)
    parts = _parts(train, test, seed)
    if max_gradient_norm is not None and train.task == "regression":
        raise InputError(
            "the gradient of a squared error has no bound, so max_gradient_norm is for "
            f"classification and multi-label targets; {train.name} holds numbers. Leave it out."
        )
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "mode": mode,
        "augment": augment,
        "patience": None if keep == "last" else patience,
        "max_gradient_norm": max_gradient_norm,
        "optimiser": optimiser,
        "keep": keep,
    }
    pairs = list(itertools.product(learning_rates, weight_decays))
    with restored(trained.module) as initial, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if out is None else Path(out)
        sweep = _Sweep(trained, parts, settings, folder, initial, progress)

        def carry_out(calls: Sequence[Hyper]) -> list[TrainingRun]:
            if executor is None:
                return [sweep.run(*call) for call in calls]
            away = _SweepElsewhere(encoder, sweep.about, parts, settings, out, device)
            return _carry_out_elsewhere(executor, away, trained.identifier, calls, progress)

        first, every = part
        runs = carry_out([(rate, decay, seed) for rate, decay in pairs[first - 1 :: every]])
        finished = [run for run in runs if run.validation is not None]
        if not finished:
            raise EncoderError(
                f"every run of {trained.identifier} on {train.name} diverged (learning rates "
                f"{list(learning_rates)}). Give smaller ones."
            )
        best = max(finished, key=_validation_order)
        chosen = [best]
        if part == (1, 1):
            chosen += carry_out(
                [(best.learning_rate, best.weight_decay, seed + i) for i in range(1, n_seeds)]
            )
            runs += chosen[1:]
            for run in runs:
                if run not in chosen:
                    (folder / run.folder / "best.safetensors").unlink(missing_ok=True)
        measure = sweep.objective.measure
    values = [run.test for run in chosen if run.test is not None]
    losses = [run.test_loss for run in chosen if run.test_loss is not None]
    return FineTuningResult(
        encoder=trained.identifier,
        dataset=train.name,
        measure=measure,
        mode=mode,
        value=float(np.mean(values)),
        loss=float(np.mean(losses)),
        spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        learning_rate=best.learning_rate,
        weight_decay=best.weight_decay,
        runs=tuple(runs),
        n_train=len(parts["train"]),
        n_validation=len(parts["validation"]),
        n_test=len(parts["test"]),
        seconds=time.perf_counter() - started,
    )


def pretrain(  # noqa: PLR0913  data, hyper-parameters and how it is run
    encoder: str | Encoder | nn.Module,
    dataset: Dataset,
    test: Dataset | None = None,
    *,
    out: str | Path,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    epochs: int = 30,
    batch_size: int = 64,
    augment: Literal["none", "shift", "flip"] = "none",
    max_gradient_norm: float | None = None,
    optimiser: Literal["adamw", "sgd"] = "adamw",
    keep: Literal["best", "last"] = "best",
    device: str | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> FineTuningResult:
    """Train an encoder with labels; keep the weights it had before and those it has after.

    Parameters
    ----------
    encoder : str, Encoder or torch.nn.Module
        Usually one with random weights, such as ``mini/resnet-random`` or a timm model made with
        ``pretrained=False``.
    dataset, test : Dataset
        As in `finetune`.
    out : path
        Folder for ``initial.safetensors`` and ``final.safetensors``: the weights before and after
        (θ_r and θ_A of parameter distance), each with its head as ``target_head``, and the log.
        The same call continues a killed run.
    learning_rate, weight_decay : float
    epochs, batch_size : int
    augment : {"none", "shift", "flip"}
    max_gradient_norm : float, optional
    optimiser : {"adamw", "sgd"}
    keep : {"best", "last"}
    device : str, optional
    seed : int
    progress : callable, optional
        All as in `finetune`.

    Returns
    -------
    FineTuningResult

    Raises
    ------
    InputError, EncoderError, StoreError
        As `finetune` does.
    """
    require("torch", extra="vision", purpose="pre-train")
    from transferscope.training._descent import HEAD, bound_head, drawn_head
    from transferscope.training._objective import Objective
    from transferscope.training._saving import load_facts, refuse_other_run, save_tensors

    initial, final = (Path(out) / f"{name}.safetensors" for name in ("initial", "final"))
    refuse_unwritable(initial, elsewhere="choose another out")
    loaded = trainable(encoder, device)
    identity = {
        "encoder": loaded.fingerprint,
        "dataset": dataset.fingerprint,
        "test": None if test is None else test.fingerprint,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "batch_size": batch_size,
        "augment": augment,
        "max_gradient_norm": max_gradient_norm,
        "optimiser": optimiser,
        "keep": keep,
        "seed": seed,
    }
    if initial.exists() or final.exists():
        # a last end without its first one is of somebody else
        found = load_facts(initial).get("identity") if initial.exists() else None
        refuse_other_run(initial if initial.exists() else final, found, identity)
    else:
        objective = Objective(dataset)
        head = drawn_head(loaded.feature_dim, objective.n_outputs, seed)
        bound_head(head, max_gradient_norm, objective.task)
        heads = {HEAD + name: value for name, value in head.state_dict().items()}
        save_tensors(initial, {**loaded.module.state_dict(), **heads}, {"identity": identity})
    result = finetune(
        loaded,
        dataset,
        test,
        learning_rates=(learning_rate,),
        weight_decays=(weight_decay,),
        n_seeds=1,
        epochs=epochs,
        batch_size=batch_size,
        augment=augment,
        patience=None,
        max_gradient_norm=max_gradient_norm,
        optimiser=optimiser,
        keep=keep,
        out=out,
        device=device,
        seed=seed,
        progress=progress,
    )
    best = Path(out) / result.runs[0].folder / "best.safetensors"
    try:
        if best.exists():
            best.replace(final)
        final.stat()
    except OSError as error:
        raise StoreError(
            f"{final} is not there, though its run has ended ({error.strerror}). Delete the folder "
            f"{best.parent} to train again."
        ) from error
    return result


class _Sweep:
    """Runs of one encoder on one data set, each from the same weights."""

    def __init__(
        self,
        encoder: TrainableEncoder,
        parts: dict[str, Dataset],
        settings: dict[str, Any],
        folder: Path,
        initial: dict[str, Any],
        progress: ProgressCallback | None,
    ) -> None:
        from transferscope.training._data import Data
        from transferscope.training._objective import Objective

        self.encoder, self.settings, self.folder = encoder, settings, folder
        self.initial, self.progress = initial, progress
        self.objective = Objective(parts["train"])
        self.data = {name: Data(data, encoder.preprocessing) for name, data in parts.items()}
        # of code of your own what can be seen of it
        fingerprint = encoder.fingerprint or identity(encoder.identifier, encoder.module).digest
        contents = [fingerprint, *(data.fingerprint for data in parts.values())]
        self.about = hashlib.sha256("|".join(contents).encode()).hexdigest()

    def run(self, learning_rate: float, weight_decay: float, seed: int) -> TrainingRun:
        """Carry out one run, or read what came of it."""
        from transferscope.training._descent import Hyperparameters, Run

        chosen = Hyperparameters(learning_rate, weight_decay, seed, **self.settings)
        self.encoder.module.load_state_dict(self.initial)
        run = Run(
            self.encoder,
            self.objective,
            self.data,
            chosen,
            self.folder / chosen.name,
            self.about,
            self.progress,
        )
        return TrainingRun(learning_rate, weight_decay, seed, folder=chosen.name, **run.train())


class _SweepElsewhere:
    """Runs of a sweep in a worker; `about` is what it is of, `folder` where it is kept."""

    def __init__(
        self,
        encoder: str | Encoder | nn.Module,
        about: str,
        parts: dict[str, Dataset],
        settings: dict[str, Any],
        folder: str | Path | None,
        device: str,
    ) -> None:
        self.encoder, self.about, self.parts = encoder, about, parts
        self.settings, self.device = settings, device
        self.folder = None if folder is None else Path(folder).absolute()
        #: what says that a worker sees the folder
        self.mark = None if self.folder is None else mark_in_use(self.folder)
        self._sweep: _Sweep | None = None

    def __call__(self, learning_rate: float, weight_decay: float, seed: int) -> TrainingRun:
        if self._sweep is None:
            self._sweep = self._begin()
        return self._sweep.run(learning_rate, weight_decay, seed)

    def _begin(self) -> _Sweep:
        if self.mark is not None:
            assert self.folder is not None
            refuse_unseen(self.mark, self.folder)
        encoder = trainable(self.encoder, self.device)
        initial = {k: v.detach().clone() for k, v in encoder.module.state_dict().items()}
        folder = self.folder
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory()
            folder = Path(self._temporary.name)
        sweep = _Sweep(encoder, self.parts, self.settings, folder, initial, None)
        if sweep.about != self.about:
            raise InputError(
                f"{encoder.identifier} or the data set is another one for a worker on "
                f"{platform.node()} than for the process that it works for. Give all machines the "
                "same files."
            )
        return sweep


def _carry_out_elsewhere(
    executor: Executor,
    work: _SweepElsewhere,
    name: str,
    calls: Sequence[Hyper],
    progress: ProgressCallback | None,
) -> list[TrainingRun]:
    """The runs of `calls`, in their order."""
    found: dict[Hyper, TrainingRun] = {}
    text = f"fine-tuning {name}: runs"
    try:
        with closing(executor.run(work, {name: deque(calls)})) as outcomes:
            for call, outcome in outcomes:
                if isinstance(outcome, WorkerError):
                    raise outcome
                found[call] = outcome
                if progress is not None:
                    progress(text, len(found), len(calls))
    finally:
        if work.mark is not None:
            work.mark.unlink(missing_ok=True)
    return [found[call] for call in calls]


def refuse_unseen(mark: Path, folder: Path) -> None:
    """Refuse a folder of runs that this worker does not see.

    Parameters
    ----------
    mark : Path
        A file in it that whoever waits for the worker has made.
    folder : Path

    Raises
    ------
    InputError
        With the name of this machine.
    """
    if not mark.exists():
        raise InputError(
            f"a worker on {platform.node()} does not see {folder}, in which runs are kept. Give a "
            "folder for out that all machines see."
        )


def trainable(spec: str | Encoder | nn.Module, device: str | None) -> TrainableEncoder:
    encoder = load_encoder(spec, device=device)
    # not isinstance: on Python 3.11 that evaluates every property
    if not (hasattr(type(encoder), "module") and callable(getattr(encoder, "forward", None))):
        raise EncoderError(
            f"{encoder.identifier} cannot be trained: it has no `module` and no `forward` "
            "(see transferscope.encoders.TrainableEncoder). Encoders loaded by name have both."
        )
    trainable: TrainableEncoder = encoder  # type: ignore[assignment]
    weights = [one for one in trainable.module.named_parameters() if one[1].is_floating_point()]
    if not weights:
        raise EncoderError(f"{encoder.identifier} has no weights, so nothing can be trained.")
    broken = [name for name, values in weights if not values.isfinite().all()]
    if broken:
        raise EncoderError(
            f"{encoder.identifier} has weights that are NaN or infinite ({first_few(broken)}), so "
            "nothing can be trained. Choose another checkpoint."
        )
    return trainable


def _validation_order(run: TrainingRun) -> tuple[float, float]:
    assert run.validation is not None
    assert run.validation_loss is not None
    return run.validation, -run.validation_loss


def _check(
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    n_seeds: int,
    epochs: int,
    batch_size: int,
    part: tuple[int, int],
    max_gradient_norm: float | None,
) -> None:
    if not learning_rates or not all(0 < rate < math.inf for rate in learning_rates):
        raise InputError(f"learning rates must be positive, got {list(learning_rates)}.")
    if not weight_decays or not all(0 <= decay < math.inf for decay in weight_decays):
        raise InputError(f"weight decays must be zero or more, got {list(weight_decays)}.")
    if min(n_seeds, epochs, batch_size) < 1:
        raise InputError(
            f"n_seeds, epochs and batch_size must be at least 1, got {n_seeds}, {epochs} and "
            f"{batch_size}."
        )
    if not 1 <= part[0] <= part[1] <= len(learning_rates) * len(weight_decays):
        raise InputError(
            f"part must be (i, k) with i from 1 to k, and k at most the number of pairs "
            f"({len(learning_rates) * len(weight_decays)}); got {part}."
        )
    if max_gradient_norm is not None and not 0 < max_gradient_norm < math.inf:
        raise InputError(f"max_gradient_norm must be positive, got {max_gradient_norm}.")


def _parts(train: Dataset, test: Dataset | None, seed: int) -> dict[str, Dataset]:
    """The data set in three: to train on, to choose on, to measure on."""
    if test is None:
        # always by seed 0: every run is measured on the same samples
        train, test = hold_out(train, TEST, 0)
    else:
        refuse_other_classes(train, test)
    kept, validation = hold_out(train, VALIDATION, seed)
    return {"train": kept, "validation": validation, "test": test}


def refuse_other_classes(train: Dataset, test: Dataset) -> None:
    """Refuse a test part whose class ids do not mean those of the training part.

    Parameters
    ----------
    train, test : Dataset

    Raises
    ------
    InputError
        With the numbers of classes of both.
    """
    if (train.task, train.class_names) != (test.task, test.class_names):
        raise InputError(
            f"train and test must have the same classes; {train.name} ({train.split}) has "
            f"{train.n_classes}, {test.name} ({test.split}) has {test.n_classes}, or their names "
            "differ. Give parts with the same classes, or leave test out."
        )


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a data set in two at random, each class by the same share.

    Parameters
    ----------
    dataset : Dataset
    share : float
        What goes into the second part. Every class leaves at least one sample in the first.
    seed : int

    Returns
    -------
    (Dataset, Dataset)

    Raises
    ------
    InputError
        If nothing is left for the second part.
    """
    n = len(dataset)
    task, labels = dataset.require_labels()
    classes = labels if task == "classification" else np.zeros(n, dtype=np.int64)
    order = np.random.default_rng([seed, 1]).permutation(n)
    rows, place, size = by_class(classes, order)
    chosen = np.zeros(n, dtype=bool)
    chosen[rows[place < np.minimum(np.rint(share * size), size - 1)]] = True
    if not chosen.any():
        raise InputError(
            f"{dataset.name} has {n} samples in {dataset.n_classes} classes: too few to hold some "
            "out. Give more samples, or a test part of its own."
        )
    return dataset.subset(~chosen), dataset.subset(chosen)
