"""What happened: everything that the engine can be told. Events are facts, so they are in the past tense.

Adapters may repeat themselves, deliver late or contradict each other; the engine sorts that out by task id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dyrygentd.core.additions import Addition
from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import SOME_FROM_OUTSIDE
from dyrygentd.core.limits import Limits
from dyrygentd.core.parent import Parent
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.policy import PLAIN_WORKFLOW, FailureKind, WorkflowPolicy
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.series import Series
from dyrygentd.core.states import NodeState, WorkflowState
from dyrygentd.core.user import User
from dyrygentd.core.verbs import VerbRequest
from dyrygentd.core.workflow import RunningWorkflow


@dataclass(frozen=True, slots=True)
class WorkflowSubmitted:
    """A client handed over a valid workflow.

    Attributes:
        document: The definition as it is stored, opaque to the core; recovery builds ``graph`` from it again.
        adopted: ``{node: state}`` of what was done, or sent, before.
        owner: Who submitted it; None if nobody can tell.
        ids: Where its task ids come from, see `dyrygentd.core.ids`.
        digest: What tells its definition from another one, if it has a key.
        parent_task: The task in which it was submitted.
        parent: The node whose work it is. If that does not wait for it any more, nothing is taken in.
        series: Of which runs it is one, and what it does while another one goes on.
    """

    workflow_id: str
    name: str
    graph: Graph
    document: bytes
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    policy: WorkflowPolicy = PLAIN_WORKFLOW
    adopted: Mapping[int, NodeState] = field(default_factory=dict)
    owner: User | None = None
    ids: int = SOME_FROM_OUTSIDE
    digest: str = ""
    parent_task: ParentTask | None = None
    parent: Parent | None = None
    series: Series | None = None


@dataclass(frozen=True, slots=True)
class WorkflowRecovered:
    """An unfinished workflow was read back from the store after a restart."""

    workflow: RunningWorkflow


@dataclass(frozen=True, slots=True)
class WorkflowImported:
    """Somebody brought a workflow that another daemon had; nothing of it happens anywhere.

    Attributes:
        workflow: What was rebuilt of the records.
        record: What is stored of it, with its definition.
        children: What does the work of its nodes, and of theirs: none without what is above it.
    """

    workflow: RunningWorkflow
    record: WorkflowRecord
    nodes: Sequence[NodeRecord]
    journal: Sequence[JournalEntry]
    children: Sequence["WorkflowImported"] = ()


@dataclass(frozen=True, slots=True)
class VerbRequested:
    """Somebody wants something done to a workflow or to nodes of it.

    Attributes:
        ticket: Under which number the answer is to be given; 0 if nobody waits for one.
        restored: The workflow as it was stored, in case that it has finished and left the engine.
        taken: Nodes of it that were never sent, and whose ids other tasks have by now.
    """

    workflow_id: str
    request: VerbRequest
    ticket: int = 0
    restored: RunningWorkflow | None = None
    taken: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ChildEnded:
    """A child that is known had ended when its node began to wait for it.

    Attributes:
        state: How: one of those at the end.
        result: Its result as JSON text, if it has one.
        error: Why it has none, or has failed.
        cause: What its first failure has in common with others of that kind; empty if nothing in it failed.
    """

    parent: Parent
    state: WorkflowState
    result: bytes | None
    error: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ChildRefused:
    """What was to be the child of a node cannot be begun, or go on, and trying again would not help; nothing of it was sent.

    Attributes:
        is_unneeded: That is no failure: there is nothing to do, and the node is skipped for it.
    """

    parent: Parent
    error: str
    is_unneeded: bool = False


@dataclass(frozen=True, slots=True)
class SaveRefused:
    """The store takes everything but what this workflow has become: its records contradict what is there."""

    workflow_id: str
    error: str


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """Somebody set the clock of this machine forward, or back if ``by_s`` is below zero."""

    by_s: float


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """Somebody wants other bounds from now on; of those that are not live nothing is taken."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """The process is about to stop: nothing more is to be dispatched."""


@dataclass(frozen=True, slots=True)
class MessagePublished:
    """The broker has the message of this task.

    Attributes:
        destination: Where it went, if that was not known before.
    """

    task_id: str
    destination: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """The message of this task cannot be built or will never be accepted; trying again would not help."""

    task_id: str
    error: str


@dataclass(frozen=True, slots=True)
class TaskSucceeded:
    """A result was stored.

    Attributes:
        value: The return value as JSON text; None if it has no JSON form, for the reason in ``value_error``.
        ends_chain: The task asked that what follows it in its chain is not run. Told by `dyrygentd.worker`.
        added: What the task has added. Told by `dyrygentd.worker`, with the result.
    """

    task_id: str
    value: bytes | None
    value_error: str = ""
    ends_chain: bool = False
    added: Addition | None = None


#: Exceptions that are no last word: a worker may tell them of a task that another one ends well (celery#3085, #1703).
DOUBTFUL: Final = frozenset({"WorkerLostError"})


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """A failure was stored.

    Attributes:
        error: One short line.
        exception: Name of the exception's class.
        fingerprint: The exception and where it came from: what failures of one cause have in common.
        worker: Who had it; empty if that is not known.
    """

    task_id: str
    error: str
    exception: str = ""
    kind: FailureKind = FailureKind.TASK
    fingerprint: str = ""
    worker: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class TaskRevoked:
    """Celery revoked the task: somebody asked for it, or it expired."""

    task_id: str
    reason: str
    is_expired: bool = False


@dataclass(frozen=True, slots=True)
class TaskIgnored:
    """The task raised Celery's ``Ignore``: it has no result and wants none. Told by `dyrygentd.worker`."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class TaskLost:
    """The task has vanished: no broker, worker or backend knows it."""

    task_id: str
    error: str


@dataclass(frozen=True, slots=True)
class TaskReported:
    """A state that is not final was stored, or told by `dyrygentd.worker`: STARTED, RETRY, or one of the user's own.

    Attributes:
        worker: Who reports it; empty if that is not known.
        next_try_at: When the task's own next try begins, as Unix time; 0 if there is none, or it is not known.
        start: Of STARTED the worker and the process that began it, if they are told.
        error: Of RETRY why the task asks for another try, one short line; empty if that is not known.
    """

    task_id: str
    state: str
    worker: str = ""
    next_try_at: float = 0.0
    start: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class TaskRedelivered:
    """A worker has confirmed that the broker gave out the message of this task once more.

    Attributes:
        story: Who has it.
    """

    task_id: str
    story: str


@dataclass(frozen=True, slots=True)
class ReportsRead:
    """All reports of the workers up to this place were read, and what they tell went ahead of this event."""

    offset: str


TaskEvent = (
    MessagePublished
    | MessageRefused
    | TaskSucceeded
    | TaskFailed
    | TaskRevoked
    | TaskIgnored
    | TaskLost
    | TaskReported
    | TaskRedelivered
)
Event = (
    WorkflowSubmitted
    | WorkflowImported
    | WorkflowRecovered
    | VerbRequested
    | DrainRequested
    | LimitsChanged
    | SaveRefused
    | ChildEnded
    | ChildRefused
    | ClockStepped
    | ReportsRead
    | TaskEvent
)
