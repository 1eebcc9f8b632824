"""What an operator may do to a workflow and its nodes, and in which state.

Every verb is idempotent: asking for what is so already changes nothing and is no error. What cannot be done in a state is refused
with what can. A request that names several nodes is checked for all of them before anything is changed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, assert_never
from uuid import NAMESPACE_URL, uuid5

from dyrygentd.core import steering
from dyrygentd.core.bounds import PRIORITY_MAX
from dyrygentd.core.cancelled import cancelled_by_cause, fingerprint_of_cancelled
from dyrygentd.core.cancelling import cancel_in_steps, is_being_cancelled
from dyrygentd.core.causes import failures_by_cause, fingerprint_of, lost_nodes
from dyrygentd.core.lost_causes import LOST, is_of_lost
from dyrygentd.core.members import nodes_of_item
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.reopening import abandon, reopen_in_steps, set_back_with, skip_in_steps
from dyrygentd.core.states import FINISHED, IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.steps import Steps, exhaust, parts, reached
from dyrygentd.core.user import User
from dyrygentd.core.without_value import TOO_LARGE
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadRequest, CauseNotFound, NodeNotFound, ValueGone, VerbRefused


class Verb(StrEnum):
    """A control verb, as it is called in paths and on the command line."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    SET_PRIORITY = "set-priority"
    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    SKIP = "skip"
    RERUN = "rerun"


class Allowed(Enum):
    """What a verb does in a state."""

    DOES = "does"
    NOTHING = "nothing"
    REFUSED = "refused"


_DOES, _NOTHING, _REFUSED = Allowed.DOES, Allowed.NOTHING, Allowed.REFUSED

#: ``{verb: {workflow state: allowed}}`` of the verbs that are for whole workflows.
WORKFLOW_VERBS: Final[dict[Verb, dict[WorkflowState, Allowed]]] = {
    verb: dict(zip(WorkflowState, by_state, strict=True))
    for verb, by_state in {
        # scheduled, running, paused, succeeded, failed, cancelled
        Verb.CANCEL: (_DOES, _DOES, _DOES, _NOTHING, _NOTHING, _NOTHING),
        Verb.PAUSE: (_DOES, _DOES, _NOTHING, _REFUSED, _REFUSED, _REFUSED),
        Verb.RESUME: (_NOTHING, _NOTHING, _DOES, _REFUSED, _REFUSED, _REFUSED),
        Verb.SET_PRIORITY: (_DOES, _DOES, _DOES, _REFUSED, _REFUSED, _REFUSED),
        Verb.RETRY: (_NOTHING, _DOES, _DOES, _NOTHING, _DOES, _DOES),
    }.items()
}

#: ``{verb: {node state: allowed}}`` of the verbs that are for nodes, whatever the workflow's state.
NODE_VERBS: Final[dict[Verb, dict[NodeState, Allowed]]] = {
    verb: dict(zip(NodeState, by_state, strict=True))
    for verb, by_state in {
        # waiting, held, ready, dispatching, dispatched, retrying, succeeded, skipped, failed, cancelled, blocked
        Verb.HOLD: (_DOES, _DOES, _DOES, *[_REFUSED] * 2, _DOES, *[_REFUSED] * 5),
        Verb.RELEASE: (_DOES, _DOES, *[_NOTHING] * 3, _DOES, _NOTHING, _NOTHING, *[_REFUSED] * 3),
        Verb.RETRY: (_NOTHING, _NOTHING, _NOTHING, _REFUSED, _REFUSED, _DOES, _REFUSED, _REFUSED, _DOES, _DOES, _REFUSED),
        Verb.SKIP: (*[_DOES] * 6, _NOTHING, _NOTHING, *[_DOES] * 3),
        Verb.RERUN: (*[_NOTHING] * 3, _REFUSED, _REFUSED, _NOTHING, *[_DOES] * 4, _REFUSED),
    }.items()
}


@dataclass(frozen=True, slots=True)
class VerbRequest:
    """A verb with all that goes with it.

    Attributes:
        by, why: Who asks, and what they give as the reason.
        nodes: Names of the nodes that are meant; none means the whole workflow. A release of a whole workflow starts one now that
            waits for its start time.
        cause: Only nodes that failed, were lost or cancelled for this cause: its number from 1, the beginning of its id,
            or ``lost``.
        value: JSON text that takes the place of a skipped node's value.
        terminate: End tasks that run, too.
        force: Give up an attempt that is in flight; with a cancel, end at once what cleans up after sections, too.
        asker: Who asks, if that is a user of some host, so that what they ask for is done in the order in which they did.
        letter: Number of the letter that asks for it, so that it is noted with what it changes; 0 if none does.
    """

    verb: Verb
    by: str = ""
    why: str = ""
    nodes: tuple[str, ...] = ()
    cause: str = ""
    value: bytes = b"null"
    priority: int = 0
    terminate: bool = False
    force: bool = False
    asker: User | None = None
    letter: int = 0


@dataclass(slots=True)
class Changes:
    """What a verb changed.

    Attributes:
        nodes: The nodes it changed.
        ended: Those of them whose task is in the broker or at a worker and no longer wanted.
    """

    nodes: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    is_changed: bool = False
    detail: str = ""


def perform_in_steps(workflow: RunningWorkflow, request: VerbRequest, now: float) -> Steps[Changes]:
    """Carry out a verb, some thousand nodes at a time if there are very many; nothing may change them in between.

    Raises:
        VerbRefused, NodeNotFound, CauseNotFound, ValueGone, BadRequest: Nothing was changed.
    """
    match request.verb:
        case Verb.RELEASE if not (request.nodes or request.cause or workflow.has_begun or workflow.state.is_finished):
            workflow.start_now(now)
            return Changes(is_changed=True, detail="started before its time")
        case Verb.HOLD | Verb.RELEASE | Verb.SKIP | Verb.RERUN:
            return (yield from _on_nodes(workflow, request, _named(workflow, request), now))
        case Verb.RETRY if request.nodes or request.cause:
            return (yield from _on_nodes(workflow, request, _named(workflow, request), now))
        case Verb.CANCEL | Verb.PAUSE | Verb.RESUME | Verb.SET_PRIORITY | Verb.RETRY:
            return (yield from _on_workflow(workflow, request, now))
        case _:
            assert_never(request.verb)


def check(workflow: RunningWorkflow, request: VerbRequest) -> None:
    """Raise what `perform_in_steps` would raise for a hold, a release or a skip of named nodes; nothing is changed."""
    nodes = _named(workflow, request)
    for node in nodes:
        allowed, reason = _allowed(workflow, request, node)
        if allowed is Allowed.REFUSED:
            raise _refused(workflow, request, node, reason)


def cause_of(workflow: RunningWorkflow, node: int) -> str:
    """Return the id by which a verb means all of a node's cause; empty for one that neither failed nor was lost or cancelled."""
    hold, state = workflow.holds.get(node), workflow.state_of(node)
    if state is NodeState.CANCELLED:
        return cause_id(fingerprint_of_cancelled(workflow, node))
    is_lost = hold is not None and hold.reason is HoldReason.LOST
    return cause_id(fingerprint_of(workflow, node)) if is_lost or state is NodeState.FAILED else ""


def cause_id(fingerprint: str) -> str:
    """Return a short name of a cause that is the same in every workflow."""
    return uuid5(NAMESPACE_URL, fingerprint).hex[:8]


def allowed_for_node(state: NodeState) -> list[str]:
    """Return the verbs that do something to a node in this state."""
    return [verb.value for verb, by_state in NODE_VERBS.items() if by_state[state] is Allowed.DOES]


def allowed_for_workflow(state: WorkflowState) -> list[str]:
    """Return the verbs that do something to a workflow in this state."""
    return [verb.value for verb, by_state in WORKFLOW_VERBS.items() if by_state[state] is Allowed.DOES]


def _allowed_for_any_node(workflow: RunningWorkflow) -> list[str]:
    states = [state for state in NodeState if workflow.states.count(state)]
    return [verb.value for verb, by_state in NODE_VERBS.items() if any(by_state[state] is Allowed.DOES for state in states)]


# --- whole workflows ------------------------------------------------------------------------------------------------


def _on_workflow(workflow: RunningWorkflow, request: VerbRequest, now: float) -> Steps[Changes]:
    match WORKFLOW_VERBS[request.verb][workflow.state]:
        case Allowed.NOTHING:
            return Changes()
        case Allowed.REFUSED:
            raise VerbRefused(
                request.verb.value,
                f"workflow '{workflow.workflow_id}'",
                workflow.state.value,
                allowed=allowed_for_workflow(workflow.state),
                of_nodes=_allowed_for_any_node(workflow),
            )
    match request.verb:
        case Verb.CANCEL:
            open_nodes = workflow.nodes.all_in(*(state for state in NodeState if not state.is_finished))
            if is_being_cancelled(workflow) and not request.force:
                return Changes()
            ended = yield from cancel_in_steps(workflow, now, force=request.force)
            open_nodes = [node for node in open_nodes if workflow.states[node] in FINISHED]
            return Changes(open_nodes, ended, is_changed=True, detail="terminating" if request.terminate else "")
        case Verb.PAUSE:
            steering.pause(workflow)
        case Verb.RESUME:
            steering.resume(workflow, now)
        case Verb.SET_PRIORITY:
            return _set_priority(workflow, request.priority)
        case Verb.RETRY:
            nodes = _all_to_retry(workflow)
            return (yield from _retry_nodes(workflow, nodes, now)) if nodes else Changes()
        case verb:  # pragma: no cover - no other has a row among those for workflows
            raise AssertionError(f"no case carries out {verb} on a workflow")
    return Changes(is_changed=True)


def _all_to_retry(workflow: RunningWorkflow) -> list[int]:
    return sorted([*workflow.nodes.all_in(NodeState.FAILED, NodeState.CANCELLED), *lost_nodes(workflow)])


def _set_priority(workflow: RunningWorkflow, priority: int) -> Changes:
    if abs(priority) > PRIORITY_MAX:
        raise BadRequest(f"a priority is a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}", path="$.priority")
    if workflow.priority == priority:
        return Changes()
    before = workflow.priority
    steering.set_priority(workflow, priority)
    return Changes(is_changed=True, detail=f"from {before} to {priority}")


def _refuse_if_value_gone(workflow: RunningWorkflow, nodes: set[int]) -> Steps[None]:
    missing = yield from workflow.values.missing(nodes)
    if missing is not None:
        names = workflow.graph.names
        origins = yield from _origins(workflow, nodes)
        raise ValueGone(names[missing[0]], names[missing[1]], [names[node] for node in origins])


def _origins(workflow: RunningWorkflow, nodes: Iterable[int]) -> Steps[list[int]]:
    """Return from where these can run again: with what is behind them, whatever gives that its values, and what is behind it."""
    graph = workflow.graph
    after = graph.following()
    again = yield from reached(nodes, lambda node: (*after(node), *workflow.values.gone(node)))
    return sorted(node for node in again if again.isdisjoint(graph.dependencies(node)))


# --- nodes ----------------------------------------------------------------------------------------------------------


def _named(workflow: RunningWorkflow, request: VerbRequest) -> list[int]:
    nodes = dict.fromkeys(nodes_of_cause(workflow, request.cause)) if request.cause else {}
    for name in request.nodes:
        node = workflow.graph.number(name)
        if node is not None:
            nodes[node] = None
        else:
            nodes |= dict.fromkeys(_of_item(workflow, request, name))
    if not nodes and request.cause != LOST:
        step = f"`dyrygentctl show {workflow.workflow_id} --nodes` lists them"
        raise BadRequest(f"'{request.verb}' needs the name of a node", path="$.nodes", next_step=step)
    return list(nodes)


def _of_item(workflow: RunningWorkflow, request: VerbRequest, name: str) -> list[int]:
    """Return those nodes of an item of a map to which a verb does something; all if there are none, so that it says why."""
    nodes = nodes_of_item(workflow.graph, name)
    if not nodes:
        raise NodeNotFound(workflow.workflow_id, name)
    return [node for node in nodes if _allowed(workflow, request, node)[0] is Allowed.DOES] or list(nodes)


def nodes_of_cause(workflow: RunningWorkflow, cause: str) -> list[int]:
    """Return the nodes that failed, were lost or cancelled by a cause: its number, the beginning of its id, `LOST` for the lost.

    Raises:
        CauseNotFound
    """
    failures = failures_by_cause(workflow)
    # A group of cancelled nodes has an id like any other, and no number among the failures.
    every = [*failures, *cancelled_by_cause(workflow).items()]
    if cause == LOST:
        return [node for fingerprint, nodes in failures if is_of_lost(fingerprint) for node in nodes]
    if cause.isdecimal() and 1 <= int(cause[:9]) <= len(failures):
        return failures[int(cause) - 1][1]
    fitting = [nodes for fingerprint, nodes in every if cause_id(fingerprint).startswith(cause)]
    if len(fitting) != 1:
        known = [f"{number} ({cause_id(fingerprint)})" for number, (fingerprint, _) in enumerate(failures, start=1)]
        raise CauseNotFound(workflow.workflow_id, cause, known)
    return fitting[0]


def _on_nodes(workflow: RunningWorkflow, request: VerbRequest, nodes: Sequence[int], now: float) -> Steps[Changes]:
    meant = []
    for is_later, part in parts(nodes):
        if is_later:
            yield
        for node in part:
            allowed, reason = _allowed(workflow, request, node)
            if allowed is Allowed.REFUSED:
                raise _refused(workflow, request, node, reason)
            if allowed is Allowed.DOES:
                meant.append(node)
    if not meant:
        return Changes()
    match request.verb:
        case Verb.RETRY:
            return (yield from _retry_nodes(workflow, meant, now))
        case Verb.RERUN:
            return (yield from _rerun(workflow, meant, now))
        case Verb.SKIP:
            problem = workflow.values.no_room_for(len(meant) * len(request.value))
            if problem:
                raise _refused(workflow, request, meant[0], problem)
            ended = yield from skip_in_steps(workflow, meant, request.value, now)
            return Changes(meant, ended, is_changed=True)
        case Verb.HOLD:
            act = steering.hold
        case Verb.RELEASE:
            act = steering.release
        case verb:  # pragma: no cover - no other has a row among those for nodes
            raise AssertionError(f"no case carries out {verb} on nodes")
    changes = Changes(is_changed=True)
    for node in meant:
        # What was done to the one before may have decided this one.
        if _allowed(workflow, request, node)[0] is not Allowed.DOES:
            continue
        act(workflow, node, now)
        changes.nodes.append(node)
    return changes


def _allowed(workflow: RunningWorkflow, request: VerbRequest, node: int) -> tuple[Allowed, str]:
    """Return what a verb does to a node as it stands, and why if it is refused for more than the node's state."""
    state, hold = workflow.state_of(node), workflow.holds.get(node)
    allowed = NODE_VERBS[request.verb][state]
    is_gate = workflow.graph.policy(node).is_gate
    match request.verb:
        case Verb.HOLD if workflow.graph.is_join(node):
            return Allowed.REFUSED, "a join has no task that could be held: hold what comes before or after it"
        case Verb.HOLD if node in workflow.on_hold or (state is NodeState.HELD and is_gate):
            return Allowed.NOTHING, ""
        case Verb.RELEASE if not workflow.has_begun and node not in workflow.on_hold:
            return Allowed.REFUSED, "the workflow has not begun: `release` of it, without a node, starts it now"
        case Verb.RELEASE if state is NodeState.WAITING and node not in workflow.on_hold:
            if is_gate:
                return Allowed.REFUSED, "the gate is not reached yet; `explain` tells what it waits for"
            return Allowed.NOTHING, ""
        case Verb.HOLD | Verb.RELEASE if hold is not None and hold.reason is HoldReason.CHILD:
            return Allowed.REFUSED, "it is done by a workflow of its own: `pause` or `resume` that one, or its nodes"
        case Verb.RERUN if hold is not None and hold.reason is HoldReason.CHILD:
            # As when something before it runs again: this workflow is cancelled, and another one begins.
            return Allowed.DOES, ""
        case Verb.RELEASE if hold is not None and hold.reason is HoldReason.POOL:
            return Allowed.REFUSED, f"pool '{hold.pool}' is full; the node goes when a place is free"
        case Verb.RETRY if state in IN_FLIGHT:
            if request.force:
                return Allowed.DOES, ""
            return Allowed.REFUSED, "a worker may have it; with `force` that attempt is given up and another one begins"
        case Verb.RETRY if hold is not None and hold.reason is HoldReason.LOST:
            return Allowed.DOES, ""
        case Verb.RETRY | Verb.RERUN if state is NodeState.BLOCKED:
            to_blame = workflow.graph.names[workflow.blocked_by.get(node, node)]
            return Allowed.REFUSED, f"it never ran; '{to_blame}' is to blame: retry or skip that one"
        case Verb.SKIP if allowed is Allowed.DOES and len(request.value) > workflow.values.bytes_max:
            return Allowed.REFUSED, f"{TOO_LARGE % len(request.value)} {workflow.values.bytes_max}"
    return allowed, ""


def _retry_nodes(workflow: RunningWorkflow, nodes: Sequence[int], now: float) -> Steps[Changes]:
    changes = Changes(is_changed=True)
    finished = []
    yield from _refuse_if_value_gone(workflow, {node for node in nodes if workflow.state_of(node).is_finished})
    for node in nodes:
        if workflow.state_of(node) in IN_FLIGHT:
            abandon(workflow, node, now)
            changes.ended.append(node)
        elif node in workflow.holds:
            steering.release(workflow, node, now)
        else:
            finished.append(node)
            continue
        changes.nodes.append(node)
    if finished:
        changes.nodes += sorted((yield from reopen_in_steps(workflow, finished, now)))
    return changes


def _rerun(workflow: RunningWorkflow, nodes: Sequence[int], now: float) -> Steps[Changes]:
    """Set nodes back with all that follows from them."""
    graph = workflow.graph
    reset = yield from reached(nodes, graph.following())
    in_flight = next((node for node in workflow.nodes.all_in(*IN_FLIGHT) if node in reset), None)
    if in_flight is not None:
        story = "wait for it, skip it, or cancel the workflow first"
        raise VerbRefused(Verb.RERUN.value, f"node '{graph.names[in_flight]}'", "in flight", allowed=[], reason=story)
    yield from _refuse_if_value_gone(workflow, reset)
    for node in reset:
        if workflow.state_of(node) in (NodeState.FAILED, NodeState.CANCELLED):
            # A retry goes on in the child that there is; what is run again begins with another one.
            workflow.attempts.begin_anew(node)
    return Changes(sorted((yield from reopen_in_steps(workflow, list(reset), now))), is_changed=True)


def started_again_by(workflow: RunningWorkflow, request: VerbRequest) -> set[int]:
    """Return the nodes of which a retry or rerun may start another attempt: those it means, and those it sets back with them.

    Raises:
        BadRequest, NodeNotFound, CauseNotFound: As the verb would.
    """
    meant = _named(workflow, request) if request.nodes or request.cause else _all_to_retry(workflow)
    if request.verb is Verb.RERUN:
        return exhaust(reached(meant, workflow.graph.following()))
    return exhaust(set_back_with(workflow, meant))


def _refused(workflow: RunningWorkflow, request: VerbRequest, node: int, reason: str) -> VerbRefused:
    state = workflow.state_of(node)
    return VerbRefused(
        request.verb.value, f"node '{workflow.graph.names[node]}'", state.word, allowed=allowed_for_node(state), reason=reason
    )
