"""What is changed -> is it recomputed? A table over every source of encoders, and over data sets.

Each row extracts features into a store, changes something, and extracts again: what is served must
be what a run without a store computes, and "recomputed" must be so exactly where the row says.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders run in torch")
timm = pytest.importorskip("timm", reason="rows about timm need it")
torchvision = pytest.importorskip("torchvision", reason="rows about torchvision need it")
transformers = pytest.importorskip("transformers", reason="rows about transformers need it")
from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

import transferscope  # noqa: E402
from transferscope.datasets import open_dataset  # noqa: E402
from transferscope.encoders import (  # noqa: E402
    Embedded,
    ImagePreprocessing,
    from_module,
    load_encoder,
)
from transferscope.errors import DatasetError, EncoderError, InputError  # noqa: E402
from transferscope.extraction import _pass, extract  # noqa: E402
from transferscope.storage.feature_store import FeatureStore  # noqa: E402

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(6) % 2
TEXTS = [
    "the old river",
    "a new lighthouse of the village by the river",
    "who built it",
    "the museum",
    "a school of the village by the old lighthouse who built it by the river",
    "the school",
]
SMALL = ImagePreprocessing((16, 16), 16)

#: What a row starts from, and what it changes: gets a folder, and what it started from.
First = Callable[[Path], Any]
Then = Callable[[Path, Any], Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: something, a change, and whether features are computed again."""

    what: str
    first: First
    then: Then
    recomputed: bool


@dataclasses.dataclass
class Run:
    """What a row gives where it is more than an encoder for the data set of its kind."""

    encoder: Any
    data: Any = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the encoders that computed a batch."""
    names: list[str] = []
    take = _pass.Job.take

    def noted(job: Any, *given: Any) -> None:
        names.append(job.encoder.identifier)
        take(job, *given)

    monkeypatch.setattr(_pass.Job, "take", noted)
    return names


def features(run: Any, samples: Any, store: FeatureStore | None) -> np.ndarray:
    run = run if isinstance(run, Run) else Run(run)
    data = open_dataset((samples, LABELS)) if run.data is None else run.data
    options = {"device": "cpu", "batch_size": 3, **run.options}
    (item,) = extract(data, run.encoder, store=store, **options)
    assert item.error is None, item.error
    return item.features


# --- what encoders are made of ------------------------------------------------------------------


def timm_folder(architecture: str = "test_vit", seed: int = 0, **more: Any) -> First:
    """Writes a folder as timm saves it; the same weights whatever `model_args` are."""

    def make(folder: Path) -> str:
        torch.manual_seed(seed)
        model = timm.create_model(architecture)
        known = model.pretrained_cfg
        keys = ("input_size", "crop_pct", "mean", "std", "num_classes", "classifier")
        facts = {key: known[key] for key in (*keys, "interpolation")} | more.get("facts", {})
        name = folder / more.get("name", "one")
        name.mkdir(exist_ok=True)
        save_file(model.state_dict(), name / "model.safetensors")
        config = {
            "architecture": architecture,
            "num_classes": facts["num_classes"],
            "model_args": more.get("args", {}),
            "pretrained_cfg": facts,
        }
        (name / "config.json").write_text(json.dumps(config))
        return f"timm/{name}"

    return make


def timm_model(architecture: str = "test_resnet", seed: int = 0, **options: Any) -> First:
    def make(_: Path) -> Any:
        torch.manual_seed(seed)
        overlay = {"input_size": (3, 32, 32)}
        return timm.create_model(architecture, pretrained_cfg_overlay=overlay, **options).eval()

    return make


def torchvision_model() -> Any:
    torch.manual_seed(0)
    return torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])


VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}


def hf_vision(seed: int = 0, processor: dict[str, Any] | None = None, **settings: Any) -> First:
    name = settings.pop("name", "one")

    def make(folder: Path) -> str:
        torch.manual_seed(seed)
        config = transformers.Dinov2Config(**{**VIT, **settings})
        transformers.Dinov2Model(config).save_pretrained(folder / name)
        size = {"size": {"height": 16, "width": 16}, **(processor or {})}
        transformers.ViTImageProcessor(**size).save_pretrained(folder / name)
        return f"hf/{folder / name}"

    return make


BERT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


def tokenizer(**settings: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", *sorted({word for text in TEXTS for word in text.split()})]
    known = {word: place for place, word in enumerate(words)}
    if settings.pop("turned", False):
        known = dict(zip(words, [0, 1, *range(len(words) - 1, 1, -1)], strict=True))
    made = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", **settings
    )


def hf_text(seed: int = 0, words: dict[str, Any] | None = None, **settings: Any) -> First:
    name, query = settings.pop("name", "text"), settings.pop("query", "")

    def make(folder: Path) -> str:
        torch.manual_seed(seed)
        model = transformers.BertModel(transformers.BertConfig(**{**BERT, **settings}))
        model.save_pretrained(folder / name)
        tokenizer(**(words or {})).save_pretrained(folder / name)
        return f"hf/{folder / name}{query}"

    return make


def sentences(*parts: str, mode: str = "mean", seed: int = 0, **files: Any) -> First:
    """A folder of sentence-transformers."""
    name = files.pop("name", "text")

    def make(folder: Path) -> str:
        spec = hf_text(name=name)(folder)
        kinds = ["Transformer", "Pooling", *parts]
        modules = [
            {"path": kind if kind != "Transformer" else "", "type": f"sentence_transformers.{kind}"}
            for kind in kinds
        ]
        (folder / name / "modules.json").write_text(json.dumps(modules))
        for kind in kinds[1:]:
            (folder / name / kind).mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": 16, f"pooling_mode_{mode}_tokens": True}
        (folder / name / "Pooling" / "config.json").write_text(json.dumps(pooling))
        if "Dense" in parts:
            torch.manual_seed(seed)
            layer = nn.Linear(16, 8)
            dense = {"in_features": 16, "out_features": 8, **files.pop("dense", {})}
            (folder / name / "Dense" / "config.json").write_text(json.dumps(dense))
            weights = {f"linear.{key}": value for key, value in layer.state_dict().items()}
            save_file(weights, folder / name / "Dense" / "model.safetensors")
        for file, content in files.items():
            (folder / name / f"{file}.json").write_text(json.dumps(content))
        return spec

    return make


def checkpoint(seed: int = 0, name: str = "one.pth", arch: str = "test_resnet") -> First:
    def make(folder: Path) -> str:
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_resnet").state_dict(), folder / name)
        return f"checkpoint:{folder / name}?arch={arch}"

    return make


def layers(stride: int = 2, activation: Any = None, **more: Any) -> nn.Module:
    torch.manual_seed(more.pop("seed", 0))
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride, **more), nn.BatchNorm2d(6), activation or nn.ReLU()
    )


def module(made: Callable[[], nn.Module] = layers, **options: Any) -> First:
    preprocessing = options.pop("preprocessing", SMALL)
    return lambda _: from_module(made(), preprocessing, **options)


class Pooled(nn.Module):
    """A module of a user's own: one backbone, two ways of pooling."""

    def __init__(self, how: str = "mean", seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.how = nn.Conv2d(3, 6, 3), how

    def forward(self, images: Any) -> Any:
        maps = torch.relu(self.conv(images))
        return maps.mean((2, 3)) if self.how == "mean" else maps.amax((2, 3))


def power(exponent: float) -> Callable[[Any], Any]:
    return lambda images: np.abs(images.mean(axis=(2, 3))) ** exponent


def projection(seed: int) -> Callable[[Any], Any]:
    matrix = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    return lambda images: images.mean(axis=(2, 3)) @ matrix


def function(made: Callable[[Any], Any], **options: Any) -> First:
    return lambda _: from_module(made, SMALL, **{"identifier": "mine", **options})


class Scaled:
    """Preprocessing of a user's own, with a key that says nothing of its factor."""

    def __init__(self, factor: float = 1, key: str = "mine") -> None:
        self.factor, self.key = factor, key

    def prepare(self, sample: Any) -> Any:
        return np.asarray(sample, np.float32)[:16, :16].transpose(2, 0, 1) * self.factor

    def collate(self, prepared: Sequence[Any]) -> Any:
        return torch.from_numpy(np.stack(prepared))


class Transforms(Scaled):
    """A list of torchvision's transforms."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.steps = [torchvision.transforms.Resize(size), torchvision.transforms.ToTensor()]

    def prepare(self, sample: Any) -> Any:
        for step in self.steps:
            sample = step(sample)
        return sample.numpy()


class OwnEncoder:
    """An encoder that follows the protocol by itself."""

    preprocessing, n_parameters, input_size, layers = SMALL, 0, (16, 16), ("pooled",)
    feature_dim = 3

    def __init__(self, factor: float, fingerprint: str | None, identifier: str = "own") -> None:
        self.factor, self.fingerprint, self.identifier = factor, fingerprint, identifier

    def embed(self, batch: Any, _: Any = ()) -> Embedded:
        means = torch.from_numpy(batch.mean(axis=(1, 2)) * self.factor).float()
        return Embedded({"pooled": means})

    def to(self, _: str) -> OwnEncoder:
        return self


# --- changes ------------------------------------------------------------------------------------


def again(first: First) -> Then:
    """The same made once more."""
    return lambda folder, _: first(folder)


def becomes(other: First) -> Then:
    """Another one in its place."""
    return lambda folder, _: other(folder)


def edited(change: Callable[[Any], Any]) -> Then:
    """The same object, of which something is changed."""

    def then(_: Path, before: Any) -> Any:
        change(before)
        return before

    return then


def in_module(change: Callable[[Any], Any]) -> Then:
    """The same encoder, in whose module something is changed."""
    return edited(lambda encoder: change(encoder.module))


def moved(folder: Path, before: str) -> str:
    """A copy of a folder or file elsewhere."""
    kind, separator, rest = before.partition("/" if before[0] in "th" else ":")
    path, mark, query = rest.partition("?")
    there = folder / "elsewhere" / Path(path).name
    copy = shutil.copytree if Path(path).is_dir() else shutil.copy
    there.parent.mkdir()
    copy(path, there)
    return f"{kind}{separator}{there}{mark}{query}"


def add_noise(model: Any) -> None:
    with torch.no_grad():
        next(model.parameters()).add_(0.1)


def lift_gradients(model: Any) -> None:
    model.requires_grad_(requires_grad=False)


def put(path: str = "", **values: Any) -> Callable[[Any], Any]:
    """Sets attributes of a part of a module."""

    def change(model: Any) -> None:
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return change


def hooked(kind: str, made: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda model: getattr(next(model.children()), f"register_{kind}_hook")(made())


def own_hook() -> Any:
    return lambda _module, _inputs, output: output * 2


def config(file: str, **settings: Any) -> Then:
    """A file of settings with other values."""

    def then(_: Path, before: str) -> str:
        path = Path(before.partition("/")[2].partition("?")[0]) / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
        return before

    return then


def double_forward(model: Any) -> None:
    def forward(self: Any, images: Any) -> Any:
        return type(self).forward(self, images) * 2

    model.forward = types.MethodType(forward, model)


def double_trunk(model: Any) -> None:
    run = model.forward_features
    model.forward_features = lambda images: run(images) * 2


class OwnActivation(nn.Module):
    """An activation of a user's own."""

    def forward(self, maps: Any) -> Any:
        return maps**2


def cut_on_the_left(encoder: Any) -> None:
    encoder.preprocessing.tokenizer.truncation_side = "left"


def embed_something(encoder: Any) -> None:
    encoder.embed(encoder.preprocessing.collate(["the river " * 20, "who"]))


def with_tensor(value: float) -> nn.Module:
    made = layers()
    made.shift = torch.full((3,), value)
    return made


def with_buffer(value: float) -> nn.Module:
    made = layers()
    made.register_buffer("shift", torch.full((3,), value), persistent=False)
    return made


def normed(_: Path) -> Any:
    made: Any = layers()
    nn.utils.parametrizations.weight_norm(made[0])
    return from_module(made, SMALL)


def bundled(name: str = "resnet-random") -> First:
    return lambda _: load_encoder(f"mini/{name}")


def keep_before_and_after(folder: Path) -> str:
    """What `pretrain` keeps of a bundled encoder that was not changed."""
    encoder: Any = load_encoder("mini/resnet-random")
    save_file(encoder.module.state_dict(), folder / "kept.safetensors")
    return f"checkpoint:{folder / 'kept.safetensors'}?arch=mini/resnet-random"


def on(device: str, fingerprint: str | None = "1", factor: float = 1) -> First:
    return lambda _: Run(OwnEncoder(factor, fingerprint), options={"device": device})


def of_layers(first: First, **options: Any) -> First:
    return lambda folder: Run(first(folder), options=options)


RESNET = module(torchvision_model)
VIT_FOLDER, RESNET_FOLDER = timm_folder(), timm_folder("test_resnet")
TEXT, VISION, SENTENCES = hf_text(), hf_vision(), sentences()
VERSIONED = {"version": "1"}


ENCODERS = [
    # bundled
    Row("bundled: opened again", bundled(), again(bundled()), False),
    Row("bundled: another", bundled(), becomes(bundled("vit-random")), True),
    Row("bundled: kept by pretrain, unchanged", bundled(), becomes(keep_before_and_after), False),
    Row("bundled: trained on", bundled(), in_module(add_noise), True),
    Row("bundled: a statistic", bundled(), in_module(lambda m: m.norm.running_mean.add_(1)), True),
    Row("bundled: an attribute", bundled(), in_module(put("norm", eps=1.0)), True),
    Row("bundled: a hook", bundled(), in_module(hooked("forward", own_hook)), True),
    Row("bundled: forward", bundled(), in_module(double_forward), True),
    Row("bundled: gradients off", bundled(), in_module(lift_gradients), False),
    # folders of timm
    Row("timm folder: opened again", VIT_FOLDER, again(VIT_FOLDER), False),
    Row("timm folder: another place", VIT_FOLDER, moved, False),
    Row("timm folder: weights", VIT_FOLDER, becomes(timm_folder(seed=1)), True),
    Row("timm folder: heads", VIT_FOLDER, becomes(timm_folder(args={"num_heads": 8})), True),
    Row(
        "timm folder: activation",
        VIT_FOLDER,
        config("config.json", model_args={"act_layer": "relu"}),
        True,
    ),
    Row(
        "timm folder: pooling",
        RESNET_FOLDER,
        config("config.json", model_args={"global_pool": "max"}),
        True,
    ),
    Row(
        "timm folder: stride",
        RESNET_FOLDER,
        becomes(timm_folder("test_resnet", args={"output_stride": 16})),
        True,
    ),
    Row(
        "timm folder: mean", VIT_FOLDER, becomes(timm_folder(facts={"mean": [0.1, 0.2, 0.3]})), True
    ),
    Row("timm folder: crop", VIT_FOLDER, becomes(timm_folder(facts={"crop_pct": 0.5})), True),
    Row(
        "timm folder: filter",
        VIT_FOLDER,
        becomes(timm_folder(facts={"interpolation": "nearest"})),
        True,
    ),
    Row(
        "timm folder: a remark",
        VIT_FOLDER,
        becomes(timm_folder(facts={"tag": "mine", "license": "mit"})),
        False,
    ),
    # objects of timm
    Row("timm object: the same", timm_model(), edited(lambda _: None), False),
    Row("timm object: built again", timm_model(), again(timm_model()), False),
    Row("timm object: pooling", timm_model(), becomes(timm_model(global_pool="max")), True),
    Row("timm object: stride", timm_model(), becomes(timm_model(output_stride=16)), True),
    Row("timm object: without head", timm_model(), becomes(timm_model(num_classes=0)), True),
    Row("timm object: trained on", timm_model(), edited(add_noise), True),
    Row("timm object: half", timm_model(), edited(lambda m: m.bfloat16()), True),
    Row("timm object: train mode", timm_model(), edited(lambda m: m.train()), False),
    Row(
        "timm object: memory layout",
        timm_model(),
        edited(lambda m: m.to(memory_format=torch.channels_last)),
        False,
    ),
    Row("timm object: a hook", timm_model(), edited(hooked("forward", own_hook)), True),
    Row(
        "timm object: a hook before",
        timm_model(),
        edited(hooked("forward_pre", lambda: lambda _m, inputs: (inputs[0] * 2,))),
        True,
    ),
    Row(
        "timm object: a hook of gradients",
        timm_model(),
        edited(hooked("full_backward", lambda: lambda *_: None)),
        False,
    ),
    Row("timm object: forward", timm_model(), edited(double_trunk), True),
    Row("timm object: own activation", timm_model(), edited(put(act1=OwnActivation())), True),
    # torchvision
    Row("torchvision: built again", RESNET, again(RESNET), False),
    Row(
        "torchvision: pooling",
        RESNET,
        in_module(put("module", avgpool=nn.AdaptiveMaxPool2d(1))),
        True,
    ),
    Row("torchvision: forward", RESNET, in_module(lambda m: double_forward(m["module"])), True),
    Row(
        "torchvision: dilation",
        RESNET,
        in_module(put("module.layer1.0.conv2", dilation=(2, 2), padding=(2, 2))),
        True,
    ),
    Row("torchvision: a remark", RESNET, in_module(put("module", training=True)), False),
    # hf/ for images
    Row("hf images: opened again", VISION, again(VISION), False),
    Row("hf images: another place", VISION, moved, False),
    Row("hf images: weights", VISION, becomes(hf_vision(1)), True),
    Row("hf images: heads", VISION, becomes(hf_vision(num_attention_heads=4)), True),
    Row("hf images: activation", VISION, config("config.json", hidden_act="relu"), True),
    Row("hf images: epsilon", VISION, config("config.json", layer_norm_eps=0.1), True),
    Row(
        "hf images: mean",
        VISION,
        becomes(hf_vision(processor={"image_mean": [0.1, 0.2, 0.3]})),
        True,
    ),
    Row("hf images: filter", VISION, becomes(hf_vision(processor={"resample": 3})), True),
    Row(
        "hf images: written by another version",
        VISION,
        config("config.json", transformers_version="5.0.0"),
        False,
    ),
    # hf/ for texts
    Row("hf texts: opened again", TEXT, again(TEXT), False),
    Row("hf texts: another place", TEXT, moved, False),
    Row("hf texts: weights", TEXT, becomes(hf_text(1)), True),
    Row("hf texts: heads", TEXT, config("config.json", num_attention_heads=4), True),
    Row("hf texts: epsilon", TEXT, config("config.json", layer_norm_eps=0.1), True),
    Row("hf texts: pooling", TEXT, becomes(hf_text(query="?pooling=first")), True),
    Row("hf texts: default pooling by name", TEXT, becomes(hf_text(query="?pooling=mean")), False),
    Row("hf texts: length", TEXT, becomes(hf_text(query="?max_length=4")), True),
    Row("hf texts: pieces of words", TEXT, becomes(hf_text(query="?subwords=last")), True),
    Row("hf texts: vocabulary", TEXT, becomes(hf_text(words={"turned": True})), True),
    Row(
        "hf texts: side of truncation",
        hf_text(query="?max_length=4"),
        becomes(hf_text(query="?max_length=4", words={"truncation_side": "left"})),
        True,
    ),
    Row("hf texts: side of padding", TEXT, becomes(hf_text(words={"padding_side": "left"})), False),
    Row(
        "hf texts: tokenizer after loading",
        lambda f: load_encoder(hf_text(query="?max_length=4")(f)),
        edited(cut_on_the_left),
        True,
    ),
    Row("hf texts: used before", lambda f: load_encoder(TEXT(f)), edited(embed_something), False),
    # folders of sentence-transformers
    Row("sentences: opened again", SENTENCES, again(SENTENCES), False),
    Row("sentences: another place", SENTENCES, moved, False),
    Row("sentences: pooling", SENTENCES, becomes(sentences(mode="max")), True),
    Row("sentences: length one", SENTENCES, becomes(sentences("Normalize")), True),
    Row("sentences: a dense layer", SENTENCES, becomes(sentences("Dense")), True),
    Row("sentences: its weights", sentences("Dense"), becomes(sentences("Dense", seed=1)), True),
    Row(
        "sentences: its activation",
        sentences("Dense"),
        becomes(
            sentences("Dense", dense={"activation_function": "torch.nn.modules.activation.ReLU"})
        ),
        True,
    ),
    Row(
        "sentences: limit",
        SENTENCES,
        becomes(sentences(sentence_bert_config={"max_seq_length": 3})),
        True,
    ),
    Row(
        "sentences: prompt",
        SENTENCES,
        becomes(
            sentences(
                config_sentence_transformers={"prompts": {"q": "who "}, "default_prompt_name": "q"}
            )
        ),
        True,
    ),
    # checkpoints
    Row("checkpoint: opened again", checkpoint(), again(checkpoint()), False),
    Row("checkpoint: another place", checkpoint(), moved, False),
    Row("checkpoint: weights", checkpoint(), becomes(checkpoint(1)), True),
    # modules
    Row("module: built again", module(), again(module()), False),
    Row("module: another name", module(identifier="a"), becomes(module(identifier="b")), False),
    Row(
        "module: another name and version",
        module(identifier="a", version="1"),
        becomes(module(identifier="b", version="1")),
        True,
    ),
    Row("module: weights", module(), becomes(module(lambda: layers(seed=1))), True),
    Row("module: stride", module(), becomes(module(lambda: layers(1))), True),
    Row(
        "module: padding",
        module(lambda: layers(padding=1)),
        becomes(module(lambda: layers(padding=1, padding_mode="reflect"))),
        True,
    ),
    Row(
        "module: activation", module(), becomes(module(lambda: layers(activation=nn.GELU()))), True
    ),
    Row(
        "module: slope",
        module(lambda: layers(activation=nn.LeakyReLU(0.1))),
        becomes(module(lambda: layers(activation=nn.LeakyReLU(0.5)))),
        True,
    ),
    Row("module: a head", module(), becomes(module(head=nn.Linear(6, 2))), True),
    Row(
        "module: a tensor",
        module(lambda: with_tensor(1)),
        becomes(module(lambda: with_tensor(2))),
        True,
    ),
    Row(
        "module: the same tensor",
        module(lambda: with_tensor(1)),
        again(module(lambda: with_tensor(1))),
        False,
    ),
    Row(
        "module: a buffer that is not saved",
        module(lambda: with_buffer(1)),
        becomes(module(lambda: with_buffer(2))),
        True,
    ),
    Row("module: parametrized, built again", normed, again(normed), False),
    Row(
        "module: size", module(), becomes(module(preprocessing=ImagePreprocessing((8, 8), 8))), True
    ),
    Row(
        "module: mean",
        module(),
        becomes(module(preprocessing=ImagePreprocessing((16, 16), 16, mean=(0, 0, 0)))),
        True,
    ),
    Row(
        "module: fill",
        module(),
        becomes(module(preprocessing=ImagePreprocessing((48, 48), None, fill=(9, 9, 9)))),
        True,
    ),
    Row("own module: built again", module(Pooled), again(module(Pooled)), True),
    Row("own module: pooling", module(Pooled), becomes(module(lambda: Pooled("max"))), True),
    Row(
        "own module with version: built again",
        module(Pooled, **VERSIONED),
        again(module(Pooled, **VERSIONED)),
        False,
    ),
    Row(
        "own module with version: version",
        module(Pooled, **VERSIONED),
        becomes(module(Pooled, version="2")),
        True,
    ),
    Row(
        "own module with version: pooling",
        module(Pooled, **VERSIONED),
        becomes(module(lambda: Pooled("max"), **VERSIONED)),
        True,
    ),
    Row(
        "own module with version: weights",
        module(Pooled, **VERSIONED),
        becomes(module(lambda: Pooled(seed=1), **VERSIONED)),
        True,
    ),
    # functions
    Row("function: again", function(power(2)), again(function(power(2))), True),
    Row("function: what it encloses", function(power(2)), becomes(function(power(3))), True),
    Row(
        "function with version: again",
        function(power(2), **VERSIONED),
        again(function(power(2), **VERSIONED)),
        False,
    ),
    Row(
        "function with version: version",
        function(power(2), **VERSIONED),
        becomes(function(power(3), version="2")),
        True,
    ),
    Row(
        "function with version: name",
        function(power(2), **VERSIONED),
        becomes(function(power(3), identifier="other", version="1")),
        True,
    ),
    Row(
        "function with version: weights",
        function(projection(0), **VERSIONED),
        becomes(function(projection(1), **VERSIONED)),
        True,
    ),
    Row(
        "function with version: head",
        function(power(2), **VERSIONED),
        becomes(function(power(2), head=nn.Linear(3, 2), **VERSIONED)),
        True,
    ),
    # preprocessing of one's own
    Row(
        "own preprocessing: again",
        module(preprocessing=Scaled()),
        again(module(preprocessing=Scaled())),
        True,
    ),
    Row(
        "own preprocessing: same key",
        module(preprocessing=Scaled()),
        becomes(module(preprocessing=Scaled(0.1))),
        True,
    ),
    Row(
        "own preprocessing: a list of transforms",
        module(preprocessing=Transforms(16)),
        becomes(module(preprocessing=Transforms(8))),
        True,
    ),
    Row(
        "own preprocessing with version: again",
        module(preprocessing=Scaled(), **VERSIONED),
        again(module(preprocessing=Scaled(), **VERSIONED)),
        False,
    ),
    Row(
        "own preprocessing with version: key",
        module(preprocessing=Scaled(), **VERSIONED),
        becomes(module(preprocessing=Scaled(0.1, "other"), **VERSIONED)),
        True,
    ),
    # encoders of one's own, devices, layers, settings
    Row("own encoder: same fingerprint", on("cpu"), again(on("cpu")), False),
    Row("own encoder: fingerprint", on("cpu"), becomes(on("cpu", "2", 3)), True),
    Row("own encoder: without fingerprint", on("cpu", None), becomes(on("cpu", None, 3)), True),
    Row("device: another kind", on("cpu"), becomes(on("cuda", factor=3)), True),
    Row("device: another of its kind", on("cuda"), becomes(on("cuda:1")), False),
    Row("layers: another", of_layers(bundled()), becomes(of_layers(bundled(), layers="1")), True),
    Row(
        "layers: their mean",
        of_layers(bundled("vit-random"), layers="1"),
        becomes(of_layers(bundled("vit-random"), layers="mean")),
        True,
    ),
    Row(
        "layers: one of all",
        of_layers(bundled(), layers="all"),
        becomes(of_layers(bundled())),
        False,
    ),
    Row("batch size", of_layers(bundled()), becomes(of_layers(bundled(), batch_size=6)), False),
    Row("seed", of_layers(bundled()), becomes(of_layers(bundled(), seed=1)), False),
]


# --- data sets ----------------------------------------------------------------------------------


def of_data(make: Callable[[Path], Any], text: bool = False) -> First:
    """The same encoder for a data set."""

    def first(folder: Path) -> Run:
        encoder = TEXT(folder) if text else from_module(layers(), SMALL)
        return Run(encoder, make(folder))

    return first


def arrays(change: Callable[[np.ndarray], Any] = lambda pixels: pixels) -> First:
    def make(_: Path) -> Any:
        pixels = PIXELS.copy()
        found = change(pixels)
        return open_dataset((pixels if found is None else found, LABELS))

    return of_data(make)


def labelled(labels: Any, **options: Any) -> First:
    return of_data(lambda _: open_dataset((PIXELS, labels), **options))


def one_pixel(pixels: np.ndarray) -> None:
    pixels[4, 0, 0, 0] ^= 255


def npz(name: str = "one") -> First:
    def make(folder: Path) -> Any:
        np.savez(folder / f"{name}.npz", images=PIXELS, labels=LABELS)
        return open_dataset(folder / f"{name}.npz")

    return of_data(make)


def picture_folder(name: str = "one", change: Callable[[Path], Any] = lambda _: None) -> First:
    from PIL import Image

    def make(folder: Path) -> Any:
        for i, pixels in enumerate(PIXELS):
            place = folder / name / "ab"[LABELS[i]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{i}.png")
        change(folder / name / "a" / "2.png")
        return open_dataset(folder / name)

    return of_data(make)


def invert(path: Path) -> None:
    from PIL import Image

    Image.fromarray(~PIXELS[2]).save(path)


class Items:
    """A data set as torch has them, whose samples are made when they are asked for."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Any:
        return self.pixels[index], int(LABELS[index])


def texts(*listed: str) -> First:
    return of_data(lambda _: open_dataset((list(listed), LABELS)), text=True)


def sample_changes(_: Path, before: Run) -> Run:
    """The array that a data set holds is edited in place."""
    one_pixel(before.data._samples.array)
    return before


def item_changes(_: Path, before: Run) -> Run:
    one_pixel(before.data._samples.items.pixels)
    return before


def text_changes(_: Path, before: Run) -> Run:
    before.data._samples.texts[1] = "who built the village"
    return before


def file_changes(folder: Path, before: Run) -> Run:
    invert(folder / "one" / "a" / "2.png")
    return before


ITEMS = of_data(lambda _: open_dataset(Items(PIXELS.copy())))

DATASETS = [
    Row("arrays: again", arrays(), again(arrays()), False),
    Row("arrays: in Fortran's order", arrays(), becomes(arrays(np.asfortranarray)), False),
    Row("arrays: as npz", arrays(), becomes(npz()), False),
    Row("arrays: one pixel", arrays(), becomes(arrays(one_pixel)), True),
    Row("arrays: one pixel, edited in place", arrays(), sample_changes, True),
    Row("arrays: another order", arrays(), becomes(arrays(lambda p: p[::-1])), True),
    Row(
        "arrays: fewer samples",
        arrays(),
        becomes(of_data(lambda _: open_dataset((PIXELS[:4], LABELS[:4])))),
        True,
    ),
    Row(
        "arrays: all as a subset",
        arrays(),
        becomes(of_data(lambda _: open_dataset((PIXELS, LABELS)).subset(range(6)))),
        False,
    ),
    Row("labels: another", labelled(LABELS), becomes(labelled(1 - LABELS)), True),
    Row("labels: names", labelled(["a", "b"] * 3), becomes(labelled(["a", "c"] * 3)), True),
    Row(
        "labels: the same names",
        labelled(["a", "b"] * 3),
        again(labelled(np.array(["a", "b"] * 3))),
        False,
    ),
    Row("labels: as numbers", labelled(LABELS), becomes(labelled(LABELS, task="regression")), True),
    Row("npz: another place", npz(), becomes(npz("other")), False),
    Row("pictures: again", picture_folder(), again(picture_folder()), False),
    Row("pictures: another place", picture_folder(), becomes(picture_folder("other")), False),
    Row(
        "pictures: touched",
        picture_folder(),
        becomes(picture_folder(change=lambda file: file.touch())),
        False,
    ),
    Row(
        "pictures: one renamed",
        picture_folder(),
        becomes(picture_folder("other", lambda file: file.rename(file.with_name("20.png")))),
        False,
    ),
    Row("pictures: one inverted", picture_folder(), becomes(picture_folder(change=invert)), True),
    Row("pictures: one inverted in place", picture_folder(), file_changes, True),
    Row(
        "pictures: one removed",
        picture_folder(),
        becomes(picture_folder("other", lambda file: file.unlink())),
        True,
    ),
    Row("items: again", ITEMS, again(ITEMS), False),
    Row("items: one edited in place", ITEMS, item_changes, True),
    Row("texts: again", texts(*TEXTS), again(texts(*TEXTS)), False),
    Row("texts: one letter", texts(*TEXTS), becomes(texts("The old river", *TEXTS[1:])), True),
    Row("texts: one replaced in place", texts(*TEXTS), text_changes, True),
]


def kind_of(row: Row) -> Any:
    return TEXTS if row.what.startswith(("hf texts", "sentences")) else PIXELS


@pytest.mark.parametrize("row", [*ENCODERS, *DATASETS], ids=lambda row: row.what)
def test_what_is_changed_is_recomputed(row: Row, tmp_path: Path, taken: list[str]) -> None:
    store, samples = FeatureStore(tmp_path / "store"), kind_of(row)
    first = row.first(tmp_path)
    features(first, samples, store)
    assert taken
    taken.clear()
    second = row.then(tmp_path, first)
    served = features(second, samples, store)
    assert bool(taken) == row.recomputed
    # whatever was served is right
    np.testing.assert_allclose(served, features(second, samples, None), atol=1e-5)


def test_the_table_has_both_answers_of_every_source() -> None:
    answers = {(row.what.partition(":")[0], row.recomputed) for row in (*ENCODERS, *DATASETS)}
    assert len(ENCODERS) + len(DATASETS) >= 60
    sources = {"bundled", "timm folder", "timm object", "torchvision", "hf images", "hf texts"}
    sources |= {"sentences", "checkpoint", "module", "arrays", "pictures", "items", "texts"}
    assert {(source, answer) for source in sources for answer in (True, False)} <= answers


# --- what is stored for one run ------------------------------------------------------------------


def test_features_of_own_code_are_whole_while_they_are_needed_and_then_deleted(
    tmp_path: Path,
) -> None:
    store = FeatureStore(tmp_path)
    data = open_dataset((np.tile(PIXELS, (20, 1, 1, 1)), np.tile(LABELS, 20)))
    encoder = function(power(2))(tmp_path)
    (item,) = extract(data, encoder, store=store, device="cpu")
    assert item.features.shape == (120, 3)
    (entry,) = store.entries()
    assert entry.about["kept"] == "while one run needs it"
    item.release()
    gc.collect()
    assert store.entries() == []
    ranking = transferscope.rank(data, encoder, "knn", store=tmp_path)
    whole = transferscope.rank(data, encoder, "knn", store=None)
    assert ranking.best.scores["knn"].value == whole.best.scores["knn"].value
    gc.collect()
    assert store.entries() == []


def test_why_features_are_not_kept_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "transferscope"):
        assert module(Pooled, identifier="pool")(tmp_path).fingerprint is None
    assert "pool is not known to another run" in caplog.text
    assert "class Pooled" in caplog.text


def test_a_changed_class_of_a_library_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = from_module(layers(), SMALL)
    assert encoder.fingerprint is not None
    monkeypatch.setattr(nn.ReLU, "forward", lambda _, maps: maps * 2)
    assert encoder.fingerprint is None


def test_a_hook_on_all_modules_is_noticed() -> None:
    encoder: Any = from_module(layers(), SMALL)
    before = encoder.fingerprint
    handle = nn.modules.module.register_module_forward_hook(own_hook())
    try:
        assert encoder.fingerprint is None
    finally:
        handle.remove()
    assert encoder.fingerprint == before


def test_an_object_that_holds_itself_has_a_fingerprint() -> None:
    made: Any = layers()
    made.whole = [made]
    made.registry = {"self": made.registry} if hasattr(made, "registry") else {}
    made.registry["registry"] = made.registry
    once, twice = (from_module(made, SMALL).fingerprint for _ in range(2))
    assert once is not None
    assert once == twice


def test_code_that_torch_wrote_is_not_known() -> None:
    traced = torch.fx.symbolic_trace(layers().eval())
    assert from_module(traced, SMALL, identifier="traced").fingerprint is None


def test_fingerprints_are_the_same_in_every_process(tmp_path: Path) -> None:
    VISION(tmp_path / "other")  # transformers is at work here, and not there
    specs = [VIT_FOLDER(tmp_path), checkpoint()(tmp_path)]
    script = (
        "import sys; from transferscope.encoders import load_encoder\n"
        "print(*(load_encoder(spec).fingerprint for spec in sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *specs], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [load_encoder(spec).fingerprint for spec in specs]


#: Of the package as it was before identities were walked over: stored features stay valid.
BUNDLED = {
    "resnet-cifar10-rotation": "684ef8e55b9f2781fcb0601a5bbe129b7aca81dfb5ad333aba9ec1c03e91f951",
    "vit-random": "6423b34bf3feed808c2045f4eb1e5b9176a1edd656d6cbf916a91f7d7f6c1eb1",
    "vit-signs-supervised": "35f51d638b291d2eb330879851cb94d1246c85dff5181000a269b38128487168",
}


@pytest.mark.parametrize("name", BUNDLED)
def test_features_of_bundled_encoders_stay_valid(name: str) -> None:
    assert load_encoder(f"mini/{name}").fingerprint == BUNDLED[name]


# --- several encoders in one run -----------------------------------------------------------------


def ranked(encoders: Any, store: Path | None) -> dict[str, Any]:
    data = open_dataset((np.tile(PIXELS, (5, 1, 1, 1)), np.tile(LABELS, 5)))
    ranking = transferscope.rank(data, encoders, "logme", store=store, batch_size=7, device="cpu")
    return {row.encoder: row for row in ranking.encoders}


@pytest.mark.parametrize(
    "pair",
    [
        (module(Pooled, identifier="a"), module(lambda: Pooled("max"), identifier="b")),
        (function(power(2), identifier="a"), function(power(0.5), identifier="b")),
        (
            module(preprocessing=Scaled(), identifier="a"),
            module(preprocessing=Scaled(0.1), identifier="b"),
        ),
        (timm_folder(name="a"), timm_folder(name="b", args={"num_heads": 8})),
    ],
    ids=["modules", "functions", "preprocessing of one key", "folders"],
)
def test_two_encoders_of_one_run_keep_their_own_features(pair: Any, tmp_path: Path) -> None:
    def both() -> list[Any]:
        return [first(tmp_path) for first in pair]

    stored, streamed = ranked(both(), tmp_path / "store"), ranked(both(), None)
    values = [row.scores["logme"].value for row in stored.values()]
    assert values == [row.scores["logme"].value for row in streamed.values()]
    assert values[0] != values[1]


@pytest.mark.parametrize(
    "encoders",
    [
        lambda: [module()(Path()), module(lambda: layers(seed=1))(Path())],
        lambda: [function(power(2))(Path()), function(power(3), version="1")(Path())],
        lambda: [bundled()(Path()), "mini/resnet-random"],
        lambda: [timm_model()(Path()), timm_model(global_pool="max")(Path())],
        lambda: [OwnEncoder(1, "1"), OwnEncoder(2, "2")],
    ],
    ids=["modules", "functions", "object and name", "timm", "own"],
)
def test_two_encoders_of_one_name_are_refused(encoders: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"several are called .*identifier='name'"):
        ranked(encoders(), None)


def test_the_very_same_encoder_may_be_named_twice(tmp_path: Path) -> None:
    one = module()(tmp_path)
    assert list(ranked([one, one, "mini/vit-random", "mini/vit-random,mini/vit-random"], None)) == (
        list(ranked([one, "mini/vit-random"], None))
    )


def test_two_encoders_of_one_key_are_refused_by_name(tmp_path: Path) -> None:
    rows = ranked([OwnEncoder(1, "1", "a"), OwnEncoder(2, "1", "b")], tmp_path)
    (refused,) = [name for name, row in rows.items() if row.error is not None]
    other = {"a": "b", "b": "a"}[refused]
    assert f"encoder {refused} has the fingerprint of {other}" in str(rows[refused].error)
    # nothing is shared where nothing is stored
    rows = ranked([OwnEncoder(1, "1", "a"), OwnEncoder(2, "1", "b")], None)
    assert [row.error for row in rows.values()] == [None, None]


# --- within one process ---------------------------------------------------------------------------


def test_an_array_edited_between_two_ranks_is_ranked_anew(tmp_path: Path) -> None:
    pixels = np.tile(PIXELS, (5, 1, 1, 1))
    data = open_dataset((pixels, np.tile(LABELS, 5)))
    before = transferscope.rank(data, "mini/vit-random", "logme", store=tmp_path)
    pixels[::2] //= 4
    after = transferscope.rank(data, "mini/vit-random", "logme", store=tmp_path)
    fresh = transferscope.rank(data, "mini/vit-random", "logme", store=None)
    assert after.dataset.fingerprint == fresh.dataset.fingerprint != before.dataset.fingerprint
    assert after.best.scores["logme"].value == fresh.best.scores["logme"].value
    assert before.best.scores["logme"].value != after.best.scores["logme"].value


def test_a_run_reads_the_samples_for_the_fingerprint_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    digests = transferscope.Dataset._digests

    def noted(self: Any, indices: Any) -> bytes:
        counted.append(len(indices))
        return digests(self, indices)

    monkeypatch.setattr(transferscope.Dataset, "_digests", noted)
    data = open_dataset((np.tile(PIXELS, (5, 1, 1, 1)), np.tile(LABELS, 5)))
    pair = "mini/vit-random,mini/resnet-random"
    transferscope.rank(data, pair, "logme", layers="all", store=tmp_path)
    assert sum(counted) == len(data)


class Restless(Items):
    """Some of its items are another each time, as random augmentation makes them."""

    def __init__(self, changing: Any, labels: bool = False) -> None:
        super().__init__(PIXELS.copy())
        self.changing, self.labels, self.reads = changing, labels, 0

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        pixels, label = super().__getitem__(index)
        if index not in self.changing:
            return pixels, label
        if self.labels:
            return pixels, (label + self.reads) % 2
        return pixels ^ np.uint8(self.reads), label


@pytest.mark.parametrize(
    "source",
    [
        Restless([0]),
        Restless([5]),
        Restless(range(1, 4)),
        Restless([2], labels=True),
    ],
    ids=["first", "last", "some", "label"],
)
def test_a_data_set_that_answers_differently_each_time_is_refused(source: Restless) -> None:
    with pytest.raises(DatasetError, match=r"sample \d of Restless must be the same each time"):
        open_dataset(source)


def test_of_a_large_data_set_some_samples_are_read_twice() -> None:
    class Large(Restless):
        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index % 6)

    steady = Large([])
    steady.targets = np.arange(10_000) % 6 % 2  # type: ignore[attr-defined]
    open_dataset(steady)
    assert steady.reads < 50
    with pytest.raises(DatasetError, match="must be the same each time"):
        open_dataset(Large([1, 4]))


@pytest.mark.parametrize("store", ["Cache", "CACHE", " cache", "cache ", "None", "none", ""])
def test_a_store_that_is_nearly_the_cache_is_refused(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is neither .cache., the user.s cache folder, nor None"):
        extract(open_dataset((PIXELS, LABELS)), "mini/vit-random", store=store)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_that_name_is_named_as_a_path(tmp_path: Path) -> None:
    run = Run(bundled("vit-random")(tmp_path))
    features(run, PIXELS, FeatureStore(tmp_path / "Cache"))
    extract(open_dataset((PIXELS, LABELS)), run.encoder, store=tmp_path / "Cache")
    assert [path.name for path in tmp_path.iterdir()] == ["Cache"]


def test_fine_tuning_of_own_code_goes_on_after_an_interruption(tmp_path: Path) -> None:
    data = open_dataset((np.tile(PIXELS, (4, 1, 1, 1)), np.tile(LABELS, 4)))
    options = {"epochs": 1, "learning_rates": [1e-3], "weight_decays": [0.0], "n_seeds": 1}

    def tuned(how: str, seed: int = 0) -> Any:
        from transferscope.training import finetune

        encoder = from_module(Pooled(how, seed), SMALL, identifier="mine")
        return finetune(encoder, data, out=tmp_path, device="cpu", **options)

    assert tuned("mean").value == tuned("mean").value
    for changed in ({"how": "max"}, {"how": "mean", "seed": 1}):
        with pytest.raises((InputError, EncoderError)):
            tuned(**changed)
