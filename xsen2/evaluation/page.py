"""Pages of text, tables and pictures: the same parts as Markdown and as one HTML file that can be sent on.

Names of scenes and methods come from anywhere. What a page is made of is text; it becomes Markdown and HTML here alone.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xsen2.errors import printable
from xsen2.version import __version__

__all__ = ["Heading", "Part", "Picture", "Table", "as_html", "as_markdown", "literal", "versions"]


@dataclass(frozen=True)
class Heading:
    """A section's title."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; `note` stands between title and table, both may be empty."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A PNG file, by its path from the page's folder; `text` says what it shows."""

    file: str
    text: str


Part = Heading | Table | Picture | str
"""What a page is made of; text between backticks is code, and `literal` tells those of a name from them."""


def literal(text: str) -> str:
    """Text from outside as a part of a page: its backticks stand for themselves."""
    return text.replace("`", "``")


def as_markdown(title: str, parts: Sequence[Part]) -> str:
    """The page in Markdown, pictures by their paths. Tables are a level below headings, if there are any."""
    below = "###" if any(isinstance(part, Heading) for part in parts) else "##"
    out = [f"# {_markdown(title)}"]
    for part in parts:
        if isinstance(part, Heading):
            out.append(f"## {_markdown(part.text)}")
        elif isinstance(part, Table):
            cells = [[_sign(cell).replace("|", "\\|") for cell in line] for line in (part.head, *part.rows)]
            lines = [cells[0], ["---"] + ["---:"] * (len(part.head) - 1), *cells[1:]]
            table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            heading = part.title and f"{below} {_markdown(part.title)}"
            out += [text for text in (heading, _markdown(part.note), table) if text]
        elif isinstance(part, Picture):
            out.append(f"![{_sign(part.text)}]({part.file})")
        else:
            out.append(_markdown(part))
    return "\n\n".join(out) + "\n"


def as_html(title: str, parts: Sequence[Part], folder: Path) -> str:
    """The page as one file, well-formed also as XML; pictures are read from `folder` and put inside."""
    from jinja2 import Environment

    def encoded(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    page.filters |= {"printable": printable, "spans": _spans, "encoded": encoded}
    below = "h3" if any(isinstance(part, Heading) for part in parts) else "h2"
    kinds = [(type(part).__name__, part) for part in parts]
    return page.from_string(HTML).render(title=title, parts=kinds, below=below)


HTML = """\
{% macro paragraph(text) %}
<p>{% for code, piece in text|spans %}
{% if code %}<code>{{ piece|printable }}</code>{% else %}{{ piece|printable }}{% endif %}
{% endfor %}</p>
{% endmacro %}
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>{{ title|printable }}</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}
table{border-collapse:collapse;display:block;overflow-x:auto}
td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
</style></head><body><h1>{{ title|printable }}</h1>
{% for kind, part in parts %}
{% if kind == "Heading" %}
<h2>{{ part.text|printable }}</h2>
{% elif kind == "Table" %}
{% if part.title %}
<{{ below }}>{{ part.title|printable }}</{{ below }}>
{% endif %}
{% if part.note %}
{{ paragraph(part.note) }}
{%- endif %}
<table><tr>{% for cell in part.head %}<th>{{ cell|printable }}</th>{% endfor %}</tr>
{% for row in part.rows %}
<tr>{% for cell in row %}<td>{{ cell|printable }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% elif kind == "Picture" %}
<p><img alt="{{ part.text|printable }}" src="data:image/png;base64,{{ part.file|encoded }}"/></p>
{% else %}
{{ paragraph(part) }}
{%- endif %}
{% endfor %}
</body></html>
"""
"""The page, in which all that is put in is escaped."""


def _spans(text: str) -> Iterator[tuple[bool, str]]:
    """Pieces of a text, and whether each is code, which stands between single backticks."""
    pieces = [""]
    for sign in re.findall(r"``|`|[^`]+", " ".join(text.split())):
        if sign == "`":
            pieces.append("")
        else:
            pieces[-1] += "`" if sign == "``" else sign
    for i, piece in enumerate(pieces):
        yield bool(i % 2), piece


def _markdown(text: str) -> str:
    out = []
    for code, piece in _spans(text):
        fence = "`" * (1 + max((len(run) for run in re.findall("`+", piece)), default=0))
        space = " " if len(fence) > 1 else ""
        out.append(f"{fence}{space}{printable(piece)}{space}{fence}" if code else _sign(piece))
    return "".join(out)


def _sign(text: str) -> str:
    """Text whose signs are themselves in Markdown: no HTML, no links, no pictures, no formulas, no code."""
    escaped = re.sub(r"([\\`\[\]$~]|(?<!\w)[*_]|[*_](?!\w)|&(?=[#\w]))", r"\\\1", printable(text))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", escaped)  # an escaped one is still HTML to what knows no Markdown


def versions(packages: Sequence[str]) -> str:
    """A line that says which versions run: of Python, xsen2 and `packages`."""
    return f"Versions: Python {sys.version.split()[0]}, xsen2 {__version__}" + "".join(
        f", {package} {_version(package)}" for package in packages
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
