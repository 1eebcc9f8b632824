"""A workflow that waits for its start time, and is to begin now."""

from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.verbs import WORKFLOW_VERBS, Verb
from dyrygentd.errors import BadRequest, VerbRefused
from tests.support.conversation import START, Conversation


def _scheduled(conversation: Conversation, deadline_s: float = 0.0) -> None:
    conversation.submit("a; b < a", policy=WorkflowPolicy(start_at=START + 3600, deadline_s=deadline_s))
    assert conversation.engine.workflows["w"].state is WorkflowState.SCHEDULED


def test_release_starts_it_now(conversation: Conversation) -> None:
    """It begins at once, once, and after a crash it has begun; its deadline counts from now on."""
    _scheduled(conversation, deadline_s=60.0)
    conversation.now += 10
    answer = conversation.ask("release", by="ada")
    assert (answer.error, answer.is_changed, answer.nodes) == (None, True, ())
    workflow = conversation.engine.workflows["w"]
    assert (workflow.state, workflow.deadline_at) == (WorkflowState.RUNNING, conversation.now + 60)
    assert conversation.journal[-1].detail == "started before its time"
    assert workflow.nodes.in_flight_count == 1
    conversation.crash()
    workflow = conversation.engine.workflows["w"]
    assert (workflow.state, workflow.policy.start_at) == (WorkflowState.RUNNING, START + 10)
    assert isinstance(conversation.ask("release").error, BadRequest)


def test_release_of_a_node_says_what_to_release(conversation: Conversation) -> None:
    """That nothing is changed must not look as if it had begun."""
    _scheduled(conversation)
    error = conversation.ask("release", "a").error
    assert isinstance(error, VerbRefused)
    assert "without a node, starts it now" in str(error)


def test_paused_before_its_time(conversation: Conversation) -> None:
    """It begins, and dispatches nothing until it is resumed."""
    _scheduled(conversation)
    conversation.ask("pause")
    assert conversation.ask("release").is_changed
    workflow = conversation.engine.workflows["w"]
    assert (workflow.state, workflow.has_begun, workflow.nodes.in_flight_count) == (WorkflowState.PAUSED, True, 0)
    conversation.ask("resume")
    assert workflow.nodes.in_flight_count == 1


def test_release_is_no_verb_for_other_workflows() -> None:
    """Only one that waits for its time is released as a whole."""
    assert Verb.RELEASE not in WORKFLOW_VERBS
