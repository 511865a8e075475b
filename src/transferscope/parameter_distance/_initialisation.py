"""The random initialisation, where no file of it was kept: drawn again, or its expectation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from transferscope.errors import CheckpointError, InputError, require
from transferscope.numerics.arrays import NumpyArray
from transferscope.parameter_distance._checkpoints import (
    Checkpoint,
    open_checkpoint,
    timm_model,
)
from transferscope.parameter_distance._tensors import Tensor

if TYPE_CHECKING:
    from torch import nn

#: Fourth standardised moments.
_OF_UNIFORM, _OF_NORMAL = 1.8, 3.0
#: Tensors with fewer elements do not show their distribution; the draw itself is used.
_ENOUGH = 200


def architecture(name: str) -> Callable[[], nn.Module]:
    """A function that builds an untrained network.

    Parameters
    ----------
    name : str
        A timm architecture, with or without ``timm/``, or a folder with the ``config.json`` of a
        transformers model.

    Returns
    -------
    function
        Without arguments; gives a `torch.nn.Module`.

    Raises
    ------
    CheckpointError
        When called, if timm has no such architecture.
    InputError
        If the folder has no usable ``config.json``.
    """
    folder = Path(name)
    if not folder.is_dir():
        return lambda: timm_model(f"timm/{name.removeprefix('timm/')}", pretrained=False)
    transformers = require("transformers", extra="vision", purpose=f"build {name}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        classes = [getattr(transformers, c) for c in config.architectures or ()]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"file {folder}/config.json does not describe a model of transformers ({error}). Give "
            "a timm architecture, or a folder that save_pretrained wrote."
        ) from error
    kind = classes[0]._from_config if classes else transformers.AutoModel.from_config
    return lambda: kind(config)


def draw(build: Callable[[], object], seed: int, files: ExitStack) -> Checkpoint:
    """Build the network once more under a seed; torch's own random state is left as it was.

    Raises
    ------
    CheckpointError
        If what was built holds no tensors.
    """
    torch = require("torch", extra="vision", purpose="draw an initialisation")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_checkpoint(build(), "random", files)


@dataclass(frozen=True)
class Distribution:
    """How a tensor is initialised, as far as two draws show.

    Attributes
    ----------
    kind : {"fixed", "uniform", "normal", "other"}
        Fixed: the same in both draws. Other: a draw stands for itself.
    mean, deviation : float
    """

    kind: str
    mean: float
    deviation: float

    @property
    def has_expectation(self) -> bool:
        """Whether it is known in closed form."""
        return self.kind in ("uniform", "normal")

    def expected_absolute(self, target: NumpyArray) -> float:
        """``Σ E|r - b|`` over the elements b of a target, r of this distribution."""
        d = np.abs(target - self.mean).astype(np.float64)
        s = self.deviation
        if self.kind == "uniform":
            half = math.sqrt(3.0) * s
            return float(np.sum(np.where(d <= half, (d * d + half * half) / (2 * half), d)))
        scaled = d / s
        near = math.sqrt(2 / math.pi) * np.exp(-scaled * scaled / 2)
        return float(s * np.sum(near + scaled * special.erf(scaled / math.sqrt(2))))

    def expected_square(self, target: NumpyArray) -> float:
        """``Σ E(r - b)²``."""
        d = target.astype(np.float64) - self.mean
        return float(d @ d) + d.size * self.deviation**2


def fit_distributions(
    build: Callable[[], object], files: ExitStack
) -> tuple[Checkpoint, dict[str, Distribution]]:
    """The second of two draws, and the distribution of every tensor.

    One network is in memory at a time; of the first draw only moments are kept.
    """
    first = draw(build, 0, files)
    before = {name: _moments(t) for name, t in first.tensors.items() if t.is_float}
    del first
    second = draw(build, 1, files)
    return second, {
        name: _distribution(_moments(tensor), before.get(name), tensor.size)
        for name, tensor in second.tensors.items()
        if tensor.is_float
    }


def _moments(tensor: Tensor) -> tuple[float, float, float]:
    """Mean, standard deviation, and fourth standardised moment."""
    if not tensor.size:
        return 0.0, 0.0, 0.0
    mean = sum(float(np.sum(tensor.read(i, j), dtype=float)) for i, j in tensor.pieces())
    mean /= tensor.size
    square = fourth = 0.0
    for i, j in tensor.pieces():
        d = (tensor.read(i, j).astype(np.float64) - mean) ** 2
        square, fourth = square + float(d.sum()), fourth + float(d @ d)
    variance = square / tensor.size
    # of equal elements rounding of the mean leaves a variance that is none
    if variance <= (1e-7 * mean) ** 2:
        return mean, 0.0, 0.0
    return mean, math.sqrt(variance), fourth / tensor.size / variance**2


def _distribution(
    moments: tuple[float, float, float], before: tuple[float, float, float] | None, size: int
) -> Distribution:
    mean, deviation, fourth = moments
    if moments == before or deviation == 0:
        return Distribution("fixed", mean, deviation)
    tolerance = 0.1 + 5 * math.sqrt(24 / size)
    kind = min((_OF_UNIFORM, _OF_NORMAL), key=lambda value: abs(value - fourth))
    if size < _ENOUGH or abs(kind - fourth) > tolerance:
        return Distribution("other", mean, deviation)
    # both are drawn about zero everywhere; what is left of the mean is chance, unless it is large
    centre = mean if abs(mean) > 5 * deviation / math.sqrt(size) else 0.0
    return Distribution("uniform" if kind == _OF_UNIFORM else "normal", centre, deviation)


@dataclass
class RandomWeights:
    """The random initialisation, from whatever the user has of it.

    Attributes
    ----------
    kind : str
        ``"none"``, ``"checkpoint"``, ``"closed form"``, or such as ``"3 seeds"``.
    drawn : Checkpoint or None
        The weights, or the first draw.
    distributions : mapping of str to Distribution
        Of every tensor, for the closed form.
    build : function or None
        What builds the network, for further draws.
    seeds : int
        Number of draws.
    """

    kind: str
    drawn: Checkpoint | None = None
    distributions: Mapping[str, Distribution] = field(default_factory=dict)
    build: Callable[[], object] | None = None
    seeds: int = 0

    @classmethod
    def of(cls, random: object, seeds: int, files: ExitStack) -> RandomWeights:
        """Open a checkpoint, or draw from a function that builds a network.

        Raises
        ------
        CheckpointError
            If it is neither, or cannot be read.
        """
        if random is None:
            return cls("none")
        if isinstance(random, str) and random.startswith("timm/"):
            random = architecture(random)
        is_module = hasattr(random, "state_dict") and not isinstance(random, type)
        if is_module or isinstance(random, Mapping | str | os.PathLike):
            return cls("checkpoint", open_checkpoint(random, "random", files))
        if not callable(random):
            raise CheckpointError(
                "random must be a checkpoint, a function that builds a network, or None; got "
                f"{type(random).__name__}."
            )
        if seeds == 0:
            drawn, distributions = fit_distributions(random, files)
            return cls("closed form", drawn, distributions)
        drawn = draw(random, 0, files)
        return cls(f"{seeds} seed{'s' * (seeds > 1)}", drawn, {}, random, seeds)

    @property
    def is_missing(self) -> bool:
        """Whether none was given."""
        return self.kind == "none"

    def further_draws(self) -> Iterator[Checkpoint]:
        """The draws after the first, one at a time; the first is forgotten."""
        for seed in range(1, self.seeds):
            assert self.build is not None
            self.drawn = None  # one network at a time
            yield draw(self.build, seed, ExitStack())
