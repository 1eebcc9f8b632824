"""The task that runs just now, if this program is a Celery worker."""

import sys
from typing import Any

from dyrygentd.core.bounds import NAME_LENGTH_MAX
from dyrygentd.core.parent_task import ParentTask


def current_parent_task() -> ParentTask | None:
    """Return the task that runs in this thread, as Celery finds the parent of what a task sends; None outside of tasks.

    None as well if its id is none that a definition may hold: the submission must not fail for it.
    """
    # Without Celery there is no task, and asking would load it.
    state: Any = sys.modules.get("celery._state")
    task = None if state is None else state.get_current_worker_task()
    if task is None:
        return None
    task_id, root_id = task.request.id, task.request.root_id or task.request.id
    return ParentTask(task_id, root_id) if _is_id(task_id) and _is_id(root_id) else None


def _is_id(given: object) -> bool:
    return isinstance(given, str) and 0 < len(given) <= NAME_LENGTH_MAX and given.isprintable()
