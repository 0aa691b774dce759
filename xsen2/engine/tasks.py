"""Graphs of dask whose tasks can be renamed, so that what is made twice shares nothing by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask.task_spec import GraphNode

__all__ = ["renamed"]


def renamed(graph: Mapping[Any, Any], names: Mapping[Any, Any]) -> dict[Any, GraphNode]:
    """The tasks of a graph under other names, and with those in what they refer to.

    Parameters
    ----------
    graph : mapping
        Key → task; tuples with a function, as of old, still come from other libraries.
    names : mapping
        Key → new one: of all of the graph's, and of others that its tasks refer to.
    """
    nodes: dict[Any, GraphNode] = dict(graph)
    if not all(isinstance(node, GraphNode) for node in nodes.values()):
        # The one thing of dask's that is private: so it is not imported before a graph needs it.
        from dask._task_spec import convert_legacy_graph

        nodes = convert_legacy_graph(nodes, all_keys=set(names))
    other: dict[Any, Any] = dict(names)
    return {names[key]: node.substitute(other, key=names[key]) for key, node in nodes.items()}
