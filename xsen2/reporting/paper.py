"""What Lanaras et al. (2018) published: averages over their 15 L1C tiles, with the operator that they degrade with."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PAN", "PUBLISHED", "Published"]


class Published(NamedTuple):
    """One system. NaN where the paper has no number."""

    name: str
    rmse: float
    """DN, 20 m bands (Tables 4 and 5)."""
    sre: float
    sam: float
    uiq: float
    rmse_60: float
    """DN, 60 m bands (Table 6)."""
    minutes: str
    """A tile on a CPU with six cores, of 2015 (Table 7)."""


_NO = float("nan")

PUBLISHED = {
    "bicubic": Published("Bicubic", 123.5, 25.3, 1.24, 0.821, 160.2, "< 1"),
    "atprk": Published("ATPRK", 116.2, 25.7, 1.68, 0.855, 145.1, "149"),
    "supreme": Published("SupReME", 69.7, 29.7, 1.26, 0.887, 85.7, "123"),
    "sen2res": Published("Superres", 66.2, 30.4, 1.02, 0.915, 100.2, "315"),
    "dsen2": Published("DSen2", 34.5, 36.0, 0.78, 0.941, 32.2, "130"),
    "vdsen2": Published("VDSen2", 33.7, 36.3, 0.76, 0.941, 26.0, "1800"),
    "pracs": Published("PRACS", 176.8, 23.3, _NO, 0.837, _NO, ""),
    "glp_hpm": Published("MTF-GLP-HPM-PP", 106.2, 28.5, _NO, 0.895, _NO, ""),
    "bdsd": Published("BDSD", 79.4, 28.4, _NO, 0.880, _NO, ""),
}
"""By the name that ``method=`` takes for the same system."""

PAN = ("pracs", "glp_hpm", "bdsd")
"""Pansharpening, which the paper compares in a table of its own."""
