"""What a network's standard errors must be multiplied by to hold their promise."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from xsen2.degrade import pair
from xsen2.errors import GridError
from xsen2.kernels import Operator
from xsen2.networks import Card, NetworkMethod
from xsen2.superresolve import superresolve
from xsen2.training.fit import HALF
from xsen2.training.scenes import Scene

__all__ = ["spread_of"]


def spread_of(card: Card, scenes: Sequence[Scene], operator: Operator) -> list[float]:
    """Per band, the factor with which 68 % of the errors lie within one standard error.

    Measured through the calls that a user makes, consistency included, on scenes degraded; every place counts
    alike, whatever its size.

    Parameters
    ----------
    card : Card
        Its own `spread` is taken as 1.
    scenes : sequence of Scene
    operator : {"mtf", "dsen2", "box"}
        How they are degraded.
    """
    plain = dataclasses.replace(card, spread=[1.0] * len(card.spread))
    method = NetworkMethod(plain)
    bands = list(method.produces)
    rng = np.random.default_rng(0)
    found: list[dict[str, list[np.ndarray]]] = [defaultdict(list) for _ in bands]
    for scene in scenes:
        ds = scene.cube()
        if card.ratio == 2:
            ds = ds.drop_vars(["B01", "B09"], errors="ignore")
        try:
            coarse, truth = pair(ds, card.ratio, operator)
        except GridError:
            continue  # has none of the bands, or is too small
        sr = superresolve(coarse, bands, method, native=False, uncertainty=True, operator=operator)
        sr, truth = sr.compute(), truth.compute()
        for number, band in enumerate(bands):
            share = np.abs(sr[band].values - truth[band].values) / sr[f"{band}_se"].values
            found[number][scene.name.split("/")[0]].append(share[np.isfinite(share)])
    factors = []
    for places in found:
        shares = [np.concatenate(parts) for parts in places.values()]
        alike = np.concatenate([rng.choice(s, 20000) for s in shares if s.size])
        factors.append(round(float(np.quantile(alike, HALF)), 4))
    return factors
