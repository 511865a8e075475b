"""The bound: learned on some samples, evaluated on others, and checked to be one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy

from transferscope.errors import BoundError, InputError
from transferscope.numerics import arrays
from transferscope.numerics.arrays import Array, ArrayLike
from transferscope.numerics.threads import threads_for
from transferscope.progress import ProgressCallback
from transferscope.relatedness._head import (
    LinearHead,
    Numbers,
    constant_head,
    mean_loss,
    train_best_head,
    train_head,
)
from transferscope.relatedness._refits import fewer_samples, spread_of_refits
from transferscope.relatedness._sides import PreparedTask, match_classes, prepare, restricted
from transferscope.relatedness._steepness import (
    choose_steepness,
    noise_floor,
    steepness_by_width,
)
from transferscope.relatedness._transform import (
    Side,
    Transform,
    identity,
    label_map,
    learn_transform,
    log_labels,
    pseudo_labels,
)
from transferscope.relatedness._transport import Ids, couple, make_blocks
from transferscope.results import Relatedness, SteepnessPoint

Setting = Literal["fixed_all", "learned_a", "sparse", "learned_all"]
Match = Literal["transport", "name", "random"]
SteepnessRule = Literal["reference", "width"]
SETTINGS: tuple[Setting, ...] = get_args(Setting)
MATCHES: tuple[Match, ...] = get_args(Match)
STEEPNESS_RULES: tuple[SteepnessRule, ...] = get_args(SteepnessRule)

#: Points of each kind in the record's view.
VIEW = 300
#: The map A has this many rows and columns at most; a few such matrices take 3 GB.
MOST_FEATURES = 8_192
#: A condition number beyond this is none.
LARGEST_CONDITION = 1e12


def task_relatedness(  # noqa: PLR0913  one parameter for each input and choice of the analysis
    features: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    reference_features: ArrayLike,
    reference_labels: ArrayLike,
    setting: Setting = "sparse",
    unlabelled: bool = False,
    test_features: ArrayLike | None = None,
    test_labels: ArrayLike | None = None,
    reference_test_features: ArrayLike | None = None,
    reference_test_labels: ArrayLike | None = None,
    reference_head: tuple[ArrayLike, ArrayLike] | None = None,
    tau: float | SteepnessRule = "reference",
    match: Match = "transport",
    n_reference_classes: int | None = None,
    measure_target: bool = True,
    measure_noise: bool = True,
    n_refits: int = 0,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Relatedness:
    """Bound the loss of a linear head on a target task by its relatedness to a reference task.

    The reference task is transformed into the target: its classes are weighted anew (D), renamed
    (B), and target features are carried to its own by ``A⁻¹(x − b)``. On held-out samples then

        loss of the transformed head  ≤  re-weighted reference loss + label mismatch + τ W

    with W the mean distance between the target samples carried back and the reference samples they
    are coupled with, class by class, at least cost. Smaller is better.

    Parameters
    ----------
    features : array of shape (n_samples, d)
        An encoder's features of the target: the user's own data.
    labels : array-like of shape (n_samples,), optional
        None: unlabelled.
    reference_features : array of shape (n_reference, d)
        The same encoder's features of a task that it is known to do well.
    reference_labels : array-like of shape (n_reference,)
    setting : {"sparse", "fixed_all", "learned_a", "learned_all"}
        What is learned. ``fixed_all``: nothing; ``learned_a``: A and b; ``sparse``: these and the
        prior D, B is a 0/1 matrix; ``learned_all``: also B.
    unlabelled : bool
        Do not look at the target's labels: pseudo-labels of the transformed head take their place.
        Labels, when given, are used to say how far these agree, and to train the target's head.
    test_features, test_labels, reference_test_features, reference_test_labels : optional
        Held-out samples, of shape (n, d) and (n,); by default a fifth of each class is held out.
    reference_head : (weights (n_classes, d), bias (n_classes,)), optional
        Of the reference classes in sorted order, on the features as given; else trained here.
    tau : float or {"reference", "width"}
        Largest gradient of the loss by the standardised features that the reference head may have.
        Positive. Smaller: the distribution mismatch counts less and the reference loss is larger.
        ``"reference"``: the largest under which the reference's bound for a second sample of itself
        is at most half as large again as its loss, from a path of values, on the reference's own
        samples. ``"width"``: 2/√d, as distances grow with √d. A head that is handed in keeps its
        own.
    match : {"transport", "name", "random"}
        How reference classes are chosen for target classes: by nearness of the class means (one
        for each, optimal in sum), by name, or at random.
    n_reference_classes : int, optional
        With ``match="transport"``: more reference classes than one for each target class.
    measure_target : bool
        Whether to train heads on the target's labels, to compare with; False saves their time.
    measure_noise : bool
        Whether to measure what the distribution mismatch would be between two samples of the
        reference.
    n_refits : int
        How often all is learned anew on a random half of the target (of at most 2 000 samples), for
        the standard error of the bound: at least 2. 0: only held-out samples are looked at, and the
        error is too small, for it leaves out how the map varies.
    seed : int
    progress : callable, optional
        Called with what is going on, how many steps are done, and of how many.

    Returns
    -------
    Relatedness

    Raises
    ------
    InputError
        If shapes, labels or options break a rule, which the message names, or there are more than
        8 192 features.
    FeatureError
        If features are not finite, or all the same.
    BoundError
        If the bound came out below the loss it bounds.

    Notes
    -----
    Why it holds: the gradient of ``-ln h_j`` is a mean of differences between the weights of two
    classes, so that its length nowhere exceeds the longest of these, τ. The loss of a carried
    sample u therefore exceeds that of a reference sample z by at most ``τ ‖u − z‖``. Distances are
    taken in the space of the reference, where the head lives. The authors take them in the
    target's, ``‖A z + b − x‖``, with the same τ, which is a bound only as long as A does not
    shrink; and they keep gradients short by a penalty on the training samples of the reference,
    which does not hold elsewhere (measured: 3.3 on a target, where 0.2 was asked for).

    B and D are kept as one joint distribution whose sums are the target's class shares, so that
    ``B D = P_T`` holds exactly and W is never infinite. With fewer reference than target classes
    one reference class stands for several and the label mismatch is positive. Classes with fewer
    than three samples (two where test samples are given) are left out, with a warning. Constant
    features are let be. Features are standardised, either task by itself.

    Cost: L-BFGS for two heads, O(n d K) a step; per round O(n d²) for the map and optimal transport
    in blocks of 100 samples, O(n); exact transport of the held-out samples, class by class.

    Examples
    --------
    >>> import numpy as np
    >>> from transferscope.relatedness import task_relatedness
    >>> rng = np.random.default_rng(0)
    >>> labels = np.arange(200) % 2
    >>> near = 4 * np.eye(2)[labels] + rng.standard_normal((200, 2))
    >>> far = 0.2 * np.eye(2)[labels] + rng.standard_normal((200, 2))
    >>> related = task_relatedness(
    ...     near[::-1], labels[::-1], reference_features=near, reference_labels=labels)
    >>> apart = task_relatedness(
    ...     far, labels, reference_features=near, reference_labels=labels)
    >>> related.transformed_loss < related.bound < apart.bound
    True

    References
    ----------
    Mehra, Zhang & Hamm, NeurIPS 2024 (arXiv 2307.00823).
    """
    start = time.perf_counter()
    _check_options(setting, match, tau, n_refits)
    if (reference_test_features is None) != (reference_test_labels is None):
        raise InputError(
            "reference_test_features and reference_test_labels belong together. Give both or "
            "neither."
        )
    if test_features is None and test_labels is not None:
        raise InputError("test_labels need test_features. Give both or neither.")
    told = _Steps(progress, 5 + n_refits)
    told("preparing features")
    warnings: list[str] = []
    reference = prepare(
        reference_features, reference_labels, reference_test_features, reference_test_labels,
        "reference_", None, seed, warnings,
    )  # fmt: skip
    d = len(reference.mean)
    if d > MOST_FEATURES:
        raise InputError(
            f"task-relatedness maps features by a matrix of {d:,} x {d:,}; at most "
            f"{MOST_FEATURES:,} features are taken. Pool the features of both tasks or project "
            "them (PCA of the reference) first."
        )
    target = prepare(
        features, labels, test_features, test_labels,
        "", reference, seed + 1, warnings,
    )  # fmt: skip
    n = max(len(task.learn.labels) for task in (reference, target))
    with threads_for(n * d * d):
        unlabelled = unlabelled or labels is None
        known = _Known(reference, reference_head, tau, seed)
        fitted = _fit(known, target, setting, unlabelled, match, n_reference_classes, seed, told)
        told("evaluating the bound")
        reference, terms = fitted.reference, fitted.terms
        agreement = None
        if unlabelled and labels is not None:
            agreement = _agreement(fitted.held_out.labels, target.held_out.labels)
        errors = {"bound": _error(terms.target_terms), "transformed_loss": _error(terms.losses)}
        noise = None
        if measure_noise:
            noise = noise_floor(reference, fitted.learned.shares, fitted.held_out.labels, seed)
        own: dict[str, Any] = dict.fromkeys(
            ("target_loss", "target_accuracy", "free_loss", "free_accuracy")
        )
        if labels is not None and measure_target:
            told("training heads on the target")
            own.update(_own_heads(target, terms.tau, errors, warnings))
            _explain_gap(own["target_loss"], terms, warnings)
        if n_refits:
            again = known.for_refits(terms.tau)

            def bound_of(half: PreparedTask, seed: int) -> float:
                told("learning from other samples")
                other = _fit(
                    again, half, setting, unlabelled, match, n_reference_classes, seed,
                    lambda _: None,
                )  # fmt: skip
                return float(other.terms.values()["bound"])

            spread = spread_of_refits(target, known.reference, n_refits, bound_of, seed)
            errors["bound"] = max(errors["bound"], spread)
        told("done")
        singular = np.linalg.svd(fitted.learned.matrix, compute_uv=False)
        condition: float | None = float(singular[0] / max(singular[-1], 1e-300))
        if condition is not None and condition > LARGEST_CONDITION:
            condition = None
            warnings.append("A⁻¹ is singular: it has no condition number")
        names = tuple(str(name) for name in reference.names)
        return Relatedness(
            setting=setting,
            **terms.values(),
            **own,
            noise_floor=None if noise is None else terms.tau * noise,
            standard_errors=errors,
            unlabelled=unlabelled,
            pseudo_label_agreement=agreement,
            condition_number=condition,
            matrix=fitted.learned.matrix,
            offset=fitted.learned.offset,
            reference_classes=names,
            target_classes=names if unlabelled else tuple(str(name) for name in target.names),
            steepness_path=fitted.path,
            trace=fitted.learned.trace,
            view=_view(reference.held_out.features, fitted.held_out.features, fitted.learned),
            held_out_rows=target.held_out_rows,
            seconds=time.perf_counter() - start,
            warnings=tuple(warnings),
        )


def _check_options(setting: str, match: str, tau: float | str, n_refits: int) -> None:
    for name, given, allowed in (("setting", setting, SETTINGS), ("match", match, MATCHES)):
        if given not in allowed:
            raise InputError(f"{name} must be one of {', '.join(allowed)}; got {given!r}.")
    if isinstance(tau, str):
        if tau not in STEEPNESS_RULES:
            raise InputError(
                f"tau must be a number or one of {', '.join(STEEPNESS_RULES)}; got {tau!r}."
            )
    elif not 0 < tau < np.inf:
        raise InputError(f"tau must be positive and finite; got {tau}.")
    if n_refits < 0 or n_refits == 1:
        raise InputError(f"n_refits must be 0, or at least 2 to tell a spread; got {n_refits}.")


class _Steps:
    """Tells a caller which step begins."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, min(self._done, self._total), self._total)
        self._done += 1


class _Known:
    """A reference with its head, which is trained once for each choice of classes."""

    def __init__(
        self,
        reference: PreparedTask,
        given: tuple[Any, Any] | None,
        tau: float | SteepnessRule,
        seed: int,
    ) -> None:
        self.reference, self.seed = reference, seed
        self._given = None if given is None else _given_head(reference, given)
        self._tau = tau
        self._ready: dict[bytes, tuple[PreparedTask, LinearHead, tuple[SteepnessPoint, ...]]] = {}

    def of(self, chosen: Ids) -> tuple[PreparedTask, LinearHead, tuple[SteepnessPoint, ...]]:
        """The chosen classes, the head of them, and the path to its steepness."""
        key = chosen.tobytes()
        if key not in self._ready:
            self._ready[key] = self._made(chosen)
        return self._ready[key]

    def _made(self, chosen: Ids) -> tuple[PreparedTask, LinearHead, tuple[SteepnessPoint, ...]]:
        part, tau = restricted(self.reference, chosen), self._tau
        if self._given is not None:
            return part, LinearHead(self._given.weights[chosen], self._given.bias[chosen]), ()
        points: tuple[SteepnessPoint, ...] = ()
        if tau == "width" or (isinstance(tau, str) and len(chosen) < 2):
            tau = steepness_by_width(len(part.mean))
        elif isinstance(tau, str):
            tau, points = choose_steepness(part, self.seed)
        return part, train_head(*part.learn, len(chosen), tau, part.judge), points

    def for_refits(self, tau: float) -> _Known:
        """The same heads at this steepness, with fewer samples of the reference to couple."""
        again = _Known(fewer_samples(self.reference), None, tau, self.seed)
        again._given = self._given
        for key, (_, head, points) in self._ready.items():
            part = restricted(again.reference, np.frombuffer(key, np.int64))
            again._ready[key] = (part, head, points)
        return again


class _Fitted(NamedTuple):
    """What was learned, and the terms of the bound."""

    reference: PreparedTask
    learned: Transform
    held_out: Side
    path: tuple[SteepnessPoint, ...]
    terms: Terms


def _fit(
    known: _Known,
    target: PreparedTask,
    setting: Setting,
    unlabelled: bool,  # noqa: FBT001  passed on from a keyword
    match: Match,
    n_reference_classes: int | None,
    seed: int,
    told: Callable[[str], None],
) -> _Fitted:
    if unlabelled:
        chosen = np.arange(len(known.reference.names))
        shares = np.eye(len(chosen))
    else:
        chosen, shares = match_classes(known.reference, target, match, n_reference_classes, seed)
    told("training the head of the reference")
    reference, head, path = known.of(chosen)
    start = np.eye(len(shares))

    def relabel(transform: Transform, samples: Array) -> Ids:
        return pseudo_labels(head, transform, start, samples)

    told("learning the transformation")
    if setting == "fixed_all":
        learned = identity(len(reference.mean), shares)
    else:
        learned = learn_transform(
            reference.learn, target.learn, reference.judge, target.judge, head, shares,
            learn_shares=setting in ("sparse", "learned_all"),
            learn_assignment=setting == "learned_all",
            relabel=relabel if unlabelled else None,
            seed=seed,
        )  # fmt: skip
    held_out, learning = target.held_out, target.learn
    if unlabelled:
        learning = Side(learning.features, relabel(learned, learning.features))
        held_out = Side(held_out.features, relabel(learned, held_out.features))
    terms = evaluate(head, learned, reference.held_out, held_out, learning.labels)
    return _Fitted(reference, learned, held_out, path, terms)


def _own_heads(
    target: PreparedTask, tau: float, errors: dict[str, float], warnings: list[str]
) -> dict[str, float]:
    """Held-out losses and accuracies of the target's own heads, one no steeper than tau."""
    found = {}
    labels = target.held_out.labels
    n_classes = len(target.names)
    guess = mean_loss(
        constant_head(target.learn.labels, n_classes, len(target.mean)), *target.held_out
    )
    worse = []
    for name, limit in (("target", tau), ("free", None)):
        own = train_best_head(*target.learn, n_classes, target.judge, limit)
        log_p = own.log_probabilities(target.held_out.features)
        loss, accuracy = _loss_and_accuracy(log_p, labels)
        found[f"{name}_loss"], found[f"{name}_accuracy"] = loss, accuracy
        errors[f"{name}_loss"] = _error(-log_p[np.arange(len(labels)), labels])
        if loss > guess + 1e-9:
            worse.append(f"{name} loss {loss:.3g}")
    if worse:
        warnings.append(
            f"a head trained on {len(target.learn.labels)} samples does worse on "
            f"{len(labels)} held-out ones than guessing by the classes' shares "
            f"({', '.join(worse)}; guessing {guess:.3g}): these samples are too few for it"
        )
    return found


def _explain_gap(loss: float | None, terms: Terms, warnings: list[str]) -> None:
    bound = terms.values()["bound"]
    if loss is not None and bound < loss:
        warnings.append(
            f"the bound {bound:.3g} is below the loss {loss:.3g} of the target's own head: the "
            "head taken over from the reference does better than one learned from so few samples. "
            "The bound is one on the loss of the head taken over"
        )


def _error(values: Numbers) -> float:
    """Standard error of a mean; 0 of one value."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def _given_head(reference: PreparedTask, given: tuple[Any, Any]) -> LinearHead:
    weights, bias = (np.asarray(arrays.to_numpy(arrays.as_array(a)), np.float64) for a in given)
    n_classes, d = len(reference.names), len(reference.mean)
    if weights.shape != (n_classes, d) or bias.shape != (n_classes,):
        raise InputError(
            f"reference_head must be weights {(n_classes, d)} and bias {(n_classes,)}, got "
            f"{weights.shape} and {bias.shape}."
        )
    if not (np.all(np.isfinite(weights)) and np.all(np.isfinite(bias))):
        raise InputError("reference_head must be finite.")
    return LinearHead(weights * reference.deviation, bias + weights @ reference.mean)


class Terms(NamedTuple):
    """The bound on held-out samples, term by term."""

    reference_loss: float
    label_mismatch: float
    wasserstein: float
    tau: float
    transformed_loss: float
    transformed_accuracy: float
    label_matrix: Numbers
    reference_prior: Numbers
    target_terms: Numbers
    losses: Numbers  # of the transformed head, per sample

    def values(self) -> dict[str, Any]:
        """As fields of the record."""
        mismatch = self.tau * self.wasserstein
        bound = self.reference_loss + self.label_mismatch + mismatch
        named = {name: value for name, value in self._asdict().items() if name != "losses"}
        return {**named, "bound": bound, "distribution_mismatch": mismatch}


def evaluate(
    head: LinearHead, learned: Transform, reference: Side, target: Side, learning_labels: Ids
) -> Terms:
    """The terms of the bound on held-out samples, with exact transport class by class.

    Raises
    ------
    BoundError
        If their sum is below the loss of the transformed head, or not finite.
    """
    n_target = len(learned.shares)
    # half a sample for pseudo-classes that were not met while learning: they may be met here
    counts = np.maximum(np.bincount(learning_labels, minlength=n_target), 0.5)
    prior = counts / counts.sum()
    label_matrix, _ = label_map(learned.shares, prior)
    carried = learned.transform(target.features)
    log_p = head.log_probabilities(carried)
    rows = np.arange(len(target.labels))
    logs = log_labels(log_p, label_matrix)
    loss, accuracy = _loss_and_accuracy(logs, target.labels)
    losses = -head.log_probabilities(reference.features)
    losses = losses[np.arange(len(reference.labels)), reference.labels]
    cost, solved = couple(
        carried,
        reference.features,
        make_blocks(target.labels, reference.labels, learned.shares, None),
    )
    tau = head.steepness
    reference_loss = label_mismatch = 0.0
    mass = np.zeros(learned.shares.shape[1])
    terms = np.zeros(len(rows))
    for block, _, plan in solved:
        ids = reference.labels[block.references]
        own = float(block.weights @ losses[block.references])
        logs_of = -np.log(label_matrix[block.target_class, ids])
        mixed = float(block.weights @ logs_of)
        reference_loss += block.mass * own
        label_mismatch += block.mass * mixed
        mass += block.mass * np.bincount(ids, weights=block.weights, minlength=len(mass))
        potentials = plan.row_potentials - plan.row_potentials.mean() + plan.cost
        terms[block.targets] = own + mixed + tau * potentials
    bound = reference_loss + label_mismatch + tau * cost
    if not loss - 1e-6 * max(1.0, abs(loss)) <= bound < np.inf:
        raise BoundError(
            f"the bound {bound:.6g} is no finite number above the loss {loss:.6g} of the "
            "transformed head; please report this with the features."
        )
    return Terms(
        reference_loss, label_mismatch + 0.0, cost, tau, loss, accuracy, label_matrix, mass, terms,
        -logs[rows, target.labels],
    )  # fmt: skip


def _loss_and_accuracy(log_p: Numbers, labels: Ids) -> tuple[float, float]:
    hits = np.argmax(log_p, axis=1) == labels
    return -float(np.mean(log_p[np.arange(len(labels)), labels])), float(np.mean(hits))


def _agreement(pseudo: Ids, labels: Ids) -> float:
    """Share of samples that agree under the best one-to-one naming of pseudo-classes."""
    table = np.zeros((pseudo.max() + 1, labels.max() + 1))
    np.add.at(table, (pseudo, labels), 1)
    rows, columns = scipy.optimize.linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


def _view(reference: Array, target: Array, learned: Transform) -> dict[str, Any]:
    def some(features: Array) -> Numbers:
        n = int(features.shape[0])
        rows = np.unique(np.linspace(0, n - 1, min(n, VIEW)).astype(np.int64))
        xp = arrays.namespace(features)
        taken = xp.take(features, arrays.from_numpy(rows, features), axis=0)
        return arrays.to_numpy(taken).astype(np.float64)

    points = some(reference)
    before = some(target)
    carried = before @ learned.matrix.T + learned.offset
    centre = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - centre, full_matrices=False)
    plane = np.zeros((2, points.shape[1]))
    plane[: min(2, len(axes))] = axes[:2]
    return {
        name: tuple((float(x), float(y)) for x, y in (values - centre) @ plane.T)
        for name, values in (("reference", points), ("target", before), ("transformed", carried))
    }
