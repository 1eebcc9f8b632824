"""Among many workflows: who goes next, what is in flight, and how one that breaks leaves the others alone."""

import pytest

from dyrygentd.core import engine as engine_module
from dyrygentd.core.engine import Engine
from dyrygentd.core.events import (
    DrainRequested,
    MessagePublished,
    ReportsRead,
    SaveRefused,
    TaskFailed,
    TaskLost,
    TaskReported,
    TaskSucceeded,
    VerbRequested,
    WorkflowImported,
    WorkflowRecovered,
)
from dyrygentd.core.invariants import check_engine
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.states import NodeState
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import START, Conversation, cancel
from tests.support.stepping import stepped


def test_says_what_it_holds(conversation: Conversation) -> None:
    """Statistics are a snapshot that later events do not change."""
    conversation.submit("a; b < a; c countdown=9")
    before = conversation.engine.statistics()
    assert {word: count for word, count in before.nodes.items() if count} == {"dispatching": 1, "waiting": 1, "held": 1}
    assert (before.workflows, before.in_flight, before.in_flight_max, before.draining) == (1, 1, 2000, False)
    assert {name: count for name, count in before.counters.items() if count} == {"submitted": 1, "dispatched": 1}
    assert repr(conversation.engine) == "<Engine workflows=1 in_flight=1>"
    assert conversation.engine.node_count == 3
    conversation.succeed("w/a")
    assert before.counters["succeeded"] == 0


def test_a_publication_carries_all_that_a_message_needs(conversation: Conversation) -> None:
    """The dispatcher looks nothing up, so everything about a message is in its effect."""
    conversation.submit("a; b < a")
    batch = conversation.succeed("w/a", value=b"5")
    (message,) = batch.publish
    assert (message.workflow_id, message.node, message.attempt, message.task_id) == ("w", 1, 1, "w/b")
    assert (message.signature.task, message.input, message.parent_id) == ("tasks.b", b"5", "w/a")


def test_first_tasks_have_the_parent_of_the_workflow(conversation: Conversation) -> None:
    """What no task of the workflow precedes was started by the task that submitted it, also behind a gate or an empty join."""
    batch = conversation.submit("a; g gate=1; b < g; &j; c < j; d < a", parent_task=ParentTask("p", "r"))
    assert {message.task_id: message.parent_id for message in batch.publish} == {"w/a": "p", "w/c": "p"}
    batch = conversation.turn(VerbRequested("w", VerbRequest(Verb.RELEASE, nodes=("g",))))
    assert {message.task_id: message.parent_id for message in batch.publish} == {"w/b": "p"}
    batch = conversation.succeed("w/a")
    assert {message.task_id: message.parent_id for message in batch.publish} == {"w/d": "w/a"}
    conversation.crash()
    assert conversation.workflow().origin.parent_task == ParentTask("p", "r")
    batch = conversation.submit("a; g gate=1; b < g", "v")
    assert [message.parent_id for message in batch.publish if message.workflow_id == "v"] == [""]


def test_routes_by_task_id(conversation: Conversation) -> None:
    """Only what is in flight can still be changed by a result."""
    conversation.submit("a")
    assert conversation.engine.flights.is_in_flight("w/a")
    assert [(task_id, node) for task_id, _, node in conversation.engine.flights.in_flight()] == [("w/a", 0)]
    conversation.succeed("w/a")
    assert not conversation.engine.flights.is_in_flight("w/a")
    assert conversation.engine.node_count == 0


def test_never_exceeds_the_places_in_flight() -> None:
    """Whatever is ready, the broker holds a bounded number of tasks; a recovery may find more and then waits."""
    conversation = Conversation(Limits(in_flight_max=3))
    conversation.submit("; ".join(f"n{i}" for i in range(10)))
    for i in range(10):
        assert conversation.engine.statistics().in_flight == min(3, 10 - i)
        conversation.succeed(next(iter(conversation.engine.flights.in_flight()))[0])
    assert conversation.workflows["w"].state.value == "succeeded"
    conversation = Conversation(Limits(in_flight_max=3))
    conversation.submit("; ".join(f"n{i}" for i in range(5)))
    conversation.limits = Limits(in_flight_max=1)
    conversation.crash()
    assert conversation.turn().watch == ["w/n0", "w/n1", "w/n2"]
    assert conversation.succeed("w/n0", "w/n1").publish == []
    assert len(conversation.succeed("w/n2").publish) == 1


def test_deadline_is_the_next_release(conversation: Conversation) -> None:
    """The shell arms one timer, for the earliest of all held nodes."""
    conversation.submit("a countdown=9")
    conversation.submit("a countdown=5", "v")
    assert conversation.engine.next_deadline() == START + 5
    batch = conversation.turn(after_s=5)
    assert [message.task_id for message in batch.publish] == ["v/a"]
    assert conversation.engine.next_deadline() == START + 9


def test_what_others_wait_for_is_due_at_once(conversation: Conversation) -> None:
    """A submission, an end and nodes that can go are worth a transaction of their own."""
    assert conversation.engine.next_deadline() is None
    conversation.tell(conversation.submission("a; b < a"))
    assert conversation.engine.next_deadline() == 0
    conversation.turn()
    assert conversation.engine.next_deadline() is None
    conversation.tell(TaskSucceeded("w/a", b"1"))
    assert conversation.engine.next_deadline() == 0
    conversation.turn()
    conversation.tell(TaskSucceeded("w/b", b"1"))
    assert conversation.engine.next_deadline() == 0


def test_what_nobody_waits_for_lingers(conversation: Conversation) -> None:
    """Changes that let nothing go on share a transaction, for a time that runs from the first of them."""
    linger_s = conversation.limits.linger_s
    conversation.submit("a; b; c < a b")
    conversation.tell(MessagePublished("w/a"))
    conversation.now += linger_s / 2
    conversation.tell(TaskSucceeded("w/b", b"1"))
    assert conversation.engine.next_deadline() == START + linger_s
    assert conversation.turn().row_count == 2
    conversation.submit("a countdown=0.01", "v")
    conversation.tell(MessagePublished("w/a"))
    assert conversation.engine.next_deadline() == conversation.now + 0.01


def test_more_to_dispatch_is_due_at_once() -> None:
    """What one turn could not dispatch goes with the next, and few free places of many wait to be filled together."""
    conversation = Conversation(Limits(dispatch_max=1))
    conversation.submit("a; b")
    assert conversation.engine.next_deadline() == 0
    assert conversation.turn().watch == ["w/b"]
    assert not conversation.turn()
    assert conversation.engine.next_deadline() is None
    assert (Limits(in_flight_max=2000).refill, Limits(in_flight_max=3).refill) == (100, 1)
    conversation = Conversation(Limits(in_flight_max=40))
    conversation.submit("; ".join(f"n{i}" for i in range(50)))
    conversation.tell(TaskSucceeded("w/n0", b"1"))
    assert conversation.engine.next_deadline() == START + conversation.limits.linger_s
    conversation.tell(TaskSucceeded("w/n1", b"1"))
    assert conversation.engine.next_deadline() == 0


def test_drain_keeps_what_is_ready(conversation: Conversation) -> None:
    """A drained engine still takes results and writes them down."""
    conversation.submit("a; b < a")
    batch = conversation.turn(DrainRequested(), TaskSucceeded("w/a", b"1"))
    assert (batch.publish, batch.row_count) == ([], 1)
    assert conversation.engine.statistics().draining
    assert conversation.states() == {"a": "succeeded", "b": "ready"}


def test_time_of_a_cancelled_node_passes_unnoticed(conversation: Conversation) -> None:
    """The end of a hold says nothing to a workflow that has gone."""
    conversation.submit("a countdown=9")
    conversation.turn(cancel("w"))
    assert not conversation.turn(after_s=9)
    assert conversation.engine.next_deadline() is None


def test_cancel_of_nobody_is_harmless(conversation: Conversation) -> None:
    """A repeated or mistaken cancel changes nothing."""
    assert not conversation.turn(cancel("nobody"))


def test_a_second_end_in_a_turn_is_none(conversation: Conversation) -> None:
    """The first of two ends in one turn counts, in either order."""
    conversation.submit("a")
    conversation.submit("a", "v")
    conversation.turn(TaskSucceeded("w/a", b"1"), cancel("w"), cancel("v"), TaskSucceeded("v/a", b"1"))
    assert {key: record.state.value for key, record in conversation.workflows.items()} == {"w": "succeeded", "v": "cancelled"}


def test_recovered_and_cancelled_at_once_is_not_sent(conversation: Conversation) -> None:
    """A turn that recovers a workflow and cancels it must not publish what it revokes."""
    conversation.submit("a")
    conversation.crash()
    batch = conversation.turn(cancel("w"))
    assert (batch.watch, batch.publish, batch.unwatch) == (["w/a"], [], [])
    assert [revoke.task_id for revoke in batch.revoke] == ["w/a"]


def test_task_id_dispatched_anew_stays_watched(conversation: Conversation) -> None:
    """A task id that lands and flies again in one turn is not unwatched, or its result would be missed."""
    conversation.submit("a id=same")
    batch = conversation.turn(TaskFailed("same", "boom"), conversation.submission("a id=same", "v"))
    assert (batch.watch, batch.unwatch) == (["same"], [])


def test_recovery_counts_and_continues(conversation: Conversation) -> None:
    """After a recovery the engine knows its nodes, watches what was in flight and dispatches what was ready."""
    conversation.submit("a; b < a; c countdown=50")
    conversation.turn(MessagePublished("w/a"))
    conversation.crash()
    batch = conversation.turn()
    assert (batch.watch, batch.publish) == (["w/a"], [])
    assert conversation.engine.counting.counters.recovered == 1
    assert conversation.engine.node_count == 3
    assert conversation.engine.next_deadline() == START + 50


def test_a_result_that_breaks_a_workflow_leaves_the_others() -> None:
    """A workflow that contradicts itself is set aside with its story; its places are freed and the others go on."""
    engine, broken = _engine_with_two()
    broken.nodes.place(0, NodeState.BLOCKED)
    engine.handle(TaskSucceeded("w/a", b"1"), START)
    batch = engine.take_batch(START)
    assert batch.save_workflows["w"].state.value == "failed"
    assert "node 'a' of workflow 'w' cannot go from blocked to succeeded" in batch.save_workflows["w"].error
    assert sorted(batch.unwatch) == ["w/a", "w/b"]
    assert engine.counting.counters.broken == 1
    assert list(engine.workflows) == ["v"]
    check_engine(engine)
    engine.handle(TaskSucceeded("v/a", b"1"), START)
    assert [workflow.workflow_id for workflow in engine.take_batch(START).finished] == ["v"]


def test_a_dispatch_that_breaks_a_workflow_leaves_the_others() -> None:
    """The same holds when the contradiction comes up while nodes are dispatched."""
    conversation = Conversation()
    engine = conversation.engine
    for workflow_id in "wv":
        engine.handle(conversation.submission("a; b", workflow_id), START)
    engine.workflows["w"].nodes.place(1, NodeState.BLOCKED)
    batch = engine.take_batch(START)
    assert batch.save_workflows["w"].state.value == "failed"
    assert batch.save_workflows["w"].document == b"document"
    assert {message.workflow_id for message in batch.publish} == {"v"}
    assert sorted(engine.workflows) == ["v"]
    check_engine(engine)


def test_broken_workflow_stays_broken_when_cancelled() -> None:
    """A cancel in the same turn does not cover the story of what went wrong."""
    engine, broken = _engine_with_two()
    broken.nodes.place(0, NodeState.BLOCKED)
    for event in (TaskSucceeded("w/a", b"1"), cancel("w"), TaskReported("w/b", "STARTED")):
        engine.handle(event, START)
    record = engine.take_batch(START).save_workflows["w"]
    assert record.state.value == "failed"
    assert record.error


def test_recovers_from_a_submission_alone(conversation: Conversation) -> None:
    """The definition is enough to begin again, joins included."""
    conversation.submit("&j; a < j")
    conversation.nodes.clear()
    conversation.crash()
    assert conversation.turn().publish[0].input == b"[]"


def test_every_retry_is_counted_under_its_task(conversation: Conversation) -> None:
    """Whether a task failed or was lost, what is tried again stands under its name as in the sum."""
    conversation.submit("a! retry=3; b! retry=3 on_lost=retry; c!")
    conversation.turn(TaskFailed("w/a", "boom"), TaskLost("w/b", "gone"), TaskFailed("w/c", "boom"))
    by_task = conversation.engine.counting.by_task.view()
    assert {task: sums["retried"] for task, sums in by_task.items()} == {"tasks.a": 1, "tasks.b": 1, "tasks.c": 0}
    assert conversation.engine.counting.counters.retried == 2


def test_what_waits_is_as_old_as_the_process() -> None:
    """After a restart nobody is told that nodes have waited since their workflow began."""
    conversation = Conversation(Limits(in_flight_max=1))
    conversation.submit("a; b")
    conversation.now += 500
    conversation.crash()
    conversation.now += 3
    assert conversation.engine.statistics(conversation.now).oldest_ready_s == 3


def test_imported_workflows_go_on(conversation: Conversation) -> None:
    """What another daemon had is stored as it came, goes on if it is unfinished, and is an entry of the store alone if not."""
    conversation.submit("a; b < a; c countdown=9")
    conversation.submit("a", "v")
    conversation.succeed("v/a")
    elsewhere = Conversation()
    for workflow_id in ("w", "v"):
        workflow = conversation.restored(workflow_id)
        nodes = [row for (owner, _), row in conversation.nodes.items() if owner == workflow_id]
        entry = JournalEntry(workflow_id, START, "import", "somebody", "", (), 0, "")
        batch = elsewhere.turn(WorkflowImported(workflow, conversation.workflows[workflow_id], nodes, [entry]))
        assert batch.save_workflows[workflow_id].document == b"document"
        assert (len(batch.journal), {place[0] for place in batch.save_nodes}) == (1, {workflow_id})
    assert list(elsewhere.engine.workflows) == ["w"]
    assert elsewhere.engine.counting.counters.imported == 2
    assert elsewhere.engine.flights.is_in_flight("w/a")
    assert elsewhere.engine.next_deadline() == START + 9


def test_what_the_store_refuses_is_set_aside() -> None:
    """A workflow whose records contradict the disk must not hold up the others; one that has ended by then is counted."""
    engine, _ = _engine_with_two()
    for event in (SaveRefused("w", "it has another digest"), SaveRefused("gone", "odd")):
        engine.handle(event, START)
    batch = engine.take_batch(START)
    assert (batch.save_workflows["w"].state.value, sorted(batch.unwatch)) == ("failed", ["w/a", "w/b"])
    assert "it has another digest" in batch.save_workflows["w"].error
    assert engine.counting.counters.broken == 2
    assert list(engine.workflows) == ["v"]


def test_a_place_in_the_reports_is_not_urgent(conversation: Conversation) -> None:
    """It is remembered with whatever comes next, and is worth no transaction of its own at once."""
    conversation.tell(ReportsRead("5-0"))
    assert conversation.engine.next_deadline() == START + conversation.limits.linger_s
    assert conversation.turn().reports_read == "5-0"


def test_a_recovery_revokes_again_what_was_given_up(conversation: Conversation) -> None:
    """A worker that was away knows nothing of it; a task that another workflow has by now is left alone."""
    conversation.submit("a id=mine timeout=5; b id=other timeout=5; g gate=1")
    conversation.turn(after_s=6)
    conversation.crash()
    batch = conversation.turn()
    assert {revoke.task_id for revoke in batch.revoke} == {"mine", "other"}
    assert set(batch.watch) == {"mine", "other"}
    records = [conversation.restored("w")]
    conversation.restart(conversation.limits)
    conversation.tell(conversation.submission("a id=mine", "v"), WorkflowRecovered(records[0]))
    assert {revoke.task_id for revoke in conversation.turn().revoke} == {"other"}


def test_a_recovery_watches_what_was_lost(conversation: Conversation) -> None:
    """It waits for a person, who may be spared the decision."""
    conversation.submit("a; g gate=1")
    conversation.turn(TaskLost("w/a", "nowhere"))
    conversation.crash()
    assert conversation.turn().watch == ["w/a"]
    assert conversation.engine.flights.is_late("w/a")
    batch = conversation.turn(after_s=conversation.limits.late_watch_s + 1)
    assert batch.unwatch == []
    conversation.succeed("w/a")
    assert conversation.states()["a"] == "succeeded"


def test_late_tasks_are_forgotten_in_time(conversation: Conversation) -> None:
    """What was cancelled is watched for a while, and no longer."""
    conversation.submit("a; g gate=1")
    conversation.ask("cancel")
    assert conversation.turn(after_s=conversation.limits.late_watch_s + 1).unwatch == ["w/a"]


def test_a_router_that_looks_at_inputs_is_asked_for_each_node() -> None:
    """Where a message goes may depend on what precedes it, so one answer is not for all with this signature."""

    class Router:
        looks_at_input = True

        def destination_of(self, signature: Signature, given: bytes | None) -> str:
            return "" if given is None else f"q{given.decode()}"

    conversation = Conversation()
    conversation.engine = Engine(routing=Router())
    conversation.submit("a; b < a")
    assert [message.destination for message in conversation.succeed("w/a", value=b"5").publish] == ["q5"]
    conversation.succeed("w/b")


def test_an_alarm_that_breaks_a_workflow_leaves_the_others(conversation: Conversation) -> None:
    """The same holds when the contradiction comes up as time passes."""
    conversation.submit("a countdown=5")
    conversation.submit("a countdown=5", "v")
    conversation.workflow().nodes.place(0, NodeState.BLOCKED)
    batch = conversation.engine.take_batch(START + 5)
    assert batch.save_workflows["w"].state.value == "failed"
    assert [message.task_id for message in batch.publish] == ["v/a"]


def test_a_broken_workflow_leaves_the_lines_of_pools() -> None:
    """It stands in line no more, or a place would be called for nobody."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("a pool=p", "v")
    conversation.submit("a pool=p; b pool=p")
    engine = conversation.engine
    assert engine.pools.lines() == {("w", 0): "p", ("w", 1): "p"}
    engine.handle(SaveRefused("w", "odd"), START)
    engine.take_batch(START)
    assert engine.pools.lines() == {}
    check_engine(engine)


def test_a_verb_that_breaks_a_workflow_is_answered() -> None:
    """Whoever asked is told that it is a bug of ours, and the others go on."""
    engine, _ = _engine_with_two()
    request = VerbRequest(Verb.SET_PRIORITY, priority="high")  # type: ignore[arg-type]
    engine.handle(VerbRequested("w", request, 7), START)
    (answer,) = engine.take_batch(START).answers
    assert isinstance(answer.error, InvariantBroken)
    assert list(engine.workflows) == ["v"]


def test_very_many_changes_are_recorded_in_steps(conversation: Conversation) -> None:
    """Others have their turn in between, and all of it is one batch."""
    count = 2 * engine_module._STEP + 1
    conversation.engine.handle(conversation.submission("; ".join(f"n{number} gate=1" for number in range(count))), START)
    passes, batch = stepped(conversation.engine.batch_in_steps(START))
    assert (passes >= 2, len(batch.save_nodes)) == (True, count)


def test_a_workflow_that_stands_in_no_ring_is_found(conversation: Conversation) -> None:
    """It could go on and nobody would call it: the check that tests make tells."""
    conversation = Conversation(Limits(dispatch_max=1))
    conversation.submit("a; b")
    conversation.engine._rings.leave("w")
    with pytest.raises(InvariantBroken, match="stands in no ring of its priority"):
        conversation.check()


def test_a_finished_workflow_is_taken_back_for_a_verb(conversation: Conversation) -> None:
    """A retry sets it running again among the others, with its place and its times."""
    conversation.submit("a; b < a")
    conversation.turn(TaskFailed("w/a", "boom"))
    assert not conversation.engine.workflows
    assert conversation.ask("retry").is_changed
    assert conversation.engine.flights.in_flight_count == 1
    assert conversation.engine.node_count == 2


def test_a_verb_for_nobody_is_refused_and_counted(conversation: Conversation) -> None:
    """It changes nothing, and whoever asked is told."""
    (answer,) = conversation.turn(VerbRequested("nobody", VerbRequest(Verb.PAUSE), 7)).answers
    assert "nobody" in str(answer.error)
    assert conversation.engine.counting.counters.verbs_refused == 1


def test_a_start_before_its_time_sets_the_deadline(conversation: Conversation) -> None:
    """The deadline runs from the start, whenever that was, and is looked at."""
    conversation.submit("a", policy=WorkflowPolicy(start_at=START + 1000, deadline_s=60))
    conversation.ask("release")
    assert conversation.turn(after_s=61).save_workflows["w"].state.value == "failed"
    assert [entry.verb for entry in conversation.journal] == ["release", "deadline"]


def test_another_priority_takes_effect_at_once() -> None:
    """A workflow that waits for its turn moves to the ring of its new priority."""
    conversation = Conversation(Limits(dispatch_max=1))
    conversation.submit("a; b", "v")
    conversation.submit("a; b")
    conversation.ask("set-priority", priority=5)
    assert conversation.turn().watch in (["w/a"], ["w/b"])


def _engine_with_two() -> tuple[Engine, RunningWorkflow]:
    conversation = Conversation()
    conversation.submit("a; b")
    conversation.submit("a", "v")
    return conversation.engine, conversation.workflow()


def test_a_verb_alone_makes_a_turn(conversation: Conversation) -> None:
    """Taken in steps it begins the turn as any event does, and is due at once."""
    conversation.submit("a; b < a")
    steps = conversation.engine.verb_in_steps(VerbRequested("w", VerbRequest(Verb.HOLD, nodes=("b",))), START)
    stepped(steps)
    assert conversation.engine.next_deadline() == 0
    assert conversation.turn().row_count == 2


def test_a_lost_task_whose_id_another_one_has_is_not_watched(conversation: Conversation) -> None:
    """After a recovery the id is that of whoever has it in flight."""
    conversation.submit("a id=same; g gate=1")
    conversation.turn(TaskLost("same", "nowhere"))
    lost = conversation.restored("w")
    conversation.restart(conversation.limits)
    conversation.tell(conversation.submission("a id=same", "v"), WorkflowRecovered(lost))
    assert not conversation.engine.flights.is_late("same")
    assert conversation.engine.flights.holder_of("same") == "v"
