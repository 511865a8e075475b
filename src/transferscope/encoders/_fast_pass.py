"""A quicker forward pass through a torch module: small parts, packed weights, fused operations.

What is done follows from the network alone, never from a clock: two runs give the same bits.

- A batch goes through in *parts* whose largest activation fits into 32 MiB. That is about what a
  cache holds, and exactly what the allocator of glibc keeps instead of mapping it anew each time.
- On the CPU, weights of convolutions and linear layers are packed once, in the order in which
  oneDNN reads them, rather than at every call. A batch norm that follows a convolution is folded
  into it, and an activation that follows either is computed as they write their result.

Which operation follows which is seen in one pass of one image of noise, by watching the functions
of torch that are called: an operation is drawn into the one before only if nothing else reads what
lies between. The result is then compared with that of the plain pass; where it differs by more than
rounding, nothing is packed.

This module imports torch at the top; it is imported only when such an encoder is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from transferscope.encoders._encoder import Batch
from transferscope.encoders._pretrained import first_line

_logger = logging.getLogger("transferscope")

#: Bytes of the largest activation of one part: as much as the allocator of glibc at most serves
#: from memory that it keeps (its `DEFAULT_MMAP_THRESHOLD_MAX`), and as a cache of today holds.
PART_BYTES = 32 * 2**20
#: By how much of the largest value the packed pass may differ from the plain one: a fifth of what
#: is promised of features.
TOLERANCE = 2e-5

#: Bytes that packed weights may take; what would need more stays as it is.
PACKED_BYTES = 2**30

#: From a batch to everything that is wanted of it.
Pass: TypeAlias = Callable[[Batch], Mapping[str, Tensor]]

_Function: TypeAlias = Callable[..., Any]


class _Attribute(NamedTuple):
    """An activation as oneDNN's operators of torch name it."""

    name: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


_NONE = _Attribute()
_ACTIVATIONS: dict[_Function, _Attribute] = {
    functional.relu: _Attribute("relu"),
    torch.relu: _Attribute("relu"),
    functional.relu6: _Attribute("hardtanh", (0.0, 6.0)),
    functional.hardswish: _Attribute("hardswish"),
    functional.hardsigmoid: _Attribute("hardsigmoid"),
    functional.silu: _Attribute("swish"),
    torch.sigmoid: _Attribute("sigmoid"),
    Tensor.sigmoid: _Attribute("sigmoid"),
}
#: What only looks at the shape of a tensor, besides its properties.
_LOOKS = frozenset({"dim", "size", "__get__"})


def part_length(activation_bytes: int) -> int:
    """How many samples go through together.

    Parameters
    ----------
    activation_bytes : int
        Of the largest activation of one sample.

    Returns
    -------
    int
        At least 1.
    """
    return max(1, PART_BYTES // max(1, activation_bytes))


class PassPlan:
    """How a network is passed through: in parts of what length, and with which packed weights.

    Packed weights are copies of the weights as they were when the plan was made.

    Parameters
    ----------
    run : callable
        The plain pass, from a batch to named outputs.
    sample : batch
        A batch of one sample.
    device : torch.device
        Of the network. Elsewhere than on the CPU a batch is cut only if it finds no room, and
        weights are left as they are.
    cut : bool, default True
        Whether a batch may be cut into parts. If not, it is passed through as it is.
    """

    def __init__(self, run: Pass, sample: Batch, device: torch.device, *, cut: bool = True) -> None:
        self._run = run
        self._device = device
        self._cut = cut
        self._packed: dict[int, _Packed] = {}
        self.part: int | None = None
        if device.type != "cpu":
            return
        with torch.inference_mode(), _Watch() as watch:
            plain = run(sample)
        if any(_takes_statistics(call) for call in watch.calls):
            return  # features depend on what else is in the batch: it must stay whole
        if cut:
            self.part = part_length(watch.largest)
        if torch.backends.mkldnn.enabled and torch._C._has_mkldnn:
            try:
                with torch.inference_mode():
                    self._packed = _pack(watch.calls, self.part or 1)
                self._require_equal(plain, sample)
            except Exception as error:  # noqa: BLE001  operators that this torch lacks, or a hook's
                _logger.info("weights are not packed: %s", first_line(error))
                self._packed = {}

    @property
    def n_packed(self) -> int:
        """How many convolutions and linear layers have packed weights."""
        return len(self._packed)

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pass samples through, part by part.

        Parameters
        ----------
        batch : batch of n samples

        Returns
        -------
        mapping of str to Tensor

        Raises
        ------
        torch.OutOfMemoryError
            If not even one sample finds room on the device, or the batch may not be cut.
        """
        while self._cut:
            part = len(batch) if self.part is None else self.part
            try:
                parts = [self._once(batch[k : k + part]) for k in range(0, len(batch), part)]
            except torch.OutOfMemoryError:
                if part == 1:
                    raise
                self.part = max(1, min(part, len(batch)) // 2)
            else:
                return {name: torch.cat([one[name] for one in parts]) for name in parts[0]}
            # not above, where the exception still holds what the failed pass computed
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        return self._once(batch)

    def _once(self, batch: Batch) -> Mapping[str, Tensor]:
        if not self._packed:
            return self._run(batch)
        with _Replacing(self._packed) as replacing:
            outputs = self._run(batch)
        if replacing.pending:  # what was folded never came: the network took another way
            return self._run(batch)
        return outputs

    def _require_equal(self, plain: Mapping[str, Tensor], sample: Batch) -> None:
        """Raise ArithmeticError where the packed pass gives something else than the plain one."""
        with _Replacing(self._packed) as replacing:
            packed = self._run(sample)
        for name, expected in plain.items():
            error = (packed[name] - expected).abs().max()
            # the negation is true of NaN as well
            if replacing.pending or not error <= TOLERANCE * expected.abs().max():
                raise ArithmeticError(f"{name} would differ by {error:.2g}")


class _Call(NamedTuple):
    """A function of torch that was called; it holds all tensors, so that no `id` comes twice."""

    function: _Function
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    output: Any

    def argument(self, position: int, name: str, default: object = None) -> Any:
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


class _Watch(TorchFunctionMode):
    """Notes which functions are called on which tensors, and the size of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.largest = 0

    def __torch_function__(
        self,
        func: _Function,
        _types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        made = list(_tensors(output))
        if made or getattr(func, "__name__", "") not in _LOOKS:
            self.calls.append(_Call(func, args, kwargs or {}, output))
        # an expanded tensor takes no more memory than what it was expanded from
        sizes = (min(one.nbytes, one.untyped_storage().nbytes()) for one in made)
        self.largest = max(self.largest, *sizes, 0)
        return output


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


@dataclass(frozen=True)
class _Packed:
    """A convolution or linear layer with its weight packed and what follows it drawn in."""

    compute: Callable[[Tensor], Tensor]
    #: calls that follow on its result and have nothing left to do
    done: tuple[_Function, ...]


class _Found(NamedTuple):
    """A call of a convolution or linear layer, and the calls that can be drawn into it."""

    call: _Call
    norm: _Call | None
    activation: _Attribute
    done: tuple[_Function, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for two calls of one layer that can be computed in one way."""
        call, norm = self.call, self.norm
        return (
            *(call.argument(k, name) for k, name in enumerate(_ARGUMENTS, start=3)),
            id(call.argument(2, "bias")),
            None if norm is None else [id(norm.argument(k, n)) for k, n in enumerate(_NORM)],
            self.activation,
            self.done,
        )


#: Of `conv2d` after input, weight and bias; a linear layer has none of them.
_ARGUMENTS = ("stride", "padding", "dilation", "groups")
_NORM = ("running_mean", "running_var", "weight", "bias")


def _pack(calls: Sequence[_Call], part: int) -> dict[int, _Packed]:
    """Pack the weights of a pass of one sample, for parts of this length; by `id` of the weight."""
    readers: dict[int, list[_Call]] = {}
    for call in calls:
        for tensor in {id(one): one for one in _tensors([call.args, call.kwargs])}.values():
            readers.setdefault(id(tensor), []).append(call)
    found: dict[int, list[_Found]] = {}
    for call in calls:
        weight = call.argument(1, "weight")
        if call.function in (torch.conv2d, functional.linear) and isinstance(weight, nn.Parameter):
            found.setdefault(id(weight), []).append(_find(call, readers))
    found = {
        key: several
        for key, several in found.items()
        if _can_be_packed(several[0].call)
        and len(readers[key]) == len(several)
        and all(one.key == several[0].key for one in several)
    }
    n_bytes = sum(one.call.argument(1, "weight").nbytes for one, *_ in found.values())
    if n_bytes > PACKED_BYTES:
        raise MemoryError(f"they would take {n_bytes:,} bytes")
    return {
        key: _convolution(one, part) if one.call.function is torch.conv2d else _linear(one, part)
        for key, (one, *_) in found.items()
    }


def _can_be_packed(call: _Call) -> bool:
    images: Tensor = call.argument(0, "input")
    weight: Tensor = call.argument(1, "weight")
    right = call.function is functional.linear or images.ndim == 4
    return right and weight.dtype == torch.float32 and call.argument(4, "padding") != "same"


def _find(call: _Call, readers: Mapping[int, Sequence[_Call]]) -> _Found:
    """What can be drawn into a call."""
    done: list[_Function] = []
    output: Tensor = call.output
    norm = _only_reader(output, readers)
    if (
        norm is None
        or call.function is not torch.conv2d
        or norm.function is not functional.batch_norm
    ):
        norm = None
    else:
        done.append(norm.function)
        output = norm.output
    follows = _activation_after(output, readers)
    activation = _NONE if follows is None else _attribute(follows)
    if follows is not None and activation is not _NONE:
        done.append(follows.function)
    return _Found(call, norm, activation, tuple(done))


def _convolution(found: _Found, part: int) -> _Packed:
    images, weight, bias = _operands(found.call)
    stride, padding, dilation = (
        [given, given] if isinstance(given, int) else given
        for given in (
            found.call.argument(3, "stride", 1),
            found.call.argument(4, "padding", 0),
            found.call.argument(5, "dilation", 1),
        )
    )
    groups = found.call.argument(6, "groups", 1)
    if found.norm is not None:
        weight, bias = _folded(weight, bias, found.norm)
    # torch has no stubs for these
    functions: Any = torch._C._nn
    reordered = functions.mkldnn_reorder_conv2d_weight(
        weight.to_mkldnn(), padding, stride, dilation, groups, [part, *images.shape[1:]]
    )
    operator = torch.ops.mkldnn._convolution_pointwise.default
    activation = found.activation

    def compute(images: Tensor) -> Tensor:
        result: Tensor = operator(
            images, reordered, bias, padding, stride, dilation, groups, *activation
        )
        return result

    return _Packed(compute, found.done)


def _linear(found: _Found, part: int) -> _Packed:
    rows, weight, bias = _operands(found.call)
    n_rows = part * rows.numel() // rows.shape[-1]
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight, n_rows)
    operator = torch.ops.mkldnn._linear_pointwise.default
    activation = found.activation

    def compute(rows: Tensor) -> Tensor:
        result: Tensor = operator(rows, reordered, bias, *activation)
        return result

    return _Packed(compute, found.done)


def _operands(call: _Call) -> tuple[Tensor, Tensor, Tensor | None]:
    bias = call.argument(2, "bias")
    return (
        call.argument(0, "input"),
        call.argument(1, "weight").detach(),
        None if bias is None else bias.detach(),
    )


def _takes_statistics(call: _Call) -> bool:
    """Whether a batch norm measures the batch itself, although the network is in eval mode."""
    return call.function is functional.batch_norm and bool(call.argument(5, "training"))


def _only_reader(output: Tensor, readers: Mapping[int, Sequence[_Call]]) -> _Call | None:
    """The call that a result goes into, if it is one, and the result its first argument."""
    calls = readers.get(id(output), ())
    if len(calls) == 1 and calls[0].argument(0, "input") is output:
        return calls[0]
    return None


def _activation_after(output: Tensor, readers: Mapping[int, Sequence[_Call]]) -> _Call | None:
    """The call that may be an activation of this result."""
    calls = readers.get(id(output), ())
    if calls and calls[0].output is output and calls[0].argument(0, "input") is output:
        return calls[0]  # in place: whoever comes later reads the activation
    return _only_reader(output, readers)


def _attribute(call: _Call) -> _Attribute:
    """The activation that a call is, as oneDNN names it."""
    if call.function is functional.hardtanh:
        limits = call.argument(1, "min_val", -1.0), call.argument(2, "max_val", 1.0)
        return _Attribute("hardtanh", (float(limits[0]), float(limits[1])))
    if call.function is functional.gelu:
        return _Attribute("gelu", (), call.kwargs.get("approximate", "none"))
    return _ACTIVATIONS.get(call.function, _NONE)


def _folded(weight: Tensor, bias: Tensor | None, norm: _Call) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does the work of the batch norm after it, too."""
    mean, variance = (
        norm.argument(1, "running_mean").detach().double(),
        norm.argument(2, "running_var").detach().double(),
    )
    gain, offset = norm.argument(3, "weight"), norm.argument(4, "bias")
    scale = torch.rsqrt(variance + norm.argument(7, "eps", 1e-5))
    if gain is not None:
        scale = scale * gain.detach().double()
    shift = -mean if bias is None else bias.double() - mean
    shift = shift * scale
    if offset is not None:
        shift = shift + offset.detach().double()
    return (weight.double() * scale.reshape(-1, 1, 1, 1)).float(), shift.float()


class _Replacing(TorchFunctionMode):
    """Computes with packed weights; what was drawn into them is passed over."""

    def __init__(self, packed: Mapping[int, _Packed]) -> None:
        super().__init__()
        self._packed = packed
        #: results that calls are still to come for, which have nothing left to do
        self.pending: dict[int, tuple[Tensor, tuple[_Function, ...]]] = {}

    def __torch_function__(
        self,
        func: _Function,
        _types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # called hundreds of times a pass: as little as possible is done here
        pending = self.pending
        if pending and args and id(args[0]) in pending:
            output, done = pending[id(args[0])]
            if func is done[0]:
                if len(done) > 1:
                    pending[id(output)] = output, done[1:]
                else:
                    del pending[id(output)]
                return output
        elif func is torch.conv2d or func is functional.linear:
            weight = args[1] if len(args) > 1 else (kwargs or {}).get("weight")
            packed = self._packed.get(id(weight))
            if packed is not None:
                output = packed.compute(args[0] if args else (kwargs or {})["input"])
                if packed.done:
                    pending[id(output)] = output, packed.done
                return output
        return func(*args, **kwargs) if kwargs else func(*args)
