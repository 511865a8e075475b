"""Language models are fine-tuned by the same function as image encoders."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("transformers", reason="text encoders need transformers")
pytest.importorskip("tokenizers", reason="text encoders need tokenizers")

from text_checkpoints import saved  # noqa: E402

from transferscope.datasets import open_dataset  # noqa: E402
from transferscope.encoders import load_encoder  # noqa: E402
from transferscope.errors import InputError  # noqa: E402
from transferscope.training import finetune, load_winner, select  # noqa: E402


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    animals, money = ("fox", "dog", "lazy", "jumps"), ("cost", "bank", "account", "send")
    labels = np.arange(80) % 2
    words = [rng.choice(money if label else animals, size=rng.integers(2, 7)) for label in labels]
    return open_dataset(([" ".join(chosen) for chosen in words], labels))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_text_encoder_is_fine_tuned(architecture, texts, tmp_path):
    encoder = load_encoder(saved(tmp_path, architecture))
    quick = {"weight_decays": (1e-4,), "n_seeds": 1, "patience": None}
    assert encoder.last_block is not None
    found = finetune(encoder, texts, learning_rates=(3e-3,), epochs=8, **quick)
    assert found.value > 0.8
    finetune(encoder, texts, learning_rates=(3e-3,), epochs=1, mode="last-block", **quick)
    with pytest.raises(InputError, match="only images can be augmented"):
        finetune(encoder, texts, learning_rates=(3e-3,), epochs=1, augment="shift", **quick)


def test_text_encoders_are_selected(texts, tmp_path):
    names = [saved(tmp_path / name, name) for name in ("bert", "gpt2")]
    found = select(texts, names, out=tmp_path / "out", learning_rates=(3e-3,), epochs=6, n_seeds=1)
    assert found.winner in names
    assert found.checkpoint is None
    assert load_winner(tmp_path / "out").predict(texts).shape == (80,)


@pytest.mark.parametrize(
    ("architecture", "suffix", "expected"),
    [("bert", "Model", "encoder.layer.2"), ("gpt2", "Model", "h.2"), ("t5", "Model", "block.2"),
     ("albert", "Model", None), ("bart", "ForSequenceClassification", "model.decoder.layers.1")],
)  # fmt: skip
def test_the_last_block_is_the_one_before_the_features(architecture, suffix, expected, tmp_path):
    two = {"bart": {"decoder_layers": 2}}
    name = saved(tmp_path, architecture, suffix, **two.get(architecture, {}))
    encoder = load_encoder(name)
    assert encoder.last_block == expected


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_forward_gives_the_features_of_embed(architecture, texts, tmp_path):
    encoder = load_encoder(saved(tmp_path, architecture))
    encoder.module.eval()
    batch = encoder.preprocessing.collate(
        [encoder.preprocessing.prepare(texts[i]) for i in range(9)]
    )
    expected = encoder.embed(batch).features["pooled"]
    assert torch.allclose(encoder.forward(batch).detach(), expected, atol=1e-5)


def test_words_with_tags_are_fine_tuned(tmp_path):
    encoder = load_encoder(saved(tmp_path / "model", "bert"))
    path = tmp_path / "tags.csv"
    rows = ["fox dog cost bank,A A B B" for _ in range(15)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    tags = open_dataset(path, task="tags")
    quick = {"weight_decays": (1e-4,), "n_seeds": 1, "patience": None}
    assert len(tags) == 60
    assert finetune(encoder, tags, learning_rates=(3e-3,), epochs=40, **quick).value > 0.9
