"""Task-relatedness: a bound that is one, its terms, and what comes in badly."""

from __future__ import annotations

import importlib
import itertools
import json

import numpy as np
import pytest
import scipy.optimize
from typer.testing import CliRunner

from pictures import shows_data
from reference import relatedness as literal
from transferscope import rank, score
from transferscope.cli import app
from transferscope.datasets import open_dataset
from transferscope.embedding import Embedding
from transferscope.errors import BoundError, FeatureError, InputError
from transferscope.extraction import extract
from transferscope.metrics import relatedness, relatedness_unlabelled
from transferscope.metrics._relatedness import measure_relatedness
from transferscope.plots import plot_relatedness, plot_steepness, save_figure
from transferscope.relatedness import SETTINGS, LinearHead, _bound, task_relatedness
from transferscope.relatedness._head import train_head
from transferscope.relatedness._transform import Side, Transform, label_map
from transferscope.storage.feature_files import write_feature_file


def task(seed, n=240, d=5, n_classes=4, spread=1.0, imbalance=0.0):
    """Gaussian classes; `imbalance` > 0 makes later classes rarer."""
    rng = np.random.default_rng(seed)
    shares = np.exp(-imbalance * np.arange(n_classes))
    labels = rng.choice(n_classes, size=n, p=shares / shares.sum())
    labels[: 6 * n_classes] = np.repeat(np.arange(n_classes), 6)
    centres = 2 * np.random.default_rng(99).standard_normal((max(n_classes, 12), d))
    return centres[labels] + spread * rng.standard_normal((n, d)), labels


@pytest.mark.parametrize("part", range(10))
def test_bound_is_never_below_the_loss(part):
    """200 random pairs over sizes, class counts, imbalance and settings."""
    for seed in range(20 * part, 20 * part + 20):
        rng = np.random.default_rng(seed)
        d = int(rng.integers(1, 12))
        z, y = task(seed, int(rng.integers(60, 160)), d, int(rng.integers(2, 6)),
                    float(rng.uniform(0.2, 3)), float(rng.uniform(0, 1)))  # fmt: skip
        x, t = task(seed + 1000, int(rng.integers(60, 160)), d, int(rng.integers(2, 6)),
                    float(rng.uniform(0.2, 3)), float(rng.uniform(0, 1)))  # fmt: skip
        x = x @ rng.standard_normal((d, d)) + 5 * rng.standard_normal(d)
        found = task_relatedness(
            x,
            t,
            reference_features=z,
            reference_labels=y,
            setting=SETTINGS[seed % 4],
            unlabelled=seed % 7 == 0,
            measure_target=False,
            match=("transport", "random")[seed % 3 == 0],
            tau=float(rng.uniform(0.05, 1)),
        )
        assert found.bound >= found.transformed_loss, seed
        terms = found.reference_loss + found.label_mismatch + found.distribution_mismatch
        assert found.bound == pytest.approx(terms)
        assert found.bound == pytest.approx(float(np.mean(found.target_terms)))


@pytest.mark.parametrize("n_reference", [2, 3, 5])
def test_terms_are_those_of_the_literal_formula(n_reference):
    rng = np.random.default_rng(n_reference)
    z, y = task(1, 40, 3, n_reference)
    x, t = task(2, 24, 3, 3)
    shares = rng.dirichlet(np.ones(n_reference), 3) if n_reference > 2 else np.eye(2)[[0, 1, 1]]
    learned = Transform(rng.standard_normal((3, 3)), rng.standard_normal(3), shares)
    head = LinearHead(rng.standard_normal((n_reference, 3)), rng.standard_normal(n_reference))
    terms = _bound.evaluate(head, learned, Side(z, y), Side(x, t), t)
    label_matrix, prior = label_map(shares, np.bincount(t) / len(t))
    np.testing.assert_allclose(label_matrix.sum(axis=0), 1)
    np.testing.assert_allclose(label_matrix @ prior, np.bincount(t) / len(t))
    expected = literal.relatedness(
        *head, learned.matrix, learned.offset, label_matrix, shares, z, y, x, t
    )
    np.testing.assert_allclose(terms[:2], expected[:2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(terms[2:5], expected[2:], rtol=1e-7)


@pytest.mark.parametrize(
    ("setting", "reference_loss", "wasserstein", "transformed_loss", "bound"),
    [
        ("fixed_all", 0.90454, 1.01395, 0.96049, 1.41152),
        ("learned_a", 0.90454, 0.88289, 0.96676, 1.34599),
        ("sparse", 0.90454, 0.88289, 0.96676, 1.34599),
        ("learned_all", 0.90454, 0.88289, 0.96676, 1.34599),
    ],
)
def test_stored_values(setting, reference_loss, wasserstein, transformed_loss, bound):
    """What this library gave on 2026-11-21, after the head's steepness was bounded."""
    z, y = task(30, 300, 5, 4, 0.7)
    x, t = task(31, 300, 5, 4, 0.9)
    found = task_relatedness(
        x * [1, 2, 0.5, 1, 3] + 1,
        t,
        reference_features=z,
        reference_labels=y,
        setting=setting,
        tau=0.5,
    )
    assert found.reference_loss == pytest.approx(reference_loss, rel=1e-3)
    assert found.wasserstein == pytest.approx(wasserstein, rel=1e-3)
    assert found.transformed_loss == pytest.approx(transformed_loss, rel=1e-3)
    assert found.bound == pytest.approx(bound, rel=1e-3)
    assert found.tau == pytest.approx(0.5)
    assert found.label_mismatch == 0


def test_a_bound_that_is_none_is_an_error(monkeypatch):
    monkeypatch.setattr(LinearHead, "steepness", 0.0)
    z, y = task(0)
    x, t = task(1)
    with pytest.raises(BoundError, match="no finite number above the loss"):
        task_relatedness(
            x[:, ::-1],
            t,
            reference_features=z,
            reference_labels=y,
            setting="fixed_all",
            match="random",
            seed=1,
        )


def test_no_gradient_of_the_head_is_longer_than_its_steepness():
    """Gradients taken by differences, near the samples and far away, where one class is certain."""
    z, y = task(3, 400, 4, 3)
    head = train_head(z[:300], y[:300], 3, 0.4, (z[300:], y[300:]))
    step, longest = 1e-5, 0.0
    for place in np.concatenate([z[:50], 1000 * z[:50]]):
        slopes = [
            head.log_probabilities(np.stack([place + step * e, place - step * e]))
            for e in np.eye(4)
        ]
        gradients = np.array([(s[0] - s[1]) / (2 * step) for s in slopes])
        longest = max(longest, float(np.linalg.norm(gradients, axis=0).max()))
    assert 0.99 * head.steepness < longest < head.steepness * (1 + 1e-6)


@pytest.mark.parametrize("tau", [0.02, 0.2, 1.0])
def test_the_head_is_the_best_of_its_steepness(tau):
    """Against scipy's SLSQP, which is told of the distances as constraints."""
    z, y = task(3, 400, 4, 3)
    head = train_head(z, y, 3, tau, (z, y))
    assert head.steepness <= tau * (1 + 1e-12)

    def unpack(theta):
        return LinearHead(theta[:12].reshape(3, 4), theta[12:])

    def loss(theta):
        return -np.mean(unpack(theta).log_probabilities(z)[np.arange(400), y])

    def room(theta):
        return tau**2 - unpack(theta).distances()[np.triu_indices(3, 1)] ** 2

    start = np.concatenate([0.5 * head.weights.ravel(), head.bias])
    best = scipy.optimize.minimize(
        loss, start, constraints={"type": "ineq", "fun": room}, options={"ftol": 1e-12}
    )
    assert best.success
    mine = loss(np.concatenate([head.weights.ravel(), head.bias]))
    assert mine == pytest.approx(best.fun, rel=2e-3)


def test_learning_lowers_the_bound_and_finds_the_map():
    z, y = task(4, 1500, 6, 4, 0.5)
    x, t = task(5, 1500, 6, 4, 0.5)
    mix = np.eye(6) + 0.3 * np.random.default_rng(0).standard_normal((6, 6))
    found = {
        setting: task_relatedness(
            x @ mix + 3,
            t,
            reference_features=z,
            reference_labels=y,
            setting=setting,
            match="name",
            tau=2,
        )
        for setting in SETTINGS
    }
    assert found["learned_a"].bound < 0.9 * found["fixed_all"].bound
    assert found["sparse"].bound <= found["learned_a"].bound * 1.001
    trace = found["learned_a"].trace
    assert all(after <= before * (1 + 1e-9) for before, after in itertools.pairwise(trace))
    assert found["sparse"].transformed_accuracy > 0.95
    assert found["fixed_all"].condition_number == 1


def test_all_learned_mends_a_wrong_matching():
    z, y = task(4, 900, 6, 4, 0.3)
    x, t = task(5, 900, 6, 4, 0.3)
    wrong = task_relatedness(
        x, t, reference_features=z, reference_labels=y, setting="fixed_all", match="random", seed=3
    )
    mended = task_relatedness(
        x,
        t,
        reference_features=z,
        reference_labels=y,
        setting="learned_all",
        match="random",
        seed=3,
    )
    assert mended.bound < 0.7 * wrong.bound
    assert mended.transformed_accuracy > 0.9 > wrong.transformed_accuracy


def test_more_reference_classes_share_a_target_class():
    z, y = task(6, 900, 5, 6, 0.6)
    x, t = z[::2] + 0.1, y[::2] // 2
    one = task_relatedness(x, t, reference_features=z, reference_labels=y)
    more = task_relatedness(x, t, reference_features=z, reference_labels=y, n_reference_classes=6)
    assert len(one.reference_classes) == 3
    assert more.label_matrix.shape == (3, 6)
    assert more.label_mismatch == 0
    assert more.reference_prior.sum() == pytest.approx(1)
    fewer = task_relatedness(z, y, reference_features=x, reference_labels=t)
    assert fewer.label_mismatch > 0.3
    with pytest.raises(InputError, match="between 3, one for each target class, and the 6"):
        task_relatedness(x, t, reference_features=z, reference_labels=y, n_reference_classes=7)


def test_unlabelled_finds_the_classes_and_says_how_well():
    z, y = task(4, 900, 6, 4, 0.3)
    x, t = task(5, 900, 6, 4, 0.3)
    found = task_relatedness(x + 1, t, reference_features=z, reference_labels=y, unlabelled=True)
    assert found.pseudo_label_agreement > 0.9
    blind = task_relatedness(x + 1, reference_features=z, reference_labels=y)
    assert (blind.pseudo_label_agreement, blind.target_loss) == (None, None)
    assert json.loads(blind.to_json())["target_accuracy"] is None


def test_pseudo_class_that_was_not_met_while_learning():
    z, y = task(4, 60, 3, 3)
    learned = Transform(np.eye(3), np.zeros(3), np.eye(3))
    head = train_head(z, y, 3, 0.2, (z, y))
    terms = _bound.evaluate(head, learned, Side(z, y), Side(z, y), np.zeros(9, np.int64))
    assert np.isfinite(terms.values()["bound"])
    np.testing.assert_array_equal(terms.label_matrix, np.eye(3))


def test_given_head_is_used_on_the_features_as_they_are():
    z, y = task(7, 600, 4, 3)
    head = (np.random.default_rng(0).standard_normal((3, 4)), np.array([0.1, 0.2, 0.3]))
    found = task_relatedness(
        z[::-1],
        y[::-1],
        reference_features=z,
        reference_labels=y,
        setting="fixed_all",
        match="name",
        reference_head=head,
    )
    rows = np.arange(600)
    log_p = LinearHead(*head).log_probabilities(z)
    assert found.reference_loss == pytest.approx(-log_p[rows, y].mean(), rel=0.25)
    with pytest.raises(InputError, match="reference_head must be weights"):
        task_relatedness(
            z, y, reference_features=z, reference_labels=y, reference_head=(np.eye(3), np.zeros(3))
        )


def test_test_samples_are_what_is_evaluated():
    z, y = task(8, 400)
    x, t = task(9, 400)
    found = task_relatedness(
        x[:300],
        t[:300],
        reference_features=z[:300],
        reference_labels=y[:300],
        reference_test_features=z[300:],
        reference_test_labels=y[300:],
        test_features=x[300:],
        test_labels=t[300:],
    )
    assert found.held_out_rows is None
    assert len(found.target_terms) == 100
    with pytest.raises(InputError, match="hold \\[9\\]"):
        task_relatedness(
            x,
            t,
            reference_features=z,
            reference_labels=y,
            test_features=x[:9],
            test_labels=[9, 0, 1, 2, 0, 1, 2, 0, 1],
        )
    with pytest.raises(InputError, match="Give both or neither"):
        task_relatedness(x, t, reference_features=z, reference_labels=y, test_features=x)
    with pytest.raises(InputError, match="reference_test_features and reference_test_labels"):
        task_relatedness(x, t, reference_features=z, reference_labels=y, reference_test_features=x)
    with pytest.raises(InputError, match="test_labels need test_features"):
        task_relatedness(x, t, reference_features=z, reference_labels=y, test_labels=t)


def test_deterministic_and_the_same_for_torch(as_backend):
    z, y = task(10, 300)
    x, t = task(11, 300)
    first, second = (
        task_relatedness(x, t, reference_features=z, reference_labels=y) for _ in range(2)
    )
    assert first.bound == second.bound
    for library in ("torch", "cuda", "strict"):
        try:
            found = task_relatedness(
                as_backend(library, x),
                t,
                reference_features=as_backend(library, z),
                reference_labels=y,
            )
        except pytest.skip.Exception:
            continue
        assert found.bound == pytest.approx(first.bound, rel=1e-6)


def test_bad_input_is_named():
    z, y = task(12)
    x, t = task(13)
    bad = x.copy()
    bad[3, 1] = np.nan
    with pytest.raises(FeatureError, match=r"^features must be finite, but row 3"):
        task_relatedness(bad, t, reference_features=z, reference_labels=y)
    with pytest.raises(FeatureError, match="reference_features are the same"):
        task_relatedness(x, t, reference_features=np.ones_like(z), reference_labels=y)
    with pytest.raises(InputError, match="columns"):
        task_relatedness(x[:, :3], t, reference_features=z, reference_labels=y)
    with pytest.raises(InputError, match=r"^labels must not be negative"):
        task_relatedness(x, t - 1, reference_features=z, reference_labels=y)
    with pytest.raises(InputError, match="reference_labels and features"):
        task_relatedness(x, t, reference_features=z, reference_labels=y[:-1])
    with pytest.raises(InputError, match="match='name' needs"):
        task_relatedness(
            x, np.array(list("abcd"))[t], reference_features=z, reference_labels=y, match="name"
        )
    with pytest.raises(InputError, match=r"^labels need at least 3 samples of each class"):
        task_relatedness(x[:4], [0, 1, 2, 3], reference_features=z, reference_labels=y)
    for option, value in (("setting", "all"), ("match", "best")):
        with pytest.raises(InputError, match=f"{option} must be one of"):
            task_relatedness(x, t, reference_features=z, reference_labels=y, **{option: value})
    for option, value in (("tau", 0.0), ("tau", np.inf)):
        with pytest.raises(InputError, match=f"{option} must be"):
            task_relatedness(x, t, reference_features=z, reference_labels=y, **{option: value})


def test_rare_classes_are_left_out_and_said():
    z, y = task(12)
    x, t = task(13)
    t = np.r_[t, 8, 9, 9]
    x = np.r_[x, x[:3]]
    found = task_relatedness(x, t, reference_features=z, reference_labels=y)
    assert found.target_classes == ("0", "1", "2", "3")
    assert "classes of labels with fewer than 3 samples are left out: 8, 9" in found.warnings[0]
    constant = np.column_stack([z, np.full(len(z), 3.0)])
    assert np.isfinite(
        task_relatedness(
            np.column_stack([x, x[:, 0]]), t, reference_features=constant, reference_labels=y
        ).bound
    )


def test_record_and_figures(tmp_path):
    z, y = task(14)
    x, t = task(15)
    found = task_relatedness(x, t, reference_features=z, reference_labels=y)
    record = json.loads(found.to_json())
    assert record["transformed_loss"] == found.transformed_loss
    assert record["bound"] == found.bound
    assert found.to_frame()["value"]["bound"] == found.bound
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figure = plot_relatedness(found)
    bars, plane = figure.axes
    tops = [patch.get_y() + patch.get_height() for patch in bars.patches]
    assert max(tops) == pytest.approx(found.bound)
    (floor,) = [line for line in bars.lines if line.get_label() == "of it by sampling alone"]
    below = found.reference_loss + found.label_mismatch
    np.testing.assert_allclose(floor.get_ydata(), below + found.noise_floor)
    labels = [text.get_text() for text in bars.get_legend().get_texts()]
    assert sum("own head" in text for text in labels) == 2
    assert len(plane.collections) == 3
    several = plot_relatedness(
        {"a": found, "b": task_relatedness(x, reference_features=z, reference_labels=y)}
    )
    save_figure(several, tmp_path / "several.png")
    along = [
        task_relatedness(x, t, reference_features=z, reference_labels=y, tau=tau)
        for tau in (0.4, 0.1, 0.2)
    ]
    (axes,) = plot_steepness(along).axes
    tops = axes.collections[2].get_paths()[0].vertices
    for one in along:
        assert tops[np.isclose(tops[:, 0], one.tau), 1].max() == pytest.approx(one.bound)
    assert len(axes.lines) == 3
    with pytest.raises(InputError, match="at least two values of tau"):
        plot_steepness(along[:1])
    assert len(several.axes[0].patches) == 6


def test_metric_is_minus_the_bound_and_orders():
    z, y = task(16, 400, 5, 4, 0.5)
    near, t = task(17, 400, 5, 4, 0.5)
    far = np.random.default_rng(0).standard_normal(near.shape)
    for value in (
        [relatedness(x, t, reference_features=z, reference_labels=y) for x in (near, far)],
        [relatedness_unlabelled(x, reference_features=z, reference_labels=y) for x in (near, far)],
    ):
        assert 0 >= value[0] > value[1]
    table = score(near, t, "relatedness", reference_features=z, reference_labels=y)
    assert table["relatedness"] == relatedness(near, t, reference_features=z, reference_labels=y)
    assert "reference_features" in score(near, t, "relatedness").skipped["relatedness"]


def test_large_sides_are_sampled(monkeypatch):
    # the metric of that name hides the module
    module = importlib.import_module("transferscope.metrics._relatedness")
    monkeypatch.setattr(module, "LIMIT", 100)
    z, y = task(18)
    x, t = task(19)
    measured = measure_relatedness(Embedding(x, t, reference_features=z, reference_labels=y))
    assert "samples: a stratified sample of 100 of 240" in measured.warnings
    assert np.count_nonzero(measured.influence()) > 5


def test_standard_error_is_of_the_size_of_the_spread():
    """Over fresh data sets; the transform learned anew adds what the influences leave out."""
    z, y = task(20, 400)
    values, errors = [], []
    for seed in range(20):
        x, t = task(100 + seed, 400)
        measured = measure_relatedness(Embedding(x, t, reference_features=z, reference_labels=y))
        values.append(measured.value)
        errors.append(measured.influence().std() / 20)
    assert 0.3 < np.mean(errors) / np.std(values, ddof=1) < 3


@pytest.mark.needs("torch")
def test_rank_by_relatedness():
    ranking = rank(
        open_dataset("sklearn/digits", per_class=20),
        "mini/resnet-mnist-supervised,mini/resnet-random",
        "relatedness,relatedness_unlabelled",
        reference="sklearn/digits",
        store=None,
    )
    assert ranking.best.rank == 1
    assert set(ranking.metrics) == {"relatedness", "relatedness_unlabelled"}


@pytest.mark.needs("matplotlib")
def test_command(tmp_path):
    z, y = task(21)
    x, t = task(22)
    write_feature_file(tmp_path / "r.safetensors", {"features": z, "labels": y}, {})
    np.savez(tmp_path / "t.npz", features=x[40:], labels=t[40:], test_features=x[:40],
             test_labels=t[:40])  # fmt: skip
    files = ["task-relatedness", str(tmp_path / "t.npz"), "--reference",
             str(tmp_path / "r.safetensors")]  # fmt: skip
    done = CliRunner().invoke(app, [*files, "--setting", "learned_all", "--format", "json"])
    assert done.exit_code == 0, done.output
    expected = task_relatedness(
        x[40:],
        t[40:],
        reference_features=z,
        reference_labels=y,
        setting="learned_all",
        test_features=x[:40],
        test_labels=t[:40],
    )
    found = json.loads(done.stdout)
    assert found["bound"] == expected.bound
    assert set(found) >= {
        "setting", "bound", "reference_loss", "label_mismatch", "distribution_mismatch", "tau",
        "wasserstein", "transformed_loss", "transformed_accuracy", "target_loss", "target_accuracy",
        "condition_number", "seconds", "warnings",
    }  # fmt: skip
    shown = CliRunner().invoke(app, [*files, "--unlabelled", "--plot", str(tmp_path / "f.png")])
    assert "agreement with labels" in shown.output
    assert "pseudo label accuracy" in shown.output
    assert shows_data(tmp_path / "f.png")
    np.savez(tmp_path / "bare.npz", features=x)
    done = CliRunner().invoke(app, ["task-relatedness", str(tmp_path / "t.npz"),
                                    "--reference", str(tmp_path / "bare.npz")])  # fmt: skip
    assert isinstance(done.exception, InputError)
    assert "holds no labels" in str(done.exception)
    done = CliRunner().invoke(app, [*files, "--split", "test"])
    assert "feature files have none" in str(done.exception)


@pytest.mark.needs("matplotlib")
def test_command_relates_several_targets(tmp_path):
    """As one call each, in one table and one figure; and terms against the steepness."""
    z, y = task(21)
    np.savez(tmp_path / "r.npz", features=z, labels=y)
    for seed, name in ((22, "near"), (23, "far")):
        x, t = task(seed, spread=seed - 21)
        np.savez(tmp_path / f"{name}.npz", features=x, labels=t)
    near, far, known = (str(tmp_path / f"{name}.npz") for name in ("near", "far", "r"))
    command = ["task-relatedness", near, "--reference", known]
    several = [*command, "--also", far, "--refits", "2", "--format", "json"]
    done = CliRunner().invoke(app, [*several, "--plot", str(tmp_path / "several.png")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found) == [near, far]
    x, t = task(23, spread=2)
    alone = task_relatedness(x, t, reference_features=z, reference_labels=y, n_refits=2)
    assert found[far]["bound"] == alone.bound
    assert found[far]["standard_errors"] == alone.standard_errors
    assert shows_data(tmp_path / "several.png")
    shown = CliRunner().invoke(app, [*command, "--also", far])
    assert "noise floor" in shown.output
    done = CliRunner().invoke(app, [*command, "--plot-path", str(tmp_path / "path.png")])
    assert done.exit_code == 0, done.output
    assert shows_data(tmp_path / "path.png")
    for options, said in (
        (["--also", near], "each data set is related once"),
        (["--also", far, "--plot-path", str(tmp_path / "p.png")], "--plot-path is of one data set"),
        (["--refits", "1"], "--refits must be 0, or at least 2"),
        (["--tau", "steep"], "--tau must be a number, reference or width; got 'steep'"),
        (["--tau", "-1"], "--tau must be positive"),
        (["--reference-head", near], "must hold the arrays weights and bias"),
        (["--reference-head", str(tmp_path / "none.npz")], "a .npz file that exists"),
    ):
        refused = CliRunner().invoke(app, [*command, *options])
        assert isinstance(refused.exception, InputError), options
        assert said in str(refused.exception)


def test_command_takes_a_head_classes_and_a_part_of_the_reference(tmp_path):
    z, y = task(24, 400, 5, 6)
    x, t = task(25, 300, 5, 3)
    rng = np.random.default_rng(0)
    head = rng.standard_normal((6, 5)), rng.standard_normal(6)
    np.savez(tmp_path / "r.npz", features=z, labels=y)
    np.savez(tmp_path / "t.npz", features=x, labels=t)
    np.savez(tmp_path / "h.npz", weights=head[0], bias=head[1])
    command = ["task-relatedness", str(tmp_path / "t.npz"), "--reference", str(tmp_path / "r.npz"),
               "--format", "json"]  # fmt: skip

    def found(*options):
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    given = found("--reference-head", str(tmp_path / "h.npz"))
    expected = task_relatedness(x, t, reference_features=z, reference_labels=y, reference_head=head)
    assert given["bound"] == expected.bound
    assert given["steepness_path"] == []
    assert len(found("--reference-classes", "5")["reference_classes"]) == 5
    fewer = found("--reference-samples", "90", "--tau", "width")
    least = found("--reference-per-class", "10", "--tau", "width")
    assert len({fewer["bound"], least["bound"], found("--tau", "width")["bound"]}) == 3
    np.savez(tmp_path / "t.npz", features=x[:, :4], labels=t)
    refused = CliRunner().invoke(app, command)
    assert "both must come from the same encoder" in str(refused.exception)


@pytest.mark.needs("torch")
def test_command_checks_before_it_extracts(tmp_path, monkeypatch):
    module = importlib.import_module("transferscope.cli._options")

    def never(*_):
        raise AssertionError("features were computed")

    monkeypatch.setattr(module.ExtractionOptions, "extract", never)
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    for name, labels in (
        ("a", np.array(["cat", "dog"])[np.arange(40) % 2]),
        ("b", np.array(["cat", "fox"])[np.arange(40) % 2]),
        ("numbers", np.linspace(0, 1, 40)),
    ):
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    np.savez(tmp_path / "h.npz", weights=np.ones((3, 4)), bias=np.ones(3))
    a, b, numbers = (str(tmp_path / f"{name}.npz") for name in ("a", "b", "numbers"))
    for options, said in (
        ([a, "--reference", b, "--match", "name"], "there is none for dog"),
        ([a, "--reference", numbers], "a reference task needs classes"),
        ([numbers, "--reference", a], "Use --unlabelled"),
        ([a, "--reference", b, "--reference-head", str(tmp_path / "h.npz")], "each of the 2"),
    ):
        done = CliRunner().invoke(
            app, ["task-relatedness", *options, "--encoder", "mini/resnet-random"]
        )
        assert isinstance(done.exception, InputError), done.output
        assert said in str(done.exception)


@pytest.mark.needs("torch")
def test_command_on_two_parts_of_a_data_set(tmp_path):
    """The same as extracting both parts and handing in their features."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60) % 3
    images[np.arange(60), labels] = 255
    data = tmp_path / "stripes.npz"
    np.savez(data, train_images=images[:36], train_labels=labels[:36], test_images=images[36:],
             test_labels=labels[36:])  # fmt: skip
    done = CliRunner().invoke(
        app,
        ["task-relatedness", str(data), "--split", "test", "--reference", str(data),
         "--encoder", "mini/resnet-random", "--store", str(tmp_path / "s"), "--format", "json"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    sides = [
        extract(open_dataset(data, split=split), ["mini/resnet-random"], store=None)
        for split in ("train", "test")
    ]
    z, x = (next(iter(side)).embedding(0).features for side in sides)
    expected = task_relatedness(x, labels[36:], reference_features=z, reference_labels=labels[:36])
    assert json.loads(done.stdout)["bound"] == pytest.approx(expected.bound, rel=1e-6)
