"""Encoders ``hf/<id>`` and ``hf/<folder>``: models of Hugging Face transformers.

The configuration decides whether it is a model of texts (`_text`) or of images
(`_transformers_vision`).

This module imports torch at the top, and transformers when used.
"""

from __future__ import annotations

from pathlib import Path

from transferscope.encoders._pretrained import PREFIX, Config, from_pretrained, quiet
from transferscope.encoders._sentence_transformers import transformer_folder
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
        its image processor or tokenizer write it; with or without ``hf/``. For text models options
        may follow a question mark, see `_text`.

    Returns
    -------
    TorchEncoder or TextEncoder
        On the CPU, in float32.

    Raises
    ------
    MissingExtraError
        If transformers cannot be imported.
    EncoderError
        If it cannot be loaded or downloaded, lacks weights, or prepares its images in a way that
        cannot be translated.
    """
    transformers = require("transformers", extra="vision", purpose="load encoders named hf/…")
    source, _, query = name.removeprefix(PREFIX).partition("?")
    identifier = PREFIX + name.removeprefix(PREFIX)
    with quiet(transformers):
        folder = transformer_folder(source)
        load_config = transformers.AutoConfig.from_pretrained
        config = from_pretrained(identifier, load_config, source, **folder)
        if _is_text(config):
            return load_text(transformers, identifier, source, query, config)
        if query:
            raise EncoderError(
                f"options ?{query} are for text models; {PREFIX}{source} is a vision model "
                f"({config.model_type}). Leave them out."
            )
        if config.model_type == "timm_wrapper":
            hint = source if Path(source).is_dir() else source.rpartition("/")[2]
            raise EncoderError(f"encoder {identifier} is a model of timm. Load it as timm/{hint}.")
        return load_vision(transformers, identifier, source, config)


def _is_text(config: Config) -> bool:
    """Whether a configuration is of a model that takes tokens and no images."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    takes_tokens = (
        TOKENIZER_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )
    kind = config.model_type
    return any(kind in names for names in takes_tokens) and (
        kind not in IMAGE_PROCESSOR_MAPPING_NAMES
    )
