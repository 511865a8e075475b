"""Ray: the same bits as in one process, whoever dies meanwhile; what cannot work is refused."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

pytest.importorskip("torch", reason="extraction runs encoders in torch")

from transferscope import (
    ImagePreprocessing,
    RayExecutor,
    from_module,
    load_encoder,
    open_dataset,
    rank,
    ray_executor,
)
from transferscope import extract as extract_features
from transferscope.cli import _options, app
from transferscope.datasets import Dataset
from transferscope.errors import (
    DatasetError,
    InputError,
    MissingExtraError,
    UnknownNameError,
    WorkerError,
)
from transferscope.extraction import Extracted, _sinks
from transferscope.metrics import METRICS
from transferscope.storage.feature_store import FeatureStore, StoreEntry
from transferscope.training import _fine_tuning, _selector, _trials, finetune, select

ENCODERS = "mini/resnet-random,mini/vit-random"
needs_ray = pytest.mark.needs("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines of one processor each, the first with a GPU by name."""
    utils = pytest.importorskip("ray.cluster_utils", reason="could not import 'ray'")
    with pytest.MonkeyPatch.context() as patch:
        # each worker one thread, as here: with more, sums are taken in another order
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # or they wait for whatever else runs here
        cluster = utils.Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False},
        )
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def workers(cluster: Any) -> Iterator[RayExecutor]:
    with RayExecutor(cluster.address) as executor:
        yield executor


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("sklearn/digits")


@pytest.fixture(scope="module")
def here(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[Extracted]:
    """What one process finds."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    store = tmp_path_factory.mktemp("here")
    found = list(extract_features(digits, ENCODERS, store=store, device="cpu"))
    torch.set_num_threads(before)
    return found


def assert_same(there: list[Extracted], here: list[Extracted]) -> None:
    for one, other in zip(there, here, strict=True):
        assert (one.identifier, one.error) == (other.identifier, None)
        assert (one.n_parameters, one.feature_dim) == (other.n_parameters, other.feature_dim)
        np.testing.assert_array_equal(one.features, other.features)


def kill_workers() -> int:
    """Kill the processes that hold work, as a machine without memory does."""
    killed = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (process / "cmdline").read_bytes()
            if title.startswith(b"ray::_Held"):
                os.kill(int(process.name), signal.SIGKILL)
                killed += 1
    return killed


@needs_ray
def test_workers_that_see_the_store_write_to_it(workers, digits, here, tmp_path, monkeypatch):
    written: list[int] = []
    monkeypatch.setattr(StoreEntry, "write", lambda *_: written.append(1))
    seen: list[tuple[int, int]] = []
    there = list(
        extract_features(
            digits,
            ENCODERS,
            store=tmp_path,
            executor=workers,
            progress=lambda _, done, total: seen.append((done, total)),
        )
    )
    assert_same(there, here)
    assert not written  # nothing by this process
    assert seen[-1] == (2 * len(digits), 2 * len(digits))
    assert FeatureStore(tmp_path).verify() == []


@needs_ray
def test_what_is_in_the_store_is_not_computed_again(workers, digits, here, tmp_path):
    list(extract_features(digits, ENCODERS, store=tmp_path, executor=workers))
    shards = sorted(tmp_path.rglob("shard-*"))
    assert len(shards) == 8
    shards[1].unlink()
    before = {path: path.stat().st_mtime_ns for path in shards if path.exists()}
    seen: list[int] = []
    there = list(
        extract_features(
            digits,
            ENCODERS,
            store=tmp_path,
            executor=workers,
            progress=lambda *now: seen.append(now[2]),
        )
    )
    assert_same(there, here)
    assert max(seen) == 512
    assert {path: path.stat().st_mtime_ns for path in before} == before


@needs_ray
def test_workers_that_see_no_store_send_features_back(workers, digits, here, tmp_path, monkeypatch):
    plain = StoreEntry.__getstate__

    def elsewhere(self: StoreEntry) -> dict[str, object]:
        state = plain(self)
        folder = self.folder.parent / "not here" / self.folder.name
        return {**state, "folder": folder, "_mark": folder / self._mark.name}

    monkeypatch.setattr(StoreEntry, "__getstate__", elsewhere)
    there = list(extract_features(digits, ENCODERS, store=tmp_path, executor=workers))
    assert_same(there, here)


@needs_ray
def test_moments_are_the_same_bits(workers, digits, monkeypatch):
    # more ranges than one
    monkeypatch.setattr(_sinks._batches, "RANGE_SHARDS", 1)
    supervised = "mini/resnet-mnist-supervised"  # has a head
    (one,) = extract_features(digits, supervised, store=None, device="cpu")
    (two,) = extract_features(digits, supervised, store=None, executor=workers)
    assert_same([two], [one])
    ours, theirs = one.embedding().moments, two.embedding().moments
    for name in ("leep", "nce"):
        assert METRICS[name].measure(two.embedding()).value == (
            METRICS[name].measure(one.embedding()).value
        )
    for name, values in ours.to_arrays().items():
        np.testing.assert_array_equal(theirs.to_arrays()[name], values)


@needs_ray
def test_a_ranking_is_the_same(workers, digits, tmp_path):
    alone = rank(digits, ENCODERS, "logme", store=tmp_path / "alone", device="cpu")
    spread = rank(digits, ENCODERS, "logme", store=tmp_path / "spread", executor=workers)
    for one, other in zip(spread.encoders, alone.encoders, strict=True):
        assert one.encoder == other.encoder
        assert one.scores["logme"].value == other.scores["logme"].value
        assert replace(one.expected, seconds_per_sample=0) == replace(
            other.expected, seconds_per_sample=0
        )


@needs_ray
def test_data_that_a_worker_cannot_see_are_refused(workers, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / name).mkdir()
        for i in range(4):
            image.new("RGB", (32, 32), (level, level + i, level)).save(tmp_path / name / f"{i}.png")
    monkeypatch.chdir(tmp_path)  # workers began elsewhere
    with pytest.raises(DatasetError, match=r"dark.0\.png.*where all machines see them"):
        list(extract_features(Path(), "mini/vit-random", store=None, executor=workers))
    data = open_dataset(tmp_path)
    monkeypatch.setattr(Dataset, "digest", lambda *_: "another")
    with pytest.raises(DatasetError, match="holds something else for a worker on"):
        list(extract_features(data, "mini/vit-random", store=None, executor=workers))


@needs_ray
def test_encoders_that_fail_give_their_reasons(workers, digits):
    mini = load_encoder("mini/vit-random")

    def nothing(batch: Any) -> Any:
        return np.full((len(batch), 3), np.nan, np.float32)

    empty = from_module(nothing, mini.preprocessing, identifier="empty")
    absent = "checkpoint:absent.pth?arch=mini/vit-random"
    one, two = extract_features(digits, [empty, absent], store=None, executor=workers)
    assert one.error.startswith("features of sample 0 hold NaN or infinity")
    assert "absent.pth" in two.error
    with pytest.raises(UnknownNameError, match="nobody/knows"):
        list(extract_features(digits, "nobody/knows", store=None, executor=workers))
    with pytest.raises(InputError, match="device 'cuda' is not that of the workers"):
        extract_features(digits, ENCODERS, store=None, device="cuda", executor=workers)
    with pytest.raises(InputError, match="cannot be sent to workers"):
        list(workers.run(threading.Lock().acquire, {"": deque([()])}))


@needs_ray
def test_workers_are_placed_by_what_they_take(cluster, tmp_path):
    def together(name: str) -> tuple[int, str]:  # sent by value: workers cannot import this file
        (tmp_path / name).touch()
        for _ in range(600):
            if len(list(tmp_path.iterdir())) == 2:
                return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]
            time.sleep(0.1)
        raise TimeoutError

    with RayExecutor(cluster.address, cpus=0, gpus=0.5) as executor:
        assert executor.device == "cuda"
        found = list(executor.run(together, {name: deque([(name,)]) for name in ("a", "b")}))
    assert len({process for _, (process, _) in found}) == 2
    assert {visible for _, (_, visible) in found} == {"0"}  # both on the one GPU
    with (
        RayExecutor(cluster.address, gpus=3) as executor,
        pytest.raises(WorkerError, match=r"no machine of the cluster has room .* 3 GPUs"),
    ):
        list(executor.run(together, {"": deque([("c",)])}))


@needs_ray
def test_other_versions_are_refused(workers, monkeypatch):
    theirs = ray_executor._versions()
    monkeypatch.setattr(ray_executor, "_versions", lambda: {**theirs, "torch": "1.0"})
    with pytest.raises(WorkerError, match=r"has torch \S+ instead of 1\.0"):
        list(workers.run(len, {"": deque([("",)])}))


@needs_ray
def test_a_sweep_is_carried_out_by_workers(workers, digits, tmp_path):
    import torch

    data = digits.subsample(150)
    how = {"learning_rates": (1e-3, 3e-3), "weight_decays": (1e-4,), "n_seeds": 2, "epochs": 1}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = finetune("mini/vit-random", data, **how, out=tmp_path / "alone", device="cpu")
    torch.set_num_threads(before)
    shared = finetune("mini/vit-random", data, **how, out=tmp_path / "shared", executor=workers)
    assert [replace(run, seconds=0) for run in shared.runs] == [
        replace(run, seconds=0) for run in alone.runs
    ]
    weights = [path.relative_to(tmp_path / "alone") for path in tmp_path.glob("alone/*/best.*")]
    assert len(weights) == 2
    for path in weights:
        assert (tmp_path / "alone" / path).read_bytes() == (tmp_path / "shared" / path).read_bytes()
    # with the folder's mark gone it is as if a worker did not see the folder
    plain = _fine_tuning.mark_in_use
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fine_tuning, "mark_in_use", lambda folder: plain(folder).with_name("other"))
        with pytest.raises(InputError, match=r"does not see .* in which runs are kept"):
            finetune("mini/vit-random", data, **how, out=tmp_path / "shared", executor=workers)


def striped(n: int, seed: int) -> Dataset:
    """Images of 16 x 16 in three classes, which differ in one direction of light."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    slope = np.stack([np.mgrid[:16, :16][0], np.mgrid[:16, :16][1], np.full((16, 16), 7)])[labels]
    images = 40 + 9 * slope[..., None] + 50 * rng.standard_normal((n, 16, 16, 3))
    return open_dataset((images.clip(0, 255).astype(np.uint8), labels))


CANDIDATES = ["mini/resnet-random", "mini/vit-random", "mini/separable-mnist-rotation"]


def selected(out: Path, **how: Any) -> Any:
    """A selection that is too particular to be settled early."""
    options = {"epochs": 4, "learning_rates": (1e-3, 3e-3), "n_seeds": 2, "batch_size": 16}
    return select(
        striped(60, 0), CANDIDATES, out=out, test=striped(45, 1), tolerance=1e-6, **options, **how
    )


def without_seconds(found: Any) -> Any:
    trials = tuple(replace(one, seconds=0.0) for one in found.trials)
    rows = tuple(replace(one, seconds=0.0) for one in found.candidates)
    return replace(found, seconds=0.0, trials=trials, candidates=rows, weights=None)


@pytest.fixture(scope="module")
def selected_here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = selected(tmp_path_factory.mktemp("selected"), device="cpu")
    torch.set_num_threads(before)
    return found


@needs_ray
def test_a_selection_is_carried_out_by_workers(workers, selected_here, tmp_path, monkeypatch):
    began: list[tuple[Any, ...]] = []
    plain = _trials.TrialsElsewhere._queue

    def watched(self: Any, plan: Any) -> None:
        plain(self, plan)
        began.append(tuple(call[1] for calls in self._queues.values() for call in calls))

    monkeypatch.setattr(_trials.TrialsElsewhere, "_queue", watched)
    found = selected(tmp_path, executor=workers)
    assert without_seconds(found) == without_seconds(selected_here)
    assert Path(found.weights).read_bytes() == Path(selected_here.weights).read_bytes()
    # several are handed out at once, and never two of one run
    assert max(map(len, began)) > 1
    assert all(len({goal[:3] for goal in goals}) == len(goals) for goals in began)
    # nothing is left of what was begun and not wanted
    kept = [str(path) for path in tmp_path.rglob("*.safetensors")]
    assert kept == [found.weights]
    assert selected(tmp_path, executor=workers) == found
    assert not list(tmp_path.glob("in-use*"))


@needs_ray
@pytest.mark.skipif(platform.system() != "Linux", reason="processes are found in /proc")
def test_a_selection_whose_workers_die_is_the_same(workers, selected_here, tmp_path):
    killed: list[int] = []

    def disturb(found: Any) -> None:
        if len(found.trials) in (2, 5) and len(killed) < len(found.trials) / 2:
            killed.append(kill_workers())

    found = selected(tmp_path, executor=workers, report=disturb)
    assert len(killed) == 2
    assert without_seconds(found) == without_seconds(selected_here)
    assert Path(found.weights).read_bytes() == Path(selected_here.weights).read_bytes()


def test_a_call_whose_queue_is_gone_is_put_back():
    """Whoever waits may take away queues as calls begin: a worker that dies then loses nothing."""
    queues: dict[str, deque[tuple[Any, ...]]] = {}
    worker = ray_executor._Worker(actor=None, ready=True, held="vit", call=("a run",))
    lost = ray_executor._Lost("killed", with_machine=False)
    assert ray_executor._mourn(lost, worker, queues, Counter()) is ray_executor._PUT_BACK
    assert queues == {"vit": deque([("a run",)])}


@needs_ray
def test_errors_of_runs_that_nobody_asks_for_do_not_count(workers, selected_here, tmp_path):
    for seed in (1, 2):
        for rate in ("0.001", "0.003"):
            run = tmp_path / "mini_vit-random" / f"lr{rate}-wd0.01-seed{seed}"
            run.mkdir(parents=True)
            (run / "last.safetensors").write_bytes(b"damaged")
    options = {"epochs": 1, "learning_rates": (1e-3, 3e-3), "n_seeds": 3, "executor": workers}
    found = select(striped(60, 0), "mini/vit-random", out=tmp_path, test=striped(45, 1), **options)
    assert found.winner == "mini/vit-random"


def test_without_ray_a_selection_names_its_extra(monkeypatch, digits, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r"transferscope\[ray\]"):
        select(digits, CANDIDATES, out=tmp_path, executor=RayExecutor())


@needs_ray
def test_a_selection_refuses_a_folder_that_workers_do_not_see(workers, tmp_path, monkeypatch):
    plain = _trials.mark_in_use
    monkeypatch.setattr(_trials, "mark_in_use", lambda folder: plain(folder).with_name("other"))
    with pytest.raises(InputError, match=r"does not see .* in which runs are kept"):
        selected(tmp_path, executor=workers)


@needs_ray
def test_a_candidate_that_fails_on_workers_costs_its_own_row(workers, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "DEATHS", 1)
    absent = f"checkpoint:{tmp_path}/absent.safetensors?arch=resnet18"
    import torch

    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    network.append(torch.nn.Linear(12, 4))
    network.register_forward_pre_hook(lambda *_: os._exit(9))
    size = ImagePreprocessing((16, 16), (16, 16))
    deadly = from_module(network, size, identifier="deadly", feature_dim=4)
    found = select(
        striped(60, 0), ["mini/vit-random", absent, deadly], out=tmp_path / "out", epochs=1,
        learning_rates=(1e-3,), n_seeds=1, executor=workers, test=striped(45, 1),
    )  # fmt: skip
    assert found.winner == "mini/vit-random"
    reasons = {row.encoder: row.outcome for row in found.candidates}
    assert reasons[absent].startswith("failed: ")
    assert "1 workers died of it" in reasons["deadly"]


@needs_ray
def test_what_is_beyond_the_budget_is_not_begun_ahead(workers, tmp_path, monkeypatch):
    asked: list[float] = []
    plain = _trials.TrialsElsewhere._wait

    def watched(self: Any, wanted: Any, left: float, ahead: Any) -> object:
        ahead = list(ahead)
        asked.append(len(ahead))
        return plain(self, wanted, left, ahead)

    monkeypatch.setattr(_trials.TrialsElsewhere, "_wait", watched)
    monkeypatch.setattr(_selector.Selector, "_epoch_seconds", lambda *_: 1000.0)
    # three epochs fit, and not three more beside what the leader needs to its end
    short = selected(tmp_path, executor=workers, budget=4e3)
    assert short.reason.startswith("Stopped at the budget")
    assert [trial.epochs for trial in short.trials] == [3, 4]
    assert set(asked) == {0}


@needs_ray
def test_the_command_runs_on_workers(workers, tmp_path, monkeypatch):
    asked: list[tuple[object, ...]] = []

    def these(*given: object) -> contextlib.nullcontext[RayExecutor]:
        asked.append(given)
        return contextlib.nullcontext(workers)

    monkeypatch.setattr(_options, "ray_executor", these)
    options = ["--encoders", "mini/vit-random", "--per-class", "20", "--store", str(tmp_path / "s")]
    ray = ["--ray", "auto", "--ray-workers", "3", "--ray-cpus", "2", "--ray-gpus", "0.5"]
    for command in (["extract", "--out", str(tmp_path / "out")], ["rank"]):
        done = CliRunner().invoke(app, [*command, "sklearn/digits", *options, *ray])
        assert done.exit_code == 0, done.output
    sweep = ["--epochs", "1", "--learning-rates", "1e-3", "--seeds", "1", *options[:-2], *ray]
    for command in (["select", "--out", str(tmp_path / "selected")], ["finetune"]):
        done = CliRunner().invoke(app, [*command, "sklearn/digits", *sweep])
        assert done.exit_code == 0, done.output
    assert asked == [("auto", 3, 2.0, 0.5)] * 4
    assert (tmp_path / "out" / "mini_vit-random.safetensors").exists()


@pytest.mark.parametrize("recipe", ["rayjob.yaml", "slurm.sbatch"])
def test_recipes_give_options_that_there_are(recipe):
    text = (Path(__file__).parents[1] / "docs" / "cluster" / recipe).read_text(encoding="utf-8")
    command = text.partition("transferscope rank ")[2].partition("\n  runtimeEnvYAML")[0]
    given = set(re.findall(r"--[a-z-]+", command))
    assert {"--ray", "--ray-gpus", "--ray-cpus", "--store"} <= given
    rank_command = get_command(app).commands["rank"]
    assert given <= {name for option in rank_command.params for name in option.opts}


def test_what_workers_are_like_needs_workers():
    with pytest.raises(InputError, match="--ray local, auto or HOST:6379"):
        _options.ray_executor(None, None, 1, 0.5)
    assert isinstance(_options.ray_executor("auto", 2, 1, 0), RayExecutor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be a number of at least 1; got 0"),
        ({"cpus": -1}, "cpus must be a number of at least 0; got -1"),
        ({"gpus": 1.5}, "gpus must be a share of one GPU or a whole number"),
        ({"cpus": 0}, "both are 0"),
        ({"memory": 0}, "memory must be a number of at least 1; got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RayExecutor(**options)


def test_without_ray_its_extra_is_named(monkeypatch, digits):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"transferscope\[ray\]"):
        list(extract_features(digits, "mini/vit-random", store=None, executor=RayExecutor()))


@needs_ray
def test_an_encoder_that_kills_its_workers_fails_alone(workers, digits, here, monkeypatch):
    monkeypatch.setattr(ray_executor, "DEATHS", 1)
    mini = load_encoder("mini/vit-random")
    deadly = from_module(lambda _: os._exit(9), mini.preprocessing, identifier="deadly")
    bad, good = extract_features(
        digits, [deadly, "mini/resnet-random"], store=None, executor=workers
    )
    assert re.search("1 workers died of it, the last one so: .*process has died", bad.error)
    assert good.error is None


@needs_ray
@pytest.mark.skipif(platform.system() != "Linux", reason="processes are found in /proc")
def test_workers_and_a_machine_die(cluster, workers, digits, here, tmp_path):
    lost: list[str] = []

    def disturb(_: str, done: int, total: int) -> None:
        if done and not lost:
            assert kill_workers()
            lost.append("workers")
        elif done > 1024 and "machine" not in lost:
            cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)
            lost.append("machine")

    there = list(
        extract_features(digits, ENCODERS, store=tmp_path, executor=workers, progress=disturb)
    )
    assert lost == ["workers", "machine"]
    assert_same(there, here)
    assert FeatureStore(tmp_path).verify() == []
