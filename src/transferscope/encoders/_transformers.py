"""Encoders ``hf/<id>`` and ``hf/<folder>``: models of Hugging Face transformers.

The configuration decides whether it is a model of texts (`_text`) or of images
(`_transformers_vision`).

This module imports torch at the top, and transformers when used.
"""

from __future__ import annotations

from pathlib import Path

from transferscope.encoders._adapters import find_adapter
from transferscope.encoders._pretrained import (
    PREFIX,
    Config,
    Pretrained,
    quiet,
    refuse_own_code,
)
from transferscope.encoders._sentence_transformers import SentenceFolder, read_modules
from transferscope.encoders._text import load_text
from transferscope.encoders._text_encoder import TextEncoder
from transferscope.encoders._torch_encoder import TorchEncoder
from transferscope.encoders._transformers_vision import load_vision
from transferscope.errors import EncoderError, require


def load_transformers(name: str) -> TorchEncoder | TextEncoder:
    """Load a vision or text model of transformers with its weights.

    Parameters
    ----------
    name : str
        An id on the Hugging Face hub, or a local folder as ``save_pretrained`` of the model and of
        its image processor or tokenizer write it, or as PEFT writes an adapter; with or without
        ``hf/``. For text models options may follow a question mark, see `_text`.

    Returns
    -------
    TorchEncoder or TextEncoder
        On the CPU, in float32.

    Raises
    ------
    MissingExtraError
        If transformers cannot be imported.
    EncoderError
        If it cannot be loaded or downloaded, lacks weights, asks for what is not known here, or
        prepares its images in a way that cannot be translated.
    """
    transformers = require("transformers", extra="vision", purpose="load encoders named hf/…")
    source, _, query = name.removeprefix(PREFIX).partition("?")
    identifier = PREFIX + name.removeprefix(PREFIX)
    with quiet(transformers):
        place, folder = _opened(Pretrained(transformers, identifier, source))
        adapter = find_adapter(place)
        if adapter is not None:
            place, of_base = _opened(adapter.base)
            folder = folder or of_base
            if find_adapter(place) is not None:
                raise EncoderError(
                    f"encoder {identifier} is an adapter of {place.source}, which is an adapter "
                    "too. Merge that one with model.merge_and_unload() and name the result."
                )
        config = place.load(transformers.AutoConfig.from_pretrained)
        refuse_own_code(identifier, getattr(config, "auto_map", None), "config.json")
        if adapter is not None:
            config.architectures = None  # its head is not the adapter's
        if _is_text(config):
            return load_text(place, adapter, folder, query, config)
        if query:
            raise EncoderError(
                f"options ?{query} are for text models; {PREFIX}{source} is a vision model "
                f"({config.model_type}). Leave them out."
            )
        if config.model_type == "timm_wrapper":
            hint = source if Path(source).is_dir() else source.rpartition("/")[2]
            raise EncoderError(f"encoder {identifier} is a model of timm. Load it as timm/{hint}.")
        if folder is not None:
            raise EncoderError(
                f"encoder {identifier} is a vision model ({config.model_type}) in a folder of "
                "sentence-transformers, whose parts are known for texts only. Give the folder that "
                "transformers saved, without modules.json."
            )
        return load_vision(place, adapter, config)


def _opened(place: Pretrained) -> tuple[Pretrained, SentenceFolder | None]:
    """Where the transformer lies, and what else there is in a folder of sentence-transformers."""
    folder = read_modules(place)
    return (place if folder is None else folder.transformer), folder


def _is_text(config: Config) -> bool:
    """Whether a configuration is of a model that takes tokens and no images."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    takes_tokens = (
        TOKENIZER_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    )
    kind = config.model_type
    return any(kind in names for names in takes_tokens) and (
        kind not in IMAGE_PROCESSOR_MAPPING_NAMES
    )
