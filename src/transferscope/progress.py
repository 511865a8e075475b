"""How long work tells a caller how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Called with what is going on, how many samples (or steps) are done, and of how many.
ProgressCallback: TypeAlias = Callable[[str, int, int], None]
