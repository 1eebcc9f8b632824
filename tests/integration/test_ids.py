"""Ids from outside and Celery's own results, on a real daemon with real workers."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.result import AsyncResult, GroupResult

from dyrygentd import AsyncClient, Client
from dyrygentd.errors import RemoteError
from tests.integration.conftest import Site
from tests.support.apps import closing
from tests.support.daemon import Daemon
from tests.support.servers import wait_until
from tests.support.tasks import add, create_app, total, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

_WAIT_S = 30


@pytest.fixture
def daemon(site: Site) -> Iterator[Daemon]:
    """A daemon of this test alone."""
    with site.daemon("ids") as daemon:
        yield daemon


@pytest.fixture
def app(site: Site) -> Iterator[Celery]:
    """The app with the result backend, as the program that submits has it."""
    with closing(create_app(site.server.url, site.server.url)) as app:
        yield app
        # Results that nobody has any more unsubscribe, as long as the server is there.
        gc.collect()


@pytest.mark.long
def test_ids_that_were_chosen_have_the_results(daemon: Daemon, app: Celery, site: Site) -> None:
    """A task's, a chain's, a starmap's and a body's own ids, and all of a canvas that was frozen first."""
    client = Client(daemon.socket_path)
    first = client.submit(chain(add.s(1, 2), add.s(10).set(task_id="order-1")))
    client.submit(chain(add.s(1, 2), add.s(20), task_id="order-2"))
    client.submit(add.starmap([(1, 2), (3, 4)]).set(task_id="order-3"))
    client.submit(chord([add.s(1, 1), add.s(2, 2)], total.s().set(task_id="order-4")))
    frozen = group(chain(add.s(1, 1), add.s(1)), add.s(5, 5))
    result = frozen.freeze()
    whole = client.submit(frozen)
    found = [AsyncResult(f"order-{n}", app=app).get(timeout=_WAIT_S) for n in range(1, 5)]
    assert found == [13, 23, [3, 7], 6]
    assert [AsyncResult(each.id, app=app).get(timeout=_WAIT_S) for each in result.results] == [3, 10]
    # Results are stored before the daemon has heard of them, and until then the ids are those of tasks in flight.
    assert first.wait(_WAIT_S).is_success
    assert whole.wait(_WAIT_S).is_success
    for again in (frozen, add.s(0, 0).set(task_id="order-1")):
        with pytest.raises(RemoteError, match=r"task id '.*' is that of a task which has run: .* has SUCCESS") as caught:
            client.submit(again)
        assert (caught.value.status, caught.value.code) == (409, "task-id-taken")


def test_a_task_in_flight_is_nobody_elses(daemon: Daemon, app: Celery, site: Site) -> None:
    """Its id is seen by all who may read; bringing it takes neither the result nor the message away."""
    client = Client(daemon.socket_path)
    # What plain Celery runs on the same broker is known as soon as something is stored of it.
    native = app.send_task(add.name, (1, 1))
    native.get(timeout=_WAIT_S)
    with pytest.raises(RemoteError, match="the result backend has SUCCESS"):
        client.submit({"nodes": [{"task": add.name, "args": [0, 0], "task_id": native.id}]})
    handle = client.submit(wait_for.s("gate-of-ids"))
    wait_until(lambda: handle.status().counts.get("dispatched") == 1, timeout_s=_WAIT_S)
    (node,) = handle.nodes()
    for adopted in ({}, {"adopted": "dispatched"}):
        stolen: dict[str, Any] = {"nodes": [{"name": "mine", "task": add.name, "task_id": node.task_id, **adopted}]}
        with pytest.raises(RemoteError, match="node 'mine': task id") as caught:
            client.submit(stolen)
        assert caught.value.status == 409
    site.executions.release("gate-of-ids", value="passed")
    assert handle.wait(_WAIT_S).is_success
    assert handle.celery_result(app).get(timeout=_WAIT_S) == handle.wait().result


def test_celery_results_of_a_submission(daemon: Daemon, app: Celery) -> None:
    """Code that was written for `apply_async` goes on with what it returned: values, parents, members, errors."""
    client = Client(daemon.socket_path)
    result = client.submit(chain(add.s(1, 2), add.s(10))).celery_result(app)
    assert (result.get(timeout=_WAIT_S), result.parent.get(timeout=_WAIT_S), result.parent.parent) == (13, 3, None)
    result = client.submit(group(add.s(1, 1), chain(add.s(2, 2), add.s(1)))).celery_result(app)
    assert isinstance(result, GroupResult)
    assert (result.get(timeout=_WAIT_S), result.successful()) == ([2, 5], True)
    result = client.submit(chord([add.s(1, 1), add.s(2, 2)], total.s())).celery_result(app)
    assert (result.get(timeout=_WAIT_S), result.parent.get(timeout=_WAIT_S)) == (6, [2, 4])
    result = client.submit(chain(add.s(1, "x"), add.s(1))).celery_result(app)
    with pytest.raises(TypeError):
        result.get(timeout=_WAIT_S)


@pytest.mark.anyio
async def test_celery_results_of_an_asyncio_program(daemon: Daemon, app: Celery) -> None:
    """The same of the other client."""
    async with AsyncClient(daemon.socket_path) as client:
        handle = await client.submit(chain(add.s(1, 2), add.s(10)))
        await handle.wait(_WAIT_S)
        assert (await handle.celery_result(app)).get(timeout=_WAIT_S) == 13


def test_results_that_are_collected_amid_a_subscription_hang_nothing(app: Celery) -> None:
    """Python collects them whenever it likes, and they unsubscribe: redis-py before 6.4 would wait for itself."""
    consumer: Any = app.backend.result_consumer
    kept = AsyncResult("kept", app=app)
    app.backend.add_pending_result(kept, weak=True)
    dropped = [AsyncResult("dropped", app=app)]
    app.backend.add_pending_result(dropped[0], weak=True)
    with consumer._pubsub._lock:
        dropped.clear()
        gc.collect()
    wait_until(lambda: consumer.drain_events(timeout=0.01) or consumer.subscribed_to == {kept.backend.get_key_for_task("kept")})
