"""Graphs of dask whose tasks can be renamed, so that what is made twice shares nothing by chance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dask.task_spec import GraphNode

__all__ = ["renamable"]


def renamable(graph: dict[Any, Any], known: Iterable[Any] | None = None) -> dict[Any, GraphNode]:
    """The graph with tasks that can be renamed; those of old, tuples with a function, still come from other libraries.

    Parameters
    ----------
    graph : dict
    known : iterable, optional
        All keys that tasks may refer to, where those of other graphs are among them.
    """
    if all(isinstance(node, GraphNode) for node in graph.values()):
        return graph
    # The one thing of dask's that is private: so it is not imported before a graph needs it.
    from dask._task_spec import convert_legacy_graph

    converted: dict[Any, GraphNode] = convert_legacy_graph(graph, all_keys=None if known is None else set(known))
    return converted
