"""timm encoders: the library's own features, logits and pixels, and the traps on the way there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transferscope.encoders import ImagePreprocessing, load_encoder
from transferscope.errors import EncoderError, UnknownNameError

torch = pytest.importorskip("torch", reason="encoders of timm need torch")
try:
    import timm
    from timm.data import create_transform, resolve_data_config
except Exception as error:  # a torchvision for another torch fails with RuntimeError
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)

from transferscope.encoders._timm import (  # noqa: E402
    _projects_to_text,
    wrap_timm,
)

SMALL: dict[str, Any] = {"pretrained_cfg_overlay": {"input_size": (3, 64, 64)}}


def saved(model: Any, folder: Path) -> str:
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return f"timm/{folder}"


def noise(encoder: Any, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *encoder.input_size, 3), dtype=np.uint8)


def normalised(encoder: Any, batch: np.ndarray) -> Any:
    """What the model should see, the long way."""
    preprocessing = encoder.preprocessing
    scaled = (batch / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


def build(architecture: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(architecture, **options).eval()


@pytest.mark.parametrize(
    "architecture",
    [
        "test_byobnet",
        "test_convnext2",
        "test_efficientnet",
        "test_mambaout",
        "test_nfnet",
        "test_resnet",
        "test_vit",
        "test_vit3",
        "dla46_c",
        "efficientvit_m0",
        "mobilenetv3_small_050",
        "pit_ti_distilled_224",
        "repvit_m1",
    ],
)
def test_features_and_logits_are_those_of_timm(architecture: str) -> None:
    # small images where the architecture allows them
    options = {} if "vit" in architecture or "pit" in architecture else SMALL
    model = build(architecture, **options)
    encoder = wrap_timm(model, f"timm/{architecture}")
    batch = noise(encoder)
    embedded = encoder.embed(batch)
    images = normalised(encoder, batch)
    with torch.inference_mode():
        pooled = model.forward_head(model.forward_features(images), pre_logits=True)
        logits = model(images)
    assert torch.allclose(embedded.features["pooled"], pooled, atol=1e-4)
    assert embedded.logits is not None
    assert torch.allclose(embedded.logits, logits, atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "feature_dim"),
    [
        ("mobilenetv3_small_050", 1024),
        ("efficientvit_b0", 1280),
        ("ghostnet_050", 1280),
        ("test_mambaout", 256),
    ],
)
def test_the_feature_dimension_is_measured(architecture: str, feature_dim: int) -> None:
    encoder = wrap_timm(build(architecture, **SMALL), architecture)
    assert encoder.module.num_features != feature_dim  # the trap
    assert encoder.feature_dim == feature_dim
    assert encoder.embed(noise(encoder)).features["pooled"].shape == (2, feature_dim)


def test_a_clip_resnet_gives_the_same_trained_features_every_time(tmp_path: Path) -> None:
    # with num_classes=0 its trained projection would be replaced, in some versions by a random one
    folder = saved(build("resnet50_clip", num_classes=1024), tmp_path / "clip")
    features = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        encoder = load_encoder(folder)
        embedded = encoder.embed(noise(encoder, n=1))
        features.append(embedded.features["pooled"])
        assert embedded.logits is None  # a projection to the space of texts is no classifier
    assert torch.equal(features[0], features[1])
    assert encoder.feature_dim == 2048
    assert encoder.n_parameters == sum(
        parameter.numel()
        for name, parameter in encoder.module.named_parameters()  # type: ignore[attr-defined]
        if not name.startswith("head.proj.")
    )


def test_towers_of_image_text_models_are_told_from_classifiers() -> None:
    class Model:
        def __init__(self, config: Any) -> None:
            self.pretrained_cfg = config.to_dict()
            self.num_classes = config.num_classes

    widths = {384, 512, 640, 768, 1024, 1152, 1280}
    configs = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained()}
    wrong = [
        name
        for name, config in configs.items()
        if _projects_to_text(Model(config)) != (config.num_classes in widths)
    ]
    assert wrong == []


def test_distilled_deit_averages_its_two_tokens() -> None:
    model = build("deit_tiny_distilled_patch16_224")
    encoder = wrap_timm(model, "deit")
    batch = noise(encoder, n=1)
    with torch.inference_mode():
        tokens = model.forward_features(normalised(encoder, batch))
        logits = (model.head(tokens[:, 0]) + model.head_dist(tokens[:, 1])) / 2
    embedded = encoder.embed(batch)
    assert torch.allclose(embedded.features["pooled"], tokens[:, :2].mean(dim=1), atol=1e-4)
    assert embedded.logits is not None
    assert torch.allclose(embedded.logits, logits, atol=1e-4)
    heads = sum(p.numel() for m in (model.head, model.head_dist) for p in m.parameters())
    assert encoder.n_parameters == sum(p.numel() for p in model.parameters()) - heads


def test_without_a_head_there_are_no_logits() -> None:
    headless = wrap_timm(build("test_vit", num_classes=0), "a")
    untrained = wrap_timm(build("test_vit"), "b", has_head=False)
    assert headless.embed(noise(headless)).logits is None
    assert untrained.embed(noise(untrained)).logits is None
    assert headless.feature_dim == untrained.feature_dim == 64
    assert headless.n_parameters == untrained.n_parameters


def test_layers_of_a_transformer_are_means_of_patches() -> None:
    model = build("test_vit")
    encoder = wrap_timm(model, "timm/test_vit")
    batch = noise(encoder)
    assert encoder.layers == (*(f"blocks.{number}" for number in range(6)), "pooled")
    features = encoder.embed(batch, ["blocks.1", "blocks.5"]).features
    with torch.inference_mode():
        _, maps = model.forward_intermediates(normalised(encoder, batch), indices=[1, 5])
    assert list(features) == ["blocks.1", "blocks.5"]
    assert torch.allclose(features["blocks.1"], maps[0].mean(dim=(2, 3)), atol=1e-4)
    assert torch.allclose(features["blocks.5"], maps[1].mean(dim=(2, 3)), atol=1e-4)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_mambaout", "test_efficientnet"])
def test_layers_of_maps_have_their_channels(architecture: str) -> None:
    encoder = wrap_timm(build(architecture), architecture)
    widths = {stage["module"]: stage["num_chs"] for stage in encoder.module.feature_info}  # type: ignore[union-attr]
    features = encoder.embed(noise(encoder), encoder.layers[:-1]).features
    assert {name: value.shape[1] for name, value in features.items()} == widths


@pytest.mark.parametrize(
    "overlay",
    [
        {},
        {"crop_pct": 0.9, "interpolation": "bilinear"},
        {"crop_mode": "squash", "crop_pct": 0.95},
        {"crop_mode": "squash", "crop_pct": 1.0},
        {"crop_mode": "border", "crop_pct": 1.0},
        {"crop_mode": "border", "crop_pct": 0.9, "mean": (0.5, 0.4, 0.3)},
        {"input_size": (3, 96, 128)},
        {"test_input_size": (3, 256, 256), "test_crop_pct": 1.0},
    ],
    ids=str,
)
def test_pixels_are_those_of_timm(overlay: dict[str, Any], photo: Callable[..., Any]) -> None:
    model = build("test_resnet", pretrained_cfg_overlay=overlay)
    preprocessing = wrap_timm(model, "x").preprocessing
    config = resolve_data_config(model=model)
    transform = create_transform(**config, normalize=False)
    assert isinstance(preprocessing, ImagePreprocessing)
    for size in [(240, 190), (191, 333), (100, 100), (50, 431), (224, 224)]:
        image = photo(*size)
        expected = transform(image).permute(1, 2, 0).numpy()
        assert np.array_equal(preprocessing.prepare(image), expected), size
    assert preprocessing.mean == tuple(config["mean"])
    assert preprocessing.std == tuple(config["std"])


def test_a_local_folder_from_picture_to_features(tmp_path: Path, photo: Callable[..., Any]) -> None:
    model = build("test_efficientnet", num_classes=7)
    encoder = load_encoder(saved(model, tmp_path / "model"))
    images = [photo(seed=seed) for seed in range(2)]
    batch = encoder.preprocessing.collate([encoder.preprocessing.prepare(i) for i in images])
    embedded = encoder.embed(batch)
    transform = create_transform(**resolve_data_config(model=model))
    with torch.inference_mode():
        logits = model(torch.stack([transform(image) for image in images]))
    assert encoder.identifier == f"timm/{tmp_path / 'model'}"
    assert embedded.logits is not None
    assert torch.allclose(embedded.logits, logits, atol=1e-4)


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    name = saved(build("test_resnet"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"cannot be loaded .* config\.json and model\.safete"):
        load_encoder(name)


def test_a_folder_with_weights_of_another_model_is_an_error(tmp_path: Path) -> None:
    name = saved(build("test_resnet"), tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architecture": "test_vit"}))
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder(name)


@pytest.mark.usefixtures("offline")
def test_without_a_connection_the_next_step_is_named() -> None:
    with pytest.raises(EncoderError, match=r"downloaded and then kept.* or copy"):
        load_encoder("timm/test_resnet.r160_in1k")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet180", r"Similar names: .*resnet18\."),
        ("resnet18.a1_in1000k", r"Similar names: .*resnet18\.a1_in1k"),
        ("nothing", "folder of this name. List all"),
    ],
)
def test_an_unknown_model_is_named_with_its_neighbours(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=f"timm has no pre-trained model '{name}'.*{hint}"):
        load_encoder(f"timm/{name}")


def test_other_channels_than_rgb_are_refused() -> None:
    model = build("test_resnet", in_chans=1, pretrained_cfg_overlay={"input_size": (1, 64, 64)})
    with pytest.raises(EncoderError, match="1 channels"):
        wrap_timm(model, "grey")


def test_a_timm_model_object_is_an_encoder_of_its_own_configuration() -> None:
    encoder = load_encoder(build("test_resnet"))
    assert encoder.identifier == "timm/test_resnet"
    assert encoder.input_size == (160, 160)
