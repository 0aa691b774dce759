"""The documentation as a site: ``make docs`` builds it, with warnings as errors."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import xsen2

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "xsen2"
author = "The xsen2 authors"
copyright = "The xsen2 authors. Pictures contain modified Copernicus Sentinel data 2015-2020"
release = version = xsen2.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
root_doc = "index"

html_theme = "pydata_sphinx_theme"
html_title = "xsen2"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": ["sidebar-nav-bs"]} | {
    page: [] for page in ("index", "start", "walks", "genindex", "search", "made/changelog", "made/contributing")
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
# Notebooks show what they gave when they were committed; tests/test_notebook.py executes them, on scenes that are not
# there where this site is built.
nb_execution_mode = "off"
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
add_module_names = False
python_use_unqualified_type_names = True

# Single backticks name things of the library, and are links where a page of the reference has them.
default_role = "any"
suppress_warnings = ["ref.any", "misc.highlighting_failure", "myst.header"]
linkcheck_ignore = [r"http://localhost.*", r"https://doi\.org/.*"]


# Pages are read in the repository too, where links lead to files; some of these are pages of the site.
PAGES = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "xsen2/networks/weights/README.md": "models",
    **{
        f"benchmarks/results/{path.name}": f"bench/{path.stem}"
        for path in (ROOT / "benchmarks" / "results").glob("*.md")
    },
}


def _linked(text: str, folder: str) -> str:
    """A page's text with links to where things are in the site; `folder` is that of the page in the repository."""

    def lead(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        if "://" in path or not path:
            return match[0]
        at = os.path.normpath(os.path.join(folder, path))
        if at in PAGES:
            return f"](/made/{PAGES[at]}.md{'#' + anchor if anchor else ''})"
        if at.startswith("docs/"):
            return f"](/{at.removeprefix('docs/')}{'#' + anchor if anchor else ''})"
        return f"](/../{at})" if (ROOT / at).is_file() else match[0]

    return re.sub(r"\]\(([^)\s]+)\)", lead, text)


def _prepare() -> None:
    made = HERE / "made"
    (made / "bench").mkdir(parents=True, exist_ok=True)
    for path, name in PAGES.items():
        text = _linked((ROOT / path).read_text(), os.path.dirname(path))
        if not (page := made / f"{name}.md").exists() or page.read_text() != text:
            page.write_text(text)
    examples = HERE / "examples"
    examples.mkdir(exist_ok=True)
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        if not (copy := examples / notebook.name).exists() or copy.stat().st_mtime < notebook.stat().st_mtime:
            shutil.copy2(notebook, copy)


def setup(app: Any) -> None:
    """Links of pages, when they are read."""

    def read(app: Any, name: str, source: list[str]) -> None:
        if not name.startswith(("made/", "examples/", "generated/")) and name != "api":
            source[0] = _linked(source[0], os.path.dirname(f"docs/{name}"))

    app.connect("source-read", read)


_prepare()
