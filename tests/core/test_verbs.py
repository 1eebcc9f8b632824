"""Every verb on every state: what it does, that it does it once, that a refusal changes nothing, and that a crash loses nothing."""


from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest

from dyrygentd.core.checkpoint import NodeRecord, WorkflowRecord, node_record, workflow_record
from dyrygentd.core.effects import Answer
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskIgnored, TaskLost, TaskSucceeded, VerbRequested
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.standing import headline, standing_of_node, standings
from dyrygentd.core.states import IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.verbs import NODE_VERBS, PRIORITY_MAX, WORKFLOW_VERBS, Effect, Request, Verb
from dyrygentd.core.workflow import HoldReason, RunningWorkflow
from dyrygentd.errors import BadRequest, CauseNotFound, NodeNotFound, ValueGone, VerbRefused
from tests.core.conversation import START, Conversation

DOES, NOTHING, REFUSED = Effect.DOES, Effect.NOTHING, Effect.REFUSED

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
        task_id = conversation.workflow().task_id_of(1)
        conversation.turn(TaskFailed(task_id, "boom", "ValueError"), after_s=60)
        conversation.turn(after_s=60)


def _x_lost(conversation: Conversation) -> None:
    conversation.turn(TaskLost("w/x", "nobody has it"))


def _x_ignored(conversation: Conversation) -> None:
    conversation.turn(TaskIgnored("w/x", "Ignore"))


def _a_fails(conversation: Conversation) -> None:
    conversation.turn(TaskFailed("w/a", "boom"))


def _o_open(conversation: Conversation) -> None:
    conversation.tell(VerbRequested("w", Request(Verb.RELEASE, nodes=("o",))))


def _verb(verb: Verb, *nodes: str) -> Step:
    return lambda conversation: conversation.turn(VerbRequested("w", Request(verb, nodes=nodes)))


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
WORKFLOW_STATES = ("running", "paused", "over")


def _conversation(situation: Situation, workflow_state: str) -> Conversation:
    """Bring ``x`` into the situation, in a workflow that is running, paused, or as far over as it can be."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("b! pool=p", "holder")
    before = "a" if situation.kind != "hook" else "a; z! < a"
    after = "z! < x; " if situation.kind != "hook" else ""
    conversation.submit(f"{before}; {KINDS[situation.kind]}; {after}o gate=1".replace("a; z! < a; x!", "a; x!; z! < a"))
    for step in situation.steps:
        step(conversation)
    if workflow_state == "paused":
        conversation.tell(VerbRequested("w", Request(Verb.PAUSE)))
    elif workflow_state == "over" and situation.state.is_settled:
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
        sorted(workflow.ready_nodes()),
        [workflow.unmet_count(node) for node in nodes],
    )


def _request(conversation: Conversation, request: Request) -> Answer:
    """Ask without ending the turn."""
    engine = conversation.engine
    restored = None if "w" in engine.workflows or "w" in engine._resting else conversation.restored("w")
    count = len(engine._batch.answers)
    conversation.tell(VerbRequested("w", request, 1, restored))
    (answer,) = engine._batch.answers[count:]
    return answer


def _expected(situation: Situation, workflow: RunningWorkflow, verb: Verb, *, force: bool) -> Effect:
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
    return NODE_VERBS[verb][state]


@pytest.mark.parametrize("is_crashing", [False, True], ids=["", "crash"])
@pytest.mark.parametrize("workflow_state", WORKFLOW_STATES)
@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
@pytest.mark.parametrize(("verb", "force"), [*((verb, False) for verb in NODE_VERBS), (Verb.RETRY, True)])
def test_node_verb(situation: Situation, workflow_state: str, verb: Verb, force: bool, is_crashing: bool) -> None:
    """A verb does to a node what the table says, once, and the workflow comes to its end afterwards, whatever happens."""
    conversation = _conversation(situation, workflow_state)
    workflow = _workflow(conversation)
    assert workflow.state_of(1) is situation.state
    assert (workflow.holds[1].reason if 1 in workflow.holds else None) == situation.hold
    before = _snapshot(workflow)
    request = Request(verb, nodes=("x",), force=force, value=b"5")
    answer = _request(conversation, request)
    after = _snapshot(_workflow(conversation))
    match _expected(situation, workflow, verb, force=force):
        case Effect.REFUSED:
            assert isinstance(answer.error, VerbRefused)
            assert answer.error.allowed == [verb.value for verb in NODE_VERBS if NODE_VERBS[verb][situation.state] is DOES] or (
                workflow_state == "over"
            )
            assert (answer.is_changed, after) == (False, before)
        case Effect.NOTHING:
            assert (answer.error, answer.is_changed, after) == (None, False, before)
        case Effect.DOES:
            assert (answer.error, answer.is_changed) == (None, True)
            assert "x" in answer.nodes
            assert after != before
            _check_done(_workflow(conversation), verb, situation)
    again = _request(conversation, request)
    assert not again.is_changed
    assert _snapshot(_workflow(conversation)) == after
    _end_and_compare(conversation, is_crashing=is_crashing)


def _check_done(workflow: RunningWorkflow, verb: Verb, situation: Situation) -> None:
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
            assert not workflow.state.is_finished or situation.kind in ("join", "unneeded") or state is _B


@pytest.mark.parametrize("is_crashing", [False, True], ids=["", "crash"])
@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
@pytest.mark.parametrize("workflow_state", WORKFLOW_STATES)
@pytest.mark.parametrize("verb", WORKFLOW_VERBS)
def test_workflow_verb(situation: Situation, workflow_state: str, verb: Verb, is_crashing: bool) -> None:
    """A verb for the whole workflow does what the table says in each of its states, once."""
    conversation = _conversation(situation, workflow_state)
    workflow = _workflow(conversation)
    before, state = _snapshot(workflow), workflow.state
    request = Request(verb, priority=7)
    answer = _request(conversation, request)
    after = _snapshot(_workflow(conversation))
    expected = WORKFLOW_VERBS[verb][state]
    if verb is Verb.RETRY and not any(row.state in ("failed", "cancelled") for row in before[1]):
        expected = NOTHING
    assert isinstance(answer.error, VerbRefused) == (expected is REFUSED)
    assert answer.is_changed == (expected is DOES)
    assert (after == before) == (expected is not DOES)
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
    free = replace(rows[0], node=0, state="ready", reason="")
    return (
        record,
        [replace(row, state=free.state, reason="") if row.reason == HoldReason.POOL else row for row in rows],
        unmet,
        {node: (value.content, value.users) for node, value in workflow.values.items()},
        workflow.has_begun,
        workflow.bad_count,
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
        for task_id, _, _ in list(conversation.engine.in_flight()):
            conversation.tell(TaskSucceeded(task_id, b"true"))
        conversation.turn(after_s=30)
    raise AssertionError(f"{conversation.engine.workflows['w']!r} does not end")


def _is_for_people(workflow: RunningWorkflow, node: int) -> bool:
    hold = workflow.holds.get(node)
    return hold is not None and hold.reason in (HoldReason.GATE, HoldReason.OPERATOR, HoldReason.LOST)
