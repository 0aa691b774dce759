"""Where cubes come from: STAC, SAFE, EOPF, Zarr, saved scenes, code."""
