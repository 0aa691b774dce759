"""Dates of a place as a coarser sensor would have seen them, each from a little aside: where the truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xsen2.bands import A
from xsen2.engine.operators import observed
from xsen2.errors import MethodError

__all__ = ["moved", "simulate"]

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

_MARGIN = 8  # coarse pixels that are mirrored round an image before it is moved: more than any kernel reaches


def simulate(
    image: Array | Sequence[Array],
    zoom: int,
    frames: int,
    rng: np.random.Generator,
    *,
    bands: Sequence[str] = A,
    operator: str = "mtf",
    most: float = 2.0,
    noise: float = 0.005,
    gain: float = 0.02,
    shifts: npt.ArrayLike | None = None,
) -> tuple[Array, Floats]:
    """Frames of one place, moved by parts of a pixel, blurred, made coarser, with noise; and how far each was moved.

    Parameters
    ----------
    image : numpy.ndarray, or a sequence of them
        ``(band, H, W)`` DN without nodata, the sides multiples of `zoom`: what all frames show. Or one for each
        frame, as of several dates, the first being that of the target.
    zoom : int
        How many times coarser the frames are.
    frames : int
        How many.
    rng : numpy.random.Generator
    bands : sequence of str
        Names of the bands, which have their own blur each.
    operator : str
        As `xsen2.engine.operators.taps` takes it.
    most : float
        Shifts are uniform within so many fine pixels, either way; that of the first frame, the target, is 0.
    noise : float
        Standard deviation, as a share of each band's mean: 0.005 is a signal-to-noise ratio of 200.
    gain : float
        Standard deviation of the factor that each frame and band is brighter by; the target's is 1.
    shifts : array_like, optional
        ``(frames, 2)``, in coarse pixels, instead of random ones.

    Returns
    -------
    frames : numpy.ndarray
        float32 ``(frames, band, H / zoom, W / zoom)``.
    shifts : numpy.ndarray
        float64 ``(frames, 2)``: rows and columns, in coarse pixels, by which what a frame shows lies further down and
        further right than in the target: ``frame(p) = target(p - shift)``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> image = rng.uniform(500, 1500, (4, 48, 48)).astype(np.float32)
    >>> frames, shifts = simulate(image, 4, 8, rng)
    >>> frames.shape, shifts.shape, shifts[0]
    ((8, 4, 12, 12), (8, 2), array([0., 0.]))
    """
    images = [image] * frames if isinstance(image, np.ndarray) and image.ndim == 3 else list(image)
    if len(images) != frames or any(x.shape != images[0].shape for x in images):
        raise MethodError(f"{len(images)} images for {frames} frames: give one, or one of the same size for each")
    if any(n % zoom for n in images[0].shape[1:]) or len(bands) != len(images[0]):
        raise MethodError(f"an image of {images[0].shape} for the bands {', '.join(bands)}, to be {zoom} times coarser")
    if not all(np.isfinite(x).all() for x in images):
        raise MethodError("the image has pixels without data: cut them off, or fill them")
    if shifts is None:
        by = rng.uniform(-most, most, (frames, 2)) / zoom
        by[0] = 0
    else:
        by = np.asarray(shifts, np.float64).reshape(frames, 2)
    edge = _MARGIN * zoom
    out = np.empty((frames, len(bands), *(n // zoom for n in images[0].shape[1:])), np.float32)
    for number, (x, shift) in enumerate(zip(images, by, strict=True)):
        pad = [min(edge, n) // zoom * zoom for n in x.shape[1:]]
        wide = np.pad(x, [(0, 0), (pad[0], pad[0]), (pad[1], pad[1])], mode="symmetric")
        wide = moved(wide, shift * zoom)
        for i, band in enumerate(bands):
            seen = observed(wide[i], band, zoom, operator)
            rows, columns = pad[0] // zoom, pad[1] // zoom
            seen = seen[rows : seen.shape[0] - rows, columns : seen.shape[1] - columns]
            factor = 1.0 if number == 0 else 1 + gain * rng.standard_normal()
            sigma = noise * abs(float(x[i].mean()))
            out[number, i] = factor * seen + sigma * rng.standard_normal(seen.shape)
    return out, by


def moved(x: Array, shift: npt.ArrayLike) -> Array:
    """An image ``(…, H, W)``, moved down and right by pixels and parts of pixels, in the Fourier domain; periodic.

    Examples
    --------
    >>> int(moved(np.eye(8, dtype=np.float32), (0, 1))[3].argmax())
    4
    """
    down, right = np.asarray(shift, np.float64)
    if down == right == 0:
        return x
    rows, columns = np.fft.fftfreq(x.shape[-2])[:, None], np.fft.rfftfreq(x.shape[-1])
    turned = np.fft.rfft2(x) * np.exp(-2j * np.pi * (rows * down + columns * right))
    return np.asarray(np.fft.irfft2(turned, s=x.shape[-2:]), np.float32)
