"""What the encoder's own head says of the samples."""

from __future__ import annotations

from functools import cached_property

from transferscope.embedding._targets import Classes
from transferscope.errors import MissingInputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array


class SourceOutputs:
    """Outputs of the encoder's own head, and how they go with the classes.

    Parameters
    ----------
    logits : array of shape (n_rows, n_source_classes) or None
    probabilities : array of shape (n_rows, n_source_classes)
    classes : Classes or None
        Of the same samples.
    joint, counts : array of shape (C, n_source_classes) or None
        Sum of the probabilities per class, and how often each class met each most probable source
        class, over *all* samples where only some are kept; by default over these.
    """

    def __init__(
        self,
        logits: Array | None,
        probabilities: Array,
        classes: Classes | None,
        joint: Array | None = None,
        counts: Array | None = None,
    ) -> None:
        self.logits, self.probabilities = logits, probabilities
        self.n_source_classes = int(probabilities.shape[1])
        self._classes, self._given_joint, self._given_counts = classes, joint, counts

    @cached_property
    def predicted(self) -> Array:
        """Most probable source class of each kept sample, (n_rows,) int64."""
        return arrays.namespace(self.probabilities).argmax(self.probabilities, axis=1)

    @cached_property
    def joint(self) -> Array:
        """Joint distribution of class and source class, (C, C_source) float64, sums to 1."""
        joint = self._given_joint
        if joint is None:
            classes = self._required_classes()
            joint = arrays.class_sums(
                arrays.as_float64(self.probabilities), classes.ids, classes.n_classes
            )
        return joint / arrays.namespace(joint).sum(joint)

    @cached_property
    def counts(self) -> Array:
        """How often each class met each most probable source class: (C, C_source) float64."""
        if self._given_counts is not None:
            return self._given_counts
        classes = self._required_classes()
        shape = (classes.n_classes, self.n_source_classes)
        pairs = classes.ids * self.n_source_classes + self.predicted
        return arrays.namespace(pairs).reshape(
            arrays.class_counts(pairs, shape[0] * shape[1]), shape
        )

    def _required_classes(self) -> Classes:
        if self._classes is None:
            raise MissingInputError(
                "labels are needed to compare classes with source classes; none were given. "
                "Pass labels."
            )
        return self._classes
