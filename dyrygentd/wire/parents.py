"""The JSON forms of the task in which a workflow was submitted, and of the node whose work it is."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from dyrygentd.core.bounds import NAME_LENGTH_MAX
from dyrygentd.core.parent import Parent
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.errors import BadRequest
from dyrygentd.wire.plain import View

if TYPE_CHECKING:
    from dyrygentd.wire.words import WorkflowWord
else:
    # As in `views`.
    WorkflowWord = str

_Id = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]


class ParentTaskDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The task in which a workflow is submitted.

    Attributes:
        task_id: Its id, which the first tasks get as their ``parent_id``.
        root_id: Id of the first task of what it belongs to; by default its own.
    """

    task_id: _Id
    root_id: _Id | None = None


class ParentTaskView(Struct, View):
    """The task in which a workflow was submitted; ``root_id`` is the first task of what that one belongs to."""

    task_id: str
    root_id: str


class ParentView(Struct, View, omit_defaults=True):
    """The node whose work a workflow is; a workflow that somebody submitted has none.

    Attributes:
        workflow, node: The workflow above, and the name of its node.
        root: The uppermost of all that are above, which somebody submitted.
        depth: How many are above.
        generation: How often the node was set back to begin with another child.
    """

    workflow: str
    node: str
    root: str
    depth: int = 1
    generation: int = 0


class ChildView(Struct, View, omit_defaults=True):
    """The workflow that is the work of a node, as it stands.

    Attributes:
        tasks, counts: Number of its tasks, and ``{node state: number of them}``.
        error: What failed first in it, shortened.
        waits_for_person: What in it goes on only when somebody says so, as in `WorkflowView`.
    """

    id: str
    name: str
    state: WorkflowWord
    tasks: int
    counts: dict[str, int]
    created_at: float
    finished_at: float | None = None
    error: str = ""
    waits_for_person: dict[str, int] = {}


class BelowView(Struct, View, omit_defaults=True):
    """What the unfinished children of a workflow are at, in short; theirs are not counted.

    Attributes:
        workflows: How many they are, 200 at most: of more it is told what the first ones are at.
        states: ``{state: number of them}``.
        tasks, counts: Number of their tasks, and ``{node state: number of them}``.
    """

    workflows: int
    states: dict[str, int]
    tasks: int
    counts: dict[str, int]


def view_above(parent: Parent | None) -> ParentView | None:
    """Return the node whose work a workflow is as it is shown."""
    if parent is None:
        return None
    return ParentView(parent.workflow_id, parent.name, parent.root_id, parent.depth, parent.generation)


def parent_of(document: ParentTaskDocument | None, own_ids: Collection[str]) -> ParentTask | None:
    """Read a parent. Raises `BadRequest` if it has an id that none can have.

    Args:
        own_ids: Of the tasks of the workflow itself.
    """
    if document is None:
        return None
    parent = ParentTask(document.task_id, document.root_id or document.task_id)
    for field, text in parent._asdict().items():
        if not text.isprintable():
            raise BadRequest(
                f"`parent_task.{field}` has characters that cannot be printed",
                path=f"$.parent_task.{field}",
                next_step="leave `parent_task` out, or give the id of a Celery task",
            )
    if parent.task_id in own_ids:
        raise BadRequest(
            f"`parent_task.task_id` is '{parent.task_id}', a task of this workflow",
            path="$.parent_task.task_id",
            next_step="leave `parent_task` out, or give the id of the task that submits",
        )
    return parent


def document_of_parent(parent: ParentTask | None) -> ParentTaskDocument | None:
    """Return a parent as it is written."""
    return (
        None
        if parent is None
        else ParentTaskDocument(parent.task_id, None if parent.root_id == parent.task_id else parent.root_id)
    )


def view_of_parent(parent: ParentTask | None) -> ParentTaskView | None:
    """Return a parent as it is shown."""
    return None if parent is None else ParentTaskView(*parent)
