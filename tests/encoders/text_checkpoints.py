"""Tiny language models on disk, with real tokenizers trained on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

#: Sentences that train the tokenizers: every letter, and questions enough for words to be cut into
#: pieces as they are in a real vocabulary.
TEXTS = [
    "The quick brown fox jumps over the lazy dog, twice a day and once at night.",
    "How much does it cost to send 1,250.75 to another bank account?",
    "Sphinx of black quartz: hear my vow!",
    *(
        f"{question} the {adjective} {noun} {ending}?"
        for question in ("Who built", "When was", "Where is", "What colour has", "Why did")
        for adjective in ("first", "oldest", "northern", "wooden", "forgotten", "largest")
        for noun in ("railway", "museum", "river crossing", "village school", "lighthouse")
        for ending in ("in Portugal", "of the century", "near Vienna")
    ),
]

WIDTH = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
LLAMA = {**WIDTH, "num_key_value_heads": 2, "head_dim": 8}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 3,
    "num_decoder_layers": 1,
    "num_heads": 4,
}
BART = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}

#: architecture -> (prefix of its classes, settings, kind of tokenizer)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "bert": ("Bert", WIDTH, "wordpiece"),
    "roberta": ("Roberta", {**WIDTH, "max_position_embeddings": 65}, "bpe"),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
        "wordpiece",
    ),
    "electra": ("Electra", {**WIDTH, "embedding_size": 16}, "wordpiece"),
    "deberta": (
        "Deberta",
        {**WIDTH, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
        "bpe",
    ),
    "deberta-v2": (
        "DebertaV2",
        {
            **WIDTH,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "unigram",
    ),
    "albert": ("Albert", {**WIDTH, "embedding_size": 16}, "unigram"),
    "mpnet": ("MPNet", {**WIDTH, "max_position_embeddings": 66}, "wordpiece"),
    "t5": ("T5", T5, "unigram-eos"),
    "bart": ("Bart", BART, "bpe"),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}, "bpe-bare"),
    "llama": ("Llama", LLAMA, "unigram-bos"),
    "qwen2": ("Qwen2", LLAMA, "bpe-bare"),
    "qwen3": ("Qwen3", LLAMA, "bpe-bare"),
    "modernbert": (
        "ModernBert",
        {**WIDTH, "global_attn_every_n_layers": 2, "local_attention": 8},
        "wordpiece",
    ),
}
DECODERS = {"gpt2", "llama", "qwen2", "qwen3"}


WORD_PIECE_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _word_pieces(normalizer: Any, splitter: Any) -> dict[str, int]:
    """A vocabulary of every character and of every second word; the others are cut.

    Its library's trainer is not used: among equal counts it chooses differently in each process.
    """
    words = {
        word
        for text in TEXTS
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    letters = sorted(set("".join(words)))
    pieces = [*WORD_PIECE_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces + sorted(words)[::2]))}


@cache
def _trained(kind: str) -> Any:
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    if kind == "wordpiece":
        normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        pieces = _word_pieces(normalizer, splitter)
        tokenizer = Tokenizer(models.WordPiece(vocab=pieces, unk_token="[UNK]"))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = splitter
        tokenizer.add_special_tokens(WORD_PIECE_TOKENS)
    elif kind.startswith("bpe"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        special = special[3:4] if kind == "bpe-bare" else special
        tokenizer.train_from_iterator(
            TEXTS,
            trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet),
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.train_from_iterator(
            TEXTS,
            trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>"),
        )
        # the trainer's order of equal scores, and their last digits, differ from process to process
        trained = json.loads(tokenizer.to_str())["model"]["vocab"][len(special) :]
        rounded = [(piece, round(score, 4)) for piece, score in trained]
        rounded.sort(key=lambda item: (-item[1], item[0]))
        vocabulary = [(token, 0.0) for token in special] + rounded
        tokenizer.model = models.Unigram(vocabulary, special.index("<unk>"), False)
    ends = {
        "wordpiece": ("[CLS]", "[SEP]"),
        "bpe": ("<s>", "</s>"),
        "unigram": ("<s>", "</s>"),
        "unigram-eos": (None, "</s>"),
        "unigram-bos": ("<s>", None),
        "bpe-bare": (None, None),
    }[kind]
    if any(ends):
        first, last = (f"{token} " if token else "" for token in ends)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first}$A {last}".strip(),
            pair=f"{first}$A {last}$B:1 {last and last.strip() + ':1'}".strip(),
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in ends if t],
        )
    return tokenizer


def tokenizer(kind: str, **settings: Any) -> Any:
    """A tokenizer of transformers around a trained one."""
    import transformers

    named: dict[str, str] = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    if kind == "wordpiece":
        named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
        named |= {"cls_token": "[CLS]", "mask_token": "[MASK]"}
        settings.setdefault("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    elif kind == "bpe-bare":  # no token to pad with
        named = {"eos_token": "</s>"}
    elif kind == "unigram-bos":
        named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_trained(kind), **{**named, **settings}
    )


def build(architecture: str, suffix: str = "Model", seed: int = 0, **settings: Any) -> Any:
    """A model of a few thousand random weights, none of them zero or one."""
    import torch
    import transformers

    prefix, own, kind = ARCHITECTURES[architecture]
    words = tokenizer(kind)
    special = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    special |= {"bos_token_id": words.bos_token_id}
    if architecture == "modernbert":
        special |= {"cls_token_id": words.cls_token_id, "sep_token_id": words.sep_token_id}
    if architecture in ("t5", "bart"):
        special["decoder_start_token_id"] = words.eos_token_id
    config = getattr(transformers, f"{prefix}Config")(
        # room for the tokens that a tokenizer's class adds
        vocab_size=len(words) + 8,
        **{**own, **special, **settings},
    )
    torch.manual_seed(seed)
    model = getattr(transformers, f"{prefix}{suffix}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # a skipped norm or bias must show
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def saved(
    folder: Path, architecture: str, suffix: str = "Model", seed: int = 0, **settings: Any
) -> str:
    """A checkpoint on disk; gives its name for `load_encoder`."""
    build(architecture, suffix, seed, **settings).save_pretrained(folder)
    tokenizer(ARCHITECTURES[architecture][2]).save_pretrained(folder)
    return f"hf/{folder}"


def sentence_folder(
    folder: Path,
    pooling: dict[str, Any] | None,
    *more: tuple[str, dict[str, Any], dict[str, Any]],
    architecture: str = "bert",
    **files: Any,
) -> str:
    """A folder as sentence-transformers saves it; `more`: kind, settings, weights of parts."""
    from safetensors.torch import save_file

    name = saved(folder, architecture)
    parts = [("Transformer", "", {}, {})]
    parts += [] if pooling is None else [("Pooling", "1_Pooling", pooling, {})]
    parts += [(kind, f"{i}_{kind}", *rest) for i, (kind, *rest) in enumerate(more, len(parts))]
    for _, path, settings, weights in parts[1:]:
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(settings))
        if weights:
            save_file(weights, folder / path / "model.safetensors")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path, *_) in enumerate(parts)
    ]
    for file, content in {"modules": modules, **files}.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    return name


def literal_pool(hidden: Any, how: str) -> Any:
    """Pooling of the states (n_tokens, dim) of one text, token by token."""
    n = len(hidden)
    if how == "first":
        return hidden[0]
    if how == "last":
        return hidden[n - 1]
    weights = [i + 1 for i in range(n)] if how == "weighted-mean" else [1] * n
    return sum(w * h for w, h in zip(weights, hidden, strict=True)) / sum(weights)


def literal_states(model: Any, words: Any, sample: str | Sequence[str]) -> list[Any]:
    """Hidden states (n_tokens, dim) of one text or pair, alone and unpadded: one per layer."""
    import torch

    given = words(*([sample] if isinstance(sample, str) else sample), return_tensors="pt")
    module: Callable[..., Any] = model
    if model.config.is_encoder_decoder:
        module = model.get_encoder()
    if model.config.model_type in {"roberta", "distilbert", "mpnet", "bart", "t5", "modernbert"}:
        given.pop("token_type_ids", None)
    with torch.inference_mode():
        outputs = module(**given, output_hidden_states=True)
    return [*(h[0] for h in outputs.hidden_states[1:-1]), outputs.last_hidden_state[0]]
