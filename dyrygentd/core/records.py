"""What is stored of a workflow, of a node and of what was done to them: flat data that knows nothing of what it is made from.

Guards: the one list of what survives a crash. `dyrygentd.core.checkpoint` makes the records and reads them back; a store keeps
them and looks into none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dyrygentd.core.ids import OF_OLD
from dyrygentd.core.parent import Parent
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.user import User


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """The durable part of a workflow.

    Attributes:
        document: The definition; None in records that only update a workflow that is stored already.
        names: Of the nodes, in their order, for people who read the database; goes with the definition.
        counts: ``{state word: number of nodes}`` when it finished.
        result: JSON text of the output's value, when it finished and the value could be kept.
        error: Why there is no result, or why the workflow is broken.
        priority: As it was last set.
        run: How often it was set running again after a cancel.
        deadline_at: When it is over, 0 for never.
        is_stopped: Whether a failure or the deadline has ended it.
        owner: Who submitted it; None if nobody can tell.
        routes: ``{task: where its messages were sent}``, of nodes whose record does not say otherwise.
        ids: How its attempts are named, see `dyrygentd.core.ids`.
        digest: What tells its definition from another one, if it has a key; empty of those that earlier versions took in.
        started_early_at: When somebody had it begin before its time, 0 if nobody has.
        parent_task: The task in which it was submitted.
        parent: The node whose work it is, if it is a child.
        series, if_running: Of which runs it is one, and what it was to do if another one went on.
        queued_behind: The run for whose end it waits.
    """

    workflow_id: str
    name: str
    key: str | None
    labels: Mapping[str, str]
    state: WorkflowState
    created_at: float
    finished_at: float | None = None
    document: bytes | None = None
    task_count: int = 0
    counts: Mapping[str, int] | None = None
    result: bytes | None = None
    error: str = ""
    priority: int = 0
    run: int = 0
    deadline_at: float = 0.0
    is_stopped: bool = False
    owner: User | None = None
    routes: Mapping[str, str] = field(default_factory=dict)
    ids: int = OF_OLD
    digest: str = ""
    # Written only: two records that differ in nothing else are the same workflow.
    names: Sequence[str] = field(default=(), compare=False)
    started_early_at: float = 0.0
    parent_task: ParentTask | None = None
    parent: Parent | None = None
    series: str = ""
    if_running: str = ""
    queued_behind: str = ""

    def following(self, earlier: "WorkflowRecord | None") -> "WorkflowRecord":
        """Return this record with the definition of an ``earlier`` one that has not reached the disk yet."""
        if earlier is None or self.document is not None:
            return self
        return replace(self, document=earlier.document, names=earlier.names)


class Attempt(NamedTuple):
    """An attempt of a node that went on with another one.

    Attributes:
        number: The how-manieth it was, from 1.
        sent_at: When it was given to the broker.
        ended_at: When its end was seen, or it was given up.
        ended: How: the state that its node had by it, ``lost``, ``given up`` by an operator, ``stale`` of a hook, or ``not yet``
            of a question of a poll.
        due_at: When the next one was to begin by itself, or somebody had it begin; 0 if that waited for a person.
        started_at: When a worker was first heard to have begun it; 0 if nobody told.
        worker: Who had it, as far as that was told.
        error: Why it failed, shortened.
        is_over: Whether its node had finished with it, and somebody set that going again at ``due_at``.
    """

    number: int
    sent_at: float
    ended_at: float
    ended: str
    due_at: float = 0.0
    started_at: float = 0.0
    worker: str = ""
    error: str = ""
    is_over: bool = False


class NodeRecord(NamedTuple):
    """The durable part of a node; see `dyrygentd.core.workflow.RunningWorkflow` for the fields.

    A named tuple, since one is made for each change of a node: a frozen dataclass of so many fields takes three times as long.

    Attributes:
        state: As a word, see `NodeState.word`.
        finished_at: When it finished.
        value: Its own, if somebody still needs it; None of one that is made of others' values, too.
        reason: Why it is held, or that it was not needed.
        started_at, worker: When its last attempt began, and where, of one that failed or was tried more than once.
        earlier: Its attempts before the present or last one, oldest first, those that are kept.
        generation: How often it was set back to begin with another child.
        added: What its task has added and is not done: how it came, the definition, the task's value, why that is None.
        behind: Values that go behind its own in lists, as JSON text without the brackets.
    """

    workflow_id: str
    node: int
    state: str
    attempt: int
    dispatched_at: float
    finished_at: float
    held_until: float
    blocked_by: int | None
    error: str
    value: bytes | None
    reason: str = ""
    is_on_hold: bool = False
    failures: int = 0
    polling_since: float = 0.0
    fingerprint: str = ""
    late: str = ""
    is_stale: bool = False
    sent_to: str = ""
    started_at: float = 0.0
    worker: str = ""
    earlier: tuple[Attempt, ...] = ()
    generation: int = 0
    added: tuple[str, str, str | None, str] | tuple[()] = ()
    behind: str = ""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What somebody did to a workflow.

    Attributes:
        by: Who, as far as it is known.
        why: What they gave as the reason.
        nodes: Names of the nodes that it changed, the first few of them.
        count: How many it changed.
        detail: Further words, such as the new priority.
        letter: Number of the letter that has asked for it, which is noted with it; 0 if none has. It is not read back.
    """

    workflow_id: str
    at: float
    verb: str
    by: str
    why: str = ""
    nodes: tuple[str, ...] = ()
    count: int = 0
    detail: str = ""
    letter: int = 0
