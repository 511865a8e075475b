"""How work is spread over processes and machines: calls that a pool of workers takes in turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias

from transferscope.errors import InputError

#: Arguments of one call.
Call: TypeAlias = tuple[Any, ...]
#: What is still to be called, by the name of what a worker must hold for it (an encoder). Whoever
#: runs them may add calls, and take away such as are needless, after each outcome.
Queues: TypeAlias = dict[str, deque[Call]]


class Executor(Protocol):
    """Workers in other processes, perhaps on other machines."""

    @property
    def device(self) -> str:
        """Where encoders run on its workers: ``"cpu"`` or ``"cuda"``."""

    def run(self, work: Callable[..., Any], queues: Queues) -> Generator[tuple[Call, Any]]:
        """Carry out calls on the workers, those of one queue on as few of them as is quick.

        Parameters
        ----------
        work : callable
            Sent to every worker once, which then has a copy of its own. It must not matter whether
            a call is made once or twice: one whose worker died is made again.
        queues : dict of str to deque of tuple
            Arguments of the calls; they are taken out from the left.

        Yields
        ------
        call : tuple
            The arguments.
        outcome : object
            What the call returned, in the order in which calls end; or a `WorkerError`, if its
            worker died again and again.

        Raises
        ------
        InputError
            If `work` cannot be sent.
        WorkerError
            If there are no workers.
        TransferscopeError
            What a call raised.
        """


def device_of(executor: Executor, device: str | None) -> str:
    """Where encoders run on workers, if that is what a caller asked for.

    Parameters
    ----------
    executor : Executor
    device : str or None
        As the caller named it.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If it is another kind of device than that of the workers.
    """
    if device is not None and device.partition(":")[0] != executor.device:
        raise InputError(
            f"device {device!r} is not that of the workers, which is {executor.device}. Leave it "
            "out, and give workers GPUs, or none."
        )
    return executor.device
