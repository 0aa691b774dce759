"""Which cases of a test are quick, and which are left to the slow ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def every(step: int, cases: Iterable[Any]) -> list[Any]:
    """All cases for ``parametrize``: the first and every `step`-th after it as they are, the others slow."""
    return [case if number % step == 0 else _slow(case) for number, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if isinstance(case, ParameterSet):
        return pytest.param(*case.values, id=case.id, marks=[pytest.mark.slow, *case.marks])
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
