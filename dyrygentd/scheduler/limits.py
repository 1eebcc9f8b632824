"""What bounds a scheduler, and the time it goes by."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from dyrygentd.core.bounds import NODES_ACCEPTED_MAX
from dyrygentd.core.limits import LIVE, Limits, following
from dyrygentd.ports.facts import Retention
from dyrygentd.wire.bounds import NODE_BYTES_MAX

#: Seconds between two tries to save or to publish: short enough for an operator, long enough not to burn a core.
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds of a scheduler. Those that are live, by their field, can be changed while it runs.

    Attributes:
        engine: What is in flight, and how long values may be.
        turn_events_max: Events taken from the inbox in one turn.
        inbox_max: Events in the inbox beyond which progress reports of workers are dropped; results are never dropped.
        submissions_max: Submissions on their way to the disk at one time.
        workflows_max: Unfinished workflows.
        nodes_in_memory_max: Nodes of all unfinished workflows.
        nodes_max, node_bytes_max: Nodes of a workflow that does the work of a node, and bytes of what one of them is given.
        durable_timeout_s: How long a submission waits for the disk before it is answered with an error.
        follow_interval_s: Shortest time between two views that a follower gets.
        lost_after_s: How long a task is in flight before it is looked for; 0 for never.
        lost_confirm_s: How long it must not be found anywhere before it is taken for lost.
        history_s: How long finished workflows are kept; 0 for as long as there is room in the history.
        history_failed_s: The same for those that failed or were cancelled; 0 for as long as the others.
        history_bytes_max: Bytes that the database may use before the oldest of them are dropped; 0 for no bound.
        pools: ``{name or pattern: size}``: tasks in flight of the nodes that name the pool; each name that fits a pattern is a
            pool of its own.
        queue_limits: ``{queue: tasks in flight}``.
        store_unrun_results: Whether the result backend is told how tasks ended that never ran, so that nobody waits for them.
        redact: Regular expressions of what is not shown, in the errors of tasks and in arguments.
        logs_url: ``{beginning of task names: template}`` of where logs are, see `dyrygentd.scheduler.log_links`.
        value_spill_bytes: Values that are longer are kept beside the database, if there is a place for them.
        value_store_bytes_max: Bytes of all values that are kept there.
        values_waiting_bytes_max: Bytes of values that wait in memory to be written there; others are read from the backend later.
        logs_margin_s: How long before and after an attempt its log is looked at, too.
    """

    engine: Limits = field(default_factory=Limits)
    turn_events_max: int = 2000
    inbox_max: int = 100_000
    submissions_max: int = 200
    workflows_max: int = 200_000
    nodes_in_memory_max: int = 5_000_000
    nodes_max: int = field(default=NODES_ACCEPTED_MAX, metadata=LIVE)
    node_bytes_max: int = field(default=NODE_BYTES_MAX, metadata=LIVE)
    durable_timeout_s: float = 30.0
    follow_interval_s: float = 0.1
    lost_after_s: float = 60.0
    lost_confirm_s: float = 30.0
    history_s: float = field(default=0.0, metadata=LIVE)
    history_failed_s: float = field(default=0.0, metadata=LIVE)
    history_bytes_max: int = field(default=0, metadata=LIVE)
    pools: Mapping[str, int] = field(default_factory=dict)
    queue_limits: Mapping[str, int] = field(default_factory=dict)
    store_unrun_results: bool = True
    redact: tuple[str, ...] = field(default=(), metadata=LIVE)
    logs_url: Mapping[str, str] = field(default_factory=dict)
    logs_margin_s: float = 60.0
    value_spill_bytes: int = 1024 * 1024
    value_store_bytes_max: int = 10 * 1024 * 1024 * 1024
    values_waiting_bytes_max: int = 64 * 1024 * 1024

    def following(self, later: "SchedulerLimits") -> "SchedulerLimits":
        """Return these bounds, those of them that are live as others say, the engine's as well."""
        return replace(following(self, later), engine=following(self.engine, later.engine))

    def retention(self, now: float) -> Retention | None:
        """Return which finished workflows are kept; None if the history has a bound on their number alone."""
        if not (self.history_s or self.history_failed_s or self.history_bytes_max):
            return None
        others_s = self.history_failed_s or self.history_s
        return Retention(
            succeeded_since=now - self.history_s if self.history_s else 0.0,
            others_since=now - others_s if others_s else 0.0,
            bytes_max=self.history_bytes_max,
        )


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a scheduler looks at things, and for how long it lets them be, in seconds.

    Attributes:
        company_s: How long few results wait for others while much waits in the queues, so that they share a turn.
        look_at_clock_s: Until the clock is looked at again when something is due later: it may be set meanwhile.
        look_at_broker_s: Between two looks at the broker; also how long an outage may go unnoticed while nothing is published.
        look_at_census_s: How soon it is noticed that the workers are to be counted again.
        young_s: What was sent less long ago is nothing to worry about yet.
        queued_long_s: A task that waits for a worker for so long is told.
    """

    company_s: float = 0.01
    look_at_clock_s: float = 5.0
    look_at_broker_s: float = 5.0
    look_at_census_s: float = 5.0
    young_s: float = 5.0
    queued_long_s: float = 300.0


#: Seconds that one transaction may take before the disk is called slow.
SLOW_S: Final = 2.0
#: A clock that is off by more than so many seconds was set; less is what adjusting it slowly makes, and rounding.
CLOCK_STEP_S: Final = 1.0


class SystemClock:
    """The time of this machine."""

    def now(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    def steady(self) -> float:
        """Return seconds since the machine was started; they go on while it is suspended, as the world outside does."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
