"""More features than samples: the scatter is held in the samples' span, and every score stays."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from test_contract import ALONE, ROWS, SAME, planted

from transferscope import score
from transferscope.embedding import ClassMoments, Embedding, TargetMoments, _scatter
from transferscope.errors import FeatureError, InputError
from transferscope.metrics._ped import applies_to, with_ped
from transferscope.numerics import arrays
from transferscope.parameter_distance import domain_gap
from transferscope.relatedness import task_relatedness

EVERY = [
    *(pytest.param(m, t, id=f"{m.name}-{t}") for m, t in ROWS),
    *(pytest.param(with_ped(m), "classification", id=f"{m.name}+ped") for m in ALONE
      if applies_to(m)),
]  # fmt: skip
#: In a span of n samples that explains any labels the influences of these are rounding.
ROUNDING = ("h_score", "h_score+ped", "ncti_geometry", "ncti_geometry+ped")


@pytest.mark.parametrize(("metric", "task"), EVERY)
def test_every_score_is_the_same_in_a_basis(metric, task, monkeypatch):
    data = planted(metric, task, n=40, d=60)
    whole = metric.measure(Embedding(**data))
    monkeypatch.setattr(_scatter, "WIDE", 50)
    embedding = Embedding(**data)
    narrow = metric.measure(embedding)
    assert embedding.total.scatter.shape == (40, 40)
    assert narrow.value == pytest.approx(whole.value, rel=1e-9)
    assert narrow.warnings == whole.warnings
    if metric.name not in ROUNDING:
        influence = whole.influence()
        most = np.max(np.abs(influence))
        assert narrow.influence() == pytest.approx(influence, rel=SAME, abs=1e-4 * most + SAME)


@pytest.mark.parametrize("name", ["logme", "lfc", "sfda", "transrate", "frechet", "logme+ped"])
def test_in_every_library(name, backend, monkeypatch):
    metric = next(p.values[0] for p in EVERY if p.values[0].name == name)
    data = planted(metric, "classification", n=40, d=60)
    monkeypatch.setattr(_scatter, "WIDE", 50)
    found = metric.measure(Embedding(**{k: backend(v) for k, v in data.items()}))
    assert found.value == pytest.approx(metric.measure(Embedding(**data)).value, rel=1e-9)


@pytest.mark.parametrize("kind", [ClassMoments, TargetMoments])
@pytest.mark.parametrize("n", [30, 100])
def test_moments_of_batches_merge(kind, n, monkeypatch):
    """Fewer samples than features, and more: then the basis is given up."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, 60)) + 3
    targets = np.arange(n) % 3 if kind is ClassMoments else rng.standard_normal((n, 2))
    whole = kind.from_arrays(features, targets)
    monkeypatch.setattr(_scatter, "WIDE", 50)
    moments = kind()
    for start in range(0, n, 9):
        moments.update(features[start : start + 9], targets[start : start + 9])
    assert (moments.total.basis is None) == (n > 60)
    np.testing.assert_allclose(moments.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.total.squares, np.diag(whole.scatter))
    np.testing.assert_allclose(moments.total.cubic_sums, whole.total.cubic_sums, atol=1e-8)
    assert moments.total.quartic_sum == pytest.approx(whole.total.quartic_sum)


def test_moments_in_a_basis_are_displaced_and_saved(monkeypatch):
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((30, 60)), np.arange(30) % 3
    moves = rng.standard_normal((3, 60))
    expected = ClassMoments.from_arrays(features + moves[labels], labels)
    monkeypatch.setattr(_scatter, "WIDE", 50)
    moments = ClassMoments.from_arrays(features, labels)
    back = ClassMoments.from_saved(moments.to_arrays())
    assert np.array_equal(back.scatter, moments.scatter)
    assert back.displaced(moves).total.basis.shape == (60, 36)
    np.testing.assert_allclose(back.displaced(moves).scatter, expected.scatter, atol=1e-9)
    np.testing.assert_allclose(back.merge(back).scatter, 2 * moments.scatter, atol=1e-9)


def test_a_pass_that_starts_with_few_samples_gives_the_same_bits(monkeypatch):
    features = np.random.default_rng(0).standard_normal((90, 60))
    labels = np.arange(90) % 3
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 20 * 60 * 8)
    whole = ClassMoments.from_arrays(features, labels)
    monkeypatch.setattr(_scatter, "WIDE", 50)
    assert np.array_equal(ClassMoments.from_arrays(features, labels).scatter, whole.scatter)


def test_no_square_matrix_of_the_features():
    """One would take 5 GB."""
    rng = np.random.default_rng(0)
    labels = np.arange(16) % 2
    features = rng.standard_normal((16, 25_000), dtype=np.float32) + labels[:, None]
    metrics = ["logme", "h_score", "lfc", "sfda", "lda", "transrate", "frechet", "logme+ped",
               "linear_probe", "gbc", "parc", "ncti_geometry", "relatedness"]  # fmt: skip
    reference = {"reference_features": features[::-1] + 1, "reference_labels": labels}
    tracemalloc.start()
    table = score(features, labels, metrics, **reference)
    gap = domain_gap(features, reference_features=features[::-1] + 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    assert gap == pytest.approx(-table["frechet"], rel=1e-3)
    assert list(table.skipped) == ["relatedness"]
    assert "at most 8,192 features are taken" in table.skipped["relatedness"]
    with pytest.raises(InputError, match=r"25,000 x 25,000.*PCA"):
        task_relatedness(features, labels, **reference)


def test_domain_gap_of_few_samples_is_that_of_the_covariances():
    rng = np.random.default_rng(0)
    few, many = rng.standard_normal((20, 30)), rng.standard_normal((90, 30)) + 1
    plain = Embedding(few, reference_features=many)
    frechet = next(m for m in ALONE if m.name == "frechet")
    assert domain_gap(few, reference_features=many) == pytest.approx(-frechet.measure(plain).value)


def test_too_many_features_and_samples_are_refused(monkeypatch):
    features, labels = np.random.default_rng(0).standard_normal((60, 40)), np.arange(60) % 3
    monkeypatch.setattr(_scatter, "WIDE", 10)
    monkeypatch.setattr(_scatter, "LARGEST", 30)
    refused = pytest.raises(FeatureError, match=r"40 dimensions .* at most 30 are taken. Pool")
    with refused:
        score(features, labels)
    moments = ClassMoments.from_arrays(features[:20], labels[:20])
    with refused:
        moments.update(features[20:40], labels[20:40])
    with refused:
        _ = moments.scatter
