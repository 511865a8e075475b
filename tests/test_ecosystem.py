"""Results in the forms of other tools, and encoders in their pipelines."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import runpy
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import transferscope
from test_result_records import EXAMPLES, RECORDS, judged, ranking
from transferscope.errors import InputError, MissingExtraError, UnknownNameError

PAGE = Path(__file__).parents[1] / "docs" / "ecosystem.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

# --- the page of examples -------------------------------------------------------------------------

#: Trackers, and a word that their example holds; test_pages.py runs the whole page without those
#: that few have.
TRACKERS = {"tensorboard": "SummaryWriter", "mlflow": "import mlflow", "wandb": "import wandb",
            "trackio": "import trackio"}  # fmt: skip


@pytest.mark.needs("torch")
@pytest.mark.parametrize("tracker", TRACKERS)
def test_trackers_follow_a_ranking(tracker, tmp_path, monkeypatch):
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    (block,) = [block for block in BLOCKS if TRACKERS[tracker] in block]
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "WANDB_DIR", "TRACKIO_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "example.py").write_text(f"{BLOCKS[0]}\n{block}", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["ranking"].best.encoder == "mini/resnet-mnist-supervised"
    if tracker == "tensorboard":
        (written,) = (tmp_path / "runs" / "choice").iterdir()
        assert b"expected accuracy/mini/resnet-mnist-supervised" in written.read_bytes()
    elif tracker == "mlflow":
        (page,) = tmp_path.rglob("choice.html")
        assert "mini/resnet-mnist-supervised" in page.read_text(encoding="utf-8")
    elif tracker == "wandb":
        assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


# --- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
@pytest.mark.parametrize("name", RECORDS)
def test_frames_of_other_libraries_hold_the_same(name, library):
    pytest.importorskip("narwhals", reason="narwhals is not installed")
    pytest.importorskip(library, reason=f"{library} is not installed")
    frame = EXAMPLES[name].to_frame()
    if any(index is not None for index in frame.index.names):
        frame = frame.reset_index()
    found = EXAMPLES[name].to_native(library)
    assert type(found).__module__.partition(".")[0] == library
    columns = found.to_dict(as_series=False) if library == "polars" else found.to_pydict()
    assert list(columns) == list(frame.columns)
    for column, values in columns.items():
        absent = frame[column].isna().tolist()
        assert [value is None for value in values] == absent, column
        wanted = frame[column][~frame[column].isna()].tolist()
        assert [value for value in values if value is not None] == wanted, column
    # an empty column has a type all the same
    types = found.dtypes if library == "polars" else found.schema.types
    assert not any(str(one).lower() == "null" for one in types)


def test_a_library_that_has_no_frames_is_refused(monkeypatch):
    pytest.importorskip("narwhals", reason="narwhals is not installed")
    with pytest.raises(InputError, match="narwhals knows, such as polars or pyarrow; got 'torch'"):
        judged().to_native("torch")
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r"transferscope\[frames\]"):
        judged().to_native("polars")


# --- measured accuracies --------------------------------------------------------------------------


def test_a_probe_is_an_entry_of_eval_results():
    text = judged().to_eval_results("owner/digits", task_id="test", encoder="mini/encoder-1")
    assert text == (
        '- dataset:\n    id: "owner/digits"\n    task_id: "test"\n  value: 0.8\n'
        '  notes: "leave-one-out accuracy of a linear (ridge) probe on frozen features, 200 '
        'samples, by transferscope"\n'
    )
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    (entry,) = hub.parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("owner/digits", "test", 0.8)


@pytest.mark.parametrize("name", ["digits", "a/b/c", "a/b\n- x: 1", 'a/"b', "", "a/ä"])
def test_ids_that_are_none_are_refused(name):
    with pytest.raises(InputError, match="dataset_id must be owner/name"):
        judged().to_eval_results(name)
    with pytest.raises(InputError, match="task_id must be"):
        judged().to_eval_results("a/b", task_id=f"{name}/")


def test_a_probe_is_a_result_in_the_form_of_mteb():
    found = json.loads(judged().to_mteb())
    assert found["task_name"] == "digits"
    assert found["dataset_revision"] == "f00d"
    (scores,) = found["scores"]["all"]
    assert scores["main_score"] == scores["accuracy"] == 0.8
    assert scores["logme"] == judged().encoders[0].scores["logme"].value
    assert scores["hf_subset"] == "default"
    assert found["evaluation_time"] == pytest.approx(0.75)


def test_what_is_expected_is_no_measurement():
    with pytest.raises(UnknownNameError, match=r"unmeasured was not measured. Those that"):
        judged().to_eval_results("a/b", encoder="timm/unmeasured")
    with pytest.raises(InputError, match="a ranking with a verdict"):
        ranking().to_mteb()
    unmeasured = replace(judged(), encoders=judged().encoders[3:])
    with pytest.raises(InputError, match="a ranking with a verdict"):
        unmeasured.to_eval_results("a/b")


# --- scikit-learn ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("torch", reason="torch is not installed")
    data = transferscope.open_dataset("sklearn/digits", per_class=10)
    return data, [data[i] for i in range(len(data))]


def test_features_are_those_of_extract(digits, tmp_path):
    data, images = digits
    (item,) = transferscope.extract(data, "mini/resnet-random", store=tmp_path)
    for store in (None, tmp_path):
        one = transferscope.EncoderFeatures("mini/resnet-random", store=store)
        found = one.fit(images).transform(images)
        np.testing.assert_array_equal(found, item.features)
        assert found.dtype == np.float32
        assert list(one.get_feature_names_out())[:2] == ["encoderfeatures0", "encoderfeatures1"]
        assert len(one.get_feature_names_out()) == found.shape[1]
    # a data set is taken as it is, and nothing is left behind unasked
    np.testing.assert_array_equal(one.transform(data), item.features)


def test_it_is_kept_by_pickle_and_clone(digits):
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError

    _, images = digits
    one = transferscope.EncoderFeatures("mini/resnet-random", store=None)
    with pytest.raises(NotFittedError):
        pickle.loads(pickle.dumps(one)).transform(images)
    one.fit(images)
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.transform(images[:5]), one.transform(images[:5]))
    assert one.encoder_.identifier == again.encoder_.identifier
    assert clone(one).get_params() == one.get_params()


def test_a_layer_is_one_layer(digits):
    _, images = digits
    for layer in ("all", "best", "1,2"):
        with pytest.raises(InputError, match="layer must be"):
            transferscope.EncoderFeatures("mini/resnet-random", layer=layer).fit(images)
    encoder = transferscope.load_encoder("mini/resnet-random")
    first = transferscope.EncoderFeatures(encoder, layer=1, store=None).fit_transform(images)
    last = transferscope.EncoderFeatures(encoder, store=None).fit_transform(images)
    assert first.shape[0] == last.shape[0] == len(images)
    assert first.shape != last.shape or not np.array_equal(first, last)


#: Checks of scikit-learn that ask for what images and texts do not have, and why.
NOT_OURS = {
    "check_estimator_sparse_tag": "fit does not look at samples",
    "check_transformer_general": "images and texts have no number of features",
    "check_estimators_pickle": "an encoder that is a module of one's own is not pickled",
    "check_estimators_overwrite_params": "nor hashed by joblib",
}


@pytest.mark.needs("torch")
def test_scikit_learn_finds_it_in_order():
    """On rows of numbers, which is all that scikit-learn makes."""
    import torch
    from sklearn.utils import estimator_checks

    class Numbers:
        key = "numbers"

        def prepare(self, sample):
            return np.asarray(sample, np.float32)

        def collate(self, prepared):
            return torch.from_numpy(np.stack(prepared))

    class Summary(torch.nn.Module):
        def forward(self, batch):
            return torch.stack([batch.mean(1), batch.amax(1)], 1)

    encoder = transferscope.from_module(Summary(), Numbers(), feature_dim=2)
    one = transferscope.EncoderFeatures(encoder, store=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the checks themselves
        found = estimator_checks.check_estimator(
            one, expected_failed_checks=NOT_OURS, on_fail=None, on_skip=None
        )
    states = {name: {f["status"] for f in found if f["check_name"] == name} for name in NOT_OURS}
    assert all("xfail" in states[name] for name in NOT_OURS), states
    failed = [(f["check_name"], f["exception"]) for f in found if f["status"] == "failed"]
    assert failed == []
    assert sum(f["status"] == "passed" for f in found) >= 30
