"""Convolutions fused with what follows: the same as one step after the other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from xsen2.networks.network import _has, conv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("onto", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_is_one_step_after_the_other(dtype: torch.dtype, onto: bool, relu: bool, stride: int) -> None:
    torch.manual_seed(0)
    size = 3 if stride == 1 else 6
    x = torch.randn(2, 8, 30, 26).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = (torch.randn(16, 8, size, size) / size).to(dtype)
    bias = torch.randn(16).to(dtype)
    want = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding=size // 3)
    there = torch.randn(want.shape).to(dtype).contiguous(memory_format=torch.channels_last) if onto else None
    want = want if there is None else want + there.double()
    want = want.clamp(min=0) if relu else want
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            kept = None if there is None else there.clone()
            got = conv(x, weight, bias, stride=stride, padding=size // 3, onto=kept, relu=relu)
        assert got.dtype == dtype
        scale = float(want.abs().max())
        assert float((got.double() - want).abs().max()) < (1e-5 if dtype == torch.float32 else 0.02) * scale


def test_a_cpu_with_onednn_has_them() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    assert _has(torch.float32)
    assert not _has(torch.float64)
    assert not _has(torch.float16)


def test_gradients_flow() -> None:
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    weight = torch.randn(3, 3, 3, 3, requires_grad=True)
    conv(conv(x, weight, relu=True), weight, onto=x * 1).sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) > 0
