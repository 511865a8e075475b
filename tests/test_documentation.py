"""What the site's pages are made of, and the check that follows its links."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import documentation  # noqa: E402
import figures  # noqa: E402
import transferscope  # noqa: E402


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("torch", reason="the reference imports every room")
    folder = tmp_path_factory.mktemp("generated") / "pages"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_all", lambda *_: None)  # twenty seconds
        documentation.write_pages(folder)
    return folder


def test_reference_has_a_page_for_every_public_name(pages):
    for name in transferscope.__all__:
        home = documentation.home(name).removeprefix("~")
        assert f"   ~{home}\n" in (pages / "reference" / "index.rst").read_text(encoding="utf-8")
        assert (pages / "reference" / f"{home}.rst").is_file()


def test_commands_and_metrics_are_all_there(pages):
    commands = (pages / "commands.md").read_text(encoding="utf-8")
    assert "## rank\n" in commands
    assert "## cache verify\n" in commands
    assert "`--max-download <str>`\n: Without --encoders" in commands
    metrics = (pages / "metrics.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in metrics for name in transferscope.metrics.METRICS)


def test_pages_that_did_not_change_keep_their_time(pages, monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda *_: None)
    before = {path: path.stat().st_mtime_ns for path in pages.rglob("*.*")}
    documentation.write_pages(pages)
    assert before == {path: path.stat().st_mtime_ns for path in pages.rglob("*.*")}


def test_formulas_become_literal():
    lines = ["Score:", "", "    a |b|² = c_", "", "Parameters", "----------", "x : int", "    One."]
    documentation.formulas_are_literal(None, "function", "f", None, None, lines)
    assert lines[:5] == ["Score:", "", "::", "", "    a |b|² = c_"]
    assert lines.count("::") == 1


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ('<a href="other.html">', "which is not there"),
        ('<a href="#below">', "which has no such place"),
        ('<a href="folder/page.html#above">', "which has no such place"),
        ('<script src="https://example.org/x.js">', "loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "loads //example.org/x.css"),
        ('<img src="missing.png">', "which is not there"),
        ("<style>", None),
        ('<a href="https://example.org"><a href="folder/page.html#here">', None),
    ],
)
def test_links_are_followed(tmp_path, page, complaint):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "page.html").write_text('<p id="here">', encoding="utf-8")
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    found = documentation.complaints(tmp_path)
    assert len(found) == (complaint is not None), found
    if complaint:
        assert complaint in found[0]


def test_styles_are_read_for_what_they_load(tmp_path):
    (tmp_path / "site.css").write_text("@import 'https://fonts.example.org';", encoding="utf-8")
    (found,) = documentation.complaints(tmp_path)
    assert found.startswith("site.css loads https://fonts.example.org")


@pytest.mark.needs("torch")
@pytest.mark.needs("matplotlib")
def test_figures_show_data():
    digits = transferscope.open_dataset("sklearn/digits", per_class=5)
    for figure in (figures.draw_ped(digits), figures.draw_features(digits)):
        assert all(axes.has_data() for axes in figure.axes)
    (axes,) = figures.draw_knowledge().axes
    before, after = (container.lines[0].get_xdata() for container in axes.containers)
    assert after[0] == 80
    assert (after[1:] != before[1:]).all()


@pytest.mark.needs("torch")
def test_picture_of_the_terminal_loads_no_font_and_cuts_no_line():
    digits = transferscope.open_dataset("sklearn/digits", per_class=5)
    ranking = transferscope.rank(digits, "mini/vit-random,mini/resnet-random", store=None)
    drawn = figures.draw_terminal(ranking, "transferscope rank sklearn/digits")
    assert "@font-face" not in drawn
    assert "url(http" not in drawn
    words = drawn.replace("&#160;", " ")
    assert "transferscope rank sklearn/digits" in words
    assert ranking.verdict.reason.split()[-1] in words


def test_notebooks_become_pages(pages):
    page = (pages / "notebooks" / "images.md").read_text(encoding="utf-8")
    assert page.startswith("# Which encoder")
    assert "```ipython\nranking.verdict\n```" in page
