"""Task-relatedness says what samples cannot tell: few of them, dull features, chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize

from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics._relatedness import measure_relatedness
from transferscope.relatedness import LinearHead, _bound, _head, task_relatedness
from transferscope.relatedness._head import constant_head, mean_loss, train_best_head
from transferscope.relatedness._sides import LEAST_DEVIATION, prepare
from transferscope.relatedness._steepness import MOST_EXCESS, choose_steepness, noise_floor
from transferscope.relatedness._transform import Side, identity


def task(seed, n=240, d=5, n_classes=4, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    centres = 2 * np.random.default_rng(99).standard_normal((12, d))
    return centres[labels] + spread * rng.standard_normal((n, d)), labels


@pytest.mark.parametrize("tau", [None, 0.2])
def test_head_of_a_few_samples_without_classes_guesses(tau):
    """Labels that features know nothing of: a trained head would be sure, and wrong."""
    worst = 0.0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((60, 100)), rng.integers(0, 3, 60)
        y[:3], y[40:43] = range(3), range(3)
        head = train_best_head(x[:40], y[:40], 3, (x[40:], y[40:]), tau)
        test = rng.standard_normal((3000, 100))
        worst = max(worst, mean_loss(head, test, rng.integers(0, 3, 3000)))
    assert worst < math.log(3) + 0.15


def test_head_of_a_few_samples_with_classes_learns_and_keeps_its_steepness():
    x, y = task(1, 60, 100, 3, 0.5)
    test, t = task(2, 300, 100, 3, 0.5)
    free = train_best_head(x[:40], y[:40], 3, (x[40:], y[40:]))
    assert mean_loss(free, test, t) < 0.1
    steep = train_best_head(x[:40], y[:40], 3, (x[40:], y[40:]), 0.05)
    assert steep.steepness <= 0.05 * (1 + 1e-9)
    assert 0.1 < mean_loss(steep, test, t) < math.log(3)


def test_constant_head_says_the_shares():
    labels = np.array([0, 0, 0, 1])
    p = np.exp(constant_head(labels, 3, 2).log_probabilities(np.ones((1, 2))))[0]
    np.testing.assert_allclose(p, np.array([3.5, 1.5, 0.5]) / 5.5)


def test_worse_than_guessing_and_a_negative_gap_are_said(monkeypatch):
    z, y = task(3)
    sure = LinearHead(50 * np.random.default_rng(0).standard_normal((4, 5)), np.zeros(4))
    monkeypatch.setattr(_bound, "train_best_head", lambda *_: sure)
    found = task_relatedness(z[::-1], y[::-1], reference_features=z, reference_labels=y)
    assert found.gap < 0
    assert any("worse on 48 held-out ones than guessing" in text for text in found.warnings)
    assert any("is below the loss" in text for text in found.warnings)
    monkeypatch.undo()
    found = task_relatedness(z[::-1], y[::-1], reference_features=z, reference_labels=y)
    assert found.gap > 0
    assert found.warnings == ()


def test_feature_that_hardly_varies_in_the_target_is_said_and_does_no_harm():
    z, y = task(4, 400)
    x, t = task(5, 400)
    plain = task_relatedness(x, t, reference_features=z, reference_labels=y, tau=0.5)
    rng = np.random.default_rng(0)
    wide = np.column_stack([z, 0.12 * rng.standard_normal(400)])
    dull = np.full(400, 0.3)
    dull[7] += 0.12  # one sample of 400 differs
    near = task_relatedness(
        np.column_stack([x, 1e-3 * rng.standard_normal(400) + dull]),
        t,
        reference_features=wide,
        reference_labels=y,
        tau=0.5,
        setting="fixed_all",
    )
    assert any("1 of 6 features vary" in text and text.endswith(": 5") for text in near.warnings)
    base = task_relatedness(
        x, t, reference_features=z, reference_labels=y, tau=0.5, setting="fixed_all"
    )
    assert near.bound < base.bound + 0.5
    assert plain.warnings == base.warnings == ()


def test_floor_of_deviations_goes_by_the_reference():
    """A feature that is small in both tasks is no dull one."""
    z, y = task(6, 400)
    x, t = task(7, 400)
    scale = np.array([1e-6, 1, 1, 1, 1e6])
    warnings: list[str] = []
    reference = prepare(z * scale, y, None, None, "", None, 0, [])
    prepared = prepare(x * scale, t, None, None, "", reference, 0, warnings)
    assert warnings == []
    x[:, 2] *= 1e-4
    dull = prepare(x * scale, t, None, None, "", reference, 0, warnings)
    assert len(warnings) == 1
    ratios = prepared.deviation / reference.deviation
    assert dull.deviation[2] == pytest.approx(
        LEAST_DEVIATION * np.median(np.r_[np.delete(ratios, 2), 1e-4]) * reference.deviation[2],
        rel=0.2,
    )


def test_noise_floor_is_the_mismatch_of_a_second_sample():
    """Fresh draws of the reference's population, of the sizes of the held-out samples."""
    z, y = task(8, 2000)
    reference = prepare(z, y, None, None, "", None, 0, [])
    labels = np.repeat(np.arange(4), 25)
    floors = [noise_floor(reference, np.eye(4), labels, seed) for seed in range(10)]
    fresh = []
    for seed in range(10):
        x, t = task(1000 + seed, 100)
        order = np.argsort(t, kind="stable")
        side = Side((x[order] - reference.mean) / reference.deviation, t[order])
        fresh.append(
            _bound.evaluate(
                LinearHead(np.eye(4, 5), np.zeros(4)),
                identity(5, np.eye(4)),
                reference.held_out,
                side,
                labels,
            ).wasserstein
        )
    assert np.mean(floors) == pytest.approx(np.mean(fresh), rel=0.05)


def test_noise_floor_stands_beside_the_mismatch():
    z, y = task(9, 800)
    x, t = task(10, 800)
    same = task_relatedness(x, t, reference_features=z, reference_labels=y)
    moved = task_relatedness(x[:, ::-1] ** 3, t, reference_features=z, reference_labels=y)
    assert same.distribution_mismatch < 1.3 * same.noise_floor
    assert moved.distribution_mismatch > 1.25 * moved.noise_floor
    assert f"sampling alone: {same.noise_floor:.3f}" in same.headline
    assert same.to_frame()["value"]["noise_floor"] == same.noise_floor
    without = task_relatedness(x, t, reference_features=z, reference_labels=y, measure_noise=False)
    assert without.noise_floor is None
    assert without.bound == same.bound


def test_label_mismatch_is_of_learned_shares():
    """Where one reference class stands for several: mean of -ln B over held-out samples."""
    z, y = task(11, 300, n_classes=2)
    x, t = task(12, 300, n_classes=3)
    found = task_relatedness(x, t, reference_features=z, reference_labels=y)
    held = t[found.held_out_rows]
    stands = np.argmax(found.label_matrix > 0, axis=1)
    expected = np.mean([-np.log(found.label_matrix[k, stands[k]]) for k in held])
    assert found.label_mismatch == pytest.approx(expected)


def test_error_of_the_bound_covers_learning():
    """Over fresh targets: with refits the error is of the size of the spread, else too small."""
    z, y = task(20, 400, 20)
    values, held_out, refitted = [], [], []
    for seed in range(12):
        x, t = task(100 + seed, 80, 20)
        found = task_relatedness(
            x, t, reference_features=z, reference_labels=y, tau="width", n_refits=6,
            measure_target=False, measure_noise=False, seed=seed,
        )  # fmt: skip
        values.append(found.bound)
        refitted.append(found.standard_errors["bound"])
        held_out.append(np.std(found.target_terms, ddof=1) / len(found.target_terms) ** 0.5)
    spread = np.std(values, ddof=1)
    assert np.mean(held_out) < np.mean(refitted)
    assert 0.6 < np.mean(refitted) / spread < 2.0


def test_metric_says_the_error_with_refits():
    z, y = task(21, 300)
    x, t = task(22, 200)
    measured = measure_relatedness(Embedding(x, t, reference_features=z, reference_labels=y))
    error = task_relatedness(
        x, t, reference_features=z, reference_labels=y, tau="width", n_refits=6,
        measure_target=False,
    ).standard_errors["bound"]  # fmt: skip
    influence = measured.influence()
    assert influence.std() / len(influence) ** 0.5 == pytest.approx(error, rel=0.05)


def test_refits_with_test_samples_and_without_labels():
    z, y = task(23, 300)
    x, t = task(24, 200)
    known = {"reference_features": z, "reference_labels": y, "n_refits": 3, "tau": 0.4}
    apart = task_relatedness(x[:120], t[:120], test_features=x[120:], test_labels=t[120:], **known)
    blind = task_relatedness(x, unlabelled=True, **known)
    names = np.array(list("abcd"))
    named = task_relatedness(x, names[t], match="name", **{**known, "reference_labels": names[y]})
    for found in (apart, blind, named):
        assert 0 < found.standard_errors["bound"] < 1
    with pytest.raises(InputError, match="n_refits must be 0, or at least 2"):
        task_relatedness(x, t, **{**known, "n_refits": 1})


def test_steepness_is_chosen_on_the_reference():
    z, y = task(30, 1000, 8)
    reference = prepare(z, y, None, None, "", None, 0, [])
    path = choose_steepness(reference, 0)
    assert [p.tau for p in path.points] == sorted(p.tau for p in path.points)
    below = [p for p in path.points if p.tau <= path.tau]
    above = [p for p in path.points if p.tau > path.tau]
    assert all(p.excess <= MOST_EXCESS for p in below)
    assert all(p.excess > MOST_EXCESS for p in above)
    assert below
    assert above
    x, t = task(31, 400, 8)
    taus = {
        task_relatedness(one, t, reference_features=z, reference_labels=y).tau
        for one in (x, x[:, ::-1] * 3)
    }
    assert len(taus) == 1
    found = task_relatedness(x, t, reference_features=z, reference_labels=y, tau="width")
    assert found.tau == pytest.approx(2 / 8**0.5, rel=1e-6)
    assert found.steepness_path == ()
    with pytest.raises(InputError, match="tau must be a number or one of reference, width"):
        task_relatedness(x, t, reference_features=z, reference_labels=y, tau="steep")


@pytest.mark.parametrize("tau", [None, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_heads_of_large_problems_are_as_good_in_fewer_steps(monkeypatch, tau, dtype):
    x, y = task(50, 1500, 20, 12, 3)
    x = x.astype(dtype)
    sides = (x[:1000], y[:1000], 12, (x[1000:], y[1000:]), tau)
    steps = []
    inner = scipy.optimize.minimize

    def counted(*given, **options):
        found = inner(*given, **options)
        steps.append(found.nit)
        return found

    monkeypatch.setattr(scipy.optimize, "minimize", counted)
    plain = train_best_head(*sides)
    many = sum(steps)
    monkeypatch.setattr(_head, "LARGE", 0)
    steps.clear()
    short = train_best_head(*sides)
    test, t = task(51, 1500, 20, 12, 3)
    assert mean_loss(short, test, t) == pytest.approx(mean_loss(plain, test, t), rel=0.02)
    assert 0 < sum(steps) < many
    if tau is not None:
        assert short.steepness <= tau * (1 + 1e-6)


def test_loss_in_place_is_the_loss():
    x, y = task(52, 60, 5, 4)
    head = LinearHead(np.random.default_rng(0).standard_normal((4, 5)), np.arange(4.0))
    before = x.copy()
    value, residual = _head._loss_in_place(head, x, y)
    p = np.exp(head.log_probabilities(x))
    p[np.arange(60), y] -= 1
    assert value == pytest.approx(mean_loss(head, x, y), rel=1e-12)
    np.testing.assert_allclose(residual, p, atol=1e-12)
    np.testing.assert_array_equal(x, before)


def test_losses_beside_the_bound():
    """The head beside the bound is as steep as the reference's; the free one is another mark."""
    z, y = task(40, 800, 6, 4, 0.5)
    x, t = task(41, 800, 6, 4, 0.5)
    found = task_relatedness(x, t, reference_features=z, reference_labels=y, tau=0.2)
    assert found.free_loss < found.target_loss < found.bound
    assert found.gap == found.bound - found.target_loss
    frame = found.to_frame()
    for name in ("bound", "transformed_loss", "target_loss", "free_loss"):
        assert frame["standard_error"][name] == found.standard_errors[name] > 0
    blind = task_relatedness(x, t, reference_features=z, reference_labels=y, unlabelled=True)
    assert {"pseudo_label_accuracy", "agreement_with_labels"} < set(blind.to_frame().index)
