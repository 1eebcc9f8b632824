"""Tasks that add work while they run, for workers with our companion; some as in Celery's own tests of canvases."""

from collections.abc import Iterable
from typing import Any

from celery import chain, chord, group

import dyrygentd.worker
from dyrygentd import Workflow
from dyrygentd.worker import spawn
from tests.support.tasks import RecordingTask, add, app, fail, identity, wait_for

dyrygentd.worker.install(app)


# --- as in Celery's t/integration/tasks.py --------------------------------------------------------------------------


@app.task(base=RecordingTask)
def tsum(nums: Iterable[int]) -> int:
    """Sum an iterable of numbers."""
    return sum(nums)


@app.task(base=RecordingTask, bind=True)
def add_replaced(self: Any, x: int, y: int) -> None:
    """Add two numbers (via the add task)."""
    raise self.replace(add.s(x, y))


@app.task(base=RecordingTask, bind=True)
def add_to_all(self: Any, nums: list[int], val: int) -> None:
    """Add the given value to all supplied numbers."""
    raise self.replace(group(*[add.s(num, val) for num in nums]))


@app.task(base=RecordingTask, bind=True)
def replace_with_chain(self: Any, *args: Any) -> Any:
    """Go on as a chain."""
    return self.replace(chain(identity.s(*args), identity.s()))


@app.task(base=RecordingTask, bind=True)
def add_to_all_to_chord(self: Any, nums: list[int], val: int) -> int:
    """Add a member for each number to the chord."""
    for num in nums:
        self.add_to_chord(add.s(num, val))
    return 0


@app.task(base=RecordingTask, bind=True)
def add_chord_to_chord(self: Any, nums: list[int], val: int) -> int:
    """Add a chord to the chord."""
    self.add_to_chord(group([add.s(num, val) for num in nums]) | tsum.s())
    return 0


# --- ours -----------------------------------------------------------------------------------------------------------


@app.task(base=RecordingTask, bind=True)
def spawning(self: Any, what: str, *args: Any) -> str:
    """Add work of this kind."""
    _WORK[what](*args)
    return f"spawned {what}"


def _spawn_workflow() -> None:
    workflow = Workflow("added")
    first = workflow.add(add.si(1, 2), name="first")
    workflow.add(identity.s(), name="second", after=first)
    spawn(workflow)


def _spawn_several() -> None:
    spawn(identity.s(1))
    spawn(group(identity.s(2), identity.s(3)))
    spawn(group([]))


def _spawn_wrong() -> None:
    spawn([identity.s(1)])


_WORK: dict[str, Any] = {
    "one": lambda: spawn(identity.s("added")),
    "gate": lambda gate: spawn(wait_for.s(gate)),
    "failing": lambda: spawn(chain(identity.s(1), fail.si("no"))),
    "workflow": _spawn_workflow,
    "definition": lambda: spawn({"nodes": [{"task": "tests.support.tasks.identity", "args": [1]}]}),
    "several": _spawn_several,
    "wrong": _spawn_wrong,
    "nothing": lambda: spawn(group([])),
    "keyed": lambda: spawn({"key": "k", "nodes": [{"task": "tests.support.tasks.identity", "args": [1]}]}),
    "chord": lambda: spawn(chord([add.s(1, 1), add.s(2, 2)], tsum.s())),
    "many": lambda count: spawn(group(identity.s(number) for number in range(count))),
}


@app.task(base=RecordingTask, bind=True)
def spawns_then(self: Any, then: str) -> str:
    """Add work and end in another way than by returning."""
    spawn(identity.s(then))
    match then:
        case "fail":
            raise ValueError("after all")
        case "retry" if self.request.retries == 0:
            spawn(identity.s("in the first run"))
            raise self.retry(countdown=0)
        case "replace":
            self.replace(identity.s(1))
        case "lazy":
            self.add_to_chord(identity.s(1), lazy=True)
        case "close":
            self.request.chain = None
        case "said":
            self.update_state(state="SUCCESS", meta="not yet")
    return then


@app.task(base=RecordingTask, bind=True)
def replaced_by_spawning(self: Any) -> Any:
    """Go on as a task that adds work."""
    return self.replace(spawning.s("one"))


@app.task(base=RecordingTask, ignore_result=True)
def quietly_spawning() -> None:
    """Add work, with a class that wants nothing stored."""
    spawn(identity.s("added"))


@app.task(base=RecordingTask)
def child_spawning() -> None:
    """Send a task that is no node, and would add work."""
    spawning.delay("one")


@app.task(base=RecordingTask)
def counting_down(number: int) -> int:
    """Add itself with one less, until nothing is left."""
    if number:
        spawn(counting_down.s(number - 1))
    return number


@app.task(base=RecordingTask)
def returning(what: Any) -> Any:
    """Return a definition, or what is none."""
    match what:
        case "canvas":
            return chord([add.s(1, 1), add.s(2, 2)], tsum.s())
        case "definition":
            return {"nodes": [{"name": "a", "task": "tests.support.tasks.add", "args": [20, 22]}]}
        case "both":
            spawn(identity.s(1))
            return identity.s(2)
    return what
