"""The report in a real browser, headless Chromium: what only a browser can say of a page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: make test-browser"
)
axe_api = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="axe-playwright-python is not installed: make test-browser",
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if CHROMIUM is None:
    pytest.skip("chromium is not installed: apt-get install chromium", allow_module_level=True)

from test_report import HOSTILE, RELATED, by_scores, ranked, shown  # noqa: E402
from transferscope.report import report_html  # noqa: E402
from transferscope.results import (  # noqa: E402
    EncoderResult,
    Misjudged,
    SampleMap,
    SampleViews,
    ShownSample,
)

NAMES = [f"timm/vit_base_patch16_224.augreg_in21k_{i:03d}" for i in range(9)]
PAGES = {
    "one": lambda: report_html(
        ranked(9, names=NAMES, layers=True, samples=shown(NAMES)), beside={"pets": RELATED}
    ),
    "texts": lambda: report_html(ranked(9, names=NAMES, samples=shown(NAMES, "text"))),
    "two": lambda: report_html(ranked(12), by_scores(6), names=("before", "after")),
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page that is given as text; at the end nothing was fetched, said or run by it."""
    contexts, wrong = [], []

    def open_page(text: str, width: int = 1280, height: int = 900, **settings: Any) -> Any:
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(text, encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith("data:") or request.url.partition("#")[0] == file.as_uri()
                else wrong.append(f"request: {request.url}")
            ),
        )
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def names_shown(page: Any, table: str = "table") -> list[str]:
    """Names in the rows of a table that are seen."""
    return page.eval_on_selector_all(
        f"#{table} tbody tr",
        "rows => rows.filter(r => r.offsetParent).map(r => r.querySelector('th bdi').textContent)",
    )


def test_the_table_is_sorted_by_mouse_and_keys(visit):
    ranking = ranked(60)
    page = visit(report_html(ranking))
    first = [row.encoder for row in ranking.encoders]
    assert names_shown(page) == first[:25]
    page.get_by_role("button", name="parameters", exact=True).click()
    by_size = sorted(ranking.encoders, key=lambda row: row.n_parameters)
    assert names_shown(page) == [row.encoder for row in by_size[:25]]
    assert page.locator("#table [aria-sort]").get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="parameters", exact=True).press("Enter")
    assert names_shown(page) == [row.encoder for row in by_size[::-1][:25]]
    assert page.locator("#table [aria-sort]").get_attribute("aria-sort") == "descending"
    # what was not measured has no score, and stands last either way
    for _ in range(2):
        page.get_by_role("button", name="logme", exact=True).click()
        page.get_by_role("button", name="next", exact=True).click()
        page.get_by_role("button", name="next", exact=True).click()
        last = names_shown(page)
        assert last[-1] in {r.encoder for r in ranking.encoders if not r.scores}


def test_the_table_is_filtered(visit):
    ranking = ranked(60)
    page = visit(report_html(ranking))

    def there(**wanted: object) -> list[str]:
        return [
            row.encoder
            for row in ranking.encoders
            if all(getattr(row, name) == value for name, value in wanted.items())
        ]

    page.get_by_label("encoder holds").fill("IN21K_01")
    assert names_shown(page) == [name for name in there() if "in21k_01" in name]
    page.get_by_label("encoder holds").fill("")
    page.get_by_label("licence").select_option("mit")
    assert names_shown(page) == there(license="mit")
    page.get_by_label("family").select_option("resnet")
    assert names_shown(page) == there(license="mit", family="resnet")
    page.get_by_label("licence").select_option("")
    page.get_by_label("family").select_option("")
    page.get_by_label("at most").fill("300")
    small = [row.encoder for row in ranking.encoders if row.n_parameters <= 3e8]
    assert names_shown(page) == small[:25]
    page.get_by_label("at most").fill("")
    page.get_by_label("show").select_option("g")
    assert names_shown(page) == there(in_group=True)
    page.get_by_label("encoder holds").fill("nowhere")
    assert names_shown(page) == []
    assert page.locator("#table").is_visible()
    assert page.locator("output.place").first.inner_text() == "none"


def test_samples_are_seen_by_pointing_and_by_keys(visit):
    page = visit(PAGES["one"](), height=1400)
    first = page.locator(".map").first
    first.locator("[data-s='4'] .mark").hover()
    panel = first.locator(".look")
    assert panel.inner_text().split("\n") == ["raven, taken for crow", "photos/raven/4.jpg"]
    assert panel.locator("img").evaluate("image => image.naturalWidth") == 1
    first.focus()
    page.keyboard.press("ArrowRight")
    assert "photos/rook/5.jpg" in panel.inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "photos/crow/3.jpg" in panel.inner_text()
    # the other maps are on their own
    assert page.locator(".map .look").nth(1).inner_text() == ""


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(visit, name):
    page = visit(PAGES[name]())
    for scheme, width in (("light", 1280), ("light", 320), ("dark", 1280)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        found = axe_api.Axe().run(page).response["violations"]
        assert [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found] == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_at_any_width(visit, name):
    page = visit(PAGES[name]())
    for width in (320, 768, 3840):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # what is wider scrolls within a frame of its own, which the keyboard reaches
        assert page.eval_on_selector_all(
            "*",
            """all => all.filter(e => e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0
                && ["auto", "scroll"].includes(getComputedStyle(e).overflowX)).length""",
        ) == 0  # fmt: skip
        size = "parseFloat(getComputedStyle(document.body).fontSize)"
        assert 14 <= page.evaluate(size) <= 24


def test_it_prints_whole_on_a4(visit):
    page = visit(report_html(ranked(60, layers=True)))
    page.emulate_media(media="print")
    assert len(names_shown(page)) == 60
    assert not page.get_by_label("encoder holds").is_visible()
    printed = page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    boxes = {box.strip() for box in _media_boxes(printed)}
    assert boxes == {b"0 0 595 842", b"0 0 842 595"}  # A4, upright and across
    page.emulate_media(media="screen")
    assert len(names_shown(page)) == 25


def _media_boxes(printed: bytes) -> list[bytes]:
    found = re.findall(rb"/MediaBox\s*\[([^\]]*)\]", printed)
    return [b" ".join(b"%d" % round(float(n)) for n in box.split()) for box in found]


def hostile() -> str:
    """A page with each of the hostile texts as name, class, text, file and error."""
    names = [f"timm/{text}" for text in HOSTILE]
    ranking = ranked(len(names), names=names, data=" ".join(HOSTILE), classes=HOSTILE, layers=True)
    rows = [
        replace(row, license=text, family=text, warnings=(text,), skipped={text: text})
        for row, text in zip(ranking.encoders, HOSTILE, strict=True)
    ]
    failed = [EncoderResult(text, error=text) for text in HOSTILE]
    samples = tuple(ShownSample(text, text, text) for text in HOSTILE)
    places = tuple((i, float(i % 6), float(i // 6)) for i in range(len(HOSTILE)))
    wrong = tuple(Misjudged(i, text, 0.5) for i, text in enumerate(HOSTILE))
    views = SampleViews("text", samples, (SampleMap(names[0], places, HOSTILE[::-1], 0.5, wrong),))
    return report_html(replace(ranking, encoders=(*rows, *failed), samples=views))


def test_nothing_that_others_wrote_runs(visit):
    page = visit(hostile(), height=1400)
    for point in page.locator("[data-s] .mark").all():
        point.hover()
    page.get_by_label("licence").select_option(index=3)
    for _ in range(30):
        page.keyboard.press("Tab")
    tags = page.evaluate("[...document.querySelectorAll('*')].map(e => e.localName)")
    assert not {"iframe", "object", "embed", "base", "template", "textarea", "img"} & set(tags)
    assert page.evaluate("document.scripts.length") == 1
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every(e => [...e.attributes]"
        ".every(a => !a.name.startsWith('on') && !/^javascript:/i.test(a.value)))"
    )
    # and all of them are there to be read
    assert "<script>alert(1)</script>" in page.locator("body").inner_text()


def test_three_hundred_encoders_are_there_at_once(visit):
    text = report_html(ranked(300))
    seconds, shifts = [], []
    for _ in range(5):  # a busy machine is slow, not wrong
        page = visit(text)
        seconds.append(
            page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
            / 1000
        )
        shifts.append(
            page.evaluate(
                """() => new Promise(done => {
                    let sum = 0;
                    new PerformanceObserver(list => {
                        for (const one of list.getEntries()) sum += one.value;
                    }).observe({ type: "layout-shift", buffered: true });
                    setTimeout(() => done(sum), 200);
                })"""
            )
        )
    assert min(seconds) < 0.5, seconds
    assert shifts == [0] * 5
    assert len(names_shown(page)) == 25
    page.get_by_role("button", name="next", exact=True).click()
    assert len(names_shown(page)) == 25
