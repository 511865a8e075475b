"""Which known encoders can be had here: from the hub, or without a network from its cache."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from transferscope.errors import InputError, MissingExtraError, require
from transferscope.knowledge import select_encoders

#: Seconds to wait for the hub to answer.
PATIENCE = 2.0


def available_encoders(
    modality: str, among: Iterable[str] | None = None
) -> tuple[list[str], tuple[str, ...]]:
    """Known encoders that can be loaded here.

    Parameters
    ----------
    modality : {"image", "text"}
    among : iterable of str, optional
        Of these alone, such as `transferscope.knowledge.select_encoders` gives; all known ones and
        the bundled ones by default.

    Returns
    -------
    names : list of str
        With a network all that load by name; without one those in the cache of the Hugging Face
        hub, and the bundled ones, which are tiny.
    notes : tuple of str
        What was assumed.

    Raises
    ------
    InputError
        If there is none.
    """
    if modality not in ("image", "text"):
        raise InputError(
            f"encoders must be named for data of modality {modality!r}: nothing is published about "
            "such data. Name some, or an encoder of your own."
        )
    if among is None:
        among = select_encoders(modality, loadable=True, bundled=True)
    some = list(among)
    wanted = [name for name in some if not name.startswith("mini/")]
    bundled = [name for name in some if name.startswith("mini/")]
    if bundled and not wanted:
        return bundled, ("none but bundled encoders, which are tiny, meet the conditions",)
    if _is_online():
        return wanted, ()
    cached = _cached()
    names = [name for name in wanted if name in cached]
    n_cached = len(names)
    names += bundled
    if not names:
        raise InputError(
            "no encoder can be had: the hub does not answer, and none of the "
            f"{len(wanted):,} known ones is in its cache. Name folders or files of your own, or "
            "connect to the network."
        )
    note = (
        f"the hub does not answer: the candidates are {n_cached} of {len(wanted):,} known encoders "
        "that are in its cache"
    )
    return names, (note + (", and the bundled ones" if len(names) > n_cached else ""),)


def _is_online() -> bool:
    """Whether the hub can be asked."""
    try:
        constants = require("huggingface_hub.constants", extra="text", purpose="ask the hub")
    except MissingExtraError:
        return False
    if constants.HF_HUB_OFFLINE:
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # whoever has a proxy means to use it
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname or "", host.port or 443), PATIENCE).close()
    except OSError:
        return False
    return True


def _cached() -> set[str]:
    """Names of the encoders whose weights are in the hub's cache."""
    try:
        hub = require("huggingface_hub", extra="text", purpose="look into its cache")
    except MissingExtraError:
        return set()
    try:
        repositories = hub.scan_cache_dir().repos
    except hub.utils.CacheNotFound:
        return set()
    weights = (".safetensors", ".bin", ".pt", ".pth")
    ids = {
        one.repo_id
        for one in repositories
        if one.repo_type == "model"
        and any(f.file_name.endswith(weights) for r in one.revisions for f in r.files)
    }
    return {f"hf/{name}" for name in ids} | {name for name in ids if name.startswith("timm/")}
