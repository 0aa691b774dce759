"""Networks as methods, ours and other people's: small recipes that travel in a graph; workers load the weights once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from xsen2.bands import A, B, C
from xsen2.errors import MethodError
from xsen2.methods.protocol import Array, Method, Request, finest_halo
from xsen2.multitemporal.fusion import Fit, Fusion
from xsen2.multitemporal.wiener import Wiener
from xsen2.networks.cards import DEFAULT, MOST_FRAMES, Card
from xsen2.networks.external import Model

__all__ = ["ExternalMethod", "FusionNetwork", "NetworkMethod", "network_methods"]


@dataclass(frozen=True)
class NetworkMethod(Method):
    """A network as a method: a small recipe that travels in a graph; workers load the weights once.

    See `xsen2.methods.protocol.Method` for the meaning of the properties.
    """

    card: Card
    device: str = "auto"
    dtype: str = "auto"
    uncertainty: bool = False

    @property
    def name(self) -> str:
        return self.card.network

    @property
    def produces(self) -> tuple[str, ...]:
        return self.card.bands

    @property
    def needs(self) -> tuple[str, ...]:
        return A + B if self.card.ratio == 2 else A + B + C

    @property
    def halo(self) -> Mapping[int, int]:
        return {10 * self.card.ratio: self.card.halo}

    @property
    def version(self) -> str:
        return f"{self.card.name} ({self.card.sha256[:16]})"

    @property
    def lattice(self) -> int:
        """Of networks that work in cells, so that blocks begin with one."""
        return self.card.lattice

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        from xsen2.networks.inference import infer

        return infer(self.card, a, b, c, device=self.device, dtype=self.dtype, uncertainty=self.uncertainty)

    def with_uncertainty(self) -> NetworkMethod:
        """The same method, which gives standard errors too.

        Raises
        ------
        MethodError
            If the network has not been trained to.
        """
        if not self.card.spread:
            raise MethodError(
                f"{self.card.name} does not say how sure it is: leave uncertainty=True out, or use {DEFAULT!r}"
            )
        return replace(self, uncertainty=True)

    def __dask_tokenize__(self) -> tuple[str, str, str, bool]:
        return self.card.sha256, self.device, self.dtype, self.uncertainty


SAME = 0.005
"""Of what differs between dates, as a share of a date's variance: noise makes so much of the same ground."""

FILLED = 3
"""Pixels that are read, beyond what a network sees, to fill those that are hidden on the date that is made."""


@dataclass(frozen=True)
class FusionNetwork(Fusion):
    """A network that makes one finer image of many dates, as a method; see `xsen2.networks.manydates.MultiDate`."""

    card: Card = field(kw_only=True)
    device: str = "auto"
    dtype: str = "auto"

    @property
    def name(self) -> str:
        return self.card.network

    @property
    def halo(self) -> Mapping[int, int]:
        return {10: self.card.halo + FILLED}

    @property
    def version(self) -> str:
        return f"{self.card.name} ({self.card.sha256[:16]})"

    def fuse(self, frames: Array, fit: Fit) -> Array:
        from xsen2.networks.inference import fuse

        return fuse(
            self.card,
            frames,
            -fit.shifts,
            np.maximum(fit.change.mean(axis=1) - SAME, 0),
            fit.errors,
            device=self.device,
            dtype=self.dtype,
            uncertainty=self.uncertainty,
            reach=FILLED,
        )

    def of(self, bands: tuple[str, ...]) -> Fusion:
        """For other bands than it has learnt, the linear estimate."""
        return Wiener(gsd=self.gsd, frames=self.frames, masked=self.masked, uncertainty=self.uncertainty).of(bands)

    def with_uncertainty(self) -> FusionNetwork:
        """The same method, which gives standard errors too.

        Raises
        ------
        MethodError
            If the network has not been trained to.
        """
        if not self.card.spread:
            raise MethodError(f"{self.card.name} does not say how sure it is: leave uncertainty=True out")
        return replace(self, uncertainty=True)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        fit = None if self.fit is None else tuple(vars(self.fit).values())
        return self.card.sha256, self.device, self.dtype, self.uncertainty, self.frames, self.masked, fit


def network_methods(cards: Sequence[Card], request: Request) -> list[Method]:
    """The networks among `cards` that make any of the bands that are asked for, in the pixel size that is.

    Where none makes that size, those of another, which the caller will find out.
    """
    wanted = 10 if request.gsd is None else request.gsd
    gsd = min((card.gsd for card in cards), key=lambda gsd: (abs(gsd - wanted), gsd))
    methods: list[Method] = []
    for card in cards:
        if card.gsd == gsd and card.ratio == 1:
            frames = card.frames if request.frames is None else request.frames
            if frames > MOST_FRAMES:
                raise MethodError(f"frames={frames}: {card.name} reads at most {MOST_FRAMES} dates")
            methods.append(
                FusionNetwork(gsd=card.gsd, frames=frames, card=card, device=request.device, dtype=request.dtype)
            )
        elif card.gsd == gsd:
            methods.append(NetworkMethod(card, request.device, request.dtype))
    return [method for method in methods if set(method.produces) & set(request.bands)]


@dataclass(frozen=True)
class ExternalMethod(Method):
    """A described model as a method; see `xsen2.methods.protocol.Method` for the meaning of the properties."""

    model: Model
    device: str = "auto"

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def produces(self) -> tuple[str, ...]:
        return self.model.produces

    @property
    def needs(self) -> tuple[str, ...]:
        return self.model.bands

    @property
    def gsd(self) -> float:
        return 10 / self.model.factor

    @property
    def halo(self) -> Mapping[int, int]:
        core, context = self.model.core, self.model.context
        # Of a model with one size of input a pixel depends on where its tile lies: whole tiles are the context then.
        return {10: -(-context // core) * core if core else context}

    @property
    def lattice(self) -> int:
        return self.model.core or self.model.cell

    @property
    def version(self) -> str:
        return f"{self.model.name} ({self.model.sha256[:16]})"

    def __call__(self, a: Array, b: Array, c: Array) -> Array:
        from xsen2.networks.external_run import infer

        return infer(self.model, a, b, c, finest_halo(self), self.device)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return (repr(self.model), self.device)
