"""Blocks with their halo, statistics of whole images, consistency: numpy and dask, no torch."""
