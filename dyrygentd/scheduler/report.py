"""What the scheduler tells of itself: statistics for the metrics, health, and the numbers that its callers ask for."""

import time
from dataclasses import asdict
from typing import Any

from dyrygentd import __version__, wire
from dyrygentd.core.for_people import people_wanted
from dyrygentd.ports.facts import ReportsStatistics
from dyrygentd.scheduler.letters import LettersStatistics, letter_figures
from dyrygentd.scheduler.lost import empty_statistics
from dyrygentd.scheduler.parts import Parts


class Report:
    """Asks all parts and changes none."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._began = 0.0

    def begin(self) -> None:
        """Count the time from now on."""
        self._began = time.monotonic()

    def statistics(self) -> wire.Statistics:
        """Return a snapshot of all parts."""
        parts, adapters = self._parts, self._parts.adapters
        counting = parts.turns.engine.counting
        watcher = asdict(adapters.watcher.statistics())
        return wire.Statistics(
            version=__version__,
            uptime_s=time.monotonic() - self._began,
            engine=asdict(parts.turns.engine.statistics(adapters.clock.now())) | self._around_the_engine(),
            store=asdict(adapters.store.statistics()),
            dispatcher=asdict(adapters.dispatcher.statistics()),
            watcher={name: value for name, value in watcher.items() if name != "seen_seconds"},
            reports=asdict(ReportsStatistics() if adapters.reports is None else adapters.reports.statistics()),
            lost=empty_statistics() if parts.lost is None else parts.lost.statistics(),
            problems=[*parts.troubles.problems()],
            notices=[*parts.troubles.notices()],
            tallies=self._tallies() | {"result": watcher["seen_seconds"]},
            tasks=counting.by_task.view(),
            queues=counting.by_task.view(1),
            workflows=counting.by_workflow.view(),
            term=parts.tenure.number,
            role=self._role,
            leader=self._leader,
            lease_left_s=self._parts.tenure.leadership.left_s if self._role else None,
            standbys=self._parts.tenure.leadership.standbys,
        )

    def _around_the_engine(self) -> dict[str, Any]:
        parts, unrun = self._parts, self._parts.unrun
        return {
            "inbox": len(parts.inbox),
            "publish_queue": parts.courier.queue_size + parts.hindsight.queue_size,
            "turns": parts.turns.count,
            "saving_s": parts.turns.saving.waiting_s,
            "errands": parts.courier.errand_count,
            "asking": len(parts.verbs),
            "started_at": parts.started_at,
            "term": parts.tenure.number,
            "series": parts.carrying.series_ends.view(),
            "series_submissions": asdict(parts.turns.engine.series.counters),
            "recovery_seconds": parts.recovery.seconds,
            "broker_up": not parts.troubles.seen_of_broker,
            "broker_emptied": parts.sentinel.emptied_count,
            "broker_changed": parts.sentinel.changed_count,
            "unrun_waiting": 0 if unrun is None else unrun.waiting_count,
            "unrun_stored": 0 if unrun is None else unrun.stored,
            "broker_went_back": parts.sentinel.went_back_count,
            "lost_pushes": parts.sentinel.lost_pushes,
            "setbacks": parts.hindsight.setback_count,
            "found_stored": parts.hindsight.found_count,
            **asdict(parts.carrying.spilling.statistics()),
            **letter_figures(LettersStatistics() if parts.letters is None else parts.letters.statistics()),
        } | parts.answers.faces.statistics()

    def _tallies(self) -> dict[str, Any]:
        turns, counting = self._parts.turns, self._parts.turns.engine.counting
        tallies = {
            "turn": turns.turn_seconds,
            "commit": turns.saving.seconds,
            "commit rows": turns.saving.rows,
            "react": self._parts.carrying.react_seconds,
            "publish": self._parts.courier.publish_seconds,
            "start": counting.start_seconds,
            "task": counting.task_seconds,
        }
        return {name: tally.view() for name, tally in tallies.items()}

    def health(self) -> wire.Health:
        """Tell whether everything works, and what does not."""
        troubles = self._parts.troubles
        problems = troubles.problems()
        status = "draining" if self._parts.turns.engine.draining else "degraded" if problems else "ok"
        return wire.Health(
            status=status,
            version=__version__,
            problems=[*problems],
            notices=[*troubles.notices()],
            term=self._parts.tenure.number,
            role=self._role,
            leader=self._leader,
            lease_left_s=self._parts.tenure.leadership.left_s if self._role else None,
            standbys=self._parts.tenure.leadership.standbys,
        )

    @property
    def _role(self) -> str:
        """Return what this process is, where several share the database; one whose lease is over does not know."""
        return "" if self._parts.adapters.store.lease is None else "leader"

    @property
    def _leader(self) -> str:
        term = self._parts.tenure.term
        return term.holder.words if self._role and term is not None else ""

    @property
    def workflow_count(self) -> int:
        """Number of unfinished workflows, without those whose submission was withdrawn."""
        return len(self._parts.turns.engine.workflows) - len(self._parts.submissions.withdrawn())

    @property
    def in_flight_count(self) -> int:
        """Number of tasks in the broker or at workers; nothing of a withdrawn submission was sent."""
        withdrawn = self._parts.submissions.withdrawn()
        return self._parts.turns.engine.flights.in_flight_count - sum(each.nodes.in_flight_count for each in withdrawn)

    def people_wanted(self) -> dict[str, int]:
        """Count what waits for a person, see `Scheduler.people_wanted`."""
        return people_wanted(self._parts.turns.engine.workflows.values())
