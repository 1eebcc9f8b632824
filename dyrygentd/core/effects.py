"""What to do: the ordered work that one turn of the engine asks of the shell.

The order is part of the promise: save and wait until it is durable, then watch, then publish; unwatching, revoking and
telling listeners come last. If saving fails, the rest of the batch waits (`Batch.merge`).
"""

from dataclasses import dataclass, field

from dyrygentd.core.checkpoint import NodeRecord, WorkflowRecord
from dyrygentd.core.graph import Signature
from dyrygentd.core.workflow import RunningWorkflow


@dataclass(frozen=True, slots=True)
class Publish:
    """Send one message.

    Attributes:
        input: JSON text of the value to prepend to the arguments, None if the node takes none.
        parent_id: Task id of the last dependency, empty for the first nodes.
    """

    workflow_id: str
    node: int
    attempt: int
    task_id: str
    signature: Signature
    input: bytes | None
    parent_id: str


@dataclass(slots=True)
class Batch:
    """The effects of a turn, grouped in the order in which they are carried out."""

    save_workflows: dict[str, WorkflowRecord] = field(default_factory=dict)
    save_nodes: dict[tuple[str, int], NodeRecord] = field(default_factory=dict)
    watch: list[str] = field(default_factory=list)
    publish: list[Publish] = field(default_factory=list)
    unwatch: list[str] = field(default_factory=list)
    revoke: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    finished: list[RunningWorkflow] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(
            self.save_workflows or self.save_nodes or self.watch or self.publish or self.unwatch or self.revoke or self.changed
        )

    @property
    def row_count(self) -> int:
        """Number of rows to be written."""
        return len(self.save_workflows) + len(self.save_nodes)

    def merge(self, later: "Batch") -> None:
        """Append a later batch that could not be saved on its own; the newest record of a row wins."""
        for workflow_id, record in later.save_workflows.items():
            self.save_workflows[workflow_id] = record.following(self.save_workflows.get(workflow_id))
        self.save_nodes.update(later.save_nodes)
        if later.unwatch:
            # What ended while the disk did not work was never sent, or was sent before a restart: it is not to be sent now.
            ended = set(later.unwatch)
            self.watch = [task_id for task_id in self.watch if task_id not in ended]
            self.publish = [message for message in self.publish if message.task_id not in ended]
        if self.unwatch and later.watch:
            # Unwatching is carried out last, so it must not hit a task id that is in flight again.
            begun = set(later.watch)
            self.unwatch = [task_id for task_id in self.unwatch if task_id not in begun]
        self.watch.extend(later.watch)
        self.publish.extend(later.publish)
        self.unwatch.extend(later.unwatch)
        self.revoke.extend(later.revoke)
        self.changed |= later.changed
        self.finished.extend(later.finished)
