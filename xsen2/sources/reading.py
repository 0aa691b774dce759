"""Reading remote files that fail now and then: signed, tried again, and named when it is no use."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote
from uuid import uuid4
from weakref import WeakValueDictionary

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr
from dask.blockwise import Blockwise

from xsen2.errors import CRSError, GridError, RadiometryError, SourceError
from xsen2.grid import geobox

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

__all__ = [
    "ENV",
    "PAUSES",
    "ReadWarning",
    "Reading",
    "Record",
    "Skipped",
    "recorded",
    "secretless",
    "skipped",
    "tagged",
]


# Pixels of one raster file: opened with the drivers of the products alone, checked, read as they are.


DRIVERS = ("GTiff", "COG", "JP2OpenJPEG")
"""Formats that catalogues keep Sentinel-2 in. GDAL guesses the format of a file by its content, whatever its name, and
some of the formats it knows (VRT above all) are lists of other files to open, local ones too."""


def opened(url: str) -> DatasetReader:
    """Open a file, which must be a GeoTIFF or JPEG 2000."""
    from rasterio.env import ensure_env_with_credentials
    from rasterio.io import DatasetReader

    # rasterio.open takes one driver, and does no more than this.
    file: DatasetReader = ensure_env_with_credentials(DatasetReader)(url, driver=list(DRIVERS), sharing=False)
    return file


def check(file: DatasetReader, what: str, place: GeoBox) -> None:
    """Refuse a file that lies elsewhere than its item says, or is no single image: nothing would say so later.

    Raises
    ------
    CRSError, GridError
        If the CRS is another; or the corner, the size of the pixels, their number, or that of the bands.
    """
    crs, transform, shape = file.crs, file.transform, file.shape
    epsg = _epsg(crs.to_wkt()) if crs else None
    fix = "correct the item, or leave it out"
    assert place.crs is not None
    if epsg != place.crs.epsg:
        crs_name = "no CRS" if not crs else f"EPSG:{epsg}" if epsg else crs.to_string()[:80]
        raise CRSError(f"{what}: the file is in {crs_name}, but the item says EPSG:{place.crs.epsg}: {fix}")
    if shape != place.shape or not transform.almost_equals(place.affine, 1e-3):
        raise GridError(
            f"{what}: the file has {shape[0]} x {shape[1]} pixels of {transform.a:g} x {-transform.e:g} m from the "
            f"corner {transform.c:.10g}, {transform.f:.10g}, but the item says {place.shape.y} x {place.shape.x} of "
            f"{place.affine.a:g} m from {place.affine.c:.10g}, {place.affine.f:.10g}: {fix}"
        )
    if file.count != 1:
        raise GridError(f"{what}: the file has {file.count} bands, where one is expected: {fix}")


@lru_cache(maxsize=256)
def _epsg(wkt: str) -> int | None:
    from rasterio.crs import CRS

    code: int | None = CRS.from_wkt(wkt).to_epsg()
    return code


def part(
    file: DatasetReader, what: str, place: GeoBox, left: int, top: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Pixels of a box that begins at `left`, `top`, in metres; 0 where the file has none.

    Raises
    ------
    RadiometryError
        If pixels are not whole numbers that `dtype` holds: cut or rounded they would be others.
    """
    # A cube may reach beyond a tile, so what is asked for may lie beside the file: it is cut, never stretched.
    out = np.zeros(shape, dtype)
    size = place.affine.a
    row, column = round((place.affine.f - top) / size), round((left - place.affine.c) / size)
    rows = slice(max(row, 0), min(row + shape[0], place.shape.y))
    columns = slice(max(column, 0), min(column + shape[1], place.shape.x))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return out
    raw = file.read(1, window=((rows.start, rows.stop), (columns.start, columns.stop)))
    hidden = _hidden(file, raw, rows, columns)
    if hidden is not None:
        raw[hidden] = 0
    if raw.dtype.kind not in "iuf":
        raise RadiometryError(f"{what}: the file has pixels of type {raw.dtype}, not whole numbers: leave it out")
    if raw.dtype != dtype:  # some catalogues keep int16 or float32 copies: the same numbers, or a named error
        low, high = raw.min(), raw.max()
        if low < 0 or high > np.iinfo(dtype).max or (raw.dtype.kind == "f" and not np.array_equal(np.rint(raw), raw)):
            raise RadiometryError(
                f"{what}: the file has {raw.dtype} pixels from {low:g} to {high:g}, which are not whole "
                f"numbers that {dtype} holds, as those of the product are: leave it out"
            )
    out[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = raw
    return out


def _hidden(file: DatasetReader, raw: npt.NDArray[Any], rows: slice, columns: slice) -> npt.NDArray[np.bool_] | None:
    """Where the file declares that there are no data (mask or nodata value); None where 0 alone is nodata."""
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


ENV: dict[str, str] = {
    # With several threads GDAL reads on over tiles of a cut-off JPEG 2000 file that cannot be decoded, and what
    # it returns is whatever was in memory; with one it says so. Chunks are read in parallel anyway.
    "GDAL_NUM_THREADS": "1",
    # No files beside the image: each would be a request, and could move it or change its values.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    # 429 and 5xx are tried again by GDAL itself, which repeats one request and not the whole block.
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.25",
    # Tiles beside each other come in one request.
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # A server that does not answer is an error, not a task that never ends; nor one that trickles.
    "GDAL_HTTP_TIMEOUT": "300",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}

PAUSES: tuple[float, ...] = (0.5, 1.0, 2.0)
"""Seconds before the second, third and fourth attempt."""

_FINAL = re.compile(r"HTTP response code: (400|401|404|405|410)|No such file or directory")
"""What the next attempt would only repeat. 403 is not among them: a token that ran out is signed anew."""

_REMOTE = {"http": "/vsicurl/http", "https": "/vsicurl/https", "s3": "/vsis3"}

_LIMIT = 10_000


class ReadWarning(UserWarning):
    """A block, or an asset that an item does not have, became nodata since ``on_error="skip"`` allows it."""


@dataclass(frozen=True)
class Skipped:
    """One block that could not be read.

    Attributes
    ----------
    item : str
        Id of the STAC item.
    asset : str
        Key of the asset in it.
    extent : str
        Rows and columns, or the box, of the block.
    reason : str
        What GDAL, the server or the signer said at the last attempt.
    """

    item: str
    asset: str
    extent: str
    reason: str


class Record:
    """What one call of `load` could not read, in whichever process and by whichever sink its cube is computed.

    It lies in the graph of the cube, and so in that of all that is made of it lazily; workers get its name. On those of
    a cluster, what is lost is noted as an event of the scheduler, which a client can ask for.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lost: dict[str, Skipped] = {}
        self._forgotten: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def named(cls, name: str = "") -> Record:
        """A new one; or the one of this name, if this process has it."""
        with _guard:
            record = _records.get(name) if name else None
            if record is None:
                record = cls(name or uuid4().hex)
                _records[record.name] = record
            return record

    def __reduce__(self) -> tuple[Any, ...]:
        return Record.named, (self.name,)

    def __dask_tokenize__(self) -> str:
        return "xsen2-record"  # the same items are the same pixels, whoever asks for them

    def add(self, what: Skipped) -> None:
        """Note what could not be read."""
        # The scheduler's events come to a client more than once: the key tells the same loss from another like it.
        key = uuid4().hex
        self._note(key, what)
        worker = _worker()
        if worker is not None:
            worker.log_event(self._topic, {"key": key, "lost": vars(what)})

    def all(self, forget: bool) -> tuple[Skipped, ...]:
        """All blocks that were lost; with `forget`, they are not listed again."""
        client = _client()
        for _, event in client.get_events(self._topic) if client is not None else ():
            self._note(event["key"], Skipped(**event["lost"]))
        with self._lock:
            lost = tuple(self._lost.values())
            if forget:
                self._forgotten |= set(self._lost)
                self._lost.clear()
        return lost

    @property
    def _topic(self) -> str:
        return f"xsen2-skipped-{self.name}"

    def _note(self, key: str, what: Skipped) -> None:
        with self._lock:
            if key not in self._forgotten and len(self._lost) < _LIMIT:
                self._lost[key] = what


_records: WeakValueDictionary[str, Record] = WeakValueDictionary()
_guard = threading.Lock()


def _worker() -> Any:
    """The worker of a cluster whose task this thread computes, or None."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


def _client() -> Any:
    """The client of a cluster that is connected here, or None."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        client = default_client()  # type: ignore[no-untyped-call]
    except ValueError:
        return None
    return client if client.status == "running" and not client.asynchronous else None


def recorded(data: da.Array, record: Record) -> da.Array:
    """The array, with a record in its graph."""
    out: da.Array = da.map_blocks(_unchanged, data, record, dtype=data.dtype, meta=data._meta)
    return out


def _unchanged(block: npt.NDArray[Any], record: Record) -> npt.NDArray[Any]:
    return block


def skipped(cube: xr.Dataset | xr.DataArray | xr.DataTree, forget: bool = False) -> tuple[Skipped, ...]:
    """What of a cube could not be read and was made nodata, under ``xsen2.load(..., on_error="skip")``.

    Pixels are read when a cube is computed, so look here afterwards, whether it was computed in memory or by a sink. A
    block that is computed twice is there twice. Each is also warned of, with `ReadWarning`. What the workers of a
    distributed cluster could not read is told as long as their client is connected.

    Parameters
    ----------
    cube : xarray.Dataset, xarray.DataArray or xarray.DataTree
        The lazy cube that `load` gave, or what was made of it lazily: all calls of `load` that it comes from are asked.
    forget : bool
        Empty the record of these calls, so that the next computation starts a new one. It holds the first 10 000.

    Returns
    -------
    tuple of Skipped

    Raises
    ------
    SourceError
        If `cube` is in memory: nothing tells any more what it was computed from.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample().chunk()
    >>> ndwi = cube.dsen2.index("NDWI").compute()
    >>> skipped(cube)
    ()
    """
    parts: list[Any] = [node.to_dataset() for node in cube.subtree] if isinstance(cube, xr.DataTree) else [cube]
    graphs = [graph for part in parts if (graph := part.__dask_graph__()) is not None]
    if not graphs:
        raise SourceError(
            "these pixels are in memory, and nothing tells what they were computed from: give the lazy cube that "
            "xsen2.load returned, skipped(cube)"
        )
    records: dict[str, Record] = {}
    for graph in graphs:
        for layer in graph.layers.values():
            if isinstance(layer, Blockwise):
                records |= {value.name: value for value, index in layer.indices if isinstance(value, Record)}
    return tuple(lost for record in records.values() for lost in record.all(forget))


def tagged(href: str, item: str, asset: str, place: GeoBox) -> str:
    """`href` with what it is in its fragment: far from the items, what is read can be checked, and named in errors."""
    assert place.crs is not None
    box = (*place.boundingbox.bbox, place.affine.a, place.crs.epsg)
    return f"{href}#{quote(item, safe='')}/{quote(asset, safe='')}/{','.join(f'{number:.0f}' for number in box)}"


def _placed(text: str) -> GeoBox:
    """What `tagged` wrote of a place."""
    *bounds, size, epsg = map(int, text.split(","))
    return geobox(tuple(bounds), size, epsg)


@dataclass(frozen=True)
class Reading:
    """How files are read; travels to the workers.

    Attributes
    ----------
    sign : callable or None
        URL → URL that may be read.
    record : Record, optional
        Where to note what cannot be read and becomes nodata; without one, it is an error.
    """

    sign: Callable[[str], Any] | None = None
    record: Record | None = None

    def url(self, url: str) -> str:
        """What to open for a tagged URL, signed now.

        Raises
        ------
        SourceError
            If the signer fails, or gives no URL.
        """
        href = url.rpartition("#")[0]
        if self.sign is None:
            return href
        try:
            signed = self.sign(href)
        except Exception as error:  # a signer asks a server, and may fail in any way
            raise SourceError(f"sign= failed with {type(error).__name__}: {error}") from error
        if not isinstance(signed, str):
            raise SourceError(f"sign= gave a {type(signed).__name__} for a URL, not a URL")
        return signed

    def part(
        self,
        url: str,
        extent: str,
        corner: tuple[int, int],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        keep: int | None = None,
    ) -> npt.NDArray[Any] | None:
        """Pixels of a file, tried up to four times; None when they are skipped.

        Parameters
        ----------
        url : str
            As `tagged` gives it.
        extent : str
            The part that is read, for messages.
        corner : tuple of int
            Left and top of the part, in metres.
        shape : tuple of int
            Its rows and columns; where the file has none, they are 0.
        dtype : numpy.dtype
        keep : int, optional
            Number under which the open file is kept for the next part that this thread reads of it.

        Raises
        ------
        SourceError
            If it still fails; names the item, the asset and the last reason.
        CRSError, GridError
            If the file does not lie where the item says.
        RadiometryError
            If its pixels are not whole numbers that `dtype` holds.
        """
        *named, place = url.rpartition("#")[2].split("/")
        item, asset = (unquote(part) for part in named)
        about, what = _placed(place), f"item {item!r}, asset {asset!r}"

        def read(signed: str | None) -> npt.NDArray[Any]:
            key = (keep, os.getpid(), _stamp(url))
            file = None if keep is None or signed is not None else _kept().pop(key, None)
            # Only a file that was read without a fault is kept open: GDAL remembers in it what it could not read.
            sound = False
            try:
                if file is None:
                    file = opened(self.url(url) if signed is None else signed)
                    check(file, what, about)
                pixels = part(file, what, about, *corner, shape, dtype)
                sound = keep is not None
                return pixels
            finally:
                if sound:
                    _keep(key, file)
                elif file is not None:
                    file.close()

        return self._attempts(url, item, asset, extent, read)

    def _attempts(
        self, url: str, item: str, asset: str, extent: str, read: Callable[[str | None], npt.NDArray[Any]]
    ) -> npt.NDArray[Any] | None:
        import rasterio
        from rasterio.errors import RasterioError

        pauses, tries, signed = list(PAUSES), 0, None
        while True:
            tries += 1
            try:
                # GDAL remembers that a file could not be opened; unless told to forget, it asks no more.
                signed = self.url(url) if tries > 1 else None
                with rasterio.Env(**(ENV | ({"CPL_VSIL_CURL_NON_CACHED": _vsi(signed)} if signed else {}))):
                    return read(signed)
            except (RasterioError, OSError, RuntimeError, UnicodeError, SourceError) as error:
                reason = _reason(error)
                last: Exception = error
            # No pause makes a missing file appear. But GDAL may only remember that it was missing a while ago.
            if _FINAL.search(reason) and pauses:
                remote = _vsi(signed or url)
                pauses = [0.0] if tries == 1 and remote else []  # once more, past GDAL's memory
            if not pauses:
                break
            time.sleep(pauses.pop(0))
        reason = secretless(reason)
        if self.record is None:
            raise SourceError(
                f"item {item!r}, asset {asset!r}: {extent} cannot be read after {tries} attempts: {reason}. "
                f'{_hint(url, reason)}Try again later, leave the item out, or pass on_error="skip", which makes it '
                "nodata and says so"
            ) from last
        what = Skipped(item, asset, extent, reason)
        self.record.add(what)
        _warn(what)
        return None


_CDSE = (
    "s3://eodata is the Copernicus Data Space's own object store: set the environment variables "
    "AWS_S3_ENDPOINT=eodata.dataspace.copernicus.eu, AWS_VIRTUAL_HOSTING=FALSE, and AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY to the keys of your account there. "
)


def _hint(url: str, reason: str) -> str:
    """What to do about a failure whose cause is known."""
    if url.startswith("s3://eodata/"):
        return _CDSE
    if "not recognized as being in a supported file format" in reason:
        return "Only GeoTIFF and JPEG 2000 are read, and no file that refers to others, such as a VRT. "
    if url.startswith("s3://"):
        return (
            "For s3 addresses, set AWS_NO_SIGN_REQUEST=YES where the bucket is open, else AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY and, where the reader pays, AWS_REQUEST_PAYER=requester. "
        )
    return ""


_files = threading.local()
"""Open files of each thread: GDAL's are not safe in two, and a JPEG 2000 or COG is costly to open for each block."""

_MOST_OPEN = 16
"""For each thread, however many dates there are: each is a file descriptor, and memory."""


def _kept() -> OrderedDict[Any, Any]:
    """The files that this thread has open, the latest last."""
    if not hasattr(_files, "open"):
        _files.open = OrderedDict()
    files: OrderedDict[Any, Any] = _files.open
    return files


def _keep(key: Any, file: Any) -> None:
    files = _kept()
    files[key] = file
    while len(files) > _MOST_OPEN:
        files.popitem(last=False)[1].close()


def _stamp(url: str) -> tuple[int, ...]:
    """What changes when a local file is replaced; nothing of a remote one."""
    try:
        about = os.stat(url.rpartition("#")[0])
    except (OSError, ValueError):  # an address; or no file, which opening it will say
        return ()
    return about.st_size, about.st_mtime_ns, about.st_ino


def _warn(what: Skipped) -> None:
    message = f"item {what.item!r}, asset {what.asset!r}: {what.extent} is nodata, it could not be read: {what.reason}"
    if "distributed" in sys.modules:  # on a worker, this warns the client too
        from distributed.worker import warn

        warn(message, ReadWarning)
    else:
        warnings.warn(message, ReadWarning, stacklevel=2)


def _vsi(url: str) -> str:
    """GDAL's name of a remote file; empty for a local one."""
    scheme, _, rest = url.partition("://")
    return f"{_REMOTE[scheme]}{'' if scheme == 's3' else ':/'}/{rest}" if scheme in _REMOTE else ""


def _reason(error: BaseException) -> str:
    """The innermost message: what GDAL said, without the words of the libraries between."""
    while error.__cause__ is not None and not isinstance(error, SourceError):
        error = error.__cause__
    return " ".join(str(error).split())


def secretless(reason: str) -> str:
    """A message without the query of a URL, which is where signatures are."""
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1?…", reason)
