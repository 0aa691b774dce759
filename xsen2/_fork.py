"""What a forked process must not inherit: threads that the fork has left behind.

A fork copies memory and one thread. The pool of dask's threaded scheduler, kept from one computation to the next, then
names threads that are not there, and whatever is computed waits for them for ever. The same holds for OpenMP's, with
which torch computes: `xsen2.devices` sees to those.
"""

from __future__ import annotations

import os
import threading

import dask.threaded

__all__: list[str] = []


def _forget_pools() -> None:
    """In the child: dask makes new pools when it computes."""
    dask.threaded.default_pool = None
    dask.threaded.pools.clear()
    dask.threaded.pools_lock = threading.Lock()
    dask.threaded.main_thread = threading.main_thread()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_pools)
