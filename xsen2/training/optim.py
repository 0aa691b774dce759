"""The optimiser: Muon for the convolutions, NAdam for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["Optimiser"]


class Optimiser:
    """Muon (Jordan et al. 2024) on the matrices of inner convolutions, NAdam on all other weights.

    Muon makes every update orthogonal, so that rare directions are learnt as fast as common ones: in trials of
    four minutes it came to 0.36 of bicubic's error where NAdam alone stood at 0.64 (`benchmarks/variants.py`).

    Parameters
    ----------
    network : torch.nn.Module
        Its weights are contiguous (not ``channels_last``): Muon sees each kernel as a matrix, one row per output,
        that shares the kernel's memory.
    rate, fine_rate : float
        Learning rates of Muon and of NAdam.
    """

    def __init__(self, network: nn.Module, rate: float, fine_rate: float) -> None:
        inner = [p for p in network.parameters() if p.ndim == 4 and min(p.shape[:2]) >= 16]
        rest = [p for p in network.parameters() if all(p is not q for q in inner)]
        self.inner = [(p, nn.Parameter(p.detach().view(len(p), -1))) for p in inner]
        matrices = [matrix for _, matrix in self.inner]
        self.parts: list[torch.optim.Optimizer] = [torch.optim.NAdam(rest, lr=fine_rate, betas=(0.9, 0.99))]
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr=rate, weight_decay=0.0))
        self.rates = [fine_rate, rate]
        self.network = network

    def step(self, factor: float) -> None:
        """One update with all rates times `factor`; takes the gradients and clears them."""
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for parameter, matrix in self.inner:
            assert parameter.grad is not None
            matrix.grad = parameter.grad.reshape(matrix.shape)
        for part, rate in zip(self.parts, self.rates, strict=False):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
        self.network.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        """What goes into a checkpoint."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from a checkpoint."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
