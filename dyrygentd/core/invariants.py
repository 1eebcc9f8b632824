"""What must hold at any time, checked from scratch. Linear in the graph: for tests and after a recovery, not for every turn."""

from dyrygentd.core.engine import Engine
from dyrygentd.core.states import IN_FLIGHT, NodeState
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
        dependency_states = [workflow.state_of(dependency) for dependency in graph.dependencies(node)]
        all_succeeded = all(dependency is NodeState.SUCCEEDED for dependency in dependency_states)
        if state is NodeState.WAITING:
            _require(workflow, node, not all_succeeded, "waits although all its dependencies succeeded")
        elif state not in (NodeState.BLOCKED, NodeState.CANCELLED):
            _require(workflow, node, all_succeeded, "went on before its dependencies succeeded")
        if state is NodeState.BLOCKED:
            _require(workflow, node, node in workflow.blocked_by, "is blocked by nobody")
            _require(workflow, node, not all_succeeded, "is blocked although all its dependencies succeeded")
        if state in (NodeState.READY, *IN_FLIGHT) and graph.takes_input(node):
            missing = [dependency for dependency in graph.dependencies(node) if dependency not in workflow.values]
            _require(workflow, node, not missing, "has lost a value that it needs")
        _require(
            workflow,
            node,
            (state is NodeState.HELD) == (node in workflow.held_until),
            "is held without a time, or not held with one",
        )
    for state, count in counts.items():
        if workflow.count(state) != count:
            raise InvariantBroken(f"{workflow!r} counts {workflow.count(state)} {state.word} nodes, there are {count}")
    if unsettled != workflow.unsettled_count:
        raise InvariantBroken(f"{workflow!r} counts {workflow.unsettled_count} unsettled nodes, there are {unsettled}")
    if (unsettled == 0) != workflow.state.is_finished:
        raise InvariantBroken(f"{workflow!r} has {unsettled} unsettled nodes")
    if workflow.ready_count != counts[NodeState.READY]:
        raise InvariantBroken(f"{workflow!r} has {workflow.ready_count} nodes in its heap, {counts[NodeState.READY]} are ready")


def check_engine(engine: Engine) -> None:
    """Raise `InvariantBroken` if a workflow is inconsistent, or the table of what is in flight is wrong."""
    in_flight = {task_id: (workflow.workflow_id, node) for task_id, workflow, node in engine.in_flight()}
    expected: dict[str, tuple[str, int]] = {}
    for workflow in engine.workflows.values():
        check_workflow(workflow)
        for node in range(len(workflow.graph)):
            if workflow.state_of(node) in IN_FLIGHT:
                expected[workflow.task_id_of(node)] = (workflow.workflow_id, node)
    if in_flight != expected:
        raise InvariantBroken(f"in flight by the table: {in_flight}; by the states: {expected}")


def _require(workflow: RunningWorkflow, node: int, holds: bool, complaint: str) -> None:
    if not holds:
        raise InvariantBroken(f"node '{workflow.graph.names[node]}' of {workflow!r} {complaint}")
