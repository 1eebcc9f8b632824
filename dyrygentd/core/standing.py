"""Why is it not running? The engine's own answer; what happens at the broker and the workers is added by the shell.

Pure reading: nothing here changes anything. One node costs its dependencies, a whole workflow one look at each node.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from dyrygentd.core.engine import Engine
from dyrygentd.core.states import IN_FLIGHT, SETTLED, NodeState, WorkflowState
from dyrygentd.core.workflow import HoldReason, RunningWorkflow

#: Names given as examples.
_NAMED_MAX: Final = 5
#: Steps back from a waiting node to what it waits for in the end; longer ways are cut.
_STEPS_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node, or a group of nodes with the same answer, stands.

    Attributes:
        code: A stable word for programs.
        text: The answer, in words.
        next_step: What a person can do; empty if there is nothing to do.
        node: Its name, or the first of the group.
        count: How many nodes it is about.
        examples: Names of the first few.
    """

    code: str
    text: str
    next_step: str
    node: str
    count: int = 1
    examples: tuple[str, ...] = ()


def standing_of_node(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> Standing:
    """Say why a node is not running, or how it ended."""
    if workflow.state_of(node) is NodeState.WAITING:
        return _waiting(engine, workflow, node, now)
    return _standing(engine, workflow, node, now)


def standings(engine: Engine, workflow: RunningWorkflow, now: float) -> list[Standing]:
    """Say how the nodes of a workflow stand that have not succeeded, those first for which somebody can do something."""
    groups: dict[tuple[int, str, str], list[int]] = {}
    for node in range(len(workflow.graph)):
        key = _group_of(workflow, node)
        if key is not None:
            groups.setdefault(key, []).append(node)
    found = []
    for key in sorted(groups, key=lambda key: key[:2]):
        nodes = groups[key]
        first = _oldest(workflow, nodes)
        standing = standing_of_node(engine, workflow, first, now)
        names = tuple(workflow.graph.names[node] for node in nodes[:_NAMED_MAX])
        found.append(Standing(standing.code, standing.text, standing.next_step, standing.node, count=len(nodes), examples=names))
    return found


def headline(engine: Engine, workflow: RunningWorkflow, now: float) -> str:
    """Say in one sentence how a workflow stands."""
    in_flight = workflow.in_flight_count
    match workflow.state:
        case WorkflowState.SCHEDULED:
            return f"it starts in {span(workflow.policy.start_at - now)}"
        case WorkflowState.PAUSED:
            return f"it is paused: nothing is dispatched until `resume`; {in_flight} tasks are in flight"
        case WorkflowState.SUCCEEDED:
            return "it has succeeded"
        case WorkflowState.FAILED:
            causes = workflow.failures_by_cause()
            failures = sum(len(nodes) for _, nodes in causes)
            return f"it has failed: {_counted(failures, 'failure')}, {_counted(len(causes), 'cause')}"
        case WorkflowState.CANCELLED:
            return "it was cancelled"
        case WorkflowState.RUNNING:
            if in_flight:
                return f"it is running: {_counted(in_flight, 'task')} in flight"
            if workflow.ready_count:
                return (
                    f"{_counted(workflow.ready_count, 'node')} ready, none in flight: {_why_not_dispatched(engine, workflow)[0]}"
                )
            held = len(workflow.holds)
            return f"nothing is in flight: {_counted(held, 'node')} held or waiting for another attempt"


def span(seconds: float) -> str:
    """Write a duration for people."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


# --- one node -------------------------------------------------------------------------------------------------------


def _waiting(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> Standing:
    """Follow what a node waits for to where somebody, or something, can be named."""
    names = workflow.graph.names
    if workflow.state is WorkflowState.SCHEDULED:
        return Standing("scheduled", headline(engine, workflow, now), "", names[node])
    open_ones = [other for other in workflow.graph.dependencies(node) if workflow.state_of(other) not in SETTLED]
    total = workflow.graph.dependency_count(node)
    root = _root(workflow, node)
    if root == node:
        return Standing("waiting", f"'{names[node]}' is about to be decided", "", names[node])
    below = _standing(engine, workflow, root, now)
    way = f"'{names[node]}' waits for {len(open_ones)} of {total} dependencies, first '{names[open_ones[0]]}'"
    if root != open_ones[0]:
        way += f", which waits in the end for '{names[root]}'"
    held = "; besides, an operator holds it" if node in workflow.on_hold else ""
    return Standing("waiting", f"{way}: {below.text}{held}", below.next_step, names[node])


def _root(workflow: RunningWorkflow, node: int) -> int:
    for _ in range(_STEPS_MAX):
        if workflow.state_of(node) is not NodeState.WAITING:
            break
        dependencies = workflow.graph.dependencies(node)
        following = next((other for other in dependencies if workflow.state_of(other) not in SETTLED), None)
        if following is None:
            break
        node = following
    return node


def _standing(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> Standing:
    name = workflow.graph.names[node]
    code, text, next_step = _words(engine, workflow, node, now)
    return Standing(code, f"'{name}' {text}", next_step.replace("NODE", name), name)


def _words(engine: Engine, workflow: RunningWorkflow, node: int, now: float) -> tuple[str, str, str]:
    error = workflow.errors.get(node, "")
    attempt = workflow.attempt_of(node)
    match workflow.state_of(node):
        case NodeState.WAITING:
            return "waiting", "waits for its dependencies", ""
        case NodeState.HELD:
            return _held(workflow, node, now)
        case NodeState.READY:
            reason, next_step = _why_not_dispatched(engine, workflow)
            return "ready", f"is ready: {reason}", next_step
        case NodeState.DISPATCHING:
            since = span(now - workflow.dispatched_at[node])
            return (
                "dispatching",
                f"is on its way to the broker since {since}",
                "`dyrygentctl stats` tells whether the broker answers",
            )
        case NodeState.DISPATCHED:
            since = span(now - workflow.dispatched_at[node])
            seen = _reported(workflow, node)
            return "dispatched", f"has been in the broker or at a worker for {since} (attempt {attempt}{seen})", ""
        case NodeState.RETRYING:
            hold = workflow.holds[node]
            return (
                "retrying",
                f"failed in attempt {attempt} ({error}) and is tried again in {span(hold.until - now)}",
                "`retry NODE` tries at once, `skip NODE` goes on without it",
            )
        case NodeState.SUCCEEDED:
            return "succeeded", f"has succeeded in attempt {attempt}" if attempt else "has succeeded", ""
        case NodeState.SKIPPED if node in workflow.unneeded:
            return "unneeded", "was not needed: its rule or its task said so", "`rerun --from NODE` runs it all the same"
        case NodeState.SKIPPED:
            return "skipped", "was skipped by an operator", "`rerun --from NODE` runs it"
        case NodeState.FAILED:
            late = f"; its task ended as {workflow.late[node]} later" if node in workflow.late else ""
            return "failed", f"failed in attempt {attempt}: {error}{late}", "`retry NODE`, or `skip NODE` to go on without it"
        case NodeState.CANCELLED:
            late = f"; its task ended as {workflow.late[node]} later" if node in workflow.late else ""
            return "cancelled", f"was cancelled{late}", "`retry NODE` runs it"
        case NodeState.BLOCKED:
            blame = workflow.graph.names[workflow.blocked_by.get(node, node)]
            return "blocked", f"never ran, because of '{blame}'{_others_to_blame(workflow, node)}", f"retry or skip '{blame}'"


def _reported(workflow: RunningWorkflow, node: int) -> str:
    """Tell a worker's last word about a task in flight."""
    state = workflow.reported.get(node)
    if not state:
        return ""
    if node not in workflow.next_tries:
        return f", a worker reported {state}"
    at, worker = workflow.next_tries[node]
    return f", {worker or 'a worker'} reported {state}, next try at {datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"


def _others_to_blame(workflow: RunningWorkflow, node: int) -> str:
    """Tell how many more dependencies have not succeeded: to retry or skip the one that is named is not enough then."""
    open_ones = sum(
        workflow.state_of(other) in (NodeState.FAILED, NodeState.CANCELLED, NodeState.BLOCKED)
        for other in workflow.graph.dependencies(node)
    )
    return f" and {open_ones - 1} more of its dependencies" if open_ones > 1 else ""


def _held(workflow: RunningWorkflow, node: int, now: float) -> tuple[str, str, str]:
    hold = workflow.holds[node]
    left = span(hold.until - now)
    match hold.reason:
        case HoldReason.GATE:
            return "gate", "is a gate and waits for an operator", "`release NODE` opens it"
        case HoldReason.OPERATOR:
            return "hold", "is held by an operator", "`release NODE` lets it go"
        case HoldReason.TIME:
            return "time", f"waits for its time, another {left}", "`release NODE` lets it go now"
        case HoldReason.POLL:
            return "poll", f"asked {workflow.attempt_of(node)} times and asks again in {left}", "`release NODE` asks now"
        case HoldReason.POOL:
            return "pool", f"waits for a place in pool '{hold.pool}'", "it goes when a place is free; `stats` shows who has them"
        case HoldReason.LOST:
            return (
                "lost",
                f"was lost: {workflow.errors.get(node, '')}",
                "`retry NODE` starts another attempt, `skip NODE` goes on",
            )
        case HoldReason.RETRY:
            return "retrying", f"is tried again in {left}", "`retry NODE` tries at once"


def _why_not_dispatched(engine: Engine, workflow: RunningWorkflow) -> tuple[str, str]:
    limits, policy = engine.limits, workflow.policy
    if workflow.state is WorkflowState.PAUSED:
        return "the workflow is paused", "`resume`"
    if engine.draining:
        return "the daemon is stopping and dispatches nothing more", "it goes on after the next start"
    if policy.in_flight_max and workflow.in_flight_count >= policy.in_flight_max:
        return f"the workflow's own limit of {policy.in_flight_max} tasks in flight is reached", ""
    if engine.in_flight_count >= limits.in_flight_max:
        return (
            f"{limits.in_flight_max} tasks are in flight, as many as `in_flight_max` allows",
            "add workers, or raise `in_flight_max`",
        )
    return "its turn comes within moments", ""


# --- groups ---------------------------------------------------------------------------------------------------------


def _group_of(workflow: RunningWorkflow, node: int) -> tuple[int, str, str] | None:
    """Return ``(rank, state, what they have in common)``; None for nodes that nobody has to think about."""
    state = workflow.state_of(node)
    if state is NodeState.HELD:
        hold = workflow.holds[node]
        is_for_people = hold.reason in (HoldReason.GATE, HoldReason.OPERATOR, HoldReason.LOST)
        return 1 if is_for_people else 5, hold.reason.value, hold.pool
    if state is NodeState.FAILED:
        return 0, state.word, workflow.causes.get(node, "")
    if state in IN_FLIGHT:
        return 2, state.word, ""
    ranks = {NodeState.READY: 3, NodeState.RETRYING: 4, NodeState.CANCELLED: 6, NodeState.BLOCKED: 7, NodeState.WAITING: 8}
    return (ranks[state], state.word, "") if state in ranks else None


def _oldest(workflow: RunningWorkflow, nodes: list[int]) -> int:
    return min(nodes, key=lambda node: workflow.dispatched_at[node]) if workflow.state_of(nodes[0]) in IN_FLIGHT else nodes[0]


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def in_flight_of(workflow: RunningWorkflow, most: int) -> Iterator[int]:
    """Iterate over the nodes that have been in flight longest."""
    nodes = workflow.nodes_in(*IN_FLIGHT) if workflow.in_flight_count else []
    yield from sorted(nodes, key=lambda node: workflow.dispatched_at[node])[:most]
