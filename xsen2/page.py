"""Pages of text, tables and pictures: the same parts as Markdown and as one HTML file that can be sent on."""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["Heading", "Part", "Picture", "Table", "as_html", "as_markdown", "versions"]

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}"
)


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
"""What a page is made of; text between backticks is code."""


def as_markdown(title: str, parts: Sequence[Part]) -> str:
    """The page in Markdown, pictures by their paths. Tables are a level below headings, if there are any."""
    below = "###" if any(isinstance(part, Heading) for part in parts) else "##"
    out = [f"# {title}"]
    for part in parts:
        if isinstance(part, Heading):
            out.append(f"## {part.text}")
        elif isinstance(part, Table):
            lines = [part.head, ("---",) + ("---:",) * (len(part.head) - 1), *part.rows]
            table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
            out += [text for text in (part.title and f"{below} {part.title}", part.note, table) if text]
        elif isinstance(part, Picture):
            out.append(f"![{part.text}]({part.file})")
        else:
            out.append(part)
    return "\n\n".join(out) + "\n"


def as_html(title: str, parts: Sequence[Part], folder: Path) -> str:
    """The page as one file, well-formed also as XML; pictures are read from `folder` and put inside."""
    below = "h3" if any(isinstance(part, Heading) for part in parts) else "h2"
    out = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
    ]
    for part in parts:
        if isinstance(part, Heading):
            out.append(f"<h2>{html.escape(part.text)}</h2>")
        elif isinstance(part, Table):
            lines = [
                "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
                for tag, line in (("th", part.head), *(("td", row) for row in part.rows))
            ]
            out += [f"<{below}>{html.escape(part.title)}</{below}>"] if part.title else []
            out += [_paragraph(part.note)] if part.note else []
            out.append("<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>")
        elif isinstance(part, Picture):
            data = base64.b64encode((folder / part.file).read_bytes()).decode()
            text = html.escape(part.text)
            out.append(f'<p><img alt="{text}" src="data:image/png;base64,{data}"/></p>')
        else:
            out.append(_paragraph(part))
    return "\n".join([*out, "</body></html>"]) + "\n"


def _paragraph(text: str) -> str:
    parts = html.escape(text).split("`")
    return "<p>" + "".join(f"<code>{t}</code>" if i % 2 else t for i, t in enumerate(parts)) + "</p>"


def versions(packages: Sequence[str]) -> str:
    """A line that says which versions run: of Python, xsen2 and `packages`."""
    from xsen2 import __version__

    return f"Versions: Python {sys.version.split()[0]}, xsen2 {__version__}" + "".join(
        f", {package} {_version(package)}" for package in packages
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
