"""The bands that the instrument measures, and the layers that are no bands: names in each catalogue and product, grids.

Of bands also what is known of the instrument, of layers type and nodata.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xsen2.errors import BandError

__all__ = [
    "BANDS",
    "GRIDS",
    "LAYERS",
    "UNUSED",
    "A",
    "B",
    "C",
    "Layer",
    "canonical",
    "factor_of",
    "find",
    "find_layer",
    "grid_of",
    "in_title",
]


# The bands of Sentinel-2's MSI: native grid, wavelength, MTF, delay, and every catalogue's name for them.


@dataclass(frozen=True)
class Band:
    """One band of the MultiSpectral Instrument.

    Attributes
    ----------
    name : str
        Canonical name, ``"B01"`` … ``"B12"``, ``"B8A"``.
    gsd : int
        Ground sampling distance of the native grid, in metres.
    wavelength : float
        Central wavelength of Sentinel-2A, in nanometres.
    bandwidth : float
        Full width at half maximum of Sentinel-2A, in nanometres.
    mtf : float
        Modulation transfer function at the Nyquist frequency of the native grid, averaged over
        both directions (the Sentinel-2A list of Lanaras et al. 2017, SupReME).
    delay : float
        Seconds after B02 at which the band sees a place, as ESA's handbook has it. The parallax of what is high above
        the ground grows with it, by about 9.5 m per second and kilometre (7.5 km/s, 786 km up).
    long_name : str
        What the band is for, in the words of ESA's handbook.
    common_name : str
        Name of the band in Earth Search's catalogue.
    """

    name: str
    gsd: int
    wavelength: float
    bandwidth: float
    mtf: float
    delay: float
    long_name: str
    common_name: str

    @property
    def psf_sigma(self) -> float:
        """Sigma, in native pixels, of the Gaussian whose transfer at Nyquist is `mtf`."""
        return math.sqrt(-2.0 * math.log(self.mtf)) / math.pi

    @property
    def attrs(self) -> dict[str, str | int | float]:
        """Attributes that a variable of this band carries in a cube."""
        return {"long_name": self.long_name, "gsd": self.gsd, "wavelength": self.wavelength, "units": "1e-4"}


BANDS: dict[str, Band] = {
    band.name: band
    for band in (
        Band("B01", 60, 442.7, 21.0, 0.32, 2.314, "coastal aerosol", "coastal"),
        Band("B02", 10, 492.4, 66.0, 0.26, 0.0, "blue", "blue"),
        Band("B03", 10, 559.8, 36.0, 0.28, 0.527, "green", "green"),
        Band("B04", 10, 664.6, 31.0, 0.24, 1.005, "red", "red"),
        Band("B05", 20, 704.1, 15.0, 0.38, 1.269, "red edge 1", "rededge1"),
        Band("B06", 20, 740.5, 15.0, 0.34, 1.525, "red edge 2", "rededge2"),
        Band("B07", 20, 782.8, 20.0, 0.34, 1.79, "red edge 3", "rededge3"),
        Band("B08", 10, 832.8, 106.0, 0.26, 0.264, "near infrared", "nir"),
        Band("B8A", 20, 864.7, 21.0, 0.33, 2.055, "narrow near infrared", "nir08"),
        Band("B09", 60, 945.1, 20.0, 0.26, 2.586, "water vapour", "nir09"),
        Band("B11", 20, 1613.7, 91.0, 0.22, 1.468, "shortwave infrared 1", "swir16"),
        Band("B12", 20, 2202.4, 175.0, 0.23, 2.085, "shortwave infrared 2", "swir22"),
    )
}
"""The twelve bands that are used, in the order of their numbers."""

UNUSED = frozenset({"B10", "CIRRUS"})
"""B10 sees cirrus, not the ground; L2A products do not have it."""

A = tuple(b.name for b in BANDS.values() if b.gsd == 10)
B = tuple(b.name for b in BANDS.values() if b.gsd == 20)
C = tuple(b.name for b in BANDS.values() if b.gsd == 60)
GRIDS: dict[int, tuple[str, ...]] = {10: A, 20: B, 60: C}
"""Native grid (its gsd in metres) → the bands measured on it."""

_ALIASES: dict[str, str] = {}
for _band in BANDS.values():
    _number = _band.name[1:].lstrip("0")
    for _alias in (_band.name, f"B{_number}", f"BAND{_number}", _band.common_name):
        _ALIASES[_alias.upper()] = _band.name


def find(name: object) -> str | None:
    """Canonical name of a band in any known catalogue's words, or None when it is not a band.

    Examples
    --------
    >>> find("rededge1"), find("b8a"), find("B2"), find("SCL")
    ('B05', 'B8A', 'B02', None)
    """
    return _ALIASES.get(str(name).upper())


def canonical(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical names of `names`, in their order.

    Raises
    ------
    BandError
        If a name is not that of a band, or is B10.

    Examples
    --------
    >>> canonical(["red", "B8A"])
    ('B04', 'B8A')
    """
    out = []
    for name in names:
        if str(name).upper() in UNUSED:
            raise BandError(f"{name} (cirrus) does not see the ground and is never super-resolved: leave it out")
        band = find(name)
        if band is None:
            raise BandError(
                f"unknown band {name!r}: use one of {', '.join(BANDS)}, "
                "or their names in Earth Search ('coastal', 'blue', … 'swir22')"
            )
        out.append(band)
    return tuple(out)


def grid_of(name: str) -> int:
    """Ground sampling distance, in metres, of the grid that a band was measured on."""
    return BANDS[name].gsd


def factor_of(name: str) -> int:
    """How many pixels of the 10 m grid a pixel of the band is wide.

    Examples
    --------
    >>> factor_of("B02"), factor_of("B11"), factor_of("B09")
    (1, 2, 6)
    """
    return BANDS[name].gsd // 10


@dataclass(frozen=True)
class Layer:
    """One layer of a product that is not a band.

    Attributes
    ----------
    name : str
        Canonical name, as a cube has it.
    gsd : int
        Ground sampling distance of its native grid, in metres.
    dtype : str
        Of its pixels.
    nodata : int or None
        What means that there is none; None where every value means something.
    long_name : str
    words : tuple of str
        Other names in catalogues and file names, in capitals.
    title : str
        Pattern that a catalogue's title of it has, in small letters; empty where no catalogue has it.
    more : mapping
        Further attributes of a variable in a cube.
    """

    name: str
    gsd: int
    dtype: str
    nodata: int | None
    long_name: str
    words: tuple[str, ...] = ()
    title: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes that a variable of this layer carries in a cube."""
        return {"long_name": self.long_name, "gsd": self.gsd, **self.more}


LAYERS: dict[str, Layer] = {
    layer.name: layer
    for layer in (
        Layer(
            "SCL",
            20,
            "uint8",
            0,
            "scene classification",
            ("SCENE_CLASSIFICATION",),
            r"\bscl\b|scene[ _-]*classification",
            {
                "flag_values": list(range(12)),
                "flag_meanings": "no_data saturated_or_defective dark_area cloud_shadow vegetation not_vegetated "
                "water unclassified cloud_medium_probability cloud_high_probability thin_cirrus snow_or_ice",
            },
        ),
        Layer(
            "CLASSI",
            60,
            "uint8",
            None,
            "masks of clouds, and from baseline 04.00 on of snow, of L1C",
            ("MSK_CLASSI",),
            "",
            {"flag_masks": [1, 2, 4], "flag_meanings": "opaque_cloud cirrus snow_or_ice"},
        ),
        Layer(
            "CLDPRB",
            20,
            "uint8",
            None,
            "cloud probability",
            ("CLD", "CLOUD", "MSK_CLDPRB"),
            r"\bcld(prb)?\b|cloud[ _-]*prob",
            {"units": "%"},
        ),
        Layer(
            "SNWPRB",
            20,
            "uint8",
            None,
            "snow probability",
            ("SNW", "SNOW", "MSK_SNWPRB"),
            r"\bsnw(prb)?\b|snow[ _-]*prob",
            {"units": "%"},
        ),
        Layer("AOT", 20, "uint16", 0, "aerosol optical thickness", (), r"\baot\b|aerosol optical"),
        Layer("WVP", 20, "uint16", 0, "water vapour", (), r"\bwvp\b"),
        Layer("TCI", 10, "uint8", 0, "true colour image", ("VISUAL",), r"\btci\b|true[ _-]*colou?r"),
    )
}
"""Canonical name → layer. TCI is a picture; it is here so that nothing takes it for a band."""

_WORDS = {word: layer.name for layer in LAYERS.values() for word in (layer.name, *layer.words)}


def find_layer(word: object) -> str | None:
    """Canonical name of a layer in any known catalogue's words, or None when it is not a layer.

    Examples
    --------
    >>> find_layer("scl"), find_layer("cloud"), find_layer("MSK_CLDPRB"), find_layer("B02")
    ('SCL', 'CLDPRB', 'CLDPRB', None)
    """
    return _WORDS.get(str(word).upper())


def in_title(title: object) -> str | None:
    """Canonical name of the layer that a catalogue's title speaks of, or None.

    Examples
    --------
    >>> in_title("Scene classification map (SCL)"), in_title("Blue (band 2) - 10m")
    ('SCL', None)
    """
    text = title.lower() if isinstance(title, str) else ""
    return next((name for name, layer in LAYERS.items() if layer.title and re.search(layer.title, text)), None)
