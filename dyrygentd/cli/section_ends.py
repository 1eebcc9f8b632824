"""For how much of a section what is at its end waits, by what the daemon shows of nodes: for drawings of the whole graph."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dyrygentd import wire

_SEPARATOR = "/"
_FINALLY = "finally"


class Waiters(NamedTuple):
    """Nodes, by their numbers, and those that wait for all of them."""

    parts: Sequence[int]
    enders: Sequence[int]


def section_ends(nodes: "Sequence[wire.NodeView]") -> list[Waiters]:
    """Return who waits for the rest of a section and for which nodes; what other parts of it wait for is left out of these."""
    enders: dict[tuple[str, bool], list[int]] = {}
    for number, node in enumerate(nodes):
        if node.section_end and node.section:
            enders.setdefault((node.section, node.section_end == _FINALLY), []).append(number)
    if not enders:
        return []
    parts: dict[tuple[str, bool], list[int]] = {key: [] for key in enders}
    for number, node in enumerate(nodes):
        path, is_inner = node.section or "", False
        while path:
            for is_finally in (True, False):
                # Its own ``finally`` is a part of what the hooks of a section wait for; its hooks are of neither.
                is_part = is_inner or not node.section_end or (node.section_end == _FINALLY and not is_finally)
                if is_part and (path, is_finally) in parts:
                    parts[path, is_finally].append(number)
            path, is_inner = path.rpartition(_SEPARATOR)[0], True
    numbers = {node.name: number for number, node in enumerate(nodes)}
    return [Waiters(_last(nodes, numbers, members), enders[key]) for key, members in parts.items()]


def _last(nodes: "Sequence[wire.NodeView]", numbers: dict[str, int], members: Sequence[int]) -> list[int]:
    """Return those of these nodes for which none of the others waits by name."""
    waited_for = {numbers[name] for member in members for name in nodes[member].after if name in numbers}
    return [member for member in members if member not in waited_for]
