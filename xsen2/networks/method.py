"""Networks as methods, ours and other people's: small recipes that travel in a graph; workers load the weights once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xsen2.bands import A, B, C
from xsen2.errors import MethodError
from xsen2.methods.protocol import Array, Method, finest_halo
from xsen2.networks.cards import DEFAULT, Card
from xsen2.networks.external import Model

__all__ = ["ExternalMethod", "NetworkMethod", "network_methods"]


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
        return B if self.card.ratio == 2 else C

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

        return infer(self.card, a, b, c, device=self.device, dtype=self.dtype, doubt=self.uncertainty)

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


def network_methods(found: Sequence[Card], bands: Sequence[str], device: str, dtype: str) -> list[NetworkMethod]:
    """The networks among `found` that make any of `bands`."""
    made = [NetworkMethod(card, device, dtype) for card in found]
    return [m for m in made if set(m.produces) & set(bands)]


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
