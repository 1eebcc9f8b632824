"""Queue and destination of signatures: asked for once, kept within a bound."""

from dyrygentd.core import routes as module
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.routes import Routes
from tests.support.conversation import Conversation


class _Router:
    """Counts how often it is asked; with ``looks_at_input`` where a message goes depends on its input."""

    def __init__(self, *, looks_at_input: bool = False) -> None:
        self.looks_at_input = looks_at_input
        self.asked: list[bytes | None] = []

    def destination_of(self, signature: Signature, given: bytes | None) -> str:
        self.asked.append(given)
        return f"to-{signature.task}"


def test_asked_once() -> None:
    """Workflows repeat few signatures, and a router may be the user's slow code."""
    router = _Router()
    routes = Routes(lambda signature: f"q-{signature.task}", router)
    for _ in range(3):
        assert routes.of(Signature("t")) == (("t", "q-t"), "to-t")
    assert router.asked == [None]
    assert Routes(lambda _: "q", None).of(Signature("t")) == (("t", "q"), "")


def test_what_is_kept_is_bounded() -> None:
    """Arguments make signatures without end."""
    routes = Routes(lambda _: "q", None)
    for number in range(module._ROUTES_KEPT_MAX + 1):
        routes.of(Signature("t", args=b"[%d]" % number))
    assert len(routes.known) == 1


def test_router_that_looks_at_the_input(conversation: Conversation) -> None:
    """It is asked for each node, with the input, unless that is too long for a turn; then whoever publishes asks."""
    router = _Router(looks_at_input=True)
    routes = Routes(lambda _: "q", router)
    conversation.submit("a; b < a; &j < a")
    workflow = conversation.workflow()
    conversation.succeed("w/a", value=b"5")
    signature = workflow.graph.signatures[1]
    assert signature is not None
    routes.of(signature)
    assert routes.is_by_input
    assert (routes.destination_for(workflow, 1, signature), router.asked) == ("to-tasks.b", [None, b"5"])
    assert (routes.task_of(workflow, 1), routes.task_of(workflow, 2)) == (("tasks.b", "q"), ("", ""))
    assert Routes(lambda _: "q", None).destination_for(workflow, 1, signature) == ""


def test_long_inputs_are_not_shown_to_a_router(conversation: Conversation) -> None:
    """It would hold up the turn of all workflows."""
    router = _Router(looks_at_input=True)
    conversation.submit("a; b < a")
    conversation.succeed("w/a", value=b'"%s"' % (b"x" * 70_000))
    workflow = conversation.workflow()
    signature = workflow.graph.signatures[1]
    assert signature is not None
    assert Routes(lambda _: "q", router).destination_for(workflow, 1, signature) == ""
    assert router.asked == []
