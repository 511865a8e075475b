"""Weights files of research code, one small synthetic file in each published layout.

Where each layout was read (names of keys only; no weights are needed to state them):

- MoCo v1/v2: facebookresearch/moco main_lincls.py; v3: facebookresearch/moco-v3 main_lincls.py,
  moco/builder.py, vits.py (12 heads in ViT-S)
- PCL v1/v2: salesforce/PCL pcl/builder.py
- SwAV, DeepCluster-v2, SeLa-v2: facebookresearch/swav src/resnet50.py, eval_linear.py
- SimCLR v1 converted: tonylins/simclr-converter convert.py, eval.py; v2 converted:
  Separius/SimCLRv2-Pytorch convert.py, resnet.py, verify.py
- BYOL: linusericsson/ssl-transfer download_and_prepare_models.py (from DeepMind's file),
  sthalles/PyTorch-BYOL, lucidrains/byol-pytorch
- InsDis, PIRL, InfoMin: HobbitLong/PyContrast networks/build_backbone.py,
  learning/linear_trainer.py, detection/convert_pretrained.py
- DINO: facebookresearch/dino main_dino.py, utils.py, vision_transformer.py
- robust ImageNet models: MadryLab/robustness attacker.py, tools/helpers.py, train.py
"""

from __future__ import annotations

import argparse
import copy
import io
import logging
import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from timm.models.resnet import Bottleneck, ResNet  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

from transferscope.encoders import _checkpoints  # noqa: E402
from transferscope.encoders._checkpoint_architectures import blank_timm  # noqa: E402
from transferscope.encoders._checkpoint_matching import match_state_dict  # noqa: E402
from transferscope.encoders._checkpoints import load_checkpoint  # noqa: E402
from transferscope.encoders._timm import wrap_timm  # noqa: E402
from transferscope.errors import CheckpointError, UnknownNameError  # noqa: E402
from transferscope.storage.weights_files import find_state_dict, read_weights_file  # noqa: E402

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
N_CLASSES = 7

State = dict[str, Any]


def configuration(architecture: str, classifier: str, mean: float) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "classifier": classifier,
        "input_size": (3, 32, 32),
        "num_classes": N_CLASSES,
        "mean": IMAGENET[0] if classifier == "fc" else (mean,) * 3,
        "std": IMAGENET[1] if classifier == "fc" else (mean,) * 3,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }


def register(name: str, build: Callable[..., Any], classifier: str) -> None:
    """Add a network of a few thousand weights to timm, under the rules that timm's own follow."""

    def entrypoint(pretrained: bool = False, **options: Any) -> Any:
        overlay = options.pop("pretrained_cfg_overlay", None) or {}
        options = {
            key: value
            for key, value in options.items()
            if key not in ("pretrained_cfg", "cache_dir") and value is not None
        }
        model = build(**{"num_classes": N_CLASSES, **options})
        model.pretrained_cfg = configuration(name, classifier, 0.5) | overlay
        return model

    entrypoint.__name__ = name
    timm.models.register_model(entrypoint)


def resnet(layers: tuple[int, ...] = (2, 1, 1, 1), **options: Any) -> Any:
    return ResNet(Bottleneck, layers, channels=(8, 12, 16, 24), **options)


def vit(**options: Any) -> Any:
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 6}
    return VisionTransformer(**{**shape, **options})


register("tiny_resnet", resnet, "fc")
register("tiny_resnet_deeper", lambda **options: resnet((3, 1, 1, 1), **options), "fc")
register("vit_small_tiny", vit, "head")


def original(arch: str, *, seed: int = 0, **options: Any) -> Any:
    """Build a network whose every tensor is random, so that one not loaded shows."""
    torch.manual_seed(seed)
    model = timm.create_model(arch, **options).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(
                torch.rand(tensor.shape) + 0.5 if "var" in name else torch.randn(tensor.shape) / 5
            )
    return model


def other(state: State) -> State:
    """The same names with other values: a second copy of the network that must not be taken."""
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def bare(state: State) -> State:
    return {k: v for k, v in state.items() if not k.startswith(("fc.", "head."))}


def mlp(prefix: str, d_in: int, d_hidden: int = 16, d_out: int = 8) -> State:
    return {
        f"{prefix}0.weight": torch.randn(d_hidden, d_in),
        f"{prefix}0.bias": torch.randn(d_hidden),
        f"{prefix}2.weight": torch.randn(d_out, d_hidden),
        f"{prefix}2.bias": torch.randn(d_out),
    }


def normalizer(prefix: str, mean: float = 0.25, std: float = 0.5) -> State:
    return {
        f"{prefix}.new_mean": torch.full((3, 1, 1), mean),
        f"{prefix}.new_std": torch.full((3, 1, 1), std),
    }


def sequential(state: State) -> State:
    """Name as nn.Sequential(*resnet.children()) does, by building one."""
    model = timm.create_model("tiny_resnet")
    model.load_state_dict(state)
    return dict(torch.nn.Sequential(*list(model.children())[:-1]).state_dict())


def simclr_v2(state: State) -> State:
    """Rename block by block to the names of the converted SimCLR v2, spelled out."""
    named = {"net.0.0.weight": state["conv1.weight"]}
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for tensor in tensors:
        named[f"net.0.1.0.{tensor}"] = state[f"bn1.{tensor}"]
    for stage, n_blocks in enumerate((2, 1, 1, 1), start=1):
        for block in range(n_blocks):
            here, there = f"layer{stage}.{block}", f"net.{stage}.blocks.{block}"
            for i, conv in enumerate((0, 2, 4), start=1):
                named[f"{there}.net.{conv}.weight"] = state[f"{here}.conv{i}.weight"]
                for tensor in tensors:
                    named[f"{there}.net.{conv + 1}.0.{tensor}"] = state[f"{here}.bn{i}.{tensor}"]
            if block == 0:
                shortcut = f"{there}.projection.shortcut.weight"
                named[shortcut] = state[f"{here}.downsample.0.weight"]
                for tensor in tensors:
                    bn = f"{there}.projection.bn.0.{tensor}"
                    named[bn] = state[f"{here}.downsample.1.{tensor}"]
    return named | {"fc.weight": state["fc.weight"], "fc.bias": state["fc.bias"]}


# name -> (content of the file, layout, container, prefix, classes, ...) for weights s of a ResNet
RESNET_LAYOUTS: dict[str, tuple[Callable[[State], State], str, str, str, int | None]] = {
    "plain": (lambda s: s, "plain", "", "", N_CLASSES),
    "plain, no classifier": (bare, "plain", "", "", None),
    "torchvision training script": (
        lambda s: {"epoch": 90, "arch": "x", "state_dict": under("module.", s), "best_acc1": 76.1},
        "plain", "state_dict", "module.", N_CLASSES,
    ),
    "compiled": (lambda s: under("_orig_mod.", s), "plain", "", "_orig_mod.", N_CLASSES),
    "timm training script": (
        lambda s: {"state_dict": other(s), "state_dict_ema": s, "version": 2, "arch": "x"},
        "plain", "state_dict_ema", "", N_CLASSES,
    ),
    "ema of ConvNeXt and DeiT": (
        lambda s: {"model": other(s), "model_ema": s, "optimizer": {"state": {0: {"step": 1}}}},
        "plain", "model_ema", "", N_CLASSES,
    ),
    "lightning, model": (
        lambda s: {"state_dict": under("model.", s), "pytorch-lightning_version": "2.0"},
        "plain", "state_dict", "model.", N_CLASSES,
    ),
    "lightning, backbone": (
        lambda s: {
            "state_dict": under("backbone.", bare(s))
            | under("momentum_backbone.", other(bare(s)))
            | mlp("projector.", 96)
        },
        "plain", "state_dict", "backbone.", None,
    ),
    "MoCo v1 and PCL v1": (
        # fc is a projection to 7 dimensions that must not be taken for a classifier of 7 classes
        lambda s: {
            "epoch": 200,
            "arch": "resnet50",
            "state_dict": under("module.encoder_k.", other(s))
            | under("module.encoder_q.", s)
            | {"module.queue": torch.randn(8, 64), "module.queue_ptr": torch.zeros(1).long()},
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []},
        },
        "MoCo v1/v2 or PCL", "state_dict", "module.encoder_q.", None,
    ),
    "MoCo v2 and PCL v2": (
        lambda s: {
            "state_dict": under("module.encoder_k.", other(bare(s)) | mlp("fc.", 96))
            | under("module.encoder_q.", bare(s) | mlp("fc.", 96))
        },
        "MoCo v1/v2 or PCL", "state_dict", "module.encoder_q.", None,
    ),
    "MoCo v3": (
        lambda s: {
            "state_dict": under("module.momentum_encoder.", other(bare(s)) | mlp("fc.", 96))
            | under("module.base_encoder.", bare(s) | mlp("fc.", 96))
            | mlp("module.predictor.", 8)
        },
        "MoCo v3", "state_dict", "module.base_encoder.", None,
    ),
    "SwAV": (
        lambda s: under("module.", bare(s))
        | mlp("module.projection_head.", 96)
        | {"module.prototypes.weight": torch.randn(30, 8)},
        "SwAV, DeepCluster-v2 or SeLa-v2", "", "module.", None,
    ),
    "DeepCluster-v2 and SeLa-v2": (
        lambda s: under("module.", bare(s))
        | mlp("module.projection_head.", 96)
        | {f"module.prototypes.prototypes{i}.weight": torch.randn(30, 8) for i in range(3)},
        "SwAV, DeepCluster-v2 or SeLa-v2", "", "module.", None,
    ),
    "SimCLR v1 converted": (
        lambda s: {"state_dict": s}, "plain", "state_dict", "", N_CLASSES,
    ),
    "SimCLR v2 converted": (
        lambda s: {"resnet": simclr_v2(s), "head": mlp("layers.", 96)},
        "SimCLR v2", "resnet", "", N_CLASSES,
    ),
    "SimCLR by DataParallel of the encoder": (
        lambda s: {"model": under("encoder.module.", bare(s)) | mlp("head.", 96)},
        "PyContrast (InsDis, PIRL, InfoMin)", "model", "encoder.module.", None,
    ),
    "BYOL of DeepMind converted": (
        lambda s: {"state_dict": bare(s)}, "plain", "state_dict", "", None,
    ),
    "BYOL of sthalles": (
        lambda s: {
            "target_network_state_dict": under("encoder.", sequential(other(s))),
            "online_network_state_dict": under("encoder.", sequential(s))
            | mlp("projetion.net.", 96),
            "optimizer_state_dict": {"state": {}},
        },
        "BYOL", "online_network_state_dict", "encoder.", None,
    ),
    "BYOL of lucidrains": (
        # net keeps its classifier, which BYOL never trained
        lambda s: under("target_encoder.net.", other(s))
        | under("online_encoder.net.", s)
        | mlp("online_encoder.projector.", 96)
        | mlp("online_predictor.net.", 8),
        "BYOL", "", "online_encoder.net.", None,
    ),
    "InsDis": (
        lambda s: {
            "opt": argparse.Namespace(method="InsDis"),
            "model": under("module.encoder.", bare(s)) | mlp("module.head.", 96),
            "contrast": {"memory": torch.randn(9, 8)},
            "epoch": 200,
        },
        "PyContrast (InsDis, PIRL, InfoMin)", "model", "module.encoder.", None,
    ),
    "PIRL": (
        lambda s: {
            "model": under("module.encoder.", bare(s))
            | mlp("module.head.", 96)
            | mlp("module.head_jig.fc1.", 96)
        },
        "PyContrast (InsDis, PIRL, InfoMin)", "model", "module.encoder.", None,
    ),
    "InfoMin": (
        lambda s: {
            "model_ema": under("encoder.", other(bare(s))) | mlp("head.", 96),
            "model": under("module.encoder.", bare(s)) | mlp("module.head.", 96),
        },
        "PyContrast (InsDis, PIRL, InfoMin)", "model", "module.encoder.", None,
    ),
    "DINO, full checkpoint of a ResNet": (
        lambda s: {
            "student": under("module.backbone.", other(bare(s))) | mlp("module.head.mlp.", 96),
            "teacher": under("module.backbone.", bare(s))
            | mlp("module.head.mlp.", 96)
            | {
                "module.head.last_layer.weight_g": torch.ones(30, 1),
                "module.head.last_layer.weight_v": torch.randn(30, 8),
            },
            "epoch": 800,
            "args": argparse.Namespace(arch="resnet50", lr=0.3, best=np.float64(75.3)),
            "dino_loss": {"center": torch.zeros(1, 30)},
        },
        "DINO", "teacher", "module.backbone.", None,
    ),
    "VICReg and Barlow Twins": (
        lambda s: {
            "epoch": 1000,
            "model": under("module.backbone.", bare(s)) | mlp("module.projector.", 96),
        },
        "plain", "model", "module.backbone.", None,
    ),
    "SimSiam": (
        lambda s: {
            "state_dict": under("module.encoder.", bare(s) | mlp("fc.", 96))
            | mlp("module.predictor.", 8)
        },
        "plain", "state_dict", "module.encoder.", None,
    ),
    "VISSL": (
        lambda s: {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", bare(s))}}
            }
        },
        "plain", "classy_state_dict.base_model.model.trunk", "_feature_blocks.", None,
    ),
    "robustness library": (
        lambda s: {
            "model": normalizer("module.normalizer")
            | under("module.attacker.model.", s)
            | normalizer("module.attacker.normalize")
            | under("module.model.", s),
            "epoch": 90,
            "schedule": {"last_epoch": 90},
            "amp": None,
        },
        "robustness library", "model", "module.model.", N_CLASSES,
    ),
    "robustness library, network of one's own": (
        lambda s: {
            "model": normalizer("module.normalizer")
            | under("module.model.model.", s)
            | under("module.attacker.model.model.", s)
        },
        "robustness library", "model", "module.model.model.", N_CLASSES,
    ),
}  # fmt: skip

VIT_LAYOUTS: dict[str, tuple[Callable[[State], State], str, str, str, int | None]] = {
    "plain": (lambda s: s, "plain", "", "", N_CLASSES),
    "MAE, DeiT": (lambda s: {"model": s}, "plain", "model", "", N_CLASSES),
    "DINO, full checkpoint of a ViT": (
        lambda s: {
            "student": under("module.backbone.", other(bare(s))) | mlp("module.head.mlp.", 48),
            "teacher": under("backbone.", bare(s)) | mlp("head.mlp.", 48),
            "args": argparse.Namespace(arch="vit_small"),
        },
        "DINO", "teacher", "backbone.", None,
    ),
    "DINO, backbone alone": (bare, "plain", "", "", None),
    "MoCo v3": (
        lambda s: {
            "state_dict": under("module.base_encoder.", bare(s) | mlp("head.", 48))
            | under("module.momentum_encoder.", other(bare(s)) | mlp("head.", 48))
            | mlp("module.predictor.", 8)
        },
        "MoCo v3", "state_dict", "module.base_encoder.", None,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads gain nothing on networks this small, and on a busy machine they wait."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def few_archs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the list that a refusal tries, where the test is not about it."""
    monkeypatch.setattr(_checkpoints, "_COMMON_ARCHS", ("tiny_resnet_deeper",))


def load(path: Path, arch: str = "tiny_resnet") -> Any:
    return load_checkpoint(path, arch, "checkpoint:x")


def written(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def images(n: int = 3, size: int = 32) -> Any:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def assert_same_features(encoder: Any, model: Any, n_classes: int | None) -> None:
    """Compare to the original in every bit."""
    expected = wrap_timm(model, "original").embed(images())
    embedded = encoder.embed(images())
    assert torch.equal(embedded.features["pooled"], expected.features["pooled"])
    if n_classes is None:
        assert embedded.logits is None
    else:
        assert torch.equal(embedded.logits, expected.logits)


@pytest.mark.parametrize("name", RESNET_LAYOUTS)
def test_resnet_layout_gives_the_features_of_the_original(tmp_path: Path, name: str) -> None:
    build, layout, container, prefix, n_classes = RESNET_LAYOUTS[name]
    overlay = {
        "robustness library": {"mean": (0.25,) * 3, "std": (0.5,) * 3},
        "SimCLR v2": {"mean": (0.0,) * 3, "std": (1.0,) * 3},
    }.get(layout)
    model = original("tiny_resnet", pretrained_cfg_overlay=overlay)
    path = written(build(model.state_dict()), tmp_path / "weights.pth")

    encoder = load(path)

    report = encoder.report
    assert report.layout == layout
    assert ".".join(report.container) == container
    assert report.prefix == prefix
    assert report.n_classes == n_classes
    assert report.complete
    assert_same_features(encoder, model, n_classes)


@pytest.mark.parametrize("name", VIT_LAYOUTS)
def test_vit_layout_gives_the_features_of_the_original(tmp_path: Path, name: str) -> None:
    build, layout, container, prefix, n_classes = VIT_LAYOUTS[name]
    overlay = None if layout == "plain" else dict(zip(("mean", "std"), IMAGENET, strict=True))
    heads = {"num_heads": 12} if layout == "MoCo v3" else {}
    model = original("vit_small_tiny", pretrained_cfg_overlay=overlay, **heads)
    path = written(build(model.state_dict()), tmp_path / "weights.pth")

    encoder = load(path, "vit_small_tiny")

    report = encoder.report
    assert (report.layout, ".".join(report.container)) == (layout, container)
    assert (report.prefix, report.n_classes) == (prefix, n_classes)
    assert_same_features(encoder, model, n_classes)


def test_moco_v3_small_vit_has_twelve_heads_and_other_features_with_six() -> None:
    twelve = original("vit_small_tiny", num_heads=12)
    six = timm.create_model("vit_small_tiny").eval()
    six.load_state_dict(twelve.state_dict())
    batch = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(twelve.forward_features(batch), six.forward_features(batch))


@given(
    container=st.lists(st.sampled_from(["state_dict", "model", "net", "a b"]), max_size=3),
    prefix=st.lists(st.sampled_from(["module", "backbone", "net", "0", "layer1"]), max_size=4),
    half=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_container_and_prefix_is_found(
    container: list[str], prefix: list[str], half: bool
) -> None:
    with torch.device("meta"):
        model = timm.create_model("tiny_resnet")
    stripped = "".join(f"{part}." for part in prefix)
    content: State = under(stripped, model.state_dict())
    if half:
        content = {k: v.half() if v.is_floating_point() else v for k, v in content.items()}
    for key in reversed(container):
        content = {"epoch": 3, key: content, "optimizer": {"state": {}}}
    report = match_state_dict(content, model)
    assert report.complete
    assert (report.container, report.prefix) == (tuple(container), stripped)
    assert report.matched == tuple(model.state_dict())
    assert report.unexpected == ()


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_names_of_torchvision_resnets_are_timms(arch: str) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, arch)(), timm.create_model(arch)
    report = match_state_dict(theirs.state_dict(), ours)
    assert report.complete
    assert report.n_classes == 1000
    assert not report.unexpected


def test_torchvision_vit_is_renamed_and_gives_its_own_features(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=6, hidden_dim=48, mlp_dim=192,
        num_classes=5,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(theirs.heads.head.weight)
    path = written(theirs.state_dict(), tmp_path / "vit.pth")
    encoder = load(path, "vit_small_tiny")
    assert encoder.report.layout == "torchvision ViT"
    assert encoder.report.n_classes == 5
    assert (encoder.preprocessing.mean, encoder.preprocessing.std) == IMAGENET
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in IMAGENET)
    batch = (torch.from_numpy(images()).permute(0, 3, 1, 2) / 255 - mean) / std
    # another attention kernel and another LayerNorm epsilon: close, not equal
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.embed(images()).logits, theirs(batch), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    "name",
    ["w.safetensors", "w.pth", "w.pt", "w.ckpt", "w.pth.tar", "w.bin", "no_extension"],
)
@pytest.mark.parametrize("form", ["zip", "before 1.6", "safetensors"])
def test_every_extension_and_format_by_content(tmp_path: Path, name: str, form: str) -> None:
    """Also with the extension of another format, as when files were swapped."""
    model = original("tiny_resnet")
    path = tmp_path / name
    if form == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    encoder = load(path)
    assert_same_features(encoder, model, N_CLASSES)


def test_two_files_swapped_give_each_others_features(tmp_path: Path) -> None:
    models = {name: original("tiny_resnet", seed=seed) for seed, name in enumerate("ab")}
    for name, model in models.items():
        written(model.state_dict(), tmp_path / f"{name}.pth")

    def loaded(name: str) -> Any:
        return load(tmp_path / f"{name}.pth")

    before = {name: loaded(name).fingerprint for name in models}
    (tmp_path / "a.pth").rename(tmp_path / "c.pth")
    (tmp_path / "b.pth").rename(tmp_path / "a.pth")
    (tmp_path / "c.pth").rename(tmp_path / "b.pth")
    assert (loaded("a").fingerprint, loaded("b").fingerprint) == (before["b"], before["a"])
    assert before["a"] != before["b"]
    assert_same_features(loaded("a"), models["b"], N_CLASSES)


def test_weights_stay_when_the_file_is_overwritten_after_loading(tmp_path: Path) -> None:
    # the file is memory-mapped while it is read; nothing of it may be in use afterwards
    model = original("tiny_resnet")
    path = written(model.state_dict(), tmp_path / "w.pth")
    encoder = load(path)
    path.write_bytes(b"\0" * 100)
    assert_same_features(encoder, model, N_CLASSES)


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    model = original("tiny_resnet")
    half = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(half)
    path = written(half, tmp_path / "w.pth")
    encoder = load(path)
    assert_same_features(encoder, model, N_CLASSES)


# --------------------------------------------------------------------------------- the report


def test_report_names_what_was_left_and_the_other_copies(tmp_path: Path) -> None:
    state = original("tiny_resnet").state_dict()
    path = written(RESNET_LAYOUTS["MoCo v1 and PCL v1"][0](state), tmp_path / "moco.pth.tar")
    report = load(path).report
    assert report.matched == tuple(bare(state))
    assert report.sources["conv1.weight"] == "module.encoder_q.conv1.weight"
    assert report.missing == report.mismatched == report.surplus == ()
    assert set(report.unexpected) == {
        *under("module.encoder_k.", state),
        "module.encoder_q.fc.weight",
        "module.encoder_q.fc.bias",
        "module.queue",
        "module.queue_ptr",
    }
    assert report.alternatives == ("state_dict/module.encoder_k.",)


def test_report_is_logged_in_one_line_and_nothing_is_printed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(original("tiny_resnet").state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO, logger="transferscope"):
        load_checkpoint(path, "tiny_resnet", "checkpoint:w.pth?arch=tiny_resnet")
    (record,) = caplog.records
    n = len(original("tiny_resnet").state_dict())
    assert record.getMessage() == (
        "checkpoint:w.pth?arch=tiny_resnet: layout plain, container the file itself, prefix '': "
        f"{n} matched, 0 missing, 0 of another shape, 0 unexpected; {N_CLASSES} classes"
    )
    assert capfd.readouterr() == ("", "")


def test_counters_of_old_files_may_be_missing(tmp_path: Path) -> None:
    model = original("tiny_resnet")
    old = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = written(old, tmp_path / "w.pth")
    encoder = load(path)
    assert encoder.report.missing == ()
    assert_same_features(encoder, model, N_CLASSES)


def test_counters_of_profilers_are_no_other_network(tmp_path: Path) -> None:
    model = original("tiny_resnet")
    state = model.state_dict() | {"layer1.0.conv1.total_ops": torch.zeros(1)}
    encoder = load(written(state, tmp_path / "w.pth"))
    assert encoder.report.unexpected == ("layer1.0.conv1.total_ops",)
    assert_same_features(encoder, model, N_CLASSES)


@pytest.mark.parametrize("n_classes", [1, 2, 10, 1000])
def test_number_of_classes_is_that_of_the_file(tmp_path: Path, n_classes: int) -> None:
    model = original("tiny_resnet", num_classes=n_classes)
    path = written({"state_dict": model.state_dict()}, tmp_path / "w.ckpt")
    encoder = load(path)
    assert encoder.report.n_classes == n_classes
    assert encoder.embed(images()).logits.shape == (3, n_classes)
    assert_same_features(encoder, model, n_classes)


def test_architecture_whose_own_weights_have_no_classifier_takes_that_of_the_file() -> None:
    with torch.device("meta"):
        probed = timm.create_model("vit_small_patch16_224.dino", num_classes=10)
    blank = blank_timm("vit_small_patch16_224.dino")
    assert match_state_dict(probed.state_dict(), blank).n_classes == 10


@pytest.mark.parametrize(
    "broken",
    [
        {"fc.weight": torch.randn(5, 17), "fc.bias": torch.randn(5)},
        {"fc.weight": torch.randn(5, 96), "fc.bias": torch.randn(6)},
        {"fc.weight": torch.randn(5, 96)},
        {"fc.weight": torch.tensor(1.0), "fc.bias": torch.tensor(1.0)},
    ],
    ids=["width", "two sizes", "no bias", "scalars"],
)
def test_classifier_that_does_not_fit_is_left_out(tmp_path: Path, broken: State) -> None:
    model = original("tiny_resnet")
    path = written(bare(model.state_dict()) | broken, tmp_path / "w.pth")
    encoder = load(path)
    assert encoder.report.n_classes is None
    assert set(encoder.report.unexpected) == set(broken)
    assert_same_features(encoder, model, None)


def test_fingerprint_without_classifier_is_the_same_every_time(tmp_path: Path) -> None:
    path = written(bare(original("tiny_resnet").state_dict()), tmp_path / "w.pth")
    prints = {load(path).fingerprint for _ in range(2)}
    assert len(prints) == 1


# ------------------------------------------------------------------------- what does not fit


def test_other_architecture_is_refused_with_ten_differences_and_the_one_that_fits(
    tmp_path: Path,
) -> None:
    with torch.device("meta"):
        names = timm.create_model("resnet18").state_dict()
    # one number seen in every shape: a ResNet-18 without its memory
    expanded = {k: torch.zeros(()).expand(v.shape) for k, v in names.items()}
    path = written({"state_dict": expanded}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not hold the backbone of resnet50") as caught:
        load(path, "resnet50")
    first, *differences, hint = str(caught.value).splitlines()
    # of resnet50's 318 backbone tensors resnet18 shares 120 names; 33 of the rest are counters
    assert "97 matched, 165 missing, 23 of another shape, 2 unexpected" in first
    assert len(differences) == 10
    assert differences[0] == (
        "  shape mismatch: layer1.0.conv1.weight is (64, 64, 3, 3) in the file, "
        "(64, 64, 1, 1) in the network"
    )
    assert hint == "Its names and shapes fit resnet18: use ?arch=resnet18."


@pytest.mark.usefixtures("few_archs")
def test_deeper_network_is_refused_though_every_tensor_fits(tmp_path: Path) -> None:
    path = written(original("tiny_resnet_deeper").state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"unexpected: layer1\.2\.conv1\.weight") as caught:
        load(path)
    assert str(caught.value).endswith("fit tiny_resnet_deeper: use ?arch=tiny_resnet_deeper.")


@pytest.mark.usefixtures("few_archs")
def test_differences_show_missing_and_unexpected_in_alternation(tmp_path: Path) -> None:
    state = original("tiny_resnet").state_dict()
    renamed = {k.replace("layer1", "stage1"): v for k, v in state.items()}
    path = written(renamed, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert lines[1] == "  missing: layer1.0.conv1.weight"
    assert lines[2] == "  unexpected: stage1.0.conv1.weight"
    assert lines[-1].startswith("None of the common architectures fits, but")


@pytest.mark.usefixtures("few_archs")
def test_one_missing_tensor_is_enough_to_refuse(tmp_path: Path) -> None:
    state = original("tiny_resnet").state_dict()
    needed = [k for k in bare(state) if not k.endswith("num_batches_tracked")]
    for name in needed[:3] + needed[-3:]:
        rest = {k: v for k, v in state.items() if k != name}
        with pytest.raises(CheckpointError, match=f"missing: {name}"):
            load(written(rest, tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "content",
    [{}, {"epoch": 3, "state_dict": {}}, {"state_dict": [torch.zeros(2)]}, {1: torch.zeros(2)}],
    ids=["empty", "empty state dict", "list", "numbers for names"],
)
def test_file_without_named_tensors(tmp_path: Path, content: State) -> None:
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load(written(content, tmp_path / "w.pth"))


def test_dictionary_that_contains_itself(tmp_path: Path) -> None:
    model = original("tiny_resnet")
    content: State = {"state_dict": model.state_dict()}
    content["self"] = content
    for _ in range(60):  # 2 ** 60 ways through the same few dictionaries
        content = {"left": content, "right": content}
    encoder = load(written(content, tmp_path / "w.pth"))
    assert_same_features(encoder, model, N_CLASSES)


@pytest.mark.parametrize(
    "arch", ["no_such_network", "hf-hub:timm/resnet18", "resnet18.no_such_tag"]
)
def test_unknown_architecture(tmp_path: Path, arch: str) -> None:
    path = written({"a": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(UnknownNameError, match=r"of \?arch="):
        load(path, arch)


# ---------------------------------------------------------------- files that cannot be read


class Malicious:
    """Run a command when unpickled: what a hostile weights file does."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


class Evaluated(Malicious):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.mark.parametrize("kind", [Malicious, Evaluated])
@pytest.mark.parametrize("where", ["beside", "in args", "as state dict"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_file_that_would_execute_code_is_refused_and_never_run(
    tmp_path: Path, kind: type[Malicious], where: str, zipped: bool, protocol: int
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pth"
    bomb = kind(marker)
    state = original("tiny_resnet").state_dict()
    content: Any = {
        "beside": {"state_dict": state, "extra": bomb},
        "in args": {"state_dict": state, "args": argparse.Namespace(optimizer=[bomb])},
        "as state dict": bomb,
    }[where]
    torch.save(
        content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"is refused.* Nothing was run") as caught:
        load(path)
    assert ("system" if kind is Malicious else "eval") in str(caught.value)
    assert "torch.save(model.state_dict(), ...)" in str(caught.value)
    assert not marker.exists()

    with warnings.catch_warnings():  # the file is armed: it does run where it is trusted
        warnings.simplefilter("ignore")
        torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    marker, path = tmp_path / "marker", tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"online": Malicious(marker)}, protocol=protocol))
    with pytest.raises(CheckpointError):
        read_weights_file(path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["module", "TorchScript"])
def test_network_saved_whole_gives_the_features_of_the_original(tmp_path: Path, kind: str) -> None:
    model, path = original("tiny_resnet"), tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "module":
            torch.save({"model": model, "epoch": 3}, path)
        else:
            torch.jit.trace(model, torch.zeros(1, 3, 32, 32)).save(path)
    assert_same_features(load(path), model, N_CLASSES)


def test_harmless_extras_are_read(tmp_path: Path) -> None:
    extras = {
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99), best=np.float32(1.5)),
        "acc": np.float64(76.1),
        "epoch": np.int64(90),
        "done": np.bool_(True),
        "meta": OrderedDict(a=1, b={2, 3}),
    }
    content = read_weights_file(written({"w": torch.ones(2), **extras}, tmp_path / "w.pth"))
    assert {key: content[key] for key in extras} == extras
    assert torch.equal(content["w"], torch.ones(2))
    # the permission was for that one file
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def damaged(form: str) -> bytes:
    state, buffer = original("tiny_resnet").state_dict(), io.BytesIO()
    if form == "safetensors":
        from safetensors.torch import save

        return save(copy.deepcopy(state))
    torch.save(state, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["zip", "before 1.6", "safetensors"])
def test_file_cut_short_anywhere_is_named(tmp_path: Path, form: str) -> None:
    whole, path = damaged(form), tmp_path / "w.pth"
    for length in (1, 2, 5, 9, 20, 100, len(whole) // 2, len(whole) - 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"w\.pth"):
            read_weights_file(path)


@given(st.binary(min_size=0, max_size=200), st.sampled_from([b"", b"PK\3\4", b"\x80\2", b"\x80\4"]))
@example(b"\x84\x00\x00\x00\x00.", b"\x80\2")  # an extension, which only its own program knows
@settings(max_examples=150, deadline=None)
def test_garbage_is_named(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, magic: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "w.pth"
    path.write_bytes(magic + garbage)
    with pytest.raises(CheckpointError):
        read_weights_file(path)


def test_missing_path_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be opened"):
        read_weights_file(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_weights_file(tmp_path)


def test_single_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds one Tensor"):
        read_weights_file(written(torch.zeros(3), tmp_path / "w.pth"))


def test_the_state_dict_of_a_file_is_its_largest_mapping_of_arrays() -> None:
    module = torch.nn.Linear(2, 3)
    content: dict[str, Any] = {
        "epoch": 3,
        "best": np.float64(0.9),
        "model": {"a": torch.zeros(2), "b": np.zeros(3), "step": 1},
        "net": module,
    }
    content["self"] = content
    assert list(find_state_dict(content)) == ["a", "b"]
    content["model"] = {}
    assert set(find_state_dict(content)) == {"weight", "bias"}
    assert find_state_dict({"epoch": 3}) == {}
