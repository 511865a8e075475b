"""What is expected of encoders on a task, from published results and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transferscope.errors import UnknownNameError, first_few
from transferscope.results._record import Part, Record, frame_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ExpectedEncoder(Part):
    """One encoder: what is expected of it, and what is known about it.

    Attributes
    ----------
    encoder : str
    mean, sd : float
        Expected accuracy on the task, a share, and its standard deviation. Of a measured encoder
        the measured accuracy and 0. Before anything is measured they are about a task drawn from
        the published ones: the order of the means is the encoders' standing, the deviation is
        mostly that of tasks.
    low, high : float
        90 % interval.
    p_best : float
        Probability that no other encoder is better.
    expected_regret : float
        How much accuracy taking it is expected to lose against the best.
    expected_improvement : float
        By how much measuring it is expected to raise the best accuracy measured so far.
    measured : float or None
    n_results : int
        Published results that it has.
    sources : tuple of str
        Where these are from.
    n_parameters, feature_dim, input_size, download_mb : int or None
    gpu_speed, cpu_speed : float or None
        Images per second on an RTX 4090, and on a desktop CPU.
    license, released, pretraining : str
        Empty where unknown.
    open_weights : bool or None
    cheapest : bool
        Expected within one point of the best, and no smaller encoder is expected to be as good.
    reason : str
        Why it stands where it stands, in one line.
    """

    encoder: str
    mean: float
    sd: float
    low: float
    high: float
    p_best: float
    expected_regret: float
    expected_improvement: float
    measured: float | None
    n_results: int
    sources: tuple[str, ...]
    n_parameters: int | None
    feature_dim: int | None
    input_size: int | None
    download_mb: int | None
    gpu_speed: float | None
    cpu_speed: float | None
    license: str
    released: str
    pretraining: str
    open_weights: bool | None
    cheapest: bool
    reason: str


@dataclass(frozen=True, repr=False)
class Expectation(Record):
    """What is expected of encoders on a task.

    Attributes
    ----------
    modality : str
        ``"image"`` or ``"text"``.
    kind : str
        What accuracy means: ``"probe"`` or ``"fine-tuned"``.
    encoders : tuple of ExpectedEncoder
        The highest expected accuracy first.
    n_measured : int
        Encoders measured on the task.
    warnings : tuple of str
        What was assumed.
    seed : int
        Of the joint draws.
    """

    modality: str
    kind: str
    encoders: tuple[ExpectedEncoder, ...]
    n_measured: int
    warnings: tuple[str, ...] = ()
    seed: int = 0

    def __getitem__(self, encoder: str) -> ExpectedEncoder:
        for one in self.encoders:
            if one.encoder == encoder:
                return one
        raise UnknownNameError(
            f"the expectation is about {first_few(e.encoder for e in self.encoders)}; {encoder!r} "
            "is not among them. Ask for it by one of these names."
        )

    @property
    def best(self) -> ExpectedEncoder:
        """The encoder to take: of the highest expected accuracy."""
        return self.encoders[0]

    @property
    def next(self) -> ExpectedEncoder:
        """The encoder to measure next: of the highest expected improvement."""
        return max(self.encoders, key=lambda one: one.expected_improvement)

    @property
    def headline(self) -> str:
        """The encoder to take, and how sure that is."""
        best = self.best
        given = f"after {self.n_measured} measured" if self.n_measured else "before measuring"
        return (
            f"{best.encoder} of {len(self.encoders)}, {given}: {self.kind} accuracy "
            f"{best.mean:.3f} ({best.low:.3f} to {best.high:.3f}), best with probability "
            f"{best.p_best:.2f}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per encoder, the highest expected accuracy first.

        Returns
        -------
        pandas.DataFrame
        """
        return frame_of(ExpectedEncoder, self.encoders)
