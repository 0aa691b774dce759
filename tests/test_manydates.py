"""Networks that make one finer image of many dates: what they promise whatever their weights are."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from xsen2.bands import A
from xsen2.errors import MethodError, WeightsError
from xsen2.methods.bicubic import upsample
from xsen2.methods.registry import own_gsd, resolve
from xsen2.multitemporal.simulate import simulate
from xsen2.networks import inference, kriging
from xsen2.networks.cards import DEFAULT, FINER, Card, cards
from xsen2.networks.inference import filled, fuse
from xsen2.networks.load import build
from xsen2.networks.manydates import HighResNet, ManyDates, MultiDate
from xsen2.networks.network import Network
from xsen2.training.dates import cube_of
from xsen2.training.export import write

SMALL = {"thin": 4, "wide": 8, "blocks": 1}


def stirred(network: Network) -> Network:
    """With weights everywhere, as training leaves them."""
    torch.manual_seed(0)
    for value in network.parameters():
        if value.ndim:
            torch.nn.init.normal_(value, std=0.05 if value.ndim == 1 else 0.7 / value[0].numel() ** 0.5)
    return network.eval().requires_grad_(False)


def networks(zoom: int = 2) -> list[MultiDate]:
    made = [stirred(ManyDates(zoom, **SMALL)), stirred(HighResNet(zoom, features=8, blocks=1))]
    return [network for network in made if isinstance(network, MultiDate)]


def dates(count: int, side: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    frames = torch.from_numpy(rng.uniform(0.2, 1, (1, count, 4, side, side)).astype(np.float32))
    shifts = rng.uniform(-0.5, 0.5, (1, count, 2)).astype(np.float32)
    shifts[:, 0] = 0
    return frames, torch.ones(1, count, 1, side, side), torch.from_numpy(shifts)


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """A field as rough as ground is: its power falls with the square of frequency."""
    rng = np.random.default_rng(3)
    f = np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(240))
    spectrum = np.fft.rfft2(rng.standard_normal((4, 240, 240))) / np.maximum(f, 1 / 240) ** 1.3
    field = np.fft.irfft2(spectrum, s=(240, 240))
    return (1500 + 300 * field / field.std()).astype(np.float32)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    network = stirred(ManyDates(2, **SMALL))
    said = {"name": "small-5m", "network": "small", "architecture": "manydates.ManyDates", "ratio": 1}
    more = {"licence": "none", "source": "random numbers", "training": {}, "gsd": 5.0, "frames": 4}
    folder = tmp_path_factory.mktemp("weights")
    return write(network.state_dict(), folder, **said, **more, arguments={"zoom": 2, **SMALL})


# Kriging


def test_weights_of_kriging_sum_to_one_and_more_dates_leave_less_variance():
    shifts = torch.tensor([[[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]]], dtype=torch.float64)
    left = []
    for count in (1, 2, 4):
        [(kernels, variance)] = kriging.weights(shifts[:, :count], 4, 2, [1e-3])
        assert kernels.shape == (1, 16, count, 5, 5)
        torch.testing.assert_close(kernels.sum((2, 3, 4)), torch.ones(1, 16, dtype=torch.float64))
        left.append(float(variance.mean()))
    assert left == sorted(left, reverse=True)
    assert left[2] < 0.75 * left[0]


def test_a_date_whose_shift_is_not_known_counts_for_less():
    known = torch.zeros(1, 2, 2, dtype=torch.float64)
    known[0, 1] = 0.4
    lost = known.clone()
    lost[0, 1] = torch.nan
    share = [float(kriging.weights(s, 2, 2, [1e-3])[0][0][:, :, 1].abs().sum()) for s in (known, lost)]
    assert share[1] < 0.5 * share[0]


@pytest.mark.parametrize("zoom", [2, 4])
def test_untrained_it_is_kriging_and_that_beats_bicubic(ground: np.ndarray, zoom: int):
    """With shifts the right way round: the same frames with shifts turned round are worse than one frame."""
    frames, true = simulate(ground, zoom, 8, np.random.default_rng(0))
    x = torch.from_numpy(frames[None] / 2000)
    network = ManyDates(zoom).eval()

    def error(count: int, shifts: np.ndarray) -> float:
        given = torch.from_numpy(shifts[None, :count].astype(np.float32))
        with torch.inference_mode():
            out = network(x[:, :count], torch.ones_like(x[:, :count, :1]), given)[0].numpy() * 2000
        return float((out - ground)[:, 8:-8, 8:-8].std())

    right, wrong, alone = error(8, -true), error(8, true), error(1, -true)
    bicubic = float((upsample(frames[0], zoom) - ground)[:, 8:-8, 8:-8].std())
    assert right < 0.9 * alone < 0.9 * bicubic
    assert wrong > alone


# What every architecture promises


@pytest.mark.parametrize("kind", [0, 1])
def test_it_sees_as_far_as_it_says_and_no_date_is_lost(kind: int):
    network = networks()[kind]
    reach = network.radius
    frames, mask, shifts = dates(3, 2 * reach + 9)
    frames.requires_grad_()
    out = network(frames, mask, shifts)
    middle = out.shape[-1] // 2
    out[..., middle, middle].sum().backward()
    seen = frames.grad.abs().sum((0, 2))
    for frame in seen:
        assert frame.max() > 0, "a date counts for nothing"
    rows = np.flatnonzero(seen.sum((0, 2)).numpy())
    centre = middle // 2
    assert max(centre - rows[0], rows[-1] - centre) <= reach


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_any_number_of_dates(count: int):
    for network in networks():
        out = network(*dates(count))
        assert out.shape == (1, 4, 48, 48)
        assert torch.isfinite(out).all()


def test_the_order_of_the_other_dates_does_not_matter():
    network = networks()[0]
    frames, mask, shifts = dates(5)
    order = [0, 3, 1, 4, 2]
    torch.testing.assert_close(
        network(frames, mask, shifts), network(frames[:, order], mask[:, order], shifts[:, order]), atol=2e-5, rtol=1e-4
    )


def test_what_a_mask_hides_changes_nothing():
    for network in networks():
        frames, mask, shifts = dates(3)
        mask[:, 1, :, 6:14, 4:20] = 0
        other = torch.where(mask > 0, frames, 5.0)
        torch.testing.assert_close(network(frames, mask, shifts), network(other, mask, shifts))


def test_one_scale_for_all_bands_and_standard_errors_are_positive():
    network = networks()[0]
    frames, mask, shifts = dates(2)
    out = network(frames, mask, shifts, uncertainty=True)
    assert out.shape[1] == 8
    assert (out[:, 4:] > 0).all()
    torch.testing.assert_close(out[:, :4], network(frames, mask, shifts))


# A block


def block(count: int = 3, side: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    shifts = rng.uniform(-0.5, 0.5, (count, 2))
    shifts[0] = 0
    return rng.uniform(300, 2000, (count, 4, side, side)).astype(np.float32), shifts


def test_patches_leave_no_seams(card: Card, monkeypatch: pytest.MonkeyPatch):
    frames, shifts = block()
    edge = 2 * (card.halo + 3)
    whole = fuse(card, frames, shifts, device="cpu", dtype="float32", reach=3)
    monkeypatch.setattr(MultiDate, "side", 17)
    inference._capacities.clear()
    cut = fuse(card, frames, shifts, device="cpu", dtype="float32", reach=3)
    inner = np.s_[:, edge:-edge, edge:-edge]
    assert np.abs(whole[inner] - cut[inner]).max() < 2e-2
    assert np.abs(whole[inner]).min() > 0


def test_holes_stay_where_they_are(card: Card):
    """NaN in any date: finite everywhere, and what lies further off than the halo is what it was."""
    frames, shifts = block(side=150)
    holed = frames.copy()
    holed[0, :, 70:76, 70:80] = np.nan
    holed[1, 2, 60:64, 70:80] = np.nan
    holed[:, :, 72, 75] = np.nan  # no date has it
    given = [fuse(card, x, shifts, device="cpu", dtype="float32", uncertainty=True, reach=3) for x in (frames, holed)]
    assert np.isfinite(given[1]).all()
    far = np.ones(given[0].shape[1:], bool)
    reach = card.halo + 3
    far[2 * (60 - reach) : 2 * (76 + reach), 2 * (70 - reach) : 2 * (80 + reach)] = False
    assert np.array_equal(given[0][:, far], given[1][:, far])
    assert not np.array_equal(given[0], given[1])


def test_the_first_date_is_filled_as_bright_as_it_is_around():
    rng = np.random.default_rng(0)
    ground = rng.uniform(0, 200, (2, 30, 30)).astype(np.float32)
    frames = np.stack([ground + 1000, ground + 400])
    there = np.ones((2, 1, 30, 30), bool)
    there[0, 0, 10:14, 10:14] = False
    out = filled(frames, there, 5)
    hole = np.s_[:, 10:14, 10:14]
    np.testing.assert_allclose(out[0][hole], ground[hole] + 1000, atol=60)
    assert np.array_equal(out[0][:, :10], frames[0][:, :10])
    assert np.array_equal(out[1], frames[1])


def test_dates_off_by_more_than_a_pixel_are_moved_first(card: Card):
    frames, shifts = block()
    near = fuse(card, frames, shifts, device="cpu", dtype="float32")
    far = frames.copy()
    far[1] = np.roll(frames[1], (1, -2), (-2, -1))  # what a pixel showed, the pixel one further down shows
    moved = shifts.copy()
    moved[1] += (-1, 2)
    edge = 2 * card.halo + 6
    inner = np.s_[:, edge:-edge, edge:-edge]
    there = fuse(card, far, moved, device="cpu", dtype="float32")
    np.testing.assert_allclose(there[inner], near[inner], atol=0.05)


def test_chunks_leave_no_seam_and_holes_are_filled_by_other_dates(card: Card, ground: np.ndarray):
    frames, _ = simulate(ground, 2, 3, np.random.default_rng(0))
    frames[0, :, 50:58, 52:64] = np.nan
    frames[:, :, 90:92, 20:25] = np.nan
    ds = cube_of(frames)
    [method] = resolve(card.file, A, dtype="float32")
    assert pickle.loads(pickle.dumps(method)) == method
    one = ds.dsen2.superresolve(method=method, target=ds["time"].values[0], native=False, uncertainty=True)
    cut = ds.chunk(y=60, x=47).dsen2.superresolve(
        method=method, target=ds["time"].values[0], native=False, uncertainty=True
    )
    whole, parts = one.compute(), cut.compute()
    for name in ("B02", "B08", "B08_se"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=0, atol=0.02)
    missing = np.isnan(whole["B04"].values[0])
    assert missing[180:184, 40:50].all()
    assert missing.sum() == 40


# Cards


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("gsd", 10.0, "gsd is 10.0"),
        ("gsd", 2.5, "made for zoom 2"),
        ("gsd", "5", "gsd is '5'"),
        ("frames", 0, "frames is 0"),
        ("frames", 33, "frames is 33"),
        ("frames", True, "frames is True"),
        ("spread", [1.0, 1.0], "spread is"),
    ],
)
def test_cards_of_many_dates_say_what_can_be(card: Card, tmp_path: Path, field: str, value: object, said: str):
    with pytest.raises(WeightsError, match=said):
        dataclasses.replace(card, **{field: value}).write(tmp_path, card.file.read_bytes())


def test_cards_of_one_date_make_10_m(card: Card, tmp_path: Path):
    with pytest.raises(WeightsError, match="networks of ratio 2 make 10 m"):
        dataclasses.replace(card, ratio=2, arguments={**card.arguments, "ratio": 2}).write(
            tmp_path, card.file.read_bytes()
        )


def test_a_path_of_weights_is_a_method(card: Card):
    [method] = resolve(card.file, ["B08"], gsd=5, frames=6)
    assert (method.gsd, method.frames, method.needs) == (5, 6, ("B02", "B03", "B04", "B08"))
    assert resolve(card.file, ["B08"], gsd=5)[0].frames == 4
    with pytest.raises(MethodError, match="use gsd=5"):
        resolve(card.file, ["B08"], gsd=2.5)
    with pytest.raises(MethodError, match="at most 32 dates"):
        resolve(card.file, ["B08"], gsd=5, frames=40)


def test_architectures_are_checked_like_the_others():
    with pytest.raises(WeightsError, match="takes no argument"):
        build("manydates.ManyDates", 1, {"zoom": 2, "colour": 3})


# What comes with the package

SHIPPED = cards()[FINER]


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda c: c.name)
def test_shipped_weights(shipped: Card):
    raw = shipped.file.read_bytes()
    assert hashlib.sha256(raw).hexdigest() == shipped.sha256
    made = inference.load(shipped, torch.device("cpu"), torch.float32)
    assert isinstance(made, MultiDate)
    assert shipped.halo >= made.radius
    assert "Copernicus" in shipped.licence
    assert len(shipped.spread) == 4
    [rows] = shipped.validation.values()
    several, one, copies = rows["8 dates"], rows["1 date"], rows["8 copies of one date"]
    assert one["worst"] > -0.05, "bicubic was better on a site, with one date"  # featureless water: the same
    assert several["gain, dB"] > rows["wiener, 8 dates"]["gain, dB"]
    assert several["gain, dB"] > copies["gain, dB"] + 1, "most is to come from other dates"


@pytest.mark.parametrize("gsd", [5, 2.5])
def test_the_default_below_10_m_is_the_network(gsd: float, ground: np.ndarray):
    [method] = resolve("default", ["B02", "B08"], gsd=gsd, frames=5)
    assert (method.name, method.gsd, method.frames) == (FINER, gsd, 5)
    assert own_gsd(FINER) == 5
    assert resolve("default", ["B11"])[0].name == DEFAULT
    assert resolve("default", ["B08"], gsd=10 / 3)[0].name == "wiener"


@pytest.mark.parametrize("zoom", [2, 4])
def test_what_is_shipped_is_near_the_linear_estimate_where_that_is_best(ground: np.ndarray, zoom: int):
    """On a random field, no image of the Earth, with one date too; and standard errors hold."""
    ground = ground[:, : 48 * zoom, : 48 * zoom]
    frames, _ = simulate(ground, zoom, 8, np.random.default_rng(0))
    ds = cube_of(frames)
    base = upsample(frames[0], zoom)

    def error(count: int, method: str) -> float:
        sr = ds.isel(time=slice(0, count)).dsen2.superresolve(
            method=method, gsd=10 / zoom, frames=count, target=ds["time"].values[0], uncertainty=method == "default"
        )
        made = np.stack([sr[band].values[0] for band in A])
        if method == "default":
            sure = np.stack([sr[f"{band}_se"].values[0] for band in A])
            assert 0.3 < float((np.abs(made - ground) < sure).mean()) < 0.95
        return float((made - ground)[:, 8:-8, 8:-8].std())

    bicubic = float((base - ground)[:, 8:-8, 8:-8].std())
    assert error(8, "default") < 1.15 * error(8, "wiener") < 0.9 * bicubic
    assert error(1, "default") < bicubic
