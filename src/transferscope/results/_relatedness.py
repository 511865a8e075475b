"""A bound on the target loss, term by term."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transferscope.results._record import NOT_IN_JSON, Numbers, Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Relatedness(Record):
    """How related a target task is to a reference task, and what keeps them apart.

    Losses are means of ``-ln p`` over held-out samples, in nats.

    Attributes
    ----------
    setting : str
    bound : float
        ``reference_loss + label_mismatch + distribution_mismatch``; never below
        ``transformed_loss``.
    reference_loss : float
        Of the reference head, its classes weighted by D.
    label_mismatch : float
        Conditional entropy of the target class given the reference class.
    distribution_mismatch : float
        ``tau * wasserstein``.
    tau : float
        Largest norm that the gradient of the reference head's loss by the standardised features
        has anywhere.
    wasserstein : float
        Mean distance, in standard deviations of the reference features, between target samples
        that were transformed back and the reference samples they are coupled with, class by class.
    transformed_loss, transformed_accuracy : float
        Of the transformed head on the target: by its labels, or by pseudo-labels where
        `unlabelled`.
    target_loss, target_accuracy : float or None
        Of a head trained on the target's labels: the transferability. None without labels.
    unlabelled : bool
        Whether pseudo-labels took the labels' place.
    pseudo_label_agreement : float or None
        Share of held-out samples whose pseudo-label is the label, when pseudo-classes are named
        after classes as well as may be.
    condition_number : float or None
        Of A; None where A⁻¹ has no inverse.
    matrix, offset : float64 numpy arrays of shapes (d, d) and (d,), or None
        A⁻¹ and −A⁻¹b: ``matrix @ x + offset`` transforms standardised target features to
        standardised reference features.
    label_matrix : float64 numpy array of shape (n_target_classes, n_reference_classes)
        B.
    reference_prior : float64 numpy array of shape (n_reference_classes,)
        D.
    reference_classes, target_classes : tuple of str
    trace : tuple of float
        Objective on the samples it was learned from, by round.
    view : dict of str to tuple of (float, float)
        Held-out ``reference``, ``target`` and ``transformed`` (the target transformed back), in
        the plane of the first two principal axes of the reference.
    target_terms : float64 numpy array
        How much each held-out target sample contributes to the bound; their mean is the bound.
    held_out_rows : int64 numpy array or None
        Which of the target samples these are; None where they were given apart.
    seconds : float
    warnings : tuple of str
    """

    setting: str
    bound: float
    reference_loss: float
    label_mismatch: float
    distribution_mismatch: float
    tau: float
    wasserstein: float
    transformed_loss: float
    transformed_accuracy: float
    target_loss: float | None
    target_accuracy: float | None
    unlabelled: bool
    pseudo_label_agreement: float | None
    condition_number: float | None
    matrix: Numbers | None = field(compare=False, metadata=NOT_IN_JSON)
    offset: Numbers | None = field(compare=False, metadata=NOT_IN_JSON)
    label_matrix: Numbers = field(compare=False)
    reference_prior: Numbers = field(compare=False)
    reference_classes: tuple[str, ...]
    target_classes: tuple[str, ...]
    trace: tuple[float, ...]
    view: dict[str, tuple[tuple[float, float], ...]] | None = field(
        compare=False, metadata=NOT_IN_JSON
    )
    target_terms: Numbers | None = field(compare=False, metadata=NOT_IN_JSON)
    held_out_rows: Numbers | None = field(compare=False, metadata=NOT_IN_JSON)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """Bound minus the loss of a head trained on the target; None without labels."""
        return None if self.target_loss is None else self.bound - self.target_loss

    @property
    def headline(self) -> str:
        """The bound and its terms."""
        return (
            f"bound {self.bound:.3f} nats = reference loss {self.reference_loss:.3f} + label "
            f"mismatch {self.label_mismatch:.3f} + distribution mismatch "
            f"{self.distribution_mismatch:.3f}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per quantity: the terms, the bound, what was measured.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        names = (
            "reference_loss", "label_mismatch", "distribution_mismatch", "bound",
            "transformed_loss", "target_loss", "gap", "transformed_accuracy", "target_accuracy",
            "pseudo_label_agreement", "tau", "wasserstein", "condition_number", "seconds",
        )  # fmt: skip
        values = [getattr(self, name) for name in names]
        index = pd.Index(names, name="quantity")
        return pd.DataFrame({"value": values}, index=index, dtype="float64")
