"""Encoders from the weights files of research code: ``checkpoint:<path>?arch=<timm name>``.

Such files differ less in their tensors than in where they keep them: under ``state_dict``,
``model`` or ``teacher``, with ``module.``, ``backbone.`` or ``module.encoder_q.`` before every
name, next to projection heads, queues and a second copy of the network. So the backbone is
*searched*: every dictionary of tensors in the file, every prefix that occurs in it, and the few
ways of naming that differ from timm's. Taken is the place where the most tensors have the name and
the shape of the network's own; where several places fit equally, the network that the method's
authors evaluate.

What names and shapes cannot show, and what to do about it:

- **Normalisation.** Taken from the file where it is stored there (robust models), from the method
  where the layout gives it away (DINO, MoCo, SwAV: ImageNet's; SimCLR v2: none), else from timm's
  configuration of the architecture. That may differ from what the weights were trained with: for a
  bare DINO backbone ask for ``vit_small_patch16_224.dino`` and not ``vit_small_patch16_224``.
  SimCLR v1 converted to torchvision's names looks like any ResNet-50, yet wants no normalisation.
- **Heads of attention.** ViT-S of MoCo v3 has 12 where timm's has 6; this is set when the layout is
  MoCo v3's own, and lost in files from which the prefix was stripped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transferscope.errors import CheckpointError, UnknownNameError, require
from transferscope.storage.weights_files import read_weights_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from transferscope.encoders._encoder import Encoder

_logger = logging.getLogger("transferscope")

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

_IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_UNIT: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class _Layout:
    """A published way of saving, told by what occurs anywhere in ``container/name`` of a tensor."""

    name: str
    sign: str
    normalisation: Normalisation | None = None
    projects: bool = False  # what sits where a classifier would is a projection, or was not trained


_MOCO_V3 = "MoCo v3"
_LAYOUTS = (
    _Layout("robustness library", r"normalizer\.new_mean$"),
    _Layout(_MOCO_V3, r"(^|[/.])(base|momentum)_encoder\.", _IMAGENET, projects=True),
    _Layout("MoCo v1/v2 or PCL", r"(^|[/.])encoder_[qk]\.", _IMAGENET, projects=True),
    _Layout("BYOL", r"(^|[/.])(online|target)_(encoder|network)", projects=True),
    _Layout("SimCLR v2", r"/net\.\d\.blocks\.\d+\.net\.", _UNIT),
    _Layout("DINO", r"^(teacher|student)/|(^|[/.])last_layer\.weight_", _IMAGENET),
    _Layout("SwAV, DeepCluster-v2 or SeLa-v2", r"[/.]prototypes\d*\.", _IMAGENET),
    _Layout(
        "PyContrast (InsDis, PIRL, InfoMin)",
        r"^model(_ema)?/(module\.)?encoder\.",
        _IMAGENET,
        projects=True,
    ),
    _Layout("torchvision ViT", r"\.self_attention\.in_proj_", _IMAGENET),
)
_PLAIN = _Layout("plain", "")

# Where several copies of the network fit: momentum copies that contrastive methods throw away lose,
# teachers and averaged weights win. The first line that occurs in ``container/prefix`` decides.
_PREFERENCES = (
    (r"attacker\.|encoder_k\.|momentum_|_momentum\.|target_|model_ema/(module\.)?encoder\.", -1),
    (r"teacher|(^|[./_])ema([./_]|$)", 1),
)

_Naming = tuple[tuple[re.Pattern[str], str], ...]

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
_NAMINGS: tuple[_Naming, ...] = tuple(
    tuple((re.compile(pattern), name) for pattern, name in rules)
    for rules in (_ONE_TO_ONE, _SEQUENTIAL_RESNET, _SIMCLR_V2, _TORCHVISION_VIT)
)

# Tried by shapes alone when the architecture asked for does not fit.
_COMMON_ARCHS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    *("vit_large_patch16_224", "vit_small_patch8_224", "vit_base_patch8_224"),
    *("vit_base_patch32_224", "vit_base_patch16_384", "swin_tiny_patch4_window7_224"),
    *(
        "convnext_tiny",
        "convnext_base",
        "densenet121",
        "mobilenetv2_100",
        "efficientnet_b0",
        "vgg16",
    ),
)


@dataclass(frozen=True)
class MatchReport:
    """What of a weights file belongs to a network, and where in the file it lies.

    Parameters
    ----------
    layout : str
        The published layout it looks like, or ``"plain"``.
    container : tuple of str
        Keys that lead to the dictionary of tensors; empty when it is the file itself.
    prefix : str
        What stands before every name of the backbone.
    sources : dict of str to str
        For every tensor to load: its name in the network -> its key in the container.
    missing : tuple of str
        Names of backbone tensors that the file lacks.
    mismatched : tuple of (str, tuple, tuple)
        Names found with another shape: name, shape in the file, shape in the network.
    unexpected : tuple of str
        Keys of the container that are not used: projection heads, queues, second copies.
    surplus : tuple of str
        Those of them that lie inside the backbone's own parts. They make it another, usually a
        deeper, network: every tensor of a ResNet-18 has its name and shape in a ResNet-34 too.
    alternatives : tuple of str
        Other places, as ``container/prefix``, where a complete backbone lies too.
    n_classes : int or None
        Number of classes of the file's classifier; None when it has none that fits.
    normalisation : (tuple of float, tuple of float) or None
        Mean and standard deviation that the layout calls for; None for those of the architecture.
    """

    layout: str
    container: tuple[str, ...]
    prefix: str
    sources: Mapping[str, str]
    missing: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    unexpected: tuple[str, ...]
    surplus: tuple[str, ...]
    alternatives: tuple[str, ...]
    n_classes: int | None
    normalisation: Normalisation | None

    @property
    def matched(self) -> tuple[str, ...]:
        """Names in the network of all tensors that the file gives, the classifier's included."""
        return tuple(self.sources)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone is there, in its shape, and none too many."""
        return bool(self.sources) and not (self.missing or self.mismatched or self.surplus)

    def __str__(self) -> str:
        where = ".".join(self.container) or "the file itself"
        classes = "no classifier" if self.n_classes is None else f"{self.n_classes} classes"
        return (
            f"layout {self.layout}, container {where}, prefix {self.prefix!r}: "
            f"{len(self.sources)} matched, {len(self.missing)} missing, "
            f"{len(self.mismatched)} of another shape, {len(self.unexpected)} unexpected; {classes}"
        )

    def differences(self) -> Iterator[str]:
        """Describe what does not fit: shapes first, then missing and unexpected by turns."""
        for name, given, wanted in self.mismatched:
            yield f"shape mismatch: {name} is {given} in the file, {wanted} in the network"
        missing = (f"missing: {name}" for name in self.missing)
        rest = (key for key in self.unexpected if key not in self.surplus)
        unexpected = (f"unexpected: {key}" for key in (*self.surplus, *rest))
        yield from filter(None, chain.from_iterable(zip_longest(missing, unexpected)))


def load_checkpoint_encoder(path: Path, arch: str, identifier: str) -> Encoder:
    """Load a timm network with weights from a file of research code.

    Parameters
    ----------
    path : Path
        A weights file in any of the usual layouts; see this module's first lines.
    arch : str
        Name of the architecture in timm, such as ``"resnet50"``. With a tag
        (``"vit_small_patch16_224.dino"``) the preprocessing is that of the tagged weights.
    identifier : str
        The name under which it was asked for.

    Returns
    -------
    Encoder
        On the CPU; with logits if the file holds a trained classifier. Its attribute ``report`` is
        the `MatchReport`, which is also logged.

    Raises
    ------
    CheckpointError
        If the file cannot be read safely, or its backbone is not that of the architecture.
    UnknownNameError
        If timm has no such architecture.
    MissingExtraError
        If torch or timm is not installed.
    """
    content = read_weights_file(path)
    blank = _blank_network(arch)
    report = match_state_dict(content, blank)
    if not report.complete:
        raise CheckpointError(_refusal(path, arch, report, content))

    from transferscope.encoders.timm_encoders import wrap_timm

    options: dict[str, Any] = {}
    if report.n_classes is not None:
        options["num_classes"] = report.n_classes
    if report.normalisation is not None:
        mean, std = report.normalisation
        options["pretrained_cfg_overlay"] = {"mean": mean, "std": std}
    if report.layout == _MOCO_V3 and arch.startswith("vit_small"):
        options["num_heads"] = 12  # shapes are the same for 6 and 12, features are not
    timm = require("timm", extra="vision", purpose="load a checkpoint")
    model: nn.Module = timm.create_model(arch, **options)
    tensors: Any = content
    for key in report.container:
        tensors = tensors[key]
    model.load_state_dict({n: tensors[key] for n, key in report.sources.items()}, strict=False)
    if report.n_classes is None:
        # left at random it would give the same file another fingerprint every time
        for name, parameter in model.named_parameters():
            if name.startswith(_classifier_prefixes(model)):
                parameter.data.zero_()
    _logger.info("%s: %s", identifier, report)
    encoder = wrap_timm(model, identifier, has_head=report.n_classes is not None)
    encoder.report = report  # type: ignore[attr-defined]
    return encoder


def match_state_dict(state_dict: Mapping[str, Any], model: nn.Module) -> MatchReport:
    """Search the content of a weights file for the backbone of a network.

    Only names and shapes are compared; the model may be on the meta device.

    Parameters
    ----------
    state_dict : mapping
        Name -> tensor, or any nesting of such dictionaries among other things.
    model : torch.nn.Module
        A timm model.

    Returns
    -------
    MatchReport
        Of the best place found, complete or not.

    Raises
    ------
    CheckpointError
        If there is no tensor at all.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    heads = _classifier_prefixes(model)
    backbone = {name for name in wanted if not name.startswith(heads)}

    def fits(tensor: Tensor, name: str) -> bool:
        return tuple(tensor.shape) == wanted[name]

    candidates = []
    for container, tensors in _containers(state_dict):
        for prefix, naming, names in _readings(tensors, wanted):
            found = [name for name in names if name in backbone]
            n_fitting = sum(fits(tensors[names[name]], name) for name in found)
            place = f"{'.'.join(container)}/{prefix}"
            rank = (n_fitting, len(found), _preference(place), -len(place), len(tensors))
            candidates.append((rank, place, container, prefix, naming, names, tensors))
    if not candidates:
        raise CheckpointError(
            "The file holds no tensors under names. Save model.state_dict() and give that file."
        )
    best = max(candidates, key=lambda candidate: candidate[0])
    (n_fitting, *_), place, container, prefix, naming, names, tensors = best

    layout = next(
        (
            layout
            for layout in _LAYOUTS
            if any(re.search(layout.sign, f"{'.'.join(container)}/{key}") for key in tensors)
        ),
        _PLAIN,
    )
    sources = {
        name: names[name]
        for name in wanted
        if name in backbone and name in names and fits(tensors[names[name]], name)
    }
    classifier = {name: names.get(name) for name in wanted if name not in backbone}
    n_classes = None if layout.projects else _n_classes(classifier, tensors, wanted)
    if n_classes is not None:
        sources.update((name, names[name]) for name in classifier)
    absent = [name for name in wanted if name in backbone and name not in names]
    used = {*sources.values(), *(names[name] for name in backbone if name in names)}
    unexpected = tuple(key for key in tensors if key not in used)
    parts = tuple({name.split(".")[0] + "." for name in backbone if "." in name})
    return MatchReport(
        layout=layout.name,
        container=container,
        prefix=prefix,
        sources=sources,
        # absent in files from before PyTorch 0.4.1, and of no use outside of training
        missing=tuple(name for name in absent if not name.endswith("num_batches_tracked")),
        mismatched=tuple(
            (name, tuple(tensors[names[name]].shape), wanted[name])
            for name in wanted
            if name in backbone and name in names and name not in sources
        ),
        unexpected=unexpected,
        surplus=tuple(
            key
            for key in unexpected
            if key.startswith(prefix)
            and (name := _renamed(key[len(prefix) :], naming) or "").startswith(parts)
            and not name.startswith(heads)
            and tensors[key].numel() > 1  # counters that profilers leave in every part do no harm
        ),
        alternatives=tuple(
            other for rank, other, *_ in candidates if rank[0] == n_fitting > 0 and other != place
        ),
        n_classes=n_classes,
        normalisation=_stored_normalisation(tensors) or layout.normalisation,
    )


def _containers(
    content: Mapping[str, Any],
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary in the file that holds tensors under names, and the keys that lead there."""
    torch = require("torch", extra="vision", purpose="load a checkpoint")
    todo: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), content)]
    seen = {id(content)}  # a pickle may contain itself
    while todo:
        path, mapping = todo.pop(0)
        tensors = {k: v for k, v in mapping.items() if isinstance(k, str) and torch.is_tensor(v)}
        if tensors:
            yield path, tensors
        for key, value in mapping.items():
            if isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                todo.append(((*path, key), value))


def _readings(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Any]
) -> Iterator[tuple[str, _Naming, dict[str, str]]]:
    """Every prefix and naming under which names of the network occur, and name -> key of each."""
    yield "", _NAMINGS[0], {}
    for naming in _NAMINGS:
        found: dict[str, dict[str, str]] = {}
        for key in tensors:
            for start in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
                name = _renamed(key[start:], naming)
                if name is not None and name in wanted:
                    found.setdefault(key[:start], {})[name] = key
        for prefix, names in found.items():
            yield prefix, naming, names


def _renamed(name: str, naming: _Naming) -> str | None:
    for rule, new in naming:
        if match := rule.fullmatch(name):
            return match.expand(new)
    return None


def _preference(place: str) -> int:
    return next((value for sign, value in _PREFERENCES if re.search(sign, place)), 0)


def _classifier_prefixes(model: Any) -> tuple[str, ...]:
    names = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _n_classes(
    classifier: Mapping[str, str | None],
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...]],
) -> int | None:
    """Number of classes if every tensor of the classifier is there and fits but for that number."""
    sizes = set()
    for name, key in classifier.items():
        if key is None or tensors[key].ndim == 0 or tensors[key].shape[1:] != wanted[name][1:]:
            return None
        sizes.add(int(tensors[key].shape[0]))
    return sizes.pop() if len(sizes) == 1 else None


def _stored_normalisation(tensors: Mapping[str, Tensor]) -> Normalisation | None:
    for key, mean in tensors.items():
        std = tensors.get(key.replace("new_mean", "new_std"))
        if key.endswith("normalizer.new_mean") and std is not None and mean.numel() == 3:
            return tuple(mean.flatten().tolist()), tuple(std.flatten().tolist())
    return None


def _blank_network(arch: str) -> nn.Module:
    """Build the architecture without memory for its weights, for the sake of names and shapes."""
    torch = require("torch", extra="vision", purpose="load a checkpoint")
    timm = require("timm", extra="vision", purpose="load a checkpoint")
    # is_model, because create_model would go to the network for names such as hf-hub:...
    if not timm.is_model(arch):
        raise UnknownNameError(
            f"timm has no architecture {arch!r}, asked for by ?arch=. "
            "List them with: transferscope encoders timm/*"
        )
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(arch)
            if model.num_classes == 0:  # so that a classifier in the file finds its place
                model = timm.create_model(arch, num_classes=1)
    except RuntimeError as error:  # an unknown tag behind a known name
        raise UnknownNameError(
            f"timm cannot build {arch!r}, asked for by ?arch=: {error}"
        ) from error
    return model


def _refusal(path: Path, arch: str, report: MatchReport, content: Mapping[str, Any]) -> str:
    lines = [f"{path} does not hold the backbone of {arch} ({report}). The first differences:"]
    lines += [f"  {line}" for _, line in zip(range(10), report.differences(), strict=False)]
    fitting = [
        other
        for other in _COMMON_ARCHS
        if match_state_dict(content, _blank_network(other)).complete
    ]
    if fitting:
        lines.append(f"Its names and shapes fit {', '.join(fitting)}: ask for ?arch={fitting[0]}")
    else:
        lines.append(
            f"None of the {len(_COMMON_ARCHS)} most common architectures fits either. "
            "Ask for the architecture that the weights were trained with."
        )
    return "\n".join(lines)
