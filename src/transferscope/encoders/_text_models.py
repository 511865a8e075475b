"""Language models of transformers with their weights, and how their outputs are read.

This module imports torch at the top; transformers is passed in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from transferscope.encoders._adapters import Adapter
from transferscope.encoders._pretrained import Config, Pretrained, require_weights
from transferscope.encoders._text_options import POOLINGS, TextOptions
from transferscope.encoders._torch_encoder import before_heads
from transferscope.errors import EncoderError, require

#: Token ids and masks by name, each (n, width).
Inputs: TypeAlias = dict[str, Tensor]

_AUTO_CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
}


class Reading(NamedTuple):
    """The outputs of one forward pass over one part of a batch."""

    hidden: Sequence[Tensor]  # (n, width, dim) of each requested layer, the last one at the end
    pooled: Tensor | None = None  # (n, dim), where the checkpoint pools by itself
    logits: Tensor | None = None  # (n, n_source_classes), or (n, width, n_source_classes)


class Reader(Protocol):
    """Runs a model on a part of a batch."""

    def __call__(self, inputs: Inputs, *, all_layers: bool) -> Reading:
        """Read the last hidden state, and the other layers where they are wanted."""


@dataclass(frozen=True)
class TextModel:
    """A language model with its weights, and how it is read.

    Parameters
    ----------
    module : torch.nn.Module
    read : Reader
    n_layers : int
    n_parameters : int
        Without the head.
    n_embeddings : int or None
        How many tokens its embedding has rows for; None: any number.
    accepted : set of str
        Names of its inputs.
    head : torch.nn.Module or None
        The classifier on the pooled features, where `read` gives no logits.
    spread : bool
        Whether it is spread over devices, so that it cannot be moved.
    """

    module: nn.Module
    read: Reader
    n_layers: int
    n_parameters: int
    n_embeddings: int | None
    accepted: Set[str]
    head: nn.Module | None = None
    spread: bool = False


@dataclass(frozen=True)
class ModelKind:
    """Which parts of a checkpoint are loaded.

    Parameters
    ----------
    classifier : {"sequence", "token"} or None
        What its head classifies: texts, or each token. None: the model without a head.
    pooler : bool
        Whether its trained pooler gives the features of texts.
    decoder_only : bool
        Whether it reads from left to right only.
    """

    classifier: Literal["sequence", "token"] | None
    pooler: bool
    decoder_only: bool


def model_kind(
    place: Pretrained, config: Config, options: TextOptions, *, is_sentence: bool
) -> ModelKind:
    """Decide which parts of a checkpoint are loaded.

    Parameters
    ----------
    place : Pretrained
    config : configuration of transformers
    options : TextOptions
    is_sentence : bool
        Whether it is of sentence-transformers, whose folder tells how to pool.
    """
    transformers = place.transformers
    classifier: Literal["sequence", "token"] | None = None
    if options.own_pooling and not is_sentence:
        for name in config.architectures or ():
            if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
                classifier = "sequence" if "Sequence" in name else "token"
                break
    return ModelKind(
        classifier,
        pooler=options.pooling == "own" and classifier is None and not is_sentence,
        decoder_only=(
            not config.is_encoder_decoder
            and type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
            and type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING
        ),
    )


def load_model(
    place: Pretrained,
    adapter: Adapter | None,
    config: Config,
    kind: ModelKind,
    options: TextOptions,
) -> TextModel:
    """Load a language model with its weights.

    Parameters
    ----------
    place : Pretrained
    adapter : Adapter or None
        What was trained on top of it.
    config : configuration of transformers
    kind : ModelKind
    options : TextOptions

    Returns
    -------
    TextModel
        Of an encoder-decoder without head the encoder.

    Raises
    ------
    EncoderError
        If it cannot be loaded, lacks weights, its head cannot be found, or the adapter does not
        fit.
    MissingExtraError
        If it must be spread over devices, and accelerate is not installed.
    """
    model = _with_weights(place, adapter, config, kind, options)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    reading = model  # the part whose forward pass is read
    head: nn.Module | None = None
    cache = {"use_cache": False} if kind.decoder_only else {}
    if kind.classifier is None:
        read = _plain(model, cache, with_pooler=kind.pooler)
    else:
        last = _head(model, config, place.identifier)
        n_parameters -= sum(parameter.numel() for parameter in last.parameters())
        has_classes = int(config.num_labels) > 1  # one output is a quantity, not a class
        if kind.classifier == "token":
            read = _token_classifier(model)
        elif kind.decoder_only:
            reading = model.base_model
            read = _plain(reading, cache, with_pooler=False)
            head = last if has_classes else None
        else:
            read = _classifier(model, last, with_logits=has_classes)
    return TextModel(
        model,
        read,
        n_layers=int(config.num_hidden_layers),
        n_parameters=n_parameters,
        n_embeddings=_n_embeddings(model),
        accepted=set(inspect.signature(reading.forward).parameters),
        head=head,
        spread=options.device_map is not None,
    )


def _with_weights(
    place: Pretrained,
    adapter: Adapter | None,
    config: Config,
    kind: ModelKind,
    options: TextOptions,
) -> Any:
    transformers = place.transformers
    more: dict[str, object] = {"config": config}
    encoder = _encoder_class(transformers, config)
    if kind.classifier is not None:
        auto = getattr(transformers, _AUTO_CLASSES[kind.classifier])
    elif encoder is not None:
        auto = encoder
    else:
        auto = transformers.AutoModel
        more |= _pooler_option(transformers, config, place.identifier, keep=kind.pooler)
    if options.device_map is not None:
        require("accelerate", extra="text", purpose="spread a model over devices (device_map)")
        half = torch.cuda.is_available()
        more |= {"device_map": "auto", "dtype": torch.bfloat16 if half else torch.float32}
    model, report = place.load_model(auto, **more)
    encoder_only = kind.classifier is None and config.is_encoder_decoder
    require_weights(
        place.identifier,
        model,
        report,
        needed=lambda key: not (encoder_only and key.startswith("decoder.")),
    )
    # from version 5 on, models come in the checkpoint's type
    model = model if options.device_map is not None else model.float()
    if adapter is not None:
        adapter.merge_into(model)
    return model.get_encoder() if encoder_only else model


def _encoder_class(transformers: ModuleType, config: Config) -> Any:
    """The class of T5 and its kin that is the encoder alone, None for other models.

    Where the encoder was saved alone, the configuration may not call itself an encoder-decoder.
    """
    of_kind = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None)
    names = [*(config.architectures or ()), getattr(of_kind, "__name__", "")]
    found = (getattr(transformers, name, None) for name in names if name.endswith("EncoderModel"))
    return next((one for one in found if one is not None), None)


def _pooler_option(
    transformers: ModuleType, config: Config, identifier: str, *, keep: bool
) -> dict[str, bool]:
    """Say whether the pooler is built, where the architecture has one."""
    architecture = transformers.MODEL_MAPPING.get(type(config), None)
    if architecture is not None and (
        "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
    ):
        return {"add_pooling_layer": keep}
    if keep:
        raise EncoderError(
            f"encoder {identifier} has no pooling of its own. "
            f"Choose one of: {', '.join(POOLINGS[:-1])}."
        )
    return {}


def _n_embeddings(model: Any) -> int | None:
    try:
        rows: int | None = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):  # there is no table of tokens
        return None
    return rows


def _head(model: nn.Module, config: Config, identifier: str) -> nn.Module:
    """Find the last linear layer of a classifier."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != config.num_labels:
        raise EncoderError(
            f"encoder {identifier} is a classifier ({type(model).__name__}) whose head cannot be "
            "found. Leave the head out with ?pooling=mean."
        )
    return linear[-1]


def _plain(model: Callable[..., Any], cache: Mapping[str, bool], *, with_pooler: bool) -> Reader:
    def read(inputs: Inputs, *, all_layers: bool) -> Reading:
        outputs = model(**inputs, **cache, output_hidden_states=all_layers)
        last = outputs.last_hidden_state
        # the first is the embedding; the last may lack the final normalisation
        hidden = (*outputs.hidden_states[1:-1], last) if all_layers else (last,)
        return Reading(hidden, outputs.pooler_output if with_pooler else None)

    return read


def _classifier(model: Callable[..., Any], head: nn.Module, *, with_logits: bool) -> Reader:
    def read(inputs: Inputs, *, all_layers: bool) -> Reading:
        del all_layers  # the head needs them all
        hidden: list[Tensor] = []

        def call(given: Inputs) -> Tensor:
            outputs = model(**given, output_hidden_states=True)
            states = outputs.get("encoder_hidden_states") or outputs.hidden_states
            hidden.extend(states[1:])
            logits: Tensor = outputs.logits
            return logits

        pooled, logits = before_heads([head], call)(inputs)
        return Reading(hidden, pooled, logits if with_logits else None)

    return read


def _token_classifier(model: Callable[..., Any]) -> Reader:
    def read(inputs: Inputs, *, all_layers: bool) -> Reading:
        del all_layers  # the head needs them all
        outputs = model(**inputs, output_hidden_states=True)
        return Reading(outputs.hidden_states[1:], None, outputs.logits)

    return read
