"""Where the grids of an EOPF product lie: from coordinates, which the ``proj:`` attributes must not contradict."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xsen2.errors import CRSError, GridError
from xsen2.grid import metres
from xsen2.sources._area import Box
from xsen2.sources._eopf_metadata import is_number, mapping, short
from xsen2.sources._eopf_store import Layer, Product

__all__ = ["agree", "box_of", "epsg_of"]

_UTM = re.compile(r"32[67](0[1-9]|[1-5]\d|60)")


def epsg_of(product: Product, layers: Sequence[Layer]) -> int:
    """EPSG code of the product.

    Raises
    ------
    CRSError
        If it is missing, said differently in two places, or not a UTM zone.
    """
    item, other = (mapping(product.attrs.get(key)) for key in ("stac_discovery", "other_metadata"))
    said = mapping(item.get("properties"))
    told: dict[str, object] = {"horizontal_CRS_code": other.get("horizontal_CRS_code")}
    homes = {home for layer in layers for home in _parents(layer.path)}
    places = [("stac_discovery", said), *((f"the group {home!r}", product.group(home)) for home in sorted(homes))]
    for place, attrs in (*places, *((layer.where, layer.attrs) for layer in layers)):
        told |= {f"{key} of {place}": attrs.get(key) for key in ("proj:epsg", "proj:code")}
    if not any(value not in (None, "") for value in told.values()):
        told |= {place: _by_wkt(attrs) for place, attrs in _mappings(product, layers)}
    found: dict[str, str] = {}
    for place, value in told.items():
        if value in (None, ""):
            continue
        code = str(value).strip().upper().removeprefix("EPSG:")
        if isinstance(value, bool) or not _UTM.fullmatch(code):
            raise CRSError(f"{product.where}: {place} is {short(value)}, but every Sentinel-2 tile is in a UTM zone")
        found[place] = code
    if not found:
        raise CRSError(
            f"{product.where} has no CRS: neither horizontal_CRS_code nor proj:epsg or proj:code, nor a grid mapping; "
            "download it again"
        )
    first = next(iter(found))
    for place, code in found.items():
        if code != found[first]:
            raise CRSError(f"{product.where}: {first} is EPSG:{found[first]}, but {place} is EPSG:{code}")
    return int(found[first])


def _parents(path: str) -> list[str]:
    """The groups that an array is in, the root last."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _mappings(product: Product, layers: Sequence[Layer]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where a CRS may be written out: grid mappings of the bands, and ``proj:wkt2``."""
    for layer in layers:
        home = layer.path.rpartition("/")[0]
        yield f"proj:wkt2 of {layer.where}", layer.attrs
        yield f"proj:wkt2 of the group {home!r}", product.group(home)
        name = layer.attrs.get("grid_mapping", "spatial_ref")
        if isinstance(name, str) and name.isidentifier() and (found := product.layer(f"{home}/{name}")) is not None:
            yield f"the grid mapping {found.path}", found.attrs


def _by_wkt(attrs: Mapping[str, Any]) -> object:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError as Unknown

    text = next((attrs[key] for key in ("proj:wkt2", "crs_wkt", "spatial_ref") if isinstance(attrs.get(key), str)), "")
    if not text:
        return None
    try:
        return CRS.from_wkt(text).to_epsg() or text[:60]
    except (Unknown, ValueError):
        return text[:60]


def box_of(product: Product, home: str, gsd: int, shape: tuple[int, ...]) -> Box:
    """Outer edges of a grid, from the coordinates of its group, which are pixel centres, or else its transform.

    Raises
    ------
    GridError
        If they are missing, of another size than the bands, or not spaced by `gsd`.
    """
    about = product.group(home)
    steps = _numbers(f"the group {home!r}", about, "spatial:transform", 6)
    if steps and product.layer(f"{home}/y") is None and product.layer(f"{home}/x") is None:
        left, top = round(steps[2]), round(steps[5])
        if not _near(steps, (gsd, 0, left, 0, -gsd, top)) or about.get("spatial:registration", "pixel") != "pixel":
            raise GridError(
                f"{product.where}: spatial:transform of the group {home!r} is {short(steps)}, which is none of an "
                f"upright grid of pixels of {gsd} m"
            )
        return left, top - gsd * shape[0], left + gsd * shape[1], top
    ends: dict[str, tuple[int, int]] = {}
    for dim, size, sign in zip(("y", "x"), shape, (-1, 1), strict=True):
        layer = product.layer(f"{home}/{dim}")
        if layer is None:
            raise GridError(f"{product.where}: {home} has no coordinate {dim}: download the product again")
        layer.require(("int64", "int32", "float64", "float32"), 1)
        if layer.array.shape != (size,):
            raise GridError(f"{layer.where} has {layer.array.shape[0]} values, but its bands {size} pixels along {dim}")
        values = layer.values().astype(np.float64)
        first = float(values[0]) - sign * gsd / 2
        want = first + sign * gsd * (np.arange(size) + 0.5)
        if not np.abs(values - want).max() < 0.01 or abs(first) > 1e8 or abs(first - round(first)) > 0.01:
            raise GridError(
                f"{layer.where} goes from {metres(values[0])} to {metres(values[-1])} in {size} values: these are not "
                f"the centres of pixels of {gsd} m; download the product again"
            )
        ends[dim] = (round(first), round(first) + sign * gsd * size)
    (top, bottom), (left, right) = ends["y"], ends["x"]
    return left, bottom, right, top


def agree(layer: Layer, gsd: int, box: Box, group: Mapping[str, Any]) -> None:
    """Refuse an array whose shape, dims or ``proj:`` attributes contradict the coordinates of its grid.

    A part of a product that was stored anew still has the ``proj:`` attributes of the whole one.

    Raises
    ------
    GridError
        If something differs, naming both.
    """
    left, bottom, right, top = box
    shape = ((top - bottom) // gsd, (right - left) // gsd)
    if layer.array.shape != shape:
        raise GridError(
            f"{layer.where} has {layer.array.shape} pixels, but by the coordinates its grid has {shape}: "
            "download the product again"
        )
    dims = layer.attrs.get("_ARRAY_DIMENSIONS") or getattr(layer.array.metadata, "dimension_names", None) or ("y", "x")
    if dims not in (["y", "x"], ("y", "x")):
        raise GridError(f"{layer.where} has the dims {short(dims)}, not y and x: download the product again")
    for where, attrs, key in (
        (layer.where, layer.attrs, "proj:transform"),
        (layer.where, layer.attrs, "spatial:transform"),
        (f"the group of {layer.where}", group, "spatial:transform"),
    ):
        steps = _numbers(where, attrs, key, 6)
        if steps and not (
            _near(steps, (gsd, 0, steps[2], 0, -gsd, steps[5]))
            and _near(((steps[2] - left) / gsd % 1, (steps[5] - top) / gsd % 1), (0, 0), turn=1)
        ):
            raise GridError(
                f"{where}: {key} is {short(steps)}, but by the coordinates of its grid it is "
                f"{[gsd, 0, left, 0, -gsd, top]}: download the product again"
            )
    whole = _numbers(layer.where, layer.attrs, "proj:bbox", 4)
    if whole and not (
        whole[0] - 0.01 <= left and whole[1] - 0.01 <= bottom and right <= whole[2] + 0.01 and top <= whole[3] + 0.01
    ):
        raise GridError(
            f"{layer.where}: proj:bbox is {short(whole)}, but the coordinates of its grid span {list(box)}: "
            "download the product again"
        )


def _numbers(where: str, attrs: Mapping[str, Any], key: str, size: int) -> list[float]:
    """The first `size` numbers of a list in the attributes; none where it is not there."""
    value = attrs.get(key)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or len(value) < size or not all(is_number(v) for v in value[:size]):
        raise GridError(f"{where}: {key} is {short(value)}, not {size} numbers; download the product again")
    return [float(v) for v in value[:size]]


def _near(values: Sequence[float], want: Sequence[float], turn: float = math.inf) -> bool:
    """Whether numbers are the same but for rounding; `turn` and 0 are one."""
    off = [abs(v - w) for v, w in zip(values, want, strict=True)]
    return all(min(d, abs(turn - d)) < 1e-3 for d in off)
