"""The version of the package, where everything can ask for it, and those of what it works with."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

__all__ = ["show_versions"]

__version__ = "0.1.0"


PACKAGES = (
    *("xsen2", "xarray", "dask", "distributed", "numpy", "pandas", "torch", "zarr", "numcodecs", "rasterio", "pyproj"),
    *("rioxarray", "odc-geo", "odc-stac", "stackstac", "pystac", "pystac-client", "shapely", "scipy", "safetensors"),
    *("spyndex", "onnxruntime", "fsspec", "matplotlib"),
)


def show_versions(say: Callable[[str], object] = print) -> None:
    """Print the versions of Python, of the system, and of the packages that xsen2 works with.

    Parameters
    ----------
    say : callable
        Takes each line.

    Examples
    --------
    >>> import xsen2
    >>> lines = []
    >>> xsen2.show_versions(lines.append)
    >>> [line for line in lines if line.startswith("xsen2")] == [f"xsen2: {xsen2.__version__}"]
    True
    """
    say(f"python: {platform.python_version()} ({sys.executable})")
    say(f"system: {platform.platform()}")
    for name in PACKAGES:
        try:
            say(f"{name}: {version(name)}")
        except PackageNotFoundError:
            say(f"{name}: not installed")
    if "rasterio" in sys.modules:
        import rasterio

        say(f"GDAL: {rasterio.__gdal_version__}")
