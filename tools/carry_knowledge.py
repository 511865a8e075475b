"""Carry published results into the package, and learn from them what is expected of encoders.

    python tools/carry_knowledge.py [FOLDER OF THE DATA]

Reads ../shared/data (knowledge/ and results/), the benchmarks in evaluation/published, the bundled
encoders and their fine-tuned accuracies, and the registries of timm and torchvision; writes
src/transferscope/knowledge/data:

- ``results.csv.gz``: encoder, task, kind, value, source; every figure once;
- ``encoders.csv.gz``: names, other names and facts of every encoder;
- ``unmatched.csv``: names of sources that are no encoder of this package, and what was left out;
- ``image.safetensors``, ``text.safetensors``: the model of each modality (`knowledge/_model.py`).

The same inputs give the same bytes. Where the figures are from stands in
src/transferscope/knowledge/_sources.py.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import timm
import torch
import torchvision

from transferscope.encoders import bundled_card, list_bundled
from transferscope.knowledge._fit import fit_tables
from transferscope.knowledge._tables import write_model

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "transferscope"
DATA = PACKAGE / "knowledge" / "data"
FACTS = (
    *("encoder", "aliases", "modality", "family", "n_parameters", "feature_dim", "input_size"),
    *("download_mb", "gpu_speed", "cpu_speed", "license", "open_weights", "released"),
    *("pretraining", "n_languages", "instructions", "loadable"),
    *("imagenet", "imagenet_real", "imagenet_v2", "sketch", "imagenet_a", "imagenet_r"),
    *("imagenet_tuned", "n_results", "sources"),
)
#: Measurements of ImageNet and its relatives: fact -> file of timm's results.
TESTS = {
    "imagenet": "imagenet",
    "imagenet_real": "imagenet-real",
    "imagenet_v2": "imagenetv2-matched-frequency",
    "sketch": "sketch",
    "imagenet_a": "imagenet-a-clean",
    "imagenet_r": "imagenet-r-clean",
}
#: The same weights on the Hugging Face hub and in timm, where both names are used.
SAME = {
    "hf/facebook/dinov2-small": "vit_small_patch14_dinov2.lvd142m",
    "hf/facebook/dinov2-base": "vit_base_patch14_dinov2.lvd142m",
    "hf/facebook/dinov2-large": "vit_large_patch14_dinov2.lvd142m",
    "hf/facebook/dinov2-giant": "vit_giant_patch14_dinov2.lvd142m",
    "hf/openai/clip-vit-base-patch16": "vit_base_patch16_clip_224.openai",
    "hf/openai/clip-vit-base-patch32": "vit_base_patch32_clip_224.openai",
    "hf/openai/clip-vit-large-patch14": "vit_large_patch14_clip_224.openai",
    "hf/laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K": "vit_base_patch16_clip_224.datacompxl",
    "hf/laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K": "vit_base_patch32_clip_224.datacompxl",
    "hf/laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "vit_base_patch32_clip_224.laion2b",
    "hf/laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K": "vit_large_patch14_clip_224.datacompxl",
    "hf/laion/CLIP-ViT-L-14-laion2B-s32B-b82K": "vit_large_patch14_clip_224.laion2b",
    "hf/laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "vit_huge_patch14_clip_224.laion2b",
    "hf/laion/CLIP-ViT-g-14-laion2B-s34B-b88K": "vit_giant_patch14_clip_224.laion2b",
    "hf/laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "vit_gigantic_patch14_clip_224.laion2b",
    "hf/google/siglip-base-patch16-224": "vit_base_patch16_siglip_224.webli",
    "hf/google/siglip-base-patch16-256": "vit_base_patch16_siglip_256.webli",
    "hf/google/siglip-base-patch16-256-multilingual": "vit_base_patch16_siglip_256.webli_i18n",
    "hf/google/siglip-base-patch16-384": "vit_base_patch16_siglip_384.webli",
    "hf/google/siglip-base-patch16-512": "vit_base_patch16_siglip_512.webli",
    "hf/google/siglip-large-patch16-256": "vit_large_patch16_siglip_256.webli",
    "hf/google/siglip-large-patch16-384": "vit_large_patch16_siglip_384.webli",
    "hf/google/siglip-so400m-patch14-384": "vit_so400m_patch14_siglip_384.webli",
    "hf/QuanSun/EVA02-CLIP-B-16": "eva02_base_patch16_clip_224.merged2b",
    "hf/QuanSun/EVA02-CLIP-L-14": "eva02_large_patch14_clip_224.merged2b",
    "hf/QuanSun/EVA02-CLIP-bigE-14": "eva02_enormous_patch14_clip_224.laion2b",
    "hf/QuanSun/EVA02-CLIP-bigE-14-plus": "eva02_enormous_patch14_clip_224.laion2b_plus",
    "hf/facebook/deit-tiny-patch16-224": "deit_tiny_patch16_224.fb_in1k",
    "hf/facebook/deit-small-patch16-224": "deit_small_patch16_224.fb_in1k",
    "hf/facebook/deit-base-patch16-224": "deit_base_patch16_224.fb_in1k",
    "hf/facebook/deit-tiny-distilled-patch16-224": "deit_tiny_distilled_patch16_224.fb_in1k",
    "hf/facebook/deit-base-distilled-patch16-224": "deit_base_distilled_patch16_224.fb_in1k",
    "hf/microsoft/swin-tiny-patch4-window7-224": "swin_tiny_patch4_window7_224.ms_in1k",
    "hf/microsoft/swin-small-patch4-window7-224": "swin_small_patch4_window7_224.ms_in1k",
    "hf/microsoft/swin-large-patch4-window7-224": "swin_large_patch4_window7_224.ms_in22k_ft_in1k",
    "hf/facebook/convnext-small-224": "convnext_small.fb_in1k",
    "hf/facebook/convnext-large-224-22k": "convnext_large.fb_in22k",
}
#: Short names of benchmarks -> timm.
SHORT = {
    "mms-vit": {
        "deit_tiny": "deit_tiny_patch16_224.fb_in1k",
        "deit_small": "deit_small_patch16_224.fb_in1k",
        "deit_base": "deit_base_patch16_224.fb_in1k",
        "dino_small": "vit_small_patch16_224.dino",
        "dino_base": "vit_base_patch16_224.dino",
        "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
        "swin_s": "swin_small_patch4_window7_224.ms_in1k",
        "pvtv2_b2": "pvt_v2_b2.in1k",
        "pvtv2_b3": "pvt_v2_b3.in1k",
    },
}
#: What pre-training was on and how, as timm's tags abbreviate it.
_TRAINING = re.compile(
    r"in1k|in12k|in21k|in22k|laion2b|laion400m|datacomp\w*|dfn\w*|metaclip\w*|openai|webli\w*|"
    r"lvd\w*|sat\w*|merged2b|m30m|m38m|ig1b|ig\w*|yfcc\w*|jft|sa1b|swsl|wsl|swag|seer|cc12m|dino\w*"
    r"|mae|fcmae|mim|clip|dist\w*|ap|adv|ns|augreg\d?|sam|miil|goog|data2vec|ijepa\w*|aim\w*|"
    r"redcaps|gpt\w*|random"
)


def main(data: Path) -> None:
    encoders = _timm(data / "knowledge")
    _torchvision(encoders)
    _mini(encoders)
    unmatched: list[tuple[str, str, str]] = []
    rows = [
        *_mteb(data / "knowledge", encoders, unmatched),
        *_benchmarks(data / "results", encoders, unmatched),
    ]
    rows.sort(key=lambda row: (row[4], row[2], row[1], row[0]))
    for name, _, _, _, source in rows:
        one = encoders[name]
        one["n_results"] = int(str(one.get("n_results", 0))) + 1
        one["sources"] = "|".join(
            sorted({*filter(None, str(one.get("sources", "")).split("|")), source})
        )
    table = [encoders[name] for name in sorted(encoders)]
    DATA.mkdir(exist_ok=True)
    _write(DATA / "results.csv.gz", ("encoder", "task", "kind", "value", "source"), rows)
    _write(DATA / "encoders.csv.gz", FACTS, [[one.get(f, "") for f in FACTS] for one in table])
    _write(DATA / "unmatched.csv", ("source", "name", "reason"), sorted(set(unmatched)))
    for modality, model in fit_tables(DATA).items():
        write_model(DATA / f"{modality}.safetensors", model)
        print(f"{modality}: {len(model.noise)} encoders")
    print(f"{len(table)} encoders, {len(rows)} results, {len(set(unmatched))} unmatched")


def _write(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    content = text.getvalue().encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, 9, mtime=0)
    path.write_bytes(content)


def _add(encoders: dict[str, dict[str, object]], name: str, **facts: object) -> dict[str, object]:
    """An encoder's facts, to add to; empty and unknown ones are left out."""
    one = encoders.setdefault(name, {"encoder": name, "aliases": "", "loadable": 1})
    one |= {
        key: value for key, value in facts.items() if value not in (None, "") and value == value
    }
    return one


def _also(one: dict[str, object], *names: str) -> None:
    known = [*str(one["aliases"]).split("|"), *names]
    one["aliases"] = "|".join(sorted({n for n in known if n and n != one["encoder"]}))


def _family(name: str) -> str:
    """First word of a model's name, without digits at its end: resnet50 and resnet101 are kin."""
    word = re.split(r"[-_./]", name.rpartition("/")[2].lower())[0]
    return re.sub(r"\d+[a-z]*$", "", word) or word


def _timm(data: Path) -> dict[str, dict[str, object]]:
    """Pre-trained models of timm, with accuracies and speeds."""
    encoders: dict[str, dict[str, object]] = {}
    with_hub = {timm_name: hub for hub, timm_name in SAME.items()}
    shapes = _shapes()
    speeds = {
        "gpu_speed": pd.read_csv(data / "timm_speed_rtx4090_amp.csv"),
        "cpu_speed": pd.read_csv(data / "timm_speed_cpu_i7_12700h.csv"),
    }
    speeds = {name: dict(iter(table.groupby("model"))) for name, table in speeds.items()}
    old = pd.read_csv(data / "timm_model_metadata-in1k.csv").set_index("model")["pretrain"]
    for model in timm.list_pretrained():
        config = timm.get_pretrained_cfg(model)
        architecture, _, tag = model.partition(".")
        size = config.input_size[-1]
        name = with_hub.get(model, f"timm/{model}")
        training = " ".join(_TRAINING.findall(f"{architecture}.{tag}".lower().partition(".")[2]))
        n, dim = shapes.get(architecture, (None, None))
        one = _add(
            encoders,
            name,
            modality="image",
            family=_family(architecture),
            n_parameters=n,
            feature_dim=dim,
            input_size=size,
            download_mb=n and round(n * 4 / 1e6),
            license=config.license,
            open_weights=1,
            pretraining=training or old.get(architecture, ""),
        )
        for fact, found in speeds.items():
            if architecture in found:
                table = found[architecture]
                nearest = (table["infer_img_size"] - size).abs().argmin()
                one[fact] = round(float(table["infer_samples_per_sec"].iloc[nearest]), 1)
        _also(one, f"timm/{model}", f"hf/timm/{model}")
        default = timm.get_pretrained_cfg(architecture)
        if default is not None and default.tag == tag:
            _also(one, f"timm/{architecture}")
    for fact, file in TESTS.items():
        table = pd.read_csv(data / f"timm_results-{file}.csv")
        for model, rows in table.groupby("model"):
            name = with_hub.get(model, f"timm/{model}")
            size = encoders[name].get("input_size")
            row = rows.loc[(rows["img_size"] - size).abs().idxmin()]
            encoders[name] |= {fact: f"{row['top1'] / 100:.5f}", "sources": "timm"}
    _tuned(encoders)
    return encoders


def _tuned(encoders: dict[str, dict[str, object]]) -> None:
    """Weights without a head for ImageNet: the accuracy of the same, fine-tuned on it."""
    tuned: dict[tuple[str, str], float] = {}
    for one in encoders.values():
        for name in (str(one["encoder"]), *str(one["aliases"]).split("|")):
            base, found, _ = name.partition("_ft_")
            if name.startswith("timm/") and found and "imagenet" in one:
                key = _without_size(base)
                tuned[key] = max(tuned.get(key, 0.0), float(str(one["imagenet"])))
    for one in encoders.values():
        for name in (str(one["encoder"]), *str(one["aliases"]).split("|")):
            if name.startswith("timm/") and "imagenet" not in one and _without_size(name) in tuned:
                one["imagenet_tuned"] = f"{tuned[_without_size(name)]:.5f}"


def _without_size(name: str) -> tuple[str, str]:
    """Architecture without the size of its input, and the tag of its weights."""
    architecture, _, tag = name.partition(".")
    return re.sub(r"_(\d{3})$", "", architecture), re.sub(r"_\d{3}$", "", tag)


def _shapes() -> dict[str, tuple[int, int]]:
    """Parameters without head, and feature dimension, of timm's architectures."""

    found = {}
    for architecture in sorted({name.partition(".")[0] for name in timm.list_pretrained()}):
        try:
            with torch.device("meta"):
                model = timm.create_model(architecture, pretrained=False, num_classes=0)
        except Exception as error:  # noqa: BLE001  some need what is not installed
            print(f"{architecture}: no shape ({error})")
            continue
        dim = getattr(model, "head_hidden_size", None) or model.num_features
        found[architecture] = (sum(p.numel() for p in model.parameters()), int(dim))
    return found


def _torchvision(encoders: dict[str, dict[str, object]]) -> None:
    """Models of torchvision; those whose weights timm has too become its aliases."""
    urls = {timm.get_pretrained_cfg(m).url: m for m in timm.list_pretrained()}
    models = torchvision.models
    for name in models.list_models(module=models):
        available = models.get_model_weights(name)
        for weights in available:
            scores = weights.meta["_metrics"].get("ImageNet-1K", {})
            own = f"torchvision/{name}?weights={weights.name}"
            twin = urls.get(weights.url)
            if twin is None and weights.name == "IMAGENET1K_V1":
                twin = f"{name}.tv_in1k" if f"timm/{name}.tv_in1k" in encoders else None
            one = (
                encoders[f"timm/{twin}"]
                if twin
                else _add(
                    encoders,
                    own,
                    modality="image",
                    family=_family(name),
                    n_parameters=weights.meta["num_params"],
                    input_size=getattr(weights.transforms(), "crop_size", [None])[0],
                    download_mb=round(weights.meta["_file_size"]),
                    license="bsd-3-clause",
                    open_weights=1,
                    pretraining="in1k",
                    imagenet=scores and f"{scores['acc@1'] / 100:.5f}",
                    sources="torchvision",
                )
            )
            _also(one, own)
            if weights == available["DEFAULT"]:
                _also(one, f"torchvision/{name}")


def _mini(encoders: dict[str, dict[str, object]]) -> None:
    for name in list_bundled():
        card = bundled_card(name)
        _add(
            encoders,
            f"mini/{name}",
            modality="image",
            family="mini",
            n_parameters=card.n_parameters,
            feature_dim=card.feature_dim,
            input_size=32,
            download_mb=0,
            license="apache-2.0",
            open_weights=1,
            released=card.date,
            pretraining=card.method or "random",
        )


def _mteb(
    data: Path, encoders: dict[str, dict[str, object]], unmatched: list[tuple[str, str, str]]
) -> list[tuple[str, str, str, str, str]]:
    scores, facts = pd.read_csv(data / "mteb_scores.csv"), pd.read_csv(data / "mteb_models.csv")
    facts = facts.set_index("name")
    by_name = {name.lower(): encoder for encoder in encoders for name in [encoder]}
    by_name |= {a.lower(): e for e, one in encoders.items() for a in str(one["aliases"]).split("|")}
    hears = scores["model"].map(facts["modalities"]).fillna("").str.contains("video|audio")
    is_text = scores["kind"] == "text classification"
    media = hears[is_text].groupby(scores["task"]).mean()
    media = set(media[media > 0.5].index)
    unmatched += [("mteb", task, "a task of sounds or videos, left out") for task in media]
    scores = scores[~scores["task"].isin(media)]
    is_text = scores["kind"] == "text classification"
    names = {}
    for model, rows in scores.groupby("model"):
        fact = facts.loc[model] if model in facts.index else None
        if fact is None:
            unmatched.append(("mteb", model, "no facts in the package's model list"))
        open_weights = None if fact is None else bool(fact["open_weights"])
        name = by_name.get(f"hf/{model}".lower(), f"hf/{model}" if open_weights else model)
        names[model] = name
        kinds = {"text" if t else "image" for t in is_text[rows.index]}
        before = encoders.get(name, {})
        modality = "|".join(
            sorted(kinds | set(filter(None, str(before.get("modality", "")).split("|"))))
        )
        one = _add(encoders, name, modality=modality)
        if "family" not in one:
            one["family"] = _family(model)
        one["loadable"] = int(bool(open_weights))
        _also(one, model)
        if not one["loadable"]:
            unmatched.append(
                ("mteb", model, "no open weights known: a service, no encoder to load")
            )
        if fact is None:
            continue
        dim = re.search(r"\d+", str(fact["embed_dim"]))
        spoken = str(fact["languages"]).split("|") if pd.notna(fact["languages"]) else []
        n, memory = fact["n_parameters"], fact["memory_usage_mb"]
        _add(
            encoders,
            name,
            n_parameters=one.get("n_parameters") or (int(n) if n > 0 else None),
            feature_dim=one.get("feature_dim") or (int(dim[0]) if dim else None),
            download_mb=one.get("download_mb") or (round(memory) if memory > 0 else None),
            license=one.get("license")
            or (fact["license"] if fact["license"] != "not specified" else None),
            open_weights=int(fact["open_weights"]),
            released=fact["release_date"],
            n_languages=len(spoken) or None,
            instructions=int(
                fact["use_instructions"] is True or fact["use_instructions"] == "True"
            ),
        )
    return [
        (
            names[row.model],
            row.task if row.subset == "default" else f"{row.task}/{row.subset}",
            "probe",
            f"{row.score:.5f}".rstrip("0"),
            "mteb" if row.kind == "text classification" else "mieb",
        )
        for row in scores.itertuples()
    ]


def _benchmarks(
    data: Path, encoders: dict[str, dict[str, object]], unmatched: list[tuple[str, str, str]]
) -> list[tuple[str, str, str, str, str]]:
    rows = []

    def put(source: str, model: str, task: str, kind: str, value: float) -> None:
        name = _benchmark_name(source.removesuffix("-head"), model, encoders, unmatched)
        rows.append((name, task, kind, f"{value:.5f}".rstrip("0"), source))

    for file in sorted((PACKAGE / "evaluation" / "published").glob("*.csv")):
        if file.stem.endswith(("-baselines", "-tau")) or file.stem == "parc-controlled":
            continue  # of parc-all a part
        table = pd.read_csv(file, index_col="encoder")
        for model, line in table.iterrows():
            for task, value in line.dropna().items():
                put(file.stem, str(model), str(task), "fine-tuned", value / 100)
    for row in pd.read_csv(data / "sfda_group1_supervised_head_only_acc.csv").itertuples():
        put("sfda-supervised-head", row.model, row.dataset, "probe", row.head_acc / 100)
    for row in pd.read_csv(ROOT / "benchmarks/results/agreement_accuracy.csv").itertuples():
        rows.append(
            (row.encoder, row.dataset, "fine-tuned", f"{row.accuracy:.5f}".rstrip("0"), "zoo")
        )
    return rows


def _benchmark_name(
    source: str,
    model: str,
    encoders: dict[str, dict[str, object]],
    unmatched: list[tuple[str, str, str]],
) -> str:
    """The encoder behind a benchmark's name; one of its own where there is no other."""
    own = f"{source}/{model}"
    known = {
        name: e for e, one in encoders.items() for name in [e, *str(one["aliases"]).split("|")]
    }
    twins = {
        "sfda-supervised": f"torchvision/{model}?weights=IMAGENET1K_V1",
        "transfergraph-images": f"hf/{model}",
        "mms-vit": f"timm/{SHORT['mms-vit'].get(model, '')}",
    }
    if own in known:
        return known[own]
    if source == "transfergraph-images":
        one = _add(
            encoders, known.get(twins[source], twins[source]), modality="image", open_weights=1
        )
        sizes = pd.read_csv(
            PACKAGE / "evaluation/published/transfergraph-images-baselines.csv", index_col="encoder"
        )["n_parameters"]
        one.setdefault("n_parameters", int(sizes[model]) if model in sizes.index else "")
        one.setdefault("family", _kin(model))
    elif twins.get(source) in known:
        one = encoders[known[twins[source]]]
    else:
        unmatched.append((source, model, "no name under which this package loads its weights"))
        architecture = model.partition("/")[0] if source == "parc-all" else "resnet50"
        kin = architecture if source in ("parc-all", "ped-ssl") else model
        like = encoders.get(f"timm/{architecture}.a1_in1k", {})
        one = _add(encoders, own, modality="image", family=_family(kin), open_weights=1)
        one["loadable"] = 0
        if source == "ped-ssl":
            one |= {k: like[k] for k in ("n_parameters", "feature_dim", "input_size") if k in like}
            one["pretraining"] = "in1k " + re.split(r"-v?\d", model)[0]
    _also(one, own, *([model] if "/" not in model else []))
    return str(one["encoder"])


def _kin(model: str) -> str:
    """Family of a model of the hub by the architecture that its name holds."""
    for word in ("convnext", "swin", "beit", "deit", "dit", "data2vec", "van", "mit", "vit"):
        if word in model.lower():
            return word
    return _family(model)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "data")
