"""From the shell to the first forward pass: what `transferscope rank` takes beyond torch's import.

    python benchmarks/startup.py [--rounds 5] [--imports]

Encoders are a bundled one, a folder of timm (ResNet-18) and one of transformers (a ViT of two
layers), with random weights; the data are 64 images in an npz file. The command runs in a process
of its own, which ends when its first batch is about to enter the network; in turn with it run one
that only imports torch, and "bare" ones in which timm or transformers load the model, and no more.
Seconds of the processor, user and system, which other work on the machine hardly moves; byte code
is present. With --imports: which modules took longest instead. Bar: 2 s beyond torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FIRST_PASS = """
import os, sys
from transferscope.cli import main
from transferscope.extraction import _pass

_pass._Passes.embed = lambda *given: (sys.stderr.flush(), os._exit(0))
sys.argv = ["transferscope", "rank", *{arguments!r}]
main()
raise SystemExit("no batch reached an encoder")
"""


#: What the libraries alone take until such a model is loaded.
BARE = {
    "timm": "import torch, timm; timm.create_model('resnet18')",
    "hf": """
import torch
from transformers import AutoImageProcessor, AutoModel
AutoModel.from_pretrained({folder!r}); AutoImageProcessor.from_pretrained({folder!r})
""",
}


def finished(code: str, *options: str) -> tuple[float, str]:
    """Seconds of the processor that a process took to run this code, and its errors."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = os.times()
    done = subprocess.run(
        [sys.executable, *options, "-c", code], env=environment, capture_output=True, text=True
    )
    after = os.times()
    if done.returncode != 0:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system, done.stderr


def make_encoders(folder: Path) -> dict[str, str]:
    """Folders with models, by what they are."""
    import json

    import timm
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    place = folder / "resnet18"
    place.mkdir()
    module = timm.create_model("resnet18")
    save_file(module.state_dict(), place / "model.safetensors")
    config = {"architecture": "resnet18", "num_classes": 1000, "num_features": 512}
    about = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 1000}
    about |= {
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "classifier": "fc",
        "first_conv": "conv1",
    }
    (place / "config.json").write_text(json.dumps({**config, "pretrained_cfg": about}))
    vit = folder / "vit"
    ViTModel(ViTConfig(num_hidden_layers=2)).save_pretrained(vit)
    ViTImageProcessor().save_pretrained(vit)
    return {"mini": "mini/resnet-random", "timm": f"timm/{place}", "hf": f"hf/{vit}"}


def slowest_imports(errors: str, count: int = 25) -> list[str]:
    """Of `-X importtime`: modules that took longest, with all that they imported."""
    lines = [line[12:] for line in errors.splitlines() if line.startswith("import time:")]
    rows = [line.split("|") for line in lines if line.count("|") == 2 and "cumulative" not in line]
    rows.sort(key=lambda row: -int(row[1]))
    return [f"{int(row[1]) / 1e6:7.2f} s {row[2].rstrip()}" for row in rows[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--imports", action="store_true")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data.npz"
        pixels = random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
        np.savez(data, images=pixels, labels=np.arange(64) % 4)
        codes = {"torch": "import torch"}
        encoders = make_encoders(Path(name))
        for kind, encoder in encoders.items():
            arguments = [
                str(data),
                "--encoders",
                encoder,
                "--store",
                str(Path(name) / "store"),
                "--device",
                "cpu",
            ]
            codes[kind] = FIRST_PASS.format(arguments=arguments)
            if kind in BARE:
                codes[f"bare {kind}"] = BARE[kind].format(folder=encoder.partition("/")[2])
        for code in codes.values():  # writes byte code, and warms the disk's cache
            finished(code)
        if options.imports:
            for kind, code in codes.items():
                errors = finished(code, "-X", "importtime")[1]
                print(kind, *slowest_imports(errors), sep="\n")
            return
        times: dict[str, list[float]] = {kind: [] for kind in codes}
        for _ in range(options.rounds):
            for kind, code in codes.items():
                times[kind].append(finished(code)[0])
    print("| command | seconds, least | beyond torch | median beyond torch | bar 2 s |\n"
          "| --- | ---: | ---: | ---: | --- |")  # fmt: skip
    for kind, taken in times.items():
        beyond = [a - b for a, b in zip(taken, times["torch"], strict=True)]
        least = min(taken) - min(times["torch"])
        met = "" if kind.split()[0] in ("torch", "bare") else "met" if least <= 2 else "MISSED"
        print(
            f"| {kind} | {min(taken):.2f} | {least:.2f} | {statistics.median(beyond):.2f} | {met} |"
        )


if __name__ == "__main__":
    main()
