"""What many ask for at one time is asked for in one go, and each gets its own answer, whoever goes away."""

from collections.abc import Sequence

import anyio
import pytest

from dyrygentd.errors import StoreUnavailable
from dyrygentd.store.postgres.together import Together

pytestmark = pytest.mark.anyio


class _Server:
    """Answers with what was asked, tenfold, when it is let go."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may_answer = anyio.Event()
        self.error: Exception | None = None

    async def ask(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append([*numbers])
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [10 * number for number in numbers]


async def _let_wait() -> None:
    for _ in range(20):
        await anyio.lowlevel.checkpoint()


async def test_what_comes_meanwhile_goes_together() -> None:
    """The first goes at once and alone; those that come while it is away go together, as many as may; each has its answer."""
    server, answers = _Server(), dict[int, int]()
    together = Together(server.ask, most=3)

    async def ask(number: int) -> None:
        answers[number] = await together.ask(number)

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(ask, number)
        await _let_wait()
        assert server.asked == [[0]]
        server.may_answer.set()
    assert server.asked == [[0], [1, 2, 3], [4, 5]]
    assert answers == {number: 10 * number for number in range(6)}


async def test_one_that_goes_away_takes_nobody_along() -> None:
    """Whoever asks for all may be cancelled: the next one asks for the same; one that waits only is not asked for."""
    server, answers = _Server(), dict[int, int]()
    together = Together(server.ask, most=9)

    async def ask(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            answers[number] = await together.ask(number)

    scopes = [anyio.CancelScope() for _ in range(5)]
    async with anyio.create_task_group() as tasks:
        for number, scope in enumerate(scopes):
            tasks.start_soon(ask, number, scope)
        await _let_wait()
        scopes[0].cancel()
        scopes[3].cancel()
        await _let_wait()
        # Its question is asked for once more, as nobody knows what became of it.
        assert server.asked == [[0], [1, 2, 4]]
        scopes[1].cancel()
        await _let_wait()
        assert server.asked == [[0], [1, 2, 4], [2, 4]]
        server.may_answer.set()
    assert answers == {2: 20, 4: 40}


async def test_failure_is_told_to_all_whom_it_is_about() -> None:
    """All that were asked for together learn why there is no answer; the next ones are asked for anew."""
    server, errors = _Server(), list[Exception]()
    together = Together(server.ask, most=9)

    async def ask(number: int) -> None:
        try:
            await together.ask(number)
        except StoreUnavailable as error:
            errors.append(error)

    server.error = StoreUnavailable("away")
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(ask, number)
        await _let_wait()
        server.may_answer.set()
    assert [error.message for error in errors if isinstance(error, StoreUnavailable)] == 3 * ["away"]
    assert len({id(error) for error in errors}) == 3
    server.error = None
    assert await together.ask(7) == 70
