"""What is told of a database that is older than what was done with it."""

import json
import time

import pytest

from dyrygentd.ports.facts import SETBACK_NOTE
from dyrygentd.scheduler import SystemClock
from dyrygentd.scheduler.hindsight import Hindsight
from dyrygentd.testing import FakeBroker, MemoryStore

pytestmark = pytest.mark.anyio

_LOG_IS_GONE, _BROKER_KNOWS_MORE = "the log is gone", "the database is older, as the broker knows"


class _StoreThatWentBack(MemoryStore):
    """One whose opening has told of a setback."""

    @property
    def setback(self) -> str:
        return _LOG_IS_GONE


def _hindsight(store: MemoryStore) -> Hindsight:
    return Hindsight(
        store,
        SystemClock(),
        FakeBroker().watcher,
        workflows={},
        post=lambda *events: None,
        send=lambda messages: None,
        revoke=lambda revokes: None,
    )


async def test_setback_that_the_broker_knows_of_too_is_one() -> None:
    """The reason that the database gives is kept beside the broker's, whichever is asked for first, and one is counted."""
    store = _StoreThatWentBack()
    await store.open()
    await store.remember(SETBACK_NOTE, json.dumps({"at": time.time(), "why": _LOG_IS_GONE}))
    hindsight = _hindsight(store)
    await hindsight.prepare()
    await hindsight.begin(_BROKER_KNOWS_MORE)
    assert hindsight.setback_count == 1
    assert hindsight.notice.startswith(f"{_LOG_IS_GONE}; {_BROKER_KNOWS_MORE}, found at ")
    # What comes later is another one, and the words do not grow.
    await hindsight.begin("another token")
    assert hindsight.setback_count == 2
    assert hindsight.notice.startswith("another token, found at ")


async def test_setback_that_only_the_broker_knows_of() -> None:
    """Its reason stands alone."""
    store = MemoryStore()
    await store.open()
    hindsight = _hindsight(store)
    await hindsight.prepare()
    await hindsight.begin(_BROKER_KNOWS_MORE)
    assert hindsight.setback_count == 1
    assert hindsight.notice.startswith(f"{_BROKER_KNOWS_MORE}, found at ")
