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
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from transferscope.encoders._checkpoint_layouts import MOCO_V3
from transferscope.encoders._checkpoint_matching import (
    MatchReport,
    classifier_prefixes,
    match_state_dict,
)
from transferscope.encoders._timm import wrap_timm
from transferscope.encoders._torch_encoder import TorchEncoder
from transferscope.errors import CheckpointError, UnknownNameError, require
from transferscope.storage.weights_files import (
    Content,
    nested_mappings,
    read_weights_file,
    tensors_of,
)

if TYPE_CHECKING:
    from transferscope.encoders._timm import TimmModel

_logger = logging.getLogger("transferscope")

# tried by shapes alone when the requested architecture does not fit
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


def load_checkpoint(path: Path, arch: str, identifier: str) -> TorchEncoder:
    """Load a timm network with weights from a file of research code.

    Parameters
    ----------
    path : Path
        A weights file in any of the usual layouts; see the docstring of this module.
    arch : str
        Name of the architecture in timm, such as ``"resnet50"``. With a tag
        (``"vit_small_patch16_224.dino"``) the preprocessing is that of the tagged weights.
    identifier : str
        Name under which it was requested.

    Returns
    -------
    TorchEncoder
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

    options: dict[str, object] = {}
    if report.n_classes is not None:
        options["num_classes"] = report.n_classes
    if report.normalisation is not None:
        mean, std = report.normalisation
        options["pretrained_cfg_overlay"] = {"mean": mean, "std": std}
    if report.layout == MOCO_V3 and arch.startswith("vit_small"):
        options["num_heads"] = 12  # shapes are the same for 6 and 12, features are not
    timm = require("timm", extra="vision", purpose="load a checkpoint")
    model: TimmModel = timm.create_model(arch, **options)
    tensors = tensors_of(dict(nested_mappings(content))[report.container])
    model.load_state_dict({n: tensors[key] for n, key in report.sources.items()}, strict=False)
    if report.n_classes is None:
        # left at random it would give the same file another fingerprint every time
        for name, parameter in model.named_parameters():
            if name.startswith(classifier_prefixes(model)):
                parameter.data.zero_()
    _logger.info("%s: %s", identifier, report)
    encoder = wrap_timm(model, identifier, has_head=report.n_classes is not None)
    encoder.report = report
    return encoder


def _blank_network(arch: str) -> TimmModel:
    """Build the architecture without memory for its weights, for names and shapes."""
    timm = require("timm", extra="vision", purpose="load a checkpoint")
    # is_model, because create_model would go to the network for names such as hf-hub:...
    if not timm.is_model(arch):
        raise UnknownNameError(
            f"architecture {arch!r} of ?arch= does not exist in timm. "
            "List them with: transferscope encoders timm/*"
        )
    try:
        with torch.device("meta"):
            model: TimmModel = timm.create_model(arch)
            if model.num_classes == 0:  # so that a classifier in the file finds its place
                model = timm.create_model(arch, num_classes=1)
    except RuntimeError as error:  # an unknown tag behind a known name
        raise UnknownNameError(
            f"architecture {arch!r} of ?arch= cannot be built by timm: {error}. "
            "List them with: transferscope encoders timm/*"
        ) from error
    return model


def _refusal(path: Path, arch: str, report: MatchReport, content: Content) -> str:
    lines = [f"file {path} does not hold the backbone of {arch} ({report}). The first differences:"]
    lines += [f"  {line}" for _, line in zip(range(10), report.differences(), strict=False)]
    fitting = [
        other
        for other in _COMMON_ARCHS
        if match_state_dict(content, _blank_network(other)).complete
    ]
    if fitting:
        lines.append(f"Its names and shapes fit {', '.join(fitting)}: use ?arch={fitting[0]}.")
    else:
        lines.append(
            f"None of the {len(_COMMON_ARCHS)} most common architectures fits either. "
            "Give the architecture that the weights were trained with."
        )
    return "\n".join(lines)
