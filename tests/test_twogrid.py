"""TwoGrid: what it starts from, what it sees, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from xsen2.engine.operators import correlate, taps
from xsen2.methods import bicubic
from xsen2.networks import twogrid
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
        out = TwoGrid(ratio)(*x, uncertainty=True)
    made = 6 if ratio == 2 else 2
    np.testing.assert_allclose(out[0, :made], bicubic.upsample(x[-1][0].numpy(), ratio), atol=1e-6)
    assert (out[:, made:] > 0).all()


def test_folding_is_part_of_the_kernel():
    x, weight = torch.rand(1, 3, 12, 10), torch.rand(5, 12, 3, 3)
    want = F.conv2d(F.pixel_unshuffle(x, 2), weight, padding=1)
    torch.testing.assert_close(F.conv2d(x, _unfolded(weight), stride=2, padding=2), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nothing_is_seen_beyond_the_radius(ratio, which, guided):
    if which == 2 and ratio == 2:
        pytest.skip("ratio 2 has no 60 m bands")
    network = trained(ratio, thin=4, wide=8, blocks=2, guide=guided)
    side = 240
    x = inputs(ratio, side)
    factor = (1, 2, 6)[which]
    at = 120 // factor
    changed = [z.clone() for z in x]
    changed[which][:, :, at, at] += 50
    with torch.no_grad():
        moved = (network(*x, uncertainty=True) - network(*changed, uncertainty=True))[0].abs().amax(dim=0) > 1e-6
    rows = torch.nonzero(moved)
    first, last = 120, 120 + factor - 1
    assert len(rows) > 500  # it is seen far off
    assert (rows >= first - network.radius).all()
    assert (rows <= last + network.radius).all()


def test_uncertainty_head_teaches_the_estimate_nothing():
    network = trained(2, thin=4, wide=8, blocks=1)
    network(*inputs(2), uncertainty=True)[:, 6:].sum().backward()
    touched = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched
    assert all(n.startswith("uncertainty_head.") for n in touched)
    network.zero_grad(set_to_none=True)
    network(*inputs(2))[:, :6].sum().backward()
    assert all(p.grad is None for n, p in network.named_parameters() if n.startswith("uncertainty_head."))


def mixed(ratio, operator, side=120, seed=0):
    """10 m bands with detail of all sizes, a band that is linear in them, and what a coarse sensor sees of it."""
    generator = torch.Generator().manual_seed(seed)
    a = 1 + torch.rand(1, 4, side, side, generator=generator)
    for size in (3, 15):  # detail that the coarse grid sees too
        a += F.interpolate(torch.rand(1, 4, side // size, side // size, generator=generator), scale_factor=size)
    truth = 0.1 + torch.tensordot(torch.tensor([0.4, -0.2, 0.5, 0.3]), a, ([0], [1]))[:, None]
    low = correlate(truth[0].numpy(), *taps("B08", ratio, operator), ratio)
    return a, torch.from_numpy(low)[None], truth


@pytest.mark.parametrize("operator", ["mtf", "dsen2"])
@pytest.mark.parametrize("ratio", [2, 6])
def test_the_guide_finds_what_is_linear_in_the_fine_bands(ratio, operator):
    a, low, truth = mixed(ratio, operator)
    torch.testing.assert_close(
        twogrid._degrade(a, ratio, operator)[0],
        torch.from_numpy(correlate(a[0].numpy(), *taps("B08", ratio, operator), ratio)),
    )
    found, share = twogrid.guess(a, low, ratio)
    assert (found - truth).abs().mean() < 0.05 * (upsample(low, ratio) - truth).abs().mean()
    assert (share if operator == "mtf" else 1 - share).min() > 0.9  # and how it came about
    with torch.no_grad():  # and it is what an untrained network makes
        x = inputs(ratio, 120)
        x[0], x[-1] = a, low.repeat(1, x[-1].shape[1], 1, 1)
        out = TwoGrid(ratio, guide=True)(*x)
    torch.testing.assert_close(out[:, :1], found)


@pytest.mark.parametrize("ratio", [2, 6])
def test_the_guide_is_the_same_to_the_last_bit_wherever_an_image_is_cut(ratio):
    a, low, _ = mixed(ratio, "mtf", 240)
    whole, _ = twogrid.guess(a, low, ratio)
    part, _ = twogrid.guess(a[..., 60:186, 36:], low[..., 60 // ratio : 186 // ratio, 36 // ratio :], ratio)
    edge = twogrid.reach(ratio) * ratio
    inner = np.s_[..., 60 + edge : 186 - edge, 36 + edge : 240 - edge]
    torch.testing.assert_close(part[..., edge:-edge, edge:-edge], whole[inner], rtol=0, atol=0)


def test_the_guide_adds_no_detail_of_flat_ground():
    a, low, _ = mixed(6, "mtf")
    flat = 1 + 1e-3 * (a - a.mean())  # 1 DN: noise
    out, _ = twogrid.guess(flat, low, 6)
    blurred, _ = twogrid.guess(torch.ones_like(flat), low, 6)
    assert (out - blurred).std() < 0.1 * low.std()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("ratio", [2, 6])
def test_it_costs_less_than_a_quarter_of_dsen2(ratio, guided):
    x = inputs(ratio)
    found = []
    for network in (TwoGrid(ratio, guide=guided), DSen2(ratio)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*x)
        found.append(counter.get_total_flops())
    assert found[0] < 0.25 * found[1]
