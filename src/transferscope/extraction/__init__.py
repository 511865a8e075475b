"""One pass over a data set for many encoders."""

from transferscope.extraction._extracted import Extracted
from transferscope.extraction._layers import (
    Layers,
    choose_layers,
    numbered_layers,
    parse_layers,
)
from transferscope.extraction._pass import (
    Encoders,
    ProgressCallback,
    extract,
    extract_together,
)
from transferscope.extraction._sinks import Store, open_store

__all__ = [
    "Encoders",
    "Extracted",
    "Layers",
    "ProgressCallback",
    "Store",
    "choose_layers",
    "extract",
    "extract_together",
    "numbered_layers",
    "open_store",
    "parse_layers",
]
