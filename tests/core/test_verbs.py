"""Every verb on every state: what it does, that it does it once, that refusals change nothing, and that a crash loses nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest

from dyrygentd.core.bounds import PRIORITY_MAX
from dyrygentd.core.checkpoint import node_record, workflow_record
from dyrygentd.core.effects import Answer, Publish
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskIgnored, TaskLost, TaskSucceeded, VerbRequested
from dyrygentd.core.limits import Limits
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.records import NodeRecord, WorkflowRecord
from dyrygentd.core.standing import headline, standing_of_node
from dyrygentd.core.states import IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.steps import STEP
from dyrygentd.core.verbs import NODE_VERBS, WORKFLOW_VERBS, Allowed, Verb, VerbRequest, check, perform_in_steps, started_again_by
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadRequest, CauseNotFound, NodeNotFound, ValueGone, VerbRefused
from tests.support.conversation import START, Conversation
from tests.support.stepping import standings, stepped

DOES, NOTHING, REFUSED = Allowed.DOES, Allowed.NOTHING, Allowed.REFUSED

#: How ``x`` is declared, by kind; ``a`` comes before it, ``z`` after it, and the gate ``o`` keeps the workflow open.
KINDS = {
    "task": "x! < a retry=2",
    "countdown": "x! < a countdown=50",
    "pool": "x! < a pool=p",
    "join": "&x < a",
    "gate": "x < a gate=1",
    "sleep": "x < a sleep=50",
    "poll": "x! < a poll=5",
    "hook": "x! hook=always",
    "unneeded": "x! < a rule=any_failed",
}

Step = Callable[[Conversation], object]


@dataclass(frozen=True)
class Situation:
    """A way in which ``x`` comes to stand in a state."""

    kind: str
    state: NodeState
    steps: tuple[Step, ...]
    hold: HoldReason | None = None
    on_hold: bool = False

    def __str__(self) -> str:
        return "-".join(filter(None, [self.kind, self.state.word, self.hold or "", "on_hold" if self.on_hold else ""]))


def _a_done(conversation: Conversation) -> None:
    conversation.tell(TaskSucceeded("w/a", b"1"))


def _turn(conversation: Conversation) -> None:
    conversation.turn()


def _dispatched(conversation: Conversation) -> None:
    conversation.turn(MessagePublished("w/x"))


def _x_done(conversation: Conversation) -> None:
    conversation.turn(TaskSucceeded("w/x", b"true"))


def _x_asks_again(conversation: Conversation) -> None:
    conversation.turn(TaskSucceeded("w/x", b"false"))


def _x_fails(conversation: Conversation) -> None:
    conversation.turn(TaskFailed("w/x", "boom", "ValueError"))


def _x_fails_for_good(conversation: Conversation) -> None:
    for _ in range(2):
        task_id = conversation.workflow().attempts.task_id_of(1)
        conversation.turn(TaskFailed(task_id, "boom", "ValueError"), after_s=60)
        conversation.turn(after_s=60)


def _x_lost(conversation: Conversation) -> None:
    conversation.turn(TaskLost("w/x", "nobody has it"))


def _x_ignored(conversation: Conversation) -> None:
    conversation.turn(TaskIgnored("w/x", "Ignore"))


def _a_fails(conversation: Conversation) -> None:
    conversation.turn(TaskFailed("w/a", "boom"))


def _o_open(conversation: Conversation) -> None:
    conversation.tell(VerbRequested("w", VerbRequest(Verb.RELEASE, nodes=("o",))))


def _verb(verb: Verb, *nodes: str) -> Step:
    return lambda conversation: conversation.turn(VerbRequested("w", VerbRequest(verb, nodes=nodes)))


_W, _H, _R, _DG, _DD, _X, _S, _K, _F, _C, _B = NodeState

SITUATIONS = [
    *(Situation(kind, _W, ()) for kind in KINDS),
    *(Situation(kind, _W, (_verb(Verb.HOLD, "x"),), on_hold=True) for kind in KINDS if kind != "join"),
    Situation("countdown", _H, (_a_done,), HoldReason.TIME),
    Situation("countdown", _H, (_a_done, _verb(Verb.HOLD, "x")), HoldReason.TIME, on_hold=True),
    Situation("task", _H, (_a_done, _verb(Verb.HOLD, "x")), HoldReason.OPERATOR, on_hold=True),
    Situation("pool", _H, (_a_done, _turn), HoldReason.POOL),
    Situation("task", _H, (_a_done, _turn, _x_lost), HoldReason.LOST),
    Situation("gate", _H, (_a_done,), HoldReason.GATE),
    Situation("sleep", _H, (_a_done,), HoldReason.TIME),
    Situation("poll", _H, (_a_done, _turn, _x_asks_again), HoldReason.POLL),
    *(Situation(kind, _R, (_a_done,)) for kind in ("task", "poll", "pool")),
    Situation("hook", _R, (_a_done, _turn, lambda conversation: conversation.turn(TaskSucceeded("w/z", b"1")), _o_open)),
    *(Situation(kind, _DG, (_a_done, _turn)) for kind in ("task", "poll")),
    *(Situation(kind, _DD, (_a_done, _turn, _dispatched)) for kind in ("task", "poll")),
    Situation("task", _X, (_a_done, _turn, _x_fails), HoldReason.RETRY),
    Situation("task", _X, (_a_done, _turn, _x_fails, _verb(Verb.HOLD, "x")), HoldReason.RETRY, on_hold=True),
    *(Situation(kind, _S, (_a_done, _turn, _x_done)) for kind in ("task", "poll")),
    Situation("join", _S, (_a_done,)),
    Situation("gate", _S, (_a_done, _verb(Verb.RELEASE, "x"))),
    Situation("sleep", _S, (_a_done, _turn, lambda conversation: conversation.turn(after_s=51))),
    *(Situation(kind, _K, (_verb(Verb.SKIP, "x"),)) for kind in KINDS),
    Situation("unneeded", _K, (_a_done,)),
    Situation("task", _K, (_a_done, _turn, _x_ignored)),
    Situation("task", _F, (_a_done, _turn, _x_fails_for_good)),
    Situation("poll", _F, (_a_done, _turn, _x_fails)),
    *(Situation(kind, _B, (_a_fails,)) for kind in KINDS if kind not in ("hook", "unneeded")),
    *(Situation(kind, _C, (_verb(Verb.CANCEL),)) for kind in KINDS),
]


def _is_like_others(situation: Situation, workflow_state: str) -> bool:
    """Tell whether, in a workflow that is paused or over, what another kind of node shows is the same."""
    is_of_all_kinds = situation.state in (_W, _K, _B, _C)
    return workflow_state != "running" and is_of_all_kinds and situation.kind not in ("task", "join", "gate")


#: Where ``x`` may stand so: in a workflow that is running, paused, or over as far as it can be.
PLACES = [
    pytest.param(situation, workflow_state, marks=[pytest.mark.long] if _is_like_others(situation, workflow_state) else [])
    for situation, workflow_state in product(SITUATIONS, ("running", "paused", "over"))
    if workflow_state != "over" or situation.state.is_finished
]


def _conversation(situation: Situation, workflow_state: str) -> Conversation:
    """Bring ``x`` into the situation, in a workflow that is running, paused, or as far over as it can be."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("b! pool=p", "holder")
    following = "z! < a" if situation.kind == "hook" else "z! < x"
    conversation.submit(f"a; {KINDS[situation.kind]}; {following}; o gate=1")
    for step in situation.steps:
        step(conversation)
    if workflow_state == "paused":
        conversation.tell(VerbRequested("w", VerbRequest(Verb.PAUSE)))
    elif workflow_state == "over" and situation.state.is_finished:
        _bring_to_end(conversation, keep=("x",))
    return conversation


def _workflow(conversation: Conversation) -> RunningWorkflow:
    running = conversation.engine.workflows.get("w")
    return running if running is not None else conversation.restored("w")


def _snapshot(workflow: RunningWorkflow) -> tuple[WorkflowRecord, list[NodeRecord], list[int], list[int]]:
    nodes = range(len(workflow.graph))
    return (
        workflow_record(workflow),
        [node_record(workflow, node) for node in nodes],
        sorted(workflow.ready),
        [workflow.nodes.unmet[node] for node in nodes],
    )


def _request(conversation: Conversation, request: VerbRequest) -> Answer:
    """Ask without ending the turn."""
    engine = conversation.engine
    restored = None if engine.flights.known("w") is not None else conversation.restored("w")
    count = len(engine._turn.batch.answers)
    conversation.tell(VerbRequested("w", request, 1, restored))
    (answer,) = engine._turn.batch.answers[count:]
    return answer


def _expected(situation: Situation, workflow: RunningWorkflow, verb: Verb, *, force: bool) -> Allowed:
    """Say what the tables and the documented conditions make of a verb on ``x``, written anew."""
    state, hold = situation.state, situation.hold
    if verb is Verb.HOLD and situation.kind == "join":
        return REFUSED
    if verb is Verb.HOLD and (situation.on_hold or hold is HoldReason.GATE):
        return NOTHING
    if verb is Verb.RELEASE and state is _W and not situation.on_hold:
        return REFUSED if situation.kind == "gate" else NOTHING
    if verb is Verb.RELEASE and hold is HoldReason.POOL:
        return REFUSED
    if verb is Verb.RETRY and state in IN_FLIGHT:
        return DOES if force else REFUSED
    if verb is Verb.RETRY and hold is HoldReason.LOST:
        return DOES
    if verb is Verb.RERUN and situation.kind != "hook" and workflow.nodes.all_in(*IN_FLIGHT) and NODE_VERBS[verb][state] is DOES:
        return REFUSED  # What follows from it is at a worker.
    return NODE_VERBS[verb][state]


@pytest.mark.parametrize(("situation", "workflow_state"), PLACES, ids=str)
@pytest.mark.parametrize(("verb", "force"), [*((verb, False) for verb in NODE_VERBS), (Verb.RETRY, True)])
def test_node_verb(situation: Situation, workflow_state: str, verb: Verb, force: bool) -> None:
    """A verb does to a node what the table says, once, and the workflow comes to its end afterwards, crash or no crash."""
    request = VerbRequest(verb, nodes=("x",), force=force, value=b"5")
    for is_crashing in (False, True):
        conversation = _conversation(situation, workflow_state)
        workflow = _workflow(conversation)
        assert workflow.state_of(1) is situation.state
        assert (workflow.holds[1].reason if 1 in workflow.holds else None) == situation.hold
        expected = _expected(situation, workflow, verb, force=force)
        before = _snapshot(workflow)
        answer = _request(conversation, request)
        after = _snapshot(_workflow(conversation))
        assert isinstance(answer.error, VerbRefused) == (expected is REFUSED)
        assert answer.is_changed == (expected is DOES)
        finishes_again = verb is Verb.RERUN and _workflow(conversation).state_of(1).is_finished
        assert (after == before) == (expected is not DOES) or finishes_again
        if isinstance(answer.error, VerbRefused) and NODE_VERBS[verb][situation.state] is not DOES:
            assert answer.error.allowed == [other.value for other in NODE_VERBS if NODE_VERBS[other][situation.state] is DOES]
        if expected is not DOES:
            return
        assert "x" in answer.nodes
        _check_done(_workflow(conversation), verb)
        # A rerun of what is decided at once, such as a join, is one more each time.
        assert finishes_again or not _request(conversation, request).is_changed
        assert _snapshot(_workflow(conversation)) == after
        _end_and_compare(conversation, is_crashing=is_crashing)


def _check_done(workflow: RunningWorkflow, verb: Verb) -> None:
    state = workflow.state_of(1)
    match verb:
        case Verb.SKIP:
            assert state is _K
            assert 1 not in workflow.unneeded
        case Verb.HOLD:
            assert 1 in workflow.on_hold
            assert state is not _R
        case Verb.RELEASE:
            assert 1 not in workflow.on_hold
            assert state in (_W, _R, _S)
        case _:
            assert state in (_W, _H, _R, _S, _K, _B)


@pytest.mark.parametrize(("situation", "workflow_state"), PLACES, ids=str)
@pytest.mark.parametrize("verb", WORKFLOW_VERBS)
def test_workflow_verb(situation: Situation, workflow_state: str, verb: Verb) -> None:
    """A verb for the whole workflow does what the table says in each of its states, once, crash or no crash."""
    for is_crashing in (False, True):
        conversation = _conversation(situation, workflow_state)
        workflow = _workflow(conversation)
        before, state = _snapshot(workflow), workflow.state
        request = VerbRequest(verb, priority=7)
        expected = WORKFLOW_VERBS[verb][state]
        if verb is Verb.RETRY and not any(row.state in ("failed", "cancelled") or row.reason == "lost" for row in before[1]):
            expected = NOTHING
        answer = _request(conversation, request)
        after = _snapshot(_workflow(conversation))
        assert isinstance(answer.error, VerbRefused) == (expected is REFUSED)
        assert answer.is_changed == (expected is DOES)
        assert (after == before) == (expected is not DOES)
        if expected is not DOES:
            return
        assert not _request(conversation, request).is_changed
        assert _snapshot(_workflow(conversation)) == after
        _end_and_compare(conversation, is_crashing=is_crashing)


def _end_and_compare(conversation: Conversation, *, is_crashing: bool) -> None:
    """Save; what is restored must be what is there. Then go on to the end, with the one or the other."""
    conversation.turn()
    running = conversation.engine.workflows.get("w")
    if running is not None:
        assert _durable(conversation.restored("w")) == _durable(running)
        now = conversation.now
        headline(conversation.engine, running, now)
        standings(conversation.engine, running, now)
        assert all(standing_of_node(conversation.engine, running, node, now).text for node in range(len(running.graph)))
    if is_crashing:
        conversation.crash()
        conversation.turn()
    _bring_to_end(conversation)
    conversation.turn()
    assert conversation.workflows["w"].state.is_finished
    # An operator may always bring it to success.
    for _ in range(10):
        if conversation.workflows["w"].state is WorkflowState.SUCCEEDED:
            break
        answer = conversation.ask("retry")
        assert answer.is_changed
        _bring_to_end(conversation)
    assert conversation.workflows["w"].state is WorkflowState.SUCCEEDED
    assert not conversation.engine.pools.lines().keys() & {("w", node) for node in range(9)}


def _durable(workflow: RunningWorkflow) -> object:
    """Return what a restart must not change; a node that waits for its pool asks anew."""
    record, rows, _, unmet = _snapshot(workflow)
    return (
        record,
        [row._replace(state="ready", reason="") if row.reason == HoldReason.POOL else row for row in rows],
        unmet,
        {node: (value.content, value.users) for node, value in workflow.values.by_node.items()},
        workflow.has_begun,
        workflow.nodes.bad,
    )


def _bring_to_end(conversation: Conversation, keep: Sequence[str] = ()) -> None:
    """Let everything go its way: tasks succeed, gates open, holds are released, time passes."""
    for _ in range(50):
        workflow = conversation.engine.workflows.get("w")
        if workflow is None:
            return
        if workflow.state is WorkflowState.PAUSED:
            conversation.ask("resume")
        names = workflow.graph.names
        held = [node for node in range(len(names)) if _is_for_people(workflow, node) and names[node] not in keep]
        if held:
            conversation.ask("release", *[names[node] for node in held])
        for task_id, _, _ in list(conversation.engine.flights.in_flight()):
            conversation.tell(TaskSucceeded(task_id, b"true"))
        conversation.turn(after_s=30)
    raise AssertionError(f"{conversation.engine.workflows['w']!r} does not end")


def _is_for_people(workflow: RunningWorkflow, node: int) -> bool:
    hold = workflow.holds.get(node)
    return hold is not None and hold.reason in (HoldReason.GATE, HoldReason.OPERATOR, HoldReason.LOST)


# --- what the table cannot say ----------------------------------------------------------------------------------------


def test_scheduled_workflow_and_its_verbs() -> None:
    """Before its start nothing is decided; a pause, a skip or a cancel in that time does not make it start early."""
    conversation = Conversation()
    conversation.submit("a; &j < a; b! < j", policy=WorkflowPolicy(start_at=START + 100))
    for verb, by_state in WORKFLOW_VERBS.items():
        if by_state[WorkflowState.SCHEDULED] is NOTHING:
            assert not conversation.ask(verb).is_changed
    assert conversation.ask("skip", "a").is_changed
    assert conversation.states() == {"a": "skipped", "j": "waiting", "b": "waiting"}
    conversation.crash()
    assert conversation.states() == {"a": "skipped", "j": "waiting", "b": "waiting"}
    conversation.ask("cancel")
    conversation.ask("retry")
    assert conversation.workflows["w"].state is WorkflowState.SCHEDULED
    conversation.crash()
    conversation.turn()
    assert conversation.engine.next_deadline() == START + 100
    assert [message.task_id for message in conversation.turn(after_s=100).publish] == ["w/b"]


@pytest.mark.parametrize("is_crashing", [False, True])
def test_paused_over_its_start(is_crashing: bool) -> None:
    """A scheduled workflow that is paused begins at its time, dispatches nothing, and goes on with a resume."""
    conversation = Conversation()
    conversation.submit("&j; a < j", policy=WorkflowPolicy(start_at=START + 100))
    conversation.ask("pause")
    assert conversation.states()["j"] == "waiting"
    if is_crashing:
        conversation.crash()
    assert conversation.turn(after_s=100).publish == []
    assert conversation.states() == {"j": "succeeded", "a": "ready"}
    conversation.crash()
    assert conversation.states() == {"j": "succeeded", "a": "ready"}
    assert conversation.ask("resume").is_changed
    assert conversation.states()["a"] == "dispatching"


def test_resumed_before_its_start() -> None:
    """It is scheduled again, crash or no crash, and somebody looks at the clock."""
    conversation = Conversation()
    conversation.submit("a", policy=WorkflowPolicy(start_at=START + 100))
    conversation.ask("pause")
    conversation.crash()
    conversation.ask("resume")
    assert conversation.workflows["w"].state is WorkflowState.SCHEDULED
    assert len(conversation.turn(after_s=100).publish) == 1


def test_skip_of_one_of_two_causes_does_not_free_what_both_block() -> None:
    """A node with another failed dependency is blocked by that one then; it must not run."""
    conversation = Conversation()
    conversation.submit("a; b; c! < a b; &j < a b; o gate=1")
    conversation.turn(TaskFailed("w/a", "boom"), TaskFailed("w/b", "boom"))
    conversation.ask("skip", "a")
    assert conversation.states() == {"a": "skipped", "b": "failed", "c": "blocked", "j": "blocked", "o": "held"}
    assert conversation.workflow().blocked_by == {2: 1, 3: 1}
    conversation.ask("skip", "b")
    assert conversation.states()["c"] == "dispatching"


def test_cleanup_that_has_not_begun_waits_again() -> None:
    """What was to run because of a failure is taken back when the failed node is retried."""
    conversation = Conversation()
    conversation.submit("a; c! < a rule=any_failed countdown=50; f < a rule=all_finished gate=1; h! hook=failure")
    conversation.turn(TaskFailed("w/a", "boom"))
    assert conversation.states() == {"a": "failed", "c": "held", "f": "held", "h": "waiting"}
    conversation.ask("retry", "a")
    assert conversation.states() == {"a": "dispatching", "c": "waiting", "f": "waiting", "h": "waiting"}
    conversation.turn(TaskSucceeded(conversation.workflow().attempts.task_id_of(0), b"1"))
    assert conversation.states() == {"a": "succeeded", "c": "skipped", "f": "held", "h": "waiting"}


def test_retry_of_a_hook_leaves_the_other_hooks() -> None:
    """Hooks run once for each end; only what changes the end has them run again."""
    conversation = Conversation()
    conversation.submit("a; h! hook=always; i! hook=always")
    conversation.succeed("w/a")
    conversation.turn(TaskSucceeded("w/h", b"1"), TaskFailed("w/i", "boom"))
    assert conversation.ask("retry", "i").nodes == ("i",)
    assert conversation.states() == {"a": "succeeded", "h": "succeeded", "i": "dispatching"}
    conversation.succeed(conversation.workflow().attempts.task_id_of(2))
    assert conversation.ask("rerun", "a").nodes == ("a", "h", "i")


def test_what_was_not_needed_may_be_needed_later() -> None:
    """A value stays as long as a node that was skipped by its rule could still want it."""
    conversation = Conversation()
    conversation.submit("x; a; b! < a rule=any_failed; c < x b rule=all_succeeded; o gate=1")
    conversation.turn(TaskSucceeded("w/x", b"7"), TaskSucceeded("w/a", b"1"))
    assert conversation.states()["c"] == "skipped"
    conversation.crash()
    conversation.ask("rerun", "a")
    conversation.turn(TaskFailed(conversation.workflow().attempts.task_id_of(1), "boom"))
    batch = conversation.succeed("w/b", value=b"8")
    assert [message.input for message in batch.publish] == [b"[7,8]"]


@pytest.mark.parametrize("is_crashing", [False, True])
def test_the_value_of_a_skip_is_kept_for_a_rerun(is_crashing: bool) -> None:
    """Nobody else knows it; to go on with null instead would be a silent change of the input."""
    conversation = Conversation()
    conversation.submit("a; b < a; c! < b")
    conversation.ask("skip", "a", value=b"5")
    conversation.succeed("w/b")
    conversation.succeed("w/c")
    assert conversation.workflows["w"].state is WorkflowState.SUCCEEDED
    conversation.ask("rerun", "b")
    if is_crashing:
        conversation.crash()
    assert [message.input for message in [*conversation.turn().publish, *_resent(conversation)]][-1] == b"5"


def _resent(conversation: Conversation) -> list[Publish]:
    conversation.crash()
    return conversation.turn().publish


def test_rerun_needs_the_values_that_go_in() -> None:
    """A value that was let go cannot be made up; the refusal names from where a rerun is possible."""
    conversation = Conversation()
    conversation.submit("a; b < a; c < b")
    for task_id in ("w/a", "w/b", "w/c"):
        conversation.succeed(task_id)
    answer = conversation.ask("rerun", "c")
    assert isinstance(answer.error, ValueGone)
    # 'b' alone would be refused for the value of 'a'.
    assert answer.error.next_step == "rerun from 'a'"
    assert conversation.ask("rerun", "a").nodes == ("a", "b", "c")


@pytest.mark.parametrize("members", [3, 30])
def test_rerun_of_one_of_many_names_all_that_have_to_run(members: int) -> None:
    """Who follows the advice is not sent from one member of a group to the next; who would have to name very many is told so."""
    conversation = Conversation()
    names = [f"m{number}" for number in range(members)]
    conversation.submit(f"{'; '.join(names)}; end < {' '.join(names)}")
    for name in [*names, "end"]:
        conversation.succeed(f"w/{name}")
    error = conversation.ask("rerun", "m1").error
    assert isinstance(error, ValueGone)
    if members == 3:
        assert error.next_step == "rerun from 'm0', 'm1', 'm2'"
        assert conversation.ask("rerun", *error.origins).nodes == (*names, "end")
    else:
        assert error.next_step.endswith("'m19' and 10 more, or submit it anew")
        assert (len(error.origins), error.origin_count) == (20, 30)


def test_refusals_of_requests() -> None:
    """What cannot be meant is refused with what is known."""
    conversation = Conversation()
    conversation.restart(replace(conversation.limits, value_bytes_max=4))
    conversation.submit("a; b! < a; o gate=1")
    conversation.turn(TaskFailed("w/a", "boom", fingerprint="disk full"))
    errors = {
        NodeNotFound: conversation.ask("skip", "nobody"),
        BadRequest: conversation.ask("hold"),
        CauseNotFound: conversation.ask("retry", cause="2"),
        VerbRefused: conversation.ask("skip", "a", value=b"12345"),
    }
    assert [type(answer.error) for answer in errors.values()] == list(errors)
    assert isinstance(conversation.ask("set-priority", priority=PRIORITY_MAX + 1).error, BadRequest)
    assert conversation.ask("retry", cause="1").nodes == ("a", "b")


def test_a_request_for_several_nodes_is_all_or_nothing() -> None:
    """One node for which a verb is refused keeps it from all of them."""
    conversation = Conversation()
    conversation.submit("a; b; c countdown=50")
    conversation.succeed("w/a")
    before = _snapshot(conversation.workflow())
    assert isinstance(conversation.ask("hold", "c", "b").error, VerbRefused)
    assert _snapshot(conversation.workflow()) == before


def test_release_that_ends_another_of_its_nodes() -> None:
    """What the release of a gate decides is not refused afterwards, since the gate is open by then."""
    conversation = Conversation()
    conversation.restart(replace(conversation.limits, value_bytes_max=4))
    conversation.submit("a; b; g < a b gate=1; c < g")
    conversation.succeed("w/a", "w/b", value=b"12")
    conversation.ask("hold", "c")
    answer = conversation.ask("release", "g", "c")
    assert (answer.error, answer.nodes) == (None, ("g",))
    assert conversation.states() == {"a": "succeeded", "b": "succeeded", "g": "failed", "c": "blocked"}


def test_stop_dispatches_nothing_more() -> None:
    """After a stop neither a retry nor a poll in flight begins anything anew, crash or no crash; cleanup does."""
    policy = WorkflowPolicy(on_failure=OnFailure.STOP)
    for is_crashing in (False, True):
        conversation = Conversation()
        conversation.submit("a; b retry=3; p poll=5; d < b; c! < a rule=any_failed; l idempotent=1 on_lost=retry", policy=policy)
        conversation.turn(TaskFailed("w/a", "boom"))
        assert conversation.states()["d"] == "cancelled"
        if is_crashing:
            conversation.crash()
        conversation.turn(TaskFailed("w/b", "boom"), TaskSucceeded("w/p", b"false"), TaskLost("w/l", "gone"))
        states = {"a": "failed", "b": "failed", "p": "cancelled", "d": "cancelled", "c": "dispatching", "l": "failed"}
        assert conversation.states() == states


def test_deadline_ends_what_its_own_work_set_free() -> None:
    """A node that is free only since another one was cancelled is cancelled with it, and takes no turn."""
    conversation = Conversation()
    conversation.submit("a; b! < a rule=all_finished; c < b; h! hook=failure", policy=WorkflowPolicy(deadline_s=10))
    batch = conversation.turn(after_s=10)
    assert conversation.states() == {"a": "cancelled", "b": "cancelled", "c": "blocked", "h": "dispatching"}
    assert [message.task_id for message in batch.publish] == ["w/h"]
    assert conversation.ask("retry").is_changed
    assert conversation.engine.next_deadline() == START + 20
    assert conversation.workflow().error == ""


def test_deadline_that_finds_hooks_only_is_no_failure() -> None:
    """The work was done in time; a hook that runs on does not turn success into a miss."""
    conversation = Conversation()
    conversation.submit("a; h! hook=success", policy=WorkflowPolicy(deadline_s=10))
    conversation.succeed("w/a")
    conversation.turn(after_s=20)
    conversation.succeed("w/h")
    assert (conversation.workflows["w"].state, conversation.workflows["w"].error) == (WorkflowState.SUCCEEDED, "")


def test_pool_passes_over_those_who_cannot_go() -> None:
    """A paused workflow at the head of the line, or a node that was held or cancelled there, keeps nobody else waiting."""
    conversation = Conversation(pools={"p": 1, "q": 1})
    conversation.submit("a pool=p", "first")
    for workflow_id in ("held", "cancelled", "paused", "last"):
        conversation.submit("a pool=p", workflow_id)
    conversation.ask("hold", "a", workflow_id="held")
    conversation.ask("cancel", workflow_id="cancelled")
    conversation.ask("pause", workflow_id="paused")
    assert [view.waiting for view in conversation.engine.pools.views()] == [2]
    batch = conversation.succeed("first/a")
    assert [message.task_id for message in batch.publish] == ["last/a"]


def test_line_of_a_pool_does_not_grow_with_hold_and_release() -> None:
    """A node stands in one line, once."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("a pool=p; b pool=p; c pool=p")
    for _ in range(5):
        conversation.ask("hold", "b")
        conversation.ask("release", "b")
    assert [view.waiting for view in conversation.engine.pools.views()] == [2]
    assert [message.task_id for message in conversation.succeed("w/a").publish] == ["w/c"]


def test_cancelled_and_retried_while_no_place_was_free() -> None:
    """The workflow that comes back from the store takes the place in the ring of the one that left, not none."""
    conversation = Conversation(replace(Conversation().limits, in_flight_max=1))
    conversation.submit("a", "v")
    conversation.submit("a", "w")
    conversation.ask("cancel")
    conversation.ask("retry")
    conversation.ask("set-priority", priority=5)
    assert [message.task_id for message in conversation.succeed("v/a").publish] == ["w/a"]


def test_a_late_result_of_an_earlier_attempt_is_not_noted() -> None:
    """What became of an attempt that was given up says nothing about the one that runs."""
    conversation = Conversation()
    conversation.submit("a; b")
    conversation.ask("retry", "a", force=True)
    conversation.turn(TaskSucceeded("w/a", b"1"))
    assert conversation.nodes["w", 0].late == ""
    conversation.ask("cancel")
    conversation.turn(TaskSucceeded("w/b", b"1"))
    assert conversation.nodes["w", 1].late == "succeeded"
    conversation.ask("retry", "b")
    assert conversation.nodes["w", 1].late == ""


@pytest.mark.parametrize("way", ["retry in time", "retry at once", "given up", "found again"])
def test_a_hook_in_flight_waits_for_what_was_set_running_again(way: str) -> None:
    """Its next attempt follows the new end, and tells about that, whichever way it comes by another attempt."""
    conversation = Conversation()
    conversation.submit("a; b! < a; h hook=failure retry=2 backoff=5")
    conversation.turn(TaskFailed("w/a", "boom"))
    conversation.ask("retry", "a")
    assert conversation.states() == {"a": "dispatching", "b": "waiting", "h": "dispatching"}
    if way == "given up":
        conversation.ask("retry", "h", force=True)
    elif way == "found again":
        conversation.turn(TaskLost("w/h", "nobody has it"))
        conversation.ask("retry", "h")
    else:
        conversation.turn(TaskFailed("w/h", "mail is down"))
        if way == "retry at once":
            conversation.ask("retry", "h")
        conversation.turn(after_s=5)
    assert conversation.states()["h"] == "waiting"
    conversation.crash()
    assert conversation.states()["h"] == "waiting"
    a = conversation.workflow().attempts.task_id_of(0)
    batch = conversation.turn(TaskFailed(a, "boom again"))
    assert [(message.node, message.attempt) for message in batch.publish] == [(2, 2)]
    assert b"boom again" in bytes(batch.publish[0].input or b"")


def test_a_cleanup_in_flight_waits_for_what_was_set_running_again() -> None:
    """What runs when all has finished runs another attempt when all has finished once more."""
    conversation = Conversation()
    conversation.submit("a; c! < a rule=all_finished retry=2 backoff=5; z")
    conversation.turn(TaskFailed("w/a", "boom"))
    conversation.ask("retry", "a")
    conversation.turn(TaskFailed("w/c", "boom"))
    assert conversation.turn(after_s=5).publish == []
    batch = conversation.succeed(conversation.workflow().attempts.task_id_of(0))
    assert [(message.node, message.attempt) for message in batch.publish] == [(1, 2)]


def test_timers_do_not_grow_with_verbs() -> None:
    """A workflow that waits for its time may be asked for something as often as anybody likes."""
    conversation = Conversation()
    conversation.submit("a", policy=WorkflowPolicy(start_at=START + 1000))
    request = [VerbRequest(Verb.SET_PRIORITY, priority=priority) for priority in (1, 2)]
    for number in range(25_000):
        conversation.engine.handle(VerbRequested("w", request[number % 2]), conversation.now)
    assert conversation.engine.statistics().timers <= 10_001
    conversation.take()
    assert len(conversation.turn(after_s=1000).publish) == 1


def test_headline_says_what_waits_for_a_person() -> None:
    """The first line names the gate: "1 node held" is read as something that goes on by itself."""
    conversation = Conversation()
    conversation.submit("g gate=1; h gate=1; s sleep=50; a < g")
    workflow = conversation.engine.workflows["w"]
    conversation.turn()
    words = "nothing is in flight: 2 gates wait for a person, 1 node held or waiting for another attempt"
    assert headline(conversation.engine, workflow, START) == words


def test_asking_whether_a_verb_would_be_refused(conversation: Conversation) -> None:
    """The same words as from the verb itself, and nothing is changed."""
    conversation.submit("a; b < a; c < b")
    conversation.succeed("w/a")
    workflow = conversation.workflow()
    check(workflow, VerbRequest(Verb.HOLD, nodes=("c",)))
    with pytest.raises(VerbRefused, match="node 'a'"):
        check(workflow, VerbRequest(Verb.HOLD, nodes=("a",)))
    assert conversation.states() == {"a": "succeeded", "b": "dispatching", "c": "waiting"}


def test_what_a_verb_starts_again(conversation: Conversation) -> None:
    """A retry means what it names or all that failed, with what never ran because of it; a rerun all behind as well."""
    conversation.submit("a; b < a; c < b; x; y < x; g gate=1")
    conversation.succeed("w/x")
    conversation.succeed("w/y")
    conversation.turn(TaskFailed("w/a", "boom"))
    workflow = conversation.workflow()
    assert started_again_by(workflow, VerbRequest(Verb.RETRY)) == {0, 1, 2}
    assert started_again_by(workflow, VerbRequest(Verb.RETRY, nodes=("a",))) == {0, 1, 2}
    assert started_again_by(workflow, VerbRequest(Verb.RERUN, nodes=("x",))) == {3, 4}


def test_no_room_for_what_an_operator_gives() -> None:
    """A value for very many nodes may be more than is kept; nothing is changed then."""
    conversation = Conversation(Limits(workflow_values_bytes_max=50, value_bytes_max=50))
    conversation.submit("a; b; c < a b")
    answer = conversation.ask("skip", "a", "b", value=b'"%s"' % (b"x" * 30))
    assert isinstance(answer.error, VerbRefused)
    assert conversation.states() == {"a": "dispatching", "b": "dispatching", "c": "waiting"}


def test_skipping_what_the_skip_before_it_decides(conversation: Conversation) -> None:
    """A join that the first skip finishes has succeeded already; a node that it has blocked is opened once more."""
    conversation.submit("a; &j < a; b < j")
    conversation.turn(TaskFailed("w/a", "boom"))
    assert conversation.ask("skip", "a", "j", "b").is_changed
    assert conversation.states() == {"a": "skipped", "j": "succeeded", "b": "skipped"}


def test_very_many_nodes_are_meant_in_steps() -> None:
    """Others have their turn between some thousand nodes that are named."""
    names = [f"n{number}" for number in range(STEP + 1)]
    conversation = Conversation()
    conversation.engine.handle(conversation.submission("; ".join(f"{name} gate=1" for name in names)), START)
    request = VerbRequest(Verb.HOLD, nodes=tuple(names))
    passes, done = stepped(perform_in_steps(conversation.workflow(), request, START))
    # A gate is held already.
    assert (passes, done.is_changed) == (1, False)


def test_skipping_what_the_skip_before_it_has_made_unneeded(conversation: Conversation) -> None:
    """It is opened once more, and skipped by the operator, whose value it has."""
    conversation.submit("a; b < a rule=any_failed; c < b; g gate=1")
    conversation.turn(TaskFailed("w/a", "boom"))
    conversation.turn(TaskFailed("w/b", "boom"))
    assert conversation.ask("skip", "a", "b", value=b"7").is_changed
    assert conversation.states() == {"a": "skipped", "b": "skipped", "c": "dispatching", "g": "held"}
