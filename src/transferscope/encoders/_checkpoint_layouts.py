"""The published layouts of weights files of research code: signs, names, normalisation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
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
)
PLAIN = Layout("plain", "")

# where several copies of the network fit: momentum copies that contrastive methods throw away lose,
# teachers and averaged weights win; the first line that occurs in ``container/prefix`` decides
_PREFERENCES = (
    (r"attacker\.|encoder_k\.|momentum_|_momentum\.|target_|model_ema/(module\.)?encoder\.", -1),
    (r"teacher|(^|[./_])ema([./_]|$)", 1),
)

#: Rules from a name in the file to the name in timm; the first that fits decides.
Naming: TypeAlias = tuple[tuple[re.Pattern[str], str], ...]

_ONE_TO_ONE = ((r"(.+)", r"\1"),)
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
NAMINGS: tuple[Naming, ...] = tuple(
    tuple((re.compile(pattern), name) for pattern, name in rules)
    for rules in (_ONE_TO_ONE, _SEQUENTIAL_RESNET, _SIMCLR_V2, _TORCHVISION_VIT)
)


def layout_of(container: str, names: Iterable[str]) -> Layout:
    """Find the layout of the tensors of these names in one container of a file."""
    places = [f"{container}/{name}" for name in names]
    return next(
        (one for one in LAYOUTS if any(re.search(one.sign, place) for place in places)), PLAIN
    )


def preference(place: str) -> int:
    """Rank copies of a network by their place, ``container/prefix``: -1, 0 or 1."""
    return next((value for sign, value in _PREFERENCES if re.search(sign, place)), 0)


def renamed(name: str, naming: Naming) -> str | None:
    """Give the name in timm of a name in a file; None where the naming has none."""
    for rule, new in naming:
        if match := rule.fullmatch(name):
            return match.expand(new)
    return None
