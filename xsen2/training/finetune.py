"""Adapt a network to one cube, by training it on that cube degraded, and keep only what helps."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xarray as xr

from xsen2 import files
from xsen2.bands import grid_of
from xsen2.cube import recognise
from xsen2.engine.operators import OPERATORS, Operator
from xsen2.errors import BandError, Cancelled, GridError, MethodError, WeightsError, once
from xsen2.methods.protocol import Array
from xsen2.methods.registry import resolve
from xsen2.networks.cards import DEFAULT, Card
from xsen2.networks.method import NetworkMethod
from xsen2.progress import Progress, ProgressLike, Reporter
from xsen2.training.patches import Blur, Pair, degrade_bands, pairs
from xsen2.training.scenes import Scene, scenes_of

if TYPE_CHECKING:
    import torch

    Weights = dict[str, torch.Tensor]

__all__ = ["Adapted", "coarser", "finetune"]

BLENDS = (0.0, 0.125, 0.25)  # 0.5 loses up to 2 % on mountains, 1 more: part of what is trained fits that scale alone
PATCH = 24
SCENES = 16  # at most, of all crops and dates: more take longer and teach little
LEAST = 0.998  # of the error before: a smaller gain is noise


@dataclass(frozen=True)
class Adapted:
    """A network adapted to a cube: pass it, or its folder, as ``method=``.

    Attributes
    ----------
    folder : pathlib.Path
        Holds weights and cards: the adapted ones, and those of the 60 m bands as they were. A temporary folder
        until it is saved, which is gone when Python ends.
    gain : float
        By how much the error fell on the cube at a finer scale than that of the training: 0.05 is 5 %.
        0 if nothing helped; then the weights are the general ones.
    blend : float
        How far the weights went from the general ones (0) towards those after training (1).
    """

    folder: Path
    gain: float
    blend: float

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.folder.name

    def __fspath__(self) -> str:
        return str(self.folder)

    def save(self, folder: str | os.PathLike[str]) -> Adapted:
        """Copy to a new folder, for later (``method=folder``) and for a cluster, whose workers must see it there.

        Raises
        ------
        WeightsError
            If there is something in that folder already.
        StoreError
            If nothing can be written, because the disk is full or may not be written to.
        """
        target = files.local(folder, WeightsError)
        with files.named(target, files.ANEW):
            if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
                raise WeightsError(f"{target} is not an empty folder: give another")
            target.parent.mkdir(parents=True, exist_ok=True)
            with files.whole(target, folder=True) as part:
                for file in sorted(self.folder.iterdir()):
                    shutil.copyfile(file, part / file.name)
        return replace(self, folder=target)


def coarser(scene: Scene, how: Blur) -> Scene:
    """The 10 m and 20 m bands of a scene, degraded by 2; a pixel counts if all under it do."""
    height, width = (n // 2 * 2 for n in scene.bands[20].shape[1:])
    bands: dict[int, Array] = {}
    valid: dict[int, npt.NDArray[np.bool_]] = {}
    for gsd, (rows, columns) in {10: (2 * height, 2 * width), 20: (height, width)}.items():
        bands[gsd] = degrade_bands(scene.bands[gsd][:, :rows, :columns], gsd, 2, how)
        cells = scene.valid[gsd][:rows, :columns].reshape(rows // 2, 2, columns // 2, 2)
        valid[gsd] = np.asarray(cells.all(axis=(1, 3)))
    return replace(scene, bands=bands, valid=valid)


@once
def finetune(
    ds: xr.Dataset | xr.DataTree,
    method: str | os.PathLike[str] = "default",
    *,
    operator: Operator = "mtf",
    steps: int = 60,
    seed: int = 0,
    device: str = "auto",
    progress: ProgressLike = True,
) -> Adapted:
    """Adapt the network of the 20 m bands to this cube.

    The network is trained on the cube degraded, where the truth is known. Whether that helps at the next finer scale
    is tried first: trained on the cube degraded by 4 and judged on the cube degraded by 2, with the weights kept
    near the general ones. If it does not help there, the general weights come back.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataTree
        A cube with all 10 m and 20 m bands. Its pixels are read now: of large ones, at most 16 crops of
        1200 x 1200 pixels, spread over area and dates; those without valid pixels teach nothing and are not replaced.
    method : str or path
        The network to start from, as `xsen2.superresolve.superresolve` takes it.
    operator : {"mtf", "dsen2", "box"}
        How the cube is degraded: ``"mtf"`` for use on real data.
    steps : int
        Updates of each of the two trainings.
    seed : int
        The same seed on the same machine gives the same weights.
    device : str
        As `xsen2.superresolve.superresolve` takes it.
    progress : bool or callable
        Show a bar, or tell a function after each step, see `xsen2.Progress`. If that stops the call, nothing is kept.

    Returns
    -------
    Adapted
        Pass it as ``method=``; `Adapted.save` keeps it. The 60 m bands are made by the network as it was, if
        the method made them.

    Raises
    ------
    Cancelled
        If `progress` stopped it.
    GridError
        If the cube is smaller than about 500 m, or has no 20 m pixels that are valid.
    MethodError
        If the method is no network, or an argument is out of range.
    SourceError
        If the cube lacks a 10 m or 20 m band.
    StoreError
        If the disk of temporary files is full, or may not be written to.
    WeightsError
        If weights of the method, those of the 60 m bands included, are missing or broken.

    Examples
    --------
    >>> import xsen2
    >>> cube = xsen2.sample().isel(time=0)
    >>> adapted = cube.dsen2.finetune(steps=2, progress=False)
    >>> sr = cube.dsen2.superresolve(["B11"], method=adapted)
    """
    from xsen2.networks.load import tensors, verified  # and torch

    if steps < 1:
        raise MethodError(f"steps={steps}: use 1 or more")
    first = resolve(method, ["B05"])[0]
    if not isinstance(first, NetworkMethod):
        raise MethodError(f"method={os.fspath(method)!r} has no weights to train: use a network, as {DEFAULT!r}")
    if operator not in OPERATORS:
        raise MethodError(f"unknown operator {operator!r}: use one of {', '.join(OPERATORS)}")
    how = Blur(operator)
    # All that comes from files first: what is broken is known before hours of work.
    general = tensors(first.card)
    others = [(card, tensors(card), verified(card)) for card in _cards_60m(method)]
    scenes = _scenes(ds)
    near = [p for s in scenes if (p := list(pairs(s, 2, [how], PATCH)))]
    far = [p for s in scenes if (p := list(pairs(coarser(s, how), 2, [how], PATCH)))]
    if not far or not any((q.weight > 0).any() for p in far for q in p):
        raise GridError(
            "the cube is too small to adapt a network to: valid pixels of the 20 m bands over at least 500 x 500 m are "
            "needed"
        )
    with (
        files.named("a temporary folder", files.ANEW, "free space, or name another folder in TMPDIR"),
        Reporter(progress, 2 * steps, "step", "adapting", after="Nothing is kept of it") as reporter,
    ):
        adapted = _adapt(first.card, general, near, far, steps, seed, device, reporter)
    for other, _, raw in others:
        renamed = replace(other, network=f"{first.card.network}-adapted", path="")
        renamed.write(adapted.folder, raw)
    return adapted


def _cards_60m(method: str | os.PathLike[str]) -> list[Card]:
    """The cards of the networks that make the 60 m bands for a method; none if it does not make them."""
    try:
        return [m.card for m in resolve(method, ["B01"]) if isinstance(m, NetworkMethod)]
    except BandError:
        return []


def _scenes(ds: xr.Dataset | xr.DataTree) -> list[Scene]:
    cube = recognise(ds)
    small = replace(cube, bands={b: a for b, a in cube.bands.items() if grid_of(b) != 60}, extras={})
    return list(scenes_of(small.dataset(), "cube", SCENES))


def _adapt(
    card: Card,
    general: Weights,
    near: Sequence[list[Pair]],
    far: Sequence[list[Pair]],
    steps: int,
    seed: int,
    device: str,
    reporter: Reporter,
) -> Adapted:
    from xsen2.networks.load import build
    from xsen2.training.export import write
    from xsen2.training.fit import Recipe, Run, fit, score

    recipe = Recipe(
        card.architecture,
        2,
        steps,
        steps,
        dict(card.arguments),
        rate=0.002,
        fine_rate=1e-4,
        batch=32,
        patch=PATCH,
        ema=0.98,
        seed=seed,
    )

    def train(data: Sequence[list[Pair]], before: int) -> Weights:
        def report_progress(now: Progress) -> None:
            reporter.update(before + now.done)
            reporter.check()

        with tempfile.TemporaryDirectory() as folder:
            try:
                return fit(list(data), [], recipe, Run(folder, general, steps, device, progress=report_progress))
            except Cancelled:
                reporter.check()  # raises the exception of this call instead
                raise

    def blended(tuned: Weights, blend: float) -> Weights:
        return {k: v + blend * (tuned[k] - v) for k, v in general.items()}

    def error(weights: Weights) -> float:
        network = build(card.architecture, 2, card.arguments)
        network.load_state_dict(weights)
        return float(np.mean(list(score(network, [q for p in near for q in p]).values())))

    trial = train(far, 0)
    errors = {blend: error(blended(trial, blend)) for blend in BLENDS}
    blend = min(errors, key=lambda b: errors[b])
    gain = 1 - errors[blend] / errors[0.0]
    if errors[blend] > LEAST * errors[0.0]:
        blend, gain = 0.0, 0.0
    weights = blended(train(near, steps), blend) if blend else general
    reporter.update(2 * steps)  # also if there was no second training
    reporter.check()
    folder = files.temporary("xsen2-adapted")
    write(
        weights,
        folder,
        name=f"{card.name}-adapted",
        network=f"{card.network}-adapted",
        architecture=card.architecture,
        arguments=card.arguments,
        ratio=2,
        licence=card.licence,
        source=f"{card.source}; adapted to one cube",
        spread=list(card.spread),
        training={"from": card.name, "recipe": asdict(recipe), "blend": blend, "gain": round(gain, 4)},
    )
    return Adapted(folder, round(gain, 4), blend)
