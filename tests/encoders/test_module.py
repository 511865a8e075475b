"""Encoders of one's own, and the shared torch machinery on small modules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transferscope
from transferscope.encoders import Embedded, Encoder, ImagePreprocessing, load_encoder
from transferscope.errors import EncoderError, InputError, UnknownNameError

torch = pytest.importorskip("torch", reason="encoders made of modules need torch")
from torch import nn  # noqa: E402

from transferscope.encoders import from_module  # noqa: E402
from transferscope.encoders._torch_encoder import Layer, TorchEncoder  # noqa: E402

RIGHT_LINE = "transferscope.from_module(module, transferscope.ImagePreprocessing(...))"
PREPROCESSING = ImagePreprocessing((8, 8), 8, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
BATCH = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Dropout())


def normalised() -> Any:
    pixels = torch.from_numpy(BATCH).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor(PREPROCESSING.mean), torch.tensor(PREPROCESSING.std)
    return (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)


class Numbers:
    """Preprocessing of one's own: samples are rows of numbers."""

    key = "numbers"

    def prepare(self, sample: list[float]) -> Any:
        return np.asarray(sample, dtype=np.float32)

    def collate(self, prepared: Any) -> Any:
        return np.stack(prepared)


def test_a_module_gets_normalised_images_and_its_maps_are_averaged() -> None:
    module = network().eval()
    head = nn.Linear(5, 2)
    encoder = from_module(module, PREPROCESSING, identifier="mine", head=head)
    embedded = encoder.embed(BATCH)
    with torch.no_grad():
        pooled = module(normalised()).mean(dim=(2, 3))
        logits = head(pooled)
    assert torch.allclose(embedded.features["pooled"], pooled, atol=1e-5)
    assert embedded.logits is not None
    assert torch.allclose(embedded.logits, logits, atol=1e-5)
    assert encoder.feature_dim == 5
    assert encoder.n_parameters == sum(p.numel() for p in module.parameters())
    assert encoder.identifier == "mine"
    assert encoder.layers == ("pooled",)
    assert encoder.input_size == (8, 8)


def test_a_module_in_train_mode_is_evaluated_and_left_in_train_mode() -> None:
    module = network().train()
    module[1].eval()  # a frozen part stays frozen
    state = {name: value.clone() for name, value in module.state_dict().items()}
    encoder = from_module(module, PREPROCESSING, identifier="mine")
    first, second = (encoder.embed(BATCH).features["pooled"] for _ in range(2))
    assert torch.equal(first, second)
    assert [part.training for part in module] == [True, False, True, True]
    assert module.training
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())


def test_a_function_gets_and_gives_arrays() -> None:
    seen: list[Any] = []

    def brightness(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        result: np.ndarray = images.mean(axis=(2, 3))
        result.flags.writeable = False
        return result

    encoder = from_module(
        brightness, PREPROCESSING, identifier="colour", head=lambda features: features[:, :2]
    )
    embedded = encoder.embed(BATCH)
    assert isinstance(seen[0], np.ndarray)
    assert np.allclose(seen[0], normalised().numpy(), atol=1e-5)
    assert np.allclose(embedded.features["pooled"], seen[0].mean(axis=(2, 3)))
    assert embedded.logits is not None
    assert embedded.logits.shape == (3, 2)
    assert (encoder.feature_dim, encoder.n_parameters) == (3, 0)


def test_weights_and_buffers_and_attributes_tell_modules_apart() -> None:
    def of(module: Any, identifier: str) -> str | None:
        return from_module(module, PREPROCESSING, identifier=identifier).fingerprint

    assert of(network(), "a") == of(network(), "b")
    other: Any = network()
    with torch.no_grad():
        other[1].running_mean[0] += 1  # a buffer decides features too
    assert of(network(), "a") != of(other, "a")
    strided: Any = network()
    strided[0].stride = (2, 2)
    assert of(network(), "a") != of(strided, "a")


def test_the_fingerprint_does_not_depend_on_memory_layout_but_on_type() -> None:
    plain = from_module(network(), PREPROCESSING, identifier="a").fingerprint
    reordered = network().to(memory_format=torch.channels_last)
    assert from_module(reordered, PREPROCESSING, identifier="a").fingerprint == plain
    half = network().to(torch.bfloat16)
    assert from_module(half, PREPROCESSING, identifier="a").fingerprint != plain
    other_input = ImagePreprocessing((8, 8), 8)
    assert from_module(network(), other_input, identifier="a").fingerprint != plain


def test_preprocessing_of_ones_own() -> None:
    module = nn.Linear(4, 6)
    encoder = from_module(module, Numbers(), identifier="table")
    with pytest.raises(EncoderError, match="not known before the first batch"):
        _ = encoder.feature_dim
    batch = encoder.preprocessing.collate([encoder.preprocessing.prepare([1, 2, 3, 4])])
    assert encoder.embed(batch).features["pooled"].shape == (1, 6)
    assert encoder.feature_dim == 6
    assert encoder.input_size is None
    assert from_module(module, Numbers(), identifier="table", feature_dim=6).feature_dim == 6


def test_modules_of_lower_precision_give_float32() -> None:
    encoder = from_module(network().to(torch.bfloat16), PREPROCESSING, identifier="half")
    features = encoder.embed(BATCH).features["pooled"]
    assert features.dtype == torch.float32
    full = from_module(network(), PREPROCESSING, identifier="full").embed(BATCH).features["pooled"]
    assert torch.allclose(features, full, atol=0.05)


def test_features_can_be_trained_on() -> None:
    encoder = from_module(network(), PREPROCESSING, identifier="mine")
    probe = nn.Linear(5, 2)
    probe(encoder.embed(BATCH).features["pooled"]).sum().backward()
    assert probe.weight.grad is not None


def test_an_activation_in_place_does_not_change_the_layer_before_it() -> None:
    module = network().eval()
    encoder = TorchEncoder(
        module,
        lambda images: (module(images).mean(dim=(2, 3)), None),
        preprocessing=PREPROCESSING,
        identifier="mine",
        layers={"norm": Layer("1"), "relu": Layer("2")},
    )
    features = encoder.embed(BATCH, ["norm", "pooled"]).features
    with torch.no_grad():
        normed = module[1](module[0](normalised()))
    assert torch.allclose(features["norm"], normed.mean(dim=(2, 3)), atol=1e-5)
    assert list(features) == ["norm", "pooled"]
    assert not module[1]._forward_hooks


def test_hooks_are_removed_when_a_module_fails() -> None:
    module = network()

    def fail(_images: Any) -> Any:
        raise RuntimeError("broken")

    encoder = TorchEncoder(
        module,
        fail,
        preprocessing=PREPROCESSING,
        identifier="mine",
        layers={"norm": Layer("1")},
    )
    with pytest.raises(RuntimeError, match="broken"):
        encoder.embed(BATCH, ["norm"])
    assert not module[1]._forward_hooks
    assert module.training


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        (BATCH[:, :7], r"shape \(n, 8, 8, 3\); got torch.uint8 \(3, 7, 8, 3\)"),
        (BATCH.astype(np.float32), "got torch.float32"),
        ("pictures", "got pictures"),
    ],
)
def test_other_batches_are_refused(batch: Any, match: str) -> None:
    with pytest.raises(EncoderError, match=match):
        from_module(network(), PREPROCESSING, identifier="mine").embed(batch)


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no layer 'stem'\. Choose from: pooled"):
        from_module(network(), PREPROCESSING, identifier="mine").embed(BATCH, ["stem"])


@pytest.mark.parametrize("output", [lambda _: 3.0, lambda images: images.mean(axis=1)])
def test_features_that_are_no_vectors_are_refused(output: Any) -> None:
    with pytest.raises(EncoderError, match="one vector per sample"):
        from_module(output, PREPROCESSING, identifier="mine").embed(BATCH)


def test_a_wrong_declared_dimension_is_refused() -> None:
    encoder = from_module(network(), PREPROCESSING, identifier="mine", feature_dim=4)
    with pytest.raises(EncoderError, match="dimension 5 where 4 was declared"):
        encoder.embed(BATCH)


def test_what_cannot_be_an_encoder_is_refused() -> None:
    with pytest.raises(InputError, match="identifier must be a name that is not empty"):
        from_module(network(), PREPROCESSING, identifier="")
    with pytest.raises(InputError, match="identifier must be a name that is not empty"):
        from_module(len, PREPROCESSING)
    with pytest.raises(InputError, match="module or a function; got int"):
        from_module(3, PREPROCESSING, identifier="three")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be a Preprocessing; got str"):
        from_module(network(), "mine")  # type: ignore[arg-type]
    with pytest.raises(EncoderError, match=re.escape(RIGHT_LINE)):
        load_encoder(network())
    with pytest.raises(InputError, match="got int"):
        load_encoder(3)  # type: ignore[arg-type]


def test_an_unknown_device_is_refused() -> None:
    encoder = from_module(network(), PREPROCESSING, identifier="mine")
    with pytest.raises(EncoderError, match="device 'abacus' does not exist"):
        encoder.to("abacus")
    assert encoder.to("cpu") is encoder


def test_any_object_that_follows_the_protocol_passes_through() -> None:
    class Mine:
        identifier = "mine"
        fingerprint = "0"
        preprocessing = PREPROCESSING
        n_parameters = 0
        input_size = None
        layers = ("pooled",)

        @property
        def feature_dim(self) -> int:
            raise AssertionError("asking costs a forward pass")

        def embed(self, batch: Any, layers: Any = ("pooled",)) -> Embedded:
            raise NotImplementedError

        def to(self, device: str) -> Encoder:
            return self

    mine = Mine()
    assert load_encoder(mine) is mine
    assert load_encoder(mine, device="cpu") is mine


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_features_are_close_and_the_fingerprint_is_the_same() -> None:
    encoder = from_module(network(), PREPROCESSING, identifier="mine", head=nn.Linear(5, 2))
    on_cpu, fingerprint = encoder.embed(BATCH), encoder.fingerprint
    moved = from_module(network(), PREPROCESSING, identifier="mine", head=nn.Linear(5, 2))
    on_gpu = moved.to("cuda").embed(BATCH)
    features = on_gpu.features["pooled"]
    assert (features.device.type, features.dtype) == ("cuda", torch.float32)
    assert torch.allclose(features.cpu(), on_cpu.features["pooled"], atol=0.05)
    assert moved.fingerprint == fingerprint


def test_a_module_is_named_by_its_class_where_no_name_is_given() -> None:
    assert from_module(network(), PREPROCESSING).identifier == "Sequential"
    assert from_module(network(), PREPROCESSING).fingerprint == (
        from_module(network(), PREPROCESSING, identifier="mine").fingerprint
    )


def test_a_module_of_your_own_is_ranked(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=rows, labels=np.arange(40) % 2)
    module = network()
    with pytest.raises(EncoderError, match=re.escape(RIGHT_LINE)):
        transferscope.rank(tmp_path / "data.npz", module, metrics="logme")  # type: ignore[arg-type]
    encoder = transferscope.encoders.from_module(module, ImagePreprocessing(size=(8, 8), resize=8))
    ranking = transferscope.rank(tmp_path / "data.npz", encoder, metrics="logme", store=tmp_path)
    assert ranking.best.encoder == "Sequential"
