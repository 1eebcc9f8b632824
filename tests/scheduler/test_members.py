"""A member of a map is found from the workflow that has the map, however deep it is."""

import pytest

from dyrygentd.core.children import parent_of
from dyrygentd.core.events import TaskFailed
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadRequest, WorkflowNotFound
from dyrygentd.scheduler.members import addressed, home_of, node_of
from tests.support.conversation import Conversation, parse_graph

pytestmark = pytest.mark.anyio


@pytest.fixture
def conversation() -> Conversation:
    """A workflow with a map of two items, the second of which is a map, too; and a map whose list is not there yet."""
    talk = Conversation()
    talk.submit("a; m child=1; n < a child=1")
    child = talk.begin(parse_graph("m[0]; m[1] child=1; &m < m[0] m[1]", "child"), 1)
    talk.begin(parse_graph("m[1][0].x; m[1][0].y; &m[1] < m[1][0].x m[1][0].y", "inner", item_nodes=2), 1, child)
    return talk


async def _home(conversation: Conversation, name: str) -> str:
    async def unpacked(workflow_id: str) -> RunningWorkflow:
        found = conversation.engine.workflows.get(workflow_id)
        if found is None:
            raise WorkflowNotFound(workflow_id)
        return found

    return await home_of(unpacked, "w", name)


async def test_homes(conversation: Conversation) -> None:
    """Names are looked for where maps of such names are; who asks for one that nobody has is told of the workflow they know."""
    child = parent_of(conversation.workflow(), 1).child_id
    inner = parent_of(conversation.workflow(child), 1).child_id
    for name, home in {
        "a": "w",
        "m": "w",
        "m[0]": child,
        "m[1]": child,
        "m[1][0]": inner,
        "m[1][0].y": inner,
        "m[7]": "w",
        "m[1][7]": "w",
        "n[0]": "w",
        "x[0]": "w",
        "nobody": "w",
    }.items():
        assert await _home(conversation, name) == home, name


async def test_the_node_of_an_item(conversation: Conversation) -> None:
    """Whoever asks about an item that goes through several nodes is told of the one to look at."""
    child = parent_of(conversation.workflow(), 1).child_id
    inner = parent_of(conversation.workflow(child), 1).child_id
    workflow = conversation.workflow(inner)
    assert [node_of(workflow, name) for name in ("m[1][0]", "m[1][0].y", "m[1][1]")] == [0, 1, None]
    conversation.succeed("inner/m[1][0].x")
    assert node_of(workflow, "m[1][0]") == 1
    conversation.turn(TaskFailed("inner/m[1][0].y", "no"))
    assert node_of(workflow, "m[1][0]") == 1


async def test_addressed(conversation: Conversation) -> None:
    """A verb on the map that runs is one on all of it; members of two workflows are not changed by half."""

    async def unpacked(workflow_id: str) -> RunningWorkflow:
        return conversation.engine.workflows[workflow_id]

    child = parent_of(conversation.workflow(), 1).child_id
    live = conversation.engine.workflows.get
    for verb, nodes, home, meant, left in (
        (Verb.RETRY, ("m[0]",), child, Verb.RETRY, ("m[0]",)),
        (Verb.RETRY, ("m",), child, Verb.RETRY, ()),
        (Verb.HOLD, ("m",), child, Verb.PAUSE, ()),
        (Verb.RELEASE, ("m",), child, Verb.RESUME, ()),
        (Verb.SKIP, ("m",), "w", Verb.SKIP, ("m",)),
        (Verb.HOLD, ("n",), "w", Verb.HOLD, ("n",)),
        (Verb.RETRY, (), "w", Verb.RETRY, ()),
    ):
        found, request = await addressed(unpacked, live, "w", VerbRequest(verb, nodes=nodes))
        assert (found, request.verb, request.nodes) == (home, meant, left)
    with pytest.raises(BadRequest, match="are in different workflows"):
        await addressed(unpacked, live, "w", VerbRequest(Verb.SKIP, nodes=("a", "m[0]")))
