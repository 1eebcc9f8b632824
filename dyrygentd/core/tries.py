"""What a node did with its time: it could run, waited, was in flight, was in flight again, and paused between attempts.

Of a node that was tried once the records say when it was sent and when it finished; of one that was tried again they have the
last attempts before, too (`dyrygentd.core.attempts`). Between two of them is a *back-off* until the next one was due, and then
the node waits as any other one does. Of what had finished and was set going again the time in between is nobody's. What was
before the first attempt that is kept, and is not known attempt by attempt any more, counts as back-off.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from dyrygentd.core.node_states import FIRST_FINISHED
from dyrygentd.core.policy import Rule
from dyrygentd.core.records import Attempt
from dyrygentd.core.states import BAD, GOOD, NodeState
from dyrygentd.core.workflow import RunningWorkflow

#: Nodes that could not run so far, or never will.
NOT_DUE: Final = bytes([NodeState.WAITING, NodeState.BLOCKED])
_ANY: Final = {Rule.ANY_FAILED: BAD, Rule.ANY_SUCCEEDED: GOOD}


class Doing(IntEnum):
    """What a node does for a span of time."""

    WAITING = 0
    RUNNING = 1
    AGAIN = 2
    BACKOFF = 3


class Stretch(NamedTuple):
    """What a node did from ``begin`` to ``end``, in Unix seconds; one that has its end first took no time."""

    doing: Doing
    begin: float
    end: float


class Try(NamedTuple):
    """An attempt, and what was before it.

    Attributes:
        attempt: The present or last one has the state of its node, and an end of 0 if it is in flight.
        backoff_s: How long it was from the end of the one before until this one was due.
        waited_s: How long from when it could have been sent until it was; None if that is not known.
    """

    attempt: Attempt
    backoff_s: float
    waited_s: float | None


def tries_of(workflow: RunningWorkflow, node: int) -> list[Try]:
    """Return the attempts of a node that are known, the present or last one included, oldest first."""
    attempts = workflow.attempts
    known = list(attempts.earlier.get(node, ()))
    if sent_at := attempts.dispatched_at[node]:
        started_at, worker = attempts.began(node)
        ended_at = workflow.nodes.finished_at[node]
        # What one in flight has is that of the attempt before.
        error = workflow.errors.get(node, "") if ended_at else ""
        word = workflow.state_of(node).word
        known.append(Attempt(attempts.of(node), sent_at, ended_at, word, 0.0, started_at, worker, error))
    could_at = could_run_at(workflow, node, workflow.states, begun(workflow))
    found: list[Try] = []
    for place, attempt in enumerate(known):
        spans = list(_until(known, place, attempt.sent_at, could_at))
        backoff_s, waited_s = (
            sum(max(0.0, span.end - span.begin) for span in spans if span.doing is doing)
            for doing in (Doing.BACKOFF, Doing.WAITING)
        )
        is_known = could_at is not None and (place > 0 or attempt.number == 1)
        found.append(Try(attempt, backoff_s if place else 0.0, waited_s if is_known else None))
    return found


def left_out(workflow: RunningWorkflow, node: int) -> int:
    """Return how many attempts a node had before those that are known."""
    kept = workflow.attempts.earlier.get(node)
    first = kept[0].number if kept else workflow.attempts.of(node)
    return max(0, first - 1)


def spans_of(workflow: RunningWorkflow, node: int, state: int, could_at: float | None, until: float) -> list[Stretch]:
    """Return what a node did that was tried more than once, one thing at a time, in the order of time.

    Args:
        state: As it stood at ``until``.
        could_at: Since when it could have run.
    """
    attempts, found = workflow.attempts, list[Stretch]()
    known, polled_at, sent_at = (
        attempts.earlier.get(node, ()),
        attempts.polling_since.get(node, 0.0),
        attempts.dispatched_at[node],
    )
    is_again = attempts.of(node) > 1
    if state in NOT_DUE:
        sent_at, polled_at, could_at = 0.0, 0.0, None
    elif polled_at:
        # The questions of a poll are one to whoever looks, since asking again is how it works.
        known = tuple(attempt for attempt in known if attempt.ended_at <= polled_at)
        sent_at, is_again = polled_at, node in attempts.failures
    end = (workflow.nodes.finished_at[node] or until) if state >= FIRST_FINISHED else until
    for place, attempt in enumerate(known):
        found += _until(known, place, attempt.sent_at, could_at)
        found.append(Stretch(Doing.AGAIN if attempt.number > 1 else Doing.RUNNING, attempt.sent_at, attempt.ended_at))
    found += _until(known, len(known), sent_at or end, could_at)
    if sent_at:
        found.append(Stretch(Doing.AGAIN if is_again else Doing.RUNNING, sent_at, end))
    return list(_one_at_a_time(found))


def _one_at_a_time(spans: Iterable[Stretch]) -> Iterator[Stretch]:
    """Leave out what took no time, and have each begin after the one before: a clock that was set may tell otherwise."""
    at = 0.0
    for span in spans:
        begin = max(span.begin, at)
        if begin < span.end:
            yield span._replace(begin=begin)
            at = span.end


def _until(known: Sequence[Attempt], place: int, sent_at: float, could_at: float | None) -> Iterator[Stretch]:
    """Return what was before an attempt that was sent at this time, from the end of the one before on."""
    if not place:
        if could_at is not None:
            is_first = not known or known[0].number == 1
            yield Stretch(Doing.WAITING if is_first else Doing.BACKOFF, could_at, sent_at)
        return
    before = known[place - 1]
    due_at = min(max(before.due_at, before.ended_at), sent_at)
    if not before.is_over:
        yield Stretch(Doing.BACKOFF, before.ended_at, due_at)
    if could_at is not None:
        yield Stretch(Doing.WAITING, max(due_at, could_at), sent_at)


def could_run_at(workflow: RunningWorkflow, node: int, states: bytes | bytearray, since: float) -> float | None:
    """Return since when a node could have run, as far as what it depends on tells; None if it could not.

    Args:
        since: When the workflow began.
    """
    graph, ends, at = workflow.graph, workflow.nodes.finished_at, since
    deciding = _ANY.get(graph.policy(node).rule) if graph.policies else None
    if deciding and (decided := [ends[other] for other in graph.dependencies(node) if ends[other] and states[other] in deciding]):
        return max(min(decided), since)
    # What ends a section could run when all else of it had ended.
    for other in graph.waited_for(node) if graph.section_ends is not None else graph.dependencies(node):
        end = ends[other]
        if not end:
            return None
        if end > at:
            at = end
    return at


def begun(workflow: RunningWorkflow) -> float:
    """Return when a workflow began."""
    return max(workflow.origin.created_at, workflow.policy.start_at)
