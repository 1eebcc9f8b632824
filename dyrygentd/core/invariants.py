"""What must hold at any time, checked from scratch. Linear in the graph: for tests and after a recovery, not for every turn."""

from collections import Counter
from dataclasses import replace

from dyrygentd.core.children import parent_of, waits_for
from dyrygentd.core.engine import Engine
from dyrygentd.core.hooks import is_enough
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.policy import PLAIN, OnClose
from dyrygentd.core.states import BAD, FINISHED, GOOD, IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.tried_again import KEEPS_FAILING
from dyrygentd.core.verdicts import bad_in, ran
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken

_HELD = (NodeState.HELD, NodeState.RETRYING)
#: Holds that a time ends, and nothing else does by itself.
_TIMED = (HoldReason.TIME, HoldReason.POLL, HoldReason.RETRY)


def check_workflow(workflow: RunningWorkflow) -> None:
    """Raise `InvariantBroken` if the derived state of a workflow disagrees with the states of its nodes."""
    graph = workflow.graph
    counts = dict.fromkeys(NodeState, 0)
    ready: set[int] = set()
    unfinished = 0
    for node in range(len(graph)):
        state = workflow.state_of(node)
        unfinished += not state.is_finished
        if not graph.is_join(node):
            counts[state] += 1
        if state is NodeState.READY:
            ready.add(node)
        _check_marks(workflow, node, state)
        _check_dependencies(workflow, node, state)
        _check_values(workflow, node, state)
        _check_hold(workflow, node, state)
    for state, count in counts.items():
        if workflow.nodes.count(state) != count:
            raise InvariantBroken(f"{workflow!r} counts {workflow.nodes.count(state)} {state.word} nodes, there are {count}")
    if unfinished != workflow.nodes.unfinished:
        raise InvariantBroken(f"{workflow!r} counts {workflow.nodes.unfinished} unfinished nodes, there are {unfinished}")
    if (unfinished == 0) != workflow.state.is_finished:
        raise InvariantBroken(f"{workflow!r} has {unfinished} unfinished nodes")
    bad = len(workflow.nodes.all_in(*BAD))
    if workflow.nodes.bad != bad:
        raise InvariantBroken(f"{workflow!r} counts {workflow.nodes.bad} nodes that did not succeed, there are {bad}")
    if workflow.state.is_finished and (workflow.state is WorkflowState.SUCCEEDED) != (bad == 0 or is_enough(workflow)):
        raise InvariantBroken(f"{workflow!r} has {bad} nodes that did not succeed")
    in_heap = list(workflow.ready)
    if len(in_heap) != workflow.ready_count or set(in_heap) != ready:
        raise InvariantBroken(f"{workflow!r} has {workflow.ready_count} nodes in its heap, {len(ready)} are ready")
    _check_tried_again(workflow)
    _check_sections(workflow)


def _check_tried_again(workflow: RunningWorkflow) -> None:
    """Check what is counted of nodes that are tried again."""
    tried = workflow.attempts.tried_again
    for node, cause in tried.cause_of.items():
        _require(workflow, node, node in cause.failures, "stands under a cause that does not count it")
        _require(workflow, node, not workflow.state_of(node).is_finished, "has finished and is counted as tried again")
    often = 0
    for fingerprint, cause in tried.causes.items():
        keeps = [node for node, failures in cause.failures.items() if failures >= KEEPS_FAILING]
        often += len(keeps)
        is_right = (
            cause.sum == sum(cause.failures.values())
            and cause.sum_often == sum(cause.failures[node] for node in keeps)
            and set(keeps) == set(cause.often)
            and bool(keeps) == (fingerprint in tried.loops)
            and cause.failures
        )
        if not is_right:
            raise InvariantBroken(f"{workflow!r} counts wrongly what is tried again for '{fingerprint}'")
    if often != tried.often or sum(len(cause.failures) for cause in tried.causes.values()) != len(tried.cause_of):
        raise InvariantBroken(f"{workflow!r} counts {tried!r}, {often} nodes keep failing")


def _check_marks(workflow: RunningWorkflow, node: int, state: NodeState) -> None:
    """Check what is noted about a node beside its state."""
    _require(workflow, node, (state is NodeState.BLOCKED) == (node in workflow.blocked_by), "is blocked by nobody, or blames one")
    _require(workflow, node, node not in workflow.unneeded or state is NodeState.SKIPPED, "is not needed, and not skipped")
    _require(workflow, node, node not in workflow.on_hold or not state.is_finished, "is finished, and an operator's hold is left")
    _require(
        workflow, node, node not in workflow.on_hold or state is not NodeState.READY, "is ready although an operator holds it"
    )
    is_sent = state is NodeState.READY or state is NodeState.RETRYING or state in IN_FLIGHT
    _require(workflow, node, not is_sent or workflow.graph.signatures[node] is not None, "is to be sent, and has no task")
    numbers = [attempt.number for attempt in workflow.attempts.earlier.get(node, ())]
    most = workflow.attempts.of(node) - bool(workflow.attempts.dispatched_at[node])
    is_in_order = numbers == sorted(set(numbers)) and (not numbers or numbers[-1] <= most)
    _require(workflow, node, is_in_order, f"was tried {most} times before, and has attempts {numbers}")
    is_on_its_way = state in IN_FLIGHT or state in _HELD
    _require(workflow, node, node not in workflow.stale or is_on_its_way, "is to be decided anew when it comes back, and is here")
    _require(
        workflow,
        node,
        bool(workflow.nodes.finished_at[node]) == state.is_finished,
        "is finished without a time, or has one too early",
    )


def _check_dependencies(workflow: RunningWorkflow, node: int, state: NodeState) -> None:
    """Check that a node went on only when its dependencies let it, and does not wait for nothing."""
    graph, policy = workflow.graph, workflow.graph.policy(node)
    states = [workflow.state_of(dependency) for dependency in graph.dependencies(node)]
    unmet = sum(dependency not in FINISHED for dependency in states)
    counted = workflow.nodes.unmet[node]
    _require(workflow, node, counted == unmet, f"counts {counted} unmet dependencies, there are {unmet}")
    if policy.hook is not None:
        _check_hook(workflow, node, state)
    elif policy.section_end is not None:
        _check_section_end(workflow, node, state)
    elif state is NodeState.WAITING:
        _require(workflow, node, unmet or not workflow.has_begun, "waits although all its dependencies have finished")
    elif policy is PLAIN and (state in IN_FLIGHT or state is NodeState.READY):
        _require(workflow, node, all(dependency in GOOD for dependency in states), "went on before its dependencies succeeded")
    elif policy is PLAIN and state is NodeState.BLOCKED:
        has_bad = any(bad_in(workflow, dependency, node) >= 0 for dependency in graph.dependencies(node))
        _require(workflow, node, has_bad, "is blocked although no dependency failed")


def _check_hook(workflow: RunningWorkflow, node: int, state: NodeState) -> None:
    """Check that a hook waits for everything but hooks, and for nothing else."""
    hooks = set(workflow.graph.hooks)
    waits = any(workflow.state_of(other) not in FINISHED for other in range(len(workflow.graph)) if other not in hooks)
    if state is NodeState.WAITING:
        _require(workflow, node, waits or not workflow.has_begun, "is a hook and waits although all the rest has finished")
    elif state is NodeState.READY:
        _require(workflow, node, not waits, "is a hook and went on before the rest had finished")


def _check_section_end(workflow: RunningWorkflow, node: int, state: NodeState) -> None:
    """Check that what ends a section waits for the rest of it, or is decided anew if it has not."""
    counts = workflow.nodes.sections
    assert counts is not None
    scope = counts.ends.ended_by[node]
    is_open = any(workflow.state_of(other) not in FINISHED for other in counts.ends.nodes_in(scope))
    waits = is_open or workflow.nodes.unmet[node] or not workflow.has_begun
    if state is NodeState.WAITING:
        _require(workflow, node, waits, "ends a section and waits although all the rest has finished")
    elif state is NodeState.READY or state in (NodeState.SUCCEEDED, NodeState.FAILED):
        _require(workflow, node, not is_open, "ends a section and went on before the rest had finished")
    elif state in IN_FLIGHT or state in _HELD:
        _require(workflow, node, not is_open or node in workflow.stale, "ends a section that is open again, and is not stale")


def _check_sections(workflow: RunningWorkflow) -> None:
    """Check what is counted of sections."""
    counts = workflow.nodes.sections
    if counts is None:
        return
    for scope, path in enumerate(counts.ends.paths):
        nodes = [*counts.ends.nodes_in(scope)]
        is_open = any(workflow.state_of(node) not in FINISHED for node in nodes)
        is_bad = any(workflow.state_of(node) in BAD for node in nodes)
        if (is_open, is_bad) != (counts.open[scope] > 0, counts.bad[scope] > 0) or min(counts.open[scope], counts.bad[scope]) < 0:
            raise InvariantBroken(f"{workflow!r} counts {counts!r}, section '{path}' is open: {is_open}, bad: {is_bad}")
        known = counts.begun.get(scope)
        if known is not None and (is_open or known != any(ran(workflow, node) for node in nodes)):
            raise InvariantBroken(f"{workflow!r} takes section '{path}' for begun: {known}")


def _check_values(workflow: RunningWorkflow, node: int, state: NodeState) -> None:
    """Check that what a node takes is there as long as it may still want it."""
    graph = workflow.graph
    # One at a worker has been given what it takes; adopted ones were given it by somebody else.
    if state in (NodeState.READY, NodeState.DISPATCHING) and graph.takes_input(node):
        missing = [
            dependency
            for dependency in graph.dependencies(node)
            if dependency not in workflow.values.by_node and workflow.state_of(dependency) is NodeState.SUCCEEDED
        ]
        _require(workflow, node, not missing, "has lost a value that it needs")
    if node in workflow.values.by_node:
        _require(workflow, node, state in GOOD, "has a value and no success")


def _check_hold(workflow: RunningWorkflow, node: int, state: NodeState) -> None:
    """Check that a node is held for a reason that somebody or something can end."""
    hold = workflow.holds.get(node)
    _require(workflow, node, (state in _HELD) == (hold is not None), "is held for no reason, or not held with one")
    if hold is None:
        return
    is_retry = hold.reason is HoldReason.RETRY
    _require(workflow, node, is_retry == (state is NodeState.RETRYING), "is retrying without a retry, or the other way round")
    _require(workflow, node, (hold.reason in _TIMED) == bool(hold.until), "is held until a time that its reason does not have")
    is_child = hold.reason is not HoldReason.CHILD or workflow.attempts.additions.is_child(node)
    _require(workflow, node, is_child, "waits for a workflow of its own, and has none")
    is_operators = hold.reason is HoldReason.OPERATOR
    _require(workflow, node, not is_operators or node in workflow.on_hold, "is held by an operator who does not hold it")


def check_engine(engine: Engine) -> None:
    """Raise `InvariantBroken` if a workflow is inconsistent, or a table of the engine disagrees with the workflows."""
    in_flight = {task_id: (workflow.workflow_id, node) for task_id, workflow, node in engine.flights.in_flight()}
    expected: dict[str, tuple[str, int]] = {}
    for workflow in engine.workflows.values():
        check_workflow(workflow)
        for node in range(len(workflow.graph)):
            if workflow.state_of(node) in IN_FLIGHT:
                expected[workflow.attempts.task_id_of(node)] = (workflow.workflow_id, node)
    if in_flight != expected:
        raise InvariantBroken(f"in flight by the table: {in_flight}; by the states: {expected}")
    engine.check_tables()
    _check_children(engine)
    _check_pools(engine, expected)


def _check_children(engine: Engine) -> None:
    """Check that a child and its node agree, and that nobody is left running for whom nobody waits.

    Not of what has changed in this turn, at whose end they do.
    """
    changed = engine.changed_now
    found: dict[str, set[str]] = {}
    for workflow in engine.workflows.values():
        parent = workflow.origin.parent
        if parent is None:
            continue
        found.setdefault(parent.workflow_id, set()).add(workflow.workflow_id)
        above = engine.workflows.get(parent.workflow_id)
        if workflow.workflow_id != parent.child_id:
            raise InvariantBroken(f"{workflow!r} is not called as the child of its node, which is {parent.child_id}")
        if above is None or above.workflow_id in changed or workflow.workflow_id in changed:
            continue
        child = above.attempts.additions.child(parent.node)
        if child is None:
            raise InvariantBroken(f"{workflow!r} is the child of a node of {above!r} that has none")
        if parent != replace(parent_of(above, parent.node), generation=parent.generation):
            raise InvariantBroken(f"{workflow!r} has another depth or root than {above!r} says")
        if child.on_close is OnClose.CANCEL and not waits_for(above, parent.node, parent.generation):
            raise InvariantBroken(f"{workflow!r} runs, and its node in {above!r} does not wait for it")
    for workflow_id in {*found, *engine.workflows}:
        known = {child.workflow_id for child in engine.children.of(workflow_id)}
        if known != found.get(workflow_id, set()):
            raise InvariantBroken(
                f"children of '{workflow_id}' by the table: {known}; by their parents: {found.get(workflow_id)}"
            )


def _check_pools(engine: Engine, in_flight: dict[str, tuple[str, int]]) -> None:
    places: Counter[str] = Counter()
    for workflow, node in ((engine.workflows[owner], node) for owner, node in in_flight.values()):
        signature = workflow.graph.signatures[node]
        assert signature is not None
        destination = workflow.attempts.destination_of(node)
        places.update(engine.pools.needed_by(signature, workflow.graph.policy(node), destination) if engine.pools else ())
    if places != engine.pools.used():
        raise InvariantBroken(f"places taken in pools: {engine.pools.used()}; by the states: {dict(places)}")
    lines = engine.pools.lines()
    for workflow in engine.workflows.values():
        for node, hold in workflow.holds.items():
            if hold.reason is HoldReason.POOL and lines.get((workflow.workflow_id, node)) != hold.pool:
                raise InvariantBroken(f"node '{workflow.graph.names[node]}' of {workflow!r} does not stand in line")


def _require(workflow: RunningWorkflow, node: int, holds: object, complaint: str) -> None:
    if not holds:
        raise workflow.nodes.broken(node, complaint)
