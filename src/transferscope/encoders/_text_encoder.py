"""A language model as an encoder: hidden states of one forward pass, pooled to a vector per sample.

This module imports torch at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import POOLED, Embedded
from transferscope.encoders._text_tokens import (
    ELSEWHERE,
    ON_CPU,
    TextBatch,
    TextPart,
    TextPreprocessing,
)
from transferscope.encoders._torch_encoder import autocast, digest, evaluating, existing_device
from transferscope.errors import EncoderError, UnknownNameError


class Reading(NamedTuple):
    """What one forward pass gave for one part."""

    hidden: Sequence[Tensor]  # (n, width, dim) of each layer asked for, the last one at the end
    pooled: Tensor | None = None  # (n, dim), where the checkpoint pools by itself
    logits: Tensor | None = None  # (n, n_source_classes), or (n, width, n_source_classes)


@final
class TextEncoder:
    """A language model as an encoder; follows the `Encoder` protocol. Made by `load_encoder`.

    Parameters
    ----------
    module : torch.nn.Module
    read : callable
        From the inputs of a part, and whether every hidden layer is wanted, to a `Reading`.
    preprocessing : TextPreprocessing
    identifier, architecture : str
        Its name, and what besides weights and preprocessing decides the features.
    n_layers : int
    pooling : tuple of str
        How texts are pooled; several are put side by side.
    subwords : str
        How words are pooled.
    finish : torch.nn.Module or None
        What is applied to the pooled features.
    head : torch.nn.Module or None
        The classifier on the pooled features, where `read` gives no logits.
    n_parameters : int
        Without the head.
    fixed : bool
        Spread over devices, so that it cannot be moved.
    """

    def __init__(
        self,
        module: nn.Module,
        read: Callable[[dict[str, Tensor], bool], Reading],
        *,
        preprocessing: TextPreprocessing,
        identifier: str,
        architecture: str,
        n_layers: int,
        pooling: tuple[str, ...],
        subwords: str,
        finish: nn.Module | None,
        head: nn.Module | None,
        n_parameters: int,
        fixed: bool,
    ) -> None:
        self._module, self._read = module, read
        self._identifier, self._architecture = identifier, architecture
        self._pooling, self._subwords, self._finish = pooling, subwords, finish
        self._head, self._n_parameters, self._fixed = head, n_parameters, fixed
        self._named = tuple(f"layer{number}" for number in range(1, n_layers + 1))
        self._device = next(module.parameters()).device
        self._preprocessing = _sized(preprocessing, self._device)
        self._feature_dim: int | None = None
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        return f"TextEncoder({self._identifier!r})"

    @property
    def identifier(self) -> str:
        """The name under which it was asked for."""
        return self._identifier

    @property
    def fingerprint(self) -> str:
        """Hex digest of architecture, pooling, tokenizer and weights; equal = same features."""
        if self._fingerprint is None:
            whole = nn.ModuleList(
                [self._module, *([self._finish] if self._finish is not None else [])]
            )
            self._fingerprint = digest(self._architecture, self._preprocessing, whole)
        return self._fingerprint

    @property
    def preprocessing(self) -> TextPreprocessing:
        """How samples must be prepared for `embed`."""
        return self._preprocessing

    @property
    def feature_dim(self) -> int:
        """Dimension of the pooled features, measured on a short text."""
        if self._feature_dim is None:
            self.embed(self._preprocessing.collate(["a"]))
        assert self._feature_dim is not None
        return self._feature_dim

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the encoder without its head, and without a decoder."""
        return self._n_parameters

    @property
    def input_size(self) -> None:
        """None: the input is no image."""
        return

    @property
    def layers(self) -> tuple[str, ...]:
        """Names accepted by `embed`, in order of depth; the last one is ``"pooled"``."""
        return (*self._named, POOLED)

    @property
    def module(self) -> nn.Module:
        """The module itself, for fine-tuning it."""
        return self._module

    @property
    def last_block(self) -> str | None:
        """Name of the last of the model's blocks, None where there is no list of blocks."""
        stacks = [
            (name.count("."), f"{name}.{len(part) - 1}")
            for name, part in self._module.named_modules()
            if isinstance(part, nn.ModuleList) and len(part) > 1
        ]
        outermost = min((depth for depth, _ in stacks), default=0)
        # the last of them: where there is a decoder, its blocks come after the encoder's
        return next((path for depth, path in reversed(stacks) if depth == outermost), None)

    def forward(self, batch: TextBatch) -> Tensor:
        """Pooled features (n, dim) with gradients, in the mode in which the module is.

        Parameters
        ----------
        batch : TextBatch
            As for `embed`.
        """
        with autocast(self._device):
            parts = [dict(self._embed_part(part, (POOLED,), False))[POOLED] for part in batch.parts]
        rows = np.argsort(np.concatenate([part.rows for part in batch.parts]), kind="stable")
        return torch.cat(parts)[torch.from_numpy(rows).to(self._device)].float()

    def embed(self, batch: TextBatch, layers: Sequence[str] = (POOLED,)) -> Embedded:
        """Features of the named layers, and logits where there is a head, in one forward pass.

        Parameters
        ----------
        batch : TextBatch
            As `preprocessing` prepares and collates it.
        layers : sequence of str, default ("pooled",)
            Some of `layers`.

        Returns
        -------
        Embedded
            Features per layer (n, dim) and logits (n, n_source_classes) or None, float32 on the
            encoder's device; and how many tokens of each text were not read.

        Raises
        ------
        UnknownNameError
            If a layer has another name.
        EncoderError
            If the model gives another number of layers than its configuration says.
        """
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UnknownNameError(
                f"{self._identifier} has no layer {', '.join(map(repr, unknown))}. "
                f"Choose from: {', '.join(self.layers)}."
            )
        every = any(layer != POOLED for layer in layers)
        made: dict[str, Tensor] = {}
        modules = [self._module, *([self._finish] if self._finish is not None else [])]
        with (
            evaluating(nn.ModuleList(modules)),
            torch.inference_mode(),
            autocast(self._device),
        ):
            for part in batch.parts:
                rows = torch.from_numpy(part.rows).to(self._device)
                for name, values in self._embed_part(part, layers, every):
                    if name not in made:
                        made[name] = values.new_empty(
                            (len(batch), values.shape[1]), dtype=torch.float32
                        )
                    made[name][rows] = values.float()
        logits = made.pop("logits", None)
        self._feature_dim = made[POOLED].shape[1] if POOLED in made else self._feature_dim
        # clones made outside of inference mode are ordinary tensors, which a head can be trained on
        return Embedded(
            {name: made[name].clone() for name in layers},
            None if logits is None else logits.clone(),
            batch.truncated,
        )

    def to(self, device: str) -> TextEncoder:
        """The same encoder on another device; one that is spread over devices stays as it is.

        Raises
        ------
        EncoderError
            If there is no such device.
        """
        if not self._fixed:
            self._device = existing_device(device)
            self._preprocessing = _sized(self._preprocessing, self._device)
            self._module.to(self._device)
            if self._finish is not None:
                self._finish.to(self._device)
        return self

    def _embed_part(
        self, part: TextPart, layers: Sequence[str], every: bool
    ) -> Iterator[tuple[str, Tensor]]:
        inputs = {name: torch.from_numpy(ids).to(self._device) for name, ids in part.inputs.items()}
        reading = self._read(inputs, every)
        if every and len(reading.hidden) != len(self._named):
            raise EncoderError(
                f"{self._identifier} has {len(self._named)} layers by its configuration and gave "
                f"{len(reading.hidden)}. Ask for the last one only."
            )

        def pooled(hidden: Tensor, pooling: Sequence[str]) -> Tensor:
            hidden = hidden.to(self._device).float()
            if part.spans is not None:
                return _pool_words(hidden, part.spans, self._subwords)
            mask = inputs["attention_mask"]
            return torch.cat([_POOL[one](hidden, mask) for one in pooling], dim=1)

        for name in layers:
            if name != POOLED:
                yield name, pooled(reading.hidden[self._named.index(name)], self._pooling)
                continue
            if reading.pooled is not None and part.spans is None:
                features = reading.pooled
            else:
                features = pooled(reading.hidden[-1], self._pooling)
                if self._finish is not None and part.spans is None:
                    features = self._finish(features)
            yield POOLED, features
            if self._head is not None and part.spans is None:
                yield "logits", self._head(features)
        logits = reading.logits
        if logits is not None and (logits.ndim == 3) == (part.spans is not None):
            yield "logits", pooled(logits, ()) if logits.ndim == 3 else logits


def _sized(preprocessing: TextPreprocessing, device: torch.device) -> TextPreprocessing:
    """The same with parts of a size for a device."""
    return replace(preprocessing, size=ON_CPU if device.type == "cpu" else ELSEWHERE)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _weighted(hidden, mask.float())


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    # a product of matrices per text, without an array of the size of `hidden`
    sums = torch.bmm(weights[:, None, :], hidden.masked_fill((weights == 0)[:, :, None], 0.0))
    return sums[:, 0] / weights.sum(dim=1, keepdim=True)


def _first(hidden: Tensor, _: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _weighted(hidden, (mask * mask.cumsum(dim=1)).float())


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(dim=1)


def _mean_sqrt(hidden: Tensor, mask: Tensor) -> Tensor:
    return _mean(hidden, mask) * mask.sum(dim=1, keepdim=True).sqrt()


_POOL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "first": _first,
    "last": _last,
    "weighted-mean": _weighted_mean,
    "max": _max,
    "mean-sqrt": _mean_sqrt,
}


def _pool_words(hidden: Tensor, spans: npt.NDArray[np.int64], how: str) -> Tensor:
    """One vector per word: (n_words, dim) of hidden states (n_sequences, width, dim)."""
    sequence, start, stop = torch.from_numpy(spans).to(hidden.device).unbind(dim=1)
    if how != "mean":
        return hidden[sequence, start if how == "first" else stop - 1]
    longest = int((stop - start).max())
    token = start[:, None] + torch.arange(longest, device=hidden.device)
    inside = (token < stop[:, None]).float()
    picked = hidden[sequence[:, None], token.clamp(max=hidden.shape[1] - 1)]
    return (picked * inside[:, :, None]).sum(dim=1) / inside.sum(dim=1, keepdim=True)
