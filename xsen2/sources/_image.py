"""Pixels of one raster file: opened with the drivers of the products alone, checked, read as they are."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xsen2.errors import CRSError, GridError, RadiometryError
from xsen2.sources._place import Place

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

__all__ = ["DRIVERS", "check", "opened", "part"]

DRIVERS = ("GTiff", "COG", "JP2OpenJPEG")
"""Formats that catalogues keep Sentinel-2 in. GDAL guesses the format of a file by its content, whatever its name, and
some of the formats it knows (VRT above all) are lists of other files to open, local ones too."""


def opened(url: str) -> DatasetReader:
    """Open a file, which must be a GeoTIFF or JPEG 2000."""
    from rasterio.env import ensure_env_with_credentials
    from rasterio.io import DatasetReader

    # rasterio.open takes one driver, and does no more than this.
    found: DatasetReader = ensure_env_with_credentials(DatasetReader)(url, driver=list(DRIVERS), sharing=False)
    return found


def check(file: DatasetReader, what: str, place: Place) -> None:
    """Refuse a file that lies elsewhere than its item says, or is no single image: nothing would say so later.

    Raises
    ------
    CRSError, GridError
        If the CRS is another; or the corner, the size of the pixels, their number, or that of the bands.
    """
    crs, transform, shape = file.crs, file.transform, file.shape
    epsg = _epsg(crs.to_wkt()) if crs else None
    fix = "correct the item, or leave it out"
    if epsg != place.epsg:
        said = "no CRS" if not crs else f"EPSG:{epsg}" if epsg else crs.to_string()[:80]
        raise CRSError(f"{what}: the file is in {said}, but the item says EPSG:{place.epsg}: {fix}")
    want = (place.gsd, 0, place.left, 0, -place.gsd, place.top)
    if shape != (place.height, place.width) or not _near(transform, want):
        raise GridError(
            f"{what}: the file has {shape[0]} x {shape[1]} pixels of {transform.a:g} x {-transform.e:g} m from the "
            f"corner {transform.c:.10g}, {transform.f:.10g}, but the item says {place.height} x {place.width} of "
            f"{place.gsd} m from {place.left}, {place.top}: {fix}"
        )
    if file.count != 1:
        raise GridError(f"{what}: the file has {file.count} bands, where one is expected: {fix}")


@lru_cache(maxsize=256)
def _epsg(wkt: str) -> int | None:
    from rasterio.crs import CRS

    found: int | None = CRS.from_wkt(wkt).to_epsg()
    return found


def _near(transform: Any, want: tuple[int, ...]) -> bool:
    return all(abs(found - value) < 1e-3 for found, value in zip(tuple(transform)[:6], want, strict=True))


def part(
    file: DatasetReader, what: str, place: Place, left: int, top: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Pixels of a box that begins at `left`, `top`, in metres; 0 where the file has none.

    Raises
    ------
    RadiometryError
        If pixels are not whole numbers that `dtype` holds: cut or rounded they would be others.
    """
    out = np.zeros(shape, dtype)
    row, column = (place.top - top) // place.gsd, (left - place.left) // place.gsd
    rows = slice(max(row, 0), min(row + shape[0], place.height))
    columns = slice(max(column, 0), min(column + shape[1], place.width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return out
    raw = file.read(1, window=((rows.start, rows.stop), (columns.start, columns.stop)))
    hidden = _hidden(file, raw, rows, columns)
    if hidden is not None:
        raw[hidden] = 0
    if raw.dtype.kind not in "iuf":
        raise RadiometryError(f"{what}: the file has pixels of type {raw.dtype}, not whole numbers: leave it out")
    if raw.dtype != dtype:
        low, high = raw.min(), raw.max()
        if low < 0 or high > np.iinfo(dtype).max or (raw.dtype.kind == "f" and not np.array_equal(np.rint(raw), raw)):
            raise RadiometryError(
                f"{what}: the file has {raw.dtype} pixels from {low:g} to {high:g}, which are not whole "
                f"numbers that {dtype} holds, as those of the product are: leave it out"
            )
    out[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = raw
    return out


def _hidden(file: DatasetReader, raw: npt.NDArray[Any], rows: slice, columns: slice) -> npt.NDArray[np.bool_] | None:
    """Where the file says that there are no data, in its own words; None where 0 says it."""
    from rasterio.enums import MaskFlags

    flags = file.mask_flag_enums[0]
    if raw.dtype.kind == "f":
        nothing: npt.NDArray[np.bool_] = np.isnan(raw)
        if file.nodata is not None:
            nothing |= raw == file.nodata
        return nothing
    if MaskFlags.all_valid in flags or (MaskFlags.nodata in flags and file.nodata == 0):
        return None
    masked: npt.NDArray[np.bool_] = (
        file.read_masks(1, window=((rows.start, rows.stop), (columns.start, columns.stop))) == 0
    )
    return masked
