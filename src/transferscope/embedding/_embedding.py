"""One data set seen through one encoder, with everything that several metrics share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np

from transferscope.embedding._moments import ClassMoments, FeatureMoments, TargetMoments
from transferscope.errors import FeatureError, InputError
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array
from transferscope.numerics.sampling import stratified_rows

Shared = TypeVar("Shared")

#: At most this many samples carry influences (the uncertainty needs no more).
INFLUENCE_SAMPLES = 5_000
#: Rounding of the features larger than this share of their spread is warned of.
COARSE = 1e-3


class Spectrum(NamedTuple):
    """Eigendecomposition of the centred scatter, cut at its numerical rank.

    Attributes
    ----------
    values : (r,) float64
        Non-zero eigenvalues of ``sum (x - mean)(x - mean)^T``, descending.
    vectors : (d, r) float64
        Their eigenvectors.
    """

    values: Array
    vectors: Array


class Embedding:
    """Features and labels of one data set under one encoder.

    Moments, spectra and projections are computed at most once, when first asked for, and shared by
    all metrics. Nothing that comes in is modified.

    Parameters
    ----------
    features : array of shape (n_samples, n_features)
        float32 or float64 (half precision is raised to float32); NumPy, torch on any device, or
        another library of the array API standard.
    labels : array-like of shape (n_samples,), optional
        Class of each sample, ids or names; ids that do not occur are no classes.
    targets : array-like of shape (n_samples,) or (n_samples, n_targets), optional
        Real-valued targets in place of labels: regression, or 0/1 columns for multi-label.
    source_probabilities : array-like of shape (n_samples, n_source_classes), optional
        Output of the encoder's own head after softmax; rows sum to 1.
    source_logits : array-like of shape (n_samples, n_source_classes), optional
        The same before softmax; probabilities follow from them where they are not given.
    reference_features : array-like of shape (n_reference, n_features), optional
        The same encoder's features of a reference task, close to what it was pre-trained on.
    reference_labels : array-like of shape (n_reference,), optional
        Their classes.
    moments : ClassMoments or TargetMoments, optional
        Moments of *all* samples, when `features` are only a sample of them (streamed extraction).
    source_joint : array of shape (n_classes, n_source_classes), optional
        Sum of the source probabilities per class over *all* samples; goes with `moments`.
    source_counts : array of shape (n_classes, n_source_classes), optional
        How often each class met each most probable source class; goes with `moments`.
    seed : int
        For every subsampling that a metric may need.

    Raises
    ------
    InputError
        If shapes, dtypes or values break a rule; the message names it.
    Notes
    -----
    Whether features are finite and vary is found when their moments are taken: the properties then
    raise `FeatureError`.
    """

    def __init__(
        self,
        features: Any,
        labels: Any = None,
        *,
        targets: Any = None,
        source_probabilities: Any = None,
        source_logits: Any = None,
        reference_features: Any = None,
        reference_labels: Any = None,
        moments: ClassMoments | TargetMoments | None = None,
        source_joint: Array = None,
        source_counts: Array = None,
        seed: int = 0,
    ) -> None:
        given = self._given_features = checks.features_matrix(features)
        self._displacement: Array = None
        self._shared: dict[str, Any] = {}
        self._references: list[Embedding] = []
        self.seed = seed
        self.n_kept, self.n_features = map(int, given.shape)
        if (labels is None) == (targets is None):
            raise InputError(
                "give either labels (classes) or targets (numbers), "
                f"got {'neither' if labels is None else 'both'}."
            )
        self.labels: Array = None
        self.class_names: np.ndarray[Any, Any] = np.zeros(0)
        self.targets: Array = None
        if labels is not None:
            self.labels, self.class_names = checks.class_labels(labels, self.n_kept, given)
        else:
            self.targets = checks.target_columns(targets, self.n_kept, given)
        self.source_logits: Array = None
        if source_logits is not None:
            self.source_logits = checks.source_outputs(
                source_logits, "source_logits", self.n_kept, given
            )
            if source_probabilities is None:
                source_probabilities = arrays.softmax(self.source_logits)
        self.source_probabilities: Array = None
        if source_probabilities is not None:
            self.source_probabilities = checks.probabilities(
                source_probabilities, self.n_kept, given
            )
        self.reference_features: Array = None
        self.reference_labels: Array = None
        if reference_features is not None:
            self.reference_features = checks.reference_matrix(reference_features, given)
            if reference_labels is not None:
                self.reference_labels, _ = checks.class_labels(
                    reference_labels, int(self.reference_features.shape[0]), given
                )
        if isinstance(moments, ClassMoments):
            present = moments.only_present().n_classes
            if labels is not None and present != self.n_classes:
                raise InputError(
                    f"the samples kept must hold every class of the moments, got "
                    f"{self.n_classes} of {present}; keep at least one sample of each class."
                )
        self._given_moments = moments
        self._given_joint, self._given_counts = source_joint, source_counts

    @property
    def n_samples(self) -> int:
        """Number of samples, those included whose features were not kept."""
        if self._given_moments is not None:
            return int(self._given_moments.total.n_samples)
        return self.n_kept

    @property
    def n_classes(self) -> int:
        """Number of classes with at least one sample; 0 with targets."""
        return len(self.class_names)

    @property
    def task(self) -> str:
        """``"classification"``, ``"multilabel"`` (0/1 targets in several columns) or \
``"regression"``."""
        if self.labels is not None:
            return "classification"
        xp = arrays.namespace(self.targets)
        binary = bool(xp.all((self.targets == 0) | (self.targets == 1)))
        return "multilabel" if binary and int(self.targets.shape[1]) > 1 else "regression"

    @property
    def dtype(self) -> Any:
        """The dtype of the features."""
        return self._given_features.dtype

    @cached_property
    def features(self) -> Array:
        """Features of the kept samples, (n_kept, d).

        Of a `displaced` embedding that is a second array, made when first asked for: a metric
        that looks at samples piece by piece asks `chunks` or `take` instead.
        """
        if self._displacement is None:
            return self._given_features
        return arrays.namespace(self._given_features).concat([part for _, part in self.chunks()])

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        """Walk over the features of the kept samples: pairs of a slice and its features."""
        for rows in arrays.chunks(self._given_features):
            features = self._given_features[rows, :]
            if self._displacement is not None:
                features = self._moved(features, self.labels[rows])
            yield rows, features

    def take(self, rows: Array) -> Array:
        """Features of the kept samples with these indices: (len(rows), d)."""
        xp = arrays.namespace(self._given_features)
        features = xp.take(self._given_features, rows, axis=0)
        if self._displacement is not None:
            features = self._moved(features, xp.take(self.labels, rows))
        return features

    def _moved(self, features: Array, labels: Array) -> Array:
        xp = arrays.namespace(features)
        return features + xp.take(xp.astype(self._displacement, self.dtype), labels, axis=0)

    def displaced(self, displacement: Array) -> Embedding:
        """The same samples, each moved by its class's row of `displacement` (C, d) float64.

        Moments follow in closed form from those at hand (`ClassMoments.displaced`); features are
        displaced piece by piece where a metric looks at them. Labels, the head's outputs and the
        reference task stay as they are.
        """
        twin = copy.copy(self)
        for name, member in vars(Embedding).items():
            if isinstance(member, cached_property):
                twin.__dict__.pop(name, None)
        twin._shared = {}
        twin._given_moments = self.moments.displaced(displacement)
        before = 0.0 if self._displacement is None else self._displacement
        twin._displacement = before + displacement
        return twin

    def once(self, name: str, make: Callable[[], Shared]) -> Shared:
        """What `make` gives, made at the first call under this name and kept for the others."""
        if name not in self._shared:
            self._shared[name] = make()
        shared: Shared = self._shared[name]
        return shared

    @cached_property
    def moments(self) -> ClassMoments:
        """Class moments of all samples, classes without samples left out."""
        if isinstance(self._given_moments, ClassMoments):
            moments = self._given_moments.only_present()
        else:
            moments = ClassMoments.from_arrays(self.features, self.labels)
        return moments

    @cached_property
    def target_moments(self) -> TargetMoments:
        """Joint moments of features and targets, of all samples."""
        if isinstance(self._given_moments, TargetMoments):
            return self._given_moments
        return TargetMoments.from_arrays(self.features, self.targets)

    @property
    def total(self) -> FeatureMoments:
        """Moments of the features of all samples, whatever their labels."""
        total = self.moments.total if self.labels is not None else self.target_moments.total
        xp = arrays.namespace(total.scatter)
        trace = float(xp.linalg.trace(total.scatter))
        level = float(xp.sum(total.mean * total.mean)) * self.n_samples
        # below this the spread is what rounding makes of equal rows
        if trace <= level * float(xp.finfo(self.dtype).eps) ** 2 or trace == 0:
            raise FeatureError(
                f"features are the same for all {self.n_samples} samples; nothing can be scored. "
                "Check the encoder's weights and preprocessing."
            )
        return total

    @cached_property
    def quartic_sum(self) -> float:
        """``sum |x - mean|^4`` over all samples, which Ledoit-Wolf shrinkage needs.

        Of a displaced embedding it takes one pass, O(n d), over the samples kept, which then stand
        for all.
        """
        if self._displacement is None:
            return self.total.quartic_sum
        mean = self.total.mean
        xp = arrays.namespace(mean)
        # centred before it is moved: large offsets cost no digits
        pivot = xp.astype(mean, self.dtype)
        moves = xp.astype(self._displacement - (mean - arrays.as_float64(pivot)), self.dtype)
        quartic_sum = xp.zeros_like(mean[0])
        for rows in arrays.chunks(self._given_features, arrays.FINE):
            centred = self._given_features[rows, :] - pivot
            centred = centred + xp.take(moves, self.labels[rows], axis=0)
            norms = arrays.as_float64(xp.vecdot(centred, centred))
            quartic_sum = quartic_sum + xp.sum(norms * norms)
        return float(quartic_sum) * self.n_samples / self.n_kept

    @property
    def reference(self) -> Embedding:
        """The reference task's features, without labels; one for this and all `displaced` ones."""
        if not self._references:
            anything = np.arange(int(self.reference_features.shape[0]))
            self._references.append(Embedding(self.reference_features, targets=anything))
        return self._references[0]

    @cached_property
    def reference_deviation(self) -> Array:
        """Standard deviation of each feature on the reference task, (d,) float64."""
        features, n = self.reference_features, int(self.reference_features.shape[0])
        xp = arrays.namespace(features)
        pivot: Array = None  # near the mean, so that squares about it lose no digits
        sums = squares = 0.0
        for rows in arrays.chunks(features, arrays.FINE):
            chunk = arrays.as_float64(features[rows, :])
            pivot = xp.mean(chunk, axis=0) if pivot is None else pivot
            centred = chunk - pivot
            sums = sums + xp.sum(centred, axis=0)
            squares = squares + xp.sum(centred * centred, axis=0)
        variances = squares / n - (sums / n) ** 2
        return xp.sqrt(xp.where(variances > 0, variances, 0.0))

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigendecomposition of the total scatter, computed once for all metrics."""
        scatter = self.total.scatter
        xp = arrays.namespace(scatter)
        # of its negative: from the largest down, without a copy of the vectors
        values, vectors = xp.linalg.eigh(-scatter)
        values = -values
        rank = int(xp.sum(xp.astype(values > float(values[0]) * self._rounding, xp.int64)))
        rank = min(rank, self.n_samples - 1)
        return Spectrum(values[:rank], vectors[:, :rank])

    @property
    def _rounding(self) -> float:
        """What rounding makes of a true zero, relative to the largest eigenvalue of the scatter.

        Of the products in the dtype of the features, of a decomposition in float64.
        """
        xp = arrays.namespace(self._given_features)
        products, own = float(xp.finfo(self.dtype).eps), float(xp.finfo(xp.float64).eps)
        return max(10 * products, self.n_features * own)

    @cached_property
    def root(self) -> Array:
        """A matrix of full rank, (d, r), whose product with its transpose is the total scatter.

        Its Cholesky factor, for a tenth of the price of the spectrum, where no pivot comes near
        rounding.
        """
        scatter = self.total.scatter
        xp = arrays.namespace(scatter)
        if self.n_samples > self.n_features:
            factor = arrays.cholesky(scatter)
            largest = float(xp.sqrt(xp.sum(scatter * scatter)))  # no eigenvalue lies above
            if factor is not None and (
                float(xp.min(xp.linalg.diagonal(factor))) ** 2 > self._rounding * largest
            ):
                return factor
        values, vectors = self.spectrum
        return vectors * xp.sqrt(values)[None, :]

    @cached_property
    def rotated_means(self) -> Array:
        """Class means about the total mean, in the eigenbasis of the scatter: (C, r)."""
        return (self.moments.means - self.moments.mean) @ self.spectrum.vectors

    def rotate(self, features: Array) -> Array:
        """Centre features (m, d) and turn them into the eigenbasis: (m, r) float64."""
        return (arrays.as_float64(features) - self.total.mean) @ self.spectrum.vectors

    @cached_property
    def influence_rows(self) -> Array:
        """Indices of the kept samples that carry influences: at most 5 000, stratified."""
        labels = None if self.labels is None else arrays.to_numpy(self.labels)
        rows = stratified_rows(labels, self.n_kept, INFLUENCE_SAMPLES, self.seed)
        return arrays.from_numpy(rows, self._given_features)

    @cached_property
    def influence_features(self) -> Array:
        """Rotated features of `influence_rows`, (m, r) float64, shared by the metrics' influences.

        Centred in float64, then turned in the dtype of the features.
        """
        return self.turned(self.spectrum.vectors)

    def turned(self, axes: Array) -> Array:
        """Centred features of `influence_rows` times `axes` (d, k): (m, k) float64.

        The product is made in the dtype of the features, whose rounding is far below what
        influences are asked for.
        """
        xp = arrays.namespace(axes)
        centred = arrays.as_float64(self.take(self.influence_rows)) - self.total.mean
        return arrays.as_float64(xp.astype(centred, self.dtype) @ xp.astype(axes, self.dtype))

    @cached_property
    def influence_labels(self) -> Array:
        """Labels of `influence_rows`."""
        return arrays.namespace(self.labels).take(self.labels, self.influence_rows)

    @cached_property
    def source_joint(self) -> Array:
        """Joint distribution of class and source class, (C, C_s) float64, sums to 1."""
        joint = self._given_joint
        if joint is None:
            joint = arrays.class_sums(
                arrays.as_float64(self.source_probabilities), self.labels, self.n_classes
            )
        return joint / arrays.namespace(joint).sum(joint)

    @cached_property
    def source_classes(self) -> Array:
        """Most probable source class of each kept sample, (n_kept,) int64."""
        return arrays.namespace(self.source_probabilities).argmax(self.source_probabilities, axis=1)

    @cached_property
    def source_counts(self) -> Array:
        """How often each class met each most probable source class: (C, C_s) float64."""
        if self._given_counts is not None:
            return self._given_counts
        n_source = int(self.source_probabilities.shape[1])
        pairs = self.labels * n_source + self.source_classes
        xp = arrays.namespace(pairs)
        return xp.reshape(
            arrays.class_counts(pairs, self.n_classes * n_source), (self.n_classes, n_source)
        )

    def shared_warnings(self, of_features: bool = True) -> list[str]:
        """What every score must be read with; `of_features` says whether it looks at these."""
        warnings = []
        if of_features:
            total = self.total
            xp = arrays.namespace(total.scatter)
            spread = math.sqrt(float(xp.linalg.trace(total.scatter)) / self.n_samples)
            size = float(xp.linalg.vector_norm(total.mean))
            rounding = float(xp.finfo(self.dtype).eps) * size / spread
            if rounding > COARSE:
                name = "float32" if self.dtype == xp.float32 else "float64"
                warnings.append(
                    f"{name} cancellation: the features' mean is {size / spread:.0e} times their "
                    f"spread, of which {max(0, round(-math.log10(rounding)))} digits are left; "
                    "subtract the mean before they are rounded"
                )
        if self.n_kept < self.n_samples:
            warnings.append(
                f"per-sample terms come from a stratified sample of {self.n_kept} of "
                f"{self.n_samples}"
            )
        return warnings
