"""OTCE and OT-NCE against linear programming and public code."""

from __future__ import annotations

import math
import sys
from functools import partial

import numpy as np
import pytest

from reference import otce as reference
from transferscope.embedding import ClassMoments, Embedding
from transferscope.errors import FeatureError, InputError
from transferscope.metrics._otce import measure_ot_nce, measure_otce, ot_nce, otce
from transferscope.numerics import arrays, transport

# the module: as an attribute of the package its name is the function's
module = sys.modules["transferscope.metrics._otce"]

# secret-hammer/Awesome-Model-Transferability-Evaluation at bae6af6, metrics/otce.py,
# compute_coupling and compute_CE, on squared distances in float32
COST = {"A": 212.0014851760863, "C": 180.69023681640624, "E": 43.18726033528645}
ENTROPY = {"A": -1.9947154324587668, "C": -1.6383915521467325, "E": -0.5953084014861277}

carry_cost = partial(measure_otce, cost_weight=1.0, entropy_weight=0.0)


def inputs(case):
    return {
        "features": case["X"],
        "labels": case["y"],
        "reference_features": case["XS"],
        "reference_labels": case["yS"],
    }


def test_golden(case):
    name = case["name"]
    assert otce(**inputs(case), entropy_weight=0) == pytest.approx(-COST[name], rel=1e-4)
    assert ot_nce(**inputs(case)) == pytest.approx(ENTROPY[name], abs=2e-3)


def task(n: int, m: int, d: int, n_classes: int = 3, n_reference_classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    theirs = np.concatenate(
        [
            np.arange(n_reference_classes),
            rng.integers(0, n_reference_classes, m - n_reference_classes),
        ]
    )
    features = rng.standard_normal((n_classes, d))[labels] + rng.standard_normal((n, d))
    reference_features = rng.standard_normal((m, d)) + rng.standard_normal((9, d))[theirs]
    return features, labels, reference_features, theirs


SHAPES = {
    "more samples": task(18, 12, 3),
    "more reference": task(10, 20, 3),
    "n < d": task(12, 10, 40),
    "one feature": task(15, 12, 1),
    "many classes": task(20, 15, 4, 9, 8),
    "offset 1000": (task(18, 12, 3)[0] + 1000, *task(18, 12, 3)[1:]),
    "gaps in both labels": tuple(
        part * 5 + 2 if part.ndim == 1 else part for part in task(18, 12, 3)
    ),
    "imbalance": (task(18, 12, 3)[0], np.repeat([0, 1, 2], [1, 3, 14]), *task(18, 12, 3)[2:]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_literal_formula(name):
    features, labels, reference_features, reference_labels = SHAPES[name]
    cost = reference.distances(features, reference_features)
    plan = reference.least_plan(cost)
    entropy = reference.conditional_entropy(plan, labels, reference_labels)
    given = {
        "features": features,
        "labels": labels,
        "reference_features": reference_features,
        "reference_labels": reference_labels,
    }
    assert ot_nce(**given) == pytest.approx(-entropy, rel=1e-7, abs=1e-9)
    assert otce(**given, entropy_weight=0.0) == pytest.approx(-(plan * cost).sum(), rel=1e-7)
    both = otce(**given, cost_weight=0.3, entropy_weight=2.0)
    assert both == pytest.approx(-0.3 * (plan * cost).sum() - 2 * entropy, rel=1e-7)
    assert otce(**given) == pytest.approx(-(plan * cost).sum() - entropy, rel=1e-7)


def test_names_of_reference_classes_say_nothing():
    features, labels, reference_features, reference_labels = SHAPES["more samples"]
    names = np.array(["ant", "bee", "cat", "dog"])[reference_labels]
    expected = ot_nce(
        features, labels, reference_features=reference_features, reference_labels=reference_labels
    )
    assert ot_nce(
        features, labels, reference_features=reference_features, reference_labels=names
    ) == pytest.approx(expected, rel=1e-12)


def test_bounds():
    features, labels, *_ = task(30, 12, 3)
    assert otce(features, labels, reference_features=features, reference_labels=labels) == 0.0
    assert ot_nce(features, labels, reference_features=features, reference_labels=labels) == 0.0
    shuffled = np.random.default_rng(0).permutation(labels)
    assert (
        -math.log(3)
        <= ot_nce(features, shuffled, reference_features=features, reference_labels=labels)
        < 0
    )


def test_one_plan_serves_both(monkeypatch):
    calls = []
    solve = transport.exact_plan
    monkeypatch.setattr(transport, "exact_plan", lambda cost: calls.append(1) or solve(cost))
    features, labels, reference_features, reference_labels = SHAPES["more samples"]
    embedding = Embedding(
        features,
        labels,
        reference_features=reference_features,
        reference_labels=reference_labels,
    )
    measure_otce(embedding)
    measure_ot_nce(embedding)
    assert len(calls) == 1


def test_subsamples_are_bounded_said_and_honest_about_their_error(monkeypatch):
    features, labels, reference_features, reference_labels = task(400, 300, 2)
    data = {"reference_features": reference_features, "reference_labels": reference_labels}
    whole = measure_otce(Embedding(features, labels, **data))
    assert whole.warnings == ()
    monkeypatch.setattr(module, "LIMIT", 100)
    part = measure_otce(Embedding(features, labels, **data))
    assert part.warnings == (
        "transported samples: a stratified sample of 100 of 400",
        "reference samples: a stratified sample of 100 of 300",
    )
    assert part.value == pytest.approx(whole.value, rel=0.3)
    influence = part.influence()
    assert np.count_nonzero(influence) <= 100
    assert influence.mean() == pytest.approx(0, abs=1e-9)
    # a quarter of the samples: twice the standard error
    assert 1.3 < influence.std() / whole.influence().std() < 3
    other = measure_otce(Embedding(features, labels, **data, seed=1))
    assert other.value != part.value
    assert measure_otce(Embedding(features, labels, **data)).value == part.value


def test_streamed():
    features, labels, reference_features, reference_labels = task(400, 100, 3)
    data = {"reference_features": reference_features, "reference_labels": reference_labels}
    moments = ClassMoments.from_arrays(features, labels)
    streamed = measure_otce(Embedding(features[:100], labels[:100], moments=moments, **data))
    kept = measure_otce(Embedding(features[:100], labels[:100], **data))
    assert streamed.value == kept.value
    assert "100 of 400" in streamed.warnings[0]
    by_streamed = streamed.influence().std() / math.sqrt(400)
    assert by_streamed == pytest.approx(kept.influence().std() / math.sqrt(100))


def test_what_cannot_be_scored_is_refused():
    features, labels, reference_features, reference_labels = SHAPES["more samples"]
    with pytest.raises(InputError, match="columns"):
        otce(
            features,
            labels,
            reference_features=reference_features[:, :2],
            reference_labels=reference_labels,
        )
    with pytest.raises(InputError, match="two classes"):
        otce(features, labels, reference_features=reference_features, reference_labels=np.zeros(12))
    with pytest.raises(FeatureError):
        otce(
            np.ones_like(features),
            labels,
            reference_features=reference_features,
            reference_labels=reference_labels,
        )
    bad = features.copy()
    bad[3, 1] = np.inf
    with pytest.raises(FeatureError):
        otce(bad, labels, reference_features=reference_features, reference_labels=reference_labels)
    bad = reference_features.copy()
    bad[3, 1] = np.nan
    with pytest.raises(FeatureError):
        otce(features, labels, reference_features=bad, reference_labels=reference_labels)


@pytest.mark.parametrize("name", ["more samples", "n < d"])
def test_every_array_library_gives_the_same(backend, name):
    features, labels, reference_features, reference_labels = SHAPES[name]

    def embedding(convert):
        return Embedding(
            convert(features),
            convert(labels),
            reference_features=convert(reference_features),
            reference_labels=convert(reference_labels),
        )

    expected, found = measure_otce(embedding(np.array)), measure_otce(embedding(backend))
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    influence = np.asarray(arrays.to_numpy(found.influence()))
    assert influence == pytest.approx(expected.influence(), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("measure", [carry_cost, measure_ot_nce])
def test_influences_have_the_standard_error_of_a_jackknife(case, error_ratio, measure):
    assert 0.7 < error_ratio(measure, **inputs(case)) < 1.4
