"""Bundles the page of ``xsen2 app`` into the wheel, where node is there to do it; says so where it is not."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGE = Path(__file__).parent / "xsen2" / "app" / "page"
STATIC = PAGE.parent / "static"
STAMP = STATIC / "built-from.txt"


def digest() -> str:
    """Of all that the page is made of."""
    found = hashlib.sha256()
    sources = [*(p for p in PAGE.glob("src/**/*") if p.is_file()), *PAGE.glob("*.json"), *PAGE.glob("*.mjs")]
    for path in sorted(sources):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def bundle() -> str | None:
    """Bundle the page, unless it is there; why it could not be, if so."""
    if not (PAGE / "package.json").is_file():
        return None if STAMP.is_file() else "its sources are not here"
    if STAMP.is_file() and STAMP.read_text() == digest():
        return None
    why = _node()
    if why is None:
        STAMP.write_text(digest())
    return why


def alone(folder: Path) -> str | None:
    """Bundle the page that needs no server into a folder, without its networks; why it could not be, if so."""
    return _node("--browser", str(folder.absolute()))


def _node(*arguments: str) -> str | None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        return "node and npm are not installed"
    try:
        # What is installed runs no script of its own: the lock file says by hash what it is.
        for command in ([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], [node, "build.mjs", *arguments]):
            subprocess.run(command, cwd=PAGE, check=True, capture_output=True, text=True, timeout=600)
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd[1:3])} failed: {(error.stderr or error.stdout or '').strip()[-600:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """Called by hatchling before a wheel is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Bundle the page; an editable install leaves that to ``make page``."""
        if self.target_name != "wheel" or version == "editable" or os.environ.get("XSEN2_NO_PAGE"):
            return
        why = bundle()
        if why:
            self.app.display_warning(
                f"xsen2 app will have no page, since {why}. All else works; to have it, install node 18 or later and "
                "build again"
            )


if __name__ == "__main__":
    problem = alone(Path(sys.argv[1])) if sys.argv[1:] else bundle()
    if problem:
        raise SystemExit(f"the page cannot be bundled: {problem}")
    print(f"the page is in {sys.argv[1] if sys.argv[1:] else STATIC}")
