"""An optional addition to Celery workers: it lets the daemon see tasks that end without a result.

Put ``import dyrygentd.worker`` into the module of the Celery app that the workers load. A task that raises ``Ignore`` or
``Reject`` stores nothing (5.7 stores a failure for ``Reject``), so that whoever waits for it waits for ever. With this, the
state ``IGNORED`` or ``REJECTED`` is stored, for tasks that dyrygentd has sent and for no others. An ignored node is skipped, and
so is what waits for its success: the chain stops there, a chord's body does not run, and the workflow succeeds. A rejected one
has failed.
"""

from typing import Any

from celery import signals, states
from celery.exceptions import Reject

#: The stamp on each of the daemon's messages (`dyrygentd.transport.message`, which workers need not load).
_WORKFLOW_STAMP = "dyrygentd_workflow"
#: `Task.replace` ends with an Ignore of this text. The task goes on under the same id, and its successor stores the result.
_REPLACED = "Replaced by new task"


def _store_end(task_id: str, task: Any, retval: Any = None, state: str = "", **_: Any) -> None:
    if _WORKFLOW_STAMP not in (task.request.stamps or {}):
        return
    if state == states.IGNORED and str(retval) != _REPLACED:
        task.backend.store_result(task_id, str(retval), state, request=task.request)
    # One that is requeued has not ended.
    elif state == states.REJECTED and isinstance(retval, Reject) and not retval.requeue:
        task.backend.store_result(task_id, str(retval.reason), state, request=task.request)


signals.task_postrun.connect(_store_end, weak=False, dispatch_uid=__name__)
