"""How much closer pre-training brought the weights, and what of a data set goes with that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transferscope.results._record import Record, frame_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerDistance:
    """One layer of a comparison of checkpoints; what could not be computed is None.

    Attributes
    ----------
    name : str
        Path of the block in the module tree, ``"stem"``, ``"head"``, or a tensor.
    transferability : float or None
        How many times closer pre-training brought it to where fine-tuning ended; above 1 is closer.
    spread : float or None
        Standard deviation of that over drawn initialisations.
    distance_random, distance_pretrained : float or None
        From the random and from the pre-trained to the fine-tuned weights.
    n_parameters : int
        That were compared.
    drift : float or None
        Norm of the change in fine-tuning, as a share of the norm of the pre-trained weights.
    cosine : float or None
        Between pre-trained and fine-tuned weights.
    spectral_norm : float or None
        Largest singular value of the change, over its tensors.
    effective_rank : float or None
        Exponential of the entropy of the singular values of the change, mean over its tensors.
    suggestion : {"freeze", "reset"} or None
        Freeze: it moved so little that freezing it would have cost nothing. Reset: random weights
        lie as close to the fine-tuned ones as the pre-trained do.
    reason : str or None
        Why there is no transferability.
    """

    name: str
    transferability: float | None = None
    spread: float | None = None
    distance_random: float | None = None
    distance_pretrained: float | None = None
    n_parameters: int = 0
    drift: float | None = None
    cosine: float | None = None
    spectral_norm: float | None = None
    effective_rank: float | None = None
    suggestion: str | None = None
    reason: str | None = None


@dataclass(frozen=True, repr=False)
class LayerDistances(Record):
    """How much closer pre-training brought each layer to where fine-tuning ended.

    Attributes
    ----------
    overall : float or None
        Mean transferability over the layers that have one, without the head.
    overall_spread : float or None
        Standard deviation of that over drawn initialisations.
    layers : tuple of LayerDistance
        From the stem to the head.
    head : tuple of str
        Names of the layers that are the head.
    unmatched : dict of str to tuple of str
        ``missing``, ``extra``, ``other_shape`` (all left out), ``reshaped`` (compared) and
        ``tied`` (counted once) tensors.
    measure, parameters : str
        The distance, and which parameters count.
    random : str
        Where the initialisation came from: ``"checkpoint"``, ``"3 seeds"``, ``"closed form"`` or
        ``"none"``.
    freeze_threshold : float
        Drift below which freezing is suggested.
    notes : tuple of str
        What the numbers must be read with.
    """

    overall: float | None
    layers: tuple[LayerDistance, ...]
    measure: str
    parameters: str
    random: str
    freeze_threshold: float
    overall_spread: float | None = None
    head: tuple[str, ...] = ()
    unmatched: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The mean transferability over the layers."""
        if self.overall is None:
            return f"No layer transferability of {len(self.layers)} layers ({self.measure})."
        return (
            f"Pre-training brought {len(self.layers)} layers {self.overall:.3g} times closer to "
            f"the fine-tuned weights than random initialisation is ({self.measure})."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per layer.

        Returns
        -------
        pandas.DataFrame
        """

        return frame_of(LayerDistance, self.layers).set_index("name")


@dataclass(frozen=True)
class AdapterDelta:
    """What one or two adapters add to a layer of their base; what is undefined is None.

    Attributes
    ----------
    name : str
        Path of the block in the module tree, ``"stem"``, ``"head"``, a tensor, or ``"all"``.
    n_parameters : int
        Of the weights in it that the adapters change, either of them.
    base_norm : float
        Frobenius norm of these weights in the base.
    drift, other_drift : float or None
        Norm of the delta of the first and of the second adapter, as a share of `base_norm`; None
        where that is zero, or there is no second adapter.
    distance : float or None
        Norm of the difference of the two deltas, as a share of `base_norm`.
    cosine : float or None
        Between the two deltas; None where one of them is zero.
    """

    name: str
    n_parameters: int
    base_norm: float
    drift: float | None
    other_drift: float | None = None
    distance: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, repr=False)
class AdapterDistances(Record):
    """How much adapters add to their base, layer by layer, and how alike it is.

    Attributes
    ----------
    overall : AdapterDelta
        All layers as one.
    layers : tuple of AdapterDelta
        Those that an adapter changes, from the stem to the head.
    adapters : tuple of str
        One or two, as they were given.
    left_out : tuple of str
        Weights of adapters that have no delta, with the reason.
    notes : tuple of str
        What the numbers must be read with.
    """

    overall: AdapterDelta
    layers: tuple[AdapterDelta, ...]
    adapters: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """Norms of the deltas, and their cosine."""
        drifts = [self.overall.drift, self.overall.other_drift][: len(self.adapters)]
        shares = ["-" if drift is None else f"{100 * drift:.3g} %" for drift in drifts]
        text = f"Deltas of {' and '.join(shares)} of the norm of {len(self.layers)} layers"
        cosine = self.overall.cosine
        return f"{text}." if cosine is None else f"{text}, with a cosine of {cosine:.3g}."

    def to_frame(self) -> pd.DataFrame:
        """One row per layer.

        Returns
        -------
        pandas.DataFrame
        """
        return frame_of(AdapterDelta, self.layers).set_index("name")


@dataclass(frozen=True, repr=False)
class DatasetFactors(Record):
    """What of a data set goes with how much closer pre-training brings the weights.

    Attributes
    ----------
    domain_gap : float or None
        Distance of the features to those of a reference task; None without one.
    intraclass_variance : float
        Mean variance within the classes: of the total, or in squared units of the features.
    n_samples, n_classes : int
    gap, variance : str
        How they were measured.
    warnings : tuple of str
    """

    domain_gap: float | None
    intraclass_variance: float
    n_samples: int
    n_classes: int
    gap: str
    variance: str
    warnings: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """Size, domain gap and variance."""
        gap = "none" if self.domain_gap is None else f"{self.domain_gap:.4g}"
        return (
            f"{self.n_samples:,} samples in {self.n_classes} classes; domain gap {gap}, variance "
            f"within classes {self.intraclass_variance:.4g}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row.

        Returns
        -------
        pandas.DataFrame
        """

        return frame_of(DatasetFactors, [self])


@dataclass(frozen=True, repr=False)
class TransferabilityForecast(Record):
    """Transferability of the weights that a regression on earlier runs predicts.

    Attributes
    ----------
    transferability, low, high : float or None
        Prediction and 95 % interval for a new data set; None where none was asked for.
    coefficients : dict of str to dict
        Term -> ``value, low, high, p_value`` of ``ln T``, with 95 % intervals.
    r_squared : float
    n_records : int
    published : dict of str to dict
        Network -> the coefficients that the authors print.
    remark : str
        How to read those.
    warnings : tuple of str
    """

    transferability: float | None
    low: float | None
    high: float | None
    coefficients: dict[str, dict[str, float]]
    r_squared: float
    n_records: int
    published: dict[str, dict[str, float]]
    remark: str
    warnings: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The prediction, with its interval."""
        if self.transferability is None or self.low is None or self.high is None:
            return f"A regression on {self.n_records} runs, R² {self.r_squared:.2f}."
        return (
            f"Expected transferability {self.transferability:.3g} "
            f"({self.low:.3g} to {self.high:.3g}), from {self.n_records} runs."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per term: ours with its interval, then the published ones.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        frame = pd.DataFrame(self.coefficients).T
        for network, coefficients in self.published.items():
            frame[f"published {network}"] = pd.Series(coefficients)
        return frame.rename_axis("term")
