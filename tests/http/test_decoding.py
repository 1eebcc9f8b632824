"""Decoding in threads: places are shared among users, and nothing is decoded for nobody."""

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dyrygentd.errors import BadRequest, DyrygentError, NotAccepting, TooManyNodes
from dyrygentd.http.decoding import PLACES, Decodes
from dyrygentd.http.problems import DecodingTooSlow
from dyrygentd.wire.bounds import Look


class _Slow:
    """Work that looks up now and then until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.has_begun = threading.Event()
        self.was_given_up = threading.Event()

    def __call__(self, look: Look) -> str:
        self.has_begun.set()
        while not self.released.wait(0.005):
            try:
                look()
            except BaseException:
                self.was_given_up.set()
                raise
        return "done"


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - a thread cannot set an event of the loop
            await anyio.sleep(0.005)


def _there() -> bool:
    return True


def _running_count(decodes: Decodes) -> int:
    """Return how many threads there are, as its `repr` tells."""
    return int(repr(decodes).partition("running=")[2].split()[0])


@pytest.mark.anyio
async def test_one_user_leaves_a_place_to_others() -> None:
    """A user's second body waits for the first one, and another user's does not; root has all places if it wants."""
    decodes, first, second, root = Decodes(), _Slow(), _Slow(), [_Slow() for _ in range(PLACES + 1)]
    async with anyio.create_task_group() as tasks:
        for work in (first, second):
            tasks.start_soon(lambda work: decodes.run(work, user=5, is_there=_there), work)
        await _until(first.has_begun.is_set)
        assert await decodes.run(lambda look: "other", user=6, is_there=_there) == "other"
        assert not second.has_begun.is_set()
        first.released.set()
        await _until(second.has_begun.is_set)
        second.released.set()
    async with anyio.create_task_group() as tasks:
        for work in root:
            tasks.start_soon(lambda work: decodes.run(work, user=0, is_there=_there), work)
        await _until(lambda: sum(work.has_begun.is_set() for work in root) == PLACES)
        assert _running_count(decodes) == PLACES
        for work in root:
            work.released.set()
    await _until(lambda: _running_count(decodes) == 0)


@pytest.mark.anyio
@pytest.mark.parametrize("why", ["client", "time", "stop"])
async def test_what_nobody_waits_for_is_given_up(why: str) -> None:
    """Its client has gone, its minute is over, or the daemon stops: the answer comes at once, the place is free soon after."""
    decodes, work = Decodes(timeout_s=0.2 if why == "time" else 60.0), _Slow()
    present = [True]
    expected: dict[str, Any] = {"client": BadRequest, "time": DecodingTooSlow, "stop": NotAccepting}
    caught: list[DyrygentError] = []

    async def run() -> None:
        try:
            await decodes.run(work, user=5, is_there=lambda: present[0])
        except DyrygentError as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        # Two that wait for the place are given up as well.
        tasks.start_soon(run)
        await _until(work.has_begun.is_set)
        if why == "client":
            present[0] = False
        if why == "stop":
            decodes.stop()
    assert [type(error) for error in caught] == [expected[why]] * 2
    await _until(lambda: work.was_given_up.is_set() and _running_count(decodes) == 0)


@pytest.mark.anyio
async def test_request_that_is_cancelled_ends_its_work() -> None:
    """The server cancels handlers when it stops: their threads notice."""
    decodes, work = Decodes(), _Slow()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: decodes.run(work, user=5, is_there=_there))
        await _until(work.has_begun.is_set)
        tasks.cancel_scope.cancel()
    await _until(lambda: work.was_given_up.is_set() and _running_count(decodes) == 0)


@pytest.mark.anyio
async def test_errors_come_out_as_they_are() -> None:
    """An error of ours is the answer, without what was built before it, and an unexpected one is no answer but an error."""

    def refuse(look: Look) -> None:
        built = [object()] * 1000
        raise TooManyNodes(len(built), 10)

    def fail(look: Look) -> None:
        raise ZeroDivisionError

    decodes = Decodes()
    with pytest.raises(TooManyNodes) as caught:
        await decodes.run(refuse, user=5, is_there=_there)
    frames, traceback = [], caught.value.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    assert not any("built" in frame.f_locals for frame in frames)
    with pytest.raises(ZeroDivisionError):
        await decodes.run(fail, user=5, is_there=_there)
    assert _running_count(decodes) == 0


@pytest.mark.anyio
async def test_threads_keep_no_process_from_ending() -> None:
    """Work that does not look up is left alone, in a thread that the interpreter does not wait for."""
    decodes, released = Decodes(timeout_s=0.05), threading.Event()
    begun = time.monotonic()
    with pytest.raises(DecodingTooSlow):
        await decodes.run(lambda look: released.wait(30), user=5, is_there=_there)
    assert time.monotonic() - begun < 20
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "dyrygentd decoding"] == [True]
    released.set()
    await _until(lambda: _running_count(decodes) == 0)
