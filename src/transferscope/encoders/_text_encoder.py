"""A language model as an encoder: hidden states of one forward pass, pooled to a vector per sample.

This module imports torch at the top.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import POOLED, Embedded
from transferscope.encoders._fast_pass import PassPlan
from transferscope.encoders._module_encoder import (
    ModuleEncoder,
    autocast,
    evaluating,
    existing_device,
)
from transferscope.encoders._pretrained import first_line
from transferscope.encoders._text_models import TextModel
from transferscope.encoders._text_pooling import Pooling, pool_text, pool_words
from transferscope.encoders._text_tokens import (
    ELSEWHERE,
    ON_CPU,
    TextBatch,
    TextPart,
    TextPreprocessing,
)
from transferscope.errors import EncoderError

_logger = logging.getLogger("transferscope")

_LOGITS = "logits"
#: What a model reads when its quicker pass is planned.
_TEXT = "The quick brown fox jumps over the lazy dog, 10 times a day and once at night. " * 2


@final
class TextEncoder(ModuleEncoder[TextPreprocessing]):
    """A language model as an encoder; follows the `Encoder` protocol. Made by `load_encoder`.

    Parameters
    ----------
    model : TextModel
        The model with its weights.
    pooling : Pooling
        How hidden states become one vector per sample.
    preprocessing : TextPreprocessing
        How samples are prepared for it.
    identifier : str
        Name under which it was requested.
    """

    def __init__(
        self,
        model: TextModel,
        pooling: Pooling,
        *,
        preprocessing: TextPreprocessing,
        identifier: str,
    ) -> None:
        self._model, self._pooling = model, pooling
        self._device = next(model.module.parameters()).device
        super().__init__(
            model.module,
            preprocessing=_sized(preprocessing, self._device),
            identifier=identifier,
            named_layers=[f"layer{number}" for number in range(1, model.n_layers + 1)],
            n_parameters=model.n_parameters,
        )

    @property
    def feature_dim(self) -> int:
        """Dimension of the pooled features, measured on a short text."""
        if self._feature_dim is None:
            self.embed(self._preprocessing.collate(["a"]))
        assert self._feature_dim is not None
        return self._feature_dim

    @property
    def input_size(self) -> None:
        """None: the input is no image."""
        return

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
        """Compute pooled features with gradients, in the mode in which the module is."""
        with autocast(self._device):
            parts = [dict(self._embed_part(part, (POOLED,)))[POOLED] for part in batch.parts]
        rows = np.argsort(np.concatenate([part.rows for part in batch.parts]), kind="stable")
        return torch.cat(parts)[torch.from_numpy(rows).to(self._device)].float()

    def embed(self, batch: TextBatch, layers: Sequence[str] = (POOLED,)) -> Embedded:
        """Compute features of the named layers, and logits of a head, in one forward pass."""
        self._require_layers(layers)
        with evaluating(self._weights()):
            return self._embedded(self._outputs(batch, layers), batch, layers)

    def fast_embed(self, layers: Sequence[str] = (POOLED,)) -> Callable[[TextBatch], Embedded]:
        """Make a quicker `embed` of the model as it is now, for many batches.

        It gives the features of `embed` up to rounding (1e-4 of the largest), and the same bits
        every time. It holds packed copies of weights: changes of the encoder do not reach it.

        Parameters
        ----------
        layers : sequence of str, default ("pooled",)

        Returns
        -------
        callable
            From a batch to `Embedded`; `embed` itself where nothing is known to be quicker.
        """
        self._require_layers(layers)
        run = partial(self._outputs, layers=layers)
        try:
            if self._model.spread:
                raise EncoderError("its weights are spread over devices")
            with evaluating(self._weights()):
                # a text of ours, never the user's: a run that goes on elsewhere must do the same
                text = self._preprocessing.collate([_TEXT])
                plan = PassPlan(run, text, self._device, cut=False)
        except Exception as error:  # noqa: BLE001  what is wrong will be said of the first batch
            _logger.info("%s has no quicker pass: %s", self._identifier, first_line(error))
            return partial(self.embed, layers=layers)

        def embed(batch: TextBatch) -> Embedded:
            with evaluating(self._weights()):
                return self._embedded(plan(batch), batch, layers)

        return embed

    def _outputs(self, batch: TextBatch, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features of the named layers by name, and logits, in the mode in which the model is."""
        made: dict[str, Tensor] = {}
        with torch.inference_mode(), autocast(self._device):
            for part in batch.parts:
                rows = torch.from_numpy(part.rows).to(self._device)
                for name, values in self._embed_part(part, layers):
                    if name not in made:
                        made[name] = values.new_empty(
                            (len(batch), values.shape[1]), dtype=torch.float32
                        )
                    made[name][rows] = values.float()
        return made

    def _embedded(
        self, outputs: Mapping[str, Tensor], batch: TextBatch, layers: Sequence[str]
    ) -> Embedded:
        if POOLED in outputs:
            self._feature_dim = outputs[POOLED].shape[1]
        # clones made outside of inference mode are ordinary tensors, which a head can be trained on
        logits = outputs.get(_LOGITS)
        return Embedded(
            {name: outputs[name].clone() for name in layers},
            None if logits is None else logits.clone(),
            batch.truncated,
        )

    def to(self, device: str) -> TextEncoder:
        """Move the encoder to another device, in place, unless it is spread over devices."""
        if not self._model.spread:
            self._device = existing_device(device)
            self._preprocessing = _sized(self._preprocessing, self._device)
            self._weights().to(self._device)
        return self

    def _weights(self) -> nn.Module:
        """Everything whose weights decide the features."""
        finish = self._pooling.finish
        return nn.ModuleList([self._module, *([] if finish is None else [finish])])

    def _embed_part(self, part: TextPart, layers: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Features of each layer, and logits, of the samples of a part."""
        inputs = {name: torch.from_numpy(ids).to(self._device) for name, ids in part.inputs.items()}
        all_layers = any(layer != POOLED for layer in layers)
        hidden, pooled, logits = self._model.read(inputs, all_layers=all_layers)
        if all_layers and len(hidden) != self._model.n_layers:
            raise EncoderError(
                f"encoder {self._identifier} has {self._model.n_layers} layers by its "
                f"configuration and gave {len(hidden)}. Use the last one only."
            )
        mask = inputs["attention_mask"]
        for name in layers:
            if name != POOLED:
                yield name, self._pooled(hidden[self._named_layers.index(name)], mask, part)
            elif part.spans is not None:
                yield POOLED, self._pooled(hidden[-1], mask, part)
            else:
                features = pooled
                if features is None:
                    features = self._pooled(hidden[-1], mask, part)
                    if self._pooling.finish is not None:
                        features = self._pooling.finish(features)
                yield POOLED, features
                if self._model.head is not None:
                    yield _LOGITS, self._model.head(features)
        # logits of texts for texts, of tokens for words
        if logits is not None and (logits.ndim == 3) == (part.spans is not None):
            yield _LOGITS, self._pooled(logits, mask, part) if logits.ndim == 3 else logits

    def _pooled(self, hidden: Tensor, mask: Tensor, part: TextPart) -> Tensor:
        hidden = hidden.to(self._device).float()
        if part.spans is not None:
            return pool_words(hidden, part.spans, self._pooling.words)
        return pool_text(hidden, mask, self._pooling.texts)


def _sized(preprocessing: TextPreprocessing, device: torch.device) -> TextPreprocessing:
    """The same with parts of the size for a device."""
    return replace(preprocessing, size=ON_CPU if device.type == "cpu" else ELSEWHERE)
