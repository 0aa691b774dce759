"""How many bytes a compressed chunk unpacks to, before it is unpacked: from its header, or by counting."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["COMPRESSORS", "Refused", "check"]

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
        said = _number(data, at, field) + (256 if field == 2 else 0)
        at += field
        held, last = 0, False
        while not last and at + 3 <= len(data):
            block = _number(data, at, 3)
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            held += size if kind < 2 else 1 << 17
            at += 3 + (1 if kind == 1 else size)
        at += 4 * (about >> 2 & 1)
        total += said if field else held // 8
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
