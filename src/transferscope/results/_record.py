"""What records have in common."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


def dump(record: Any) -> str:
    """JSON text, in which no number may be NaN or infinite."""
    return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Record:
    """A record whose fields are its JSON."""

    def to_json(self) -> str:
        """JSON text; `from_json`, where there is one, takes it back."""
        return dump(asdict(self))
