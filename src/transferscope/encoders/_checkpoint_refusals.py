"""Why a weights file does not fill a network: the likeliest cause, and what to do about it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from transferscope.encoders._checkpoint_architectures import Architecture, find_architecture
from transferscope.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transferscope.encoders._checkpoint_matching import FileIndex, MatchReport

#: Tried when the requested architecture does not fit, where a tensor of this name and shape occurs.
COMMON_ARCHS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet18": ("layer1.0.conv1.weight", (64, 64, 3, 3)),
    "resnet34": ("layer1.2.conv1.weight", (64, 64, 3, 3)),
    "resnet50": ("layer1.0.conv1.weight", (64, 64, 1, 1)),
    "resnet101": ("layer3.6.conv1.weight", (256, 1024, 1, 1)),
    "resnet152": ("layer2.4.conv1.weight", (128, 512, 1, 1)),
    "wide_resnet50_2": ("layer1.0.conv1.weight", (128, 64, 1, 1)),
    "vit_tiny_patch16_224": ("pos_embed", (1, 197, 192)),
    "vit_small_patch16_224": ("pos_embed", (1, 197, 384)),
    "vit_base_patch16_224": ("pos_embed", (1, 197, 768)),
    "vit_large_patch16_224": ("pos_embed", (1, 197, 1024)),
    "vit_small_patch8_224": ("pos_embed", (1, 785, 384)),
    "vit_base_patch8_224": ("pos_embed", (1, 785, 768)),
    "vit_base_patch32_224": ("pos_embed", (1, 50, 768)),
    "vit_base_patch16_384": ("pos_embed", (1, 577, 768)),
    "vit_small_patch14_dinov2": ("pos_embed", (1, 1370, 384)),
    "vit_base_patch14_dinov2": ("pos_embed", (1, 1370, 768)),
    "vit_large_patch14_dinov2": ("pos_embed", (1, 1370, 1024)),
    "vit_small_patch14_reg4_dinov2": ("register_tokens", (1, 4, 384)),
    "vit_base_patch14_reg4_dinov2": ("register_tokens", (1, 4, 768)),
    "vit_large_patch14_reg4_dinov2": ("register_tokens", (1, 4, 1024)),
    "deit_base_distilled_patch16_224": ("pos_embed", (1, 198, 768)),
    "swin_tiny_patch4_window7_224": ("patch_embed.proj.weight", (96, 3, 4, 4)),
    "convnext_tiny": ("stem.0.weight", (96, 3, 4, 4)),
    "convnext_base": ("stem.0.weight", (128, 3, 4, 4)),
    "densenet121": ("features.conv0.weight", (64, 3, 7, 7)),
    "mobilenetv2_100": ("blocks.2.0.conv_dw.weight", (144, 1, 3, 3)),
    "efficientnet_b0": ("blocks.2.0.conv_dw.weight", (144, 1, 5, 5)),
    "torchvision/efficientnet_b0": ("features.8.0.weight", (1280, 320, 1, 1)),
    "torchvision/efficientnet_b1": ("features.3.2.block.0.0.weight", (240, 40, 1, 1)),
    "torchvision/efficientnet_b2": ("features.8.0.weight", (1408, 352, 1, 1)),
    "torchvision/efficientnet_b3": ("features.0.0.weight", (40, 3, 3, 3)),
    "torchvision/mobilenet_v2": ("features.18.0.weight", (1280, 320, 1, 1)),
    "torchvision/mobilenet_v3_small": ("features.12.0.weight", (576, 96, 1, 1)),
    "torchvision/mobilenet_v3_large": ("features.16.0.weight", (960, 160, 1, 1)),
    "torchvision/convnext_tiny": ("features.2.1.weight", (192, 96, 2, 2)),
    "torchvision/convnext_base": ("features.0.0.weight", (128, 3, 4, 4)),
    "torchvision/swin_t": ("features.1.0.mlp.0.weight", (384, 96)),
    "torchvision/vgg16": ("features.28.weight", (512, 512, 3, 3)),
    "torchvision/alexnet": ("features.0.weight", (64, 3, 11, 11)),
}

_POSITIONS = re.compile(r"(.*\.)?(pos_embed|pos_embedding|positional_embedding)")
_PATCHES = re.compile(r"(patch_embed\.proj|conv_proj|conv1)\.weight")
_CLIP_NAMES = {
    (768, 32): "vit_base_patch32_clip_quickgelu_224",
    (768, 16): "vit_base_patch16_clip_quickgelu_224",
    (1024, 14): "vit_large_patch14_clip_quickgelu_224",
}


def refusal(
    arch: Architecture, report: MatchReport, index: FileIndex, others: Iterable[str]
) -> str:
    """Describe what does not fit, why, and what to do.

    Parameters
    ----------
    arch : Architecture
    report : MatchReport
        Of the best place in the file.
    index : FileIndex
    others : iterable of str
        Names of architectures that may fit instead.

    Returns
    -------
    str
        Several lines, the remedy last.
    """
    lines = [f"does not hold the backbone of {arch.name} ({report}). The first differences:"]
    lines += [f"  {line}" for _, line in zip(range(10), report.differences(), strict=False)]
    causes = (
        _other_image_size(arch, report),
        _adapter(index),
        _fitting(index, [name for name in others if name != arch.name]),
        _clip(index),
        _head_alone(index),
        _of_transformers(index),
        _other_classifier(arch, report),
        _relative(arch, report),
    )
    return "\n".join([*lines, next(filter(None, causes), _UNKNOWN)])


_UNKNOWN = (
    "None of the common architectures fits, and its names are not those of timm or torchvision. "
    "Build the network with its own library, load the weights, and give "
    "transferscope.from_module(module, preprocessing)."
)


def _other_image_size(arch: Architecture, report: MatchReport) -> str | None:
    names = [name for name, _, _ in report.mismatched]
    if not names or report.missing or not all(map(_POSITIONS.fullmatch, names)):
        return None
    _, given, wanted = report.mismatched[0]
    shapes = arch.network.shapes
    patch = next((shape[-1] for name, shape in shapes.items() if _PATCHES.fullmatch(name)), 0)
    if given[-1] != wanted[-1] or not patch or len(given) < 2:
        return None
    n_tokens = wanted[-2] - (arch.image_size // patch) ** 2  # class and register tokens
    side = math.isqrt(max(given[-2] - n_tokens, 0))
    if side == 0 or side**2 != given[-2] - n_tokens:
        return None
    size = side * patch
    same = re.sub(r"_\d{3}(?=\.|$)", f"_{size}", arch.name.partition(".")[0])
    remedy = (
        f"use ?arch={same}."
        if same != arch.name and _exists(same)
        else f"build it for this size, model = timm.create_model({arch.name!r}, img_size={size}), "
        "load the weights into it, and give the model instead of a name."
    )
    return (
        f"Only its position embeddings differ: the weights are for images of {size} x {size} "
        f"pixels, {arch.name} takes {arch.image_size} x {arch.image_size}: {remedy}"
    )


def _exists(name: str) -> bool:
    try:
        find_architecture(name)
    except (InputError, MissingExtraError):
        return False
    return True


def _adapter(index: FileIndex) -> str | None:
    kind = _share(index, r"(^|\.)(lora_[AB]|lora_(up|down)|lora_embedding|ia3_l|oft_)[._\w]*(\.|$)")
    if not kind and not _share(index, r"(^|\.)base_model\.model\."):
        return None
    return (
        "It holds an adapter (LoRA, as PEFT writes it), which changes a network and is none. "
        "Load it on its base with peft, call merge_and_unload(), and save the state_dict() of the "
        "result."
    )


def _fitting(index: FileIndex, names: Iterable[str]) -> str | None:
    fitting = list(_that_fit(index, names))
    if not fitting:
        return None
    return f"Its names and shapes fit {', '.join(fitting)}: use ?arch={fitting[0]}."


def _that_fit(index: FileIndex, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        sign = COMMON_ARCHS.get(name)
        if sign is None or index.has(*sign):
            try:
                found, _ = find_architecture(name).find_in(index)
            except (InputError, MissingExtraError):
                continue  # this library has it not
            if found.complete:
                yield name


def _clip(index: FileIndex) -> str | None:
    for container in index.containers:
        for key, tensor in container.tensors.items():
            if key.endswith("visual.conv1.weight") and tensor.ndim == 4:
                near = _CLIP_NAMES.get((tensor.shape[0], tensor.shape[-1]))
                return (
                    "It holds an image-text model in the names of OpenAI's CLIP: use "
                    + (f"?arch={near}" if near else "an architecture with clip in its name")
                    + ", of which the visual tower is loaded; without quickgelu in its name for "
                    "weights of OpenCLIP."
                )
    return None


def _head_alone(index: FileIndex) -> str | None:
    tensors = [tensor for container in index.containers for tensor in container.tensors.values()]
    if len(tensors) > 8 or any(tensor.ndim > 2 for tensor in tensors):
        return None
    return (
        f"It holds {len(tensors)} tensors, none of them of a convolution or of patches: this may "
        "be a head alone. Give the file of the whole network."
    )


def _of_transformers(index: FileIndex) -> str | None:
    names = r"\.(attention\.(attention|self)\.(query|key)|self_attn\.[qk]_proj|layernorm_before)\."
    if not _share(index, names + r"|(^|\.)(embedder\.embedder|encoder\.stages\.\d+\.layers)\."):
        return None
    return (
        "Its names are those of Hugging Face transformers: put it into a folder as "
        "pytorch_model.bin or model.safetensors, beside the config.json and "
        "preprocessor_config.json of its model, and give hf/<folder>."
    )


def _other_classifier(arch: Architecture, report: MatchReport) -> str | None:
    """All but some layers around the last one: a classifier of several layers was replaced."""
    roots = tuple(f"{head.partition('.')[0]}." for head in arch.network.heads)
    names = (*report.missing, *(name for name, _, _ in report.mismatched))
    surplus = (key.removeprefix(report.prefix) for key in report.surplus)
    if not names or not all(name.startswith(roots) for name in (*names, *surplus)):
        return None
    return (
        f"All fits but the layers before the last one, {names[0].rpartition('.')[0]}: another "
        f"classifier is in the place of that of {arch.name}. Build the network as it was trained, "
        "load the weights, and give transferscope.from_module(module, preprocessing)."
    )


def _relative(arch: Architecture, report: MatchReport) -> str | None:
    """The same family in another size, where much of the network is there."""
    n_found = len(report.sources) + len(report.mismatched)
    if 4 * n_found < len(arch.network.backbone):
        return None
    return (
        f"None of the common architectures fits, but {n_found} of {len(arch.network.backbone)} "
        "names are its own: another size or variant of it is likely. Ask for the architecture that "
        "the weights were trained with."
    )


def _share(index: FileIndex, pattern: str) -> bool:
    """Whether a name like this occurs in the file."""
    compiled = re.compile(pattern)
    return any(compiled.search(key) for one in index.containers for key in one.tensors)
