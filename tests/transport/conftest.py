"""Fixtures for the transport: an app on a Redis that several tests share, emptied after each."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from dyrygentd.canvas import definition_of
from dyrygentd.core.effects import Publish
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.apps import closing
from tests.support.tasks import create_app, records


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: the adapters are asyncio's."""
    return "asyncio"


@pytest.fixture
def client(shared_redis: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of the shared server, which is emptied afterwards."""
    with records(shared_redis.url) as client:
        yield client
        client.flushall()


@pytest.fixture
def app(shared_redis: EmbeddedServer, client: redis.Redis) -> Iterator[Celery]:
    """An app of this test alone on the shared server, with the test tasks."""
    with closing(create_app(shared_redis.url, shared_redis.url)) as app:
        yield app


@pytest.fixture
def queued(client: redis.Redis) -> Callable[[], dict[str, list[Any]]]:
    """Look into the broker: ``{key: messages in the order in which they were pushed}`` of everything that is a list."""

    def look() -> dict[str, list[Any]]:
        return {
            key: [json.loads(message) for message in reversed(client.lrange(key, 0, -1))]
            for key in client.scan_iter(_type="list")
        }

    return look


def publish_of(signature: Any, *, task_id: str = "", workflow_id: str = "wf", node: int = 0, attempt: int = 1) -> Publish:
    """Make the effect that the engine would emit for a signature that depends on nothing."""
    graph = definition_of(signature).graph
    assert graph.signatures[0] is not None
    return Publish(
        workflow_id=workflow_id,
        node=node,
        attempt=attempt,
        task_id=task_id or graph.task_ids[0],
        signature=graph.signatures[0],
        input=None,
        parent_id="",
        stamp=workflow_id,
    )
