"""One fixture per port, parametrised over `tests.contracts.adapters`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dyrygentd.ports import Store
from tests.contracts.adapters import (
    DISPATCHERS,
    INSPECTORS,
    LEASES,
    MAILBOXES,
    STORES,
    WATCHERS,
    DispatcherSetup,
    InspectorSetup,
    LeaseSetup,
    MailboxSetup,
    StoreSetup,
    WatcherSetup,
)
from tests.contracts.real import (
    filesystem_dispatcher,
    polling_watcher,
    postgres_lease,
    postgres_mailbox,
    postgres_store,
    rabbitmq_dispatcher,
    rabbitmq_inspector,
    redis_dispatcher,
    redis_inspector,
    redis_watcher,
)


def _name(setup: Callable[..., object]) -> str:
    return setup.__name__.removeprefix("_")


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: the adapters are asyncio's."""
    return "asyncio"


@pytest.fixture(params=[*STORES, pytest.param(postgres_store, marks=pytest.mark.long)], ids=_name)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSetup:
    """A place for a database."""
    setup: StoreSetup = request.param(tmp_path, request)
    return setup


@pytest.fixture
async def store(stores: StoreSetup) -> AsyncIterator[Store]:
    """An open store."""
    store = stores.make()
    await store.open()
    yield store
    await store.close()


@pytest.fixture(params=[*LEASES, postgres_lease], ids=_name)
async def leasing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LeaseSetup]:
    """A database that several processes may have."""
    setup: AbstractAsyncContextManager[LeaseSetup] = request.param(tmp_path, request)
    async with setup as leasing:
        yield leasing


@pytest.fixture(params=[*MAILBOXES, postgres_mailbox], ids=_name)
async def mailing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MailboxSetup]:
    """A database in which letters are left."""
    setup: AbstractAsyncContextManager[MailboxSetup] = request.param(tmp_path, request)
    async with setup as mailing:
        yield mailing


@pytest.fixture(params=[*DISPATCHERS, redis_dispatcher, rabbitmq_dispatcher, filesystem_dispatcher], ids=_name)
async def sending(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DispatcherSetup]:
    """A dispatcher with its broker."""
    setup: AbstractAsyncContextManager[DispatcherSetup] = request.param(tmp_path, request)
    async with setup as sending:
        yield sending
        await sending.dispatcher.close()


@pytest.fixture(params=[*INSPECTORS, redis_inspector, rabbitmq_inspector], ids=_name)
async def inspecting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[InspectorSetup]:
    """An inspector with its broker and result backend."""
    setup: AbstractAsyncContextManager[InspectorSetup] = request.param(tmp_path, request)
    async with setup as inspecting:
        yield inspecting
        await inspecting.inspector.close()


@pytest.fixture(params=[*WATCHERS, redis_watcher, polling_watcher], ids=_name)
async def receiving(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WatcherSetup]:
    """A watcher with its backend."""
    setup: AbstractAsyncContextManager[WatcherSetup] = request.param(tmp_path, request)
    async with setup as receiving:
        yield receiving
