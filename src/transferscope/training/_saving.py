"""Files of a run: written whole or not at all, and read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from transferscope.errors import InputError, StoreError, TransferscopeError
from transferscope.storage.atomic import write_atomically

#: What decides how a run ends, as JSON has it.
Identity = Mapping[str, object]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Write tensors of any device, and facts about them, to a safetensors file."""
    # clones: tied weights share memory, which safetensors refuses
    copies = {name: value.cpu().clone().contiguous() for name, value in tensors.items()}
    metadata = {name: json.dumps(fact) for name, fact in about.items()}
    write_atomically(path, [save(copies, metadata=metadata)], elsewhere="choose another out")


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """What `save_tensors` wrote."""
    with reading(path), safe_open(path, framework="pt") as file:
        about = {name: json.loads(fact) for name, fact in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def load_facts(path: Path) -> dict[str, object]:
    """The facts alone of what `save_tensors` wrote."""
    with reading(path), safe_open(path, framework="pt") as file:
        return {name: json.loads(fact) for name, fact in (file.metadata() or {}).items()}


def write_text(path: Path, text: str) -> None:
    """Write text to a file, whole or not at all."""
    write_atomically(path, text, elsewhere="choose another out")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a damaged or foreign file makes fail inside becomes a `StoreError` that names it."""
    try:
        yield
    except TransferscopeError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(
            f"{path} is damaged, or no file of a run ({reason}). Delete it, and the run starts "
            "anew; or choose another out."
        ) from error


def refuse_other_run(path: Path, found: object, wanted: Identity) -> None:
    """Refuse to go on with a file of a run that other settings or other data decide.

    Raises
    ------
    InputError
        With what differs.
    """
    asked = json.loads(json.dumps(wanted))
    if found == asked:
        return
    there, here = _flat(found), _flat(asked)
    differing = [
        f"{name} {there.get(name)} there, {here.get(name)} here"
        for name in dict.fromkeys([*here, *there])
        if there.get(name) != here.get(name)
    ]
    raise InputError(
        f"{path} belongs to another run than the one asked for "
        f"({'; '.join(differing) if there else 'it does not say to which'}). "
        "Choose another out, or delete its folder."
    )


def _flat(identity: object) -> dict[str, object]:
    """The settings of an identity, those of its plan among them."""
    if not isinstance(identity, dict):
        return {}
    plan = identity.get("plan")
    return {**identity, **plan, "plan": None} if isinstance(plan, dict) else identity
