"""Numbers near the ends of their range, and arrays of every kind: right, or refused by name."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from test_contract import ALONE, ROWS, SUFFIX, every_features, planted

from transferscope import score
from transferscope.embedding import Embedding
from transferscope.errors import FeatureError, InputError
from transferscope.metrics import METRICS, logme, trace_ped
from transferscope.metrics._ped import applies_to, with_ped
from transferscope.numerics import arrays, transport
from transferscope.parameter_distance import dataset_factors
from transferscope.relatedness import task_relatedness

EVERY = [
    *(pytest.param(m, t, id=f"{m.name}-{t}") for m, t in ROWS if t != "multilabel"),
    *(pytest.param(with_ped(m), "classification", id=f"{m.name}+ped") for m in ALONE
      if applies_to(m) and not m.behaviour.copied_to_host),
]  # fmt: skip


def scaled(factor, dtype, x):
    with np.errstate(over="ignore", under="ignore"):
        return (x * factor).astype(dtype)


def with_outlier(value, x):
    x = x.copy()
    x[5, 2] = value
    return x


def one_row(x):
    return (np.arange(len(x)) == 3)[:, None] * np.ones(x.shape)


def almost_constant(x):
    x = np.full(x.shape, 0.1)
    x[3] = np.nextafter(x[3], 1)
    return x


EXTREMES = {
    **{f"x {s:g}": partial(scaled, s, np.float64) for s in (1e300, 1e154, 1e-160, 5e-320)},
    **{f"x {s:g} in float32": partial(scaled, s, np.float32) for s in (3e37, 1e-13)},
    **{f"outlier {v:g}": partial(with_outlier, v) for v in (1e200, 1e30)},
    "one row that differs": one_row,
    "almost constant": almost_constant,
}


@pytest.mark.parametrize("case", EXTREMES)
@pytest.mark.parametrize(("metric", "task"), EVERY)
def test_a_finite_value_or_a_named_refusal(metric, task, case):
    """Of value and influence; a warning of NumPy's is an error here."""
    data = planted(metric, task)
    data["features"] = EXTREMES[case](data["features"])
    try:
        measured = metric.measure(Embedding(**data))
        numbers = [measured.value, *arrays.to_numpy(measured.influence())]
    except FeatureError:
        return  # any other error fails
    assert np.all(np.isfinite(numbers))
    assert case in ("outlier 1e+30", "one row that differs") or not metric.behaviour.uses_features


@pytest.mark.parametrize(
    ("dtype", "scales"), [(np.float64, (1e-45, 1e-20, 1e20, 1e45)), (np.float32, (1e-11, 1e11))]
)
@pytest.mark.parametrize(
    ("metric", "task"),
    [p for p in EVERY if "scale" not in p.values[0].behaviour.changes_with
     and not p.values[0].name.endswith(SUFFIX)],
)  # fmt: skip
def test_what_does_not_change_with_the_scale_is_right_at_any(metric, task, dtype, scales):
    data = planted(metric, task)
    tolerance = 1e-6 if dtype == np.float64 else 1e-4
    plain = metric.measure(Embedding(**every_features(partial(scaled, 1, dtype), data))).value
    for scale in scales:
        data_there = every_features(partial(scaled, scale, dtype), data)
        there = metric.measure(Embedding(**data_there)).value
        assert there == pytest.approx(plain, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("scale", [1e300, 1e154, 1e60, 1e-60, 1e-300])
@pytest.mark.parametrize("side", ["features", "reference_features"])
def test_other_functions_of_features(scale, side):
    data = planted(METRICS["otce"], "classification")
    data[side] = data[side] * scale
    labels = data.pop("reference_labels")
    for function, refused in (
        (partial(trace_ped, **data), scale > 1 or side == "features"),
        (partial(dataset_factors, **data), scale > 1 or side == "features"),
        (partial(task_relatedness, **data, reference_labels=labels), scale > 1 or scale < 1e-200),
    ):
        if refused:
            with pytest.raises(FeatureError, match="features"):
                function()
        else:
            function()


def test_targets_of_any_size():
    """A shared case of 60 samples: targets x 1e300 came out as NaN, or a perfect fit."""
    features = np.random.default_rng(0).standard_normal((60, 12))
    targets = features[:, 0] + 0.1 * np.arange(60)
    metrics = ["logme", "knn", "linear_probe", "linear_mse"]
    with pytest.raises(InputError, match=r"targets reach .*e\+300.* Divide"):
        score(features, targets=targets * 1e300, metrics=metrics)
    plain = score(features, targets=targets, metrics=metrics)
    for scale in (1e-40, 1e40):
        table = score(features, targets=targets * scale, metrics=metrics)
        for name in ("knn", "linear_probe"):
            assert table[name] == pytest.approx(plain[name])
        assert table["logme"] == pytest.approx(plain["logme"] - np.log(scale))
        assert table["linear_mse"] == pytest.approx(plain["linear_mse"] * scale**2)


@pytest.mark.parametrize("constant", [0.1, 1e9 / 7])
@pytest.mark.parametrize("name", ["logme", "knn", "linear_probe", "linear_mse"])
def test_a_column_of_targets_that_rounding_alone_moves_is_constant(name, constant):
    """The mean of 97 times 0.1 is not 0.1."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((97, 5))
    column = features[:, 0] + rng.standard_normal(97)
    one = METRICS[name].measure(Embedding(features, targets=column))
    for still in (
        np.full(97, constant),
        np.where(np.arange(97) == 5, constant * (1 + 3e-16), constant),
    ):
        two = METRICS[name].measure(Embedding(features, targets=np.column_stack([column, still])))
        assert two.value == pytest.approx(one.value)


def test_transport_of_any_scale():
    """The simplex stopped early at costs of 1e-12, where its tolerance is not relative."""
    cost = np.random.default_rng(0).random((40, 30))
    plain = transport.exact_plan(cost)
    for scale in (2.0**-300, 2.0**-40, 2.0**300):
        plan = transport.exact_plan(cost * scale)
        np.testing.assert_allclose(plan.coupling, plain.coupling, atol=1e-12)
        assert plan.cost == pytest.approx(plain.cost * scale)
        np.testing.assert_allclose(plan.row_potentials, plain.row_potentials * scale)


def mapped(dtype, folder, x):
    path = folder / f"{len(x)}.npy"  # features and reference features side by side
    np.save(path, x.astype(dtype))
    return np.load(path, mmap_mode="r")


def of_torch(dtype, x):
    torch = pytest.importorskip("torch")
    return torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=dtype == "float64")


FORMS = {
    **{d: partial(lambda d, _, x: x.astype(d), d)
       for d in ("i1", "i2", "i8", "u1", "u8", "f2", "g", ">f4", ">f8", ">i2", ">f2")},
    **{f"mapped {d}": partial(mapped, d) for d in ("f8", "f4", ">f4", "i1", "f2")},
    **{f"torch {d}": partial(lambda d, _, x: of_torch(d, x), d)
       for d in ("bfloat16", "float16", "int8", "uint8", "float64")},
    "Fortran": lambda _, x: np.asfortranarray(x),
    "strided": lambda _, x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda _, x: x[::-1, ::-1].copy()[::-1, ::-1],
    "list": lambda _, x: x.tolist(),
    "matrix": lambda _, x: x.view(np.matrix),
    "masked array": lambda _, x: np.ma.masked_array(x),
    "transposed tensor": lambda _, x: of_torch("float64", np.ascontiguousarray(x.T)).T,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_array_gives_the_same_scores(form, tmp_path):
    """Whole numbers of 0 to 120, which all these types hold."""
    data = planted(METRICS["otce"], "classification")
    data = every_features(lambda x: np.clip(np.rint(12 * x + 50), 0, 120), data)
    metrics = [m.name for m in ALONE if not m.needs] + ["frechet", "logme+ped"]
    expected = score(**data, metrics=metrics)
    found = score(**every_features(partial(FORMS[form], tmp_path), data), metrics=metrics)
    assert found.scores.keys() == expected.scores.keys()
    for name in found.scores:
        # those that are float32 by now
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), name


def test_integers_are_not_summed_in_their_own_width():
    features = np.array([[200, 0], [250, 1], [3, 255], [0, 250]], np.uint8)
    assert logme(features, [0, 0, 1, 1]) == logme(features.astype(float), [0, 0, 1, 1])
