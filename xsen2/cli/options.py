"""What commands share: paths in their arguments, and listings that fit a terminal or a program.

The shell leaves ``~`` alone in quotes and in ``--out=~/lake``, so that a path is read here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from xsen2.errors import Xsen2Error
from xsen2.files import local

__all__ = ["UserPath", "as_json", "json_option", "show"]


class UserPath(click.Path):
    """A path as `xsen2.files.local` reads it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, as `click.Path` gives it; a relative one stays so."""
        if isinstance(value, str) and value.startswith(("~", "file://")):
            try:
                value = str(local(value))
            except Xsen2Error as error:
                self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


WIDEST = 120
"""Columns that are still read with ease."""

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")


def show(rows: Sequence[Mapping[str, Any]], key: str, sections: str | None = None) -> None:
    """Print rows as names with what they are, wrapped to the terminal.

    Parameters
    ----------
    rows : sequence of mapping
        Of text, all with `key`. Empty values are left out.
    key : str
        The field that names a row.
    sections : str, optional
        The field by which rows stand together under a heading.

    Examples
    --------
    >>> show([{"name": "bicubic", "kind": "classical", "licence": "Apache-2.0"}], "name", "kind")
    classical:
      bicubic  Apache-2.0
    """
    formatter = click.HelpFormatter(width=min(shutil.get_terminal_size().columns, WIDEST))
    headings: Iterable[Any] = dict.fromkeys(row[sections] for row in rows) if sections else [None]
    for heading in headings:
        shown = [row for row in rows if heading is None or row[sections or ""] == heading]
        lines = [
            (str(row[key]), " · ".join(str(v) for k, v in row.items() if k not in (key, sections) and v))
            for row in shown
        ]
        if heading is None:
            formatter.write_dl(lines)
        else:
            with formatter.section(str(heading)):
                formatter.write_dl(lines)
    click.echo(formatter.getvalue().strip("\n"))


def as_json(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as one JSON document."""
    click.echo(json.dumps(rows, indent=1))
