"""Draw the small data that the examples of the documentation run on, into the folder that is named.

``python tools/example_data.py examples`` takes a few seconds and needs no network: photos of four
shapes, texts of several kinds, features, and two small language models that were never trained.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

SHAPES = ("circle", "cross", "square", "triangle")
THINGS = ("battery", "screen", "cable", "keyboard", "camera", "case", "manual", "speaker")
GOOD = ("works perfectly", "is a delight", "was better than expected", "lasts for days")
BAD = ("broke after a week", "is a disappointment", "came scratched", "never worked")
FRAMES = (
    "The {thing} {said}.",
    "I bought it for the {thing}, and it {said}.",
    "After a month: the {thing} {said}.",
    "Say what you like, this {thing} {said}!",
)


def main() -> None:
    """Write everything; files that are there are written again."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    write_photos(folder, rng)
    write_texts(folder, rng)
    write_features(folder, rng)
    write_results(folder)
    write_models(folder)
    print(f"wrote {', '.join(sorted(path.name for path in folder.iterdir()))} to {folder}/")


def write_photos(folder: Path, rng: np.random.Generator) -> None:
    """photos/ of four shapes, shapes.npz with the same, and digits.npz."""
    from PIL import Image
    from sklearn.datasets import load_digits

    images, labels = [], []
    for part, count in (("train", 30), ("test", 10)):
        for name in SHAPES:
            (folder / "photos" / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = photo(name, rng)
                path = folder / "photos" / part / name / f"{i:02}.jpg"
                Image.fromarray(pixels).save(path, quality=90)
                images.append(pixels[16:48, 16:48])
                labels.append(name)
    np.savez(folder / "shapes.npz", images=np.stack(images), labels=np.array(labels))
    digits = load_digits()
    pixels = np.uint8(digits.images / 16 * 255).repeat(4, axis=1).repeat(4, axis=2)
    some = rng.permutation(len(pixels))[:300]
    np.savez(folder / "digits.npz", images=pixels[some], labels=digits.target[some])


def photo(shape: str, rng: np.random.Generator) -> np.ndarray:
    """A shape of some colour, size, place and angle, before a noisy background."""
    y, x = np.mgrid[:64, :64] - rng.uniform(28, 36, (2, 1, 1))
    angle, size = rng.uniform(-0.5, 0.5), rng.uniform(9, 15)
    u, v = (
        (np.cos(angle) * x - np.sin(angle) * y) / size,
        (np.sin(angle) * x + np.cos(angle) * y) / size,
    )
    inside = {
        "circle": u**2 + v**2 < 1,
        "cross": (abs(u) < 0.3) & (abs(v) < 1) | (abs(v) < 0.3) & (abs(u) < 1),
        "square": (abs(u) < 0.85) & (abs(v) < 0.85),
        "triangle": (v < 0.7) & (v > 2 * abs(u) - 1),
    }[shape]
    back, front = rng.uniform(0, 255, (2, 3))
    picture = np.where(inside[..., None], front, back) + rng.normal(0, 25, (64, 64, 3))
    return np.uint8(picture.clip(0, 255))


def write_texts(folder: Path, rng: np.random.Generator) -> None:
    """reviews.csv, pairs.csv, comments.csv, stars.csv, sentences.jsonl and corpus.csv."""
    said = [(text, label) for label, texts in (("good", GOOD), ("bad", BAD)) for text in texts]
    rows = []
    for thing in THINGS:
        for frame in FRAMES:
            text, label = said[rng.integers(len(said))]
            rows.append((frame.format(thing=thing, said=text), label, thing))
    reviews = [row[:2] for row in rows] + [
        (frame.format(thing=thing, said=text), label)
        for frame in FRAMES[:2]
        for thing in THINGS[:4]
        for text, label in said
    ]
    _table(folder / "reviews.csv", ("text", "label"), reviews)
    _table(
        folder / "pairs.csv",
        ("premise", "hypothesis", "label"),
        [
            (text, f"The {thing} {'works' if i % 2 else 'does not work'}.", _follows(label, i % 2))
            for i, (text, label, thing) in enumerate(rows)
        ],
    )
    _table(
        folder / "comments.csv",
        ("text", "bad", "hardware"),
        [(t, int(y == "bad"), int(thing not in ("case", "manual"))) for t, y, thing in rows],
    )
    stars = rng.normal([4.0 if label == "good" else 2.0 for _, label, _ in rows], 0.3)
    _table(
        folder / "stars.csv",
        ("text", "label"),
        [(r[0], f"{s:.2f}") for r, s in zip(rows, stars, strict=True)],
    )
    _table(folder / "corpus.csv", ("text",), [(f"{a} and {b}",) for a in THINGS for b in THINGS])
    with (folder / "sentences.jsonl").open("w", encoding="utf-8") as file:
        for text, _, thing in rows:
            words = text.rstrip(".!").replace(",", "").split()
            tags = ["THING" if word == thing else "O" for word in words]
            file.write(json.dumps({"words": words, "tags": tags}) + "\n")


def _follows(label: str, works: int) -> str:
    return "entailment" if (label == "good") == bool(works) else "contradiction"


def _table(path: Path, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def write_features(folder: Path, rng: np.random.Generator) -> None:
    """features.npz: 300 samples of five classes, 64 features, and the logits of a source head."""
    labels = rng.integers(0, 5, 300)
    features = rng.standard_normal((300, 64)) + 3 * np.eye(5, 64)[labels]
    logits = features @ rng.standard_normal((64, 10)) / 8
    np.savez(folder / "features.npz", features=features, labels=labels, source_logits=logits)


def write_results(folder: Path) -> None:
    """mine.csv: two encoders that were measured; runs.csv: results on another data set."""
    _table(
        folder / "mine.csv",
        ("encoder", "accuracy"),
        [("timm/resnet18.a1_in1k", 0.81), ("hf/facebook/dinov2-small", 0.9)],
    )
    _table(
        folder / "runs.csv",
        ("dataset", "encoder", "accuracy"),
        [("leaves", "timm/resnet18.a1_in1k", 0.74), ("leaves", "timm/resnet50.a1_in1k", 0.79)],
    )


def write_models(folder: Path) -> None:
    """tiny-bert/ and tiny-gpt2/, in the form of transformers, where that is installed."""
    try:
        import torch
        import transformers
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError:
        return
    with (folder / "reviews.csv").open(encoding="utf-8") as file:
        text = file.read().replace("{", " ")
    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for word, _ in splitter.pre_tokenize_str(text)})
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokens = {token: i for i, token in enumerate((*special, *words))}
    size = {"vocab_size": len(tokens), "pad_token_id": 0}
    bert = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    gpt2 = {
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    torch.manual_seed(0)
    for name, model in (
        ("tiny-bert", transformers.BertModel(transformers.BertConfig(**bert, **size))),
        ("tiny-gpt2", transformers.GPT2Model(transformers.GPT2Config(**gpt2, **size))),
    ):
        splits = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
        splits.pre_tokenizer = splitter
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=splits, pad_token="[PAD]", unk_token="[UNK]",
            cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]", model_max_length=128,
        )  # fmt: skip
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


if __name__ == "__main__":
    main()
