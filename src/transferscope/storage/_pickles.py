"""A pickle read as data: what it would call is noted, never called.

A pickle is a program for a small stack machine, and two of its instructions call whatever function
of whatever module they name. This machine knows the few names of which weights files are made and
makes those objects itself. Every other name stands for an `Opaque`: calling one, giving it items or
attributes gives an `Opaque` again, nothing of that name is imported, and no method of any object in
the file is looked up.
"""

from __future__ import annotations

import argparse
import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import IO, TypeAlias, cast

import numpy as np

from transferscope.errors import CheckpointError
from transferscope.numerics.arrays import NumpyArray

#: More instructions than any file of weights has; a file of so many takes seconds.
_MAX_INSTRUCTIONS = 10_000_000
#: A network has neither so many parts nor parts so deep inside of each other, nor names so long.
_MAX_PARTS, _MAX_DEPTH, _LONGEST_NAME = 200_000, 100, 1_000

# Nothing named in a pickle is called, so these could do no harm either. But who writes such a file
# means harm, and the weights in it deserve no trust.
_HOSTILE = re.compile(
    r"(os|posix|nt|sys)\.\w+|_?io\.open\w*"
    r"|(subprocess|pty|runpy|importlib|shutil|socket|ctypes)\..+"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|open|input|breakpoint)"
    r"|(pickle|_pickle|cPickle|marshal)\.loads?|torch\.(hub|jit)\.load\w*"
)


class HostilePickleError(Exception):
    """Raised where a pickle names a function that is of use to an attacker only."""


class Opaque(dict[object, object]):
    """An object that was not rebuilt: the name of its class or function, attributes and items.

    Parameters
    ----------
    kind : str
        Such as ``"pathlib.PosixPath"``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.n_parts = 0  # looked at for the state dict

    def state_dict(self) -> dict[str, object]:
        """Name everything in it by the attributes that lead there, as modules name their tensors.

        Returns
        -------
        dict of str to object
            Without mappings, and without names longer than those of any network.

        Raises
        ------
        CheckpointError
            If its parts are more, or deeper, than those of any network.
        """
        found: dict[str, object] = {}
        todo: list[tuple[str, int, Mapping[object, object]]] = [("", 0, self)]
        self.n_parts = 0
        while todo:
            prefix, depth, part = todo.pop()
            parts = _parts_of_module(part) if "_modules" in part else part.items()
            inner: list[tuple[str, int, Mapping[object, object]]] = []
            for key, value in parts:
                self.n_parts += 1
                if self.n_parts > _MAX_PARTS or depth > _MAX_DEPTH:
                    raise CheckpointError(
                        "weights file holds objects inside of each other without an end. "
                        "Save model.state_dict() and give that file."
                    )
                if not isinstance(key, str) or len(prefix) + len(key) > _LONGEST_NAME:
                    continue
                if isinstance(value, Mapping):
                    inner.append((f"{prefix}{key}.", depth + 1, value))
                else:
                    found[prefix + key] = value
            todo += reversed(inner)
        return found


def _parts_of_module(attributes: Mapping[object, object]) -> Iterable[tuple[object, object]]:
    """What of the attributes of a torch module is in its state dict."""
    left_out = attributes.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers", "_modules"):
        held = attributes.get(kind)
        for name, value in held.items() if isinstance(held, Mapping) else ():
            if not (kind == "_buffers" and isinstance(left_out, set) and name in left_out):
                yield name, value


@dataclass(frozen=True)
class Builder:
    """A name that is known: what is made of the arguments with which it would be called."""

    build: Callable[..., object]


#: What names stand for: a `Builder`, or a value.
Names: TypeAlias = Callable[[str], object | None]


def read_pickle(
    stream: IO[bytes] | mmap,
    names: Names = lambda _: None,
    persistent: Callable[[object], object] = lambda _: Opaque("persistent id"),
) -> object:
    """Read one pickle, up to its end and not further.

    Parameters
    ----------
    stream : binary file
        Whose ``read`` never makes more bytes than there are, such as a `mmap` or a `BytesIO`.
    names : callable, optional
        From ``module.name`` to what it stands for; None where it is unknown.
    persistent : callable, optional
        From the key of an object that is kept outside of the pickle to that object.

    Returns
    -------
    object

    Raises
    ------
    HostilePickleError
        With the name, where the pickle names a function to execute code with.
    ValueError, LookupError, TypeError
        If it is damaged, or no pickle.
    """
    machine = _Machine(names, persistent)
    for count, (instruction, argument, position) in enumerate(
        pickletools.genops(cast("IO[bytes]", stream))
    ):
        machine.position = position or 0
        if count > _MAX_INSTRUCTIONS:
            raise ValueError("a pickle of more instructions than any weights need")
        operation = _OPERATIONS.get(instruction.name)
        if operation is not None:
            operation(machine, argument)
        elif argument is not None:  # what is left with an argument is a constant
            machine.stack.append(argument)
        else:
            raise ValueError(f"the instruction {instruction.name}")
    return machine.pop()


class _Machine:
    """The stack, what lies below each mark, and what was numbered for later."""

    def __init__(self, names: Names, persistent: Callable[[object], object]) -> None:
        self.names = names
        self.persistent = persistent
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        self.memo: dict[object, object] = {}
        self.known: dict[str, object] = {}
        self.position = 0  # in the file
        self.copied = 0

    def charge(self, *values: object) -> None:
        """Note that values are copied: the same ones many times over would fill any memory."""
        self.copied += sum(map(_size, values))
        if self.copied > 2**26 + 4 * self.position:
            raise ValueError("a pickle that repeats its content without an end")

    def pop(self) -> object:
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def push_named(self, name: str) -> None:
        if name not in self.known:
            if _HOSTILE.fullmatch(name):
                raise HostilePickleError(name)
            found = _NAMES.get(name) or self.names(name)
            self.known[name] = Opaque(name) if found is None else found
        self.stack.append(self.known[name])

    def call(self, function: object, arguments: object) -> None:
        given = arguments if isinstance(arguments, tuple) else ()
        made: object
        self.charge(*given)
        if isinstance(function, Builder):
            made = function.build(*given)
        else:
            made = Opaque(function.kind if isinstance(function, Opaque) else "unknown")
            if len(given) == 1 and isinstance(given[0], Mapping):  # a dictionary of another class
                _set_items(made, given[0].items())
        self.stack.append(made)


_Operation: TypeAlias = Callable[[_Machine, object], None]


def _size(value: object) -> int:
    """About how many bytes a copy of a value takes, without what it holds."""
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    return 64 * len(value) if isinstance(value, list | tuple | dict) else 1


def _is_plain(key: object) -> bool:
    """Whether it can be a key: hashed at once, and not like too many others."""
    if type(key) is tuple:
        return len(key) <= 4 and all(type(part) is not tuple and _is_plain(part) for part in key)
    if type(key) is int:
        return abs(key) < 2**61 - 1  # from there on, hashes repeat
    return type(key) in (str, bytes, bool, float, type(None))


def _set_items(target: object, items: Iterable[tuple[object, object]]) -> None:
    if isinstance(target, dict):
        target.update((key, value) for key, value in items if _is_plain(key))


def _pairs(items: list[object]) -> Iterable[tuple[object, object]]:
    return zip(items[::2], items[1::2], strict=True)


def _build(machine: _Machine) -> None:
    """Give the object on the stack its attributes; most have none that matter."""
    state = machine.pop()
    target = machine.stack[-1]
    machine.charge(*(state if isinstance(state, tuple) else (state,)))
    if isinstance(target, np.ndarray):
        _fill(target, state)
    elif isinstance(target, _DType):
        target.swap(state)
    elif isinstance(target, argparse.Namespace) and isinstance(state, dict):
        vars(target).update((k, v) for k, v in state.items() if isinstance(k, str))
    elif isinstance(target, Opaque):
        for part in state if isinstance(state, tuple) else (state,):  # __dict__ and slots
            _set_items(target, part.items() if isinstance(part, dict) else ())


def _append(machine: _Machine, items: list[object]) -> None:
    if isinstance(target := machine.stack[-1], list):
        target += items


def _add(machine: _Machine, items: list[object]) -> None:
    if isinstance(target := machine.stack[-1], set):
        target.update(filter(_is_plain, items))


def _call(machine: _Machine) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.call(function, arguments)


def _call_with_keywords(machine: _Machine) -> None:
    machine.pop()  # no known name takes keywords
    _call(machine)


def _call_from_mark(machine: _Machine) -> None:
    function, *arguments = machine.pop_to_mark()
    machine.call(function, tuple(arguments))


def _call_named(machine: _Machine, name: str) -> None:
    arguments = machine.pop_to_mark()
    machine.push_named(name)
    machine.call(machine.pop(), tuple(arguments))


def _name_from_stack(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise ValueError("a name that is no text")
    machine.push_named(f"{module}.{name}")


def _mark(machine: _Machine) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _drop(machine: _Machine) -> None:
    if machine.stack:
        machine.pop()
    else:
        machine.pop_to_mark()


def _memoize(machine: _Machine, key: object) -> None:
    machine.memo[key] = machine.stack[-1]


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine.stack[-1], [(key, value)])


def _set_items_from_mark(machine: _Machine) -> None:
    items = machine.pop_to_mark()
    _set_items(machine.stack[-1], _pairs(items))


def _tuple(machine: _Machine, length: int) -> None:
    items = [machine.pop() for _ in range(length)]
    machine.stack.append(tuple(reversed(items)))


def _dictionary(items: Iterable[tuple[object, object]] = ()) -> dict[object, object]:
    made: dict[object, object] = {}
    _set_items(made, items)
    return made


def _push(make: Callable[[_Machine], object]) -> _Operation:
    """The operation that puts on the stack what this function makes."""

    def operation(machine: _Machine, _: object) -> None:
        made = make(machine)  # this may change which stack is the upper one
        machine.stack.append(made)

    return operation


def _push_new(make: Callable[[], object]) -> _Operation:
    return _push(lambda _: make())


def _do(change: Callable[[_Machine], object]) -> _Operation:
    """The operation of an instruction without argument."""

    def operation(machine: _Machine, _: object) -> None:
        change(machine)

    return operation


def _ignore(machine: _Machine, argument: object) -> None:
    """Protocol numbers and frames: nothing depends on them."""


_OPERATIONS: dict[str, _Operation] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _ignore),
    "NONE": _push_new(lambda: None),
    "NEWTRUE": _push_new(lambda: True),
    "NEWFALSE": _push_new(lambda: False),
    "EMPTY_LIST": _push_new(list),
    "EMPTY_TUPLE": _push_new(tuple),
    "EMPTY_DICT": _push_new(dict),
    "EMPTY_SET": _push_new(set),
    "LIST": _push(lambda machine: machine.pop_to_mark()),
    "TUPLE": _push(lambda machine: tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: _tuple(machine, 1),
    "TUPLE2": lambda machine, _: _tuple(machine, 2),
    "TUPLE3": lambda machine, _: _tuple(machine, 3),
    "DICT": _push(lambda machine: _dictionary(_pairs(machine.pop_to_mark()))),
    "FROZENSET": _push(lambda machine: frozenset(filter(_is_plain, machine.pop_to_mark()))),
    "APPEND": _do(lambda machine: _append(machine, [machine.pop()])),
    "APPENDS": _do(lambda machine: _append(machine, machine.pop_to_mark())),
    "ADDITEMS": _do(lambda machine: _add(machine, machine.pop_to_mark())),
    "SETITEM": _do(_set_item),
    "SETITEMS": _do(_set_items_from_mark),
    "MARK": _do(_mark),
    "POP": _do(_drop),
    "POP_MARK": _do(lambda machine: machine.pop_to_mark()),
    "DUP": _push(lambda machine: machine.stack[-1]),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"),
        lambda machine, key: machine.stack.append(machine.memo[key]),
    ),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _memoize),
    "MEMOIZE": _do(lambda machine: _memoize(machine, len(machine.memo))),
    "GLOBAL": lambda machine, name: machine.push_named(str(name).replace(" ", ".")),
    "STACK_GLOBAL": _do(_name_from_stack),
    "REDUCE": _do(_call),
    "NEWOBJ": _do(_call),
    "NEWOBJ_EX": _do(_call_with_keywords),
    "OBJ": _do(_call_from_mark),
    "INST": lambda machine, name: _call_named(machine, str(name).replace(" ", ".")),
    "BUILD": _do(_build),
    "PERSID": lambda machine, key: machine.stack.append(machine.persistent(key)),
    "BINPERSID": _push(lambda machine: machine.persistent(machine.pop())),
}


# --- what is made of the names that stand beside weights


class _DType:
    """A type of NumPy; its pickle tells the order of the bytes afterwards."""

    def __init__(self, name: str) -> None:
        self.dtype = np.dtype(name)

    def swap(self, state: object) -> None:
        if isinstance(state, tuple) and state[1:2] == (">",):
            self.dtype = self.dtype.newbyteorder(">")

    def array(self, data: object, shape: object, order: object = "C") -> NumpyArray:
        raw = data.encode("latin-1") if isinstance(data, str) else data  # a text in Python 2
        flat = np.frombuffer(cast("bytes", raw), self.dtype)
        return flat.reshape(cast("tuple[int, ...]", shape), order="F" if order == "F" else "C")


def _dtype(name: object = "", *_: object) -> object:
    is_simple = isinstance(name, str) and re.fullmatch(r"[<>|=]?([biufc]\d\d?|\?)|bool", name)
    return _DType(str(name)) if is_simple else Opaque("numpy.dtype")


def _scalar(dtype: object, data: object = b"") -> object:
    return dtype.array(data, ())[()] if isinstance(dtype, _DType) else Opaque("numpy scalar")


def _array(data: object, dtype: object, shape: object, order: object = "C") -> object:
    return dtype.array(data, shape, order) if isinstance(dtype, _DType) else Opaque("numpy array")


def _fill(empty: NumpyArray, state: object) -> None:
    """Give an array that was made empty its content, as `ndarray.__setstate__` does."""
    if isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _DType):
        _, shape, dtype, is_fortran, data = state
        content = dtype.array(data, shape, "F" if is_fortran else "C")
        whole = (1, content.shape, content.dtype, cast("np.bool", 0), content.tobytes())
        empty.__setstate__(whole)


def _encode(text: object, encoding: object = "") -> object:
    """Bytes, in pickles that Python 2 can read."""
    if isinstance(text, str) and encoding in ("latin1", "latin-1"):
        return text.encode("latin-1")
    return Opaque("_codecs.encode")


def _set(items: object = ()) -> object:
    return set(filter(_is_plain, items)) if isinstance(items, list | tuple) else set()


def _ordered(items: object = ()) -> object:
    """An ordered dictionary; Python 2 gives its items as lists of two."""
    if isinstance(items, list):
        return _dictionary((key, value) for key, value in items)
    return _dictionary(items.items() if isinstance(items, dict) else ())


_NAMES: dict[str, object] = {
    "argparse.Namespace": Builder(lambda *_: argparse.Namespace()),
    "collections.OrderedDict": Builder(_ordered),
    "collections.Counter": Builder(_ordered),
    "collections.defaultdict": Builder(lambda *_: {}),
    "_codecs.encode": Builder(_encode),
    "numpy.dtype": Builder(_dtype),
    **{
        f"{module}.{name}": Builder(_set)
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset")
    },
}
for _module in ("numpy.core", "numpy._core"):  # as NumPy 1 and 2 call it
    _NAMES |= {
        f"{_module}.multiarray.scalar": Builder(_scalar),
        f"{_module}.multiarray._reconstruct": Builder(lambda *_: np.empty(0)),
        f"{_module}.numeric._frombuffer": Builder(_array),
    }
