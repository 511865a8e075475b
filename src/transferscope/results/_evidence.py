"""What the probes of the best encoders say of classes and of single samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

#: Pairs of classes that are hardest to tell apart.
HARDEST_PAIRS = 10


class ConfusedPair(NamedTuple):
    """Two classes that a probe takes for one another.

    Attributes
    ----------
    one, other : str
        Names of the classes.
    n_one, n_other : int
        Samples of each.
    one_as_other, other_as_one : int
        Samples of the one that were taken for the other.
    """

    one: str
    other: str
    n_one: int
    n_other: int
    one_as_other: int
    other_as_one: int

    @property
    def n_mistaken(self) -> int:
        """Samples that were taken for the other class, of both."""
        return self.one_as_other + self.other_as_one


@dataclass(frozen=True)
class Confusion:
    """Which classes the leave-one-out probes of the best encoders take for which.

    Attributes
    ----------
    classes : tuple of str
        All of them where they are few; else those of the hardest pairs of the recommended encoder,
        and those that it recognises least.
    totals : tuple of int
        Samples of each class that were looked at one by one.
    counts : dict of str to tuple of tuple of int
        By encoder, the recommended first: how many samples of the class of a row were taken for the
        class of a column.
    n_classes : int
        All classes of the data.
    """

    classes: tuple[str, ...]
    totals: tuple[int, ...]
    counts: dict[str, tuple[tuple[int, ...], ...]]
    n_classes: int

    def hardest_pairs(self, encoder: str, most: int = HARDEST_PAIRS) -> list[ConfusedPair]:
        """The pairs of classes that an encoder's probe confuses most often.

        Parameters
        ----------
        encoder : str
            One of `counts`.
        most : int
            How many.

        Returns
        -------
        list of ConfusedPair
            Of `classes`. Most mistaken samples first; none that were never mistaken.
        """
        found = self.counts[encoder]
        n = len(self.classes)
        pairs = [
            ConfusedPair(
                self.classes[i], self.classes[j], self.totals[i], self.totals[j],
                found[i][j], found[j][i],
            )
            for i in range(n)
            for j in range(i + 1, n)
        ]  # fmt: skip
        pairs = [pair for pair in pairs if pair.n_mistaken]
        return sorted(pairs, key=lambda pair: -pair.n_mistaken)[:most]

    def recognised(self, encoder: str) -> list[tuple[str, int, int]]:
        """How many samples of each class an encoder's probe recognises.

        Parameters
        ----------
        encoder : str
            One of `counts`.

        Returns
        -------
        list of (str, int, int)
            Class, samples that were recognised, and all; the smallest share first.
        """
        rows = [
            (name, self.counts[encoder][i][i], self.totals[i])
            for i, name in enumerate(self.classes)
        ]
        return sorted(rows, key=lambda row: row[1] / max(row[2], 1))


@dataclass(frozen=True)
class ShownSample:
    """A sample that a report shows.

    Attributes
    ----------
    where : str
        Its file, or its place in the source.
    label : str
        Name of its class.
    content : str
        Its text; of an image a small copy as a ``data:`` URI; empty for anything else.
    """

    where: str
    label: str
    content: str


@dataclass(frozen=True)
class Misjudged:
    """A sample that a probe takes for another class.

    Attributes
    ----------
    sample : int
        Which of the samples shown.
    predicted : str
        Name of the class that it is taken for.
    margin : float
        By how much the output of that class is above that of its label, on a scale on which a
        label is 1 and every other class 0.
    """

    sample: int
    predicted: str
    margin: float


@dataclass(frozen=True)
class SampleMap:
    """How one encoder sees the samples.

    Attributes
    ----------
    encoder : str
    places : tuple of (int, float, float)
        Which of the samples shown, and its first two principal components.
    predicted : tuple of str
        The class that its probe predicts of each of these.
    explained : float
        Share of the variance of the features that these two hold.
    misjudged : tuple of Misjudged
        The samples that its probe misjudges most, the worst first.
    """

    encoder: str
    places: tuple[tuple[int, float, float], ...]
    predicted: tuple[str, ...]
    explained: float
    misjudged: tuple[Misjudged, ...]


@dataclass(frozen=True)
class SampleViews:
    """Some samples, and how the best encoders see them.

    Attributes
    ----------
    modality : {"image", "text", "array"}
    samples : tuple of ShownSample
    maps : tuple of SampleMap
        The recommended encoder first.
    """

    modality: str
    samples: tuple[ShownSample, ...]
    maps: tuple[SampleMap, ...]
