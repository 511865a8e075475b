"""One pass over a data set for many encoders."""

from transferscope.extraction._pass import (
    Extracted,
    Layers,
    ProgressCallback,
    chosen_layers,
    extract,
    numbered_layers,
)

__all__ = ["Extracted", "Layers", "ProgressCallback", "chosen_layers", "extract", "numbered_layers"]
