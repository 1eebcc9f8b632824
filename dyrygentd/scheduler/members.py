"""Where a node is that somebody names at a workflow: a member of a map is in the map's own workflow, or deeper."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from dyrygentd.core.children import parent_of
from dyrygentd.core.members import map_of_member, nodes_of_item
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.states import FINISHED, NodeState
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadRequest, WorkflowNotFound

#: What a verb on a node means to the workflow that does its work.
_OF_WHOLE: Final = {Verb.RETRY: Verb.RETRY, Verb.HOLD: Verb.PAUSE, Verb.RELEASE: Verb.RESUME}

Unpacked = Callable[[str], Awaitable[RunningWorkflow]]
"""Returns a workflow, unfinished or not, to be read only. Raises `WorkflowNotFound`."""

Live = Callable[[str], RunningWorkflow | None]


async def home_of(unpacked: Unpacked, workflow_id: str, name: str) -> str:
    """Return the id of the workflow that has a node of this name: the given one, or a map's in it.

    The given one, too, if there is no such node: it says so.
    """
    if "[" not in name:
        return workflow_id
    home = workflow_id
    while True:
        try:
            workflow = await unpacked(home)
        except WorkflowNotFound:
            if home == workflow_id:
                raise
            # Its list is not there yet, or it is forgotten.
            return workflow_id
        if workflow.graph.number(name) is not None or nodes_of_item(workflow.graph, name):
            return home
        node = map_of_member(workflow.graph, name)
        if node is None:
            return workflow_id
        home = parent_of(workflow, node).child_id


def node_of(workflow: RunningWorkflow, name: str) -> int | None:
    """Return the node that somebody means who asks about this name, None if there is none.

    Of an item that goes through several nodes it is the one to look at: that failed, has not finished yet, or is the last.
    """
    number = workflow.graph.number(name)
    nodes = nodes_of_item(workflow.graph, name)
    if number is not None or not nodes:
        return number
    failed = (node for node in nodes if workflow.states[node] == NodeState.FAILED)
    unfinished = (node for node in nodes if workflow.state_of(node) not in FINISHED)
    return next(failed, next(unfinished, nodes[-1]))


async def addressed(unpacked: Unpacked, live: Live, workflow_id: str, request: VerbRequest) -> tuple[str, VerbRequest]:
    """Return whom a verb is for, and what it means there: members of a map are in another workflow.

    Args:
        live: Returns a workflow that is in memory.

    Raises:
        BadRequest: The nodes are in several, of which one may be changed and the other one not.
    """
    if not request.nodes:
        return workflow_id, request
    homes = {name: await home_of(unpacked, workflow_id, name) for name in request.nodes}
    if len({*homes.values()}) > 1:
        first, other = (next(name for name, home in homes.items() if home == each) for each in sorted({*homes.values()})[:2])
        raise BadRequest(
            f"'{first}' and '{other}' are in different workflows, as one of them is a member of a map",
            path="$.nodes",
            next_step="ask for each by itself",
        )
    home = homes[request.nodes[0]]
    if request.verb not in _OF_WHOLE or len(request.nodes) > 1:
        return home, request
    workflow = live(home)
    number = None if workflow is None else workflow.graph.number(request.nodes[0])
    hold = None if workflow is None or number is None else workflow.holds.get(number)
    if workflow is None or number is None or hold is None or hold.reason is not HoldReason.CHILD:
        return home, request
    child_id = parent_of(workflow, number).child_id
    if live(child_id) is None:
        return home, request
    return child_id, replace(request, verb=_OF_WHOLE[request.verb], nodes=())
