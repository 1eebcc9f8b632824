"""What to do: the ordered work that one turn of the engine asks of the shell.

In which order it is done is told in `dyrygentd.scheduler.carrying`. If saving fails, the rest of the batch waits (`Batch.merge`).
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dyrygentd.core.node_spec import Signature
from dyrygentd.core.parent import Parent
from dyrygentd.core.policy import Child
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.series import Admission
from dyrygentd.core.states import IN_FLIGHT
from dyrygentd.core.user import User
from dyrygentd.core.values import Text
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DyrygentError

_IN_FLIGHT_WORDS: Final = frozenset(state.word for state in IN_FLIGHT)


class Publish(NamedTuple):
    """Send one message. A named tuple, since one is made for each node: a frozen dataclass of so many fields takes longer.

    Attributes:
        input: JSON text of the value to prepend to the arguments, a long one by reference; None if the node takes none.
        parent_id: Task id of the last dependency, for the first nodes of the task that submitted the workflow, or empty.
        stamp: What the message is stamped with, so that the workflow can be revoked as a whole.
        destination: Where it is to go, see `dyrygentd.core.destination`; empty if the dispatcher is to find that out, and tell.
        root_id: The topmost of the workflows whose child its own is; empty for that one itself.
    """

    workflow_id: str
    node: int
    attempt: int
    task_id: str
    signature: Signature
    input: Text | None
    parent_id: str
    stamp: str
    destination: str = ""
    root_id: str = ""


@dataclass(frozen=True, slots=True)
class BeginChild:
    """Have the child of a node run: begin it, have a finished one go on, or tell that it has succeeded.

    Attributes:
        name: How it is called if its definition does not say.
        input: JSON text of what precedes the node, None if the child takes nothing.
        has_input: False if the child takes something, and that is not kept any more.
        owner: Whose it is.
    """

    parent: Parent
    name: str
    child: Child
    input: Text | None = None
    has_input: bool = True
    owner: User | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Keep a task from running; one that runs is ended if ``terminate`` says so."""

    task_id: str
    attempt: int
    signature: Signature
    terminate: bool = False
    destination: str = ""


@dataclass(frozen=True, slots=True)
class RevokeStamped:
    """Keep all tasks from running whose messages carry this stamp."""

    stamp: str
    terminate: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    Attributes:
        nodes: Names of the nodes that it changed, the first of them if they are many.
        is_changed: Whether it changed anything; repeating a request does not.
        count: How many nodes it changed, those without a name here too.
        error: Why it was refused; then nothing was changed.
    """

    ticket: int
    nodes: tuple[str, ...] = ()
    is_changed: bool = False
    error: DyrygentError | None = None
    count: int = 0


@dataclass(slots=True)
class Batch:
    """The effects of a turn, each kind together. What is added here is merged below, and carried out in `carrying`.

    Attributes:
        changed: Ids of workflows of which anything has changed, in the order in which that is told.
        refused: ``{workflow id: why}`` of those of which the store takes nothing at all, so that they are in memory alone.
        unrun: Nodes that have finished and whose tasks never ran; the result backend is told, see `dyrygentd.core.unrun`.
        begin: ``{id: child}`` that are to run.
        set_going: ``{id: parent}`` of children that go on, and whose parent has finished and is not in memory.
        released: Names of values kept elsewhere that nobody needs any more once the rows are durable.
        admissions: ``{workflow id: what was decided}`` of submissions of a series.
        reports_read: Up to where the workers' reports were read, to be remembered once the rows are durable, or empty.
    """

    save_workflows: dict[str, WorkflowRecord] = field(default_factory=dict)
    save_nodes: dict[tuple[str, int], NodeRecord] = field(default_factory=dict)
    watch: list[str] = field(default_factory=list)
    publish: list[Publish] = field(default_factory=list)
    unwatch: list[str] = field(default_factory=list)
    revoke: list[Revoke] = field(default_factory=list)
    revoke_stamped: list[RevokeStamped] = field(default_factory=list)
    journal: list[JournalEntry] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    changed: dict[str, None] = field(default_factory=dict)
    finished: list[RunningWorkflow] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unrun: list[tuple[RunningWorkflow, int]] = field(default_factory=list)
    begin: dict[str, BeginChild] = field(default_factory=dict)
    set_going: dict[str, Parent] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    admissions: dict[str, Admission] = field(default_factory=dict)
    reports_read: str = ""

    def __bool__(self) -> bool:
        return bool(
            self.save_workflows
            or self.save_nodes
            or self.watch
            or self.publish
            or self.unwatch
            or self.revoke
            or self.revoke_stamped
            or self.journal
            or self.answers
            or self.changed
            or self.finished
            or self.refused
            or self.unrun
            or self.begin
            or self.set_going
            or self.released
            or self.admissions
            or self.reports_read
        )

    @property
    def row_count(self) -> int:
        """Number of rows to be written."""
        return len(self.save_workflows) + len(self.save_nodes) + len(self.journal)

    def rows(self) -> "Batch":
        """Return what is to be written, to be taken apart."""
        return Batch(dict(self.save_workflows), dict(self.save_nodes), journal=list(self.journal))

    def take_rows(self, workflow_id: str) -> "Batch":
        """Take the rows of one workflow out."""
        taken = Batch()
        if workflow_id in self.save_workflows:
            taken.save_workflows[workflow_id] = self.save_workflows.pop(workflow_id)
        taken.save_nodes = {place: row for place, row in self.save_nodes.items() if place[0] == workflow_id}
        self.save_nodes = {place: row for place, row in self.save_nodes.items() if place[0] != workflow_id}
        taken.journal = [entry for entry in self.journal if entry.workflow_id == workflow_id]
        self.journal = [entry for entry in self.journal if entry.workflow_id != workflow_id]
        return taken

    def still_sends(self, message: Publish) -> bool:
        """Tell whether a message of an earlier batch is still to be sent, as far as this one knows."""
        row = self.save_nodes.get((message.workflow_id, message.node))
        return row is None or (row.state in _IN_FLIGHT_WORDS and row.attempt == message.attempt)

    def merge(self, later: "Batch") -> None:
        """Append a later batch that could not be saved on its own; the newest record of a row wins."""
        for workflow_id, record in later.save_workflows.items():
            self.save_workflows[workflow_id] = record.following(self.save_workflows.get(workflow_id))
        self.save_nodes.update(later.save_nodes)
        if later.unwatch or later.revoke:
            # What ended while the disk did not work was never sent, or was sent before a restart: it is not to be sent now.
            ended = set(later.unwatch)
            self.watch = [task_id for task_id in self.watch if task_id not in ended]
            ended.update(revoke.task_id for revoke in later.revoke)
            self.publish = [message for message in self.publish if message.task_id not in ended]
        if self.publish and later.save_nodes:
            # A task may have ended and be watched all the same, since somebody else than itself said so.
            self.publish = [message for message in self.publish if later.still_sends(message)]
        if self.unwatch and later.watch:
            # Unwatching is carried out last, so it must not hit a task id that is in flight again.
            begun = set(later.watch)
            self.unwatch = [task_id for task_id in self.unwatch if task_id not in begun]
        self.watch.extend(later.watch)
        self.publish.extend(later.publish)
        self.unwatch.extend(later.unwatch)
        self.revoke.extend(later.revoke)
        self.revoke_stamped.extend(later.revoke_stamped)
        self.journal.extend(later.journal)
        self.answers.extend(later.answers)
        self.changed.update(later.changed)
        self.finished.extend(later.finished)
        self.refused.update(later.refused)
        self.unrun.extend(later.unrun)
        self.begin.update(later.begin)
        self.set_going.update(later.set_going)
        self.released.extend(later.released)
        self.admissions.update(later.admissions)
        self.reports_read = later.reports_read or self.reports_read
