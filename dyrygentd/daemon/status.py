"""The line that `systemctl status` shows: how much there is, how much of it waits for a person, and what is wrong."""

from collections.abc import Mapping
from typing import Final, Protocol

import anyio

from dyrygentd.core.words import counted
from dyrygentd.daemon.systemd import Notifier
from dyrygentd.scheduler import Scheduler

#: How soon `systemctl status` has another line, and how often it gets the same one and what waits for people is counted.
_LOOK_S: Final = 1.0
_INTERVAL_S: Final = 5.0
_WORDS: Final = {"lost": "{} lost", "gate": "{} at a gate", "operator": "{} held", "paused": "{} paused"}


def status_line(scheduler: Scheduler, people_wanted: Mapping[str, int] | None = None) -> str:
    """Return the line.

    Args:
        people_wanted: What was counted a moment ago, see `Scheduler.people_wanted`.
    """
    health = scheduler.health()
    wanted = scheduler.people_wanted() if people_wanted is None else people_wanted
    line = f"{counted(scheduler.workflow_count, 'workflow')}, {counted(scheduler.in_flight_count, 'task')} in flight"
    waits = ", ".join(_WORDS[word].format(f"{count:,}") for word, count in wanted.items())
    # What is broken stands where a narrow terminal does not cut it.
    problems = f"{counted(len(health.problems), 'problem')}: {'; '.join(health.problems)}" if health.problems else ""
    lead = f"leads in term {health.term}, {counted(health.standbys, 'standby')}" if health.role else ""
    parts = [problems, lead, line, f"waits for a person: {waits}" if waits else "", *health.notices]
    return "; ".join(part for part in parts if part)


class Described(Protocol):
    """What is told of."""

    def status_line(self, people_wanted: Mapping[str, int] | None = None) -> str:
        """Return the line."""

    def people_wanted(self) -> dict[str, int]:
        """Count what waits for a person."""


async def show_status(told_of: Described, notifier: Notifier) -> None:
    """Tell systemd whenever something has changed, and now and then if not."""
    told, told_at, wanted, counted_at = "", 0.0, dict[str, int](), -_INTERVAL_S
    while True:
        await anyio.sleep(_LOOK_S)
        now = anyio.current_time()
        if now - counted_at >= _INTERVAL_S:
            wanted, counted_at = told_of.people_wanted(), now
        line = told_of.status_line(wanted)
        if line != told or now - told_at >= _INTERVAL_S:
            told, told_at = line, now
            notifier.status(line)
