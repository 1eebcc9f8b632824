"""Edges of a graph as two flat arrays (compressed sparse rows), and the same the other way round."""

from array import array


def reversed_edges(nodes: int, start: "array[int]", targets: "array[int]") -> "tuple[array[int], array[int]]":
    """Turn ``node -> dependencies`` into ``node -> dependents`` by counting, in linear time."""
    counts = array("I", bytes(4 * (nodes + 1)))
    for target in targets:
        counts[target + 1] += 1
    for node in range(nodes):
        counts[node + 1] += counts[node]
    reversed_start, place = array("I", counts), array("I", counts)
    edges = array("I", bytes(4 * len(targets)))
    for node in range(nodes):
        for target in targets[start[node] : start[node + 1]]:
            edges[place[target]] = node
            place[target] += 1
    return reversed_start, edges
