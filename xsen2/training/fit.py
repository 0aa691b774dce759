"""Training of a network on pairs: resumable, deterministic given a seed, logged as JSON lines.

Wide networks are slow to train from nothing on a CPU, so a run may go through stages of growing
width: each stage starts as the function that the one before had learnt (Net2Net, Chen et al. 2016).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from xsen2.networks import GAIN
from xsen2.networks.dsen2 import upsample
from xsen2.training.patches import Pair, batches

__all__ = ["Recipe", "Stage", "fit", "widen"]


@dataclass(frozen=True)
class Stage:
    """One width of the network: `steps` updates, cosine from `rate` to a twentieth of it.

    Attributes
    ----------
    relative : bool
        Divide each patch's and band's error by that of bilinear upsampling there, so that dark water
        counts as much as a bright city.
    share : float
        Scenes are drawn by area to this power: under 1 favours small ones.
    noise : float
        Standard deviation, in DN, of the noise added to the inputs.
    until : int, optional
        Leave the stage before the end of its schedule.
    """

    features: int
    steps: int
    rate: float
    relative: bool = False
    share: float = 1.0
    noise: float = 2.0
    until: int | None = None

    @property
    def end(self) -> int:
        """Steps that are run."""
        return self.until or self.steps


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome of a run, besides the data."""

    ratio: int
    stages: tuple[Stage, ...]
    batch: int = 8
    patch: int = 48
    ema: float = 0.998
    haze: float = 0.0
    seed: int = 0


def widen(module: nn.Module, wider: nn.Module, seed: int) -> None:
    """Copy `module` into `wider`, whose inner convolutions are twice as wide: the same function.

    Every feature is doubled and the weights that read it are split into two unequal parts, which
    breaks the symmetry between the copies without changing the output.
    """
    generator = torch.Generator().manual_seed(seed)
    target = dict(wider.named_parameters())
    with torch.no_grad():
        for name, old in module.named_parameters():
            new = old.detach()
            if new.shape[0] != target[name].shape[0]:
                new = torch.cat([new, new])
            if new.ndim == 4 and new.shape[1] != target[name].shape[1]:
                part = 0.5 + 0.25 * (torch.rand(new.shape, generator=generator) - 0.5)
                new = torch.cat([new * part, new * (1 - part)], dim=1)
            target[name].copy_(new)


def _score(network: nn.Module, pairs: Sequence[Pair]) -> float:
    """Mean over scenes of the RMSE in DN, over what counts."""
    scores = []
    network.eval()
    with torch.inference_mode():
        for pair in pairs:
            inputs = [
                torch.from_numpy(np.ascontiguousarray(z))[None] for z in (pair.a, pair.b, pair.c) if z is not None
            ]
            error = (network(*inputs)[0].numpy() - pair.truth)[:, pair.weight > 0]
            scores.append(float(np.sqrt(np.mean(error.astype(np.float64) ** 2))))
    network.train()
    return GAIN * float(np.mean(scores))


def _loss(error: torch.Tensor, weight: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
    """Mean absolute error over what counts; relative to `reference`, in a typical city's unit of 50 DN."""
    weight = weight[:, None]
    if reference is None:
        return (error * weight).sum() / (weight.sum() * error.shape[1]).clamp(min=1)
    count = weight.sum(dim=(2, 3)).clamp(min=1)
    own, other = ((x * weight).sum(dim=(2, 3)) / count for x in (error, reference))
    return (own / (other + 1 / GAIN)).mean() * (50 / GAIN)


def _warmup_cosine(step: int, stage: Stage) -> float:
    warm = min(1.0, (step + 1) / 50)
    return stage.rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / stage.steps)))


def fit(
    make: Callable[[int], nn.Module],
    train: list[list[Pair]],
    validation: Sequence[Pair],
    recipe: Recipe,
    folder: str | Path,
    *,
    every: int = 200,
    threads: int | None = None,
) -> dict[str, Any]:
    """Train through all stages of `recipe`, going on from ``folder/checkpoint.pt`` if it is there.

    Parameters
    ----------
    make : callable
        ``make(features)`` gives a fresh network.
    train : list of list of Pair
        Per scene, its pairs.
    validation : sequence of Pair
        Other places; their RMSE is logged every `every` steps and never used to train.
    folder : path
        Receives ``checkpoint.pt``, ``log.jsonl`` and, at the end, ``ema.pt``.

    Returns
    -------
    dict
        The averaged (EMA) weights: name → tensor.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    saved = folder / "checkpoint.pt"
    state: dict[str, Any] = {"stage": 0, "step": 0, "seconds": 0.0}
    if saved.exists():
        state = torch.load(saved, weights_only=True)
    previous: nn.Module | None = None
    began = time.monotonic() - state["seconds"]
    done_before = sum(s.end for s in recipe.stages[: state["stage"]])
    log = (folder / "log.jsonl").open("a")
    for number in range(state["stage"], len(recipe.stages)):
        stage = recipe.stages[number]
        torch.manual_seed(recipe.seed + number)
        network = make(stage.features).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.NAdam(network.parameters(), lr=stage.rate)
        if previous is not None:
            widen(previous, network, recipe.seed + number)
        average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        first = 0
        if number == state["stage"] and "network" in state:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
            average, first = state["average"], state["step"]
        stream = batches(
            train,
            recipe.ratio,
            recipe.batch,
            recipe.patch,
            recipe.seed,
            start=done_before + first,
            noise=stage.noise,
            haze=recipe.haze,
            share=stage.share,
        )
        losses: list[float] = []
        label = f"{recipe.ratio}x, {stage.features} features"
        with click.progressbar(range(first, stage.end), length=stage.end - first, label=label) as bar:
            for step in bar:
                for group in optimiser.param_groups:
                    group["lr"] = _warmup_cosine(step, stage)
                a, b, c, truth, weight = (
                    None if z is None else torch.from_numpy(np.ascontiguousarray(z)) for z in next(stream)
                )
                assert a is not None
                assert b is not None
                assert truth is not None
                assert weight is not None
                low = b if c is None else c
                reference = (upsample(low, recipe.ratio) - truth).abs() if stage.relative else None
                loss = _loss((network(a, b, c) - truth).abs(), weight, reference)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimiser.step()
                keep = min(recipe.ema, (step + 1) / (step + 10))
                for key, value in network.state_dict().items():
                    average[key].lerp_(value.detach(), 1 - keep)
                losses.append(float(loss.detach()) * GAIN)
                last = step + 1 == stage.end
                if (step + 1) % every == 0 or last:
                    judge = make(stage.features)
                    judge.load_state_dict(average)
                    line = {
                        "features": stage.features,
                        "step": step + 1,
                        "loss_dn": round(float(np.mean(losses)), 3),
                        "validation_rmse_dn": round(_score(judge, validation), 3),
                        "seconds": round(time.monotonic() - began, 1),
                    }
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    losses.clear()
                    state = {
                        "stage": number,
                        "step": step + 1,
                        "network": network.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "average": average,
                        "seconds": time.monotonic() - began,
                    }
                    scratch = saved.with_suffix(".tmp")
                    torch.save(state, scratch)
                    scratch.replace(saved)  # never a half-written checkpoint
        done_before += stage.end
        previous = make(stage.features)
        previous.load_state_dict(average)
    log.close()
    result = {"weights": previous.state_dict() if previous else state["average"], "recipe": asdict(recipe)}
    torch.save(result["weights"], folder / "ema.pt")
    return dict(result["weights"])
