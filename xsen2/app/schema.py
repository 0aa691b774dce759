"""What a request may hold. Whatever a browser sends is read by one of these, or refused with a sentence."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from xsen2.bands import BANDS, factor_of
from xsen2.errors import SourceError
from xsen2.geometry import Area, read

__all__ = ["MOST_BODY", "Job", "Limits", "Search", "validation_message"]

MOST_BODY = 2**20
"""Bytes of a request."""

MOST_VERTICES = 20_000
"""Of an area that is drawn or uploaded; `xsen2.geometry` reads more from files of one's own."""

MOST_DAYS = 732
"""Of a search: two years."""

_CRS = re.compile(r"(urn:ogc:def:crs:)?(EPSG:(\d|\.)*:?\d{4,6}|OGC:(1\.3)?:?CRS84)")
"""A CRS by its number alone: PROJ would open files that a text in its own language names."""


@dataclass(frozen=True)
class Limits:
    """How much one job may take.

    Attributes
    ----------
    km2 : float
        Of the least box round its area.
    dates : int
        Scenes of one job.
    waiting : int
        Jobs of one user that wait or run.
    minutes : float
        After which a job is stopped.
    """

    km2: float = 100.0
    dates: int = 24
    waiting: int = 20
    minutes: float = 120.0

    def check(self, area: Any) -> Area:
        """An area that is small enough.

        Parameters
        ----------
        area : bbox or dict
            That has been read by the schema.

        Raises
        ------
        SourceError
            It is larger.
        """
        parsed = read(area)
        size = km2_of(parsed)
        if size > self.km2:
            raise SourceError(
                f"the area spans {size:,.0f} km², and this server takes {self.km2:g} km² in one job: draw a smaller "
                "one, or start it with a larger --most-area"
            )
        return parsed


def km2_of(area: Area) -> float:
    """Square kilometres of the least box of longitude and latitude round an area: all of it is computed."""
    west, south, east, north = area.lonlat
    radius = 6371.0072  # km, of the sphere with the Earth's area
    return radius**2 * math.radians(east - west) * (math.sin(math.radians(north)) - math.sin(math.radians(south)))


def _area(given: Any) -> Any:
    """A bbox of four numbers or GeoJSON that the library can read; as it was given."""
    if isinstance(given, list):
        if len(given) != 4 or any(isinstance(v, bool) or not isinstance(v, int | float) for v in given):
            raise ValueError("a bbox is four numbers: west, south, east, north in degrees")
    elif isinstance(given, Mapping):
        if given.get("crs") is not None:
            crs = given["crs"]
            name = crs.get("properties", {}).get("name") if isinstance(crs, Mapping) else None
            if not isinstance(name, str) or not _CRS.fullmatch(name):
                raise ValueError("its crs is not named by its number, as EPSG:32633: leave it out for lon/lat")
        if (count := _numbers(given)) > 2 * MOST_VERTICES:
            raise ValueError(f"it has about {count // 2:,} vertices, and {MOST_VERTICES:,} are taken: simplify it")
    else:
        raise ValueError("an area is GeoJSON, or a bbox of four numbers")
    parsed = read(given, name="it")
    bounds = np.array(parsed.lonlat)
    if not np.isfinite(bounds).all():
        raise ValueError("it is nowhere on the Earth")
    return given


def _numbers(given: Any) -> int:
    """Numbers in nested lists and objects, counted without recursion."""
    left, count = [given], 0
    while left:
        element = left.pop()
        if isinstance(element, Mapping):
            left += element.values()
        elif isinstance(element, list):
            left += element
        elif isinstance(element, int | float):
            count += 1
    return count


def _method(name: str) -> str:
    """A method that is listed: never the path of weights, which `superresolve` would open."""
    from xsen2.methods.registry import methods

    if name not in methods().index:
        raise ValueError(f"there is no method {name[:80]!r}: take one of {', '.join(methods().index)}")
    return name


def _band(name: str) -> str:
    if name not in BANDS or factor_of(name) == 1:
        names = ", ".join(band for band in BANDS if factor_of(band) > 1)
        raise ValueError(f"{name[:80]!r} is no 20 m or 60 m band: take some of {names}")
    return name


AreaJson = Annotated[Any, BeforeValidator(_area)]
SceneId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,199}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Search(_Strict):
    """Which scenes to look for.

    Attributes
    ----------
    area : bbox or dict
        As `xsen2.geometry.read` takes it; a CRS other than lon/lat by its number.
    start, end : datetime.date
        Both count.
    cloud : float
        Most cloud cover of a scene, in percent.
    source : {"api", "sample"}
        The STAC API that the server was started with, or the scene that comes with the package.
    """

    area: AreaJson
    start: Annotated[date, Field(ge=date(2015, 6, 1))]
    end: Annotated[date, Field(le=date(2100, 1, 1))]
    cloud: Annotated[float, Field(ge=0, le=100)] = 100.0
    source: Literal["api", "sample"] = "api"

    @model_validator(mode="after")
    def _ordered(self) -> Search:
        if self.end < self.start:
            raise ValueError(f"the dates end, on {self.end}, before they begin, on {self.start}")
        if (self.end - self.start).days > MOST_DAYS:
            raise ValueError("the dates span more than two years: search in parts")
        return self

    @property
    def datetime(self) -> str:
        """The dates in STAC's words."""
        return f"{self.start}T00:00:00Z/{self.end}T23:59:59Z"


class Job(Search):
    """What to compute of the scenes that a search has found.

    Attributes
    ----------
    scenes : tuple of str
        Ids of items. They are searched anew, so that no file is read that the API does not name itself.
    method : str
        One of `xsen2.methods`.
    bands : tuple of str, optional
        20 m and 60 m bands to make; all by default.
    clip : bool
        Whether pixels outside of the area's polygons become nodata.
    title : str
        What the job is called in the list.
    """

    scenes: Annotated[tuple[SceneId, ...], Field(min_length=1, max_length=1000)]
    method: Annotated[str, AfterValidator(_method)] = "default"
    bands: Annotated[tuple[Annotated[str, AfterValidator(_band)], ...], Field(min_length=1, max_length=13)] | None = (
        None
    )
    clip: bool = False
    title: Annotated[str, Field(max_length=80)] = ""

    @model_validator(mode="after")
    def _once(self) -> Job:
        if len(set(self.scenes)) < len(self.scenes):
            raise ValueError("a scene is named twice")
        return self


def validation_message(error: ValidationError) -> str:
    """What is wrong with a request, as text without the input itself."""
    parts = []
    for detail in error.errors(include_url=False, include_input=False)[:3]:
        place = ".".join(str(step) for step in detail["loc"])
        what = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        parts.append(f"{place}: {what}" if place else what)
    return "; ".join(parts)
