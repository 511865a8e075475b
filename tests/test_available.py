"""Which encoders can be had: with a network all, without one those of the hub's cache."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from transferscope.encoders import list_bundled
from transferscope.errors import InputError, MissingExtraError
from transferscope.knowledge import known_encoders, select_encoders
from transferscope.ranking import _available, available_encoders

IMAGE, TEXT = (select_encoders(modality, loadable=True) for modality in ("image", "text"))
MINI = [f"mini/{name}" for name in list_bundled()]


def keep(cache: Path, repository: str, *files: str, kind: str = "model") -> None:
    """A repository as the hub's client keeps it: blobs, and links to them under a commit."""
    folder = cache / f"{kind}s--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir()
    for i, name in enumerate(files):
        blob = folder / "blobs" / f"{i:040x}"
        blob.write_bytes(b"x" * 8)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


def repository_of(name: str) -> str:
    return name.removeprefix("hf/")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a hub that must not be asked."""
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants
    from huggingface_hub.utils import _cache_manager

    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for module in (constants, _cache_manager):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(cache))
    assert not hub.scan_cache_dir().repos
    return cache


def test_with_a_network_all_that_load_by_name(monkeypatch):
    monkeypatch.setattr(_available, "_is_online", lambda: True)
    assert available_encoders("image") == (IMAGE, ())
    assert available_encoders("text") == (TEXT, ())
    assert all(known_encoders()[name].loadable for name in IMAGE)
    assert available_encoders("image", IMAGE[:3]) == (IMAGE[:3], ())


def test_without_one_those_whose_weights_are_in_the_cache(offline):
    timm = [name for name in IMAGE if name.startswith("timm/")][:3]
    hugging_face = next(name for name in IMAGE if name.startswith("hf/"))
    keep(offline, repository_of(timm[0]), "config.json", "model.safetensors")
    keep(offline, repository_of(timm[1]), "pytorch_model.bin")
    keep(offline, repository_of(timm[2]), "config.json")  # no weights
    keep(offline, repository_of(hugging_face), "onnx/model.safetensors")
    keep(offline, "somebody/unknown", "model.safetensors")
    keep(offline, repository_of(IMAGE[-1]), "model.safetensors", kind="dataset")
    names, (note,) = available_encoders("image")
    expected = [name for name in IMAGE if name in {timm[0], timm[1], hugging_face}]
    assert names == [*expected, *MINI]
    assert note == (
        f"the hub does not answer: the candidates are 3 of {len(IMAGE):,} known encoders that are "
        "in its cache, and the bundled ones"
    )
    names, (note,) = available_encoders("image", [timm[1], timm[2]])
    assert names == [timm[1]]
    assert note.endswith("1 of 2 known encoders that are in its cache")


def test_bundled_ones_that_meet_conditions(offline, monkeypatch):
    few = select_encoders("image", max_parameters=30e6, loadable=True, bundled=True)
    assert set(MINI) < set(few)
    assert available_encoders("image", few)[0] == MINI
    monkeypatch.setattr(_available, "_is_online", lambda: True)
    note = "none but bundled encoders, which are tiny, meet the conditions"
    assert available_encoders("image", MINI[:2]) == (MINI[:2], (note,))
    assert not set(available_encoders("image", few)[0]) & set(MINI)


def test_texts_have_no_bundled_ones(offline):
    with pytest.raises(InputError, match=r"no encoder can be had.*connect to the network"):
        available_encoders("text")
    keep(offline, repository_of(TEXT[0]), "model.safetensors")
    assert available_encoders("text")[0] == [TEXT[0]]


def test_an_empty_cache_leaves_the_bundled_ones(offline):
    names, (note,) = available_encoders("image")
    assert names == MINI
    assert "0 of" in note
    offline.rmdir()  # nor is a cache that was never made an error
    assert available_encoders("image")[0] == MINI
    with pytest.raises(InputError, match="none of the 1 known ones is in its cache"):
        available_encoders("image", IMAGE[:1])


def test_without_the_hubs_client_the_bundled_ones(monkeypatch):
    def absent(*_: object, **__: object) -> None:
        raise MissingExtraError("huggingface_hub is not installed")

    monkeypatch.setattr(_available, "require", absent)
    names, (note,) = available_encoders("image")
    assert names == MINI
    assert note.startswith("the hub does not answer")


@pytest.mark.parametrize("modality", ["array", "vectors", ""])
def test_other_modalities_have_none(modality):
    with pytest.raises(InputError, match="nothing is published about such data"):
        available_encoders(modality)


def test_whether_the_hub_answers(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        assert _available._is_online()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not _available._is_online()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert not _available._is_online()  # nobody listens any more
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert _available._is_online()
