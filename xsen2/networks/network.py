"""What a network says of itself besides its layers."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["PATCH", "Network"]

PATCH = 400
"""Largest side, in 10 m pixels, that goes through a network at a time: its features then fit the caches of a CPU."""


class Network(nn.Module):
    """A network that makes the bands of one native grid at 10 m; all architectures derive from it.

    Its arguments are plain numbers and flags, annotated, since cards are checked against them; one of them is `ratio`,
    2 for the 20 m bands and 6 for the 60 m ones.

    Attributes
    ----------
    lattice : int
        Patches begin on its multiples, in 10 m pixels from the image's first one: of networks that work in cells.
    side : int
        Largest side of a patch on a CPU, in 10 m pixels.
    """

    lattice: int = 1
    side: int = PATCH

    @property
    def radius(self) -> int:
        """Receptive field on each side, in 10 m pixels: never a guess, since less leaves seams."""
        raise NotImplementedError(f"{type(self).__name__} does not say its radius")

    @property
    def spare(self) -> int:
        """Pixels of 10 m along all edges of a patch that only a part of the network sees.

        If it is not 0, `forward` takes ``spare=`` and gives a result without them.
        """
        return 0

    @property
    def uncertainty(self) -> bool:
        """Whether it has a branch for standard errors: a module called `doubt`.

        If it has, `forward` takes ``doubt=True`` and gives them after the bands, as many again.
        """
        return "doubt" in self._modules

    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        """Make one batch.

        Parameters
        ----------
        a, b, c : torch.Tensor
            DN / 2000 on their native grids, without nodata: ``(N, 4, H, W)``, ``(N, 6, H/2, W/2)`` and, for ratio 6
            only, ``(N, 2, H/6, W/6)``.

        Returns
        -------
        torch.Tensor
            float32 ``(N, 6 or 2, H, W)``, DN / 2000.
        """
        raise NotImplementedError
