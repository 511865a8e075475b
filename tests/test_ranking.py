"""Ranking, end to end: real images and encoders, planted orders, failures, ties, repeats."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transferscope

torch = pytest.importorskip("torch", reason="ranking runs encoders in torch")

from transferscope.encoders import from_module  # noqa: E402
from transferscope.errors import DatasetError, InputError, UnknownNameError  # noqa: E402
from transferscope.metrics import (  # noqa: E402
    DEFAULT_METRICS,
    METRICS,
    Measurement,
    Metric,
)
from transferscope.results import Ranking  # noqa: E402

N = 90
EVERYTHING = ("logme", "h_score", "regularized_h_score", "knn", "linear_probe", "leep", "nce")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Vectors:
    key = "vectors"

    def prepare(self, sample: Any) -> Any:
        return sample

    def collate(self, prepared: Sequence[Any]) -> Any:
        return np.stack(prepared)


def planted(name: str, noise: float, head: bool = False, width: int = 6) -> Any:
    """An encoder that sees the class, through so much noise of its own."""

    def function(batch: Any) -> Any:
        random = np.random.default_rng([int(1e6 * abs(batch[0, 0])), len(name)])
        return (batch[:, :width] + noise * random.standard_normal((len(batch), width))).astype("f4")

    def source(pooled: Any) -> Any:
        return 3 * pooled[:, :4]

    return from_module(function, Vectors(), identifier=name, head=source if head else None)


@pytest.fixture(scope="module")
def numbers() -> Any:
    """Regression: ranked by scores alone."""
    random = np.random.default_rng(0)
    samples = random.standard_normal((N, 8)).astype(np.float32)
    targets = samples[:, :4] @ [1.0, -2.0, 0.5, 1.0]
    return transferscope.open_dataset((samples, targets), task="regression")


@pytest.fixture(scope="module")
def data() -> Any:
    random = np.random.default_rng(0)
    labels = np.arange(N) % 3
    samples = 2 * np.eye(3, 8)[labels] + 0.4 * random.standard_normal((N, 8))
    return transferscope.open_dataset((samples.astype(np.float32), labels))


def rank(dataset: Any, encoders: Any, *args: Any, **options: Any) -> Ranking:
    """A ranking for which everything is measured."""
    return transferscope.rank(
        dataset, encoders, *args, **{"store": None, "device": "cpu", "stop_regret": None, **options}
    )


def require_sound(ranking: Ranking, n_encoders: int) -> None:
    """What holds of every ranking."""
    assert len(ranking.encoders) == n_encoders
    ranked = [row for row in ranking.encoders if row.error is None]
    verdict = ranking.verdict
    assert list(ranking.encoders[: len(ranked)]) == ranked  # failed ones last
    ranks = [row.rank for row in ranked]
    assert ranks == sorted(ranks)
    assert sum(row.p_best for row in ranked) == pytest.approx(1 if ranked else 0)
    for row in ranked:
        assert row.n_parameters is not None
        assert row.feature_dim is not None
        assert row.samples_per_second > 0
        assert row.scores or row.skipped
        for score in row.scores.values():
            assert np.isfinite(score.value)
            assert score.low <= score.value <= score.high
    for row in ranking.encoders[len(ranked) :]:
        assert row.error
        assert (row.rank, row.p_best, row.expected, row.in_group) == (None, None, None, False)
    assert (verdict is None) == (ranking.dataset.task != "classification" or not ranked)
    if verdict is None:
        assert all(row.scores and row.expected is None for row in ranked)
    else:
        require_sound_verdict(ranking)
    text = ranking.to_json()
    json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in JSON"))
    assert Ranking.from_json(text) == ranking
    assert len(ranking.to_frame()) == n_encoders
    assert ranking.advice in ranking.to_markdown()


def require_sound_verdict(ranking: Ranking) -> None:
    """What holds of every verdict of encoders that were all measured."""
    assert ranking.ranked_by == "expected accuracy after fine-tuning"
    verdict, rows = ranking.verdict, {row.encoder: row for row in ranking.ranked}
    assert ranking.advice == verdict.reason
    assert verdict.reason.startswith(f"Fine-tune {verdict.recommended}: ")
    assert (verdict.n_candidates, verdict.n_measured) == (len(ranking), len(rows))
    assert verdict.stopped == "all"
    assert 0 <= verdict.foreign <= 1
    chosen = rows[verdict.recommended].expected
    assert (chosen.loss, chosen.loss_low, chosen.loss_high) == (0, 0, 0)
    assert verdict.regret == chosen.regret
    best = ranking.best.expected.mean
    for row in ranking.ranked:
        found = row.expected
        assert 0 < found.low < found.mean < found.high < 1
        assert found.loss == pytest.approx(chosen.mean - found.mean, abs=1e-9)
        assert found.loss_low <= found.loss <= found.loss_high
        assert found.regret >= max(0, found.loss) - 1e-12
        assert 0 <= found.probe <= 1
        assert found.n_probed == ranking.dataset.n_samples
        assert found.seconds_per_sample == 1 / row.samples_per_second
        assert row.in_group == (found.mean >= best - verdict.tolerance)
    means = [row.expected.mean for row in ranking.ranked]
    assert means == sorted(means, reverse=True)


# --- planted orders -----------------------------------------------------------------------------


def test_the_better_an_encoder_sees_the_classes_the_higher_it_stands(data):
    ranking = rank(data, [planted("bad", 4), planted("best", 0.1), planted("middle", 1)])
    require_sound(ranking, 3)
    assert [row.encoder for row in ranking.encoders] == ["best", "middle", "bad"]
    assert [row.rank for row in ranking.encoders] == [1, 2, 3]
    assert ranking.metrics == list(DEFAULT_METRICS)
    assert ranking.best.p_best > 0.5
    assert ranking.encoders[2].p_best < 0.05
    assert [row.in_group for row in ranking.encoders] == [True, False, False]
    assert ranking.verdict.recommended == "best"
    probes = {row.encoder: row.scores["linear_probe"].value for row in ranking.encoders}
    assert {row.encoder: row.expected.probe for row in ranking.encoders} == probes
    assert asdict(ranking.dataset) | {"fingerprint": ""} == {
        "name": "arrays", "split": "all", "task": "classification", "n_samples": N,
        "n_classes": 3, "n_skipped": 0, "fingerprint": "", "notes": (),
    }  # fmt: skip


def test_metrics_are_columns_and_the_verdict_is_the_same_whatever_they_are(data):
    encoders = [planted("bad", 4), planted("best", 0.1)]
    with_knn, with_probe = (rank(data, encoders, name) for name in ("knn", "linear_probe"))
    require_sound(with_knn, 2)
    assert with_knn.metrics == ["knn"]  # the probe was not asked for
    assert with_knn.best.encoder == "best"

    def facts(row: Any) -> Any:
        return row.encoder, row.p_best, replace(row.expected, seconds_per_sample=None)

    assert list(map(facts, with_knn)) == list(map(facts, with_probe))


def test_the_order_of_scores(numbers):
    ranking = rank(numbers, [planted("bad", 4), planted("best", 0.1), planted("middle", 1)])
    require_sound(ranking, 3)
    assert [row.encoder for row in ranking.encoders] == ["best", "middle", "bad"]
    assert [row.rank for row in ranking.encoders] == [1, 2, 3]
    assert ranking.ranked_by == "consensus of logme, linear_probe"
    assert ranking.best.p_best > 0.9
    assert [row.in_group for row in ranking.encoders] == [True, False, False]
    assert ranking.advice == (
        "best comes first by its scores, and other samples of these data would not change that."
    )


def test_one_metric_ranks_alone(numbers):
    ranking = rank(numbers, [planted("bad", 4), planted("best", 0.1)], "knn")
    require_sound(ranking, 2)
    assert ranking.ranked_by == "knn"
    assert ranking.best.encoder == "best"


def test_equal_encoders_tie_by_their_scores(numbers):
    twins = [planted(name, 0.5) for name in ("twin b", "twin a")]
    ranking = rank(numbers, [*twins, planted("worse", 4)])
    require_sound(ranking, 3)
    assert [row.encoder for row in ranking.encoders] == ["twin a", "twin b", "worse"]
    assert [row.rank for row in ranking.encoders] == [1, 1, 3]
    assert [row.in_group for row in ranking.encoders] == [True, True, False]
    assert ranking.encoders[0].p_best == ranking.encoders[1].p_best
    assert "cannot tell it from: twin b" in ranking.advice


def test_equal_encoders_are_one_group(data):
    twins = [planted(name, 0.5) for name in ("twin b", "twin a")]
    ranking = rank(data, [*twins, planted("worse", 4)])
    require_sound(ranking, 3)
    assert {row.encoder for row in ranking.encoders[:2]} == {"twin a", "twin b"}
    assert [row.in_group for row in ranking.encoders] == [True, True, False]
    # equal but for the error of finitely many draws
    one, other, _ = ranking.encoders
    assert one.p_best == pytest.approx(other.p_best, abs=0.06)
    assert one.expected.mean == pytest.approx(other.expected.mean, abs=0.005)
    assert one.expected.probe == other.expected.probe


def test_of_as_good_ones_the_cheapest_is_recommended(data):
    """A narrow twin sees as much, with half of the features."""
    encoders = [planted("worse", 4), planted("wide 1", 0.1), planted("thin 1", 0.1, width=3)]
    ranking = rank(data, encoders, prefer="dimension", tolerance=0.02)
    require_sound(ranking, 3)
    assert {row.encoder for row in ranking.ranked if row.in_group} == {"wide 1", "thin 1"}
    verdict = ranking.verdict
    assert (verdict.recommended, verdict.prefer, verdict.tolerance) == ("thin 1", "dimension", 0.02)
    if ranking.best.encoder != "thin 1":
        assert "has 0.50 of its features" in verdict.reason


def test_a_single_encoder_is_ranked(data):
    ranking = rank(data, planted("only", 0.5))
    require_sound(ranking, 1)
    assert (ranking.best.rank, ranking.best.p_best) == (1, 1.0)
    assert ranking.verdict.regret == 0
    assert ranking.advice.endswith("No other candidate was measured.")


def test_a_single_encoder_is_ranked_by_its_scores(numbers):
    ranking = rank(numbers, planted("only", 0.5))
    require_sound(ranking, 1)
    assert (ranking.best.rank, ranking.best.p_best) == (1, 1.0)
    assert "nothing to choose from" in ranking.advice


def test_the_same_seed_gives_the_same_ranking(data, tmp_path):
    def facts(ranking: Ranking) -> Any:
        return [
            (
                row.encoder,
                {n: (s.value, s.low, s.high) for n, s in row.scores.items()},
                [row.p_best, row.expected.mean, row.expected.low, row.expected.regret],
            )
            for row in ranking.encoders
        ]

    encoders = [planted("one", 1), planted("two", 1.1)]
    first = facts(rank(data, encoders, seed=1))
    assert facts(rank(data, encoders, seed=1)) == first
    assert facts(rank(data, encoders, seed=2)) != first
    stored = facts(rank(data, encoders, seed=1, store=tmp_path))
    again = facts(rank(data, encoders, seed=1, store=tmp_path))
    assert again == stored
    for one, two in zip(stored, first, strict=True):
        assert one[0] == two[0]
        assert one[2] == pytest.approx(two[2], abs=2e-3)
        for name, figures in one[1].items():
            np.testing.assert_allclose(figures, two[1][name], rtol=1e-4, atol=1e-6)


def test_intervals_narrow_as_data_grow():
    def half_width(n: int) -> float:
        random = np.random.default_rng(0)
        labels = np.arange(n) % 3
        samples = np.eye(3, 8)[labels] + 0.6 * random.standard_normal((n, 8))
        dataset = transferscope.open_dataset((samples.astype(np.float32), labels))
        score = rank(dataset, planted("mine", 0.5), "linear_probe").best.scores["linear_probe"]
        return score.high - score.low

    assert half_width(1600) == pytest.approx(half_width(100) / 4, rel=0.35)


def test_of_noise_it_says_that_samples_tell_nothing(data):
    random = np.random.default_rng(3)
    noise = transferscope.open_dataset(
        (random.standard_normal((60, 8)).astype(np.float32), np.arange(60) % 3)
    )
    blind = [planted("one", 4), planted("two", 4, width=5)]
    ranking = rank(noise, blind)
    assert any("naming the most frequent class" in note for note in ranking.verdict.notes)
    assert all(row.expected.low >= 1 / 3 for row in ranking.encoders)
    seeing = rank(data, [planted("one", 0.1), planted("two", 0.2)])
    assert not any("most frequent class" in note for note in seeing.verdict.notes)


# --- what cannot be ranked ----------------------------------------------------------------------


def constant(batch: Any) -> Any:
    return np.full((len(batch), 4), 7, np.float32)


def not_a_number(batch: Any) -> Any:
    return np.full((len(batch), 4), np.nan, np.float32)


def raising(batch: Any) -> Any:
    raise MemoryError("not enough for it")


@pytest.mark.parametrize("kept", [True, False])
def test_failed_encoders_stand_last_with_their_reasons(data, tmp_path, kept):
    encoders = [
        from_module(constant, Vectors(), identifier="constant"),
        planted("good", 0.5),
        from_module(not_a_number, Vectors(), identifier="nan"),
        "checkpoint:none.pth?arch=resnet18",
        planted("better", 0.1),
        from_module(raising, Vectors(), identifier="raising"),
        "mini/resnet-random",
    ]
    ranking = rank(data, encoders, store=tmp_path if kept else None)
    require_sound(ranking, 7)
    assert [row.encoder for row in ranking.encoders[:2]] == ["better", "good"]
    errors = {row.encoder: row.error for row in ranking.encoders[2:]}
    assert "the same for all 90 samples" in errors["constant"]
    assert "hold NaN" in errors["nan"]
    assert "none.pth" in errors["checkpoint:none.pth?arch=resnet18"]
    assert errors["raising"] == "MemoryError: not enough for it"
    assert "takes images" in errors["mini/resnet-random"]


def test_when_nothing_can_be_ranked_the_reasons_are_given(data):
    encoders = [from_module(constant, Vectors(), identifier="constant"), "mini/resnet-random"]
    ranking = rank(data, encoders)
    require_sound(ranking, 2)
    assert ranking.ranked_by == "nothing"
    assert all(row.error for row in ranking.encoders)
    assert "Nothing could be ranked" in ranking.advice


def of_width(width: int) -> Metric:
    """A metric of features of one width."""

    def measure(embedding: Any) -> Measurement:
        if embedding.n_features != width:
            raise InputError(f"it takes {width} features")
        return Measurement(1.0, lambda: np.zeros(N))

    return replace(METRICS["knn"], name=f"of{width}", measure=measure)


@pytest.fixture
def of_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (4, 6):
        monkeypatch.setitem(METRICS, f"of{width}", of_width(width))


def test_a_metric_that_some_lack_is_a_column(data):
    encoders = [planted("headless", 0.1), planted("with head", 1, head=True)]
    ranking = rank(data, encoders, "logme,knn,leep")
    require_sound(ranking, 2)
    headless, with_head = ranking.encoders
    assert "source_probabilities" in headless.skipped["leep"]
    assert with_head.scores["leep"].low < with_head.scores["leep"].high
    assert not any("consensus" in text for s in with_head.scores.values() for text in s.warnings)


@pytest.mark.usefixtures("of_widths")
def test_a_metric_that_some_lack_stays_out_of_the_consensus(numbers):
    ranking = rank(numbers, [planted("four", 0.1, width=4), planted("six", 1)], "logme,knn,of6")
    require_sound(ranking, 2)
    assert ranking.ranked_by == "consensus of logme, knn"
    four, six = ranking.encoders
    assert four.skipped == {"of6": "it takes 6 features"}
    assert any("not in the consensus" in text for text in six.scores["of6"].warnings)
    assert not any("consensus" in text for text in six.scores["knn"].warnings)


def test_an_encoder_without_any_score_has_its_probe(data):
    ranking = rank(data, [planted("headless", 0.1), planted("a", 1, head=True)], "leep,nce")
    require_sound(ranking, 2)
    headless, a = ranking.encoders
    assert (headless.encoder, headless.scores, headless.error) == ("headless", {}, None)
    assert headless.skipped.keys() == {"leep", "nce"}
    assert set(a.scores) == {"leep", "nce"}


@pytest.mark.usefixtures("of_widths")
def test_an_encoder_without_any_score_says_why(numbers):
    ranking = rank(numbers, [planted("four", 0.1, width=4), planted("six", 1)], "of6,leep")
    require_sound(ranking, 2)
    assert ranking.ranked_by == "of6"
    assert ranking.encoders[1].encoder == "four"
    assert ranking.encoders[1].error == (
        "of6: it takes 6 features; leep: leep is for classification, these are regression targets"
    )


@pytest.mark.usefixtures("of_widths")
def test_without_a_common_metric_the_commonest_ranks(numbers):
    encoders = [planted("four", 1, width=4), planted("six", 1), planted("also six", 1)]
    ranking = rank(numbers, encoders, "of4,of6")
    require_sound(ranking, 3)
    assert ranking.ranked_by == "of6"
    assert [row.encoder for row in ranking.encoders] == ["also six", "six", "four"]
    assert ranking.encoders[2].error == "no score by of6: it takes 6 features"


@pytest.mark.usefixtures("of_widths")
def test_without_a_common_metric_there_is_a_verdict_and_every_score_has_its_interval(data):
    encoders = [planted("four", 1, width=4), planted("six", 1), planted("also six", 1)]
    ranking = rank(data, encoders, "of4,of6")
    require_sound(ranking, 3)
    assert {row.encoder: list(row.scores) for row in ranking.encoders} == {
        "four": ["of4"],
        "six": ["of6"],
        "also six": ["of6"],
    }


def test_without_a_probe_the_scores_rank(data, monkeypatch):
    """Where no encoder can be probed nothing is known of its accuracy."""

    def measure(embedding: Any) -> Measurement:
        raise InputError("not today")

    broken = replace(METRICS["linear_probe"], measure=measure)
    monkeypatch.setitem(METRICS, "linear_probe", broken)
    ranking = rank(data, [planted("bad", 4), planted("good", 0.1)], "knn,linear_probe")
    assert ranking.verdict is None
    assert ranking.ranked_by == "knn"
    assert [row.encoder for row in ranking.ranked] == ["good", "bad"]
    assert ranking.best.skipped == {"linear_probe": "not today"}
    assert all(row.expected is None for row in ranking)


def test_a_metric_without_finite_influences_is_left_out(data, monkeypatch):
    def measure(embedding: Any) -> Measurement:
        return Measurement(1.0, lambda: np.full(N, np.nan))

    monkeypatch.setitem(METRICS, "broken", replace(METRICS["knn"], name="broken", measure=measure))
    ranking = rank(data, [planted("one", 1), planted("two", 2)], "broken,knn")
    require_sound(ranking, 2)
    assert ranking.metrics == ["knn"]
    assert "uncertainty" in ranking.best.skipped["broken"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"metrics": "lgme"}, UnknownNameError),
        ({"metrics": []}, InputError),
        ({"encoders": "mini/nothing"}, UnknownNameError),
        ({"encoders": ""}, InputError),
        ({"batch_size": 0}, InputError),
        ({"seed": -1}, InputError),
        ({"tolerance": -0.1}, InputError),
        ({"tolerance": 1.0}, InputError),
        ({"tolerance": float("nan")}, InputError),
        ({"stop_regret": -0.1}, InputError),
        ({"stop_regret": 1.0}, InputError),
        ({"stop_regret": float("nan")}, InputError),
        ({"budget": 0}, InputError),
        ({"budget": float("nan")}, InputError),
        ({"prefer": "cheap"}, InputError),
        ({"dataset": "no/such/folder"}, DatasetError),
        ({"layers": "first"}, InputError),
    ],
)
def test_wrong_usage_raises(data, options, error):
    with pytest.raises(error):
        rank(**{"dataset": data, "encoders": [planted("mine", 1)], **options})


# --- other tasks --------------------------------------------------------------------------------


def test_regression_is_ranked(numbers):
    ranking = rank(numbers, [planted("bad", 3), planted("good", 0.1)])
    require_sound(ranking, 2)
    assert ranking.best.encoder == "good"
    assert "regularized_h_score" in ranking.best.skipped
    assert ranking.dataset.n_classes == 0


def test_multilabel_is_ranked():
    random = np.random.default_rng(0)
    samples = random.standard_normal((N, 8)).astype(np.float32)
    targets = (samples[:, :3] > 0).astype(float)
    data = transferscope.open_dataset((samples, targets), task="multilabel")
    ranking = rank(data, [planted("bad", 3), planted("good", 0.1)])
    require_sound(ranking, 2)
    assert ranking.best.encoder == "good"


# --- the whole path on images -------------------------------------------------------------------


@pytest.fixture(scope="module")
def timm_folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three architectures of timm with random weights, saved as the hub has them."""
    try:
        import timm
    except Exception as error:  # a torchvision for another torch fails with RuntimeError
        pytest.skip(f"timm cannot be imported: {error}")
    names = []
    for architecture in ("test_resnet", "test_vit", "test_efficientnet"):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("timm") / architecture
        timm.models.save_for_hf(timm.create_model(architecture), folder, safe_serialization=True)
        assert (folder / "model.safetensors").exists()
        names.append(f"timm/{folder}")
    return names


MINI = ["mini/resnet-cifar10-supervised", "mini/separable-mnist-rotation", "mini/vit-random"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """120 cuttings of scikit-learn's two photographs, as an archive and as a folder of JPEGs."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photographs")
    whole = load_sample_images().images
    rng = np.random.default_rng(0)
    images, labels = [], np.arange(120) % 2
    for i, label in enumerate(labels):
        top, left = rng.integers(0, 360), rng.integers(0, 570)
        images.append(whole[label][top : top + 64, left : left + 64])
        file = folder / "tree" / ("china", "flower")[label] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[-1]).save(file)
    np.savez(folder / "photographs.npz", train_images=np.stack(images), train_labels=labels)
    return {"archive": folder / "photographs.npz", "folder": folder / "tree"}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("archive", {"max_samples": 60}), ("folder", {"per_class": 30})],
)
def test_photographs_are_ranked_with_the_zoo_and_timm(
    timm_folders, photographs, tmp_path, kind, options
):
    data = transferscope.open_dataset(photographs[kind], **options)
    encoders = [*MINI, *timm_folders]
    metrics = ",".join(EVERYTHING)
    options = {"metrics": metrics, "store": tmp_path}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranking = rank(data, encoders, **options)
    require_sound(ranking, 6)
    assert {row.encoder for row in ranking.encoders} == set(encoders)
    assert [row.error for row in ranking.encoders] == [None] * 6
    assert {row.input_size for row in ranking.encoders} == {(32, 32), (160, 160)}
    # repeated, everything comes from the store
    calls: list[str] = []
    again = rank(data, encoders, **options, progress=lambda text, *_: calls.append(text))
    assert (
        again.to_frame()
        .drop(columns="samples_per_second")
        .equals(ranking.to_frame().drop(columns="samples_per_second"))
    )
    assert not any(text.startswith("extracting") for text in calls)


def test_digits_prefer_an_encoder_of_digits(tmp_path):
    calls: list[tuple[str, int, int]] = []
    ranking = rank(
        transferscope.open_dataset("sklearn/digits", per_class=20),
        "mini/resnet-mnist-supervised,mini/resnet-random",
        progress=lambda *call: calls.append(call),
    )
    require_sound(ranking, 2)
    assert ranking.best.encoder == "mini/resnet-mnist-supervised"
    assert ranking.best.scores["logme"].low > ranking.encoders[1].scores["logme"].value
    assert [text for text, _, _ in calls if not text.startswith("extracting")] == [
        "reading the data set",
        "loading mini/resnet-mnist-supervised",
        "loading mini/resnet-random",
        "scoring mini/resnet-mnist-supervised",
        "scoring mini/resnet-random",
    ]
    assert all(0 <= done <= total for _, done, total in calls)


def test_a_reference_costs_no_second_loading(data, monkeypatch):
    from transferscope.extraction import _pass

    loaded: list[str] = []

    def load(spec: Any, **options: Any) -> Any:
        loaded.append(spec)
        return planted(spec, 0.5)

    monkeypatch.setattr(_pass, "load_encoder", load)
    names = ["mini/one", "mini/other"]
    ranking = rank(data, names, "logme+ped,frechet,otce", reference=data)
    require_sound(ranking, 2)
    assert loaded == names
    assert set(ranking.best.scores) == {"logme+ped", "frechet", "otce"}


@pytest.mark.parametrize(
    ("samples", "skipped", "reason"),
    [
        (np.eye(8)[:5] + 1, ["otce"], "reference_labels must hold at least two classes"),
        (np.eye(8)[:1] + 1, ["logme+ped", "frechet", "otce"], "reference_features must have at"),
        (np.eye(8)[:5] * 1e39, ["logme+ped", "frechet", "otce"], "reference_features cannot be"),
    ],
)
def test_an_unusable_reference_costs_the_metrics_that_need_it(data, samples, skipped, reason):
    reference = (samples, np.zeros(len(samples), int))
    metrics = ["logme", "logme+ped", "frechet", "otce"]
    with np.errstate(over="ignore"):
        ranking = rank(data, [planted("one", 0.5)], metrics, reference=reference)
    (result,) = ranking.encoders
    assert result.error is None
    alone = rank(data, [planted("one", 0.5)], "logme").best
    assert result.scores["logme"].value == alone.scores["logme"].value
    assert list(result.skipped) == skipped
    assert all(text.startswith(reason) for text in result.skipped.values()), result.skipped


def test_interrupted_and_repeated_it_continues(data, tmp_path, monkeypatch):
    from transferscope.extraction import _batches

    monkeypatch.setattr(_batches, "SHARD_ROWS", 16)
    rows: list[int] = []

    def counting(stop_at: int | None) -> Callable[[Any], Any]:
        def function(batch: Any) -> Any:
            if stop_at is not None and sum(rows) >= stop_at:
                raise KeyboardInterrupt
            rows.append(len(batch))
            return batch[:, :4]

        return function

    def encoder(stop_at: int | None) -> Any:
        return from_module(counting(stop_at), Vectors(), identifier="mine", version="1")

    options = {"store": tmp_path, "batch_size": 16}
    with pytest.raises(KeyboardInterrupt):
        rank(data, encoder(40), **options)
    assert sum(rows) == 48
    ranking = rank(data, encoder(None), **options)
    require_sound(ranking, 1)
    assert sum(rows) == N
