"""Each event of a task in each state of its node: what happens is what the table says."""

from collections.abc import Callable
from typing import get_args

import pytest

from dyrygentd.core.events import (
    MessagePublished,
    MessageRefused,
    TaskEvent,
    TaskFailed,
    TaskIgnored,
    TaskLost,
    TaskRedelivered,
    TaskReported,
    TaskRevoked,
    TaskSucceeded,
)
from dyrygentd.core.limits import Limits
from dyrygentd.core.reactions import REACTIONS, Reaction, reaction_to
from dyrygentd.core.states import IN_FLIGHT, NodeState
from tests.support.conversation import Conversation

#: ``{state: how node ``x`` gets there}``, with a task that is watched on where there can be one; node ``y`` keeps all going.
STORIES: dict[NodeState, tuple[str, Callable[[Conversation], object]]] = {
    NodeState.WAITING: ("x < y; y", lambda conversation: None),
    NodeState.HELD: ("x; y", lambda conversation: conversation.turn(TaskLost("w/x", "gone"))),
    NodeState.READY: ("y; x", lambda conversation: None),
    NodeState.DISPATCHING: ("x; y", lambda conversation: None),
    NodeState.DISPATCHED: ("x; y", lambda conversation: conversation.turn(MessagePublished("w/x"))),
    NodeState.RETRYING: ("x on_lost=retry; y", lambda conversation: conversation.turn(TaskLost("w/x", "gone"))),
    NodeState.SUCCEEDED: ("x; y", lambda conversation: conversation.succeed("w/x")),
    NodeState.SKIPPED: ("x; y", lambda conversation: conversation.ask("skip", "x")),
    NodeState.FAILED: ("x; y", lambda conversation: conversation.turn(TaskFailed("w/x", "gone", exception="WorkerLostError"))),
    NodeState.CANCELLED: ("x; y", lambda conversation: conversation.ask("cancel")),
    NodeState.BLOCKED: ("x < a; a; y", lambda conversation: conversation.turn(TaskFailed("w/a", "boom"))),
}
EVENTS: dict[type[TaskEvent], TaskEvent] = {
    MessagePublished: MessagePublished("w/x"),
    MessageRefused: MessageRefused("w/x", "too odd"),
    TaskReported: TaskReported("w/x", "STARTED"),
    TaskRedelivered: TaskRedelivered("w/x", "w@h"),
    TaskSucceeded: TaskSucceeded("w/x", b"1"),
    TaskIgnored: TaskIgnored("w/x", "Ignore"),
    TaskFailed: TaskFailed("w/x", "boom"),
    TaskRevoked: TaskRevoked("w/x", "terminated"),
    TaskLost: TaskLost("w/x", "gone"),
}


def test_table_is_complete() -> None:
    """A new event or a new state cannot come in undecided."""
    assert REACTIONS.keys() == STORIES.keys() == set(NodeState)
    assert all(row.keys() == EVENTS.keys() == set(get_args(TaskEvent)) for row in REACTIONS.values())


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("state", NodeState, ids=lambda state: state.word)
def test_event_does_what_the_table_says(state: NodeState, kind: type[TaskEvent]) -> None:
    """Late, doubled and contradicting results are the rule; each does one thing, and it is written down."""
    conversation = Conversation(Limits(in_flight_max=1 if state is NodeState.READY else 10))
    graph, story = STORIES[state]
    conversation.submit(graph)
    workflow = conversation.workflow()
    node = workflow.graph.number("x")
    assert node is not None
    story(conversation)
    assert workflow.state_of(node) is state
    counters = conversation.engine.counting.counters
    late, turned_up = counters.late + counters.unrouted, counters.turned_up
    reported, redelivered = dict(workflow.attempts.reported), counters.redelivered
    event = EVENTS[kind]
    conversation.tell(event)
    after = workflow.state_of(node)
    is_noted = workflow.attempts.reported != reported or counters.redelivered > redelivered
    is_late = counters.late + counters.unrouted > late
    match reaction_to(event, state):
        case Reaction.CONFIRMS:
            assert after is NodeState.DISPATCHED
        case Reaction.ENDS:
            assert after not in IN_FLIGHT
            assert not is_late
        case Reaction.NOTED:
            assert after is state
            assert is_noted
        case Reaction.TURNS_UP:
            assert after.is_finished
            assert counters.turned_up == turned_up + 1
        case Reaction.CORRECTS:
            assert after is NodeState.SUCCEEDED
        case Reaction.LATE:
            assert after is state
            assert is_late
        case Reaction.REPEATS:
            assert after is state
            assert is_late == (state not in (NodeState.HELD, NodeState.RETRYING, NodeState.FAILED))
        case Reaction.NOTHING:
            assert after is state
            assert not is_noted
            assert counters.late == 0


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_earlier_task_does_what_it_does_to_a_finished_node(kind: type[TaskEvent]) -> None:
    """A later attempt is not touched by the end of an earlier one."""
    assert reaction_to(EVENTS[kind], None) is reaction_to(EVENTS[kind], NodeState.CANCELLED)
