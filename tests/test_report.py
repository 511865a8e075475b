"""The report: one page that holds what the records hold, and nothing that anybody else wrote."""

from __future__ import annotations

import ast
import base64
import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from transferscope import cli
from transferscope.errors import InputError, MissingExtraError
from transferscope.report import report_html
from transferscope.results import (
    Confusion,
    DatasetSummary,
    EncoderResult,
    ExpectedAccuracy,
    LayerDistance,
    LayerDistances,
    Misjudged,
    Ranking,
    Relatedness,
    SampleMap,
    SampleViews,
    Score,
    ShownSample,
    Verdict,
    loading,
    loading_line,
)

pytest.importorskip("jinja2", reason="jinja2 is not installed")

METRICS = ("logme", "knn", "h_score", "lda", "gbc", "transrate", "parc", "nleep")


def encoder(place: int, name: str, metrics=METRICS, *, layers: bool = False) -> EncoderResult:
    rng = np.random.default_rng(place)
    loss = 0.002 * place
    measured = place % 3 != 2
    scores = {
        m: Score(float(rng.normal()), ("few samples",) if place == 1 else (), 0.1, -3.0, 3.0)
        for m in metrics
    }
    depth = {f"block{i}": scores for i in (1, 2)} | {"pooled": scores}
    return EncoderResult(
        name,
        place + 1,
        scores if measured else {},
        p_best=max(0.0, 0.4 - 0.1 * place),
        in_group=loss < 0.005,
        expected=ExpectedAccuracy(
            0.93 - loss, 0.88 - loss, 0.96 - loss, 0.01, loss, loss - 0.02, loss + 0.03,
            loss + 0.001, 0.9 if measured else None, 200 * measured, loss, 5,
            float(rng.uniform(0.001, 0.02)),
        ),
        n_parameters=int(rng.integers(10**6, 10**9)),
        feature_dim=768,
        input_size=(224, 224),
        samples_per_second=100.0,
        layer="pooled" if layers and measured else None,
        layers=depth if layers and measured else {},
        warnings=("features are float16",) if place == 0 else (),
        license=("mit", "apache-2.0", "")[place % 3],
        family=("vit", "resnet")[place % 2],
        curve=((1024, 0.85), (4000, 0.9)) if place in (0, 3) else (),
    )  # fmt: skip


def ranked(n: int, **facts) -> Ranking:
    """A ranking of `n` encoders, every third of them not measured."""
    names = facts.pop(
        "names", [f"timm/vit_base_patch16_224.augreg_in21k_{i:03d}" for i in range(n)]
    )
    rows = tuple(
        encoder(i, name, facts.get("metrics", METRICS), layers=facts.get("layers", False))
        for i, name in enumerate(names)
    )
    note = facts.get("note", "labels were read as names")
    verdict = Verdict(
        names[0], f"Fine-tune {names[0]}.", "speed", 0.005, 0.001, 0.1, n, n * 2 // 3, "settled",
        321.0, (note,),
    )  # fmt: skip
    data = DatasetSummary(
        facts.get("data", "birds"), "train", "classification", 4000, 200, 1, "c0ffee" * 4, (note,)
    )
    return Ranking(
        data, "expected accuracy after fine-tuning", rows, verdict.reason, 7, verdict,
        confusion=confused(names[:2], facts.get("classes", ("crow", "raven", "rook"))),
        samples=facts.get("samples"),
        steps={"data set": 1.5, "features": 300.0},
        versions={"python": "3.13.1", "transferscope": "0.1.0", "torch": "2.13.0"},
    )  # fmt: skip


def confused(names, classes) -> Confusion:
    """Of 20 samples a class one is taken for the next class, and two by the second encoder."""
    n = len(classes)
    counts = {
        name: tuple(
            tuple(20 - wrong if i == j else wrong if j == (i + 1) % n else 0 for j in range(n))
            for i in range(n)
        )
        for wrong, name in enumerate(names, start=1)
    }
    return Confusion(tuple(classes), (20,) * n, counts, n)


#: A red dot.
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/"
    "iZk9HQAAAABJRU5ErkJggg=="
)


def shown(names, modality="image", text="a crow") -> SampleViews:
    """Samples of three classes, two of them misjudged, one of these by both encoders."""
    labels = ("crow", "raven", "rook")
    content = {"image": DOT, "text": text, "array": ""}[modality]
    samples = tuple(
        ShownSample(f"photos/{labels[i % 3]}/{i}.jpg", labels[i % 3], content) for i in range(9)
    )
    places = tuple((i, float(i % 3), float(i // 3)) for i in range(9))
    mistakes = (Misjudged(4, "crow", 0.75), Misjudged(2, "raven", 0.5))
    # the second agrees on the fourth sample, though it is not among those that it misjudges most
    predicted = [
        tuple({4: "crow", 2: second}.get(i, labels[i % 3]) for i in range(9))
        for second in ("raven", "rook")
    ]
    maps = tuple(
        SampleMap(name, places, seen, 0.5, ranked_mistakes)
        for name, seen, ranked_mistakes in zip(names[:2], predicted, (mistakes, ()), strict=True)
    )
    return SampleViews(modality, samples, maps)


def by_scores(n: int) -> Ranking:
    ranking = ranked(n)
    rows = tuple(replace(row, expected=None, curve=()) for row in ranking.encoders)
    return replace(ranking, encoders=rows, verdict=None, ranked_by="consensus of logme, knn",
                   confusion=None)  # fmt: skip


RELATED = Relatedness(
    setting="sparse", bound=1.5, reference_loss=0.25, label_mismatch=0.5,
    distribution_mismatch=0.75, tau=0.5, wasserstein=1.5, transformed_loss=1.0,
    transformed_accuracy=0.5, target_loss=None, target_accuracy=None, free_loss=None,
    free_accuracy=None, noise_floor=0.5, standard_errors={"bound": 0.1}, unlabelled=False,
    pseudo_label_agreement=None, condition_number=3.0, matrix=None, offset=None,
    label_matrix=np.eye(2), reference_prior=np.array([0.5, 0.5]), reference_classes=("a", "b"),
    target_classes=("c", "d"), steepness_path=(), trace=(), view=None, target_terms=None,
    held_out_rows=None,
)  # fmt: skip


class Outline(HTMLParser):
    """The structure of a page: its tags and names of attributes; and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[object] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.code: dict[str, list[str]] = {}
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.elements.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")
        self._in = ""

    def handle_data(self, data):
        self.texts.append(data)
        if self._in in ("style", "script", "code", "title"):
            self.code.setdefault(self._in, []).append(data)

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def handle_decl(self, decl):
        self.tags.append(("declaration", decl))

    def unknown_decl(self, data):
        self.tags.append(("unknown", data))

    def handle_pi(self, data):
        self.tags.append(("instruction", data))

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


# --- what others wrote ----------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea></pre></code><b>bold</b>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "</svg><iframe src=javascript:alert(1)>",
    "<a href='javascript:alert(1)'>here</a>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    '"><script>alert(1)</script>',
    "'><img src=x>",
    "<!-- hidden",
    "--><b>bold</b>",
    "<![CDATA[<b>bold</b>]]>",
    "<?xml version='1.0'?>",
    "<!doctype html>",
    "{{ 7 * 7 }}",
    "{% for i in range(9) %}x{% endfor %}",
    "{# gone #}{{ self.__init__.__globals__ }}",
    "${alert(1)} `alert(1)` $(alert)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\x00<b\x00>\x1b[31mred\x07\x7f\x9b",
    "line\r\nbreak\x0b\x0c<b>",
    "\u202ekcab\u2066x\u2069\u200f\u061c<b>",
    "\u05e9\u05dc\u05d5\u05dd <b>\u05e2\u05d5\u05dc\u05dd</b>",
    "\ud800 lone \udfff <b>",
    "\ufffe\uffff\u2028\u2029<b>",
    "a" * 5000 + "<b>",
    "</td></tr></table><table><tr><td>cell",
    "<base href=//x.example><meta http-equiv=refresh content=0>",
    "<template><style>*{display:none}</style></template>",
)


def with_text(text: str) -> Ranking:
    """A ranking that holds a text wherever others may write."""
    names = [
        f"timm/{text}",
        f"{text}/hf",
        f"hf/{text}?{text}",
        f"torchvision/{text}?weights={text}",
    ]
    ranking = ranked(len(names), names=names, data=text, note=text, metrics=(text, "logme"),
                     layers=True)  # fmt: skip
    rows = [
        replace(
            row,
            warnings=(text,),
            skipped={text + "?": text},
            scores={m: replace(s, warnings=(text,)) for m, s in row.scores.items()},
            layer=text if row.layers else None,
            layers={text if k == "pooled" else k: v for k, v in row.layers.items()},
            license=text,
            family=text,
        )
        for row in ranking.encoders
    ]
    assert ranking.verdict is not None
    samples = shown(names, "text", text)
    samples = replace(
        samples,
        samples=tuple(replace(one, where=text, label=text) for one in samples.samples),
        maps=tuple(
            replace(
                one,
                predicted=(text,) * len(one.places),
                misjudged=tuple(replace(m, predicted=text) for m in one.misjudged),
            )
            for one in samples.maps
        ),
    )
    return replace(
        ranking,
        confusion=confused(names[:2], (text, f"{text}?")),
        samples=samples,
        steps={text: 1.0},
        versions={text: text},
        dataset=replace(ranking.dataset, split=text, fingerprint=text),
        encoders=(*rows, EncoderResult(f"{text}/failed", error=text)),
        advice=text,
        ranked_by=text,
        verdict=replace(ranking.verdict, reason=text, stopped=text),
    )


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_becomes_markup(text):
    from transferscope.report._text import visible

    def page(word: str) -> str:
        one, other = with_text(word), with_text(word)
        layers = (LayerDistance(word, 1.5, reason=word),)
        beside = {word: LayerDistances(1.5, layers, word, word, word, 0.1, notes=(word,))}
        return report_html(one, other, names=(f"{word} A", f"{word} B"), beside=beside)

    hostile = page(text)
    hostile.encode()  # no lone surrogate is left
    found, usual = Outline(hostile), Outline(page("n" * len(visible(text))))
    assert found.tags == usual.tags
    assert len(found.tags) > 500
    # what is ours is the same to the letter
    assert found.code["style"] == usual.code["style"]
    assert found.code["script"] == usual.code["script"]
    # and it is not dropped, but shown
    assert " ".join(visible(text).split()) in found.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", hostile)


@pytest.mark.parametrize("text", HOSTILE[:-3], ids=range(len(HOSTILE) - 3))
@pytest.mark.parametrize("prefix", ["timm/", "torchvision/", "hf/", "mini/", "checkpoint:"])
def test_lines_that_load_hold_a_name_as_a_literal_alone(prefix, text):
    from transferscope.report._text import visible

    for one in loading(prefix + text, of_images=False):
        tree = ast.parse(visible(one.code))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert len(calls) == (2 if "AutoModel" in one.code else 1)
        for call in calls:
            assert all(isinstance(argument, ast.Constant) for argument in call.args)
        if "load_encoder" in one.code:
            assert calls[0].args[0].value == prefix + text


# --- nothing is fetched ---------------------------------------------------------------------------


@pytest.mark.parametrize("rankings", [(ranked(4, layers=True),), (ranked(4), by_scores(5))])
def test_nothing_is_fetched_and_only_our_script_runs(rankings):
    page = Outline(report_html(*rankings))
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "audio", "video", "image")
        assert not {"src", "srcset", "action", "xlink:href", "style"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert attributes["href"].startswith("#") or attributes["href"] == "data:,"
    (style,), (script,) = page.code["style"], page.code["script"]
    assert "url(" not in style
    assert "@import" not in style
    for word in ("fetch", "XMLHttp", "import(", "innerHTML", "outerHTML", "document.write", "eval"):
        assert word not in script
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize(("n", "most"), [(20, 400_000), (300, 1_500_000)])
def test_it_is_small_and_quick(n, most):
    report_html(ranked(2))  # imports and templates
    ranking = ranked(n)
    seconds = []
    for _ in range(3):  # a busy machine must not fail this
        start = time.process_time()
        page = report_html(ranking)
        seconds.append(time.process_time() - start)
    assert len(page.encode()) <= most
    assert min(seconds) < 1


# --- it says what the records say -----------------------------------------------------------------


def rows_of(page: str, table: str) -> list[list[str]]:
    """Cells of the rows of a table."""
    whole = re.search(rf'<table id="{table}">.*?<tbody>(.*?)</tbody>', page, re.S)
    return [
        [" ".join(re.sub("<[^>]+>", "", cell).split()) for cell in
         re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for row in whole[1].split("</tr>")[:-1]
    ]  # fmt: skip


def test_the_table_is_the_ranking():
    ranking = ranked(30)
    page = report_html(ranking)
    found = rows_of(page, "table")
    assert len(found) == 30
    for cells, row in zip(found, ranking.encoders, strict=True):
        assert cells[0] == str(row.rank)
        assert cells[1].startswith(row.encoder)
        assert cells[2].startswith(f"{100 * row.expected.mean:.1f} (")
        assert cells[3].startswith(f"{100 * row.expected.loss:.1f} (")
        assert ("not measured" in cells[1]) == (row.expected.probe is None)
        assert ("recommended" in cells[1]) == (row.rank == 1)
        assert cells[-len(METRICS) :] == [
            f"{row.scores[m].value:.1f} ± 3.0".replace("-0.0", "0.0") if m in row.scores else ""
            for m in METRICS
        ]
    values = [float(v) for v in re.findall(r'data-v="([^"]+)">9[0-9.]+ \(', page)]
    assert values == [row.expected.mean for row in ranking.encoders if row.expected.mean >= 0.9]
    later = [
        " later" in row for row in re.findall("<tr[^>]*>(?=<td>)", page.partition("</table>")[0])
    ]
    assert later == [place >= 25 for place in range(30)]


def test_a_ranking_gives_its_page():
    assert ranked(3).to_html() == report_html(ranked(3))


def test_all_that_was_run_is_said():
    ranking = ranked(5, layers=True)
    text = Outline(report_html(ranking)).text
    for said in (
        *("Which encoder for birds ?", "Fine-tune timm/vit_base", "c0ffee" * 4, "4,000"),
        *("more would hardly have changed the choice", "5.3 min", "3 of 5 candidates", "seed 7"),
        *("with probability 0.10", "labels were read as names", "features are float16"),
        *("few samples", "You et al., ICML 2021", "Cover & Hart, 1967"),
        *("data set 1.5 s", "features 5.0 min", "torch 2.13.0"),
        'timm.create_model("vit_base_patch16_224.augreg_in21k_000", pretrained=True)',
    ):
        assert said in text, said


def test_hard_classes_are_named():
    page = report_html(ranked(4))
    text = Outline(page).text
    assert "probability that no other is better 0.40" in text
    assert "hardest classes crow (19 of 20 recognised); raven (19 of 20 recognised)" in text
    assert "most often confused crow and raven (1 of 40 samples)" in text
    table = re.search(r'id="pairs-caption".*?</table>', page, re.S)[0]
    rows = [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall("<tr>.*?</tr>", table)
    ]
    assert rows[0][-1].startswith("<bdi>timm/vit_base_patch16_224.augreg_in21k_001</bdi>")
    assert [row[1:] for row in rows[1:]] == [
        ["1 of 20", "0 of 20", "1", "2"],
        ["0 of 20", "1 of 20", "1", "2"],  # crow and rook
        ["1 of 20", "0 of 20", "1", "2"],
    ]
    matrix = re.search(r'id="matrix-caption".*?</table>', page, re.S)[0]
    assert matrix.count('<td class="t4">19</td>') == 3
    assert matrix.count('<td class="t-1">1</td>') == 3
    # of very many classes there are the hardest alone
    many = replace(confused(["timm/a"], ("x", "y")), n_classes=500)
    page = report_html(replace(ranked(1, names=["timm/a"]), confusion=many))
    assert "What each class is taken for" not in page
    assert "of the classes below" in page


def test_the_next_cheaper_is_named_with_its_loss():
    ranking = ranked(9)
    text = Outline(report_html(ranking)).text
    chosen = ranking.encoders[0]
    cheaper = [
        row
        for row in ranking.encoders
        if row.scores
        and 1.5 * row.expected.seconds_per_sample <= chosen.expected.seconds_per_sample
    ]
    best = min(cheaper, key=lambda row: row.expected.loss)
    found = best.expected
    share = found.seconds_per_sample / chosen.expected.seconds_per_sample
    loss = (
        f"{100 * found.loss:.1f} ({100 * found.loss_low:.1f} to {100 * found.loss_high:.1f}) "
        f"points less, for {share:.2f} of the milliseconds per sample"
    )
    assert f"next cheaper {best.encoder}: {loss}" in text
    alone = replace(ranking, encoders=(chosen,))
    assert "none that was measured costs 1.5 times less" in Outline(report_html(alone)).text


def test_what_more_samples_bring_is_drawn():
    page = report_html(ranked(5))
    assert "What more samples bring" in page
    described = re.search(r'<desc id="curve-figure-desc">(.*?)</desc>', page)[1]
    assert "85.0 of 1,024, 90.0 of 4,000" in described
    assert "What more samples bring" not in report_html(by_scores(5))


@pytest.mark.parametrize("modality", ["image", "text", "array"])
def test_samples_are_shown_where_they_were_asked_for(modality):
    names = ["timm/a", "timm/b"]
    page = report_html(ranked(2, names=names, samples=shown(names, modality)))
    text = Outline(page).text
    assert page.count(' data-s="') == 18
    assert "The 2 most misjudged samples" in text
    assert "Where labels are wrong, they are among the first" in text
    table = re.search(r'id="misjudged-caption".*?</table>', page, re.S)[0]
    first, second = re.findall("<tr><th.*?</tr>", table, re.S)[1:]
    assert "photos/raven/4.jpg" in first
    cells = [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td.*?</td>", first, re.S)]
    assert cells[-4:] == [
        "raven", "crow", "0.75", "1 of 1",
    ]  # fmt: skip
    assert "0 of 1" in second
    # kept once for pointing at, and in the table
    assert page.count(DOT) == (11 if modality == "image" else 0)
    assert text.count("a crow") == (11 if modality == "text" else 0)
    # nothing of the data gets into a page that nobody asked for samples of
    assert "photos/" not in report_html(ranked(2, names=names))


def test_an_image_is_an_image_or_nothing():
    names = ["timm/a", "timm/b"]
    for content in ("https://x.example/i.png", "data:text/html,<b>", "data:image/svg+xml,<svg/>"):
        found = shown(names)
        found = replace(found, samples=tuple(replace(s, content=content) for s in found.samples))
        assert "<img" not in report_html(ranked(2, names=names, samples=found))


def test_other_results_stand_beside():
    layers = (LayerDistance("stem", 1.25, n_parameters=7), LayerDistance("head", reason="new"))
    distances = LayerDistances(1.25, layers, "l2", "all", "3 seeds", 0.1, notes=("few seeds",))
    text = Outline(report_html(ranked(2), beside={"mine": distances})).text
    assert "mine: layer transferability" in text
    assert distances.headline in text
    assert "stem 1.25" in text
    assert "few seeds" in text
    with pytest.raises(InputError, match=r"beside a ranking.*mine is Ranking"):
        report_html(ranked(2), beside={"mine": ranked(2)})


def test_encoders_are_loaded_in_a_line():
    assert loading_line("timm/resnet18", of_images=True) == (
        'import timm; model = timm.create_model("resnet18", pretrained=True)'
    )
    assert loading_line("torchvision/resnet18?weights=IMAGENET1K_V1", of_images=True) == (
        "from torchvision.models import get_model; "
        'model = get_model("resnet18", weights="IMAGENET1K_V1")'
    )
    line = loading_line("hf/a/b?pooling=first", of_images=False)
    assert line == (
        "from transformers import AutoModel, AutoTokenizer; "
        'tokenizer = AutoTokenizer.from_pretrained("a/b"); '
        'model = AutoModel.from_pretrained("a/b")'
    )
    ast.parse(line)
    assert loading_line("mine", of_images=True) == ""


def test_an_encoder_without_a_name_of_ours_has_no_line():
    page = Outline(report_html(ranked(2, names=["resnet of mine", "timm/a"])))
    assert "given as an object" in page.text
    assert "code" not in page.code


def test_failures_are_told():
    ranking = ranked(3)
    failed = EncoderResult("hf/gone", error="it cannot be downloaded")
    text = Outline(report_html(replace(ranking, encoders=(*ranking.encoders, failed)))).text
    assert "Encoders that failed" in text
    assert "it cannot be downloaded" in text
    alone = replace(ranking, encoders=(failed,), verdict=None, advice="No encoder could be ranked.")
    page = Outline(report_html(alone))
    assert page.code["title"][0] == "birds: no encoder could be ranked"
    assert "it cannot be downloaded" in page.text


def test_without_a_verdict_there_are_scores_alone():
    page = report_html(by_scores(45))
    text = Outline(page).text
    assert "expected, %" not in text
    assert "Accuracy against cost" not in text
    assert "ranked by consensus of logme, knn" in text
    assert "probability that its scores come first over other samples 0.40" in text
    assert "no other is better" not in page
    # 45 less those without scores are fewer than one drawing has rows
    assert page.count("<svg ") == len(METRICS)


def test_two_stand_side_by_side():
    first = ranked(4)
    second = replace(ranked(5), encoders=tuple(reversed(ranked(5).encoders)), seed=8)
    second = replace(
        second, encoders=tuple(replace(r, rank=i + 1) for i, r in enumerate(second.encoders))
    )
    page = report_html(first, second, names=("before", "after"))
    found = rows_of(page, "compare-table")
    assert [row[0] for row in found] == ["1", "2", "3", "4"]
    assert [row[2] for row in found] == ["5", "4", "3", "2"]
    assert [row[3] for row in found] == ["-4", "-2", "0", "+2"]
    assert [row[6] for row in found] == ["0.0"] * 4
    text = Outline(page).text
    assert "seed differs 7 8" in text
    assert "split differs" not in text
    assert "only in after timm/vit_base_patch16_224.augreg_in21k_004" in text
    assert [i for i, _ in enumerate(re.findall("<article", page))] == [0, 1, 2]


def test_what_is_no_ranking_is_refused():
    with pytest.raises(InputError, match="got dict"):
        report_html({})
    with pytest.raises(InputError, match="names must differ"):
        report_html(ranked(2), ranked(2), names=("a", "a"))


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"transferscope\[report\]"):
        report_html(ranked(2))


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_rank_correlation_is_scipys(seed):
    from transferscope.report._view import kendall

    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 6, (2, 15)).astype(float)
    one[rng.random(15) < 0.2] = np.nan
    both = np.isfinite(one)
    assert kendall(one, other) == pytest.approx(kendalltau(one[both], other[both]).statistic)
    assert kendall(one, np.ones(15)) is None
    assert kendall(one[:2], other[:2]) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_frontier_is_what_no_cheaper_one_beats(seed):
    from transferscope.results import Priced, frontier

    rng = np.random.default_rng(seed)
    row = EncoderResult("x")
    there = sorted(
        (Priced(float(c), float(g), row) for c, g in rng.integers(1, 9, (20, 2))),
        key=lambda one: (one.cost, -one.gain),
    )
    kept = {(one.cost, one.gain) for one in frontier(there)}
    wanted = {
        (one.cost, one.gain)
        for one in there
        if not any(
            (o.cost <= one.cost and o.gain > one.gain) or (o.cost < one.cost and o.gain >= one.gain)
            for o in there
        )
    }
    assert kept == wanted


def test_figures_stay_within_their_frames_and_place_by_value():
    from transferscope.report._figures import loss_strips, strip_figures

    ranking = ranked(50)
    figures = strip_figures(loss_strips(ranking), "points", "Loss", "loss", zero=True)
    assert len(figures) == 2
    drawn = "".join(figures)
    assert drawn.count('class="mark') == 50
    shown = re.findall(r'<(?:circle cx="|polygon points=")([\d.]+)', drawn)
    places = [float(x) for x in shown]
    assert places == sorted(places)  # the loss grows with the rank
    assert min(places) >= 290
    assert max(places) <= 745
    coordinates = [float(v) for v in re.findall(r' (?:x|x1|x2|cx|y|y1|y2|cy)="(-?[\d.]+)"', drawn)]
    assert all(0 <= value <= 46 + 20 * 40 for value in coordinates)
    assert "nan" not in drawn


# --- for every reader -----------------------------------------------------------------------------


@pytest.mark.parametrize("rankings", [(ranked(4, layers=True),), (ranked(4), by_scores(5))])
def test_tables_and_figures_explain_themselves(rankings):
    page = report_html(*rankings)
    found = Outline(page)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in found.elements:
        for name in ("aria-labelledby", "href"):
            value = attributes.get(name, "")
            for target in value.split() if name == "aria-labelledby" else [value]:
                if target and target != "data:,":
                    assert target.removeprefix("#") in ids, target
    tables = re.findall(r"<table.*?</table>", page, re.S)
    assert tables
    for table in tables:
        assert re.match(r"<table[^>]*>\s*<caption[^>]*>[^<]+", table)
    assert all(a.get("scope") in ("col", "row") for t, a in found.elements if t == "th")
    figures = [a for t, a in found.elements if t == "svg" and a.get("aria-hidden") != "true"]
    assert figures
    assert all(a["role"] == "img" and len(a["aria-labelledby"].split()) == 2 for a in figures)
    assert all(a.get("tabindex") == "0" for _, a in found.elements if a.get("role") == "group")
    for table in (t for t in tables if "aria-sort" in t):
        heads = re.search(r"<thead>.*?</thead>", table, re.S)[0]
        assert heads.count("<th ") == heads.count('<button type="button"')
        assert heads.count("aria-sort") == 1


def colours() -> dict[str, dict[str, str]]:
    """The colours of the style sheet in the light, in the dark, and on paper."""
    text = (resources.files("transferscope.report") / "templates" / "style.css").read_text("utf-8")
    blocks = re.findall(r":root \{(.*?)\}", text, re.S)
    light, dark, paper = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks)
    return {"light": light, "dark": light | dark, "paper": light | paper}


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "paper"])
def test_colours_can_be_told_apart(scheme):
    found = colours()[scheme]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    shades = [f"{sign}{i}" for sign, i in itertools.product("pm", range(1, 5))]
    for text, grounds in {
        "text": ["ground", "raised", "band", "note-ground", *shades],
        "dim": ["ground", "raised", "band"],
        "accent": ["ground"],
        "chosen": ["ground", "band"],
        "note": ["note-ground"],
    }.items():
        for ground in grounds:
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    for line in ("chosen", "group", "other", "dim", *(f"s{i}" for i in range(8))):
        assert contrast(found[line], found["ground"]) >= 3, line
    for line in ("chosen", "group"):
        assert contrast(found[line], found["band"]) >= 3, line


# --- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run a command in an empty folder with an empty cache, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)
    for console in (cli.stdout, cli.stderr):
        monkeypatch.setattr(console, "width", 160)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["transferscope", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(str(ended.value.code or 0)), captured.out, captured.err

    return call


def test_a_report_of_kept_results(run):
    Path("a.json").write_text(ranked(3).to_json(), encoding="utf-8")
    Path("b.json").write_text(by_scores(4).to_json(), encoding="utf-8")
    status, out, err = run("report", "a.json")
    assert (status, out) == (0, "")
    assert "report written to report.html" in err
    assert Path("report.html").read_text("utf-8").rstrip() == report_html(ranked(3)).rstrip()
    status, _, _ = run("report", "a.json", "b.json", "--out", "both.html")
    assert status == 0
    both = Path("both.html").read_text("utf-8")
    assert "<title>a.json and b.json, side by side</title>" in both
    # the same file twice, and files of one name
    assert run("report", "a.json", "a.json")[0] == 0
    assert "a.json (A) and a.json (B)" in Path("report.html").read_text("utf-8")


def test_a_report_spares_files_of_others(run):
    Path("a.json").write_text(ranked(3).to_json(), encoding="utf-8")
    Path("mine.html").write_text("mine", encoding="utf-8")
    status, _, err = run("report", "a.json", "--out", "mine.html")
    assert status == 2
    assert "mine.html exists" in err
    assert Path("mine.html").read_text("utf-8") == "mine"
    assert run("report", "a.json", "--out", "mine.html", "--force")[0] == 0
    # what it wrote itself it replaces
    assert run("report", "a.json", "--out", "mine.html")[0] == 0
    assert Path("mine.html").read_text("utf-8").startswith("<!doctype html>")


def test_a_report_with_other_results_beside(run):
    Path("a.json").write_text(ranked(3).to_json(), encoding="utf-8")
    one = LayerDistances(1.25, (LayerDistance("stem", 1.25),), "l2", "all", "3 seeds", 0.1)
    Path("d.json").write_text(one.to_json(), encoding="utf-8")
    related = {"pets": json.loads(RELATED.to_json()), "birds": json.loads(RELATED.to_json())}
    Path("r.json").write_text(json.dumps(related), encoding="utf-8")
    assert run("report", "d.json", "a.json", "r.json")[0] == 0
    page = Path("report.html").read_text("utf-8")
    for title in ("d: layer transferability", "r: pets: task-relatedness", "r: birds: task"):
        assert title in page
    assert RELATED.headline in page
    status, _, err = run("report", "d.json", "r.json", "--out", "none.html")
    assert status == 2
    assert "0 of the files given hold one" in err
    status, _, err = run("report", *["a.json"] * 3, "--out", "none.html")
    assert status == 2
    assert "3 of the files given hold one" in err


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"{}", (), "holds no ranking"),
        (b"\xff\xfe", (), "it is not UTF-8"),
        (None, (), "No such file"),
        (b"{}", ("--out", "report.json"), "must end in .html"),
        (b"{}", (".",), "holds no ranking"),
    ],
)
def test_what_cannot_be_reported_is_told(run, content, arguments, said):
    if content is not None:
        Path("a.json").write_bytes(content)
    status, _, err = run("report", "a.json", *arguments)
    assert status == 2
    assert said in err
    assert not list(Path().glob("*.html"))


@pytest.mark.needs("torch")
def test_rank_writes_a_report(run):
    asked = ("rank", "sklearn/digits", "-e", "mini/vit-random", "-m", "knn", "--per-class", "4")
    status, _, err = run(*asked, "--report", "choice.html", "--out", "choice.json")
    assert status == 0, err
    ranking = Ranking.from_json(Path("choice.json").read_text("utf-8"))
    page = Path("choice.html").read_text("utf-8")
    assert page.rstrip() == report_html(ranking).rstrip()
    assert "load_encoder(&#34;mini/vit-random&#34;)" in page
    status, _, err = run(*asked, "--report", "choice.txt")
    assert status == 2
    assert "must end in .html" in err
    assert "most misjudged" not in page
    status, _, err = run(*asked, "--report", "samples.html", "--samples")
    assert status == 0, err
    assert "data:image/png;base64," in Path("samples.html").read_text("utf-8")
    for more in ((), ("--format", "csv"), ("--out", "x.md")):
        status, _, err = run(*asked, "--samples", *more)
        assert status == 2
        assert "--samples shows samples in the report and in JSON" in err
    status, out, _ = run(*asked, "--samples", "--format", "json")
    assert status == 0
    assert Ranking.from_json(out).samples is not None
    status, _, err = run(*asked, "--report", "one.html", "--out", "one.html")
    assert status == 2
    assert "two outputs" in err
