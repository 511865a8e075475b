"""What a folder of sentence-transformers holds besides the transformer.

Pooling, dense layers, normalisation, a prompt and a limit of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from transferscope.errors import EncoderError

#: A JSON file of settings.
Settings: TypeAlias = Mapping[str, Any]

# the names of poolings in sentence-transformers
_POOLINGS = {
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
class SentenceRecipe:
    """What a folder of sentence-transformers does besides the transformer.

    Parameters
    ----------
    pooling : tuple of str
        How the tokens of a text are pooled; several are put side by side.
    finish : torch.nn.Module or None
        Layers that are applied to the pooled features.
    limit : int or None
        Number of tokens that are read.
    prompt : str
        Text that is put before every text.
    """

    pooling: tuple[str, ...]
    finish: nn.Module | None
    limit: int | None
    prompt: str


@dataclass(frozen=True)
class _Folder:
    """A folder of sentence-transformers, local or on the hub."""

    transformers: ModuleType
    source: str

    def find(self, path: str) -> Path | None:
        found = self.transformers.utils.cached_file(
            self.source,
            path.lstrip("/"),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if found is None else Path(found)

    def settings(self, path: str) -> Settings:
        file = self.find(path)
        return {} if file is None else dict(json.loads(file.read_text(encoding="utf-8")))


def transformer_folder(source: str) -> dict[str, str]:
    """Find the transformer in a local folder of sentence-transformers, for ``from_pretrained``."""
    listed = Path(source) / "modules.json"
    if not listed.is_file():
        return {}
    path = str(json.loads(listed.read_text(encoding="utf-8"))[0].get("path", ""))
    return {"subfolder": path} if path else {}


def read_recipe(
    transformers: ModuleType, identifier: str, source: str, *, own_pooling: bool
) -> SentenceRecipe | None:
    """Read a folder of sentence-transformers.

    Parameters
    ----------
    transformers : module
    identifier, source : str
        The whole name, for messages; id or folder.
    own_pooling : bool
        Whether its pooling, dense layers and normalisation are used.

    Returns
    -------
    SentenceRecipe or None
        None where it is no such folder.

    Raises
    ------
    EncoderError
        If it needs a part that is not known.
    """
    folder = _Folder(transformers, source)
    listed = folder.find("modules.json")
    if listed is None:
        return None
    modules = json.loads(listed.read_text(encoding="utf-8"))
    first = modules[0].get("path", "")
    limits = folder.settings(f"{first}/sentence_bert_config.json".lstrip("/"))
    prompts = folder.settings("config_sentence_transformers.json")
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name") or "", "")
    pooling: tuple[str, ...] = ("mean",)
    finish: list[nn.Module] = []
    for module in modules[1:] if own_pooling else ():
        kind, path = module["type"].rpartition(".")[2], module["path"]
        settings = folder.settings(f"{path}/config.json")
        if kind == "Pooling":
            pooling = _pooling(settings, identifier)
            if prompt and not settings.get("include_prompt", True):
                raise EncoderError(
                    f"encoder {identifier} leaves its prompt {prompt!r} out of the pooling, which "
                    "is not known here. Pool it with the rest by ?pooling=mean."
                )
        elif kind == "Dense":
            finish.append(_dense(settings, folder, path, identifier))
        elif kind == "Normalize":
            finish.append(_Normalise())
        else:
            raise EncoderError(
                f"encoder {identifier} has a part of sentence-transformers that is not known here: "
                f"{kind}. Leave such parts out with ?pooling=mean."
            )
    return SentenceRecipe(
        pooling, nn.Sequential(*finish) if finish else None, limits.get("max_seq_length"), prompt
    )


def _pooling(settings: Settings, identifier: str) -> tuple[str, ...]:
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or ())
    modes = modes or [
        name.removeprefix("pooling_mode_")
        for name, on in settings.items()
        if name.startswith("pooling_mode_") and on
    ]
    unknown = [mode for mode in modes if mode not in _POOLINGS]
    if unknown or not modes:
        raise EncoderError(
            f"encoder {identifier} pools in a way that is not known here: "
            f"{', '.join(unknown) or 'none'}. Choose another with ?pooling=mean."
        )
    return tuple(_POOLINGS[mode] for mode in modes)


def _dense(settings: Settings, folder: _Folder, path: str, identifier: str) -> nn.Module:
    layer = nn.Linear(settings["in_features"], settings["out_features"], settings.get("bias", True))
    weights = _weights(folder, path, identifier)
    layer.load_state_dict({name.removeprefix("linear."): value for name, value in weights.items()})
    name = str(settings.get("activation_function", "torch.nn.modules.linear.Identity"))
    activation = getattr(nn, name.rpartition(".")[2], None)
    if activation is None or not name.startswith("torch.nn."):
        raise EncoderError(
            f"encoder {identifier} uses the activation {name}, which is not part of torch. "
            "Leave its dense layers out with ?pooling=mean."
        )
    return nn.Sequential(layer.float(), activation())


def _weights(folder: _Folder, path: str, identifier: str) -> Mapping[str, Tensor]:
    if (safe := folder.find(f"{path}/model.safetensors")) is not None:
        from safetensors.torch import load_file

        return load_file(safe)
    if (pickled := folder.find(f"{path}/pytorch_model.bin")) is not None:
        loaded: Mapping[str, Tensor] = torch.load(pickled, map_location="cpu", weights_only=True)
        return loaded
    raise EncoderError(f"encoder {identifier} lacks the weights of {path}. Save the whole model.")


class _Normalise(nn.Module):
    """Vectors of length one."""

    def forward(self, features: Tensor) -> Tensor:
        """Divide every row by its Euclidean norm."""
        return nn.functional.normalize(features, dim=1)
