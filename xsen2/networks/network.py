"""What a network declares besides its layers, and the convolution that all of them use."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["PATCH", "Network", "conv"]

PATCH = 400
"""Largest side, in 10 m pixels, that goes through a network at a time: its features then fit the caches of a CPU."""


class Network(nn.Module):
    """A network that makes the bands of one native grid at 10 m; all architectures derive from it.

    Its arguments are plain numbers and flags, annotated, since cards are checked against them; one of them is `ratio`,
    2 for the 20 m bands and 6 for the 60 m ones.

    Attributes
    ----------
    lattice : int
        Patches begin on its multiples, in 10 m pixels from the image's first one: of networks that work in cells.
    side : int
        Largest side of a patch on a CPU, in 10 m pixels.
    """

    lattice: int = 1
    side: int = PATCH

    @property
    def radius(self) -> int:
        """Receptive field on each side, in 10 m pixels: never a guess, since less leaves seams."""
        raise NotImplementedError(f"{type(self).__name__} does not say its radius")

    @property
    def spare(self) -> int:
        """Pixels of 10 m along all edges of a patch that only a part of the network sees.

        If it is not 0, `forward` takes ``spare=`` and gives a result without them.
        """
        return 0

    @property
    def uncertainty(self) -> bool:
        """Whether it has a branch for standard errors: a module called `uncertainty_head`.

        If it has, `forward` takes ``uncertainty=True`` and gives them after the bands, as many again.
        """
        return "uncertainty_head" in self._modules

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Make one batch.

        Parameters
        ----------
        a, b, c : torch.Tensor
            DN / 2000 on their native grids, without nodata: ``(N, 4, H, W)``, ``(N, 6, H/2, W/2)`` and, for ratio 6
            only, ``(N, 2, H/6, W/6)``.

        Returns
        -------
        torch.Tensor
            float32 ``(N, 6 or 2, H, W)``, DN / 2000.
        """
        raise NotImplementedError


def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    onto: torch.Tensor | None = None,
    relu: bool = False,
) -> torch.Tensor:
    """Convolve, add to what is there, rectify: ``relu(onto + conv(x))``.

    With gradients and on GPUs these are torch's own steps one after the other. On a CPU each step reads and writes all
    features, which in bfloat16 takes half as long as the convolution does. There oneDNN does them in one, through the
    operators that ``torch.compile`` uses too: 1.5 times as fast for a residual block of 128 features, 1.9 times for
    one of 32. In float32 the results are the same bits, in bfloat16 there is a rounding less.

    Parameters
    ----------
    x : torch.Tensor
        ``(N, inputs, H, W)``.
    weight, bias : torch.Tensor
        As `torch.nn.functional.conv2d` takes them; `stride` and `padding` too.
    onto : torch.Tensor, optional
        What is added to; may be overwritten.
    relu : bool
        Whether negative sums become 0.

    Examples
    --------
    >>> x, weight = torch.ones(1, 1, 3, 3), torch.full((1, 1, 3, 3), -1.0)
    >>> with torch.inference_mode():
    ...     conv(x, weight)[0, 0, 1, 1].item(), conv(x, weight, onto=10 * x, relu=True)[0, 0, 1, 1].item()
    (-9.0, 1.0)
    """
    if (onto is None and not relu) or not _fuses(x):
        y = F.conv2d(x, weight, bias, stride, padding)
        if onto is not None:
            y = y.add_(onto)
        return F.relu_(y) if relu else y
    ops, pads, steps, dense = torch.ops.mkldnn, [padding, padding], [stride, stride], [1, 1]
    if onto is None:
        out: torch.Tensor = ops._convolution_pointwise(x, weight, bias, pads, steps, dense, 1, "relu", [], "")
        return out
    last: tuple[str | None, list[float], str | None] = ("relu", [], "") if relu else (None, [], None)
    out = ops._convolution_pointwise_.binary(onto, x, weight, bias, pads, steps, dense, 1, "add", 1.0, *last)
    return out


def _fuses(x: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _has(x.dtype)
    )


@cache
def _has(dtype: torch.dtype) -> bool:
    """Whether this torch has the operators, which are not of its public interface, and this CPU the dtype."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch._C._has_mkldnn:
        return False
    x = torch.ones(1, 4, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(4, 4, 3, 3, dtype=dtype)
    try:
        ops = torch.ops.mkldnn
        ops._convolution_pointwise(x, weight, None, [1, 1], [1, 1], [1, 1], 1, "relu", [], "")
        ops._convolution_pointwise_.binary(
            x.clone(), x, weight, None, [1, 1], [1, 1], [1, 1], 1, "add", 1.0, "relu", [], ""
        )
    except (AttributeError, RuntimeError):
        return False
    return True
