"""Kriging of several shifted images of one ground onto a finer grid: what a network for many dates starts from.

The ground is a random field with the covariance that Sentinel-2 images show; an image samples it, blurred by the
sensor, at pixel centres that are shifted. Given the samples round a pixel, the best linear unbiased estimate of each of
its finer pixels is a weighted sum. The weights depend on the shifts alone, so they are convolution kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from xsen2.bands import BANDS, A

__all__ = ["PSF", "estimate", "predict", "smooth", "weights"]

SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SHARES = (0.008493, 0.17856, 0.157334, 0.268846, 0.060379, 0.326388)
"""The covariance of the ground: a mixture of Gaussians, their sigmas in pixels of the finer grid. Fitted to the median
variogram, lags 1 to 24, of the 10 m bands of the training scenes; taken to be the same at finer scales."""

PSF = sum(BANDS[band].psf_sigma for band in A) / len(A)
"""Sigma of the sensor's blur, in native pixels: the four 10 m bands differ by 3 %, and share it here."""

SHIFT = 0.05
"""What registration gets wrong, in native pixels: it makes frames a little noisier than their reference."""


def _covariance(dy: torch.Tensor, dx: torch.Tensor, blurs: int, sigma: float) -> torch.Tensor:
    """Of two values `dy`, `dx` fine pixels apart, of which `blurs` (0 to 2) are blurred by a Gaussian of `sigma`."""
    square = (dy**2 + dx**2).float()
    out = torch.zeros_like(dy)
    for width, share in zip(SIGMAS, SHARES, strict=True):
        variance = width**2 + blurs * sigma**2
        out += share * width**2 / variance * torch.exp(square * (-0.5 / variance))
    return out


def _ordinary(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Weights that sum to one: ``left`` (B, K, K) between samples, ``right`` (B, K, P) between samples and targets."""
    ones = torch.ones_like(left[:, :, :1])
    both = torch.cholesky_solve(torch.cat([right, ones], 2), torch.linalg.cholesky(left))
    simple, flat = both[..., :-1], both[..., -1:]
    return simple + flat * (1 - simple.sum(1, keepdim=True)) / flat.sum(1, keepdim=True)


def _places(shifts: torch.Tensor, zoom: int, radius: int) -> torch.Tensor:
    """Where the samples of a window lie, in fine pixels from its central pixel's centre: (B, N * window**2, 2)."""
    side = torch.arange(-radius, radius + 1, device=shifts.device, dtype=shifts.dtype)
    window = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    return (zoom * (shifts[:, :, None] + window)).flatten(1, 2)


def _apart(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    d = a[:, :, None] - b[:, None]
    return d[..., 0], d[..., 1]


def weights(
    shifts: torch.Tensor,
    zoom: int,
    radius: int,
    noises: Sequence[float],
    shift_error: torch.Tensor | float = SHIFT,
    change: torch.Tensor | None = None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Kernels that make the finer pixels, and what variance they leave.

    Parameters
    ----------
    shifts : torch.Tensor
        (B, N, 2) float64: row and column, in native pixels, of the ground that a frame's pixel shows, from the ground
        that the reference's pixel shows; the first frame is the reference. NaN for a frame whose shift is not known.
    zoom : int
        Finer pixels along each side of a native one.
    radius : int
        Native pixels on each side that are read.
    noises : sequence of float
        Variances of the noise, in units of the ground's; for each of them there are kernels.
    shift_error : float or torch.Tensor
        Standard error of the shifts, in native pixels; (B, N) if frames differ in it.
    change : torch.Tensor, optional
        (B, N): variance of what differs from the reference, of other ground, as a share of the ground's.

    Returns
    -------
    list of tuple
        Kernels (B, zoom**2, N, window, window), rows of finer pixels first; and the variance that is left,
        (B, zoom**2), in units of the ground's.
    """
    batch, frames = shifts.shape[:2]
    sigma = zoom * PSF * math.sqrt(1 - zoom**-2)  # the finer pixels have a blur of their own
    known = torch.isfinite(shifts).all(-1)
    places = _places(shifts.nan_to_num(0.0), zoom, radius)
    left = _covariance(*_apart(places, places), 2, sigma)
    # A wrong shift adds the slope times it: the curvature of the covariance at 0 is the slope's variance.
    slope = sum(s * w**2 / (w**2 + 2 * sigma**2) ** 2 for w, s in zip(SIGMAS, SHARES, strict=True)) * zoom**2
    error = torch.where(known, shift_error, 0.3) ** 2 * 2 * slope
    error[:, 0] = 0
    if change is not None:
        frame_index = torch.arange(frames, device=shifts.device).repeat_interleave((2 * radius + 1) ** 2)
        extra = change.to(left).repeat_interleave((2 * radius + 1) ** 2, 1)
        left = left * (1 + extra[:, :, None] * (frame_index[:, None] == frame_index))
    inside = torch.arange(zoom, device=shifts.device, dtype=shifts.dtype) - (zoom - 1) / 2
    targets = torch.stack(torch.meshgrid(inside, inside, indexing="ij"), -1).reshape(1, -1, 2).expand(batch, -1, 2)
    right = _covariance(*_apart(places, targets), 1, sigma)
    side = 2 * radius + 1
    out = []
    for noise in noises:
        noisy = left + torch.diag_embed((noise + error).repeat_interleave(side**2, 1))
        kernels = _ordinary(noisy, right)
        variance = 1 - 2 * (kernels * right).sum(1) + (kernels * (noisy @ kernels)).sum(1)
        out.append((kernels.transpose(1, 2).reshape(batch, zoom**2, frames, side, side), variance))
    return out


def predictors(shifts: torch.Tensor, zoom: int, radius: int, noise: float) -> torch.Tensor:
    """Kernels that make, of the reference alone, what each frame would show: (B, N, window, window)."""
    sigma = zoom * PSF * math.sqrt(1 - zoom**-2)
    batch, frames = shifts.shape[:2]
    shifts = shifts.nan_to_num(0.0)
    places = _places(torch.zeros_like(shifts[:, :1]), zoom, radius)
    left = _covariance(*_apart(places, places), 2, sigma)
    left = left + noise * torch.eye(left.shape[1], device=left.device, dtype=left.dtype)
    right = _covariance(*_apart(places, zoom * shifts), 2, sigma)
    side = 2 * radius + 1
    return _ordinary(left, right).transpose(1, 2).reshape(batch, frames, side, side)


def predict(reference: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """What each frame would show if only its shift were different: (B, C, H, W) to (B, N, C, H, W)."""
    batch, channels, height, width = reference.shape
    frames, side = kernels.shape[1], kernels.shape[-1]
    padded = F.pad(reference, [side // 2] * 4, mode="replicate")
    out = F.conv2d(
        padded.transpose(0, 1).reshape(channels, batch, *padded.shape[-2:]),
        kernels.reshape(batch * frames, 1, side, side),
        groups=batch,
    )
    return out.reshape(channels, batch, frames, height, width).permute(1, 2, 0, 3, 4)


def estimate(frames: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Finer pixels from frames, folded: (B, N, C, H, W) to (B, C, zoom**2, H, W)."""
    batch, count, channels, height, width = frames.shape
    phases, side = kernels.shape[1], kernels.shape[-1]
    padded = F.pad(frames.flatten(0, 1), [side // 2] * 4, mode="replicate")
    padded = padded.reshape(batch, count, channels, *padded.shape[-2:]).permute(2, 0, 1, 3, 4)
    out = F.conv2d(padded.flatten(1, 2), kernels.flatten(0, 1), groups=batch)
    return out.reshape(channels, batch, phases, height, width).transpose(0, 1)


def smooth(x: torch.Tensor, mask: torch.Tensor, size: int) -> torch.Tensor:
    """Twice the mean over `size` by `size` pixels that are seen; 0 where none is.

    Parameters
    ----------
    x : torch.Tensor
        (N, C, H, W).
    mask : torch.Tensor
        (N, 1, H, W), 0 or 1.
    """
    part = mask
    x = x * mask
    for _ in range(2):
        x, part = (F.avg_pool2d(z, size, 1, size // 2) for z in (x, part))
    return x / part.clamp(min=1e-6)
