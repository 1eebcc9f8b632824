"""Lost tasks that wait for a person: one verb for all of them, for one cause, or for what a workflow has beside its failures."""

import pytest

from dyrygentd.core.causes import failures_by_cause
from dyrygentd.core.events import TaskFailed, TaskLost
from dyrygentd.core.lost_causes import AWAY, EMPTIED, ENDED_SILENTLY, EXPIRED, fingerprint_of_lost
from dyrygentd.core.states import NodeState
from dyrygentd.core.verbs import cause_id, cause_of, nodes_of_cause
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import CauseNotFound
from tests.support.conversation import Conversation
from tests.support.stepping import standings

_EMPTIED = f"its task is lost: nowhere; {EMPTIED} at 19:22:15 UTC"
_SILENT = f"its task is lost: w1 has it no longer: it {ENDED_SILENTLY}"


@pytest.fixture
def lost(conversation: Conversation) -> RunningWorkflow:
    """A workflow of which one node has failed, two were lost with the broker, and one ended without a result."""
    conversation.submit("f; a; b; c; last < f a b c")
    conversation.turn(TaskFailed("w/f", "boom", "ValueError", fingerprint="ValueError"))
    conversation.turn(TaskLost("w/a", _EMPTIED), TaskLost("w/b", _EMPTIED), TaskLost("w/c", _SILENT))
    return conversation.engine.workflows["w"]


def _states(workflow: RunningWorkflow, names: str) -> set[NodeState]:
    return {workflow.state_of(workflow.graph.number(name) or 0) for name in names}


def test_cause_of_lost() -> None:
    """What is kept of a lost task tells its cause; one that says nothing more is lost and nothing else."""
    assert fingerprint_of_lost(_EMPTIED) == "lost: the broker was emptied"
    assert fingerprint_of_lost(f"its task is lost: nowhere; {AWAY} from 19:20:00 UTC") == "lost: the result backend was away"
    assert fingerprint_of_lost(_SILENT) == "lost: ended without a result"
    assert (
        fingerprint_of_lost(f"its task is lost: nowhere; if it ended then, {EXPIRED}; else its worker died") == f"lost: {EXPIRED}"
    )
    assert fingerprint_of_lost("its task is lost: nowhere") == "lost"


def test_retry_of_a_workflow_carries_out_what_was_lost(conversation: Conversation, lost: RunningWorkflow) -> None:
    """`retry` without more is for all that does not go on: what failed and what was lost."""
    answer = conversation.ask("retry")
    assert answer.nodes == ("a", "b", "c", "f", "last")
    assert _states(lost, "fabc") <= {NodeState.DISPATCHING, NodeState.READY}
    assert not conversation.ask("retry").is_changed


def test_lost_tasks_are_causes(lost: RunningWorkflow) -> None:
    """They are counted with the failures, in the order in which they appear."""
    names = lost.graph.names
    causes = [(cause, [names[node] for node in nodes]) for cause, nodes in failures_by_cause(lost)]
    assert causes == [
        ("ValueError", ["f"]),
        ("lost: the broker was emptied", ["a", "b"]),
        ("lost: ended without a result", ["c"]),
    ]


def test_retry_and_skip_by_cause(conversation: Conversation, lost: RunningWorkflow) -> None:
    """One cause by its id, and all that was lost by the word for it; where nothing is lost any more, nothing is changed."""
    assert conversation.ask("retry", cause=cause_id("lost: the broker was emptied")).nodes == ("a", "b")
    assert conversation.ask("skip", cause="lost", value=b"5").nodes == ("c",)
    assert _states(lost, "c") == {NodeState.SKIPPED}
    for verb in ("retry", "skip"):
        answer = conversation.ask(verb, cause="lost")
        assert (answer.error, answer.is_changed) == (None, False)


def test_each_cause_of_lost_stands_for_itself(conversation: Conversation, lost: RunningWorkflow) -> None:
    """Those that would end in the same way again are told apart from those that would not."""
    found = [standing for standing in standings(conversation.engine, lost, conversation.now) if standing.code == "lost"]
    assert {standing.examples: standing.next_step.startswith("`skip") for standing in found} == {("a", "b"): False, ("c",): True}
    assert all(standing.text.count("lost") == 1 for standing in found)


def test_failures_and_cancelled_nodes_by_cause(conversation: Conversation) -> None:
    """One way to mean all of a group, whatever its state; what is cancelled has no number among the failures."""
    conversation.submit("f; g; h; a! countdown=1000; b! countdown=1000; c < a")
    for name, cause in (("f", "ValueError"), ("g", "ValueError"), ("h", "KeyError")):
        conversation.turn(TaskFailed(f"w/{name}", "boom", cause, fingerprint=cause))
    assert conversation.ask("skip", cause=cause_id("ValueError"), value=b"[1]").nodes == ("f", "g")
    workflow = conversation.workflow()
    conversation.ask("cancel")
    a, c = (workflow.graph.number(name) or 0 for name in "ac")
    assert cause_of(workflow, a) != cause_of(workflow, c)
    assert nodes_of_cause(workflow, cause_of(workflow, c)) == [c]
    assert len(nodes_of_cause(workflow, cause_of(workflow, a))) == 2
    assert nodes_of_cause(workflow, "1") == [workflow.graph.number("h")]
    with pytest.raises(CauseNotFound):
        nodes_of_cause(workflow, "2")
    assert cause_of(workflow, 0) == ""
