"""A bound on the target loss, term by term."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transferscope.results._record import dump

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Relatedness:
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
        that were carried back and the reference samples they are coupled with, class by class.
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
    matrix, offset : float64 numpy arrays of shapes (d, d) and (d,)
        A⁻¹ and −A⁻¹b: ``matrix @ x + offset`` carries standardised target features to standardised
        reference features.
    label_matrix : float64 numpy array of shape (n_target_classes, n_reference_classes)
        B.
    reference_prior : float64 numpy array of shape (n_reference_classes,)
        D.
    reference_classes, target_classes : tuple of str
    trace : tuple of float
        Objective on the samples it was learned from, by round.
    view : dict of str to tuple of (float, float)
        Held-out ``reference``, ``target`` and ``carried`` (the target carried back), in the plane
        of the first two principal axes of the reference.
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
    matrix: Any = field(repr=False, compare=False)
    offset: Any = field(repr=False, compare=False)
    label_matrix: Any = field(repr=False, compare=False)
    reference_prior: Any = field(repr=False, compare=False)
    reference_classes: tuple[str, ...] = field(repr=False)
    target_classes: tuple[str, ...] = field(repr=False)
    trace: tuple[float, ...] = field(repr=False)
    view: dict[str, tuple[tuple[float, float], ...]] = field(repr=False)
    target_terms: Any = field(repr=False, compare=False)
    held_out_rows: Any = field(repr=False, compare=False)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """Bound minus the loss of a head trained on the target; None without labels."""
        return None if self.target_loss is None else self.bound - self.target_loss

    def to_json(self) -> str:
        """JSON text of everything but the large arrays (A, b, the view, the samples' terms)."""
        loss, accuracy = self.target_loss, self.target_accuracy
        record = {
            "setting": self.setting,
            "bound": self.bound,
            "reference_loss": self.reference_loss,
            "label_mismatch": self.label_mismatch,
            "distribution_mismatch": self.distribution_mismatch,
            "tau": self.tau,
            "wasserstein": self.wasserstein,
            "transformed_head": {
                "loss": self.transformed_loss,
                "accuracy": self.transformed_accuracy,
            },
            "target_head": None if loss is None else {"loss": loss, "accuracy": accuracy},
            "gap": self.gap,
            "unlabelled": self.unlabelled,
            "pseudo_label_agreement": self.pseudo_label_agreement,
            "condition_number": self.condition_number,
            "label_matrix": self.label_matrix.tolist(),
            "reference_prior": self.reference_prior.tolist(),
            "reference_classes": list(self.reference_classes),
            "target_classes": list(self.target_classes),
            "trace": list(self.trace),
            "seconds": self.seconds,
            "warnings": list(self.warnings),
        }
        return dump(record)

    def to_frame(self) -> pd.DataFrame:
        """One row per quantity: the terms, the bound, what was measured."""
        import pandas as pd

        names = (
            "reference_loss", "label_mismatch", "distribution_mismatch", "bound",
            "transformed_loss", "target_loss", "gap", "transformed_accuracy", "target_accuracy",
            "pseudo_label_agreement", "tau", "wasserstein", "condition_number", "seconds",
        )  # fmt: skip
        values = [getattr(self, name) for name in names]
        index = pd.Index(names, name="quantity")
        return pd.DataFrame({"value": values}, index=index, dtype="float64")
