"""STAC items beside what is written: valid, and true of the files."""

from __future__ import annotations

import json

import pystac
import pytest
import rasterio
from cubes import make_cube
from jsonschema.exceptions import ValidationError
from pyproj import Transformer
from pystac.extensions.projection import ProjectionExtension
from rasterio.warp import transform_bounds

from xsen2.errors import StoreError
from xsen2.sinks.stac_item import stac_item


def read(path):
    """The item, held against the core schema, which comes with pystac; those of extensions lie on the internet."""
    said = json.loads(path.read_text())
    core = {**said, "stac_extensions": []}
    try:
        pystac.Item.from_dict(core).validate()
    except (pystac.STACValidationError, ValidationError) as error:
        pytest.fail(str(error))
    return pystac.Item.from_file(str(path))


@pytest.fixture(scope="module")
def sr():
    ds = make_cube(3, 4, dates=2).assign_attrs(source="S2A_ONE, S2B_TWO", attribution="contains modified data 2024")
    return ds.dsen2.superresolve(["B05", "B11"], method="bicubic", native=False).compute()


def test_an_item_beside_each_date(sr, tmp_path):
    files = sr.dsen2.to_cog(tmp_path / "out", stac=True, progress=False)
    items = sorted(tmp_path.glob("out/*.json"))
    assert [i.stem for i in items] == [f.stem for f in files]
    for file, path in zip(files, items, strict=True):
        item = read(path)
        with rasterio.open(file) as src:
            assert ProjectionExtension.ext(item).code == f"EPSG:{src.crs.to_epsg()}"
            asset = item.assets["data"]
            assert ProjectionExtension.ext(asset).shape == [src.height, src.width]
            assert ProjectionExtension.ext(asset).transform == list(src.transform)[:6]
            assert item.bbox == pytest.approx(
                transform_bounds(src.crs, "EPSG:4326", *src.bounds, densify_pts=21), abs=1e-6
            )
            assert [b["name"] for b in asset.extra_fields["bands"]] == list(src.descriptions)
        assert (file.parent / asset.href).resolve() == file
        assert item.properties["xsen2:method"] == "bicubic"
        assert "bicubic" in item.properties["processing:lineage"]
        assert item.properties["xsen2:source_items"] == ["S2A_ONE", "S2B_TWO"]
        assert asset.extra_fields["bands"][1] == {
            "name": "B11",
            "data_type": "uint16",
            "nodata": 0.0,
            "description": "shortwave infrared 1",
            "gsd": 10,
            "raster:spatial_resolution": 10,
            "eo:center_wavelength": 1.6137,
        }
    assert items[0].stem != items[1].stem


def test_bands_of_one_date_are_assets_of_one_item(sr, tmp_path):
    sr.isel(time=[0]).dsen2.to_cog(tmp_path / "x_{band}.tif", per_band=True, stac=True, progress=False)
    item = read(tmp_path / "x_B.json")
    assert set(item.assets) == {"B05", "B11"}


def test_a_series_in_a_store(sr, tmp_path):
    for date in range(2):
        sr.isel(time=[date]).dsen2.to_zarr(tmp_path / "series.zarr", append_dim="time", stac=True, progress=False)
    item = read(tmp_path / "series.json")
    assert item.datetime is None
    assert item.properties["start_datetime"] < item.properties["end_datetime"]
    assert item.assets["data"].href.endswith("series.zarr")
    assert item.assets["data"].extra_fields["bands"][0]["nodata"] == -32768
    reflectance = (sr / 10000).assign_attrs(sr.attrs)
    for band in reflectance.data_vars:
        reflectance[band].attrs = {**sr[band].attrs, "units": "1"}
    reflectance.dsen2.to_zarr(tmp_path / "reflectance.zarr", stac=True, progress=False)
    assert read(tmp_path / "reflectance.json").assets["data"].extra_fields["bands"][0]["raster:scale"] == 1e-4


def test_what_cannot_be_described_says_so(sr, tmp_path):
    (tmp_path / "no.tif").write_text("no")
    with pytest.raises(StoreError, match="no GeoTIFF"):
        stac_item(tmp_path / "no.tif")
    with pytest.raises(StoreError, match="no date"):
        sr.isel(time=0).drop_vars("time").dsen2.to_cog(tmp_path / "undated.tif", stac=True, progress=False)
    import zarr

    with pytest.raises(StoreError, match="beside a local folder"):
        sr.dsen2.to_zarr(zarr.storage.MemoryStore(), stac=True, progress=False)


def test_an_item_across_180_degrees_has_two_sides(tmp_path):
    ds = make_cube(3, 4, dates=1, epsg=32660)[["B02", "spatial_ref"]]
    to_degrees = Transformer.from_crs(32660, 4326, always_xy=True)
    line, y = float(ds.x[12]), float(ds.y[9])
    for _ in range(5):  # where 180 degrees cross this row
        line, _ = to_degrees.transform(180, to_degrees.transform(line, y)[1], direction="INVERSE")
    ds = ds.assign_coords(x=ds.x + 60 * round((line - float(ds.x[12])) / 60))  # its middle lies on the line
    ds.dsen2.to_cog(tmp_path / "fiji.tif", stac=True, progress=False)
    item = read(tmp_path / "fiji.json")
    west, south, east, north = item.bbox
    assert 179.99 < west < 180
    assert -180 < east < -179.99
    first, second = item.geometry["coordinates"]
    assert {x for x, _ in first[0]} == {west, 180}
    assert {x for x, _ in second[0]} == {-180, east}
    assert {y for _, y in first[0]} == {south, north}
