"""How Sphinx builds the documentation; `make docs` runs it, from the root of the repository.

The root is the source folder, so that links between files are the same on the site as in a clone.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from sphinx.application import Sphinx

import transferscope

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import documentation  # noqa: E402

project = "transferscope"
author = "the authors of transferscope"
release = version = transferscope.__version__
root_doc = "docs/index"
exclude_patterns = [
    *(".*", "build", "dist", "src", "tests", "tools", "**/.ipynb_checkpoints"),
    *("README.md", "LICENSE", "node_modules", "shared", "docs/_static"),
    *("benchmarks/*.py", "benchmarks/results/knowledge-*"),  # parts of one page
    "docs/generated/metrics.md",  # a part of docs/metrics.md
]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 4

smartquotes = False  # two hyphens begin an option
default_role = "py:obj"
autosummary_generate = False
autodoc_typehints = "none"  # docstrings say types in words
numpydoc_show_class_members = False  # a class's page shows its members in full
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "pydata_sphinx_theme"
html_title = "transferscope"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_front_page.html"}
templates_path = ["_templates"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {name: [] for name in ("docs/start", "docs/faq")}  # pages without sections
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "navigation_with_keys": False,
}
copyright = "the authors of transferscope, Apache-2.0"

# pages that may come have their place by a pattern; Sphinx gives this warning no name to suppress
logging.getLogger("sphinx.sphinx.directives.other").addFilter(
    lambda record: getattr(record, "subtype", "") != "empty_glob"
)
documentation.write_pages(ROOT / "docs" / "generated")


def setup(app: Sphinx) -> None:
    """Show formulas as they are written, before numpydoc reads the docstring."""
    app.connect("autodoc-process-docstring", documentation.formulas_are_literal, priority=400)
