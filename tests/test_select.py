"""Selections: what is believed, who goes on, what is left; and that a kill changes nothing."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import transferscope
from transferscope.cli._options import duration
from transferscope.datasets import open_dataset
from transferscope.errors import EncoderError, InputError, StoreError
from transferscope.results import Selection
from transferscope.training import _belief as belief
from transferscope.training import load_winner, read_candidates, select
from transferscope.training._belief import Observation, Outlook, believe, look_ahead
from transferscope.training._selector import interval

ENCODERS = ["mini/resnet-random", "mini/vit-random", "mini/separable-mnist-rotation"]
TORCH = pytest.mark.needs("torch")
NOTHING_AHEAD = [Outlook(0.0, 0.0, 0.0)]


# -- what is believed --------------------------------------------------------------------------


def votes(right: int, n: int, shift: int = 0) -> np.ndarray:
    """Scores of which `right` are 1."""
    return np.roll(np.arange(n) < right, shift).astype(float)


def test_belief_is_that_of_bayes_on_a_grid():
    """Two candidates: the posterior by brute force over their accuracies."""
    prior_mean, prior_sd = np.array([0.7, 0.6]), np.array([0.05, 0.1])
    ahead = [Outlook(0.3, 0.1, 0.2), Outlook(0.0, 0.0, 0.0)]
    seen = [
        Observation(0, 0, 0, votes(50, 80)),
        Observation(1, 0, 0, votes(56, 80, shift=10)),
        Observation(1, 7, 1, votes(60, 80)),
    ]
    found = believe(prior_mean, prior_sd, seen, outlook=ahead, binary=True)

    grid = np.linspace(0.2, 1.2, 401)
    first, second = np.meshgrid(grid, grid, indexing="ij")
    theta = np.stack([first, second], axis=-1)
    prior = np.diag(prior_sd**2) + belief.LEVEL**2
    log_density = gaussian(theta - prior_mean, prior)
    value, error, expected = [], [], []
    for one in seen:
        y = one.scores.sum() / 80
        value.append(y)
        error.append(1 - y)
        expected.append(y + ahead[one.rung].gain * (1 - y))
    noise = np.zeros((3, 3))
    for i, one in enumerate(seen):
        for j, other in enumerate(seen):
            if one.part == other.part and i != j:
                pairs = zip(one.scores, other.scores, strict=True)
                noise[i, j] = sum((u - value[i]) * (v - value[j]) for u, v in pairs) / 84**2
            if one.rung == other.rung == 0:
                noise[i, j] += error[i] * error[j] * 0.2**2
        smooth = (80 * value[i] + 2) / 84
        noise[i, i] += smooth * (1 - smooth) * (1 / 84 + 0.03**2)
        noise[i, i] += (error[i] * ahead[one.rung].doubt) ** 2
    residual = theta[..., [0, 1, 1]] - np.array(expected)
    log_density += gaussian(residual, noise)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = np.einsum("ij,ijk->k", weight, theta)
    apart = theta - mean
    covariance = np.einsum("ij,ijk,ijl->kl", weight, apart, apart)
    assert found.mean == pytest.approx(mean, abs=1e-4)
    assert found.covariance == pytest.approx(covariance, abs=1e-5)
    p_best = weight[second > first].sum() + weight[second == first].sum() / 2
    assert found.p_best[1] == pytest.approx(p_best, abs=0.03)
    loss = (weight * np.maximum(first - second, 0)).sum()
    assert found.regret[1] == pytest.approx(loss, abs=0.003)
    assert found.gain(1)[0] == pytest.approx(loss, abs=0.003)


def gaussian(apart: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return -0.5 * np.einsum("...i,ij,...j", apart, np.linalg.inv(covariance), apart)


def test_candidates_that_err_on_the_same_samples_are_told_apart_better():
    prior = np.array([0.5, 0.5]), np.array([0.5, 0.5])
    better = Observation(0, 0, 0, votes(85, 100))
    nested = Observation(1, 0, 0, votes(80, 100))
    elsewhere = Observation(1, 1, 0, votes(80, 100))
    options = {"outlook": NOTHING_AHEAD, "binary": True}
    paired = believe(*prior, [better, nested], **options)
    apart = believe(*prior, [better, elsewhere], **options)
    assert paired.mean == pytest.approx(apart.mean, abs=0.02)
    assert paired.p_best[0] > apart.p_best[0] + 0.05


def test_all_right_on_a_few_samples_is_not_certain():
    prior = np.array([0.5, 0.5]), np.array([0.5, 0.5])
    seen = [Observation(0, 0, 0, np.ones(10)), Observation(1, 0, 0, votes(9, 10))]
    found = believe(*prior, seen, outlook=NOTHING_AHEAD, binary=True)
    assert found.leader == 0
    assert 0.5 < found.p_best[0] < 0.9


def test_a_prior_counts_by_its_width_and_not_by_its_level():
    seen = [Observation(0, 0, 0, votes(60, 100)), Observation(1, 0, 0, votes(62, 100))]
    options = {"outlook": NOTHING_AHEAD, "binary": True}
    sure = believe(np.array([0.8, 0.7]), np.array([0.01, 0.01]), seen, **options)
    unsure = believe(np.array([0.8, 0.7]), np.array([0.3, 0.3]), seen, **options)
    higher = believe(np.array([0.9, 0.8]), np.array([0.01, 0.01]), seen, **options)
    assert sure.leader == higher.leader == 0
    assert unsure.leader == 1
    assert higher.p_best[0] == pytest.approx(sure.p_best[0], abs=0.02)


def test_what_is_ahead_is_learned_from_runs_that_got_further():
    usual = look_ahead([[], []], (3, 6, 12))
    assert usual[2] == Outlook(0.0, 0.0, 0.0)
    assert usual[1].gain == pytest.approx(belief.LOSS)
    assert usual[0].gain == pytest.approx(1 - (1 - belief.LOSS) ** 2)
    assert usual[0].doubt == pytest.approx(belief.OF_RUNS * math.sqrt(2))
    # every run loses half of its error on the first step
    halved = [(y, y + (1 - y) / 2) for y in np.linspace(0.3, 0.8, 12)]
    learned = look_ahead([halved, []], (3, 6, 12))
    assert learned[0].gain == pytest.approx(1 - 0.5 * (1 - belief.LOSS), abs=0.02)
    assert learned[0].doubt < usual[0].doubt
    assert learned[0].common < usual[0].common
    rng = np.random.default_rng(0)
    scattered = [
        (y, y + (1 - y) * g) for y, g in zip(np.full(12, 0.5), rng.random(12), strict=True)
    ]
    assert look_ahead([scattered, []], (3, 6, 12))[0].doubt > 2 * usual[0].doubt


@pytest.mark.parametrize("right", [0, 1, 37, 60])
def test_interval_of_a_share_is_wilsons(right):
    from scipy.stats import binomtest

    value, low, high = interval(votes(right, 60), binary=True)
    expected = binomtest(right, 60).proportion_ci(method="wilson")
    assert (value, low, high) == pytest.approx((right / 60, expected.low, expected.high), abs=1e-9)


def test_interval_of_a_mean_covers_it():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.4 <= high
        for _, low, high in (
            interval(0.4 + rng.standard_normal(80), binary=False) for _ in range(500)
        )
    ]
    assert 0.92 < np.mean(covered) < 0.98


# -- data --------------------------------------------------------------------------------------


def striped(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of 16 x 16 whose class is the direction of their stripes, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    y, x = np.mgrid[:16, :16]
    waves = np.stack([np.sin(x), np.sin(y), np.sin((x + y) / 2)])
    shifts = rng.integers(0, 6, n)
    images = np.stack([np.roll(waves[c], s, (0, 1)) for c, s in zip(labels, shifts, strict=True)])
    images = 128 + 40 * images[..., None] + 50 * rng.standard_normal((n, 16, 16, 3))
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def data():
    return open_dataset(striped(60)), open_dataset(striped(45, seed=1))


def chosen(data, out: Path, encoders=ENCODERS, **changes) -> Selection:
    options = {"epochs": 4, "learning_rates": (1e-3, 3e-3), "n_seeds": 2, "batch_size": 16}
    return select(data[0], encoders, out=out, test=data[1], **{**options, **changes})


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A selection that nobody disturbed; the tolerance is too small to be settled early."""
    pytest.importorskip("torch")
    out = tmp_path_factory.mktemp("whole")
    return chosen(data, out, tolerance=1e-6), out


def bits(out: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(out.rglob("*")):
        if path.suffix == ".safetensors":
            found[str(path.relative_to(out))] = path.read_bytes()
    text = (out / "selection.json").read_text().replace(str(out), "OUT")
    found["journal"] = json.dumps(without_seconds(json.loads(text)))
    return found


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != "seconds"}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


# -- the plan ----------------------------------------------------------------------------------


@TORCH
def test_schedule_of_halving_is_kept(whole):
    found, _ = whole
    plan = [(t.encoder, t.learning_rate, t.seed, t.rung, t.epochs) for t in found.trials]
    first, second, third = ENCODERS
    # the first candidate tries all rates for three of four epochs, the others the best of them
    assert plan[:2] == [(first, 3e-3, 0, 1, 3), (first, 1e-3, 0, 1, 3)]
    rate = max(found.trials[:2], key=lambda t: (t.validation, -t.validation_loss)).learning_rate
    assert plan[2:4] == [(second, rate, 0, 1, 3), (third, rate, 0, 1, 3)]
    # two of three go on, the better one first, those with one rate after another one was tried
    reached = {t.encoder: t.validation for t in found.trials[1:4]}
    reached[first] = max(t.validation for t in found.trials[:2])
    kept = sorted(reached, key=lambda name: -reached[name])[:2]
    rest = plan[4:]
    for name in kept:
        if name != first:
            assert rest.pop(0) == (name, 4e-3 - rate, 0, 1, 3)
        step = rest.pop(0)
        assert (step[0], *step[2:]) == (name, 0, 2, 4)
    # then further seeds of those in question, to the end
    assert all(seed == 1 and epochs == 4 for _, _, seed, _, epochs in rest)
    (dropped,) = set(ENCODERS) - set(kept)
    (row,) = [c for c in found.candidates if c.encoder == dropped]
    assert row.outcome.startswith("dropped after 3 of 4 epochs")
    assert row.epochs == 3
    assert found.candidates[0].outcome == "taken"
    assert found.winner in kept


@TORCH
def test_winner_has_the_weights_that_finetune_gives(whole, data, tmp_path):
    from safetensors.torch import load_file

    from transferscope.training import finetune

    found, out = whole
    rate = found.candidates[0].learning_rate
    alone = finetune(
        found.winner, *data, learning_rates=(rate,), weight_decays=(1e-2,), n_seeds=1, epochs=4,
        batch_size=16, patience=None, out=tmp_path,
    )  # fmt: skip
    (weights,) = tmp_path.glob("*/best.safetensors")
    assert found.value == alone.value
    ours, theirs = load_file(found.weights), load_file(weights)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert found.weights.startswith(str(out))
    assert (found.n_train, found.n_validation, found.n_test) == (48, 12, 45)


@TORCH
def test_only_the_winners_weights_are_left_and_they_load(whole, data, tmp_path):
    found, out = whole
    assert [str(path) for path in out.rglob("*.safetensors")] == [found.weights]
    model = load_winner(out)
    assert model.score(data[1]) == found.value
    names = np.array(data[1].class_names)[data[1].labels]
    assert (model.predict(data[1]) == names).mean() == pytest.approx(found.value)
    assert found.low <= found.value <= found.high
    encoder = transferscope.load_encoder(found.checkpoint)
    assert encoder.fingerprint == transferscope.load_encoder(found.checkpoint).fingerprint
    batch = encoder.preprocessing.collate([encoder.preprocessing.prepare(data[1][0])])
    logits = encoder.embed(batch).features["pooled"].numpy() @ model.weight.T + model.bias
    assert logits == pytest.approx(model.outputs(data[1].subset(np.arange(1))), abs=1e-5)
    with pytest.raises(InputError, match="must have the classes"):
        model.score(open_dataset((striped(20)[0], np.arange(20) % 2)))
    with pytest.raises(StoreError, match=r"selection.json is damaged, or no file"):
        load_winner(tmp_path)


@TORCH
def test_the_same_call_again_reads_what_came_of_it(whole, data):
    found, out = whole
    begin = time.perf_counter()
    assert chosen(data, out, tolerance=1e-6) == found
    assert time.perf_counter() - begin < 1
    assert Selection.from_json(found.to_json()) == found


@TORCH
def test_a_folder_named_otherwise_keeps_its_winner(whole, data, tmp_path, monkeypatch):
    found, out = whole
    monkeypatch.chdir(out.parent)
    again = chosen(data, Path(out.name), tolerance=1e-6)
    assert again.weights == str(Path(found.weights).relative_to(out.parent))
    assert Path(again.weights).exists()
    shutil.copytree(out, tmp_path / "moved")
    moved = chosen(data, tmp_path / "moved", tolerance=1e-6)
    assert Path(moved.weights).is_relative_to(tmp_path / "moved")
    assert Path(moved.weights).read_bytes() == Path(found.weights).read_bytes()


@TORCH
def test_lost_weights_are_trained_again(whole, data):
    found, out = whole
    before = Path(found.weights).read_bytes()
    Path(found.weights).unlink()
    with pytest.raises(StoreError, match="Call select again"):
        load_winner(out)
    again = chosen(data, out, tolerance=1e-6)
    assert Path(again.weights).read_bytes() == before
    assert again.value == found.value


@TORCH
def test_another_selection_in_the_folder_is_refused(whole, data):
    _, out = whole
    before = bits(out)
    for changes, differing in (
        ({"tolerance": 0.1}, "tolerance"),
        ({"tolerance": 1e-6, "epochs": 5}, "epochs 4 there, 5 here"),
        ({"tolerance": 1e-6, "encoders": ENCODERS[:2]}, "candidates"),
        ({"tolerance": 1e-6, "expected": {ENCODERS[0]: (0.5, 0.1)}}, "candidates"),
    ):
        with pytest.raises(InputError, match=differing):
            chosen(data, out, **changes)
    assert bits(out) == before


@TORCH
@pytest.mark.parametrize("stop", [1, 6])
def test_stopped_and_repeated_gives_the_same_bits(whole, data, tmp_path, stop):
    found, out = whole
    n_epochs = [0]

    def interrupt(_text: str, done: int, _total: int) -> None:
        n_epochs[0] += 1
        if n_epochs[0] == 4 * stop:  # amid one of the trials, or before one
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chosen(data, tmp_path, tolerance=1e-6, progress=interrupt)
    again = chosen(data, tmp_path, tolerance=1e-6)
    assert bits(tmp_path) == bits(out)
    assert [t.validation for t in again.trials] == [t.validation for t in found.trials]


@TORCH
def test_report_says_what_is_known_by_then(data, tmp_path):
    seen: list[Selection] = []

    def interrupt(so_far: Selection) -> None:
        seen.append(so_far)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chosen(data, tmp_path, report=interrupt)
    assert [len(one.trials) for one in seen] == [1, 2, 3]
    last = seen[-1]
    assert last.value is None
    assert last.weights is None
    assert "leads on" in last.headline
    assert {c.encoder for c in last.candidates} == set(ENCODERS)
    assert last.candidates[0].outcome == "leads"
    assert Selection.from_json(last.to_json()) == last
    with pytest.raises(InputError, match="has not ended"):
        load_winner(tmp_path)


# -- the prior ---------------------------------------------------------------------------------


@TORCH
def test_who_is_hopeless_by_what_is_expected_is_not_begun(data, tmp_path):
    expected = {ENCODERS[0]: (0.9, 0.02), ENCODERS[1]: (0.3, 0.02)}
    found = chosen(data, tmp_path, expected=expected, tolerance=0.02)
    (row,) = [c for c in found.candidates if c.encoder == ENCODERS[1]]
    assert row.outcome.startswith("not begun: 0.300 ± 0.020 expected")
    assert (row.epochs, row.prior_mean, row.prior_sd) == (0, 0.3, 0.02)
    assert ENCODERS[1] not in {t.encoder for t in found.trials}
    # the most promising one begins
    assert found.trials[0].encoder == ENCODERS[0]


@TORCH
def test_it_stops_when_it_is_settled(data, tmp_path):
    expected = dict(zip(ENCODERS, ((0.9, 0.01), (0.7, 0.01), (0.7, 0.01)), strict=True))
    found = chosen(data, tmp_path, expected=expected, tolerance=0.02)
    assert found.settled
    assert found.reason.startswith("Settled")
    assert {t.encoder for t in found.trials} == {ENCODERS[0]}
    assert found.candidates[0].expected_regret <= 0.02


def ranking(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(json.dumps({"encoders": rows}))
    return path


def test_candidates_are_read_from_a_ranking(tmp_path):
    some = {"expected": {"mean": 0.9, "sd": 0.02}}
    rows = (
        {"encoder": "a", "error": None, "in_group": True, **some},
        {"encoder": "b", "error": None, "in_group": True, "expected": None},
        {"encoder": "c", "error": None, "in_group": False, **some},
        {"encoder": "d", "error": "no memory", "in_group": True},
    )
    path = tmp_path / "r.json"
    assert read_candidates(ranking(path, *rows)) == (["a", "b"], {"a": (0.9, 0.02)})
    plain = [{"encoder": row["encoder"], "error": row["error"]} for row in rows]
    assert read_candidates(ranking(path, *plain)) == (["a", "b", "c"], {})
    with pytest.raises(InputError, match="no encoder of"):
        read_candidates(ranking(path, rows[3]))
    for text in (
        "[1]",
        "{",
        '{"encoders": [1]}',
        '{"encoders": [{"encoder": "a", "expected": 3}]}',
    ):
        path.write_text(text)
        with pytest.raises(InputError, match="no JSON of a ranking"):
            read_candidates(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_candidates(tmp_path / "none.json")


# -- what fails, and the budget ----------------------------------------------------------------


@TORCH
def test_a_candidate_that_fails_costs_its_own_row(data, tmp_path):
    names = ["mini/nothing", ENCODERS[0], "checkpoint:none.pth?arch=mini/vit-random"]
    found = chosen(data, tmp_path, names)
    assert found.winner == ENCODERS[0]
    failed = {c.encoder: c for c in found.candidates[1:]}
    assert failed.keys() == {names[0], names[2]}
    for row in failed.values():
        assert row.outcome.startswith("failed: ")
        assert row.mean is None
        assert row.p_best == 0
    assert found.candidates[0].p_best == 1
    with pytest.raises(EncoderError, match="no candidate could be fine-tuned"):
        chosen(data, tmp_path / "none", ["mini/nothing"])


@TORCH
def test_rates_that_diverge_cost_their_trial(data, tmp_path):
    found = chosen(data, tmp_path / "some", ENCODERS[:2], learning_rates=(1e-3, 1e30))
    wild = [t for t in found.trials if t.learning_rate == 1e30]
    assert wild
    assert all(t.validation is None for t in wild)
    assert found.candidates[0].learning_rate == 1e-3
    with pytest.raises(EncoderError, match=r"every run diverged \(learning rates \[1e\+30\]\)"):
        chosen(data, tmp_path / "all", ENCODERS[:2], learning_rates=(1e30,))


@TORCH
def test_one_candidate_is_tuned_and_taken_and_duplicates_are_one(data, tmp_path):
    found = chosen(data, tmp_path, [ENCODERS[0], ENCODERS[0]])
    assert [c.encoder for c in found.candidates] == [ENCODERS[0]]
    assert [(t.learning_rate, t.epochs) for t in found.trials[:2]] == [(3e-3, 3), (1e-3, 3)]
    assert found.trials[-1].epochs == 4
    assert len(found.trials) == 3
    assert found.settled
    assert found.candidates[0].p_best == 1


class Clock:
    """A clock that every epoch of training moves by the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, epoch: float) -> None:
        from transferscope.training import _descent, _selector, _trials

        self.now = 0.0
        for module in (_descent, _selector, _trials):
            monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        plain = _descent.Run._epoch

        def slow(run: object, *arguments: object) -> float:
            self.now += epoch
            return plain(run, *arguments)

        monkeypatch.setattr(_descent.Run, "_epoch", slow)


@TORCH
@pytest.mark.parametrize("budget", [8.0, 16.0])
def test_budget_is_kept_and_a_larger_one_goes_on(data, tmp_path, monkeypatch, budget):
    clock = Clock(monkeypatch, epoch=1.0)
    found = chosen(data, tmp_path, tolerance=1e-6, budget=budget)
    assert found.seconds == pytest.approx(clock.now)
    assert clock.now <= 1.1 * budget
    # the leader was brought to its end within it
    assert found.candidates[0].epochs == 4
    assert "budget" in found.reason
    assert not found.settled
    assert load_winner(tmp_path).score(data[1]) == found.value
    assert chosen(data, tmp_path, tolerance=1e-6, budget=budget) == found
    spent = clock.now
    more = chosen(data, tmp_path, tolerance=1e-6, budget=1000.0)
    assert len(more.trials) > len(found.trials)
    assert more.seconds < clock.now + 1
    assert clock.now - spent < more.seconds  # what was done is not done again


@TORCH
@pytest.mark.parametrize("budget", [7.0, 9.0, 12.0])
def test_a_larger_budget_ends_as_if_there_had_been_no_smaller_one(
    data, tmp_path, monkeypatch, budget
):
    """What was brought to its end at the budget is compared at the rungs, like the others."""
    how = {"epochs": 8, "tolerance": 1e-6}
    Clock(monkeypatch, epoch=1.0)
    undisturbed = chosen(data, tmp_path / "whole", **how)
    short = chosen(data, tmp_path / "parts", budget=budget, **how)
    assert "budget" in short.reason
    later = chosen(data, tmp_path / "parts", **how)

    def plain(found: Selection) -> list[object]:
        return [replace(trial, seconds=0.0) for trial in found.trials]

    assert plain(later) == plain(undisturbed)
    assert (later.winner, later.value) == (undisturbed.winner, undisturbed.value)


@TORCH
def test_a_first_rate_that_diverges_can_be_reported(data, tmp_path):
    seen: list[Selection] = []
    found = chosen(data, tmp_path, ENCODERS[:1], learning_rates=(1e-3, 1e12), report=seen.append)
    assert found.trials[0].validation is None
    assert len(seen) == len(found.trials) - 1


@TORCH
@pytest.mark.parametrize("worst", [ENCODERS[1:2], ENCODERS[:2]])
def test_runs_that_diverge_late_are_no_winners(data, tmp_path, monkeypatch, worst):
    """At the fourth epoch, after a look that they passed: they have no end."""
    from transferscope.training import _descent

    plain = _descent.Run._epoch

    def late(run: object, epoch: int, *rest: object) -> float:
        loss = plain(run, epoch, *rest)
        return math.nan if epoch == 3 and run.encoder.identifier in worst else loss

    monkeypatch.setattr(_descent.Run, "_epoch", late)
    options = {"learning_rates": (1e-3,), "tolerance": 1e-6}
    if worst == ENCODERS[:2]:
        with pytest.raises(EncoderError, match="every run diverged"):
            chosen(data, tmp_path / "none", worst, **options)
    found = chosen(data, tmp_path, ENCODERS, **options)
    assert found.winner not in worst
    failed = [c.encoder for c in found.candidates if c.outcome.startswith("failed")]
    assert set(failed) <= set(worst)
    assert chosen(data, tmp_path, ENCODERS, **options) == found


@TORCH
@pytest.mark.parametrize("n_seeds", [1, 2])
def test_where_the_best_rate_diverges_late_another_one_ends(data, tmp_path, monkeypatch, n_seeds):
    from transferscope.training import _descent

    plain, fell = _descent.Run._epoch, []

    def late(run: object, epoch: int, *rest: object) -> float:
        loss = plain(run, epoch, *rest)
        if epoch == 3 and not fell:
            fell.append(run.hyperparameters.learning_rate)
        return math.nan if epoch == 3 and run.hyperparameters.learning_rate in fell else loss

    monkeypatch.setattr(_descent.Run, "_epoch", late)
    found = chosen(data, tmp_path, ENCODERS[:1], n_seeds=n_seeds, tolerance=1e-6)
    (row,) = found.candidates
    assert row.epochs == 4
    assert row.learning_rate not in fell
    assert row.outcome == "taken"


@TORCH
def test_budget_that_ends_in_the_leaders_run_leaves_its_best_epoch(data, tmp_path, monkeypatch):
    Clock(monkeypatch, epoch=1.0)
    found = chosen(data, tmp_path, budget=2.5)
    assert found.candidates[0].epochs == 2
    assert "Its run had 2 of 4 epochs by then" in found.reason
    assert load_winner(tmp_path).score(data[1]) == found.value
    done = chosen(data, tmp_path, budget=500.0)
    assert done.candidates[0].epochs == 4


@TORCH
def test_budget_that_ends_in_the_first_epoch_is_a_named_error(data, tmp_path):
    with pytest.raises(InputError, match=r"the budget of 0.001 s ended within the first epoch"):
        chosen(data, tmp_path, budget=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": ()}, "learning rates must be positive and different"),
        ({"learning_rates": (1e-3, 1e-3)}, "learning rates must be positive and different"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"epochs": 0}, "must be at least 1"),
        ({"tolerance": 0.0}, r"tolerance must be a share.*Half a point of accuracy is 0.005"),
        ({"tolerance": 1.0}, "tolerance must be a share"),
        ({"budget": 0.0}, "budget must be a number of seconds above 0"),
        ({"mode": "tail"}, "mode must be one of"),
        ({"augment": "mixup"}, "augment must be one of"),
        ({"expected": {"mini/other": (0.5, 0.1)}}, "expected is about mini/other"),
        ({"expected": {ENCODERS[0]: (0.5, 0.0)}}, "sd above 0"),
    ],
)
@TORCH
def test_wrong_options_are_refused(options, message, data, tmp_path):
    with pytest.raises(InputError, match=message):
        chosen(data, tmp_path, **options)


# -- other tasks -------------------------------------------------------------------------------


@TORCH
def test_regression_is_selected_by_r2(tmp_path):
    parts = [
        open_dataset((images, labels * 1.7 + 0.1), task="regression")
        for images, labels in (striped(90), striped(45, seed=1))
    ]
    found = chosen(parts, tmp_path, ENCODERS[:2], epochs=6)
    assert found.measure == "r2"
    assert found.low < found.value < found.high
    model = load_winner(tmp_path)
    assert model.score(parts[1]) == pytest.approx(found.value, abs=1e-5)
    assert model.predict(parts[1]).shape == (45, 1)


@TORCH
def test_several_labels_per_sample_are_refused(tmp_path):
    images, labels = striped(30)
    columns = np.stack([labels == 0, labels != 1], axis=1).astype(float)
    several = open_dataset((list(images), columns), task="multilabel")
    with pytest.raises(InputError, match=r"several labels per sample.*Use `finetune`"):
        select(several, ENCODERS, out=tmp_path)


@TORCH
def test_encoders_of_your_own_are_selected(data, tmp_path):
    import torch

    from transferscope.encoders import ImagePreprocessing, from_module

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, stride=2), torch.nn.ReLU())
    encoder = from_module(network, ImagePreprocessing((16, 16), (16, 16)), identifier="one-conv")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = chosen(data, tmp_path, [encoder], learning_rates=(1e-2,))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert found.winner == "one-conv"
    assert found.checkpoint is None
    assert load_winner(tmp_path, encoder=encoder).score(data[1]) == found.value


# -- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), (" 2H ", 7200), ("1.5m", 90)],
)
def test_durations(text, seconds):
    assert duration(text, "--budget") == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "1x", "-5m", "0s", "1h 30", "1h-5m", "nan", "1e3s"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(
        InputError, match=r"--budget must be a time above 0.*Write 90s, 10m or 1h30m"
    ):
        duration(text, "--budget")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("stripes") / "stripes.npz"
    (images, labels), (others, answers) = striped(60), striped(45, seed=1)
    np.savez(
        path, train_images=images, train_labels=labels, test_images=others, test_labels=answers
    )
    return path


def command(archive: Path, *more: object) -> list[str]:
    line = [sys.executable, "-m", "transferscope", "select", archive, "--split", "train",
            "--test-split", "test", "--epochs", 4, "--learning-rates", "1e-3,3e-3", "--seeds", 2,
            "--batch-size", 16, "--tolerance", 0.0001, *more]  # fmt: skip
    return list(map(str, line))


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


@TORCH
def test_killed_and_repeated_command_leaves_the_same_bits(archive, tmp_path):
    outcomes = []
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        options = {"cwd": tmp_path / name, "env": ENVIRONMENT, "text": True}
        line = command(archive, "-e", ",".join(ENCODERS), "--out", "out", "--format", "json")
        if name == "killed":
            process = subprocess.Popen(line, stdout=subprocess.DEVNULL, **options)
            deadline = time.monotonic() + 120
            journal = tmp_path / name / "out" / "selection.json"
            while not (journal.exists() and journal.read_text().count('"scores"') >= 3):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = subprocess.run(line, check=True, capture_output=True, **options)
        outcomes.append(without_seconds(json.loads(done.stdout)))
    assert outcomes[0] == outcomes[1]
    assert bits(tmp_path / "killed" / "out") == bits(tmp_path / "whole" / "out")


@TORCH
def test_command_shows_what_it_found_and_how_to_load_it(archive, tmp_path):
    path = tmp_path / "r.json"
    ranking(path, *({"encoder": name} for name in (ENCODERS[0], "mini/nothing")))
    line = command(archive, "--ranking", path, "--out", tmp_path / "out")
    done = subprocess.run(line, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert "failed: bundled encoder" in " ".join(done.stdout.replace("│", " ").split())
    (load,) = [one for one in done.stdout.splitlines() if one.startswith("load it: ")]
    found = Selection.from_json(
        json.dumps(
            json.loads((tmp_path / "out" / "selection.json").read_text())["ended"]["selection"]
        )
    )
    assert done.stdout.startswith(f"{ENCODERS[0]} on stripes")
    names: dict[str, object] = {"transferscope": transferscope}
    exec(load.removeprefix("load it: "), names)  # the line that users are told to run
    test = open_dataset(str(archive), split="test")
    assert names["model"].score(test) == found.value


@TORCH
def test_command_that_is_stopped_says_what_it_knows(archive, tmp_path):
    line = command(archive, "-e", ",".join(ENCODERS), "--out", tmp_path / "out")
    line[line.index("--epochs") + 1] = "20"
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # whoever runs the tests in the background has interrupts ignored
    heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(line, env=ENVIRONMENT, preexec_fn=heed, **pipe)
    deadline = time.monotonic() + 120
    journal = tmp_path / "out" / "selection.json"
    # a second trial: what the first one was is known by then
    while not (journal.exists() and journal.read_text().count('"scores"') >= 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"{ENCODERS[0]} leads on stripes" in out
    assert errors == "interrupted; epochs that ended are kept, the same command continues\n"


@TORCH
def test_command_without_a_candidate_that_trains_fails(archive, tmp_path):
    line = command(archive, "-e", "mini/nothing", "--out", tmp_path / "out")
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 1
    assert "failed no candidate could be fine-tuned on stripes: mini/nothing" in done.stderr


@pytest.mark.parametrize("more", [(), ("-e", "mini/all", "--ranking", "r.json")])
def test_candidates_are_named_in_one_way(archive, tmp_path, more):
    line = command(archive, *more, "--out", tmp_path / "out")
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "one of the two" in done.stderr


def test_trials_are_a_frame_with_types(whole):
    found, _ = whole
    frame = found.trials_frame()
    assert list(frame["encoder"]) == [t.encoder for t in found.trials]
    assert frame["epochs"].dtype == "Int64"
    assert set(frame.columns) == set(asdict(found.trials[0]))
