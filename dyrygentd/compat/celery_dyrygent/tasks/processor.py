"""The Celery task that used to run workflows: it hands them over to the daemon, then looks and runs hooks."""

import os
from typing import Any

from dyrygentd.compat.celery_dyrygent.workflows.workflow import Workflow


def workflow_processor(self: Any, workflow_dict: dict[str, Any]) -> None:
    """Hand over the workflow of a message, old or new, and come back until it has finished."""
    workflow_dict["id"] = self.request.id
    workflow = Workflow.from_dict(workflow_dict)
    if workflow.tick():
        # There is no limit to the number of ticks; the workflow has its own limit of time.
        self.request.retries -= 1
        options = {name: value for name, value in workflow.workflow_options.items() if name not in ("eta", "countdown")}
        raise self.retry(kwargs={"workflow_dict": workflow.to_retry_dict()}, countdown=workflow.get_retry_countdown(), **options)


def register_workflow_processor(
    app: Any, *, socket: str | os.PathLike[str] | None = None, via_worker: bool = False, **decorator_kws: Any
) -> Any:
    """Register the task in a Celery app and return it.

    Args:
        app: The Celery app.
        socket: The daemon's socket; by default ``$DYRYGENTD_SOCKET``, the system's, the user's.
        via_worker: Let `Workflow.apply_async` send this task, as celery-dyrygent does, instead of talking to the daemon itself.
            Only the workers that run it need the socket then.
        decorator_kws: For Celery's task decorator, such as ``name`` or ``queue``.
    """
    task = app.task(**{"name": "workflow-processor", "bind": True, "max_retries": 1, **decorator_kws})(workflow_processor)
    Workflow.set_workflow_processor_task(task)
    Workflow.socket = socket
    Workflow.via_worker = via_worker
    return task
