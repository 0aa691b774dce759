"""Which cases of a test are quick, and which are left to the slow ones."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def every(step: int, cases: Iterable[Any]) -> list[Any]:
    """All cases for ``parametrize``: the first and every `step`-th after it as they are, the others slow."""
    return [case if number % step == 0 else _slow(case) for number, case in enumerate(cases)]


def crossed(step: int, *values: Iterable[Any]) -> list[Any]:
    """As `every`, of all combinations. Each value comes if `step` has no divisor in common with their numbers."""
    return every(step, product(*values))


def _slow(case: Any) -> Any:
    if isinstance(case, ParameterSet):
        return pytest.param(*case.values, id=case.id, marks=[pytest.mark.slow, *case.marks])
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
