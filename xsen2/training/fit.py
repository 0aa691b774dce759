"""Training of a network on pairs: resumable, deterministic given a seed, logged as JSON lines."""

from __future__ import annotations

import io
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from xsen2 import files
from xsen2.errors import WeightsError
from xsen2.networks.inference import best_device, best_dtype
from xsen2.networks.load import build, checkpoint, misfit
from xsen2.networks.twogrid import Folded
from xsen2.progress import ProgressLike, Reporter
from xsen2.training.patches import Pair, balance, batches
from xsen2.training.recipes import DatesRecipe, Plan, Recipe

__all__ = [
    "HALF",
    "BandsTask",
    "DatesRecipe",
    "Optimiser",
    "Plan",
    "Recipe",
    "Run",
    "Task",
    "build",
    "fit",
    "learn",
    "score",
]


# The optimiser: Muon for the convolutions, NAdam for the rest.


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
            # A layer that a batch did not use has no gradient: the one that joins dates, where there is but one.
            matrix.grad = None if parameter.grad is None else parameter.grad.reshape(matrix.shape)
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


HALF = 0.6827
"""Share of errors within one standard error, if they are normal."""


def _tensors(arrays: Sequence[np.ndarray[Any, Any] | None], device: torch.device) -> Iterator[torch.Tensor | None]:
    for x in arrays:
        yield None if x is None else torch.from_numpy(np.ascontiguousarray(x)).to(device)


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def score(network: nn.Module, pairs: Sequence[Pair], dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """RMSE divided by bicubic's per place (means over its bands), for the log.

    Returns
    -------
    dict
        Place → ratio. Patches of one place are pooled.
    """
    device = next(network.parameters()).device
    errors = defaultdict(list)
    was_training = network.training
    network.eval()
    with torch.inference_mode(), _autocast(device, dtype):
        for pair in pairs:
            arrays = (pair.a[None], pair.b[None], None if pair.c is None else pair.c[None])
            out = network(*_tensors(arrays, device))[0].cpu().numpy()
            counts = pair.weight > 0
            error = ((out - pair.truth)[:, counts].astype(np.float64) ** 2).mean(axis=1)
            errors[pair.place].append((counts.sum(), error, pair.bicubic_error()))
    network.train(was_training)
    ratios = {}
    for place, rows in errors.items():
        weights = [n for n, _, _ in rows]
        network_rmse, bicubic_rmse = (
            np.sqrt(np.average([r[i] for r in rows], axis=0, weights=weights)).mean() for i in (1, 2)
        )
        ratios[place] = float(network_rmse / bicubic_rmse)
    return ratios


def _loss(network: nn.Module, batch: Sequence[torch.Tensor | None], kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted error of the estimate, as `Recipe.loss` says; and, for networks that give standard errors, theirs."""
    a, b, c, truth, weight = batch
    assert truth is not None
    assert weight is not None
    weight = weight[:, None]
    scale, counted = weight, (weight > 0).sum((2, 3))
    weight = weight / (counted.sum() * truth.shape[1]).clamp(min=1)
    uncertainty = network.uncertainty
    out = network(a, b, c, uncertainty=True) if uncertainty else network(a, b, c)
    error = (out[:, : truth.shape[1]] - truth).abs()
    if kind == "absolute":
        loss = (error * weight).sum()
    else:
        square = ((error * scale) ** 2).sum((2, 3)) / counted.clamp(min=1)
        loss = (square + 1e-6).sqrt().mean()
    if uncertainty:
        # The pinball loss is least where 68 % of the errors are smaller: a standard error, without assuming a law.
        gap = error.detach() - out[:, truth.shape[1] :]
        return loss, (torch.maximum(HALF * gap, (HALF - 1) * gap) * weight).sum()
    return loss, torch.zeros(())


Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Run:
    """Where and how a training runs: of all this only `initial` decides the outcome.

    Attributes
    ----------
    folder : path
        Receives ``checkpoint.pt`` and ``log.jsonl``, from which the same run goes on.
    initial : mapping, optional
        Weights to start from.
    every : int
        Steps between lines of the log, at which the network is judged and a checkpoint is made.
    device : str
        As `xsen2.networks.inference.best_device` takes it. bfloat16 where that is faster.
    threads : int, optional
        Threads of torch; all cores by default.
    progress : bool or callable
        Show a bar, or tell a function after each step, see `xsen2.Progress`. If that stops the training, a checkpoint
        is made of the last step, from which the same call goes on.
    about : str
        Text before the bar.
    """

    folder: str | Path
    initial: Mapping[str, torch.Tensor] | None = None
    every: int = 200
    device: str = "auto"
    threads: int | None = None
    progress: ProgressLike = True
    about: str = "training"


class Task(Protocol[Batch]):
    """What a network is trained on: its batches, its loss and its validation."""

    def stream(self, first: int) -> Iterator[Batch]:
        """Batches from number `first` on, for ever; each a function of its number and the recipe's seed alone."""

    def loss(self, network: nn.Module, batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of the estimate, and that of the standard errors, or zero without them."""

    def judge(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
        """Scores of the network at places that it was not trained on, for the log; the bar shows ``validation``."""

    def start(self, network: nn.Module, initial: Mapping[str, torch.Tensor]) -> None:
        """Put weights to start from into the network."""


@dataclass(frozen=True)
class BandsTask:
    """The 20 m or 60 m bands of one date."""

    train: list[list[Pair]]
    validation: Sequence[Pair]
    recipe: Recipe

    def stream(self, first: int) -> Iterator[Any]:
        """Patches, as the recipe draws them."""
        return batches(balance(self.train), self.recipe, first)

    def loss(self, network: nn.Module, batch: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted absolute error, and the quantile loss of the standard errors."""
        return _loss(network, tuple(_tensors(batch, device)), self.recipe.loss)

    def judge(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
        """RMSE divided by bicubic's: mean over places, and the worst."""
        ratios = score(network, self.validation, dtype)
        if not ratios:
            return {}
        return {"validation": round(float(np.mean(list(ratios.values()))), 4), "worst": max(ratios.values())}

    def start(self, network: nn.Module, initial: Mapping[str, torch.Tensor]) -> None:
        """Put weights into the network, those of a narrower one too; the error names those that do not fit."""
        recipe = self.recipe
        if isinstance(network, Folded):
            initial = network.widened(initial)
        if wrong := misfit(network, initial):
            raise WeightsError(
                f"the weights to start from do not fit {recipe.architecture} with {dict(recipe.arguments)} and ratio "
                f"{recipe.ratio}: {wrong}. Give those of the same network and ratio"
            )
        network.load_state_dict({k: v.float() for k, v in initial.items()})


def fit(train: list[list[Pair]], validation: Sequence[Pair], recipe: Recipe, how: Run) -> dict[str, torch.Tensor]:
    """Train as `recipe` says, going on from the checkpoint of an earlier run if there is one.

    Parameters
    ----------
    train : list of list of Pair
        Per scene, its pairs.
    validation : sequence of Pair
        Other places; their error divided by bicubic's is logged and never used to train.
    recipe : Recipe
    how : Run
        Its `initial` holds all weights that the network has and no others, in its shapes or, for those that do most of
        their work at 20 m, in those of a network with fewer features there.

    Returns
    -------
    dict
        The averaged weights: name → tensor.

    Raises
    ------
    Cancelled, WeightsError, StoreError
        As `learn`.
    """
    return learn(BandsTask(train, validation, recipe), recipe, how)


def learn(task: Task[Any], recipe: Plan, how: Run) -> dict[str, torch.Tensor]:
    """Train a network on a task, going on from the checkpoint of an earlier run if there is one.

    Parameters
    ----------
    task : Task
    recipe : Recipe or DatesRecipe
        A checkpoint must be of the same recipe, but for `steps` and `cool`.
    how : Run

    Returns
    -------
    dict
        The averaged weights: name → tensor.

    Raises
    ------
    Cancelled
        If the run's `progress` stopped it.
    WeightsError
        If its `initial` does not fit the network of the recipe, or if the checkpoint is damaged or of another recipe;
        only `steps` and `cool` may change between runs.
    StoreError
        If the disk is full, or may not be written to.
    """
    folder = Path(how.folder)
    with files.named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if how.threads:
        torch.set_num_threads(how.threads)
    device = best_device(how.device)
    dtype = best_dtype(device)
    torch.manual_seed(recipe.seed)
    network = build(recipe.architecture, recipe.ratio, recipe.arguments).to(device)
    if how.initial is not None:
        task.start(network, how.initial)
    optimiser = Optimiser(network, recipe.rate, recipe.fine_rate)
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    saved, first, seconds = folder / "checkpoint.pt", 0, 0.0
    losses: list[tuple[float, float]] = []
    recipe_fields = {k: v for k, v in asdict(recipe).items() if k not in ("steps", "cool")}
    if saved.exists():
        state = checkpoint(saved, device)
        if state["recipe"] != recipe_fields:
            raise WeightsError(
                f"{saved} was made by another recipe ({state['recipe']}): use another folder, or remove it"
            )
        try:
            network.load_state_dict(state["network"])
            optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(f"{saved} is not of the network of its recipe: remove it to begin anew") from error
        average, first, seconds = state["average"], state["step"], state["seconds"]
        losses = state.get("losses", [])
    stream = task.stream(first)
    began = time.monotonic() - seconds

    def save(step: int) -> None:
        state = {
            "recipe": recipe_fields,
            "step": step,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "average": average,
            "seconds": round(time.monotonic() - began, 1),
            "losses": losses,  # since the last line of the log
        }
        raw = io.BytesIO()  # torch has errors of its own for a full disk
        torch.save(state, raw)
        files.write(saved, raw.getvalue())

    after = f"The same call goes on from {saved}"
    with (
        files.named(folder),
        (folder / "log.jsonl").open("a") as log,
        Reporter(how.progress, recipe.steps, "step", how.about, done=first, after=after) as reporter,
    ):
        for step in range(first, recipe.steps):
            batch = next(stream)
            with _autocast(device, dtype):
                loss, uncertainty_loss = task.loss(network, batch, device)
            (loss + uncertainty_loss).backward()  # type: ignore[no-untyped-call]
            optimiser.step(recipe.factor(step))
            memory = min(recipe.ema, (step + 1) / (step + 10))
            for key, value in network.state_dict().items():
                average[key].lerp_(value, 1 - memory)
            losses.append((float(loss.detach()), float(uncertainty_loss.detach())))
            if (step + 1) % how.every and step + 1 != recipe.steps:
                if not reporter.update(step + 1):
                    save(step + 1)
                    reporter.check()
                continue
            scores = task.judge(_with(recipe, average, device), device, dtype)
            mean = np.mean(losses, axis=0)
            line: dict[str, Any] = {"step": step + 1, "loss": round(mean[0], 5), "uncertainty_loss": round(mean[1], 5)}
            if scores:
                line |= scores
                reporter.note(validation=line["validation"])
            line["seconds"] = round(time.monotonic() - began, 1)
            log.write(json.dumps(line) + "\n")
            log.flush()
            losses.clear()
            save(step + 1)
            reporter.update(step + 1)
            reporter.check()
    return {k: v.cpu() for k, v in average.items()}


def _with(recipe: Plan, weights: Mapping[str, torch.Tensor], device: torch.device) -> nn.Module:
    network = build(recipe.architecture, recipe.ratio, recipe.arguments).to(device)
    network.load_state_dict(weights)
    return network
