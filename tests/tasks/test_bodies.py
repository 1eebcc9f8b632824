"""What is read off the code of tasks."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, states

from dyrygentd.lint import lint
from dyrygentd.tasks.bodies import stores_own_end, uses_of_surroundings

app = Celery("test_task_bodies", broker="memory://", backend="cache+memory://", set_as_current=False)


def _says(self: Any) -> None:
    self.update_state(state="SUCCESS", meta={})


def _says_by_name(self: Any) -> None:
    self.update_state(state=states.FAILURE)


def _marks(self: Any) -> None:
    self.backend.mark_as_done(self.request.id, 1)


def _says_inside(self: Any) -> None:
    def inner() -> None:
        self.backend.store_result(self.request.id, 1, "REVOKED")

    inner()


def _decorated(work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(work)
    def wrapper(*args: Any) -> Any:
        return work(*args)

    return wrapper


def _progresses(self: Any) -> str:
    self.update_state(state="PROGRESS", meta={})
    return str(self.request.retries)


def _closes(self: Any) -> None:
    self.request.chain = None


def _appends(self: Any) -> Any:
    self.request.chain.append(1)
    return self.request.group, self.request.group_index


def _has_a_chain(self: Any) -> Any:
    return self.chain, self.other.group


@pytest.mark.parametrize(
    ("body", "says", "uses"),
    [
        (_says, True, []),
        (_says_by_name, True, []),
        (_marks, True, []),
        (_says_inside, True, []),
        (_decorated(_says), True, []),
        (_progresses, False, []),
        (_closes, False, ["chain"]),
        (_appends, False, ["chain", "group", "group_index"]),
        (_has_a_chain, False, []),
    ],
)
def test_bodies(body: Callable[..., Any], says: bool, uses: list[str]) -> None:
    """What stands in the body is seen, whatever it is wrapped in."""
    task = Celery("x", broker="memory://", set_as_current=False).task(body, bind=True, shared=False, name="bodies.one")
    assert (stores_own_end(task), uses_of_surroundings(task)) == (says, uses)


def test_what_has_no_code() -> None:
    """A task that is no function, or not there, does nothing that can be seen."""
    assert (stores_own_end(None), uses_of_surroundings(None)) == (False, [])


def test_lint_tells() -> None:
    """Whoever hands such a canvas over is told, with the task and the way out."""
    gate = app.task(_closes, bind=True, shared=False, name="bodies.gate")
    said = app.task(_says, bind=True, shared=False, name="bodies.says")
    found = {finding.code: finding for finding in lint(chain(gate.si(), said.si()), app=app)}
    assert found["own-chain"].message.startswith("'bodies.gate' uses `self.request.chain`")
    assert found["own-end"].message.startswith("'bodies.says' stores a final state about itself")
