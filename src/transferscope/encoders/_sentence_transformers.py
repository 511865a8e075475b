"""What a folder of sentence-transformers holds besides the transformer.

Pooling, dense layers, norms, a prompt, lower case and a limit of tokens. Every module of
``modules.json`` and every setting in the files that it names is used, or is known not to change
features, or is refused.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor, nn

from transferscope.encoders._pretrained import PREFIX, Pretrained, first_line
from transferscope.encoders._text_pooling import Pooling
from transferscope.errors import CheckpointError, EncoderError, first_few
from transferscope.storage import read_weights_file

#: The settings of one file.
Settings = Mapping[str, object]

# names of poolings, in the order in which switched-on ones stand side by side
_POOLINGS = {
    "cls_token": "first",
    "max_tokens": "max",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt",
    "weightedmean_tokens": "weighted-mean",
    "lasttoken": "last",
    "cls": "first",
    "max": "max",
    "mean": "mean",
    "weightedmean": "weighted-mean",
}
_SWITCH = "pooling_mode_"

_MODULE_FILES = tuple(
    f"sentence_{kind}config.json"
    for kind in ("bert_", "roberta_", "distilbert_", "camembert_", "albert_", "xlm-roberta_",
                 "xlnet_")
)  # fmt: skip
# how weights and tokenizers are loaded: what of it does not touch features
_LOADING = frozenset({"attn_implementation", "dtype", "torch_dtype", "trust_remote_code",
                      "low_cpu_mem_usage", "use_safetensors", "add_pooling_layer",
                      "use_fast"})  # fmt: skip
_LOADED = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args",
           "config_kwargs")  # fmt: skip
# settings that do not change the features of a text, by file
_HARMLESS = {
    "modules.json": {"idx", "name", "kwargs"},  # the arguments that encode() passes on
    # padding is masked either way; lengths of multi-vector models' queries and documents
    "sentence_bert": {"unpad_inputs", "query_length", "document_length", "query_expansion"},
    # versions; how vectors are compared later
    "whole": {"__version__", "requirements", "similarity_fn_name"},
    "Pooling": {"word_embedding_dimension", "embedding_dimension"},  # the model's own
    "Dropout": {"dropout"},  # only in training
    "LayerNorm": {"dimension"},  # its weights show it
}
# settings that are understood with these values only
_ONLY: dict[str, dict[str, Collection[object]]] = {
    "whole": {"model_type": (None, "SentenceTransformer"), "truncate_dim": (None,)},
    "sentence_bert": {
        "transformer_task": ("feature-extraction",),
        "module_output_name": (None, "token_embeddings"),
        "processing_kwargs": (None, {}),
        "tokenizer_name_or_path": (None,),
    },
    "Dense": {"module_input_name": ("sentence_embedding",),
              "module_output_name": (None, "sentence_embedding")},
    "Normalize": {"module_input_name": ("sentence_embedding",),
                  "module_output_name": (None, "sentence_embedding")},
}  # fmt: skip
_TEXT_WAYS = (("forward", "last_hidden_state"), ("forward", ["last_hidden_state"]))


class SentenceModule(NamedTuple):
    """One entry of ``modules.json``."""

    kind: str
    path: str


@dataclass(frozen=True)
class SentenceFolder:
    """A folder of sentence-transformers.

    Parameters
    ----------
    place : Pretrained
        The whole folder.
    modules : tuple of SentenceModule
        Its parts; the first one is a transformer.
    """

    place: Pretrained
    modules: tuple[SentenceModule, ...]

    @property
    def transformer(self) -> Pretrained:
        """Where its transformer lies."""
        return replace(self.place, subfolder=self.modules[0].path.strip("/"))


@dataclass(frozen=True)
class SentenceRecipe:
    """What a folder of sentence-transformers does besides the transformer.

    Parameters
    ----------
    pooling : Pooling
    limit : int or None
        Number of tokens that are read.
    prompt : str
        Text that is put before every text.
    lower_case : bool
        Whether texts are read in lower case.
    """

    pooling: Pooling
    limit: int | None
    prompt: str
    lower_case: bool

    def require_width(self, width: int, identifier: str) -> None:
        """Refuse layers that do not fit a transformer of this width."""
        if self.pooling.finish is None:
            return
        width *= len(self.pooling.texts)
        try:
            with torch.inference_mode():
                self.pooling.finish(torch.zeros(1, width))
        except RuntimeError as error:
            raise EncoderError(
                f"layers after the pooling of encoder {identifier} do not take its "
                f"{width} pooled features ({first_line(error)}). Save the "
                "model again, or leave them out with ?pooling=mean."
            ) from error


def read_modules(place: Pretrained) -> SentenceFolder | None:
    """Read which parts a folder of sentence-transformers has; None where it is no such folder.

    Raises
    ------
    EncoderError
        If the list is damaged, or does not begin with a transformer.
    """
    file = place.find("modules.json")
    if file is None:
        return None
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        modules = []
        for entry in listed:
            _refuse_unknown(entry, place, "modules.json", read=("type", "path"))
            modules.append(SentenceModule(_kind(str(entry["type"])), str(entry.get("path") or "")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, EncoderError):
            raise
        raise EncoderError(
            f"modules.json of encoder {place.identifier} is no list of modules ({error}). Copy the "
            "folder again."
        ) from error
    for _, path in modules:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise EncoderError(
                f"modules.json of encoder {place.identifier} names {path}, which is outside of its "
                "folder. Copy the folder again."
            )
    if not modules or modules[0].kind != "Transformer":
        first = modules[0].kind if modules else "nothing"
        raise EncoderError(
            f"encoder {place.identifier} begins with {first}, a part of sentence-transformers "
            "that is not known here. Give a folder that begins with Transformer, or as "
            f"{PREFIX}<folder> a model that transformers saved."
        )
    return SentenceFolder(place, tuple(modules))


def read_recipe(folder: SentenceFolder, *, own_pooling: bool) -> SentenceRecipe:
    """Read a folder of sentence-transformers.

    Parameters
    ----------
    folder : SentenceFolder
    own_pooling : bool
        Whether its pooling, dense layers and norms are used.

    Returns
    -------
    SentenceRecipe

    Raises
    ------
    EncoderError
        If it needs a part or a setting that is not known.
    """
    place, modules = folder.place, folder.modules
    limit, lower_case = _reading(place, modules[0].path)
    prompt = _prompt(place)
    texts: tuple[str, ...] = ("mean",)
    finish: list[nn.Module] = []
    if own_pooling:
        kinds = [module.kind for module in modules[1:]]
        if kinds[:1] != ["Pooling"]:
            raise _unknown_part(place, kinds[0] if kinds else "no Pooling after its Transformer")
        texts = _pooling(place, modules[1].path, prompt)
        finish = [_layer(place, module) for module in modules[2:]]
    pooling = Pooling(texts, finish=nn.Sequential(*finish) if finish else None)
    return SentenceRecipe(pooling, limit, prompt, lower_case)


def _kind(name: str) -> str:
    """Short name of a class of sentence-transformers, the whole name of others."""
    return name.rpartition(".")[2] if name.startswith("sentence_transformers.") else name


def _unknown_part(place: Pretrained, kind: str) -> EncoderError:
    return EncoderError(
        f"encoder {place.identifier} has a part of sentence-transformers that is not known here: "
        f"{kind}. Leave such parts out with ?pooling=mean."
    )


def _refuse_unknown(
    settings: Settings, place: Pretrained, kind: str, *, read: Collection[str] = (), file: str = ""
) -> None:
    """Refuse settings that are neither read nor known to be harmless."""
    only = _ONLY.get(kind, {})
    unknown = [
        f"{name}={value!r}"
        for name, value in settings.items()
        if name not in read
        and name not in _HARMLESS.get(kind, ())
        and not (name in only and value in only[name])
    ]
    if unknown:
        raise EncoderError(
            f"{file or kind} of encoder {place.identifier} has settings that are not known here "
            f"and may change the features: {first_few(unknown)}. Remove them from a copy if they "
            "do not, or use transferscope.from_module."
        )


def _reading(place: Pretrained, path: str) -> tuple[int | None, bool]:
    """How many tokens are read, and whether in lower case."""
    for name in _MODULE_FILES:  # each kind of transformer once had its own
        settings = place.settings(f"{path}/{name}")
        if settings:
            break
    ways = settings.get("modality_config")
    text = ways.get("text") if isinstance(ways, dict) else ways
    plain = isinstance(text, dict) and (text.get("method"), text.get("method_output_name"))
    if ways is not None and plain not in _TEXT_WAYS:
        raise EncoderError(
            f"{name} of encoder {place.identifier} takes its features of texts by {text!r}, which "
            f"is not known here. Give as {PREFIX}<folder> a model that transformers saved."
        )
    for key in _LOADED:
        given = settings.get(key) or {}
        given = given if isinstance(given, dict) else {key: given}
        _refuse_unknown(given, place, key, read=_LOADING, file=f"{key} in {name}")
    read = ("max_seq_length", "do_lower_case", "modality_config", *_LOADED)
    _refuse_unknown(settings, place, "sentence_bert", read=read, file=name)
    limit = settings.get("max_seq_length")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise EncoderError(
            f"max_seq_length in {name} of encoder {place.identifier} must be a number of tokens; "
            f"got {limit!r}. Correct it, or leave it out."
        )
    return limit, bool(settings.get("do_lower_case"))


def _prompt(place: Pretrained) -> str:
    """The text that is put before every text."""
    name = "config_sentence_transformers.json"
    settings = place.settings(name)
    _refuse_unknown(settings, place, "whole", read=("prompts", "default_prompt_name"), file=name)
    given = settings.get("prompts")
    # two prompts that every model has, empty by default
    prompts = {"query": "", "document": "", **(given if isinstance(given, dict) else {})}
    chosen = settings.get("default_prompt_name")
    if chosen is not None and chosen not in prompts:
        raise EncoderError(
            f"default_prompt_name {chosen!r} of encoder {place.identifier} must be one of its "
            f"prompts: {first_few(prompts)}. Correct {name}."
        )
    return str(prompts[chosen] or "") if chosen is not None else ""


def _pooling(place: Pretrained, path: str, prompt: str) -> tuple[str, ...]:
    settings = _required(place, path)
    switched = [mode for mode in _POOLINGS if f"{_SWITCH}{mode}" in settings]
    named = settings.get("pooling_mode")
    if named is None:
        modes = [mode for mode in switched if settings[f"{_SWITCH}{mode}"]] or ["mean"]
    else:
        modes = [str(mode) for mode in (named if isinstance(named, list) else [named])]
    unknown = [mode for mode in modes if mode not in _POOLINGS]
    unknown += [
        name.removeprefix(_SWITCH)
        for name, on in settings.items()
        if name.startswith(_SWITCH) and name.removeprefix(_SWITCH) not in _POOLINGS and on
    ]
    if unknown or not modes:
        raise EncoderError(
            f"encoder {place.identifier} pools in a way that is not known here: "
            f"{', '.join(unknown) or 'none'}. Choose another with ?pooling=mean."
        )
    switches = [name for name in settings if name.startswith(_SWITCH)]
    read = ("pooling_mode", "include_prompt", *switches)
    _refuse_unknown(settings, place, "Pooling", read=read, file=f"{path}/config.json")
    if prompt and not settings.get("include_prompt", True):
        raise EncoderError(
            f"encoder {place.identifier} leaves its prompt {prompt!r} out of the pooling, which "
            "is not known here. Pool it with the rest by ?pooling=mean."
        )
    return tuple(_POOLINGS[mode] for mode in modes)


def _layer(place: Pretrained, module: SentenceModule) -> nn.Module:
    """Make a layer that is applied to pooled features."""
    file = f"{module.path}/config.json"
    if module.kind == "Dense":
        return _dense(place, module.path)
    if module.kind == "LayerNorm":
        settings = _required(place, module.path)
        _refuse_unknown(settings, place, module.kind, file=file)
        weights = _weights(place, module.path)
        width = len(weights["norm.weight"]) if "norm.weight" in weights else 0
        norm = nn.Sequential(OrderedDict(norm=nn.LayerNorm(width)))
        return _filled(place, module.path, norm, weights)
    if module.kind in ("Normalize", "Dropout"):
        _refuse_unknown(place.settings(file), place, module.kind, file=file)
        return _Normalise() if module.kind == "Normalize" else nn.Identity()
    raise _unknown_part(place, module.kind)


def _dense(place: Pretrained, path: str) -> nn.Module:
    settings = _required(place, path)
    read = ("in_features", "out_features", "bias", "activation_function", "use_residual")
    _refuse_unknown(settings, place, "Dense", read=read, file=f"{path}/config.json")
    sizes = [settings.get(name) for name in ("in_features", "out_features")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise EncoderError(
            f"{path}/config.json of encoder {place.identifier} must give in_features and "
            f"out_features; got {sizes}. Save the model again."
        )
    layer = _Dense(
        int(str(sizes[0])),
        int(str(sizes[1])),
        _activation(place, str(settings.get("activation_function", "torch.nn.Tanh"))),
        bias=bool(settings.get("bias", True)),
        residual=bool(settings.get("use_residual")),
    )
    return _filled(place, path, layer, _weights(place, path))


def _activation(place: Pretrained, name: str) -> nn.Module:
    made = getattr(nn, name.rpartition(".")[2], None) if name.startswith("torch.nn.") else None
    try:
        if isinstance(made, type) and issubclass(made, nn.Module):
            return made()
    except TypeError:  # it needs arguments
        pass
    raise EncoderError(
        f"encoder {place.identifier} uses the activation {name}, which is not part of torch. "
        "Leave its dense layers out with ?pooling=mean."
    )


def _required(place: Pretrained, path: str) -> Settings:
    settings = place.settings(f"{path}/config.json")
    if not settings:
        raise EncoderError(
            f"encoder {place.identifier} lacks {path}/config.json. Save the whole model."
        )
    return settings


def _weights(place: Pretrained, path: str) -> dict[str, Tensor]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (file := place.find(f"{path}/{name}")) is not None:
            content = read_weights_file(file)
            return {key: value for key, value in content.items() if isinstance(value, Tensor)}
    raise EncoderError(
        f"encoder {place.identifier} lacks the weights of {path}. Save the whole model."
    )


def _filled(
    place: Pretrained, path: str, layer: nn.Module, weights: Mapping[str, Tensor]
) -> nn.Module:
    """Put weights into a layer, all of them and no others."""
    try:
        layer.load_state_dict(dict(weights))
    except RuntimeError as error:
        said = "; ".join(line.strip() for line in str(error).splitlines()[1:])
        raise CheckpointError(
            f"weights of {path} of encoder {place.identifier} are not those that its config.json "
            f"describes ({said}). Save the whole model."
        ) from error
    return layer.float()


class _Dense(nn.Module):
    """A linear layer with an activation, and perhaps a way around both."""

    def __init__(
        self, width: int, out: int, activation: nn.Module, *, bias: bool, residual: bool
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias)
        self.activation = activation
        self.around = residual
        if residual and width != out:
            self.residual = nn.Linear(width, out, bias=False)

    def extra_repr(self) -> str:
        """Say whether there is a way around: it goes into the fingerprint."""
        return f"around={self.around}"

    def forward(self, features: Tensor) -> Tensor:
        """Apply the layer."""
        made: Tensor = self.activation(self.linear(features))
        if not self.around:
            return made
        return made + (self.residual(features) if hasattr(self, "residual") else features)


class _Normalise(nn.Module):
    """Vectors of length one."""

    def forward(self, features: Tensor) -> Tensor:
        """Divide every row by its Euclidean norm."""
        return nn.functional.normalize(features, dim=1)
