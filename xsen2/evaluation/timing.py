"""How long methods take and how much memory: each in a fresh process, on one scene of fixed size."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from timeit import default_timer
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from xsen2 import files
from xsen2.bands import GRIDS, grid_of
from xsen2.cube import DIMS
from xsen2.errors import BandError, Xsen2Error

__all__ = ["SIDE", "TILE", "Timing", "enlarged", "timed"]

SIDE = 1200
"""Pixels of 10 m on each side of the scene that is timed; a multiple of 6."""

TILE = 10980
"""Those of a whole tile."""

_ENOUGH = 2.0  # seconds: what takes less is repeated, and the shortest counts


class Timing(NamedTuple):
    """One method on the bands of one native grid. NaN if it does not make them, or the system does not tell."""

    seconds: float
    """Per million pixels of 10 m, all bands of the grid."""
    peak: float
    """MiB: the most that the process held."""
    note: str = ""


def enlarged(cube: xr.Dataset, side: int) -> xr.Dataset:
    """A scene of fixed size without nodata: the first date of `cube`, mirrored at its edges until it fills it."""
    if "time" in cube.dims:
        cube = cube.isel(time=0)
    cell = max(grid_of(str(band)) for band in cube.data_vars) // 10
    height, width = (min(n // cell * cell, side) for n in cube[next(b for b in GRIDS[10] if b in cube)].shape)
    out = {}
    for band in map(str, cube.data_vars):
        gsd = grid_of(band)
        factor = gsd // 10
        pixels = cube[band].values[: height // factor, : width // factor].astype(np.float32)
        pixels = np.where(np.isfinite(pixels), pixels, np.nanmean(pixels) if np.isfinite(pixels).any() else 1)
        more = [(0, side // factor - n) for n in pixels.shape]
        out[band] = xr.DataArray(np.pad(pixels, more, mode="symmetric"), dims=DIMS[gsd])
        for dim, sign in zip(DIMS[gsd], (-1, 1), strict=True):
            out[band] = out[band].assign_coords({dim: sign * (np.arange(side // factor) + 0.5) * gsd})
    return xr.Dataset(out)


def timed(
    cube: xr.Dataset, methods: Mapping[str, str], device: str, say: Callable[[str], object]
) -> dict[str, dict[int, Timing]]:
    """Time every method on one scene, one after the other, at full scale.

    Parameters
    ----------
    cube : xarray.Dataset
        Of `enlarged`.
    methods : mapping
        Label → what ``method=`` takes.
    device : str
        As `xsen2.superresolve.superresolve` takes it.
    say : callable
        Takes a line per method.

    Returns
    -------
    dict
        Label → native grid (20, 60) → timing.
    """
    out: dict[str, dict[int, Timing]] = {}
    with (
        files.named("a temporary folder", full="free space, or name another folder in TMPDIR"),
        tempfile.TemporaryDirectory(prefix="xsen2-") as folder,
    ):
        file = Path(folder) / "scene.npz"
        grids = [gsd for gsd in GRIDS if any(b in cube for b in GRIDS[gsd])]
        np.savez(file, **{b: cube[b].values for b in map(str, cube.data_vars)})  # type: ignore[arg-type]
        for label, method in methods.items():
            out[label] = {gsd: _child(file, method, gsd, device) for gsd in grids if gsd != 10}
            line = "; ".join(
                f"{gsd} m: {t.note or f'{t.seconds:.2f} s per megapixel, {t.peak:.0f} MiB'}"
                for gsd, t in out[label].items()
            )
            say(f"timed {label}: {line}")
    return out


def _child(file: Path, method: str, gsd: int, device: str) -> Timing:
    command = [sys.executable, "-m", "xsen2.evaluation.timing", str(file), method, str(gsd), device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return Timing(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return Timing(np.nan, np.nan, f"failed: {last}")


def _measure(file: Path, method: str, gsd: int, device: str) -> Timing:
    """What the fresh process does."""
    with np.load(file) as stored:
        cube = xr.Dataset({band: (DIMS[grid_of(band)], stored[band]) for band in stored.files})
    cube = cube.assign_coords(
        {
            dim: sign * (np.arange(cube.sizes[dim]) + 0.5) * size
            for size, dims in DIMS.items()
            for dim, sign in zip(dims, (-1, 1), strict=True)
            if dim in cube.dims
        }
    )
    bands = [band for band in GRIDS[gsd] if band in cube]

    def run(part: xr.Dataset) -> float:
        begun = default_timer()
        part.dsen2.superresolve(bands, method, native=False, device=device).compute()
        return default_timer() - begun

    try:
        run(cube.isel({dim: slice(0, 1200 // size) for size, dims in DIMS.items() for dim in dims if dim in cube.dims}))
    except BandError:
        return Timing(np.nan, np.nan, "does not make these bands")
    except Xsen2Error as error:
        return Timing(np.nan, np.nan, str(error))
    times = [run(cube)]
    while sum(times) < _ENOUGH and len(times) < 5:
        times.append(run(cube))
    megapixels = cube.sizes["y"] * cube.sizes["x"] / 1e6
    return Timing(min(times) / megapixels, _peak())


def _peak() -> float:
    """Peak memory of this process, in MiB.

    Linux counts into ``ru_maxrss`` what the parent held when it forked, so the kernel's own mark comes first.
    """
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if match:
            return int(match[1]) / 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def machine() -> dict[str, Any]:
    """What the times depend on."""
    return {"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "not limited")}


if __name__ == "__main__":
    import xsen2  # noqa: F401  # registers the accessor

    path, what, grid, on = sys.argv[1:]
    print(json.dumps(_measure(Path(path), what, int(grid), on)._asdict()))
