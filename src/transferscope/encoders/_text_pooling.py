"""From the hidden states of tokens to one vector per text, or per word of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pooling:
    """How hidden states become one vector per sample.

    Parameters
    ----------
    texts : tuple of str
        How the tokens of a text are pooled; several are put side by side.
    words : {"mean", "first", "last"}
        How the tokens of a word are pooled.
    finish : torch.nn.Module or None
        Layers that are applied to the pooled features of texts.
    """

    texts: tuple[str, ...]
    words: str = "mean"
    finish: nn.Module | None = None


def pool_text(hidden: Tensor, mask: Tensor, poolings: Sequence[str]) -> Tensor:
    """Pool hidden states (n, width, dim) to one vector per text, (n, dim * n_poolings).

    Tokens where `mask` (n, width) is 0 are left out.
    """
    return torch.cat([_POOL[one](hidden, mask) for one in poolings], dim=1)


def pool_words(hidden: Tensor, spans: npt.NDArray[np.int64], how: str) -> Tensor:
    """Pool hidden states (n_sequences, width, dim) to one vector per word, (n_words, dim).

    Rows of `spans` (n_words, 3) are sequence, first token, and the token after the last.
    """
    sequence, start, stop = torch.from_numpy(spans).to(hidden.device).unbind(dim=1)
    if how != "mean":
        return hidden[sequence, start if how == "first" else stop - 1]
    longest = int((stop - start).max())
    token = start[:, None] + torch.arange(longest, device=hidden.device)
    inside = (token < stop[:, None]).float()
    picked = hidden[sequence[:, None], token.clamp(max=hidden.shape[1] - 1)]
    return (picked * inside[:, :, None]).sum(dim=1) / inside.sum(dim=1, keepdim=True)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _weighted(hidden, mask.float())


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    # a product of matrices per text, without an array of the size of `hidden`
    sums = torch.bmm(weights[:, None, :], hidden.masked_fill((weights == 0)[:, :, None], 0.0))
    return sums[:, 0] / weights.sum(dim=1, keepdim=True)


def _first(hidden: Tensor, _: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _weighted(hidden, (mask * mask.cumsum(dim=1)).float())


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(dim=1)


def _mean_sqrt(hidden: Tensor, mask: Tensor) -> Tensor:
    return _mean(hidden, mask) * mask.sum(dim=1, keepdim=True).sqrt()


_POOL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "first": _first,
    "last": _last,
    "weighted-mean": _weighted_mean,
    "max": _max,
    "mean-sqrt": _mean_sqrt,
}
