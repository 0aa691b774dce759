"""Paths in the arguments of commands: the shell leaves ``~`` alone in quotes and in ``--out=~/lake``."""

from __future__ import annotations

from typing import Any

import click

from xsen2.errors import Xsen2Error
from xsen2.paths import local

__all__ = ["UserPath"]


class UserPath(click.Path):
    """A path as `xsen2.paths.local` reads it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, as `click.Path` gives it; a relative one stays so."""
        if isinstance(value, str) and value.startswith(("~", "file://")):
            try:
                value = str(local(value))
            except Xsen2Error as error:
                self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)
