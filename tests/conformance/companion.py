"""The tasks of `tests.conformance.states`, and some that tell nobody how they ended, run by workers with our companion."""

from typing import Any

import dyrygentd.worker
from tests.conformance.states import ignored, quiet
from tests.support.tasks import RecordingTask, app, wait_for

dyrygentd.worker.install(app)
# A module may be loaded by several ways.
dyrygentd.worker.install(app)


@app.task(base=RecordingTask, ignore_result=True)
def quiet_at(gate: str) -> Any:
    """Wait at a gate, and return what it passes; the class does not want that stored."""
    return wait_for.run(gate)


@app.task(base=RecordingTask, bind=True, ignore_result=True)
def quietly_retried(self: Any) -> str:
    """Return in the second run; Celery 5.6 forgets meanwhile that its result is wanted."""
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return "second run"


@app.task(base=RecordingTask, ignore_result=True)
def unwritable() -> Any:
    """Return something that is stored nowhere and has no JSON form."""
    return object()


@app.task(base=RecordingTask, ignore_result=True)
def quietly_big() -> str:
    """Return more than a report carries."""
    return "x" * 100_000


@app.task(base=RecordingTask, bind=True)
def handed_on(self: Any, to: str, *args: Any) -> Any:
    """Go on as a task that stores nothing."""
    successors = {"quiet": quiet, "ignored": ignored, "quiet_at": quiet_at, "unwritable": unwritable, "quietly_big": quietly_big}
    return self.replace(successors[to].si(*args))


@app.task(base=RecordingTask, bind=True)
def retried_late(self: Any) -> None:
    """Ask for another run in an hour."""
    raise self.retry(countdown=3600, exc=ValueError("not yet"))


@app.task(base=RecordingTask, bind=True)
def parent(self: Any) -> list[str]:
    """Send two tasks of its own, and return their ids."""
    return [ignored.delay().id, quiet.delay().id]
