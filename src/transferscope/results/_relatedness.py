"""A bound on the target loss, term by term."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transferscope.results._record import NOT_IN_JSON, Numbers, Record, frame_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SteepnessPoint:
    """What a steepness of the reference head would mean on the reference alone.

    Attributes
    ----------
    tau : float
    reference_loss : float
        Of the head held to it, on samples that it was not trained on.
    noise_floor : float
        `tau` times the mean distance between two samples of the reference, coupled class by class.
    """

    tau: float
    reference_loss: float
    noise_floor: float

    @property
    def excess(self) -> float:
        """Share by which the reference's bound for a second sample of itself exceeds its loss."""
        return self.noise_floor / max(self.reference_loss, 1e-300)


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
        Mean of ``-ln B`` over held-out samples and the reference classes they are coupled with: the
        conditional entropy of the target class given the reference class, and what it costs that
        B was made of the shares of the classes among the samples to learn from, which are not
        quite those held out. 0 where no reference class stands for several of the target's.
    distribution_mismatch : float
        ``tau * wasserstein``.
    tau : float
        Largest norm that the gradient of the reference head's loss by the standardised features
        has anywhere.
    wasserstein : float
        Mean distance, in standard deviations of the reference features, between target samples
        that were transformed back and the reference samples they are coupled with, class by class.
    noise_floor : float or None
        What the distribution mismatch would be of a second sample of the reference itself, of the
        size of the target's held-out samples and not transformed: what sampling alone costs. None
        where it was not measured or the reference has no samples to spare.
    transformed_loss, transformed_accuracy : float
        Of the transformed head on the target: by its labels, or by pseudo-labels where
        `unlabelled`.
    target_loss, target_accuracy : float or None
        Of a head trained on the target's labels, no steeper than the reference's (`tau`): the
        papers' transferability. None without labels.
    free_loss, free_accuracy : float or None
        Of a head trained on the target's labels, as steep as is good for it.
    standard_errors : dict of str to float
        Of ``bound``, ``transformed_loss``, ``target_loss`` and ``free_loss``, from how these differ
        among held-out samples. The bound's includes how it differs when all is learned anew,
        where refits were asked for.
    unlabelled : bool
        Whether pseudo-labels took the labels' place.
    pseudo_label_agreement : float or None
        Share of held-out samples whose pseudo-label is the label, when pseudo-classes are named
        after classes as well as may be. Accuracy by pseudo-labels is another thing: it is that of
        the head which gave them.
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
    steepness_path : tuple of SteepnessPoint
        The values of `tau` that were tried on the reference; empty where it was given.
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
    free_loss: float | None
    free_accuracy: float | None
    noise_floor: float | None
    standard_errors: dict[str, float]
    unlabelled: bool
    pseudo_label_agreement: float | None
    condition_number: float | None
    matrix: Numbers | None = field(compare=False, metadata=NOT_IN_JSON)
    offset: Numbers | None = field(compare=False, metadata=NOT_IN_JSON)
    label_matrix: Numbers = field(compare=False)
    reference_prior: Numbers = field(compare=False)
    reference_classes: tuple[str, ...]
    target_classes: tuple[str, ...]
    steepness_path: tuple[SteepnessPoint, ...]
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
        """Bound minus the loss of the target's own head of that steepness; None without labels.

        Below 0 the head taken over does better than one that is learned from the target's samples:
        they are few. The bound is one on the loss of the head taken over.
        """
        return None if self.target_loss is None else self.bound - self.target_loss

    @property
    def headline(self) -> str:
        """The bound and its terms."""
        alone = "" if self.noise_floor is None else f" (sampling alone: {self.noise_floor:.3f})"
        return (
            f"bound {self.bound:.3f} nats = reference loss {self.reference_loss:.3f} + label "
            f"mismatch {self.label_mismatch:.3f} + distribution mismatch "
            f"{self.distribution_mismatch:.3f}{alone}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per quantity: the terms, the bound, what was measured; standard errors beside.

        The accuracy of the transformed head is called ``pseudo_label_accuracy`` where pseudo-labels
        are what it is measured by, and ``agreement_with_labels`` is what they are worth.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        names = {
            name: name
            for name in (
                "reference_loss", "label_mismatch", "distribution_mismatch", "noise_floor", "bound",
                "transformed_loss", "target_loss", "free_loss", "gap", "transformed_accuracy",
                "target_accuracy", "free_accuracy", "pseudo_label_agreement", "tau", "wasserstein",
                "condition_number", "seconds",
            )
        }  # fmt: skip
        if self.unlabelled:
            names["transformed_loss"] = "pseudo_label_loss"
            names["transformed_accuracy"] = "pseudo_label_accuracy"
        names["pseudo_label_agreement"] = "agreement_with_labels"
        index = pd.Index(list(names.values()), name="quantity")
        columns = {
            "value": [getattr(self, name) for name in names],
            "standard_error": [self.standard_errors.get(name) for name in names],
        }
        return pd.DataFrame(columns, index=index, dtype="float64")


@dataclass(frozen=True)
class RelatednessPair:
    """One target task under one reference task or encoder.

    Attributes
    ----------
    reference, target : str
    bound : float
    target_loss, target_accuracy : float or None
        Of a head on the target as steep as the reference's; None without labels.
    """

    reference: str
    target: str
    bound: float
    target_loss: float | None
    target_accuracy: float | None


@dataclass(frozen=True, repr=False)
class RelatednessPairs(Record):
    """Whether the bound goes with what is reached, over pairs of reference and target.

    Attributes
    ----------
    pairs : tuple of RelatednessPair
    correlation : dict of str to dict of str to float or None
        ``target_loss`` and ``target_accuracy`` -> ``spearman`` and ``pearson`` with the bound; None
        where fewer than three pairs have a value or one of the two does not vary.
    """

    pairs: tuple[RelatednessPair, ...]
    correlation: dict[str, dict[str, float | None]]

    @property
    def headline(self) -> str:
        """How the bound goes with the loss."""
        found = self.correlation["target_loss"]["spearman"]
        said = "unknown" if found is None else f"{found:.2f}"
        return f"Spearman's correlation of bound and loss over {len(self.pairs)} pairs: {said}."

    def to_frame(self) -> pd.DataFrame:
        """One row per pair.

        Returns
        -------
        pandas.DataFrame
        """
        return frame_of(RelatednessPair, self.pairs)
