"""Products that stay in the calling thread, for whatever runs inside a task of dask.

A BLAS computes large products with threads of its own. Inside the threads of dask they wait for each other, and for any
other program that computes: then a product takes many times as long as in one thread. Pieces below the size at which a
BLAS begins to share its work are as fast as one large product in one thread, or faster, for they fit the caches.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["dot", "mixed"]

T = TypeVar("T", np.float32, np.float64)

_ALONG = 8192  # numbers of a vector: OpenBLAS shares more than 10,000
_VOLUME = 2**17  # multiplications of a matrix product: it shares more than 2**18


def dot(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """The sum of ``x * y`` over two vectors.

    Examples
    --------
    >>> dot(np.ones(20000), np.full(20000, 0.5))
    10000.0
    """
    return float(sum(float(np.dot(x[i : i + _ALONG], y[i : i + _ALONG])) for i in range(0, len(x), _ALONG)))


def mixed(matrix: npt.NDArray[T], x: npt.NDArray[T], out: npt.NDArray[T] | None = None) -> npt.NDArray[T]:
    """``matrix @ x``, few rows by many columns.

    Parameters
    ----------
    matrix : numpy.ndarray
        ``(m, k)``.
    x : numpy.ndarray
        ``(k, n)``.
    out : numpy.ndarray, optional
        ``(m, n)``, which is filled and returned.

    Examples
    --------
    >>> mixed(np.array([[1.0, 2.0]]), np.ones((2, 3)))
    array([[3., 3., 3.]])
    """
    if out is None:
        out = np.empty((len(matrix), x.shape[1]), np.result_type(matrix, x))
    step = max(1, _VOLUME // max(matrix.size, 1))
    for start in range(0, x.shape[1], step):
        np.matmul(matrix, x[:, start : start + step], out=out[:, start : start + step])
    return out
