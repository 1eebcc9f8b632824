"""Submissions and verbs that are left while nobody leads: what is told of them, and what becomes of them later."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import pytest

from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.deputy.deputy import Deputy
from dyrygentd.deputy.sending import Sending
from dyrygentd.errors import KeyTaken
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.mailbox import Letter, LetterKind, NotCarriedOutYet, NotTakenYet, RefusedLater
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.postgres.onlooker import PostgresOnlooker
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.testing import FakeBroker, FakeClock
from dyrygentd.wire.letters import encode_submission
from tests.deputy.support import FixedLease
from tests.scheduler.support import definition, scheduler, until
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.long]

_ANN, _BOB = User(1000, "app1", "ann"), User(1000, "app2", "bob")


class _Host(NamedTuple):
    """A host where letters are left, another one, and what answers at the first."""

    url: PostgresUrl
    sending: Sending
    other: Sending
    deputy: Deputy
    onlooker: PostgresOnlooker
    broker: FakeBroker

    def leader(self, **options: Any) -> Scheduler:
        """Return one that leads from when it is entered."""
        return scheduler(self.broker, PostgresStore(self.url), **options)


@asynccontextmanager
async def _host(server: PostgresServer) -> AsyncIterator[_Host]:
    """A host whose leader has gone."""
    url, broker = server.url(), FakeBroker({}, holds=True)
    async with scheduler(broker, PostgresStore(url)):
        pass
    onlooker = PostgresOnlooker(url)
    await onlooker.open()
    options: dict[str, Any] = {"moment_s": 0.05, "verb_max_s": 0.05}
    sending, other = (Sending(onlooker, onlooker.mailbox, FakeClock(1e9), host=name, **options) for name in ("app1", "app2"))
    try:
        async with Deputy(store=onlooker, lease=FixedLease(-9.0)) as deputy:
            yield _Host(url, sending, other, deputy, onlooker, broker)
    finally:
        await onlooker.close()


async def test_submission_while_nobody_leads(shared_postgres: PostgresServer) -> None:
    """It is answered, and shown and waited for as what it will be; whoever leads next runs it under the same ids."""
    async with _host(shared_postgres) as host:
        given = definition("a; b < a", name="early", labels={"dc": "gra"}, prefix="w", output="b")
        submitted = await host.sending.submit(given, _ANN)
        assert (submitted.tasks, submitted.created, submitted.task_id) == (2, True, "w/b")
        assert await host.deputy.resolve(submitted.id) == submitted.id
        assert await host.deputy.owner(submitted.id) == _ANN
        view = await host.deputy.view(submitted.id)
        assert (view.name, view.state, view.labels) == ("early", "running", {"dc": "gra"})
        assert [node.name for node in (await host.deputy.nodes(submitted.id)).nodes] == ["a", "b"]
        ends: list[str] = []

        async def wait() -> None:
            ends.append((await host.deputy.wait(submitted.id)).state)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            async with host.leader() as leader:
                for task in ("a", "b"):
                    await until(lambda task=task: any(each.task_id == f"w/{task}" for each in host.broker.published))  # type: ignore[misc]
                    host.broker.let_go()
                await leader.wait(submitted.id)
                with anyio.fail_after(20):
                    while not ends:  # noqa: ASYNC110 - it is seen by looking
                        await anyio.sleep(0.01)
        assert ends == ["succeeded"]
        assert len(host.broker.published) == 2


async def test_refused_later(shared_postgres: PostgresServer) -> None:
    """What the next leader refuses is told to whoever asks for the id, here and there; a verb about it is refused as well."""
    async with _host(shared_postgres) as host:
        submitted = await host.sending.submit(definition("a pool=nowhere"), _ANN)
        with pytest.raises(NotCarriedOutYet, match="waits for the daemon that leads, as letter 2"):
            await host.sending.perform(submitted.id, VerbRequest(Verb.CANCEL))
        async with host.leader() as leader:
            await _all_answered(host)
            for service in (leader, host.deputy):
                with pytest.raises(RefusedLater, match="needs pool 'nowhere', which has no size") as refused:
                    await service.resolve(submitted.id)
                assert "pools" in refused.value.next_step
            with pytest.raises(RefusedLater):
                await host.deputy.wait(submitted.id)


async def test_cancelled_before_anybody_led(shared_postgres: PostgresServer) -> None:
    """A cancel follows its submission, from whichever host it comes, and nothing of the workflow is sent."""
    async with _host(shared_postgres) as host:
        submitted = await host.sending.submit(definition("a; x countdown=1000"), _ANN)
        with pytest.raises(NotCarriedOutYet):
            await host.other.perform(submitted.id, VerbRequest(Verb.CANCEL, by="root"))
        async with host.leader() as leader:
            await _all_answered(host)
            assert (await leader.view(submitted.id)).state == "cancelled"
            assert [entry.verb for entry in (await leader.journal(submitted.id)).entries] == ["cancel"]


async def test_bulk_is_in_order(shared_postgres: PostgresServer) -> None:
    """A verb in bulk is carried out on what its user has submitted before, and not on what comes after it."""
    async with _host(shared_postgres) as host:
        before = [(await host.sending.submit(definition("x countdown=1000", name="mine"), _ANN)).id for _ in range(5)]
        with pytest.raises(NotCarriedOutYet):
            await host.sending.perform_in_bulk(Selection(name="mine"), VerbRequest(Verb.CANCEL, asker=_ANN))
        after = (await host.sending.submit(definition("x countdown=1000", name="mine"), _ANN)).id
        async with host.leader() as leader:
            await _all_answered(host)
            assert {(await leader.view(workflow_id)).state for workflow_id in before} == {"cancelled"}
            assert (await leader.view(after)).state == "running"


async def test_one_key_at_two_hosts(shared_postgres: PostgresServer) -> None:
    """A key of one owner makes one workflow, whichever host it comes to, while nobody leads and afterwards; another's its own."""
    async with _host(shared_postgres) as host:
        first = await host.sending.submit(definition("a", key="k", prefix="w"), _ANN)
        again = await host.other.submit(definition("a", key="k", prefix="w"), _ANN)
        assert (again.id, again.created) == (first.id, False)
        with pytest.raises(KeyTaken, match=first.id):
            await host.other.submit(definition("b", key="k", prefix="w"), _ANN)
        bobs = await host.other.submit(definition("a", key="k", prefix="v"), _BOB)
        assert (bobs.id != first.id, bobs.created) == (True, True)
        async with host.leader() as leader:
            await _all_answered(host)
            late = await host.other.submit(definition("a", key="k", prefix="w"), _ANN)
            assert late.id == first.id
            assert len((await leader.list(Selection())).workflows) == 2


async def test_key_that_came_to_the_leader_first(shared_postgres: PostgresServer) -> None:
    """Whoever was told an id, and whose key came to the leader by another way before, is led to that workflow by it."""
    async with _host(shared_postgres) as host:
        given = definition("a", key="k", prefix="w")
        async with host.leader() as leader:
            known = await leader.submit_definition(given, owner=_ANN)
        letter = Letter("t", LetterKind.SUBMIT, encode_submission(given), "told", _ANN, "app1", key="k")
        await host.onlooker.mailbox.leave(letter)
        async with host.leader() as leader:
            await _all_answered(host)
            assert await leader.resolve("told") == known.id
            assert await host.deputy.resolve("told") == known.id
            with pytest.raises(NotTakenYet, match=known.id):
                await host.deputy.view("told")


async def _all_answered(host: _Host) -> None:
    """Wait until no letter waits."""
    with anyio.fail_after(20):
        while (await host.onlooker.mailbox.look()).waiting:  # noqa: ASYNC110 - it is seen by looking
            await anyio.sleep(0.01)
