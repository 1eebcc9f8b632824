"""What the simulation has found, written down as small scenes that do not depend on a seed."""

import pytest

from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import Ambiguous, definition, limits, scheduler, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The scheduler is asyncio's."""
    return "asyncio"


async def test_outage_ends_although_nothing_is_published_any_more() -> None:
    """What waited for the broker was cancelled meanwhile: the problem must go with it, or nobody looks for lost tasks again.

    Found as: an answer was cut, the broker was emptied, all places in flight were taken, and the search for lost tasks waited for
    the end of an outage that only another message could have ended.
    """
    broker = FakeBroker(holds=True)
    dispatcher = Ambiguous(broker, times=1_000_000)
    bounds = limits(lost_after_s=0.05, lost_confirm_s=0.05)
    async with scheduler(broker, dispatcher=dispatcher, inspector=broker.inspector, limits=bounds) as running:
        handle = await running.submit(definition("a"))
        await until(lambda: running.health().status == "degraded")
        await running.perform(handle.id, VerbRequest(Verb.CANCEL))
        await until(lambda: running.health().status == "ok")
