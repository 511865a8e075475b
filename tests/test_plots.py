"""Figures: drawn from records alone, and really drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pictures import shows_data
from transferscope.errors import InputError, StoreError
from transferscope.evaluation import evaluate
from transferscope.metrics import trace_ped
from transferscope.plots import (
    plot_agreement,
    plot_layers,
    plot_ped,
    plot_scores,
    save_figure,
)
from transferscope.results import EncoderResult, Ranking, Score

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture
def trace():
    rng = np.random.default_rng(0)
    labels = np.repeat(["ant", "bee", "cat"], 40)
    features = 0.5 * np.eye(3, 8)[np.repeat(np.arange(3), 40)] + rng.standard_normal((120, 8))
    return trace_ped(features, labels)


def test_trace_is_what_ped_does(trace):
    assert trace.class_names == ("ant", "bee", "cat")
    assert all(a > b for a, b in zip(trace.energies, trace.energies[1:], strict=False))
    before, after = np.array(trace.before), np.array(trace.after)
    gaps = [np.linalg.norm(x[:, None] - x[None, :], axis=2) for x in (before, after)]
    assert (gaps[1] >= gaps[0]).all()
    assert gaps[1].sum() > gaps[0].sum()
    assert 0.9 < trace.explained <= 1 + 1e-12  # three means lie in a plane
    assert trace.displacement > 0
    assert "without a reference task" in trace.warnings[0]


def test_reference_sets_the_scale():
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((60, 4)), np.arange(60) % 2
    wide = 10 * rng.standard_normal((50, 4))
    alone = trace_ped(features, labels)
    beside = trace_ped(features, labels, reference_features=wide)
    assert beside.displacement != alone.displacement
    assert beside.warnings == ()


def test_two_classes_lie_on_a_line():
    rng = np.random.default_rng(2)
    trace = trace_ped(rng.standard_normal((40, 1)), np.arange(40) % 2)
    assert all(abs(y) < 1e-12 for _, y in trace.before)
    plot_ped(trace)


def test_figure_shows_every_class_and_step(trace, tmp_path):
    figure = plot_ped(trace)
    plane, energy = figure.axes
    assert {text.get_text() for text in plane.texts} == {"ant", "bee", "cat"}
    assert len(energy.lines[0].get_xdata()) == len(trace.energies)
    for name in ("a.png", "new/b.svg"):
        save_figure(figure, tmp_path / name)
        assert shows_data(tmp_path / name)
    with pytest.raises(StoreError, match="cannot be written"):
        save_figure(figure, tmp_path / "c.what")


def test_record_converts(trace):
    assert list(trace.to_frame().index) == ["ant", "bee", "cat"]
    assert json.loads(trace.to_json())["energies"][0] == trace.energies[0]


def test_one_class_is_refused():
    with pytest.raises(InputError, match="at least two classes"):
        trace_ped(np.eye(4), [0, 0, 0, 0])


@pytest.fixture
def agreement():
    rng = np.random.default_rng(0)
    truth = {d: {f"e{i}": 80 + i for i in range(5)} for d in ("pets", "cars")}
    scores = {
        d: {m: {e: v + rng.standard_normal() for e, v in row.items()} for m in ("logme", "knn")}
        for d, row in truth.items()
    }
    scores["cars"]["knn"] = dict.fromkeys(truth["cars"], 1.0)
    del scores["pets"]["logme"]["e0"]
    return evaluate(scores, truth)


def test_heat_map_shows_every_cell(agreement):
    for measure in ("weighted_tau", "regret@1"):
        axes = plot_agreement(agreement, measure).axes[0]
        assert [t.get_text() for t in axes.get_xticklabels()] == ["pets", "cars", "average"]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["logme", "knn"]
        shown = [t.get_text() for t in axes.texts]
        assert shown[0] == f"{agreement['pets', 'logme'][measure].value:.2f}"
        assert (shown[4] == "-") == (measure == "weighted_tau")  # constant scores


def test_scatter_shows_every_encoder(agreement, tmp_path):
    figure = plot_scores(agreement)
    assert len(figure.axes) == 4
    points = [len(axes.collections[0].get_offsets()) for axes in figure.axes]
    assert points == [4, 5, 5, 5]
    assert figure.axes[3].get_title().endswith("weighted tau -")
    save_figure(figure, tmp_path / "a.png")


def test_layers_are_drawn_a_panel_per_metric_and_a_line_per_encoder():
    def row(name, values, chosen):
        layers = {
            layer: {"logme": Score(value), "knn": Score(value / 2)}
            for layer, value in zip(("layer1", "layer2", "pooled"), values, strict=True)
        }
        return EncoderResult(name, rank=1, layers=layers, layer=chosen)

    rows = (row("one", (0.1, 0.3, 0.2), "layer2"), row("two", (0.2, 0.1, 0.4), "pooled"))
    figure = plot_layers(Ranking({}, "logme", (*rows, EncoderResult("failed", error="no")), ""))
    drawn = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in drawn] == ["logme", "knn"]
    for axes, scale in zip(drawn, (1.0, 0.5), strict=True):
        lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
        assert [list(line.get_ydata()) for line in lines] == [
            [scale * v for v in (0.1, 0.3, 0.2)],
            [scale * v for v in (0.2, 0.1, 0.4)],
        ]
        chosen = [line for line in axes.get_lines() if len(line.get_xdata()) == 1]
        assert [line.get_ydata()[0] for line in chosen] == [0.3 * scale, 0.4 * scale]
    with pytest.raises(InputError, match='layers="all"'):
        plot_layers(Ranking({}, "logme", (EncoderResult("one"),), ""))
