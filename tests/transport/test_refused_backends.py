"""Which watcher an app gets, and which backends are refused with a next step."""

import pytest
from celery import Celery

from dyrygentd.errors import BackendUnsupported
from dyrygentd.transport import watcher_of
from dyrygentd.transport.polling import PollingResultWatcher
from dyrygentd.transport.redis_results import RedisResultWatcher


def _app(backend: str | None) -> Celery:
    return Celery("refused", broker="memory://", backend=backend, set_as_current=False)


@pytest.mark.parametrize(
    ("backend", "next_step"), [(None, "result_backend"), ("disabled://", "result_backend"), ("rpc://", "redis")]
)
def test_refused(backend: str | None, next_step: str) -> None:
    """A backend from which another process reads no results is refused at the start, not when the first result is missing."""
    with pytest.raises(BackendUnsupported) as caught:
        watcher_of(_app(backend), value_bytes_max=1)
    assert next_step in caught.value.next_step


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("redis://localhost:1/0", RedisResultWatcher),
        ("redis+socket:///nowhere/redis.sock", RedisResultWatcher),
        ("rediss://localhost:1/0?ssl_cert_reqs=none", RedisResultWatcher),
        ("sentinel://localhost:1;sentinel://localhost:2", PollingResultWatcher),
        ("cache+memory://", PollingResultWatcher),
        ("file:///tmp", PollingResultWatcher),
        ("db+sqlite://", PollingResultWatcher),
    ],
)
def test_accepted(backend: str, kind: type) -> None:
    """Results are pushed where the backend can, and asked for elsewhere; choosing needs no connection."""
    assert isinstance(watcher_of(_app(backend), value_bytes_max=1), kind)
