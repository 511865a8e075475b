"""Work on the machines of a Ray cluster; the only file that imports Ray, and only when it connects.

Ray starts processes and carries calls and results. What is done and what is lost is known here and
in the feature store, not by Ray: the process that waits for the results hands a call to the next
worker if its own died. So nothing is counted twice: of the calls of a worker that is given up no
result is looked at.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from transferscope.errors import InputError, TransferscopeError, WorkerError, require
from transferscope.executor import Call, Queues

#: A call is given up when so many workers died of it. One may be bad luck; those that die with
#: their machine are not counted.
DEATHS = 4
#: Seconds for which no worker need be there: as long as a cluster may take to add a machine.
PATIENCE = 900.0
#: Seconds in which a cluster must answer.
ANSWER = 5.0
#: Seconds after which it is looked whether the cluster has grown or shrunk.
LOOK = 5.0
#: What must be the same on all machines, or the features of one encoder would differ among them.
_PACKAGES = (
    *("transferscope", "numpy", "torch", "torchvision", "timm", "transformers", "tokenizers"),
    *("pillow", "datasets"),
)
#: Stands for the outcome of a call that another worker will make.
_PUT_BACK = object()


class RayExecutor:
    """Workers of a Ray cluster, or of one that is started on this machine.

    Parameters
    ----------
    address : str
        ``"local"`` starts a cluster on this machine; ``"auto"`` finds the one that this machine
        belongs to; ``"HOST:6379"`` is the address of one. Where this process is connected to Ray
        already, that connection is used.
    workers : int, optional
        How many processes. By default as many as the cluster has room for, also when machines come
        and go. A number beyond that makes a cluster grow that can.
    cpus : float
        Processors that a worker takes; torch computes with as many threads.
    gpus : float
        GPUs that a worker takes: 0.25 lets four share one; 2 serves encoders with
        ``?device_map=auto``. With 0 encoders run on the CPU.
    memory : int, optional
        Bytes that a worker takes. Ray places workers by it, and does not enforce it.

    Raises
    ------
    InputError
        If a number is out of range.

    Notes
    -----
    Workers need the same versions of Python, of this package and of those that compute features;
    that is checked. They read data sets and weights from the paths and caches of their machines;
    whether a data set is the same there is checked with some samples of each part, and what is in
    memory is sent. Features are written to the store where they see its folder, and sent back
    where they do not.

    Workers stay until `close`, or the end of a ``with`` block.

    Examples
    --------
    >>> from transferscope import RayExecutor
    >>> RayExecutor("local", workers=2)
    RayExecutor('local', workers=2, cpus=1, gpus=0, memory=None)
    """

    def __init__(
        self,
        address: str = "local",
        *,
        workers: int | None = None,
        cpus: float = 1,
        gpus: float = 0,
        memory: int | None = None,
    ) -> None:
        given = (("workers", workers, 1), ("cpus", cpus, 0), ("gpus", gpus, 0))
        for name, value, least in (*given, ("memory", memory, 1)):
            if value is not None and not least <= value < math.inf:
                raise InputError(f"{name} must be a number of at least {least}; got {value}.")
        if gpus > 1 and gpus != int(gpus):
            raise InputError(
                f"gpus must be a share of one GPU or a whole number of them; got {gpus}. "
                "Write 0.5, 1 or 2."
            )
        if not cpus and not gpus:
            raise InputError("a worker must take cpus or gpus; both are 0. Give one of them.")
        self.address, self.workers, self.cpus, self.gpus = address, workers, cpus, gpus
        self.memory = memory
        self._pool: list[_Worker] = []
        self._connected = False
        #: when the size of the cluster was looked at last, and when a worker was last there
        self._looked = self._seen = -math.inf
        #: whether one was there in this run, and why one died
        self._had, self._died = False, ""

    def __repr__(self) -> str:
        return (
            f"RayExecutor({self.address!r}, workers={self.workers}, cpus={self.cpus}, "
            f"gpus={self.gpus}, memory={self.memory})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def device(self) -> str:
        """Where encoders run on its workers: ``"cuda"`` if a worker takes GPUs, else ``"cpu"``."""
        return "cuda" if self.gpus else "cpu"

    def close(self) -> None:
        """End the workers, and the connection to the cluster if it was made here."""
        if ray := sys.modules.get("ray"):
            for worker in self._pool:
                _end(ray, worker)
            if self._connected:
                ray.shutdown()
        self._pool, self._connected = [], False

    def run(self, work: Callable[..., Any], queues: Queues) -> Generator[tuple[Call, Any]]:
        """Carry out calls on the workers, those of one queue on as few of them as is quick.

        Parameters
        ----------
        work : callable
            Sent to every worker once, which then has a copy of its own.
        queues : dict of str to deque of tuple
            Arguments of the calls, by what a worker must hold for them.

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
        MissingExtraError
            If Ray is not installed.
        WorkerError
            If the cluster cannot be reached, has no room for a worker, or runs other versions.
        TransferscopeError
            What a call raised.
        """
        ray = self._connect()
        try:
            sent = ray.put(work)
        except Exception as error:
            raise InputError(
                "the data set, or an encoder, cannot be sent to workers: "
                f"{_first_line(error.__cause__ or error)}. Give names or paths that they can open, "
                "or objects that can be pickled."
            ) from error
        for worker in self._pool:
            worker.ready, worker.held, worker.call = False, "", None
        running = {worker.actor.hold.remote([sent]): worker for worker in self._pool}
        deaths: Counter[int] = Counter()
        self._looked, self._seen = -math.inf, time.monotonic()
        self._had, self._died = False, ""
        try:
            while any(queues.values()) or any(one.call is not None for one in self._pool):
                for worker in self._grow(ray, sum(map(len, queues.values()))):
                    running[worker.actor.hold.remote([sent])] = worker
                for worker in self._pool:
                    if worker.ready and worker.call is None and _take(queues, worker, self._pool):
                        running[worker.actor.do.remote(worker.call)] = worker
                for result in _first_ended(ray, list(running)):
                    worker = running.pop(result)
                    call, outcome = worker.call, self._outcome(ray, result, worker)
                    if isinstance(outcome, _Lost):
                        outcome = _mourn(outcome, worker, queues, deaths)
                    if call is not None and outcome is not _PUT_BACK:
                        deaths.pop(id(call), None)
                        yield call, outcome
        finally:
            for worker in running.values():
                if worker.call is not None:  # what it computes nobody waits for
                    self._pool.remove(worker)
                    _end(ray, worker)

    def _connect(self) -> Any:
        if "ray" not in sys.modules:
            # it would print what it has to say of dead workers, and send reports of its use
            os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray = require("ray", extra="ray", purpose="spread work over workers")
        if not ray.is_initialized():
            options = {"log_to_driver": False, "logging_level": logging.ERROR}
            if self.address == "local":
                options["include_dashboard"] = False
            try:
                host, _, port = self.address.rpartition(":")
                if host and "://" not in host:  # Ray would try for minutes
                    socket.create_connection((host.strip("[]"), int(port)), ANSWER).close()
                with _signals_kept():
                    ray.init(address=self.address, **options)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise WorkerError(
                    f"Ray at {self.address!r} cannot be reached: {_first_line(error)}. Give local, "
                    "auto on a machine of a cluster, or HOST:6379."
                ) from error
            self._connected, self._pool = True, []
        return ray

    def _grow(self, ray: Any, n_calls: int) -> list[_Worker]:
        """Start workers, until there are as many as asked for, or as the cluster has room for."""
        now = time.monotonic()
        if any(worker.ready for worker in self._pool):
            self._seen, self._had = now, True
        if now - self._seen > PATIENCE:
            died = f" The last one died: {self._died}." if self._died else ""
            raise WorkerError(
                f"no worker came up within {PATIENCE:.0f} seconds: {self._asked()} asked for, and "
                f"{_there(ray)}.{died} Ask for less, or add machines."
            )
        if now - self._looked < LOOK:
            return []
        self._looked = now
        room = sum(map(self._fitting, ray.nodes()))
        wanted = room if self.workers is None else self.workers
        if not wanted and not self._pool and not self._had:
            raise WorkerError(
                f"no machine of the cluster has room for a worker: {self._asked()} asked for, and "
                f"{_there(ray)}. Ask for less; or, where machines are added when needed, say how "
                "many workers there shall be."
            )
        busy = sum(worker.call is not None for worker in self._pool)
        new = range(min(wanted, busy + n_calls) - len(self._pool))
        # Ray's own ways to go on after a death are left out, all four. Restarts and repetitions of
        # an actor's calls: a restarted actor holds neither work nor encoder, its machine may be
        # gone, and a call that kills whoever makes it would be repeated for ever (-1) or end all
        # (n); `DEATHS` tells the two apart. Retries and exceptions to retry are for tasks, and
        # there are none: an exception says something of the data or of the encoder, and would come
        # again.
        actor = ray.remote(_Held).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            memory=self.memory,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        started = [_Worker(actor.remote()) for _ in new]
        self._pool += started
        return started

    def _fitting(self, node: dict[str, Any]) -> int:
        """How many workers a machine has room for."""
        if not node["Alive"]:
            return 0
        has = node["Resources"]
        fits = []
        if self.cpus:
            fits.append(int(has.get("CPU", 0) / self.cpus + 1e-9))
        if 0 < self.gpus < 1:
            fits.append(int(has.get("GPU", 0)) * int(1 / self.gpus + 1e-9))
        elif self.gpus:
            fits.append(int(has.get("GPU", 0) / self.gpus))
        if self.memory:
            fits.append(int(has.get("memory", 0) / self.memory))
        return min(fits)

    def _outcome(self, ray: Any, result: Any, worker: _Worker) -> Any:
        """What a call gave, or that its worker is lost, which then leaves the pool."""
        try:
            fine, value = ray.get(result)
        except ray.exceptions.RayTaskError as error:
            # raised by a call, and no error of ours; or `work` cannot be read there
            raise (
                error.cause
                if worker.ready and error.cause
                else WorkerError(
                    f"a worker cannot begin: {_first_line(error.cause or error)}. Install the same "
                    "packages there as here."
                )
            ) from error
        except ray.exceptions.RayError as error:
            self._pool.remove(worker)
            self._looked = -math.inf
            _end(ray, worker)
            text = str(error)
            self._died = _cause(text)
            with_machine = getattr(error, "preempted", False) or "node has died" in text
            return _Lost(self._died, with_machine)
        if worker.ready:
            worker.call = None
            if not fine:
                raise value
            return value
        _refuse_other_versions(*value)
        worker.ready = True
        return None

    def _asked(self) -> str:
        memory = f", {self.memory:,} bytes of memory" if self.memory else ""
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs{memory} for each worker are"


@dataclass(eq=False)
class _Worker:
    """A process of the cluster as it is seen from here."""

    actor: Any
    ready: bool = False
    #: name of the queue that it served last
    held: str = ""
    #: what it is at
    call: Call | None = None


@dataclass(frozen=True)
class _Lost:
    """A worker died, or cannot be reached."""

    reason: str
    with_machine: bool


class _Held:
    """What runs in a worker: it holds the work."""

    def hold(self, sent: list[Any]) -> tuple[bool, tuple[str, dict[str, str | None]]]:
        """Take the work; say where this is and what is installed."""
        import ray

        self._work: Callable[..., Any] = ray.get(sent[0])
        return True, (platform.node(), _versions())

    def do(self, call: Call) -> tuple[bool, Any]:
        """Make a call; whether it went well, and what it gave or raised."""
        try:
            return True, self._work(*call)
        except TransferscopeError as error:
            return False, error


def _take(queues: Queues, worker: _Worker, pool: list[_Worker]) -> bool:
    """Give a worker its next call: of what it holds, else of what fewest are at."""
    name = worker.held
    if not queues.get(name):
        at = Counter(one.held for one in pool if one.call is not None)
        name = min((each for each in queues if queues[each]), key=lambda each: at[each], default="")
        if not queues.get(name):
            return False
    worker.held = name
    worker.call = queues[name].popleft()
    return True


def _mourn(lost: _Lost, worker: _Worker, queues: Queues, deaths: Counter[int]) -> object:
    """Put back what a lost worker was at; or say why not, where too many died of it."""
    call = worker.call
    if call is None:
        return _PUT_BACK
    deaths[id(call)] += not lost.with_machine
    if deaths[id(call)] < DEATHS:
        queues.setdefault(worker.held, deque()).appendleft(call)
        return _PUT_BACK
    return WorkerError(
        f"{DEATHS} workers died of it, the last one so: {lost.reason}. Give workers more memory, "
        "or leave the encoder out."
    )


def _first_ended(ray: Any, running: list[Any]) -> list[Any]:
    """A result that is there; none where it takes long."""
    if not running:  # all machines are gone, others may come
        time.sleep(1)
        return []
    ended: list[Any] = ray.wait(running, timeout=LOOK)[0]
    return ended


def _end(ray: Any, worker: _Worker) -> None:
    with suppress(Exception):  # it may be gone, or the connection
        ray.kill(worker.actor, no_restart=True)


def _cause(text: str) -> str:
    """The sentences of Ray's message that say why a worker died."""
    lines = [line.strip() for line in text.splitlines() if not line.startswith("\t")]
    told = " ".join(filter(None, lines[1:] or lines))
    return told.partition(" Some common causes")[0].rstrip(".")[:300]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _there(ray: Any) -> str:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    machines = "machine" if len(nodes) == 1 else "machines"
    return f"the cluster has {len(nodes)} {machines} with {cpus:g} CPUs and {gpus:g} GPUs in all"


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _refuse_other_versions(machine: str, theirs: dict[str, str | None]) -> None:
    other = [
        f"{name} {theirs[name] or 'absent'} instead of {version or 'absent'}"
        for name, version in _versions().items()
        if theirs[name] != version
    ]
    if other:
        raise WorkerError(
            f"{machine} has {', '.join(other)}, so that its features could differ. Install the "
            "same versions on all machines."
        )


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts: who had it gets it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
