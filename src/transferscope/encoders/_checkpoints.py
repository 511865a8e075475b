"""Encoders from the weights files of research code: ``checkpoint:<path>?arch=<architecture>``.

The architecture is one of timm (``resnet50``), one of torchvision
(``torchvision/efficientnet_b0``), whose images are then prepared as for its default weights, or one
of transformers (``hf/<folder with its configurations>``).

Such files differ less in their tensors than in where they keep them: under ``state_dict``,
``model`` or ``teacher``, with ``module.``, ``backbone.`` or ``module.encoder_q.`` before every
name, next to projection heads, queues and a second copy of the network. So the backbone is
*searched*: every dictionary of tensors in the file, every prefix that occurs in it, and the few
ways of naming that differ from timm's. Taken is the place where the most tensors have the name and
the shape of the network's own; where several places hold all of it, averaged weights (``ema``,
``swa``, ``teacher``) before raw ones, and otherwise the network that the method's authors evaluate.
Segments that wrappers put into names (``module.``, ``_orig_mod.``) are overlooked anywhere. Files
in the names of a network's authors (DINOv2, CLIP, ConvNeXt) go through timm's own converters.

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

from transferscope.encoders._checkpoint_architectures import find_architecture
from transferscope.encoders._checkpoint_matching import FileIndex
from transferscope.encoders._checkpoint_refusals import COMMON_ARCHS, refusal
from transferscope.encoders._text_encoder import TextEncoder
from transferscope.encoders._torch_encoder import TorchEncoder
from transferscope.errors import CheckpointError
from transferscope.storage.weights_files import read_weights_file

_logger = logging.getLogger("transferscope")

# tried by shapes alone when the requested architecture does not fit
_COMMON_ARCHS = tuple(COMMON_ARCHS)


def load_checkpoint(path: Path, arch: str, identifier: str) -> TorchEncoder | TextEncoder:
    """Load a network of timm or torchvision with weights from a file of research code.

    Parameters
    ----------
    path : Path
        A weights file in any of the usual layouts; see the docstring of this module.
    arch : str
        Name of the architecture in timm, such as ``"resnet50"``. With a tag
        (``"vit_small_patch16_224.dino"``) the preprocessing is that of the tagged weights. Or
        ``torchvision/`` and a name of torchvision, or ``hf/`` and a folder with the configurations
        of a model of transformers.
    identifier : str
        Name under which it was requested.

    Returns
    -------
    TorchEncoder or TextEncoder
        On the CPU; with logits if the file holds a trained classifier. Its attribute ``report`` is
        the `MatchReport`, which is also logged; its notes stand in rankings.

    Raises
    ------
    CheckpointError
        If the file cannot be read safely, or its backbone is not that of the architecture.
    UnknownNameError
        If there is no such architecture.
    EncoderError
        If it is one of torchvision's that is no image classifier, or no folder of a configuration.
    MissingExtraError
        If torch, or the library of the architecture, is not installed.
    """
    if arch.startswith("hf/"):
        from transferscope.encoders._checkpoint_transformers import load_into_transformers

        return load_into_transformers(FileIndex(read_weights_file(path)), arch, identifier)
    architecture = find_architecture(arch)
    index = FileIndex(read_weights_file(path))
    report, tensors = architecture.find_in(index)
    if not report.complete:
        raise CheckpointError(f"file {path} {refusal(architecture, report, index, _COMMON_ARCHS)}")
    encoder = architecture.finish(report, tensors, identifier)
    encoder.report = report
    _logger.info("%s: %s", identifier, report)
    return encoder
