"""How much closer pre-training brought each layer to the fine-tuned weights, and what affects it.

Chen et al., AAAI 2024 (arXiv 2212.00399): with a random initialisation, the pre-trained and the
fine-tuned weights, the ratio of two distances is how many times closer pre-training brought each
layer to where fine-tuning ends. Of adapters, what they add to their base is compared as well.
"""

from transferscope.parameter_distance._compare_adapters import compare_adapters
from transferscope.parameter_distance._dataset_factors import (
    dataset_factors,
    domain_gap,
    intraclass_variance,
)
from transferscope.parameter_distance._forecast import predict_transferability, published_runs
from transferscope.parameter_distance._initialisation import architecture
from transferscope.parameter_distance._layer_transferability import (
    MEASURES,
    layer_transferability,
)
from transferscope.parameter_distance._layers import FREEZE_DRIFT

__all__ = [
    "FREEZE_DRIFT",
    "MEASURES",
    "architecture",
    "compare_adapters",
    "dataset_factors",
    "domain_gap",
    "intraclass_variance",
    "layer_transferability",
    "predict_transferability",
    "published_runs",
]
