"""The protocol of all methods: networks, classical methods, fusions of dates, and those of other packages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xsen2.bands import factor_of
from xsen2.errors import MethodError

__all__ = ["Array", "Mask", "Method", "Request", "adopt", "finest_halo", "tile", "zoom_of"]

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Method(ABC):
    """Anything that turns blocks of the native grids into bands on a finer grid.

    A subclass says what it makes and reads, how much context it needs, and how a block is made; all else has a
    default. Members may be class attributes, dataclass fields or properties. Objects travel to workers: they are
    small, can be pickled, and do not change.

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.bands import B
    >>> class Nearest(Method):
    ...     name = "nearest"
    ...     produces = B
    ...     needs = B
    ...     halo = 0
    ...
    ...     def __call__(self, a, b, c):
    ...         return b.repeat(2, axis=-2).repeat(2, axis=-1)
    >>> xsen2.sample().dsen2.superresolve(["B11"], method=Nearest())["B11"].shape
    (2, 432, 432)
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What ``method=`` takes, and what is recorded in the result."""

    @property
    @abstractmethod
    def produces(self) -> tuple[str, ...]:
        """Bands it makes, canonical names, in the order of its output."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """Bands it reads. An output pixel is nodata where any of them is; see `frames` for several dates."""

    @property
    @abstractmethod
    def halo(self) -> int | Mapping[int, int]:
        """Context on each side of a block, at least the receptive field: 60 m pixels, or ``{gsd: pixels}``."""

    @property
    def gsd(self) -> float:
        """Pixel size of what it makes, in metres, 10 or a whole part of it: 5 means 2 x 2 pixels per 10 m pixel."""
        return 10

    @property
    def frames(self) -> int | None:
        """Dates that one output date is made of: itself and its neighbours in time; None for all that there are.

        If this is not 1, `__call__` gets ``(frame, band, H, W)``, the output's own date first and then the others, the
        nearest first; pixels without data are NaN, not filled. A series that has fewer dates gives fewer frames. An
        output pixel is nodata where none of the frames has all of `needs`.
        """
        return 1

    @property
    def candidates(self) -> int | None:
        """Dates that it is given for one: `frames`, or more, of which it chooses by what it gathers."""
        return self.frames

    @property
    def counts(self) -> bool:
        """Whether a last plane follows all bands: the number of dates that each pixel was made of."""
        return False

    @property
    def lattice(self) -> int:
        """Blocks begin on its multiples, in 10 m pixels from the image's first one, those of `gather` too.

        So a method that works tile by tile has the same tiles however the image is chunked. Its `halo` covers a tile
        and what that sees.
        """
        return 1

    @property
    def consistency(self) -> bool:
        """Whether results are made consistent with what was measured, unless the caller says otherwise."""
        return False

    @property
    def uncertainty(self) -> bool:
        """Whether standard errors follow the bands, as many again."""
        return False

    @property
    def rounds(self) -> int:
        """How often sums over the whole image are gathered before its blocks are made; dates are independent."""
        return 0

    @property
    def gather_halo(self) -> int | Mapping[int, int]:
        """Context that `gather` needs, as `halo`."""
        return self.halo

    @property
    def version(self) -> str:
        """What the result records of it: the name; for weights, also which."""
        return self.name

    def with_uncertainty(self) -> Method:
        """The same method, which gives standard errors too.

        Raises
        ------
        MethodError
            If it cannot.
        """
        raise MethodError(f"method {self.name!r} cannot say how sure it is: use a network, or uncertainty=False")

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> npt.NDArray[np.float64]:
        """Sums over one block, of methods with `rounds`.

        Parameters
        ----------
        a, b, c : numpy.ndarray
            As `__call__` takes them, with the context of `gather_halo`, of all `candidates`. Beyond the image's edges
            they are mirrored.
        valid : numpy.ndarray
            ``(H, W)``, 10 m: where all bands of `needs` have data, of several dates on any of them.
        own : numpy.ndarray
            ``(H, W)``, 10 m: the valid pixels that this block counts; every pixel of the image is counted by
            one block, and only by one.

        Returns
        -------
        numpy.ndarray
            float64, 1-D, always of one length.
        """
        raise NotImplementedError

    def learn(self, sums: npt.NDArray[np.float64]) -> Method:
        """The method fitted to the sums over all blocks of a date, and of its frames; they may be zeros."""
        raise NotImplementedError

    @abstractmethod
    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        """Make one block.

        Parameters
        ----------
        a, b, c : numpy.ndarray
            float32 DN ``(band, H, W)``, ``(band, H/2, W/2)``, ``(band, H/6, W/6)``: the bands of
            `needs` on each grid in canonical order (none: zero bands), halo included, without
            nodata (it has been filled from its surroundings). For several frames, see `frames`.

        Returns
        -------
        numpy.ndarray
            float32 DN ``(len(produces), H * z, W * z)``, halo included, where z is 10 / `gsd`.
        """


@dataclass(frozen=True)
class Request:
    """What is asked of a name of ``method=``: whoever offers one makes methods of it.

    Attributes
    ----------
    bands : tuple of str
        To be made, canonical names. Others may be made besides.
    device, dtype : str
        For networks, as `xsen2.superresolve.superresolve` takes them.
    operator : str
        How the bands came about, likewise.
    gsd, frames
        Pixel size and dates, likewise; None: what the method does by itself.
    """

    bands: tuple[str, ...]
    device: str = "auto"
    dtype: str = "auto"
    operator: str = "mtf"
    gsd: float | None = None
    frames: int | None = None


_REQUIRED = ("name", "produces", "needs", "halo", "__call__")


@dataclass(frozen=True)
class _Adopted(Method):
    """An object that has the members of a `Method` without being one; what it does not have gets its default."""

    of: Any

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        out: Array = self.of(a, b, c)
        return out

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> npt.NDArray[np.float64]:
        out: npt.NDArray[np.float64] = self.of.gather(a, b, c, valid, own)
        return out

    def learn(self, sums: npt.NDArray[np.float64]) -> Method:
        return adopt(self.of.learn(sums))

    def with_uncertainty(self) -> Method:
        return adopt(self.of.with_uncertainty()) if hasattr(self.of, "with_uncertainty") else super().with_uncertainty()


def _member(name: str) -> property:
    default = vars(Method)[name]
    return property(lambda self: getattr(self.of, name) if hasattr(self.of, name) else default.fget(self))


for _name in [name for name, value in vars(Method).items() if isinstance(value, property)]:
    setattr(_Adopted, _name, _member(_name))
_Adopted.__abstractmethods__ = frozenset()


def adopt(method: object) -> Method:
    """The object as a `Method`: itself, or with the defaults of members that it lacks.

    Raises
    ------
    MethodError
        If it lacks one that has no default, or contradicts itself.

    Examples
    --------
    >>> class Nothing:
    ...     name, produces, needs, halo = "nothing", ("B11",), ("B11",), 0
    ...
    ...     def __call__(self, a, b, c):
    ...         return 0 * b.repeat(2, axis=-2).repeat(2, axis=-1)
    >>> adopt(Nothing()).lattice
    1
    """
    if isinstance(method, type):
        raise MethodError(f"method={method.__name__} is a class: pass an object, as method={method.__name__}(…)")
    missing = [name for name in _REQUIRED if not hasattr(method, name)]
    if missing:
        raise MethodError(
            f"method={method!r} is neither a name of xsen2.methods() nor a path of weights, nor a method: it has no "
            f"{', '.join(missing)}. Derive its class from xsen2.methods.protocol.Method, which says what each is"
        )
    out = method if isinstance(method, Method) else _Adopted(method)  # type: ignore[abstract]
    if out.frames is not None and (isinstance(out.frames, bool) or int(out.frames) != out.frames or out.frames < 1):
        raise MethodError(
            f"method {out.name!r} has frames={out.frames!r}: a whole number from 1, or None for all dates"
        )
    zoom_of(out)
    return out


def zoom_of(method: Method) -> int:
    """How many pixels it makes, along each side, per 10 m pixel.

    Raises
    ------
    MethodError
        If they do not nest in 10 m pixels.
    """
    zoom = 10 / method.gsd if method.gsd > 0 else 0
    if not zoom or abs(zoom - round(zoom)) > 1e-9:
        raise MethodError(f"method {method.name!r} has gsd={method.gsd!r}: 10 m, or a whole part of it (5, 2.5, 2)")
    return round(zoom)


def finest_halo(method: Method, halo: int | Mapping[int, int] | None = None) -> int:
    """The halo (the method's, unless one is given) in 10 m pixels: whole pixels of the coarsest grid involved."""
    halo = method.halo if halo is None else halo
    pixels = 6 * halo if isinstance(halo, int) else max(n * gsd // 10 for gsd, n in halo.items())
    cell = max(factor_of(b) for b in (*method.needs, *method.produces))
    return -(-pixels // cell) * cell


def tile(method: Method) -> int:
    """Side of the tiles that its blocks are made of, in 10 m pixels; 0 if every pixel is made by itself.

    The halo holds a tile then; a `lattice` that is wider serves statistics alone.
    """
    return method.lattice if 1 < method.lattice <= finest_halo(method) else 0
