"""Vision models of transformers: pooling per family, heads, pixels, and what must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transferscope.encoders import ImagePreprocessing, load_encoder
from transferscope.errors import EncoderError

torch = pytest.importorskip("torch", reason="encoders of transformers need torch")
try:
    import transformers
    from transformers import AutoImageProcessor
except Exception as error:
    pytest.skip(f"transformers cannot be imported: {error}", allow_module_level=True)

TOKENS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
SWIN: dict[str, Any] = {
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [2, 2],
    "image_size": 32,
    "patch_size": 4,
    "window_size": 4,
}
SQUARE: dict[str, Any] = {"size": {"height": 32, "width": 32}}
EDGE: dict[str, Any] = {"size": {"shortest_edge": 32}}


def saved(model: Any, folder: Path, processor: str = "ViTImageProcessor", **settings: Any) -> str:
    model.save_pretrained(folder)
    getattr(transformers, processor)(**(settings or SQUARE)).save_pretrained(folder)
    return f"hf/{folder}"


def build(architecture: str, config: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # no zeros and ones: a skipped norm must show
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def noise(encoder: Any, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *encoder.input_size, 3), dtype=np.uint8)


def normalised(encoder: Any, batch: np.ndarray) -> Any:
    preprocessing = encoder.preprocessing
    scaled = (batch / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


def class_token(outputs: Any) -> Any:
    return outputs.last_hidden_state[:, 0]


def pooler(outputs: Any) -> Any:
    return outputs.pooler_output.flatten(1)


def patches(outputs: Any) -> Any:
    return outputs.last_hidden_state.mean(dim=1)


@pytest.mark.parametrize(
    ("architecture", "config", "settings", "pooled", "n_layers"),
    [
        ("ViTModel", "ViTConfig", TOKENS, class_token, 3),
        ("DeiTModel", "DeiTConfig", TOKENS, class_token, 3),
        ("ViTMSNModel", "ViTMSNConfig", TOKENS, class_token, 3),
        ("Dinov2Model", "Dinov2Config", TOKENS, class_token, 3),
        ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", TOKENS, class_token, 3),
        ("DINOv3ViTModel", "DINOv3ViTConfig", TOKENS, class_token, 3),
        ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", STAGES, pooler, 4),
        ("CLIPVisionModel", "CLIPVisionConfig", TOKENS, pooler, 3),
        ("SiglipVisionModel", "SiglipVisionConfig", TOKENS, pooler, 3),
        ("BeitModel", "BeitConfig", {**TOKENS, "use_mean_pooling": True}, pooler, 3),
        ("BeitModel", "BeitConfig", {**TOKENS, "use_mean_pooling": False}, pooler, 3),
        ("ConvNextModel", "ConvNextConfig", STAGES, pooler, 4),
        ("ConvNextV2Model", "ConvNextV2Config", STAGES, pooler, 4),
        ("SwinModel", "SwinConfig", SWIN, pooler, 2),
        ("Swinv2Model", "Swinv2Config", SWIN, pooler, 2),
        ("ResNetModel", "ResNetConfig", {**STAGES, "embedding_size": 8}, pooler, 4),
        ("IJepaModel", "IJepaConfig", TOKENS, patches, 3),
    ],
)
def test_pooled_features_of_each_family(
    architecture: str,
    config: str,
    settings: dict[str, Any],
    pooled: Callable[[Any], Any],
    n_layers: int,
    tmp_path: Path,
) -> None:
    model = build(architecture, config, **settings)
    encoder = load_encoder(saved(model, tmp_path))
    batch = noise(encoder)
    embedded = encoder.embed(batch, encoder.layers)
    with torch.inference_mode():
        outputs = model(pixel_values=normalised(encoder, batch))
    assert embedded.logits is None
    assert torch.allclose(embedded.features["pooled"], pooled(outputs), atol=1e-5)
    assert encoder.layers == (*(f"layer{n}" for n in range(1, n_layers + 1)), "pooled")
    assert all(value.shape[0] == 2 for value in embedded.features.values())


@pytest.mark.parametrize(
    ("architecture", "config", "settings", "dimension"),
    [
        ("ViTForImageClassification", "ViTConfig", TOKENS, 32),
        ("DeiTForImageClassification", "DeiTConfig", TOKENS, 32),
        ("DeiTForImageClassificationWithTeacher", "DeiTConfig", TOKENS, 32),
        # its head sees the class token beside the mean of the patches
        ("Dinov2ForImageClassification", "Dinov2Config", TOKENS, 64),
        ("BeitForImageClassification", "BeitConfig", TOKENS, 32),
        ("CLIPForImageClassification", "CLIPConfig", {"vision_config": TOKENS}, 32),
        ("SwinForImageClassification", "SwinConfig", SWIN, 16),
        ("ConvNextForImageClassification", "ConvNextConfig", STAGES, 32),
        ("ResNetForImageClassification", "ResNetConfig", {**STAGES, "embedding_size": 8}, 32),
    ],
)
def test_a_classifier_gives_the_input_of_its_head_and_its_logits(
    architecture: str, config: str, settings: dict[str, Any], dimension: int, tmp_path: Path
) -> None:
    model = build(architecture, config, num_labels=7, **settings)
    encoder = load_encoder(saved(model, tmp_path))
    batch = noise(encoder)
    embedded = encoder.embed(batch)
    with torch.inference_mode():
        logits = model(pixel_values=normalised(encoder, batch)).logits
    assert embedded.logits is not None
    assert torch.allclose(embedded.logits, logits, atol=1e-5)
    assert encoder.feature_dim == dimension
    in_head = sum(p.numel() for name, p in model.named_parameters() if "classifier" in name)
    assert encoder.n_parameters == sum(p.numel() for p in model.parameters()) - in_head
    if "WithTeacher" not in architecture:
        assert torch.allclose(model.classifier(embedded.features["pooled"]), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "config"), [("CLIPModel", "CLIPConfig"), ("SiglipModel", "SiglipConfig")]
)
def test_of_an_image_text_model_the_vision_tower_is_loaded(
    architecture: str, config: str, tmp_path: Path
) -> None:
    text = {**TOKENS, "vocab_size": 50, "max_position_embeddings": 8, "projection_dim": 16}
    text = {key: value for key, value in text.items() if key not in {"image_size", "patch_size"}}
    model = build(
        architecture, config, text_config=text, vision_config={**TOKENS, "projection_dim": 16}
    )
    encoder = load_encoder(saved(model, tmp_path, "CLIPImageProcessor", **EDGE, crop_size=32))
    batch = noise(encoder)
    with torch.inference_mode():
        outputs = model.vision_model(pixel_values=normalised(encoder, batch))
    features = encoder.embed(batch).features["pooled"]
    assert torch.allclose(features, outputs.pooler_output, atol=1e-5)
    assert encoder.n_parameters == sum(p.numel() for p in model.vision_model.parameters())


def test_a_masked_autoencoder_sees_the_whole_image_every_time(tmp_path: Path) -> None:
    # as it comes, it drops three patches of four at random
    model = build("ViTMAEForPreTraining", "ViTMAEConfig", **TOKENS)
    encoder = load_encoder(saved(model, tmp_path))
    batch = noise(encoder)
    first, second = (encoder.embed(batch, encoder.layers) for _ in range(2))
    assert all(torch.equal(first.features[name], second.features[name]) for name in encoder.layers)
    model.vit.config.mask_ratio = 0.0
    with torch.inference_mode():  # its order is random, its attention does not see the order
        outputs = model.vit(pixel_values=normalised(encoder, batch))
    assert torch.allclose(first.features["pooled"], class_token(outputs), atol=1e-5)


def test_a_named_layer_is_the_mean_of_the_patches(tmp_path: Path) -> None:
    model = build(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **TOKENS, num_register_tokens=2
    )
    encoder = load_encoder(saved(model, tmp_path))
    batch = noise(encoder)
    with torch.inference_mode():
        outputs = model(pixel_values=normalised(encoder, batch), output_hidden_states=True)
    features = encoder.embed(batch, ["layer2"]).features
    expected = outputs.hidden_states[2][:, 3:].mean(
        dim=1
    )  # 0 is the embedding; 1 class, 2 registers
    assert torch.allclose(features["layer2"], expected, atol=1e-5)


ODD = {"height": 48, "width": 37}
CROP: dict[str, Any] = {"do_center_crop": True, "crop_size": 64}
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViTImageProcessor", {"size": {"height": 64, "width": 48}}),
    ("ViTImageProcessor", {**SQUARE, "do_normalize": False}),
    ("ViTImageProcessor", {**SQUARE, "do_rescale": False, "image_mean": [100.0, 90.0, 80.0]}),
    ("ViTImageProcessor", {**SQUARE, "rescale_factor": 1 / 127.5}),
    ("ViTImageProcessor", {**SQUARE, "resample": 3}),
    ("ViTImageProcessor", {**SQUARE, "resample": 0}),
    ("ViTImageProcessor", {**SQUARE, "image_mean": 0.4, "image_std": 0.2}),
    ("ViTImageProcessor", {**SQUARE, "do_convert_rgb": False}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": 64}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 50}, "crop_size": 64}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": ODD}),
    ("CLIPImageProcessor", {"do_resize": False, "crop_size": 64}),
    ("SiglipImageProcessor", {"size": {"height": 64, "width": 64}}),
    ("BitImageProcessor", {"size": {"shortest_edge": 73}, "crop_size": 64, "resample": 3}),
    ("BeitImageProcessor", {"size": {"height": 73, "width": 73}, **CROP}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.875}),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    ("DINOv3ViTImageProcessor", {"size": {"height": 64, "width": 64}}),
]  # fmt: skip


@pytest.mark.parametrize(("processor", "settings"), PROCESSORS, ids=str)
def test_pixels_are_those_of_the_image_processor(
    processor: str, settings: dict[str, Any], photo: Callable[..., Any], tmp_path: Path
) -> None:
    model = build("Dinov2Model", "Dinov2Config", **TOKENS)
    encoder = load_encoder(saved(model, tmp_path, processor, **settings))
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    preprocessing = encoder.preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    std = np.array(preprocessing.std)
    for size in [(240, 190), (191, 333), (87, 75)]:
        image = photo(*size)
        expected = theirs(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        ours = (preprocessing.prepare(image) / 255 - np.array(preprocessing.mean)) / std
        assert ours.shape == expected.shape
        # in pixels: the processor resizes with torch, which rounds differently from PIL
        assert np.abs((ours - expected) * std).max() <= 2.01 / 255, size


def test_a_processor_that_cannot_be_translated_is_refused(tmp_path: Path) -> None:
    model = build("ViTModel", "ViTConfig", **TOKENS)
    name = saved(model, tmp_path, "MobileViTImageProcessor", **EDGE, crop_size=32)
    with pytest.raises(EncoderError, match=r"MobileViT.* cannot translate: .* of 255.*from_module"):
        load_encoder(name)  # it swaps red and blue
    name = saved(model, tmp_path, size={"shortest_edge": 32, "longest_edge": 64})
    with pytest.raises(EncoderError, match=r"cannot be translated: it resizes to"):
        load_encoder(name)


@pytest.mark.parametrize(
    ("processor", "settings", "match"),
    [
        ("ViTImageProcessor", {"image_mean": [0.5]}, "cannot be translated: mean"),
        ("ViTImageProcessor", {"image_std": [0.5, 0.5, 0.5, 0.5]}, "cannot be translated"),
        ("ViTImageProcessor", {"image_std": [0.5, 0.5, 0.0]}, "cannot be translated"),
        ("ViTImageProcessor", {"image_mean": "ImageNet"}, "cannot be translated"),
        ("ViTImageProcessor", {"resample": 9}, "cannot be "),
        ("ViTImageProcessor", {"resample": 4}, "cannot be "),  # torch has no such filter
        ("ViTImageProcessor", {"resample": -1}, "cannot be "),
        ("ViTImageProcessor", {"resample": "bicubic"}, "cannot be "),
        ("ViTImageProcessor", {"rescale_factor": 0}, "cannot be translated"),
        ("ViTImageProcessor", {"do_resize": False}, "keep different sizes"),
        ("ViTImageProcessor", {"size": {"longest_edge": 32}}, "it resizes to"),
        ("ViTImageProcessor", {"size": {"max_pixels": 1024, "min_pixels": 256}}, "cannot be "),
        (
            "ViTImageProcessor",
            {"do_pad": True, "pad_size": {"height": 40, "width": 40}},
            "cannot translate: .* of 255",
        ),
        ("ViTImageProcessor", {"crop_pct": 0.9}, r"does not know itself: crop_pct=0\.9"),
        ("ViTImageProcessor", {"do_flip": True}, "does not know itself: do_flip=True"),
        ("ViTImageProcessor", {"auto_map": {"AutoImageProcessor": "my.Pixels"}}, r"my\.Pixels"),
        ("MobileViTImageProcessor", {"crop_size": 32, **EDGE}, "cannot translate: .* of 255"),
        ("EfficientNetImageProcessor", {"rescale_offset": True}, "cannot translate: .* of 255"),
    ],
    ids=str,
)
def test_steps_of_a_processor_are_done_or_refused(
    processor: str, settings: dict[str, Any], match: str, tmp_path: Path
) -> None:
    name = saved(build("Dinov2Model", "Dinov2Config", **TOKENS), tmp_path)
    content = {"image_processor_type": processor, **SQUARE, **settings}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(EncoderError, match=match):
        load_encoder(name)


@pytest.mark.parametrize(
    ("architecture", "config", "settings"),
    [
        ("ViTModel", "ViTConfig", TOKENS),
        ("ViTForImageClassification", "ViTConfig", TOKENS),
        ("DeiTModel", "DeiTConfig", TOKENS),
        ("ViTMSNModel", "ViTMSNConfig", TOKENS),
        ("CLIPVisionModel", "CLIPVisionConfig", TOKENS),
        ("SiglipVisionModel", "SiglipVisionConfig", TOKENS),
        ("ViTMAEModel", "ViTMAEConfig", TOKENS),
    ],
)
def test_images_of_a_size_that_the_model_does_not_take(
    architecture: str, config: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = build(architecture, config, **settings)
    name = saved(model, tmp_path, size={"height": 64, "width": 64})
    with pytest.raises(
        EncoderError,
        match=r"\(32, 32\) pixels, its image processor gives .*\(64, 64\).*Correct size",
    ):
        load_encoder(name)


@pytest.mark.parametrize(
    ("architecture", "config", "settings", "pooled"),
    [
        ("Dinov2Model", "Dinov2Config", TOKENS, class_token),
        ("DINOv3ViTModel", "DINOv3ViTConfig", TOKENS, class_token),
        ("ConvNextModel", "ConvNextConfig", STAGES, pooler),
        ("SwinModel", "SwinConfig", SWIN, pooler),
    ],
)
def test_a_model_that_takes_other_sizes_gets_those_of_its_processor(
    architecture: str,
    config: str,
    settings: dict[str, Any],
    pooled: Callable[[Any], Any],
    tmp_path: Path,
) -> None:
    model = build(architecture, config, **settings)
    encoder = load_encoder(saved(model, tmp_path, size={"height": 48, "width": 64}))
    assert encoder.input_size == (48, 64)
    batch = noise(encoder)
    with torch.inference_mode():
        outputs = model(pixel_values=normalised(encoder, batch))
    assert torch.allclose(encoder.embed(batch).features["pooled"], pooled(outputs), atol=1e-5)


def test_a_model_of_other_channels_is_refused(tmp_path: Path) -> None:
    name = saved(build("Dinov2Model", "Dinov2Config", **TOKENS, num_channels=1), tmp_path)
    with pytest.raises(EncoderError, match="images of 1 channels"):
        load_encoder(name)


@pytest.mark.parametrize("architecture", ["ViTModel", "ViTForImageClassification"])
def test_outputs_may_be_configured_as_tuples(architecture: str, tmp_path: Path) -> None:
    name = saved(build(architecture, "ViTConfig", **TOKENS), tmp_path)
    encoder = load_encoder(name)
    expected = encoder.embed(noise(encoder)).features["pooled"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"return_dict": False}))
    assert torch.equal(load_encoder(name).embed(noise(encoder)).features["pooled"], expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_hidden_layers": 2}, r"would leave out.*layer\.2\.|would leave out.*layers\.2\."),
        ({"qkv_bias": False}, r"would leave out.*bias"),
        ({"architectures": ["MyViTForImageClassification"]}, "is a MyViT.* does not have"),
        ({"auto_map": {"AutoModel": "my_code.MyViT"}}, r"code of its own.*my_code\.MyViT"),
        ({"patch_size": 16}, r"another size .*projection\.weight of \(32, 3, 8, 8\), not"),
    ],
)
def test_a_configuration_that_is_not_that_of_the_weights(
    change: dict[str, Any], match: str, tmp_path: Path
) -> None:
    name = saved(build("ViTModel", "ViTConfig", **TOKENS), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(EncoderError, match=match):
        load_encoder(name)


def test_missing_weights_are_refused_and_not_made_up(tmp_path: Path) -> None:
    name = saved(build("ViTModel", "ViTConfig", **TOKENS), tmp_path)
    config = tmp_path / "config.json"
    content = json.loads(config.read_text()) | {"num_hidden_layers": 4}
    config.write_text(json.dumps(content))
    with pytest.raises(EncoderError, match=r"lacks weights .* and 11 more"):
        load_encoder(name)


def test_a_text_model_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    settings = {key: TOKENS[key] for key in TOKENS if key not in {"image_size", "patch_size"}}
    build("BertModel", "BertConfig", vocab_size=50, **settings).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"lacks its tokenizer.*tokenizer\.json"):
        load_encoder(f"hf/{tmp_path}")


def test_a_vision_model_without_image_processor_is_refused(tmp_path: Path) -> None:
    build("ViTModel", "ViTConfig", **TOKENS).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"cannot be loaded .* preprocessor_config\.json"):
        load_encoder(f"hf/{tmp_path}")


def test_a_model_of_timm_is_sent_there(tmp_path: Path) -> None:
    config = {"architecture": "resnet18", "num_classes": 5, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match=f"Load it as timm/{tmp_path}"):
        load_encoder(f"hf/{tmp_path}")


@pytest.mark.usefixtures("offline")
def test_without_a_connection_the_next_step_is_named() -> None:
    with pytest.raises(EncoderError, match=r"downloaded and then kept.* or give hf/<folder>"):
        load_encoder("hf/facebook/dinov2-small")


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = saved(build("ViTForImageClassification", "ViTConfig", **TOKENS), tmp_path)
    capfd.readouterr()
    load_encoder(name)
    assert capfd.readouterr() == ("", "")


def test_half_precision_weights_are_run_in_full_precision(tmp_path: Path) -> None:
    model = build("ViTModel", "ViTConfig", **TOKENS).to(torch.bfloat16)
    encoder = load_encoder(saved(model, tmp_path))
    assert {p.dtype for p in encoder.module.parameters()} == {torch.float32}  # type: ignore[attr-defined]
