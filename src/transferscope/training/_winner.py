"""What a selection begins with and what it leaves: candidates, and the fine-tuned winner."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transferscope.datasets import Dataset
from transferscope.encoders import Encoder, TrainableEncoder
from transferscope.errors import InputError, StoreError, require
from transferscope.results import Selection
from transferscope.training._fine_tuning import trainable
from transferscope.training._selector import JOURNAL

if TYPE_CHECKING:
    from torch import nn


#: An encoder that is best with this probability is in question.
IN_QUESTION = 0.05


def read_candidates(
    path: str | Path,
) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """Read candidates, and what is expected of them, from the JSON of a ranking.

    Parameters
    ----------
    path : path
        What ``rank --format json`` wrote. Of each row of ``encoders`` are read ``encoder``;
        ``error``, which leaves it out; ``in_group`` and ``p_best``, whether it may be the best;
        ``expected``, an object with ``mean`` and ``sd`` of its accuracy after fine-tuning, as
        shares.

    Returns
    -------
    (list of str, dict of str to (float, float))
        The encoders of the group, and those that are best with a probability of 5 %; where no row
        says which are in it, all that were ranked. What is expected of those of which something
        is. Both are as `select` takes them.

    Raises
    ------
    InputError
        If the file cannot be read, or is no such JSON.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["encoders"]
        ranked = [row for row in rows if row.get("error") is None]
        open_ = [r for r in ranked if r.get("in_group") or (r.get("p_best") or 0) >= IN_QUESTION]
        chosen = open_ if any(row.get("in_group") for row in ranked) else ranked
        names = [str(row["encoder"]) for row in chosen]
        beliefs = {str(row["encoder"]): row.get("expected") for row in chosen}
        expected = {
            name: (float(one["mean"]), float(one["sd"]))
            for name, one in beliefs.items()
            if one is not None
        }
    except OSError as error:
        raise InputError(
            f"ranking {path} cannot be read: {error.strerror}. Name a file that "
            "`rank --format json --out` wrote."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is no JSON of a ranking ({type(error).__name__}: {error}). Name a file that "
            "`rank --format json --out` wrote."
        ) from error
    if not names:
        raise InputError(f"no encoder of {path} was ranked. Name the candidates instead.")
    return names, expected


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned encoder with its head.

    Attributes
    ----------
    encoder : TrainableEncoder
        With the fine-tuned weights.
    weight, bias : ndarray
        Of the head, a row of `weight` per class or target.
    class_names : tuple of str
        Empty for regression.
    """

    encoder: TrainableEncoder
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    class_names: tuple[str, ...]

    def outputs(self, dataset: Dataset, *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """What the head gives for each sample.

        Parameters
        ----------
        dataset : Dataset
            Labels are not looked at.
        batch_size : int

        Returns
        -------
        ndarray, shape (n, classes or targets)
            Logits, or the numbers predicted.

        Raises
        ------
        EncoderError
            If samples are of another kind than the encoder takes.
        """
        from transferscope.encoders import refuse_other_modality

        refuse_other_modality(self.encoder, dataset)
        preparation, found = self.encoder.preprocessing, []
        for at in range(0, len(dataset), batch_size):
            rows = range(at, min(at + batch_size, len(dataset)))
            batch = preparation.collate([preparation.prepare(dataset[row]) for row in rows])
            features = self.encoder.embed(batch).features["pooled"].cpu().numpy()
            found.append(features @ self.weight.T + self.bias)
        return np.concatenate(found)

    def predict(self, dataset: Dataset) -> npt.NDArray[Any]:
        """Predict the class or the number of each sample.

        Parameters
        ----------
        dataset : Dataset

        Returns
        -------
        ndarray
            (n,) names of classes; for regression (n, targets) numbers.

        Raises
        ------
        EncoderError
            If samples are of another kind than the encoder takes.
        """
        outputs = self.outputs(dataset)
        if not self.class_names:
            return outputs
        names: npt.NDArray[Any] = np.array(self.class_names)[outputs.argmax(axis=1)]
        return names

    def score(self, dataset: Dataset) -> float:
        """Measure accuracy, or for regression R² (mean over targets).

        Parameters
        ----------
        dataset : Dataset
            With labels, and the same classes.

        Returns
        -------
        float

        Raises
        ------
        InputError
            If its classes are other ones.
        EncoderError
            If samples are of another kind than the encoder takes.
        """
        _, labels = dataset.require_labels()
        if dataset.class_names != self.class_names:
            raise InputError(
                f"{dataset.name} must have the classes that the encoder was fine-tuned for, "
                f"{len(self.class_names)}; it has {dataset.n_classes}, or their names differ. "
                "Open data with these classes."
            )
        if self.class_names:
            return float((np.array(self.class_names)[labels] == self.predict(dataset)).mean())
        targets = labels.reshape(len(dataset), -1)
        residual = ((self.outputs(dataset) - targets) ** 2).sum(axis=0)
        return float((1 - residual / ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)).mean())


def load_winner(
    out: str | Path,
    *,
    encoder: Encoder | nn.Module | None = None,
    device: str | None = None,
) -> FineTuned:
    """Load the fine-tuned winner of a selection.

    Parameters
    ----------
    out : path
        The folder that `select` was given.
    encoder : Encoder or torch.nn.Module, optional
        The winner before it was fine-tuned, where it has no name that `load_encoder` knows; its
        weights are replaced.
    device : str, optional

    Returns
    -------
    FineTuned

    Raises
    ------
    InputError
        If the selection has not ended.
    EncoderError
        If the winner cannot be loaded.
    StoreError
        If a file of `out` is not there, or damaged.
    """
    torch = require("torch", extra="vision", purpose="load a fine-tuned encoder")
    from transferscope.training._descent import HEAD
    from transferscope.training._saving import load_tensors, reading

    path = Path(out) / JOURNAL
    with reading(path):
        ended = json.loads(path.read_text(encoding="utf-8"))["ended"]
        found = ended and Selection.from_json(json.dumps(ended["selection"]))
        scale = ended and ended["scale"]
    if not found or found.winner is None:
        raise InputError(f"the selection in {out} has not ended. Go on with the same call first.")
    # the folder may have been moved since
    (trial,) = {
        one.folder
        for one in found.trials
        if found.weights is not None and Path(found.weights).parent.parts[-2:] == _place(one.folder)
    }
    weights = Path(out) / trial / "best.safetensors"
    if not weights.exists():
        raise StoreError(f"{weights} is not there. Call select again, and it is trained anew.")
    loaded = trainable(encoder if encoder is not None else found.winner, device)
    tensors, _ = load_tensors(weights)
    with reading(weights):
        head = {k.removeprefix(HEAD): v for k, v in tensors.items() if k.startswith(HEAD)}
        weight, bias = head["weight"].float().numpy(), head["bias"].float().numpy()
        with torch.no_grad():
            loaded.module.load_state_dict(
                {k: v for k, v in tensors.items() if not k.startswith(HEAD)}
            )
        if scale is not None:
            mean, spread = np.array(scale, dtype=np.float32)
            weight, bias = weight * spread[:, None], bias * spread + mean
    return FineTuned(loaded, weight, bias, found.class_names)


def _place(folder: str) -> tuple[str, ...]:
    return Path(folder).parts[-2:]
