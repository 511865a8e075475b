"""Encoders made from a torch module or a function of your own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import Batch, Preprocessing
from transferscope.encoders._torch_encoder import TorchEncoder
from transferscope.errors import InputError
from transferscope.numerics.arrays import NumpyArray

#: From a batch to features or logits.
Function: TypeAlias = Callable[[Batch], Tensor | NumpyArray]


def from_module(
    module: nn.Module | Function,
    preprocessing: Preprocessing,
    *,
    identifier: str | None = None,
    feature_dim: int | None = None,
    head: nn.Module | Function | None = None,
    version: str | None = None,
) -> TorchEncoder:
    """Make an encoder of a torch module or of a function.

    Parameters
    ----------
    module : torch.nn.Module or callable
        Gives pooled features (n, dim), or maps (n, channels, height, width), which are averaged.
        A module gets a float tensor, on its device, and runs in eval mode and without gradients; it
        is left in the mode it was in. A function gets a NumPy array and may give an array or a
        tensor: for encoders that are not in torch.
        With `ImagePreprocessing` the input has shape (n, 3, height, width) and is normalised by its
        mean and std; with preprocessing of your own it is what ``collate`` gives.
    preprocessing : Preprocessing
        How each image or other sample is prepared.
    identifier : str, optional
        A name for it; by default the name of the module's class. Functions need one.
    feature_dim : int, optional
        Dimension of the features. Measured where the preprocessing is an `ImagePreprocessing`;
        otherwise needed before the first batch.
    head : torch.nn.Module or callable, optional
        From pooled features to the logits of the source's classes.
    version : str, optional
        Names the state of code of your own (module classes, functions, hooks, preprocessing), which
        cannot be looked into. Without it features that such code computes are stored for one run
        only. With it other runs find them again, under `identifier` and `version`: change it
        whenever the code changes. What can be looked into (weights, numbers and texts that are
        attributes, the modules of torch, timm and other known libraries) needs no version.

    Returns
    -------
    TorchEncoder
        With ``"pooled"`` as its only layer.

    Raises
    ------
    InputError
        If `module` cannot be called, is a function without an identifier, or `preprocessing` is not
        a `Preprocessing`.

    Examples
    --------
    >>> import torch
    >>> from transferscope.encoders import ImagePreprocessing
    >>> module = torch.nn.Conv2d(3, 16, kernel_size=3)
    >>> from_module(module, ImagePreprocessing(size=(32, 32), resize=36))
    TorchEncoder('Conv2d')

    A function gets and gives NumPy arrays:

    >>> import numpy as np
    >>> def brightness(images):
    ...     return images.mean(axis=(2, 3))
    >>> encoder = from_module(
    ...     brightness, ImagePreprocessing((8, 8), 8), identifier="mean-colour", feature_dim=3
    ... )
    >>> encoder.embed(np.zeros((2, 8, 8, 3), np.uint8)).features["pooled"].shape
    torch.Size([2, 3])
    """
    if not callable(module):
        raise InputError(
            f"module must be a torch module or a function; got {type(module).__name__}. "
            "Give one that returns features."
        )
    if not isinstance(preprocessing, Preprocessing):
        raise InputError(
            f"preprocessing must be a Preprocessing; got {type(preprocessing).__name__}. "
            "Give an ImagePreprocessing for images."
        )
    if identifier is None and isinstance(module, nn.Module):
        identifier = type(module).__name__
    if not identifier:
        raise InputError(
            "identifier must be a name that is not empty. Give one, such as 'my-resnet'."
        )
    # in one module, so that the weights of both move and are hashed together
    parts = nn.ModuleDict(
        {
            name: part
            for name, part in (("module", module), ("head", head))
            if isinstance(part, nn.Module)
        }
    )

    def run(inputs: Batch) -> tuple[Tensor, Tensor | None]:
        pooled = _call(module, inputs)
        if isinstance(pooled, Tensor) and pooled.ndim == 4:
            pooled = pooled.mean(dim=(2, 3))
        return pooled, None if head is None else _call(head, pooled)

    return TorchEncoder(
        parts,
        run,
        preprocessing=preprocessing,
        identifier=identifier,
        head_parameters=head.parameters() if isinstance(head, nn.Module) else (),
        feature_dim=feature_dim,
        version=version,
    )


def _call(part: nn.Module | Function, inputs: Batch) -> Tensor:
    """Call a module with tensors, and a function with arrays; return tensors."""
    if isinstance(part, nn.Module):
        result: Tensor = part(inputs)
        return result
    outputs = part(inputs.cpu().numpy() if isinstance(inputs, Tensor) else inputs)
    # a copy: the function may give a view of its input or of what it keeps, or a read-only array
    return torch.from_numpy(outputs.copy()) if isinstance(outputs, np.ndarray) else outputs
