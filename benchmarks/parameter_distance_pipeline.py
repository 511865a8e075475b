"""The pipeline of the parameter-distance paper end to end, small and offline.

Pre-trains a small residual network on CIFAR-10 (keeping the initialisation), fine-tunes it on seven
targets, most of them at two sizes, measures how far pre-training carried each layer, draws a curve
per target, measures the factors of each data set in the features of the pre-trained network, and
regresses. Minutes on two cores.

    python benchmarks/parameter_distance_pipeline.py --data ../shared/data/images
        [--figure curves.png]
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from transferscope.parameter_distance import (
    dataset_factors,
    layer_transferability,
    predict_transferability,
)
from transferscope.plots import plot_layer_distances, save_figure

SIZES = {
    "mnist": (200, 800),
    "fashion_mnist": (200, 800),
    "usps": (200, 800),
    "sign_digits": (200, 800),
    "flower_photos": (200, 750),
    "caltech101_c43": (817,),
    "hymenoptera": (244,),
}


class Block(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = nn.Conv2d(width, out, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Network(nn.Module):
    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1))
        self.fc = nn.Linear(64, n_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


def load(path: Path, n: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images at 32 pixels, normalised, and their classes; a seeded sample of n."""
    content = np.load(path)
    labels = content["train_labels"]
    rows = np.random.default_rng(0).permutation(len(labels))[:n]
    if "train_jpeg" in content:
        jpeg, offsets = content["train_jpeg"], content["train_offsets"]
        opened = (Image.open(io.BytesIO(jpeg[offsets[r] : offsets[r + 1]])) for r in rows)
    else:
        opened = map(Image.fromarray, content["train_images"][rows])
    images = []
    for image in opened:
        images.append(np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, torch.from_numpy(labels[rows].astype(np.int64))


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float) -> float:
    """SGD with momentum and a cosine schedule; returns the accuracy on the training samples."""
    generator = torch.Generator().manual_seed(0)
    steps = epochs * -(-len(y) // 64)
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(part).argmax(1) for part in x.split(500)])
    return float((guesses == y).float().mean())


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/images"))
    parser.add_argument("--figure", type=Path, default=Path("curves.png"))
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        initial, pretrained = (Path(folder) / f"{n}.safetensors" for n in ("initial", "pretrained"))
        model = Network(10)
        save_file(model.state_dict(), initial)
        x, y = load(given.data / "cifar10_jpeg.npz", 4_000)
        accuracy = train(model, x, y, given.epochs, 0.05)
        save_file(model.state_dict(), pretrained)
        print(
            f"pre-trained on 4,000 images of CIFAR-10: {100 * accuracy:.0f} % of them right\n",
            flush=True,
        )
        with torch.no_grad():
            reference = model.features(x[:2000])
        curves, records = {}, []
        print("| target | samples | gap G | variance V | T |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for name, sizes in SIZES.items():
            for n in sizes:
                records.append(run(given, name, n, pretrained, initial, reference, curves, folder))
    save_figure(plot_layer_distances(curves), given.figure)
    forecast = predict_transferability(records=records)
    print(f"\n{forecast.n_records} runs, R² {forecast.r_squared:.2f}; ln T =")
    published = forecast.published["ResNet-50"]
    for term, c in forecast.coefficients.items():
        interval = f"{c['low']:.2f} to {c['high']:.2f}"
        print(f"  {term:20} {c['value']:7.2f} ({interval}); published {published[term]:.2f}")
    print(forecast.remark)


def run(
    given: Any, name: str, n: int, pretrained: Path, initial: Path, reference: torch.Tensor,
    curves: dict[str, Any], folder: str,
) -> dict[str, float]:  # fmt: skip
    """Fine-tune on one target and measure."""
    from safetensors.torch import load_file

    x, y = load(given.data / f"{name}.npz", n)
    model = Network(int(y.max()) + 1)
    weights = {k: v for k, v in load_file(pretrained).items() if not k.startswith("fc.")}
    model.load_state_dict(weights, strict=False)
    model.eval()
    with torch.no_grad():
        factors = dataset_factors(model.features(x), y, reference)
    train(model, x, y, given.epochs, 0.01)
    path = Path(folder) / f"{name}-{n}.safetensors"
    save_file(model.state_dict(), path)
    found = layer_transferability(initial, pretrained, path)
    assert found.overall is not None
    if n == SIZES[name][-1]:
        curves[f"{name}, {n}"] = found
    gap, variance = factors.domain_gap, factors.intraclass_variance
    print(
        f"| {name} | {n} | {gap:.2f} | {variance:.3f} | {found.overall:.2f} |",
        flush=True,
    )
    return {
        "domain_gap": float(gap or 0.0),
        "intraclass_variance": variance,
        "n_samples": n,
        "transferability": found.overall,
    }


if __name__ == "__main__":
    main()
