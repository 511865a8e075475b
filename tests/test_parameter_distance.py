"""How far pre-training carried the weights: values, blocks, files, and what must be refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pictures import shows_data
from reference import parameter_distance as literal
from transferscope.errors import CheckpointError, InputError
from transferscope.parameter_distance import (
    MEASURES,
    architecture,
    compare_adapters,
    layer_transferability,
)
from transferscope.parameter_distance._blocks import block_of_each, counts, in_order
from transferscope.parameter_distance._initialisation import Distribution
from transferscope.plots import plot_layer_distances, save_figure
from transferscope.results import LayerDistances

torch = pytest.importorskip("torch", reason="checkpoints of networks need torch")
timm = pytest.importorskip("timm", reason="architectures come from timm")


def moved(weights: dict[str, Any], by: float, seed: int) -> dict[str, Any]:
    # far from the seeds of initialisations: the same stream would correlate with their draws
    generator = torch.Generator().manual_seed(1000 + seed)
    return {
        name: tensor + by * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


def fine_tuned(model: Any) -> Any:
    model.load_state_dict(moved(model.state_dict(), 0.01, 0))
    return model


@pytest.fixture(scope="module")
def triple() -> tuple[dict[str, Any], ...]:
    """Random, pre-trained and fine-tuned weights of a ResNet-50 with 10 classes."""
    torch.manual_seed(0)
    random = timm.create_model("resnet50", num_classes=10).state_dict()
    pretrained = moved(random, 0.02, 1)
    return random, pretrained, moved(pretrained, 0.003, 2)


def small(seed: int = 0, n: int = 6) -> dict[str, np.ndarray]:
    """Four layers and a head, float32."""
    rng = np.random.default_rng(seed)
    names = [f"layers.{i}.weight" for i in range(4)] + ["fc.weight"]
    return {name: rng.standard_normal((n, n)).astype(np.float32) for name in names}


def values(found: LayerDistances) -> dict[str, float | None]:
    return {layer.name: layer.transferability for layer in found.layers}


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("measure", MEASURES)
def test_resnet50_is_the_literal_definition(triple, measure):
    found = layer_transferability(*triple, measure=measure)
    wanted = literal.transferability(*triple, literal.RESNET50, measure)
    assert found.overall == pytest.approx(wanted.pop("overall"), rel=1e-6)
    assert list(values(found)) == list(literal.RESNET50)
    for layer in found.layers:
        assert layer.transferability == pytest.approx(wanted[layer.name], rel=1e-6)
    assert found.head == ("head",)
    assert not any(found.unmatched.values())


def test_equal_differences_lose_nothing_in_single_precision():
    shape = (1031, 1033)  # no multiple of any piece
    base = np.zeros(shape, np.float32)
    step = np.float32(0.1)
    found = layer_transferability(
        {"w.weight": base - step}, {"w.weight": base}, {"w.weight": base + step}
    )
    assert found.layers[0].distance_pretrained == pytest.approx(float(step), rel=1e-6)
    assert found.overall == pytest.approx(2, rel=1e-6)


def test_weights_that_overflow_in_single_precision():
    a, b = (np.full((3, 3), v, np.float32) for v in (1e30, 3e30))
    found = layer_transferability(None, {"w.weight": a}, {"w.weight": b}, measure="l2")
    assert found.layers[0].distance_pretrained == pytest.approx(3 * 2e30)
    assert found.layers[0].drift == pytest.approx(2)


def test_published_layers_come_back():
    """A triple built to have the authors' published run on CIFAR-10, and their overall value.

    Source: Chen et al., arXiv 2212.00399, ResNet-50 on CIFAR-10, as in design/ANALYSES.md.
    """
    published = [3.44, 7.76, 8.59, 7.3, 5.42, 9.2, 6.1, 5.52, 4.23, 7.65, 8.3, 8.32, 8.86, 8.88]
    published += [5.96, 13.0, 13.81, 1.0]
    target = {n: np.zeros((2, 2)) for names in literal.RESNET50.values() for n in names}
    random, pretrained = dict(target), dict(target)
    for (_, names), value in zip(literal.RESNET50.items(), published, strict=True):
        for name in names:
            random[name], pretrained[name] = np.full((2, 2), value), np.ones((2, 2))
    found = layer_transferability(random, pretrained, target)
    assert [layer.transferability for layer in found.layers] == pytest.approx(published)
    assert found.overall == pytest.approx(7.79, abs=0.01)  # of rounded values


def test_further_columns_by_hand():
    a = np.array([[3.0, 0.0], [0.0, 4.0]])
    b = a + np.array([[0.02, 0.0], [0.0, 0.02]])
    (layer,) = layer_transferability(
        {"w.weight": a + 1}, {"w.weight": a}, {"w.weight": b}, spectra=True
    ).layers
    assert layer.drift == pytest.approx(math.sqrt(0.0008) / 5)
    cosine = float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
    assert layer.cosine == pytest.approx(cosine, abs=1e-12)
    assert layer.spectral_norm == pytest.approx(0.02)
    assert layer.effective_rank == pytest.approx(2)
    assert layer.suggestion == "freeze"  # 0.0057 of the norm


def test_rank_one_update_has_effective_rank_one():
    a = np.eye(4)
    b = a + 0.5 * np.outer([1, 2, 3, 4], [1, 0, 0, 1])
    (layer,) = layer_transferability(None, {"w.weight": a}, {"w.weight": b}, spectra=True).layers
    assert layer.effective_rank == pytest.approx(1)
    assert layer.spectral_norm == pytest.approx(0.5 * math.sqrt(30 * 2))


def test_reset_is_suggested_where_random_weights_are_as_close():
    target = small(0)
    pretrained = {name: w + 1 for name, w in target.items()}
    random = {name: w + (0.5 if "layers.1" in name else 3) for name, w in target.items()}
    found = layer_transferability(random, pretrained, target)
    suggestions = {layer.name: layer.suggestion for layer in found.layers}
    assert suggestions.pop("layers.1") == "reset"
    assert set(suggestions.values()) == {None}


def test_rows_may_be_tensors(triple):
    found = layer_transferability(*triple, group="parameter")
    assert len(found.layers) == 1 + 48 + 1
    name = "layer1.0.conv2.weight"
    wanted = literal.transferability(*triple, {name: [name]}, "mean_abs")[name]
    assert values(found)[name] == pytest.approx(wanted, rel=1e-6)
    assert found.head == ("fc.weight",)


def test_which_parameters_count(triple):
    sizes = {
        choice: sum(
            layer.n_parameters for layer in layer_transferability(*triple, parameters=choice).layers
        )
        for choice in ("weights", "all", "with_statistics")
    }
    model = timm.create_model("resnet50", num_classes=10)
    shortcuts = sum(
        p.numel() for n, p in model.named_parameters() if "downsample" in n and p.ndim > 1
    )
    weights = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    buffers = sum(b.numel() for n, b in model.named_buffers() if "running" in n)
    everything = sum(p.numel() for p in model.parameters())
    assert sizes["weights"] == weights - shortcuts
    assert sizes["all"] == everything
    assert sizes["with_statistics"] == everything + buffers


# ---------------------------------------------------------------- the initialisation


def linear_network() -> Any:
    return torch.nn.Sequential(
        torch.nn.Linear(200, 150), torch.nn.Linear(150, 150), torch.nn.Linear(150, 3)
    )


def test_draws_are_averaged_and_leave_the_state_of_torch():
    target = moved(linear_network().state_dict(), 0.1, 3)
    pretrained = moved(target, 0.01, 4)
    torch.manual_seed(77)
    before = torch.random.get_rng_state()
    found = layer_transferability(linear_network, pretrained, target, seeds=3, head="2")
    assert torch.equal(before, torch.random.get_rng_state())
    ratios = []
    for seed in range(3):
        torch.manual_seed(seed)
        random = linear_network().state_dict()
        one = layer_transferability(random, pretrained, target, head="2")
        ratios.append(one.overall)
    assert found.overall == pytest.approx(np.mean(ratios))
    assert found.overall_spread == pytest.approx(np.std(ratios, ddof=1))
    assert found.random == "3 seeds"


@pytest.mark.parametrize("measure", MEASURES)
def test_closed_form_is_the_mean_of_many_draws(measure):
    target = moved(linear_network().state_dict(), 0.1, 3)
    pretrained = moved(target, 0.01, 4)
    exact = layer_transferability(linear_network, pretrained, target, measure, seeds=0, head="2")
    drawn = layer_transferability(linear_network, pretrained, target, measure, seeds=12, head="2")
    assert exact.random == "closed form"
    assert exact.overall == pytest.approx(drawn.overall, rel=5e-3)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_expected_distances_by_sampling(kind):
    rng = np.random.default_rng(0)
    target = np.array([-3.0, -0.4, 0.0, 0.7, 2.0])
    law = Distribution(kind, 0.1, 0.5)
    n = 400_000
    draws = 0.1 + (
        0.5 * rng.standard_normal(n)
        if kind == "normal"
        else rng.uniform(-0.5 * math.sqrt(3), 0.5 * math.sqrt(3), n)
    )
    absolute = sum(np.mean(np.abs(draws - b)) for b in target)
    squares = sum(np.mean((draws - b) ** 2) for b in target)
    assert law.expected_absolute(target) == pytest.approx(absolute, rel=2e-3)
    assert law.expected_square(target) == pytest.approx(squares, rel=2e-3)


def test_fixed_and_odd_initialisations_are_taken_as_drawn():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(40, 40) for _ in range(3)])
            torch.nn.init.eye_(self.layers[0].weight)  # the same in every draw
            with torch.no_grad():  # heavy tails: neither uniform nor normal
                self.layers[1].weight.copy_(torch.randn(40, 40) ** 3)

    target = moved(Odd().state_dict(), 0.1, 0)
    pretrained = moved(target, 0.01, 1)
    found = layer_transferability(Odd, pretrained, target, seeds=0)
    wanted = literal.distance(np.eye(40), target["layers.0.weight"], "mean_abs")
    assert found.layers[0].distance_random == pytest.approx(wanted, rel=1e-6)
    torch.manual_seed(1)
    drawn = Odd().state_dict()["layers.1.weight"]
    wanted = literal.distance(drawn, target["layers.1.weight"], "mean_abs")
    assert found.layers[1].distance_random == pytest.approx(wanted, rel=1e-6)
    (note,) = (note for note in found.notes if "neither uniform nor normal" in note)
    assert note.endswith("expectation: layers.1.weight")


def test_without_an_initialisation_there_are_drifts_only():
    found = layer_transferability(None, small(0), small(1))
    assert found.overall is None
    assert found.random == "none"
    assert all(layer.transferability is None and layer.drift for layer in found.layers)
    assert "no random initialisation" in found.layers[0].reason


def test_architectures_by_name(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    model.save_pretrained(tmp_path / "vit")
    target = fine_tuned(model)
    found = layer_transferability(architecture(str(tmp_path / "vit")), tmp_path / "vit", target)
    assert found.overall > 0
    named = timm.create_model("resnet18").state_dict()
    assert layer_transferability("timm/resnet18", named, moved(named, 0.1, 0), seeds=1).overall
    with pytest.raises(CheckpointError, match="no architecture 'resnet5000'"):
        layer_transferability("timm/resnet5000", named, named)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="does not describe a model"):
        architecture(str(tmp_path / "empty"))


def test_pretrained_weights_of_timm_by_name(monkeypatch):
    model = timm.create_model("resnet18")
    asked = []

    def create(name: str, pretrained: bool) -> Any:
        asked.append((name, pretrained))
        return model

    monkeypatch.setattr(timm, "create_model", create)
    found = layer_transferability(None, "timm/resnet18.a1_in1k", moved(model.state_dict(), 0.1, 0))
    assert asked == [("resnet18.a1_in1k", True)]
    assert len(found.layers) == 10

    def fail(name: str, pretrained: bool) -> Any:
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CheckpointError, match="no connection"):
        layer_transferability(None, "timm/resnet18.a1_in1k", {})


# ---------------------------------------------------------------- files


def test_every_kind_of_file_gives_the_same(tmp_path):
    weights = {name: torch.from_numpy(w) for name, w in small(0).items()}
    target = moved(weights, 0.1, 1)
    wanted = values(layer_transferability(small(2), weights, target))
    arrays = {name: w.numpy() for name, w in weights.items()}
    save_file(arrays, tmp_path / "one.safetensors")
    torch.save(weights, tmp_path / "two.pth")
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "three.pth.tar")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    wrapped = {f"module.{name}": w for name, w in weights.items()}
    torch.save({"model": {"best": wrapped}}, tmp_path / "four.ckpt")
    names = list(arrays)
    shards = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    folder = tmp_path / "sharded"
    folder.mkdir()
    for shard, inside in shards.items():
        save_file({name: arrays[name] for name in inside}, folder / shard)
    index = {"weight_map": {name: s for s, inside in shards.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    plain = tmp_path / "plain"
    plain.mkdir()
    save_file(arrays, plain / "model.safetensors")
    torch.save(weights, plain / "pytorch_model.bin")
    (plain / "config.json").write_text("{}")
    module = torch.nn.Module()
    module.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6, bias=False) for _ in range(4)])
    module.fc = torch.nn.Linear(6, 6, bias=False)
    module.load_state_dict(weights)
    files = ["one.safetensors", "two.pth", "three.pth.tar", "old.pt", "four.ckpt", "sharded"]
    files += ["sharded/model.safetensors.index.json", "plain"]
    for source in [module, *(tmp_path / name for name in files), str(tmp_path / "one.safetensors")]:
        found = layer_transferability(small(2), source, target)
        assert values(found) == pytest.approx(wanted), source
        assert not any(found.unmatched.values())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_dtypes_may_be_mixed(tmp_path, dtype, suffix):
    from safetensors.torch import save_file as save_tensors

    target = {k: torch.from_numpy(w).to(getattr(torch, dtype)) for k, w in small(1).items()}
    path = tmp_path / f"b{suffix}"
    (save_tensors if suffix == ".safetensors" else torch.save)(target, path)
    exact = {name: w.double().numpy() for name, w in target.items()}
    wanted = layer_transferability(small(2), small(0), exact)
    for source in (path, target):
        found = layer_transferability(small(2), small(0), source)
        assert values(found) == pytest.approx(values(wanted), rel=1e-6)


def test_large_tensors_are_read_in_pieces(tmp_path):
    rng = np.random.default_rng(0)
    trio = [{"w.weight": rng.standard_normal((700, 1001)).astype(np.float32)} for _ in range(3)]
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for weights, path in zip(trio, paths, strict=True):
        save_file(weights, path)
    found = layer_transferability(*paths)
    wanted = literal.transferability(*trio, {"w": ["w.weight"]}, "mean_abs")
    assert found.overall == pytest.approx(wanted["w"], rel=1e-7)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_memory_does_not_grow_with_the_files(tmp_path, suffix):
    rng = np.random.default_rng(0)
    for name in "ab":
        weights = {
            f"layers.{i}.weight": rng.standard_normal((2000, 2500), dtype=np.float32)
            for i in range(12)
        }
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".pth":
            torch.save({k: torch.from_numpy(w) for k, w in weights.items()}, path)
        else:
            save_file(weights, path)
    code = (
        "import resource, sys\n"
        "import transferscope.storage.weights_files, transferscope.parameter_distance as p\n"
        "if sys.argv[3] == '.pth': import torch\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "p.layer_transferability(None, sys.argv[1], sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    files = [str(tmp_path / f"{name}{suffix}") for name in "ab"]
    done = subprocess.run(
        [sys.executable, "-c", code, *files, suffix], capture_output=True, text=True, check=True
    )
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 200e6  # the files hold 480 MB


def test_prefixes_reshaped_missing_and_extra_are_sorted_out(tmp_path):
    base = small(0)
    target = {f"backbone.{name}": w + 1 for name, w in base.items()}
    target["backbone.layers.0.weight"] = target["backbone.layers.0.weight"][:, :, None, None]
    target["backbone.fc.weight"] = np.ones((3, 6), np.float32)
    target["backbone.extra.weight"] = np.ones((2, 2), np.float32)
    del target["backbone.layers.3.weight"]
    found = layer_transferability({n: w - 1 for n, w in base.items()}, base, target)
    assert values(found) == {
        "layers.0": pytest.approx(2),
        "layers.1": pytest.approx(2),
        "layers.2": pytest.approx(2),
        "layers.3": None,
        "head": None,
    }
    kinds = {kind: " ".join(names) for kind, names in found.unmatched.items()}
    assert "layers.0.weight: (6, 6) pre-trained, (6, 6, 1, 1)" in kinds["reshaped"]
    assert "fc.weight: (6, 6) pre-trained, (3, 6)" in kinds["other_shape"]
    assert "layers.3.weight: not in the fine-tuned checkpoint" in kinds["missing"]
    assert "backbone.extra.weight: only in the fine-tuned checkpoint" in kinds["extra"]
    assert "3 of 4 layers" in found.notes[0]
    # a transposed layer has the same size and other elements
    turned = {**base, "layers.0.weight": np.ones((9, 4), np.float32)}
    base = {**base, "layers.0.weight": np.ones((4, 9), np.float32)}
    found = layer_transferability(None, base, turned)
    assert "layers.0.weight" in found.unmatched["other_shape"][0]


def test_a_base_model_matches_the_model_for_a_task():
    base = small(0)
    del base["fc.weight"]
    task = {f"vit.{name}": w + 1 for name, w in base.items()} | {"classifier.weight": np.eye(3)}
    found = layer_transferability(None, base, task)
    assert all(layer.distance_pretrained == pytest.approx(1) for layer in found.layers)
    back = layer_transferability(None, task, base)
    distances = {layer.name: layer.distance_pretrained for layer in back.layers}
    assert distances.pop("head") is None
    assert list(distances.values()) == pytest.approx([1] * 4)


def test_tied_parameters_count_once(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(6, 6) for _ in range(3)])
            self.layers[2].weight = self.layers[0].weight

    model = Tied()
    target = moved(model.state_dict(), 0.1, 0)
    target["layers.2.weight"] = target["layers.0.weight"]
    found = layer_transferability(None, model, target)
    assert found.unmatched["tied"] == ("layers.2.weight = layers.0.weight",)
    assert [layer.name for layer in found.layers] == ["layers.0", "layers.1"]
    # a file that holds only the second name
    del target["layers.0.weight"]
    found = layer_transferability(None, model, target)
    assert found.unmatched["tied"] == ("layers.0.weight = layers.2.weight",)
    # untied by fine-tuning: two parameters
    found = layer_transferability(None, model, moved(model.state_dict(), 0.1, 0))
    assert found.unmatched["tied"] == ()
    assert len(found.layers) == 3


# ---------------------------------------------------------------- adapters


def adapter(folder: Path, weights: dict[str, np.ndarray], **settings: Any) -> Path:
    folder.mkdir()
    save_file({k: np.ascontiguousarray(w) for k, w in weights.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 2.0), ({"use_rslora": True}, 4 / math.sqrt(2)), ({"alpha_pattern": {"1": 6}}, 3.0)],
)
def test_lora_is_merged(tmp_path, settings, scale):
    base = small(0)
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 6)), rng.standard_normal((6, 2))
    head = rng.standard_normal((6, 6))
    files = {
        "base_model.model.layers.1.lora_A.weight": a,
        "base_model.model.layers.1.lora_B.weight": b,
        "base_model.model.fc.weight": head,
    }
    merged = {**base, "layers.1.weight": base["layers.1.weight"] + scale * b @ a, "fc.weight": head}
    wanted = layer_transferability(small(3), base, merged)
    found = layer_transferability(small(3), base, adapter(tmp_path / "lora", files, **settings))
    assert values(found) == pytest.approx(values(wanted))
    assert [name for name, value in values(found).items() if value] == ["layers.1", "head"]


def test_lora_of_convolutions_embeddings_and_turned_weights(tmp_path):
    rng = np.random.default_rng(5)
    base = {
        "layers.0.weight": rng.standard_normal((5, 3, 3, 3)),
        "layers.1.weight": rng.standard_normal((4, 7)),  # stored as inputs x outputs
    }
    a, b = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((5, 2, 1, 1))
    c, d = rng.standard_normal((2, 4)), rng.standard_normal((7, 2))
    files = {
        "base_model.model.layers.0.lora_A.weight": a,
        "base_model.model.layers.0.lora_B.weight": b,
    }
    found = layer_transferability(None, base, adapter(tmp_path / "conv", files))
    update = 2 * np.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    assert found.layers[0].distance_pretrained == pytest.approx(np.mean(np.abs(update)))
    files = {
        "base_model.model.layers.1.lora_A.weight": c,
        "base_model.model.layers.1.lora_B.weight": d,
    }
    found = layer_transferability(
        None, base, adapter(tmp_path / "turned", files, fan_in_fan_out=True)
    )
    update = 2 * (d @ c).T
    assert found.layers[1].distance_pretrained == pytest.approx(np.mean(np.abs(update)))


def test_adapters_that_cannot_be_merged(tmp_path):
    base = small(0)
    pair = {"layers.1.lora_A.weight": np.ones((2, 6)), "layers.1.lora_B.weight": np.ones((6, 2))}
    with pytest.raises(CheckpointError, match="without adapter_config"):
        layer_transferability(None, base, pair)
    cases: list[tuple[dict[str, Any], dict[str, np.ndarray], str]] = [
        ({"peft_type": "IA3"}, pair, "type IA3"),
        ({"use_dora": True}, pair, "type DORA"),
        ({"lora_alpha": None}, pair, "lora_alpha of layers.1 .* must be a number"),
        ({}, {"layers.1.lora_A.weight": np.ones((2, 6))}, "do not fit each other"),
        (
            {},
            {k.replace("1", "9"): w for k, w in pair.items()},
            "layers.9.weight, which .* not have",
        ),
        ({}, {**pair, "layers.1.lora_B.weight": np.ones((7, 2))}, "of another size"),
    ]
    for i, (settings, files, message) in enumerate(cases):
        with pytest.raises(CheckpointError, match=message):
            layer_transferability(None, base, adapter(tmp_path / str(i), files, **settings))
    with pytest.raises(CheckpointError, match="an adapter, not a model"):
        layer_transferability(None, adapter(tmp_path / "a", pair), base)


def network(seed: int = 0) -> dict[str, np.ndarray]:
    """Three blocks of two weights with bias, and a head."""
    rng = np.random.default_rng(seed)
    state = {}
    for block in range(3):
        for name, shape in {"q": (6, 5), "v": (7, 5)}.items():
            state[f"blocks.{block}.{name}.weight"] = rng.standard_normal(shape)
            state[f"blocks.{block}.{name}.bias"] = rng.standard_normal(shape[0])
    return {**state, "head.weight": rng.standard_normal((4, 6))}


def factors(base: dict[str, np.ndarray], modules: list[str], rank: int, seed: int) -> Any:
    """Files of an adapter, and A and B of each of its modules."""
    rng = np.random.default_rng(seed)
    pairs = {}
    for module in modules:
        rows, columns = base[f"{module}.weight"].shape
        pairs[module] = rng.standard_normal((rank, columns)), rng.standard_normal((rows, rank))
    files = {
        f"base_model.model.{module}.lora_{letter}.weight": factor
        for module, pair in pairs.items()
        for letter, factor in zip("AB", pair, strict=True)
    }
    return files, pairs


def check_delta(found: Any, wanted: dict[str, float]) -> None:
    got = {name: getattr(found, name) for name in wanted}
    assert got == pytest.approx(wanted, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("rank", [2, 9])  # below and above the size of the weights
def test_deltas_are_the_literal_formula(tmp_path, rank):
    base = network()
    modules = ["blocks.0.q", "blocks.0.v", "blocks.1.q"]
    files, first = factors(base, modules, 2, 5)
    others, second = factors(base, modules, rank, 6)
    a = adapter(tmp_path / "a", files)
    b = adapter(tmp_path / "b", others, lora_alpha=3, use_rslora=True)
    weights = [base[f"{module}.weight"] for module in modules]
    ones = [literal.delta(2, *first[module]) for module in modules]
    twos = [literal.delta(3 / math.sqrt(rank), *second[module]) for module in modules]
    rows = {
        "block": {"blocks.0": slice(0, 2), "blocks.1": slice(2, 3)},
        "parameter": {f"{module}.weight": slice(i, i + 1) for i, module in enumerate(modules)},
    }
    for group, expected in rows.items():
        found = compare_adapters(base, a, b, group=group)
        assert [layer.name for layer in found.layers] == list(expected)
        for layer, part in zip(found.layers, expected.values(), strict=True):
            check_delta(layer, literal.deltas(weights[part], ones[part], twos[part]))
        check_delta(found.overall, literal.deltas(weights, ones, twos))
        assert found.overall.n_parameters == 30 + 35 + 30
    assert found.adapters == (str(a), str(b))
    assert found.left_out == ()
    assert list(found.to_frame().index) == list(expected)
    alone = compare_adapters(base, a)
    assert alone.overall.drift == pytest.approx(found.overall.drift, rel=1e-12)
    assert (alone.overall.other_drift, alone.overall.distance, alone.overall.cosine) == (None,) * 3
    assert alone.notes == ("unchanged, and not shown: 2 of 4 layers",)


def test_drift_of_a_delta_is_that_of_the_merged_weights(tmp_path):
    base = network()
    modules = [name.removesuffix(".weight") for name in base if name.endswith("weight")]
    files, _ = factors(base, modules, 2, 5)
    lora = adapter(tmp_path / "a", {name: 0.1 * w for name, w in files.items()})
    merged = layer_transferability(None, base, lora)
    found = compare_adapters(base, lora)
    drifts = {layer.name: layer.drift for layer in merged.layers}
    assert {layer.name: layer.drift for layer in found.layers} == pytest.approx(drifts, rel=1e-6)


def test_turned_factors_and_scales_of_one_delta_are_equal(tmp_path):
    """Factors differ, what they add does not: to the last digits, not to half of them."""
    base = network()
    files, pairs = factors(base, ["blocks.0.q"], 2, 5)
    ((a, b),) = pairs.values()
    turn = np.array([[3.0, 1.0], [-2.0, 0.5]])
    name = "base_model.model.blocks.0.q.lora_"
    turned = {f"{name}A.weight": turn @ a, f"{name}B.weight": b @ np.linalg.inv(turn) * 2}
    one, two = adapter(tmp_path / "a", files), adapter(tmp_path / "b", turned, lora_alpha=2)
    found = compare_adapters(base, one, two).overall
    assert found.drift == pytest.approx(found.other_drift, rel=1e-12)
    assert found.distance < 1e-13 * found.drift
    assert found.cosine == pytest.approx(1, abs=1e-14)
    # nearly equal: the distance is not what is left over from the norms
    near = {k: w * (1 + 1e-9 * k.endswith("B.weight")) for k, w in files.items()}
    found = compare_adapters(base, one, adapter(tmp_path / "near", near)).overall
    assert found.distance == pytest.approx(1e-9 * found.drift, rel=1e-5)


def test_deltas_are_not_formed(tmp_path):
    base = {"layers.0.weight": np.ones((1500, 1500), np.float32)}
    files = [factors(base, ["layers.0"], 2, seed)[0] for seed in (5, 6)]
    one, two = (adapter(tmp_path / str(i), content) for i, content in enumerate(files))
    compare_adapters(base, one, two)  # what is imported on the way
    tracemalloc.start()
    compare_adapters(base, one, two)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < base["layers.0.weight"].nbytes  # and half of what one would take


def test_deltas_of_convolutions_and_turned_weights(tmp_path):
    rng = np.random.default_rng(5)
    base = {
        "layers.0.weight": rng.standard_normal((5, 3, 3, 3)),
        "layers.1.weight": rng.standard_normal((4, 7)),  # stored as inputs x outputs
    }
    a, b = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((5, 2, 1, 1))
    c, d = rng.standard_normal((2, 4)), rng.standard_normal((7, 2))
    e, f = rng.standard_normal((2, 7)), rng.standard_normal((4, 2))
    name = "base_model.model.layers"
    conv = adapter(tmp_path / "conv", {f"{name}.0.lora_A.weight": a, f"{name}.0.lora_B.weight": b})
    turned = adapter(
        tmp_path / "turned",
        {f"{name}.1.lora_A.weight": c, f"{name}.1.lora_B.weight": d},
        fan_in_fan_out=True,
    )
    plain = adapter(
        tmp_path / "plain", {f"{name}.1.lora_A.weight": e, f"{name}.1.lora_B.weight": f}
    )
    update = 2 * np.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    zeros = np.zeros((4, 7))
    (found,) = compare_adapters(base, conv).layers
    share = np.linalg.norm(update) / np.linalg.norm(base["layers.0.weight"])
    assert found.drift == pytest.approx(share)
    found = compare_adapters(base, turned, plain, group="parameter")
    weight, one, two = base["layers.1.weight"], literal.delta(2, c, d).T, literal.delta(2, e, f)
    check_delta(found.overall, literal.deltas([weight], [one], [two]))
    # nothing in common: the second row has one delta, and no cosine
    found = compare_adapters(base, conv, turned)
    assert [layer.cosine for layer in found.layers] == [None, None]
    assert [layer.other_drift == 0 for layer in found.layers] == [True, False]
    check_delta(
        found.overall,
        {**literal.deltas([*base.values()], [update, zeros], [0 * update, one]), "cosine": 0.0},
    )
    assert "the adapters change no weight in common, so their cosine is 0" in found.notes


def test_deltas_of_weights_that_are_replaced(tmp_path):
    """Against an update, against another replacement, and on top of an update."""
    base = {name: weight.astype(np.float32) for name, weight in network().items()}
    rng = np.random.default_rng(8)
    files, pairs = factors(base, ["blocks.0.q", "blocks.1.q"], 2, 5)
    others, _ = factors(base, ["blocks.1.q"], 2, 6)
    new = {name: rng.standard_normal(base[name].shape) for name in ("blocks.0.q.weight",
           "blocks.1.q.bias", "head.weight")}  # fmt: skip
    as_saved = {f"base_model.model.{name}": weight for name, weight in new.items()}
    one = adapter(
        tmp_path / "a", {**files, "base_model.model.head.weight": 2 * base["head.weight"]}
    )
    two = adapter(tmp_path / "b", {**others, **as_saved})
    found = compare_adapters(base, one, two, group="parameter")
    rows = {layer.name: layer for layer in found.layers}
    assert set(rows) == {*new, "blocks.1.q.weight"}
    name = "blocks.0.q.weight"
    update = literal.delta(2, *pairs["blocks.0.q"])
    check_delta(rows[name], literal.deltas([base[name]], [update], [new[name] - base[name]]))
    name = "head.weight"
    check_delta(rows[name], literal.deltas([base[name]], [base[name]], [new[name] - base[name]]))
    bias = rows["blocks.1.q.bias"]
    assert (bias.drift, bias.cosine, bias.distance) == (0, None, bias.other_drift)
    both = {**files, "base_model.model.blocks.0.q.base_layer.weight": new["blocks.0.q.weight"]}
    found = compare_adapters(base, adapter(tmp_path / "both", both), group="parameter").layers[0]
    added = new["blocks.0.q.weight"] - base["blocks.0.q.weight"] + update
    share = np.linalg.norm(added) / np.linalg.norm(base["blocks.0.q.weight"])
    assert found.drift == pytest.approx(share, rel=1e-6)


def test_what_of_an_adapter_has_no_delta_is_said(tmp_path):
    base = network()
    files, _ = factors(base, ["blocks.0.q"], 2, 5)
    more = {
        "base_model.model.score.weight": np.ones((3, 6)),
        "base_model.model.head.weight": np.ones((9, 6)),
    }
    lora = adapter(tmp_path / "a", {**files, **more})
    found = compare_adapters(base, lora)
    assert [layer.name for layer in found.layers] == ["blocks.0"]
    assert [line.split(" (/")[0].split(" in ")[0] for line in found.left_out] == [
        "score.weight: only",
        "head.weight: (4, 6)",
    ]
    counts_of = {**base, "blocks.0.q.weight": np.ones((6, 5), np.int8)}
    with pytest.raises(CheckpointError, match="changes no trained floating-point weight of"):
        compare_adapters(counts_of, adapter(tmp_path / "b", files))
    untrained = adapter(tmp_path / "c", {k: w * ("A.w" in k) for k, w in files.items()})
    found = compare_adapters(base, lora, untrained)
    assert found.overall.other_drift == 0
    assert found.overall.cosine is None
    assert any("/c) adds nothing: its deltas are zero" in note for note in found.notes)
    empty = {**base, "blocks.0.q.weight": np.zeros((6, 5))}
    found = compare_adapters(empty, lora, lora).overall
    assert (found.base_norm, found.drift, found.distance) == (0, None, None)
    assert found.cosine == pytest.approx(1)


def test_adapters_that_cannot_be_compared(tmp_path):
    base = network()
    files, _ = factors(base, ["blocks.0.q"], 2, 5)
    good = adapter(tmp_path / "good", files, base_model_name_or_path="owner/one")
    save_file(base, tmp_path / "whole.safetensors")
    for first, second in ((tmp_path / "whole.safetensors", good), (good, base)):
        with pytest.raises(CheckpointError, match="is no adapter: it has neither"):
            compare_adapters(base, first, second)
    with pytest.raises(CheckpointError, match="an adapter, not a model"):
        compare_adapters(good, good)
    with pytest.raises(CheckpointError, match="without adapter_config"):
        compare_adapters(base, good / "adapter_model.safetensors")
    with pytest.raises(InputError, match="group must be one of block, parameter; got 'stage'"):
        compare_adapters(base, good, group="stage")
    cases: list[tuple[dict[str, np.ndarray], dict[str, Any], str]] = [
        (files, {"base_model_name_or_path": "owner/two"}, r"good\) on one and .* on two\."),
        ({k.replace("0", "9"): w for k, w in files.items()}, {},
         "changes blocks.9.q.weight, which .* does not have"),
        ({k: np.vstack([w, w[:2]]) if "B.w" in k else w for k, w in files.items()}, {},
         "of another size than blocks.0.q.weight"),
        ({k: w * math.nan if "B.w" in k else w for k, w in files.items()}, {},
         "factor B of blocks.0.q.weight of the adapter .* holds NaN"),
        ({**files, "base_model.model.head.weight": np.full((4, 6), math.inf)}, {},
         "head.weight of the adapter .* holds infinity"),
        (files, {"peft_type": "IA3"}, "type IA3"),
    ]  # fmt: skip
    for i, (content, settings, message) in enumerate(cases):
        with pytest.raises(CheckpointError, match=message):
            compare_adapters(base, good, adapter(tmp_path / str(i), content, **settings))
    broken = {**base, "blocks.0.q.weight": np.full((6, 5), math.nan)}
    with pytest.raises(CheckpointError, match=r"blocks.0.q.weight of the pre-trained .* NaN"):
        compare_adapters(broken, good)


def test_names_of_bases_are_told_apart(tmp_path):
    base = network()
    files, _ = factors(base, ["blocks.0.q"], 2, 5)
    hub = adapter(tmp_path / "hub", files, base_model_name_or_path="owner/one")
    local = adapter(tmp_path / "local", files, base_model_name_or_path="/data/one/")
    unnamed = adapter(tmp_path / "unnamed", files, base_model_name_or_path=None)
    for other in (local, unnamed):
        assert not any("that model" in note for note in compare_adapters(base, hub, other).notes)
    for folder, is_noted in (("one", False), ("models--owner--one", False), ("two", True)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "model.safetensors"
        save_file(base, path)
        notes = compare_adapters(path, hub, unnamed).notes
        assert [f"is {path} that model?" in note for note in notes] == [False, *[True] * is_noted]
    other = {"base_model_name_or_path": "owner/one", "revision": "f00d"}
    main = adapter(tmp_path / "main", files, **{**other, "revision": "main"})
    with pytest.raises(CheckpointError, match=r"on one \(main\) and .* on one \(f00d\)"):
        compare_adapters(base, main, adapter(tmp_path / "old", files, **other))


# ---------------------------------------------------------------- architectures

TIMM = [
    "resnet50", "resnet18d", "vit_small_patch16_224", "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224", "convnext_atto", "efficientnet_b0", "densenet121", "vgg11",
    "mobilenetv3_large_100", "regnety_002", "mixer_s32_224", "hrnet_w18_small", "inception_v3",
    "xception41", "ghostnet_100", "maxvit_tiny_tf_224", "cait_xxs24_224", "levit_128",
    "mobilevit_s", "res2net50_26w_4s", "dla34", "beit_base_patch16_224", "coat_tiny",
    "poolformer_s12", "pvt_v2_b0", "repvgg_a2", "resmlp_12_224", "eva02_tiny_patch14_224",
]  # fmt: skip
BLOCKS = {
    "resnet50": ("layer4.2", 16), "vit_small_patch16_224": ("blocks.11", 12),
    "swin_tiny_patch4_window7_224": ("layers.2.blocks.5", 12),
    "convnext_atto": ("stages.2.blocks.5", 12),
    "densenet121": ("features.denseblock1.denselayer6", 58),
    "regnety_002": ("s4.b7", 13), "vgg11": ("features.0", 8),
}  # fmt: skip
TEXT: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24,
}  # fmt: skip
TRANSFORMERS: list[tuple[str, str, dict[str, Any], str]] = [
    ("BertForSequenceClassification", "BertConfig", TEXT, "bert.encoder.layer.1"),
    ("RobertaForSequenceClassification", "RobertaConfig", TEXT, "roberta.encoder.layer.1"),
    ("LlamaForCausalLM", "LlamaConfig", TEXT, "model.layers.1"),
    ("MixtralForCausalLM", "MixtralConfig", {**TEXT, "num_key_value_heads": 2}, "model.layers.1"),
    ("GPT2LMHeadModel", "GPT2Config",
     {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2}, "transformer.h.1"),
    ("T5ForConditionalGeneration", "T5Config",
     {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
     "decoder.block.1"),
    ("ConvNextForImageClassification", "ConvNextConfig",
     {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 2, 1]}, "convnext.encoder.stages.2.layers.1"),
    ("SwinForImageClassification", "SwinConfig",
     {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2]}, "swin.encoder.layers.1.blocks.1"),
]  # fmt: skip


def check_blocks(model: Any) -> set[str]:
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items() if t.is_floating_point()}
    blocks = block_of_each(shapes)
    assert set(blocks) == set(shapes)  # each has one block ...
    by_block: dict[str, set[str]] = {}
    for name, block in blocks.items():
        by_block.setdefault(block, set()).add(name)
        # ... which it lies in
        assert block in ("stem", "head") or name == block or name.startswith(f"{block}.")
    ordered = in_order(blocks.values())
    assert len(ordered) == len(by_block)
    for one in by_block:  # and no block lies in another
        assert not any(other.startswith(f"{one}.") and by_block[other] for other in by_block)
    assert any(counts(name, shape, "weights") for name, shape in shapes.items())
    # the order of the names, which safetensors does not keep, does not matter
    assert block_of_each(dict(sorted(shapes.items(), reverse=True))) == blocks
    return set(by_block)


def test_transitions_stand_behind_the_stage_of_their_number():
    dense = [f"features.denseblock{i}.denselayer{j}" for i in range(1, 5) for j in (2, 11)]
    dense += [f"features.transition{i}" for i in range(1, 4)]
    ordered = in_order(["head", *sorted(dense), "stem"])
    assert [name.removeprefix("features.") for name in ordered] == [
        "stem",
        *("denseblock1.denselayer2", "denseblock1.denselayer11", "transition1"),
        *("denseblock2.denselayer2", "denseblock2.denselayer11", "transition2"),
        *("denseblock3.denselayer2", "denseblock3.denselayer11", "transition3"),
        *("denseblock4.denselayer2", "denseblock4.denselayer11", "head"),
    ]
    high_resolution = ["layer1.0", "stage2.0", "stage3.0", "transition1.0.0", "transition2.2.0"]
    assert in_order(high_resolution) == [
        *("layer1.0", "transition1.0.0", "stage2.0", "transition2.2.0", "stage3.0"),
    ]
    alone = ["transition1", "transition2", "transition10"]
    assert in_order(reversed(alone)) == alone


@pytest.mark.parametrize("name", TIMM)
def test_every_parameter_of_timm_lands_in_one_block(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    blocks = check_blocks(model)
    assert ("head" in blocks) == (model.num_classes > 0)
    if name in BLOCKS:
        example, n = BLOCKS[name]
        parent = example.split(".")[0].rstrip("0123456789")
        assert example in blocks
        assert sum(b.startswith(parent) and "sample" not in b for b in blocks) >= n


@pytest.mark.parametrize(("kind", "config", "settings", "example"), TRANSFORMERS)
def test_every_parameter_of_transformers_lands_in_one_block(
    tmp_path, kind, config, settings, example
):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    blocks = check_blocks(model)
    assert {example, "head"} <= blocks
    model.save_pretrained(tmp_path / "a")
    found = layer_transferability(
        architecture(str(tmp_path / "a")), tmp_path / "a", fine_tuned(model)
    )
    assert found.overall is not None
    assert example in values(found)
    assert not found.unmatched["other_shape"]


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_timm_architectures_compare(name):
    torch.manual_seed(0)
    random = timm.create_model(name).state_dict()
    pretrained = moved(random, 0.02, 0)
    found = layer_transferability(random, pretrained, moved(pretrained, 0.002, 1))
    assert 5 < found.overall < 20


# ---------------------------------------------------------------- what must be refused or said


def test_equal_files_have_no_ratio():
    found = layer_transferability(small(1), small(0), small(0))
    assert found.overall is None
    assert all(layer.distance_pretrained == 0 for layer in found.layers)
    assert all(layer.suggestion == "freeze" for layer in found.layers)
    assert "did not move" in found.layers[0].reason
    assert any("one file given twice" in note for note in found.notes)
    json.loads(found.to_json())


def test_swapped_files_are_noticed_where_they_can_be():
    random, pretrained = small(0), small(1)
    target = {name: w + 0.1 for name, w in pretrained.items()}
    good = layer_transferability(random, pretrained, target)
    assert good.overall > 1
    assert good.notes == ()
    swapped = layer_transferability(pretrained, random, target)
    assert swapped.overall < 1
    assert "were random and pre-trained swapped" in swapped.notes[0]
    found = layer_transferability(target, pretrained, target)
    assert found.overall == 0
    assert any("is the random file the fine-tuned one" in note for note in found.notes)


def test_other_architectures_are_refused():
    one, other = (
        timm.create_model(name).state_dict() for name in ("resnet18", "vit_tiny_patch16_224")
    )
    with pytest.raises(CheckpointError, match="different architectures: 0 of"):
        layer_transferability(None, one, other)
    with pytest.raises(CheckpointError, match=r"the random checkpoint are of different"):
        layer_transferability(other, one, moved(one, 0.1, 0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_weights_that_are_not_finite_are_refused(value, where):
    trio = [small(seed) for seed in range(3)]
    trio[where]["layers.2.weight"][3, 3] = value
    role = ("random", "pre-trained", "fine-tuned")[where]
    with pytest.raises(CheckpointError, match=rf"layers.2.weight of the {role} checkpoint holds"):
        layer_transferability(*trio)


def test_truncated_and_damaged_files_are_refused(tmp_path):
    whole = tmp_path / "whole.safetensors"
    save_file(small(0), whole)
    content = whole.read_bytes()
    header = int.from_bytes(content[:8], "little")
    broken = content.replace(b'"F32","shape":[6,6]', b'"F32","shape":[6,7]', 1)
    assert broken != content
    cases = {
        "cut": content[:-10],
        "no_tensors": content[: header + 8],
        "no_header": content[:20],
        "empty": b"",
        "other_shape": broken,
    }
    for name, part in cases.items():
        (tmp_path / f"{name}.safetensors").write_bytes(part)
        with pytest.raises(CheckpointError, match=r"damaged|empty"):
            layer_transferability(None, small(0), tmp_path / f"{name}.safetensors")
    torch.save({"w.weight": torch.ones(400, 400)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged"):
        layer_transferability(None, small(0), tmp_path / "w.pth")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(small(0), path)
    from contextlib import ExitStack

    from transferscope.parameter_distance._checkpoints import open_checkpoint

    with ExitStack() as files:
        checkpoint = open_checkpoint(path, "fine-tuned", files)
        os.truncate(path, path.stat().st_size - 36 * 4 * 5)
        tensor = checkpoint.tensors["layers.0.weight"]
        with pytest.raises(CheckpointError, match="was cut while it was read"):
            tensor.read(0, tensor.size)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_pickles_with_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w.weight": torch.ones(2, 2), "x": Bomb()}, "bomb.pth")
    Path("bomb.ckpt").write_bytes(pickle.dumps({"w.weight": Bomb()}))
    for name in ("bomb.pth", "bomb.ckpt"):
        with pytest.raises(CheckpointError, match="is refused"):
            layer_transferability(None, small(0), name)
    assert not Path("exploded").exists()


def test_folders_and_indices_that_lead_nowhere(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    several = tmp_path / "several"
    several.mkdir()
    for name in ("x.safetensors", "y.safetensors"):
        save_file(small(0), several / name)
    absent = tmp_path / "absent.safetensors.index.json"
    absent.write_text(json.dumps({"weight_map": {"a.weight": "gone.safetensors"}}))
    outside = tmp_path / "outside.safetensors.index.json"
    outside.write_text(json.dumps({"weight_map": {"a.weight": "../gone.safetensors"}}))
    older = several / "older.safetensors.index.json"
    older.write_text(json.dumps({"weight_map": {"new.weight": "x.safetensors"}}))
    no_map, no_json = tmp_path / "n.index.json", tmp_path / "j.index.json"
    no_map.write_text("{}")
    no_json.write_text("{")
    for source, message in {
        empty: "holds no weights file",
        absent: "is not in its folder",
        outside: "is not in its folder",
        older: "are in no shard",
        no_map: "no index of shards",
        no_json: "cannot be read",
        tmp_path / "nowhere.pth": "cannot be opened",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            layer_transferability(None, small(0), source)
    older.unlink()
    with pytest.raises(CheckpointError, match="several weights files"):
        layer_transferability(None, small(0), several)


def test_sources_that_are_no_checkpoints():
    for source in (3, [1, 2], lambda: None):
        with pytest.raises(CheckpointError, match="must be a state dict"):
            layer_transferability(None, source, small(0))
    with pytest.raises(CheckpointError, match="random must be"):
        layer_transferability(3, small(0), small(1))
    for source in ({}, {"epoch": 3}, {"steps": np.arange(3)}):
        with pytest.raises(CheckpointError, match="no floating-point tensor"):
            layer_transferability(None, source, small(0))
    with pytest.raises(CheckpointError, match="holds no weights to compare"):
        layer_transferability(None, {"norm.bias": np.ones(3)}, {"norm.bias": np.ones(3)})
    with torch.device("meta"), pytest.raises(CheckpointError, match="meta device"):
        layer_transferability(None, torch.nn.Linear(2, 2), small(0))
    eight = {"w.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}
    assert layer_transferability(None, eight, eight).layers[0].distance_pretrained == 0


def test_stored_float8_needs_scales(tmp_path):
    from safetensors.torch import save_file as save_tensors

    path = tmp_path / "f8.safetensors"
    save_tensors({"w.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(CheckpointError, match="stored as F8_E4M3"):
        layer_transferability(None, small(0), path)


@pytest.mark.parametrize(
    ("option", "value"),
    [("measure", "l3"), ("group", "stage"), ("parameters", "some"), ("seeds", -1)],
)
def test_unknown_options_are_refused(option, value):
    with pytest.raises(InputError, match=option):
        layer_transferability(None, small(0), small(1), **{option: value})


def test_a_tensor_of_zeros_has_no_direction():
    base = {"layers.0.weight": np.zeros((2, 2)), "layers.1.weight": np.eye(2)}
    target = {name: w + 1 for name, w in base.items()}
    found = layer_transferability(target, base, target, measure="cosine")
    assert found.layers[0].transferability is None
    assert "zeros" in found.layers[0].reason
    assert found.layers[0].drift is None


def test_inputs_are_not_modified(triple):
    before = [{name: t.clone() for name, t in weights.items()} for weights in triple]
    layer_transferability(*triple)
    for now, then in zip(triple, before, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)


def test_record_converts(triple):
    found = layer_transferability(*triple)
    assert LayerDistances.from_json(found.to_json()) == found
    record = json.loads(found.to_json())
    assert {"overall", "layers", "unmatched", "measure"} <= set(record)
    wanted = {"name", "transferability", "distance_random", "distance_pretrained", "n_parameters"}
    assert wanted <= set(record["layers"][0])
    assert list(found.to_frame().index) == list(literal.RESNET50)


def test_runs_of_this_library(tmp_path):
    """`pretrain` keeps no head in its first file, `finetune` calls its own target_head."""
    rng = np.random.default_rng(0)
    shapes = {"patches.weight": (4, 3), "blocks.0.a.weight": (4, 4), "blocks.0.b.weight": (4, 4)}
    shapes |= {"blocks.1.a.weight": (4, 4), "blocks.1.b.weight": (4, 4)}
    files = []
    for i in range(3):
        state = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        if i:
            state["target_head.weight"] = rng.standard_normal((2, 4))
        files.append(tmp_path / f"{i}.safetensors")
        save_file(state, files[-1])
    found = layer_transferability(*files)
    assert [layer.name for layer in found.layers] == ["stem", "blocks.0", "blocks.1", "head"]
    assert found.head == ("head",)
    without = [layer.transferability for layer in found.layers[:-1]]
    assert found.overall == pytest.approx(np.mean(without))
    figure = plot_layer_distances({"mine": found})
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["stem", "blocks.0", "blocks.1"]  # a head without a value takes no room


def test_figure_has_a_curve_per_target(triple, tmp_path):
    pytest.importorskip("matplotlib")
    found = layer_transferability(*triple)
    frozen = dataclasses.replace(
        found,
        layers=tuple(
            dataclasses.replace(layer, transferability=None) if layer.name == "stem" else layer
            for layer in found.layers
        ),
    )
    figure = plot_layer_distances({"one": found, "two": frozen})
    (axes,) = figure.axes
    (legend,) = figure.legends
    assert [text.get_text().split(" ")[0] for text in legend.get_texts()] == ["one", "two"]
    assert axes.get_xticklabels()[-1].get_text() == "head"
    drawn = axes.lines[0].get_ydata()
    assert drawn == pytest.approx([layer.transferability for layer in found.layers])
    save_figure(figure, tmp_path / "a.png")
    assert shows_data(tmp_path / "a.png")
    with pytest.raises(InputError, match="no transferability to draw"):
        plot_layer_distances({"none": layer_transferability(None, small(0), small(1))})


def test_safetensors_are_compared_without_torch(tmp_path):
    for seed, name in enumerate("rab"):
        save_file(small(seed), tmp_path / f"{name}.safetensors")
    code = (
        "import sys; from transferscope.parameter_distance import layer_transferability as f;"
        f"f(*[r'{tmp_path}/' + n + '.safetensors' for n in 'rab']);"
        "print(any(m in sys.modules for m in ('torch', 'matplotlib', 'pandas', 'statsmodels')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
