"""What the members of a map are called, and what stands in its list for one that did not succeed."""

import json
from typing import Final

from dyrygentd.core.graph import Graph

#: Field of what stands in the list of a map in the place of a value that there is not; its value is the member's name.
FAILED: Final = "__failed__"
#: A worker's error may have thousands of characters, and a list may have thousands of these.
_ERROR_MAX: Final = 500


def member_name(map_name: str, label: object) -> str:
    """Return the name of a member: of its item's number, or of its key."""
    return f"{map_name}[{label}]"


def marker_of_failed(name: str, error: str) -> bytes:
    """Return the JSON text that stands in a list in the place of the value of a member that failed."""
    return json.dumps({FAILED: name, "error": error[:_ERROR_MAX]}).encode()


def nodes_of_item(graph: Graph, name: str) -> range:
    """Return the nodes of the graph that an item of a map goes through, by the name of its member; none if there is no such."""
    if graph.item_nodes and name.endswith("]"):
        beginning = f"{name}."
        for first in range(0, len(graph) - 1, graph.item_nodes):
            if graph.names[first].startswith(beginning):
                return range(first, first + graph.item_nodes)
    return range(0)


def map_of_member(graph: Graph, name: str) -> int | None:
    """Return the map of which a node of this name would be a member, or in one; None if no map is called so."""
    found = None
    for node, policy in graph.policies.items():
        is_around = policy.child is not None and name.startswith(f"{graph.names[node]}[")
        # The longest name, as that of a map in a map begins with the name of the outer one.
        if is_around and (found is None or len(graph.names[node]) > len(graph.names[found])):
            found = node
    return found
