"""Tasks of an app and of none, canvases as JSON has them, and what is found in them."""

from typing import Any

from celery import Celery

from dyrygentd.lint import Finding, lint

app = Celery("test_lint", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(name="t.add")
def add(x: int, y: int) -> int:
    """Take two arguments."""
    return x + y


@app.task(name="t.ping")
def ping() -> str:
    """Take nothing."""
    return "pong"


@app.task(name="t.total")
def total(numbers: list[int], *, factor: int = 1) -> int:
    """Take a list."""
    return sum(numbers) * factor


@app.task(name="t.anything")
def anything(*args: Any, **kwargs: Any) -> None:
    """Take whatever comes."""


@app.task(name="t.bound", bind=True)
def bound(self: Any, x: int) -> int:
    """Take one argument besides the task itself."""
    return x


@app.task(name="t.injected", typing=False)
def injected(session: object, x: int) -> int:
    """Take one argument that a base class adds."""
    return x


@app.task(name="t.quiet", ignore_result=True)
def quiet(x: int) -> int:
    """Leave no result."""
    return x


a, b, c, d, e, f = (app.signature(f"t.{name}") for name in "abcdef")
"""Tasks that no app knows the function of."""


def codes(what: object, **known: Any) -> dict[str, int]:
    """Return ``{code: count}``."""
    found: dict[str, int] = {}
    for finding in lint(what, **known):
        found[finding.code] = found.get(finding.code, 0) + finding.count
    return found


def only(what: object, code: str, **known: Any) -> Finding:
    """Return the one finding with this code."""
    found = [finding for finding in lint(what, **known) if finding.code == code]
    assert len(found) == 1, lint(what, **known)
    return found[0]


def container(kind: str, tasks: Any, **options: Any) -> dict[str, Any]:
    """Write a chain or group as JSON has it, which Celery has not rewritten while it was built."""
    return {"task": f"celery.{kind}", "subtask_type": kind, "args": [], "kwargs": {"tasks": tasks}, "options": options}


def chord_of(header: Any, body: Any) -> dict[str, Any]:
    """Write a chord as JSON has it."""
    return {
        "task": "celery.chord",
        "subtask_type": "chord",
        "args": [],
        "kwargs": {"header": header, "body": body},
        "options": {},
    }


def failing(task: Any) -> Any:
    """Give a task an error callback."""
    return task.clone().on_error(waiting(f))


def waiting(task: Any) -> Any:
    """Make a signature immutable."""
    return task.clone().set(immutable=True)


TWO = container("group", [a, b])
ONE = container("group", [a])
NONE = container("group", [])
