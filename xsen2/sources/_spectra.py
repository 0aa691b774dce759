"""What the covers of the sample scene reflect, in each of the twelve bands."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["COVERS", "table"]

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
