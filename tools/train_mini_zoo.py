"""Train the encoders of the bundled zoo and write their weights and cards into the package.

::

    python tools/train_mini_zoo.py                       # all that are missing
    python tools/train_mini_zoo.py --only resnet-random --force

Runs on one thread of a CPU with fixed seeds, so that the same machine gives the same weights.
Each encoder is saved as soon as it is trained, so stopping early leaves a usable zoo.
The whole zoo takes about an hour.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "src"))

from transferscope.encoders._bundled_networks import (  # noqa: E402  (after the path is set)
    BundledNetwork,
    MiniResNet,
    MiniVisionTransformer,
    _TransformerBlock,
    build_network,
)

WEIGHTS = REPOSITORY / "src" / "transferscope" / "encoders" / "mini_weights"
NEIGHBOURS = 20


# ---------------------------------------------------------------------------------------------
# What is trained
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """One encoder of the zoo: what it is, what it learns from, and for how long."""

    architecture: str
    source: str | None
    method: str
    seed: int
    summary: str
    epochs: int = 0
    learning_rate: float = 3e-3
    batch_size: int = 128
    weight_decay: float = 0.05

    @property
    def name(self) -> str:
        """The name in the zoo, without ``mini/``."""
        parts = (self.architecture, self.source, self.method)
        return "-".join(part for part in parts if part)


# quick ones first: an early stop then leaves the widest choice
RECIPES = (
    Recipe("resnet", None, "random", 11, "Never trained: what the architecture alone sees."),
    Recipe("vit", None, "random", 12, "Never trained: a transformer's initialisation."),
    Recipe("resnet", "mnist", "supervised", 21, "Tells handwritten digits apart.", 8),
    Recipe("resnet", "flowers", "supervised", 22, "Tells five kinds of flowers apart.", 80),
    Recipe(
        "separable", "caltech", "supervised", 23, "Tells 43 kinds of objects apart.", 100,
        batch_size=64,
    ),
    Recipe("resnet", "fashion", "supervised", 24, "Tells pieces of clothing apart.", 12),
    Recipe("separable", "mnist", "rotation", 25, "Says how a handwritten digit was turned.", 8),
    Recipe(
        "vit", "signs", "supervised", 26, "Tells photographed sign-language digits apart.", 80,
        learning_rate=2e-3, batch_size=64,
    ),
    Recipe(
        "resnet", "cifar10", "supervised", 27, "Tells ten kinds of photographs apart.", 10,
        learning_rate=4e-3,
    ),
    Recipe(
        "vit", "fashion", "masked", 28, "Fills in hidden parts of pictures of clothing.", 12,
        learning_rate=2e-3,
    ),
    Recipe(
        "separable", "cifar10", "supervised", 30, "Tells ten kinds of photographs apart.", 5,
        learning_rate=4e-3,
    ),
    Recipe(
        "resnet", "cifar10", "simclr", 32, "Finds the other crop of the same photograph.", 5,
        learning_rate=2e-3, batch_size=256, weight_decay=0.01,
    ),
    Recipe("resnet", "cifar10", "rotation", 29, "Says how a photograph was turned.", 4),
    Recipe(
        "separable", "fashion", "simclr", 31, "Finds the other crop of the same clothing.", 12,
        learning_rate=2e-3, batch_size=256, weight_decay=0.01,
    ),
    Recipe(
        "vit", "cifar10", "supervised", 33, "Tells ten kinds of photographs apart.", 5,
        learning_rate=2e-3,
    ),
    Recipe(
        "vit", "cifar10", "masked", 34, "Fills in hidden parts of photographs.", 4,
        learning_rate=2e-3,
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------
# What it is trained on
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A source data set: where it lies, and whether its mirror image is still the same thing."""

    file: str
    title: str
    mirrored: bool
    shift: int


SOURCES = {
    "mnist": Source("mnist.npz", "MNIST (12,000 of its training images)", False, 2),
    "fashion": Source("fashion_mnist.npz", "Fashion-MNIST (12,000 training images)", True, 2),
    "flowers": Source("flower_photos.npz", "flower_photos", True, 4),
    "caltech": Source("caltech101_c43.npz", "Caltech-101 (43 largest classes)", True, 4),
    "signs": Source("sign_digits.npz", "Sign Language Digits", True, 4),
    "cifar10": Source("cifar10_jpeg.npz", "CIFAR-10 (JPEG-recompressed)", True, 4),
}


@dataclass(frozen=True)
class Data:
    """Images as (n, 32, 32, 3) uint8 and labels as int64, for training and test."""

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the training pixels in [0, 1]."""
        pixels = self.train_images[:5000].astype(np.float64) / 255
        mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
        return tuple(mean.round(4).tolist()), tuple(std.round(4).tolist())


def _small(image: Image.Image) -> npt.NDArray[np.uint8]:
    # the same steps that the encoders' preprocessing takes
    return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))


def load_source(source: str, folder: Path, cache: Path) -> Data:
    """Read a source, resized to 32 x 32 RGB; the resized images are kept in `cache`."""
    cached = cache / f"{source}.npz"
    if not cached.exists():
        arrays: dict[str, Any] = {}
        with np.load(folder / "images" / SOURCES[source].file) as stored:
            arrays["class_names"] = stored["class_names"].astype(str)
            for split in ("train", "test"):
                arrays[f"{split}_labels"] = stored[f"{split}_labels"].astype(np.int64)
                if f"{split}_jpeg" in stored:
                    ends, data = stored[f"{split}_offsets"], stored[f"{split}_jpeg"].tobytes()
                    images: Iterator[Image.Image] = (
                        Image.open(io.BytesIO(data[a:b])) for a, b in itertools.pairwise(ends)
                    )
                else:
                    images = (Image.fromarray(image) for image in stored[f"{split}_images"])
                arrays[f"{split}_images"] = np.stack([_small(image) for image in images])
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(cached, **arrays)
    with np.load(cached) as stored:
        return Data(
            stored["train_images"],
            stored["train_labels"],
            stored["test_images"],
            stored["test_labels"],
            tuple(stored["class_names"].tolist()),
        )


# ---------------------------------------------------------------------------------------------
# Augmentations: tensor operations on a whole batch, since one image at a time is too slow
# ---------------------------------------------------------------------------------------------


def mirror(images: Tensor) -> Tensor:
    """Flip every second image or so from left to right."""
    chosen = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(chosen, images.flip(3), images)


def shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image by up to so many pixels; the border is mirrored."""
    n, _, height, width = images.shape
    padded = functional.pad(images, (pixels,) * 4, mode="reflect")
    rows = torch.randint(2 * pixels + 1, (n, 1)) + torch.arange(height)
    columns = torch.randint(2 * pixels + 1, (n, 1)) + torch.arange(width)
    index = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def zoom(images: Tensor, smallest: float) -> Tensor:
    """Cut out a random rectangle of at least this share of the side and enlarge it."""
    n = len(images)
    scale = smallest + (1 - smallest) * torch.rand(n, 2)
    offset = (2 * torch.rand(n, 2) - 1) * (1 - scale)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = scale[:, 0], scale[:, 1]
    matrix[:, :, 2] = offset
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    zoomed: Tensor = functional.grid_sample(
        images, grid, padding_mode="reflection", align_corners=False
    )
    return zoomed


def recolour(images: Tensor, strength: float = 0.4) -> Tensor:
    """Change brightness, contrast and each channel's gain; a fifth of the images turn grey."""
    n = len(images)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = 1 + strength * (2 * torch.rand(n, 1, 1, 1) - 1)
    brightness = 1 + strength * (2 * torch.rand(n, 1, 1, 1) - 1)
    gain = 1 + strength / 2 * (2 * torch.rand(n, 3, 1, 1) - 1)
    images = ((images - mean) * contrast + mean * brightness) * gain
    grey = torch.rand(n, 1, 1, 1) < 0.2
    return torch.where(grey, images.mean(dim=1, keepdim=True), images).clamp(0, 1)


# ---------------------------------------------------------------------------------------------
# Ways of training: each returns the loss of one batch
# ---------------------------------------------------------------------------------------------


class Method(nn.Module):
    """What is trained beside the network, and the loss of a batch of pixels in [0, 1]."""

    def __init__(self, network: BundledNetwork, source: Source, normalise: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.source = source
        self.normalise = normalise

    def features(self, images: Tensor) -> Tensor:
        """Pooled features of a batch of pixels in [0, 1]."""
        # in bfloat16 the residual network trains twice as fast here, the other two slower
        half = isinstance(self.network, MiniResNet)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            pooled: Tensor = self.network(self.normalise(images))
        return pooled.float()

    def augment(self, images: Tensor) -> Tensor:
        """Mild changes: shifted, and mirrored where that keeps the meaning."""
        images = shift(images, self.source.shift)
        return mirror(images) if self.source.mirrored else images

    def view(self, images: Tensor) -> Tensor:
        """Strong changes, for methods that compare two views of one image."""
        images = recolour(zoom(images, 0.5))
        return mirror(images) if self.source.mirrored else images

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Loss of one batch; `progress` goes from 0 to 1 over the training."""
        raise NotImplementedError


class Supervised(Method):
    """Predict the label."""

    def __init__(
        self, network: BundledNetwork, source: Source, normalise: nn.Module, n: int
    ) -> None:
        super().__init__(network, source, normalise)
        self.head = nn.Linear(network.feature_dim, n)

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Cross-entropy with lightly smoothed labels."""
        del progress
        logits = self.head(self.features(self.augment(images)))
        return functional.cross_entropy(logits, labels, label_smoothing=0.05)


class Rotation(Method):
    """Predict by how many quarter turns the image was turned."""

    def __init__(self, network: BundledNetwork, source: Source, normalise: nn.Module) -> None:
        super().__init__(network, source, normalise)
        self.turns = nn.Linear(network.feature_dim, 4)

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Cross-entropy over four turns, each given to every fourth image."""
        del labels, progress
        images = self.augment(images)
        turned = torch.cat([torch.rot90(images[k::4], k, (2, 3)) for k in range(4)])
        turns = torch.cat([torch.full((len(images[k::4]),), k) for k in range(4)])
        return functional.cross_entropy(self.turns(self.features(turned)), turns)


def _projector(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, width_out)
    )


class SimCLR(Method):
    """Find the other view of the same image among all views of the batch."""

    temperature = 0.2

    def __init__(self, network: BundledNetwork, source: Source, normalise: nn.Module) -> None:
        super().__init__(network, source, normalise)
        self.projector = _projector(network.feature_dim, 64)

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Normalised-temperature cross-entropy over 2 n - 1 candidates."""
        del labels, progress
        n = len(images)
        views = torch.cat([self.view(images), self.view(images)])
        projected = functional.normalize(self.projector(self.features(views)), dim=1)
        similarity = projected @ projected.T / self.temperature
        similarity.fill_diagonal_(-math.inf)
        partner = torch.arange(2 * n).roll(n)
        return functional.cross_entropy(similarity, partner)


class Masked(Method):
    """Fill in hidden squares of the image from the rest (transformer only)."""

    hidden_share = 0.6

    def __init__(self, network: BundledNetwork, source: Source, normalise: nn.Module) -> None:
        super().__init__(network, source, normalise)
        self.decoder = _TransformerBlock(network.feature_dim, 2)
        # 7 wide and 5 apart, as the patches: 6 x 6 tokens become 32 x 32 pixels
        self.paint = nn.ConvTranspose2d(network.feature_dim, 3, kernel_size=7, stride=5)

    def loss(self, images: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Mean squared error of normalised pixels inside the hidden squares."""
        del labels, progress
        if not isinstance(self.network, MiniVisionTransformer):
            raise TypeError("masked training needs the tokens of a vision transformer")
        target = self.normalise(self.augment(images))
        hidden = (torch.rand(len(images), 1, 4, 4) < self.hidden_share).float()
        hidden = functional.interpolate(hidden, scale_factor=8)
        tokens = self.network.tokens(target * (1 - hidden))
        painted = self.paint(self.decoder(tokens).transpose(1, 2).unflatten(2, (6, 6)))
        return ((painted - target).square() * hidden).sum() / (3 * hidden.sum())


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean = torch.tensor(mean).reshape(1, -1, 1, 1)
        self.std = torch.tensor(std).reshape(1, -1, 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise pixels in [0, 1]."""
        result: Tensor = (pixels - self.mean) / self.std
        return result.contiguous(memory_format=torch.channels_last)


def build_method(
    recipe: Recipe, network: BundledNetwork, data: Data, normalise: nn.Module
) -> Method:
    """The way of training that a recipe names."""
    assert recipe.source is not None
    source = SOURCES[recipe.source]
    if recipe.method == "supervised":
        return Supervised(network, source, normalise, len(data.class_names))
    methods: dict[str, Callable[[BundledNetwork, Source, nn.Module], Method]] = {
        "rotation": Rotation,
        "simclr": SimCLR,
        "masked": Masked,
    }
    return methods[recipe.method](network, source, normalise)


# ---------------------------------------------------------------------------------------------
# Training, measuring, saving
# ---------------------------------------------------------------------------------------------


def _pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255)


def train(method: Method, data: Data, recipe: Recipe) -> None:
    """Run the recipe's epochs with a one-cycle schedule; prints the mean loss of each epoch."""
    labels = torch.from_numpy(data.train_labels)
    n = len(labels)
    # drop the last, smaller batch: batch statistics of a handful of images are noise
    per_epoch = n // recipe.batch_size
    total = per_epoch * recipe.epochs
    optimiser = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=total, pct_start=0.2
    )
    method.train()
    done, running, start = 0, 0.0, time.perf_counter()
    for epoch in range(recipe.epochs):
        order = torch.randperm(n)
        for batch in order[: per_epoch * recipe.batch_size].split(recipe.batch_size):
            images = _pixels(data.train_images[batch.numpy()])
            loss = method.loss(images, labels[batch], done / total)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(method.parameters(), 5.0)
            optimiser.step()
            schedule.step()
            done += 1
            running = loss.item() if done == 1 else 0.98 * running + 0.02 * loss.item()
            if done % max(1, total // 20) == 0:
                seconds = time.perf_counter() - start
                print(f"  epoch {epoch + 1}, {done}/{total}: {running:.4f}, {seconds:.0f} s")


@torch.inference_mode()
def pooled_features(
    network: BundledNetwork, normalise: nn.Module, images: npt.NDArray[np.uint8]
) -> Tensor:
    """Pooled features of many images, in eval mode and batches of 500."""
    network.eval()
    return torch.cat(
        [network(normalise(_pixels(images[i : i + 500]))) for i in range(0, len(images), 500)]
    )


def neighbour_accuracy(network: BundledNetwork, normalise: nn.Module, data: Data) -> float:
    """Share of test images whose class most of the nearest training images (cosine) have."""
    train_set = functional.normalize(pooled_features(network, normalise, data.train_images))
    test_set = functional.normalize(pooled_features(network, normalise, data.test_images))
    labels = torch.from_numpy(data.train_labels)
    right = 0
    for rows, truth in zip(
        test_set.split(500), torch.from_numpy(data.test_labels).split(500), strict=True
    ):
        nearest = labels[(rows @ train_set.T).topk(NEIGHBOURS, dim=1).indices]
        right += int((nearest.mode(dim=1).values == truth).sum())
    return right / len(data.test_labels)


def classifier_accuracy(
    network: BundledNetwork, head: nn.Module, normalise: nn.Module, data: Data
) -> float:
    """Share of test images that the head puts into the right class."""
    with torch.inference_mode():
        predicted = head(pooled_features(network, normalise, data.test_images)).argmax(dim=1)
    return float((predicted == torch.from_numpy(data.test_labels)).float().mean())


def save(recipe: Recipe, modules: dict[str, nn.Module], card: dict[str, Any]) -> None:
    """Write float16 weights, then the card, each beside its target and renamed."""
    tensors = {
        f"{prefix}.{name}": tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
        # a counter that nothing reads in eval mode
        if not name.endswith("num_batches_tracked")
    }
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"{recipe.name}: not finite in float16: {', '.join(broken)}")
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    partial = WEIGHTS / f"{recipe.name}.partial"
    save_file(tensors, partial)
    partial.chmod(0o644)  # safetensors writes files that only their owner may read
    partial.replace(WEIGHTS / f"{recipe.name}.safetensors")
    cards = read_cards()
    cards[recipe.name] = card
    partial = WEIGHTS / "cards.partial"
    partial.write_text(json.dumps(dict(sorted(cards.items())), indent=2) + "\n", encoding="utf-8")
    partial.replace(WEIGHTS / "cards.json")


def read_cards() -> dict[str, dict[str, Any]]:
    """Cards that are already there, by name."""
    path = WEIGHTS / "cards.json"
    cards: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return cards


def make(recipe: Recipe, folder: Path, cache: Path) -> None:
    """Train one encoder, measure it with the weights as they are stored, and save it."""
    start = time.perf_counter()
    torch.manual_seed(recipe.seed)
    network = build_network(recipe.architecture)
    modules: dict[str, nn.Module] = {"network": network}
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    data, accuracy, measure = None, None, None
    if recipe.source is not None:
        data = load_source(recipe.source, folder, cache)
        mean, std = data.pixel_statistics()  # type: ignore[assignment]
        normalise = Normalise(mean, std)
        network.to(memory_format=torch.channels_last)
        method = build_method(recipe, network, data, normalise)
        train(method, data, recipe)
        if isinstance(method, Supervised):
            modules["head"] = method.head
    for module in modules.values():
        module.half().float()
    if data is not None:
        if "head" in modules:
            accuracy = classifier_accuracy(network, modules["head"], normalise, data)
            measure = "its own head on the source's test images"
        else:
            accuracy = neighbour_accuracy(network, normalise, data)
            measure = f"{NEIGHBOURS} nearest neighbours (cosine) on the source's test images"
    card = {
        "name": recipe.name,
        "summary": recipe.summary,
        "architecture": recipe.architecture,
        "source": SOURCES[recipe.source].title if recipe.source else None,
        "n_source_train": len(data.train_labels) if data else 0,
        "n_source_test": len(data.test_labels) if data else 0,
        "source_classes": list(data.class_names) if data and "head" in modules else None,
        "method": recipe.method,
        "epochs": recipe.epochs,
        "seed": recipe.seed,
        "n_parameters": sum(p.numel() for p in network.parameters()),
        "feature_dim": network.feature_dim,
        "accuracy": None if accuracy is None else round(accuracy, 4),
        "accuracy_measured_by": measure,
        "mean": list(mean),
        "std": list(std),
        "date": datetime.now(UTC).date().isoformat(),
    }
    save(recipe, modules, card)
    print(f"{recipe.name}: accuracy {accuracy}, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Train what is missing, or what was asked for."""
    parser = argparse.ArgumentParser(description="Train the encoders of the bundled zoo.")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "zoo_cache")
    parser.add_argument("--only", metavar="NAME", choices=[recipe.name for recipe in RECIPES])
    parser.add_argument("--force", action="store_true", help="train again what is already there")
    arguments = parser.parse_args()
    # one thread: sums are then taken in the same order every time
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for recipe in RECIPES:
        if arguments.only not in (None, recipe.name):
            continue
        if recipe.name in read_cards() and not arguments.force:
            print(f"{recipe.name}: already there")
            continue
        print(f"{recipe.name}: training", flush=True)
        make(recipe, arguments.data, arguments.cache)


if __name__ == "__main__":
    main()
