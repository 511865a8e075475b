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
the texts beside it. Texts of like length are read together, see `_text_tokens`. A text without any
token is read as one end-of-text token.

**What is too long** is cut off, and counted for every text. With a tag per word nothing is cut
off: a sentence that is too long is read in parts, and what a word did not see is counted.

This module imports torch at the top; transformers is handed in.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn

from transferscope.encoders._text_encoder import Reading, TextEncoder
from transferscope.encoders._text_tokens import TextPreprocessing
from transferscope.encoders._torch_encoder import before_heads
from transferscope.encoders.transformers_encoders import decisive, loaded, refuse_missing
from transferscope.errors import EncoderError, require

POOLINGS = ("mean", "first", "last", "weighted-mean", "own")
SUBWORDS = ("mean", "first", "last")

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
) -> Callable[[dict[str, Tensor], bool], Reading]:
    def read(inputs: dict[str, Tensor], every: bool) -> Reading:
        outputs = model(**inputs, **extra, output_hidden_states=every, return_dict=True)
        last = outputs.last_hidden_state
        # the first is the embedding; the last may lack the final normalisation
        hidden = (*outputs.hidden_states[1:-1], last) if every else (last,)
        return Reading(hidden, outputs.pooler_output if with_pooler else None)

    return read


def _classifier(
    model: Any, head: nn.Module, with_logits: bool
) -> Callable[[dict[str, Tensor], bool], Reading]:
    def read(inputs: dict[str, Tensor], _every: bool) -> Reading:
        hidden: list[Tensor] = []

        def call(given: Any) -> Tensor:
            outputs = model(**given, output_hidden_states=True, return_dict=True)
            states = outputs.get("encoder_hidden_states") or outputs.hidden_states
            hidden.extend(states[1:])
            logits: Tensor = outputs.logits
            return logits

        pooled, logits = before_heads([head], call)(inputs)  # type: ignore[arg-type]
        return Reading(hidden, pooled, logits if with_logits else None)

    return read


def _token_classifier(model: Any) -> Callable[[dict[str, Tensor], bool], Reading]:
    def read(inputs: dict[str, Tensor], _every: bool) -> Reading:
        outputs = model(**inputs, output_hidden_states=True, return_dict=True)
        return Reading(outputs.hidden_states[1:], None, outputs.logits)

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
    with_prompt = True
    finish: list[nn.Module] = []
    for module in modules[1:] if whole else ():
        kind, path = module["type"].rpartition(".")[2], module["path"]
        settings = read(f"{path}/config.json")
        if kind == "Pooling":
            pooling = _sentence_pooling(settings, identifier)
            with_prompt = settings.get("include_prompt", True)
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
    if prompt and not with_prompt:
        raise EncoderError(
            f"{identifier} leaves its prompt {prompt!r} out of the pooling, which is not known "
            "here. Pool it with the rest by ?pooling=mean."
        )
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
