"""From the tokenizer of a checkpoint to the preprocessing of an encoder: limit, inputs, key."""

from __future__ import annotations

from collections.abc import Set

from torch import nn

from transferscope.encoders._identity import identity
from transferscope.encoders._pretrained import Config, Tokenizer
from transferscope.encoders._sentence_transformers import SentenceRecipe
from transferscope.encoders._text_tokens import TextPreprocessing
from transferscope.errors import EncoderError


def require_words(tokenizer: Tokenizer, identifier: str) -> None:
    """Refuse a tokenizer that transformers made up because its files are missing."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise EncoderError(
            f"encoder {identifier} lacks its tokenizer: {type(tokenizer).__name__} knows no words. "
            "Save the tokenizer in the folder of the model (tokenizer.json)."
        )


def token_limit(
    tokenizer: Tokenizer,
    positions: int | None,
    recipe: SentenceRecipe | None,
    max_length: int | None,
    identifier: str,
) -> int | None:
    """Find how many tokens may be read.

    Parameters
    ----------
    tokenizer : tokenizer of transformers
    positions : int or None
        As many as the model can read; None: any number.
    recipe : SentenceRecipe or None
    max_length : int or None
        As many as the user wants.
    identifier : str

    Returns
    -------
    int or None
        None: any number.

    Raises
    ------
    EncoderError
        If the model cannot read as many as the user wants.
    """
    if max_length is not None:
        least = tokenizer.num_special_tokens_to_add(pair=True) + 1
        if max_length < least or (positions is not None and max_length > positions):
            most = "what memory allows" if positions is None else positions
            raise EncoderError(
                f"max_length {max_length} of {identifier} must lie between {least} and {most}. "
                "Change it or leave it out."
            )
        return max_length
    limits = [positions, recipe.limit if recipe else None]
    if tokenizer.model_max_length < 1_000_000_000:  # beyond stands for "not known"
        limits.append(tokenizer.model_max_length)
    known = [int(limit) for limit in limits if limit]
    return min(known) if known else None


def n_positions(model: nn.Module, config: Config) -> int | None:
    """Count the tokens that a model can read at most; None: any number."""
    positions = getattr(config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and isinstance(padding, int):
            # RoBERTa and similar models count positions from the one after the padding's
            positions = getattr(module, "num_embeddings", 0) - padding - 1
    # none: relative positions
    return int(positions) if positions is not None and positions > 0 else None


def text_preprocessing(
    tokenizer: Tokenizer, limit: int | None, prompt: str, accepted: Set[str], identifier: str
) -> TextPreprocessing:
    """Make the preprocessing of a text encoder.

    Parameters
    ----------
    tokenizer : tokenizer of transformers
    limit : int or None
        Number of tokens that are read.
    prompt : str
        Text that is put before every text.
    accepted : set of str
        Names of the model's inputs.
    identifier : str

    Returns
    -------
    TextPreprocessing

    Raises
    ------
    EncoderError
        If the model cannot mask padding.
    """
    if "attention_mask" not in accepted:
        raise EncoderError(
            f"encoder {identifier} cannot mask padding (it takes no attention_mask): its features "
            "would depend on the other texts of a batch. Choose another encoder."
        )
    names = [name for name in tokenizer.model_input_names if name in accepted]
    tokenizer.model_input_names = list(dict.fromkeys([*names, "attention_mask"]))
    key = identity(tokenizer, limit, prompt).digest
    return TextPreprocessing(tokenizer, limit, prompt, f"text:{key}")
