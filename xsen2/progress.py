"""How far a long call is: a bar for people, a function for programs, and the way to stop it in between.

Every long call takes ``progress=True``, which draws a bar on a terminal and in a notebook, ``False``, or a function of
a `Progress`, which is called after each piece of the work, in the thread of the call. If it returns ``False`` or
raises, the call ends with `xsen2.Cancelled` as soon as what is being computed is done; what else it returns says
nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from timeit import default_timer
from types import TracebackType
from typing import Any

import numpy as np

from xsen2.errors import Cancelled, Xsen2Error

__all__ = ["Progress", "ProgressLike", "Reporter"]


@dataclass(frozen=True)
class Progress:
    """How far a call is.

    Attributes
    ----------
    done : int
        Pieces that are finished, those of an earlier call that this one goes on from included.
    total : int or None
        Pieces that there are; None where that shows only at the end.
    unit : str
        What a piece is: "block", "step", "scene".
    about : str
        What is being done.
    seconds : float
        Since the call began with it.

    Examples
    --------
    >>> import tempfile, xsen2
    >>> seen = []
    >>> cube = xsen2.sample()[["B02", "B03"]]
    >>> back = cube.dsen2.to_zarr(tempfile.mkdtemp() + "/cube.zarr", progress=seen.append)
    >>> seen[-1].done == seen[-1].total, seen[-1].unit
    (True, 'block')

    A call that takes too long is stopped, and finished later:

    >>> store = tempfile.mkdtemp() + "/cube.zarr"
    >>> try:
    ...     cube.dsen2.to_zarr(store, progress=lambda progress: progress.seconds < 0)
    ... except xsen2.Cancelled:
    ...     back = cube.dsen2.to_zarr(store, progress=False)
    """

    done: int
    total: int | None
    unit: str
    about: str
    seconds: float


ProgressLike = bool | Callable[[Progress], object]
"""What ``progress=`` takes."""


class Reporter:
    """Reports the progress of one call, and is told by the receiver whether to go on.

    Parameters
    ----------
    progress : bool or callable
        As the caller of the call gave it.
    total : int or None
    unit, about : str
        As in `Progress`.
    done : int
        Pieces that an earlier call has finished.
    after : str
        What is left when the call is stopped, and how to go on: for the message.

    Raises
    ------
    Xsen2Error
        `progress` is neither.
    """

    def __init__(
        self, progress: ProgressLike, total: int | None, unit: str, about: str, *, done: int = 0, after: str
    ) -> None:
        if not (isinstance(progress, bool | np.bool_) or callable(progress)):
            raise Xsen2Error(
                f"progress={progress!r}: use True for a bar, False for none, or a function of an xsen2.Progress"
            )
        self.total, self.unit, self.about, self.done = total, unit, about, done
        self.stopped = False
        self._after, self._began = after, default_timer()
        self._call = progress if callable(progress) else None
        self._cause: Exception | None = None
        self._bar: Any = None
        if self._call is None and progress and total != 0:
            self._bar = _tqdm()(total=total, initial=done, desc=about, unit=unit)

    @property
    def wanted(self) -> bool:
        """Whether anybody wants to know."""
        return self._bar is not None or self._call is not None

    def update(self, done: float, about: str | None = None) -> bool:
        """Say how much is done, and what was; whether to go on."""
        pieces = int(done)
        if self.stopped or (pieces <= self.done and about is None):
            return not self.stopped
        self.done = max(pieces, self.done)
        if self._bar is not None:
            if about is not None:
                self._bar.set_description_str(about, refresh=False)
            self._bar.update(self.done - self._bar.n)
        if self._call is not None:
            now = Progress(self.done, self.total, self.unit, about or self.about, default_timer() - self._began)
            try:
                answer = self._call(now)
            except Exception as error:
                self.stopped, self._cause = True, error
            else:
                self.stopped = isinstance(answer, bool | np.bool_) and not answer
        return not self.stopped

    def check(self) -> None:
        """End the call if it is to be stopped.

        Raises
        ------
        Cancelled
        """
        if self.stopped:
            why = "returned False" if self._cause is None else f"raised {type(self._cause).__name__}: {self._cause}"
            of = "" if self.total is None else f" of {self.total}"
            raise Cancelled(
                f"{self.about} was stopped after {self.done}{of} {self.unit}s, since progress= {why}. {self._after}"
            ) from self._cause

    def note(self, **values: object) -> None:
        """Show numbers beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix(**values)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _tqdm() -> Any:
    """The bar that fits: a widget in notebooks that can show one, else text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a notebook has no widgets: text will do
        from tqdm.auto import tqdm
    return tqdm
