"""What the daemon itself decided about nodes, for the journal: who was lost, timed out, was tried again or given up, and when.

The journal is for people, and theirs are the entries that count: so what happens to many nodes is one entry, entries of one kind
in one workflow come at least `PAUSE_S` apart (what comes in between is in the next one), and a workflow has `ENTRIES_MAX` of them
at most in the life of a process. What is not written yet when the process ends is missing; the states of the nodes are not.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import heappop, heappush
from itertools import count
from typing import Final

from dyrygentd.core.records import JournalEntry

#: Who is named in the entries.
DAEMON: Final = "dyrygentd"
#: Seconds between two entries of one kind in one workflow.
PAUSE_S: Final = 60.0
#: Entries of one workflow: a fifth of what a store keeps of it.
ENTRIES_MAX: Final = 200
#: Names of nodes in one entry, and characters of the reason.
_NAMED_MAX: Final = 100
_WHY_MAX: Final = 160


class Decision(StrEnum):
    """What was decided, as the journal calls it."""

    LOST = "lost"
    TIMED_OUT = "timed-out"
    GIVEN_UP = "given-up"
    TURNED_UP = "turned-up"
    RETRIED = "will-retry"
    DEADLINE = "deadline"
    SKIPPED = "skipped-run"
    BESIDE = "beside"


#: What was decided, and what came of it.
_Key = tuple[Decision, str]


@dataclass(slots=True)
class _Group:
    """Nodes about which the same was decided, since the last entry of that kind."""

    at: float
    why: str
    count: int = 0
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Told:
    """What one workflow has: groups that are collected, when each kind was written last, and how many entries there were."""

    open: dict[_Key, _Group] = field(default_factory=dict)
    written_at: dict[_Key, float] = field(default_factory=dict)
    written: int = 0


class Decisions:
    """Collects decisions. Guards: no more entries than are allowed, whatever happens to however many nodes.

    What a turn costs does not grow with the groups that wait: it looks at the one that is due first.
    """

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}
        #: ``(due, number, workflow, kind, group)``; those that were taken out otherwise stay until they come first.
        self._due: list[tuple[float, int, str, _Key, _Group]] = []
        self._numbers = count()

    def __repr__(self) -> str:
        return f"<Decisions workflows={len(self._told)} due={len(self._due)}>"

    def note(self, workflow_id: str, decision: Decision, name: str, now: float, *, why: str = "", detail: str = "") -> None:
        """Take note of a decision about a node, and what came of it; an empty name is the whole workflow."""
        key, told = (decision, detail), self._told.setdefault(workflow_id, _Told())
        group = told.open.get(key)
        if group is None:
            group = told.open[key] = _Group(now, why)
            written_at = told.written_at.get(key)
            # A clock that was put back holds nothing up.
            due = now if written_at is None or written_at > now else max(now, written_at + PAUSE_S)
            heappush(self._due, (due, next(self._numbers), workflow_id, key, group))
        if name:
            group.count += 1
            if len(group.names) < _NAMED_MAX:
                group.names.append(name)

    def next_at(self) -> float | None:
        """Return when the next entry is due; None if there is none."""
        while self._due and not self._is_open(*self._due[0][2:]):
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def take(self, now: float) -> list[JournalEntry]:
        """Return the entries that are due."""
        entries = []
        while self._due and self._due[0][0] <= now:
            _, _, workflow_id, key, group = heappop(self._due)
            if self._is_open(workflow_id, key, group):
                entries += self._entries(workflow_id, [key], now)
        return entries

    def end(self, workflow_id: str, now: float) -> list[JournalEntry]:
        """Return what is left of a workflow that has ended, and forget it."""
        told = self._told.get(workflow_id)
        if told is None:
            return []
        entries = self._entries(workflow_id, list(told.open), now)
        del self._told[workflow_id]
        return entries

    def _is_open(self, workflow_id: str, key: _Key, group: _Group) -> bool:
        told = self._told.get(workflow_id)
        return told is not None and told.open.get(key) is group

    def _entries(self, workflow_id: str, keys: Iterable[_Key], now: float) -> list[JournalEntry]:
        entries, told = [], self._told[workflow_id]
        for key in keys:
            decision, detail = key
            group = told.open.pop(key)
            if told.written >= ENTRIES_MAX:
                continue
            told.written += 1
            told.written_at[key] = now
            why = group.why if len(group.why) <= _WHY_MAX else f"{group.why[:_WHY_MAX]}…"
            names = tuple(group.names)
            entries.append(JournalEntry(workflow_id, group.at, decision.value, DAEMON, why, names, group.count, detail))
        return entries
