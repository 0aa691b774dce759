"""Where results go: Zarr and COG."""
