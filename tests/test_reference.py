"""A user's own sharper images as the truth: what cleans them, what forgives, and that a network learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xsen2.errors import MethodError, SourceError
from xsen2.multitemporal.simulate import moved, simulate
from xsen2.networks.cards import Card, cards
from xsen2.networks.load import build, network
from xsen2.training.export import write
from xsen2.training.fit import DatesRecipe
from xsen2.training.reference import Acquisition, Loss, ReferenceTask, _turned, adapt, alike, clean, corrected, matched
from xsen2.training.reference import _coarse as coarse_of

SMALL = {"thin": 8, "wide": 16, "blocks": 1}


def ground(side: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((4, side, side))) / np.maximum(f, 0.02), s=(side, side))
    return (1500 + 300 * field / field.std()).astype(np.float32)


def other_sensor(image: np.ndarray, aside: tuple[float, float] = (0.9, -1.1)) -> np.ndarray:
    """Other gains and offsets, another blur, and it lies aside."""
    f = np.hypot(np.fft.fftfreq(image.shape[-2])[:, None], np.fft.rfftfreq(image.shape[-1]))
    blurred = np.fft.irfft2(np.fft.rfft2(image) * np.exp(-4 * f**2), s=image.shape[-2:])
    gains = np.array([1.2, 0.85, 1.1, 0.9])[:, None, None]
    return moved((gains * blurred + 120).astype(np.float32), aside)


def acquisition(seed: int, side: int = 96, count: int = 4) -> Acquisition:
    image = ground(side, seed)
    frames, shifts = simulate(image, 2, count, np.random.default_rng(seed))
    return Acquisition(f"place {seed}", frames, shifts, other_sensor(image), 3.0)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    torch.manual_seed(0)
    made = build("manydates.ManyDates", 1, {"zoom": 2, **SMALL})
    said = {"name": "small-5m", "network": "small", "architecture": "manydates.ManyDates", "ratio": 1}
    more = {"licence": "none", "source": "random numbers", "training": {}, "gsd": 5.0, "frames": 4}
    folder = tmp_path_factory.mktemp("weights")
    return write(made.state_dict(), folder, **said, **more, arguments={"zoom": 2, **SMALL})


def test_what_does_not_show_the_same_ground_is_left_out():
    good, late = acquisition(0), replace(acquisition(0), apart=20.0)
    cloudy = replace(acquisition(1), truth=np.where(np.arange(96) < 40, np.nan, acquisition(1).truth))
    strange = replace(acquisition(2), truth=acquisition(3).truth)
    assert alike(good)[0] > 0.8 > 0.3 > alike(strange)[0]
    assert clean([late, good, cloudy, strange]) == [good]
    with pytest.raises(SourceError, match="1 are under 80% clear, 1 differ too much, 0 are over 30 days"):
        clean([cloudy, strange])


def test_histograms_are_matched_where_there_are_pixels():
    image = ground(64, 0)
    other = 1.3 * image + 200
    other[:, :5] = np.nan
    out = matched(other, image)
    assert np.isnan(out[:, :5]).all()
    assert np.median(np.abs(out - image)[:, 5:]) < 12
    np.testing.assert_allclose(np.nanquantile(out, 0.5, axis=(1, 2)), np.quantile(image, 0.5, axis=(1, 2)), atol=3)


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x[None] / 2000)


def test_the_loss_forgives_brightness_and_whole_pixels_aside_and_nothing_else():
    image = ground(64, 0)
    truth, weight = tensor(image), torch.ones(1, 1, 64, 64)
    reference = coarse_of(truth, 32)
    exact = Loss(structure=0, consistency=0)
    for made in (image + 300, np.roll(image, (1, -1), (-2, -1))):
        assert float(exact(tensor(made), truth, weight, reference)) < 1e-6
    assert exact.aside(tensor(np.roll(image, (1, -1), (-2, -1))), truth, weight)[1] == [(-1, 1)]
    assert float(exact(tensor(np.roll(image, 2, -1)), truth, weight, reference)) > 0.005
    assert (
        float(Loss(reach=0, structure=0, consistency=0)(tensor(np.roll(image, 1, -1)), truth, weight, reference))
        > 0.005
    )
    # What is forgiven can be asked for again.
    bright = replace(exact, mean=1.0)
    assert float(bright(tensor(image + 300), truth, weight, reference)) == pytest.approx(300 / 2000, rel=0.01)
    # Where the truth does not count nothing does.
    weight[..., :20] = 0
    spoilt = truth.clone()
    spoilt[..., :19] = 9
    assert float(exact(truth, spoilt, weight, reference)) < 1e-6


def test_coarse_is_as_the_operator_has_it():
    image = ground(96, 1)
    frames, _ = simulate(image, 2, 1, np.random.default_rng(0), noise=0)
    mine = coarse_of(torch.from_numpy(image[None]), 48)[0].numpy()
    assert np.abs(mine - frames[0])[:, 3:-3, 3:-3].std() < 3
    x = tensor(image)
    weight, other = torch.ones(1, 1, 96, 96), tensor(frames[0] + 100)
    apart = [float(Loss(consistency=c, structure=0)(x, x, weight, other)) for c in (0.0, 1.0)]
    assert apart[0] < 1e-6
    assert apart[1] == pytest.approx(0.05, rel=0.05)


def test_a_perceptual_network_is_frozen_and_gradients_flow_through_it():
    torch.manual_seed(0)
    features = nn.Conv2d(4, 3, 3).requires_grad_(False)
    before = features.weight.clone()
    made = tensor(ground(32, 0)).requires_grad_()
    loss = Loss(structure=0, consistency=0, perceptual=features, perception=1.0, soft=2.0)
    truth, weight = tensor(ground(32, 1)), torch.ones(1, 1, 32, 32)
    loss(made, truth, weight, coarse_of(truth, 16)).backward()
    whole = made.grad.clone()
    made.grad = None
    replace(loss, perceptual=None)(made, truth, weight, coarse_of(truth, 16)).backward()
    assert (whole - made.grad).abs().max() > 0
    torch.testing.assert_close(features.weight, before)
    assert features.weight.grad is None


@pytest.mark.parametrize("turn", range(8))
def test_shifts_turn_with_their_frames(turn: int):
    """A turned stack, fused with turned shifts, is the turned result."""
    one = acquisition(0, 64)
    made = build("manydates.ManyDates", 1, {"zoom": 2, **SMALL}).eval()
    frames, shifts = one.frames / 2000, (-one.shifts).astype(np.float32)
    there = np.ones_like(frames[:, :1])
    seen = np.ones((64, 64), np.float32)
    turned = _turned((frames, there, shifts, one.truth, seen), turn)

    def of(frames: np.ndarray, there: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return made(*(torch.from_numpy(np.ascontiguousarray(z[None])) for z in (frames, there, shifts)))[0].numpy()

    plain = _turned((of(frames, there, shifts)[None], there, shifts, one.truth, seen), turn)[0][0]
    np.testing.assert_allclose(of(*turned[:3]), plain, atol=2e-4)


def test_adapted_to_another_sensor_it_is_nearer_to_that_sensor(card: Card, tmp_path: Path):
    """On a place it has not seen: with another blur and other gains, a pixel aside."""
    train, (judge,) = [acquisition(i) for i in range(3)], [acquisition(9)]
    fine = adapt(card, train, [judge], tmp_path, steps=40, batch=3, patch=24, rate=0.05, device="cpu", progress=False)
    judge = replace(judge, truth=matched(judge.truth, judge.frames[0]))
    task = ReferenceTask([], [judge], DatesRecipe(card.architecture, 1, 1, {"zoom": 2}))

    def gained(of: Card) -> float:
        return task.judge(network(of), torch.device("cpu"), torch.float32)["validation"]

    assert gained(fine) > gained(card) + 0.3
    assert fine.gsd == 5
    assert fine.training["from"] == "small-5m"


def test_what_does_not_fit_is_said_first(card: Card, tmp_path: Path):
    four = replace(acquisition(0), truth=np.zeros((4, 192, 192), np.float32))
    with pytest.raises(MethodError, match="resample it first"):
        adapt(card, [four], [], tmp_path)
    with pytest.raises(SourceError, match="no acquisition"):
        adapt(card, [], [], tmp_path)
    with pytest.raises(MethodError, match="of one date"):
        adapt(next(iter(cards()["twogrid"])), [acquisition(0)], [], tmp_path)


def test_brightness_is_corrected_where_it_counts():
    made, truth = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    truth[..., 4:] = 100
    weight = torch.ones(1, 1, 8, 8)
    weight[..., 4:] = 0
    torch.testing.assert_close(corrected(made, truth, weight), torch.ones(1, 4, 8, 8))
