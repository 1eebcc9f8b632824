"""Tasks that end in every way that Celery knows, run by workers with our plugin."""

import os
import signal
import time
from typing import Any

from celery import chain, group
from celery.exceptions import Ignore, Reject

import dyrygentd.worker  # noqa: F401 - the plugin; this is how its users load it.
from tests.support.tasks import RecordingTask, app, echo, records_of, wait_for

_COUNT = "states:count:"


def _count(task: Any) -> int:
    """Return which run of this task id it is."""
    return int(records_of(os.getpid()).incr(f"{_COUNT}{task.request.id}"))


@app.task(base=RecordingTask, bind=True)
def replaced(self: Any, value: Any = None, *, by: str = "task") -> Any:
    """Go on as another task, or as several."""
    successors = {
        "task": echo.s(value),
        "chain": chain(echo.s(value), echo.s("last")),
        "group": group(echo.s(value), echo.s("other")),
        "chord": group(echo.s(value), echo.s("other")) | echo.s("body"),
        "waiting": wait_for.si(str(value)),
    }
    return self.replace(successors[by])


@app.task(base=RecordingTask, bind=True, max_retries=5)
def retried(self: Any, gate: str) -> str:
    """Ask for a second run, which waits at a gate; a third returns."""
    if _count(self) == 1:
        raise self.retry(countdown=0, exc=ValueError("not yet"))
    return str(wait_for.run(gate))


@app.task(base=RecordingTask, bind=True, max_retries=1)
def never_content(self: Any) -> None:
    """Use up the retries."""
    raise self.retry(countdown=0, exc=ValueError("still not"))


@app.task(base=RecordingTask)
def ignored(value: Any = None, reason: str = "nothing to do") -> None:
    """End without a result."""
    raise Ignore(reason)


@app.task(base=RecordingTask, acks_late=True)
def rejected(value: Any = None) -> None:
    """Give the message back for good."""
    raise Reject("bad input", requeue=False)


@app.task(base=RecordingTask, bind=True, acks_late=True)
def requeued(self: Any) -> str:
    """Give the message back to the queue once."""
    if _count(self) == 1:
        raise Reject("not now", requeue=True)
    return "second run"


@app.task(base=RecordingTask)
def killed() -> None:
    """Take the worker's child process along."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=RecordingTask, bind=True)
def progressing(self: Any, gate: str) -> str:
    """Report a state of its own, then wait."""
    self.update_state(state="PROGRESS", meta={"done": 50})
    return str(wait_for.run(gate))


@app.task(base=RecordingTask)
def endless() -> None:
    """Run for longer than any limit."""
    time.sleep(60)


@app.task(base=RecordingTask, bind=True)
def adding_to_chord(self: Any) -> None:
    """Add to the chord that the task is in."""
    self.add_to_chord(echo.s())


@app.task(base=RecordingTask, ignore_result=True)
def quiet(value: Any = None) -> str:
    """Return something that the task's class does not want stored."""
    return "quiet"


@app.task(base=RecordingTask, ignore_result=True)
def quietly_failing() -> None:
    """Fail, with a class that wants nothing stored."""
    raise ValueError("quiet")
