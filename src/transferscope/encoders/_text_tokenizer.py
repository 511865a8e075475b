"""From the tokenizer of a checkpoint to the preprocessing of an encoder: limit, inputs, key."""

from __future__ import annotations

from torch import nn

from transferscope.encoders._identity import identity
from transferscope.encoders._pretrained import Config, Tokenizer
from transferscope.encoders._sentence_transformers import SentenceRecipe
from transferscope.encoders._text_models import TextModel
from transferscope.encoders._text_tokens import TextPreprocessing
from transferscope.errors import EncoderError, first_few

#: A character that no small vocabulary has.
_RARE = "\u2603"


def require_words(tokenizer: Tokenizer, identifier: str) -> None:
    """Refuse a tokenizer that transformers made up because its files are missing."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise EncoderError(
            f"encoder {identifier} lacks its tokenizer: {type(tokenizer).__name__} knows no words. "
            "Save the tokenizer in the folder of the model (tokenizer.json)."
        )


def read_in_lower_case(tokenizer: Tokenizer, identifier: str) -> None:
    """Make a tokenizer read texts in lower case, before all else that it does to them."""
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(
            f"encoder {identifier} reads texts in lower case (do_lower_case), which its tokenizer "
            f"{type(tokenizer).__name__} cannot do. Save the fast form of it (tokenizer.json)."
        )
    after = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *after])


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
    tokenizer: Tokenizer, limit: int | None, prompt: str, model: TextModel, identifier: str
) -> TextPreprocessing:
    """Make the preprocessing of a text encoder.

    Parameters
    ----------
    tokenizer : tokenizer of transformers
    limit : int or None
        Number of tokens that are read.
    prompt : str
        Text that is put before every text.
    model : TextModel
    identifier : str

    Returns
    -------
    TextPreprocessing

    Raises
    ------
    EncoderError
        If the model cannot mask padding, or has no embedding for words of the tokenizer.
    """
    if "attention_mask" not in model.accepted:
        raise EncoderError(
            f"encoder {identifier} cannot mask padding (it takes no attention_mask): its features "
            "would depend on the other texts of a batch. Choose another encoder."
        )
    n_embeddings = _n_embeddings_needed(tokenizer, model.n_embeddings, identifier)
    names = [name for name in tokenizer.model_input_names if name in model.accepted]
    tokenizer.model_input_names = list(dict.fromkeys([*names, "attention_mask"]))
    # one whose unknown token is unknown itself fails only at such a character: it is read now
    tokenizer(_RARE, verbose=False)
    key = identity(tokenizer, limit, prompt, n_embeddings).digest
    return TextPreprocessing(tokenizer, limit, prompt, f"text:{key}", n_embeddings=n_embeddings)


def _n_embeddings_needed(
    tokenizer: Tokenizer, n_embeddings: int | None, identifier: str
) -> int | None:
    """The rows of an embedding that are fewer than tokens; None where every token has its row.

    Special tokens without a row are let pass: a token to pad with is masked, and others may never
    occur. What else has none would end the first pass over a text that holds it.
    """
    tokens = tokenizer.get_vocab()
    if n_embeddings is None or max(tokens.values()) < n_embeddings:
        return None
    beyond = sorted((number, word) for word, number in tokens.items() if number >= n_embeddings)
    words = [word for _, word in beyond if word not in tokenizer.all_special_tokens]
    if words:
        raise EncoderError(
            f"encoder {identifier} has an embedding of {n_embeddings} tokens, and its tokenizer "
            f"has {len(tokens)}: there is none for {first_few(words)}. Save the tokenizer that the "
            "model was trained with, or the model after resize_token_embeddings."
        )
    return n_embeddings
