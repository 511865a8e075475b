"""Which tensors of two checkpoints belong together, and which of them count."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping

from transferscope.errors import CheckpointError
from transferscope.parameter_distance import _blocks
from transferscope.parameter_distance._blocks import HEAD, Parameters
from transferscope.parameter_distance._checkpoints import Checkpoint
from transferscope.parameter_distance._tensors import Tensor

#: Below this share of matched weights two checkpoints are of different architectures.
_SAME_ARCHITECTURE = 0.5


class Unmatched:
    """What of the checkpoints did not match, for the report.

    Attributes
    ----------
    kinds : dict of str to dict
        Kind -> lines of the report, each once and in order.
    why : dict of str to str
        Name of a tensor that is not compared -> its line.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, dict[str, None]] = {
            "missing": {},  # in the pre-trained checkpoint only
            "extra": {},  # in another one only
            "other_shape": {},  # left out
            "reshaped": {},  # compared element by element
            "tied": {},  # second names of one tensor
        }
        self.why: dict[str, str] = {}

    def add(self, kind: str, name: str, text: str) -> None:
        """Note a tensor by the name that it has in the pre-trained checkpoint."""
        self.kinds[kind][text] = None
        if kind in ("missing", "other_shape"):
            self.why[name] = text


class Matching:
    """The tensors that count, and their names in each checkpoint.

    Parameters
    ----------
    base, target : Checkpoint
        Pre-trained and fine-tuned.
    parameters : {"weights", "all", "with_statistics"}
    head : str or None
        The module that is the head; None: recognised by its name.

    Attributes
    ----------
    blocks : dict of str to str
        Name of a tensor that counts -> its block.
    in_target, in_random : dict of str to str
        Name in the pre-trained checkpoint -> name in the fine-tuned and in the random one, where
        the elements correspond.
    unmatched : Unmatched

    Raises
    ------
    CheckpointError
        If no tensor counts, or the checkpoints are of different architectures.
    """

    def __init__(
        self, base: Checkpoint, target: Checkpoint, parameters: Parameters, head: str | None
    ) -> None:
        self.base, self.target, self.parameters = base, target, parameters
        self.unmatched = Unmatched()
        self.blocks = counted(base, parameters, head)
        if not self.blocks:
            raise CheckpointError(
                f"{base.label} holds no {parameters} to compare. Try parameters='all'."
            )
        _drop_tied(self.blocks, base, target, self.unmatched)
        self.in_target = self._match(target)
        self.in_random: dict[str, str] = {}

    def add_random(self, drawn: Checkpoint) -> None:
        """Match the random weights, too; the checkpoint is not kept.

        Raises
        ------
        CheckpointError
            If they are of another architecture.
        """
        self.in_random = self._match(drawn)

    def rows(self, group: str) -> dict[str, list[str]]:
        """Names of the layers shown -> their tensors, from the stem to the head."""
        return rows_of(self.blocks, group)

    def _match(self, other: Checkpoint) -> dict[str, str]:
        """Name in the pre-trained checkpoint -> name in the other."""
        translate = _translation(self.base, other)
        found: dict[str, str] = {}
        for name in self.blocks:
            there = translate(name)
            kind, text = _relation(name, self.base.tensors[name], other, there)
            if kind in ("same", "reshaped"):
                found[name] = there
            if kind != "same":
                self.unmatched.add(kind, name, text)
        known = {translate(name) for name in self.base.tensors}
        for name, tensor in other.tensors.items():
            counts = _blocks.counts(name, tensor.shape, self.parameters)
            if name not in known and _is_trained(tensor, self.parameters) and counts:
                self.unmatched.add("extra", name, f"{name}: only in {other.label}")
        self._refuse_other_architecture(found, other)
        return found

    def _refuse_other_architecture(self, found: Mapping[str, str], other: Checkpoint) -> None:
        body = [name for name, block in self.blocks.items() if block != HEAD] or list(self.blocks)
        matched = [name for name in body if name in found]
        if len(matched) < _SAME_ARCHITECTURE * len(body):
            example = next(name for name in body if name not in found)
            raise CheckpointError(
                f"{self.base.label} and {other.label} are of different architectures: "
                f"{len(matched)} of {len(body)} weights have the same name and shape, and "
                f"{example} is not among them. Give checkpoints of one architecture; of a "
                "transformers model in memory the module, for its state dict may have other names "
                "than its files."
            )


def rows_of(blocks: Mapping[str, str], group: str) -> dict[str, list[str]]:
    """Names of the layers shown -> their tensors, from the stem to the head."""
    members: dict[str, list[str]] = {}
    for name, block in blocks.items():
        members.setdefault(block, []).append(name)
    ordered = {b: sorted(members[b], key=_blocks.natural) for b in _blocks.in_order(members)}
    if group == "block":
        return ordered
    return {name: [name] for names in ordered.values() for name in names}


def _is_trained(tensor: Tensor, parameters: Parameters) -> bool:
    return tensor.is_float and (not tensor.is_buffer or parameters == "with_statistics")


def counted(checkpoint: Checkpoint, parameters: Parameters, head: str | None) -> dict[str, str]:
    """Names that count -> their block."""
    trained = {n: t for n, t in checkpoint.tensors.items() if _is_trained(t, parameters)}
    blocks = _blocks.block_of_each({name: t.shape for name, t in trained.items()}, head)
    names: dict[str, list[str]] = {}
    for name, tensor in trained.items():
        if tensor.size > 0 and _blocks.counts(name, tensor.shape, parameters):
            names.setdefault(blocks[name], []).append(name)
    if parameters == "weights":
        names = {b: _blocks.without_shortcuts(n, b) for b, n in names.items()}
    kept = {name for members in names.values() for name in members}
    return {name: blocks[name] for name in checkpoint.tensors if name in kept}


def _drop_tied(
    blocks: dict[str, str], base: Checkpoint, target: Checkpoint, unmatched: Unmatched
) -> None:
    """Count a tensor with several names once, unless the target holds two tensors for them."""
    first: dict[Hashable, str] = {}
    for name in sorted(blocks, key=lambda name: name not in target.tensors):
        storage = base.tensors[name].storage
        if storage is None:
            continue
        other = first.setdefault(storage, name)
        there = [target.tensors[n].storage for n in (name, other) if n in target.tensors]
        are_two = len(there) == 2 and there[0] != there[1]
        if other != name and not are_two:
            del blocks[name]
            unmatched.add("tied", name, f"{name} = {other}")


def _relation(name: str, tensor: Tensor, other: Checkpoint, there: str) -> tuple[str, str]:
    """How a tensor relates to its counterpart: "same" or a kind of `Unmatched`, and its line."""
    found = other.tensors.get(there)
    if found is None or not found.is_float:
        return "missing", f"{name}: not in {other.label}"
    text = f"{name}: {tensor.shape} pre-trained, {found.shape} in {other.label}"
    if found.shape == tensor.shape:
        return "same", text
    if found.size == math.prod(tensor.shape) and _same_elements(found.shape, tensor.shape):
        return "reshaped", text
    return "other_shape", text


def _same_elements(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether two shapes of one size list the same elements in the same order.

    A linear layer and the convolution that it equals do: the first axis stays the first.
    """
    if [n for n in one if n > 1] == [n for n in two if n > 1]:
        return True
    return bool(one) and bool(two) and one[0] == two[0] and min(len(one), len(two)) == 2


def _translation(base: Checkpoint, other: Checkpoint) -> Callable[[str], str]:
    """How names of the base are written in the other: with a prefix more or less, or the same."""
    names, there = list(base.tensors), other.tensors

    def prefixes(given: Iterable[str]) -> set[str]:
        cut = (name.split(".") for name in given)
        return {".".join(parts[:k]) + "." for parts in cut for k in (1, 2) if len(parts) > k}

    def hits(add: str, drop: str) -> int:
        return sum(add + name.removeprefix(drop) in there for name in names)

    ways = [("", "")]
    if hits("", "") < len(names):
        ways += [(p, "") for p in sorted(prefixes(list(there)))]
        ways += [("", p) for p in sorted(prefixes(names))]
    add, drop = max(ways, key=lambda way: hits(*way))

    def translate(name: str) -> str:
        written = add + name.removeprefix(drop)
        # the head of a model for a task stands outside of the base model's prefix
        return written if written in there or name not in there else name

    return translate
