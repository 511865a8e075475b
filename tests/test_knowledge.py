"""What is already known: the model, its conditioning against literal formulas, names, commands."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from typer.testing import CliRunner

import transferscope
from transferscope.cli import app, stdout
from transferscope.errors import InputError, UnknownNameError
from transferscope.knowledge import (
    SOURCES,
    known_encoders,
    published_results,
    select_encoders,
    with_baselines,
)
from transferscope.knowledge._conditioning import (
    ALIKE,
    GRID,
    KIN,
    REPEATS,
    TAILED,
    TRUST,
    Cells,
    condition,
)
from transferscope.knowledge._fit import N_FACTORS, result_matrix
from transferscope.knowledge._model import KINDS, Model, fit_model, logit
from transferscope.knowledge._names import Candidates, find_known
from transferscope.knowledge._tasks import LeftOut, with_tasks
from transferscope.results import Expectation

BGE = "hf/BAAI/bge-base-en-v1.5"
NOTHING = Cells(np.empty(0, int), np.empty(0))


def a_model(n: int = 7, k: int = 2) -> Model:
    rng = np.random.default_rng(3)
    roots = rng.standard_normal((n, 1 + k, 1 + k)) / 8
    return Model(
        weights=rng.standard_normal((n, 1 + k)) / 2,
        covariance=roots @ roots.transpose(0, 2, 1),
        noise=rng.uniform(0.02, 0.1, n),
        kin=np.stack([np.arange(n) // 2, np.arange(n) % 4], axis=1),
        kind_factors=np.array([[0.0] * k, [0.3] * k]),
        log_spread=np.array([0.1, 0.4]),
        log_roughness=np.array([-0.1, -0.4, 0.3]),
        level=np.array([0.5, 0.2, 0.9]),
        scatter=np.eye(1 + k) / 8,
    )


def own(model: Model, i: int) -> float:
    """Variance of an encoder on a task besides that of the factors."""
    return float(model.noise[i] + np.trace(model.covariance[i][1:, 1:]))


def kinship(model: Model, i: int, j: int) -> float:
    """Share of it that two encoders have in common."""
    if i == j:
        return 1.0
    same = model.kin[i] == model.kin[j]
    return float(KIN[0] * same[0] + KIN[1] * same[1])


def literal(model: Model, kind: int, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the logits on the user's task: sums over cells and the grid, in words.

    For every spread and roughness the covariance of any two encoders is written down, and the
    normal distribution conditioned by the textbook's formula.
    """
    n, k = len(model.noise), model.weights.shape[1] - 1
    at = [1.0, *model.kind_factors[kind]]
    standing = [sum(w * x for w, x in zip(row, at, strict=True)) for row in model.weights]
    parts = []
    for step_s, step_r in GRID:
        s = np.exp(model.log_spread[0] + model.log_spread[1] * step_s)
        rough = model.log_roughness
        r = np.exp(rough[0] + rough[1] * np.log(s) + rough[2] * step_r)
        mean = np.array([model.level[0] + model.level[1] * np.log(s) + s * m for m in standing])
        covariance = np.empty((n, n))
        for i, j in itertools.product(range(n), range(n)):
            shared = sum(model.weights[i, 1 + f] * model.weights[j, 1 + f] for f in range(k))
            shared += kinship(model, i, j) * r * np.sqrt(own(model, i) * own(model, j))
            if i == j:
                v = model.covariance[i]
                shared += sum(at[a] * v[a, b] * at[b] for a in range(1 + k) for b in range(1 + k))
            covariance[i, j] = s * s * shared + model.level[2] ** 2
        o = cells.rows
        seen = covariance[np.ix_(o, o)] + REPEATS * np.eye(len(o))
        off = np.log(cells.values / (1 - cells.values)) - mean[o]
        gain = covariance[:, o] @ np.linalg.inv(seen)
        log_weight = -off @ np.linalg.inv(seen) @ off / 2 - np.log(np.linalg.det(seen)) / 2
        if len(o) > 1:  # differences to the first, of which the level is no part
            to_first = np.eye(len(o))[1:] - np.eye(len(o))[0]
            v, d = to_first @ seen @ to_first.T, to_first @ off
            differences = -d @ np.linalg.inv(v) @ d / 2 - np.log(np.linalg.det(v)) / 2
            log_weight -= (1 - TRUST) * differences
        log_weight -= (step_s**2 + step_r**2) / 2
        variance = np.diag(covariance - gain @ covariance[o]).copy()
        # what was measured is normal, what is foreseen has the variance of Student's t
        alone = np.array([(1 - sum(KIN)) * own(model, i) for i in range(n)])
        variance += s * s * r * (TAILED - 1) * alone
        parts.append((np.exp(log_weight), mean + gain @ off, variance))
    total = sum(w for w, *_ in parts)
    location = sum(w * m for w, m, _ in parts) / total
    return location, sum(w * (v + m**2) for w, m, v in parts) / total - location**2


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("rows", [[], [2], [0, 3, 4]])
def test_conditioning_is_the_textbooks(kind, rows):
    model = a_model()
    cells = Cells(np.array(rows, int), np.array([0.7, 0.62, 0.75])[: len(rows)])
    found = condition(model, kind, cells)
    location, variance = literal(model, kind, cells)
    np.testing.assert_allclose(found.location, location, atol=1e-9)
    np.testing.assert_allclose(found.scale**2, variance, atol=1e-9)
    assert (found.mean[rows] == cells.values).all()
    assert (found.sd[rows] == 0).all()


def test_draws_agree_with_the_moments():
    model, cells = a_model(), Cells(np.array([1, 5]), np.array([0.6, 0.8]))
    history = [Cells(np.array([0, 1, 2, 3]), np.array([0.5, 0.6, 0.7, 0.9]))]
    found = condition(model, 0, cells, history, draws=40_000)
    assert found.p_best.sum() == pytest.approx(1)
    assert (found.regret >= 0).all()
    # E max - E of one encoder: the same gap whichever encoder it is taken from
    assert np.ptp(found.regret + found.mean) == pytest.approx(0, abs=1e-12)
    # two encoders: the gap of the better is E max(0, other - it), here by quadrature
    pair = condition(model.take(np.array([0, 1])), 0, NOTHING, draws=40_000)
    assert pair.p_best[0] == pytest.approx(1 - pair.p_best[1])


def test_history_moves_an_encoder_and_its_like():
    model = a_model()
    before = condition(model, 0, Cells(np.array([0]), np.array([0.7])))
    history = [Cells(np.arange(7), np.where(np.arange(7) == 4, 0.95, 0.5))]
    after = condition(model, 0, Cells(np.array([0]), np.array([0.7])), history)
    assert after.location[4] > before.location[4]
    assert after.scale[4] < before.scale[4]
    assert 0 < ALIKE < 1


def test_a_failed_run_does_not_drag_the_others_down():
    model = a_model()
    rows = np.array([0, 1, 2, 3])
    good = condition(model, 0, Cells(rows, np.array([0.70, 0.62, 0.66, 0.71])))
    failed = condition(model, 0, Cells(rows, np.array([0.70, 0.62, 0.66, 0.002])))
    assert abs(failed.mean[5] - good.mean[5]) < 0.15


def simulated(n: int = 60, t: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Facts, accuracies of the model's own kind, and the truth of a task that is left out."""
    rng = np.random.default_rng(seed)
    facts = np.c_[np.ones(n), rng.standard_normal((n, 2))]
    standing = facts @ [0, 0.6, -0.3] + 0.3 * rng.standard_normal(n)
    loadings = 0.4 * rng.standard_normal((n, 1))
    residual = loadings @ rng.standard_normal((1, t)) + 0.2 * rng.standard_normal((n, t))
    level, spread = rng.standard_normal(t), np.exp(0.3 * rng.standard_normal(t))
    accuracy = expit(level + spread * (standing[:, None] + residual))
    return facts, accuracy, standing


def test_what_is_learned_is_what_was_put_in():
    facts, accuracy, standing = simulated()
    holes = accuracy.copy()
    holes[np.random.default_rng(1).random(holes.shape) < 0.5] = np.nan
    holes[-5:] = np.nan  # known by facts alone
    model = fit_model(holes, facts, np.zeros(30, int), n_factors=1)
    found, doubt = model.standing(0)
    assert np.corrcoef(found[:-5], standing[:-5])[0, 1] > 0.97
    assert np.corrcoef(found[-5:], facts[-5:] @ [0, 0.6, -0.3])[0, 1] > 0.9
    assert doubt[-5:].min() > doubt[:-5].max()
    again = fit_model(holes, facts, np.zeros(30, int), n_factors=1)
    assert all(
        (x == y).all() for x, y in zip(vars(model).values(), vars(again).values(), strict=True)
    )


def test_intervals_cover_tasks_that_were_left_out():
    inside = []
    for left in range(0, 30, 6):
        facts, accuracy, _ = simulated(seed=left)
        model = fit_model(np.delete(accuracy, 0, axis=1), facts, np.zeros(29, int), n_factors=1)
        truth = accuracy[:, 0]
        rows = np.arange(0, 60, 12)
        low, high = condition(model, 0, Cells(rows, truth[rows]), draws=2).interval(0.9)
        rest = np.delete(np.arange(60), rows)
        inside.append(((truth >= low) & (truth <= high))[rest].mean())
    # variances are widened on purpose, for tasks that follow the model less well than these do
    assert 0.85 < np.mean(inside) <= 1


def test_roughness_is_learned_of_tasks_that_were_left_out():
    rng = np.random.default_rng(5)
    model = replace(a_model(40), kin=np.tile(np.arange(40)[:, None], 2), log_roughness=np.zeros(3))
    model = replace(model, covariance=model.covariance / 1e3)
    found = {}
    for rough in (0.5, 4.0):
        tasks = []
        for _ in range(30):
            factors, level, spread = (
                rng.standard_normal(2),
                rng.normal(1, 0.5),
                np.exp(rng.normal() / 3),
            )
            residual = np.sqrt(rough * model.noise) * rng.standard_normal(40)
            logits = level + spread * (model.weights @ [1, *factors] + residual)
            tasks.append(LeftOut(model, 0, Cells(np.arange(40), expit(logits))))
        found[rough] = with_tasks(model, tasks)
        assert found[rough].log_spread == pytest.approx([0, 1 / 3], abs=0.2)
        assert found[rough].level[[0, 2]] == pytest.approx([1, 0.5], abs=0.25)
    at = [one.log_roughness[0] for one in found.values()]
    assert at == pytest.approx(np.log([0.5, 4.0]), abs=0.3)


def test_kin_share_what_they_have_on_a_task():
    model = replace(a_model(), weights=a_model().weights * [1, 0, 0])
    apart = replace(model, kin=np.tile(np.arange(7)[:, None], 2))
    kin = replace(apart, kin=apart.kin.copy())
    kin.kin[1] = kin.kin[0]
    cells = Cells(np.array([0, 2, 4]), np.array([0.7, 0.7, 0.7]))
    assert condition(kin, 0, cells).scale[1] < condition(apart, 0, cells).scale[1]


def test_accuracies_of_zero_and_one_are_kept_finite():
    assert np.isfinite(logit(np.array([0.0, 1.0]))).all()
    assert np.isnan(logit(np.array([np.nan]))).all()


def test_tables_are_whole():
    known, results = known_encoders(), published_results()
    assert len(known) > 2000
    assert len(results) > 50_000
    assert {one.source for one in results} <= set(SOURCES)
    assert {one.encoder for one in results} <= set(known)
    assert {one.kind for one in results} == set(KINDS)
    assert all(0 <= one.value <= 1 for one in results)
    assert len({(one.encoder, one.task, one.kind, one.source) for one in results}) == len(results)
    for modality in ("image", "text"):
        candidates = Candidates(modality)
        assert len(candidates.model.noise) == len(candidates.encoders)


def test_data_are_small():
    folder = Path(transferscope.__file__).parent / "knowledge" / "data"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6


@pytest.mark.parametrize(
    "names",
    [
        ("torchvision/resnet50?weights=IMAGENET1K_V1", "timm/resnet50.tv_in1k"),
        ("hf/timm/resnet50.tv_in1k", "resnet50.tv_in1k"),
        ("torchvision/resnet50", "timm/resnet50.tv2_in1k"),
        ("timm/resnet50", "timm/resnet50.a1_in1k"),
        ("BAAI/bge-base-en-v1.5", BGE),
        ("baai/BGE-base-en-v1.5", BGE),
        ("facebook/dinov2-base", "timm/vit_base_patch14_dinov2.lvd142m"),
        ("hf/openai/clip-vit-base-patch16", "timm/vit_base_patch16_clip_224.openai"),
        ("sfda-supervised/resnet50", "timm/resnet50.tv_in1k"),
        ("mms-vit/swin_t", "hf/microsoft/swin-tiny-patch4-window7-224"),
    ],
)
def test_one_encoder_under_several_names(names):
    first, second = map(find_known, names)
    assert first is not None
    assert first == second


def test_expectation_before_and_after_measuring():
    before = transferscope.expect(modality="text")
    after = transferscope.expect(
        {"BAAI/bge-base-en-v1.5": 0.85, "intfloat/e5-large-v2": 0.83}, modality="text"
    )
    means = [one.mean for one in after.encoders]
    assert means == sorted(means, reverse=True)
    assert after[BGE].measured == 0.85
    assert after[BGE].mean == 0.85
    assert after.n_measured == 2
    other = "hf/intfloat/e5-base-v2"
    assert after[other].sd < before[other].sd
    assert abs(after[other].mean - 0.83) < 0.1
    assert after.next.measured is None
    assert sum(one.p_best for one in after.encoders) == pytest.approx(1)
    assert "mteb" in after[other].sources
    assert not any(one.encoder.startswith("mini/") for one in after.encoders)


def test_expectation_is_a_record():
    names = [f"mini/{n}" for n in ("vit-random", "resnet-random", "resnet-cifar10-supervised")]
    found = transferscope.expect(
        {names[0]: 0.7}, modality="image", encoders=names, kind="fine-tuned"
    )
    assert Expectation.from_json(found.to_json()) == found
    assert len(found.to_frame()) == 3
    assert found.best.encoder in repr(found)
    assert "<table" in found._repr_html_()
    assert found.best.encoder == "mini/resnet-cifar10-supervised"
    with pytest.raises(UnknownNameError, match="is not among them"):
        found["mini/nothing"]


def test_history_is_read_as_finetune_writes_it(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "dataset,encoder,accuracy\n"
        + "".join(
            f"{d},{e},{v}\n"
            for d in "ab"
            for e, v in (
                ("mini/vit-random", 0.9),
                ("mini/resnet-random", 0.5),
                ("mini/resnet-cifar10-supervised", 0.6),
            )
        )
    )
    names = ["mini/vit-random", "mini/resnet-random", "mini/resnet-cifar10-supervised"]
    plain = transferscope.expect(modality="image", encoders=names, kind="fine-tuned")
    found = transferscope.expect(modality="image", encoders=names, kind="fine-tuned", history=path)

    def lead(record: Expectation) -> float:
        return record["mini/vit-random"].mean - record["mini/resnet-cifar10-supervised"].mean

    assert lead(found) > lead(plain) + 0.02
    same = transferscope.expect(
        modality="image", encoders=names, kind="fine-tuned", history=pd.read_csv(path)
    )
    assert same == found


@pytest.mark.parametrize(
    ("measured", "more", "message"),
    [
        ({"hf/BAAI/bge-bse-en-v1.5x": 83}, {}, "Divide percent by 100"),
        ({BGE: 1.2}, {}, "shares from 0 to 1"),
        ({BGE: -0.1}, {}, "shares from 0 to 1"),
        ({BGE: float("nan")}, {}, "shares from 0 to 1"),
        ({BGE: 0.8, "BAAI/bge-base-en-v1.5": 0.8}, {}, "the same weights"),
        ({"zzz/qqq-9000": 0.8}, {}, "is neither"),
        ({"facebook/dinov2-base": 0.8}, {}, "known for images alone"),
        ({}, {"encoders": []}, "at least one encoder"),
        ({}, {"encoders": BGE}, "sequence of names"),
        ({}, {"modality": "audio"}, "modality must be one of"),
        ({}, {"kind": "zero-shot"}, "kind must be one of"),
    ],
)
def test_bad_input_is_named(measured, more, message):
    with pytest.raises(InputError, match=message):
        transferscope.expect(measured, **({"modality": "text"} | more))


def test_unknown_names_bring_the_nearest():
    with pytest.raises(UnknownNameError, match=r"nearest known names are .*bge-base-en-v1.5"):
        transferscope.expect({"BAAI/bge-base-en-v1.55": 0.8}, modality="text")


def test_a_family_alone_is_a_wide_expectation():
    found = transferscope.expect(
        modality="image", encoders=["timm/resnet50.of_next_year", "timm/resnet50.tv_in1k"]
    )
    assert found["timm/resnet50.of_next_year"].sd > found["timm/resnet50.tv_in1k"].sd
    assert "is what its family, resnet, shows" in found.warnings[0]


def test_conditions():
    small = select_encoders("image", max_parameters=30e6, license="permissive", max_dim=400)
    known = known_encoders()
    assert small
    assert all(known[n].n_parameters <= 30e6 and known[n].feature_dim <= 400 for n in small)
    assert all(known[n].gpu_speed >= 5000 for n in select_encoders("image", min_speed=5000))
    assert {known[n].license for n in select_encoders("text", license="mit")} == {"mit"}
    with pytest.raises(
        InputError, match=r"no known text encoder meets all .*at most 3 dimensions: 0 of"
    ):
        select_encoders("text", max_dim=3)
    with pytest.raises(InputError, match="modality must be"):
        select_encoders("audio")


def test_shortlist_in_json(tmp_path):
    path = tmp_path / "measured.csv"
    path.write_text("encoder,accuracy\nBAAI/bge-base-en-v1.5,0.85\nintfloat/e5-large-v2,0.83\n")
    command = ["shortlist", "--modality", "text", "--measured", str(path), "--max-params", "400M"]
    done = CliRunner().invoke(app, [*command, "--n", "400", "--format", "json"])
    rows = json.loads(done.stdout)["encoders"]
    keys = [
        "encoder",
        "mean",
        "sd",
        "p_best",
        "expected_regret",
        "n_parameters",
        "license",
        "sources",
    ]
    assert list(rows[0]) == keys
    by_name = {row["encoder"]: row for row in rows}
    assert by_name[BGE]["mean"] == 0.85
    assert max(row["n_parameters"] for row in rows) <= 400e6
    assert [row["mean"] for row in rows] == sorted((row["mean"] for row in rows), reverse=True)
    table = CliRunner().invoke(app, command)
    assert "cheapest" in table.stdout
    assert table.exit_code == 0


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("encoder,accuracy\n", [], "at least one row"),
        (f"encoder,accuracy\n{BGE},85\n", [], "Divide percent by 100"),
        (f"encoder,accuracy\n{BGE},0.8\n{BGE},0.8\n", [], "only once"),
        (f"encoder,score\n{BGE},0.8\n", [], "columns of"),
        (f"dataset,encoder,accuracy\na,{BGE},0.8\nb,{BGE},0.8\n", [], "on one data set"),
        (f"encoder,accuracy\n{BGE},0.8\n", ["--max-params", "many"], "--max-params must be"),
        (f"encoder,accuracy\n{BGE},0.8\n", ["--max-params", "1"], "meets all conditions"),
    ],
)
def test_shortlist_refuses(tmp_path, content, options, message):
    path = tmp_path / "measured.csv"
    path.write_text(content)
    command = ["shortlist", "--modality", "text", "--measured", str(path), *options]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)


def test_expecting_loads_nothing_heavy():
    code = (
        "import sys, transferscope; transferscope.expect({}, modality='image'); "
        "print([m for m in ('torch', 'timm', 'transformers', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_baselines_stand_beside_scores():
    names = ["mini/vit-random", "mini/resnet-random", "mini/resnet-cifar10-supervised", "own"]
    accuracy = {"mine": dict(zip(names, (0.5, 0.6, 0.9, 0.7), strict=True))}
    scores = {"mine": {"logme": dict(zip(names, (0.1, 0.4, 0.2, 0.3), strict=True))}}
    together = with_baselines(scores, accuracy)
    assert set(together["mine"]) == {"logme", "expectation", "n_parameters"}
    assert set(together["mine"]["expectation"]) == set(names[:3])
    found = transferscope.evaluate(together, accuracy)
    assert any("logme is not shown to beat expectation" in w for w in found.warnings)
    assert with_baselines(scores, {"mine": {"own": 0.7}}) == {
        "mine": {"logme": scores["mine"]["logme"]}
    }


def test_the_expectation_has_not_seen_the_task():
    """On data sets of published results it is that of a model fitted without them."""
    names = [e.name for e in known_encoders().values() if e.name.startswith("mini/")]
    accuracy = {"usps": dict.fromkeys(names, 0.5)}
    found = with_baselines({"usps": {}}, accuracy)["usps"]["expectation"]
    rest = result_matrix("image").keep(lambda _, task, __: task != "usps")
    assert all(task != "usps" for _, task, _ in rest.columns)
    standing = rest.fit(n_factors=N_FACTORS["image"], at_large=False).standing(1)[0]
    row = {e.name: i for i, e in enumerate(rest.encoders)}
    assert found[names[0]] == pytest.approx(standing[row[names[0]]])


def test_published_weighted_tau_is_shown_beside_ones_own(monkeypatch):
    monkeypatch.setattr(stdout, "width", 160)
    done = CliRunner().invoke(app, ["evaluate", "--benchmark", "ped-ssl"])
    assert "logme+ped, as published" in done.stdout
    assert "0.509" in done.stdout
    assert "expectation" in done.stdout
