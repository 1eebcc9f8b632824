"""A daemon in the process of a test: what it does is what the daemon does."""

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord, group, signature
from celery.exceptions import Ignore

from dyrygentd import AsyncClient, Client, errors, testing
from tests.support.apps import closing

VALUES = [Decimal("1.50"), date(2026, 5, 1), datetime(2026, 5, 1, 12, tzinfo=UTC), UUID(int=7)]


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose broker nobody can reach."""
    made = Celery("rehearsed", broker="redis://127.0.0.1:1", set_as_current=False)

    @made.task(shared=False, name="same")
    def same(value: Any) -> Any:
        return value

    @made.task(shared=False, name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    @made.task(shared=False, name="third_time", bind=True, max_retries=3)
    def third_time(self: Any) -> Any:
        if self.request.retries < 2:
            raise self.retry(countdown=3600)
        return self.request.id

    @made.task(shared=False, name="own_type")
    def own_type() -> object:
        return object()

    @made.task(shared=False, name="ignored")
    def ignored() -> None:
        raise Ignore("not today")

    @made.task(shared=False, name="leaves")
    def leaves() -> None:
        raise SystemExit(3)

    @made.task(shared=False, name="submits")
    def submits() -> Any:
        with Client() as client:
            return client.submit(signature("same", args=(5,), app=made)).wait(10).result

    with closing(made):
        yield made


def test_canvas_runs_in_one_line(app: Celery) -> None:
    """A canvas gives what it gives at the daemon."""
    same, total = app.tasks["same"], app.tasks["total"]
    assert testing.run(chord([same.s(number) for number in range(5)], total.s())).result == 10
    assert testing.run(group(same.s(1), chain(same.s(2), same.s()))).result == [1, 2]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_pass_as_at_the_daemon(app: Celery, value: Any) -> None:
    """Kombu's types are the same type on the way in, from task to task, and on the way out."""
    same = app.tasks["same"]
    assert testing.run(chain(same.s(value), same.s())).result == value


def test_value_without_a_form_fails_what_needs_it(app: Celery) -> None:
    """A value that JSON cannot carry is a failure with words, and no test waits for its timeout."""
    outcome = testing.run(chain(app.tasks["own_type"].s(), app.tasks["same"].s()), timeout_s=30)
    assert outcome.state == "failed"
    assert "cannot be passed on" in outcome.error


def test_tasks_have_their_request(app: Celery) -> None:
    """A bound task knows its id, and retries itself without waiting for its countdown."""
    with testing.daemon(app) as client:
        handle = client.submit(app.tasks["third_time"].s())
        outcome = handle.wait(30)
        assert outcome.result == next(handle.nodes()).task_id


def test_task_may_submit_a_workflow(app: Celery) -> None:
    """A task that submits and waits finds the daemon, as beat's tasks do."""
    assert testing.run(app.tasks["submits"].s(), timeout_s=30).result == 5


def test_other_ends_are_ends(app: Celery) -> None:
    """Ignore, SystemExit and a task that is not there end a workflow instead of hanging it."""
    assert testing.run(app.tasks["ignored"].s(), timeout_s=30).state == "succeeded"
    assert testing.run(app.tasks["leaves"].s(), timeout_s=30).state == "failed"
    outcome = testing.run(signature("elsewhere", app=app), timeout_s=30)
    assert "no task 'elsewhere'" in outcome.error


@pytest.mark.anyio
async def test_asyncio_client_finds_it(app: Celery) -> None:
    """`AsyncClient()` needs no argument either."""
    with testing.daemon(app):
        async with AsyncClient() as client:
            handle = await client.submit(app.tasks["same"].s(4), key="once")
            assert (await handle.wait(30)).result == 4


def test_nothing_stays(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's variable is what it was before, and the socket is gone."""
    monkeypatch.setenv("DYRYGENTD_SOCKET", "/before")
    with testing.daemon(app):
        path = os.environ["DYRYGENTD_SOCKET"]
        assert os.path.exists(path)
    assert os.environ["DYRYGENTD_SOCKET"] == "/before"
    assert not os.path.exists(os.path.dirname(path))
    with pytest.raises(errors.DaemonUnreachable):
        Client(path).health()
