"""Bounds of what the engine keeps and does at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, TypeVar

#: Marks a bound that can be changed while it is in force; every other one holds until the end.
LIVE: Final[Mapping[str, Any]] = {"is_live": True}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the engine.

    Attributes:
        in_flight_max: Tasks in the broker or at workers at one time. The rest waits here, where it can still be cancelled.
        workflow_values_bytes_max, values_bytes_max: Values kept for nodes to come, of one workflow and of all.
        linger_s: How long changes that let nothing go on may wait for company, so that they share a transaction.
        dispatch_max: Nodes dispatched in one turn, so that one turn stays short.
        value_bytes_max: Longest value, as JSON text, that is passed from node to node or kept as a result.
        redeliveries_max: How often the broker may give a task out again before it is given up, 0 for as often as it likes, where
            neither the node's policy nor the workflow's says anything.
        late_watch_s, late_max: How long, and how many, tasks are watched after a cancel, to show what they did in the end.
    """

    in_flight_max: int = field(default=2000, metadata=LIVE)
    dispatch_max: int = 500
    value_bytes_max: int = 16 * 1024 * 1024
    workflow_values_bytes_max: int = 256 * 1024 * 1024
    values_bytes_max: int = 1024 * 1024 * 1024
    linger_s: float = 0.02
    late_watch_s: float = 3600.0
    late_max: int = 10_000
    redeliveries_max: int = 0

    @property
    def refill(self) -> int:
        """Return how many places in flight are filled up together; one at a time if there are only few."""
        return max(1, self.in_flight_max // 20)


T = TypeVar("T", bound=Any)


def following(limits: T, later: T) -> T:
    """Return bounds, those of them that are live as later ones say."""
    return replace(limits, **{each.name: getattr(later, each.name) for each in fields(limits) if "is_live" in each.metadata})
