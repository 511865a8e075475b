"""Odd model folders: each trains, or is refused by name; nothing else may come of it.

The folders are spoilt in the ways in which folders get spoilt: files are missing, cut, empty, of
another model, or hold other types than they should.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transferscope.datasets import Dataset, open_dataset
from transferscope.encoders import load_encoder
from transferscope.errors import EncoderError
from transferscope.extraction import extract

torch = pytest.importorskip("torch", reason="encoders of model folders need torch")
timm = pytest.importorskip("timm", reason="timm is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from safetensors.torch import load_file, save_file  # noqa: E402
from text_checkpoints import saved as save_text_model  # noqa: E402

from transferscope.training import finetune  # noqa: E402

KINDS = ("timm", "vision", "text")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small folder of each kind that trains."""
    root = tmp_path_factory.mktemp("sound")
    folders = {kind: root / kind for kind in KINDS}
    torch.manual_seed(0)
    folders["timm"].mkdir()
    model = timm.create_model("test_vit", img_size=32, num_classes=7)
    config = {key: model.pretrained_cfg[key] for key in ("mean", "std", "classifier")}
    config |= {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bicubic"}
    settings = {"architecture": "test_vit", "num_classes": 7, "pretrained_cfg": config}
    write(settings | {"model_args": {"img_size": 32}})(folders["timm"])
    save_file(model.state_dict(), folders["timm"] / "model.safetensors")
    own = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    own |= {"intermediate_size": 16, "image_size": 16, "patch_size": 8, "num_labels": 7}
    vision = transformers.ViTForImageClassification(transformers.ViTConfig(**own))
    vision.save_pretrained(folders["vision"])
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size).save_pretrained(folders["vision"])
    save_text_model(folders["text"], "bert", num_hidden_layers=1)
    return folders


@pytest.fixture(scope="module")
def data() -> dict[str, Dataset]:
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    images = open_dataset((rng.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8), labels))
    words = ("quick", "lazy", "bank", "fox")
    texts = open_dataset(([f"the {words[i % 4]} {words[i // 4]}" for i in range(12)], labels))
    return {"timm": images, "vision": images, "text": texts}


Spoil = Callable[[Path], object]


def write(content: object, name: str = "config.json") -> Spoil:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda folder: (folder / name).write_text(text)


def put(value: object, *keys: str, name: str = "config.json") -> Spoil:
    """Set one setting."""

    def change(folder: Path) -> None:
        settings = json.loads((folder / name).read_text())
        place = settings
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        write(settings, name)(folder)

    return change


def drop(key: str, name: str = "config.json") -> Spoil:
    def change(folder: Path) -> None:
        settings = json.loads((folder / name).read_text())
        del settings[key]
        write(settings, name)(folder)

    return change


def gone(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def raw(content: bytes, name: str = "model.safetensors") -> Spoil:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, share: float) -> Spoil:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return change


def as_folder(name: str) -> Spoil:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Spoil:
    def rewrite(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return rewrite


def without(part: str) -> Spoil:
    return weights(lambda kept: {k: v for k, v in kept.items() if part not in k})


def filled(value: float) -> Spoil:
    def fill(kept: dict[str, Any]) -> dict[str, Any]:
        return {
            k: torch.full_like(v, value) if v.is_floating_point() else v for k, v in kept.items()
        }

    return weights(fill)


def narrowed(kept: dict[str, Any]) -> dict[str, Any]:
    return {k: v[..., :3].contiguous() if v.ndim else v for k, v in kept.items()}


#: Spoilt in every kind of folder.
COMMON: dict[str, Spoil] = {
    "config is empty": write(""),
    "config is {}": write({}),
    "config is []": write([]),
    "config is null": write("null"),
    "config is a number": write("7"),
    "config is cut": cut("config.json", 0.6),
    "config is no UTF-8": raw(b"\xff\xfe\x00{", "config.json"),
    "config is nested deeply": write("[" * 5000 + "]" * 5000),
    "config is missing": gone("config.json"),
    "config is a folder": as_folder("config.json"),
    "weights are missing": gone("model.safetensors"),
    "weights are empty": raw(b""),
    "weights are cut": cut("model.safetensors", 0.5),
    "weights are text": raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "weights are a huge header": raw(b"\xff" * 64),
    "weights are a folder": as_folder("model.safetensors"),
    "weights are no tensors": weights(lambda _: {}),
    "weights are of other names": weights(lambda kept: {f"x.{k}": v for k, v in kept.items()}),
    "weights are narrower": weights(narrowed),
    "weights are NaN": filled(float("nan")),
    "weights are infinite": filled(float("inf")),
    "weights are whole numbers": weights(lambda kept: {k: v.long() for k, v in kept.items()}),
}
TIMM: dict[str, Spoil] = {
    "no architecture": drop("architecture"),
    "architecture unknown": put("resnet_of_mine", "architecture"),
    "architecture a number": put(5, "architecture"),
    "architecture another": put("test_resnet", "architecture"),
    "no pretrained_cfg": drop("pretrained_cfg"),
    "pretrained_cfg a list": put([1], "pretrained_cfg"),
    "classes fewer": put(3, "num_classes"),
    "classes a text": put("seven", "num_classes"),
    "classes negative": put(-2, "num_classes"),
    "model_args unknown": put({"wings": 2}, "model_args"),
    "model_args a list": put([2], "model_args"),
    "heads that do not divide": put({"img_size": 32, "num_heads": 7}, "model_args"),
    "input_size a text": put("big", "pretrained_cfg", "input_size"),
    "input_size empty": put([], "pretrained_cfg", "input_size"),
    "input_size zero": put([3, 0, 0], "pretrained_cfg", "input_size"),
    "input_size another": put([3, 40, 40], "pretrained_cfg", "input_size"),
    "one channel": put([1, 32, 32], "pretrained_cfg", "input_size"),
    "crop_pct zero": put(0, "pretrained_cfg", "crop_pct"),
    "crop_pct a text": put("all", "pretrained_cfg", "crop_pct"),
    "mean too short": put([0.5], "pretrained_cfg", "mean"),
    "mean of texts": put(["a", "b", "c"], "pretrained_cfg", "mean"),
    "std zero": put([0, 0, 0], "pretrained_cfg", "std"),
    "interpolation unknown": put("psychic", "pretrained_cfg", "interpolation"),
    "classifier unknown": put("no.such.part", "pretrained_cfg", "classifier"),
    "classifier a number": put(3, "pretrained_cfg", "classifier"),
}
VISION: dict[str, Spoil] = {
    "model_type unknown": put("hovercraft", "model_type"),
    "model_type a number": put(3, "model_type"),
    "no model_type": drop("model_type"),
    "model_type of texts": put("bert", "model_type"),
    "hidden_size a text": put("wide", "hidden_size"),
    "hidden_size zero": put(0, "hidden_size"),
    "hidden_size another": put(24, "hidden_size"),
    "layers negative": put(-1, "num_hidden_layers"),
    "layers more": put(3, "num_hidden_layers"),
    "heads zero": put(0, "num_attention_heads"),
    "heads that do not divide": put(3, "num_attention_heads"),
    "activation unknown": put("wish", "hidden_act"),
    "patch larger than image": put(64, "patch_size"),
    "patch zero": put(0, "patch_size"),
    "one channel": put(1, "num_channels"),
    "labels another number": put({"0": "a", "1": "b"}, "id2label"),
    "labels a list": put(["a"], "id2label"),
    "architectures a text": put("ViT", "architectures"),
    "architectures unknown": put(["ViTForDreams"], "architectures"),
    "dtype unknown": put("float7", "torch_dtype"),
    "code of its own": put({"AutoModel": "evil.Evil"}, "auto_map"),
    "quantised": put({"quant_method": "bitsandbytes", "load_in_8bit": True}, "quantization_config"),
    "no classifier": without("classifier"),
    "no attention": without("attention"),
    "processor missing": gone("preprocessor_config.json"),
    "processor empty": write("", "preprocessor_config.json"),
    "processor {}": write({}, "preprocessor_config.json"),
    "processor a list": write([], "preprocessor_config.json"),
    "processor unknown": put("Psychic", "image_processor_type", name="preprocessor_config.json"),
    "size a text": put("big", "size", name="preprocessor_config.json"),
    "size null": put(None, "size", name="preprocessor_config.json"),
    "size another": put({"height": 40, "width": 40}, "size", name="preprocessor_config.json"),
    "size negative": put({"height": -1, "width": 9}, "size", name="preprocessor_config.json"),
    "mean of texts": put(["a"] * 3, "image_mean", name="preprocessor_config.json"),
    "mean too long": put([0.5] * 9, "image_mean", name="preprocessor_config.json"),
    "std zero": put([0, 0, 0], "image_std", name="preprocessor_config.json"),
    "resample unknown": put(77, "resample", name="preprocessor_config.json"),
    "rescale a text": put("x", "rescale_factor", name="preprocessor_config.json"),
}
TEXT: dict[str, Spoil] = {
    "model_type unknown": put("hovercraft", "model_type"),
    "model_type of images": put("vit", "model_type"),
    "vocabulary smaller": put(5, "vocab_size"),
    "vocabulary zero": put(0, "vocab_size"),
    "vocabulary a text": put("many", "vocab_size"),
    "positions fewer": put(2, "max_position_embeddings"),
    "positions null": put(None, "max_position_embeddings"),
    "padding out of range": put(10**6, "pad_token_id"),
    "hidden_size another": put(24, "hidden_size"),
    "activation unknown": put("wish", "hidden_act"),
    "architectures null": put(None, "architectures"),
    "architectures of numbers": put([3], "architectures"),
    "no embeddings": without("word_embeddings"),
    "embeddings shorter": weights(
        lambda kept: {
            k: v[:9].contiguous() if "word_embeddings" in k else v for k, v in kept.items()
        }
    ),
    "tokenizer missing": gone("tokenizer.json"),
    "tokenizer empty": write("", "tokenizer.json"),
    "tokenizer {}": write({}, "tokenizer.json"),
    "tokenizer a list": write([1], "tokenizer.json"),
    "tokenizer cut": cut("tokenizer.json", 0.5),
    "tokenizer without a model": drop("model", "tokenizer.json"),
    "tokenizer's model unknown": put("Runes", "model", "type", name="tokenizer.json"),
    "tokenizer's vocabulary empty": put({}, "model", "vocab", name="tokenizer.json"),
    "tokenizer's vocabulary a list": put([1], "model", "vocab", name="tokenizer.json"),
    "tokens at negative places": put({"a": -4}, "model", "vocab", name="tokenizer.json"),
    "tokens beyond the embedding": put(
        {"[UNK]": 9999, "[PAD]": 0}, "model", "vocab", name="tokenizer.json"
    ),
    "unknown token missing": put("<nope>", "model", "unk_token", name="tokenizer.json"),
    "settings missing": gone("tokenizer_config.json"),
    "settings empty": write("", "tokenizer_config.json"),
    "settings a list": write([], "tokenizer_config.json"),
    "class unknown": put("RuneTokenizer", "tokenizer_class", name="tokenizer_config.json"),
    "unknown token unknown": put("nowhere", "unk_token", name="tokenizer_config.json"),
    "no token to pad with": put(None, "pad_token", name="tokenizer_config.json"),
    "longest text a text": put("long", "model_max_length", name="tokenizer_config.json"),
    "longest text zero": put(0, "model_max_length", name="tokenizer_config.json"),
    "padding side unknown": put("top", "padding_side", name="tokenizer_config.json"),
    "modules.json empty": write("", "modules.json"),
    "modules.json {}": write({}, "modules.json"),
    "modules.json []": write([], "modules.json"),
    "modules.json of numbers": write([1, 2], "modules.json"),
    "modules.json without types": write([{"idx": 0}, {"idx": 1}], "modules.json"),
    "modules.json of nowhere": write(
        [
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "modules.json",
    ),
}
CASES = [(kind, name, spoil) for kind in KINDS for name, spoil in COMMON.items()]
for of, table in zip(KINDS, (TIMM, VISION, TEXT), strict=True):
    CASES += [(of, name, spoil) for name, spoil in table.items()]

PREFIX = {"timm": "timm/", "vision": "hf/", "text": "hf/"}
QUICK: dict[str, Any] = {
    "learning_rates": (1e-3,),
    "weight_decays": (0.0,),
    "n_seeds": 1,
    "epochs": 1,
}


@pytest.fixture
def name(sound: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The name of a copy of the sound folder of a kind, spoilt."""
    kind, spoil = request.param
    shutil.copytree(sound[kind], tmp_path / "odd")
    spoil(tmp_path / "odd")
    return f"{PREFIX[kind]}{tmp_path / 'odd'}"


def attempt(action: Callable[[], object]) -> str:
    """The message of the only error that is allowed; empty without."""
    try:
        action()
    except EncoderError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")  # of the libraries, which have much to say on such folders
@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(k, (k, spoil), id=f"{k}: {n}") for k, n, spoil in CASES],
    indirect=["name"],
)
def test_an_odd_folder_trains_or_is_refused_by_name(
    kind: str, name: str, data: dict[str, Dataset]
) -> None:
    refusal = attempt(lambda: finetune(name, data[kind], **QUICK))
    assert not refusal or (name in refusal and refusal.endswith((".", ")"))), refusal
    (item,) = extract(data[kind], name, store=None)
    assert item.error is None or refusal or item.error.startswith("features of sample"), item.error


@pytest.mark.parametrize("kind", KINDS)
def test_the_sound_folders_train(
    kind: str, sound: dict[str, Path], data: dict[str, Dataset]
) -> None:
    name = f"{PREFIX[kind]}{sound[kind]}"
    assert 0 <= finetune(name, data[kind], **QUICK).value <= 1
    (item,) = extract(data[kind], name, store=None)
    assert item.error is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(k, (k, spoil), id=f"{k}: {n}")
        for k, n, spoil in CASES
        if n in ("config is empty", "weights are missing", "weights are NaN", "weights are cut")
    ],
    indirect=["name"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_used_is_refused(kind: str, name: str, data: dict[str, Dataset]) -> None:
    with pytest.raises(EncoderError, match=re.escape(name)):
        finetune(name, data[kind], **QUICK)


def test_a_failure_of_foreign_code_is_named_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        """What code in Rust raises: no Exception."""

    def panic(_spec: str) -> None:
        raise Panic("index out of bounds\nat line 3")

    monkeypatch.setattr("transferscope.encoders._load._by_name", panic)
    with pytest.raises(
        EncoderError, match=r"hf/x cannot be loaded \(Panic: index out of bounds at"
    ):
        load_encoder("hf/x")
