"""What targets mean."""

from __future__ import annotations

from typing import Literal, TypeAlias

#: Classes, real numbers, or several classes at once (columns of 0 and 1).
TaskType: TypeAlias = Literal["classification", "regression", "multilabel"]
