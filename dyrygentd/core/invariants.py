"""What must hold at any time, checked from scratch. Linear in the graph: for tests and after a recovery, not for every turn."""

from collections import Counter

from dyrygentd.core.engine import Engine
from dyrygentd.core.policy import PLAIN
from dyrygentd.core.states import BAD, GOOD, IN_FLIGHT, NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken


def check_workflow(workflow: RunningWorkflow) -> None:
    """Raise `InvariantBroken` if the derived state of a workflow disagrees with the states of its nodes."""
    graph = workflow.graph
    counts = dict.fromkeys(NodeState, 0)
    unsettled = 0
    for node in range(len(graph)):
        state = workflow.state_of(node)
        unsettled += not state.is_settled
        if not graph.is_join(node):
            counts[state] += 1
        if state is NodeState.BLOCKED:
            _require(workflow, node, node in workflow.blocked_by, "is blocked by nobody")
        _check_dependencies(workflow, node, state)
        if state in (NodeState.READY, *IN_FLIGHT) and graph.takes_input(node):
            missing = [
                dependency
                for dependency in graph.dependencies(node)
                if dependency not in workflow.values and workflow.state_of(dependency) is NodeState.SUCCEEDED
            ]
            _require(workflow, node, not missing, "has lost a value that it needs")
        _require(
            workflow,
            node,
            (state in (NodeState.HELD, NodeState.RETRYING)) == (node in workflow.holds),
            "is held for no reason, or not held with one",
        )
    for state, count in counts.items():
        if workflow.count(state) != count:
            raise InvariantBroken(f"{workflow!r} counts {workflow.count(state)} {state.word} nodes, there are {count}")
    if unsettled != workflow.unsettled_count:
        raise InvariantBroken(f"{workflow!r} counts {workflow.unsettled_count} unsettled nodes, there are {unsettled}")
    if (unsettled == 0) != workflow.state.is_finished:
        raise InvariantBroken(f"{workflow!r} has {unsettled} unsettled nodes")
    bad = len(workflow.nodes_in(*BAD))
    if workflow.state.is_finished and (workflow.state is WorkflowState.SUCCEEDED) != (bad == 0):
        raise InvariantBroken(f"{workflow!r} has {bad} nodes that did not succeed")
    if workflow.ready_count != counts[NodeState.READY]:
        raise InvariantBroken(f"{workflow!r} has {workflow.ready_count} nodes in its heap, {counts[NodeState.READY]} are ready")


def _check_dependencies(workflow: RunningWorkflow, node: int, state: NodeState) -> None:
    """Check that a node went on only when its dependencies let it, and does not wait for nothing."""
    graph, policy = workflow.graph, workflow.graph.policy(node)
    states = [workflow.state_of(dependency) for dependency in graph.dependencies(node)]
    are_settled = all(dependency.is_settled for dependency in states)
    if state is NodeState.WAITING:
        has_begun = workflow.state is not WorkflowState.SCHEDULED and workflow.policy.start_at <= workflow.created_at
        _require(workflow, node, not (are_settled and has_begun), "waits although all its dependencies have settled")
    elif policy is PLAIN and (state in IN_FLIGHT or state is NodeState.READY):
        _require(workflow, node, all(dependency in GOOD for dependency in states), "went on before its dependencies succeeded")
    elif policy is PLAIN and state is NodeState.BLOCKED:
        has_bad = any(dependency in BAD for dependency in states)
        _require(workflow, node, has_bad, "is blocked although no dependency failed")


def check_engine(engine: Engine) -> None:
    """Raise `InvariantBroken` if a workflow is inconsistent, or the table of what is in flight is wrong."""
    in_flight = {task_id: (workflow.workflow_id, node) for task_id, workflow, node in engine.in_flight()}
    expected: dict[str, tuple[str, int]] = {}
    for workflow in engine.workflows.values():
        check_workflow(workflow)
        for node in range(len(workflow.graph)):
            if workflow.state_of(node) in IN_FLIGHT:
                expected[workflow.task_id_of(node)] = (workflow.workflow_id, node)
    places: Counter[str] = Counter()
    for workflow, node in ((engine.workflows[owner], node) for owner, node in expected.values()):
        signature = workflow.graph.signatures[node]
        assert signature is not None
        places.update(engine.pools.needed_by(signature, workflow.graph.policy(node)) if engine.pools else ())
    if places != engine.pools.used():
        raise InvariantBroken(f"places taken in pools: {engine.pools.used()}; by the states: {dict(places)}")
    if in_flight != expected:
        raise InvariantBroken(f"in flight by the table: {in_flight}; by the states: {expected}")


def _require(workflow: RunningWorkflow, node: int, holds: bool, complaint: str) -> None:
    if not holds:
        raise InvariantBroken(f"node '{workflow.graph.names[node]}' of {workflow!r} {complaint}")
