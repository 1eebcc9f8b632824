"""What many ask for at one time, asked of the server in one go: to wait for its disk costs the same, for one or for many."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Generic, TypeVar

import anyio

Q = TypeVar("Q")
A = TypeVar("A")


class _Asked(Generic[Q, A]):
    """What one asks for; ``answers`` has the answer once it is there, and ``error`` why there is none."""

    def __init__(self, question: Q) -> None:
        self.question = question
        self.answers: list[A] = []
        self.error: Exception | None = None


class Together(Generic[Q, A]):
    """Asks for all that has come while it asked before. Guards: each gets its own answer, whoever goes away meanwhile.

    Args:
        ask_for: Answers questions, in their order. If whoever began it goes away, the next one asks for the others' again.
        most: Questions in one go.
    """

    def __init__(self, ask_for: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], *, most: int) -> None:
        self._ask_for = ask_for
        self._most = most
        self._asked: deque[_Asked[Q, A]] = deque()
        self._one = anyio.Lock(fast_acquire=True)

    def __repr__(self) -> str:
        return f"<Together asked={len(self._asked)}>"

    async def ask(self, question: Q) -> A:
        """Return the answer; raises what `ask_for` raises, to each whom it is about."""
        mine = _Asked[Q, A](question)
        self._asked.append(mine)
        try:
            async with self._one:
                # Whoever had the turn before may have asked for it; those before it in line are asked for first.
                while not mine.answers and mine.error is None:
                    await self._ask_for_some()
        except BaseException:
            if mine in self._asked:
                self._asked.remove(mine)
            raise
        if mine.error is not None:
            raise copy(mine.error)
        return mine.answers[0]

    async def _ask_for_some(self) -> None:
        some = [self._asked.popleft() for _ in range(min(self._most, len(self._asked)))]
        try:
            answers = await self._ask_for([each.question for each in some])
        except Exception as error:
            for each in some:
                each.error = error
        except BaseException:
            # Whoever asks takes its own question out.
            self._asked.extendleft(reversed(some))
            raise
        else:
            for each, answer in zip(some, answers, strict=True):
                each.answers.append(answer)
