"""What the attributes of an EOPF product say: level and time, radiometry.

An EOPF product says some of it several times: in the attributes of each array (CF and ``proj:``), in their
``_eopf_attrs``, and in those of the root (``stac_discovery`` and ``other_metadata``). All have to agree.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from xsen2.errors import CRSError, GridError, RadiometryError, SourceError, Xsen2Error
from xsen2.grid import edges_of, geobox, metres
from xsen2.sources.assemble import by_blocks
from xsen2.sources.calibration import SETTLE, Radiometry, check_given, settled
from xsen2.sources.items import as_mapping, as_number
from xsen2.sources.safe_metadata import tile_in
from xsen2.sources.when import sensing_time
from xsen2.sources.zarr import message, opened

if TYPE_CHECKING:
    import zarr
    from odc.geo.geobox import GeoBox
    from zarr.abc.store import Store as ZarrStore

__all__ = [
    "BANDS_AT",
    "About",
    "Layer",
    "Product",
    "about",
    "agree",
    "epsg_of",
    "grid_of",
    "is_eopf",
    "meaning",
    "short",
]


# Where the grids of an EOPF product lie: from coordinates, which the ``proj:`` attributes must not contradict.


_UTM = re.compile(r"32[67](0[1-9]|[1-5]\d|60)")


def epsg_of(product: Product, layers: Sequence[Layer]) -> int:
    """EPSG code of the product.

    Raises
    ------
    CRSError
        If it is missing, differs between two places, or is not a UTM zone.
    """
    item, other = (as_mapping(product.attrs.get(key)) for key in ("stac_discovery", "other_metadata"))
    properties = as_mapping(item.get("properties"))
    recorded: dict[str, object] = {"horizontal_CRS_code": other.get("horizontal_CRS_code")}
    homes = {home for layer in layers for home in _parents(layer.path)}
    places = [("stac_discovery", properties), *((f"the group {home!r}", product.group(home)) for home in sorted(homes))]
    for place, attrs in (*places, *((layer.location, layer.attrs) for layer in layers)):
        recorded |= {f"{key} of {place}": attrs.get(key) for key in ("proj:epsg", "proj:code")}
    if not any(value not in (None, "") for value in recorded.values()):
        recorded |= {place: _by_wkt(attrs) for place, attrs in _mappings(product, layers)}
    codes: dict[str, str] = {}
    for place, value in recorded.items():
        if value in (None, ""):
            continue
        code = str(value).strip().upper().removeprefix("EPSG:")
        if isinstance(value, bool) or not _UTM.fullmatch(code):
            raise CRSError(f"{product.location}: {place} is {short(value)}, but every Sentinel-2 tile is in a UTM zone")
        codes[place] = code
    if not codes:
        raise CRSError(
            f"{product.location} has no CRS: neither horizontal_CRS_code nor proj:epsg or proj:code, nor a grid "
            "mapping; download it again"
        )
    first = next(iter(codes))
    for place, code in codes.items():
        if code != codes[first]:
            raise CRSError(f"{product.location}: {first} is EPSG:{codes[first]}, but {place} is EPSG:{code}")
    return int(codes[first])


def _parents(path: str) -> list[str]:
    """The groups that an array is in, the root last."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _mappings(product: Product, layers: Sequence[Layer]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where a CRS may be written out: grid mappings of the bands, and ``proj:wkt2``."""
    for layer in layers:
        home = layer.path.rpartition("/")[0]
        yield f"proj:wkt2 of {layer.location}", layer.attrs
        yield f"proj:wkt2 of the group {home!r}", product.group(home)
        name = layer.attrs.get("grid_mapping", "spatial_ref")
        if isinstance(name, str) and name.isidentifier() and (mapping := product.layer(f"{home}/{name}")) is not None:
            yield f"the grid mapping {mapping.path}", mapping.attrs


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


def grid_of(product: Product, home: str, gsd: int, shape: tuple[int, ...], epsg: int) -> GeoBox:
    """A grid, from the coordinates of its group, which are pixel centres, or else its transform.

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
                f"{product.location}: spatial:transform of the group {home!r} is {short(steps)}, which is none of an "
                f"upright grid of pixels of {gsd} m"
            )
        return geobox((left, top - gsd * shape[0], left + gsd * shape[1], top), gsd, epsg)
    ends: dict[str, tuple[int, int]] = {}
    for dim, size, sign in zip(("y", "x"), shape, (-1, 1), strict=True):
        layer = product.layer(f"{home}/{dim}")
        if layer is None:
            raise GridError(f"{product.location}: {home} has no coordinate {dim}: download the product again")
        layer.require(("int64", "int32", "float64", "float32"), 1)
        if layer.array.shape != (size,):
            raise GridError(
                f"{layer.location} has {layer.array.shape[0]} values, but its bands {size} pixels along {dim}"
            )
        values = layer.values().astype(np.float64)
        first = float(values[0]) - sign * gsd / 2
        want = first + sign * gsd * (np.arange(size) + 0.5)
        if not np.abs(values - want).max() < 0.01 or abs(first) > 1e8 or abs(first - round(first)) > 0.01:
            raise GridError(
                f"{layer.location} goes from {metres(values[0])} to {metres(values[-1])} in {size} values: these are "
                f"not the centres of pixels of {gsd} m; download the product again"
            )
        ends[dim] = (round(first), round(first) + sign * gsd * size)
    (top, bottom), (left, right) = ends["y"], ends["x"]
    return geobox((left, bottom, right, top), gsd, epsg)


def agree(layer: Layer, grid: GeoBox, group: Mapping[str, Any]) -> None:
    """Refuse an array whose shape, dims or ``proj:`` attributes contradict the coordinates of its grid.

    A part of a product that was stored anew still has the ``proj:`` attributes of the whole one.

    Raises
    ------
    GridError
        If something differs, naming both.
    """
    left, bottom, right, top = edges_of(grid)
    want = [round(number) for number in grid.affine[:6]]
    if layer.array.shape != grid.shape:
        raise GridError(
            f"{layer.location} has {layer.array.shape} pixels, but by the coordinates its grid has {grid.shape.yx}: "
            "download the product again"
        )
    dims = layer.attrs.get("_ARRAY_DIMENSIONS") or getattr(layer.array.metadata, "dimension_names", None) or ("y", "x")
    if dims not in (["y", "x"], ("y", "x")):
        raise GridError(f"{layer.location} has the dims {short(dims)}, not y and x: download the product again")
    for location, attrs, key in (
        (layer.location, layer.attrs, "proj:transform"),
        (layer.location, layer.attrs, "spatial:transform"),
        (f"the group of {layer.location}", group, "spatial:transform"),
    ):
        steps = _numbers(location, attrs, key, 6)
        if steps and not (
            _near(steps, (*want[:2], steps[2], *want[3:5], steps[5]))
            and _near(((steps[2] - left) / want[0] % 1, (steps[5] - top) / want[0] % 1), (0, 0), turn=1)
        ):
            raise GridError(
                f"{location}: {key} is {short(steps)}, but by the coordinates of its grid it is "
                f"{want}: download the product again"
            )
    bbox = _numbers(layer.location, layer.attrs, "proj:bbox", 4)
    if bbox and not (
        bbox[0] - 0.01 <= left and bbox[1] - 0.01 <= bottom and right <= bbox[2] + 0.01 and top <= bbox[3] + 0.01
    ):
        raise GridError(
            f"{layer.location}: proj:bbox is {short(bbox)}, but the coordinates of its grid span "
            f"{[left, bottom, right, top]}: download the product again"
        )


def _numbers(location: str, attrs: Mapping[str, Any], key: str, size: int) -> list[float]:
    """The first `size` numbers of a list in the attributes; none where it is not there."""
    value = attrs.get(key)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or len(value) < size or None in map(as_number, value[:size]):
        raise GridError(f"{location}: {key} is {short(value)}, not {size} numbers; download the product again")
    return [float(v) for v in value[:size]]


def _near(values: Sequence[float], want: Sequence[float], turn: float = math.inf) -> bool:
    """Whether numbers are the same but for rounding; `turn` and 0 are one."""
    off = [abs(v - w) for v, w in zip(values, want, strict=True)]
    return all(min(d, abs(turn - d)) < 1e-3 for d in off)


# The groups and arrays of an EOPF product in a Zarr store: a folder, a zip, an address, or a store of zarr's.


Array = npt.NDArray[Any]
BANDS_AT = "measurements/reflectance"
"""Group with a group per native grid: r10m, r20m, r60m."""

_SIDE = 10980
"""Pixels along the side of a tile at 10 m."""


@dataclass(frozen=True)
class Layer:
    """One array of a product.

    Attributes
    ----------
    array : zarr.Array
    attrs : dict
    location : str
        The array, for messages.
    path : str
        Of the array in the product.
    """

    array: zarr.Array[Any]
    attrs: dict[str, Any]
    location: str
    path: str

    def require(self, kinds: Iterable[str], ndim: int) -> None:
        """Refuse what cannot be an array of the product, before anything of it is decoded.

        Raises
        ------
        SourceError
            If it is of another dtype or shape.
        """
        kinds, shape, chunks = list(kinds), self.array.shape, self.array.chunks
        if (
            str(self.array.dtype) not in kinds
            or not len(shape) == len(chunks) == ndim
            or not all(1 <= n <= _SIDE for n in shape)
        ):
            raise SourceError(
                f"{self.location} is of dtype {self.array.dtype}, shape {shape} and chunks {chunks}, not "
                f"{' or '.join(kinds)} with {ndim} dims: it is not an array of ESA's; download the product again"
            )

    def values(self) -> Array:
        """All of it, now: for coordinates."""
        return np.asarray(_part(self.array, tuple(slice(0, n) for n in self.array.shape), self.location, "the whole"))

    def lazy(
        self, name: str, side: int, decode: Callable[[Array], Array], dtype: npt.DTypeLike, stamp: object
    ) -> da.Array:
        """Lazy (1, y, x) pixels after `decode`; chunks are whole chunks of the store, near `side` pixels wide."""
        try:
            told = str(self.array.metadata)
        except Exception as error:  # codecs do not check their parameters before they write or use them
            raise SourceError(f"{self.location} has metadata that no codec knows: {message(error)}") from error
        read = partial(_read, array=self.array, location=self.location)
        what = (self.location, stamp, told)
        return by_blocks(read, decode, self.array.shape, self.array.chunks, side, dtype, f"eopf-{name}", *what)


@dataclass(frozen=True)
class Product:
    """An opened product.

    Attributes
    ----------
    root : zarr.Group
    attrs : dict
    location : str
        The store, for messages.
    stamp : tuple of int
        Size and time of the local file that tells of a replaced store.
    """

    root: zarr.Group
    attrs: dict[str, Any]
    location: str
    stamp: tuple[int, ...]

    @classmethod
    def open(cls, store: str | os.PathLike[str] | ZarrStore) -> Product:
        """The product in `store`.

        Raises
        ------
        SourceError
            If there is none, or it cannot be read.
        ImportError
            If the address needs a package that is not installed.
        """
        import zarr

        source = opened(store)
        location = source.location
        try:
            root = zarr.open_group(source.store, path=source.prefix, mode="r")
            product = cls(root, dict(root.attrs), location, source.stamp)
        except Exception as error:  # zarr, fsspec and their backends raise a dozen kinds
            raise SourceError(f"{location} cannot be read as a Zarr store: {message(error)}") from error
        if not product.has_group(BANDS_AT):
            raise SourceError(
                f"{location} has no group {BANDS_AT}: it is not a Sentinel-2 L1C or L2A product of EOPF. Other Zarr "
                "stores are opened with xarray.open_datatree or open_zarr, and superresolve checks what they hold"
            )
        return product

    def has_group(self, path: str) -> bool:
        """Whether there is a group at `path`."""
        import zarr

        return isinstance(self._node(path), zarr.Group)

    def layer(self, path: str) -> Layer | None:
        """The array at `path`, None where there is none."""
        import zarr

        node, location = self._node(path), f"{self.location}: {path}"
        if node is None:
            return None
        if not isinstance(node, zarr.Array):
            raise SourceError(f"{location} is a group where an array is needed; download the product again")
        return Layer(node, self._attrs(node, location), location, path)

    def group(self, path: str) -> dict[str, Any]:
        """Attributes of the group at `path`; none where there is none."""
        import zarr

        node = self._node(path) if path else self.root
        return self._attrs(node, f"{self.location}: {path}") if isinstance(node, zarr.Group) else {}

    def _attrs(self, node: zarr.Array[Any] | zarr.Group, location: str) -> dict[str, Any]:
        try:
            return dict(node.attrs)
        except (TypeError, ValueError) as error:
            raise SourceError(f"{location} has attributes that are no mapping: download the product again") from error

    def _node(self, path: str) -> object:
        try:
            return self.root[path]
        except KeyError:
            return None
        except Exception as error:  # as above
            raise SourceError(f"{self.location}: {path} cannot be read as Zarr: {message(error)}") from error


def is_eopf(store: str) -> bool:
    """Whether a path or an address is that of an EOPF product; False also where it cannot be opened.

    Raises
    ------
    ImportError
        If the address needs a package that is not installed, as any Zarr store there would.
    """
    try:
        Product.open(store)
    except SourceError:
        return False
    return True


def _part(array: zarr.Array[Any], window: tuple[slice, ...], location: str, part: str) -> Any:
    try:
        return array[window]
    except Exception as error:  # codecs and backends raise whatever they like
        raise SourceError(
            f"{location}: {part} cannot be read ({message(error)}): the store is damaged, or its server failed; try "
            "again, or download the product again"
        ) from error


def _read(
    block_info: Mapping[Any, Any] | None = None,
    *,
    array: zarr.Array[Any],
    location: str,
    decode: Callable[[Array], Array],
) -> Array:
    assert block_info is not None
    _, (y0, y1), (x0, x1) = block_info[None]["array-location"]
    part = f"rows {y0} to {y1}, columns {x0} to {x1}"
    return decode(np.asarray(_part(array, (slice(y0, y1), slice(x0, x1)), location, part)))[None]


@dataclass(frozen=True)
class About:
    """The product as a whole.

    Attributes
    ----------
    product, tile, level, platform : str
    baselines : dict
        Name of a metadata field → the processing baseline in it, such as ``"05.11"``.
    time : datetime.datetime or None
        Sensing time of the tile, UTC, without time zone. A GeoZarr store may have none.
    provenance : mapping
        How pixels were made, of a product that ``to_zarr(layout="eopf")`` has written.
    """

    product: str
    tile: str
    level: str
    platform: str
    baselines: dict[str, str]
    time: datetime | None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """The processing baseline: the first that the metadata give."""
        return next(iter(self.baselines.values()), "unknown")


def about(product: Product) -> About:
    """What the root says of the product; of a GeoZarr store without a STAC item in it, what its name says.

    Raises
    ------
    SourceError
        If the level or the time are missing or cannot be.
    """
    item, other = (as_mapping(product.attrs.get(key)) for key in ("stac_discovery", "other_metadata"))
    if not item and not other:
        return _by_name(product.location)
    properties = as_mapping(item.get("properties"))
    name = _text(item.get("id")).removesuffix(".SAFE").removesuffix(".zarr")
    levels = (_text(properties.get("processing:level")), _text(properties.get("product:type")), name)
    level = next((match[1] for text in levels if (match := re.search(r"(?:^|MSI)(L1C|L2A)", text))), None)
    if level is None:
        raise SourceError(
            f"{product.location}: stac_discovery says processing:level is {short(properties.get('processing:level'))}: "
            "L1C and L2A can be opened"
        )
    ids = (name, _text(other.get("UTM_zone_identification")))
    tile = next(filter(None, map(tile_in, ids)), "unknown")
    named = re.search(r"_N(\d\d)(\d\d)_", name)
    recorded = {
        "eopf:baseline": _text(properties.get("eopf:baseline")),
        "processing:version": _text(properties.get("processing:version")),
        "the product's id": f"{named[1]}.{named[2]}" if named else "",
    }
    baselines = {place: text for place, text in recorded.items() if re.fullmatch(r"\d\d\.\d\d", text)}
    platform = _text(properties.get("platform")).title() or "unknown"
    return About(
        name or "unknown",
        tile,
        level,
        platform,
        baselines,
        _time(product, properties, other),
        as_mapping(other.get("xsen2")),
    )


def _by_name(location: str) -> About:
    """What a store named as ESA names products tells by its name; the time is that of the pass, not of the tile."""
    match = re.search(r"(S2([A-Z])_MSI(L1C|L2A)_(\d{8}T\d{6})_N(\d\d)(\d\d)_R\d{3}_T(\w{5})_\w+?)(\.|/|$)", location)
    if match is None:
        return About("unknown", "unknown", "unknown", "unknown", {}, None)
    name, letter, level, time, major, minor, tile, _ = match.groups()
    return About(name, tile, level, f"Sentinel-2{letter}", {"the store's name": f"{major}.{minor}"}, sensing_time(time))


def _time(product: Product, properties: Mapping[str, Any], other: Mapping[str, Any]) -> datetime:
    recorded = {
        "mean_sensing_time": other.get("mean_sensing_time"),
        "datetime": properties.get("datetime"),
        "start_datetime": properties.get("start_datetime"),
    }
    key, value = next(((k, v) for k, v in recorded.items() if v not in (None, "", "null")), ("mean_sensing_time", None))
    time = sensing_time(_text(value))
    if time is None:
        raise SourceError(f"{product.location}: {key} is {short(value)}, not a time of Sentinel-2's mission")
    return time


def meaning(layer: Layer, metadata: About, given: float | None) -> Radiometry:
    """The radiometry of one band, from its metadata.

    Parameters
    ----------
    given : float or None
        DN to add, instead of what the metadata say.

    Raises
    ------
    RadiometryError
        If something is missing, not a number, or given twice with different values; if offset and processing
        baseline contradict each other; or if `given` cannot be an offset.
    """
    check_given(given)
    location = layer.location
    if layer.array.dtype.kind == "f":
        return _of_floats(layer, metadata, given)
    scale = _agreed(layer, "scale_factor", 1e-6, 1)
    if scale is None:
        raise RadiometryError(f"{location} has no scale_factor, so it is not known what its pixels are")
    if given is None:
        added = _agreed(layer, "add_offset", -1, 0, f": {SETTLE}")
        declared = None if added is None else round(added / scale, 6)
        offset = settled(location, declared, metadata.baselines, field="its add_offset")
    else:
        offset = float(given)
    quantification = round(1 / scale, 6)
    nodata = _nodata(layer)
    top = np.iinfo(layer.array.dtype).max
    low, high = (
        _integer(layer.attrs.get(key, default), f"{location}: {key}", top)
        for key, default in (("valid_min", 0), ("valid_max", top))
    )
    if not low < quantification - offset <= high:
        raise RadiometryError(
            f"{location}: valid_min {low} and valid_max {high} leave out {quantification - offset:g}, which is a "
            "reflectance of 1: they are not of raw pixels, or scale_factor is wrong"
        )
    return Radiometry(offset, 10000 / quantification, nodata, metadata.baseline, location, (low, high))


def _of_floats(layer: Layer, metadata: About, given: float | None) -> Radiometry:
    """Of GeoZarr stores that hold reflectance: what CF attributes make of the numbers, the offset taken off before."""
    attrs, what = layer.attrs, f"{layer.location}: "
    scale = _number(attrs.get("scale_factor", 1), what + "scale_factor", 1e-6, 1, RadiometryError)
    added = _number(attrs.get("add_offset", 0), what + "add_offset", -1, 0, RadiometryError)
    missing = as_number(attrs.get("_FillValue"))
    quantification = round(1 / scale, 6)
    offset = round(added / scale, 6) if given is None else given * quantification / 10000
    return Radiometry(
        offset, 10000 / quantification, math.nan if missing is None else missing, metadata.baseline, layer.location
    )


def _agreed(layer: Layer, key: str, low: float, high: float, settle: str = "") -> float | None:
    """A number that CF attributes and those of EOPF give; None where neither does."""
    recorded = {
        f"{place}{key}": _number(attrs[key], f"{layer.location}: {place}{key}", low, high, RadiometryError)
        for place, attrs in (("", layer.attrs), ("_eopf_attrs/", as_mapping(layer.attrs.get("_eopf_attrs"))))
        if attrs.get(key) is not None
    }
    return _same_value(recorded, layer.location, settle)


def _nodata(layer: Layer) -> int:
    eopf_attrs = as_mapping(layer.attrs.get("_eopf_attrs"))
    stored = layer.array.fill_value
    recorded = {
        "the array's fill_value": None if stored is None else int(stored),
        **{key: layer.attrs.get(key) for key in ("_FillValue", "fill_value")},
        "_eopf_attrs/fill_value": eopf_attrs.get("fill_value"),
    }
    top = np.iinfo(layer.array.dtype).max
    values = {key: float(_integer(v, f"{layer.location}: {key}", top)) for key, v in recorded.items() if v is not None}
    value = _same_value(values, layer.location, "")
    if value is None:
        raise RadiometryError(f"{layer.location} does not say which value is nodata (fill_value): download it again")
    return int(value)


def _same_value(recorded: Mapping[str, float], location: str, settle: str) -> float | None:
    places = list(recorded)
    for place in places[1:]:
        if not math.isclose(recorded[place], recorded[places[0]], rel_tol=1e-9, abs_tol=1e-12):
            raise RadiometryError(
                f"{location}: {places[0]} is {recorded[places[0]]:g}, but {place} is {recorded[place]:g}{settle}"
            )
    return recorded[places[0]] if places else None


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def short(value: object) -> str:
    """`value` for a message."""
    return repr(value)[:80]


def _number(value: object, what: str, low: float, high: float, error: type[Xsen2Error]) -> float:
    number = as_number(value)
    if number is None or not low <= number <= high:
        raise error(f"{what} is {short(value)}, not a number from {low:g} to {high:g}")
    return number


def _integer(value: object, what: str, top: int) -> int:
    number = _number(value, what, 0, top, RadiometryError)
    if number != int(number):
        raise RadiometryError(f"{what} is {short(value)}, not a whole number")
    return int(number)
