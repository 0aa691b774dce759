"""Which files there will be, and which variables go into which."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xsen2.errors import StoreError
from xsen2.paths import is_url
from xsen2.sinks import paths
from xsen2.sinks._cog_layers import Layer
from xsen2.sinks.state import digest

__all__ = ["File", "arrange"]


@dataclass(frozen=True)
class File:
    """A file to be, and the variables that are its bands."""

    path: Path
    layers: tuple[Layer, ...]

    def run(self, number: int, tags: Mapping[str, str], compression: str) -> str:
        """What makes two calls write the same file, without computing a pixel.

        Parameters
        ----------
        number : int
            Of the date.
        tags : mapping
            Of the file.
        compression : str
        """
        about = [{k: v for k, v in vars(layer).items() if k != "data"} for layer in self.layers]
        pixels = [(layer.data.name, layer.dtype) for layer in self.layers]
        return digest([about, pixels, number, dict(tags), compression])


def arrange(
    given: str | os.PathLike[str], layers: Sequence[Layer], dates: Sequence[str | None], per_band: bool
) -> list[list[File]]:
    """Files by date.

    Parameters
    ----------
    given : path
        File, template or folder.
    layers : sequence of Layer
    dates : sequence of str or None
        Names of the dates.
    per_band : bool

    Raises
    ------
    StoreError
        If the path is none, or two files would have the same name.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
    if isinstance(path, str) and (is_url(path) or path.startswith("/vsi")):
        raise StoreError(f"{path} is not on a local disk: write to one, and copy the finished files")
    path = paths.local(given)
    fields = {field for field in ("date", "band") if f"{{{field}}}" in path}
    if re.search("[{}]", path.replace("{date}", "").replace("{band}", "")):
        raise StoreError(f"{path}: a template may hold {{date}} and {{band}}, and no other braces")
    folder = not os.fspath(given).lower().endswith((".tif", ".tiff"))  # with a slash at its end it is one
    single = per_band or "band" in fields
    if folder:
        parts = [f"{{{k}}}" for k, used in (("date", dates[0] is not None), ("band", single)) if used]
        if not parts:
            raise StoreError(f"{path} is a folder, and no date or band names the file: give one that ends in .tif")
        path, fields = f"{path.rstrip('/')}/{'_'.join(parts)}.tif", fields | {p.strip("{}") for p in parts}
    if len(dates) > 1 and "date" not in fields:
        raise StoreError(
            f"{path} is one file, and there are {len(dates)} dates: put {{date}} into the name, give a folder, or pick "
            "a date with ds.isel(time=0)"
        )
    if "date" in fields and dates[0] is None:
        raise StoreError(f"{path}: there is no date to put in the place of {{date}}")
    if single and "band" not in fields and len(layers) > 1:
        raise StoreError(f"{path} is one file for {len(layers)} bands: put {{band}} into the name, or give a folder")
    groups = [(layer,) for layer in layers] if single else [tuple(layers)]
    files = [[File(_name(path, date, group[0].name), group) for group in groups] for date in dates]
    names = [str(file.path).lower() for some in files for file in some]  # some disks know no upper case
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise StoreError(f"two files would be called {twice[0]}: rename a variable")
    return files


def _name(path: str, date: str | None, band: str) -> Path:
    plain = re.sub(r"[^\w.-]", "_", band)
    return Path(paths.local(path.replace("{date}", date or "").replace("{band}", plain)))
