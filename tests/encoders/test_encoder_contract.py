"""What every encoder owes to the rest of the package: each check runs on every kind of encoder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transferscope.encoders as encoders_room
from transferscope.encoders import (
    Encoder,
    ImagePreprocessing,
    expand_encoders,
    list_bundled,
    list_encoders,
    load_encoder,
)
from transferscope.errors import EncoderError, InputError, UnknownNameError

torch = pytest.importorskip("torch", reason="encoders need torch")
from torch import nn  # noqa: E402

from transferscope.encoders import from_module  # noqa: E402


def usable(library: str) -> str | None:
    """Why a library cannot be imported; None if it can."""
    try:
        __import__(library)
    except Exception as error:  # a torchvision for another torch fails with RuntimeError
        return f"{library} cannot be imported: {error}"
    return None


def timm_folder(folder: Path, architecture: str, **options: Any) -> str:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(architecture, **options)
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return f"timm/{folder}"


def hf_folder(folder: Path, architecture: str, config: str, **settings: Any) -> str:
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**settings))
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return f"hf/{folder}"


TOKENS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.5)
    )


def torchvision_model(folder: Path) -> str:
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model("shufflenet_v2_x0_5", weights=None)
    url = models.get_model_weights("shufflenet_v2_x0_5").DEFAULT.url
    checkpoints = folder / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(model.state_dict(), checkpoints / url.rpartition("/")[2])
    return "torchvision/shufflenet_v2_x0_5"


def checkpoint(folder: Path) -> str:
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pth")
    return f"checkpoint:{folder / 'weights.pth'}?arch=test_resnet"


@dataclass(frozen=True)
class Kind:
    """One kind of encoder and what is declared of it."""

    prepare: Callable[[Path], Any]
    library: str | None = None
    head: str | None = None  # path of its classifier within the module
    has_module: bool = True


IMAGES = ImagePreprocessing((16, 16), 20)

KINDS: dict[str, Kind] = {
    "timm-convolutions": Kind(
        lambda folder: timm_folder(folder, "test_resnet", num_classes=5), "timm", "fc"
    ),
    "timm-tokens": Kind(lambda folder: timm_folder(folder, "test_vit"), "timm", "head"),
    "timm-headless": Kind(lambda folder: timm_folder(folder, "test_vit", num_classes=0), "timm"),
    "checkpoint": Kind(checkpoint, "timm", "fc"),
    "torchvision": Kind(torchvision_model, "torchvision", "fc"),
    "hf-tokens": Kind(
        lambda folder: hf_folder(folder, "Dinov2Model", "Dinov2Config", **TOKENS), "transformers"
    ),
    "hf-classifier": Kind(
        lambda folder: hf_folder(folder, "ViTForImageClassification", "ViTConfig", **TOKENS),
        "transformers",
        "classifier",
    ),
    "module": Kind(
        lambda _: from_module(network(), IMAGES, identifier="mine", head=nn.Linear(6, 4)),
        head="head",
    ),
    "function": Kind(
        lambda _: from_module(
            lambda x: x.mean(axis=(2, 3)), IMAGES, identifier="colour", version="1"
        ),
        has_module=False,
    ),
    "mini": Kind(lambda _: "mini/resnet-fashion-supervised", head="head"),
    "mini-headless": Kind(lambda _: "mini/vit-random"),
}


@dataclass(frozen=True)
class Subject:
    kind: Kind
    encoder: Any
    again: Callable[[], Any]  # loads it once more

    def batch(self, n: int = 3) -> np.ndarray:
        random = np.random.default_rng(0)
        return random.integers(0, 256, (n, *self.encoder.input_size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Subject]]:
    patch = pytest.MonkeyPatch()
    made: dict[str, Subject] = {}

    def subject(name: str) -> Subject:
        kind = KINDS[name]
        reason = kind.library and usable(kind.library)
        if reason:
            pytest.skip(reason)
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            if kind.library == "torchvision":
                patch.setenv("TORCH_HOME", str(folder))
            spec = kind.prepare(folder)

            def again() -> Any:
                return load_encoder(spec if isinstance(spec, str) else kind.prepare(folder))

            made[name] = Subject(kind, load_encoder(spec), again)
        return made[name]

    yield subject
    patch.undo()


def check_follows_the_protocol(subject: Subject) -> None:
    encoder = subject.encoder
    assert isinstance(encoder, Encoder)
    assert encoder.identifier
    assert encoder.layers[-1] == "pooled"
    assert encoder.n_parameters >= 0
    assert encoder.input_size == subject.encoder.preprocessing.size


def check_gives_finite_float32_vectors(subject: Subject) -> None:
    embedded = subject.encoder.embed(subject.batch(), subject.encoder.layers)
    assert list(embedded.features) == list(subject.encoder.layers)
    for features in embedded.features.values():
        assert features.ndim == 2
        assert len(features) == 3
        assert features.dtype == torch.float32
        assert torch.isfinite(features).all()
    assert embedded.features["pooled"].shape[1] == subject.encoder.feature_dim


def check_is_deterministic(subject: Subject) -> None:
    first = subject.encoder.embed(subject.batch(), subject.encoder.layers)
    second = subject.encoder.embed(subject.batch(), subject.encoder.layers)
    for layer in subject.encoder.layers:
        assert torch.equal(first.features[layer], second.features[layer])


def check_does_not_depend_on_the_rest_of_the_batch(subject: Subject) -> None:
    batch = subject.batch()
    together = subject.encoder.embed(batch).features["pooled"]
    alone = [subject.encoder.embed(batch[i : i + 1]).features["pooled"] for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def check_takes_read_only_input_and_leaves_it_alone(subject: Subject) -> None:
    batch = subject.batch()
    before = batch.copy()
    writable = subject.encoder.embed(batch).features["pooled"]
    batch.flags.writeable = False
    assert torch.equal(subject.encoder.embed(batch).features["pooled"], writable)
    tensor = torch.from_numpy(before.copy())
    assert torch.equal(subject.encoder.embed(tensor).features["pooled"], writable)
    assert np.array_equal(batch, before)
    assert np.array_equal(tensor.numpy(), before)


def check_has_the_same_fingerprint_when_loaded_again(subject: Subject) -> None:
    assert subject.again().fingerprint == subject.encoder.fingerprint
    assert len(subject.encoder.fingerprint) == 64


def check_prepares_images(subject: Subject) -> None:
    from PIL import Image

    preprocessing = subject.encoder.preprocessing
    image = Image.new("RGB", (77, 50), (10, 200, 30))
    batch = preprocessing.collate([preprocessing.prepare(image) for _ in range(2)])
    assert batch.shape == (2, *preprocessing.size, 3)
    assert batch.dtype == np.uint8
    assert len(subject.encoder.embed(batch).features["pooled"]) == 2


def check_refuses_unknown_layers(subject: Subject) -> None:
    with pytest.raises(UnknownNameError, match="no layer 'nowhere'"):
        subject.encoder.embed(subject.batch(), ["nowhere"])


# the rest needs the module: declared by has_module


def check_runs_in_eval_mode_whatever_the_mode(subject: Subject) -> None:
    expected = subject.encoder.embed(subject.batch()).features["pooled"]
    encoder = subject.again()
    encoder.module.train()
    assert torch.equal(encoder.embed(subject.batch()).features["pooled"], expected)
    assert all(part.training for part in encoder.module.modules())


def check_makes_one_forward_pass(subject: Subject) -> None:
    calls = []
    first = next(m for m in subject.encoder.module.modules() if isinstance(m, nn.Conv2d))
    handle = first.register_forward_hook(lambda *_: calls.append(1))
    subject.encoder.embed(subject.batch(), subject.encoder.layers)
    handle.remove()
    assert len(calls) == 1


def check_has_another_fingerprint_when_one_weight_changes(subject: Subject) -> None:
    encoder = subject.again()
    with torch.no_grad():
        next(encoder.module.parameters()).view(-1)[0] += 1e-3
    assert encoder.fingerprint != subject.encoder.fingerprint


def check_leaves_no_hooks(subject: Subject) -> None:
    subject.encoder.embed(subject.batch(), subject.encoder.layers)
    for part in subject.encoder.module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


# and these the head: declared by head


def check_gives_the_logits_of_its_head(subject: Subject) -> None:
    embedded = subject.encoder.embed(subject.batch())
    head = subject.encoder.module.get_submodule(subject.kind.head)
    assert torch.allclose(head(embedded.features["pooled"]), embedded.logits, atol=1e-5)
    in_head = sum(parameter.numel() for parameter in head.parameters())
    everything = sum(parameter.numel() for parameter in subject.encoder.module.parameters())
    assert subject.encoder.n_parameters == everything - in_head


FOR_ALL = [
    check_follows_the_protocol,
    check_gives_finite_float32_vectors,
    check_is_deterministic,
    check_does_not_depend_on_the_rest_of_the_batch,
    check_takes_read_only_input_and_leaves_it_alone,
    check_has_the_same_fingerprint_when_loaded_again,
    check_prepares_images,
    check_refuses_unknown_layers,
]
WITH_MODULE = [
    check_runs_in_eval_mode_whatever_the_mode,
    check_makes_one_forward_pass,
    check_has_another_fingerprint_when_one_weight_changes,
    check_leaves_no_hooks,
]
WITH_HEAD = [check_gives_the_logits_of_its_head]

PAIRS = [
    pytest.param(name, check, id=f"{name}-{check.__name__.removeprefix('check_')}")
    for name, kind in KINDS.items()
    for check in (
        FOR_ALL + (WITH_MODULE if kind.has_module else []) + (WITH_HEAD if kind.head else [])
    )
]


@pytest.mark.parametrize(("name", "check"), PAIRS)
def test_contract(
    name: str, check: Callable[[Subject], None], subjects: Callable[[str], Subject]
) -> None:
    check(subjects(name))


@pytest.mark.parametrize("name", ["timm-headless", "hf-tokens", "function", "mini-headless"])
def test_without_a_head_there_are_no_logits(name: str, subjects: Callable[[str], Subject]) -> None:
    subject = subjects(name)
    assert subject.encoder.embed(subject.batch()).logits is None


def test_the_checks_find_violations() -> None:
    class Random:
        """Noise, other noise at every call, and not of the declared dimension."""

        identifier = "random"
        fingerprint = "0" * 64
        preprocessing = IMAGES
        feature_dim = 3
        n_parameters = 0
        input_size = (16, 16)
        layers = ("pooled",)

        def embed(self, batch: Any, layers: Any = ("pooled",)) -> Any:
            batch[:] = 0
            return encoders_room.Embedded({"pooled": torch.rand(len(batch), 4)})

        def to(self, device: str) -> Random:
            return self

    violator = Subject(KINDS["function"], Random(), Random)
    for check in (
        check_gives_finite_float32_vectors,
        check_is_deterministic,
        check_does_not_depend_on_the_rest_of_the_batch,
        check_takes_read_only_input_and_leaves_it_alone,
    ):
        with pytest.raises((AssertionError, ValueError)):
            check(violator)
    with pytest.raises(pytest.fail.Exception):
        check_refuses_unknown_layers(violator)


# the front door


def test_importing_the_room_loads_no_torch() -> None:
    program = (
        "import sys, transferscope.encoders as room; room.list_encoders('mini/*'); "
        "bad = {'torch', 'torchvision', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_broken_torchvision_leaves_what_does_not_need_it() -> None:
    program = """
import sys
import numpy as np
import transferscope.encoders as room
from transferscope.errors import MissingExtraError
sys.modules["timm"] = sys.modules["torchvision"] = sys.modules["transformers"] = None
encoder = room.load_encoder("mini/resnet-random")
assert encoder.embed(np.zeros((1, 32, 32, 3), np.uint8)).features["pooled"].shape[0] == 1
images = room.ImagePreprocessing((8, 8), 8)
assert room.from_module(lambda x: x.mean((2, 3)), images, identifier="colour").feature_dim == 3
assert not any(row.name.startswith("timm/") for row in room.list_encoders())
for spec in ("timm/resnet18", "torchvision/resnet18", "hf/some/model"):
    try:
        room.load_encoder(spec)
    except MissingExtraError as error:
        assert "pip install 'transferscope[vision]'" in str(error), error
    else:
        raise AssertionError(spec)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_public_names_are_there() -> None:
    assert all(hasattr(encoders_room, name) for name in encoders_room.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = encoders_room.no_such_name


def test_expanding_a_list_of_encoders() -> None:
    zoo = [f"mini/{name}" for name in list_bundled()]
    mine = object()
    assert expand_encoders("mini/all") == zoo
    assert expand_encoders(["timm/a, hf/b/c", "timm/a", mine, mine]) == ["timm/a", "hf/b/c", mine]  # type: ignore[list-item]
    assert expand_encoders(f"{zoo[0]},mini/all") == zoo
    assert expand_encoders("checkpoint:w.pth?arch=resnet50") == ["checkpoint:w.pth?arch=resnet50"]
    for nothing in ("", " , ", ()):
        with pytest.raises(InputError, match="must name at least one encoder"):
            expand_encoders(nothing)


def test_listing_encoders() -> None:
    rows = list_encoders()
    assert [row.name for row in rows[: len(list_bundled())]] == [
        f"mini/{n}" for n in list_bundled()
    ]
    assert all(row.feature_dim and row.n_parameters for row in list_encoders("mini/*"))
    assert list_encoders("no such thing") == []
    if usable("timm") is None:
        (row,) = list_encoders("timm/vit_small_patch16_224.dino")
        assert row.input_size == (224, 224)
        assert len(rows) > 1000


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("resnet50", "begins with one of mini/, timm/, torchvision/, hf/, checkpoint:"),
        (f"mimi/{list_bundled()[0]}", f"Did you mean .*mini/{list_bundled()[0]}"),
        ("mini/no-such-thing", "bundled encoder .* does not exist"),
    ],
)
def test_unknown_names_are_refused_with_a_hint(spec: str, match: str) -> None:
    with pytest.raises(UnknownNameError, match=match):
        load_encoder(spec)


@pytest.mark.parametrize(
    "spec", ["checkpoint:w.pth", "checkpoint:?arch=resnet50", "checkpoint:w?arch="]
)
def test_a_checkpoint_needs_a_path_and_an_architecture(spec: str) -> None:
    with pytest.raises(EncoderError, match="Write checkpoint:<path>"):
        load_encoder(spec)


# preparing images: the rules without a transform of a library to compare with


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": (0, 8), "resize": 8}, "at least one pixel"),
        ({"size": (8, 8), "resize": 0}, "at least one pixel"),
        ({"size": (8, 8), "resize": (8, -1)}, "at least one pixel"),
        (
            {"size": (8, 8), "resize": 8, "interpolation": "cubic"},
            "'cubic' is unknown",
        ),
        ({"size": (8, 8), "resize": 8, "keep_ratio": "cover"}, "keep_ratio 'cover' needs"),
        ({"size": (8, 8), "resize": 8, "std": (1, 0, 1)}, "those of std must be positive"),
        ({"size": (8, 8), "resize": 8, "mean": (0.5,)}, "three channels"),
    ],
)
def test_impossible_preprocessing_is_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        ImagePreprocessing(**arguments)


def test_the_key_tells_geometries_apart_and_nothing_else() -> None:
    key = ImagePreprocessing((8, 8), 9).key
    assert ImagePreprocessing((8, 8), 9, mean=(0.1, 0.2, 0.3), std=(1, 1, 1)).key == key
    others = [
        ImagePreprocessing((8, 9), 9),
        ImagePreprocessing((8, 8), 10),
        ImagePreprocessing((8, 8), (9, 9)),
        ImagePreprocessing((8, 8), (9, 9), keep_ratio="contain"),
        ImagePreprocessing((8, 8), None),
        ImagePreprocessing((8, 8), 9, "bicubic"),
        ImagePreprocessing((8, 8), 9, fill=(1, 1, 1)),
        ImagePreprocessing((8, 8), 9, crop_rounding="down"),
    ]
    assert len({key, *(other.key for other in others)}) == len(others) + 1


def test_without_resizing_an_image_is_cropped_or_padded(photo: Callable[..., Any]) -> None:
    image = photo(20, 9)
    prepared = ImagePreprocessing((12, 10), None, fill=(1, 2, 3)).prepare(image)
    assert prepared.shape == (12, 10, 3)
    assert np.array_equal(prepared[1:10], np.asarray(image)[:, 5:15])
    assert (prepared[[0, 10, 11]] == (1, 2, 3)).all()
