"""What an event of a task does, by the state of its node: a table of what `task_events.py` does.

Of a task that is watched on the table is asked, and what it says is done. Of one in flight it only tells: `TaskEvents` decides
that itself, by the event. `tests/core/test_reactions.py` holds it to each pair, so the table cannot tell anything else.

An event names a task, not a state, so any of them may come in any state: results are doubled, late, or contradict each other. The
task that is meant is the last one of the node. One that is neither in flight nor watched on is *unrouted*: it is counted, and
changes nothing.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

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
from dyrygentd.core.states import NodeState


class Reaction(Enum):
    """What happens; the value says it in words."""

    CONFIRMS = "the broker has the message: the node is `dispatched`"
    ENDS = "the attempt ends: what that makes of the node is decided by its policy (`outcomes.py`)"
    NOTED = "it is noted of the attempt, which goes on"
    TURNS_UP = "if the task was taken for lost, the attempt is in flight again and ends in this way"
    CORRECTS = "if somebody else than the task had told of its failure, the node has succeeded after all"
    LATE = "it is counted as late or unrouted, and noted at a node that has finished"
    REPEATS = "what is known already changes nothing; of a task that was given up it is late"
    NOTHING = "nothing"


_IN_FLIGHT: Final[Mapping[type[TaskEvent], Reaction]] = {
    MessagePublished: Reaction.NOTHING,
    MessageRefused: Reaction.ENDS,
    TaskReported: Reaction.NOTED,
    TaskRedelivered: Reaction.NOTED,
    TaskSucceeded: Reaction.ENDS,
    TaskIgnored: Reaction.ENDS,
    TaskFailed: Reaction.ENDS,
    TaskRevoked: Reaction.ENDS,
    TaskLost: Reaction.ENDS,
}
#: Of a node that has gone on, or never went, or has finished.
_ELSEWHERE: Final[Mapping[type[TaskEvent], Reaction]] = {
    MessagePublished: Reaction.NOTHING,
    MessageRefused: Reaction.NOTHING,
    TaskReported: Reaction.NOTHING,
    TaskRedelivered: Reaction.NOTHING,
    TaskSucceeded: Reaction.LATE,
    TaskIgnored: Reaction.LATE,
    TaskFailed: Reaction.REPEATS,
    TaskRevoked: Reaction.REPEATS,
    TaskLost: Reaction.REPEATS,
}
#: What was taken for lost and waits for a person: any end spares them the decision.
_HELD: Final = dict.fromkeys((TaskSucceeded, TaskIgnored, TaskFailed, TaskRevoked), Reaction.TURNS_UP)

#: ``{state of the node: {kind of event: what happens}}``, complete.
REACTIONS: Final[Mapping[NodeState, Mapping[type[TaskEvent], Reaction]]] = {
    **dict.fromkeys(NodeState, _ELSEWHERE),
    NodeState.DISPATCHING: {**_IN_FLIGHT, MessagePublished: Reaction.CONFIRMS},
    NodeState.DISPATCHED: _IN_FLIGHT,
    NodeState.HELD: {**_ELSEWHERE, **_HELD},
    # It is to be tried again anyway, and only a success spares it that.
    NodeState.RETRYING: {**_ELSEWHERE, TaskSucceeded: Reaction.TURNS_UP},
    NodeState.FAILED: {**_ELSEWHERE, TaskSucceeded: Reaction.CORRECTS},
}


def reaction_to(event: TaskEvent, state: NodeState | None) -> Reaction:
    """Return what an event does to the node whose last task it is about; without a state, of an earlier task or a lost node."""
    return _ELSEWHERE[type(event)] if state is None else REACTIONS[state][type(event)]
