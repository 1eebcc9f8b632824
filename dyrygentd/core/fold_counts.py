"""How the boxes of a fold stand: counts by state, and the node of each that a person would ask for first."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Final, NamedTuple

from dyrygentd.core.folding import Box, Fold
from dyrygentd.core.states import FINISHED, IN_FLIGHT, NodeState

_STATES: Final = tuple(NodeState)
_IS_OPEN: Final = bytes(state not in FINISHED for state in range(256))
#: Nodes that one call goes over, so that the loop is not kept waiting by this thread.
_AT_ONCE: Final = 20_000
#: Failures of a box that are looked at for another cause.
_FAILURES_MAX: Final = 1000


class BoxCounts(NamedTuple):
    """How a box stands.

    Attributes:
        counts: Number of nodes by the number of their state, joins left out.
        failed: The first that has failed, in the order of the definition.
        longest: The one that has been in flight for the longest time.
        held: The first that is held, by a person or a gate, a time, a pool or the next attempt.
        failed_too: The first that has failed for another cause than the first of all, among the first thousand.
    """

    counts: Sequence[int]
    failed: int | None
    longest: int | None
    held: int | None
    failed_too: int | None = None


def counts_of(
    fold: Fold, states: bytes | bytearray, dispatched_at: Sequence[float], fingerprints: Mapping[int, str]
) -> list[BoxCounts]:
    """Return how each box stands.

    Args:
        fingerprints: ``{node: what failures of its cause have in common}``.
    """
    return [_counts_of(fold.order, box, states, dispatched_at, fingerprints) for box in fold.boxes]


def shares_of(fold: Fold, states: bytes | bytearray, weights: "array[float]") -> list[float] | None:
    """Return the share of each box in what is left to be done of the whole graph, 0 to 1; None if nobody can tell.

    Args:
        weights: How much each node is, nothing if that is not known.
    """
    is_open = states.translate(_IS_OPEN)
    total = _sum_of(weights, is_open)
    if not total:
        return None
    shares = []
    for box in fold.boxes:
        places = range(box.start, box.counted, _AT_ONCE)
        parts = (fold.order[place : min(place + _AT_ONCE, box.counted)] for place in places)
        shares.append(sum(sum(weights[node] for node in part if is_open[node]) for part in parts) / total)
    return shares


def _sum_of(weights: "array[float]", is_open: bytes | bytearray) -> float:
    parts = (slice(place, place + _AT_ONCE) for place in range(0, len(weights), _AT_ONCE))
    return sum(sum(compress(weights[part], is_open[part])) for part in parts)


def _counts_of(
    order: "array[int]",
    box: Box,
    states: bytes | bytearray,
    dispatched_at: Sequence[float],
    fingerprints: Mapping[int, str],
) -> BoxCounts:
    if box.start == box.counted:
        return BoxCounts([0] * len(_STATES), None, None, None)
    mine = _states_of(order, box, states)
    counts = [mine.count(state) for state in _STATES]
    longest = None
    for state in IN_FLIGHT:
        place = mine.find(state) if counts[state] else -1
        while place >= 0:
            node = order[box.start + place]
            if longest is None or dispatched_at[node] < dispatched_at[longest]:
                longest = node
            place = mine.find(state, place + 1)
    failed, held = (
        order[box.start + mine.index(state)] if counts[state] else None for state in (NodeState.FAILED, NodeState.HELD)
    )
    failed_too = None
    if counts[NodeState.FAILED] > 1:
        failed_too = _of_another_cause([order[box.start + place] for place in _failures(mine)], fingerprints)
    return BoxCounts(counts, failed, longest, held, failed_too)


def _failures(mine: bytes | bytearray) -> Iterator[int]:
    place = mine.find(NodeState.FAILED)
    for _ in range(_FAILURES_MAX):
        if place < 0:
            return
        yield place
        place = mine.find(NodeState.FAILED, place + 1)


def _of_another_cause(failed: Sequence[int], fingerprints: Mapping[int, str]) -> int | None:
    cause = fingerprints.get(failed[0])
    return next((node for node in failed if fingerprints.get(node) != cause), None)


def _states_of(order: "array[int]", box: Box, states: bytes | bytearray) -> bytes | bytearray:
    """Return the states of what counts in a box, in its order."""
    first, last = order[box.start], order[box.counted - 1]
    if last - first == box.counted - box.start - 1:
        # They rise, so they stand next to each other in the definition as well.
        return states[first : last + 1]
    places = range(box.start, box.counted, _AT_ONCE)
    return b"".join(bytes(map(states.__getitem__, order[place : min(place + _AT_ONCE, box.counted)])) for place in places)
