"""What an operator may do to a workflow and its nodes, and in which state.

Every verb is idempotent: asking for what is so already changes nothing and is no error. What cannot be done in a state is refused
with what can. A request that names several nodes is checked for all of them before anything is changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from dyrygentd.core.states import IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.workflow import HoldReason, RunningWorkflow
from dyrygentd.errors import BadRequest, CauseNotFound, NodeNotFound, ValueGone, VerbRefused

#: Far beyond any use, and still one integer for SQLite and JSON.
PRIORITY_MAX: Final = 1_000_000


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


class Effect(Enum):
    """What a verb does in a state."""

    DOES = "does"
    NOTHING = "nothing"
    REFUSED = "refused"


_DOES, _NOTHING, _REFUSED = Effect.DOES, Effect.NOTHING, Effect.REFUSED

#: ``{verb: {workflow state: effect}}`` of the verbs that are for whole workflows.
WORKFLOW_VERBS: Final[dict[Verb, dict[WorkflowState, Effect]]] = {
    verb: dict(zip(WorkflowState, effects, strict=True))
    for verb, effects in {
        # scheduled, running, paused, succeeded, failed, cancelled
        Verb.CANCEL: (_DOES, _DOES, _DOES, _NOTHING, _NOTHING, _NOTHING),
        Verb.PAUSE: (_DOES, _DOES, _NOTHING, _REFUSED, _REFUSED, _REFUSED),
        Verb.RESUME: (_NOTHING, _NOTHING, _DOES, _REFUSED, _REFUSED, _REFUSED),
        Verb.SET_PRIORITY: (_DOES, _DOES, _DOES, _REFUSED, _REFUSED, _REFUSED),
        Verb.RETRY: (_NOTHING, _DOES, _DOES, _NOTHING, _DOES, _DOES),
    }.items()
}

#: ``{verb: {node state: effect}}`` of the verbs that are for nodes, whatever the workflow's state.
NODE_VERBS: Final[dict[Verb, dict[NodeState, Effect]]] = {
    verb: dict(zip(NodeState, effects, strict=True))
    for verb, effects in {
        # waiting, held, ready, dispatching, dispatched, retrying, succeeded, skipped, failed, cancelled, blocked
        Verb.HOLD: (_DOES, _DOES, _DOES, *[_REFUSED] * 2, _DOES, *[_REFUSED] * 5),
        Verb.RELEASE: (_DOES, _DOES, *[_NOTHING] * 3, _DOES, _NOTHING, _NOTHING, *[_REFUSED] * 3),
        Verb.RETRY: (_NOTHING, _NOTHING, _NOTHING, _REFUSED, _REFUSED, _DOES, _REFUSED, _REFUSED, _DOES, _DOES, _REFUSED),
        Verb.SKIP: (*[_DOES] * 6, _NOTHING, _NOTHING, *[_DOES] * 3),
        Verb.RERUN: (*[_NOTHING] * 3, _REFUSED, _REFUSED, _NOTHING, *[_DOES] * 4, _REFUSED),
    }.items()
}


@dataclass(frozen=True, slots=True)
class Request:
    """A verb with all that goes with it.

    Attributes:
        by, why: Who asks, and what they give as the reason.
        nodes: Names of the nodes that are meant; none means the whole workflow.
        cause: Only nodes that failed for this cause: its number from 1, or the beginning of its id.
        value: JSON text that takes the place of a skipped node's value.
        terminate: End tasks that run, too.
        force: Give up an attempt that is in flight.
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


@dataclass(slots=True)
class Done:
    """What a verb changed.

    Attributes:
        nodes: The nodes it changed.
        ended: Those of them whose task is in the broker or at a worker and no longer wanted.
    """

    nodes: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    is_changed: bool = False
    detail: str = ""


def perform(workflow: RunningWorkflow, request: Request, now: float) -> Done:
    """Carry out a verb.

    Raises:
        VerbRefused, NodeNotFound, CauseNotFound, ValueGone, BadRequest: Nothing was changed.
    """
    match request.verb:
        case Verb.HOLD | Verb.RELEASE | Verb.SKIP | Verb.RERUN:
            return _on_nodes(workflow, request, _named(workflow, request), now)
        case Verb.RETRY if request.nodes or request.cause:
            return _on_nodes(workflow, request, _named(workflow, request), now)
        case _:
            return _on_workflow(workflow, request, now)


def cause_id(fingerprint: str) -> str:
    """Return a short name of a cause that is the same in every workflow."""
    return uuid5(NAMESPACE_URL, fingerprint).hex[:8]


def allowed_for_node(state: NodeState) -> list[str]:
    """Return the verbs that do something to a node in this state."""
    return [verb.value for verb, effects in NODE_VERBS.items() if effects[state] is Effect.DOES]


def allowed_for_workflow(state: WorkflowState) -> list[str]:
    """Return the verbs that do something to a workflow in this state."""
    return [verb.value for verb, effects in WORKFLOW_VERBS.items() if effects[state] is Effect.DOES]


# --- whole workflows ------------------------------------------------------------------------------------------------


def _on_workflow(workflow: RunningWorkflow, request: Request, now: float) -> Done:
    match WORKFLOW_VERBS[request.verb][workflow.state]:
        case Effect.NOTHING:
            return Done()
        case Effect.REFUSED:
            raise VerbRefused(
                request.verb.value,
                f"workflow '{workflow.workflow_id}'",
                workflow.state.value,
                allowed_for_workflow(workflow.state),
            )
    match request.verb:
        case Verb.CANCEL:
            open_nodes = [node for node in range(len(workflow.graph)) if not workflow.state_of(node).is_settled]
            ended = workflow.cancel(now)
            return Done(open_nodes, ended, is_changed=True, detail="terminating" if request.terminate else "")
        case Verb.PAUSE:
            workflow.pause()
        case Verb.RESUME:
            workflow.unpause(now)
        case Verb.SET_PRIORITY:
            return _set_priority(workflow, request.priority)
        case _:
            return _retry(workflow, workflow.nodes_in(NodeState.FAILED, NodeState.CANCELLED), now)
    return Done(is_changed=True)


def _set_priority(workflow: RunningWorkflow, priority: int) -> Done:
    if abs(priority) > PRIORITY_MAX:
        raise BadRequest(f"a priority is a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}", path="$.priority")
    if workflow.priority == priority:
        return Done()
    before = workflow.priority
    workflow.set_priority(priority)
    return Done(is_changed=True, detail=f"from {before} to {priority}")


def _retry(workflow: RunningWorkflow, nodes: Sequence[int], now: float) -> Done:
    if not nodes:
        return Done()
    _refuse_if_value_gone(workflow, set(nodes))
    return Done(sorted(workflow.reopen(nodes, now)), is_changed=True)


def _refuse_if_value_gone(workflow: RunningWorkflow, nodes: set[int]) -> None:
    missing = workflow.missing_value(nodes)
    if missing is not None:
        names = workflow.graph.names
        raise ValueGone(names[missing[0]], names[missing[1]])


# --- nodes ----------------------------------------------------------------------------------------------------------


def _named(workflow: RunningWorkflow, request: Request) -> list[int]:
    nodes = dict.fromkeys(_failed_by(workflow, request.cause)) if request.cause else {}
    for name in request.nodes:
        node = workflow.graph.number(name)
        if node is None:
            raise NodeNotFound(workflow.workflow_id, name)
        nodes[node] = None
    if not nodes:
        raise BadRequest(f"'{request.verb}' needs the name of a node", path="$.nodes")
    return list(nodes)


def _failed_by(workflow: RunningWorkflow, cause: str) -> list[int]:
    causes = workflow.failures_by_cause()
    if cause.isdecimal() and 1 <= int(cause[:9]) <= len(causes):
        return causes[int(cause) - 1][1]
    fitting = [nodes for fingerprint, nodes in causes if cause_id(fingerprint).startswith(cause)]
    if len(fitting) != 1:
        known = [f"{number} ({cause_id(fingerprint)})" for number, (fingerprint, _) in enumerate(causes, start=1)]
        raise CauseNotFound(workflow.workflow_id, cause, known)
    return fitting[0]


def _on_nodes(workflow: RunningWorkflow, request: Request, nodes: Sequence[int], now: float) -> Done:
    meant = []
    for node in nodes:
        effect, reason = _effect(workflow, request, node)
        if effect is Effect.REFUSED:
            raise _refused(workflow, request, node, reason)
        if effect is Effect.DOES:
            meant.append(node)
    if not meant:
        return Done()
    match request.verb:
        case Verb.RETRY:
            return _retry_nodes(workflow, meant, now)
        case Verb.RERUN:
            return _rerun(workflow, meant, now)
        case Verb.SKIP:
            return Done(meant, workflow.skip(meant, request.value, now), is_changed=True)
    done = Done(is_changed=True)
    for node in meant:
        # What was done to the one before may have decided this one.
        if _effect(workflow, request, node)[0] is not Effect.DOES:
            continue
        if request.verb is Verb.HOLD:
            workflow.hold(node)
        else:
            workflow.release(node, now)
        done.nodes.append(node)
    return done


def _effect(workflow: RunningWorkflow, request: Request, node: int) -> tuple[Effect, str]:
    """Return what a verb does to a node as it stands, and why if it is refused for more than the node's state."""
    state, hold = workflow.state_of(node), workflow.holds.get(node)
    effect = NODE_VERBS[request.verb][state]
    is_gate = workflow.graph.policy(node).is_gate
    match request.verb:
        case Verb.HOLD if workflow.graph.is_join(node):
            return Effect.REFUSED, "a join has no task that could be held: hold what comes before or after it"
        case Verb.HOLD if node in workflow.on_hold or (state is NodeState.HELD and is_gate):
            return Effect.NOTHING, ""
        case Verb.RELEASE if state is NodeState.WAITING and node not in workflow.on_hold:
            if is_gate:
                return Effect.REFUSED, "the gate is not reached yet; `explain` tells what it waits for"
            return Effect.NOTHING, ""
        case Verb.RELEASE if hold is not None and hold.reason is HoldReason.POOL:
            return Effect.REFUSED, f"pool '{hold.pool}' is full; the node goes when a place is free"
        case Verb.RETRY if state in IN_FLIGHT:
            if request.force:
                return Effect.DOES, ""
            return Effect.REFUSED, "a worker may have it; with `force` that attempt is given up and another one begins"
        case Verb.RETRY if hold is not None and hold.reason is HoldReason.LOST:
            return Effect.DOES, ""
        case Verb.RETRY | Verb.RERUN if state is NodeState.BLOCKED:
            to_blame = workflow.graph.names[workflow.blocked_by.get(node, node)]
            return Effect.REFUSED, f"it never ran; '{to_blame}' is to blame: retry or skip that one"
        case Verb.SKIP if effect is Effect.DOES and len(request.value) > workflow.value_bytes_max:
            return Effect.REFUSED, f"the value has {len(request.value)} bytes of JSON, the limit is {workflow.value_bytes_max}"
    return effect, ""


def _retry_nodes(workflow: RunningWorkflow, nodes: Sequence[int], now: float) -> Done:
    done = Done(is_changed=True)
    settled = []
    _refuse_if_value_gone(workflow, {node for node in nodes if workflow.state_of(node).is_settled})
    for node in nodes:
        if workflow.state_of(node) in IN_FLIGHT:
            workflow.abandon(node, now)
            done.ended.append(node)
        elif node in workflow.holds:
            workflow.release(node, now)
        else:
            settled.append(node)
            continue
        done.nodes.append(node)
    if settled:
        done.nodes += sorted(workflow.reopen(settled, now))
    return done


def _rerun(workflow: RunningWorkflow, nodes: Sequence[int], now: float) -> Done:
    """Set nodes back with all that follows from them."""
    graph, reset, stack = workflow.graph, set(nodes), list(nodes)
    while stack:
        for dependent in graph.dependents(stack.pop()):
            if dependent not in reset:
                reset.add(dependent)
                stack.append(dependent)
    in_flight = [graph.names[node] for node in sorted(reset) if workflow.state_of(node) in IN_FLIGHT]
    if in_flight:
        raise VerbRefused(
            Verb.RERUN.value, f"node '{in_flight[0]}'", "in flight", [], "wait for it, skip it, or cancel the workflow first"
        )
    _refuse_if_value_gone(workflow, reset)
    return Done(sorted(workflow.reopen(list(reset), now)), is_changed=True)


def _refused(workflow: RunningWorkflow, request: Request, node: int, reason: str) -> VerbRefused:
    state = workflow.state_of(node)
    return VerbRefused(request.verb.value, f"node '{workflow.graph.names[node]}'", state.word, allowed_for_node(state), reason)
