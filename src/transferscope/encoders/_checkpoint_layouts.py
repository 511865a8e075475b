"""The published layouts of weights files of research code: signs, names, normalisation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

#: Mean and standard deviation per channel, for pixels in [0, 1].
Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]

_IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_UNIT: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Layout:
    """A published way of saving.

    Parameters
    ----------
    name : str
    sign : str
        Regular expression that occurs anywhere in ``container/name`` of one of its tensors.
    normalisation : (tuple of float, tuple of float) or None
        Mean and standard deviation of its method; None for those of the architecture.
    projects : bool
        Whether the layer in the place of a classifier is a projection, or was not trained.
    """

    name: str
    sign: str
    normalisation: Normalisation | None = None
    projects: bool = False


MOCO_V3 = "MoCo v3"
CLIP = "CLIP"
OPENAI_CLIP = "CLIP of OpenAI"
FLAT_EFFICIENTNET = "EfficientNet-PyTorch"
LAYOUTS = (
    Layout("robustness library", r"normalizer\.new_mean$"),
    Layout(MOCO_V3, r"(^|[/.])(base|momentum)_encoder\.", _IMAGENET, projects=True),
    Layout("MoCo v1/v2 or PCL", r"(^|[/.])encoder_[qk]\.", _IMAGENET, projects=True),
    Layout("BYOL", r"(^|[/.])(online|target)_(encoder|network)", projects=True),
    Layout("SimCLR v2", r"/net\.\d\.blocks\.\d+\.net\.", _UNIT),
    Layout("DINO", r"^(teacher|student)/|(^|[/.])last_layer\.weight_", _IMAGENET),
    Layout("SwAV, DeepCluster-v2 or SeLa-v2", r"[/.]prototypes\d*\.", _IMAGENET),
    Layout(
        "PyContrast (InsDis, PIRL, InfoMin)",
        r"^model(_ema)?/(module\.)?encoder\.",
        _IMAGENET,
        projects=True,
    ),
    Layout("torchvision ViT", r"\.self_attention\.in_proj_", _IMAGENET),
    Layout("CLIP ResNet", r"[/.]visual\.attnpool\.", projects=True),
    # three numbers beside the weights tell its archive from files in the same names
    Layout(OPENAI_CLIP, r"(^|[/.])input_resolution$", projects=True),
    Layout(CLIP, r"[/.]visual\.(class_embedding|trunk\.)", projects=True),
    Layout(FLAT_EFFICIENTNET, r"(^|[/.])_conv_stem\.weight$"),
    Layout("DINOv2", r"[/.](register_tokens$|blocks\.\d+\.\d+\.norm1\.)", _IMAGENET),
)
PLAIN = Layout("plain", "")

# where several copies of the network fit: momentum copies that contrastive methods throw away lose,
# teachers and averaged weights win; the first line that occurs in ``container/prefix`` decides
_PREFERENCES = (
    (r"attacker\.|encoder_k\.|momentum_|_momentum\.|target_|model_ema/(module\.)?encoder\.", -1),
    (r"current_model_state", -1),  # beside Lightning's averaged ones, which it calls state_dict
    (
        r"(?i)(?<![a-z])(ema|swa|polyak|shadow|avg|averag(e|ed|es|ing)|teacher)"
        r"(model|net|network|weights|params|parameters|callback)?(?![a-z])",
        1,
    ),
)

#: Segments that wrappers of training put into names, at the front or anywhere.
WRAPPERS = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)


@dataclass(frozen=True)
class Naming:
    """Rules from a name in the file to the name in the network; the first that fits decides.

    Parameters
    ----------
    rules : tuple of (str, str)
        A regular expression for the whole name, and what it becomes.
    sign : str, default ""
        Regular expression that occurs in a name of every file that is named so.
    """

    rules: tuple[tuple[str, str], ...]
    sign: str = ""

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], str]]:
        return [(re.compile(pattern), name) for pattern, name in self.rules]

    @cached_property
    def _any(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{pattern})" for pattern, _ in self.rules))

    def renamed(self, name: str) -> str | None:
        """Give the name in the network of a name in a file; None where there is none."""
        if not self.rules:
            return name
        if self._any.fullmatch(name) is None:
            return None
        for rule, new in self._compiled:
            if match := rule.fullmatch(name):
                return match.expand(new)
        return None


# nn.Sequential(*resnet.children()): 2, 3 and 8 are activation and pooling, without tensors
_SEQUENTIAL_RESNET = (
    (r"0\.(.+)", r"conv1.\1"),
    (r"1\.(.+)", r"bn1.\1"),
    *((rf"{stage + 3}\.(.+)", rf"layer{stage}.\1") for stage in (1, 2, 3, 4)),
    (r"9\.(.+)", r"fc.\1"),
)
_SIMCLR_V2 = (
    (r"net\.0\.0\.(.+)", r"conv1.\1"),
    (r"net\.0\.1\.0\.(.+)", r"bn1.\1"),
    (r"net\.(\d)\.blocks\.(\d+)\.projection\.shortcut\.(.+)", r"layer\1.\2.downsample.0.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.projection\.bn\.0\.(.+)", r"layer\1.\2.downsample.1.\3"),
    *(
        rule
        for conv in (1, 2, 3)
        for rule in (
            (
                rf"net\.(\d)\.blocks\.(\d+)\.net\.{2 * conv - 2}\.(\w+)",
                rf"layer\1.\2.conv{conv}.\3",
            ),
            (
                rf"net\.(\d)\.blocks\.(\d+)\.net\.{2 * conv - 1}\.0\.(.+)",
                rf"layer\1.\2.bn{conv}.\3",
            ),
        )
    ),
    (r"fc\.(.+)", r"fc.\1"),
)
_BLOCK = r"encoder\.layers\.encoder_layer_(\d+)\."
_TORCHVISION_VIT = (
    (r"class_token", r"cls_token"),
    (r"encoder\.pos_embedding", r"pos_embed"),
    (r"conv_proj\.(.+)", r"patch_embed.proj.\1"),
    (_BLOCK + r"ln_([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (_BLOCK + r"self_attention\.in_proj_(.+)", r"blocks.\1.attn.qkv.\2"),
    (_BLOCK + r"self_attention\.out_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"mlp\.(?:0|linear_1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"mlp\.(?:3|linear_2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.ln\.(.+)", r"norm.\1"),
    (r"heads\.head\.(.+)", r"head.\1"),
)
# DINOv2 keeps its blocks in chunks, and their numbers run on from one to the next
_CHUNKED_BLOCKS = ((r"blocks\.\d+\.(\d+\..+)", r"blocks.\1"), (r"((?!blocks\.).+)", r"\1"))
#: The names of the network itself.
PLAIN_NAMES = Naming(())
NAMINGS = (
    Naming(_SEQUENTIAL_RESNET, r"(^|\.)0\.weight$"),
    Naming(_SIMCLR_V2, r"(^|\.)net\.0\.0\."),
    Naming(_TORCHVISION_VIT, r"(^|\.)conv_proj\."),
    Naming(_CHUNKED_BLOCKS, r"(^|\.)blocks\.\d+\.\d+\.norm1\."),
)


# blocks of EfficientNet-PyTorch: with an expansion, and the first ones, without
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN_BLOCK = {**_EXPANDED, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_AROUND_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def names_of_flat_efficientnet(
    names: Iterable[str], blocks_per_stage: Sequence[int]
) -> dict[str, str]:
    """Names in timm's EfficientNets of those of EfficientNet-PyTorch, which numbers all blocks.

    Parameters
    ----------
    names : iterable of str
    blocks_per_stage : sequence of int
        Of the network.

    Returns
    -------
    dict of str to str
        Names that it has not are left out.
    """
    given = list(names)
    places = [f"blocks.{s}.{b}" for s, n in enumerate(blocks_per_stage) for b in range(n)]
    expanded = {name.split(".")[1] for name in given if "._expand_conv." in name}
    found = {}
    for name in given:
        parts = name.split(".")
        if parts[0] in _AROUND_BLOCKS:
            found[name] = ".".join([_AROUND_BLOCKS[parts[0]], *parts[1:]])
        elif parts[0] == "_blocks" and len(parts) > 3 and parts[1].isdigit():
            number, part = int(parts[1]), parts[2]
            inner = (_EXPANDED if parts[1] in expanded else _PLAIN_BLOCK).get(part)
            if number < len(places) and inner is not None:
                found[name] = ".".join([places[number], inner, *parts[3:]])
    return found


def layout_of(container: str, names: Iterable[str]) -> Layout:
    """Find the layout of the tensors of these names in one container of a file."""
    places = "\n".join(f"{container}/{name}" for name in names)
    return next((one for one in LAYOUTS if re.search(one.sign, places, re.MULTILINE)), PLAIN)


def preference(place: str) -> int:
    """Rank copies of a network by their place, ``container/prefix``: -1, 0 or 1."""
    return next((value for sign, value in _PREFERENCES if re.search(sign, place)), 0)
