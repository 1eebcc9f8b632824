"""Views: what clients see of workflows and nodes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from dyrygentd.core.checkpoint import JournalEntry, WorkflowRecord
from dyrygentd.core.policy import Rule
from dyrygentd.core.verbs import cause_id
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadRequest, WorkflowNotSucceeded
from dyrygentd.wire.encoding import decode


class WorkflowView(Struct, omit_defaults=True):
    """A workflow as clients see it.

    Times are Unix seconds; ``counts`` is ``{node state: number of tasks}``; ``owner`` is the number of the user who submitted it.
    """

    id: str
    name: str
    state: str
    created_at: float
    tasks: int
    counts: dict[str, int]
    finished_at: float | None = None
    key: str | None = None
    labels: dict[str, str] = {}
    error: str = ""
    priority: int = 0
    start_at: float | None = None
    deadline_at: float | None = None
    owner: int | None = None
    result: Raw | UnsetType = UNSET

    @property
    def is_finished(self) -> bool:
        """Tell whether the workflow has come to its end."""
        return self.finished_at is not None

    @property
    def result_text(self) -> bytes | None:
        """Return the JSON text of the result, or None if there is none or it was not asked for."""
        # `Raw | None` would be the plain way, but msgspec decodes nothing than null into it.
        return None if self.result is UNSET else bytes(self.result)


class NodeView(Struct, omit_defaults=True):
    """A node as clients see it.

    Attributes:
        kind: ``task``, ``poll``, ``join``, ``gate``, ``sleep`` or ``hook``.
        reported: The worker's last word about the present attempt.
        blocked_by: Name of the node to blame.
        hold: What holds it: ``time``, ``poll``, ``gate``, ``operator``, ``pool``, ``lost`` or ``retry``.
        held_until: When that ends by itself.
        is_on_hold: Whether an operator holds it, now or as soon as it is free.
        cause: What failures of one cause have in common.
        late: How its task ended after the node had gone on without it.
        arguments: The arguments that were submitted, shortened and without secrets, if one node was asked for.
        is_unneeded: Whether it was skipped by its rule or its task, and not by an operator.
    """

    name: str
    state: str
    kind: str = "task"
    task: str | None = None
    task_id: str | None = None
    attempt: int = 0
    rule: str = Rule.ALL_SUCCEEDED.value
    pool: str | None = None
    after: list[str] = []
    reported: str | None = None
    error: str | None = None
    blocked_by: str | None = None
    dispatched_at: float | None = None
    finished_at: float | None = None
    hold: str | None = None
    held_until: float | None = None
    is_on_hold: bool = False
    cause: str | None = None
    late: str | None = None
    is_unneeded: bool = False
    arguments: str | None = None


class WorkflowPage(Struct):
    """A page of a listing; ``next`` is the cursor of the following page, or None."""

    workflows: list[WorkflowView]
    next: str | None = None


class NodePage(Struct):
    """A page of the nodes of a workflow; ``next`` is the cursor of the following page, or None."""

    nodes: list[NodeView]
    next: str | None = None


class Changed(Struct):
    """The answer to a verb; it is on disk.

    Attributes:
        is_changed: False if what was asked for was so already.
        nodes: Names of the nodes that it changed, at most 100.
    """

    id: str
    verb: str
    is_changed: bool
    nodes: list[str]
    workflow: WorkflowView

    @property
    def state(self) -> str:
        """The workflow's state now."""
        return self.workflow.state


class Refusal(Struct):
    """A workflow for which a verb was refused in bulk."""

    id: str
    detail: str
    code: str
    next_step: str = ""


class BulkChanged(Struct):
    """The answer to a verb for many workflows; ``is_complete`` is False if there are more that fit."""

    verb: str
    matched: int
    changed: list[str]
    unchanged: list[str]
    refused: list[Refusal]
    is_complete: bool = True


class StandingView(Struct, omit_defaults=True):
    """Why a node, or a group of nodes with the same answer, is not running.

    Attributes:
        code: A stable word for programs.
        next_step: What a person can do.
        count, examples: How many nodes it is about, and the names of the first few.
    """

    code: str
    text: str
    node: str
    next_step: str = ""
    count: int = 1
    examples: list[str] = []


class Explanation(Struct, omit_defaults=True):
    """Why something is not running, and what can be done.

    Attributes:
        node: The node that was asked about; None for the whole workflow.
        verdict: The answer in one sentence.
        code: A stable word for programs.
        standings: How the nodes stand that have not succeeded, those first for which somebody can do something.
        problems: What keeps the daemon from its work, or could not be found out.
        facts: What broker, workers and backend said of the tasks in flight, ``{node: facts}``.
    """

    id: str
    state: str
    code: str
    verdict: str
    node: str | None = None
    next_step: str = ""
    standings: list[StandingView] = []
    problems: list[str] = []
    facts: dict[str, Any] = {}


class JournalView(Struct, omit_defaults=True):
    """What somebody did to a workflow: who, when and why."""

    at: float
    verb: str
    by: str = ""
    why: str = ""
    nodes: list[str] = []
    count: int = 0
    detail: str = ""
    workflow: str = ""


class Journal(Struct, omit_defaults=True):
    """What was done to a workflow, or to all of them, oldest first; ``next`` is the cursor after the last entry."""

    entries: list[JournalView]
    next: str | None = None


class CauseView(Struct, omit_defaults=True):
    """Failures with one cause: the exception and where it came from.

    Attributes:
        number: From 1, in the order in which the causes first appear; ``retry --cause`` takes it, or the id.
        example: The error of the first of them.
        nodes: Names, at most 20.
    """

    number: int
    id: str
    cause: str
    count: int
    example: str = ""
    nodes: list[str] = []


class Causes(Struct):
    """Failures of a workflow by cause."""

    failures: int
    causes: list[CauseView]


class Submitted(Struct):
    """The answer to a submission: it is on disk. ``created`` is False if the key was known already."""

    id: str
    name: str
    tasks: int
    created: bool
    task_id: str | None = None


class Health(Struct):
    """Whether the daemon does its work; ``problems`` says what keeps it from that, ``notices`` what else people should know."""

    status: str
    version: str
    problems: list[str] = []
    notices: list[str] = []


class Statistics(Struct):
    """What the daemon is doing, by part.

    Attributes:
        tallies: ``{step: {"bounds", "counts", "sum", "examples"}}``: how long steps took, see `dyrygentd.core.tally.Tally`.
        tasks, queues, workflows: ``{name: {word: sum}}``.
    """

    version: str
    uptime_s: float
    engine: dict[str, Any]
    store: dict[str, Any]
    dispatcher: dict[str, Any]
    watcher: dict[str, Any]
    lost: dict[str, Any] = {}
    problems: list[str] = []
    notices: list[str] = []
    reports: dict[str, Any] = {}
    tallies: dict[str, dict[str, Any]] = {}
    tasks: dict[str, dict[str, float]] = {}
    queues: dict[str, dict[str, float]] = {}
    workflows: dict[str, dict[str, float]] = {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workflow ended.

    Attributes:
        result: The decoded value of its output; None if it has none.
        failed_nodes: The nodes that failed, without those that were blocked by them; at most 100.
    """

    id: str
    name: str
    state: str
    result: object
    error: str
    failed_nodes: list[NodeView]

    @property
    def is_success(self) -> bool:
        """Tell whether every node succeeded."""
        return self.state == "succeeded"

    def raise_for_state(self) -> None:
        """Raise `WorkflowNotSucceeded` unless every node succeeded."""
        if not self.is_success:
            raise WorkflowNotSucceeded(self.id, self.name, self.state, [node.name for node in self.failed_nodes])


def outcome_of(view: WorkflowView, failed_nodes: list[NodeView], *, decode_value: Callable[[bytes], object]) -> Outcome:
    """Make an outcome of a finished workflow's view with its result."""
    result = None if view.result_text is None else decode_value(view.result_text)
    return Outcome(view.id, view.name, view.state, result, view.error, failed_nodes)


def view_of_running(workflow: RunningWorkflow, *, with_result: bool = False) -> WorkflowView:
    """Show a workflow that is in memory."""
    return WorkflowView(
        id=workflow.workflow_id,
        name=workflow.name,
        state=workflow.state.value,
        created_at=workflow.created_at,
        tasks=workflow.graph.task_count,
        counts=_present(workflow.counts_by_word()),
        finished_at=workflow.finished_at,
        key=workflow.key,
        labels=dict(workflow.labels),
        error=workflow.error,
        priority=workflow.priority,
        start_at=workflow.policy.start_at or None,
        deadline_at=workflow.deadline_at or None,
        owner=workflow.owner,
        result=Raw(workflow.result) if with_result and workflow.result is not None else UNSET,
    )


def view_of_record(record: WorkflowRecord, *, with_result: bool = False) -> WorkflowView:
    """Show a workflow as it was stored."""
    return WorkflowView(
        id=record.workflow_id,
        name=record.name,
        state=record.state.value,
        created_at=record.created_at,
        tasks=record.task_count,
        counts=_present(record.counts or {}),
        finished_at=record.finished_at,
        key=record.key,
        labels=dict(record.labels),
        error=record.error,
        priority=record.priority,
        deadline_at=record.deadline_at or None,
        owner=record.owner,
        result=Raw(record.result) if with_result and record.result is not None else UNSET,
    )


def view_of_node(workflow: RunningWorkflow, node: int, *, arguments: str = "") -> NodeView:
    """Show one node."""
    graph = workflow.graph
    signature = graph.signatures[node]
    blocked_by, policy, hold = workflow.blocked_by.get(node), graph.policy(node), workflow.holds.get(node)
    return NodeView(
        name=graph.names[node],
        state=workflow.state_of(node).word,
        task=None if signature is None else signature.task,
        task_id=workflow.task_id_of(node) or None,
        attempt=workflow.attempt_of(node),
        after=[graph.names[dependency] for dependency in graph.dependencies(node)],
        reported=workflow.reported.get(node),
        error=workflow.errors.get(node),
        blocked_by=None if blocked_by is None else graph.names[blocked_by],
        dispatched_at=workflow.dispatched_at[node] or None,
        finished_at=workflow.settled_at[node] or None,
        kind=_kind(workflow, node),
        rule=policy.rule.value,
        pool=policy.pool or None,
        hold=None if hold is None else hold.reason.value,
        held_until=(hold.until or None) if hold is not None else None,
        is_on_hold=node in workflow.on_hold,
        cause=workflow.causes.get(node),
        late=workflow.late.get(node),
        is_unneeded=node in workflow.unneeded,
        arguments=arguments or None,
    )


def causes_of(workflow: RunningWorkflow) -> Causes:
    """Group the failures of a workflow by cause."""
    groups = workflow.failures_by_cause()
    return Causes(
        failures=sum(len(nodes) for _, nodes in groups),
        causes=[
            CauseView(
                number=number,
                id=cause_id(cause),
                cause=cause,
                count=len(nodes),
                example=workflow.errors.get(nodes[0], ""),
                nodes=[workflow.graph.names[node] for node in nodes[:20]],
            )
            for number, (cause, nodes) in enumerate(groups, start=1)
        ],
    )


def view_of_entry(entry: JournalEntry) -> JournalView:
    """Show an entry of the journal."""
    return JournalView(
        at=entry.at,
        verb=entry.verb,
        by=entry.by,
        why=entry.why,
        nodes=list(entry.nodes),
        count=entry.count,
        detail=entry.detail,
        workflow=entry.workflow_id,
    )


def _kind(workflow: RunningWorkflow, node: int) -> str:
    policy = workflow.graph.policy(node)
    if policy.hook is not None:
        return "hook"
    if policy.is_gate:
        return "gate"
    if policy.sleep_s:
        return "sleep"
    if not workflow.graph.is_task(node):
        return "join"
    return "poll" if policy.poll_every_s else "task"


def _present(counts: Mapping[str, int]) -> dict[str, int]:
    return {word: count for word, count in counts.items() if count}


def decode_view(body: bytes) -> WorkflowView:
    """Read a workflow's view; raises as `decode` does.

    Its result is passed on as the worker stored it, and Python writes what no standard of JSON knows: ``NaN``, ``Infinity``
    and halves of surrogate pairs.
    """
    try:
        return decode(body, WorkflowView)
    except BadRequest as error:
        try:
            document = json.loads(body)
            result = json.dumps(document.pop("result")).encode()
            view = msgspec.convert(document, WorkflowView)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise error from None
        view.result = Raw(result)
        return view
