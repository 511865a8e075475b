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
the other texts of a batch. Texts of similar length are read together, see `_text_tokens`. A text
without any token is read as one end-of-text token.

**What is too long** is cut off, and counted for every text. With a tag per word nothing is cut
off: a sentence that is too long is read in parts, and what a word did not see is counted.

This module imports torch at the top; transformers is passed in.
"""

from __future__ import annotations

from dataclasses import replace

from transferscope.encoders._adapters import Adapter
from transferscope.encoders._pretrained import Config, Pretrained, decisive, refuse_own_code
from transferscope.encoders._sentence_transformers import SentenceFolder, read_recipe
from transferscope.encoders._text_encoder import TextEncoder
from transferscope.encoders._text_models import load_model, model_kind
from transferscope.encoders._text_options import TextOptions
from transferscope.encoders._text_pooling import Pooling
from transferscope.encoders._text_tokenizer import (
    n_positions,
    read_in_lower_case,
    require_words,
    text_preprocessing,
    token_limit,
)


def load_text(
    place: Pretrained,
    adapter: Adapter | None,
    folder: SentenceFolder | None,
    query: str,
    config: Config,
) -> TextEncoder:
    """Load a text model of transformers with its weights and tokenizer.

    Parameters
    ----------
    place : Pretrained
        Where its weights lie.
    adapter : Adapter or None
        What was trained on top of them.
    folder : SentenceFolder or None
        What else is done in a folder of sentence-transformers.
    query : str
        The options after the question mark.
    config : configuration of transformers

    Returns
    -------
    TextEncoder
        On the CPU, unless it is spread over devices.

    Raises
    ------
    EncoderError
        If an option is unknown, it cannot be loaded, lacks weights, or needs a part or a setting of
        sentence-transformers that is not known.
    MissingExtraError
        If it must be spread over devices, and accelerate is not installed.
    """
    identifier = place.identifier
    options = TextOptions.parse(query, identifier)
    files = place if adapter is None else adapter.with_file("tokenizer_config.json", place)
    tokenizer = files.load(place.transformers.AutoTokenizer.from_pretrained)
    refuse_own_code(identifier, tokenizer.init_kwargs.get("auto_map"), "tokenizer")
    require_words(tokenizer, identifier)
    recipe = None
    if folder is not None:
        recipe = read_recipe(folder, own_pooling=options.own_pooling)
        if recipe.lower_case:
            read_in_lower_case(tokenizer, identifier)
    kind = model_kind(place, config, options, is_sentence=recipe is not None)
    model = load_model(place, adapter, config, kind, options)

    pooling = Pooling(("last" if kind.decoder_only else "mean",))
    if not options.own_pooling:
        pooling = Pooling((str(options.pooling),))
    elif recipe is not None:
        pooling = recipe.pooling
        recipe.require_width(int(config.hidden_size), identifier)
    pooling = replace(pooling, words=options.subwords)
    positions = n_positions(model.module, config)
    limit = token_limit(tokenizer, positions, recipe, options.max_length, identifier)
    prompt = recipe.prompt if recipe else ""
    described = (
        pooling.texts,
        options.subwords,
        kind.classifier,
        kind.pooler,
        pooling.finish,
        recipe is not None,
    )
    return TextEncoder(
        model,
        pooling,
        preprocessing=text_preprocessing(tokenizer, limit, prompt, model, identifier),
        identifier=identifier,
        architecture=f"transformers/{type(model.module).__name__}/{described}/{decisive(config)}",
    )
