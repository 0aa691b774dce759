"""Which cases of a test are quick, and which are left to the slow ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def every(step: int, cases: Iterable[Any]) -> list[Any]:
    """All cases for ``parametrize``: the first and every `step`-th after it as they are, the others slow."""
    return [
        case if number % step == 0 else pytest.param(*_parts(case), id=_id(case), marks=_marks(case))
        for number, case in enumerate(cases)
    ]


def _is_param(case: Any) -> bool:
    return hasattr(case, "marks") and hasattr(case, "values") and hasattr(case, "id")


def _parts(case: Any) -> tuple[Any, ...]:
    if _is_param(case):
        return tuple(case.values)
    return case if isinstance(case, tuple) else (case,)


def _id(case: Any) -> Any:
    return case.id if _is_param(case) else None


def _marks(case: Any) -> list[Any]:
    return list(case.marks) if _is_param(case) else []
