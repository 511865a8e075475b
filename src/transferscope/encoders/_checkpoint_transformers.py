"""Weights files in the names of Hugging Face transformers: ``?arch=hf/<folder>``.

The folder holds ``config.json`` and the files of the image processor or tokenizer; weights in it
are not looked at. transformers knows under which names each of its versions saved a network, and
loads folders: so one is made for it, for as long as it reads, of those files and of the tensors.

This module imports torch at the top, and transformers when used.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from torch import Tensor

from transferscope.encoders._checkpoint_layouts import PLAIN, preference
from transferscope.encoders._checkpoint_matching import FileIndex, MatchReport, splits
from transferscope.encoders._pretrained import PREFIX
from transferscope.encoders._text_encoder import TextEncoder
from transferscope.encoders._torch_encoder import TorchEncoder
from transferscope.encoders._transformers import load_transformers
from transferscope.errors import CheckpointError, EncoderError, first_few, require

_WEIGHTS = (".safetensors", ".bin", ".index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_CLASSIFIER = re.compile(r"((cls_)?classifier(\.\d|\.out_proj)?|head)\.weight")
# what the names of a network begin with that was saved without a head
_BARE = frozenset({"embeddings", "encoder", "embedder", "layers", "stages", "stem"})


def load_into_transformers(
    index: FileIndex, arch: str, identifier: str
) -> TorchEncoder | TextEncoder:
    """Load a network of transformers with weights from a file.

    Parameters
    ----------
    index : FileIndex
        Of the file.
    arch : str
        ``hf/`` and a folder with the configurations.
    identifier : str
        Name under which it was requested.

    Returns
    -------
    TorchEncoder or TextEncoder

    Raises
    ------
    CheckpointError
        If the weights are not those of the configuration.
    EncoderError
        If there is no such folder.
    MissingExtraError
        If transformers cannot be imported.
    """
    folder, _, query = arch.removeprefix(PREFIX).partition("?")
    config = _configuration(Path(folder))
    report, state = _place(index, str(config.get("model_type")))
    save = require("safetensors.torch", extra="vision", purpose="load a checkpoint").save_file
    with tempfile.TemporaryDirectory() as made:
        for file in Path(folder).iterdir():
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                shutil.copy(file, made)
        text = json.dumps(_with_classes(config, state))
        Path(made, "config.json").write_text(text, encoding="utf-8")
        save({n: t.contiguous().clone() for n, t in state.items()}, Path(made, "model.safetensors"))
        try:
            encoder = load_transformers(PREFIX + made + (f"?{query}" if query else ""))
        except EncoderError as error:
            reason = str(error).replace(PREFIX + made, identifier).replace(made, folder)
            raise CheckpointError(
                f"{reason} The weights must be those of the model in {folder}/config.json."
            ) from error
    if deeper := _deeper(state, encoder):
        raise CheckpointError(
            f"weights for {identifier} are of a larger network than {folder}/config.json "
            f"describes: it has no place for {first_few(deeper)}. Give the configuration that they "
            "were trained with."
        )
    encoder._identifier = identifier
    encoder.report = report
    return encoder


def _configuration(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"architecture hf/{folder} of ?arch= must be a folder with config.json and the files "
            f"of its image processor or tokenizer; {path} cannot be read ({error}). Save them "
            "there with save_pretrained."
        ) from error
    if not isinstance(config, dict):
        raise EncoderError(f"{path} holds no configuration of a model. Copy it again.")
    return config


def _place(index: FileIndex, model_type: str) -> tuple[MatchReport, dict[str, Tensor]]:
    """Where in the file the names of transformers are: a report, and the tensors by those names."""
    base = re.sub(r"\W", "_", model_type)
    counts: Counter[tuple[int, str]] = Counter()
    for number, container in enumerate(index.containers):
        for key in container.tensors:
            for prefix, name in splits(key):
                first = name.partition(".")[0]
                if first == base:
                    counts[number, prefix] += 2  # a whole model before its base
                elif first in _BARE:
                    counts[number, prefix] += 1
    whole = [place for place, count in counts.items() if 2 * count > max(counts.values())]
    if not whole:
        raise CheckpointError(
            f"weights file has no names of a {model_type} of transformers. Give the configuration "
            "that the weights were trained with."
        )

    def order(place: tuple[int, str]) -> tuple[int, int, int]:
        path = ".".join(index.containers[place[0]].path)
        return preference(f"{path}/{place[1]}"), counts[place], -len(place[1])

    best = max(whole, key=order)
    container, prefix = index.containers[best[0]], best[1]
    names = {
        dict(splits(key)).get(prefix, key[len(prefix) :]): key
        for key in container.tensors
        if key.startswith(prefix)
    }
    places = [f"{index.containers[n].name}/{prefix}" for n, prefix in whole if (n, prefix) != best]
    nested = f"{container.name}/{prefix}{base}."
    state = {name: container.tensors[key] for name, key in names.items()}
    report = MatchReport(
        layout=PLAIN.name,
        container=container.path,
        prefix=prefix,
        sources=names,
        missing=(),
        mismatched=(),
        unexpected=tuple(key for key in container.tensors if key not in names.values()),
        surplus=(),
        alternatives=tuple(place for place in places if place != nested),
        left_out=(),
        n_classes=_n_classes(state),
        normalisation=None,
    )
    return report, state


def _n_classes(state: dict[str, Tensor]) -> int | None:
    heads = (tensor for name, tensor in state.items() if _CLASSIFIER.fullmatch(name))
    return next((len(head) for head in heads if head.ndim == 2), None)


def _with_classes(config: dict[str, object], state: dict[str, Tensor]) -> dict[str, object]:
    """The configuration with as many classes as the file has; of the base where it has none."""
    n_classes = _n_classes(state)
    if n_classes is None:
        return config | {"architectures": None}
    labels = {str(number): f"class {number}" for number in range(n_classes)}
    return config | {
        "id2label": labels,
        "label2id": {label: int(number) for number, label in labels.items()},
        "num_labels": len(labels),
    }


def _deeper(state: dict[str, Tensor], encoder: TorchEncoder | TextEncoder) -> list[str]:
    """Names that found no place though others like them, but for a number, did."""

    def sign(tensor: Tensor) -> tuple[tuple[int, ...], float]:
        return tuple(tensor.shape), float(tensor.contiguous().double().sum())

    taken = {sign(tensor) for tensor in encoder.module.state_dict().values()}
    used = {name for name, tensor in state.items() if sign(tensor.float()) in taken}
    patterns = {re.sub(r"\d+", "#", name) for name in used}
    return [name for name in state if name not in used and re.sub(r"\d+", "#", name) in patterns]
