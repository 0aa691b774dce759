"""The network, its weights and cards, and inference over patches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from cubes import make_cube

import xsen2
from xsen2.methods.protocol import Method, finest_halo
from xsen2.networks import inference
from xsen2.networks.cards import cards
from xsen2.networks.dsen2 import DSen2, upsample
from xsen2.networks.method import NetworkMethod

EVERY = [card for group in cards().values() for card in group]
ALL = [card for card in EVERY if card.ratio > 1]  # networks for many dates: `test_manydates`


@pytest.mark.parametrize("ratio", [2, 6])
def test_upsample_is_torchs_bilinear(ratio):
    x = torch.rand(2, 3, 5, 7)
    want = torch.nn.functional.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(x, ratio), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(upsample(x[..., :1, :1], ratio), x[..., :1, :1].expand(2, 3, ratio, ratio))


def test_architecture_is_the_papers():
    """6 ResBlocks x 128 features: 1.8 M weights, 14 convolutions; 32 x 256 is VDSen2's 37.8 M."""
    network = DSen2(2)
    count = sum(p.numel() for p in network.parameters())
    assert count == (10 * 9 + 1) * 128 + 12 * (128 * 9 + 1) * 128 + (128 * 9 + 1) * 6
    assert network.radius == 14
    assert DSen2(6, blocks=32, features=16).radius == 66
    assert sum(p.numel() for p in DSen2(2, blocks=32, features=256).parameters()) == pytest.approx(37.8e6, rel=0.01)


def convolve(x, weight, bias):
    """3x3 convolution with zero padding, in numpy."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight) + bias[:, None, None]


@pytest.mark.parametrize("ratio", [2, 6])
def test_forward_pass_against_numpy(ratio):
    torch.manual_seed(0)
    network = DSen2(ratio, blocks=2, features=8)
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 12, 18)), rng.random((6, 6, 9))
    c = rng.random((2, 2, 3)) if ratio == 6 else None
    p = {k: v.detach().numpy().astype(float) for k, v in network.named_parameters()}
    up = [a, upsample(torch.from_numpy(b)[None], 2)[0].numpy()]
    if c is not None:
        up.append(upsample(torch.from_numpy(c)[None], 6)[0].numpy())
    x = np.maximum(convolve(np.concatenate(up), p["head.weight"], p["head.bias"]), 0)
    for i in range(2):
        inner = np.maximum(convolve(x, p[f"body.{i}.conv1.weight"], p[f"body.{i}.conv1.bias"]), 0)
        x = x + 0.1 * convolve(inner, p[f"body.{i}.conv2.weight"], p[f"body.{i}.conv2.bias"])
    want = up[-1] + convolve(x, p["tail.weight"], p["tail.bias"])
    inputs = [torch.from_numpy(z).float()[None] for z in (a, b, c) if z is not None]
    with torch.no_grad():
        np.testing.assert_allclose(network(*inputs)[0], want, atol=1e-4)


@pytest.mark.parametrize("card", ALL, ids=lambda c: c.name)
def test_shipped_weights(card):
    raw = card.file.read_bytes()
    assert hashlib.sha256(raw).hexdigest() == card.sha256
    network = inference.load(card, torch.device("cpu"), torch.float32)
    assert inference.load(card, torch.device("cpu"), torch.float32) is network
    assert card.halo * card.ratio >= network.radius + card.ratio - 1
    assert card.training["recipe"]["ratio"] == card.ratio
    assert "Copernicus" in card.licence
    for scores in card.validation.values():
        assert scores["worst ratio"] < 1, "bicubic was better on a validation scene"
    assert set(card.validation) == {f"{10 * card.ratio} m, {o}" for o in ("mtf", "product", "dsen2")}


def test_names_are_distinct_weights_and_small():
    assert len({c.sha256 for c in EVERY}) == len({c.name for c in EVERY}) == len(EVERY)
    assert sum(c.file.stat().st_size for c in EVERY) < 25e6


def test_method_is_small_and_pickles():
    method = NetworkMethod(ALL[0])
    assert isinstance(method, Method)
    assert finest_halo(method) % ALL[0].ratio == 0
    assert len(pickle.dumps(method)) < 10_000
    assert pickle.loads(pickle.dumps(method)) == method


def inputs(card, inner, seed=0):
    """A block of `inner` 60 m pixels and the halo."""
    side = inner + -(-2 * card.halo * card.ratio // 6)
    ds = make_cube(side, side, seed=seed)
    return [
        np.stack([ds[b].values for b in names])
        for names in (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12"), ("B01", "B09"))
    ]


KINDS = ["dsen2", "twogrid", "twogrid-paper"]
"""Networks that between them have every architecture."""


@pytest.mark.parametrize("ratio", [2, 6])
@pytest.mark.parametrize("network", KINDS)
def test_patches_and_batches_leave_no_seam(tiny_cards, network, ratio, monkeypatch):
    assert {c.architecture for c in ALL} == {c.architecture for n in KINDS for c in tiny_cards[n]}
    (card,) = (c for c in tiny_cards[network] if c.ratio == ratio)
    a, b, c = inputs(card, 8)
    whole = inference.infer(card, a, b, c, device="cpu", dtype="float32")
    h = card.halo * card.ratio
    for side, pixels in ((18, 1), (30, 10**9), (42, 20_000)):
        capacity = inference.Capacity(pixels, side)
        monkeypatch.setattr(inference, "_capacity", lambda *_, capacity=capacity: capacity)
        cut = inference.infer(card, a, b, c, device="cpu", dtype="float32")
        np.testing.assert_allclose(cut[:, h:-h, h:-h], whole[:, h:-h, h:-h], rtol=0, atol=1e-3)


@pytest.mark.parametrize("card", ALL, ids=lambda c: c.name)
def test_bfloat16_is_close(card):
    a, b, c = inputs(card, 6)
    h = card.halo * card.ratio
    exact, rough = (
        inference.infer(card, a, b, c, device="cpu", dtype=d)[:, h:-h, h:-h] for d in ("float32", "bfloat16")
    )
    assert np.sqrt(np.mean((exact - rough) ** 2)) < 5  # DN
    assert not np.array_equal(exact, rough)


def test_damaged_and_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "_networks", {})
    file = tmp_path / "w.safetensors"
    card = dataclasses.replace(ALL[0], path=str(file))
    with pytest.raises(xsen2.WeightsError, match="cannot be read"):
        inference.load(card, torch.device("cpu"), torch.float32)
    file.write_bytes(ALL[0].file.read_bytes()[:-10])
    with pytest.raises(xsen2.WeightsError, match="its sha256 is"):
        inference.load(card, torch.device("cpu"), torch.float32)


def test_a_broken_card_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"name": "x"}))
    with pytest.raises(xsen2.WeightsError, match=r"x\.json is not a card"):
        type(ALL[0]).read(path)


def test_devices_and_dtypes():
    assert inference.best_device("cpu").type == "cpu"
    with pytest.raises(xsen2.MethodError, match="not a device"):
        inference.best_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(xsen2.MethodError, match="not available"):
            inference.best_device("cuda")
    assert inference.best_dtype(torch.device("cpu"), "float32") is torch.float32
    has = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert inference.best_dtype(torch.device("cpu")) is (torch.bfloat16 if has else torch.float32)
    with pytest.raises(xsen2.MethodError, match="dtype='int8'"):
        inference.best_dtype(torch.device("cpu"), "int8")
