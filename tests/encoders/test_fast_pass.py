"""The quicker pass: features of the plain one, the same bits every time, nothing left behind."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest

from transferscope.encoders import ImagePreprocessing

torch = pytest.importorskip("torch", reason="passes go through modules of torch")
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from transferscope.encoders import _fast_pass, from_module  # noqa: E402
from transferscope.encoders._fast_pass import PART_BYTES, PassPlan, part_length  # noqa: E402
from transferscope.encoders._torch_encoder import Layer, TorchEncoder  # noqa: E402
from transferscope.extraction._sinks import quicker_pass  # noqa: E402

CPU = torch.device("cpu")
PREPROCESSING = ImagePreprocessing((12, 12), 12)
BATCH = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.enabled or not torch._C._has_mkldnn, reason="torch without oneDNN"
)


def norm(channels: int) -> Any:
    """A batch norm that moves what it is given."""
    part = nn.BatchNorm2d(channels)
    nn.init.normal_(part.running_mean)
    nn.init.uniform_(part.running_var, 0.2, 3)
    nn.init.normal_(part.weight)
    nn.init.normal_(part.bias)
    return part


class Rejoined(nn.Module):
    """The input of the batch norm is read a second time, after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), norm(6)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return functional.relu(self.norm(maps)) + maps


class Shared(nn.Module):
    """One weight, two convolutions that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.conv(images)) - functional.conv2d(
            images, self.conv.weight, self.conv.bias, stride=1, padding=1
        )


class Twice(nn.Module):
    """One layer that is called twice in the same way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.conv(functional.relu(self.conv(images))))


class Flat(nn.Module):
    """Linear layers, GELU in both forms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = functional.gelu(self.first(images.flatten(2).transpose(1, 2)))
        return functional.gelu(self.second(tokens), approximate="tanh").mean(dim=1)


#: Networks, how many layers are packed, how many calls are drawn into them.
NETWORKS: dict[str, tuple[Any, int, int]] = {
    "norm, relu": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), norm(6), nn.ReLU()), 1, 2),
    "in place": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), norm(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1)
        ),
        2,
        2,
    ),
    "relu6": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU6(), norm(6)), 1, 1),
    "limits": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Hardtanh(-0.2, 0.1)), 1, 1),
    "swish": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), norm(6), nn.SiLU()), 1, 2),
    "hard": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Hardswish()), 1, 1),
    "gate": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid()), 1, 1),
    "dilated": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=2, dilation=2), norm(6)),
        1,
        1,
    ),
    "same": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding="same"), nn.ReLU()), 0, 0),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)),
        0,
        0,
    ),
    "unknown activation": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ELU()), 1, 0),
    "rejoined": (Rejoined, 1, 0),
    "shared": (Shared, 0, 0),
    "twice": (Twice, 1, 1),
    "flat": (Flat, 2, 2),
}


def planned(encoder: TorchEncoder, layers: tuple[str, ...] = ("pooled",)) -> PassPlan:
    encoder.module.eval()
    return PassPlan(partial(encoder._outputs, layers=layers), BATCH[:1], CPU)


@needs_onednn
@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_those_of_the_plain_pass(name):
    make, n_packed, n_done = NETWORKS[name]
    torch.manual_seed(0)
    encoder = from_module(make(), PREPROCESSING, identifier=name)
    plan = planned(encoder)
    assert plan.n_packed == n_packed
    assert sum(len(packed.done) for packed in plan._packed.values()) == n_done
    assert (plan.part is None) == (name == "no statistics")
    expected = encoder.embed(BATCH).features["pooled"]
    torch.testing.assert_close(plan(BATCH)["pooled"], expected, rtol=1e-5, atol=1e-6)


@needs_onednn
def test_a_layer_between_folded_parts_is_what_it_is_in_the_plain_pass():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), norm(6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1))
    encoder = TorchEncoder(
        network,
        lambda images: (network(images).mean(dim=(2, 3)), None),
        preprocessing=PREPROCESSING,
        identifier="recorded",
        layers={"before": Layer("0"), "normed": Layer("1"), "after": Layer("2")},
    )
    for layers in (("before", "pooled"), ("normed", "after"), ("after", "pooled")):
        plan, plain = planned(encoder, layers), encoder.embed(BATCH, layers)
        assert plan.n_packed == 2
        for name, given in plan(BATCH).items():
            torch.testing.assert_close(given, plain.features[name], rtol=1e-5, atol=1e-6)


@needs_onednn
def test_what_is_returned_before_its_activation_is_not_activated():
    torch.manual_seed(0)
    linear, head = nn.Linear(3, 5), nn.Linear(5, 2)

    def run(images: Any) -> tuple[Tensor, Tensor]:
        pooled = linear(images.mean(dim=(2, 3)))
        return pooled, head(functional.relu(pooled))

    encoder = TorchEncoder(
        nn.ModuleList([linear, head]), run, preprocessing=PREPROCESSING, identifier="two outputs"
    )
    embedded = encoder.fast_embed()(BATCH)
    expected = encoder.embed(BATCH)
    assert (expected.features["pooled"] < 0).any()
    torch.testing.assert_close(embedded.features, expected.features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedded.logits, expected.logits, rtol=1e-5, atol=1e-6)


def example() -> TorchEncoder:
    torch.manual_seed(0)
    return from_module(NETWORKS["in place"][0](), PREPROCESSING)


def test_two_plans_give_the_same_bits():
    first, second = example().fast_embed()(BATCH), example().fast_embed()(BATCH)
    assert torch.equal(first.features["pooled"], second.features["pooled"])


def test_parts_are_joined_in_order(monkeypatch):
    monkeypatch.setattr(_fast_pass, "PART_BYTES", 2 * 6 * 10 * 10 * 4)
    encoder = example()
    plan = planned(encoder)
    assert plan.part == 2
    alone = torch.cat([plan(BATCH[k : k + 1])["pooled"] for k in range(len(BATCH))])
    torch.testing.assert_close(plan(BATCH)["pooled"], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "length"), [(PART_BYTES + 1, 1), (PART_BYTES, 1), (PART_BYTES // 5, 5), (0, 2**25)]
)
def test_a_part_holds_as_many_as_fit(size, length):
    assert part_length(size) == length


def test_the_encoder_is_left_as_it_was():
    encoder = example()
    before = encoder.fingerprint
    embed = encoder.fast_embed()
    embed(BATCH)
    assert encoder.fingerprint == before
    plain = encoder.embed(BATCH).features["pooled"]
    with torch.no_grad():
        next(encoder.module.parameters()).mul_(2)
    assert not torch.allclose(encoder.embed(BATCH).features["pooled"], plain)


def test_features_are_ordinary_tensors():
    features = example().fast_embed()(BATCH).features["pooled"]
    assert not features.is_inference()


@needs_onednn
def test_nothing_is_packed_where_it_would_differ(monkeypatch):
    monkeypatch.setattr(_fast_pass, "TOLERANCE", -1.0)
    encoder = example()
    plan = planned(encoder)
    assert plan.n_packed == 0
    assert torch.equal(plan(BATCH)["pooled"], encoder.embed(BATCH).features["pooled"])


@needs_onednn
def test_nothing_is_packed_beyond_the_memory_for_it(monkeypatch):
    encoder = example()
    n_bytes = sum(p.nbytes for p in encoder.module.parameters() if p.ndim == 4)
    monkeypatch.setattr(_fast_pass, "PACKED_BYTES", n_bytes)
    assert planned(encoder).n_packed == 2
    monkeypatch.setattr(_fast_pass, "PACKED_BYTES", n_bytes - 1)
    plan = planned(encoder)
    assert plan.n_packed == 0
    assert torch.equal(plan(BATCH)["pooled"], encoder.embed(BATCH).features["pooled"])


class Fickle(nn.Module):
    """What follows the convolution depends on the length of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return functional.relu(maps) if len(images) == 1 else maps.tanh()


@needs_onednn
def test_a_network_that_takes_another_way_is_passed_through_as_it_is():
    encoder = from_module(Fickle(), PREPROCESSING)
    plan = planned(encoder)
    assert plan.n_packed == 1
    expected = encoder.embed(BATCH).features["pooled"]
    assert (expected < 0).any()
    assert torch.equal(plan(BATCH)["pooled"], expected)


class Narrow(nn.Module):
    """A device with room for so many images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.seen = room, list[int]()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        return self.conv(images)


def test_parts_are_halved_until_they_find_room():
    module = Narrow(2)
    encoder = from_module(module, PREPROCESSING)
    features = encoder.fast_embed()(BATCH).features["pooled"]
    module.room = 100
    torch.testing.assert_close(features, encoder.embed(BATCH).features["pooled"])
    assert [length for length in module.seen if length > 2] == [7, 3, 7]


def test_not_even_one_finds_room():
    module = Narrow(1)
    embed = from_module(module, PREPROCESSING).fast_embed()
    module.room = 0
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        embed(BATCH)


def test_a_function_gets_whole_batches():
    lengths = []

    def colour(images: Any) -> Any:
        lengths.append(len(images))
        return images.mean(axis=(2, 3))

    encoder = from_module(colour, PREPROCESSING, identifier="colour", feature_dim=3)
    encoder.fast_embed()(BATCH)
    assert lengths == [len(BATCH)]


def test_a_network_that_cannot_take_one_image_is_passed_through_as_it_is():
    class Paired(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            assert len(images) > 1
            return self.linear(images.mean(dim=(2, 3)))

    encoder = from_module(Paired(), PREPROCESSING)
    assert torch.equal(
        encoder.fast_embed()(BATCH).features["pooled"], encoder.embed(BATCH).features["pooled"]
    )


def test_a_wrapper_that_changes_embed_alone_is_not_passed_by():
    class Halved:
        """All but `embed` is that of the encoder inside."""

        def __init__(self, inside):
            self.inside = inside

        def __getattr__(self, name):
            return getattr(self.inside, name)

        def to(self, device):
            self.inside.to(device)
            return self

        def embed(self, batch, layers=("pooled",)):
            found = self.inside.embed(batch, layers)
            halves = {name: values / 2 for name, values in found.features.items()}
            return dataclasses.replace(found, features=halves)

    inside = example()
    assert quicker_pass(inside) is not None
    assert quicker_pass(Halved(inside)) is None
    heir = type("Heir", (type(inside),), {"embed": Halved.embed})
    inside.__class__ = heir
    assert quicker_pass(inside) is None
