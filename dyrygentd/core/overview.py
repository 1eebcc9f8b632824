"""What waits for a person, and what is under way longest, in all workflows: a pure reading of the engine.

It costs a look at each unfinished workflow and at what is held in it, and goes in steps, so that others have their turn in
between. What is found is counted in full; of each kind only the first few are kept by name.
"""

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from typing import Final

from dyrygentd.core.engine import Engine
from dyrygentd.core.for_people import waits_for_person, waits_since
from dyrygentd.core.lost_causes import ENDED_SILENTLY
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.retry_loops import StillTried, keeps_failing
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow

#: Some milliseconds' work.
_STEP: Final = 2000
#: Names of nodes of one workflow that are told.
_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Waiting:
    """A workflow with nodes that wait for a person for one reason.

    Attributes:
        since: When the first of them came to wait, as far as what it depends on tells; of what was lost that is too early.
        ends_again: Their tasks ended without a result, as another attempt would, as far as `nodes` tells.
    """

    reason: HoldReason
    workflow_id: str
    name: str
    count: int
    nodes: tuple[str, ...]
    since: float
    ends_again: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """What keeps failing in a workflow for one cause."""

    workflow_id: str
    name: str
    tried: StillTried


@dataclass(slots=True)
class Survey:
    """How everything that has not finished stands.

    Attributes:
        waiting: ``{reason: workflows}``, the first few of those that wait for a person.
        waiting_count: ``{reason: number of workflows}``, all of them.
        nodes_waiting: ``{reason: number of nodes}``.
        paused: Ids and names of the first few paused workflows; ``paused_count`` is how many there are.
        failing: ``(id, name, failed nodes)`` of the first few that go on although nodes have failed.
        loops: Those that have failed most often; ``loops_count`` is how many there are, ``looping`` how many nodes they have.
        scheduled_count, next_start: How many wait for their time, and the next time.
        ready_count, first_ready: Nodes that wait for a place in flight, and the first workflow that lacks nothing else.
        oldest: ``(workflow, node)`` of what has been in flight longest, first.
    """

    waiting: dict[HoldReason, list[Waiting]] = field(default_factory=dict)
    waiting_count: Counter[HoldReason] = field(default_factory=Counter)
    nodes_waiting: Counter[HoldReason] = field(default_factory=Counter)
    paused: list[tuple[str, str]] = field(default_factory=list)
    paused_count: int = 0
    failing: list[tuple[str, str, int]] = field(default_factory=list)
    failing_count: int = 0
    loops: list[Loop] = field(default_factory=list)
    loops_count: int = 0
    looping: int = 0
    scheduled_count: int = 0
    next_start: float = 0.0
    ready_count: int = 0
    first_ready: RunningWorkflow | None = None
    oldest: list[tuple[RunningWorkflow, int]] = field(default_factory=list)


def survey_in_steps(engine: Engine, *, most: int, oldest_max: int, step: int = _STEP) -> Generator[None, None, Survey]:
    """Look at everything that has not finished, some thousand workflows and nodes at a time.

    Args:
        most: Workflows of each kind that are kept by name.
        oldest_max: Tasks in flight that are kept.
        step: Workflows and held nodes that are looked at in one step.
    """
    survey, looked_at = Survey(), 0
    for workflow in list(engine.workflows.values()):
        looked_at += 1 + len(workflow.holds)
        if looked_at >= step:
            looked_at = 0
            yield
        _add(survey, workflow, most)
    in_flight = [
        (workflow.attempts.dispatched_at[node], number, workflow, node) for number, (_, workflow, node) in _numbered(engine)
    ]
    survey.oldest = [(workflow, node) for _, _, workflow, node in nsmallest(oldest_max, in_flight)]
    return survey


def _numbered(engine: Engine) -> list[tuple[int, tuple[str, RunningWorkflow, int]]]:
    # The number decides between equal times: workflows have no order.
    return list(enumerate(engine.flights.in_flight()))


def _add(survey: Survey, workflow: RunningWorkflow, most: int) -> None:
    match workflow.state:
        case WorkflowState.PAUSED:
            survey.paused_count += 1
            if len(survey.paused) < most:
                survey.paused.append((workflow.workflow_id, workflow.name))
        case WorkflowState.SCHEDULED:
            survey.scheduled_count += 1
            if not workflow.start.behind:
                survey.next_start = min(survey.next_start or workflow.policy.start_at, workflow.policy.start_at)
    survey.ready_count += workflow.ready_count
    if survey.first_ready is None and workflow.can_dispatch:
        survey.first_ready = workflow
    failed = workflow.nodes.count(NodeState.FAILED)
    if failed and not workflow.state.is_finished:
        survey.failing_count += 1
        if len(survey.failing) < most:
            survey.failing.append((workflow.workflow_id, workflow.name, failed))
    if workflow.attempts.tried_again.often:
        _add_loops(survey, workflow, most)
    for reason, count in waits_for_person(workflow).items():
        kind = HoldReason(reason)
        survey.waiting_count[kind] += 1
        survey.nodes_waiting[kind] += count
        known = survey.waiting.setdefault(kind, [])
        if len(known) < most:
            known.append(_waiting(workflow, kind, count))


def _add_loops(survey: Survey, workflow: RunningWorkflow, most: int) -> None:
    survey.looping += workflow.attempts.tried_again.often
    survey.loops_count += len(workflow.attempts.tried_again.loops)
    found = [Loop(workflow.workflow_id, workflow.name, tried) for tried in keeps_failing(workflow, most=most)]
    survey.loops = nlargest(most, [*survey.loops, *found], key=lambda loop: loop.tried.failures)


def _waiting(workflow: RunningWorkflow, reason: HoldReason, count: int) -> Waiting:
    nodes = []
    for node, hold in workflow.holds.items():
        if hold.reason is reason:
            nodes.append(node)
            if len(nodes) == _NAMED_MAX:
                break
    names = tuple(workflow.graph.names[node] for node in nodes)
    ends_again = all(ENDED_SILENTLY in workflow.errors.get(node, "") for node in nodes)
    return Waiting(reason, workflow.workflow_id, workflow.name, count, names, waits_since(workflow, nodes[0]), ends_again)
