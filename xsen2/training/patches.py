"""Training data: scenes on native grids, degraded by `ratio`, cut into random patches.

The network learns at the lower scale, where the truth is known: a cube degraded by 2 teaches the
20 m bands, one degraded by 6 the 60 m bands (Wald's protocol, as the paper).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import xarray as xr
from rasterio.crs import CRS

from xsen2.bands import GRIDS
from xsen2.cube import DIMS, write_crs
from xsen2.errors import SourceError
from xsen2.kernels import degrade_array, taps
from xsen2.networks import GAIN

__all__ = ["Blur", "Pair", "Scene", "batches", "pairs", "read_scenes"]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """One place and date: DN without offset on the native grids, and where pixels are real."""

    name: str
    bands: dict[int, Array]  # gsd → (band, y, x)
    valid: dict[int, npt.NDArray[np.bool_]]  # gsd → (y, x)
    level: str = ""
    epsg: int | None = None
    corner: tuple[float, float] = (0.0, 0.0)  # west, north

    def cube(self) -> xr.Dataset:
        """The scene as a cube, NaN where pixels are not real."""
        west, north = self.corner
        variables = {}
        for gsd, bands in self.bands.items():
            ydim, xdim = DIMS[gsd]
            y, x = (np.arange(n) + 0.5 for n in bands.shape[1:])
            coords = {ydim: north - y * gsd, xdim: west + x * gsd}
            for name, dn in zip(GRIDS[gsd], bands, strict=True):
                variables[name] = xr.DataArray(np.where(self.valid[gsd], dn, np.float32(np.nan)), coords, (ydim, xdim))
        ds = xr.Dataset(variables, attrs={"title": self.name})
        return ds if self.epsg is None else write_crs(ds, CRS.from_epsg(self.epsg))


@dataclass(frozen=True)
class Blur:
    """How the inputs of a pair were degraded: an operator, and how far from nominal."""

    operator: str
    blur: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Pair:
    """A degraded scene and its truth, DN / 2000."""

    name: str
    a: Array  # (4, H, W)
    b: Array  # (6, H/2, W/2)
    c: Array | None  # (2, H/6, W/6)
    truth: Array  # (band, H, W)
    weight: Array  # (H, W): 1 where the truth counts


def read_scenes(folder: str | Path) -> Iterator[Scene]:
    """Scenes of a folder of ``.npz`` files (``b10``, ``b20``, optional ``b60`` and ``valid*``).

    A ``scenes.json`` beside the folder gives each file's ``offset_dn``, which is subtracted.
    Files with a leading patch axis become one scene per patch.
    """
    folder = Path(folder)
    notes = folder.parent / "scenes.json"
    about = json.loads(notes.read_text()).get(folder.name, {}) if notes.exists() else {}
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise SourceError(f"no .npz scenes in {folder}: give the folder that holds them")
    for file in files:
        note = about.get(file.stem, {})
        offset = float(note.get("offset_dn", 0))
        with np.load(file) as data:
            raw = {gsd: data[f"b{gsd}"] for gsd in GRIDS if f"b{gsd}" in data}
            real = {gsd: data[f"valid{gsd}"] for gsd in GRIDS if f"valid{gsd}" in data}
        stack = raw[10].ndim == 4
        for i in range(len(raw[10]) if stack else 1):
            dn = {gsd: x[i] if stack else x for gsd, x in raw.items()}
            seen = {gsd: real.get(gsd, np.True_) & (x > 0).all(axis=0) for gsd, x in dn.items()}
            yield Scene(
                f"{file.stem}/{i}" if stack else file.stem,
                {gsd: x.astype(np.float32) - np.float32(offset) for gsd, x in dn.items()},
                seen,
                note.get("level", ""),
                note.get("epsg"),
                (float(note.get("ulx", 0)), float(note.get("uly", 0))),
            )


def _degrade(bands: Array, gsd: int, ratio: int, how: Blur) -> Array:
    # A shift is of the whole scene: the same metres on every grid.
    out = []
    for name, band in zip(GRIDS[gsd], bands, strict=True):
        rows, cols = (taps(name, ratio, how.operator, blur=how.blur, shift=s * 10 / gsd) for s in how.shift)
        out.append(degrade_array(band, *rows, ratio, columns=cols))
    return np.stack(out)


def pairs(scene: Scene, ratio: int, blurs: Iterable[Blur], least: int = 0) -> Iterator[Pair]:
    """The scene degraded by `ratio` in each way of `blurs`, with its truth.

    Scenes without 60 m bands give nothing for ratio 6. Sizes are cut to whole coarse pixels, and
    mirrored up to `least` pixels of the finest grid, where the weight is then 0.
    """
    gsd = 10 * ratio
    grids = (10, 20) if ratio == 2 else (10, 20, 60)
    if not set(grids) <= set(scene.bands):
        return
    cell = gsd * ratio  # side of the coarsest pixel in the degraded cube, metres
    height, width = (n * 10 // cell * cell for n in scene.bands[10].shape[1:])
    if min(height, width) < 3 * cell:
        return
    cut = {g: scene.bands[g][:, : height // g, : width // g] for g in grids}
    seen = scene.valid[gsd][: height // gsd, : width // gsd]
    for how in blurs:
        low = {g: _degrade(cut[g], g, ratio, how) / GAIN for g in grids}
        pair = Pair(scene.name, low[10], low[20], low.get(60), cut[gsd] / GAIN, seen.astype(np.float32))
        yield _mirror(pair, least)


def _mirror(pair: Pair, least: int) -> Pair:
    missing = [max(0, least - n) for n in pair.weight.shape]
    if not any(missing):
        return pair

    def wide(x: Array, factor: int, mode: Literal["symmetric", "constant"] = "symmetric") -> Array:
        # Before and after in whole coarsest pixels, so that the grids go on nesting.
        pad = [(0, 0)] * (x.ndim - 2)
        for gap in missing:
            before = gap // 12 * 6
            pad.append((before // factor, (gap - before) // factor))
        return np.pad(x, pad, mode=mode)

    c = None if pair.c is None else wide(pair.c, 6)
    return Pair(pair.name, wide(pair.a, 1), wide(pair.b, 2), c, wide(pair.truth, 1), wide(pair.weight, 1, "constant"))


def _dihedral(x: Array, turn: int) -> Array:
    x = np.rot90(x, turn % 4, axes=(-2, -1))
    return x[..., ::-1] if turn >= 4 else x


def _clear(inputs: list[Array], truth: Array, rng: np.random.Generator) -> tuple[list[Array], Array]:
    """Take a random part of each band's darkest value off, and scale what is left; truth alike."""
    out = []
    for x in inputs:
        dark = x.min(axis=(1, 2), keepdims=True).clip(0) * rng.uniform(0, 0.95, (len(x), 1, 1))
        gain = np.exp(rng.normal(0, 0.1, (len(x), 1, 1)))
        dark, gain = dark.astype(np.float32), gain.astype(np.float32)
        out.append((x - dark) * gain)
    # The last input is the target on its coarse grid: the truth gets what that one got.
    return out, (truth - dark) * gain


def batches(
    data: list[list[Pair]],
    ratio: int,
    size: int,
    patch: int,
    seed: int,
    *,
    start: int = 0,
    noise: float = 0.0,
    haze: float = 0.0,
    share: float = 1.0,
) -> Iterator[tuple[Array, Array, Array | None, Array, Array]]:
    """Random patches for ever: ``(a, b, c, truth, weight)``, each with a leading batch axis.

    Parameters
    ----------
    data : list of list of Pair
        Per scene, its pairs; a patch picks a scene by ``area ** share``, then one of its pairs.
    patch : int
        Side of a patch on the finest grid, a multiple of `ratio`.
    seed, start : int
        Batch number ``start + i`` is a function of `seed` and that number alone, so that a
        training that resumes sees what an undisturbed one would have seen.
    noise : float
        Standard deviation, in DN, of the noise added to the inputs.
    haze : float
        Share of patches that lose part of what all their pixels have in common, band by band, and get
        other gains, as atmospheric correction does: what was learnt on L1C then serves L2A.
    """
    area = np.array([p[0].weight.size for p in data], float) ** share
    area /= area.sum()
    step = start
    while True:
        rng = np.random.default_rng((seed, step))
        rows: list[tuple[Array, Array, Array | None, Array, Array]] = []
        for which in rng.choice(len(data), size=size, p=area):
            pair = data[which][rng.integers(len(data[which]))]
            side = min(patch, *(n // ratio * ratio for n in pair.weight.shape))
            if side < patch:
                raise SourceError(f"scene {pair.name} is smaller than a patch of {patch}: use smaller patches")
            y, x = (int(rng.integers((n - patch) // ratio + 1)) * ratio for n in pair.weight.shape)
            turn = int(rng.integers(8))

            def cut(z: Array, f: int, y: int = y, x: int = x, turn: int = turn) -> Array:
                return _dihedral(z[..., y // f : (y + patch) // f, x // f : (x + patch) // f], turn)

            inputs = [cut(pair.a, 1), cut(pair.b, 2)] + ([] if pair.c is None else [cut(pair.c, 6)])
            if noise:
                sigma = noise / GAIN
                inputs = [z + rng.normal(0, sigma, z.shape).astype(np.float32) for z in inputs]
            truth = cut(pair.truth, 1)
            if haze and rng.random() < haze:
                inputs, truth = _clear(inputs, truth, rng)
            rows.append((inputs[0], inputs[1], inputs[2] if len(inputs) == 3 else None, truth, cut(pair.weight, 1)))
        a, b, c, truths, weights = zip(*rows, strict=True)
        yield (
            np.stack(a),
            np.stack(b),
            None if c[0] is None else np.stack(c),
            np.stack(truths),
            np.stack(weights),
        )
        step += 1
