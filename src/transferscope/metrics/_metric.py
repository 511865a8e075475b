"""What a metric is: the record in the file that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from transferscope.embedding import Embedding
from transferscope.metrics._measurement import Measurement
from transferscope.numerics.targets import TaskType

Need = Literal["source_probabilities", "reference_features", "reference_labels"]
#: Changes of the data under which a value may stay the same.
Change = Literal["row order", "class names", "duplicated rows", "rotation", "shift", "scale"]
#: Data that a value may come with a warning for.
EdgeCase = Literal["n < d", "constant column", "singleton class"]

#: What a metric can score, as most records need it.
CLASSES: tuple[TaskType, ...] = ("classification",)
NUMBERS: tuple[TaskType, ...] = ("regression", "multilabel")
EVERYTHING: tuple[TaskType, ...] = CLASSES + NUMBERS
#: What a metric may need besides features and targets.
SOURCE: tuple[Need, ...] = ("source_probabilities",)
REFERENCE: tuple[Need, ...] = ("reference_features", "reference_labels")


@dataclass(frozen=True)
class Behaviour:
    """How a metric responds to its input; the contract tests hold every metric to its own.

    Attributes
    ----------
    uses_features : bool
        False: it looks at the outputs of the encoder's own head alone.
    prefers_separable : bool
        Whether a separable task has a higher value than the same with its labels shuffled.
    changes_with : tuple of str
        What the value changes with; under all other changes it stays the same.
    warns_of : tuple of str
        What the value comes with a warning for.
    float32_tolerance : float
        How far values in float32 may be from those in float64, relative or absolute.
    copied_to_host : str
        What is copied off the device besides labels, row numbers and the result, and why; empty
        where nothing is.
    """

    uses_features: bool = True
    prefers_separable: bool = True
    changes_with: tuple[Change, ...] = ()
    warns_of: tuple[EdgeCase, ...] = ()
    float32_tolerance: float = 1e-5
    copied_to_host: str = ""


class About(NamedTuple):
    """What the table of metrics says of a metric.

    Attributes
    ----------
    summary : str
        One line.
    range : str
        Smallest and largest value in words.
    publication : str
        Where it was published.
    """

    summary: str
    range: str
    publication: str


@dataclass(frozen=True)
class Metric:
    """What a metric is, in the file that computes it.

    Attributes
    ----------
    name : str
    measure : callable
        ``Embedding -> Measurement``.
    about : About
    tasks : tuple of str
        What it can score.
    needs : tuple of str
        Inputs beyond features and targets that it cannot do without.
    needs_targets : bool
        Whether it looks at labels or targets; the others score unlabelled features as well.
    from_moments : bool
        Whether the value is a function of the class moments alone (one pass, any n).
    behaviour : Behaviour
    parts : mapping of str to float
        The metrics that it is the weighted sum of, when it compares encoders; else empty.
    """

    name: str
    measure: Callable[[Embedding], Measurement]
    about: About
    tasks: tuple[TaskType, ...] = CLASSES
    needs: tuple[Need, ...] = ()
    needs_targets: bool = True
    from_moments: bool = False
    behaviour: Behaviour = Behaviour()
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> str:
        """The targets that it scores, in the words of the tables: classes, numbers, or both."""
        kinds = {"classes": CLASSES, "numbers": NUMBERS}
        return ", ".join(word for word, tasks in kinds.items() if set(tasks) & set(self.tasks))
