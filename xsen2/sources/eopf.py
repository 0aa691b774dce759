"""A lazy cube from a product in EOPF's Zarr format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS
from xsen2.errors import BandError, GridError, RadiometryError
from xsen2.grid import edges_of, resized
from xsen2.sources.assemble import product_cube, side_of
from xsen2.sources.calibration import Radiometry
from xsen2.sources.eopf_store import BANDS_AT, Layer, Product, about, agree, epsg_of, grid_of, meaning
from xsen2.sources.safe import Need, asked, settle
from xsen2.sources.safe_metadata import GSD

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox
    from zarr.abc.store import Store

__all__ = ["open_eopf", "path_of"]

_PATHS = {
    **{name: f"{BANDS_AT}/r{band.gsd}m/{name.lower()}" for name, band in BANDS.items()},
    "SCL": "conditions/mask/l2a_classification/r20m/scl",
    "CLDPRB": "quality/probability/r20m/cld",
    "CLASSI": "conditions/mask/l1c_classification/r60m/b00",
}


_FINEST = 10


def path_of(name: str, gsd: int) -> str | None:
    """Where EOPF's products have a band or layer whose pixels have this size; None where they have no place for it.

    Examples
    --------
    >>> path_of("B11", 20), path_of("B11", 10), path_of("B02", 15), path_of("WVP", 20)
    ('measurements/reflectance/r20m/b11', 'measurements/reflectance/r10m/b11', None, None)
    """
    path = _PATHS.get(name)
    if path is None or gsd not in (10, 20, 60):
        return None
    home, array = path.rsplit("/", 2)[0], path.rpartition("/")[2]
    return f"{home}/r{gsd}m/{array}"


def open_eopf(
    store: str | os.PathLike[str] | Store,
    bands: Sequence[str] | None = None,
    chunks: int = 2048,
    *,
    offset: float | None = None,
) -> xr.Dataset:
    """Make a lazy cube of a Sentinel-2 product in EOPF's Zarr format, or GeoZarr's: every band on its native grid.

    Only metadata and the coordinates of the grids are read; no pixel before the cube is computed.

    Parameters
    ----------
    store : str, os.PathLike or zarr.abc.store.Store
        A ``.zarr`` folder, a ``.zarr.zip`` with one, which is not extracted, or the address of either in
        the words of fsspec (``https://…``, ``s3://…``), whose package must be installed; or a store of
        zarr's, for whatever needs credentials. L1C or L2A, in Zarr format 2 or 3; also GeoZarr stores with the same
        groups, as the EOPF Explorer has them, whose overviews are not read; and what ``to_zarr(layout="eopf")`` has
        written: a band that is not on its native grid there is read at 10 m.
    bands : sequence of str, optional
        Bands in any catalogue's words (``"red"``, ``"B04"``), and layers that are no bands: ``"SCL"``
        (scene classification of L2A), ``"CLDPRB"`` (cloud probability of L2A, per cent), ``"CLASSI"``
        (opaque cloud, cirrus and snow masks of L1C, as bits 1, 2 and 4). By default all bands, with SCL, or
        of L1C with CLASSI, as far as they are there, with a `ReadWarning` where one is not; B10 never.
    chunks : int
        Pixels of the 10 m grid along y and x in one dask chunk; the other grids get a half and a sixth
        of it. Moved to the nearest multiple of the store's own chunks (the products' are 1830 or 5490
        pixels wide), so that each of them is decoded once.
    offset : float, optional
        DN to add to the pixels, when the metadata do not settle it or are known to be wrong: -1000
        where pixels carry ESA's +1000 (processing baseline 04.00 and later), 0 where not.

    Returns
    -------
    xarray.Dataset
        A cube of one date, as `open_safe` gives it: bands named B01 … B12, B8A, float32 DN (10000 x
        reflectance, offset removed), NaN where the raw pixel is nodata or outside ``valid_min`` and
        ``valid_max``; dims ``(time, y, x)``, ``(time, y_20m, x_20m)``, ``(time, y_60m, x_60m)``; pixel
        centres as coordinates; `spatial_ref`. SCL and masks are uint8 on their native grid; 0 in SCL
        means no data. `time` is the tile's own sensing time, in UTC. Floats of a GeoZarr store are reflectance, NaN
        where there is none. Where such a store has no STAC item in it, `time` is that of the pass, from the name of
        the product, which the store has to have; without either there is no dim ``time``.

    Raises
    ------
    SourceError
        If there is no product, or it is damaged. A damaged chunk shows only when it is decoded.
    BandError
        If a band is unknown, or the product does not have it.
    RadiometryError
        If scale, offset or nodata are missing or contradict each other: the CF attributes of a band, its
        ``_eopf_attrs``, and the processing baseline.
    GridError
        If the grids do not nest, ``proj:`` attributes contradict the coordinates, or `chunks` is not a
        positive integer.
    CRSError
        If the CRS is not a UTM zone, or is given differently in two places.
    ImportError
        If the address needs a package that is not installed (``pip install 'xsen2[remote]'`` for https).

    Notes
    -----
    DN = (raw + add_offset / scale_factor) x 10000 scale_factor (CF conventions 1.11, section 8.1).

    Zarr does not store chunks that hold nothing but nodata, so a chunk that was lost is nodata, too.

    `xarray.open_datatree` opens the same stores, and ``tree.dsen2.superresolve()`` gives the same pixels as
    reflectance; it has no date, no masks, and trusts each attribute.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.open_eopf("S2C_MSIL2A_20250811T112131_N0511_R037_T29TPF.zarr")  # doctest: +SKIP
    >>> sr = cube.dsen2.superresolve()  # doctest: +SKIP
    >>> cube.attrs["offset"]  # doctest: +SKIP
    "removed once: -1000 DN added to the raw pixels; per date in the coordinate 'offset'"
    """
    return read(store, bands, chunks, offset=offset)


def read(
    store: str | os.PathLike[str] | Store,
    bands: Sequence[str] | None = None,
    chunks: int = 2048,
    *,
    offset: float | None = None,
    optional: Sequence[str] = (),
    remedy: str | None = None,
) -> xr.Dataset:
    """As `open_eopf`, and of the bands `optional`, and the layer that comes unasked, what is there.

    `remedy` is what messages say to do when a band of `bands` is missing.
    """
    side = side_of(chunks)
    product = Product.open(store)
    metadata = about(product)
    names = asked(bands, _PATHS, product.location, "CLASSI" if metadata.level == "L1C" else "SCL", optional)
    layers = _layers(product, names, remedy)
    meant = {name: meaning(layer, metadata, offset) for name, layer in layers.items() if name in BANDS}
    grid = _grid(product, layers)

    arrays: dict[str, da.Array] = {}
    for name, layer in layers.items():
        gsd = _gsd(layer)
        agree(layer, resized(grid, gsd), product.group(layer.path.rpartition("/")[0]))
        decode = meant[name].dn if name in BANDS else _as_is
        dtype = "float32" if name in BANDS else "uint8"
        arrays[name] = layer.lazy(name, side * 10 // gsd, decode, dtype, product.stamp)
    _alike(meant)
    cube = product_cube(
        arrays,
        grid,
        metadata.time,
        meant,
        product=metadata.product,
        tile=metadata.tile,
        level=metadata.level,
        platform=metadata.platform,
        baseline=metadata.baseline,
        gsds={name: _gsd(layer) for name, layer in layers.items()},
    )
    return cube.assign_attrs({str(k): v for k, v in metadata.provenance.items() if k not in cube.attrs})


def _gsd(layer: Layer) -> int:
    """Pixel size, from the group that an array is in."""
    return int(layer.path.split("/")[-2][1:-1])


def _layers(product: Product, names: Mapping[str, Need], remedy: str | None) -> dict[str, Layer]:
    """Name → array of what is asked for, as far as it is there."""
    layers = {name: product.layer(_PATHS[name]) for name in names}
    for name in [name for name, layer in layers.items() if layer is None and GSD[name] != _FINEST]:
        layers[name] = product.layer(str(path_of(name, _FINEST)))
    settle(layers, names, f"{product.location} is not complete", _PATHS, remedy, BandError)
    present = {name: layer for name, layer in layers.items() if layer is not None}
    for name, layer in present.items():
        layer.require(("uint16", "float32", "float64") if name in BANDS else ("uint8",), 2)
    return present


def _grid(product: Product, layers: dict[str, Layer]) -> GeoBox:
    """The 10 m pixels between the edges that all grids share."""
    epsg = epsg_of(product, list(layers.values()))
    grids: dict[str, GeoBox] = {}
    for layer in layers.values():
        home = layer.path.rpartition("/")[0]
        if home not in grids:
            grids[home] = grid_of(product, home, _gsd(layer), layer.array.shape, epsg)
    if len({edges_of(grid) for grid in grids.values()}) > 1:
        extents = "; ".join(f"{home} {edges_of(grid)}" for home, grid in grids.items())
        raise GridError(
            f"{product.location}: the grids do not share their outer edges (left, bottom, right, top): {extents}; "
            "download the product again"
        )
    return resized(next(iter(grids.values())), 10)


def _alike(meant: Mapping[str, Radiometry]) -> None:
    """Refuse bands of one product that differ in scale or nodata."""
    values: dict[str, dict[str, str]] = {"scale_factor": {}, "fill_value": {}}
    for name, radiometry in meant.items():
        values["scale_factor"].setdefault(f"{radiometry.gain / 10000:g}", name)
        values["fill_value"].setdefault(f"{radiometry.nodata:g}", name)
    for key, by_value in values.items():
        if len(by_value) > 1:
            differences = ", ".join(f"{value} of {name}" for value, name in by_value.items())
            raise RadiometryError(
                f"bands of one product have different values of {key}: {differences}; download it again"
            )


def _as_is(raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return raw
