"""What an extraction gives for one encoder and one data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from transferscope.datasets import Dataset
from transferscope.embedding import Embedding
from transferscope.errors import FeatureError
from transferscope.extraction._sinks import LayerArrays, ReferenceTask, Sink, Source
from transferscope.numerics.arrays import NumpyArray


@dataclass
class Extracted:
    """One encoder's features of a data set, and what is known of the encoder.

    Attributes
    ----------
    identifier : str
        Of the encoder.
    source : Source
        The data set.
    n_parameters, feature_dim : int or None
    input_size : (int, int) or None
        Height and width in pixels.
    samples_per_second : float or None
        Of the forward pass alone.
    error : str or None
        Why there are no features.
    notes : tuple of str
        What the encoder itself has to say of its weights.
    sinks : dict of str to Sink
        Where the features of each layer are; `layers` names them.
    """

    identifier: str
    source: Source = field(repr=False)
    n_parameters: int | None = None
    feature_dim: int | None = None
    input_size: tuple[int, int] | None = None
    samples_per_second: float | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    sinks: dict[str, Sink] = field(default_factory=dict, repr=False)

    @property
    def dataset(self) -> Dataset:
        """The data set."""
        return self.source.dataset

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers whose features there are, in order of depth."""
        return tuple(self.sinks)

    @property
    def features(self) -> NumpyArray:
        """Features of the first of `layers`, (n, d); of at most 5 000 samples if streamed."""
        return self._first["features"]

    @property
    def labels(self) -> NumpyArray | None:
        """Labels of the samples in `features`, as the data set has them; None where it has none."""
        return self._read[1]

    @property
    def logits(self) -> NumpyArray | None:
        """What the encoder's own head gives, (n_samples, n_source_classes); None without a head."""
        return self._first.get("logits")

    @property
    def _first(self) -> LayerArrays:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[LayerArrays, NumpyArray | None]:
        return self._sink(None).read()

    def embedding(
        self, seed: int = 0, reference: Extracted | None = None, layer: str | None = None
    ) -> Embedding:
        """The features with their labels, ready to be scored.

        Parameters
        ----------
        seed : int
            Of every subsampling that a metric may need.
        reference : Extracted, optional
            The same encoder's features of a reference task.
        layer : str, optional
            One of `layers`; by default the first.

        Returns
        -------
        Embedding

        Raises
        ------
        FeatureError
            If there are none, with the reason.
        StoreError
            If they have been deleted from the store meanwhile.
        """
        sink = self._sink(layer)
        if reference is None:
            return sink.embedding(seed, {})
        if reference.error is not None:
            error = FeatureError(f"reference_features cannot be had: {reference.error}")
            return sink.embedding(seed, {"reference_error": error})
        kept, labels = reference._sink(layer).read()
        task: ReferenceTask = {"reference_features": kept["features"]}
        if reference.dataset.task == "classification":
            task["reference_labels"] = labels
        return sink.embedding(seed, task)

    def rows(self, layer: str) -> NumpyArray:
        """Which samples of the data set an embedding of a layer holds one by one.

        Parameters
        ----------
        layer : str
            One of `layers`.

        Returns
        -------
        (n_kept,) int64 array
        """
        return self._sink(layer).rows

    def _sink(self, layer: str | None) -> Sink:
        if not self.sinks:
            reason = f"the features of {self.identifier} were released. Extract them again."
            raise FeatureError(self.error or reason)
        return self.sinks[layer or next(iter(self.sinks))]

    def release(self) -> None:
        """Free the memory that the features take; `embedding` then raises `FeatureError`."""
        self.sinks = {}
        self.__dict__.pop("_read", None)

    def finish(self) -> None:
        """Note what is known when all features are there."""
        sink = self._sink(None)
        seconds = sink.seconds
        self.feature_dim = sink.feature_dim
        self.samples_per_second = sink.n_rows / seconds if seconds > 0 else None

    def fail(self, reason: str) -> None:
        """Note why there are no features.

        Parameters
        ----------
        reason : str
        """
        self.error = reason
        self.release()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the features; known once they have been read."""
        for sink in self.sinks.values():
            if sink.truncated is not None and sink.truncated[0]:
                count, longest = sink.truncated
                return (
                    *self.notes,
                    f"{count:,} samples have more tokens than it reads at once: of the longest "
                    f"{longest:,} were not seen",
                )
        return self.notes
