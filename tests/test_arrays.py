"""The small set of primitives that the array standard lacks, on every library."""

from __future__ import annotations

import numpy as np
import pytest

from transferscope.numerics import arrays


def same_kind(result, like) -> None:
    """Library and device of `like`."""
    assert arrays.namespace(result) is arrays.namespace(like)
    assert arrays.device_of(result) == arrays.device_of(like)


def table(n: int = 7, d: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, d))


def test_namespace_passes_over_none(backend):
    a = backend(table())
    assert arrays.namespace(None, a, None) is arrays.namespace(a)


def test_as_array_takes_anything(backend):
    a = backend(table())
    assert type(arrays.as_array(a)) is type(a)
    assert arrays.as_array([[1.0, 2.0]]).shape == (1, 2)


def test_as_array_leaves_the_graph():
    torch = pytest.importorskip("torch")
    tracked = torch.ones(2, 2, requires_grad=True)
    assert not arrays.as_array(tracked).requires_grad
    assert arrays.to_numpy(tracked).tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [("float64", "float64"), ("float32", "float32"), ("int32", "float64"), ("uint8", "float64")],
)
def test_working_float(dtype, becomes, backend):
    a = backend(np.arange(6).reshape(2, 3).astype(dtype))
    result = arrays.working_float(a)
    same_kind(result, a)
    assert becomes in str(result.dtype)
    assert arrays.to_numpy(result).tolist() == [[0, 1, 2], [3, 4, 5]]
    if dtype == becomes:
        assert result is a


def test_half_becomes_single():
    torch = pytest.importorskip("torch")
    assert arrays.working_float(np.ones((1, 1), np.float16)).dtype == np.float32
    for half in (torch.float16, torch.bfloat16):
        assert arrays.working_float(torch.ones(1, 1, dtype=half)).dtype == torch.float32


def test_to_numpy_to_like_and_beside(backend):
    a = backend(table())
    np.testing.assert_array_equal(arrays.to_numpy(a), table())
    back = arrays.from_numpy(table(), a)
    same_kind(back, a)
    assert arrays.convert_like(a, back) is a
    moved = arrays.convert_like(table(2).astype(np.float32), a)
    same_kind(moved, a)
    assert "float32" in str(moved.dtype)


def test_double(backend):
    a = backend(table().astype(np.float32))
    result = arrays.as_float64(a)
    same_kind(result, a)
    assert "float64" in str(result.dtype)
    already = backend(table())
    assert arrays.as_float64(already) is already


def test_softmax(backend):
    logits = np.array([[1000.0, 1000.0], [-1000.0, 1000.0], [0.0, np.log(3)]])
    result = arrays.softmax(backend(logits))
    same_kind(result, backend(logits))
    np.testing.assert_allclose(
        arrays.to_numpy(result), [[0.5, 0.5], [0, 1], [0.25, 0.75]], atol=1e-15
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_class_sums_and_counts(dtype, backend):
    values, labels = table(50, 4).astype(dtype), np.random.default_rng(1).integers(0, 3, 50)
    expected = np.stack([values[labels == c].sum(axis=0) for c in range(5)])
    a = backend(values)
    sums = arrays.class_sums(a, backend(labels), 5)
    same_kind(sums, a)
    assert sums.dtype == a.dtype
    np.testing.assert_allclose(arrays.to_numpy(sums), expected, rtol=1e-5)
    counts = arrays.class_counts(backend(labels), 5)
    same_kind(counts, a)
    assert "float64" in str(counts.dtype)
    assert arrays.to_numpy(counts).tolist() == [*np.bincount(labels), 0, 0]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_smallest_come_in_order(k, backend):
    values = np.random.default_rng(0).permuted(np.tile(np.arange(9.0), (6, 1)), axis=1)
    found = arrays.to_numpy(arrays.smallest(backend(values), k))
    np.testing.assert_array_equal(found, np.argsort(values, axis=1)[:, :k])


def test_solve_positive(backend):
    root = table(9, 4)
    matrix, right = root.T @ root, table(4, 2)
    result = arrays.solve_positive(backend(matrix), backend(right))
    same_kind(result, backend(right))
    np.testing.assert_allclose(arrays.to_numpy(result), np.linalg.solve(matrix, right))


def test_cholesky_says_where_there_is_none(backend):
    root = table(9, 4)
    factor = arrays.cholesky(backend(root.T @ root))
    same_kind(factor, backend(root))
    np.testing.assert_allclose(arrays.to_numpy(factor), np.linalg.cholesky(root.T @ root))
    assert arrays.cholesky(backend(np.diag([1.0, -1.0]))) is None


@pytest.mark.parametrize("n", [1, 64, 65, 200])
def test_chunks_cover_every_row_once(n, backend, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)
    a = backend(table(n, 2))
    slices = list(arrays.chunks(a))
    assert [i for s in slices for i in range(n)[s]] == list(range(n))
    assert max(s.stop - s.start for s in slices) <= 64
    for s in slices:
        assert a[s, :].shape[0] == s.stop - s.start  # never beyond the end: strict libraries raise


def test_chunks_hold_the_promised_bytes():
    narrow, wide = np.zeros((3, 8)), np.zeros((3, 2048))
    assert arrays.chunk_rows(wide) * 8 * 2048 == arrays.CHUNK_BYTES
    assert arrays.chunk_rows(narrow) * 8 * 8 == arrays.CHUNK_BYTES


def test_chunks_of_a_mapped_file_read_right(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 8)
    values = table(300, 2)
    np.save(tmp_path / "features.npy", values)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    for _ in range(2):  # pages handed back are read again
        read = [np.array(mapped[rows]) for rows in arrays.chunks(mapped)]
        np.testing.assert_array_equal(np.concatenate(read), values)
    assert arrays._mapping(np.asarray(mapped)[3:].view()) is not None
    assert arrays._mapping(values) is None
