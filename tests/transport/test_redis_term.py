"""The scripts that change something in Redis, and the term that each looks at first."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from dyrygentd.core.effects import Publish
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import Fenced
from dyrygentd.ports.facts import WORKFLOW_STAMP, Holder, TaskPlace, Term
from dyrygentd.transport.dispatcher import CeleryDispatcher
from dyrygentd.transport.redis_term import Fence
from tests.support import tasks
from tests.support.apps import closing
from tests.support.tasks import create_app, records
from tests.transport.conftest import publish_of

pytestmark = pytest.mark.anyio

_ONE, _TWO = Term(1, Holder("one", 11, 1700000000.0)), Term(2, Holder("host two", 22, 1700000000.125))
_NAME = "d"


@pytest.fixture(params=["", "tenant-"])
def app(request: pytest.FixtureRequest, redis_server: EmbeddedServer) -> Iterator[Celery]:
    """An app on a Redis of this test alone, with and without a prefix of all keys."""
    with closing(create_app(redis_server.url, redis_server.url)) as app:
        app.conf.broker_transport_options = {"global_keyprefix": request.param}
        yield app


@pytest.fixture
async def pair(app: Celery) -> AsyncIterator[tuple[CeleryDispatcher, CeleryDispatcher]]:
    """The dispatchers of two processes with copies of one database, both of which have begun; the second has the later term."""
    first, second = CeleryDispatcher(app), CeleryDispatcher(app)
    await first.raise_term(_NAME, _ONE)
    await first.mark(_NAME, "token")
    first.guard(_NAME, "token")
    second.guard(_NAME, "token")
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
def broker(redis_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of the same server."""
    with records(redis_server.url) as client:
        yield client


def _message(app: Celery, number: int) -> Publish:
    signature = app.tasks[tasks.echo.name].signature((number,))
    return publish_of(signature, task_id=f"t{number}", workflow_id="wf", node=number)


def _all(broker: redis.Redis) -> dict[str, Any]:
    """Return all that the server has, and what of it goes soon."""
    return {str(key): (broker.dump(key), 0 <= broker.ttl(key) <= 3600) for key in broker.scan_iter()}


_CHANGES: dict[str, Callable[[CeleryDispatcher, Celery], Awaitable[Any]]] = {
    "publish from the thread": lambda way, app: way.publish([_message(app, 7)]),
    "mark": lambda way, _: way.mark(_NAME, "another"),
    "note": lambda way, _: way.note(_NAME, 9, "holder"),
    "forget": lambda way, _: way.forget(["wf", "wf2"]),
    "withdraw": lambda way, app: way.withdraw([TaskPlace("t1", 1, _message(app, 1).signature)]),
    "revoke": lambda way, _: way.revoke(["t1"]),
    "revoke by stamp": lambda way, _: way.revoke_stamped(WORKFLOW_STAMP, ["wf"], terminate=True),
    "raise its term": lambda way, _: way.raise_term(_NAME, _ONE),
}


@pytest.mark.parametrize("change", _CHANGES)
async def test_older_changes_nothing(
    change: str, app: Celery, pair: tuple[CeleryDispatcher, CeleryDispatcher], broker: redis.Redis
) -> None:
    """Once a later term is known the server refuses everything of the older process, and says who has taken over."""
    first, second = pair
    await first.publish([_message(app, 1), _message(app, 2)])
    await second.raise_term(_NAME, _TWO)
    before = _all(broker)
    heard = broker.pubsub()
    heard.psubscribe("*")
    heard.get_message(timeout=5)
    with pytest.raises(Fenced) as caught:
        await _CHANGES[change](first, app)
    assert (caught.value.term, caught.value.later) == (1, 2)
    assert "process 22 on 'host two' since 2023-11-14 22:13:20 UTC" in caught.value.message
    assert _all(broker) == before
    assert heard.get_message(timeout=0.2) is None
    heard.close()


async def test_older_pushes_nothing_from_the_loop(
    app: Celery, pair: tuple[CeleryDispatcher, CeleryDispatcher], broker: redis.Redis
) -> None:
    """The event loop's own connection, which pushes what has a template, is refused as well."""
    first, second = pair
    await first.publish([_message(app, 1)])
    await first.publish([_message(app, 2)])
    await second.raise_term(_NAME, _TWO)
    with pytest.raises(Fenced):
        await first.publish([_message(app, 3)])
    assert broker.llen(f"{app.conf.broker_transport_options['global_keyprefix']}celery") == 2


@pytest.mark.parametrize("change", _CHANGES)
async def test_later_changes_what_it_wants(
    change: str, app: Celery, pair: tuple[CeleryDispatcher, CeleryDispatcher], broker: redis.Redis
) -> None:
    """The process with the highest term is kept from nothing; each of these changes something, or tells the workers."""
    _, second = pair
    await second.raise_term(_NAME, _TWO)
    if change == "raise its term":
        return
    await second.publish([_message(app, 1), _message(app, 2)])
    before = _all(broker)
    heard = broker.pubsub()
    heard.psubscribe("*")
    heard.get_message(timeout=5)
    await _CHANGES[change](second, app)
    assert _all(broker) != before or heard.get_message(timeout=5) is not None
    heard.close()


async def test_equal_numbers_are_told_apart(pair: tuple[CeleryDispatcher, CeleryDispatcher]) -> None:
    """Of two processes with the same number the first counts; asking again is no harm."""
    first, second = pair
    await first.raise_term(_NAME, _ONE)
    with pytest.raises(Fenced):
        await second.raise_term(_NAME, Term(1, _TWO.holder))
    memory = await first.memory(_NAME)
    assert memory is not None
    assert memory.term == _ONE


async def test_numbers_are_compared_as_such(pair: tuple[CeleryDispatcher, CeleryDispatcher]) -> None:
    """Term 10 is later than term 9, and another database has terms of its own."""
    first, second = pair
    for number in (9, 10, 99, 100, 12345678):
        await second.raise_term(_NAME, Term(number, _TWO.holder))
        memory = await first.memory(_NAME)
        assert memory is not None
        assert memory.term == Term(number, _TWO.holder)
    await first.raise_term("another database", _ONE)


async def test_lost_term_is_no_fence(app: Celery, pair: tuple[CeleryDispatcher, CeleryDispatcher], broker: redis.Redis) -> None:
    """A server that went back to an older term, or has none, takes what the process of the later one sends."""
    _, second = pair
    await second.raise_term(_NAME, _TWO)
    [ledger] = [key for key in broker.scan_iter() if "ledger" in str(key)]
    broker.hset(ledger, "term", _ONE.text)
    assert len(await second.publish([_message(app, 1)])) == 1
    broker.hdel(ledger, "term")
    assert len(await second.publish([_message(app, 2)])) == 1


def test_term_is_one_line() -> None:
    """What is kept outside is read back, whatever the host's name is."""
    assert Term.of("") is None
    for term in (_ONE, _TWO, Term(10**9, Holder("", 1, 0.0))):
        assert Term.of(term.text) == term
    Fence().refuse("")
