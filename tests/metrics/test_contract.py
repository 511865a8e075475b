"""What every row of the metric table keeps to, and what each row says of itself.

A new row is tested by itself: its record says of each property yes or no, and both answers are
tested (a "no" must really differ). At the end, the checks are tested on metrics that are known to
break them.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import shapes

import transferscope.metrics
from transferscope import score
from transferscope.embedding import ClassMoments, Embedding, TargetMoments
from transferscope.errors import FeatureError, InputError
from transferscope.metrics import METRICS, About, Measurement, Metric
from transferscope.metrics._metric import Change, EdgeCase
from transferscope.metrics._ped import SUFFIX, applies_to, with_ped
from transferscope.numerics import arrays

#: Answered by "yes" or "no".
PROPERTIES = ("uses features", "above shuffled", *get_args(Change))
#: Answered by what comes out: a value, or a value with a warning.
EDGES = get_args(EdgeCase)

#: Relative (absolute below 1): a change below the first is rounding, one above the second is real.
SAME, DIFFERENT = 1e-6, 5e-6

Data = dict[str, Any]
Says = dict[str, str]


def declared(metric: Metric) -> Says:
    """What the metric's record says of its behaviour, property by property."""
    behaviour = metric.behaviour
    assert set(behaviour.changes_with) <= set(PROPERTIES), f"{metric.name}: an unknown change"
    assert set(behaviour.warns_of) <= set(EDGES), f"{metric.name}: an unknown edge case"
    says = {change: "no" if change in behaviour.changes_with else "yes" for change in PROPERTIES}
    says["uses features"] = "yes" if behaviour.uses_features else "no"
    says["above shuffled"] = "yes" if behaviour.prefers_separable else "no"
    return says | {edge: "warns" if edge in behaviour.warns_of else "value" for edge in EDGES}


# --- the planted task ---------------------------------------------------------------------------


def planted(metric: Metric, task: str, n: int = 96, d: int = 6, seed: int = 0) -> Data:
    """Inputs of a separable task, those that the metric asks for.

    For forms after PED of one whose classes overlap, or it would move none.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(4), [n - 3 * (n // 5), *[n // 5] * 3]))
    centres = rng.standard_normal((4, d)) * (0.4 if metric.name.endswith(SUFFIX) else 1.0)
    features = 0.5 + centres[labels] + rng.standard_normal((n, d)) * np.linspace(0.5, 1.5, d)
    logits = rng.standard_normal((n, 5)) + 2 * np.eye(5)[(3 * labels + 1) % 5]
    signal = features @ rng.standard_normal((d, 3)) / math.sqrt(d)
    reference_labels = np.arange(80) % 3
    available = {
        "source_probabilities": np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
        "reference_labels": reference_labels,
        "reference_features": centres[1 + reference_labels] + rng.standard_normal((80, d)),
    }
    if task == "classification":
        data: Data = {"features": features, "labels": labels}
    elif task == "regression":
        data = {"features": features, "targets": signal[:, :2] + 0.3 * rng.standard_normal((n, 2))}
    else:
        data = {"features": features, "targets": (signal > np.median(signal, axis=0)) * 1.0}
    return data | {need: available[need] for need in metric.needs}


def per_sample(change: Callable[[np.ndarray], np.ndarray], data: Data) -> Data:
    """Change every array that has one row per sample."""
    return {k: v if k.startswith("reference_") else change(v) for k, v in data.items()}


def every_features(change: Callable[[np.ndarray], np.ndarray], data: Data) -> Data:
    """Change the features, of the reference task as well."""
    return {k: change(v) if k.endswith("features") else v for k, v in data.items()}


def every_labels(change: Callable[[np.ndarray], np.ndarray], data: Data) -> Data:
    return {k: change(v) if k.endswith("labels") else v for k, v in data.items()}


def shuffled(data: Data) -> Data:
    what = "labels" if "labels" in data else "targets"
    return data | {what: np.random.default_rng(9).permutation(data[what])}


def value(metric: Metric, data: Data, **moments: Any) -> float:
    return metric.measure(Embedding(**data, **moments)).value


def same(a: float, b: float) -> bool:
    return a == pytest.approx(b, rel=SAME, abs=SAME)


def unchanged(answer: str, metric: Metric, task: str, *changes: Callable[[Data], Data]) -> None:
    """By all the changes, on three planted tasks, where declared "yes"; else not by all of them."""
    pairs = []
    for seed in range(3):
        data = planted(metric, task, seed=seed)
        before = value(metric, data)
        pairs += [(before, value(metric, change(data))) for change in changes]
    if answer == "yes":
        assert all(same(a, b) for a, b in pairs), f"declared unchanged, but these changed: {pairs}"
    else:
        gaps = [abs(a - b) / max(1, abs(a), abs(b)) for a, b in pairs]
        assert max(gaps) > DIFFERENT, f"declared to change, but these did not: {pairs}"


# --- the checks: each is given a metric, a task, and what the metric says of itself -------------


def check_finite_float(metric: Metric, task: str, says: Says) -> None:
    measured = metric.measure(Embedding(**planted(metric, task)))
    assert type(measured.value) is float
    assert math.isfinite(measured.value)
    assert isinstance(measured.warnings, tuple)
    assert all(isinstance(text, str) for text in measured.warnings)


def check_above_shuffled(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    right, wrong = value(metric, data), value(metric, shuffled(data))
    if says["above shuffled"] == "yes":
        assert right > wrong + DIFFERENT
    else:
        assert right <= wrong + SAME


def check_row_order(metric: Metric, task: str, says: Says) -> None:
    order = np.random.default_rng(1).permutation(96)
    unchanged(says["row order"], metric, task, lambda data: per_sample(lambda x: x[order], data))


def check_class_names(metric: Metric, task: str, says: Says) -> None:
    numbers, strings = np.array([2, 0, 3, 1]), np.array(["owl", "cat", "newt", "ant"])
    unchanged(
        says["class names"],
        metric,
        task,
        lambda data: every_labels(lambda ids: numbers[ids], data),
        lambda data: every_labels(lambda ids: strings[ids], data),
    )


def check_duplicated_rows(metric: Metric, task: str, says: Says) -> None:
    twice = np.repeat(np.arange(96), 2)
    unchanged(
        says["duplicated rows"], metric, task, lambda data: per_sample(lambda x: x[twice], data)
    )


def check_rotation(metric: Metric, task: str, says: Says) -> None:
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((6, 6)))[0]
    unchanged(says["rotation"], metric, task, lambda data: every_features(lambda x: x @ turn, data))


def check_shift(metric: Metric, task: str, says: Says) -> None:
    step = np.linspace(-2, 7, 6)
    unchanged(says["shift"], metric, task, lambda data: every_features(lambda x: x + step, data))


def check_scale(metric: Metric, task: str, says: Says) -> None:
    unchanged(
        says["scale"],
        metric,
        task,
        *(
            partial(every_features, partial(np.multiply, factor))
            for factor in (1e-6, 0.002, 50.0, 1e6)
        ),
    )


def outcome(metric: Metric, data: Data, expected: str) -> None:
    measured = metric.measure(Embedding(**data))
    assert math.isfinite(measured.value)
    assert np.all(np.isfinite(arrays.to_numpy(measured.influence())))
    assert bool(measured.warnings) == (expected == "warns"), measured.warnings


def check_n_less_than_d(metric: Metric, task: str, says: Says) -> None:
    outcome(metric, planted(metric, task, n=40, d=60), says["n < d"])


def check_constant_column(metric: Metric, task: str, says: Says) -> None:
    def with_constant(x: np.ndarray) -> np.ndarray:
        return np.column_stack([x, np.full(len(x), 3.7)])

    data = every_features(with_constant, planted(metric, task))
    outcome(metric, data, says["constant column"])


def check_singleton_class(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    alone = data["labels"].copy()
    alone[17] = 4
    outcome(metric, data | {"labels": alone}, says["singleton class"])


def check_absent_class_id(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    gaps = every_labels(lambda ids: 3 * ids + 2, data)
    assert value(metric, data) == value(metric, gaps)


def bad_features(metric: Metric, data: Data, features: np.ndarray, says: Says) -> None:
    """Features that cannot be scored are refused, where they are looked at at all."""
    bad = data | {"features": features}
    with pytest.raises(FeatureError):
        score(**bad, metrics="logme")
    if says["uses features"] == "yes":
        with pytest.raises(FeatureError):
            metric.measure(Embedding(**bad))
    else:
        assert value(metric, bad) == value(metric, data)


def check_not_a_number(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    features = data["features"].copy()
    features[11, 2] = np.nan
    bad_features(metric, data, features, says)


def check_infinity(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    features = data["features"].copy()
    features[11, 2] = -np.inf
    bad_features(metric, data, features, says)


def check_all_features_constant(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    bad_features(metric, data, np.full_like(data["features"], 0.1), says)


def check_one_class(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    what = "labels" if "labels" in data else "targets"
    with pytest.raises(InputError):
        value(metric, data | {what: np.zeros_like(data[what])})


def check_inputs_not_modified(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    before = {name: array.copy() for name, array in data.items()}
    metric.measure(Embedding(**data)).influence()
    for name, array in data.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def check_float32(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    single = {k: v.astype(np.float32) if v.dtype == float else v for k, v in data.items()}
    double = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in single.items()}
    bound = metric.behaviour.float32_tolerance
    assert value(metric, single) == pytest.approx(value(metric, double), rel=bound, abs=bound)


def check_same_bits_again(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    first, second = metric.measure(Embedding(**data)), metric.measure(Embedding(**data))
    assert first.value == second.value
    assert np.array_equal(first.influence(), second.influence())
    assert np.array_equal(first.influence(), first.influence())


def check_influence(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    embedding = Embedding(**data)
    influence = metric.measure(embedding).influence()
    assert influence.shape == embedding.influence_rows.shape
    assert influence.dtype == np.float64
    assert np.all(np.isfinite(influence))
    assert abs(influence.mean()) <= 1e-9 * (1 + influence.std())


def moments_of_parts(data: Data) -> ClassMoments | TargetMoments:
    bounds = [0, 1, 40, 41, len(data["features"])]
    if "targets" in data:
        whole = TargetMoments()
        for i, j in itertools.pairwise(bounds):
            part = TargetMoments.from_arrays(data["features"][i:j], data["targets"][i:j])
            whole = whole.merge(part)
        return whole
    merged = ClassMoments()
    for i, j in itertools.pairwise(bounds):
        part = ClassMoments.from_arrays(data["features"][i:j], data["labels"][i:j])
        merged = merged.merge(part)
    return merged


def check_merged_moments(metric: Metric, task: str, says: Says) -> None:
    data = planted(metric, task)
    assert same(value(metric, data, moments=moments_of_parts(data)), value(metric, data))


def check_streamed(metric: Metric, task: str, says: Says) -> None:
    """Moments of all samples, features of every other: it says so, and the table is right."""
    data = planted(metric, task)
    rows = np.arange(1, len(data["features"]), 2)
    if task == "classification":
        assert set(data["labels"][rows]) == set(data["labels"])
    embedding = Embedding(**per_sample(lambda x: x[rows], data), moments=moments_of_parts(data))
    measured = metric.measure(embedding)
    assert any("48 of 96" in text for text in measured.warnings)
    whole = value(metric, data)
    assert math.isfinite(measured.value)
    assert same(measured.value, whole) == metric.from_moments, (measured.value, whole)
    influence = measured.influence()
    assert influence.shape == rows.shape
    assert np.all(np.isfinite(influence))


def check_same_in_every_library(
    metric: Metric, task: str, says: Says, backend: Callable[..., Any], influences: float = SAME
) -> None:
    data = planted(metric, task)
    other = {name: backend(array) for name, array in data.items()}
    measured = metric.measure(Embedding(**other))
    expected = metric.measure(Embedding(**data))
    assert type(measured.value) is float
    assert same(measured.value, expected.value)
    influence = measured.influence()
    here = arrays.namespace(other["features"])
    assert arrays.namespace(influence) is here
    assert arrays.device_of(influence) == arrays.device_of(other["features"])
    np.testing.assert_allclose(
        arrays.to_numpy(influence), expected.influence(), rtol=influences, atol=influences
    )


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_") and "libra" not in name and "device" not in name
}
OF_CLASSES = ("class_names", "singleton_class", "absent_class_id")
#: Metrics with parts compare encoders, see tests/test_combined_metrics.py.
ALONE = [metric for metric in METRICS.values() if not metric.parts]
ROWS = [(metric, task) for metric in ALONE for task in metric.tasks]
PAIRS = [
    pytest.param(metric, task, check, id=f"{metric.name}-{task}-{name}")
    for metric, task in ROWS
    for name, check in CHECKS.items()
    if task == "classification" or name not in OF_CLASSES
]


@pytest.mark.parametrize(("metric", "task", "check"), PAIRS)
def test_contract(metric, task, check):
    check(metric, task, declared(metric))


@pytest.mark.parametrize(
    ("metric", "task"), [pytest.param(m, t, id=f"{m.name}-{t}") for m, t in ROWS]
)
def test_same_in_every_library(metric, task, backend):
    check_same_in_every_library(metric, task, declared(metric), backend)


def check_what_leaves_the_device(
    metric: Metric, task: str, backend: Callable[..., Any], copies: list[Any]
) -> None:
    data = {name: backend(array) for name, array in planted(metric, task).items()}
    embedding = Embedding(**data)
    copies.clear()
    metric.measure(embedding).influence()
    numbers = [array.shape for array in copies if "int" not in str(array.dtype)]
    if metric.behaviour.copied_to_host:
        assert numbers, "declared to copy more than labels, but it does not"
    else:
        assert not numbers, f"copies numbers of these shapes to the host: {numbers}"


@pytest.mark.parametrize(
    ("metric", "task"),
    [pytest.param(m, t, id=f"{m.name}-{t}") for m, t in ROWS]
    + [pytest.param(with_ped(m), "classification", id=f"{m.name}+ped") for m in ALONE
       if applies_to(m) and not m.behaviour.copied_to_host],
)  # fmt: skip
def test_what_leaves_the_device(metric, task, as_backend, host_copies):
    def strict(array: np.ndarray) -> Any:
        return as_backend("strict", array)

    check_what_leaves_the_device(metric, task, strict, host_copies)


def test_check_of_what_leaves_catches_its_violators(as_backend, host_copies):
    def peeks(embedding: Embedding) -> Measurement:
        arrays.to_numpy(embedding.features)
        return Measurement(0.0, lambda: np.zeros(embedding.n_kept))

    def strict(array: np.ndarray) -> Any:
        return as_backend("strict", array)

    copies = replace(METRICS["lfc"].behaviour, copied_to_host="features, it says")
    for metric in (metric_of(peeks), replace(METRICS["lfc"], behaviour=copies)):
        with pytest.raises(AssertionError):
            check_what_leaves_the_device(metric, "classification", strict, host_copies)


# --- metrics of moments and class scatter, on shapes and cases of their own ----------------------

SHAPED = [METRICS[name] for name in ("gbc", "lda", "lfc", "transrate", "within_between")]
of_shaped = pytest.mark.parametrize("metric", [pytest.param(m, id=m.name) for m in SHAPED])


@pytest.mark.parametrize("name", ["n > d", "n < d", "imbalance"])
@of_shaped
def test_shapes_are_the_same_in_every_library(metric, name, backend):
    features, labels = shapes.SHAPES[name]
    expected = metric.measure(Embedding(features, labels))
    found = metric.measure(Embedding(backend(features), backend(labels)))
    assert found.value == pytest.approx(expected.value, rel=SAME)
    influence = arrays.to_numpy(found.influence())
    assert influence == pytest.approx(expected.influence(), rel=SAME, abs=SAME)


@of_shaped
def test_offsets_in_float32_lose_little(metric):
    features, labels = shapes.task(300, 20)
    offset = 10 if metric.name == "transrate" else 1000  # its ε does not scale with the rounding
    single = {"features": (features + offset).astype(np.float32), "labels": labels}
    double = single | {"features": single["features"].astype(np.float64)}
    assert value(metric, single) == pytest.approx(value(metric, double), rel=1e-4)


@of_shaped
def test_influences_have_the_standard_error_of_a_jackknife(metric, case, error_ratio):
    assert 0.7 < error_ratio(metric.measure, features=case["X"], labels=case["y"]) < 1.4


@pytest.mark.parametrize(
    "metric", [m for m, task in ROWS if task == "classification"], ids=lambda m: m.name
)
def test_two_samples_have_a_value_and_an_influence_or_an_error(metric):
    data = planted(metric, "classification")
    first = [int(np.flatnonzero(data["labels"] == c)[0]) for c in range(2)]
    with contextlib.suppress(InputError):
        measured = metric.measure(Embedding(**per_sample(lambda x: x[first], data)))
        assert math.isfinite(measured.value)
        assert np.all(np.isfinite(measured.influence()))


# --- after potential-energy decline -------------------------------------------------------------

#: What the displaced forms keep to as well, as their plain forms declare it. The other properties
#: are those of the plain form on other features.
OF_PED = ("finite_float", "row_order", "class_names", "inputs_not_modified", "same_bits_again")
PED_ROWS = [pytest.param(with_ped(m), id=f"{m.name}+ped") for m in ALONE if applies_to(m)]


@pytest.mark.parametrize("check", OF_PED)
@pytest.mark.parametrize("metric", PED_ROWS)
def test_contract_after_ped(metric, check):
    CHECKS[check](metric, "classification", declared(METRICS[metric.name.removesuffix(SUFFIX)]))


@pytest.mark.parametrize("metric", PED_ROWS)
def test_same_in_torch_after_ped(metric, as_backend):
    """A jackknife over the displacement multiplies what is left of 1e-6 in an iterative fit."""
    check_same_in_every_library(
        metric, "classification", ALL_YES, lambda array: as_backend("torch", array), 10 * SAME
    )


def test_ped_moves_the_planted_classes():
    """Else the tests above would say nothing of it."""
    for needs in ((), ("reference_features",)):
        metric = with_ped(replace(METRICS["logme"], needs=needs))
        data = planted(metric, "classification")
        assert value(metric, data) > value(METRICS["logme"], data) + DIFFERENT


# --- the definition of done ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [metric.name for metric in ALONE])
def test_metric_is_done(name):
    """One module, a reference formula, golden values or tests, a whole docstring."""
    here = Path(__file__).parent
    function = getattr(transferscope.metrics, name, None)
    assert function is not None, f"transferscope.metrics has no function {name}"
    assert name in transferscope.metrics.__all__
    family = Path(inspect.getfile(function)).stem.removeprefix("_")
    assert Path(inspect.getfile(METRICS[name].measure)).stem == f"_{family}", "two files"
    missing = [
        str(path.relative_to(here.parent))
        for path in (here / f"test_{family}.py", here.parent / "reference" / f"{family}.py")
        if not path.is_file()
    ]
    docstring = inspect.getdoc(function) or ""
    missing += [
        f"the section {section} of its docstring"
        for section in ("Parameters", "Returns", "Raises", "Notes", "Examples", "References")
        if f"\n{section}\n---" not in docstring
    ]
    missing += [] if "Cost:" in docstring else ["its cost, in the docstring's notes"]
    missing += [] if "igher is better" in docstring else ["its direction, in the docstring"]
    assert not missing, f"{name} is not done; missing: {', '.join(missing)}"


# --- the checks themselves, on metrics that break them ------------------------------------------


def metric_of(measure: Callable[[Embedding], Measurement], from_moments: bool = False) -> Metric:
    tasks = ("classification", "regression", "multilabel")
    return Metric("violator", measure, About("", "", ""), tasks, from_moments=from_moments)


def zeros(embedding: Embedding) -> np.ndarray:
    return np.zeros(len(embedding.influence_rows))


def constant(value: Any, *warnings: str) -> Callable[[Embedding], Measurement]:
    return lambda embedding: Measurement(value, lambda: zeros(embedding), warnings)


def sees_everything(embedding: Embedding) -> Measurement:
    """Changes with whatever should not matter."""
    n, d = embedding.features.shape
    table = embedding.features**3 * np.arange(1, d + 1) * np.arange(1, n + 1)[:, None]
    weights = 1 + embedding.labels
    return Measurement(float(np.sum(weights * table.sum(axis=1))), lambda: zeros(embedding))


def overwrites(embedding: Embedding) -> Measurement:
    features = embedding.features
    features -= features.mean(axis=0)
    return Measurement(0.0, lambda: zeros(embedding))


calls = iter(range(10**9))

ALL_YES: Says = dict.fromkeys(PROPERTIES, "yes") | dict.fromkeys(EDGES, "value")
ALL_NO: Says = dict.fromkeys(PROPERTIES, "no") | dict.fromkeys(EDGES, "warns")

VIOLATORS: dict[str, list[tuple[Metric, Says]]] = {
    "finite_float": [(metric_of(constant(v)), ALL_YES) for v in (math.nan, np.float32(1), None)],
    "above_shuffled": [
        (metric_of(constant(1.0)), ALL_YES),
        (METRICS["logme"], ALL_NO),
    ],
    **{
        name: [(metric_of(sees_everything), ALL_YES), (metric_of(constant(1.0)), ALL_NO)]
        for name in ("row_order", "class_names", "duplicated_rows", "rotation", "shift", "scale")
    },
    **{
        name: [
            (metric_of(constant(1.0, "careful")), ALL_YES),
            (metric_of(constant(1.0)), ALL_NO),
            (metric_of(constant(math.inf)), ALL_YES),
        ]
        for name in ("n_less_than_d", "constant_column", "singleton_class")
    },
    "absent_class_id": [
        (
            metric_of(lambda e: Measurement(float(e.classes.names[-1]), lambda: zeros(e))),
            ALL_YES,
        )
    ],
    **{
        name: [
            (metric_of(constant(1.0)), ALL_YES),
            (metric_of(lambda e: Measurement(float(e.features[11, 2]), lambda: zeros(e))), ALL_NO),
        ]
        for name in ("not_a_number", "infinity", "all_features_constant")
    },
    "inputs_not_modified": [(metric_of(overwrites), ALL_YES)],
    "float32": [
        (
            metric_of(
                lambda e: Measurement(float(e.features.dtype.itemsize), lambda: zeros(e)),
            ),
            ALL_YES,
        )
    ],
    "same_bits_again": [
        (metric_of(lambda e: Measurement(float(next(calls)), lambda: zeros(e))), ALL_YES),
        (metric_of(lambda e: Measurement(1.0, lambda: zeros(e) + next(calls))), ALL_YES),
    ],
    "influence": [
        (metric_of(lambda e: Measurement(1.0, lambda: zeros(e)[1:])), ALL_YES),
        (metric_of(lambda e: Measurement(1.0, lambda: zeros(e) + 0.1)), ALL_YES),
        (metric_of(lambda e: Measurement(1.0, lambda: zeros(e) * math.nan)), ALL_YES),
    ],
    "merged_moments": [
        (
            metric_of(lambda e: Measurement(float(e._moments is None), lambda: zeros(e))),
            ALL_YES,
        )
    ],
    "streamed": [
        (metric_of(constant(1.0)), ALL_YES),  # does not say that it saw a sample only
        (metric_of(constant(1.0, "48 of 96"), from_moments=False), ALL_YES),
        (
            metric_of(
                lambda e: Measurement(float(e.n_kept), lambda: zeros(e), ("48 of 96",)),
                from_moments=True,
            ),
            ALL_YES,
        ),
    ],
}
#: The embedding refuses one class before any metric sees it.
NOT_VIOLABLE = {"one_class"}


@pytest.mark.parametrize("name", CHECKS)
def test_check_catches_its_violators(name):
    if name in NOT_VIOLABLE:
        assert name not in VIOLATORS
        return
    for metric, says in VIOLATORS[name]:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            CHECKS[name](metric, "classification", says)


def test_check_of_libraries_catches_its_violators(as_backend):
    def knows_numpy_only(embedding: Embedding) -> Measurement:
        return Measurement(float(isinstance(embedding.features, np.ndarray)), lambda: None)

    with pytest.raises(AssertionError):
        check_same_in_every_library(
            metric_of(knows_numpy_only),
            "classification",
            ALL_YES,
            lambda array: as_backend("strict", array),
        )
