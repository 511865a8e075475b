"""Language models: every architecture against one text at a time, unpadded; pooling; heads."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="text encoders need torch")
try:
    import transformers
except Exception as error:
    pytest.skip(f"transformers cannot be imported: {error}", allow_module_level=True)

import text_checkpoints as tiny  # noqa: E402

from transferscope.datasets import Word  # noqa: E402
from transferscope.encoders import Encoder, load_encoder  # noqa: E402
from transferscope.encoders._fast_pass import PassPlan  # noqa: E402
from transferscope.encoders._text_tokens import PassSize, TextPreprocessing  # noqa: E402
from transferscope.errors import EncoderError, UnknownNameError  # noqa: E402

SAMPLES = [
    "a",
    "How much does it cost to send 1,250.75 to another bank account?",
    "dog",
    "Sphinx of black quartz: hear my vow!",
    "k\u0131sa bir c\u00fcmle",
]
PAIRS = [("The quick brown fox", "a lazy dog"), ("vow", "Pack my box with five jugs"), ("a", "b")]


def embedded(encoder: Any, samples: Any, layers: Any = ("pooled",)) -> Any:
    preprocessing = encoder.preprocessing
    return encoder.embed(
        preprocessing.collate([preprocessing.prepare(sample) for sample in samples]), layers
    )


def words_of(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("samples", [SAMPLES, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_features_are_those_of_each_text_alone_and_unpadded(
    architecture: str, samples: Any, tmp_path: Path
) -> None:
    name = tiny.saved(tmp_path, architecture)
    encoder: Any = load_encoder(name)
    assert isinstance(encoder, Encoder)
    assert encoder.layers == ("layer1", "layer2", "layer3", "pooled")
    model, words = tiny.build(architecture), words_of(tmp_path)
    how = "last" if architecture in tiny.DECODERS else "mean"
    got = embedded(encoder, samples, encoder.layers)
    assert got.logits is None
    assert not got.truncated.any()
    quicker = encoder.fast_embed(encoder.layers)(encoder.preprocessing.collate(samples))
    for layer in encoder.layers:
        torch.testing.assert_close(quicker.features[layer], got.features[layer], rtol=0, atol=1e-5)
    for row, sample in enumerate(samples):
        states = tiny.literal_states(model, words, sample)
        for layer, state in zip(encoder.layers, [*states, states[-1]], strict=True):
            expected = tiny.literal_pool(state, how)
            np.testing.assert_allclose(got.features[layer][row], expected, atol=1e-5)
    assert encoder.feature_dim == 32
    assert encoder.input_size is None


@pytest.mark.skipif(not torch._C._has_mkldnn, reason="torch without oneDNN")
@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_the_quicker_pass_computes_with_packed_weights(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[PassPlan] = []
    make = PassPlan.__init__

    def noting(plan: PassPlan, *given: Any, **options: Any) -> None:
        make(plan, *given, **options)
        plans.append(plan)

    monkeypatch.setattr(PassPlan, "__init__", noting)
    encoder: Any = load_encoder(tiny.saved(tmp_path, architecture))
    batch = encoder.preprocessing.collate(SAMPLES)
    first, second = encoder.fast_embed()(batch), encoder.fast_embed()(batch)
    assert torch.equal(first.features["pooled"], second.features["pooled"])
    # query, key, value, what follows attention, and two around the activation; in three layers
    assert [plan.n_packed for plan in plans] == [18, 18]


@pytest.mark.parametrize("how", ["mean", "first", "last", "weighted-mean"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_each_pooling(architecture: str, how: str, tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, architecture)
    encoder = load_encoder(f"{name}?pooling={how}")
    model, words = tiny.build(architecture), words_of(tmp_path)
    got = embedded(encoder, SAMPLES, ["layer2", "pooled"])
    for row, sample in enumerate(SAMPLES):
        states = tiny.literal_states(model, words, sample)
        for layer, state in (("layer2", states[1]), ("pooled", states[-1])):
            expected = tiny.literal_pool(state, how)
            np.testing.assert_allclose(got.features[layer][row], expected, atol=1e-5)
    assert encoder.fingerprint != load_encoder(f"{name}?pooling=first&subwords=last").fingerprint


def test_the_own_pooling_of_a_plain_model_is_its_trained_pooler(tmp_path: Path) -> None:
    name = tiny.saved(tmp_path / "bert", "bert")
    model, words = tiny.build("bert"), words_of(tmp_path / "bert")
    got = embedded(load_encoder(f"{name}?pooling=own"), SAMPLES).features["pooled"]
    with torch.inference_mode():
        expected = [model(**words(s, return_tensors="pt")).pooler_output[0] for s in SAMPLES]
    np.testing.assert_allclose(got, torch.stack(expected), atol=1e-5)
    without = tiny.saved(tmp_path / "without", "bert", add_pooling_layer=False)  # type: ignore[arg-type]
    assert load_encoder(without).layers[-1] == "pooled"
    name = tiny.saved(tmp_path / "gpt2", "gpt2")
    with pytest.raises(EncoderError, match=r"no pooling of its own.*weighted-mean"):
        load_encoder(f"{name}?pooling=own")


CLASSIFIERS = ["bert", "roberta", "distilbert", "electra", "deberta-v2", "albert", "mpnet",
               "modernbert", "bart", "t5", "gpt2", "llama", "qwen2"]  # fmt: skip


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_a_classifier_gives_the_input_of_its_head_and_its_logits(
    architecture: str, tmp_path: Path
) -> None:
    name = tiny.saved(tmp_path, architecture, "ForSequenceClassification", num_labels=5)
    encoder: Any = load_encoder(name)
    model = tiny.build(architecture, "ForSequenceClassification", num_labels=5)
    words = words_of(tmp_path)
    got = embedded(encoder, SAMPLES, encoder.layers)
    (head,) = [m for m in model.modules() if getattr(m, "out_features", None) == 5]
    for row, sample in enumerate(SAMPLES):
        given = words(sample, return_tensors="pt")
        given = {
            k: v for k, v in given.items() if k in encoder.preprocessing.tokenizer.model_input_names
        }
        with torch.inference_mode():
            logits = model(**given).logits[0]
            by_head = head(got.features["pooled"][row])
        np.testing.assert_allclose(got.logits[row], logits, atol=1e-5)
        np.testing.assert_allclose(by_head, logits, atol=1e-5)
    in_head = sum(p.numel() for p in head.parameters())
    assert encoder.n_parameters == sum(p.numel() for p in model.parameters()) - in_head
    assert embedded(load_encoder(f"{name}?pooling=mean"), SAMPLES).logits is None


def test_a_classifier_with_one_output_has_no_source_classes(tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, "bert", "ForSequenceClassification", num_labels=1)
    got = embedded(load_encoder(name), SAMPLES)
    assert got.logits is None
    assert got.features["pooled"].shape == (5, 32)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    name = tiny.saved(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=r"lacks weights .*encoder\.layer\.1\.output"):
        load_encoder(name)


@pytest.mark.parametrize("calls_itself", [True, False])  # an encoder-decoder, or not
@pytest.mark.parametrize("architecture", ["t5", "mt5", "umt5", "longt5"])
def test_an_encoder_of_t5_that_was_saved_alone(
    architecture: str, calls_itself: bool, tmp_path: Path
) -> None:
    prefix = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5", "longt5": "LongT5"}[architecture]
    words = tiny.tokenizer("unigram-eos")
    special = {"vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 3}
    config = getattr(transformers, f"{prefix}Config")(**tiny.T5, **special)
    config.is_encoder_decoder = calls_itself
    torch.manual_seed(0)
    model = getattr(transformers, f"{prefix}EncoderModel")(config).eval()
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    changed = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**changed, "is_encoder_decoder": calls_itself})
    )
    encoder: Any = load_encoder(f"hf/{tmp_path}")
    got = embedded(encoder, SAMPLES, encoder.layers)
    for row, sample in enumerate(SAMPLES):
        given = words(sample, return_tensors="pt")
        with torch.inference_mode():
            outputs = model(given["input_ids"], output_hidden_states=True)
        pooled = outputs.last_hidden_state[0].mean(0)
        np.testing.assert_allclose(got.features["pooled"][row], pooled, atol=1e-5)
        first = outputs.hidden_states[1][0].mean(0)
        np.testing.assert_allclose(got.features["layer1"][row], first, atol=1e-5)


# --- weights, configuration and tokenizer of different models -----------------------------------


def edited(folder: Path, file: str = "config.json", **changes: Any) -> str:
    """The same folder with other settings in one of its files."""
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **changes}))
    return f"hf/{folder}"


def with_weights(folder: Path, **more: Any) -> str:
    """The same folder with more weights in its file."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    made = {name.replace("__", "."): value for name, value in more.items()}
    save_file({**weights, **made}, folder / "model.safetensors", {"format": "pt"})
    return f"hf/{folder}"


@pytest.mark.parametrize(
    ("architecture", "suffix", "change", "match"),
    [
        ("bert", "Model", {"num_hidden_layers": 2}, r"would leave out.*encoder\.layer\.2\."),
        ("bert", "ForMaskedLM", {"num_hidden_layers": 1}, r"would leave out.*layer\.1\."),
        (
            "bert",
            "ForSequenceClassification",
            {"num_hidden_layers": 2},
            r"would leave out.*encoder\.layer\.2\.",
        ),
        ("llama", "ForCausalLM", {"num_hidden_layers": 2}, r"would leave out.*layers\.2\."),
        ("t5", "ForConditionalGeneration", {"num_layers": 2}, r"would leave out.*block\.2\."),
        ("qwen3", "Model", {"num_hidden_layers": 4}, r"lacks weights.*layers\.3\."),
        ("bert", "Model", {"hidden_size": 16}, r"another size .*bias of \(32,\), not \(16,\)"),
        ("bert", "Model", {"vocab_size": 30}, r"word_embeddings\.weight of .*not \(30, 32\)"),
    ],
)
def test_a_configuration_that_is_not_that_of_the_weights(
    architecture: str, suffix: str, change: dict[str, Any], match: str, tmp_path: Path
) -> None:
    tiny.saved(tmp_path, architecture, suffix)
    if "num_hidden_layers" in change:  # newer ones list the kind of each layer as well
        change = {**change, "layer_types": None}
    with pytest.raises(EncoderError, match=match):
        load_encoder(edited(tmp_path, **change))


def test_a_bias_that_the_configuration_switches_off(tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, "llama", attention_bias=True)  # type: ignore[arg-type]
    load_encoder(name)
    with pytest.raises(EncoderError, match=r"would leave out.*q_proj\.bias"):
        load_encoder(edited(tmp_path, attention_bias=False))


@pytest.mark.parametrize(
    "name", ["lora_A__weight", "lora_B__default__weight", "SCB", "weight_scale_inv"]
)
def test_weights_that_belong_to_a_weight_are_not_left_out(name: str, tmp_path: Path) -> None:
    tiny.saved(tmp_path, "bert")
    key = f"encoder__layer__0__attention__self__query__{name}"
    with pytest.raises(EncoderError, match=r"would leave out.*self\.query\."):
        load_encoder(with_weights(tmp_path, **{key: torch.ones(2, 32)}))


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("bert", "embeddings__position_ids"),  # a buffer of older versions
        ("bert", "cls__predictions__decoder__weight"),
        ("gpt2", "h__0__attn__bias"),  # a mask that was once saved
        ("gpt2", "lm_head__weight"),
        ("t5", "decoder__block__5__layer__0__SelfAttention__q__weight"),
    ],
)
def test_heads_and_old_buffers_may_be_left_out(architecture: str, key: str, tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, architecture)
    before = embedded(load_encoder(name), SAMPLES).features["pooled"]
    with_weights(tmp_path, **{key: torch.ones(3, 3)})
    assert torch.equal(embedded(load_encoder(name), SAMPLES).features["pooled"], before)


@pytest.mark.parametrize("wrapper", ["model.", "encoder.model."])
def test_weights_under_other_names_are_missed(wrapper: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    name = tiny.saved(tmp_path, "bert")
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {wrapper + key: value for key, value in weights.items()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(EncoderError, match="lacks weights"):
        load_encoder(name)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_classes_of_ones_own_are_refused_by_name(file: str, tmp_path: Path) -> None:
    tiny.saved(tmp_path, "bert")
    kind = "AutoTokenizer" if "tokenizer" in file else "AutoModel"
    given = ["my_code.Words", None] if kind == "AutoTokenizer" else "my_code.MyBert"
    name = edited(tmp_path, file, auto_map={kind: given})
    with pytest.raises(EncoderError, match=r"code of its own in the auto_map.*my_code\."):
        load_encoder(name)


def test_words_without_an_embedding_are_refused_at_load(tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, "bert")
    words = words_of(tmp_path)
    rows = len(words) + 8  # as text_checkpoints makes it
    words.add_tokens([f"new{i}" for i in range(12)])
    words.save_pretrained(tmp_path)
    with pytest.raises(
        EncoderError,
        match=rf"embedding of {rows} tokens, and its tokenizer has {rows + 4}: .* new8, .* new11\.",
    ):
        load_encoder(name)
    # as many as there are rows
    words = tiny.tokenizer("wordpiece")
    words.add_tokens([f"fresh{i}" for i in range(8)])
    words.save_pretrained(tmp_path)
    got = embedded(load_encoder(name), ["fresh7 dog"]).features["pooled"]
    assert torch.isfinite(got).all()


def test_special_tokens_without_an_embedding(tmp_path: Path) -> None:
    """One to pad with is masked; others are refused when a text holds them."""
    from tokenizers import Tokenizer

    name = tiny.saved(tmp_path, "llama")
    before = load_encoder(name)
    expected = embedded(before, SAMPLES).features["pooled"]
    model = tiny.build("llama")
    rows = model.get_input_embeddings().num_embeddings
    backend = Tokenizer.from_str(tiny.tokenizer("unigram-bos").backend_tokenizer.to_str())
    backend.add_tokens([f"filler{i}" for i in range(rows - backend.get_vocab_size())])
    backend.add_special_tokens(["[PAD]", "[MORE]"])
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="[PAD]", additional_special_tokens=["[MORE]"],
    )  # fmt: skip
    words.save_pretrained(tmp_path)
    encoder = load_encoder(name)
    np.testing.assert_allclose(embedded(encoder, SAMPLES).features["pooled"], expected, atol=1e-6)
    assert encoder.preprocessing.key != before.preprocessing.key
    with pytest.raises(
        EncoderError, match=rf"has the token '\[MORE\]', .* embedding of {rows} tok"
    ):
        embedded(encoder, ["a [MORE] b"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_cut_on_the_side_of_the_tokenizer(side: str, tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, "bert")
    words = tiny.tokenizer("wordpiece", truncation_side=side, model_max_length=12)
    words.save_pretrained(tmp_path)
    encoder: Any = load_encoder(name)
    assert encoder.preprocessing.limit == 12
    sample = "dog fox vow " * 9 + "Sphinx of quartz"
    model = tiny.build("bert")
    for texts, given in (([sample], sample), ([sample, "a lazy dog"], (sample, "a lazy dog"))):
        got = embedded(encoder, [given])
        read = words(*texts, return_tensors="pt", truncation=True, max_length=12)
        with torch.inference_mode():
            expected = model(**read).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(got.features["pooled"][0], expected, atol=1e-5)
        assert got.truncated[0] > 0


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_features_do_not_depend_on_the_side_of_the_padding(
    architecture: str, tmp_path: Path
) -> None:
    name = tiny.saved(tmp_path, architecture)
    before = embedded(load_encoder(name), SAMPLES).features["pooled"]
    edited(tmp_path, "tokenizer_config.json", padding_side="left")
    assert torch.equal(embedded(load_encoder(name), SAMPLES).features["pooled"], before)


# --- length, padding, truncation ----------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "modernbert"])
def test_what_is_too_long_is_cut_off_and_counted(architecture: str, tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, architecture))
    words = words_of(tmp_path)
    samples = ["vow " * 200, "vow", ("dog " * 3) * 100]
    got = embedded(encoder, samples)
    assert torch.isfinite(got.features["pooled"]).all()
    lengths = [len(words(sample, verbose=False)["input_ids"]) for sample in samples]
    assert encoder.preprocessing.limit == 64  # RoBERTa has 65 positions, one of them unused
    assert got.truncated.tolist() == [max(0, n - 64) for n in lengths]
    alone = embedded(encoder, samples[:1]).features["pooled"]
    np.testing.assert_allclose(got.features["pooled"][:1], alone, atol=1e-5)


def test_max_length_is_the_users(tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, "bert")
    got = embedded(load_encoder(f"{name}?max_length=8"), SAMPLES)
    assert got.truncated.any()
    for wrong in ("3", "65"):
        with pytest.raises(EncoderError, match=r"must lie between 4 and 64"):
            load_encoder(f"{name}?max_length={wrong}")
    for wrong in ("max_length=x", "max_length=0", "pooling=cls", "poling=mean", "subwords=own"):
        with pytest.raises(EncoderError, match=r"does not exist.*weighted-mean.*max_length=<num"):
            load_encoder(f"{name}?{wrong}")


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "t5", "llama"])
def test_an_empty_text_has_features_too(architecture: str, tmp_path: Path) -> None:
    encoder = load_encoder(tiny.saved(tmp_path, architecture))
    got = embedded(encoder, ["", "a", ""]).features["pooled"]
    assert torch.isfinite(got).all()
    np.testing.assert_allclose(got[0], got[2], atol=1e-6)
    assert (got[0] - got[1]).abs().max() > 1e-3


def test_texts_of_like_length_are_read_together(tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, "bert"))
    samples = ["dog " * n for n in (1, 30, 2, 28, 3, 29)]
    whole = embedded(encoder, samples).features["pooled"]
    batch = replace(encoder.preprocessing, size=PassSize(100, 0)).collate(samples)
    shapes = [part.inputs["input_ids"].shape for part in batch.parts]
    assert all(n * width <= 100 for n, width in shapes)
    assert sum(n * width for n, width in shapes) == sum(  # nothing is padded where passes are free
        len(words_of(tmp_path)(sample)["input_ids"]) for sample in samples
    )
    assert sorted(np.concatenate([part.rows for part in batch.parts])) == list(range(6))
    np.testing.assert_allclose(encoder.embed(batch).features["pooled"], whole, atol=1e-5)


@pytest.mark.parametrize("size", [PassSize(40, 0), PassSize(40, 7), PassSize(25, 100)])
@pytest.mark.parametrize("seed", range(4))
def test_parts_are_the_cheapest_of_all(seed: int, size: PassSize) -> None:
    lengths = np.random.default_rng(seed).integers(1, 30, 9).tolist()
    groups = TextPreprocessing(None, None, "", "", size)._groups(lengths)
    assert sorted(np.concatenate(groups)) == list(range(9))

    def cost(parts: Any) -> float:
        padded = [len(part) * max(part) for part in parts]
        if any(n > size.tokens and len(part) > 1 for n, part in zip(padded, parts, strict=True)):
            return float("inf")
        return sum(padded) + size.overhead * len(parts)

    ordered, cheapest = sorted(lengths), float("inf")
    for cuts in itertools.product([False, True], repeat=8):
        parts = [[ordered[0]]]
        for length, cut in zip(ordered[1:], cuts, strict=True):
            parts = [*parts, [length]] if cut else [*parts[:-1], [*parts[-1], length]]
        cheapest = min(cheapest, cost(parts))
    assert cost([[lengths[i] for i in group] for group in groups]) == cheapest


def test_equal_tokenizers_share_their_batches(tmp_path: Path) -> None:
    one = load_encoder(tiny.saved(tmp_path / "one", "bert"))
    two = load_encoder(tiny.saved(tmp_path / "two", "bert", seed=1))
    assert one.preprocessing.key == two.preprocessing.key
    assert one.fingerprint != two.fingerprint
    cut = load_encoder(f"hf/{tmp_path / 'two'}?max_length=20")
    assert cut.preprocessing.key != two.preprocessing.key


def test_one_forward_pass_gives_every_layer(tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, "bert"))
    calls: list[int] = []
    handle = encoder.module.embeddings.register_forward_hook(lambda *_: calls.append(1))
    embedded(encoder, SAMPLES, encoder.layers)
    handle.remove()
    assert len(calls) == len(encoder.preprocessing.collate(SAMPLES).parts)
    with pytest.raises(UnknownNameError, match=r"no layer 'layer9'"):
        embedded(encoder, SAMPLES, ["layer9"])


def test_weights_stay_as_they_are_and_eval_mode_is_borrowed(tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, "bert"))
    first = embedded(encoder, SAMPLES).features["pooled"]
    encoder.module.train()
    assert torch.equal(embedded(encoder, SAMPLES).features["pooled"], first)
    assert encoder.module.training
    assert first.dtype == torch.float32
    assert not first.is_inference()


def test_half_precision_weights_run_in_full(tmp_path: Path) -> None:
    tiny.build("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    tiny.tokenizer("unigram-bos").save_pretrained(tmp_path)
    encoder: Any = load_encoder(f"hf/{tmp_path}")
    assert {p.dtype for p in encoder.module.parameters()} == {torch.float32}


def test_a_model_that_cannot_mask_padding_is_refused(tmp_path: Path) -> None:
    config = transformers.FNetConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.FNetModel(config).save_pretrained(tmp_path)
    tiny.tokenizer("unigram").save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"takes no attention_mask"):
        load_encoder(f"hf/{tmp_path}")


def test_pictures_and_missing_devices_are_refused(tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, "bert"))
    with pytest.raises(EncoderError, match=r"must be a text for this encoder; got ndarray"):
        encoder.preprocessing.prepare(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(EncoderError, match=r"device 'cuda:77' does not exist"):
        encoder.to("cuda:77")
    assert encoder.to("cpu") is encoder


def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = tiny.saved(tmp_path, "bert")
    capfd.readouterr()
    embedded(load_encoder(name), ["vow " * 200])
    assert capfd.readouterr() == ("", "")


# --- words --------------------------------------------------------------------------------------

SENTENCES = [
    ("Sphinx", "of", "black", "quartz", ":", "hear", "my", "vow", "!"),
    ("noktalar",),
    ("kariyerini", "noktalar", "."),
]
WORDS = [Word(words, i) for words in SENTENCES for i in range(len(words))]


@pytest.mark.parametrize("how", ["mean", "first", "last"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta-v2", "t5", "gpt2", "llama"])
def test_words_are_pooled_from_their_own_pieces(
    architecture: str, how: str, tmp_path: Path
) -> None:
    name = tiny.saved(tmp_path, architecture)
    encoder = load_encoder(f"{name}?subwords={how}")
    got = embedded(encoder, WORDS, ["layer1", "pooled"])
    model, tokenizer = tiny.build(architecture), words_of(tmp_path)
    for row, (words, position) in enumerate(WORDS):
        text = " ".join(words)
        encoding = tokenizer(text, return_offsets_mapping=True)
        start = len(" ".join(words[:position]))  # the space before a word is the word's
        stop = start + (position > 0) + len(words[position])
        own = [
            i for i, (a, b) in enumerate(encoding["offset_mapping"]) if b > a and start < b <= stop
        ]
        states = tiny.literal_states(model, tokenizer, text)
        for layer, state in (("layer1", states[0]), ("pooled", states[-1])):
            pieces = [state[i] for i in own]
            expected = {"first": pieces[0], "last": pieces[-1], "mean": sum(pieces) / len(pieces)}
            np.testing.assert_allclose(got.features[layer][row], expected[how], atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_words_are_aligned_as_the_tokenizer_aligns_them(architecture: str, tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, architecture))
    tokenizer = words_of(tmp_path)
    for words in SENTENCES:
        batch = encoder.preprocessing.collate([Word(words, i) for i in range(len(words))])
        word_ids = tokenizer([list(words)], is_split_into_words=True).word_ids(0)
        (part,) = batch.parts
        for row, (_, start, stop) in zip(part.rows, part.spans, strict=True):
            assert [i for i, word in enumerate(word_ids) if word == row] == [*range(start, stop)]


def test_a_sentence_that_is_too_long_is_read_in_parts(tmp_path: Path) -> None:
    encoder: Any = load_encoder(f"{tiny.saved(tmp_path, 'bert')}?max_length=12")
    words = tuple(f"{w}{i}" for i, w in enumerate(["vow", "dog", "box", "fox"] * 5))
    samples = [Word(words, i) for i in range(len(words))]
    got = embedded(encoder, samples)
    assert (got.truncated > 0).all()
    assert torch.isfinite(got.features["pooled"]).all()
    # the same as if the sentence had come in halves until they fit
    parts = [words]
    while any(len(words_of(tmp_path)(" ".join(part))["input_ids"]) > 12 for part in parts):
        parts = [
            half
            for part in parts
            for half in (
                (part[: len(part) // 2], part[len(part) // 2 :])
                if len(words_of(tmp_path)(" ".join(part))["input_ids"]) > 12
                else (part,)
            )
        ]
    expected = torch.cat(
        [
            embedded(encoder, [Word(part, i) for i in range(len(part))]).features["pooled"]
            for part in parts
        ]
    )
    np.testing.assert_allclose(got.features["pooled"], expected, atol=1e-5)
    whole = embedded(encoder, [Word(("vow" * 40, "dog"), 0), Word(("vow" * 40, "dog"), 1)])
    assert torch.isfinite(whole.features["pooled"]).all()


def test_a_word_without_tokens_takes_those_before_it(tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, "bert"))
    words = ("dog", "\u200b", "fox")  # a zero-width space, which BERT's normaliser drops
    got = embedded(encoder, [Word(words, i) for i in range(3)]).features["pooled"]
    last = embedded(load_encoder(f"hf/{tmp_path}?subwords=last"), [Word(words, 0)])
    np.testing.assert_allclose(got[1], last.features["pooled"][0], atol=1e-6)
    got = embedded(encoder, [Word(("", "dog"), 0), Word(("", "dog"), 1)])
    assert torch.isfinite(got.features["pooled"]).all()


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])
def test_a_tagger_gives_the_logits_of_each_word(architecture: str, tmp_path: Path) -> None:
    name = tiny.saved(tmp_path, architecture, "ForTokenClassification", num_labels=5)
    encoder: Any = load_encoder(f"{name}?subwords=first")
    model = tiny.build(architecture, "ForTokenClassification", num_labels=5)
    got = embedded(encoder, WORDS)
    head = model.get_submodule("classifier" if hasattr(model, "classifier") else "score")
    with torch.inference_mode():
        by_head = head(got.features["pooled"])
    np.testing.assert_allclose(got.logits, by_head, atol=1e-5)
    assert embedded(encoder, SAMPLES).logits is None
    in_head = sum(p.numel() for p in head.parameters())
    assert encoder.n_parameters == sum(p.numel() for p in model.parameters()) - in_head


def test_a_slow_tokenizer_cannot_place_words(tmp_path: Path) -> None:
    encoder: Any = load_encoder(tiny.saved(tmp_path, "bert"))

    class Slow:
        is_fast = False

    object.__setattr__(encoder.preprocessing, "tokenizer", Slow())
    with pytest.raises(EncoderError, match=r"Slow does not.*tokenizer\.json"):
        encoder.preprocessing.collate([WORDS[0]])


def test_a_model_spread_over_devices_gives_the_same(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="device_map needs accelerate")
    name = tiny.saved(tmp_path, "llama")
    plain: Any = load_encoder(name)
    spread: Any = load_encoder(f"{name}?device_map=auto")
    expected = embedded(plain, SAMPLES, plain.layers).features
    got = embedded(spread, SAMPLES, plain.layers).features
    for layer in plain.layers:
        # on a machine with a GPU it is held in bfloat16
        tolerance = 0.1 if torch.cuda.is_available() else 1e-5
        np.testing.assert_allclose(got[layer].cpu(), expected[layer], atol=tolerance)
    assert spread.to("cpu") is spread
    # what does not fit is kept aside, and moved in when it is needed
    fingerprint = plain.fingerprint
    offloaded: Any = load_encoder(name)
    accelerate.cpu_offload(offloaded.module, torch.device("cpu"))
    assert any(parameter.is_meta for parameter in offloaded.module.parameters())
    assert offloaded.fingerprint == fingerprint
    got = embedded(offloaded, SAMPLES).features["pooled"]
    np.testing.assert_allclose(got, expected["pooled"], atol=1e-5)
