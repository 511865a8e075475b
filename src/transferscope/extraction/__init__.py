"""One pass over a data set for many encoders."""

from transferscope.extraction._extracted import Extracted
from transferscope.extraction._layers import Layers
from transferscope.extraction._pass import (
    Encoders,
    ExtractionSettings,
    ProgressCallback,
    extract,
    extract_together,
)
from transferscope.extraction._sinks import Store

__all__ = [
    "Encoders",
    "Extracted",
    "ExtractionSettings",
    "Layers",
    "ProgressCallback",
    "Store",
    "extract",
    "extract_together",
]
