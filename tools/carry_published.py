"""Re-arrange the published result tables into the package: ../shared/data/results -> published/.

    python tools/carry_published.py [FOLDER OF THE TABLES]

What each table is, and where it is from, stands in src/transferscope/evaluation/_benchmarks.py.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "src" / "transferscope" / "evaluation" / "published"
#: TransferGraph: a task needs this many models, a model all such tasks.
FEWEST_MODELS = 200
#: A run diverged when its training loss is no finite number or above this.
LARGEST_LOSS = 20.0


def curate_transfergraph(tables: Path) -> pd.DataFrame:
    """Models x tasks, in percent, of the runs that did not diverge; the note says the rule."""
    runs = pd.read_csv(tables / "zlizy_ftrecords_img.csv")
    runs["task"] = runs["train_dataset_name"] + runs["configs"].map(_variant)
    alive = np.isfinite(runs["train_loss"]) & (runs["train_loss"] <= LARGEST_LOSS)
    runs = runs[alive & np.isfinite(runs["test_accuracy"])]
    # the run that validation would choose; of equal ones the first recorded
    best = runs.sort_values("val_accuracy", ascending=False, kind="stable").drop_duplicates(
        ["model_identifier", "task"]
    )
    table = best.pivot(index="model_identifier", columns="task", values="test_accuracy")
    table = table.loc[:, table.notna().sum() >= FEWEST_MODELS]
    return 100 * table.dropna()


def _variant(configs: str) -> str:
    """What the labels are, where a data set has several."""
    config = ast.literal_eval(configs)
    label, how = config.get("label_name", "label"), config.get("preprocess", "empty")
    if how not in ("empty", "kitti"):
        return "/" + how.partition("_")[2]
    return "" if label == "label" or how == "kitti" else "/" + label.removeprefix("label_")


def _write(table: pd.DataFrame, name: str) -> None:
    table = table.sort_index().sort_index(axis=1).rename_axis("encoder").rename_axis(None, axis=1)
    table.round(4).to_csv(PUBLISHED / f"{name}.csv", float_format="%.10g", lineterminator="\n")
    print(
        f"{name}: {table.shape[0]} encoders x {table.shape[1]}, {table.notna().sum().sum()} values"
    )


def main(tables: Path) -> None:
    for name, file in {
        "ped-ssl": "sfda_group2_selfsupervised_finetune_acc.csv",
        "sfda-supervised": "sfda_group1_supervised_finetune_acc.csv",
        "mms-vit": "mms_vit_finetune_acc.csv",
    }.items():
        long = pd.read_csv(tables / file)
        _write(long.pivot(index="model", columns="dataset", values="finetune_acc"), name)
    told = pd.read_csv(tables / "ped_ssl_weighted_tau.csv", index_col="metric")
    told.to_csv(PUBLISHED / "ped-ssl-weighted-tau.csv", lineterminator="\n")
    from torchvision.models import get_model_weights

    def fact(model: str) -> dict[str, float]:
        meta = get_model_weights(model)["IMAGENET1K_V1"].meta
        return {
            "imagenet_accuracy": meta["_metrics"]["ImageNet-1K"]["acc@1"],
            "n_parameters": meta["num_params"],
        }

    models = pd.read_csv(PUBLISHED / "sfda-supervised.csv")["encoder"]
    _write(pd.DataFrame({m: fact(m) for m in models}).T, "sfda-supervised-baselines")
    for name in ("controlled", "all"):
        long = pd.read_csv(tables / f"parc_oracles_{name}.csv")
        long["encoder"] = long["Architecture"] + "/" + long["Source Dataset"]
        # -1 is no accuracy
        long["Oracle"] = long["Oracle"].where(long["Oracle"] >= 0)
        table = long.pivot(index="encoder", columns="Target Dataset", values="Oracle")
        table = table.dropna(how="all")
        _write(table, f"parc-{name}")
        sizes = {
            e: {"n_parameters": fact(e.partition("/")[0])["n_parameters"]} for e in table.index
        }
        _write(pd.DataFrame(sizes).T, f"parc-{name}-baselines")
    table = curate_transfergraph(tables)
    _write(table, "transfergraph-images")
    cards = pd.read_csv(tables / "zlizy_model_config_dataset.csv").drop_duplicates("model")
    cards = cards.set_index("model")["number_of_parameters"]
    cards = cards.reindex(table.index).dropna().astype(int)
    _write(cards.rename("n_parameters").to_frame(), "transfergraph-images-baselines")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "data" / "results")
