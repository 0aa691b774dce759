"""The ground of the sample scene: which cover lies where, on a 2.5 m grid, drawn by code.

A pixel has one cover and one share `f`: the cover is a mixture of two endmembers,
``(1 - f) * first + f * second``, so texture within a cover is the same abundance in every band.
Both are packed in one uint16, so that a band is a single table look-up.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from xsen2.sources._spectra import COVERS

__all__ = ["MARGIN", "PIXEL", "SIDE", "codes"]

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
        where = np.arange(_N) * PIXEL / cell
        first = where.astype(int)
        t = where - first
        spline = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        weights = np.zeros((_N, first[-1] + 4), np.float32)
        for j in range(4):
            weights[np.arange(_N), first + j] = spline[j]
        values = self.rng.standard_normal((weights.shape[1],) * 2).astype(np.float32)
        out: Floats = weights @ values @ weights.T
        return out / np.float32(151 / 315)  # the spline's energy along one axis: the variance is its square

    def paint(self, where: Mask, cover: str, share: float | Floats, at: Window = _ALL) -> None:
        """Put a cover where the mask of a window says."""
        self.cover[at][where] = _ID[cover]
        self.share[at][where] = share[where] if isinstance(share, np.ndarray) else share

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
        for at, where, degrees in (
            ((everywhere, left), ~east, 14.0),
            ((_pixels(-MARGIN, 3000), right), east & north, -23.0),
            ((_pixels(2750, SIDE + MARGIN), right), east & ~north, 38.0),
        ):
            region = where[at]
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
