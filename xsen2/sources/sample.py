"""The embedded cube: a small scene made by code, which runs offline and whose 10 m truth is known."""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2.bands import BANDS
from xsen2.cube import DIMS, write_crs
from xsen2.engine.operators import degrade_array, taps

__all__ = ["sample"]


# What the covers of the sample scene reflect, in each of the twelve bands.


# Reflectance in %, bands B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12: typical values of the sources
# that `xsen2.sample` cites, rounded, so that no library's spectrum is copied.
_ENDMEMBERS: dict[str, tuple[float, ...]] = {
    "deep water": (3.6, 3.2, 2.2, 1.0, 0.8, 0.6, 0.6, 0.5, 0.5, 0.5, 0.3, 0.2),
    "turbid water": (5.2, 6.4, 9.0, 7.8, 6.6, 3.2, 3.0, 2.4, 1.9, 1.3, 0.5, 0.3),
    "foam": (43, 43, 42, 40, 38, 36, 35, 33, 32, 27, 11, 7),
    "wet sand": (8, 10, 14, 17, 18, 19, 19.5, 20, 20, 18, 15, 11),
    "dry sand": (17, 21, 28, 34, 36, 38, 39, 40, 41, 41, 47, 45),
    "moist soil": (4.2, 5.5, 8, 11, 12.5, 14, 15, 16.5, 17, 17, 22, 18),
    "dry soil": (8, 10.2, 14.2, 18.3, 20.5, 23, 24.5, 26, 27, 27.5, 36, 33),
    "stubble": (7, 9, 13, 18, 21, 25, 27, 29, 31, 32, 37, 26),
    "green crop": (2.2, 2.8, 6, 3, 9, 33, 43, 46, 48, 47, 20, 9),
    "row crop": (2.6, 3.4, 8, 4.2, 12, 37, 47, 50, 52, 51, 25, 12),
    "rape in bloom": (3.6, 4.6, 13, 12, 19, 38, 46, 48, 50, 49, 24, 12),
    "meadow": (2.8, 3.6, 7.5, 5, 11, 27, 33, 35, 37, 37, 22, 12),
    "dry grass": (4.5, 6, 9.5, 11, 15, 23, 26, 28, 30, 30.5, 31, 21),
    "broadleaf": (1.7, 2.1, 4.2, 2.2, 6.8, 24, 31, 33, 35, 35, 15, 6.5),
    "conifer": (1.4, 1.8, 3, 1.9, 4.6, 13, 16.5, 17.5, 19, 19, 8, 3.6),
    "shade": (1.6, 1.5, 1.6, 1.2, 1.7, 3.2, 3.8, 4, 4.2, 4.2, 2.4, 1.4),
    "asphalt": (7, 7.5, 8.5, 9.5, 10, 10.5, 11, 11.5, 12, 12, 14.5, 13.5),
    "concrete": (17, 20, 24, 27, 28, 29, 29.5, 30, 30.5, 30, 33, 31),
    "red tile": (6, 7, 10, 20, 24, 27, 28.5, 29.5, 31, 32, 40, 38),
    "slate": (6, 6.4, 6.8, 7.2, 7.5, 8, 8.2, 8.5, 8.8, 9, 11, 11.5),
    "white metal": (44, 48, 51, 52, 52, 52, 51.5, 51, 50, 49, 45, 40),
    "blue paint": (19, 27, 22, 12, 11, 13, 17, 22, 25, 28, 33, 30),
}

# Cover → its two endmembers at the first date (May, low water), and at the second (late August, high).
COVERS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "sea": (("deep water", "turbid water"), ("deep water", "turbid water")),
    "surf": (("turbid water", "foam"), ("turbid water", "foam")),
    "river": (("deep water", "turbid water"), ("turbid water", "deep water")),
    "flat": (("wet sand", "dry sand"), ("wet sand", "dry sand")),
    "beach": (("dry sand", "wet sand"), ("dry sand", "wet sand")),
    "dune": (("dry sand", "meadow"), ("dry sand", "dry grass")),
    "wheat": (("green crop", "moist soil"), ("stubble", "dry soil")),
    "rape": (("rape in bloom", "green crop"), ("dry soil", "dry grass")),
    "maize": (("moist soil", "row crop"), ("row crop", "dry soil")),
    "beet": (("dry soil", "moist soil"), ("row crop", "green crop")),
    "meadow": (("meadow", "broadleaf"), ("meadow", "dry grass")),
    "fallow": (("dry soil", "moist soil"), ("moist soil", "dry soil")),
    "broadleaf": (("broadleaf", "shade"), ("broadleaf", "shade")),
    "conifer": (("conifer", "shade"), ("conifer", "shade")),
    "garden": (("meadow", "broadleaf"), ("dry grass", "broadleaf")),
    "yard": (("asphalt", "concrete"), ("asphalt", "concrete")),
    "track": (("dry soil", "meadow"), ("dry soil", "dry grass")),
    "asphalt": (("asphalt", "concrete"), ("asphalt", "concrete")),
    "concrete": (("concrete", "asphalt"), ("concrete", "asphalt")),
    "tile roof": (("red tile", "slate"), ("red tile", "slate")),
    "slate roof": (("slate", "concrete"), ("slate", "concrete")),
    "metal roof": (("white metal", "concrete"), ("white metal", "concrete")),
    "blue roof": (("blue paint", "white metal"), ("blue paint", "white metal")),
    "shadow": (("shade", "asphalt"), ("shade", "asphalt")),
}


def table(band: int, date: int) -> npt.NDArray[np.float32]:
    """Reflectance x 10000 of every code that `codes` can hold, for a band (by position) and a date."""
    share = np.linspace(0, 1, 256, dtype=np.float32)
    rows = []
    for dates in COVERS.values():
        first, second = (_ENDMEMBERS[name][band] * 100 for name in dates[date])
        rows.append(first + (second - first) * share)
    return np.concatenate(rows, dtype=np.float32)


# The ground of the sample scene: which cover lies where, on a 2.5 m grid, drawn by code.
#
# A pixel has one cover and one share `f`: the cover is a mixture of two endmembers,
# ``(1 - f) * first + f * second``, so texture within a cover is the same abundance in every band.
# Both are packed in one uint16, so that a band is a single table look-up.


Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Window = tuple[slice, slice]

SIDE = 4320
"""Side of the scene in metres: 432, 216 and 72 native pixels."""
MARGIN = 120
"""Ground drawn beyond the frame, in metres: four sigmas of the widest blur (B01's)."""
PIXEL = 2.5
"""Side of a pixel of the drawing, in metres."""

_N = round((SIDE + 2 * MARGIN) / PIXEL)
_ID = {cover: number for number, cover in enumerate(COVERS)}
_TALL = ("broadleaf", "conifer", "tile roof", "slate roof", "metal roof", "blue roof")
_CROPS = ("wheat", "rape", "maize", "beet", "meadow", "fallow")


@lru_cache(maxsize=1)
def codes() -> npt.NDArray[np.uint16]:
    """Draw both dates: ``cover * 256 + share * 255``, shape (2, N, N), north up."""
    canvas = _Canvas()
    for layer in (canvas.fields, canvas.woods, canvas.roads, canvas.town, canvas.shadows):
        layer()
    land = canvas.cover, canvas.share
    out = np.empty((2, _N, _N), np.uint16)
    for date in (0, 1):
        canvas.cover, canvas.share = land[0].copy(), land[1].copy()
        canvas.river(date)
        canvas.coast(date)
        canvas.crossings()
        out[date] = np.rint(np.clip(canvas.share, 0, 1) * 255)
        out[date] += canvas.cover.astype(np.uint16) * np.uint16(256)
    return out


_ALL = slice(None), slice(None)


def _pixels(low: float, high: float) -> slice:
    """Pixels of an axis between two positions in metres."""
    first, last = (int((position + MARGIN) / PIXEL) for position in (low, high))
    return slice(min(max(first, 0), _N), min(max(last + 1, 0), _N))


def _curve(*points: tuple[float, float]) -> Floats:
    """A smooth path through points (x, y): Catmull-Rom, a vertex about every 30 m."""
    p = np.array([points[0], *points, points[-1]], float)
    out = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
        t = np.linspace(0, 1, max(2, int(np.hypot(*(c - b)) / 30)), endpoint=False)[:, None]
        out.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3))
    return np.concatenate([*out, p[-1:]]).astype(np.float32)


def _split(rng: np.random.Generator, low: float, high: float, total: float = 7000.0) -> npt.NDArray[np.float64]:
    """Edges from 0 to `total`, with random gaps."""
    gaps = rng.uniform(low, high, int(total / low) + 1)
    return np.concatenate([[0.0], np.cumsum(gaps)])


class _Canvas:
    """Layers painted one over the other. Metres from the frame's north-west corner, y down."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(2018)
        axis = (np.arange(_N, dtype=np.float32) + np.float32(0.5)) * np.float32(PIXEL) - np.float32(MARGIN)
        self.x, self.y = axis[None, :], axis[:, None]
        self.cover = np.full((_N, _N), _ID["meadow"], np.uint8)
        self.share = np.zeros((_N, _N), np.float32)
        self.wide = self.noise(450.0)
        self.fine = 0.6 * self.noise(12.0) + 0.5 * self.noise(40.0) + 0.5 * self.noise(120.0)
        north, south = (
            ((2700, -200), (2660, 500), (2480, 1200), (2420, 1900)),
            ((2050, 3300), (2180, 3900), (2120, 4500)),
        )
        self.main_road = _curve(*north, (2150, 2600), *south)
        self.east_road = _curve((2100, 2850), (2700, 2800), (3400, 2940), (4000, 2800), (4500, 2880))
        lanes = (
            _curve((1180, -200), (1150, 400), (1300, 1000), (1420, 1560), (2430, 1900)),
            _curve((2480, 1200), (3100, 1330), (3700, 1950), (4500, 2150)),
            _curve((2110, 3700), (1500, 4000), (1150, 4500)),
            _curve((3400, 2940), (3300, 3400), (2900, 3900), (2950, 4500)),
        )
        self.ways = (*((lane, 3.2) for lane in lanes), (self.main_road, 6.0), (self.east_road, 5.0))
        # A sine-generated curve: its direction, not its position, swings with the distance run.
        run = np.arange(0, 6100, 25.0)
        swing = 1.15 + 0.25 * np.sin(run / 1100)
        turn = np.deg2rad(168) + swing * np.sin(2 * np.pi * run / 1350 + 0.9 * np.sin(run / 640))
        self.course = np.stack([4560 + 25 * np.cumsum(np.cos(turn)), 760 + 25 * np.cumsum(np.sin(turn))], 1)

    def noise(self, cell: float) -> Floats:
        """Smooth noise of unit variance: a cubic B-spline through random values `cell` metres apart."""
        position = np.arange(_N) * PIXEL / cell
        first = position.astype(int)
        t = position - first
        spline = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        weights = np.zeros((_N, first[-1] + 4), np.float32)
        for j in range(4):
            weights[np.arange(_N), first + j] = spline[j]
        values = self.rng.standard_normal((weights.shape[1],) * 2).astype(np.float32)
        out: Floats = weights @ values @ weights.T
        return out / np.float32(151 / 315)  # the spline's energy along one axis: the variance is its square

    def paint(self, mask: Mask, cover: str, share: float | Floats, at: Window = _ALL) -> None:
        """Put a cover where the mask of a window is True."""
        self.cover[at][mask] = _ID[cover]
        self.share[at][mask] = share[mask] if isinstance(share, np.ndarray) else share

    def near(self, path: npt.NDArray[np.floating], reach: float) -> Floats:
        """Distance in metres to a polyline of (x, y); infinite beyond `reach`."""
        out = np.full((_N, _N), np.inf, np.float32)
        for (x0, y0), (x1, y1) in zip(path[:-1].tolist(), path[1:].tolist(), strict=True):
            cols = _pixels(min(x0, x1) - reach, max(x0, x1) + reach)
            rows = _pixels(min(y0, y1) - reach, max(y0, y1) + reach)
            dx, dy = x1 - x0, y1 - y0
            px, py = self.x[:, cols] - x0, self.y[rows] - y0
            t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy), 0, 1)
            part = out[rows, cols]
            np.minimum(part, np.sqrt((px - t * dx) ** 2 + (py - t * dy) ** 2), out=part)
        return out

    def turned(self, degrees: float, wobble: float, at: Window = _ALL) -> tuple[Floats, Floats]:
        """Coordinates turned by an angle round the middle, bent a little, and all positive."""
        cos, sin = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))
        x, y = self.x[:, at[1]] - SIDE / 2, self.y[at[0]] - SIDE / 2
        bend = np.float32(wobble) * self.wide[at]
        return (cos * x + (sin * y + 3500)) + bend, (cos * y - (sin * x - 3500)) - bend

    def fields(self) -> None:
        """Strips cut into parcels, turned differently on the two sides of the main road."""
        east = self.x > np.interp(self.y, self.main_road[:, 1], self.main_road[:, 0])
        north = self.y < np.interp(self.x, self.east_road[:, 0], self.east_road[:, 1])
        everywhere, left, right = _ALL[0], _pixels(-MARGIN, 2800), _pixels(1950, SIDE + MARGIN)
        for at, mask, degrees in (
            ((everywhere, left), ~east, 14.0),
            ((_pixels(-MARGIN, 3000), right), east & north, -23.0),
            ((_pixels(2750, SIDE + MARGIN), right), east & ~north, 38.0),
        ):
            region = mask[at]
            u, v = (c[region] for c in self.turned(degrees, 14.0, at))
            strips = _split(self.rng, 220, 420)
            strip = np.searchsorted(strips, u) - 1
            cuts = [_split(self.rng, 70, 290) for _ in strips]
            # One sorted list of all the cuts, each strip's shifted past those of the strip before.
            edges = np.concatenate([cut[cut < 9000] + 10000 * k for k, cut in enumerate(cuts)])
            parcel = np.searchsorted(edges, v + 10000 * strip) - 1
            from_track = np.minimum(u - strips[strip], strips[strip + 1] - u)
            from_edge = np.minimum(v + 10000 * strip - edges[parcel], edges[parcel + 1] - v - 10000 * strip)
            crop = self.rng.choice(len(_CROPS), len(edges), p=(0.28, 0.14, 0.2, 0.14, 0.14, 0.1))
            vigour = self.rng.normal(0.22, 0.12, len(edges))
            hedged = self.rng.random(len(edges)) < 0.3
            cover = np.array([_ID[name] for name in _CROPS], np.uint8)[crop[parcel]]
            fine = self.fine[at][region]
            share = vigour[parcel] + 0.09 * fine + 0.15 * (u % 24 < 2.5) * (crop[parcel] != 4)  # tramlines
            border = (from_edge < 4.0) & hedged[parcel]
            cover[border], share[border] = _ID["broadleaf"], 0.25 + 0.2 * fine[border]
            track = from_track < 2.6
            cover[track], share[track] = _ID["track"], 0.3
            self.cover[at][region], self.share[at][region] = cover, share

    def woods(self) -> None:
        """Stands of conifers and broadleaved trees, cut by a ride."""
        ragged = 1 + 0.3 * self.wide + 0.22 * self.noise(170.0)
        conifers = self.noise(280.0) > 0.1
        canopy = 0.3 + 0.22 * self.fine
        for x, y, across, down in ((3620, 330, 760, 430), (3500, 3900, 640, 520), (1180, 480, 260, 330)):
            at = _pixels(y - 2 * down, y + 2 * down), _pixels(x - 2 * across, x + 2 * across)
            dx, dy = self.x[:, at[1]] - x, self.y[at[0]] - y
            near = (dx / across) ** 2 + (dy / down) ** 2 < ragged[at]
            self.paint(near, "broadleaf", canopy[at], at)
            self.paint(near & conifers[at], "conifer", canopy[at], at)
            self.paint(near & (np.abs(dx + 0.3 * dy) < 4), "track", 0.7, at)

    def roads(self) -> None:
        """Lanes and roads with green verges."""
        for path, half in self.ways:
            distance = self.near(path, 14.0)
            self.paint(distance < half + 3, "meadow", 0.2)
            self.paint(distance < half, "asphalt", 0.1 + 0.06 * self.fine)

    def town(self) -> None:
        """Streets on a turned grid; lots with a house, a yard and a garden; sheds on the east side."""
        at = _pixels(2150, 3750), _pixels(1100, 3200)
        u, v = self.turned(11.0, 6.0, at)
        x, y, fine = self.x[:, at[1]], self.y[at[0]], self.fine[at]
        reach = np.sqrt(((x - 1930) / 620) ** 2 + ((y - 2920) / 560) ** 2) - 0.13 * self.wide[at]
        inside = reach < 1
        blocks_u, blocks_v = _split(self.rng, 56, 74), _split(self.rng, 110, 190)
        block_u, block_v = np.searchsorted(blocks_u, u) - 1, np.searchsorted(blocks_v, v) - 1
        u0, u1, v0, v1 = blocks_u[block_u], blocks_u[block_u + 1], blocks_v[block_v], blocks_v[block_v + 1]
        back = u - u0 > (u1 - u0) / 2  # two rows of lots stand back to back
        depth = np.where(back, u1 - u, u - u0)
        count = np.floor((v1 - v0) / 19)
        lot = np.floor((v - v0) / (v1 - v0) * count)
        along = (v - v0) / (v1 - v0) * count - lot  # 0 to 1 across the lot
        key = (block_u * 8191 + block_v * 613 + lot.astype(int) * 37 + back * 17) % 4093
        chance, size = self.rng.random(4093)[key], self.rng.random(4093)[key]
        centre = reach < 0.5
        gap = np.where(centre, 0.0, 0.14 + 0.1 * size)
        house = (depth > 7) & (depth < 16 + 7 * size) & (np.minimum(along, 1 - along) >= gap) & (chance < 0.93)
        park = inside & ((block_u * 7 + block_v * 5) % 23 == 4)
        self.paint(inside, "garden", 0.35 + 0.3 * fine, at)
        self.paint(inside & (centre | (depth < 9)), "yard", 0.4 + 0.2 * fine, at)
        for roof, low, high in (
            ("tile roof", 0.0, 0.6),
            ("slate roof", 0.6, 0.78),
            ("concrete", 0.78, 0.9),
            ("metal roof", 0.9, 1),
        ):
            self.paint(inside & house & (low <= size) & (size < high), roof, 0.3 * chance.astype(np.float32), at)
        self.paint(park, "garden", 0.5 + 0.4 * fine, at)
        street = inside & (np.minimum(depth, np.minimum(v - v0, v1 - v)) < np.where(block_v % 4 == 0, 6.0, 3.6))
        self.paint(street, "asphalt", 0.12 + 0.05 * fine, at)
        self.works(at, u, v)
        for road in (self.main_road, self.east_road):
            self.paint(self.near(road, 12.0)[at] < 7, "asphalt", 0.1 + 0.05 * fine, at)

    def works(self, at: Window, u: Floats, v: Floats) -> None:
        """Sheds of 60 to 130 m on paved ground, east of the town along the road."""
        area = (np.abs(u - 4110) < 250) & (np.abs(v - 3835) < 150)
        lots_u, lots_v = _split(self.rng, 110, 160), _split(self.rng, 90, 130)
        i, j = np.searchsorted(lots_u, u) - 1, np.searchsorted(lots_v, v) - 1
        inner = np.minimum(np.minimum(u - lots_u[i], lots_u[i + 1] - u), np.minimum(v - lots_v[j], lots_v[j + 1] - v))
        self.paint(area, "asphalt", 0.25 + 0.1 * self.fine[at], at)
        for number, roof in enumerate(("metal roof", "concrete", "blue roof", "metal roof", "slate roof")):
            self.paint(area & (inner > 20) & ((i * 3 + j * 2) % 5 == number), roof, 0.15, at)

    def shadows(self) -> None:
        """Sun from the south-east: what stands tall darkens 5 to 7 m of ground to its north-west."""
        tall = np.isin(self.cover, [_ID[cover] for cover in _TALL])
        shaded = np.roll(tall, (-1, -1), (0, 1)) | np.roll(tall, (-2, -1), (0, 1))
        self.paint(shaded & ~tall, "shadow", 0.25)

    def river(self, date: int) -> None:
        """The river, wider at the second date; bars of sand lie bare at the first."""
        distance = self.near(self.course, 130.0)
        bank = distance + 5 * self.wide + 3 * self.fine
        half = 30 + 0.012 * np.clip(2600 - self.x, 0, None)  # widens towards its mouth
        self.paint((bank < half + 26) & (self.fine + self.wide > -0.3), "broadleaf", 0.3 + 0.2 * self.fine)
        self.paint(bank < half + 9, "beach", 0.6 + 0.2 * self.fine)
        level = (-6.0, 5.0)[date]
        self.paint(bank < half + level, "river", 0.6 + 0.15 * self.wide + 0.04 * self.fine)

    def coast(self, date: int) -> None:
        """Dunes, beach, surf in broken lines, and water that clears with depth."""
        at = _ALL[0], _pixels(-MARGIN, 1250)
        x, wide, fine = self.x[:, at[1]], self.wide[at], self.fine[at]
        line = 560 + 130 * np.sin(self.y / 720 + 0.6) + 60 * np.sin(self.y / 310) + 9 * wide
        inland = (x - line) * np.float32(0.96)
        land = self.near(self.course[-60:], 110.0)[at] > 62  # the river keeps its mouth open
        self.paint(land & (inland < 150 + 22 * fine), "dune", 0.55 + 0.35 * fine, at)
        self.paint(land & (inland < 75 + 6 * wide), "beach", 0.12 + 0.1 * fine, at)
        self.paint(land & (inland < 22), "beach", np.clip((22 - inland) / 30, 0, 1) + 0.1 * fine, at)
        self.paint(land & (inland < 0), "flat", np.clip(0.2 + 0.25 * fine, 0, 0.5), at)
        shore = inland - np.float32((-42.0, 0.0)[date])
        plume = 0.55 * np.exp(-(((self.y - self.course[-1, 1]) / 420) ** 2)) * np.clip(1 + shore / 700, 0, 1)
        turbid = np.clip(0.75 + shore / 320, 0.04, 1) + plume + 0.05 * wide + 0.03 * fine
        self.paint(shore < 0, "sea", turbid, at)
        broken = (shore < 0) & (fine + 0.5 * wide > 0.2)
        for out, width in ((6.0, 6.0), (44.0, 5.0), (92.0, 4.0)):
            self.paint(broken & (np.abs(shore + out + 7 * wide) < width), "surf", 0.6 + 0.25 * fine, at)

    def crossings(self) -> None:
        """Bridges carry the roads over the water; a pier stands in the sea."""
        wet = np.isin(self.cover, [_ID["river"], _ID["beach"]]) & (self.x > 900)
        for path, half in self.ways:
            self.paint((self.near(path, 12.0) < half + 1) & wet, "concrete", 0.5)
        pier = self.near(_curve((900, 3010), (600, 3000), (230, 2960)), 12.0)
        self.paint((pier < 6) & (self.x < 780), "concrete", 0.3)


_WEST, _NORTH, _CRS = 480_000, 5_688_000, "EPSG:32631"
_TIMES = np.array(["2024-05-12T10:46:31", "2024-08-30T10:46:29"], "datetime64[ns]")
_CHUNK = 2160  # metres: 216, 108 and 36 pixels
_GROUND = 2 * PIXEL  # metres: two by two pixels of the drawing are averaged before the blur

# Reflectance x 10000 under the reference radiance with the sun at 40 degrees, and the signal-to-noise
# ratio measured in orbit there (Gascon et al. 2017).
_SNR: dict[str, tuple[float, float]] = {
    "B01": (2810, 1372), "B02": (2680, 214), "B03": (2880, 249), "B04": (2930, 230),
    "B05": (2140, 253), "B06": (2170, 220), "B07": (2370, 227), "B08": (4060, 221),
    "B8A": (2250, 161), "B09": (450, 222), "B11": (670, 159), "B12": (720, 167),
}  # fmt: skip


def sample(*, truth: bool = False) -> xr.Dataset:
    """A small synthetic scene: fields, woods, a river, a town and a coast, at two dates.

    No pixel of it was measured. A map of covers is drawn on a 2.5 m grid. Each cover is a mixture of
    two endmembers with a smooth random share, the same for all bands. Each band of this ground is then
    blurred with the band's own MTF (`xsen2.bands`), sampled on the band's own grid, and given the noise
    of the instrument. Between the dates crops ripen or sprout, the river rises and so does the tide.

    Parameters
    ----------
    truth : bool
        False: the cube, bands on their native grids. True: all twelve bands on the 10 m grid, as an
        instrument without noise would see them whose pixels are 10 m in every band, with each
        band's own MTF (at the Nyquist frequency of that 10 m grid). It is what a perfect
        super-resolution of the cube would give, so the B02 of the truth is the cube's B02 without
        noise, and the truth degraded with ``operator="mtf"`` is the cube without noise.

    Returns
    -------
    xarray.Dataset
        float32 DN (10000 x surface reflectance), complete (no NaN), dask-backed, EPSG:32631. The cube
        is 432 x 432 pixels at 10 m, 216 x 216 at 20 m, 72 x 72 at 60 m, two dates. Pixels are drawn
        when they are first computed (one to three seconds for all), then kept, and are always the
        same, up to the rounding of the machine.

    Notes
    -----
    Reflectances are rounded, typical values of the published endmembers: vegetation, soils, water and
    man-made materials of the USGS Spectral Library version 7 (Kokaly et al. 2017) and the ECOSTRESS
    library (Meerdink et al. 2019); turbid water after Knaeps et al. (2015); foam after Dierssen (2019);
    wet and dry sand after Nolet et al. (2014). No file of theirs is contained. Noise: signal-to-noise
    ratios measured in orbit (Gascon et al. 2017, Remote Sensing 9, 584).

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample()
    >>> cube["B05"].dims, cube["B05"].shape
    (('time', 'y_20m', 'x_20m'), (2, 216, 216))
    >>> xsen2.sample(truth=True)["B05"].shape
    (2, 432, 432)
    """
    variables: dict[str, xr.Variable] = {}
    coords: dict[str, Any] = {"time": _TIMES}
    for name, band in BANDS.items():
        gsd = 10 if truth else band.gsd
        pixels = _Pixels(name, gsd, noisy=not truth)
        kind = "truth" if truth else "cube"
        chunk = _CHUNK // gsd
        array = da.from_array(pixels, chunks=(1, chunk, chunk), name=f"xsen2-sample-{kind}-{name}", meta=_META)
        variables[name] = xr.Variable(("time", *DIMS[gsd]), array, band.attrs)
        centres = (np.arange(SIDE // gsd) + 0.5) * gsd
        ydim, xdim = DIMS[gsd]
        coords[ydim] = (ydim, _NORTH - centres, _axis("y"))
        coords[xdim] = (xdim, _WEST + centres, _axis("x"))
    attrs = {
        "title": "xsen2 sample" + (", 10 m truth in every band" if truth else ""),
        "comment": "synthetic: drawn by code, no pixel was measured",
        "units": "DN = 10000 x reflectance",
        "offset": "none: the pixels never had one",
        "attribution": "synthetic, made by xsen2; no satellite data",
    }
    return write_crs(xr.Dataset(variables, coords, attrs), _crs())


_META = np.empty((0, 0, 0), np.float32)
_DRAWING = threading.Lock()  # so that the first blocks to be computed do not all draw the ground


class _Pixels:
    """A band as dask's `from_array` takes it; nothing is drawn before it is indexed."""

    dtype = np.dtype(np.float32)
    ndim = 3

    def __init__(self, band: str, gsd: int, noisy: bool) -> None:
        self.band, self.gsd, self.noisy = band, gsd, noisy
        self.shape = (len(_TIMES), SIDE // gsd, SIDE // gsd)

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        with _DRAWING:
            block: npt.NDArray[np.float32] = _render(self.band, self.gsd, self.noisy)[key]
        return block


@cache
def _render(name: str, gsd: int, noisy: bool) -> npt.NDArray[np.float32]:
    """Both dates of a band as an instrument with pixels of `gsd` metres sees the ground."""
    number, band, ratio = list(BANDS).index(name), BANDS[name], round(gsd / _GROUND)
    drawn = np.stack([table(number, date)[code] for date, code in enumerate(codes())])
    drawn = drawn[:, ::2] + drawn[:, 1::2]
    ground = (drawn[:, :, ::2] + drawn[:, :, 1::2]) * np.float32(0.25)
    # The pixels of the ground are boxes already (variance 1/12), which leaves less to blur.
    sigma = np.sqrt((band.psf_sigma * ratio) ** 2 - 1 / 12)
    blur = float(sigma / (band.psf_sigma * np.sqrt(ratio**2 - 1)))
    frame = slice(MARGIN // gsd, -MARGIN // gsd)
    seen = degrade_array(ground, *taps(name, ratio, "mtf", blur=blur), ratio)[:, frame, frame]
    if not noisy:
        return np.ascontiguousarray(seen)
    level, snr = _SNR[name]
    # Mostly photon noise, which grows with the root of the signal, over a floor.
    sd = level / snr * np.sqrt(0.2 + 0.8 * np.clip(seen, 0, None) / level)
    noise = np.random.default_rng((7, number)).standard_normal(seen.shape, np.float32)
    return np.asarray(seen + sd * noise, np.float32)


def _axis(letter: str) -> dict[str, str]:
    return {"standard_name": f"projection_{letter}_coordinate", "axis": letter.upper(), "units": "m"}


def _crs() -> Any:
    from rasterio.crs import CRS

    return CRS.from_user_input(_CRS)
