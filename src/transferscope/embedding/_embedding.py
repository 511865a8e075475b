"""One data set under one encoder, with everything that several metrics share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, wraps
from typing import NamedTuple, TypeVar, cast

from transferscope.embedding._class_moments import ClassMoments
from transferscope.embedding._feature_moments import FeatureMoments, cut
from transferscope.embedding._matrix import DisplacedMatrix, FeatureMatrix
from transferscope.embedding._reference import ReferenceTask
from transferscope.embedding._source import SourceOutputs
from transferscope.embedding._spectrum import Spread
from transferscope.embedding._target_moments import TargetMoments
from transferscope.embedding._targets import Classes, Numbers, Targets
from transferscope.errors import FeatureError, InputError, MissingInputError, TransferscopeError
from transferscope.numerics import arrays, checks
from transferscope.numerics.arrays import Array, ArrayLike
from transferscope.numerics.sampling import stratified_rows
from transferscope.numerics.targets import TaskType

Moments = ClassMoments | TargetMoments | FeatureMoments
Shared = TypeVar("Shared")

#: At most this many samples have influences (the uncertainty needs no more).
INFLUENCE_SAMPLES = 5_000
#: Rounding of the features larger than this share of their spread is warned of.
COARSE = 1e-3


def computed_once(function: Callable[[Embedding], Shared]) -> Callable[[Embedding], Shared]:
    """Make a function of an embedding compute its result once for each embedding.

    Parameters
    ----------
    function : callable
        Takes an `Embedding` and nothing else.

    Returns
    -------
    callable
        The same, which keeps what it returned with the embedding.
    """

    @wraps(function)
    def cached(embedding: Embedding) -> Shared:
        kept = embedding._computed
        if function not in kept:
            kept[function] = function(embedding)
        return cast("Shared", kept[function])

    return cached


class TargetColumns(NamedTuple):
    """Statistics of the columns of the targets: one-hot classes, or numbers.

    Attributes
    ----------
    mean : (k,) float64
    scatter : (k,) float64
        ``sum (y - mean)^2``.
    cross : (k, r) float64
        ``sum (y - mean)(x - mean)^T`` in the eigenbasis of the scatter.
    """

    mean: Array
    scatter: Array
    cross: Array


class Embedding:
    """Features and targets of one data set under one encoder.

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
    reference_error : FeatureError, optional
        Why there are no reference features, though they were asked for.
    moments : ClassMoments, TargetMoments or FeatureMoments, optional
        Moments of *all* samples, when `features` are only a sample of them (streamed extraction).
    source_joint : array of shape (n_classes, n_source_classes), optional
        Sum of the source probabilities per class over *all* samples; goes with `moments`.
    source_counts : array of shape (n_classes, n_source_classes), optional
        How often each class met each most probable source class; goes with `moments`.
    seed : int
        For every subsampling that a metric may need.

    Attributes
    ----------
    matrix : FeatureMatrix
        The features of the samples that are kept, to be walked over in pieces.
    targets : Classes, Numbers or None
        None where neither labels nor targets were given.
    n_kept, n_features : int
        Samples that are kept, and features of each.
    inputs : frozenset of str
        Names of the parameters that were given (and ``"source_probabilities"`` with logits).
    seed : int

    Raises
    ------
    InputError
        If shapes, dtypes or values break a rule; the message names it.

    Notes
    -----
    Whether features are finite and vary is found when their moments are taken: the properties then
    raise `FeatureError`. A reference task that cannot be used costs what needs it and nothing else:
    `reference`, or its `labels`, then raises the error.
    """

    def __init__(  # noqa: PLR0913  one parameter for each input that a metric may need
        self,
        features: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        targets: ArrayLike | None = None,
        source_probabilities: ArrayLike | None = None,
        source_logits: ArrayLike | None = None,
        reference_features: ArrayLike | None = None,
        reference_labels: ArrayLike | None = None,
        reference_error: FeatureError | None = None,
        moments: Moments | None = None,
        source_joint: Array | None = None,
        source_counts: Array | None = None,
        seed: int = 0,
    ) -> None:
        given = checks.features_matrix(features)
        self.matrix = FeatureMatrix(given)
        self.n_kept, self.n_features = self.matrix.n_rows, self.matrix.n_features
        self.targets = _targets(labels, targets, given)
        self.seed = seed
        self._moments = moments
        self._computed: dict[Callable[[Embedding], object], object] = {}
        classes = self.targets if isinstance(self.targets, Classes) else None
        self._source = _source_outputs(
            source_logits, source_probabilities, given, classes, (source_joint, source_counts)
        )
        self._reference = reference_error or _reference_task(
            reference_features, reference_labels, given
        )
        optional: dict[str, object] = {
            "labels": labels,
            "targets": targets,
            "source_logits": source_logits,
            "source_probabilities": self._source,
            "reference_features": self._reference,
            "reference_labels": reference_error or reference_labels,
        }
        self.inputs = frozenset(name for name, value in optional.items() if value is not None)
        if isinstance(moments, ClassMoments) and classes is not None:
            present = moments.only_present().n_classes
            if present != classes.n_classes:
                raise InputError(
                    f"the samples kept must hold every class of the moments, got "
                    f"{classes.n_classes} of {present}; keep at least one sample of each class."
                )

    def displaced(self, displacement: Array) -> Embedding:
        """The same samples, each moved by its class's row of `displacement`.

        Moments follow in closed form from those of this embedding (`ClassMoments.displaced`);
        features are displaced piece by piece where a metric looks at them. Labels, the head's
        outputs and the reference task stay as they are.

        Parameters
        ----------
        displacement : float64 array of shape (n_classes, n_features)

        Returns
        -------
        Embedding
        """
        moved = object.__new__(Embedding)
        if isinstance(self.matrix, DisplacedMatrix):
            displacement_in_all = self.matrix.displacement + displacement
        else:
            displacement_in_all = 0.0 + displacement
        moved.matrix = DisplacedMatrix(self.matrix.given, self.labels, displacement_in_all)
        moved.targets, moved.seed, moved.inputs = self.targets, self.seed, self.inputs
        moved.n_kept, moved.n_features = self.n_kept, self.n_features
        moved._source, moved._reference = self._source, self._reference
        moved._moments = self.moments.displaced(displacement)
        moved._computed = {}
        return moved

    @property
    def features(self) -> Array:
        """Features of the samples that are kept, (n_kept, n_features)."""
        return self.matrix.array

    @property
    def n_samples(self) -> int:
        """Number of samples, those included whose features were not kept."""
        if self._moments is None:
            return self.matrix.n_rows
        return int(_total(self._moments).n_samples)

    @property
    def task(self) -> TaskType | None:
        """What the targets mean; None where there are none."""
        return None if self.targets is None else self.targets.task

    @property
    def classes(self) -> Classes:
        """Classes of the kept samples."""
        if not isinstance(self.targets, Classes):
            raise MissingInputError("labels are needed; none were given. Pass labels.")
        return self.targets

    @property
    def labels(self) -> Array:
        """Class ids of the kept samples, (n_kept,) int64."""
        return self.classes.ids

    @property
    def n_classes(self) -> int:
        """Number of classes with at least one sample; 0 without labels."""
        return self.targets.n_classes if isinstance(self.targets, Classes) else 0

    @property
    def numbers(self) -> Array:
        """Numbers to be predicted of the kept samples, (n_kept, n_targets) float64."""
        if not isinstance(self.targets, Numbers):
            raise MissingInputError("targets are needed; none were given. Pass targets.")
        return self.targets.values

    @property
    def source(self) -> SourceOutputs:
        """Outputs of the encoder's own head."""
        if self._source is None:
            raise MissingInputError(
                "source_probabilities are needed; none were given. Pass these or source_logits."
            )
        return self._source

    @property
    def reference(self) -> ReferenceTask:
        """The reference task."""
        if isinstance(self._reference, TransferscopeError):
            raise self._reference.with_traceback(None)
        if self._reference is None:
            raise MissingInputError(
                "reference_features are needed; none were given. Pass those of a reference task."
            )
        return self._reference

    @cached_property
    def moments(self) -> ClassMoments:
        """Class moments of all samples, classes without samples left out."""
        if isinstance(self._moments, ClassMoments):
            return self._moments.only_present()
        return ClassMoments.from_arrays(self.features, self.labels)

    @cached_property
    def target_moments(self) -> TargetMoments:
        """Joint moments of features and numbers, of all samples."""
        if isinstance(self._moments, TargetMoments):
            return self._moments
        return TargetMoments.from_arrays(self.features, self.numbers)

    @cached_property
    def spread(self) -> Spread:
        """The scatter of all samples: its spectrum and a root, each computed once."""
        if self._moments is not None:
            total = _total(self._moments)
        elif isinstance(self.targets, Classes):
            total = self.moments.total  # of one pass, as that of the targets below
        elif isinstance(self.targets, Numbers):
            total = self.target_moments.total
        else:
            total = FeatureMoments.of(cut(self.features))
        return Spread(total, self.n_samples, self.matrix.dtype)

    @property
    def total(self) -> FeatureMoments:
        """Moments of the features of all samples, whatever their targets."""
        return self.spread.total

    def check_features(self) -> None:
        """Refuse features that no metric can use.

        Raises
        ------
        FeatureError
            If a feature is NaN or infinite, or all samples have the same features.
        """
        _ = self.total

    @cached_property
    def quartic_sum(self) -> float:
        """``sum |x - mean|^4`` over all samples, which Ledoit-Wolf shrinkage needs.

        Of a displaced embedding it takes one pass, O(n d), over the samples kept, which then stand
        for all.
        """
        matrix = self.matrix
        if not isinstance(matrix, DisplacedMatrix):
            return self.total.quartic_sum
        mean = self.total.mean
        xp = arrays.namespace(mean)
        # centred before it is moved: large offsets cost no digits
        pivot = xp.astype(mean, matrix.dtype)
        moves = xp.astype(matrix.displacement - (mean - arrays.as_float64(pivot)), matrix.dtype)
        quartic_sum = xp.zeros_like(mean[0])
        for rows in arrays.chunks(matrix.given, arrays.FINE):
            centred = matrix.given[rows, :] - pivot
            centred = centred + xp.take(moves, self.labels[rows], axis=0)
            norms = arrays.as_float64(xp.vecdot(centred, centred))
            quartic_sum = quartic_sum + xp.sum(norms * norms)
        return float(quartic_sum) * self.n_samples / self.n_kept

    @cached_property
    def rotated_means(self) -> Array:
        """Class means about the total mean, in the eigenbasis of the scatter: (C, r)."""
        return (self.moments.means - self.moments.mean) @ self.spread.spectrum.vectors

    @cached_property
    def columns(self) -> TargetColumns:
        """Statistics of the columns of the targets: one for each class, or each number."""
        if isinstance(self.targets, Classes):
            counts = self.moments.counts
            mean = counts / self.n_samples
            return TargetColumns(mean, counts * (1 - mean), self.rotated_means * counts[:, None])
        mean, scatter, cross = self.target_moments.statistics
        return TargetColumns(mean, scatter, cross.T @ self.spread.spectrum.vectors)

    def rotate(self, features: Array) -> Array:
        """Centre features and rotate them into the eigenbasis of the scatter.

        Parameters
        ----------
        features : array of shape (m, n_features)

        Returns
        -------
        float64 array of shape (m, r)
        """
        return (arrays.as_float64(features) - self.total.mean) @ self.spread.spectrum.vectors

    @cached_property
    def influence_rows(self) -> Array:
        """Indices of the kept samples that have influences: at most 5 000, stratified."""
        labels = arrays.to_numpy(self.labels) if isinstance(self.targets, Classes) else None
        rows = stratified_rows(labels, self.n_kept, INFLUENCE_SAMPLES, self.seed)
        return arrays.from_numpy(rows, self.matrix.given)

    @cached_property
    def influence_labels(self) -> Array:
        """Class ids of `influence_rows`."""
        return arrays.namespace(self.labels).take(self.labels, self.influence_rows)

    @cached_property
    def influence_features(self) -> Array:
        """Rotated features of `influence_rows`, (m, r) float64, shared by the metrics' influences.

        Centred in float64, then rotated in the dtype of the features.
        """
        return self.project_influence(self.spread.spectrum.vectors)

    def project_influence(self, axes: Array) -> Array:
        """Centred features of `influence_rows` times `axes`.

        The product is made in the dtype of the features, whose rounding is far below what
        influences are asked for.

        Parameters
        ----------
        axes : array of shape (n_features, k)

        Returns
        -------
        float64 array of shape (m, k)
        """
        xp, dtype = arrays.namespace(axes), self.matrix.dtype
        centred = arrays.as_float64(self.matrix.take(self.influence_rows)) - self.total.mean
        return arrays.as_float64(xp.astype(centred, dtype) @ xp.astype(axes, dtype))

    def shared_warnings(self, *, of_features: bool = True) -> list[str]:
        """What every score must be read with.

        Parameters
        ----------
        of_features : bool
            Whether the score looks at the features.

        Returns
        -------
        list of str
        """
        warnings = []
        if of_features:
            total = self.total
            xp = arrays.namespace(total.scatter)
            spread = math.sqrt(float(xp.linalg.trace(total.scatter)) / self.n_samples)
            size = float(xp.linalg.vector_norm(total.mean))
            rounding = float(xp.finfo(self.matrix.dtype).eps) * size / spread
            if rounding > COARSE:
                name = "float32" if self.matrix.dtype == xp.float32 else "float64"
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


def _targets(labels: ArrayLike | None, targets: ArrayLike | None, features: Array) -> Targets:
    n = int(features.shape[0])
    if labels is not None and targets is not None:
        raise InputError("give labels (classes) or targets (numbers), not both.")
    if labels is not None:
        return Classes(*checks.class_labels(labels, n, features))
    if targets is not None:
        return Numbers(checks.target_columns(targets, n, features))
    return None


def _source_outputs(
    logits: ArrayLike | None,
    probabilities: ArrayLike | None,
    features: Array,
    classes: Classes | None,
    of_all: tuple[Array | None, Array | None],
) -> SourceOutputs | None:
    n = int(features.shape[0])
    checked = None
    if logits is not None:
        checked = checks.source_outputs(logits, "source_logits", n, features)
        if probabilities is None:
            probabilities = arrays.softmax(checked)
    if probabilities is None:
        return None
    return SourceOutputs(
        checked, checks.probabilities(probabilities, n, features), classes, *of_all
    )


def _reference_task(
    features: ArrayLike | None, labels: ArrayLike | None, like: Array
) -> ReferenceTask | InputError | FeatureError | None:
    """The reference task, or the error that makes it unusable."""
    if features is None:
        return None
    try:
        matrix = checks.reference_matrix(features, like)
    except (InputError, FeatureError) as error:
        return error
    classes: Classes | InputError | None = None
    if labels is not None:
        n = int(matrix.shape[0])
        try:
            classes = Classes(*checks.class_labels(labels, n, like, "reference_labels"))
        except InputError as error:
            classes = error
    return ReferenceTask(matrix, classes)


def _total(moments: Moments) -> FeatureMoments:
    return moments if isinstance(moments, FeatureMoments) else moments.total
