"""Where the time went: how many nodes of each box waited, ran and ended, in equal spans of time from a workflow's beginning on.

*Theory of operation.* Of a node three times are known: when it could have run, which the ends of its dependencies tell; when it
was sent; and when it finished. Between the first two it waited, whatever for: its turn, a pool, a person. Between the last two it
was in flight. Of one that was tried more than once `dyrygentd.core.tries` knows more. Of a poll the time since its first question
counts as in flight, since asking again is how it works; and so does the time of a workflow that does a node's work, which has a
timeline of its own.

Each of these spans is a step up and a step down. A step costs two numbers, wherever it is and however many bins follow it, so a
timeline costs the same for two bins as for four hundred. It is meant to run in a thread beside the loop, as folding is.

All times are put between the beginning and the end of what is shown, so that a clock which was set makes spans shorter and never
negative.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from dyrygentd.core.folding import Box, Fold
from dyrygentd.core.node_states import FIRST_BAD, FIRST_FINISHED
from dyrygentd.core.tries import NOT_DUE, Doing, begun, could_run_at, spans_of
from dyrygentd.core.workflow import RunningWorkflow

BINS_MIN: Final = 2
BINS_MAX: Final = 400
BINS: Final = 60
#: The shortest bin, in seconds: what took no time is shown nevertheless.
_BIN_S_MIN: Final = 0.001
_IN_FLIGHT: Final = (Doing.RUNNING, Doing.AGAIN)


class Frame(NamedTuple):
    """What is shown: ``bins`` spans of time of one length, from ``since`` to ``until``, in Unix seconds."""

    since: float
    until: float
    bins: int

    @property
    def bin_s(self) -> float:
        """Return how long a bin is."""
        return (self.until - self.since) / self.bins


class BoxTimes(NamedTuple):
    """What happened in a box, with one number for each bin.

    Attributes:
        first: When the first of its nodes was sent, or finished without having been; None if none was.
        last: When the last of them finished; None if none has.
        waiting: How many could have run and were not in flight, on average over the bin.
        running: How many were in flight in their first attempt.
        again: How many were in a later one.
        backoff: How many paused until their next attempt was due.
        ended: How many succeeded, or were skipped.
        failed: How many failed, or were cancelled in flight or between attempts. What was blocked, or cancelled before it was
            sent, never ran, and is counted nowhere.
    """

    first: float | None
    last: float | None
    waiting: Sequence[float]
    running: Sequence[float]
    again: Sequence[float]
    backoff: Sequence[float]
    ended: Sequence[int]
    failed: Sequence[int]


def frame_of(workflow: RunningWorkflow, now: float, bins: int = BINS) -> Frame:
    """Return the frame from a workflow's beginning to its end, or until now."""
    created_at, until = workflow.origin.created_at, workflow.finished_at or now
    began_at = begun(workflow)
    since = began_at if began_at <= until else min(created_at, until)
    return Frame(since, max(until, since + bins * _BIN_S_MIN), bins)


def times_of(fold: Fold, workflow: RunningWorkflow, states: bytes | bytearray, frame: Frame) -> list[BoxTimes]:
    """Return what happened in each box, joins left out.

    Args:
        states: The state of each node, as it stood at the end of the frame.
    """
    return [_times_of(fold.order[box.start : box.counted], workflow, states, frame) for box in fold.boxes]


def row_order(boxes: Sequence[Box], times: Sequence[BoxTimes], most: int) -> tuple[list[int], int]:
    """Return which boxes are shown, in the order in which they began, and how many more there are.

    What has nothing but joins is none of them. Of too many, those stay that have failures, and took the most time.
    """
    found = [number for number, box in enumerate(boxes) if box.counted > box.start]

    def weight(number: int) -> tuple[bool, float]:
        box = times[number]
        return any(box.failed), sum(map(sum, (box.running, box.again, box.backoff, box.waiting)))

    numbers = found if len(found) <= most else sorted(found, key=weight, reverse=True)[:most]

    def begin(number: int) -> tuple[float, int]:
        first = times[number].first
        return float("inf") if first is None else first, number

    return sorted(numbers, key=begin), len(found) - len(numbers)


class _Steps:
    """How many there were over time, as a sum of steps up and down."""

    __slots__ = ("_after", "_within")

    def __init__(self, bins: int) -> None:
        # One more for what begins at the very end, and one for what is behind that.
        self._within = [0.0] * (bins + 1)
        self._after = [0] * (bins + 2)

    def add(self, begin: float, end: float) -> None:
        """Add one that was there from ``begin`` to ``end``, in bins."""
        if begin < end:
            # Not in a loop of two: this is done for every node, and takes most of the time.
            first, last = int(begin), int(end)
            self._within[first] += first + 1 - begin
            self._after[first + 1] += 1
            self._within[last] -= last + 1 - end
            self._after[last + 1] -= 1

    def means(self) -> list[float]:
        """Return how many there were on average in each bin."""
        count, found = 0, list[float]()
        for within, after in zip(self._within[:-1], self._after, strict=False):
            count += after
            # What is left of steps that take each other away is nothing.
            found.append(max(0.0, round(count + within, 9)) if within else count)
        return found


def _times_of(nodes: Sequence[int], workflow: RunningWorkflow, states: bytes | bytearray, frame: Frame) -> BoxTimes:
    since, until, bins = frame
    per_s, behind = 1 / frame.bin_s, float(bins)
    steps = tuple(_Steps(bins) for _ in Doing)
    waiting, running, again = steps[Doing.WAITING], steps[Doing.RUNNING], steps[Doing.AGAIN]
    ended, failed = [0] * bins, [0] * bins
    attempts, ends, earlier = workflow.attempts, workflow.nodes.finished_at, workflow.attempts.earlier
    first, last, began_at = float("inf"), 0.0, begun(workflow)

    def place(at: float) -> float:
        found = (at - since) * per_s
        return 0.0 if found < 0.0 else behind if found > behind else found

    for node in nodes:
        state = states[node]
        if state in NOT_DUE and node not in earlier:
            continue
        is_finished = state >= FIRST_FINISHED
        # The end of what was set running again since the states were copied is not known any more.
        end = (ends[node] or until) if is_finished else until
        sent_at, attempt = attempts.dispatched_at[node], attempts.of(node)
        could_at = could_run_at(workflow, node, states, began_at)
        if node in earlier:
            for doing, begin, until_then in spans_of(workflow, node, state, could_at, until):
                steps[doing].add(place(begin), place(until_then))
                if doing in _IN_FLIGHT:
                    first = min(first, begin)
            if state in NOT_DUE:
                continue
        else:
            is_again = attempt > 1
            if polled_at := attempts.polling_since.get(node):
                sent_at, is_again = polled_at, node in attempts.failures
            if could_at is not None and not sent_at and workflow.graph.is_child(node):
                # What does its work is under way meanwhile.
                sent_at = could_at
            if could_at is not None:
                waiting.add(place(could_at), place(sent_at or end))
            if sent_at:
                (again if is_again else running).add(place(sent_at), place(end))
                first = min(first, sent_at)
        if is_finished and (state < FIRST_BAD or attempt):
            (ended if state < FIRST_BAD else failed)[min(int(place(end)), bins - 1)] += 1
            first, last = min(first, end), max(last, end)
    shown = waiting.means(), running.means(), again.means(), steps[Doing.BACKOFF].means()
    return BoxTimes(None if first == float("inf") else first, last or None, *shown, ended, failed)
