"""Folders of sentence-transformers: every part and every setting is used, or refused by name.

What is right is written out here; the same folders were run once through sentence-transformers 6.2,
which gives the same vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
from text_checkpoints import sentence_folder  # noqa: E402

from transferscope.encoders import load_encoder  # noqa: E402
from transferscope.errors import EncoderError  # noqa: E402

SAMPLES = [
    "a",
    "How much does it cost to send 1,250.75 to another bank account?",
    "Sphinx of black quartz: hear my vow!",
    "k\u0131sa bir c\u00fcmle",
]
MEAN: dict[str, Any] = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


def embedded(encoder: Any, samples: Any = SAMPLES) -> Any:
    preprocessing = encoder.preprocessing
    return encoder.embed(preprocessing.collate([preprocessing.prepare(s) for s in samples]))


def features(name: str, samples: Any = SAMPLES) -> Any:
    return embedded(load_encoder(name), samples).features["pooled"]


def states(folder: Path, sample: str, **options: Any) -> Any:
    """Hidden states of the tokens of one text."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return tiny.build("bert")(
            **words(sample, return_tensors="pt", **options)
        ).last_hidden_state[0]


def linear(width: int, out: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "linear.weight": torch.randn(out, width, generator=generator) / width**0.5,
        "linear.bias": torch.randn(out, generator=generator),
    }


def dense(width: int, out: int, **settings: Any) -> dict[str, Any]:
    return {"in_features": width, "out_features": out, "bias": True, **settings}


POOLED: dict[str, Callable[[Any], Any]] = {
    "cls_token": lambda states: states[0],
    "max_tokens": lambda states: states.amax(0),
    "mean_tokens": lambda states: states.mean(0),
    "mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "weightedmean_tokens": lambda states: tiny.literal_pool(states, "weighted-mean"),
    "lasttoken": lambda states: states[-1],
}


@pytest.mark.parametrize("mode", POOLED)
def test_a_folder_pools_as_it_says(mode: str, tmp_path: Path) -> None:
    pooling = {"word_embedding_dimension": 32, f"pooling_mode_{mode}": True}
    name = sentence_folder(tmp_path, pooling, ("Normalize", {}, {}))
    got = features(name)
    for row, sample in enumerate(SAMPLES):
        expected = POOLED[mode](states(tmp_path, sample))
        np.testing.assert_allclose(got[row], expected / expected.norm(), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        # switched-on poolings stand in one order, whatever the order in the file
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            ["max_tokens", "mean_tokens"],
        ),
        (
            {f"pooling_mode_{mode}": True for mode in reversed(POOLED)},
            list(POOLED),
        ),
        ({"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}, ["lasttoken"]),
        # a list is in its own order, and goes before switches
        ({"pooling_mode": ["mean", "max"]}, ["mean_tokens", "max_tokens"]),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, ["cls_token"]),
        ({"embedding_dimension": 32}, ["mean_tokens"]),
        ({"pooling_mode_mean_tokens": False}, ["mean_tokens"]),
    ],
    ids=str,
)
def test_several_poolings_stand_side_by_side(
    pooling: dict[str, Any], modes: list[str], tmp_path: Path
) -> None:
    got = features(sentence_folder(tmp_path, pooling))
    for row, sample in enumerate(SAMPLES):
        hidden = states(tmp_path, sample)
        expected = torch.cat([POOLED[mode](hidden) for mode in modes])
        np.testing.assert_allclose(got[row], expected, atol=1e-5)


GELU = "torch.nn.modules.activation.GELU"
NORM = {"norm.weight": torch.linspace(0.5, 2, 7), "norm.bias": torch.linspace(-1, 1, 7)}


def layer_norm(x: Any) -> Any:
    return torch.nn.functional.layer_norm(x, (7,), NORM["norm.weight"], NORM["norm.bias"])


def around(x: Any, out: int) -> Any:
    weights = linear(32, out)
    return weights["linear.weight"] @ x + weights["linear.bias"]


TANH, BYPASS = torch.tanh, {"residual.weight": torch.linspace(-1, 1, 7 * 32).reshape(7, 32)}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # without an activation in its settings a dense layer has tanh
        ([("Dense", dense(32, 7), linear(32, 7))], lambda x: TANH(around(x, 7))),
        (
            [("Dense", dense(32, 7, activation_function=GELU), linear(32, 7))],
            lambda x: torch.nn.functional.gelu(around(x, 7)),
        ),
        (
            [("Dense", dense(32, 32, use_residual=True), linear(32, 32))],
            lambda x: TANH(around(x, 32)) + x,
        ),
        (
            [("Dense", dense(32, 7, use_residual=True), {**linear(32, 7), **BYPASS})],
            lambda x: TANH(around(x, 7)) + BYPASS["residual.weight"] @ x,
        ),
        (
            [
                ("Dropout", {"dropout": 0.9}, {}),
                ("Dense", dense(32, 7, module_input_name="sentence_embedding"), linear(32, 7)),
                ("LayerNorm", {"dimension": 7}, NORM),
                ("Normalize", {"module_output_name": "sentence_embedding"}, {}),
            ],
            lambda x: torch.nn.functional.normalize(layer_norm(TANH(around(x, 7))), dim=0),
        ),
    ],
)
def test_layers_after_the_pooling(
    parts: Any, expected: Callable[[Any], Any], tmp_path: Path
) -> None:
    got = features(sentence_folder(tmp_path, MEAN, *parts))
    for row, sample in enumerate(SAMPLES):
        np.testing.assert_allclose(got[row], expected(states(tmp_path, sample).mean(0)), atol=1e-5)


def test_prompts_and_limits(tmp_path: Path) -> None:
    prompts = {
        "prompts": {"q": "ask ", "other": "tell "},
        "default_prompt_name": "q",
        "similarity_fn_name": "cosine",
        "__version__": {"sentence_transformers": "6.2.0"},
    }
    name = sentence_folder(
        tmp_path,
        MEAN,
        ("Dense", dense(32, 7), linear(32, 7)),
        sentence_bert_config={"max_seq_length": 9},
        config_sentence_transformers=prompts,
    )
    encoder: Any = load_encoder(name)
    got = embedded(encoder)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for row, sample in enumerate(SAMPLES):
        state = states(tmp_path, f"ask {sample}", truncation=True, max_length=9).mean(0)
        np.testing.assert_allclose(got.features["pooled"][row], TANH(around(state, 7)), atol=1e-5)
        assert got.truncated[row] == max(0, len(words(f"ask {sample}")["input_ids"]) - 9)
    assert got.truncated.max() > 0
    assert encoder.feature_dim == 7


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_each_kind_of_transformer_once_had_its_own_file_of_settings(
    kind: str, tmp_path: Path
) -> None:
    files = {f"sentence_{kind}_config": {"max_seq_length": 6, "do_lower_case": False}}
    name = sentence_folder(tmp_path, MEAN, **files)
    assert load_encoder(name).preprocessing.limit == 6  # type: ignore[attr-defined]


def test_weights_of_layers_go_into_the_fingerprint(tmp_path: Path) -> None:
    names = [
        sentence_folder(tmp_path / str(seed), MEAN, ("Dense", dense(32, 7), linear(32, 7, seed)))
        for seed in (0, 1)
    ]
    one, other = (load_encoder(name).fingerprint for name in names)
    assert one != other


# --- lower case ---------------------------------------------------------------------------------


def cased(folder: Path, **settings: Any) -> str:
    """A folder whose tokenizer tells capitals from small letters."""
    from tokenizers import normalizers

    name = sentence_folder(folder, MEAN, sentence_bert_config=settings)
    words = tiny.tokenizer("wordpiece")
    backend = type(words.backend_tokenizer).from_str(words.backend_tokenizer.to_str())
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return name


LOUD = ["THE QUICK BROWN FOX", "Where is the Largest MUSEUM"]


def test_texts_are_read_in_lower_case_where_the_folder_says_so(tmp_path: Path) -> None:
    name = cased(tmp_path / "lower", do_lower_case=True, max_seq_length=8)
    lower = load_encoder(name)
    got = embedded(lower, LOUD).features["pooled"]
    quiet = [text.lower() for text in LOUD]
    assert torch.equal(embedded(lower, quiet).features["pooled"], got)
    plain = load_encoder(cased(tmp_path / "cased", max_seq_length=8))
    assert torch.equal(embedded(plain, quiet).features["pooled"], got)
    assert (embedded(plain, LOUD).features["pooled"] - got).abs().max() > 0.01
    assert lower.preprocessing.key != plain.preprocessing.key
    # a pooling of one's own changes the pooling only
    assert torch.equal(features(f"{name}?pooling=mean", LOUD), features(name, LOUD))


def test_lower_case_needs_a_tokenizer_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = cased(tmp_path, do_lower_case=True)
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "backend_tokenizer", None)
    with pytest.raises(EncoderError, match=r"do_lower_case.*cannot do.*tokenizer\.json"):
        load_encoder(name)


# --- what is refused ----------------------------------------------------------------------------

ODD_PARTS = ["WordEmbeddings", "CNN", "LSTM", "BoW", "WeightedLayerPooling", "Router", "Asym"]


@pytest.mark.parametrize("kind", ODD_PARTS)
def test_unknown_parts_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    name = sentence_folder(tmp_path, MEAN, (kind, {}, {}))
    with pytest.raises(EncoderError, match=rf"not known here: {kind}.*\?pooling=mean"):
        load_encoder(name)
    assert load_encoder(f"{name}?pooling=mean").layers[-1] == "pooled"


@pytest.mark.parametrize(
    ("listed", "match"),
    [
        (["sentence_transformers.models.CLIPModel"], "begins with CLIPModel"),
        (["sentence_transformers.models.StaticEmbedding"], "begins with StaticEmbedding"),
        (["sentence_transformers.models.WordEmbeddings"], "begins with WordEmbeddings"),
        (["custom_st.Transformer"], r"begins with custom_st\.Transformer"),
        (["sentence_transformers.models.Transformer"], "no Pooling after its Transformer"),
        (["sentence_transformers.models.Transformer", "my_code.Pooling"], r"here: my_code\.Pool"),
        (
            ["sentence_transformers.models.Transformer", "sentence_transformers.models.Normalize"],
            "not known here: Normalize",
        ),
        ([], "begins with nothing"),
    ],
)
def test_lists_of_modules_that_are_not_understood(
    listed: list[str], match: str, tmp_path: Path
) -> None:
    name = sentence_folder(tmp_path, MEAN)
    modules = [
        {"idx": i, "name": str(i), "path": "", "type": kind} for i, kind in enumerate(listed)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match=match):
        load_encoder(name)


def test_names_of_modules_in_newer_versions(tmp_path: Path) -> None:
    name = sentence_folder(tmp_path, MEAN)
    before = features(name)
    kinds = ("base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, ("", "1_Pooling"), strict=True))
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True})
    )
    (tmp_path / "sentence_bert_config.json").write_text(
        json.dumps(
            {
                "transformer_task": "feature-extraction",
                "modality_config": {
                    "text": {"method": "forward", "method_output_name": "last_hidden_state"}
                },
                "module_output_name": "token_embeddings",
            }
        )
    )
    assert torch.equal(features(name), before)


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', "null", '[{"path": ""}]', "\\xff"])
def test_a_damaged_list_of_modules(content: str, tmp_path: Path) -> None:
    name = sentence_folder(tmp_path, MEAN)
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(EncoderError, match=r"modules\.json"):
        load_encoder(name)


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "a/../../b"])
def test_modules_lie_in_the_folder(path: str, tmp_path: Path) -> None:
    name = sentence_folder(tmp_path / "model", MEAN)
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    modules[1]["path"] = path
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(EncoderError, match="outside of its folder"):
        load_encoder(name)


TRANSFORMER, WHOLE = "sentence_bert_config", "config_sentence_transformers"


@pytest.mark.parametrize(
    ("file", "settings", "match"),
    [
        (TRANSFORMER, {"do_upper_case": True}, r"may change the features: do_upper_case=True"),
        (TRANSFORMER, {"max_seq_length": "9"}, "max_seq_length .* must be a number"),
        (TRANSFORMER, {"max_seq_length": 0}, "max_seq_length .* must be a number"),
        (TRANSFORMER, {"transformer_task": "fill-mask"}, "transformer_task='fill-mask'"),
        (TRANSFORMER, {"tokenizer_name_or_path": "bert"}, "tokenizer_name_or_path='bert'"),
        (TRANSFORMER, {"processing_kwargs": {"text": {"max_length": 4}}}, "processing_kwargs="),
        (TRANSFORMER, {"module_output_name": "scores"}, "module_output_name='scores'"),
        (TRANSFORMER, {"model_args": {"num_hidden_layers": 1}}, "model_args.*num_hidden_layers=1"),
        (TRANSFORMER, {"tokenizer_args": {"do_basic": 1}}, "tokenizer_args.*do_basic=1"),
        (TRANSFORMER, {"config_kwargs": "x"}, "config_kwargs='x'"),
        (
            TRANSFORMER,
            {"modality_config": {"text": {"method": "get_text", "method_output_name": None}}},
            "takes its features of texts by .*get_text",
        ),
        (TRANSFORMER, {"modality_config": {"message": {}}}, "takes its features of texts by None"),
        (WHOLE, {"truncate_dim": 8}, "truncate_dim=8"),
        (WHOLE, {"model_type": "SparseEncoder"}, "model_type='SparseEncoder'"),
        (WHOLE, {"output_value": "token_embeddings"}, "output_value="),
        (WHOLE, {"default_prompt_name": "q"}, "default_prompt_name 'q' .* one of its prompts"),
        ("1_Pooling/config", {**MEAN, "pooling_mode_attention": True}, "not known here: attention"),
        ("1_Pooling/config", {"pooling_mode": "attention"}, "not known here: attention"),
        ("1_Pooling/config", {"pooling_mode": []}, "not known here: none"),
        ("1_Pooling/config", {**MEAN, "layers": [1, 2]}, r"layers=\[1, 2\]"),
        ("1_Pooling/config", {}, "lacks 1_Pooling/config"),
        ("2_Normalize/config", {"module_input_name": "token_embeddings"}, "module_input_name="),
        ("2_Normalize/config", {"p": 1}, "p=1"),
    ],
    ids=str,
)
def test_settings_that_are_not_understood(
    file: str, settings: dict[str, Any], match: str, tmp_path: Path
) -> None:
    name = sentence_folder(tmp_path, MEAN, ("Normalize", {}, {}))
    (tmp_path / f"{file}.json").write_text(json.dumps(settings))
    with pytest.raises(EncoderError, match=match):
        load_encoder(name)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        (TRANSFORMER, {"unpad_inputs": True, "max_seq_length": None, "query_length": 32}),
        (TRANSFORMER, {"model_args": {"torch_dtype": "float16", "attn_implementation": "sdpa"}}),
        (WHOLE, {"model_type": "SentenceTransformer", "prompts": {"query": "ask "}}),
        (WHOLE, {"default_prompt_name": "query", "prompts": None}),  # empty where it is not given
        (WHOLE, {"default_prompt_name": None, "truncate_dim": None, "requirements": {}}),
        ("1_Pooling/config", {**MEAN, "pooling_mode_attention": False, "include_prompt": False}),
    ],
    ids=str,
)
def test_settings_that_change_nothing(file: str, settings: dict[str, Any], tmp_path: Path) -> None:
    before = features(sentence_folder(tmp_path, MEAN))
    (tmp_path / f"{file}.json").write_text(json.dumps(settings))
    assert torch.equal(features(f"hf/{tmp_path}"), before)


@pytest.mark.parametrize(
    ("part", "match"),
    [
        (("Dense", dense(32, 7), {}), "lacks the weights of 2_Dense"),
        (("Dense", {}, linear(32, 7)), "lacks 2_Dense/config"),
        (("Dense", {"in_features": 32}, linear(32, 7)), "must give in_features and out_features"),
        (("Dense", dense(32, 6), linear(32, 7)), "weights of 2_Dense .* size mismatch"),
        (("Dense", dense(32, 7, bias=False), linear(32, 7)), r"Unexpected key.*linear\.bias"),
        (("Dense", dense(31, 7), linear(31, 7)), "do not take its 32 pooled features"),
        (("Dense", dense(32, 7, use_residual=True), linear(32, 7)), r"Missing.*residual\.weight"),
        (("Dense", dense(32, 7, activation_function="my.Swish"), linear(32, 7)), r"my\.Swish"),
        (
            ("Dense", dense(32, 7, activation_function="torch.nn.Linear"), linear(32, 7)),
            r"activation torch\.nn\.Linear",
        ),
        (("Dense", dense(32, 7, module_input_name="token_embeddings"), linear(32, 7)), "token_emb"),
        (("Dense", dense(32, 7, scale=2), linear(32, 7)), "scale=2"),
        (("LayerNorm", {"dimension": 7}, {"norm.weight": torch.ones(32)}), r"norm\.bias"),
        (("LayerNorm", {"dimension": 7}, NORM), "do not take its 32 pooled features"),
        (("LayerNorm", {"dimension": 7, "eps": 1}, NORM), "eps=1"),
    ],
    ids=str,
)
def test_layers_that_are_not_understood_or_do_not_fit(
    part: Any, match: str, tmp_path: Path
) -> None:
    name = sentence_folder(tmp_path, MEAN, part)
    with pytest.raises(EncoderError, match=match):
        load_encoder(name)
    load_encoder(f"{name}?pooling=mean")


def test_damaged_weights_of_a_layer(tmp_path: Path) -> None:
    name = sentence_folder(tmp_path, MEAN, ("Dense", dense(32, 7), linear(32, 7)))
    file = tmp_path / "2_Dense" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(EncoderError, match="damaged or cut short"):
        load_encoder(name)


def test_a_prompt_that_is_not_pooled_is_refused(tmp_path: Path) -> None:
    prompts = {"prompts": {"q": "ask "}, "default_prompt_name": "q"}
    name = sentence_folder(
        tmp_path, {**MEAN, "include_prompt": False}, config_sentence_transformers=prompts
    )
    with pytest.raises(EncoderError, match=r"leaves its prompt 'ask ' out.*\?pooling=mean"):
        load_encoder(name)
    load_encoder(f"{name}?pooling=mean")


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    name = sentence_folder(tmp_path, MEAN, sentence_bert_config={"max_seq_length": 7})
    whole = features(name)
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    for file in [*tmp_path.glob("*.json"), *tmp_path.glob("*.safetensors")]:
        if file.name != "modules.json":
            file.rename(inner / file.name)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert torch.equal(features(name), whole)


def test_a_vision_model_in_such_a_folder_is_refused(tmp_path: Path) -> None:
    sentence_folder(tmp_path, MEAN)
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"vision model \(vit\).*without modules\.json"):
        load_encoder(f"hf/{tmp_path}")
