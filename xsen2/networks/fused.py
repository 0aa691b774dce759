"""A convolution and what comes right after it in one pass over memory, where torch can."""

from __future__ import annotations

from functools import cache

import torch
from torch.nn import functional as F

__all__ = ["conv"]


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
