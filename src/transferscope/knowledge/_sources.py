"""Where the figures come from: each source with its licence, its date and what was measured.

Figures only are carried, re-arranged. Where no licence is stated, they are carried as facts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where figures come from.

    Attributes
    ----------
    name : str
        As in the column ``source`` of the results.
    origin : str
        Repository and commit, or package and version.
    licence : str
    note : str
        What was measured, and how.
    """

    name: str
    origin: str
    licence: str
    note: str


_NONE = "none stated; figures only, as facts"

SOURCES = {
    row.name: row
    for row in (
        Source(
            "mteb",
            "embeddings-benchmark/results @ f4cc6c8b365a; facts from mteb 2.26.24",
            "CC0-1.0 (results), Apache-2.0 (facts)",
            "text classification: logistic regression on frozen embeddings of few examples; "
            "accuracy, for a few tasks F1 or average precision; mean over revisions and repeats",
        ),
        Source(
            "mieb",
            "embeddings-benchmark/results @ f4cc6c8b365a",
            "CC0-1.0",
            "images: linear probe on frozen embeddings of few examples of each class; accuracy",
        ),
        Source(
            "timm",
            "huggingface/pytorch-image-models @ aa4b5850c154 (results/); timm 1.0.31 (registry)",
            "Apache-2.0",
            "top-1 accuracy on ImageNet, ReaL, V2, Sketch, A and R; inference speed on an RTX 4090 "
            "(mixed precision) and on a desktop CPU, at the nearest image size",
        ),
        Source(
            "torchvision",
            "torchvision (metadata of its weights)",
            "BSD-3-Clause",
            "top-1 accuracy on ImageNet, parameters, size of the file",
        ),
        Source(
            "sfda-supervised",
            "TencentARC/SFDA @ 3b7edf76bd68 (tw_group1.py)",
            "MIT in BUserName/NCTI; none stated in TencentARC/SFDA",
            "fine-tuned accuracy of 11 supervised CNNs",
        ),
        Source(
            "sfda-supervised-head",
            "alizkzm/te-guide @ 33f2636648ec (guide/ground_truth.py)",
            _NONE,
            "accuracy of a head trained on the frozen features of the same 11 CNNs; not checked "
            "against the paper",
        ),
        Source(
            "ped-ssl",
            "TencentARC/SFDA @ 3b7edf76bd68 (tw_group2.py)",
            _NONE,
            "fine-tuned accuracy of 12 self-supervised ResNet-50s",
        ),
        Source(
            "mms-vit",
            "OpenGVLab/Multitask-Model-Selector @ 24d100817c02",
            _NONE,
            "fine-tuned accuracy of 13 vision transformers",
        ),
        Source(
            "parc-all",
            "dbolya/parc @ ddfca43a84d3 (oracles/all.csv)",
            _NONE,
            "fine-tuned accuracy of 70 CNNs, most pre-trained on small data sets",
        ),
        Source(
            "transfergraph-images",
            "zLizy/transferability_graph @ 9c220479aa4d",
            _NONE,
            "fine-tuned accuracy of 120 models of the Hugging Face hub, curated as in "
            "`transferscope benchmarks`",
        ),
        Source(
            "zoo",
            "benchmarks/results/agreement_accuracy.csv of this project",
            "Apache-2.0",
            "fine-tuned accuracy of the bundled encoders",
        ),
    )
}
