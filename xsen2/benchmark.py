"""Methods over many scenes, one scene in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import xarray as xr

from xsen2.errors import once
from xsen2.kernels import Operator
from xsen2.reporting.judge import Judge, Methods, Tally, labelled
from xsen2.reporting.subjects import Scenes, subjects

__all__ = ["benchmark"]


@once
def benchmark(
    scenes: Scenes,
    methods: Methods = ("bicubic", "default"),
    scale: int = 2,
    operator: Operator = "mtf",
    *,
    border: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    progress: Callable[[str], object] | None = None,
) -> xr.Dataset:
    """Evaluate methods on many scenes, one after the other.

    Parameters
    ----------
    scenes : mapping or path
        Name → cube; or a folder of scenes, as `xsen2.training.scenes.read_scenes` reads it. What comes from one file
        is one scene: the patches of a stack, and the crops and dates of a large cube, are pooled by merging the
        states of the metrics, as dates of a cube are.
    methods : sequence or mapping
        As `xsen2.evaluate.evaluate` takes them; or label → method, for tables.
    scale : {2, 6, 1}
        2 judges the 20 m bands, 6 the 60 m bands; 1 all of them at 10 m, without a truth. See `evaluate`.
    operator : {"mtf", "dsen2", "box"}
        How scenes are degraded.
    border : int
        Pixels left out along the edges of every scene. By default all count, also those where methods see mirrored
        pixels, so that the scores of a method do not depend on what it is compared with.
    device, dtype
        As `xsen2.superresolve.superresolve` takes them. Networks compute in float32 unless told otherwise, so that
        scores do not depend on the machine.
    progress : callable, optional
        Takes a line about each scene.

    Returns
    -------
    xarray.Dataset
        Dims ``(scene, method, band)``, one variable per metric (see `evaluate`); coordinate `level`, L1C, L2A or
        empty, per scene. NaN where a method cannot make a band of a scene. Attributes: `scale`, `operator`,
        `border`; `left_out`, scenes that lack the bands or are too small; `notes`, why something is NaN.
        ``.to_dataframe()`` gives a table with one row per scene, method and band.

    Raises
    ------
    MethodError
        If a method is unknown, before any scene is read; or an argument is not one of those above.
    SourceError
        If there are no scenes, or none can be judged at this scale.

    Examples
    --------
    >>> import xsen2
    >>> scores = xsen2.benchmark({"sample": xsen2.sample().isel(time=0)}, ["bicubic"])
    >>> scores["rmse"].dims, scores["sam"].dims
    (('scene', 'method', 'band'), ('scene', 'method'))
    """
    judge = Judge(labelled(methods), border, device, dtype)
    judge.check([(scale, operator)])
    tally = Tally(scale, operator, border, tuple(judge.methods))
    for subject in subjects(scenes):
        line = tally.add(subject, judge)
        if progress is not None:
            progress(line)
    return tally.dataset()
