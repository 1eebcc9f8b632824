"""A name that two hosts have is refused to the second one, and one that was given up is had by the next."""

from collections.abc import AsyncIterator

import anyio
import pytest

from dyrygentd.daemon.namesakes import HostName, this_machine
from dyrygentd.errors import ConfigurationError
from dyrygentd.ports import Lease
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]


@pytest.fixture
def url(shared_postgres: PostgresServer) -> PostgresUrl:
    """A schema that is not there yet."""
    return shared_postgres.url()


@pytest.fixture
async def lease(url: PostgresUrl) -> AsyncIterator[Lease]:
    """What processes note their names by."""
    store = PostgresStore(url)
    yield store.lease
    await store.close()


def _name(machine: str) -> HostName:
    return HostName("app1", machine=machine, note_every_s=0.05, look_s=0.05)


async def test_second_host_of_a_name_is_refused(lease: Lease, caplog: pytest.LogCaptureFixture) -> None:
    """It is told whose name it has and what to do; the first one goes on, and tells of it once."""
    first, second = _name("one"), _name("other")
    await first.claim(lease)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.keep, lease)
        with (
            anyio.fail_after(30),
            pytest.raises(ConfigurationError, match=r"is called 'app1', and so is that of process \d+") as told,
        ):
            await second.claim(lease)
        tasks.cancel_scope.cancel()
    assert "host_name" in told.value.next_step
    assert [record.levelname for record in caplog.records if "is told to end" in record.message] == ["WARNING"]


async def test_one_that_goes_on_is_noticed_later(lease: Lease) -> None:
    """Who could not ask when it was started ends as soon as it sees another one with its name go on."""
    first, second = _name("one"), _name("other")
    await first.claim(lease)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.keep, lease)
        with anyio.fail_after(30), pytest.raises(ConfigurationError, match="users of both would be the same"):
            await second.keep(lease)
        tasks.cancel_scope.cancel()


async def test_machine_that_was_started_anew(lease: Lease, url: PostgresUrl, shared_postgres: PostgresServer) -> None:
    """It is another one for the database, and waits until the first one has not been seen for long."""
    before, after, claimed = _name("boot 1"), _name("boot 2"), anyio.Event()
    await before.claim(lease)

    async def claim() -> None:
        await after.claim(lease)
        claimed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(claim)
        with anyio.fail_after(30):
            while not shared_postgres.execute(f"SELECT 1 FROM {url.schema}.hosts WHERE machine = 'boot 2'"):  # noqa: ASYNC110
                await anyio.sleep(0.05)
            assert not claimed.is_set()
            shared_postgres.execute(f"UPDATE {url.schema}.hosts SET seen_at = seen_at - 20 WHERE machine = 'boot 1'")
            await claimed.wait()


async def test_processes_of_one_machine_share_its_name(lease: Lease) -> None:
    """A leader, a standby and a gateway on one host are its own."""
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            await HostName("app1").claim(lease)
            tasks.start_soon(HostName("app1").keep, lease)
        await HostName("app1").claim(lease)
        await HostName("app2", machine="other").claim(lease)
        tasks.cancel_scope.cancel()
    assert this_machine() == this_machine()
