"""The workers' app: the tasks of ``tests.support.tasks``, with the settings that a fault run chooses."""

import json
import os
import time
from typing import Any

from celery.signals import task_postrun

from tests.support.tasks import PREFIX, app, records_of

__all__ = ["app"]

#: Further settings of the app, as JSON.
SETTINGS = "DYRYGENTD_TEST_CELERY_SETTINGS"
#: If it is set, the time at which each task ended is recorded.
TIMED = "DYRYGENTD_TEST_TIMED"

app.conf.update(json.loads(os.environ.get(SETTINGS, "{}")))

if os.environ.get(TIMED):

    @task_postrun.connect
    def _note_end(task_id: str = "", **_: Any) -> None:
        """Note when a task ended: its result is stored by then."""
        records_of(os.getpid()).hset(f"{PREFIX}ended_at", task_id, repr(time.time()))
