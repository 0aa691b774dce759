"""What every fusion of dates shares: frames found, moved and evened out by what sums over the whole image say."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from xsen2.bands import A
from xsen2.methods.protocol import Array, Mask, Method
from xsen2.multitemporal.registration import TILE, Fit, fitted, sums_of

__all__ = ["Fit", "Fusion"]


@dataclass(frozen=True)
class Fusion(Method):
    """A method that makes finer pixels of one date from several.

    A subclass has a `name`, a `halo` and `fuse`; all else is here. What the engine gives it are *candidates*, the date
    itself, the target, and its neighbours in time, each with NaN where it has no data or is masked. Sums over the
    whole image say how far each lies from the target, how much brighter it is, how clear, and how much it differs:
    `learn` keeps that as `fit`. Then `fuse` gets the frames that are used, block by block.

    Parameters
    ----------
    bands : tuple of str
        10 m bands to be made, canonical names.
    gsd : float
        Pixel size of the result, in metres: a whole part of 10.
    frames : int
        Dates that each date is made of at most, itself included.
    uncertainty : bool
        Whether `fuse` gives standard errors after the bands; a subclass that can overrides `with_uncertainty`.
    masked : bool
        Whether clouds are masked, so that dates have to be chosen: then there are more candidates than frames.
    fit : Fit, optional
        What `learn` found out.
    sensed : tuple of str
        Bands that come in the place of `bands`, if they are others: those of 20 m and 60 m, made 10 m bands before.
    """

    bands: tuple[str, ...] = A
    gsd: float = 5
    frames: int | None = 8
    uncertainty: bool = False
    masked: bool = False
    fit: Fit | None = None
    sensed: tuple[str, ...] = ()

    @property
    def produces(self) -> tuple[str, ...]:
        return self.bands

    @property
    def needs(self) -> tuple[str, ...]:
        return self.bands

    @property
    def zoom(self) -> int:
        """Pixels of the result, along each side, per 10 m pixel."""
        return round(10 / self.gsd)

    @property
    def candidates(self) -> int | None:
        """Dates that are looked at for `frames` of them."""
        return self.frames if self.frames in (None, 1) or not self.masked else 2 * self.frames

    @property
    def counts(self) -> bool:
        return True

    @property
    def rounds(self) -> int:
        return 1

    @property
    def lattice(self) -> int:
        """Statistics are those of tiles, the same ones however the image is chunked."""
        return TILE

    @property
    def gather_halo(self) -> int:
        return 0

    def gather(self, a: Array, b: Array, c: Array, valid: Mask, own: Mask) -> npt.NDArray[np.float64]:
        x = a if a.ndim == 4 else np.where(valid, a, np.float32(np.nan))[None]
        return sums_of(x, own)

    def learn(self, sums: npt.NDArray[np.float64]) -> Self:
        """The method with the `fit` of its candidates."""
        return replace(self, fit=fitted(sums, len(self.bands), self.frames))

    def of(self, bands: tuple[str, ...]) -> Fusion:
        """What fuses other bands, which have been made 10 m bands and come in the place of those of 10 m."""
        return replace(self, bands=A[: len(bands)], sensed=bands)

    def alike(self, other: Fusion) -> Self:
        """The method with frames where those of another lie."""
        if self.fit is None or other.fit is None:
            return self
        return replace(self, fit=replace(self.fit, shifts=other.fit.shifts, used=other.fit.used))

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        x = a if a.ndim == 4 else a[None]
        fit = Fit.unknown(len(x), len(self.bands)) if self.fit is None else self.fit
        used = np.flatnonzero(fit.used)
        chosen, x = fit.take(used), x[used]
        x = (x - chosen.offsets.astype(np.float32)[..., None, None]) / chosen.gains.astype(np.float32)[..., None, None]
        x = np.where(np.isfinite(x).all(axis=1, keepdims=True), x, np.float32(np.nan))  # a pixel counts with all bands
        fused = self.fuse(x, chosen)
        if not (valid := np.isfinite(fused)).all():  # at the edge of what a frame has
            seen = np.isfinite(x)
            mean = np.where(seen, x, np.float32(0)).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
            mean = mean.repeat(self.zoom, axis=1).repeat(self.zoom, axis=2)
            fused = np.where(valid, fused, np.concatenate([mean] * (len(fused) // len(mean))))
        clear = np.isfinite(x[:, 0]).sum(axis=0, dtype=np.float32)
        clear = clear.repeat(self.zoom, axis=0).repeat(self.zoom, axis=1)
        return np.concatenate([fused, clear[None]])

    @abstractmethod
    def fuse(self, frames: Array, fit: Fit) -> Array:
        """One block of the target date, finer.

        Parameters
        ----------
        frames : numpy.ndarray
            float32 DN ``(N, band, H, W)`` of any N from 1, the target first, then the nearest in time; as bright as the
            target on the whole; NaN where a frame has no data, or is masked. `halo` is included.
        fit : Fit
            Of these frames: ``fit.shifts`` is where each lies.

        Returns
        -------
        numpy.ndarray
            float32 DN ``(band, H * zoom, W * zoom)``, or twice as many bands with `uncertainty`: standard errors last.
            Finite wherever any frame is.
        """
