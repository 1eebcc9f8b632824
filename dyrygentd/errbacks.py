"""Calls error callbacks of the kind ``(request, exc, traceback)`` inside a worker, for a chord's body that was never sent.

Celery's worker calls such callbacks in its own process, with the request and the error of the task that failed. The header of a
chord has failed, so its body is not sent, and no worker has it: what would have been called for it is called by this task, as
Celery does it for a body (`celery.backends.base.Backend.chord_error_from_stack`): with a request that has the body's id and name,
and with the error that is stored under that id.

`dyrygentd.worker.install` registers it; the program that submits has the same app, so it knows whether the workers can.
"""

import logging
from typing import Any, Final

from celery import states
from celery.app.task import Context
from celery.exceptions import ChordError

logger = logging.getLogger("dyrygentd.worker")

#: As `dyrygentd.core.nested` has it, which workers need not load.
CALL_ERRBACKS: Final = "dyrygentd.call_errbacks"


def register(app: Any) -> None:
    """Give an app the task that calls error callbacks; once more does nothing."""
    # Of this app alone; shared, each app of the program would have it.
    app.task(name=CALL_ERRBACKS, bind=True, shared=False)(call_errbacks)


def call_errbacks(self: Any, task_id: str, task: str = "") -> None:
    """Call what is linked to this task's own message, for another task that never ran."""
    errbacks = self.request.errbacks or []
    meta = self.backend.get_task_meta(task_id, cache=False)
    error = meta["result"]
    if meta["status"] not in states.EXCEPTION_STATES or not isinstance(error, BaseException):
        # The daemon tells the backend first; it may be unable to, or be told not to.
        error = ChordError("a dependency failed")
    request = Context({"id": task_id, "task": task, "errbacks": errbacks, "delivery_info": {}})
    for errback in errbacks:
        try:
            self.app.signature(errback)(request, error, None)
        except Exception:
            # As Celery does: one that fails keeps no other from being called.
            logger.exception("error callback %r raised an exception", errback)
