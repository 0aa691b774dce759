"""One crop of a real scene in every form that a product comes in gives the same pixels at 10 m, in the same place.

Contains modified Copernicus Sentinel data 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import eopf_product
import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import safe_product
import scenes
import stac_api
import xarray as xr
from cases import every
from cubes import DIMS
from dask import compute
from pystac_client import Client
from rasterio.transform import from_origin

import xsen2
from xsen2.bands import BANDS, GRIDS

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        bool(scenes.missing() or scenes.missing("fixtures")), reason="needs ../shared/data and ../shared/fixtures"
    ),
    pytest.mark.usefixtures("tiny_networks"),
]

CELLS = (7, 8)  # rows and columns of 60 m
METHODS = ("default", "bicubic")
DAY = "2016-12-27T13:22:42.462000Z"


@dataclass(frozen=True)
class Crop:
    """A crop, with the darkest pixels below a reflectance of 0 or without, and what a plain Dataset makes of it."""

    scene: scenes.Scene
    sharp: dict[str, xr.Dataset]


def crop(negative: bool) -> scenes.Scene:
    """Some rows of a city with a lake; nodata in a corner. No pixel is 0 DN, which the writers take for nodata."""
    whole = scenes.real(f"{scenes.CITY}_1")
    left, top = 60 * 40, 60 * 50  # metres from the corner of the scene
    bands = {}
    for band, pixels in whole.bands.items():
        gsd = scenes.gsd_of(band)
        rows, columns = (slice(at // gsd, (at + 60 * n) // gsd) for at, n in zip((top, left), CELLS, strict=True))
        dn = pixels[rows, columns].astype("int32")
        if negative:
            dn -= int(np.percentile(dn, 30))  # as a strong atmospheric correction leaves them
            assert (dn < 0).mean() > 0.2
            dn = dn.clip(-999)  # raw 1 is the darkest there is
        dn[dn == 0] = 1
        dn[: 120 // gsd, : 120 // gsd] = 0
        bands[band] = dn
    bands["SCL"] = np.full((CELLS[0] * 3, CELLS[1] * 3), 4, "uint8")
    return replace(whole, bands=bands, ulx=whole.ulx + left, uly=whole.uly - top)


def plain(scene: scenes.Scene) -> xr.Dataset:
    """The crop as anybody's Dataset: floats, NaN, one date, names of the dims and of the bands as they come."""
    variables = {}
    for gsd, names in GRIDS.items():
        ydim, xdim = DIMS[gsd]
        for name in names:
            dn = np.where(scene.bands[name] == 0, np.nan, scene.bands[name]).astype("float32")
            y = scene.uly - gsd * (np.arange(dn.shape[0]) + 0.5)
            x = scene.ulx + gsd * (np.arange(dn.shape[1]) + 0.5)
            variables[name.lower()] = xr.DataArray(dn, {ydim: y, xdim: x}, (ydim, xdim))
    return xr.Dataset(variables).rio.write_crs(scene.epsg)


@pytest.fixture(scope="module")
def crops(tiny_networks: None) -> dict[bool, Crop]:
    made = {}
    for negative in (False, True):
        scene = crop(negative)
        made[negative] = Crop(scene, {m: plain(scene).dsen2.superresolve(method=m).compute() for m in METHODS})
    return made


# --- the forms ------------------------------------------------------------------------------------


def safe(name: str, scene: scenes.Scene, folder: Path, *, zipped: bool = False, later: bool = False) -> xr.Dataset:
    """The crop as a product of this name, moved to where the crop is; `later`: L1C as since baseline 04.00."""
    made = safe_product.product(name, CELLS)
    extras = {k: v for k, v in made.scene.bands.items() if k not in scene.bands}
    made = replace(made, scene=replace(scene, bands={**extras, **scene.bands}))
    made = made.edited(
        made.tile,
        (r"EPSG:\d+", f"EPSG:{scene.epsg}"),
        ("<ULX>.*?<", f"<ULX>{scene.ulx}<"),
        ("<ULY>.*?<", f"<ULY>{scene.uly}<"),
    )
    if later:
        made = replace(made, added=1000).edited(
            made.main,
            ("(<PROCESSING_BASELINE>)03", r"\g<1>05"),
            (
                "(<QUANTIFICATION_VALUE[^>]*>10000</QUANTIFICATION_VALUE>)",
                rf"\1<Radiometric_Offset_List>{safe_product.OFFSETS}</Radiometric_Offset_List>",
            ),
        )
    home = made.write(folder)
    return xsen2.open_safe(safe_product.zipped(home, folder / "p.zip") if zipped else home)


def eopf(name: str, scene: scenes.Scene, folder: Path, *, zarr_format: int = 2, tree: bool = False) -> Any:
    made = eopf_product.product(name, CELLS, chunk=5)
    classi = {"CLASSI": made.scene.bands["CLASSI"]}
    made = eopf_product.placed(replace(made, scene=replace(scene, bands={**scene.bands, **classi})))
    home = made.write(folder, zarr_format)
    return xr.open_datatree(home, engine="zarr") if tree else xsen2.open_eopf(home)


def stac(
    scene: scenes.Scene, folder: Path, *, pc: str = "", engine: str = "stackstac", **kwargs: Any
) -> Iterator[xr.Dataset]:
    """The crop as an item that a search on this machine finds, and COGs that are read over HTTP."""
    # Pixels below 0 wrap here, and back again when the writer adds 1000 to them.
    scene = replace(scene, bands={k: v.astype("uint8" if k == "SCL" else "uint16") for k, v in scene.bands.items()})
    if kwargs.get("collection", "").endswith("l1c"):
        scene.bands.pop("SCL")
    item = (
        scenes.planetary_computer(scene, folder, DAY, version=pc)
        if pc
        else scenes.earth_search(scene, folder, DAY, **kwargs)
    )
    with stac_api.serve([item], folder) as url:
        found = Client.open(url).search(collections=[item["collection"]], bbox=scene.lonlat()).item_collection()
        assert all(asset.href.startswith("http") for asset in found[0].assets.values())
        yield xsen2.load(found, engine=engine)


def of_stac(**kwargs: Any) -> Callable[[scenes.Scene, Path], Iterator[Any]]:
    return lambda scene, folder: stac(scene, folder, **kwargs)


def of(form: Callable[..., Any], name: str, **kwargs: Any) -> Callable[[scenes.Scene, Path], Iterator[Any]]:
    return lambda scene, folder: iter([form(name, scene, folder, **kwargs)])


BEFORE = {
    "SAFE L2A 02.12": of(safe, safe_product.L2A_0212),
    "SAFE L1C 03.01": of(safe, safe_product.L1C_0301),
    "SAFE L1C 03.01, zip": of(safe, safe_product.L1C_0301, zipped=True),
    "Earth Search 02.12": of_stac(engine="odc", version="02.12", applied=False, declared=0),
    "Earth Search 05.09, offset applied": of_stac(version="05.09", applied=True),
    "Earth Search L1C 02.05": of_stac(version="02.05", applied=None, declared=0, collection="sentinel-2-l1c"),
    "Planetary Computer 03.00": of_stac(pc="03.00"),
}
"""Forms that hold no reflectance below 0."""

AFTER = {
    "SAFE L2A 04.00": of(safe, safe_product.L2A_0400),
    "SAFE L2A 05.09": of(safe, safe_product.L2A_0509),
    "SAFE L2A 05.09, zip": of(safe, safe_product.L2A_0509, zipped=True),
    "SAFE L1C with RADIO_ADD_OFFSET": of(safe, safe_product.L1C_0301, later=True),
    "EOPF L2A": of(eopf, eopf_product.L2A),
    "EOPF L1C, format 3": of(eopf, eopf_product.L1C, zarr_format=3),
    "DataTree L2A": of(eopf, eopf_product.L2A, tree=True),
    "DataTree L1C, format 3": of(eopf, eopf_product.L1C, zarr_format=3, tree=True),
    "Earth Search 05.09, offset not applied": of_stac(version="05.09", applied=False, added=1000),
    "Earth Search c1": of_stac(engine="odc", version="05.00", applied=None, added=1000, collection="sentinel-2-c1-l2a"),
    "Earth Search L1C 05.10": of_stac(version="05.10", applied=None, added=1000, collection="sentinel-2-l1c"),
    "Planetary Computer 05.09": of_stac(engine="odc", pc="05.09"),
}
"""Forms whose pixels carry 1000 more, so that dark ones can be below 0."""

CASES = [pytest.param(form, False, id=name) for name, form in {**BEFORE, **AFTER}.items()]
CASES += every(3, (pytest.param(form, True, id=f"{name}, below 0") for name, form in AFTER.items()))


@pytest.mark.parametrize(("form", "negative"), CASES)
def test_every_form_gives_the_same_10_m_pixels(
    form: Callable[[scenes.Scene, Path], Iterator[Any]], negative: bool, crops: dict[bool, Crop], tmp_path: Path
) -> None:
    want, scene = crops[negative].sharp["default"], crops[negative].scene
    for obj in form(scene, tmp_path):
        (found,) = compute(obj.dsen2.superresolve())
        unit = 10000 if isinstance(obj, xr.DataTree) else 1  # decoded by CF: reflectance
        names = {str(name).upper(): name for name in found.data_vars}
        assert set(BANDS) <= set(names)
        assert found.rio.crs.to_epsg() == want.rio.crs.to_epsg() == scene.epsg
        assert found.rio.transform() == want.rio.transform() == from_origin(scene.ulx, scene.uly, 10, 10)
        for band in BANDS:
            one = found[names[band]]
            got, truth = np.squeeze(one.values) * unit, want[band.lower()].values
            assert got.shape == truth.shape == (CELLS[0] * 6, CELLS[1] * 6)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(truth), err_msg=band)
            assert np.isnan(one.rio.nodata if one.rio.nodata is not None else np.nan)
            assert np.nanmax(np.abs(got - truth)) < 0.01, band


def test_the_crop_tells_something(crops: dict[bool, Crop]) -> None:
    """The two crops and methods differ, so that what agrees above could have disagreed, whatever the method."""
    for band in ("b11", "b09", "b02"):
        bright, dark = (crops[negative].sharp["bicubic"][band] for negative in (False, True))
        assert float(bright.min()) >= 1
        assert float(dark.min()) < -10
        assert np.isnan(bright).sum() >= 12 * 12
    assert float(np.abs(crops[False].sharp["default"].b11 - crops[False].sharp["bicubic"].b11).max()) > 10
