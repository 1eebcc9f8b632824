"""The inbox: what may wait, what may be dropped, what is hidden, and when all of it is worked in."""

import math
from typing import Any

import anyio
import pytest

from dyrygentd.core.events import (
    DrainRequested,
    Event,
    MessagePublished,
    MessageRefused,
    TaskEvent,
    TaskFailed,
    TaskReported,
    TaskSucceeded,
)
from dyrygentd.scheduler.inbox import Inbox
from dyrygentd.scheduler.redaction import Redaction
from tests.scheduler.support import settle

pytestmark = pytest.mark.anyio

_PROGRESS = TaskReported("t", "PROGRESS")
_RESULT = TaskSucceeded("t", b"1")


def _inbox(**options: Any) -> Inbox:
    return Inbox(Redaction(), **options)


def test_results_are_never_dropped() -> None:
    """Beyond the bound reports that decide nothing are, and nothing else, whichever door it comes by."""
    inbox = _inbox(events_max=2)
    inbox.post_results([_PROGRESS] * 3)
    assert len(inbox) == 3
    inbox.post_results([_PROGRESS, _RESULT])
    inbox.post_outcomes([MessagePublished("t")])
    inbox.post(DrainRequested())
    assert [*inbox.take()] == [_PROGRESS, _PROGRESS, _PROGRESS, _RESULT, MessagePublished("t"), DrainRequested()]


@pytest.mark.parametrize(
    "event", [TaskFailed("t", "no route to amqp://me:hunter2@host"), MessageRefused("t", "bad URL amqp://me:hunter2@host")]
)
def test_texts_lose_their_secrets_at_the_door(event: TaskEvent) -> None:
    """What comes from a task or from the broker is clean before anybody can read it, store it or log it."""
    inbox = _inbox()
    if isinstance(event, TaskFailed):
        inbox.post_results([event])
    else:
        inbox.post_outcomes([event])
    (taken,) = inbox.take()
    assert "hunter2" not in repr(taken)
    assert "****" in repr(taken)


def test_a_turn_takes_so_many_and_what_comes_later_waits() -> None:
    """A turn stays short whatever comes in while it goes on."""
    inbox = _inbox(turn_events_max=2)
    inbox.post_results([_RESULT] * 3)
    taken: list[Event] = []
    for event in inbox.take():
        taken.append(event)
        inbox.post(DrainRequested())
    assert (taken, len(inbox)) == ([_RESULT] * 2, 3)


async def test_it_is_saved_once_all_has_landed() -> None:
    """Whoever waits goes on when what was there is on disk: not when it is taken, and not while more has come."""
    inbox = _inbox()
    assert _is_saved(inbox)
    inbox.post(DrainRequested())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(inbox.wait_saved)
        assert [*inbox.take()] == [DrainRequested()]
        await settle()
        assert not _is_saved(inbox)
        inbox.post(DrainRequested())
        inbox.landed()
        assert not _is_saved(inbox)
        assert [*inbox.take()] == [DrainRequested()]
        inbox.landed()
        assert _is_saved(inbox)


def _is_saved(inbox: Inbox) -> bool:
    return inbox.is_saved


def test_first_post_is_told_once() -> None:
    """How long something took is counted from the first event of a turn, and each is counted for one turn."""
    inbox = _inbox()
    assert inbox.take_first_post() is None
    inbox.post(DrainRequested())
    first = inbox.take_first_post()
    assert first is not None
    assert inbox.take_first_post() is None
    assert inbox.waiting_s >= 0
    assert [*inbox.take()]
    assert inbox.waiting_s == 0


async def test_request_is_not_kept_waiting() -> None:
    """Somebody waits for the answer, so nobody waits for company, whatever is in the queues."""
    inbox = Inbox(Redaction(), backlog=lambda: 1_000_000)
    inbox.post_results([_RESULT])
    inbox.post(DrainRequested())
    with anyio.fail_after(5):
        await inbox.wait(lambda: math.inf)
    assert len(inbox) == 2


async def test_gathered_results_wait_no_second_time() -> None:
    """Whoever watches has gathered them for as long as the inbox would have; what comes after them waits again."""
    inbox = Inbox(Redaction(), backlog=lambda: 100, company_s=3600.0)
    assert (inbox.gather_s(9), inbox.gather_s(10)) == (3600.0, 0.0)
    for gathered in (True, False):
        (inbox.post_gathered if gathered else inbox.post_results)([_RESULT])
        with anyio.move_on_after(5 if gathered else 0.05) as patience:
            await inbox.wait(lambda: math.inf)
        assert patience.cancelled_caught is not gathered
        assert [*inbox.take()] == [_RESULT]


async def test_news_tell_whether_somebody_waits_for_an_answer() -> None:
    """While the disk does not work requests are judged at once, results have time."""
    inbox = _inbox()

    async def news_of(door: str) -> bool:
        is_urgent = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_post, inbox, door)
            with anyio.fail_after(5):
                is_urgent = await inbox.wait_for_news(math.inf)
        return is_urgent

    assert not await news_of("result")
    assert await news_of("request")
    assert [*inbox.take()]
    assert not await inbox.wait_for_news(0)


async def _post(inbox: Inbox, door: str) -> None:
    if door == "result":
        inbox.post_results([_RESULT])
    else:
        inbox.post(DrainRequested())
