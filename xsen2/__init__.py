"""Every Sentinel-2 band a 10 m band, lazily, inside xarray.

Importing this registers the accessors ``.dsen2`` and ``.degrade``; it imports neither torch nor any
STAC library.
"""

from xsen2 import accessors as _accessors  # noqa: F401
from xsen2.cube import canonicalise, native
from xsen2.errors import (
    BandError,
    Cancelled,
    CRSError,
    GridError,
    MethodError,
    RadiometryError,
    RadiometryWarning,
    ResampledWarning,
    ShiftWarning,
    SingleGridError,
    SourceError,
    StoreError,
    TimeError,
    WeightsError,
    Xsen2Error,
)
from xsen2.evaluation.benchmark import benchmark
from xsen2.geometry import padded
from xsen2.methods.registry import methods
from xsen2.progress import Progress
from xsen2.sources.eopf import open_eopf
from xsen2.sources.safe import open_safe
from xsen2.sources.sample import sample
from xsen2.sources.stac import EARTH_SEARCH, PLANETARY_COMPUTER, ReadWarning, load, skipped
from xsen2.superresolve import context_of
from xsen2.version import __version__, show_versions

__all__ = [
    "EARTH_SEARCH",
    "PLANETARY_COMPUTER",
    "BandError",
    "CRSError",
    "Cancelled",
    "GridError",
    "MethodError",
    "Progress",
    "RadiometryError",
    "RadiometryWarning",
    "ReadWarning",
    "ResampledWarning",
    "ShiftWarning",
    "SingleGridError",
    "SourceError",
    "StoreError",
    "TimeError",
    "WeightsError",
    "Xsen2Error",
    "__version__",
    "benchmark",
    "canonicalise",
    "context_of",
    "load",
    "methods",
    "native",
    "open_eopf",
    "open_safe",
    "padded",
    "sample",
    "show_versions",
    "skipped",
]
