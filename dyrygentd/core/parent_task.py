"""The task in which a workflow was submitted."""

from typing import NamedTuple


class ParentTask(NamedTuple):
    """A task that was running when its program submitted a workflow, which is what Celery calls a parent.

    Attributes:
        task_id: Celery's id of the task.
        root_id: Of the first task of what that one belongs to; its own id if it is the first one itself.
    """

    task_id: str
    root_id: str
