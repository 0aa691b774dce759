"""Chunks that Blosc compressed and that are cut off: its decoder reads on behind the end, and gives what lies there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zarr

__all__ = ["cut_off"]

_HEADER = 16


def cut_off(array: zarr.Array[Any], window: Sequence[slice]) -> str | None:
    """Key of a chunk in `window` whose file is shorter than it says, or None.

    Files on disk only: what comes over a network has a length that the client checks, and a zip has checksums. The
    length of a chunk is in its bytes 12 to 15 (c-blosc, README_CHUNK_FORMAT).
    """
    from zarr.storage import LocalStore

    store = array.store_path.store
    if not isinstance(store, LocalStore) or array.shards is not None or not _is_blosc(array):
        return None
    ranges = (range(s.start // n, -(-s.stop // n)) for s, n in zip(window, array.chunks, strict=True))
    for place in product(*ranges):
        key = array.metadata.encode_chunk_key(place)
        try:
            with (store.root / array.path / key).open("rb") as file:
                header, size = file.read(_HEADER), file.seek(0, 2)
        except FileNotFoundError:  # nothing but nodata
            continue
        if size < _HEADER or size < int.from_bytes(header[12:16], "little"):
            return key
    return None


def _is_blosc(array: zarr.Array[Any]) -> bool:
    return any("blosc" in type(codec).__name__.lower() for codec in array.compressors)
