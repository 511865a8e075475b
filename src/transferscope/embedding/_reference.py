"""The reference task: another data set under the same encoder."""

from __future__ import annotations

from functools import cached_property

from transferscope.embedding._feature_moments import FeatureMoments, cut
from transferscope.embedding._spectrum import Spread
from transferscope.embedding._targets import Classes
from transferscope.errors import InputError, MissingInputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array


class ReferenceTask:
    """Features of a task close to what the encoder was pre-trained on, perhaps with classes.

    One and the same serves an embedding and all that are displaced from it.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
    classes : Classes, InputError or None
        None where no labels were given; an error where these cannot be used, which is raised where
        they are needed.
    """

    def __init__(self, features: Array, classes: Classes | InputError | None) -> None:
        self.features, self.classes = features, classes
        self.n_samples = int(features.shape[0])

    @property
    def labels(self) -> Array:
        """Class ids of the samples, (n_samples,) int64."""
        if isinstance(self.classes, InputError):
            raise self.classes.with_traceback(None)
        if self.classes is None:
            raise MissingInputError(
                "reference_labels are needed; only reference_features were given. Pass both."
            )
        return self.classes.ids

    @cached_property
    def spread(self) -> Spread:
        """Moments of the features and the spectrum of their scatter."""
        total = FeatureMoments.of(cut(self.features))
        return Spread(total, self.n_samples, self.features.dtype, "reference_features")

    @cached_property
    def deviation(self) -> Array:
        """Standard deviation of each feature, (n_features,) float64."""
        xp = arrays.namespace(self.features)
        pivot = None  # near the mean, so that squares about it lose no digits
        sums: Array | float = 0.0
        squares: Array | float = 0.0
        for rows in arrays.chunks(self.features, arrays.FINE):
            chunk = arrays.as_float64(self.features[rows, :])
            pivot = xp.mean(chunk, axis=0) if pivot is None else pivot
            centred = chunk - pivot
            sums = sums + xp.sum(centred, axis=0)
            squares = squares + xp.sum(centred * centred, axis=0)
        variances = squares / self.n_samples - (sums / self.n_samples) ** 2
        return xp.sqrt(xp.where(variances > 0, variances, 0.0))
