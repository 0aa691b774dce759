"""Recipes: everything that decides the outcome of a training, besides the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from xsen2.errors import MethodError

__all__ = ["DatesRecipe", "Plan", "Recipe"]


class _Schedule:
    """How the learning rates go over a training."""

    steps: int
    cool: int

    def factor(self, step: int) -> float:
        """What the rates are multiplied by in a step: 100 to warm up, then flat, then falling."""
        left = (self.steps - step) / max(1, self.cool)
        return min(1.0, (step + 1) / 100) * min(1.0, 0.02 + 0.98 * left)


@dataclass(frozen=True)
class Recipe(_Schedule):
    """Everything that decides the outcome of a run, besides the data.

    Attributes
    ----------
    architecture : str
        Class in `xsen2.networks`, built with `arguments`.
    ratio : {2, 6}
        2: the 20 m bands; 6: the 60 m bands.
    steps, cool : int
        Updates, and at the end of them those during which the rates fall to a fiftieth. Until then the
        rates stay, so a run can be made longer after the fact.
    rate, fine_rate : float
        Learning rates of Muon (inner convolutions) and of NAdam (all else).
    batch, patch : int
        Patches in a batch, and their side in pixels of the finest grid, a multiple of `ratio`.
    noise : float
        Standard deviation, in DN, of the noise added to the inputs.
    haze : float
        Share of patches that lose part of what all their pixels have in common, band by band, and get other gains, as
        atmospheric correction does: what was learnt on L1C then serves L2A.
    share : float
        A patch picks a place by ``area ** share``, in it a scene by area, then one of its pairs.
    real : float, optional
        Share of patches that are no surrogates; as their areas say by default.
    vary : bool
        Whether `noise` is the most a patch gets, instead of what every patch gets.
    alien : float
        Share of patches some of whose coarse bands have little to do with the others: they are of another patch, drown
        in noise, as the short-wave infrared does over ice and water, or lie elsewhere, as those of clouds do.
    loss : {"absolute", "rms"}
        Mean absolute error; or the root of the mean square error of each band of each patch, mean over them, which is
        what scores are of, and too jumpy to begin with.
    ema : float
        Memory of the averaged weights, which are what is kept.
    """

    architecture: str
    ratio: int
    steps: int
    cool: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 0.02
    fine_rate: float = 1e-3
    batch: int = 64
    patch: int = 48
    noise: float = 0.0
    haze: float = 0.0
    share: float = 0.5
    real: float | None = None
    vary: bool = False
    alien: float = 0.0
    loss: str = "absolute"
    ema: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what would be taken for another loss."""
        if self.loss not in ("absolute", "rms"):
            raise MethodError(f"loss={self.loss!r}: use 'absolute' or 'rms'")


@dataclass(frozen=True)
class DatesRecipe(_Schedule):
    """Everything that decides the outcome of a run for many dates, besides the data.

    Attributes
    ----------
    architecture : str
        Class in `xsen2.networks`, built with `arguments`, `zoom` among them.
    steps, cool, rate, fine_rate, ema, seed
        As those of `Recipe`.
    batch, patch : int
        Patches in a batch, and their side in coarse pixels.
    counts : tuple of int
        Numbers of frames, of which each batch has one.
    """

    architecture: str
    steps: int
    cool: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 0.02
    fine_rate: float = 1e-3
    batch: int = 12
    patch: int = 32
    counts: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 8, 8, 12)
    ema: float = 0.995
    seed: int = 0
    ratio: ClassVar[int] = 1

    @property
    def zoom(self) -> int:
        """Finer pixels along each side of a native one."""
        return int(self.arguments["zoom"])


Plan = Recipe | DatesRecipe
