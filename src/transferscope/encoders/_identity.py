"""What decides the results of an object, as a digest: equal digest, equal results.

`identity` walks over an object: classes, plain attributes, arrays and tensors, sub-modules, hooks,
what functions enclose. Code itself cannot be looked into, so it must be *known*: of one of
`_LIBRARIES`, by its name and, where it makes up models, the version of its package. Every other
class or function, also one that was put into the place of a known one, is listed as unknown; of
these only the weights that they hold are seen. torch and NumPy count without version: what their
operations compute stays the same, up to rounding.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import hashlib
import json
import sys
import types
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from transferscope.encoders._encoder import Preprocessing
from transferscope.encoders._image_preprocessing import ImagePreprocessing
from transferscope.errors import EncoderError
from transferscope.numerics.arrays import NumpyArray

if TYPE_CHECKING:
    import torch

#: Raise it when the same parts begin to give other features, so that stored ones are not reused.
_VERSION = 2

#: Packages that make up models: other versions may compute something else of the same parts.
_MODEL_LIBRARIES = frozenset(
    {"peft", "sentence_transformers", "timm", "torchvision", "transformers"}
)
#: Of Python only what models hold: other files of these names may be the user's.
_LIBRARIES = _MODEL_LIBRARIES | {
    *("PIL", "huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "transferscope"),
    *("_collections", "_collections_abc", "_functools", "_operator", "abc", "builtins"),
    *("collections", "contextlib", "copyreg", "dataclasses", "datetime", "enum", "functools"),
    *("itertools", "math", "operator", "pathlib", "re", "types", "typing"),
}

#: Attributes that decide nothing, by the class that has them: where something came from, what it
#: is used for in training, and what only remembers earlier calls.
_INDIFFERENT = {
    "torch.nn.modules.module.Module": frozenset(
        {
            *("training", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
            *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks"),
            *("_load_state_dict_post_hooks", "_non_persistent_buffers_set"),
            # of timm and transformers
            *("pretrained_cfg", "default_cfg", "name_or_path", "warnings_issued"),
            *("generation_config", "hf_device_map", "_output_capturing_hooks_installed"),
        }
    ),
    "transformers.configuration_utils.PreTrainedConfig": frozenset(
        {
            *("_name_or_path", "_commit_hash", "transformers_version", "architectures"),
            *("dtype", "torch_dtype"),
        }
    ),
    "transformers.tokenization_utils_base.PreTrainedTokenizerBase": frozenset(
        {
            *("name_or_path", "init_kwargs", "init_inputs", "vocab_file", "chat_template"),
            *("deprecation_warnings", "verbose", "padding_side", "_processor_class"),
        }
    ),
    # how a batch is cut into parts
    "transferscope.encoders._text_tokens.TextPreprocessing": frozenset({"key", "size"}),
    "transferscope.encoders._text_models.TextModel": frozenset({"spread"}),
}

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
#: Where objects in a class keep the function that they stand for.
_CODE = ("fget", "__func__", "func", "__wrapped__")
_BUILTIN = (types.BuiltinFunctionType, types.MethodWrapperType)

#: One step of the walk: text or bytes as they are.
_Part: TypeAlias = str | bytes | memoryview


@dataclass(frozen=True)
class Identity:
    """What an object is.

    Parameters
    ----------
    digest : str
        Hexadecimal; equal for objects that are equal as far as they can be seen.
    unknown : tuple of str
        The parts that cannot be looked into; without any, equal digests mean equal results.
    """

    digest: str
    unknown: tuple[str, ...]


def identity(*parts: object, without: Iterable[torch.Tensor] = ()) -> Identity:
    """Find out what objects are, all together.

    Parameters
    ----------
    *parts : object
    without : iterable of Tensor
        Tensors whose values are left out; of those that stand in several places, the places count.

    Returns
    -------
    Identity

    Raises
    ------
    EncoderError
        If a weight has no values.
    """
    walk = _Walk(without)
    try:
        digest = walk.digest(parts)
    except RecursionError:
        walk.unknown["parts that are nested too deep"] = None
        digest = b""
    whole = _hash([str(_VERSION), digest, walk.digest(_hooks_of_all_modules())])
    for package in sorted(walk.packages):
        version = str(getattr(sys.modules.get(package), "__version__", None))
        whole = _hash([whole, package, version])
    return Identity(whole.hex(), tuple(walk.unknown))


def preparation_key(preprocessing: Preprocessing) -> str:
    """Give preprocessing a text that is equal where the same batches come out.

    Parameters
    ----------
    preprocessing : Preprocessing

    Returns
    -------
    str
        Of one of your own, whose code cannot be looked into, equal for the same object only.
    """
    if type(preprocessing) is ImagePreprocessing:
        return preprocessing.key
    found = identity(preprocessing)
    return f"object {id(preprocessing)}" if found.unknown else found.digest


class _Walk:
    """One walk: what it has seen, and what it did not know."""

    def __init__(self, without: Iterable[torch.Tensor]) -> None:
        self.unknown: dict[str, None] = {}
        self.packages: set[str] = set()
        self._unknown_classes: set[type] = set()
        self._without = {id(tensor): number for number, tensor in enumerate(without)}
        # with the objects: as long as they live, no other object has their id
        self._done: dict[int, tuple[object, bytes]] = {}
        self._begun: dict[int, int] = {}

    def digest(self, value: object) -> bytes:
        """Digest of an object and everything below it."""
        if type(value) in _PLAIN:
            return _hash([type(value).__name__, repr(value)])
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._begun:  # it holds itself, some steps down
            return _hash(["begun", str(self._begun[id(value)])])
        self._begun[id(value)] = len(self._begun)
        try:
            digest = _hash(self._parts(value))
        finally:
            del self._begun[id(value)]
        self._done[id(value)] = (value, digest)
        return digest

    def _parts(self, value: object) -> Iterator[_Part]:
        """What an object consists of."""
        if isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.ModuleType):
            yield f"module {value.__name__}"
            self._is_known(value.__name__, f"module {value.__name__}")
        elif isinstance(value, weakref.ReferenceType):
            yield self.digest(value())
        elif isinstance(value, types.MethodType):
            yield from map(self.digest, ("method", value.__func__, value.__self__))
        elif isinstance(value, _BUILTIN):
            owner, name = value.__self__, value.__qualname__
            self._is_known(value.__module__ or "builtins", f"function {name}")
            yield f"builtin {name}"
            yield self.digest(owner.__name__ if isinstance(owner, types.ModuleType) else owner)
        elif isinstance(value, functools.partial):
            yield from map(self.digest, ("partial", value.func, value.args, value.keywords))
        else:
            yield self.digest(type(value))
            yield from self._content(value)

    def _content(self, value: object) -> Iterator[_Part]:
        """What an instance holds, after its class."""
        torch = sys.modules.get("torch")
        if isinstance(value, Enum):
            yield value.name
        elif torch is not None and isinstance(value, torch.Tensor):
            yield from self._tensor(value)
        elif torch is not None and isinstance(value, torch.nn.Module):
            yield from self._module(value)
        elif torch is not None and isinstance(value, torch.device):
            pass  # features are kept apart by the kind of the device
        elif isinstance(value, np.ndarray | np.generic):
            yield from self._array(np.asarray(value))
        elif type(value).__module__ == "tokenizers" and hasattr(value, "to_str"):
            # without what the last call left there
            yield json.dumps({**json.loads(value.to_str()), "truncation": None, "padding": None})
        elif type(value) in self._unknown_classes:
            yield from self._weights(getattr(value, "__dict__", {}))
        else:
            yield from self._items(value)
            yield from self._attributes(value)

    def _weights(self, named: Mapping[str, object]) -> Iterator[_Part]:
        """What of it are arrays, tensors and torch modules."""
        torch = sys.modules.get("torch")
        kinds = (np.ndarray, *((torch.Tensor, torch.nn.Module) if torch is not None else ()))
        for name, value in named.items():
            if isinstance(value, kinds):
                yield name
                yield self.digest(value)

    def _items(self, value: object) -> Iterator[_Part]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield self.digest(key)
                yield self.digest(item)
        elif isinstance(value, set | frozenset):
            yield from sorted(map(self.digest, value))
        elif isinstance(value, tuple | list | deque):
            yield from map(self.digest, value)
        elif isinstance(value, _PLAIN):  # of a class derived from a plain one
            yield str(value)

    def _attributes(self, value: object, besides: Collection[str] = ()) -> Iterator[_Part]:
        """The attributes that an object has itself, without indifferent ones and `besides`."""
        found = dict(getattr(value, "__dict__", {}))
        classes = type(value).__mro__
        for one in classes:
            slots = one.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                    found[name] = getattr(value, name)
        for one in classes:
            for name in _INDIFFERENT.get(f"{one.__module__}.{one.__qualname__}", ()):
                found.pop(name, None)
        for name, one in found.items():
            if name not in besides:
                yield name
                yield self.digest(one)
        holds = isinstance(value, (*_PLAIN, Mapping, set, frozenset, tuple, list, deque))
        if not holds and not hasattr(value, "__dict__") and not hasattr(type(value), "__slots__"):
            yield from self._pickled(value)

    def _pickled(self, value: object) -> Iterator[_Part]:
        """An object without attributes: what pickle would write of it."""
        what = f"an object of class {type(value).__qualname__}"
        if not self._is_known(type(value).__module__, what):
            return
        try:
            registered = copyreg.dispatch_table.get(type(value))
            reduced = registered(value) if registered else value.__reduce_ex__(2)
        except Exception:  # noqa: BLE001  it cannot be written, for a reason of its own
            self.unknown[what] = None
            return
        made = reduced if isinstance(reduced, str) else reduced[:3]
        yield self.digest(made)

    def _module(self, module: torch.nn.Module) -> Iterator[_Part]:
        """Children, weights, hooks and plain attributes of a torch module."""
        own = vars(module)
        for name, child in own["_modules"].items():
            yield name
            yield self.digest(child)
        for kind in ("_parameters", "_buffers"):
            yield kind
            for name, tensor in own[kind].items():
                yield name
                yield from () if tensor is None else self._weight(module, name, tensor)
        special = {"_modules", "_parameters", "_buffers"}
        for kind, marks in _HOOKS.items():
            special |= {kind, *marks}
            # their keys count the hooks of the whole process
            for key, hook in own[kind].items():
                if _code_of(hook) != _RECORDING:
                    yield kind
                    yield from map(self.digest, (hook, *(key in own[mark] for mark in marks)))
        if _spread_by_accelerate(module):
            special |= {"_hf_hook", "_old_forward", "forward"}
        yield from self._attributes(module, special)

    def _weight(self, module: torch.nn.Module, name: str, tensor: torch.Tensor) -> Iterator[_Part]:
        if id(tensor) in self._without:
            yield f"weight {self._without[id(tensor)]}"
        elif tensor.is_meta:
            values = _values_in_memory(module, name)
            yield _hash([self.digest(type(tensor)), *self._tensor(tensor, values)])
        else:
            yield self.digest(tensor)

    def _tensor(self, tensor: torch.Tensor, values: torch.Tensor | None = None) -> Iterator[_Part]:
        """Type, shape and values, which may lie elsewhere; the same on every device."""
        yield f"{tensor.dtype} {tuple(tensor.shape)}"
        try:
            yield bytes_of(tensor if values is None else values)
        except (RuntimeError, TypeError):
            self.unknown[f"a tensor of layout {tensor.layout}"] = None
        if type(tensor).__module__.partition(".")[0] != "torch":
            yield from self._attributes(tensor)

    def _array(self, array: NumpyArray) -> Iterator[_Part]:
        yield f"{array.dtype.str} {array.shape}"
        if array.dtype.hasobject:
            yield self.digest(array.tolist())
        else:
            yield np.ascontiguousarray(array).tobytes()

    def _function(self, function: types.FunctionType) -> Iterator[_Part]:
        """A function by its name; made inside another, also by what it encloses."""
        name = function.__qualname__
        known = self._is_known_code(function, f"function {name}")
        yield self._named(function.__module__, name) if known else name
        enclosed = _enclosed(function)
        if not known:
            yield from self._weights(enclosed)
        elif "<locals>" in name:
            yield self.digest((function.__defaults__, function.__kwdefaults__, enclosed))

    def _class(self, kind: type) -> Iterator[_Part]:
        """A class by its name and that of its bases, with their plain attributes."""
        what = f"class {kind.__qualname__}"
        for one in kind.__mro__:
            known = self._is_known(one.__module__, what)
            yield self._named(one.__module__, one.__qualname__) if known else one.__qualname__
            for name, value in vars(one).items():
                if type(value) in _PLAIN and not name.startswith("__"):
                    yield name
                    yield self.digest(value)
                elif known and not isinstance(value, type):
                    self._is_known(type(value).__module__, f"{what} ({name})")
                    # of functions, properties, class methods, partial functions
                    for code in (value, *(getattr(value, of, None) for of in _CODE)):
                        self._is_known_code(code, f"{what} ({name})")
            if what in self.unknown:
                self._unknown_classes.add(kind)

    def _named(self, module: str, name: str) -> str:
        """Whole name of known code, of whose package the version then counts."""
        # not in `_is_known_code`: transformers puts functions into classes of torch
        self.packages |= _MODEL_LIBRARIES & {module.partition(".")[0]}
        return f"{module}.{name}"

    def _is_known_code(self, function: object, what: str) -> bool:
        """Whether a function, and what it wraps, was written in a library."""
        while isinstance(function, types.FunctionType):
            # not its __module__, which may be copied from what it wraps
            module = _code_of(function)
            # written by `collections`
            if not module.startswith("namedtuple_") and not self._is_known(module, what):
                return False
            function = getattr(function, "__wrapped__", None)
        return True

    def _is_known(self, module: str, what: str) -> bool:
        """Whether a module is of a library; if not, note what is unknown."""
        if module.partition(".")[0] in _LIBRARIES:
            return True
        self.unknown[what] = None
        return False


#: Hooks that see or change what a module computes, and the marks that each of them may have.
_HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}


#: Hooks of this module, which its models get when they are first called, change nothing.
_RECORDING = "transformers.utils.output_capturing"


def _code_of(function: object) -> str:
    """Module in which a function was written; empty for what is no function."""
    if not isinstance(function, types.FunctionType):
        return ""
    return str(function.__globals__.get("__name__"))


def _hooks_of_all_modules() -> list[object]:
    """Hooks that torch calls for every module there is."""
    module = sys.modules.get("torch.nn.modules.module")
    kinds = ("_global_forward_pre_hooks", "_global_forward_hooks")
    return [hook for kind in kinds for hook in getattr(module, kind, {}).values()]


def _enclosed(function: types.FunctionType) -> dict[str, object]:
    """What a function that was made inside another one keeps of it."""
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it is not filled yet
            found[name] = cell.cell_contents
    return found


def _spread_by_accelerate(module: torch.nn.Module) -> bool:
    """Whether `forward` was replaced only to fetch weights: that does not change the result."""
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    replaced = getattr(getattr(module, "_old_forward", None), "__func__", None)
    return replaced is type(module).forward and all(
        type(one).__module__ == "accelerate.hooks" for one in hooks
    )


def _values_in_memory(module: torch.nn.Module, name: str) -> torch.Tensor:
    """Find the values of a weight that accelerate has moved off the device and left empty."""
    hook = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        weights = getattr(one, "weights_map", None)
        if weights:
            weight: torch.Tensor = weights[name]
            return weight
    raise EncoderError(
        f"weight {name} is on the meta device and has no values. Load the weights first."
    )


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """Give the values of a tensor as bytes, the same on every device and in every memory layout."""
    import torch

    plain = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    return plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else memoryview(b"")


def _hash(parts: Iterable[_Part]) -> bytes:
    """Hash parts so that no other parts give the same."""
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        length = content.nbytes if isinstance(content, memoryview) else len(content)
        whole.update(length.to_bytes(8, "little"))
        whole.update(content)
    return whole.digest()
