"""What is no name and no number, where one is taken: refused by name, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes import make_cube, no_compute

import xsen2
from xsen2.errors import Xsen2Error

WRONG = [None, 5, -1.5, ["x"], ("B05",), {"a": 1}, object(), b"B05", np.array([1.0]), True, "", [["B05"]], [5], [None]]


@cache
def cube() -> xr.Dataset:
    return make_cube(8, 8, chunks=48)


CALLS: dict[str, Callable[[Any], Any]] = {
    "superresolve(bands)": lambda v: cube().dsen2.superresolve(v, "bicubic"),
    "superresolve(method)": lambda v: cube().dsen2.superresolve(["B05"], v),
    "superresolve(mask)": lambda v: cube().dsen2.superresolve(["B05"], "bicubic", mask=v),
    "superresolve(operator)": lambda v: cube().dsen2.superresolve(["B05"], "bicubic", operator=v),
    "superresolve(consistency)": lambda v: cube().dsen2.superresolve(["B05"], "bicubic", consistency=v),
    "superresolve(device)": lambda v: cube().dsen2.superresolve(["B05"], "bicubic", device=v),
    "superresolve(dtype)": lambda v: cube().dsen2.superresolve(["B05"], "bicubic", dtype=v),
    "superresolve(quantification)": lambda v: cube().dsen2.superresolve(["B05"], "bicubic", quantification=v),
    "evaluate(methods)": lambda v: cube().dsen2.evaluate(v, compute=False),
    "evaluate(scale)": lambda v: cube().dsen2.evaluate(["bicubic"], v, compute=False),
    "evaluate(operator)": lambda v: cube().dsen2.evaluate(["bicubic"], operator=v, compute=False),
    "evaluate(border)": lambda v: cube().dsen2.evaluate(["bicubic"], border=v, compute=False),
    "degrade(scale)": lambda v: cube().degrade(v),
    "degrade(operator)": lambda v: cube().degrade(2, v),
    "pair(scale)": lambda v: cube().degrade.pair(v),
    "index(quantification)": lambda v: cube().dsen2.index("NDWI", quantification=v),
    "to_zarr(dtype)": lambda v: cube().dsen2.to_zarr("nowhere/a.zarr", dtype=v),
    "to_zarr(chunks)": lambda v: cube().dsen2.to_zarr("nowhere/a.zarr", chunks=v),
    "to_cog(dtype)": lambda v: cube().dsen2.to_cog("nowhere/a.tif", dtype=v),
    "to_cog(bands)": lambda v: cube().dsen2.to_cog("nowhere/a.tif", bands=v),
    "to_cog(compression)": lambda v: cube().dsen2.to_cog("nowhere/a.tif", compression=v),
    "context_of(bands)": lambda v: xsen2.context_of("bicubic", v),
    "context_of(method)": lambda v: xsen2.context_of(v, ["B05"]),
    "context_of(operator)": lambda v: xsen2.context_of("bicubic", ["B05"], operator=v),
}
TAKEN = {
    "superresolve(bands)": [None, ("B05",)],
    "superresolve(mask)": [None],
    "superresolve(consistency)": [None, True],
    "superresolve(quantification)": [None, 5],
    "evaluate(border)": [None, 5],
    "degrade(scale)": [5],
    "index(quantification)": [None, 5],
    "to_zarr(dtype)": [None],
    "to_zarr(chunks)": [None, 5],
    "to_cog(bands)": [None, ("B05",)],
    "context_of(bands)": [None, ("B05",)],
}


@pytest.mark.parametrize("call", CALLS)
def test_wrong_types_are_refused_by_name(call: str) -> None:
    for value in WRONG:
        if any(type(value) is type(good) and value == good for good in TAKEN.get(call, [])):
            continue
        with pytest.raises(Xsen2Error), no_compute():
            CALLS[call](value)


@pytest.mark.parametrize(
    ("call", "value", "words"),
    [
        ("superresolve(bands)", "B05", r"give a list, as bands=\['B05'\]"),
        ("superresolve(bands)", [["B05"]], "give a list of names"),
        ("superresolve(device)", ["cpu"], r"device=\['cpu'\]: use 'auto'"),
        ("superresolve(operator)", ["mtf"], r"unknown operator \['mtf'\]"),
        ("to_cog(bands)", 5, "bands=5: give a list of names"),
        ("degrade(scale)", [2], r"scale=\[2\]: use a whole number"),
        ("pair(scale)", [2], r"scale=\[2\]: the truth is known at scale 2"),
        ("to_zarr(chunks)", [600], r"chunks=\[600\]: is no size"),
        ("evaluate(border)", "5", "border='5': use a number of pixels"),
    ],
)
def test_the_error_says_what_to_give(call: str, value: Any, words: str) -> None:
    with pytest.raises(Xsen2Error, match=words):
        CALLS[call](value)
