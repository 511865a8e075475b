"""What training reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferscope.results._record import Part, Record, frame_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainingRun(Part):
    """One run of gradient descent.

    Attributes
    ----------
    learning_rate, weight_decay : float
    seed : int
    folder : str
        Name of its folder.
    epoch, n_epochs : int
        The epoch that is kept, from 1, and how many there were.
    validation, test : float or None
        The measure at that epoch; None if the run diverged.
    validation_loss, test_loss : float or None
        What is minimised, on the same samples.
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
    test_loss: float | None
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
    loss : float
        Mean over the same seeds of what is minimised, on the test part.
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
    loss: float
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


@dataclass(frozen=True)
class Trial:
    """One stretch of fine-tuning within a selection: a run, up to a rung.

    Attributes
    ----------
    encoder : str
    learning_rate : float
    seed : int
        Of the run, and of what it holds out.
    rung : int
        From 1; the last one is the end of the run.
    epochs : int
        Epochs that the run has by then.
    validation, validation_loss : float or None
        At the best epoch so far, on what is held out; None if the run diverged.
    seconds : float
        Of this stretch, loading included.
    folder : str
        Of the run, within that of the selection.
    """

    encoder: str
    learning_rate: float
    seed: int
    rung: int
    epochs: int
    validation: float | None
    validation_loss: float | None
    seconds: float
    folder: str


@dataclass(frozen=True)
class SelectionCandidate(Part):
    """One candidate of a selection.

    Attributes
    ----------
    encoder : str
    outcome : str
        Why it was taken, or was not.
    mean, sd : float or None
        What is believed of its accuracy after fine-tuning (of R² for regression); None if it
        failed.
    p_best : float
        Probability that no other candidate is better.
    expected_regret : float or None
        Accuracy that taking it is expected to lose against the best candidate.
    validation : float or None
        Of its furthest run.
    epochs : int
        Of its furthest run.
    learning_rate : float or None
        The best one that was tried.
    seconds : float
        All that it cost.
    prior_mean, prior_sd : float or None
        What was expected of it before; None where nothing was.
    """

    encoder: str
    outcome: str
    mean: float | None
    sd: float | None
    p_best: float
    expected_regret: float | None
    validation: float | None
    epochs: int
    learning_rate: float | None
    seconds: float
    prior_mean: float | None
    prior_sd: float | None


@dataclass(frozen=True, repr=False)
class Selection(Record):
    """Which of several encoders was best when they were fine-tuned, and what was tried.

    Attributes
    ----------
    dataset : str
    measure : {"accuracy", "r2"}
    winner : str or None
        The encoder taken; None where none could be trained.
    value : float or None
        Its accuracy (R²) on the test part; None while the selection is under way.
    low, high : float or None
        95 % interval of `value`: what it owes to the test part being a sample. Accuracies have
        Wilson's.
    settled : bool
        Whether the winner is expected to lose less than `tolerance` against the best candidate.
    reason : str
        Why the selection stopped, or how far it is.
    weights : str or None
        File with the winner's weights and head; `load_winner` reads it.
    candidates : tuple of SelectionCandidate
        The winner, then the others by what is believed of them, then those that failed.
    trials : tuple of Trial
        In order.
    epochs : int
        Of a whole run.
    tolerance : float
    budget : float or None
        Seconds.
    class_names : tuple of str
    n_train, n_validation, n_test : int
    seconds : float
    seed : int
    """

    dataset: str
    measure: str
    winner: str | None
    value: float | None
    low: float | None
    high: float | None
    settled: bool
    reason: str
    weights: str | None
    candidates: tuple[SelectionCandidate, ...]
    trials: tuple[Trial, ...]
    epochs: int
    tolerance: float
    budget: float | None
    class_names: tuple[str, ...]
    n_train: int
    n_validation: int
    n_test: int
    seconds: float
    seed: int

    @property
    def headline(self) -> str:
        """The winner, what it reaches, and how sure that is."""
        if self.winner is None:
            return f"no encoder was selected for {self.dataset}: {self.reason}"
        if self.value is None:
            return f"{self.winner} leads on {self.dataset}; {self.reason}"
        return (
            f"{self.winner} on {self.dataset}: {self.measure} {self.value:.4f} ({self.low:.4f} to "
            f"{self.high:.4f}) on {self.n_test} test samples. {self.reason}"
        )

    @property
    def checkpoint(self) -> str | None:
        """Name by which commands and `load_encoder` take the winner's encoder without its head.

        None where there is none: of encoders that were not given by name, or are of the hub.
        """
        kind, _, name = (self.winner or "").partition("/")
        if self.weights is None or kind not in ("mini", "timm", "torchvision"):
            return None
        name = name.partition("?")[0]
        return f"checkpoint:{self.weights}?arch={name if kind == 'timm' else f'{kind}/{name}'}"

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate.

        Returns
        -------
        pandas.DataFrame
        """
        return frame_of(SelectionCandidate, self.candidates)

    def trials_frame(self) -> pd.DataFrame:
        """One row per trial.

        Returns
        -------
        pandas.DataFrame
        """
        return frame_of(Trial, self.trials)
