"""Probes, fine-tuning and pre-training: they learn, they choose honestly, they survive a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from safetensors.torch import load_file  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from transferscope.datasets import Dataset, open_dataset  # noqa: E402
from transferscope.encoders import ImagePreprocessing, from_module, load_encoder  # noqa: E402
from transferscope.errors import EncoderError, FeatureError, InputError, StoreError  # noqa: E402
from transferscope.results import FineTuningResult  # noqa: E402
from transferscope.training import (  # noqa: E402
    _descent,
    finetune,
    fit_logistic,
    pretrain,
    probe,
)
from transferscope.training._data import Data, augmented  # noqa: E402
from transferscope.training._fine_tuning import hold_out  # noqa: E402
from transferscope.training._objective import Objective  # noqa: E402

ENCODER = "mini/resnet-random"
QUICK = {"learning_rates": (3e-3,), "weight_decays": (1e-4,), "n_seeds": 1, "patience": None}


def striped(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images whose class is the direction and the width of their stripes, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    y, x = np.mgrid[:32, :32]
    waves = np.stack([np.sin(x / 2), np.sin(y / 2), np.sin((x + y) / 4)])
    shifts = rng.integers(0, 12, n)
    images = np.stack([np.roll(waves[c], s, (0, 1)) for c, s in zip(labels, shifts, strict=True)])
    images = 128 + 40 * images[..., None] + 40 * rng.standard_normal((n, 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("stripes") / "stripes.npz"
    train, test = striped(120), striped(60, seed=1)
    np.savez(
        path,
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
    )
    return path


@pytest.fixture(scope="module")
def train(archive):
    return open_dataset(str(archive), split="train")


@pytest.fixture(scope="module")
def test_part(archive):
    return open_dataset(str(archive), split="test")


# -- fine-tuning -------------------------------------------------------------------------------


def test_full_fine_tuning_learns_what_a_frozen_random_encoder_cannot_tell(train, test_part):
    full = finetune(ENCODER, train, test_part, epochs=8, **QUICK)
    head = finetune(ENCODER, train, test_part, epochs=8, mode="head", **QUICK)
    assert full.measure == "accuracy"
    assert full.value > 0.9
    assert head.value < full.value
    assert (full.n_train, full.n_validation, full.n_test) == (96, 24, 60)


@pytest.mark.parametrize("mode", ["full", "last-block", "head"])
def test_mode_changes_exactly_its_weights_and_gives_the_encoder_back(mode, train, tmp_path):
    encoder = load_encoder(ENCODER)
    before = {k: v.clone() for k, v in encoder.module.state_dict().items()}
    finetune(encoder, train, epochs=1, mode=mode, out=tmp_path, **QUICK)
    (kept,) = tmp_path.glob("*/best.safetensors")
    after = load_file(kept)
    changed = {k for k, v in before.items() if not torch.equal(after[k], v)}
    floating = {k for k in before if before[k].is_floating_point()}
    if mode == "full":
        # all but weights that a shift of the next normalisation makes useless
        assert len(changed & floating) > 0.9 * len(floating)
    elif mode == "last-block":
        assert changed
        assert all(name.startswith(("stage3.", "norm.")) for name in changed)
    else:
        assert not changed
    assert {"target_head.weight", "target_head.bias"} <= set(after)
    for name, value in encoder.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not encoder.module.training
    assert not any(p.requires_grad for p in encoder.module.parameters())


def test_sweep_chooses_by_the_held_out_part_and_repeats_with_further_seeds(train, test_part):
    found = finetune(
        ENCODER,
        train,
        test_part,
        learning_rates=(1e-6, 3e-3),
        weight_decays=(1e-4, 1e-2),
        n_seeds=3,
        epochs=3,
    )
    sweep, further = found.runs[:4], found.runs[4:]
    assert [(r.learning_rate, r.weight_decay) for r in sweep] == [
        (1e-6, 1e-4),
        (1e-6, 1e-2),
        (3e-3, 1e-4),
        (3e-3, 1e-2),
    ]
    best = max(sweep, key=lambda run: (run.validation, -run.validation_loss))
    assert (found.learning_rate, found.weight_decay) == (best.learning_rate, best.weight_decay)
    assert found.learning_rate == 3e-3
    assert [run.seed for run in further] == [1, 2]
    values = [run.test for run in (best, *further)]
    assert found.value == pytest.approx(np.mean(values))
    assert found.spread == pytest.approx(np.std(values, ddof=1))
    assert len(found.to_frame()) == 6
    assert json.loads(found.to_json())["measure"] == "accuracy"


def test_parts_of_a_sweep_add_up_to_the_whole(train, test_part, tmp_path):
    options = {"learning_rates": (1e-3, 3e-3), "weight_decays": (1e-4,), "n_seeds": 2, "epochs": 2}
    whole = finetune(ENCODER, train, test_part, **options)
    for i in (1, 2):
        partial = finetune(ENCODER, train, test_part, out=tmp_path, part=(i, 2), **options)
        assert len(partial.runs) == 1
    joined = finetune(ENCODER, train, test_part, out=tmp_path, **options)
    assert joined.value == whole.value
    assert [run.test for run in joined.runs] == [run.test for run in whole.runs]
    # weights of the chosen pair are kept, those of the others are not
    kept = {path.parent.name for path in tmp_path.glob("*/best.safetensors")}
    assert kept == {run.folder for run in joined.runs if run.learning_rate == joined.learning_rate}


def test_stopped_after_an_epoch_and_repeated_gives_the_same_bits(train, test_part, tmp_path):
    options = {**QUICK, "epochs": 4, "augment": "flip"}
    finetune(ENCODER, train, test_part, out=tmp_path / "whole", **options)

    class StoppedError(Exception):
        pass

    def stop(_text, done, _total):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        finetune(ENCODER, train, test_part, out=tmp_path / "cut", progress=stop, **options)
    seen = []
    finetune(
        ENCODER,
        train,
        test_part,
        out=tmp_path / "cut",
        progress=lambda _text, done, _total: seen.append(done),
        **options,
    )
    assert seen == [2, 3]
    whole, cut = (next(tmp_path.glob(f"{name}/*/best.safetensors")) for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    log = (cut.parent / "log.csv").read_text().splitlines()
    assert log[0].startswith("epoch,learning_rate,train_loss,validation_loss,validation")
    assert len(log) == 5


def test_killed_and_repeated_command_ends_with_the_same_accuracy(archive, tmp_path):
    command = [sys.executable, "-m", "transferscope", "finetune", str(archive)]
    command += ["--encoders", ENCODER, "--test-split", "test", "--learning-rates", "0.003"]
    command += ["--weight-decays", "0.0001", "--seeds", "1", "--epochs", "12", "--format", "json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], env=environment)
    deadline = time.monotonic() + 120
    # while the command looks whether it may write there, the folder comes and goes
    while not any("last.safetensors" in files for *_, files in os.walk(tmp_path / "killed")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list(tmp_path.glob("killed/**/run.json"))
    results = []
    for name in ("killed", "whole"):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout)[0])
    assert results[0]["value"] == results[1]["value"]
    assert results[0]["runs"][0]["validation_loss"] == results[1]["runs"][0]["validation_loss"]


def test_folder_of_another_run_is_refused(train, test_part, tmp_path):
    finetune(ENCODER, train, test_part, epochs=1, out=tmp_path, **QUICK)
    with pytest.raises(InputError, match="another run"):
        finetune(ENCODER, train, test_part, epochs=2, out=tmp_path, **QUICK)


def test_early_stopping_ends_a_run_that_gets_no_better(train, test_part):
    # steps so long that the loss soon gets worse
    options = {**QUICK, "learning_rates": (30.0,), "patience": 2}
    (run,) = finetune(ENCODER, train, test_part, epochs=30, mode="head", **options).runs
    assert run.n_epochs == run.epoch + 2 < 30
    patient = {**options, "patience": None}
    (other,) = finetune(ENCODER, train, test_part, epochs=8, mode="head", **patient).runs
    assert other.n_epochs == 8 > run.n_epochs


@pytest.mark.parametrize("kind", ["classes", "several"])
def test_gradients_stay_within_their_bound(kind, train, test_part):
    parts = (train, test_part)
    if kind == "several":
        images, labels = striped(90)
        columns = np.stack([labels == 0, labels != 1], axis=1).astype(float)
        parts = (open_dataset((list(images), columns), task="multilabel"),)
    options = {**QUICK, "epochs": 5, "learning_rates": (1e-2,)}
    free = finetune(ENCODER, *parts, **options)
    bound = finetune(ENCODER, *parts, max_gradient_norm=0.05, **options)
    assert 0 < bound.runs[0].gradient_norm <= 0.05 < free.runs[0].gradient_norm
    assert bound.value > 0.6


@pytest.mark.parametrize("task", ["classification", "regression", "multilabel"])
def test_gradient_norms_are_those_of_autograd(task):
    rng = np.random.default_rng(0)
    labels = {
        "classification": np.arange(12) % 3,
        "regression": rng.standard_normal((12, 2)),
        "multilabel": np.arange(36).reshape(12, 3) % 2,
    }[task]
    data = open_dataset((rng.standard_normal((12, 4)), labels), task=task)
    objective = Objective(data)
    head = torch.nn.Linear(4, objective.n_outputs)
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    targets = objective.targets(data)
    closed = objective.gradient_norms(head(features), targets, head)
    for i in range(12):
        loss = objective.loss(head(features[i : i + 1]), targets[i : i + 1])
        (gradient,) = torch.autograd.grad(loss, features)
        assert closed[i].item() == pytest.approx(gradient[i].norm().item(), rel=1e-4)


def test_regression_and_multilabel_are_fine_tuned():
    images, labels = striped(240)
    numbers = open_dataset((list(images), labels * 1.7 + 0.1), task="regression")
    found = finetune(ENCODER, numbers, epochs=12, **QUICK)
    assert found.measure == "r2"
    assert found.value > 0.5
    with pytest.raises(InputError, match="no bound"):
        finetune(ENCODER, numbers, max_gradient_norm=0.1, **QUICK)
    columns = np.stack([labels == 0, labels != 1], axis=1).astype(float)
    several = open_dataset((list(images), columns), task="multilabel")
    found = finetune(ENCODER, several, epochs=6, **QUICK)
    assert found.measure == "mean_average_precision"
    assert found.value > 0.9


def test_any_torch_encoder_is_fine_tuned(train, test_part):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)
        )
    encoder = from_module(network, ImagePreprocessing((32, 32), (32, 32)), identifier="two-convs")
    quick = {**QUICK, "learning_rates": (1e-2,)}
    assert finetune(encoder, train, test_part, epochs=20, **quick).value > 0.5
    with pytest.raises(EncoderError, match="no named blocks"):
        finetune(encoder, train, test_part, epochs=1, mode="last-block", **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": ()}, "learning rates must be positive"),
        ({"learning_rates": (-1.0,)}, "learning rates must be positive"),
        ({"weight_decays": (float("nan"),)}, "weight decays"),
        ({"n_seeds": 0}, "at least 1"),
        ({"part": (3, 2)}, "part must be"),
        ({"part": (1, 99)}, "part must be"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm"),
        ({"mode": "tail"}, "mode must be one of"),
        ({"augment": "mixup"}, "augment must be one of"),
    ],
)
def test_wrong_options_are_refused(options, message, train):
    with pytest.raises(InputError, match=message):
        finetune(ENCODER, train, **options)


def test_what_cannot_be_trained_is_refused(train, archive):
    def colour(images):
        return images.mean(axis=(2, 3))

    function = from_module(
        colour, ImagePreprocessing((8, 8), 8), identifier="colour", feature_dim=3
    )
    with pytest.raises(EncoderError, match="no weights"):
        finetune(function, train, epochs=1, **QUICK)
    images, labels = striped(30)
    other = open_dataset((list(images), labels % 2))
    with pytest.raises(InputError, match="same classes"):
        finetune(ENCODER, train, other, epochs=1, **QUICK)
    with pytest.raises(EncoderError, match="diverged"):
        finetune(ENCODER, train, epochs=2, **{**QUICK, "learning_rates": (1e30,)})


def test_pretraining_keeps_both_ends(train, test_part, tmp_path):
    encoder = load_encoder(ENCODER)
    before = {k: v.clone() for k, v in encoder.module.state_dict().items()}
    found = pretrain(encoder, train, test_part, out=tmp_path, epochs=6, learning_rate=3e-3)
    again = pretrain(ENCODER, train, test_part, out=tmp_path, epochs=6, learning_rate=3e-3)
    assert found.value == again.value > 0.8
    initial = load_file(tmp_path / "initial.safetensors")
    final = load_file(tmp_path / "final.safetensors")
    assert all(torch.equal(initial[name], value) for name, value in before.items())
    assert any(not torch.equal(final[name], value) for name, value in before.items())
    path = tmp_path / "final.safetensors"
    trained = load_encoder(f"checkpoint:{path}?arch={ENCODER}")
    assert trained.fingerprint != encoder.fingerprint
    frozen = finetune(trained, train, test_part, epochs=3, mode="head", **QUICK)
    assert frozen.value > finetune(encoder, train, epochs=3, mode="head", **QUICK).value
    with pytest.raises(EncoderError, match="does not hold the weights of mini/vit-random"):
        load_encoder(f"checkpoint:{path}?arch=mini/vit-random")


def test_both_ends_of_pretraining_have_their_head(train, test_part, tmp_path):
    one = {"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0}
    pretrain(ENCODER, train, test_part, out=tmp_path, **one)
    initial, final = (load_file(tmp_path / f"{n}.safetensors") for n in ("initial", "final"))
    # nothing moved, so the last end has the head that the first one has
    assert torch.allclose(initial["target_head.weight"], final["target_head.weight"], atol=1e-6)
    assert initial["target_head.weight"].std() > 0
    assert initial["target_head.bias"].tolist() == [0, 0, 0]
    load_encoder(f"checkpoint:{tmp_path / 'initial.safetensors'}?arch={ENCODER}")


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_the_last_epoch_is_kept_if_asked_for(train, test_part, tmp_path, optimiser):
    options = {**QUICK, "learning_rates": (1e-2,), "optimiser": optimiser}
    found = finetune(ENCODER, train, test_part, out=tmp_path, epochs=4, keep="last", **options)
    (run,) = found.runs
    assert run.epoch == run.n_epochs == 4
    log = (tmp_path / run.folder / "log.csv").read_text().splitlines()
    assert log[-1].split(",")[3] == f"{run.validation_loss:.6g}"
    best = finetune(ENCODER, train, test_part, epochs=4, keep="best", **options).runs[0]
    assert best.validation >= run.validation
    assert found.loss == run.test_loss > 0


def test_gradient_descent_has_momentum_and_continues_with_the_same_bits(
    train, test_part, tmp_path, monkeypatch
):
    options = {**QUICK, "learning_rates": (1e-2,), "optimiser": "sgd", "epochs": 3}
    whole = finetune(ENCODER, train, test_part, out=tmp_path / "a", **options)
    saved = _descent.Run._save_last

    def killed(self, names, tensors, optimiser, history):
        saved(self, names, tensors, optimiser, history)
        moments = [optimiser.state[tensor] for tensor in tensors]
        assert all(one["momentum_buffer"] is not None for one in moments if one)
        if len(history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_descent.Run, "_save_last", killed)
        with pytest.raises(KeyboardInterrupt):
            finetune(ENCODER, train, test_part, out=tmp_path / "b", **options)
    again = finetune(ENCODER, train, test_part, out=tmp_path / "b", **options)
    assert [(r.test, r.test_loss) for r in again.runs] == [
        (r.test, r.test_loss) for r in whole.runs
    ]
    assert (
        whole.value != finetune(ENCODER, train, test_part, **{**options, "optimiser": "adamw"}).loss
    )


def test_loss_of_a_bounded_head_is_that_of_its_outputs(train, test_part, tmp_path):
    found = finetune(
        ENCODER,
        train,
        test_part,
        epochs=2,
        mode="head",
        max_gradient_norm=0.1,
        out=tmp_path,
        **QUICK,
    )
    (kept,) = tmp_path.glob("*/best.safetensors")
    head = load_file(kept)
    encoder = load_encoder(ENCODER)
    images = np.stack([np.asarray(test_part[i]) for i in range(len(test_part))])
    features = torch.as_tensor(encoder.embed(images).features["pooled"]).float()
    outputs = features @ head["target_head.weight"].T + head["target_head.bias"]
    labels = torch.from_numpy(test_part.labels.copy())
    expected = torch.nn.functional.cross_entropy(outputs, labels)
    assert found.loss == pytest.approx(float(expected), rel=1e-3)
    assert torch.pdist(head["target_head.weight"]).max() <= 0.1 + 1e-6


def test_hold_out_takes_its_share_of_every_class_and_spares_the_rarest():
    labels = np.repeat([0, 1, 2], [50, 10, 2])
    data = open_dataset((np.random.default_rng(0).standard_normal((62, 3)), labels))
    kept, out = hold_out(data, 0.2, 0)
    assert np.bincount(out.labels, minlength=3).tolist() == [10, 2, 0]
    assert len(kept) + len(out) == 62
    assert np.array_equal(hold_out(data, 0.2, 0)[1].labels, out.labels)


def test_augmentation_shifts_and_mirrors():
    images = striped(40)[0]
    copy = images.copy()
    shifted = augmented(images, np.random.default_rng(0), mirror=False)
    assert shifted.shape == images.shape
    assert not np.array_equal(shifted, images)
    padded = np.pad(images[0], ((4, 4), (4, 4), (0, 0)), mode="reflect")
    windows = [padded[t : t + 32, s : s + 32] for t in range(9) for s in range(9)]
    assert any(np.array_equal(shifted[0], window) for window in windows)
    mirrored = augmented(images, np.random.default_rng(0), mirror=True)
    turned = [not np.array_equal(a, b) for a, b in zip(shifted, mirrored, strict=True)]
    assert 8 < sum(turned) < 32
    assert np.array_equal(images, copy)


def test_prepared_samples_beyond_the_room_are_decoded_again(train, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    preprocessing = load_encoder(ENCODER).preprocessing
    with ThreadPoolExecutor(1) as pool:
        plenty = Data(train, preprocessing).batch(range(9), pool)
        monkeypatch.setattr("transferscope.training._data.KEPT_BYTES", 3 * 32 * 32 * 3)
        tight = Data(train, preprocessing)
        for _ in range(2):
            assert np.array_equal(tight.batch(range(9), pool), plenty)
        assert len(tight._kept) == 3


# -- the probe ---------------------------------------------------------------------------------


def cloud(n=400, d=30, n_classes=5, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((n_classes, d)) * spread / np.sqrt(d) * 3
    labels = np.arange(n) % n_classes
    scales = np.linspace(0.2, 3, d)
    return (centres[labels] + rng.standard_normal((n, d))) * scales + 5, labels


@pytest.mark.parametrize(("n", "d"), [(400, 30), (60, 200)])
@pytest.mark.parametrize("strength", [1e-3, 1e-1, 10.0])
def test_fit_is_that_of_scikit_learn(n, d, strength):
    features, labels = cloud(n, d)
    (fit,) = fit_logistic(features, labels, [strength])
    centred = features - features.mean(axis=0)
    size = np.sqrt(np.mean(centred**2))
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000).fit(centred / size, labels)
    ours = features @ fit.weight.T + fit.bias
    theirs = model.decision_function(centred / size)
    ours, theirs = (z - z.mean(axis=1, keepdims=True) for z in (ours, theirs))
    # the weaker the penalty, the flatter the minimum
    assert np.abs(ours - theirs).max() < 2e-2 * np.abs(theirs).max()
    assert np.array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))


def test_probe_chooses_the_penalty_on_the_held_out_part():
    features, labels = cloud(300, 100)
    found = probe(features[:150], labels[:150], features[150:], labels[150:])
    assert found.strength == found.strengths[int(np.argmin(found.validation_loss))]
    assert 0 < found.strengths.index(found.strength) < len(found.strengths) - 1
    assert found.n_train + found.n_validation == 150
    assert found.value > 0.5
    assert json.loads(found.to_json())["strength"] == found.strength


def test_probe_takes_torch_and_changes_nothing():
    features, labels = cloud(200)
    copy = features.copy()
    array = probe(features[:100], labels[:100], features[100:], labels[100:])
    tensor = torch.from_numpy(features)
    same = probe(tensor[:100], labels[:100], tensor[100:], labels[100:])
    assert array.value == same.value
    assert np.array_equal(features, copy)


def test_probe_counts_unseen_classes_as_missed():
    features, labels = cloud(200, spread=20.0)
    truth = labels[100:].copy()
    truth[:10] = 77
    assert probe(features[:100], labels[:100], features[100:], truth).value == pytest.approx(0.9)


def test_probe_refuses_what_it_cannot_use():
    features, labels = cloud(40)
    with pytest.raises(InputError, match="strengths"):
        fit_logistic(features, labels, [0.0])
    with pytest.raises(InputError, match="all the same"):
        fit_logistic(np.ones((40, 3)), labels, [1.0])
    with pytest.raises(InputError, match="same columns"):
        probe(features, labels, features[:, :5], labels)
    with pytest.raises(InputError, match="one test label"):
        probe(features, labels, features, labels[:-1])
    broken = features.copy()
    broken[3, 3] = np.nan
    with pytest.raises(FeatureError, match="row 3"):
        probe(broken, labels, features, labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_gives_the_accuracy_of_the_cpu(train, test_part):
    cpu = finetune(ENCODER, train, test_part, epochs=4, device="cpu", **QUICK)
    gpu = finetune(ENCODER, train, test_part, epochs=4, device="cuda", **QUICK)
    assert abs(cpu.value - gpu.value) < 0.1
    features, labels = cloud(400)
    on_gpu = fit_logistic(torch.from_numpy(features).cuda(), labels, [0.1])[0].weight
    on_cpu = fit_logistic(features, labels, [0.1])[0].weight
    assert np.abs(on_gpu.cpu().numpy() - on_cpu).max() < 1e-3 * np.abs(on_cpu).max()


# -- what must not pass ------------------------------------------------------------------------


def test_texts_are_refused_for_an_image_encoder():
    texts = open_dataset(([f"number {i}" for i in range(20)], np.arange(20) % 2))
    with pytest.raises(EncoderError, match="takes images"):
        finetune(ENCODER, texts, epochs=1, **QUICK)


def test_folder_that_cannot_be_made_is_a_named_error(train, test_part, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        finetune(ENCODER, train, test_part, epochs=1, out=tmp_path / "file" / "x", **QUICK)


# -- folders of other runs, and damaged ones ---------------------------------------------------


@pytest.fixture(scope="module")
def few() -> Dataset:
    images, labels = striped(30)
    return open_dataset((images[:, ::2, ::2].copy(), labels))


def once(data: Dataset, out: Path, **changes: Any) -> FineTuningResult:
    return finetune(ENCODER, data, out=out, **{**QUICK, "epochs": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"learning_rate": 2e-3}, "learning_rate 0.001 there, 0.002 here"),
        ({"weight_decay": 0.5}, "weight_decay"),
        ({"epochs": 2}, "epochs 1 there, 2 here"),
        ({"batch_size": 7}, "batch_size"),
        ({"augment": "shift"}, "augment none there, shift here"),
        ({"max_gradient_norm": 1.0}, "max_gradient_norm"),
        ({"seed": 1}, "seed"),
        ({"encoder": "mini/vit-random"}, "encoder"),
        ({"dataset": "fewer"}, "dataset"),
        ({"test": "itself"}, "test"),
    ],
)
def test_pretraining_into_the_folder_of_another_run_is_refused(few, tmp_path, changes, differing):
    pretrain(ENCODER, few, out=tmp_path, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = {"encoder": ENCODER, "dataset": few, "epochs": 1, **changes}
    if changes.get("dataset"):
        other["dataset"] = few.subset(np.arange(24))
    if changes.get("test"):
        other["test"] = few
    with pytest.raises(InputError, match="another run") as refused:
        pretrain(out=tmp_path, **other)
    assert differing in str(refused.value)
    assert "initial.safetensors" in str(refused.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_ends_that_are_not_of_a_pretraining_are_not_replaced(few, tmp_path):
    from safetensors.torch import save_file

    for name in ("initial", "final"):
        (tmp_path / name).mkdir()
        save_file({"mine": torch.ones(3)}, tmp_path / name / f"{name}.safetensors")
        with pytest.raises(InputError, match="does not say to which"):
            pretrain(ENCODER, few, out=tmp_path / name, epochs=1)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "initial.safetensors").write_bytes(b"\xff" * 50)
    with pytest.raises(StoreError, match=r"initial\.safetensors is damaged"):
        pretrain(ENCODER, few, out=tmp_path / "damaged", epochs=1)


def test_a_last_end_that_was_deleted_is_named(few, tmp_path):
    pretrain(ENCODER, few, out=tmp_path, epochs=1)
    (tmp_path / "final.safetensors").unlink()
    with pytest.raises(StoreError, match=r"final\.safetensors is not there.*Delete the folder"):
        pretrain(ENCODER, few, out=tmp_path, epochs=1)


RECORDS = [
    "",
    "{",
    "[]",
    "null",
    "3",
    "{}",
    '{"identity": 3}',
    '{"identity": {}, "result": {}}',
    '{"scores": [1, 2]}',
    "[" * 5000,
    "\ufeff{}",
]


@pytest.mark.parametrize("content", RECORDS)
def test_a_damaged_or_foreign_record_of_a_run_is_named(few, tmp_path, content):
    folder = tmp_path / "lr0.003-wd0.0001-seed0"
    folder.mkdir()
    (folder / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises((StoreError, InputError), match=r"run\.json") as refused:
        once(few, tmp_path)
    assert "another out" in str(refused.value)
    assert (folder / "run.json").read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    "change",
    [
        lambda result: result.clear(),
        lambda result: result.update(validation="high"),
        lambda result: result.update(wings=2),
        lambda result: result.pop("seconds"),
    ],
)
def test_a_record_whose_result_is_none_is_named(few, tmp_path, change):
    once(few, tmp_path)
    (path,) = tmp_path.glob("*/run.json")
    record = json.loads(path.read_text())
    change(record["result"])
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"run\.json is damaged.*Delete it"):
        once(few, tmp_path)
    path.unlink()
    once(few, tmp_path)  # as the message says


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 50, None], ids=["empty", "noise", "foreign"])
def test_damaged_or_foreign_weights_of_a_killed_run_are_named(
    few, tmp_path, monkeypatch, name, content
):
    from safetensors.torch import save_file

    with monkeypatch.context() as patch:
        # killed when all epochs are done, before the record
        patch.setattr(json, "dumps", refuse_a_record)
        with pytest.raises(InterruptedError):
            once(few, tmp_path)
    (path,) = tmp_path.glob(f"*/{name}.safetensors")
    if content is None:
        save_file({"mine": torch.ones(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises((StoreError, InputError), match=rf"{name}\.safetensors"):
        once(few, tmp_path)
    path.unlink()
    once(few, tmp_path)  # as the message says


def refuse_a_record(value: object, *, _dumps=json.dumps, **options: Any) -> str:
    if isinstance(value, dict) and "result" in value:
        raise InterruptedError
    return _dumps(value, **options)


def test_weights_of_somebody_else_are_not_written_over(few, tmp_path):
    from safetensors.torch import save_file

    folder = tmp_path / "lr0.003-wd0.0001-seed0"
    folder.mkdir()
    save_file({"mine": torch.ones(3)}, folder / "best.safetensors")
    with pytest.raises(InputError, match=r"best\.safetensors belongs to another run"):
        once(few, tmp_path)
    assert list(load_file(folder / "best.safetensors")) == ["mine"]


def test_weights_that_are_not_finite_are_named_and_not_trained(few):
    encoder = load_encoder(ENCODER)
    next(encoder.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(EncoderError, match="NaN or infinite"):
        finetune(encoder, few, epochs=1, **QUICK)


def test_an_encoder_that_fails_in_training_is_named_with_the_cause(few):
    class Fragile(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 4)

        def forward(self, images):
            if self.training:
                raise IndexError("index 9999 is out of bounds")
            return self.layer(images.mean(dim=(2, 3)))

    encoder = from_module(Fragile(), ImagePreprocessing((16, 16), 16), identifier="fragile")
    with pytest.raises(EncoderError, match=r"fragile cannot be trained \(IndexError: index 9999"):
        finetune(encoder, few, epochs=1, **QUICK)
