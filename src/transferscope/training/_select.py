"""Which of several encoders is best after fine-tuning: successive halving over epochs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transferscope.datasets import Dataset
from transferscope.encoders import Encoder, encoder_name, expand_encoders
from transferscope.errors import InputError, first_few, require
from transferscope.executor import Executor, device_of
from transferscope.progress import ProgressCallback
from transferscope.results import Selection
from transferscope.storage.atomic import refuse_unwritable
from transferscope.training._fine_tuning import (
    AUGMENTATIONS,
    MODES,
    TEST,
    hold_out,
    refuse_other_classes,
)
from transferscope.training._selector import JOURNAL, Selector
from transferscope.training._trials import Settings, Trials

if TYPE_CHECKING:
    from torch import nn


def select(  # noqa: PLR0913  data, hyper-parameters and how it is run
    dataset: Dataset,
    encoders: str | Encoder | nn.Module | Sequence[str | Encoder | nn.Module],
    *,
    out: str | Path,
    test: Dataset | None = None,
    expected: Mapping[str, tuple[float, float]] | None = None,
    budget: float | None = None,
    tolerance: float = 0.005,
    learning_rates: Sequence[float] = (3e-4, 1e-3, 3e-3),
    weight_decay: float = 1e-2,
    epochs: int = 20,
    n_seeds: int = 3,
    batch_size: int = 64,
    mode: Literal["full", "last-block", "head"] = "full",
    augment: Literal["none", "shift", "flip"] = "none",
    device: str | None = None,
    seed: int = 0,
    report: Callable[[Selection], None] | None = None,
    progress: ProgressCallback | None = None,
    executor: Executor | None = None,
) -> Selection:
    """Fine-tune candidates until one is known to be good enough, and keep it.

    All begin with a quarter of the epochs; the better half goes on to half of them, and the better
    half of these to the end. While it is not settled which one is best, the leader and those that
    are it with a probability of 0.1 are trained with further seeds, which hold out other samples.
    It stops when the leader is expected to lose less than `tolerance` against the best candidate,
    when nothing of that is left to try, or at the budget.

    Parameters
    ----------
    dataset : Dataset
        With classes, or numbers as targets.
    encoders : str, Encoder, torch.nn.Module, or sequence of these
        The candidates, as `rank` takes them.
    out : path
        Folder for all runs and ``selection.json``. The same call goes on after a kill or, with
        another budget, after its end; afterwards ``<encoder>/<run>/best.safetensors`` holds the
        winner's weights, and `load_winner` loads them.
    test : Dataset, optional
        With the same classes. By default 30 % of each class of `dataset` is held out. Only the
        winner is measured on it, once.
    expected : mapping of str to (float, float), optional
        Mean and standard deviation of the accuracy that is expected of a candidate after
        fine-tuning, as shares. Of candidates that are not in it nothing is expected.
    budget : float, optional
        Seconds of all trials, those of earlier calls included. What the leader needs to its end is
        kept back.
    tolerance : float
        Accuracy (a share; R² for regression) that does not matter.
    learning_rates : sequence of float
        The first candidate tries all of them for a quarter of the epochs. The others begin with the
        best one, and those that reach half of the epochs try one more.
    weight_decay : float
    epochs : int
        Of a whole run.
    n_seeds : int
        Most runs of one candidate to the end.
    batch_size : int
    mode : {"full", "last-block", "head"}
    augment : {"none", "shift", "flip"}
    device : str, optional
    seed : int
        The first seed, and that of what is held out. All of these as in `finetune`.
    report : callable, optional
        Called after each trial with the `Selection` so far.
    progress : callable, optional
        Called as ``progress(text, done, total)``.
    executor : Executor, optional
        Trials run on its workers, which must see the folder `out` (`RayExecutor`). Those of a rung
        run at once, and workers that would have nothing to do begin what is probably wanted next.

    Returns
    -------
    Selection
        A candidate that cannot be loaded or trained stands in it with the reason.

    Raises
    ------
    InputError
        If an option is out of range, the targets are several labels per sample, the budget ended
        before the first epoch did, or `out` holds another selection, or is not seen by a worker.
    EncoderError
        If no candidate could be trained.
    StoreError
        If `out` cannot be written, or a file in it is damaged.
    WorkerError
        If `executor` has no workers.

    See Also
    --------
    load_winner : Load what it left.

    Notes
    -----
    A run that is paused goes on along the schedule of the whole run, a cosine to its planned end,
    so nothing is trained twice and the winner has the weights that `finetune` would give it. Runs
    that anneal at every rung before they go on were tried, too: neither did they foretell the end
    better, nor end better (benchmarks/results/selection.md).

    What is believed is a Gaussian over the candidates' accuracies: the prior, and per run the
    scores of held-out samples as a noisy observation. Its noise is that of few samples (candidates
    are compared on the same ones), what a run at a part of its epochs leaves open, which is learned
    from runs that got further, and what seeds change. R² is a mean over samples like an accuracy;
    mean average precision is not, so several labels per sample are refused.

    Without a budget the same call gives the same selection, killed or not, and on the CPU the same
    bits. With one, what is tried depends on the clock; it is kept to an epoch's end, at worst.
    Workers give what one process of as many threads as each of them would give: what was begun
    ahead and not wanted is dropped, and counts for nothing.
    """
    begin = time.perf_counter()
    settings = Settings(
        learning_rates=tuple(sorted(learning_rates)),
        weight_decay=weight_decay,
        epochs=epochs,
        n_seeds=n_seeds,
        batch_size=batch_size,
        mode=mode,
        augment=augment,
        tolerance=tolerance,
        seed=seed,
    )
    specs = {encoder_name(one): one for one in expand_encoders(encoders)}
    _check(settings, budget, expected, list(specs))
    refuse_unwritable(Path(out) / JOURNAL, elsewhere="choose another out")
    torch = require("torch", extra="vision", purpose="fine-tune")
    task, _ = dataset.require_labels()
    if task == "multilabel":
        raise InputError(
            f"{dataset.name} has several labels per sample; its measure, mean average precision, "
            "is no mean over samples, so its noise is not known. Use `finetune` for each encoder."
        )
    if test is None:
        dataset, test = hold_out(dataset, TEST, 0)
    else:
        refuse_other_classes(dataset, test)
    if executor is not None:
        device = device_of(executor, device)
    elif device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    trials = Trials(specs, settings, dataset, test, Path(out), device, progress)
    selector = Selector(trials, executor, expected or {}, budget, report, progress)
    selector.spent = time.perf_counter() - begin
    return selector.run()


def _check(
    settings: Settings,
    budget: float | None,
    expected: Mapping[str, tuple[float, float]] | None,
    names: Sequence[str],
) -> None:
    rates, decay = settings.learning_rates, settings.weight_decay
    if not rates or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
        raise InputError(f"learning rates must be positive and different, got {list(rates)}.")
    if not 0 <= decay < math.inf:
        raise InputError(f"weight_decay must be zero or more, got {decay}.")
    if min(settings.epochs, settings.n_seeds, settings.batch_size) < 1:
        raise InputError(
            f"epochs, n_seeds and batch_size must be at least 1, got {settings.epochs}, "
            f"{settings.n_seeds} and {settings.batch_size}."
        )
    if not 0 < settings.tolerance < 1:
        raise InputError(
            "tolerance must be a share of the test samples between 0 and 1, got "
            f"{settings.tolerance}. Half a point of accuracy is 0.005."
        )
    if budget is not None and not 0 < budget < math.inf:
        raise InputError(f"budget must be a number of seconds above 0, got {budget}.")
    for name, value, known in (
        ("mode", settings.mode, MODES),
        ("augment", settings.augment, AUGMENTATIONS),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    for name, belief in (expected or {}).items():
        if name not in names:
            raise InputError(
                f"expected is about {name}, which is no candidate ({first_few(names)}). Leave it "
                "out, or write the name as the candidate's."
            )
        if len(belief) != 2 or not math.isfinite(belief[0]) or not 0 < belief[1] < math.inf:
            raise InputError(
                f"expected of {name} must be (mean, sd) of an accuracy as shares, sd above 0; got "
                f"{belief}."
            )
