"""See that every link of the built site to itself leads somewhere: ``python docs/links.py docs/_build/html``.

Sphinx knows what its own markup refers to. What it does not see are links in HTML, in the output of notebooks, and
anchors in pages that are copied from elsewhere in the repository. Addresses of others are a matter of ``make
linkcheck``, which needs the internet.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[int, str]] = []
        self.anchors = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called with each element."""
        said = {key: value for key, value in attrs if value is not None}
        self.anchors |= {said[key] for key in ("id", "name") if key in said}
        for key in ("href", "src"):
            if key in said:
                self.links.append((self.getpos()[0], said[key]))


def broken(site: Path) -> list[str]:
    """Links within the site that lead to no file, or to no place in it."""
    site = site.resolve()
    found = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]  # templates of the theme
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in found}
    out = []
    for path, page in pages.items():
        for line, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (path.parent / unquote(parts.path)).resolve()
                target = target / "index.html" if target.is_dir() else target
            where = f"{path.relative_to(site)}:{line}: {link}"
            if not target.is_relative_to(site) or not target.is_file():
                out.append(f"{where}: there is no such file")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                out.append(f"{where}: there is no such place in {target.relative_to(site)}")
    return out


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]))
    print("\n".join(found) or "every link within the site leads somewhere")
    sys.exit(bool(found))
