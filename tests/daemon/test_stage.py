"""Sockets stay open from one application to the next, and somebody answers all the time."""

from pathlib import Path

import pytest

from dyrygentd.client.aio import AsyncClient
from dyrygentd.daemon.config import Configuration
from dyrygentd.daemon.reload import Reload
from dyrygentd.daemon.stage import Stage
from dyrygentd.http.guard import Guard
from dyrygentd.http.sockets import listen_unix
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import scheduler

pytestmark = pytest.mark.anyio


async def test_one_after_the_other(short_tmp: Path) -> None:
    """While the next application comes the last one is served; between two, clients wait in the socket."""
    listener = listen_unix(short_tmp / "d.sock")
    configuration = Configuration()
    stage = Stage(
        Reload(configuration, lambda: configuration),
        Guard(),
        listeners=[listener],
        tcp=[],
        render=lambda accept: (b"", "text/plain"),
        own_names=(),
    )
    async with scheduler(FakeBroker()) as first, scheduler(FakeBroker()) as second, AsyncClient(short_tmp / "d.sock") as client:
        async with stage.serving(first):
            assert (await client.health()).status == "ok"
        assert stage.statistics()["answers"]
        async with stage.serving(second):
            assert (await client.health()).status == "ok"
            await stage.listen(listener.socket)
            assert len(stage.arounds) == 1
    listener.close()
