"""Training data: scenes degraded by `ratio`, cut into random patches.

The network learns at the lower scale, where the truth is known: a cube degraded by 2 teaches the
20 m bands, one degraded by 6 the 60 m bands (Wald's protocol, as the paper).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from xsen2.bands import BANDS, GRIDS
from xsen2.engine.operators import degrade_array, taps
from xsen2.errors import SourceError
from xsen2.methods.bicubic import upsample
from xsen2.networks.cards import GAIN
from xsen2.training.recipes import Recipe
from xsen2.training.scenes import Scene

__all__ = ["Blur", "Pair", "balance", "batches", "degrade_bands", "impostors", "pairs", "surrogates"]

Array = npt.NDArray[np.float32]

SURROGATE = ", surrogate"


@dataclass(frozen=True)
class Blur:
    """How the inputs of a pair were degraded: an operator, and how far from nominal."""

    operator: str
    blur: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    spread: float = 0.0
    """Standard deviation of the logarithm of what each band's blur is multiplied by, along each axis."""
    drift: float = 0.0
    """Standard deviation of each band's own shift, in pixels of the degraded band."""
    seed: int = 0

    def kernels(self, band: str, gsd: int, ratio: int) -> list[tuple[npt.NDArray[np.float64], int]]:
        """What `xsen2.engine.operators.taps` gives for rows and for columns."""
        rng = np.random.default_rng((self.seed, list(BANDS).index(band)))
        out = []
        for axis, shift in enumerate(self.shift):
            blur = self.blur * float(np.exp(self.spread * rng.standard_normal()))
            # A shift is of the whole scene: the same metres on every grid.
            moved = shift * 10 / gsd + self.drift * ratio * float(rng.standard_normal())
            out.append(taps(band, ratio, self.operator, axis=axis, blur=blur, shift=moved))
        return out


@dataclass(frozen=True)
class Pair:
    """A degraded scene and its truth, DN / 2000."""

    name: str
    a: Array  # (4, H, W)
    b: Array  # (6, H/2, W/2)
    c: Array | None  # (2, H/6, W/6)
    truth: Array  # (band, H, W)
    weight: Array  # (H, W): 0 where the truth does not count

    @property
    def place(self) -> str:
        """Name of the place: patches of one stack share it."""
        return self.name.split("/")[0] + (SURROGATE if self.name.endswith(SURROGATE) else "")

    def bicubic_error(self) -> npt.NDArray[np.float64]:
        """Mean square error of bicubic interpolation per band, in DN / 2000 squared."""
        low = self.b if self.c is None else self.c
        error = upsample(low, self.truth.shape[-1] // low.shape[-1]) - self.truth
        return np.asarray((error[:, self.weight > 0].astype(np.float64) ** 2).mean(axis=1))


def degrade_bands(bands: Array, gsd: int, ratio: int, how: Blur) -> Array:
    """All bands of a grid, each with its own blur: ``(band, H, W)`` to ``(band, H / ratio, W / ratio)``."""
    out = []
    for name, band in zip(GRIDS[gsd], bands, strict=True):
        rows, cols = how.kernels(name, gsd, ratio)
        out.append(degrade_array(band, *rows, ratio, columns=cols))
    return np.stack(out)


def pairs(scene: Scene, ratio: int, blurs: Iterable[Blur], least: int = 0) -> Iterator[Pair]:
    """The scene degraded by `ratio` in each way of `blurs`, with its truth.

    Scenes without 60 m bands give nothing for ratio 6, those without a valid pixel nothing at all. Sizes are cut to
    whole coarse pixels, and mirrored up to `least` pixels of the finest grid, where the weight is then 0.
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
    if not seen.any():  # the mean of no errors is NaN, which would get into all weights
        return
    for how in blurs:
        low = {g: degrade_bands(cut[g], g, ratio, how) / GAIN for g in grids}
        pair = Pair(scene.name, low[10], low[20], low.get(60), cut[gsd] / GAIN, seen.astype(np.float32))
        yield _mirror(pair, least)


def surrogates(scene: Scene, blurs: Iterable[Blur], least: int) -> Iterator[Pair]:
    """More pairs for ratio 6: B02 plays B01 and B8A plays B09, whose truth is known at 20 m.

    There are nine times as many pixels at 20 m as at 60 m. The inputs are the scene degraded by 2; in them
    a band that plays has its neighbour in its place, so that it cannot be copied.
    """
    if min(scene.bands[20].shape[1:]) // 6 * 6 < least:
        return
    height, width = (n // 6 * 6 for n in scene.bands[20].shape[1:])
    cut = {10: scene.bands[10][:, : 2 * height, : 2 * width], 20: scene.bands[20][:, :height, :width]}
    seen = scene.valid[20][:height, :width].astype(np.float32)
    if not seen.any():
        return
    for how in blurs:
        a, b = degrade_bands(cut[10], 10, 2, how), degrade_bands(cut[20], 20, 2, how)
        truth: Array = np.stack([a[0], cut[20][3]])
        c = degrade_bands(truth, 60, 6, how)
        a[0], b[3] = a[1], b[2]
        yield Pair(scene.name + SURROGATE, a / GAIN, b / GAIN, c / GAIN, truth / np.float32(GAIN), seen)


def impostors(scene: Scene, blurs: Iterable[Blur], least: int, seed: int) -> Iterator[Pair]:
    """More pairs for ratio 6: two bands whose truth is known, chosen at random, play the 60 m ones.

    Half of the pairs are of the scene degraded by 2, where 20 m bands play; in half of them 10 m bands do, at full
    scale. A band that plays has a neighbour in its place among the inputs, so that it cannot be copied.
    """
    height, width = (n // 6 * 6 for n in scene.bands[20].shape[1:])
    fine, coarse = scene.bands[10][:, : 2 * height, : 2 * width], scene.bands[20][:, :height, :width]
    for number, how in enumerate(blurs):
        rng = np.random.default_rng((seed, number))
        scale = 2 if number % 2 == 0 else 1
        if min(height, width) * (1 if scale == 2 else 2) < least:
            continue
        if scale == 2:
            a, b = degrade_bands(fine, 10, 2, how), degrade_bands(coarse, 20, 2, how)
            pool, seen = coarse, scene.valid[20][:height, :width]
        else:
            height6, width6 = (n // 6 * 6 for n in fine.shape[1:])
            a, b = fine[:, :height6, :width6].copy(), coarse[:, : height6 // 2, : width6 // 2].copy()
            pool, seen = a.copy(), scene.valid[10][:height6, :width6]
        chosen = rng.choice(len(pool), 2, replace=False)
        truth: Array = np.stack([pool[i] for i in chosen])
        c = degrade_bands(truth, 60, 6, how)
        hidden = b if scale == 2 else a
        left = [i for i in range(len(hidden)) if i not in chosen]
        for i in chosen:
            hidden[i] = hidden[left[int(np.argmin([abs(j - i) for j in left]))]]
        if rng.random() < 0.5:  # and its nearest neighbour on the other grid
            a[0] = a[1]
        yield Pair(
            scene.name + SURROGATE, a / GAIN, b / GAIN, c / GAIN, truth / np.float32(GAIN), seen.astype(np.float32)
        )


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


def balance(data: list[list[Pair]]) -> list[list[Pair]]:
    """The same pairs, their weights divided by the error of bicubic interpolation in that place.

    So that a desert and a city count alike. 5 DN are added to that error, or else dark water, where
    it is only noise, would dominate.
    """
    total: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for scene in data:
        pair = scene[0]
        total[pair.place].append((float(pair.bicubic_error().mean()), float((pair.weight > 0).sum())))
    unit = {}
    for place, rows in total.items():
        square, pixels = np.array(rows).T
        unit[place] = 1 / (np.sqrt(np.average(square, weights=pixels)) + 5 / GAIN)
    return [[replace(p, weight=p.weight * np.float32(unit[p.place])) for p in scene] for scene in data]


def _dihedral(x: Array, turn: int) -> Array:
    x = np.rot90(x, turn % 4, axes=(-2, -1))
    return x[..., ::-1] if turn >= 4 else x


def _clear(inputs: list[Array], truth: Array, rng: np.random.Generator) -> tuple[list[Array], Array]:
    """Take a random part of each band's darkest value off, and scale what is left; truth alike.

    60 m bands are scaled by more: there are few scenes that have them, and a network that has seen few soils
    and skies must find their relation to the other bands in the scene at hand, not remember it.
    """
    out = []
    for x in inputs:
        dark = x.min(axis=(1, 2), keepdims=True).clip(0) * rng.uniform(0, 0.95, (len(x), 1, 1))
        gain = np.exp(rng.normal(0, 0.1 if len(x) > 2 else 0.3, (len(x), 1, 1)))
        dark, gain = dark.astype(np.float32), gain.astype(np.float32)
        out.append((x - dark) * gain)
    # The last input is the target on its coarse grid: the truth gets what that one got.
    return out, (truth - dark) * gain


Row = tuple[Array, Array, Array | None, Array, Array]


def _estrange(rows: list[Row], share: float, rng: np.random.Generator) -> list[Row]:
    """Some coarse bands of some rows, and their truth, replaced by those of the next row, or mostly by noise; or moved.

    All bands are moved, each by its own distance, as parallax moves those of clouds: the 10 m bands have the detail,
    but elsewhere, each of them at another place. Their differences are derivatives then, which explain coarse bands
    well, and hold no information on finer detail.
    """
    out = []
    for row, after in zip(rows, rows[1:] + rows[:1], strict=True):
        if rng.random() >= share:
            out.append(row)
            continue
        kind = rng.random()
        if kind < 1 / 3:
            out.append(_moved(row, rng))
            continue
        a, b, c, truth, weight = row
        low, truth = (b if c is None else c).copy(), truth.copy()
        factor = truth.shape[-1] // low.shape[-1]
        chosen = np.flatnonzero(rng.random(len(low)) < 0.4)
        if kind < 2 / 3:
            low[chosen] = (after[1] if after[2] is None else after[2])[chosen]
            truth[chosen], weight = after[3][chosen], np.minimum(weight, after[4])
        else:
            size = truth[chosen].std(axis=(1, 2), keepdims=True)
            part = rng.uniform(0.02, 0.6, size.shape).astype(np.float32)
            noise = rng.standard_normal(truth[chosen].shape, np.float32) * size * np.float32(rng.uniform(0.2, 1))
            h, w = low.shape[1:]
            mean = noise.reshape(len(chosen), h, factor, w, factor).mean(axis=(2, 4))
            level = low[chosen].mean(axis=(1, 2), keepdims=True)
            low[chosen] = level + part * (low[chosen] - level) + mean
            truth[chosen] = level + part * (truth[chosen] - level) + noise
        out.append((a, low, c, truth, weight) if c is None else (a, b, low, truth, weight))
    return out


def _moved(row: Row, rng: np.random.Generator) -> Row:
    """All bands moved along one line, in proportion to the time at which each is sensed; the truth with its bands.

    By whole pixels of each band's own grid. Edges, where pixels of the opposite side come in, get weight 0, and so does
    every place to which a pixel without weight is moved.
    """
    a, b, c, truth, weight = row
    step = 2 if c is None else 6
    line = rng.normal(size=2)
    line *= step * rng.uniform(0.7, 3) / np.abs(line).max()  # 10 m pixels from the first band to the last one

    def moved(x: Array, names: Sequence[str], factor: int, scale: int = 1) -> Array:
        out = np.empty_like(x)
        for i, name in enumerate(names):
            shift = [round(n * BANDS[name].delay / BANDS["B09"].delay / factor) * scale for n in line]
            out[i] = np.roll(x[i], shift, (0, 1))
        return out

    targets = GRIDS[10 * step]
    weight = moved(np.stack([weight] * len(truth)), targets, step, step).min(axis=0)
    edge = 4 * step
    weight[:edge] = weight[-edge:] = weight[:, :edge] = weight[:, -edge:] = 0
    return (
        moved(a, GRIDS[10], 1),
        moved(b, GRIDS[20], 2),
        None if c is None else moved(c, GRIDS[60], 6),
        moved(truth, targets, step, step),
        weight,
    )


def batches(
    data: list[list[Pair]], recipe: Recipe, start: int = 0
) -> Iterator[tuple[Array, Array, Array | None, Array, Array]]:
    """Random patches for ever: ``(a, b, c, truth, weight)``, each with a leading batch axis.

    Parameters
    ----------
    data : list of list of Pair
        Per scene, its pairs.
    recipe : Recipe
    start : int
        Batch number ``start + i`` is a function of the seed and that number alone, so that a training that resumes
        sees what an undisturbed one would have seen.
    """
    patch, ratio = recipe.patch, recipe.ratio
    area: dict[str, float] = defaultdict(float)
    for scene in data:
        area[scene[0].place] += scene[0].weight.size
    chance = np.array([scene[0].weight.size * area[scene[0].place] ** (recipe.share - 1) for scene in data], float)
    chance /= chance.sum()
    if recipe.real is not None:
        is_surrogate = np.array([scene[0].place.endswith(SURROGATE) for scene in data])
        if is_surrogate.any() and not is_surrogate.all():
            chance[is_surrogate] *= (1 - recipe.real) / chance[is_surrogate].sum()
            chance[~is_surrogate] *= recipe.real / chance[~is_surrogate].sum()
    step = start
    while True:
        rng = np.random.default_rng((recipe.seed, step))
        rows: list[Row] = []
        for index in rng.choice(len(data), size=recipe.batch, p=chance):
            pair = data[index][rng.integers(len(data[index]))]
            side = min(patch, *(n // ratio * ratio for n in pair.weight.shape))
            if side < patch:
                raise SourceError(f"scene {pair.name} is smaller than a patch of {patch}: use smaller patches")
            y, x = (int(rng.integers((n - patch) // ratio + 1)) * ratio for n in pair.weight.shape)
            turn = int(rng.integers(8))

            def cut(z: Array, f: int, y: int = y, x: int = x, turn: int = turn) -> Array:
                return _dihedral(z[..., y // f : (y + patch) // f, x // f : (x + patch) // f], turn)

            inputs = [cut(pair.a, 1), cut(pair.b, 2)] + ([] if pair.c is None else [cut(pair.c, 6)])
            if recipe.noise:
                sigma = np.float32(recipe.noise / GAIN)
                if recipe.vary:
                    sigma *= np.float32(rng.random())
                inputs = [z + sigma * rng.standard_normal(z.shape, np.float32) for z in inputs]
            truth = cut(pair.truth, 1)
            if recipe.haze and rng.random() < recipe.haze:
                inputs, truth = _clear(inputs, truth, rng)
            rows.append((inputs[0], inputs[1], inputs[2] if len(inputs) == 3 else None, truth, cut(pair.weight, 1)))
        if recipe.alien:
            rows = _estrange(rows, recipe.alien, rng)
        a, b, c, truths, weights = zip(*rows, strict=True)
        yield (
            np.stack(a),
            np.stack(b),
            None if c[0] is None else np.stack(c),
            np.stack(truths),
            np.stack(weights),
        )
        step += 1
