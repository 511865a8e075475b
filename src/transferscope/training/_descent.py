"""One run of gradient descent: epochs, validation, checkpoints, and going on after a kill.

Everything random in an epoch comes from (seed, epoch), so that a run that was killed and repeated
sees the same batches, shifts and dropout masks, and ends with the same weights.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from transferscope.encoders import TrainableEncoder, named_failures
from transferscope.errors import EncoderError
from transferscope.numerics.targets import TaskType
from transferscope.progress import ProgressCallback
from transferscope.results import TrainingRun
from transferscope.storage.atomic import remove_stale_files
from transferscope.training._data import Data, augmented
from transferscope.training._objective import Objective
from transferscope.training._saving import (
    load_facts,
    load_tensors,
    reading,
    refuse_other_run,
    save_tensors,
    write_text,
)

NumpyArray = npt.NDArray[Any]
FineTuningMode = Literal["full", "last-block", "head"]
Augmentation = Literal["none", "shift", "flip"]
Optimiser = Literal["adamw", "sgd"]
Kept = Literal["best", "last"]

#: Share of all steps over which the learning rate rises, before it falls along a cosine.
WARM_UP = 0.1
#: Gradients longer than this are shortened to it.
LONGEST_GRADIENT = 5.0
#: Of stochastic gradient descent.
MOMENTUM = 0.9
HEAD = "target_head."
#: What a `TrainingRun` says besides the outcome.
OF_THE_PLAN = {"learning_rate", "weight_decay", "seed", "folder"}
#: What is kept of each epoch: the columns of log.csv.
_HISTORY = (
    *("epoch", "learning_rate", "train_loss"),
    *("validation_loss", "validation", "gradient_norm", "seconds"),
)


@dataclass(frozen=True)
class Hyperparameters:
    """What decides how a run ends."""

    learning_rate: float
    weight_decay: float
    seed: int
    epochs: int
    batch_size: int
    mode: FineTuningMode
    augment: Augmentation
    patience: int | None
    max_gradient_norm: float | None
    optimiser: Optimiser = "adamw"
    keep: Kept = "best"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"lr{self.learning_rate:g}-wd{self.weight_decay:g}-seed{self.seed}"


@dataclass
class Advance:
    """How far a run has come: epochs, those that were there before, and the one that is kept.

    `validation`, its loss and the scores of each sample are None if the run diverged.
    """

    n_epochs: int
    n_resumed: int
    history: list[dict[str, float]]
    validation: float | None
    validation_loss: float | None
    scores: NumpyArray | None


class _OutOfTimeError(Exception):
    """No further batch may be taken."""


@dataclass
class Run:
    """One run with given hyper-parameters; `train` returns its result.

    Parameters
    ----------
    encoder : TrainableEncoder
        Its module holds the weights to start from, and those that are kept afterwards.
    parts : dict of str to Data
        ``train``, ``validation``, ``test``.
    about : str
        What else decides the result; a folder with another one is refused.
    """

    encoder: TrainableEncoder
    objective: Objective
    parts: dict[str, Data]
    hyperparameters: Hyperparameters
    folder: Path
    about: str
    progress: ProgressCallback | None = None

    def __post_init__(self) -> None:
        self._identity = {"about": self.about, "plan": asdict(self.hyperparameters)}
        self._best, self._last = (self.folder / f"{n}.safetensors" for n in ("best", "last"))

    def train(self) -> dict[str, Any]:
        """Run the epochs that are missing, then measure the one that is kept on the test part."""
        finished = self.folder / "run.json"
        if finished.exists():
            with reading(finished):
                record = json.loads(finished.read_text(encoding="utf-8"))
                refuse_other_run(finished, record["identity"], self._identity)
                return _outcome(record["result"])
        with self._threads():
            history, targets = self._train(self.hyperparameters.epochs)
            result = self._result(history, targets)
        record = {"identity": self._identity, "result": result}
        write_text(finished, json.dumps(record, indent=2))
        self._last.unlink(missing_ok=True)
        remove_stale_files(self.folder)
        return result

    def advance(self, until: int, may_take: Callable[[float], bool] = lambda _: True) -> Advance:
        """Run the epochs that are missing up to `until`, on the schedule of the whole run.

        What a run that is not at its end leaves is taken up by the next call. `may_take` is asked
        before an epoch whether its seconds, and before a batch whether none, may still be taken;
        an epoch that was not finished counts for nothing.
        """
        with self._threads():
            history, targets = self._train(until, may_take)
            if not history:
                return Advance(0, 0, [], None, None, None)
            best = self._kept(history)
            found = Advance(len(history), self._n_resumed, history, None, None, None)
            if math.isfinite(best["validation"]):
                self.load_best()
                outputs, _ = self._outputs("validation", targets["validation"])
                scores = self.objective.scores(outputs, targets["validation"].cpu())
                found.validation, found.validation_loss = (
                    best["validation"],
                    best["validation_loss"],
                )
                found.scores = scores.numpy()
            return found

    def measure(self) -> NumpyArray:
        """Scores of the test samples under the best weights so far, which the module then holds."""
        with self._threads():
            _, targets = self._train(0)
            self.load_best()
            outputs, _ = self._outputs("test", targets["test"])
            return self.objective.scores(outputs, targets["test"].cpu()).numpy()

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Threads that prepare samples; refuses the folder of another run first."""
        if self._best.exists() and not self._last.exists():
            # of this run, killed in its first epoch, or of somebody else
            refuse_other_run(self._best, load_facts(self._best).get("identity"), self._identity)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "decode") as self._pool:
            yield

    def _train(
        self, until: int, may_take: Callable[[float], bool] = lambda _: True
    ) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        """The history up to epoch `until`, or to where it ended, and the targets of each part."""
        hyper, module = self.hyperparameters, self.encoder.module
        with self._named_failures():
            width = self.encoder.feature_dim
        device = next(module.parameters()).device
        self._head = drawn_head(width, self.objective.n_outputs, hyper.seed).to(device)
        bound_head(self._head, hyper.max_gradient_norm, self.objective.task)
        trained = self._choose_parameters()
        tensors = [*trained.values(), *self._head.parameters()]
        names = [*trained, *(HEAD + name for name, _ in self._head.named_parameters())]
        rate, decay = hyper.learning_rate, hyper.weight_decay
        optimiser: torch.optim.Optimizer
        if hyper.optimiser == "sgd":
            optimiser = torch.optim.SGD(tensors, rate, momentum=MOMENTUM, weight_decay=decay)
        else:
            optimiser = torch.optim.AdamW(tensors, rate, betas=(0.9, 0.999), weight_decay=decay)
        targets = {
            name: self.objective.targets(p.dataset).to(device) for name, p in self.parts.items()
        }
        n = len(self.parts["train"].dataset)
        per_epoch = math.ceil(n / hyper.batch_size)
        total = per_epoch * hyper.epochs
        history: list[dict[str, float]] = self._resume(names, tensors, optimiser)
        self._n_resumed = len(history)
        for epoch in range(len(history), until):
            if self._out_of_patience(history) or self._has_diverged(history):
                break
            if not may_take(history[-1]["seconds"] if history else 0.0):
                break
            start = time.perf_counter()
            if self.progress is not None:
                self.progress(f"{self.encoder.identifier}, {hyper.name}", epoch, hyper.epochs)
            try:
                loss = self._epoch(
                    epoch, per_epoch, total, optimiser, tensors, targets["train"], may_take
                )
            except _OutOfTimeError:
                break
            outputs, norms = self._outputs("validation", targets["validation"])
            value = self.objective.value(outputs, targets["validation"].cpu())
            held_out = float(self.objective.loss(outputs, targets["validation"].cpu()))
            if not (math.isfinite(loss) and math.isfinite(held_out)):
                value, held_out = -math.inf, math.inf
            rate, seconds = optimiser.param_groups[0]["lr"], time.perf_counter() - start
            found = (epoch + 1, rate, loss, held_out, value, norms, seconds)
            history.append(dict(zip(_HISTORY, found, strict=True)))
            if self._kept(history) is history[-1]:
                save_tensors(self._best, self._weights(), {"identity": self._identity})
            self._save_last(names, tensors, optimiser, history)
            self._log(history)
        return history, targets

    def _kept(self, history: list[dict[str, float]]) -> dict[str, float]:
        """The epoch whose weights are kept: the best one on the held-out part, or the last."""
        is_last = self.hyperparameters.keep == "last"
        return history[-1] if is_last else max(history, key=validation_order)

    def _has_diverged(self, history: list[dict[str, float]]) -> bool:
        """Whether the last epoch ended in numbers that are none: a run does not come back."""
        return bool(history) and history[-1]["validation"] == -math.inf

    def _result(
        self, history: list[dict[str, float]], targets: dict[str, Tensor]
    ) -> dict[str, Any]:
        best = self._kept(history)
        diverged = not math.isfinite(best["validation"])
        result: dict[str, Any] = {
            "epoch": best["epoch"],
            "n_epochs": len(history),
            "validation": None if diverged else best["validation"],
            "validation_loss": None if diverged else best["validation_loss"],
            "test": None,
            "test_loss": None,
            "gradient_norm": None,
            "seconds": sum(row["seconds"] for row in history),
        }
        if not diverged:
            self.load_best()
            outputs, norms = self._outputs("test", targets["test"])
            result["test"] = self.objective.value(outputs, targets["test"].cpu())
            result["test_loss"] = float(self.objective.loss(outputs, targets["test"].cpu()))
            result["gradient_norm"] = norms
        return result

    def _named_failures(self) -> AbstractContextManager[None]:
        """What the encoder's own code raises inside names the encoder."""
        return named_failures(
            self.encoder.identifier, "cannot be trained", "Choose one that can, or another device."
        )

    # -- one epoch ------------------------------------------------------------------------------

    def _choose_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that the mode trains, by name; sets gradients on them and on no others."""
        module, mode = self.encoder.module, self.hyperparameters.mode
        module.requires_grad_(requires_grad=False)
        module.eval()
        self._training: list[nn.Module] = []
        if mode == "head":
            return {}
        chosen = dict(module.named_parameters())
        if mode == "last-block":
            block = self.encoder.last_block
            if block is None:
                raise EncoderError(
                    f"{self.encoder.identifier} has no named blocks, so its last one is not known. "
                    "Use mode='head' or mode='full'."
                )
            # parameters are registered in order of depth: the block and what follows it
            names = list(chosen)
            inside = (i for i, name in enumerate(names) if name.startswith(f"{block}."))
            first = next(inside, None)
            if first is None:
                raise EncoderError(
                    f"the last block of {self.encoder.identifier}, {block}, holds no weights. "
                    "Use mode='head' or mode='full'."
                )
            chosen = {name: chosen[name] for name in names[first:]}
        for parameter in chosen.values():
            parameter.requires_grad_(parameter.is_floating_point())
        held = {id(p) for p in module.parameters() if not p.requires_grad}
        # what holds frozen weights stays in eval mode: its running statistics are frozen too
        self._training = [
            part for part in module.modules() if not any(id(p) in held for p in part.parameters())
        ]
        return chosen

    def _epoch(
        self,
        epoch: int,
        per_epoch: int,
        total: int,
        optimiser: torch.optim.Optimizer,
        tensors: list[nn.Parameter],
        targets: Tensor,
        may_take: Callable[[float], bool],
    ) -> float:
        hyper, data = self.hyperparameters, self.parts["train"]
        rng = np.random.default_rng([hyper.seed, epoch])
        order = rng.permutation(len(targets))
        for part in self._training:
            part.training = True
        losses = []
        with torch.random.fork_rng(devices=_cuda_devices(targets)), self._named_failures():
            torch.manual_seed(int(rng.integers(2**62)))
            for step, rows in enumerate(np.array_split(order, per_epoch)):
                if not may_take(0.0):
                    raise _OutOfTimeError
                rate = hyper.learning_rate * _schedule((epoch * per_epoch + step) / total)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                batch = data.batch(rows.tolist(), self._pool)
                if hyper.augment != "none":
                    batch = augmented(batch, rng, mirror=hyper.augment == "flip")
                given = targets[torch.from_numpy(rows).to(targets.device)]
                outputs = self._head(self._features(batch))
                loss = self.objective.loss(outputs, given)
                losses.append(float(loss.detach()) * len(rows))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(tensors, LONGEST_GRADIENT)
                optimiser.step()
                bound_head(self._head, hyper.max_gradient_norm, self.objective.task)
        self.encoder.module.eval()
        return sum(losses) / len(targets)

    def _features(self, batch: Any) -> Tensor:
        if self.hyperparameters.mode == "head":
            with torch.no_grad():
                return self.encoder.forward(batch)
        return self.encoder.forward(batch)

    def _outputs(self, part: str, targets: Tensor) -> tuple[Tensor, float]:
        """Outputs of the head for all samples of a part, and the largest gradient norm."""
        data, outputs, largest = self.parts[part], [], 0.0
        size = 2 * self.hyperparameters.batch_size
        with torch.no_grad(), self._named_failures():
            for at in range(0, len(targets), size):
                rows = range(at, min(at + size, len(targets)))
                found = self._head(self.encoder.forward(data.batch(rows, self._pool)))
                norms = self.objective.gradient_norms(found, targets[at : at + size], self._head)
                largest = max(largest, float(norms.max()))
                outputs.append(found.float().cpu())
        return torch.cat(outputs), largest

    def _out_of_patience(self, history: list[dict[str, float]]) -> bool:
        if self.hyperparameters.patience is None or not history:
            return False
        best = max(range(len(history)), key=lambda i: validation_order(history[i]))
        return len(history) - 1 - best >= self.hyperparameters.patience

    # -- what is kept ---------------------------------------------------------------------------

    def _weights(self) -> dict[str, Tensor]:
        state = {**self.encoder.module.state_dict()}
        state |= {HEAD + name: value for name, value in self._head.state_dict().items()}
        return {name: value.detach() for name, value in state.items()}

    def load_best(self) -> None:
        """Put the weights of the epoch that is kept into the encoder's module and the head."""
        with reading(self._best):
            weights, about = load_tensors(self._best)
            if "identity" in about:  # as earlier versions did not write
                refuse_other_run(self._best, about["identity"], self._identity)
            self._load(weights)

    def _load(self, state: dict[str, Tensor]) -> None:
        head = {k.removeprefix(HEAD): v for k, v in state.items() if k.startswith(HEAD)}
        self._head.load_state_dict(head)
        self.encoder.module.load_state_dict(
            {k: v for k, v in state.items() if not k.startswith(HEAD)}
        )

    def _save_last(
        self,
        names: list[str],
        tensors: list[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        history: list[dict[str, float]],
    ) -> None:
        """Weights, the optimiser's moments and the history: one file, as they belong together."""
        kept = {f"weights|{name}": value for name, value in self._weights().items()}
        for name, tensor in zip(names, tensors, strict=True):
            for key, value in optimiser.state.get(tensor, {}).items():
                kept[f"optimiser|{name}|{key}"] = value
        save_tensors(self._last, kept, {"identity": self._identity, "history": history})

    def _resume(
        self,
        names: list[str],
        tensors: list[nn.Parameter],
        optimiser: torch.optim.Optimizer,
    ) -> list[dict[str, float]]:
        """Take up where a killed run stopped; an empty history where there is nothing."""
        if not (self._last.exists() and self._best.exists()):
            return []
        with reading(self._last):
            kept, about = load_tensors(self._last)
            refuse_other_run(self._last, about.get("identity"), self._identity)
            prefix = "weights|"
            self._load({k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)})
            for name, tensor in zip(names, tensors, strict=True):
                prefix = f"optimiser|{name}|"
                state = {k.removeprefix(prefix): v for k, v in kept.items() if k.startswith(prefix)}
                if state:
                    optimiser.state[tensor] = {
                        key: value if key == "step" else value.to(tensor.device)
                        for key, value in state.items()
                    }
            return [{key: row[key] for key in _HISTORY} for row in cast("Any", about["history"])]

    def _log(self, history: list[dict[str, float]]) -> None:
        lines = [",".join(history[0])]
        lines += [",".join(f"{value:.6g}" for value in row.values()) for row in history]
        write_text(self.folder / "log.csv", "\n".join(lines) + "\n")


def _outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What `Run.train` gave, read back."""
    known = {one.name for one in fields(TrainingRun)} - OF_THE_PLAN
    if result.keys() != known or not all(
        isinstance(value, int | float | None) for value in result.values()
    ):
        raise ValueError(f"its result must have {', '.join(sorted(known))}, all numbers")
    return result


def drawn_head(width: int, n_outputs: int, seed: int) -> nn.Linear:
    """The head that a run with this seed begins with, before it is bounded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(width, n_outputs)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def bound_head(head: nn.Linear, limit: float | None, task: TaskType) -> None:
    """Scale a head so that no sample's loss has a longer gradient than `limit`.

    The gradient of a cross-entropy is a mean of differences between the weights of two classes, so
    it is never longer than the longest of these; that of k binary ones is no longer than the
    spectral norm of the weights over sqrt(k).
    """
    if limit is None:
        return
    if task == "classification":
        longest = torch.pdist(head.weight).max()
    else:
        longest = torch.linalg.matrix_norm(head.weight, 2) / len(head.weight) ** 0.5
    head.weight.mul_((limit / longest).clamp(max=1.0))


def validation_order(row: Mapping[str, float]) -> tuple[float, float]:
    """What epochs and runs are compared by: the measure, then the loss, both on validation."""
    return row["validation"], -row["validation_loss"]


def _schedule(progress: float) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine down to zero."""
    if progress < WARM_UP:
        return (progress + 1e-2) / (WARM_UP + 1e-2)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def _cuda_devices(tensor: Tensor) -> list[torch.device]:
    return [tensor.device] if tensor.device.type == "cuda" else []


@contextmanager
def restored(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The module's weights, gradients and modes come back afterwards; gives its weights."""
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield state
    finally:
        module.load_state_dict(state)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None
        for part, training in modes:
            part.training = training
