"""Adapters of PEFT: merged into the base that they name, or refused; never passed over.

The folders are as peft 0.21 writes them, and their features were once compared with its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders of transformers need torch")
try:
    import transformers
except Exception as error:
    pytest.skip(f"transformers cannot be imported: {error}", allow_module_level=True)

import text_checkpoints as tiny  # noqa: E402

from transferscope.encoders import load_encoder  # noqa: E402
from transferscope.errors import EncoderError  # noqa: E402

SAMPLES = ["a", "How much does it cost to send 1,250.75 to another bank account?"]
QUERY, VALUE = (f"encoder.layer.1.attention.self.{name}" for name in ("query", "value"))


def features(name: str) -> Any:
    encoder = load_encoder(name)
    preprocessing = encoder.preprocessing
    return encoder.embed(preprocessing.collate(SAMPLES)).features["pooled"]


def factors(module: str, seed: int = 0, rank: int = 2, *, trunk: str = "", width: int = 32) -> Any:
    """A and B of one module, as a folder holds them, and their product."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, width, generator=generator)
    b = torch.randn(width, rank, generator=generator) / 3
    name = f"base_model.model.{trunk}{module}.lora_"
    return {f"{name}A.weight": a, f"{name}B.weight": b}, b @ a


def adapter(folder: Path, tensors: dict[str, Any], base: object, **settings: Any) -> str:
    """A folder as PEFT saves it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    content = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 3,
        "base_model_name_or_path": base,
        "bias": "none",
        "init_lora_weights": True,
        "target_modules": ["query"],
        "revision": None,
        "lora_dropout": 0.1,
        "alpha_pattern": {},
        "use_dora": False,
        "loftq_config": {},
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return f"hf/{folder}"


def literal(architecture: str, folder: Path, updates: dict[str, Any], how: str = "mean") -> Any:
    """Features of the model whose weights were changed by hand."""
    model = tiny.build(architecture)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for name, update in updates.items():
            model.get_parameter(name).add_(update)
    return [
        tiny.literal_pool(tiny.literal_states(model, words, sample)[-1], how) for sample in SAMPLES
    ]


@pytest.mark.parametrize("trunk", ["", "bert."])  # saved from a model without and with a head
@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 1.5), ({"use_rslora": True}, 3 / 2**0.5), ({"alpha_pattern": {"value": 8}}, None)],
)
def test_an_adapter_is_merged_into_its_base(
    trunk: str, settings: dict[str, Any], scale: float | None, tmp_path: Path
) -> None:
    tiny.saved(tmp_path / "base", "bert")
    (of_query, query), (of_value, value) = (
        factors(module, seed, trunk=trunk) for seed, module in enumerate((QUERY, VALUE))
    )
    head = {"base_model.model.classifier.weight": torch.ones(3, 32)}
    name = adapter(
        tmp_path / "adapter", {**of_query, **of_value, **head}, str(tmp_path / "base"), **settings,
        modules_to_save=["classifier", "score"], task_type="SEQ_CLS",
    )  # fmt: skip
    updates = {f"{QUERY}.weight": (scale or 1.5) * query, f"{VALUE}.weight": (scale or 4) * value}
    got = features(name)
    for row, expected in enumerate(literal("bert", tmp_path / "base", updates)):
        np.testing.assert_allclose(got[row], expected, atol=1e-5)
    assert load_encoder(name).fingerprint != load_encoder(f"hf/{tmp_path / 'base'}").fingerprint


def test_whole_weights_replace_those_of_the_base(tmp_path: Path) -> None:
    tiny.saved(tmp_path / "base", "bert")
    tensors, query = factors(QUERY)
    bias = torch.linspace(-1, 1, 32)
    # the pooler is not built, and so its bias is not missed
    whole = {f"base_model.model.{QUERY}.base_layer.bias": bias}
    whole["base_model.model.pooler.dense.bias"] = -bias
    name = adapter(tmp_path / "a", {**tensors, **whole}, str(tmp_path / "base"), bias="all")
    own = tiny.build("bert").get_parameter(f"{QUERY}.bias").detach()
    updates = {f"{QUERY}.weight": 1.5 * query, f"{QUERY}.bias": bias - own}
    for got, expected in zip(
        features(name), literal("bert", tmp_path / "base", updates), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_weights_of_gpt2_are_laid_out_the_other_way_round(tmp_path: Path) -> None:
    tiny.saved(tmp_path / "base", "gpt2")
    module = "h.2.mlp.c_fc"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 32, generator=generator), torch.randn(128, 2, generator=generator)
    tensors = {f"base_model.model.transformer.{module}.lora_{k}.weight": v for k, v in
               (("A", a), ("B", b))}  # fmt: skip
    name = adapter(tmp_path / "a", tensors, str(tmp_path / "base"), fan_in_fan_out=True)
    updates = {f"{module}.weight": 1.5 * (b @ a).T}
    expected = literal("gpt2", tmp_path / "base", updates, "last")
    np.testing.assert_allclose(features(name), torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "encoder", "decoder"),
    [
        (
            "t5",
            "encoder.block.1.layer.0.SelfAttention.q",
            "decoder.block.0.layer.0.SelfAttention.q",
        ),
        ("bart", "encoder.layers.0.self_attn.q_proj", "decoder.layers.0.self_attn.q_proj"),
    ],
)
def test_what_is_trained_in_a_decoder_does_not_reach_the_encoder(
    architecture: str, encoder: str, decoder: str, tmp_path: Path
) -> None:
    tiny.saved(tmp_path / "base", architecture)
    trunk = "model." if architecture == "bart" else ""
    inside, product = factors(encoder, trunk=trunk)
    outside, _ = factors(decoder, 1, trunk=trunk)
    name = adapter(tmp_path / "a", {**inside, **outside}, str(tmp_path / "base"))
    expected = literal(architecture, tmp_path / "base", {f"{encoder}.weight": 1.5 * product})
    np.testing.assert_allclose(features(name), torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("base", ["base", "../base"])
def test_the_base_may_lie_beside_the_adapter(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.saved(tmp_path / ("a/base" if base == "base" else "base"), "bert")
    name = adapter(tmp_path / "a", factors(QUERY)[0], base)
    monkeypatch.chdir(tmp_path.parent)
    assert features(name).shape == (2, 32)


def test_a_tokenizer_beside_the_adapter_is_the_adapters(tmp_path: Path) -> None:
    tiny.saved(tmp_path / "base", "bert")
    name = adapter(tmp_path / "a", factors(QUERY)[0], str(tmp_path / "base"))
    before = load_encoder(name)
    words = tiny.tokenizer("wordpiece", model_max_length=9)
    words.save_pretrained(tmp_path / "a")
    after: Any = load_encoder(name)
    assert after.preprocessing.limit == 9
    assert after.preprocessing.key != before.preprocessing.key


def test_folders_of_sentence_transformers_with_adapters(tmp_path: Path) -> None:
    """Of the adapter where it has one, else of the base."""
    pooling = {"word_embedding_dimension": 32, "pooling_mode_max_tokens": True}
    tiny.sentence_folder(tmp_path / "base", pooling, ("Normalize", {}, {}))
    tensors, product = factors(QUERY)
    name = adapter(tmp_path / "a", tensors, str(tmp_path / "base"))
    got = features(name)
    model, words = tiny.build("bert"), transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        model.get_parameter(f"{QUERY}.weight").add_(1.5 * product)
    pooled = [tiny.literal_states(model, words, sample)[-1].amax(0) for sample in SAMPLES]
    for row, expected in enumerate(pooled):
        np.testing.assert_allclose(got[row], expected / expected.norm(), atol=1e-5)
    tiny.sentence_folder(tmp_path / "own", pooling)
    (tmp_path / "own" / "model.safetensors").unlink()
    (tmp_path / "own" / "config.json").unlink()
    name = adapter(tmp_path / "own", tensors, str(tmp_path / "base"))
    np.testing.assert_allclose(features(name), torch.stack(pooled), atol=1e-5)


# --- vision -------------------------------------------------------------------------------------

TOKENS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
IMAGES: dict[str, Any] = {**TOKENS, "image_size": 32, "patch_size": 8}


def vision(folder: Path, architecture: str, config: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**settings)).eval()
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    return model


def seen(encoder: Any) -> tuple[Any, Any]:
    """A batch, and the same as the model takes it."""
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    scaled = (batch / 255 - 0.5) / 0.5
    return batch, torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


# names of layers before transformers 5 as well: adapters are older than it
@pytest.mark.parametrize(
    "module", ["vit.layers.1.attention.q_proj", "vit.encoder.layer.1.attention.attention.query"]
)
def test_an_adapter_of_a_vision_model(module: str, tmp_path: Path) -> None:
    model = vision(tmp_path / "base", "ViTForImageClassification", "ViTConfig", **IMAGES)
    tensors, product = factors(module)
    tensors["base_model.model.classifier.weight"] = torch.ones(9, 32)
    name = adapter(tmp_path / "a", tensors, str(tmp_path / "base"), modules_to_save=["classifier"])
    encoder = load_encoder(name)
    batch, pixels = seen(encoder)
    got = encoder.embed(batch)
    with torch.no_grad():
        saved = {n.rpartition(".")[0] for n in model.state_dict()}
        own = "vit.layers.1.attention.q_proj"
        own = own if own in saved else "vit.encoder.layer.1.attention.attention.query"
        model.get_parameter(f"{own}.weight").add_(1.5 * product)
        expected = model.vit(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(got.features["pooled"], expected, atol=1e-5)
    assert got.logits is None  # the head of the base is not that of the adapter


def test_what_is_trained_on_texts_does_not_reach_the_images(tmp_path: Path) -> None:
    text = {**TOKENS, "vocab_size": 50, "max_position_embeddings": 8, "projection_dim": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1}
    model = vision(
        tmp_path / "base", "CLIPModel", "CLIPConfig", text_config=text,
        vision_config={**IMAGES, "projection_dim": 16}, projection_dim=16,
    )  # fmt: skip
    of_texts, _ = factors("text_model.encoder.layers.0.self_attn.q_proj")
    of_images, product = factors("vision_model.encoder.layers.1.self_attn.q_proj", 1)
    encoder = load_encoder(
        adapter(tmp_path / "a", {**of_texts, **of_images}, str(tmp_path / "base"))
    )
    batch, pixels = seen(encoder)
    with torch.no_grad():
        model.vision_model.encoder.layers[1].self_attn.q_proj.weight.add_(1.5 * product)
        expected = model.vision_model(pixel_values=pixels).pooler_output
    assert torch.allclose(encoder.embed(batch).features["pooled"], expected, atol=1e-5)
    only_texts = adapter(tmp_path / "b", of_texts, str(tmp_path / "base"))
    with pytest.raises(EncoderError, match=r"changes text_model\..*does not have"):
        load_encoder(only_texts)


# --- what is refused ----------------------------------------------------------------------------


def test_an_adapter_beside_a_whole_model_is_refused(tmp_path: Path) -> None:
    tiny.saved(tmp_path, "bert")
    name = adapter(tmp_path, factors(QUERY)[0], str(tmp_path))
    with pytest.raises(EncoderError, match=r"adapter beside a whole model.*folder of their own"):
        load_encoder(name)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(EncoderError, match="adapter beside a whole model"):
        load_encoder(name)
    tiny.sentence_folder(tmp_path / "s", {"pooling_mode": "mean"})
    name = adapter(tmp_path / "s", factors(QUERY)[0], "base")
    with pytest.raises(EncoderError, match="adapter beside a whole model"):
        load_encoder(name)


def test_a_configuration_beside_the_adapter_is_no_model(tmp_path: Path) -> None:
    tiny.saved(tmp_path / "base", "bert")
    name = adapter(tmp_path / "a", factors(QUERY)[0], str(tmp_path / "base"))
    before = features(name)
    (tmp_path / "a" / "config.json").write_text((tmp_path / "base" / "config.json").read_text())
    assert torch.equal(features(name), before)


@pytest.mark.parametrize("lost", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_of_an_adapter_is_refused(lost: str, tmp_path: Path) -> None:
    name = adapter(tmp_path, factors(QUERY)[0], "base")
    (tmp_path / lost).unlink()
    with pytest.raises(EncoderError, match=f"half of an adapter: it lacks {lost}"):
        load_encoder(name)


@pytest.mark.usefixtures("offline")
def test_the_base_may_lie_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    tiny.saved(tmp_path / "base", "bert")
    tensors = factors(QUERY)[0]
    near = adapter(tmp_path / "near", tensors, str(tmp_path / "base"))
    expected = features(near)
    repository, commit = tmp_path / "empty" / "models--who--base", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (tmp_path / "base").rename(repository / "snapshots" / commit)
    far = adapter(tmp_path / "far", tensors, "who/base")
    assert torch.equal(features(far), expected)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("base", "match"),
    [
        (None, "names no base"),
        ("", "names no base"),
        (7, "names no base"),
        ("/gone/base", r"its base /gone/base is not on this machine\. Write the folder of a copy"),
        ("./gone", r"its base \./gone is not on this machine"),
        ("who/knows", r"cannot be loaded.*its base, who/knows\. Write the folder of a copy"),
    ],
)
def test_a_base_that_is_not_at_hand(base: object, match: str, tmp_path: Path) -> None:
    name = adapter(tmp_path, factors(QUERY)[0], base)
    with pytest.raises(EncoderError, match=match):
        load_encoder(name)


PAIR = factors(QUERY)[0]
DEEP = factors("encoder.layer.9.attention.self.query")[0]


@pytest.mark.parametrize(
    ("settings", "tensors", "match"),
    [
        ({"peft_type": "IA3"}, PAIR, "of type IA3; only LORA"),
        ({"peft_type": "PREFIX_TUNING"}, {"prompt": torch.ones(2)}, "of type PREFIX_TUNING"),
        ({"use_dora": True}, PAIR, "of type DORA"),
        ({"lora_bias": True}, PAIR, "lora_bias=True"),
        ({"init_lora_weights": "pissa_niter_4"}, PAIR, "init_lora_weights='pissa_niter_4'"),
        ({"layer_replication": [[0, 2]]}, PAIR, "layer_replication="),
        ({"trainable_token_indices": [1]}, PAIR, "trainable_token_indices="),
        ({"alora_invocation_tokens": [1]}, PAIR, "alora_invocation_tokens="),
        ({"a_setting_of_tomorrow": 2}, PAIR, "a_setting_of_tomorrow=2"),
        ({"lora_alpha": None}, PAIR, "lora_alpha .* must be a number"),
        ({}, DEEP, r"changes encoder\.layer\.9\..*does not have"),
        ({}, {**PAIR, **DEEP}, r"changes encoder\.layer\.9\..*does not have"),
        ({}, factors("layers.0.self_attn.q_proj")[0], r"changes layers\.0\..*does not have"),
        ({}, factors(QUERY, width=16)[0], "of another size"),
        ({}, {f"{QUERY}.lora_A.weight": torch.ones(2, 32)}, "do not fit each other"),
        ({}, {f"{QUERY}.weight": torch.ones(16, 32)}, r"by one of shape \(16, 32\)"),
        ({}, {}, "changes , which|changes .*does not have"),
    ],
)  # fmt: skip
def test_adapters_that_are_not_understood_or_do_not_fit(
    settings: dict[str, Any], tensors: dict[str, Any], match: str, tmp_path: Path
) -> None:
    tiny.saved(tmp_path / "base", "bert")
    name = adapter(tmp_path / "a", tensors, str(tmp_path / "base"), **settings)
    with pytest.raises(EncoderError, match=match):
        load_encoder(name)


def test_an_adapter_of_an_adapter_is_refused(tmp_path: Path) -> None:
    tiny.saved(tmp_path / "base", "bert")
    adapter(tmp_path / "one", factors(QUERY)[0], str(tmp_path / "base"))
    name = adapter(tmp_path / "two", factors(VALUE)[0], str(tmp_path / "one"))
    with pytest.raises(EncoderError, match="which is an adapter too"):
        load_encoder(name)


# --- weights of a folder ------------------------------------------------------------------------


def sharded(folder: Path) -> dict[str, str]:
    tiny.build("bert").save_pretrained(folder, max_shard_size="20KB")
    tiny.tokenizer("wordpiece").save_pretrained(folder)
    listed: dict[str, str] = json.loads((folder / "model.safetensors.index.json").read_text())[
        "weight_map"
    ]
    assert len(set(listed.values())) > 1
    return listed


def moved_up(shard: Path) -> str:
    shard.rename(shard.parent.parent / shard.name)
    return f"../{shard.name}"


def moved_away(shard: Path) -> str:
    return str(shard.rename(shard.parent.parent / shard.name))


def moved_down(shard: Path) -> str:
    (shard.parent / "deep").mkdir()
    shard.rename(shard.parent / "deep" / shard.name)
    return f"deep/{shard.name}"


def linked(shard: Path) -> str:
    elsewhere = shard.rename(shard.parent.parent / shard.name)
    shard.symlink_to(elsewhere)
    return shard.name


@pytest.mark.parametrize(
    ("move", "match"),
    [
        (moved_up, r"shard \.\./.*is not in its folder"),
        (moved_away, "shard /.*is not in its folder"),
        (moved_down, "shard deep/.*is not in its folder"),
        (linked, "is a link to .*outside of its folder"),
    ],
)
def test_weights_outside_of_the_folder_are_refused(
    move: Callable[[Path], str], match: str, tmp_path: Path
) -> None:
    from transferscope.parameter_distance import layer_transferability

    listed = sharded(tmp_path / "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    first = min(listed.values())
    name = move(tmp_path / "model" / first)
    changed = {key: name if file == first else file for key, file in listed.items()}
    index.write_text(json.dumps({"metadata": {}, "weight_map": changed}))
    with pytest.raises(EncoderError, match=match):
        load_encoder(f"hf/{tmp_path / 'model'}")
    with pytest.raises(EncoderError, match=match):
        layer_transferability(None, tmp_path / "model", tmp_path / "model")


def test_links_of_the_hubs_cache_are_its_files(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--who--what" / "snapshots" / "abc"
    listed = sharded(snapshot)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    for number, shard in enumerate(sorted(set(listed.values()))):
        (snapshot / shard).rename(blobs / str(number))
        (snapshot / shard).symlink_to(blobs / str(number))
    tiny.saved(tmp_path / "whole", "bert")
    assert torch.equal(features(f"hf/{snapshot}"), features(f"hf/{tmp_path / 'whole'}"))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {"a": 1}}'])
def test_a_damaged_index(content: str, tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(EncoderError, match=r"index\.json"):
        load_encoder(f"hf/{tmp_path}")
