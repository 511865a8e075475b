"""What a ranking keeps of classes and of single samples."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import transferscope
from transferscope.embedding import Embedding
from transferscope.errors import InputError
from transferscope.metrics import leave_one_out, linear_probe
from transferscope.results import Ranking


def clouds(n: int = 60, d: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return rng.standard_normal((n, d)) + 1.5 * np.eye(3, d)[labels], labels


def test_left_out_samples_are_predicted_as_by_a_fit_to_all_others(backend):
    features, labels = clouds()
    features[1] += 4 * np.eye(3, 5)[2]  # one that is surely misjudged
    found = leave_one_out(Embedding(backend(features), backend(labels)))
    predicted, margin = (np.asarray(transferscope.numerics.arrays.to_numpy(v)) for v in found)
    assert (predicted == labels).mean() == linear_probe(features, labels)
    # the penalty is the one of least generalised cross-validation: whichever of them it is
    from transferscope.metrics._linear_probe import PENALTIES

    def outputs(penalty: float) -> np.ndarray:
        rows = []
        centred = features - features.mean(axis=0)
        ridge = penalty * (centred**2).sum() / features.shape[1]
        for left in range(len(labels)):
            others = np.arange(len(labels)) != left
            # Allen's formula leaves a sample out of the mean as well as of the slopes
            x = np.column_stack([np.ones(others.sum()), features[others] - features.mean(axis=0)])
            shrink = np.diag([0.0, *[ridge] * features.shape[1]])
            slopes = np.linalg.solve(x.T @ x + shrink, x.T @ np.eye(3)[labels[others]])
            rows.append(np.r_[1.0, features[left] - features.mean(axis=0)] @ slopes)
        return np.array(rows)

    def matches(output: np.ndarray) -> bool:
        wanted = output.max(axis=1) - output[np.arange(len(labels)), labels]
        same = np.array_equal(output.argmax(axis=1), predicted)
        return same and bool(np.allclose(wanted, margin, atol=1e-6))

    assert any(matches(outputs(penalty)) for penalty in PENALTIES)
    assert predicted[1] == 2
    assert margin[1] > 0.4
    assert ((margin > 0) == (predicted != labels)).all()


def evidence(predicted, rows=None):
    from transferscope.ranking._evidence import Evidence

    n = len(predicted)
    rows = np.arange(n) if rows is None else rows
    return Evidence(rows, np.asarray(predicted), np.zeros(n), np.zeros((n, 2)), 0.5)


def data_of(labels, n_classes):
    return SimpleNamespace(
        require_labels=lambda: ("classification", np.asarray(labels)),
        n_classes=n_classes,
        class_names=tuple(f"c{i}" for i in range(n_classes)),
    )


def test_few_classes_are_kept_in_full():
    from transferscope.ranking._evidence import confusion_of

    labels = np.array([0, 0, 1, 1, 2, 2])
    found = confusion_of(
        [("a", evidence([0, 1, 1, 1, 2, 0])), ("b", evidence(labels))], data_of(labels, 3)
    )
    assert found.classes == ("c0", "c1", "c2")
    assert found.totals == (2, 2, 2)
    assert found.counts["a"] == ((1, 1, 0), (0, 2, 0), (1, 0, 1))
    assert found.counts["b"] == ((2, 0, 0), (0, 2, 0), (0, 0, 2))


def test_of_many_classes_the_hardest_are_kept():
    from transferscope.ranking._evidence import confusion_of

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(200), 10)
    predicted = labels.copy()
    predicted[labels == 70] = 71  # never recognised
    predicted[np.flatnonzero(labels == 9)[:6]] = 150
    stray = rng.choice(len(labels), 100, replace=False)
    predicted[stray] = rng.integers(0, 200, 100)
    other = rng.permutation(labels)
    found = confusion_of([("a", evidence(predicted)), ("b", evidence(other))], data_of(labels, 200))
    assert found.n_classes == 200
    # however many classes and encoders there are, it stays small
    assert len(found.classes) <= 30
    kept = [int(name[1:]) for name in found.classes]
    alike = [((labels == i) & (other == i)).sum() for i in kept]
    assert [found.counts["b"][i][i] for i in range(len(kept))] == alike
    first, second = found.hardest_pairs("a", 2)
    assert (first.one, first.other) == ("c70", "c71")
    assert (second.one, second.other) == ("c9", "c150")
    # the ten pairs are those that all classes have
    table = np.zeros((200, 200), int)
    np.add.at(table, (labels, predicted), 1)
    both = np.triu(table + table.T, 1)
    assert [p.n_mistaken for p in found.hardest_pairs("a")] == sorted(both.ravel())[:-11:-1]
    share = np.diag(table) / table.sum(axis=1)
    recognised = [right / n for _, right, n in found.recognised("a")]
    assert recognised[:10] == pytest.approx(np.sort(share)[:10])


def test_encoders_that_saw_other_samples_are_left_out():
    from transferscope.ranking._evidence import best_few

    found = [("a", evidence([0, 1])), ("b", evidence([0])), *[(c, evidence([1, 1])) for c in "cde"]]
    assert [name for name, _ in best_few(found)] == ["a", "c", "d"]


@pytest.fixture(scope="module")
def mislabelled() -> tuple[Ranking, int]:
    """A ranking for digits of which one has a wrong label, and its place."""
    pytest.importorskip("torch")
    digits = transferscope.open_dataset("sklearn/digits", per_class=20)
    images = [digits[i] for i in range(len(digits))]
    labels = digits.labels.copy()
    wrong = int(np.flatnonzero(labels == 0)[3])
    labels[wrong] = 7
    data = transferscope.open_dataset((images, [f"digit {c}" for c in labels]))
    names = "mini/resnet-mnist-supervised,mini/resnet-cifar10-simclr"
    return transferscope.rank(data, names, samples=True, store=None), wrong


def test_a_wrong_label_is_the_most_misjudged_sample(mislabelled):
    ranking, wrong = mislabelled
    views = ranking.samples
    assert views.modality == "image"
    assert [one.encoder for one in views.maps] == list(ranking.confusion.counts)
    assert views.maps[0].encoder == ranking.verdict.recommended
    for one in views.maps:
        worst = one.misjudged[0]
        sample = views.samples[worst.sample]
        assert sample.where.startswith(f"image {wrong} of") or f" {wrong} " in sample.where
        assert (sample.label, worst.predicted) == ("digit 7", "digit 0")
        margins = [m.margin for m in one.misjudged]
        assert margins == sorted(margins, reverse=True)
        assert len(margins) <= 20
        for m in one.misjudged:
            (place,) = [i for i, (sample, _, _) in enumerate(one.places) if sample == m.sample]
            assert one.predicted[place] == m.predicted
        assert 0 < one.explained < 1


def test_the_confusion_is_that_of_the_probe(mislabelled):
    ranking, _ = mislabelled
    found = ranking.confusion
    for name, table in found.counts.items():
        row = next(row for row in ranking.encoders if row.encoder == name)
        right = sum(table[i][i] for i in range(len(table)))
        assert right / sum(found.totals) == pytest.approx(row.expected.probe)
        assert tuple(map(sum, table)) == found.totals


def test_small_copies_are_images(mislabelled):
    image = pytest.importorskip("PIL.Image")
    ranking, _ = mislabelled
    for one in ranking.samples.samples[:5]:
        kind, _, text = one.content.partition(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        assert max(image.open(io.BytesIO(base64.b64decode(text))).size) <= 64


def test_a_ranking_says_what_it_was_made_with(mislabelled):
    ranking, _ = mislabelled
    assert ranking.versions["transferscope"] == transferscope.__version__
    assert {"python", "numpy", "torch"} <= ranking.versions.keys()
    assert list(ranking.steps) == ["data set", "features", "scores", "choice"]
    assert sum(ranking.steps.values()) >= ranking.verdict.seconds * 0.9
    assert all(seconds >= 0 for seconds in ranking.steps.values())
    code = ranking.verdict.loading
    assert code == (
        f'import transferscope; encoder = transferscope.load_encoder("{ranking.best.encoder}")'
    )
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["encoder"].identifier == ranking.best.encoder


def test_nothing_of_the_samples_is_kept_unasked(mislabelled):
    ranking, _ = mislabelled
    plain = replace(ranking, samples=None).to_json()
    assert "base64" not in plain
    again = Ranking.from_json(ranking.to_json())
    assert again == ranking


@pytest.mark.needs("torch")
def test_samples_are_of_classes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
    data = transferscope.open_dataset((images, np.linspace(0, 1, 12)))
    with pytest.raises(InputError, match="has regression labels"):
        transferscope.rank(data, "mini/resnet-random", samples=True, store=None)


@pytest.mark.needs("torch")
def test_texts_are_shown_by_their_beginning():
    from transferscope.datasets import Word
    from transferscope.ranking._evidence import EXCERPT, _content

    samples = ["short", "x" * 1000, ("one", "other"), Word(("a", "b", "c"), 1)]

    class Texts(list):
        modality = "text"

    shown = [_content(Texts(samples), i) for i in range(4)]
    assert shown[0] == "short"
    assert len(shown[1]) == EXCERPT
    assert shown[1].endswith("…")
    assert shown[2:] == ["one\nother", "a [b] c"]
