"""One pass over a data set for many encoders."""

from transferscope.extraction._batches import shard_rows
from transferscope.extraction._extracted import Extracted
from transferscope.extraction._layers import Layers
from transferscope.extraction._pass import (
    Encoders,
    ExtractionSettings,
    best_device,
    extract,
    extract_together,
)
from transferscope.extraction._sinks import Source, Store

__all__ = [
    "Encoders",
    "Extracted",
    "ExtractionSettings",
    "Layers",
    "Source",
    "Store",
    "best_device",
    "extract",
    "extract_together",
    "shard_rows",
]
