"""celery-dyrygent, whose workflow is a task that queues itself again: ``python -m tests.benchmarks.ticking_peer chain|group N``.

The module is also the app of the worker that executes it. Its tick is set to the shortest that it takes. Prints
``{"began", "ended"}``, moments on the monotonic clock, as soon as the last task has run.
"""

import json
import os
import sys
import time

from celery import Celery, chain, group
from celery_dyrygent.tasks import register_workflow_processor
from celery_dyrygent.workflows import Workflow

from tests.support.tasks import RecordingTask, records

_BROKER, _BACKEND = (os.environ.get(f"DYRYGENTD_TEST_{what}") for what in ("BROKER", "BACKEND"))
app = Celery("tests.benchmarks.ticking_peer", broker=_BROKER, backend=_BACKEND)
app.conf.broker_connection_retry_on_startup = True
workflow_processor = register_workflow_processor(app)


@app.task(base=RecordingTask)
def noop() -> bool:
    """Do nothing."""
    return True


def main() -> None:
    """Run a canvas and wait until all of its tasks have run."""
    what, n = sys.argv[1], int(sys.argv[2])
    app.finalize()
    canvas = (chain if what == "chain" else group)([noop.si() for _ in range(n)])
    workflow = Workflow()
    workflow.set_retry_policy("random", 1, 1)
    workflow.add_celery_canvas(canvas)
    began = time.monotonic()
    workflow.apply_async()
    with records() as client:
        while client.hlen("test:executions") < n:
            time.sleep(0.05)
    print(json.dumps({"began": began, "ended": time.monotonic()}))


if __name__ == "__main__":
    main()
