"""A network as a method: a small recipe that travels in a graph; workers load the weights once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xsen2.bands import A, B, C
from xsen2.errors import MethodError
from xsen2.methods.protocol import Array, Method
from xsen2.networks.cards import DEFAULT, Card

__all__ = ["NetworkMethod", "network_methods"]


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
