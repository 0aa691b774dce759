"""The layers that are no bands: what each catalogue and product calls them, their grid, type and nodata.

`xsen2.bands` is the same table for what the instrument measures.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["LAYERS", "Layer", "find", "in_title"]


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


def find(word: object) -> str | None:
    """Canonical name of a layer in any known catalogue's words, or None when it is not a layer.

    Examples
    --------
    >>> find("scl"), find("cloud"), find("MSK_CLDPRB"), find("B02")
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
