"""What training reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferscope.results._record import Record, frame_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainingRun:
    """One run of gradient descent.

    Attributes
    ----------
    learning_rate, weight_decay : float
    seed : int
    folder : str
        Name of its folder.
    epoch, n_epochs : int
        The best epoch, from 1, and how many there were.
    validation, test : float or None
        The measure at the best epoch; None if the run diverged.
    validation_loss : float or None
    gradient_norm : float or None
        Largest gradient of a test sample's loss in its features.
    seconds : float
    """

    learning_rate: float
    weight_decay: float
    seed: int
    folder: str
    epoch: int
    n_epochs: int
    validation: float | None
    validation_loss: float | None
    test: float | None
    gradient_norm: float | None
    seconds: float


@dataclass(frozen=True, repr=False)
class FineTuningResult(Record):
    """What fine-tuning one encoder on one data set came to.

    Attributes
    ----------
    encoder, dataset : str
    measure : {"accuracy", "r2", "mean_average_precision"}
    mode : {"full", "last-block", "head"}
    value : float
        Mean of the measure over the seeds of the chosen hyper-parameters, on the test part. A seed
        that diverged does not count; it stands in `runs` without a test value.
    spread : float or None
        Standard deviation over the seeds; None for a single one.
    learning_rate, weight_decay : float
        The pair that was best on the held-out part of the training data.
    runs : tuple of TrainingRun
        All of them: first the sweep, then the further seeds.
    n_train, n_validation, n_test : int
    seconds : float
    """

    encoder: str
    dataset: str
    measure: str
    mode: str
    value: float
    spread: float | None
    learning_rate: float
    weight_decay: float
    runs: tuple[TrainingRun, ...]
    n_train: int
    n_validation: int
    n_test: int
    seconds: float

    @property
    def headline(self) -> str:
        """What fine-tuning reached."""
        spread = "" if self.spread is None else f" ± {self.spread:.4f}"
        return f"{self.encoder} on {self.dataset}: {self.measure} {self.value:.4f}{spread}."

    def to_frame(self) -> pd.DataFrame:
        """One row per run.

        Returns
        -------
        pandas.DataFrame
        """

        return frame_of(TrainingRun, self.runs)


@dataclass(frozen=True, repr=False)
class ProbeResult(Record):
    """What a linear head on frozen features came to.

    Attributes
    ----------
    value : float
        Accuracy on the test samples.
    strength : float
        The inverse penalty of lowest loss on the held-out part (scikit-learn's C).
    strengths, validation, validation_loss : tuple of float
        All that were tried, and the accuracy and cross-entropy of each on the held-out part.
    n_train, n_validation, n_test : int
    seconds : float
    """

    value: float
    strength: float
    strengths: tuple[float, ...]
    validation: tuple[float, ...]
    validation_loss: tuple[float, ...]
    n_train: int
    n_validation: int
    n_test: int
    seconds: float

    @property
    def headline(self) -> str:
        """What the head reached."""
        return f"accuracy {self.value:.4f} on {self.n_test:,} test samples (C = {self.strength:g})."

    def to_frame(self) -> pd.DataFrame:
        """One row per penalty that was tried.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        columns = {
            "strength": self.strengths,
            "validation": self.validation,
            "validation_loss": self.validation_loss,
        }
        frame = pd.DataFrame(columns, dtype="float64")
        return frame.assign(chosen=frame["strength"] == self.strength)
