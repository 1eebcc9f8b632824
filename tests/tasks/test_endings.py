"""Tasks whose end, or next try, nobody learns of where workers lack the companion."""

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject

from dyrygentd.errbacks import register
from dyrygentd.lint import lint
from dyrygentd.tasks.fleet import Fleet, Worker


def _ignores(self: Any) -> None:
    raise Ignore


def _rejects_inside(self: Any) -> None:
    def inner() -> None:
        raise Reject("no", requeue=False)

    inner()


def _replaces(self: Any, canvas: Any = None) -> Any:
    raise self.replace(canvas)


def _retries(task: Any, text: str = "") -> Any:
    try:
        return text.replace("a", "b")
    except OSError as error:
        raise task.retry(exc=error, countdown=3) from error


def _retries_inside(self: Any) -> Any:
    def inner(x: int) -> Any:
        return x or self.retry()

    return inner(0)


def _harmless(self: Any, text: str = "", other: Any = None) -> Any:
    return text.replace("a", "b"), other.retry(), self.request.retries


@pytest.fixture
def app() -> Celery:
    """An app of its own."""
    return Celery("test_endings", broker="memory://", backend="cache+memory://", set_as_current=False)


def _codes(app: Celery, function: Any, **known: Any) -> list[str]:
    task = app.task(name="t.one", bind=True, shared=False, typing=False)(function)
    return [finding.code for finding in lint(task.s(), app=app, **known)]


@pytest.mark.parametrize(
    ("function", "codes"),
    [
        (_ignores, ["end-untold"]),
        (_rejects_inside, ["end-untold"]),
        (_replaces, ["replaced-unseen"]),
        (_retries, ["retry-untold"]),
        (_retries_inside, ["retry-untold"]),
        (_harmless, []),
    ],
)
def test_without_the_companion(app: Celery, function: Any, codes: list[str]) -> None:
    """What the daemon cannot learn is told before it has to be guessed at night; the same words of other objects are not."""
    assert _codes(app, function) == codes


def test_import_tells_the_ends(app: Celery) -> None:
    """Workers that import it store that a task was ignored; the rest takes `install`."""
    assert _codes(app, _ignores, imports_companion=True) == []
    other = Celery("o", broker="memory://", backend="cache+memory://", set_as_current=False)
    assert _codes(other, _retries, imports_companion=True) == ["retry-untold"]


@pytest.mark.parametrize("function", [_ignores, _replaces, _retries])
def test_with_the_companion(app: Celery, function: Any) -> None:
    """Where it is installed nothing is left to say: in the app, or at every worker that answered."""
    with_it = frozenset({"t.one", "dyrygentd.call_errbacks"})
    settings = {"result_backend": "cache+memory://"}
    workers = [Worker(f"w{number}", with_it, frozenset({"celery"}), settings) for number in range(2)]
    assert _codes(app, function, fleet=Fleet(tuple(workers))) == []
    old = Worker("old", frozenset({"t.one"}), frozenset({"celery"}), settings)
    other = Celery("o", broker="memory://", backend="cache+memory://", set_as_current=False)
    assert len(_codes(other, function, fleet=Fleet((*workers, old)))) == 1
    third = Celery("t", broker="memory://", backend="cache+memory://", set_as_current=False)
    register(third)
    assert _codes(third, function) == []
