"""Compare a network's standard errors with its errors, and find the factors that calibrate them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from xsen2.degrade import pair
from xsen2.engine.operators import Operator
from xsen2.errors import GridError
from xsen2.methods.protocol import Array, Method
from xsen2.multitemporal.simulate import simulate
from xsen2.networks.cards import Card
from xsen2.networks.method import FusionNetwork, NetworkMethod
from xsen2.superresolve import superresolve
from xsen2.training.dates import cube_of
from xsen2.training.fit import HALF
from xsen2.training.scenes import Scene

__all__ = ["errors_of", "errors_of_dates", "left_out", "ratios_of", "spread_of"]


def errors_of(
    scene: Scene, method: str | Method, scale: int, operator: Operator, dtype: str = "auto"
) -> dict[str, Array] | None:
    """Errors and standard errors of a method on a degraded scene.

    Measured through the calls that a user makes.

    Parameters
    ----------
    scene : Scene
    method : str or Method
        One that gives standard errors, for all bands of the grid.
    scale : {2, 6}
        2: the 20 m bands; 6: the 60 m bands.
    operator : {"mtf", "product", "dsen2", "box"}
        How the scene is degraded.
    dtype : str
        As `xsen2.superresolve.superresolve` takes it.

    Returns
    -------
    dict or None
        Band → float32 ``(2, pixel)``, errors and standard errors in DN, where the truth is valid. None if the scene has
        none of the bands, or is too small.

    Examples
    --------
    >>> import xsen2
    >>> from xsen2.training.calibrate import errors_of
    >>> from xsen2.training.scenes import scenes_of
    >>> scene = next(scenes_of(xsen2.sample().isel(time=0), "sample"))
    >>> errors_of(scene, "default", 6, "mtf")["B09"].shape[0]
    2
    """
    ds = scene.cube()
    if scale == 2:
        ds = ds.drop_vars(["B01", "B09"], errors="ignore")
    try:
        coarse, truth = pair(ds, scale, operator)
    except GridError:
        return None
    bands = [str(band) for band in truth.data_vars]
    sr = superresolve(coarse, bands, method, native=False, uncertainty=True, operator=operator, dtype=dtype)
    sr, truth = sr.compute(), truth.compute()
    errors = {}
    for band in bands:
        error, sigma = sr[band].values - truth[band].values, sr[f"{band}_se"].values
        valid = np.isfinite(error)
        errors[band] = np.stack([error[valid], sigma[valid]]).astype(np.float32)
    return errors


DATES = (1, 3, 8)
"""Numbers of dates that standard errors of networks for many are calibrated with: one factor for all."""


def errors_of_dates(scene: Scene, card: Card, dates: Sequence[int] = DATES, seed: int = 0) -> dict[str, Array] | None:
    """The same for a network that makes one finer image of many dates, which are simulated from the scene.

    Parameters
    ----------
    scene : Scene
        Its 10 m bands are the truth.
    card : Card
    dates : sequence of int
        Numbers of dates; the scene is restored from so many, for each number in turn.
    seed : int
        Seed of shifts, gains and noise.
    """
    zoom = round(10 / card.gsd)
    height, width = (min(n, 480) // (6 * zoom) * 6 * zoom for n in scene.valid[10].shape)
    if "/" in scene.name or min(height, width) < 24 * zoom:
        return None
    truth, valid = scene.bands[10][:, :height, :width], scene.valid[10][:height, :width]
    rng = np.random.default_rng([seed, *scene.name.encode()])
    errors: dict[str, list[Array]] = defaultdict(list)
    for count in dates:
        frames, _ = simulate(truth.astype(np.float32), zoom, count, rng)
        ds = cube_of(frames)
        method = FusionNetwork(gsd=card.gsd, frames=count, card=card)
        sr = superresolve(
            ds, list(card.bands), method, False, gsd=card.gsd, uncertainty=True, target=ds["time"].values[0]
        ).compute()
        for band, expected in zip(card.bands, truth, strict=True):
            error, sigma = sr[band].values[0] - expected, sr[f"{band}_se"].values[0]
            counted = np.isfinite(error) & valid
            errors[band].append(np.stack([error[counted], sigma[counted]]).astype(np.float32))
    return {band: np.concatenate(parts, axis=1) for band, parts in errors.items()}


Ratios = dict[str, dict[str, Array]]
"""Band → place → errors divided by standard errors."""


def ratios_of(card: Card, scenes: Sequence[Scene], operator: Operator) -> Ratios:
    """Errors of the network of a card, divided by its standard errors; measured as `errors_of` does.

    Parameters
    ----------
    card : Card
        Its `spread` is taken as 1.
    scenes : sequence of Scene
    operator : {"mtf", "product", "dsen2", "box"}
        How they are degraded.
    """
    uncalibrated = dataclasses.replace(card, spread=[1.0] * len(card.spread))
    ratios: dict[str, dict[str, list[Array]]] = {band: defaultdict(list) for band in card.bands}
    for scene in scenes:
        if card.ratio == 1:
            errors = errors_of_dates(scene, uncalibrated)
        else:
            errors = errors_of(scene, NetworkMethod(uncalibrated), card.ratio, operator)
        for band, (error, sigma) in (errors or {}).items():
            ratios[band][scene.name.split("/")[0]].append(np.abs(error) / sigma)
    joined = {
        band: {place: np.concatenate(parts) for place, parts in places.items()} for band, places in ratios.items()
    }
    return {band: {place: x for place, x in places.items() if x.size} for band, places in joined.items()}


def spread_of(ratios: Ratios) -> list[float]:
    """Per band, the factor with which 68 % of the errors lie within one standard error.

    Every place counts alike, whatever its size.

    Examples
    --------
    >>> spread_of({"B01": {"here": np.arange(101.0), "there": np.arange(101.0)}})
    [68.0]
    """
    return [round(_factor(list(places.values())), 4) for places in ratios.values()]


def _factor(parts: Sequence[Array]) -> float:
    rng = np.random.default_rng(0)
    return float(np.quantile(np.concatenate([rng.choice(x, 20000) for x in parts]), HALF))


def left_out(ratios: Ratios, alike: Callable[[str], str] = str) -> dict[str, float]:
    """Per band, the share of errors within one standard error at places that the factor was not computed from.

    Each place in turn is left out of the calibration and judged; then the mean over places.

    Parameters
    ----------
    ratios : mapping
        From `ratios_of`.
    alike : callable
        Gives the place of a scene, where several scenes are of one place.

    Examples
    --------
    >>> left_out({"B01": {"here": np.arange(101.0), "there": np.arange(101.0)}})
    {'B01': 0.683}
    """
    out = {}
    for band, places in ratios.items():
        shares: dict[str, list[float]] = defaultdict(list)
        for name, values in places.items():
            others = [x for other, x in places.items() if alike(other) != alike(name)]
            shares[alike(name)].append(float(np.mean(values <= _factor(others))))
        out[band] = round(float(np.mean([np.mean(s) for s in shares.values()])), 3)
    return out
