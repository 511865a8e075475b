"""What comes in is checked once; every refusal names the rule, the value and the way out."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope.errors import FeatureError, InputError
from transferscope.numerics import arrays, checks

LIKE = np.zeros((4, 2))


def test_features_pass_as_they_are(backend):
    a = backend(np.ones((3, 2)))
    assert checks.features_matrix(a) is a


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "f16", "i1", "i8", "u1", "u8"])
def test_real_numbers_of_any_kind(dtype):
    values = np.arange(6).reshape(3, 2).astype(dtype)
    assert checks.features_matrix(values).dtype in (np.float32, np.float64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), r"shape \(3,\).*pool or flatten"),
        (np.zeros((3, 2, 2)), r"shape \(3, 2, 2\)"),
        (np.zeros((1, 2)), r"at least 2 samples.*\(1, 2\)"),
        (np.zeros((2, 0)), r"1 dimension.*\(2, 0\)"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.zeros((2, 2), bool), "bool"),
        (np.zeros((2, 2), object), "object"),
        (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
        (np.zeros((2, 2), "datetime64[s]"), "real numbers"),
    ],
)
def test_no_features(values, message):
    with pytest.raises(InputError, match=message):
        checks.features_matrix(values)
    with pytest.raises(InputError, match="reference_features"):
        checks.features_matrix(values, "reference_features")


def test_no_features_of_torch():
    torch = pytest.importorskip("torch")
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(InputError, match="real numbers"):
            checks.features_matrix(torch.zeros((2, 2), dtype=dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_bad_row_is_named(bad, backend, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)
    values = np.zeros((200, 2))
    checks.finite(backend(values))
    values[[130, 140], 1] = bad
    with pytest.raises(FeatureError, match=r"row 130 .*2 such rows among 128 to 191"):
        checks.finite(backend(values))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1, 2, 1], [0, 1, 2]),
        ([7, 2, 0, 7], [0, 2, 7]),
        (["cat", "ant", "cat", "bee"], ["ant", "bee", "cat"]),
        (np.array(["cat", "ant"] * 2, object), ["ant", "cat"]),
        ([3.0, 1.0, 3.0, 1.0], [1, 3]),
        ([True, False, True, True], [False, True]),
        (np.array([5, 250, 5, 5], np.uint8), [5, 250]),
    ],
)
def test_class_labels_are_numbered_from_0(labels, names):
    ids, found = checks.class_labels(labels, 4, LIKE)
    assert found.tolist() == names
    assert ids.dtype == np.int64
    assert [names[i] for i in ids] == list(labels)


def test_class_labels_in_one_column():
    ids, names = checks.class_labels(np.array([[7], [2], [0], [7]]), 4, LIKE)
    assert (ids.tolist(), names.tolist()) == ([2, 1, 0, 2], [0, 2, 7])


def test_class_labels_live_beside_the_features(backend):
    ids, _ = checks.class_labels([1, 0, 1, 5], 4, backend(LIKE))
    assert arrays.namespace(ids) is arrays.namespace(backend(LIKE))
    assert arrays.to_numpy(ids).tolist() == [1, 0, 1, 2]
    again, _ = checks.class_labels(backend(np.array([1, 0, 1, 5])), 4, LIKE)
    assert isinstance(again, np.ndarray)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0], "3 labels for 4"),
        ([[0, 1], [1, 0], [0, 1], [1, 0]], r"\(4, 2\).*targets="),
        ([0.5, 1.0, 0.0, 1.0], "fractional.*targets="),
        ([np.nan, 1.0, 0.0, 1.0], "non-finite"),
        ([-1, 0, 1, 0], "negative, got -1.*unlabelled"),
        ([-1.0, 0.0, 1.0, 0.0], "negative, got -1"),
        (["a", None, "b", "a"], "got NoneType and str.*unlabelled"),
        (np.array(["a", 1, "b", "a"], object), "got int and str"),
        ([3, 3, 3, 3], r"at least two classes, got only \[3\]"),
    ],
)
def test_no_class_labels(labels, message):
    with pytest.raises(InputError, match=message):
        checks.class_labels(labels, 4, LIKE)


@pytest.mark.parametrize("size", [2.0**-49, 2.0**-47])
def test_targets_that_vary_by_rounding_alone_do_not_vary(size):
    """Nor does one column make up for another."""
    values = np.full((4, 2), 1e9)
    values[1, 1] *= 1 + size
    if size < 2.0**-48:
        with pytest.raises(InputError, match="targets must vary more than by rounding"):
            checks.target_columns(values, 4, LIKE)
    else:
        assert checks.target_columns(values, 4, LIKE).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1e300, r"targets reach 2e\+300, .* Divide"),
        (1e60, r"targets reach 2e\+60"),
        (1e-60, r"targets vary by 1e-60, .* Multiply"),
    ],
)
def test_targets_whose_powers_overflow_or_vanish(size, message):
    with pytest.raises(InputError, match=message):
        checks.target_columns(size * np.array([1.0, 1.0, 2.0, 1.0]), 4, LIKE)


@pytest.mark.parametrize("bad", [1e13, 1e38])
def test_features_whose_powers_overflow(bad, backend):
    values = np.zeros((20, 2), np.float32)
    values[3, 1] = bad
    with pytest.raises(FeatureError, match=r"reach 1e\+\d\d.*float32 .*or pass float64"):
        checks.finite(backend(values))
    checks.finite(backend(values.astype(np.float64)))
    with pytest.raises(FeatureError, match=r"reach 1e\+51.*Divide them"):
        checks.finite(backend(values.astype(np.float64) * 1e51 / bad))


def test_masked_entries_are_refused_and_other_kinds_of_arrays_are_plain():
    masked = np.ma.masked_array(np.arange(6.0).reshape(3, 2), mask=[[0, 0], [0, 1], [0, 0]])
    for check in (checks.features_matrix, lambda a: checks.class_labels(a[:, 1], 3, LIKE)):
        with pytest.raises(InputError, match=r"1 of one are masked\. Leave"):
            check(masked)
    for kind in (np.ma.MaskedArray, np.matrix):
        assert type(checks.features_matrix(np.eye(2).view(kind))) is np.ndarray


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_targets_become_columns(shape, dtype, backend):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    columns = checks.target_columns(values, 4, backend(LIKE))
    assert arrays.namespace(columns) is arrays.namespace(backend(LIKE))
    assert arrays.to_numpy(columns).tolist() == values.reshape(4, -1).astype(float).tolist()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.zeros((3, 2)), r"n_samples = 4, got \(3, 2\)"),
        (np.zeros((4, 2, 2)), r"\(4, 2, 2\)"),
        (np.empty((4, 0)), r"at least one target .*got \(4, 0\)"),
        ([1.0, np.nan, 0.0, 0.0], "finite"),
        ([2.0, 2.0, 2.0, 2.0], r"vary, every row is \[2.0\]"),
        (["a", "b", "a", "b"], "numbers, got dtype"),
        (np.array([1j, 2, 3, 4]), "complex128"),
    ],
)
def test_no_targets(targets, message):
    with pytest.raises(InputError, match=message):
        checks.target_columns(targets, 4, LIKE)


def test_probabilities_pass(backend):
    values = np.array([[0.2, 0.8], [1.0, 0.0], [0.5, 0.504], [0.5, 0.5]])
    result = checks.probabilities(values, 4, backend(LIKE))
    assert arrays.namespace(result) is arrays.namespace(backend(LIKE))
    single = checks.probabilities(values.astype(np.float32), 4, LIKE)
    assert single.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((3, 2), 0.5), "3 and 4 rows"),
        (np.full((4, 2), 0.4), r"sum to 1, one is off by 0.2.*source_logits="),
        (np.array([[1.5, -0.5]] * 4), "not negative"),
        (np.array([[np.nan, 1.0]] * 4), "finite"),
        (np.array([[np.inf, 1.0]] * 4), "finite"),
        (np.full(4, 1.0), r"source_probabilities must be a matrix"),
    ],
)
def test_no_probabilities(values, message):
    with pytest.raises(InputError, match=message):
        checks.probabilities(values, 4, LIKE)


def test_reference_features_come_from_the_same_encoder(backend):
    values = np.ones((9, 2), np.float32)
    result = checks.reference_matrix(values, backend(LIKE))
    assert arrays.namespace(result) is arrays.namespace(backend(LIKE))
    with pytest.raises(InputError, match=r"the 2 columns of features, got 3.*same encoder"):
        checks.reference_matrix(np.ones((9, 3)), LIKE)
    values[4] = np.nan
    with pytest.raises(FeatureError, match="reference_features must be finite, but row 4"):
        checks.reference_matrix(values, LIKE)
