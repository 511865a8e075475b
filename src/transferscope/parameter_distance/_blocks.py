"""From the names of parameters to blocks: residual blocks, transformer blocks, dense layers.

Names are the module tree written out (``layer1.0.conv2.weight``), so a state dict tells as much as
a module does. A block is a repeated unit of that tree: a member of a numbered sequence that holds
several weights and no smaller such units. What stands outside of every unit is grouped by the child
of the tree that it belongs to; what feeds the first block is the stem, the classifier the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Parameters = Literal["weights", "all", "with_statistics"]

STEM, HEAD = "stem", "head"

_HEAD = re.compile(
    r"(fc|heads?|head_dist|head_drop|aux_head|classif|classifiers?|classifier_dist|last_linear|"
    r"distillation_classifier|lm_head|score|qa_outputs|logits|output_layer|cls|linear_head|target_head)"
)
_STEM = re.compile(
    r"(conv_?[0-9]?[a-z]?|bn_?[0-9]?|norm0|conv0|stem\w*|conv_stem|patches|patch_embed\w*|embed\w*|"
    r"\w*embeddings?|pos_embed\w*|\w*_token|wte|wpe|norm_pre|pre_?norm|ln_pre|pre_layrnorm|"
    r"embed_tokens|embedder|class_embedding|conv_proj)"
)
_SHORTCUT = re.compile(r"(\w*downsample|\w*shortcut|skip|skip_conv|projection|proj_conv|identity)")
_TABLE = re.compile(r"(\w*embeddings?|wte|wpe|embed_tokens|embed_positions|shared|\w*_embed)")
_TRANSITION = re.compile(r"trans(?:ition)?_?(\d+)")
_STATISTICS = ("running_mean", "running_var")
#: Floating-point buffers that architectures derive from their settings and never train.
_DERIVED = re.compile(
    r"(num_batches_tracked|attn_mask|relative_position_index|relative_coords_table|inv_freq|"
    r"position_ids|token_type_ids|attention_bias_idxs|logit_scale_max|\w*rel_index)"
)


@dataclass
class _Node:
    """A module of the tree: its children, and the weights below it."""

    children: dict[str, _Node] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)

    @property
    def is_composite(self) -> bool:
        return len(self.weights) > 1


def block_of_each(shapes: Mapping[str, tuple[int, ...]], head: str | None = None) -> dict[str, str]:
    """The block of every tensor; each lands in exactly one.

    Parameters
    ----------
    shapes : dict of str to tuple of int
    head : str, optional
        The module that is the head; by default it is recognised by its name.

    Returns
    -------
    dict of str to str
        Name of the tensor -> name of its block: the path of a module, ``"stem"`` or ``"head"``.
    """
    root = _Node()
    for name, shape in shapes.items():
        node = root
        parts = name.split(".")
        for depth, part in enumerate(parts[:-1], start=1):
            node = node.children.setdefault(part, _Node())
            if len(shape) > 1:
                node.weights.append(".".join(parts[depth:]))
    paths = [".".join(path) for path in _units(root, (), _OUTSIDE)]
    known = set(paths)
    blocks = {name: _nearest(name, known) for name in shapes}
    return _with_ends(blocks, head)


#: Where in the tree: outside of every unit, directly in a member of a family, inside of a unit.
_OUTSIDE, _IN_FAMILY, _INSIDE = 0, 1, 2


def _units(node: _Node, path: tuple[str, ...], place: int) -> Iterable[tuple[str, ...]]:
    """Paths of modules that are blocks, walking down as long as there are smaller units."""
    for key, child, beneath in _descend(node, place):
        if _has_units(child, beneath):
            yield from _units(child, (*path, key), beneath)
        else:
            yield (*path, key)


def _descend(node: _Node, place: int) -> Iterable[tuple[str, _Node, int]]:
    """The children, each with its place."""
    related = {key for family in _families(node, place) for key in family}
    for key, child in node.children.items():
        if key in related:
            yield key, child, _IN_FAMILY
        elif key.isdigit() or place != _OUTSIDE:
            yield key, child, _INSIDE
        else:
            yield key, child, _OUTSIDE


def _has_units(node: _Node, place: int) -> bool:
    """Whether a module at this place is made of units."""
    numbered = [child for key, child in node.children.items() if key.isdigit() and child.weights]
    if numbered and (place == _OUTSIDE or _alike(numbered)):
        return True
    if _families(node, place):
        return True
    return any(
        _has_units(child, beneath)
        for key, child, beneath in _descend(node, place)
        if key != "experts"  # copies of one another, but together one layer of a block
    )


def _families(node: _Node, place: int) -> list[list[str]]:
    """Children that differ in a number only: ``denselayer1``, ``denselayer2``."""
    families: dict[str, list[str]] = {}
    for key, child in node.children.items():
        stem = key.rstrip("0123456789")
        if place != _INSIDE and stem and stem != key and child.weights:
            families.setdefault(stem, []).append(key)
    return [
        keys
        for keys in families.values()
        if len(keys) > 1 and _alike([node.children[key] for key in keys])
    ]


def _alike(units: list[_Node]) -> bool:
    """Whether modules are copies of one unit, but for a shortcut here and there."""
    if not all(unit.is_composite for unit in units):
        return False
    shapes = [{re.sub(r"\d+", "#", name) for name in unit.weights} for unit in units]
    largest = max(shapes, key=len)
    return all(len(s & largest) >= 0.5 * len(s | largest) for s in shapes)


def _nearest(name: str, paths: set[str]) -> str:
    """The unit that a tensor lies in; its module, or itself, if it lies in none."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        path = ".".join(parts[:depth])
        if path in paths:
            return path
    return ".".join(parts[:-1]) or name


def _with_ends(blocks: Mapping[str, str], head: str | None) -> dict[str, str]:
    """Name stem and head as such."""
    # a base model inside a model for a task: vit.embeddings…, vit.encoder…, classifier
    named: dict[str, str] = {}
    for path in dict.fromkeys(blocks.values()):
        parts = path.split(".")
        if head is not None:
            is_head = path == head or path.startswith(f"{head}.")
        else:
            is_head = _HEAD.fullmatch(parts[0]) is not None
        if is_head:
            named[path] = HEAD
        elif _STEM.fullmatch(parts[0]) or (
            _STEM.fullmatch(parts[-1]) and not any(part.isdigit() for part in parts[:-1])
        ):
            named[path] = STEM
    heads = [path for path in named if named[path] == HEAD]
    if head is None and len(heads) > 1 and all(p.split(".")[-1].isdigit() for p in heads):
        # a classifier of several layers (VGG, MobileNet): only the last is cut to the classes
        for path in sorted(heads, key=natural)[:-1]:
            del named[path]
    return {name: named.get(path, path) for name, path in blocks.items()}


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts ``blocks.10`` after ``blocks.9``."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)|\.", name) if p]


def in_order(blocks: Iterable[str]) -> list[str]:
    """Blocks from the stem to the head."""
    known = set(blocks)

    def place(block: str) -> tuple[int, list[tuple[int, int, str]]]:
        if block in (STEM, HEAD):
            return (0 if block == STEM else 3), []
        kind = 2 if _HEAD.fullmatch(block.split(".")[0]) else 1
        return kind, natural(_after_its_stage(block, known))

    return sorted(known, key=place)


def _after_its_stage(block: str, known: set[str]) -> str:
    """A name that sorts a transition behind the stage of its number: transition1, denseblock1."""
    parts = block.split(".")
    for depth, part in enumerate(parts):
        if not (match := _TRANSITION.fullmatch(part)):
            continue
        prefix = "".join(f"{one}." for one in parts[:depth])
        stage = re.compile(rf"{re.escape(prefix)}((?!trans)[a-z_]+{match[1]})(\.|$)")
        stages = sorted({found[1] for one in known if (found := stage.match(one))})
        if stages:
            return ".".join([*parts[:depth], stages[0], "~", *parts[depth:]])
    return block


def counts(name: str, shape: tuple[int, ...], parameters: Parameters) -> bool:
    """Whether a floating-point tensor of this name is among the parameters asked for."""
    *path, last = name.split(".")
    if _DERIVED.fullmatch(last):
        return False
    if last in _STATISTICS:
        return parameters == "with_statistics"
    if parameters != "weights":
        return True
    is_table = len(shape) == 2 and bool(path) and _TABLE.fullmatch(path[-1]) is not None
    # experts of a mixture are packed into one parameter: experts.gate_up_proj
    return last.endswith(("weight", "_proj")) and len(shape) > 1 and not is_table


def without_shortcuts(names: list[str], block: str) -> list[str]:
    """A block's weights without its projection shortcuts, unless it has nothing else."""
    inner = {name: name.removeprefix(f"{block}.").split(".")[:-1] for name in names}
    kept = [n for n, parts in inner.items() if not any(_SHORTCUT.fullmatch(p) for p in parts)]
    return kept or names
