"""The bundled encoders: what ships, what its cards say, and that its encoders keep the protocol."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transferscope.encoders import Encoder, bundled_card, list_bundled
from transferscope.errors import CheckpointError, EncoderError, UnknownNameError

torch = pytest.importorskip("torch", reason="torch is needed to run the bundled encoders")

from transferscope.encoders import _bundled_encoder  # noqa: E402
from transferscope.encoders._bundled_encoder import BundledEncoder, load_bundled  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
WEIGHTS = REPOSITORY / "src" / "transferscope" / "encoders" / "mini_weights"

#: The weights whose accuracy the cards tell: sha256 of the file, its first sixteen digits. Weights
#: that are trained again need a card that is measured again (tools/train_mini_zoo.py does both).
MEASURED = {
    "resnet-cifar10-rotation": "37a4579e5d2144ae",
    "resnet-cifar10-simclr": "255e7a7f1ddd166c",
    "resnet-cifar10-supervised": "38c0e4c29aa8f916",
    "resnet-fashion-supervised": "5c16c8d7048b56df",
    "resnet-flowers-supervised": "0867905c2b1d78ec",
    "resnet-mnist-supervised": "9cd946a798a362e2",
    "resnet-random": "210af391bcbfa242",
    "separable-caltech-supervised": "5dac377eb7322473",
    "separable-cifar10-supervised": "17602b76cf7b4b17",
    "separable-fashion-simclr": "7eb4a61eb4231ada",
    "separable-mnist-rotation": "8d666924376c6907",
    "vit-cifar10-masked": "4339dc7a6ffdfc92",
    "vit-cifar10-supervised": "3fcc368af6bed82c",
    "vit-fashion-masked": "91a7d4eeedb53f99",
    "vit-random": "f212fdeacef0b96f",
    "vit-signs-supervised": "97d8d120aac10dca",
}

each_encoder = pytest.mark.parametrize("name", list_bundled())


@pytest.fixture(scope="module")
def images():
    """Noise, blank images and ramps: features must cope with all of them."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (32, 32, 3))
    blank = np.zeros((32, 32, 3), dtype=np.uint8)
    return np.concatenate([noise, ramp[None], blank[None], blank[None] + 255])


class TestWhatShips:
    def test_names_are_sorted_and_unique(self):
        assert list(list_bundled()) == sorted(set(list_bundled()))

    def test_there_is_enough_to_choose_from(self):
        cards = [bundled_card(name) for name in list_bundled()]
        assert len(cards) >= 12
        assert len({card.architecture for card in cards}) >= 3
        assert len({card.source for card in cards if card.source}) >= 4
        assert len({card.method for card in cards if card.method != "random"}) >= 3
        assert any(card.method == "random" and card.source is None for card in cards)

    def test_weights_and_cards_belong_together(self):
        assert {path.stem for path in WEIGHTS.glob("*.safetensors")} == set(list_bundled())

    @each_encoder
    def test_weights_are_those_that_the_card_was_measured_on(self, name):
        content = (WEIGHTS / f"{name}.safetensors").read_bytes()
        assert hashlib.sha256(content).hexdigest().startswith(MEASURED[name])

    def test_everything_together_is_at_most_8_megabytes(self):
        assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 8_000_000

    def test_listing_imports_no_torch(self):
        code = (
            "import sys; from transferscope.encoders import list_bundled, bundled_card; "
            "[bundled_card(name) for name in list_bundled()]; assert 'torch' not in sys.modules"
        )
        path = str(Path(_bundled_encoder.__file__).parents[2])
        subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})

    def test_a_prefix_is_allowed(self):
        assert bundled_card("mini/resnet-random") == bundled_card("resnet-random")
        assert load_bundled("mini/resnet-random").identifier == "mini/resnet-random"


class TestCards:
    @each_encoder
    def test_card_is_complete(self, name):
        card = bundled_card(name)
        assert card.name == name
        assert name.startswith(card.architecture)
        assert name.endswith(card.method)
        assert card.summary.endswith(".")
        assert len(card.mean) == len(card.std) == 3
        assert len(card.date) == len("2000-01-01")
        if card.method == "random":
            assert card.source is None
            assert card.accuracy is None
            assert card.accuracy_measured_by is None
            assert card.epochs == card.n_source_train == card.n_source_test == 0
        else:
            assert card.source
            assert 0 < card.accuracy <= 1
            assert card.accuracy_measured_by
            assert min(card.epochs, card.n_source_train, card.n_source_test) > 0

    @each_encoder
    def test_card_tells_the_truth_about_the_network(self, name):
        card, encoder = bundled_card(name), load_bundled(name)
        assert encoder.card is card
        assert encoder.feature_dim == card.feature_dim
        assert encoder.n_parameters == card.n_parameters
        assert (encoder.module.head is not None) == (card.method == "supervised")

    def test_encoders_learnt_their_own_task(self):
        accuracy = [bundled_card(name).accuracy for name in list_bundled()]
        # guessing gives 0.2 at most, for the five flowers
        assert min(value for value in accuracy if value is not None) > 0.3


class TestEmbedding:
    @each_encoder
    def test_follows_the_protocol(self, name):
        encoder = load_bundled(name)
        assert isinstance(encoder, Encoder)
        assert encoder.identifier == f"mini/{name}"
        assert encoder.input_size == encoder.preprocessing.size == (32, 32)
        assert encoder.layers[-1] == "pooled"
        assert encoder.to("cpu") is encoder

    @each_encoder
    def test_every_layer_is_finite_float32_and_not_constant(self, name, images):
        encoder = load_bundled(name)
        features = encoder.embed(images, encoder.layers).features
        assert tuple(features) == encoder.layers
        for values in features.values():
            assert values.dtype == torch.float32
            assert values.shape[0] == len(images)
            assert torch.isfinite(values).all()
            assert (values.std(dim=0) > 0).any()
        assert features["pooled"].shape[1] == encoder.feature_dim

    @each_encoder
    def test_features_are_the_same_every_time(self, name, images):
        once = load_bundled(name).embed(images).features["pooled"]
        again = load_bundled(name).embed(images).features["pooled"]
        assert torch.equal(once, again)

    @each_encoder
    def test_features_do_not_depend_on_the_rest_of_the_batch(self, name, images):
        encoder = load_bundled(name)
        together = encoder.embed(images, encoder.layers).features
        alone = [encoder.embed(image[None], encoder.layers).features for image in images]
        for layer in encoder.layers:
            joined = torch.cat([features[layer] for features in alone])
            torch.testing.assert_close(joined, together[layer], rtol=1e-5, atol=1e-5)

    @each_encoder
    def test_all_layers_come_from_one_forward_pass(self, name, images):
        encoder = load_bundled(name)
        passes = []
        encoder.module.register_forward_hook(lambda *_: passes.append(1))
        encoder.embed(images, encoder.layers)
        assert len(passes) == 1

    @each_encoder
    def test_logits_are_the_head_of_pooled(self, name, images):
        encoder = load_bundled(name)
        embedded = encoder.embed(images, [])
        assert embedded.features == {}
        if encoder.module.head is None:
            assert embedded.logits is None
            return
        with torch.inference_mode():
            expected = encoder.module.head(encoder.embed(images).features["pooled"])
        torch.testing.assert_close(embedded.logits, expected)
        assert embedded.logits.shape == (len(images), len(encoder.card.source_classes))

    def test_arrays_read_only_arrays_and_tensors_give_the_same(self, images):
        encoder = load_bundled("resnet-random")
        frozen = images.copy()
        frozen.flags.writeable = False
        expected = encoder.embed(images).features["pooled"]
        assert torch.equal(encoder.embed(frozen).features["pooled"], expected)
        tensor = torch.from_numpy(images)
        assert torch.equal(encoder.embed(tensor).features["pooled"], expected)
        np.testing.assert_array_equal(tensor.numpy(), frozen)  # the input is left as it was

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [((2, 32, 32, 3), np.float32), ((2, 3, 32, 32), np.uint8), ((32, 32, 3), np.uint8)],
    )
    def test_another_shape_or_type_is_refused(self, shape, dtype):
        with pytest.raises(EncoderError, match=r"must hold uint8 images of shape \(n, 32, 32, 3\)"):
            load_bundled("resnet-random").embed(np.zeros(shape, dtype))

    def test_an_unknown_layer_is_refused(self, images):
        with pytest.raises(UnknownNameError, match="stage1, stage2, stage3, pooled"):
            load_bundled("resnet-random").embed(images, ["stage9"])


class TestLoading:
    def test_fingerprints_are_unique_and_stable(self):
        prints = {name: load_bundled(name).fingerprint for name in list_bundled()}
        assert len(set(prints.values())) == len(prints)
        assert all(load_bundled(name).fingerprint == value for name, value in prints.items())

    def test_fingerprint_follows_weights_and_preprocessing_but_not_the_name(self):
        encoder = load_bundled("resnet-random")
        network, card = encoder.module, encoder.card
        renamed = BundledEncoder(replace(card, name="other"), network)
        assert renamed.fingerprint == encoder.fingerprint
        shifted = BundledEncoder(replace(card, mean=(0.4, 0.4, 0.4)), network)
        assert shifted.fingerprint != encoder.fingerprint
        before = encoder.fingerprint
        with torch.no_grad():
            network.stem.weight[0, 0, 0, 0] += 1
        assert BundledEncoder(card, network).fingerprint == encoder.fingerprint != before

    @pytest.mark.parametrize("function", [load_bundled, bundled_card])
    def test_an_unknown_name_lists_the_known_ones(self, function):
        with pytest.raises(UnknownNameError) as caught:
            function("mini/resnet-imagenet")
        assert "'mini/resnet-imagenet'" in str(caught.value)
        assert all(name in str(caught.value) for name in list_bundled())

    @pytest.mark.parametrize("damage", ["cut short", "of another network", "absent"])
    def test_damaged_weights_are_named(self, damage, tmp_path, monkeypatch):
        if damage != "absent":
            donor = "vit-random" if damage == "of another network" else "resnet-random"
            content = (WEIGHTS / f"{donor}.safetensors").read_bytes()
            content = content[:1000] if damage == "cut short" else content
            (tmp_path / "resnet-random.safetensors").write_bytes(content)
        monkeypatch.setattr(_bundled_encoder, "WEIGHTS", tmp_path)
        with pytest.raises(CheckpointError, match=r"mini/resnet-random.*reinstall"):
            load_bundled("resnet-random")


def test_a_head_trained_on_digits_reads_other_digits():
    """Weights, head, order of the classes and normalisation belong together."""
    image_module = pytest.importorskip("PIL.Image", reason="pillow resizes the images")
    from sklearn.datasets import load_digits

    digits = load_digits(n_class=10)
    encoder = load_bundled("resnet-mnist-supervised")
    samples = []
    for pixels in digits.images:  # 8 x 8, drawn as MNIST has them: 20 pixels high, thin, centred
        small = image_module.fromarray((pixels * (255 / 16)).astype(np.uint8))
        canvas = image_module.new("L", (28, 28))
        large = small.resize((16, 20), image_module.Resampling.BICUBIC)
        canvas.paste(large.point(lambda value: min(255, max(0, int(1.8 * (value - 60))))), (6, 4))
        samples.append(canvas.convert("RGB"))
    preprocessing = encoder.preprocessing
    batch = preprocessing.collate([preprocessing.prepare(sample) for sample in samples])
    predicted = encoder.embed(batch).logits.argmax(dim=1).numpy()
    assert np.mean(predicted == digits.target) > 0.93


def test_the_choice_matters():
    # a hundred labelled digits, which no encoder was trained on; their pixels are 0 ... 16
    from sklearn.datasets import load_digits
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    digits = load_digits()
    small = (digits.images[:600] * (255 / 16)).astype(np.uint8)
    large = np.repeat(np.repeat(small, 4, axis=1), 4, axis=2)
    batch = np.repeat(large[..., None], 3, axis=3)
    accuracy = []
    for name in list_bundled():
        features = load_bundled(name).embed(batch).features["pooled"].numpy()
        # the scales differ widely: without standardisation they would decide
        probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=10))
        probe.fit(features[:100], digits.target[:100])
        accuracy.append(probe.score(features[100:], digits.target[100:600]))
    assert max(accuracy) - min(accuracy) > 0.15


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(EncoderError, match="device 'nowhere' does not exist"):
        load_bundled("resnet-random").to("nowhere")
