"""What can be wrong with the input: one base class, narrow subclasses.

Each message says what was found, where, and what to do about it.
"""


class Xsen2Error(ValueError):
    """Base class of every error that xsen2 raises on purpose."""


class BandError(Xsen2Error):
    """A band is unknown, missing, or not one that a method can make."""


class GridError(Xsen2Error):
    """The grids of a cube do not nest, or a band is not on its native grid."""


class SingleGridError(GridError):
    """All bands share one grid, so the native pixels have to be taken back first."""


class CRSError(Xsen2Error):
    """The CRS is missing, geographic, or not the same everywhere."""


class TimeError(Xsen2Error):
    """The bands do not have the same times."""


class RadiometryError(Xsen2Error):
    """Offset, scale or nodata contradict each other or the pixels."""


class RadiometryWarning(UserWarning):
    """Metadata about offset, scale or nodata may be older than the pixels; what is made of it."""


class MethodError(Xsen2Error):
    """A method is unknown, or cannot do what it was asked to do."""


class WeightsError(MethodError):
    """Weights are missing, damaged, or not those of the named network."""


class SourceError(Xsen2Error):
    """A source cannot be read as a cube: no items, no assets, mixed tiles; or an area is none, or lies outside."""


class StoreError(Xsen2Error):
    """A store cannot be written, or does not belong to this run."""
