"""Checkpoints as they are found: which copy is taken, by whose names, and why one is refused."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from timm.models.resnet import BasicBlock, ResNet  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

import transferscope  # noqa: E402
from transferscope.encoders import _checkpoints, load_encoder  # noqa: E402
from transferscope.encoders._checkpoint_architectures import find_architecture  # noqa: E402
from transferscope.encoders._checkpoint_layouts import names_of_flat_efficientnet  # noqa: E402
from transferscope.encoders._checkpoint_refusals import COMMON_ARCHS  # noqa: E402
from transferscope.encoders._timm import wrap_timm  # noqa: E402
from transferscope.errors import CheckpointError, EncoderError, UnknownNameError  # noqa: E402

State = dict[str, Any]
N_CLASSES = 3


def register(name: str, build: Callable[..., Any], classifier: str, size: int) -> None:
    """Add a network of a few thousand weights to timm."""

    def entrypoint(pretrained: bool = False, **options: Any) -> Any:
        overlay = options.pop("pretrained_cfg_overlay", None) or {}
        known = {
            key: value
            for key, value in options.items()
            if key not in ("pretrained_cfg", "cache_dir") and value is not None
        }
        model = build(**{"num_classes": N_CLASSES, **known})
        model.pretrained_cfg = {
            "architecture": name,
            "classifier": classifier,
            "input_size": (3, size, size),
            "num_classes": N_CLASSES,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        } | overlay
        return model

    entrypoint.__name__ = name
    timm.models.register_model(entrypoint)


def vit(**options: Any) -> Any:
    shape = {"img_size": 28, "patch_size": 7, "embed_dim": 24, "depth": 3, "num_heads": 2}
    return VisionTransformer(**{**shape, **options})


def resnet(**options: Any) -> Any:
    return ResNet(BasicBlock, (1, 1, 1, 1), channels=(4, 6, 8, 12), **options)


register("kind_resnet", resnet, "fc", 32)
register("kind_vit", lambda **o: vit(init_values=1.0, **o), "head", 28)
register(
    "kind_vit_reg",
    lambda **o: vit(init_values=1.0, reg_tokens=4, no_embed_class=True, **o),
    "head",
    28,
)
register("kind_vit_clip", lambda **o: vit(pre_norm=True, **o), "head", 28)
register("kind_tower_224", lambda **o: vit(**({"img_size": 28} | o)), "head", 28)
register("kind_tower_056", lambda **o: vit(**({"img_size": 56} | o)), "head", 56)


def original(arch: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = timm.create_model(arch, **options).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand(tensor.shape) + 0.5 if "var" in name else torch.randn(tensor.shape) / 5
            )
    return model


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def other(state: State) -> State:
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def load(content: Any, arch: str, tmp_path: Path) -> Any:
    torch.save(content, tmp_path / "w.pth")
    return load_encoder(f"checkpoint:{tmp_path / 'w.pth'}?arch={arch}")


def refused(content: Any, arch: str, tmp_path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(content, arch, tmp_path)
    return str(caught.value).splitlines()[-1]


def assert_holds(encoder: Any, model: Any) -> None:
    """Every tensor of the backbone is the original's."""
    loaded = encoder.module.state_dict()
    assert any("head" not in n and "fc" not in n for n in loaded)
    for name, tensor in model.state_dict().items():
        if not name.startswith(("fc.", "head.")):
            assert torch.equal(loaded[name], tensor), name


# ------------------------------------------------------------------------------ several copies

AVERAGED = (
    *("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "averaged_model"),
    *("swa_model", "swa_state_dict", "teacher", "mean_teacher", "model_averaged", "net_ema"),
    *("params_ema", "EMA", "ema_weights", "moving_average", "avg_model", "polyak", "emaModel"),
)
RAW = ("model", "state_dict", "student", "net", "a", "weights_of_the_model")


@pytest.mark.parametrize("raw", RAW[:2])
@pytest.mark.parametrize("averaged", AVERAGED)
@pytest.mark.parametrize("how", ["containers", "prefixes", "nested"])
def test_averaged_weights_win_and_the_notes_say_so(
    tmp_path: Path, averaged: str, raw: str, how: str
) -> None:
    model = original("kind_resnet")
    good, bad = model.state_dict(), other(model.state_dict())
    content = {
        "containers": {raw: bad, averaged: good},
        "prefixes": {"state_dict": under(f"{raw}.", bad) | under(f"{averaged}.", good)},
        "nested": {raw: bad, averaged: {"decay": 0.99, "module": under("module.", good)}},
    }[how]
    encoder = load(content, "kind_resnet", tmp_path)
    assert_holds(encoder, model)
    (note,) = encoder.notes
    assert "averaged weights" in note
    assert averaged in note
    assert raw in note.partition("not taken")[2]


@pytest.mark.parametrize("raw", RAW)
def test_averaged_weights_without_counters_and_classifier_still_win(
    tmp_path: Path, raw: str
) -> None:
    model = original("kind_resnet")
    good = {
        k: v
        for k, v in model.state_dict().items()
        if "num_batches" not in k and not k.startswith("fc.")
    }
    encoder = load({raw: other(model.state_dict()), "ema": good}, "kind_resnet", tmp_path)
    assert_holds(encoder, model)
    assert encoder.embed(np.zeros((1, 32, 32, 3), np.uint8)).logits is None


def test_averaged_weights_that_lack_tensors_are_named(tmp_path: Path) -> None:
    model = original("kind_resnet")
    parameters = {k: v + 1 for k, v in model.named_parameters()}
    encoder = load({"model": model.state_dict(), "ema": parameters}, "kind_resnet", tmp_path)
    assert_holds(encoder, model)
    assert "averaged weights ema.* lack tensors" in encoder.notes[0]


def test_lightnings_average_is_its_state_dict(tmp_path: Path) -> None:
    model = original("kind_resnet")
    content = {
        "state_dict": under("model.", model.state_dict()),
        "current_model_state": under("model.", other(model.state_dict())),
        "averaging_state": {"n_averaged": torch.tensor(3)},
    }
    assert_holds(load(content, "kind_resnet", tmp_path), model)


def test_one_copy_needs_no_note(tmp_path: Path) -> None:
    assert (
        load({"model": original("kind_resnet").state_dict()}, "kind_resnet", tmp_path).notes == ()
    )


def test_the_ranking_says_which_copy_was_taken_and_the_store_keeps_them_apart(
    tmp_path: Path,
) -> None:
    state = original("kind_resnet").state_dict()
    torch.save({"model": other(state), "model_ema": state}, tmp_path / "both.pth")
    torch.save({"model": other(state)}, tmp_path / "raw.pth")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        images=rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8),
        labels=np.arange(24) % 3,
    )
    names = [f"checkpoint:{tmp_path / name}.pth?arch=kind_resnet" for name in ("both", "raw")]
    ranking = transferscope.rank(
        tmp_path / "data.npz", names, metrics=["knn", "h_score"], store=tmp_path / "store"
    )
    notes = {row.encoder: row.warnings for row in ranking}
    assert any("averaged weights, model_ema.*" in note for note in notes[names[0]])
    assert notes[names[1]] == ()
    both, raw = (load_encoder(name) for name in names)
    assert both.fingerprint != raw.fingerprint


# ------------------------------------------------------------------------------------- names


def inside(segment: str, state: State) -> State:
    """Put a segment behind the first part of every name that has parts."""
    return {re.sub(r"^(layer\d|blocks\.\d+)\.", rf"\1.{segment}.", k): v for k, v in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "backbone.module."])
@pytest.mark.parametrize(
    "wrapper",
    [
        *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
        "_fsdp_wrapped_module._checkpoint_wrapped_module",
    ],
)
@pytest.mark.parametrize("arch", ["kind_resnet", "kind_vit"])
def test_wrappers_anywhere_in_a_name(tmp_path: Path, arch: str, wrapper: str, prefix: str) -> None:
    model = original(arch)
    state = under(prefix, inside(wrapper, model.state_dict()))
    encoder = load({"state_dict": state}, arch, tmp_path)
    assert_holds(encoder, model)
    assert encoder.report.n_classes == N_CLASSES


def test_a_deeper_network_in_wrappers_is_still_refused(tmp_path: Path) -> None:
    state = inside("_orig_mod", original("kind_resnet").state_dict())
    state["layer1.1._orig_mod.conv1.weight"] = torch.zeros(4, 4, 3, 3)
    with pytest.raises(CheckpointError, match="unexpected: layer1"):
        load(state, "kind_resnet", tmp_path)


@pytest.mark.parametrize("head", ["fc.1", "fc.0", "fc.4"])
def test_a_classifier_behind_a_dropout_gives_the_logits(tmp_path: Path, head: str) -> None:
    model = original("kind_resnet", num_classes=5)
    state = {k.replace("fc.", f"{head}."): v for k, v in model.state_dict().items()}
    encoder = load(state, "kind_resnet", tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert torch.equal(encoder.embed(pixels).logits, wrap_timm(model).embed(pixels).logits)


def test_a_classifier_of_two_layers_gives_no_logits(tmp_path: Path) -> None:
    state = original("kind_resnet").state_dict()
    extra = {"fc.0.weight": torch.zeros(8, 12), "fc.0.bias": torch.zeros(8)}
    extra |= {"fc.2.weight": torch.zeros(5, 8), "fc.2.bias": torch.zeros(5)}
    bare = {k: v for k, v in state.items() if not k.startswith("fc.")}
    assert load(bare | extra, "kind_resnet", tmp_path).report.n_classes is None


# ---------------------------------------------------------------------------- names of authors


def chunked(state: State) -> State:
    return {k.replace("blocks.", "blocks.0.", 1): v for k, v in state.items()}


def dinov2(model: Any) -> State:
    """As the authors save it: blocks in chunks, a mask token, positions for the class token too."""
    state = chunked({k: v for k, v in model.state_dict().items() if not k.startswith("head.")})
    state["mask_token"] = torch.zeros(1, 24)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        first = torch.full((1, 1, 24), 0.5)
        state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
        state["cls_token"] = state["cls_token"] - first
    return state


@pytest.mark.parametrize("arch", ["kind_vit", "kind_vit_reg"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_dinov2_in_the_names_of_its_authors(tmp_path: Path, arch: str, prefix: str) -> None:
    model = original(arch)
    encoder = load({"teacher": under(prefix, dinov2(model))}, arch, tmp_path)
    loaded = encoder.module.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(loaded[name], tensor)
    assert encoder.report.prefix == prefix
    assert encoder.report.n_classes is None


def test_registers_are_not_dropped_without_a_word(tmp_path: Path) -> None:
    """Without its registers every other tensor fits, and the features are others."""
    message = refused(dinov2(original("kind_vit_reg")), "kind_vit", tmp_path)
    assert "Ask for the architecture" in message


def clip(model: Any) -> State:
    """As OpenAI names a vision transformer and the text tower beside it."""
    names = (
        (r"^cls_token$", "class_embedding"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^norm_pre\.", "ln_pre."),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.(\d+)\.norm(\d)\.", r"transformer.resblocks.\1.ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"transformer.resblocks.\1.attn.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    )
    state: State = {"logit_scale": torch.ones(()), "text_projection": torch.zeros(24, 16)}
    state["transformer.resblocks.0.ln_1.weight"] = torch.zeros(24)
    for name, tensor in model.state_dict().items():
        if name.startswith("head."):
            continue
        for pattern, new in names:
            name = re.sub(pattern, new, name)
        state[f"visual.{name}"] = tensor
    state["visual.class_embedding"] = state["visual.class_embedding"][0, 0]
    state["visual.positional_embedding"] = state["visual.positional_embedding"][0]
    return state | {"visual.proj": torch.randn(24, 16)}


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_the_visual_tower_of_clip(tmp_path: Path, prefix: str) -> None:
    model = original("kind_vit_clip")
    state = under(prefix, clip(model))
    encoder = load({"state_dict": state}, "kind_vit_clip", tmp_path)
    assert_holds(encoder, model)
    assert encoder.report.layout == "CLIP"
    assert encoder.embed(np.zeros((1, 28, 28, 3), np.uint8)).logits is None


def nested(state: State) -> Any:
    """A module with these parameters and buffers, as the program that OpenAI publishes has them."""

    class Part(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Part()
    for name, tensor in state.items():
        *path, last = name.split(".")
        part: Any = root
        for one in path:
            if not hasattr(part, one):
                part.add_module(one, Part())
            part = getattr(part, one)
        if tensor.is_floating_point() and "running" not in last:
            part.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
        else:
            part.register_buffer(last, tensor)
    return root


def openai(visual: State, path: Path) -> str:
    """OpenAI's archive: a TorchScript program, of half precision where weights are multiplied."""
    state = {k: v.half() if v.ndim > 1 else v for k, v in visual.items()}
    state |= {"logit_scale": torch.ones(()), "text_projection": torch.zeros(24, 16).half()}
    state["transformer.resblocks.0.ln_1.weight"] = torch.ones(24)
    for name in ("input_resolution", "context_length", "vocab_size"):
        state[name] = torch.tensor(28)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nested(state)).save(path)
    return f"checkpoint:{path}?arch="


def halved(model: Any) -> Any:
    for tensor in model.state_dict().values():
        tensor.copy_(tensor.half() if tensor.ndim > 1 else tensor)
    return model


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)


def pooled(encoder: Any, pixels: Any) -> Any:
    return encoder.embed(pixels).features["pooled"]


def test_openais_archive_of_a_vision_transformer(tmp_path: Path) -> None:
    """Its features are those of QuickGELU, also in an architecture whose name does not say so."""
    model = halved(original("kind_vit_clip", act_layer="quick_gelu"))
    visual = {k: v for k, v in clip(model).items() if k.startswith("visual.")}
    name = openai(visual, tmp_path / "ViT.pt")
    encoder = load_encoder(f"{name}kind_vit_clip")
    expected = pooled(wrap_timm(model, "x"), PIXELS)
    assert torch.allclose(torch.as_tensor(pooled(encoder, PIXELS)), torch.as_tensor(expected))
    (note,) = encoder.report.notes
    assert "QuickGELU" in note
    # the same names from elsewhere: then the architecture says which
    other = load(clip(model), "kind_vit_clip", tmp_path)
    assert not torch.allclose(torch.as_tensor(pooled(other, PIXELS)), torch.as_tensor(expected))
    assert "OpenCLIP" in other.report.notes[0]


def clip_resnet(state: State) -> State:
    """As OpenAI names a ResNet with attention in place of pooling."""
    rules = (
        (r"^stem\.conv(\d)\.conv\.", r"conv\1."),
        (r"^stem\.conv(\d)\.bn\.", r"bn\1."),
        (r"^stages\.(\d)\.", lambda m: f"layer{int(m[1]) + 1}."),
        (r"\.conv(\d)_\w+\.conv\.", r".conv\1."),
        (r"\.conv(\d)_\w+\.bn\.", r".bn\1."),
        (r"\.shortcut\.conv\.conv\.", ".downsample.0."),
        (r"\.shortcut\.conv\.bn\.", ".downsample.1."),
        (r"^head\.pos_embed", "attnpool.positional_embedding"),
        (r"^head\.([qkv])\.", r"attnpool.\1_proj."),
        (r"^head\.proj\.", "attnpool.c_proj."),
    )
    found = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[f"visual.{name}"] = tensor
    return found


def small_clip_resnet(**options: Any) -> Any:
    from timm.models import byobnet

    blocks = tuple(
        byobnet.ByoBlockCfg(type="bottle", d=1, c=64, s=1 + (i > 0), br=0.25) for i in range(4)
    )
    shape = replace(byobnet.model_cfgs["resnet50_clip"], blocks=blocks, stem_chs=(4, 4, 8))
    return byobnet.ByobNet(shape, img_size=64, **options)


register("kind_resnet_clip", small_clip_resnet, "head.proj", 64)


def test_openais_archive_of_a_resnet(tmp_path: Path) -> None:
    model = halved(original("kind_resnet_clip", num_classes=16))
    visual = clip_resnet(model.state_dict())
    encoder = load_encoder(openai(visual, tmp_path / "RN.pt") + "kind_resnet_clip")
    assert encoder.report.layout == "CLIP ResNet"
    assert encoder.report.notes == ()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    model.reset_classifier(0)
    expected = model((torch.as_tensor(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).detach()
    assert torch.allclose(torch.as_tensor(pooled(encoder, pixels)), expected, atol=1e-5)


def flat_efficientnet(names: list[str]) -> dict[str, str]:
    """What EfficientNet-PyTorch calls the tensors of one of timm's EfficientNets."""
    stages = sorted({tuple(map(int, n.split(".")[1:3])) for n in names if n.startswith("blocks.")})
    inside = {
        "conv_pw": "_expand_conv",
        "bn1": "_bn0",
        "conv_dw": "_depthwise_conv",
        "bn2": "_bn1",
        "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    found = {}
    for name in names:
        parts = name.split(".")
        if parts[0] != "blocks":
            found[name] = ".".join([(outside | {"classifier": "_fc"})[parts[0]], *parts[1:]])
            continue
        stage, block = int(parts[1]), int(parts[2])
        rest = parts[3:]
        if rest[0] == "se":
            rest = ["_" + rest[1].replace("conv", "se"), *rest[2:]]
        else:
            rest = [(first if stage == 0 else inside)[rest[0]], *rest[1:]]
        found[name] = ".".join(["_blocks", str(stages.index((stage, block))), *rest])
    return found


@pytest.mark.parametrize("arch", ["tf_efficientnet_lite0", "tf_efficientnet_b1", "efficientnet_b0"])
def test_every_name_of_efficientnet_pytorch_has_its_place(arch: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch)
    names = flat_efficientnet(list(model.state_dict()))
    depths = [len(stage) for stage in model.blocks]
    found = names_of_flat_efficientnet(names.values(), depths)
    assert found == {old: new for new, old in names.items()}
    assert names_of_flat_efficientnet(["_blocks.99._bn1.weight", "_swish.x"], depths) == {}


def test_weights_of_efficientnet_pytorch(tmp_path: Path) -> None:
    model = original("tf_efficientnet_lite0", num_classes=3)
    names = flat_efficientnet(list(model.state_dict()))
    state = {names[name]: tensor for name, tensor in model.state_dict().items()}
    encoder = load({"state_dict": under("module.", state)}, "tf_efficientnet_lite0", tmp_path)
    assert_holds(encoder, model)
    assert encoder.report.n_classes == 3
    (note,) = encoder.report.notes
    assert "begin with tf_" in note
    with pytest.raises(
        CheckpointError, match="does not hold the backbone of tf_efficientnet_lite1"
    ):
        load(state, "tf_efficientnet_lite1", tmp_path)


# ---------------------------------------------------------------------------------- refusals


def test_position_embeddings_of_another_size(tmp_path: Path) -> None:
    state = original("kind_vit", img_size=56).state_dict()
    message = refused(state, "kind_vit", tmp_path)
    assert "for images of 56 x 56 pixels, kind_vit takes 28 x 28" in message
    assert "timm.create_model('kind_vit', img_size=56)" in message
    message = refused(original("kind_tower_056").state_dict(), "kind_tower_224", tmp_path)
    assert "for images of 56 x 56 pixels" in message
    with torch.device("meta"):
        large = timm.create_model("vit_tiny_patch16_224", img_size=384).state_dict()
    large = {k: torch.zeros(()).expand(v.shape) for k, v in large.items()}
    message = refused(large, "vit_tiny_patch16_224", tmp_path)
    assert message.endswith("use ?arch=vit_tiny_patch16_384.")


CAUSES: dict[str, tuple[Callable[[], State], str, str]] = {
    "adapter of PEFT": (
        lambda: {
            f"base_model.model.blocks.0.attn.qkv.lora_{side}.default.weight": torch.zeros(4, 24)
            for side in "AB"
        },
        "kind_vit",
        "adapter (LoRA",
    ),
    "adapter saved alone": (
        lambda: {f"base_model.model.fc.lora_{side}.weight": torch.zeros(4, 24) for side in "AB"},
        "kind_resnet",
        "merge_and_unload()",
    ),
    "head alone": (
        lambda: {"fc.weight": torch.zeros(3, 12), "fc.bias": torch.zeros(3)},
        "kind_resnet",
        "a head alone",
    ),
    "CLIP": (
        lambda: {"visual.conv1.weight": torch.zeros(768, 3, 32, 32), "logit_scale": torch.ones(1)},
        "kind_vit",
        "vit_base_patch32_clip_quickgelu_224",
    ),
    "transformers": (
        lambda: {
            f"vit.encoder.layer.0.attention.attention.{name}.weight": torch.zeros(24, 24, 1)
            for name in ("query", "key", "value")
        },
        "kind_vit",
        "hf/<folder>",
    ),
    "another library": (
        lambda: {f"trunk.stage_{n}.kernel": torch.zeros(3, 3, 4, 4) for n in range(20)},
        "kind_resnet",
        "from_module",
    ),
    "another size of the same family": (
        lambda: original("kind_vit", embed_dim=32).state_dict(),
        "kind_vit",
        "Ask for the architecture that the weights were trained with",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_refusal_names_the_likeliest_cause(tmp_path: Path, name: str) -> None:
    content, arch, said = CAUSES[name]
    message = refused({"state_dict": content()}, arch, tmp_path)
    assert said in message
    assert ("Ask for the architecture" in message) == (name == "another size of the same family")


def test_every_common_architecture_is_found_by_its_sign() -> None:
    """The tensor by which each is recognised before it is built is one of its backbone."""
    for name, (tensor, shape) in COMMON_ARCHS.items():
        if tensor != "register_tokens":
            network = find_architecture(name).network
            assert network.shapes[tensor] == shape, name
            assert tensor in network.backbone, name


def many(kind: str) -> State:
    names = {
        "experts": (f"experts.{n // 2}.{('conv1', 'bn1')[n % 2]}.weight" for n in range(20_000)),
        "chunks": (f"blocks.{n // 50}.{n}.norm1.weight" for n in range(20_000)),
        "long": ("a." * 140 + str(n) for n in range(2_000)),
    }
    return {name: torch.zeros(3) for name in names[kind]}


@pytest.mark.parametrize("kind", ["experts", "chunks", "long"])
def test_twenty_thousand_names_are_refused_in_seconds(tmp_path: Path, kind: str) -> None:
    torch.save({"state_dict": many(kind)}, tmp_path / "w.pth")
    find_architecture("resnet50")  # imports
    started = time.process_time()
    with pytest.raises(CheckpointError):
        _checkpoints.load_checkpoint(tmp_path / "w.pth", "resnet50", "x")
    assert time.process_time() - started < 20  # about two on an idle machine; it was 140


# ------------------------------------------------------------------- torchvision, transformers


def torchvision_model(name: str, **options: Any) -> Any:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize(
    ("name", "feature_dim"),
    [
        *[("resnet18", 512), ("mobilenet_v2", 1280), ("efficientnet_b0", 1280)],
        *[("mobilenet_v3_small", 1024), ("squeezenet1_1", 512), ("shufflenet_v2_x0_5", 1024)],
    ],
)
def test_fine_tuned_models_of_torchvision(tmp_path: Path, name: str, feature_dim: int) -> None:
    model = torchvision_model(name, num_classes=5)
    content = {"epoch": 3, "model_state_dict": under("module.", model.state_dict())}
    encoder = load(content, f"torchvision/{name}", tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    mean = torch.tensor(encoder.preprocessing.mean).reshape(3, 1, 1)
    std = torch.tensor(encoder.preprocessing.std).reshape(3, 1, 1)
    batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    embedded = encoder.embed(pixels)
    assert embedded.features["pooled"].shape == (1, feature_dim)
    with torch.no_grad():
        torch.testing.assert_close(embedded.logits, model(batch), rtol=1e-3, atol=1e-4)


def test_torchvision_without_a_classifier_and_with_one_of_its_own(tmp_path: Path) -> None:
    model = torchvision_model("resnet18")
    bare = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    without = load(bare, "torchvision/resnet18", tmp_path)
    assert without.embed(np.zeros((1, 224, 224, 3), np.uint8)).logits is None
    behind = bare | {"fc.1.weight": torch.zeros(7, 512), "fc.1.bias": torch.zeros(7)}
    assert load(behind, "torchvision/resnet18", tmp_path).report.n_classes == 7
    model = torchvision_model("mobilenet_v3_small")
    model.classifier = torch.nn.Linear(576, 3)
    message = refused(model.state_dict(), "torchvision/mobilenet_v3_small", tmp_path)
    assert "another classifier" in message


def test_classifiers_that_only_training_has_are_left_out(tmp_path: Path) -> None:
    model = torchvision_model("googlenet", num_classes=4, init_weights=False)
    assert load(model.state_dict(), "torchvision/googlenet", tmp_path).report.n_classes == 4


def test_refusals_name_models_of_torchvision(tmp_path: Path) -> None:
    state = torchvision_model("mobilenet_v2", num_classes=2).state_dict()
    assert refused(state, "resnet50", tmp_path).endswith("use ?arch=torchvision/mobilenet_v2.")
    with pytest.raises(UnknownNameError, match="no model 'resnet19'"):
        load(state, "torchvision/resnet19", tmp_path)
    with pytest.raises(EncoderError, match="no image classifier"):
        load(state, "torchvision/fcn_resnet50", tmp_path)


@pytest.fixture(scope="module")
def transformers_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fine-tuned model of transformers, its folder, and a folder of configurations alone."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, num_labels=5, architectures=["ViTForImageClassification"],
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(folder / "whole")
    processor.save_pretrained(folder / "whole")
    for name, changes in {
        "c": {},
        "two": {"num_labels": 2},
        "one": {"num_hidden_layers": 1},
    }.items():
        settings = config.to_dict() | {"id2label": {}, "label2id": {}} | changes
        transformers.ViTConfig(**settings).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return model, folder


def saved_names(folder: Path) -> State:
    from safetensors.torch import load_file

    return dict(load_file(folder / "whole" / "model.safetensors"))


@pytest.mark.parametrize("names", ["of the file", "in memory"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.net."])
@pytest.mark.parametrize("config", ["c", "two"])
def test_fine_tuned_models_of_transformers(
    tmp_path: Path, transformers_model: Any, names: str, prefix: str, config: str
) -> None:
    model, folder = transformers_model
    state = saved_names(folder) if names == "of the file" else model.state_dict()
    content = {"state_dict": under(prefix, dict(state)), "hyper_parameters": {"path": Path("x")}}
    encoder = load(content, f"hf/{folder / config}", tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = load_encoder(f"hf/{folder / 'whole'}").embed(pixels)
    embedded = encoder.embed(pixels)
    assert torch.equal(embedded.features["pooled"], expected.features["pooled"])
    assert torch.equal(embedded.logits, expected.logits)
    assert encoder.report.n_classes == 5
    assert encoder.identifier == f"checkpoint:{tmp_path / 'w.pth'}?arch=hf/{folder / config}"


def test_averaged_and_deeper_models_of_transformers(
    tmp_path: Path, transformers_model: Any
) -> None:
    _, folder = transformers_model
    state = saved_names(folder)
    both = load({"model": other(state), "ema": state}, f"hf/{folder / 'c'}", tmp_path)
    assert "averaged weights, ema.*" in both.notes[0]
    assert both.fingerprint == load({"model": state}, f"hf/{folder / 'c'}", tmp_path).fingerprint
    with pytest.raises(CheckpointError, match=r"would leave out .* vit\.layers\.1\."):
        load(state, f"hf/{folder / 'one'}", tmp_path)
    with pytest.raises(CheckpointError, match="no names of a vit"):
        load({"fc.weight": torch.zeros(2, 2)}, f"hf/{folder / 'c'}", tmp_path)
    with pytest.raises(EncoderError, match=r"must be a folder with config\.json"):
        load(state, f"hf/{folder / 'nowhere'}", tmp_path)
