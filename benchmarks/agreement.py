"""Does a score tell the truth? Every metric against end-to-end fine-tuning of the bundled zoo.

    python benchmarks/agreement.py finetune --part 1/2     # CPU hours; goes on after a kill
    python benchmarks/agreement.py finetune --part 2/2     # in another process
    python benchmarks/agreement.py report                  # scores, agreement, the table and plots

Eight real data sets of ../shared/data; an encoder is left out on the data set it was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferscope import open_dataset
from transferscope.datasets import Dataset
from transferscope.encoders.mini_zoo import list_mini, mini_card

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data" / "images"
#: File of each target, and the beginning of the title of the same source on the cards of the zoo.
TARGETS = {
    "usps": "-",
    "flower_photos": "flower_photos",
    "caltech101_c43": "Caltech-101",
    "sign_digits": "Sign Language",
    "hymenoptera": "-",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10_32px": "CIFAR-10",
    "mnist": "MNIST",
}
MAX_TRAIN, MAX_TEST = 750, 1000


def target(name: str) -> tuple[Dataset, Dataset]:
    path = str(DATA / f"{name}.npz")
    train = open_dataset(path, split="train", max_samples=MAX_TRAIN, seed=0)
    return train, open_dataset(path, split="test", max_samples=MAX_TEST, seed=0)


def encoders_for(name: str) -> list[str]:
    """The zoo without the encoders that have seen this data set."""
    cards = {encoder: mini_card(encoder) for encoder in list_mini()}
    return [
        f"mini/{encoder}"
        for encoder, card in cards.items()
        if not (card.source or "").startswith(TARGETS[name])
    ]


def fine_tune(folder: Path, part: int, every: int) -> None:
    """Fine-tune every pair of which no result is there yet."""
    import torch

    from transferscope.training import finetune

    torch.set_num_threads(1)
    pairs = [(name, encoder) for name in TARGETS for encoder in encoders_for(name)]
    for name, encoder in pairs[part - 1 :: every]:
        place = folder / "runs" / name / encoder.removeprefix("mini/")
        result = place / "result.json"
        if result.exists():
            continue
        train, test = target(name)
        found = finetune(
            encoder,
            train,
            test,
            learning_rates=(1e-3, 4e-3),
            weight_decays=(1e-3, 1e-1),
            n_seeds=3,
            epochs=12,
            patience=None,
            out=place,
        )
        result.write_text(found.to_json(), encoding="utf-8")
        spread = found.spread or 0.0
        print(
            f"{name} {encoder} {found.value:.4f} ± {spread:.4f} {found.seconds:.0f} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["finetune", "report"])
    parser.add_argument("--folder", type=Path, default=Path("agreement_runs"))
    parser.add_argument("--part", default="1/1", help="such as 2/4: every fourth pair")
    arguments = parser.parse_args()
    if arguments.stage == "finetune":
        fine_tune(arguments.folder, *map(int, arguments.part.split("/")))


if __name__ == "__main__":
    main()
