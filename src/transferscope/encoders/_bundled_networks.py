"""The networks of the bundled encoders, for 32 x 32 RGB images, in plain torch.

Every network maps a normalised (n, 3, 32, 32) tensor to pooled features (n, dim), averaged over all
positions: the input of a head. Each network ends in a normalisation after its last stage, so that
the pooled features are not the same numbers as the last stage again.

This module imports torch at the top; it is imported only when an encoder is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from transferscope.errors import UnknownNameError

#: The layers of the convolutional networks.
_STAGES = {"stage1": "stage1", "stage2": "stage2", "stage3": "stage3"}


def _average(activations: Tensor) -> Tensor:
    """Mean over height and width: (n, channels, h, w) -> (n, channels)."""
    return activations.mean(dim=(2, 3))


class BundledNetwork(nn.Module):
    """Base of the networks: named layers, the width of the pooled features, and a head.

    Parameters
    ----------
    layers : dict of str to str
        Name of each layer, in order of depth -> the submodule whose output it is.
    feature_dim : int
        Width of the pooled features.
    """

    def __init__(self, layers: dict[str, str], feature_dim: int) -> None:
        super().__init__()
        self.layers = layers
        self.feature_dim = feature_dim
        #: From pooled features to the logits of the source's classes, where it was trained so.
        self.head: nn.Linear | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (n, feature_dim) of normalised (n, 3, 32, 32) images."""
        raise NotImplementedError


class _ResidualBlock(nn.Module):
    """Normalise, convolve, twice, and add to the input (pre-activation order)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.shortcut: nn.Module
        if stride == 1 and width_in == width_out:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, activations: Tensor) -> Tensor:
        normalised = functional.relu(self.norm1(activations))
        inner = self.conv1(normalised)
        inner = self.conv2(functional.relu(self.norm2(inner)))
        result: Tensor = inner + self.shortcut(normalised)
        return result


class MiniResNet(BundledNetwork):
    """A residual network of three blocks, one per resolution (16, 8, 4)."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96)) -> None:
        super().__init__(_STAGES, widths[2])
        self.stem = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.stage1 = _ResidualBlock(widths[0], widths[0], stride=1)
        self.stage2 = _ResidualBlock(widths[0], widths[1], stride=2)
        self.stage3 = _ResidualBlock(widths[1], widths[2], stride=2)
        self.norm = nn.BatchNorm2d(widths[2])

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (n, feature_dim) of normalised (n, 3, 32, 32) images."""
        activations = self.stage3(self.stage2(self.stage1(self.stem(images))))
        return _average(functional.relu(self.norm(activations)))


class _SeparableBlock(nn.Sequential):
    """Filter each channel on its own (3 x 3), then mix the channels (1 x 1)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width_in, 3, stride, padding=1, groups=width_in, bias=False),
            nn.BatchNorm2d(width_in),
            nn.ReLU(),
            nn.Conv2d(width_in, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
        )


class MiniSeparableNet(BundledNetwork):
    """A network of depthwise-separable convolutions, two per resolution (16, 8, 4)."""

    def __init__(
        self, widths: tuple[int, int, int] = (48, 96, 160), feature_dim: int = 128
    ) -> None:
        super().__init__(_STAGES, feature_dim)
        narrow, middle, wide = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.stage1 = nn.Sequential(
            _SeparableBlock(32, narrow, stride=1), _SeparableBlock(narrow, narrow, stride=1)
        )
        self.stage2 = nn.Sequential(
            _SeparableBlock(narrow, middle, stride=2), _SeparableBlock(middle, middle, stride=1)
        )
        self.stage3 = nn.Sequential(
            _SeparableBlock(middle, wide, stride=2), _SeparableBlock(wide, wide, stride=1)
        )
        self.mix = nn.Sequential(
            nn.Conv2d(wide, feature_dim, 1, bias=False), nn.BatchNorm2d(feature_dim), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (n, feature_dim) of normalised (n, 3, 32, 32) images."""
        return _average(self.mix(self.stage3(self.stage2(self.stage1(self.stem(images))))))


class _TransformerBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each normalised first and added."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1 = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, width = tokens.shape
        projected = self.query_key_value(self.norm1(tokens))
        query, key, value = projected.reshape(
            n, length, 3, self.n_heads, width // self.n_heads
        ).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.project(attended.transpose(1, 2).reshape(n, length, width))
        inner = functional.gelu(self.expand(self.norm2(tokens)))
        result: Tensor = tokens + self.contract(inner)
        return result


class MiniVisionTransformer(BundledNetwork):
    """A vision transformer of four blocks over 6 x 6 overlapping patches, no class token.

    Patches are 7 pixels wide and 5 apart, which covers 32 pixels exactly; 36 tokens take about half
    the time of the usual 64 patches of 4 x 4.
    """

    def __init__(self, width: int = 64, depth: int = 4, n_heads: int = 2) -> None:
        super().__init__({f"block{i + 1}": f"blocks.{i}" for i in range(depth)}, width)
        self.patches = nn.Conv2d(3, width, kernel_size=7, stride=5)
        self.positions = nn.Parameter(torch.randn(1, 36, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(_TransformerBlock(width, n_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (n, 36, width) after the last block, before they are averaged."""
        tokens: Tensor = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        normalised: Tensor = self.norm(tokens)
        return normalised

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (n, feature_dim) of normalised (n, 3, 32, 32) images."""
        return self.tokens(images).mean(dim=1)


_NETWORKS: dict[str, Callable[[], BundledNetwork]] = {
    "resnet": MiniResNet,
    "separable": MiniSeparableNet,
    "vit": MiniVisionTransformer,
}


def build_network(architecture: str) -> BundledNetwork:
    """Build an untrained network.

    Parameters
    ----------
    architecture : {"resnet", "separable", "vit"}
        Which one.

    Raises
    ------
    UnknownNameError
        If there is no such architecture.
    """
    if architecture not in _NETWORKS:
        raise UnknownNameError(
            f"architecture {architecture!r} of bundled encoders does not exist. "
            f"Choose one of: {', '.join(sorted(_NETWORKS))}."
        )
    return _NETWORKS[architecture]()
