"""Where cubes come from: STAC items, stores, the embedded sample."""
