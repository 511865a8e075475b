"""What stands beside the weights in the folder of a checkpoint: settings, an index of shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transferscope.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_json_file(path: Path) -> dict[str, object]:
    """Read a JSON file of settings.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict

    Raises
    ------
    CheckpointError
        If it cannot be read, or holds something else than one object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary. Copy it again.")
    return content


def read_shard_index(path: Path) -> dict[str, str]:
    """Read which tensor lies in which shard, and refuse shards outside of the folder.

    Parameters
    ----------
    path : Path
        A file such as ``model.safetensors.index.json``.

    Returns
    -------
    dict of str to str
        Name of a tensor -> name of a file in the folder of the index.

    Raises
    ------
    CheckpointError
        If it is no index, or names a file that lies elsewhere: by its path or by a link.
    """
    shards = read_json_file(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise CheckpointError(
            f"{path} has no weight_map, so it is no index of shards. Give a file such as "
            "model.safetensors.index.json."
        )
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise CheckpointError(
                f"shard {shard}, named by {path}, is not in its folder. Download it as well, and "
                "name it without a path."
            )
        _refuse_link(path.parent, shard)
    return shards


def _refuse_link(folder: Path, shard: str) -> None:
    """Refuse a link that leads out of a folder, but for those of the hub's cache."""
    root, target = folder.resolve(), (folder / shard).resolve()
    caches = [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]
    if not any(target.is_relative_to(place) for place in (root, *caches)):
        raise CheckpointError(
            f"shard {shard} of {folder} is a link to {target}, outside of its folder. Put the file "
            "itself there, or give the folder that it belongs to."
        )


def weights_as_saved(module: nn.Module) -> Mapping[str, Tensor]:
    """State dict under the names of its files: transformers 5 has others in memory.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    mapping of str to Tensor
        Tensors that are only renamed are those of the module.
    """
    state: Mapping[str, Tensor] = module.state_dict()
    if not (hasattr(module, "save_pretrained") and hasattr(module, "config")):
        return state
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before version 5 there was one set of names
        return state
    return dict(revert_weight_conversion(module, dict(state)))
