"""An encoder as a step of a scikit-learn pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from transferscope.datasets import Dataset, open_reference
from transferscope.encoders import load_encoder
from transferscope.errors import FeatureError, InputError
from transferscope.extraction._pass import extract
from transferscope.extraction._sinks import Store
from transferscope.numerics.arrays import NumpyArray
from transferscope.storage.feature_store import FeatureStore

if TYPE_CHECKING:
    from sklearn.utils import Tags
    from torch import nn

    from transferscope.encoders import Encoder

__all__ = ["EncoderFeatures"]


# scikit-learn has no types
class EncoderFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The features of an encoder, as a transformer of scikit-learn.

    Nothing is learned from the samples: `fit` loads the encoder. Features are those that `extract`
    gives, and are found again in the store, so that a search over what comes after them in a
    pipeline computes them once.

    Parameters
    ----------
    encoder : str, Encoder or torch.nn.Module
        As `load_encoder` takes it, such as the one that a ranking recommends.
    layer : str or int, default "last"
        Which features: ``"last"``, as the encoder pools it, ``"mean"`` of all numbered layers, or
        the number of one.
    store : "cache", path, FeatureStore or None
        Where features are kept; None: nothing is.
    batch_size : int
        As `extract` takes it.
    device : str, optional
        By default a GPU where torch sees one.

    Attributes
    ----------
    encoder_ : Encoder
        The encoder, loaded.

    Examples
    --------
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> import transferscope
    >>> digits = transferscope.open_dataset("sklearn/digits", per_class=20)
    >>> images, labels = [digits[i] for i in range(len(digits))], digits.labels
    >>> model = make_pipeline(
    ...     EncoderFeatures("mini/resnet-mnist-supervised", store=None), RidgeClassifier())
    >>> bool(model.fit(images[::2], labels[::2]).score(images[1::2], labels[1::2]) > 0.8)
    True
    """

    def __init__(
        self,
        encoder: str | Encoder | nn.Module = "mini/resnet-mnist-supervised",
        *,
        layer: str | int = "last",
        store: Store = "cache",
        batch_size: int = 64,
        device: str | None = None,
    ) -> None:
        self.encoder = encoder
        self.layer = layer
        self.store = store
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: object, y: object = None) -> Self:  # noqa: ARG002  the protocol's parameters
        """Load the encoder.

        Parameters
        ----------
        X : object
            Samples as `transform` takes them; they are not looked at.
        y : object, optional
            Ignored.

        Returns
        -------
        Self

        Raises
        ------
        InputError
            If `layer` stands for several.
        UnknownNameError, EncoderError
            If there is no such encoder, or it cannot be loaded.
        """
        if self.layer in ("all", "best") or (isinstance(self.layer, str) and "," in self.layer):
            raise InputError(
                f'layer must be "last", "mean" or one number, got {self.layer!r}: a pipeline has '
                "one matrix of features. Choose one, such as the layer of a ranking."
            )
        self.encoder_ = load_encoder(self.encoder)
        return self

    @property
    def _n_features_out(self) -> int:
        return self.encoder_.feature_dim

    def transform(self, X: Any) -> NumpyArray:
        """The features of samples.

        Parameters
        ----------
        X : sequence of images or of texts, or Dataset
            PIL images, arrays of pixels, or texts, as `open_dataset` takes them without labels.

        Returns
        -------
        (n, d) array
            Float32, a row per sample.

        Raises
        ------
        DatasetError
            If a sample cannot be read.
        FeatureError
            If the encoder cannot be run on such samples.
        """
        check_is_fitted(self, "encoder_")
        data = X if isinstance(X, Dataset) else open_reference((X, None))
        if self.store is not None:
            return self._features(data, self.store)
        with tempfile.TemporaryDirectory() as folder:
            return self._features(data, FeatureStore(Path(folder)))

    def _features(self, data: Dataset, store: Store) -> NumpyArray:
        layers = [self.layer] if isinstance(self.layer, int) else self.layer
        (item,) = extract(
            data,
            self.encoder_,
            store=store,
            layers=layers,
            batch_size=self.batch_size,
            device=self.device,
        )
        if item.error is not None:
            raise FeatureError(
                f"{item.identifier} gives no features of these samples: {item.error}"
            )
        features = item.features
        item.release()
        return features

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        # encoders are not pickled: the name or the module is, and loaded again
        return state | {"encoder_": None} if "encoder_" in state else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "encoder_" in state:
            self.encoder_ = load_encoder(self.encoder)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.no_validation = True  # samples are looked at when they are read
        tags.input_tags.string = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []  # features are float32, whatever samples are
        return tags
