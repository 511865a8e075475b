"""torchvision encoders, from weights put where torchvision would have downloaded them to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transferscope.encoders import ImagePreprocessing, load_encoder
from transferscope.errors import EncoderError, UnknownNameError

torch = pytest.importorskip("torch", reason="encoders of torchvision need torch")
try:
    from torchvision import models
except Exception as error:  # a torchvision for another torch fails with RuntimeError
    pytest.skip(f"torchvision cannot be imported: {error}", allow_module_level=True)


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Puts random weights of a model into torch's cache, as a download would."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)

    def put(name: str, weights: str = "DEFAULT", **options: Any) -> Any:
        torch.manual_seed(0)
        model = models.get_model(name, weights=None, **options).eval()
        url = models.get_model_weights(name)[weights].url
        torch.save(model.state_dict(), folder / url.rpartition("/")[2])
        return model

    return put


@pytest.mark.parametrize(
    ("name", "feature_dim"),
    [
        ("mobilenet_v3_small", 1024),
        ("regnet_x_400mf", 400),
        ("resnet18", 512),
        ("shufflenet_v2_x0_5", 1024),
        ("squeezenet1_1", 512),
    ],
)
def test_features_and_logits_are_those_of_torchvision(
    name: str, feature_dim: int, downloaded: Callable[..., Any], photo: Callable[..., Any]
) -> None:
    model = downloaded(name)
    encoder = load_encoder(f"torchvision/{name}")
    transform = models.get_model_weights(name).DEFAULT.transforms()
    images = [photo(300, 260, seed=seed) for seed in range(2)]
    batch = encoder.preprocessing.collate([encoder.preprocessing.prepare(i) for i in images])
    embedded = encoder.embed(batch, encoder.layers)
    with torch.inference_mode():
        logits = model(torch.stack([transform(image) for image in images]))
    assert encoder.identifier == f"torchvision/{name}"
    assert embedded.logits is not None
    assert torch.allclose(embedded.logits, logits, atol=1e-4)
    assert embedded.features["pooled"].shape == (2, feature_dim)
    assert len(encoder.layers) >= 4
    if name == "resnet18":
        assert torch.allclose(model.fc(embedded.features["pooled"]), logits, atol=1e-4)
        assert torch.equal(embedded.features["layer4"], embedded.features["pooled"])
        assert encoder.n_parameters == sum(p.numel() for p in model.parameters()) - 513_000


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_each_set_of_weights_has_its_own_pixels(
    weights: str, downloaded: Callable[..., Any], photo: Callable[..., Any]
) -> None:
    downloaded("mobilenet_v2", weights)
    encoder = load_encoder(f"torchvision/mobilenet_v2?weights={weights}")
    transform = models.get_model_weights("mobilenet_v2")[weights].transforms()
    preprocessing = encoder.preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    for size in [(300, 260), (191, 333), (100, 100), (50, 431)]:
        image = photo(*size)
        ours = (preprocessing.prepare(image) / 255 - np.array(preprocessing.mean)) / np.array(
            preprocessing.std
        )
        assert np.allclose(ours.transpose(2, 0, 1), transform(image).numpy(), atol=1e-5)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"no model 'resnet19'\. Similar names: .*resnet1"):
        load_encoder("torchvision/resnet19")
    with pytest.raises(UnknownNameError, match=r"no weights 'V9'\. Choose from: IMAGENET1K_V1"):
        load_encoder("torchvision/resnet18?weights=V9")


def test_what_is_no_classifier_is_refused() -> None:
    with pytest.raises(EncoderError, match="no image classifier"):
        load_encoder("torchvision/fcn_resnet50")


def test_a_damaged_download_is_an_error(downloaded: Callable[..., Any], tmp_path: Path) -> None:
    downloaded("squeezenet1_1")
    (file,) = (tmp_path / "hub" / "checkpoints").iterdir()
    file.write_bytes(b"not weights")
    with pytest.raises(EncoderError, match=r"cannot be loaded .* downloaded and then"):
        load_encoder("torchvision/squeezenet1_1")
