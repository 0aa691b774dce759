"""A Zarr store from outside, of which nothing is read that could run code, lead elsewhere or fill the memory.

All that zarr and xarray read of a store they ask a store object for. `Guarded` is one that stands before another: it
looks at every metadata document and every chunk that passes, so that what is checked is what is used, consolidated or
not, whoever opens it. What it knows of the arrays travels with it to workers.
"""

from __future__ import annotations

import bz2
import json
import lzma
import math
import os
import stat
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, ZipStore

__all__ = ["Guarded", "Refused"]


# How many bytes a compressed chunk unpacks to, before it is unpacked: from its header, or by counting.


_PIECE = 1 << 20
_LZMA_MEMORY = 128 << 20


class Refused(Exception):
    """Something in a store is not read; no `ValueError`, which zarr and xarray take for "try another way"."""


def check(kind: str, data: memoryview, limit: int) -> None:
    """Refuse a chunk that unpacks to more than `limit` bytes, or that is shorter than it says.

    Parameters
    ----------
    kind : str
        One of `COMPRESSORS`.
    data : memoryview
        Of bytes.
    limit : int

    Raises
    ------
    Refused
    """
    size = COMPRESSORS[kind](data, limit)
    if size > limit:
        raise Refused(f"unpacks to over {limit} bytes, which is more than its array can hold")


def _blosc(data: memoryview, limit: int) -> int:
    """Of c-blosc's header (README_CHUNK_FORMAT): bytes 4 to 7 before, 12 to 15 after compression.

    The decoder reads on behind the end of a chunk that is cut off, and gives what lies there.
    """
    if len(data) < 16 or len(data) < int.from_bytes(data[12:16], "little"):
        raise Refused("is cut off")
    return int.from_bytes(data[4:8], "little")


def _lz4(data: memoryview, limit: int) -> int:
    """Of numcodecs' own header."""
    if len(data) < 4:
        raise Refused("is cut off")
    return int.from_bytes(data[:4], "little")


def _zstd(data: memoryview, limit: int) -> int:
    """RFC 8878, section 3.1: what the frames say, or an eighth of what the blocks of one that says nothing can hold.

    A block holds 128 KiB at the most, and writers that do not know the size beforehand may end blocks early.
    """
    total = at = 0
    while at + 5 <= len(data):
        magic = _number(data, at, 4)
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a frame to be skipped
            at += 8 + _number(data, at + 4, 4)
            continue
        if magic != 0xFD2FB528:
            break  # the decoder says what is wrong
        about = data[at + 4]
        single = about >> 5 & 1
        at += 5 + (not single) + (0, 1, 2, 4)[about & 3]
        field = (single, 2, 4, 8)[about >> 6]
        declared = _number(data, at, field) + (256 if field == 2 else 0)
        at += field
        held, last = 0, False
        while not last and at + 3 <= len(data):
            block = _number(data, at, 3)
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            held += size if kind < 2 else 1 << 17
            at += 3 + (1 if kind == 1 else size)
        at += 4 * (about >> 2 & 1)
        total += declared if field else held // 8
    return total


def _number(data: memoryview, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _deflated(data: memoryview, limit: int) -> int:
    """Of zlib and gzip, which do not say beforehand: unpacked piece by piece, keeping nothing, up to the limit."""
    total, decoder, left = 0, zlib.decompressobj(47), bytes(data)
    with suppress(zlib.error):  # the decoder proper says what is wrong
        while left and total <= limit:
            total += len(decoder.decompress(left, _PIECE))
            left = decoder.unconsumed_tail
            if decoder.eof:
                left, decoder = decoder.unused_data, zlib.decompressobj(47)
    return total


def _counted(make: Callable[[], Any]) -> Callable[[memoryview, int], int]:
    """The same for decoders that keep what they have not used."""

    def count(data: memoryview, limit: int) -> int:
        total, decoder, left = 0, make(), bytes(data)
        with suppress(OSError, EOFError, lzma.LZMAError):
            while total <= limit:
                total += len(decoder.decompress(left, _PIECE))
                left = b""
                if decoder.eof and decoder.unused_data:
                    left, decoder = decoder.unused_data, make()
                elif decoder.eof or decoder.needs_input:
                    break
        return total

    return count


COMPRESSORS: dict[str, Callable[[memoryview, int], int]] = {
    "blosc": _blosc,
    "zstd": _zstd,
    "lz4": _lz4,
    "zlib": _deflated,
    "gzip": _deflated,
    "bz2": _counted(bz2.BZ2Decompressor),
    "lzma": _counted(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)),
}


_METADATA_LIMIT = 64 << 20
"""Bytes of the longest metadata document that is read: those of an EOPF product, consolidated, are about 0.5 MB."""

_CHUNK_LIMIT = 2**31
"""Bytes of the largest chunk: Blosc's own limit."""

_ROOM = 64 << 20
"""Bytes that a chunk may have although its array is smaller: chunks for dates that are to be appended, for one."""

_LONGEST = 10_000_000
"""Pixels along a dim, and chunks of an array; an index of so many values takes 80 MB."""

_WIDER = ("delta", "fixedscaleoffset", "quantize", "astype", "packbits")
"""Filters whose output may be wider than what they give back."""

_ARRAYS = (*_WIDER, "shuffle", "bitround", "bytes", "transpose")
_CHECKSUMS = {"crc32c": 0, "fletcher32": 0, "crc32": 4, "adler32": 4}
"""Name → bytes before the data, unless ``location`` is "end"."""

_TEXTS = ("vlen-utf8", "vlen-bytes")
_INNER = ("bytes", "crc32c")
_SHARDS = "sharding_indexed"


@dataclass(frozen=True)
class _Chunks:
    """What the chunks of an array may be.

    Attributes
    ----------
    limit : int
        Bytes of one after it has been unpacked.
    compressor : str or None
        What it is packed with.
    skip : int
        Bytes before the packed data.
    index : int
        Bytes of the index of a shard, 0 where chunks are not in shards.
    number : int
        Chunks in a shard.
    first : bool
        Whether the index is at the beginning of a shard.
    """

    limit: int
    compressor: str | None
    skip: int = 0
    index: int = 0
    number: int = 1
    first: bool = False

    @property
    def stored(self) -> int:
        """Bytes of the longest file: packing may make a little more of what cannot be packed."""
        return self.number * (self.limit + self.limit // 64 + (1 << 16)) + self.index

    def look(self, data: memoryview) -> None:
        """Refuse a chunk that unpacks to more than the array can hold."""
        if self.compressor is not None:
            check(self.compressor, data[self.skip :], self.limit)
        elif len(data) > self.limit + 64:
            raise Refused(f"has {len(data)} bytes, which is more than its array can hold")

    def parts(self, data: memoryview) -> Iterator[memoryview]:
        """The chunks in a shard."""
        if len(data) < self.index:
            raise Refused("is cut off")
        table = data[: self.index] if self.first else data[len(data) - self.index :]
        for start, size in np.frombuffer(table[: 16 * self.number], "<u8").reshape(-1, 2).tolist():
            if start != 2**64 - 1:  # else the chunk is not there
                yield data[start : start + size]


class Guarded(Store):
    """A read-only view of a store.

    Parameters
    ----------
    inner : zarr.abc.store.Store
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(read_only=True)
        self._inner = inner
        self._arrays: dict[str, _Chunks] = {}

    async def _open(self) -> None:
        await self._inner._ensure_open()
        self._is_open = True

    def with_read_only(self, read_only: bool = True) -> Guarded:
        """Itself, which is for reading only."""
        if not read_only:
            raise ValueError("a store from outside is for reading only")
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Guarded) and self._inner == other._inner

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(self._inner)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes at `key`, after they have been looked at.

        Raises
        ------
        Refused
            If they could do harm.
        """
        name = key.rpartition("/")[2]
        about = name in _READERS or name in (".zattrs", ".zgroup")
        chunks = None if about else self._chunks(key)
        limit = _METADATA_LIMIT if chunks is None else chunks.stored
        try:
            self._check_place(key, limit)
            asked = None if about else byte_range
            if asked is None and isinstance(self._inner, FsspecStore):
                asked = RangeByteRequest(0, limit + 1)  # the server alone knows how much there is
            value = await self._inner.get(key, prototype, asked)
            if value is None:
                return None
            if len(value) > limit:
                raise Refused(f"has over {limit} bytes, which is more than it can need")
            data = memoryview(np.ascontiguousarray(value.as_numpy_array()).view(np.uint8))  # type: ignore[arg-type]
            if about:
                self._read(key, name, data)
            elif chunks is not None:
                self._look(chunks, data, byte_range)
        except Refused as error:
            raise Refused(f"{key or 'the root'} {error}") from error
        return value

    def _chunks(self, key: str) -> _Chunks:
        """Of the array whose chunk is at `key`."""
        place = key
        while place:
            place = place.rpartition("/")[0]
            if place in self._arrays:
                return self._arrays[place]
        raise Refused(f"{key} is of no array whose metadata have been read")

    def _check_place(self, key: str, limit: int) -> None:
        if "\0" in key or "\\" in key or key.startswith("/") or {"", ".", ".."} & set(key.split("/")):
            raise Refused("is no plain path inside the store")
        size = None
        if isinstance(self._inner, LocalStore):
            size = _size(self._inner.root, self._inner.root / key)
        elif isinstance(self._inner, ZipStore):
            try:
                entry = self._inner._zf.getinfo(key)
            except KeyError:
                return
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise Refused("is a link")
            size = entry.file_size
        if size is not None and size > limit:
            raise Refused(f"has {size} bytes, which is more than it can need")

    def _look(self, chunks: _Chunks, data: memoryview, byte_range: ByteRequest | None) -> None:
        if not chunks.index:
            if byte_range is None:
                chunks.look(data)
        elif byte_range is None:
            for part in chunks.parts(data):
                chunks.look(part)
        elif isinstance(byte_range, RangeByteRequest) and byte_range != RangeByteRequest(0, chunks.index):
            chunks.look(data)

    def _read(self, key: str, name: str, data: memoryview) -> None:
        if name not in _READERS:
            return
        try:
            document = json.loads(bytes(data))
        except (ValueError, RecursionError) as error:
            raise Refused(f"is no JSON ({type(error).__name__}: {str(error)[:80]})") from error
        for path, array in _READERS[name](key.rpartition("/")[0], document):
            known = self._arrays.get(path)
            if known is None or array.limit < known.limit:  # of two documents about one array the narrower
                self._arrays[path] = array

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """As `get`, of several."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is something at `key`."""
        return await self._inner.exists(key)

    @property
    def supports_writes(self) -> bool:
        """No."""
        return False

    @property
    def supports_partial_writes(self) -> Literal[False]:
        """No; zarr 3.0 asks for it."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """As the other."""
        return self._inner.supports_listing

    async def set(self, key: str, value: Buffer) -> None:
        """Not possible."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Not possible."""
        self._check_writable()

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, Any]]) -> None:
        """Not possible; zarr 3.0 asks for it."""
        self._check_writable()

    def list(self) -> AsyncIterator[str]:
        """All keys."""
        return self._inner.list()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The keys that begin so."""
        return self._inner.list_prefix(prefix)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """What lies in a folder."""
        return self._inner.list_dir(prefix)

    def close(self) -> None:
        """Close the other."""
        self._inner.close()
        super().close()


def _size(root: os.PathLike[str], file: os.PathLike[str]) -> int | None:
    """Bytes of a file on disk; None where there is none."""
    try:
        about = os.lstat(file)
    except OSError:
        return None
    if stat.S_ISLNK(about.st_mode):
        try:
            about = os.stat(file)
        except OSError as error:
            raise Refused(f"is a link that leads nowhere ({error})") from error
    if stat.S_ISDIR(about.st_mode):
        return None
    if not stat.S_ISREG(about.st_mode):
        raise Refused("is no file but a pipe, a socket or a device")
    # Also of the folders that it lies in any may be a link.
    inside = os.path.realpath(root)
    if os.path.commonpath((inside, os.path.realpath(file))) != inside:
        raise Refused("is, or lies behind, a link that leads out of the store")
    return about.st_size


# --- metadata -------------------------------------------------------------------------------------


def _v2(path: str, document: Any) -> Iterator[tuple[str, _Chunks]]:
    """Of a ``.zarray``: name of the array and what its chunks may be."""
    about = _mapping(document, "the metadata of an array")
    filters = [_codec(f, "id") for f in about.get("filters") or ()]
    packed = about.get("compressor")
    steps = [*filters, *([] if packed is None else [_codec(packed, "id")])]
    try:
        dtype = np.dtype(_plain(about.get("dtype")))
    except (TypeError, ValueError, SyntaxError) as error:
        raise Refused(f"has the dtype {str(about.get('dtype'))[:80]!r}, which numpy does not know") from error
    item: int | None = dtype.itemsize
    if dtype.hasobject:
        # Only the codec that comes first makes objects of bytes; all others would be handed pointers.
        if dtype != np.dtype("O") or not steps or steps[0][0] not in _TEXTS:
            raise Refused("holds Python objects, which only running code makes of bytes")
        item = None
    yield path, _allowed(about.get("shape"), about.get("chunks"), item, steps)


def _v2_all(path: str, metadata: Any) -> Iterator[tuple[str, _Chunks]]:
    """Of a ``.zmetadata``."""
    for key, document in _mapping(_mapping(metadata, "it").get("metadata"), "what is consolidated").items():
        folder, _, name = key.rpartition("/")
        if name == ".zarray":
            with _of(key):
                yield from _v2(f"{path}/{folder}".strip("/"), document)


def _v3(path: str, metadata: Any) -> Iterator[tuple[str, _Chunks]]:
    """Of a ``zarr.json``, with what is consolidated in it."""
    about = _mapping(metadata, "it")
    for name, document in _mapping(
        _mapping(about.get("consolidated_metadata") or {}, "what is consolidated").get("metadata") or {}, "it"
    ).items():
        with _of(name):
            yield from _v3(f"{path}/{name}".strip("/"), document)
    if about.get("node_type") != "array":
        return
    grid = _mapping(about.get("chunk_grid"), "chunk_grid")
    shape, cell = about.get("shape"), _mapping(grid.get("configuration"), "chunk_grid").get("chunk_shape")
    if grid.get("name") != "regular":
        raise Refused(f"has chunks that are {str(grid.get('name'))[:40]!r}, not regular")
    keys = about.get("chunk_key_encoding")
    if (keys.get("name") if isinstance(keys, Mapping) else keys) not in ("default", "v2"):
        raise Refused(f"names its chunks as {str(keys)[:80]}, not as 'default' or 'v2'")
    steps = [_codec(codec, "name") for codec in about.get("codecs") or ()]
    item = _itemsize(about.get("data_type"))
    shards = [step for step in steps if step[0] == _SHARDS]
    if not shards:
        yield path, _allowed(shape, cell, item, steps)
        return
    how = _mapping(shards[0][1].get("configuration"), "sharding_indexed")
    index = [_codec(codec, "name")[0] for codec in how.get("index_codecs") or ()]
    if len(steps) > 1 or index[:1] != ["bytes"] or not set(index) <= set(_INNER) or len(index) > 2:
        raise Refused(f"has shards in {[s[0] for s in steps]} with an index in {index}, which cannot be checked")
    inner = how.get("chunk_shape")
    chunks = _allowed(shape, inner, item, [_codec(codec, "name") for codec in how.get("codecs") or ()])
    number = math.prod(-(-n // m) for n, m in zip(_lengths(cell), _lengths(inner), strict=False))
    if number > _LONGEST:
        raise Refused(f"has {number} chunks in a shard")
    first = how.get("index_location") == "start"
    size = 16 * number + 4 * (len(index) - 1)
    yield path, _Chunks(chunks.limit, chunks.compressor, chunks.skip, size, number, first)


_READERS = {".zarray": _v2, ".zmetadata": _v2_all, "zarr.json": _v3}


def _allowed(shape: Any, cell: Any, item: int | None, steps: list[tuple[str, Mapping[str, Any]]]) -> _Chunks:
    """What chunks may be, of an array whose codecs are among those that are known to do no harm."""
    compressor, skip, plain = None, 0, True
    for name, about in reversed(steps):  # as they are undone
        if name in COMPRESSORS:
            if compressor is not None or not plain:
                raise Refused(f"is packed by {[step[0] for step in steps]}, in an order that cannot be bounded")
            if name == "lzma" and about.get("format", 1) != 1:
                raise Refused("is packed by lzma in another format than .xz")
            compressor = name
        elif name in _CHECKSUMS:
            if compressor is None and _options(about).get("location") != "end":
                skip += _CHECKSUMS[name]
        elif name in _ARRAYS or name in _TEXTS:
            plain = False
            for key in ("dtype", "astype", "encode_dtype", "decode_dtype"):
                _number_type(_options(about).get(key, "u1"))
        else:
            raise Refused(
                f"asks for the codec {name[:60]!r}, which is not among those that are known to do no harm "
                f"({', '.join((*COMPRESSORS, *_CHECKSUMS, *_ARRAYS, *_TEXTS))})"
            )
    sizes, sides = _lengths(shape), _lengths(cell)
    if len(sizes) != len(sides) or any(n < 0 for n in sizes) or any(n < 1 for n in sides):
        raise Refused(f"has the shape {sizes} in chunks of {sides}")
    number = math.prod(max(1, -(-n // side)) for n, side in zip(sizes, sides, strict=True))
    if max((*sizes, number)) > _LONGEST:
        raise Refused(f"has the shape {sizes} in chunks of {sides}, which is more than {_LONGEST} pixels or chunks")
    total, chunk = (math.prod(part) * (item or 1) for part in (sizes, sides))
    if chunk > max(min(total, _CHUNK_LIMIT), _ROOM):
        raise Refused(
            f"has chunks of {sides} pixels, {chunk} bytes, for an array of {sizes}, {total} bytes: they would fill the "
            "memory with what the array cannot hold"
        )
    if item is None:
        return _Chunks(_ROOM, compressor, skip)
    wider = 8 if {step[0] for step in steps} & set(_WIDER) else 1
    return _Chunks(chunk * wider + 64, compressor, skip)


@contextmanager
def _of(name: str) -> Iterator[None]:
    """Name what is consolidated and refused."""
    try:
        yield
    except Refused as error:
        raise Refused(f"says of {name} that it {error}") from error


def _codec(codec: Any, key: str) -> tuple[str, Mapping[str, Any]]:
    """Name of a codec, that of numcodecs' own in format 3 without its prefix, and its description."""
    if isinstance(codec, str):
        codec = {key: codec}
    name = _mapping(codec, "a codec").get(key)
    if not isinstance(name, str):
        raise Refused(f"has a codec without a name: {str(codec)[:80]}")
    return name.removeprefix("numcodecs.") if key == "name" else name, codec


def _options(about: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = about.get("configuration")
    return inner if isinstance(inner, Mapping) else about


def _number_type(name: Any) -> None:
    try:
        kind = np.dtype(_plain(name)).kind
    except (TypeError, ValueError, SyntaxError):
        kind = "O"
    if kind not in "biufc":
        raise Refused(f"has a filter that makes {str(name)[:40]!r}, which are no numbers")


def _plain(dtype: Any) -> Any:
    """A dtype as JSON has it, as numpy takes it; of fields only names and types."""
    if isinstance(dtype, list):
        return [tuple(_plain(part) if isinstance(part, list) else part for part in field) for field in dtype]
    if not isinstance(dtype, str):
        raise TypeError(dtype)
    return dtype


def _itemsize(data_type: Any) -> int | None:
    """Bytes of a pixel in format 3; None where they vary."""
    if isinstance(data_type, Mapping):
        options = _options(data_type)
        length = options.get("length_bytes")
        if isinstance(length, int) and length > 0:
            return length
        data_type = data_type.get("name")
        if data_type in ("numpy.datetime64", "numpy.timedelta64"):
            return 8
    try:
        return np.dtype(_plain(data_type)).itemsize or None
    except (TypeError, ValueError, SyntaxError):
        return None


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Refused(f"is not as Zarr has it: {what} is {str(value)[:60]!r}")
    return value


def _lengths(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        raise Refused(f"has {str(value)[:80]!r} where the pixels along each dim should stand")
    return value
