"""Encoders ``hf/<id>`` and ``hf/<folder>`` for texts: language models of transformers.

Encoder-only, decoder-only and encoder-decoder models (of these the encoder), classifiers, and the
folders of sentence-transformers. Options follow a question mark, with ``&`` between:
``hf/bert-base-uncased?pooling=first&max_length=128``.

=================  ================================================================================
``pooling``        how the tokens of a text become one vector: ``mean``, ``first``, ``last``,
                   ``weighted-mean`` (weights 1, 2, 3, ...), or ``own``: as the checkpoint itself
                   does (the input of a classifier's head, the modules of sentence-transformers,
                   the trained pooler). Default: ``own`` for classifiers and sentence-transformers,
                   ``last`` for decoder-only models, whose first tokens have seen little, ``mean``
                   for the rest
``subwords``       how the pieces of a word become one vector, for tasks with a tag per word:
                   ``mean`` (default), ``first`` or ``last``
``max_length``     read at most this many tokens; by default as many as the model can
``device_map``     ``auto`` spreads a model that is too large for one device (needs accelerate)
=================  ================================================================================

**Named layers** ``layer1``, ``layer2``, ... are the hidden states, pooled alike; all of them come
from one forward pass. The last one is taken after the final normalisation, where there is one.

**Padding** is on the right for every model, and masked: the vector of a text does not depend on
the texts beside it. Texts of like length are read together, and no batch holds more than
`TOKENS_AT_ONCE` tokens. A text without any token is read as one end-of-text token.

**What is too long** is cut off, and counted for every text. With a tag per word nothing is cut
off: a sentence that is too long is read in parts, and what a word did not see is counted.

This module imports torch at the top; transformers is handed in.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from transferscope.encoders._encoder import POOLED, Embedded
from transferscope.encoders._torch_encoder import (
    autocast,
    before_heads,
    digest,
    evaluating,
    existing_device,
)
from transferscope.encoders.transformers_encoders import decisive, loaded, refuse_missing
from transferscope.errors import EncoderError, UnknownNameError, require

POOLINGS = ("mean", "first", "last", "weighted-mean", "own")
SUBWORDS = ("mean", "first", "last")
#: Tokens, padding included, of one forward pass: bounds the memory of all hidden states.
TOKENS_AT_ONCE = 8192

# what sentence-transformers calls its poolings
_SENTENCE_POOLINGS = {
    "cls_token": "first",
    "cls": "first",
    "max_tokens": "max",
    "max": "max",
    "mean_tokens": "mean",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt",
    "mean_sqrt_len": "mean-sqrt",
    "weightedmean_tokens": "weighted-mean",
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
}


@dataclass(frozen=True)
class Options:
    """What follows the question mark; None: by default."""

    pooling: str | None = None
    subwords: str = "mean"
    max_length: int | None = None
    device_map: str | None = None

    @classmethod
    def parse(cls, query: str, identifier: str) -> Options:
        """Read the options of a name.

        Raises
        ------
        EncoderError
            If there is no such option or value.
        """
        given: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
        allowed = {"pooling": POOLINGS, "subwords": SUBWORDS, "device_map": ("auto",)}
        for name, value in given.items():
            if name == "max_length" and value.isdecimal() and int(value) > 0:
                given[name] = int(value)
            elif value not in allowed.get(name, ()):
                choices = "; ".join(f"{key}={', '.join(values)}" for key, values in allowed.items())
                raise EncoderError(
                    f"{identifier} has no option {name}={value}. Options of text models are: "
                    f"{choices}; max_length=<number of tokens>."
                )
        return cls(**given)


class _Part(NamedTuple):
    """Token sequences of like length, padded on the right; arrays of shape (n_sequences, width)."""

    inputs: dict[str, npt.NDArray[np.int64]]
    rows: npt.NDArray[np.int64]  # which samples of the batch come from it
    spans: npt.NDArray[np.int64] | None  # for words: (n_rows, 3) sequence, first token, stop


class TextBatch(NamedTuple):
    """A batch as `TextPreprocessing` collates it."""

    parts: list[_Part]
    truncated: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.truncated)


@dataclass(frozen=True)
class TextPreprocessing:
    """From texts, pairs of texts or words of sentences to padded batches of token ids.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    limit : int or None
        Tokens that the model can read.
    prompt : str
        What the checkpoint puts before every text.
    key : str
        The same for tokenizers that give the same tokens.
    """

    tokenizer: Any
    limit: int | None
    prompt: str
    key: str

    def prepare(self, sample: Any) -> Any:
        """Check one sample; tokens are made batch by batch.

        Raises
        ------
        EncoderError
            If it is no text.
        """
        texts = (sample,) if isinstance(sample, str) else sample
        if isinstance(texts, tuple) and all(isinstance(text, str) for text in texts):
            return sample
        if hasattr(sample, "words"):
            return sample
        raise EncoderError(
            f"This encoder takes texts, and a sample is a {type(sample).__name__}. "
            "Choose encoders for such data, such as mini/all for images."
        )

    def collate(self, prepared: Sequence[Any]) -> TextBatch:
        """Make tokens of prepared samples, sort them by length and pad them."""
        if hasattr(prepared[0], "words"):
            return self._of_words(prepared)
        pairs = isinstance(prepared[0], tuple)
        texts: list[tuple[str, ...]] = [
            (self.prompt + sample[0], *sample[1:]) if pairs else (self.prompt + sample,)
            for sample in prepared
        ]
        encoded = self._tokens(texts)
        n_tokens = np.array([len(one["input_ids"]) for one in encoded])
        truncated = np.zeros(len(prepared), np.int32)
        if self.limit is not None and n_tokens.max() > self.limit:
            long = np.flatnonzero(n_tokens > self.limit)
            truncated[long] = n_tokens[long] - self.limit
            cut = self._tokens([texts[i] for i in long], truncation=True, max_length=self.limit)
            for i, one in zip(long, cut, strict=True):
                encoded[i] = one
        parts = [
            _Part(self._padded([encoded[i] for i in rows]), rows, None)
            for rows in _alike([len(one["input_ids"]) for one in encoded])
        ]
        return TextBatch(parts, truncated)

    def _of_words(self, samples: Sequence[Any]) -> TextBatch:
        rows_of: dict[tuple[str, ...], list[int]] = {}
        for row, sample in enumerate(samples):
            rows_of.setdefault(sample.words, []).append(row)
        truncated = np.zeros(len(samples), np.int32)
        stretches: list[dict[str, Any]] = []
        places: list[list[tuple[int, int, int]]] = []  # per stretch: row, first token, stop
        for words, rows in rows_of.items():
            pieces = list(self._stretches(words))
            n_tokens = [len(piece["input_ids"]) for _, piece in pieces]
            for (first, piece), own in zip(pieces, n_tokens, strict=True):
                spans = piece.pop("spans")
                inside = [row for row in rows if 0 <= samples[row].position - first < len(spans)]
                if inside:
                    truncated[inside] = sum(n_tokens) - own
                    stretches.append(piece)
                    places.append([(row, *spans[samples[row].position - first]) for row in inside])
        parts = []
        for chosen in _alike([len(piece["input_ids"]) for piece in stretches]):
            found = [(number, *place) for number, i in enumerate(chosen) for place in places[i]]
            table = np.array(found, dtype=np.int64)
            inputs = self._padded([stretches[i] for i in chosen])
            parts.append(_Part(inputs, table[:, 1], table[:, [0, 2, 3]]))
        return TextBatch(parts, truncated)

    def _stretches(self, words: Sequence[str], first: int = 0) -> Iterator[tuple[int, Any]]:
        """Parts of a sentence that can be read at once: position of the first word, and tokens."""
        if not getattr(self.tokenizer, "is_fast", False):
            raise EncoderError(
                f"Tags per word need a tokenizer that says where its tokens stand; "
                f"{type(self.tokenizer).__name__} does not. Save the fast form of it "
                "(tokenizer.json), or choose another encoder."
            )
        text = " ".join(words)
        (encoded,) = self._tokens([(text,)], return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")
        n_tokens = len(encoded["input_ids"])
        if self.limit is not None and n_tokens > self.limit:
            if len(words) > 1:
                middle = len(words) // 2
                yield from self._stretches(words[:middle], first)
                yield from self._stretches(words[middle:], first + middle)
                return
            (encoded,) = self._tokens(
                [(text,)], return_offsets_mapping=True, truncation=True, max_length=self.limit
            )
            offsets = encoded.pop("offset_mapping")
        encoded["spans"] = _word_spans(words, offsets)
        yield first, encoded

    def _tokens(self, texts: Sequence[tuple[str, ...]], **options: Any) -> list[dict[str, Any]]:
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = self.tokenizer(
            *columns, padding=False, verbose=False, **{"truncation": False, **options}
        )
        each = [{name: encoded[name][i] for name in encoded} for i in range(len(texts))]
        for one in each:
            if not one["input_ids"]:
                one |= {"input_ids": [self._filler], "attention_mask": [1]}
                one |= {"token_type_ids": [0]} if "token_type_ids" in one else {}
                one |= {"offset_mapping": [(0, 0)]} if "offset_mapping" in one else {}
        return each

    @property
    def _filler(self) -> int:
        """The token that stands for a text without tokens."""
        ids = (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id, self._padding)
        return next(token for token in ids if token is not None)

    @property
    def _padding(self) -> int:
        # masked, so that any id will do where there is none; some models count positions by it
        return 0 if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    def _padded(self, encoded: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.int64]]:
        width = max(len(one["input_ids"]) for one in encoded)
        padding = {"input_ids": self._padding}
        return {
            name: np.array(
                [
                    [*one[name], *[padding.get(name, 0)] * (width - len(one[name]))]
                    for one in encoded
                ],
                dtype=np.int64,
            )
            for name in encoded[0]
        }


def _alike(lengths: Sequence[int]) -> list[npt.NDArray[np.int64]]:
    """Groups of like length that hold at most `TOKENS_AT_ONCE` tokens when padded, or one text."""
    order = np.argsort(lengths, kind="stable")
    groups: list[list[int]] = []
    for i in order.tolist():
        if groups and (len(groups[-1]) + 1) * lengths[i] <= TOKENS_AT_ONCE:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [np.array(group) for group in groups]


def _word_spans(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """First token and stop of each word of a text that was joined with spaces.

    A word that the tokenizer makes nothing of (a control character) takes the token before it.
    """
    # word of every character; a space belongs to the word behind it
    word_of = np.repeat(
        np.arange(len(words)), [len(word) + (i > 0) for i, word in enumerate(words)]
    )
    owners = np.array(
        [word_of[stop - 1] if stop > start else -1 for start, stop in offsets], dtype=np.int64
    )
    spans: list[tuple[int, int]] = []
    for word in range(len(words)):
        found = np.flatnonzero(owners == word)
        if len(found):
            spans.append((int(found[0]), int(found[-1]) + 1))
        else:
            before = max(spans[-1][1] - 1 if spans else 0, 0)
            spans.append((before, before + 1))
    return spans


class _Reading(NamedTuple):
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
        From the inputs of a part, and whether every hidden layer is wanted, to a `_Reading`.
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
        read: Callable[[dict[str, Tensor], bool], _Reading],
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
        self._module, self._read, self._preprocessing = module, read, preprocessing
        self._identifier, self._architecture = identifier, architecture
        self._pooling, self._subwords, self._finish = pooling, subwords, finish
        self._head, self._n_parameters, self._fixed = head, n_parameters, fixed
        self._named = tuple(f"layer{number}" for number in range(1, n_layers + 1))
        self._device = next(module.parameters()).device
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
            f"{name}.{len(part) - 1}"
            for name, part in self._module.named_modules()
            if isinstance(part, nn.ModuleList) and len(part) > 1
        ]
        return stacks[0] if stacks else None

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
            self._module.to(self._device)
            if self._finish is not None:
                self._finish.to(self._device)
        return self

    def _embed_part(
        self, part: _Part, layers: Sequence[str], every: bool
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


# --- loading ------------------------------------------------------------------------------------


def transformer_folder(source: str) -> dict[str, str]:
    """Where in a local sentence-transformers folder the transformer lies, for from_pretrained."""
    listed = Path(source) / "modules.json"
    if not listed.is_file():
        return {}
    path = str(json.loads(listed.read_text(encoding="utf-8"))[0].get("path", ""))
    return {"subfolder": path} if path else {}


def load_text(
    transformers: Any,
    identifier: str,
    source: str,
    query: str,
    config: Any,
    folder: Mapping[str, str],
) -> TextEncoder:
    """Load a text model of transformers with its weights and tokenizer.

    Parameters
    ----------
    transformers : module
    identifier, source, query : str
        Its whole name; id or folder; and the options after the question mark.
    config : transformers configuration
    folder : mapping
        The sub-folder of the transformer, as `transformer_folder` gives it.

    Raises
    ------
    EncoderError
        If an option is unknown, it cannot be loaded, lacks weights, or needs a part of
        sentence-transformers that is not known.
    MissingExtraError
        If it must be spread over devices, and accelerate is not installed.
    """
    options = Options.parse(query, identifier)
    own = options.pooling in (None, "own")
    tokenizer = loaded(identifier, transformers.AutoTokenizer.from_pretrained, source, **folder)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # without its files, transformers makes one that knows no word
        raise EncoderError(
            f"{identifier} lacks its tokenizer: {type(tokenizer).__name__} knows no words. "
            "Save the tokenizer beside the model (tokenizer.json)."
        )
    recipe = _sentence_recipe(transformers, identifier, source, own)
    decoder_only = (
        not config.is_encoder_decoder
        and type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        and type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING
    )
    kind = _head_kind(config) if recipe is None and own else None
    keep_pooler = recipe is None and kind is None and options.pooling == "own"
    model = _text_model(
        transformers, config, identifier, source, kind, keep_pooler, options, dict(folder)
    )
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    pooling: tuple[str, ...] = ("last" if decoder_only else "mean",)
    finish: nn.Module | None = None
    head: nn.Module | None = None
    if kind is not None:
        head = _head(model, config, identifier)
        n_parameters -= sum(parameter.numel() for parameter in head.parameters())
    accepted = set(inspect.signature(model.forward).parameters)
    extra = {"use_cache": False} if decoder_only else {}
    if kind is None:
        read = _plain(model, extra, keep_pooler)
    elif kind == "sequence" and decoder_only:
        base = model.base_model
        accepted = set(inspect.signature(base.forward).parameters)
        read = _plain(base, extra, False)
    elif kind == "sequence":
        assert head is not None
        read, head = _classifier(model, head, int(config.num_labels) > 1), None
    else:
        read, head = _token_classifier(model), None
    if head is not None and int(config.num_labels) < 2:
        head = None  # one output is a quantity, not a class
    if recipe is not None and own:
        pooling, finish = recipe.pooling, recipe.finish
    elif not own:
        pooling = (str(options.pooling),)
    limit = _limit(tokenizer, model, config, recipe, options, identifier)
    prompt = recipe.prompt if recipe else ""
    preprocessing = _preprocessing(tokenizer, limit, prompt, accepted, identifier)
    described = (pooling, options.subwords, kind, keep_pooler, finish, bool(recipe))
    return TextEncoder(
        model,
        read,
        preprocessing=preprocessing,
        identifier=identifier,
        architecture=f"transformers/{type(model).__name__}/{described}/{decisive(config)}",
        n_layers=int(config.num_hidden_layers),
        pooling=pooling,
        subwords=options.subwords,
        finish=finish,
        head=head,
        n_parameters=n_parameters,
        fixed=options.device_map is not None,
    )


def _head_kind(config: Any) -> str | None:
    for name in config.architectures or ():
        if name.endswith("ForSequenceClassification"):
            return "sequence"
        if name.endswith("ForTokenClassification"):
            return "token"
    return None


def _text_model(
    transformers: Any,
    config: Any,
    identifier: str,
    source: str,
    kind: str | None,
    keep_pooler: bool,
    options: Options,
    more: dict[str, Any],
) -> Any:
    """The model with its weights: of an encoder-decoder without head the encoder."""
    more["config"] = config
    if kind is not None:
        auto = getattr(
            transformers,
            "AutoModelForSequenceClassification"
            if kind == "sequence"
            else "AutoModelForTokenClassification",
        )
    elif config.is_encoder_decoder and type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING:
        auto = transformers.AutoModelForTextEncoding
    else:
        auto = transformers.AutoModel
        architecture = transformers.MODEL_MAPPING.get(type(config), None)
        poolable = architecture is not None and (
            "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
        )
        if keep_pooler and not poolable:
            raise EncoderError(
                f"{identifier} has no pooling of its own. "
                f"Choose one of: {', '.join(POOLINGS[:-1])}."
            )
        if poolable:
            more["add_pooling_layer"] = keep_pooler
    if options.device_map is not None:
        require("accelerate", extra="text", purpose="spread a model over devices (device_map)")
        half = torch.cuda.is_available()
        more |= {"device_map": "auto", "dtype": torch.bfloat16 if half else torch.float32}
    model, report = loaded(
        identifier, auto.from_pretrained, source, output_loading_info=True, **more
    )
    missing = report["missing_keys"]
    if kind is None and config.is_encoder_decoder:
        model = model.get_encoder()
        missing = [key for key in missing if not key.startswith("decoder.")]
    refuse_missing(identifier, model, missing)
    # from version 5 on, models come in the checkpoint's type
    return model if options.device_map is not None else model.float()


def _head(model: nn.Module, config: Any, identifier: str) -> nn.Module:
    """The last linear layer of a classifier."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != config.num_labels:
        raise EncoderError(
            f"{identifier} is a classifier ({type(model).__name__}) whose head cannot be found. "
            "Leave the head out with ?pooling=mean."
        )
    return linear[-1]


def _plain(
    model: Any, extra: Mapping[str, Any], with_pooler: bool
) -> Callable[[dict[str, Tensor], bool], _Reading]:
    def read(inputs: dict[str, Tensor], every: bool) -> _Reading:
        outputs = model(**inputs, **extra, output_hidden_states=every, return_dict=True)
        last = outputs.last_hidden_state
        # the first is the embedding; the last may lack the final normalisation
        hidden = (*outputs.hidden_states[1:-1], last) if every else (last,)
        return _Reading(hidden, outputs.pooler_output if with_pooler else None)

    return read


def _classifier(
    model: Any, head: nn.Module, with_logits: bool
) -> Callable[[dict[str, Tensor], bool], _Reading]:
    def read(inputs: dict[str, Tensor], _every: bool) -> _Reading:
        hidden: list[Tensor] = []

        def call(given: Any) -> Tensor:
            outputs = model(**given, output_hidden_states=True, return_dict=True)
            states = outputs.get("encoder_hidden_states") or outputs.hidden_states
            hidden.extend(states[1:])
            logits: Tensor = outputs.logits
            return logits

        pooled, logits = before_heads([head], call)(inputs)  # type: ignore[arg-type]
        return _Reading(hidden, pooled, logits if with_logits else None)

    return read


def _token_classifier(model: Any) -> Callable[[dict[str, Tensor], bool], _Reading]:
    def read(inputs: dict[str, Tensor], _every: bool) -> _Reading:
        outputs = model(**inputs, output_hidden_states=True, return_dict=True)
        return _Reading(outputs.hidden_states[1:], None, outputs.logits)

    return read


@dataclass(frozen=True)
class _Recipe:
    """What a sentence-transformers folder says besides the transformer."""

    pooling: tuple[str, ...]
    finish: nn.Module | None
    limit: int | None
    prompt: str


def _sentence_recipe(
    transformers: Any, identifier: str, source: str, whole: bool
) -> _Recipe | None:
    """What a folder of sentence-transformers says; None where it is none.

    Pooling, dense layers and normalisation only if it is wanted as a `whole`.
    """

    def find(path: str) -> Path | None:
        found = transformers.utils.cached_file(
            source,
            path.lstrip("/"),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if found is None else Path(found)

    def read(path: str) -> dict[str, Any]:
        file = find(path)
        return {} if file is None else dict(json.loads(file.read_text(encoding="utf-8")))

    listed = find("modules.json")
    if listed is None:
        return None
    modules = json.loads(listed.read_text(encoding="utf-8"))
    pooling: tuple[str, ...] = ("mean",)
    finish: list[nn.Module] = []
    for module in modules[1:] if whole else ():
        kind, path = module["type"].rpartition(".")[2], module["path"]
        settings = read(f"{path}/config.json")
        if kind == "Pooling":
            pooling = _sentence_pooling(settings, identifier)
        elif kind == "Dense":
            finish.append(_dense(settings, find, path, identifier))
        elif kind == "Normalize":
            finish.append(_Normalise())
        else:
            raise EncoderError(
                f"{identifier} has a part of sentence-transformers that is not known here: {kind}. "
                "Leave such parts out with ?pooling=mean."
            )
    first = modules[0].get("path", "")
    limits = read(f"{first}/sentence_bert_config.json" if first else "sentence_bert_config.json")
    prompts = read("config_sentence_transformers.json")
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")
    return _Recipe(
        pooling, nn.Sequential(*finish) if finish else None, limits.get("max_seq_length"), prompt
    )


def _sentence_pooling(settings: Mapping[str, Any], identifier: str) -> tuple[str, ...]:
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or ())
    modes = modes or [
        name.removeprefix("pooling_mode_")
        for name, on in settings.items()
        if name.startswith("pooling_mode_") and on
    ]
    unknown = [mode for mode in modes if mode not in _SENTENCE_POOLINGS]
    if unknown or not modes:
        raise EncoderError(
            f"{identifier} pools in a way that is not known here: {', '.join(unknown) or 'none'}. "
            "Choose another with ?pooling=mean."
        )
    return tuple(_SENTENCE_POOLINGS[mode] for mode in modes)


def _dense(
    settings: Mapping[str, Any], find: Callable[[str], Path | None], path: str, identifier: str
) -> nn.Module:
    layer = nn.Linear(settings["in_features"], settings["out_features"], settings.get("bias", True))
    safe, pickled = find(f"{path}/model.safetensors"), find(f"{path}/pytorch_model.bin")
    if safe is not None:
        from safetensors.torch import load_file

        weights = load_file(safe)
    elif pickled is not None:
        weights = torch.load(pickled, map_location="cpu", weights_only=True)
    else:
        raise EncoderError(f"{identifier} lacks the weights of {path}. Save the whole model.")
    layer.load_state_dict({name.removeprefix("linear."): value for name, value in weights.items()})
    name = str(settings.get("activation_function", "torch.nn.modules.linear.Identity"))
    activation = getattr(nn, name.rpartition(".")[2], None)
    if activation is None or not name.startswith("torch.nn."):
        raise EncoderError(
            f"{identifier} uses the activation {name}, which is not torch's. "
            "Leave its dense layers out with ?pooling=mean."
        )
    return nn.Sequential(layer.float(), activation())


class _Normalise(nn.Module):
    """Vectors of length one."""

    def forward(self, features: Tensor) -> Tensor:
        """Divide every row by its Euclidean norm."""
        return nn.functional.normalize(features, dim=1)


def _limit(
    tokenizer: Any,
    model: nn.Module,
    config: Any,
    recipe: _Recipe | None,
    options: Options,
    identifier: str,
) -> int | None:
    """How many tokens may be read; None: any number."""
    positions = getattr(config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        # RoBERTa and its like count positions from the one after the padding's
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            positions = module.num_embeddings - module.padding_idx - 1
    if positions is not None and positions <= 0:
        positions = None  # relative positions
    wanted = options.max_length
    if wanted is not None:
        least = tokenizer.num_special_tokens_to_add(pair=True) + 1
        if wanted < least or (positions is not None and wanted > positions):
            raise EncoderError(
                f"max_length of {identifier} must lie between {least} and "
                f"{positions if positions is not None else 'what memory allows'}, got {wanted}."
            )
        return wanted
    limits = [positions, recipe.limit if recipe else None]
    if tokenizer.model_max_length < 1_000_000_000:  # beyond stands for "not known"
        limits.append(tokenizer.model_max_length)
    known = [int(limit) for limit in limits if limit]
    return min(known) if known else None


def _preprocessing(
    tokenizer: Any, limit: int | None, prompt: str, accepted: set[str], identifier: str
) -> TextPreprocessing:
    if "attention_mask" not in accepted:
        raise EncoderError(
            f"{identifier} cannot leave padding out of account (it takes no attention_mask): its "
            "features would depend on the texts beside. Choose another encoder."
        )
    names = [name for name in tokenizer.model_input_names if name in accepted]
    tokenizer.model_input_names = list(dict.fromkeys([*names, "attention_mask"]))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = repr(sorted(tokenizer.get_vocab().items())) if backend is None else backend.to_str()
    specials = sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items())
    facts = (type(tokenizer).__name__, rules, specials, limit, prompt, sorted(names))
    key = hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass")).hexdigest()
    return TextPreprocessing(tokenizer, limit, prompt, f"text:{key}")
