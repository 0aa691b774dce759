"""TwoGrid: what it starts from, what it sees, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from xsen2.classical import bicubic
from xsen2.networks.dsen2 import DSen2
from xsen2.networks.twogrid import TwoGrid, _unfolded, upsample


def inputs(ratio, side=48, seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, side), (6, side // 2)] + ([(2, side // 6)] if ratio == 6 else [])
    return [torch.rand(batch, n, s, s, generator=generator) for n, s in shapes]


def trained(ratio, **kwargs):
    torch.manual_seed(ratio)
    network = TwoGrid(ratio, **kwargs)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return network.eval()


@pytest.mark.parametrize("ratio", [2, 3, 6])
@pytest.mark.parametrize("shape", [(5, 7), (1, 3), (2, 1)])
def test_upsample_is_keys_bicubic(ratio, shape):
    x = torch.rand(2, 3, *shape)
    np.testing.assert_allclose(upsample(x, ratio), bicubic.upsample(x.numpy(), ratio), atol=1e-6)


@pytest.mark.parametrize("ratio", [2, 6])
def test_untrained_it_is_bicubic(ratio):
    x = inputs(ratio)
    with torch.no_grad():
        out = TwoGrid(ratio)(*x, doubt=True)
    made = 6 if ratio == 2 else 2
    np.testing.assert_allclose(out[0, :made], bicubic.upsample(x[-1][0].numpy(), ratio), atol=1e-6)
    assert (out[:, made:] > 0).all()


def test_folding_is_part_of_the_kernel():
    x, weight = torch.rand(1, 3, 12, 10), torch.rand(5, 12, 3, 3)
    want = F.conv2d(F.pixel_unshuffle(x, 2), weight, padding=1)
    torch.testing.assert_close(F.conv2d(x, _unfolded(weight), stride=2, padding=2), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nothing_is_seen_beyond_the_radius(ratio, which):
    if which == 2 and ratio == 2:
        pytest.skip("ratio 2 has no 60 m bands")
    network = trained(ratio, thin=4, wide=8, blocks=2)
    side = 120
    x = inputs(ratio, side)
    factor = (1, 2, 6)[which]
    at = 60 // factor
    changed = [z.clone() for z in x]
    changed[which][:, :, at, at] += 50
    with torch.no_grad():
        moved = (network(*x, doubt=True) - network(*changed, doubt=True))[0].abs().amax(dim=0) > 1e-6
    rows = torch.nonzero(moved)
    first, last = 60, 60 + factor - 1
    assert len(rows) > 500  # it is seen far off
    assert (rows >= first - network.radius).all()
    assert (rows <= last + network.radius).all()


def test_doubt_teaches_the_estimate_nothing():
    network = trained(2, thin=4, wide=8, blocks=1)
    network(*inputs(2), doubt=True)[:, 6:].sum().backward()
    touched = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched
    assert all(n.startswith("doubt.") for n in touched)
    network.zero_grad(set_to_none=True)
    network(*inputs(2))[:, :6].sum().backward()
    assert all(p.grad is None for n, p in network.named_parameters() if n.startswith("doubt."))


@pytest.mark.parametrize("ratio", [2, 6])
def test_it_costs_less_than_a_quarter_of_dsen2(ratio):
    x = inputs(ratio)
    found = []
    for network in (TwoGrid(ratio), DSen2(ratio)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*x)
        found.append(counter.get_total_flops())
    assert found[0] < 0.25 * found[1]
