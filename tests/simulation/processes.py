"""Several processes in one virtual loop, each of which may be stopped as by SIGSTOP, suspended with its machine, or killed.

*The idea.* What a process does runs in contexts that name it. The loop puts aside what is ready in a process that is stopped,
timers included, and goes on with it once the process does. Time passes meanwhile, and what was sent by then arrives.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from random import Random
from typing import Any, TypeVar

import anyio

from dyrygentd.errors import Fenced
from dyrygentd.ports.facts import Holder
from tests.simulation.virtual import VirtualClock, VirtualLoop
from tests.simulation.world import BrokenPromise, Crash, Story

T = TypeVar("T")

#: In whose process something runs; None outside of all.
PROCESS: ContextVar["Process | None"] = ContextVar("PROCESS", default=None)


class _Ready(deque[asyncio.Handle]):
    """What the loop runs next, without what belongs to a process that is stopped."""

    def __init__(self, nothing: asyncio.Handle) -> None:
        super().__init__()
        self._nothing = nothing

    def popleft(self) -> asyncio.Handle:
        handle = super().popleft()
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None or not process.is_stopped:
            return handle
        process.put_aside(handle)
        return self._nothing


class ProcessLoop(VirtualLoop):
    """A virtual loop whose processes can be stopped."""

    def __init__(self) -> None:
        super().__init__()
        nothing = asyncio.Handle(lambda: None, (), self)
        nothing.cancel()
        self._ready: deque[asyncio.Handle] = _Ready(nothing)

    def go_on(self, handles: deque[asyncio.Handle]) -> None:
        """Run what was put aside."""
        self._ready.extend(handles)


class Process:
    """Guards: what is dead sends nothing more, and what is stopped does nothing.

    Attributes:
        left: How many points it passes before it ends; None for all.
        waiting: Answers of servers that it waits for.
    """

    def __init__(self, name: str, story: "JudgedStory") -> None:
        self.name = name
        self.is_dead = self._is_told_to_stop = False
        self.left: int | None = None
        self.waiting: dict[asyncio.Future[Any], None] = {}
        self.clock = HostClock()
        self.story = story
        self._aside: deque[asyncio.Handle] = deque()
        self._scope = anyio.CancelScope()

    async def run(self, work: Callable[[], Any]) -> None:
        """Work until the process ends by itself or is killed."""
        PROCESS.set(self)
        try:
            with self._scope:
                await work()
        except Crash:
            pass
        except BaseExceptionGroup as group:
            crash, rest = group.split((Crash, asyncio.CancelledError))
            # It may hear that it was overtaken in the moment in which it dies.
            if rest is not None and (crash is None or rest.split(Fenced)[1] is not None):
                raise
        finally:
            self.is_dead = True

    def put_aside(self, handle: asyncio.Handle) -> None:
        """Keep what is to be done once the process goes on."""
        self._aside.append(handle)

    def passes(self, point: str) -> None:
        """Pass a point at which the process may end; one that is dead does not get further."""
        if self.is_dead:
            raise Crash(f"{self.name} is dead")
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.story.tell(f"{self.name} CRASHES {point}")
                self._die()
                raise Crash(point)

    @property
    def is_stopped(self) -> bool:
        """Whether it does nothing: it was told to stop, or its machine is suspended. What is dead is not waited for."""
        return (self._is_told_to_stop or self.clock.is_suspended) and not self.is_dead

    def stop(self) -> None:
        """Do nothing from now on."""
        self.story.tell(f"{self.name} is stopped")
        self._is_told_to_stop = True

    def go_on(self) -> None:
        """Go on, as soon as the machine does."""
        if self._is_told_to_stop:
            self.story.tell(f"{self.name} goes on")
            self._is_told_to_stop = False
        self.catch_up()

    def catch_up(self) -> None:
        """Do what was put aside, unless it is stopped still."""
        if not self.is_stopped:
            aside, self._aside = self._aside, deque()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, ProcessLoop)
            loop.go_on(aside)

    def kill(self) -> None:
        """End at once."""
        self.story.tell(f"{self.name} is killed")
        self._die()
        self.go_on()

    def _die(self) -> None:
        self.is_dead = True
        for answer in self.waiting:
            if not answer.done():
                answer.set_exception(Crash(self.name))
        self._scope.cancel()


def holder_here(now: float) -> Holder:
    """Return what the operating system tells a process of itself."""
    process = PROCESS.get()
    return Holder("nobody" if process is None else process.name, 1, now)


class JudgedStory(Story):
    """What happened.

    Attributes:
        broken: The promise that was broken, where nobody waits for an answer that could tell of it.
    """

    broken: BrokenPromise | None = None


class HostClock(VirtualClock):
    """The clocks of one host: somebody may set the time of day; the other one stands still while the machine is suspended.

    Guards: the steady one never goes back, however often the machine is suspended while it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._slept_s = self._suspended_at = 0.0
        self._suspensions = 0

    @property
    def is_suspended(self) -> bool:
        """Whether nothing happens on this machine."""
        return self._suspensions > 0

    def suspend(self) -> None:
        """Stand still from now on."""
        if not self.is_suspended:
            self._suspended_at = asyncio.get_running_loop().time()
        self._suspensions += 1

    def wake(self, *, for_good: bool = False) -> bool:
        """Go on, if nobody else has suspended the machine; tell whether it was suspended until now."""
        before = self._suspensions
        self._suspensions = 0 if for_good else max(before - 1, 0)
        if not before or self._suspensions:
            return False
        self._slept_s += asyncio.get_running_loop().time() - self._suspended_at
        return True

    def steady(self) -> float:
        """Return for how long the machine has run."""
        now = self._suspended_at if self.is_suspended else asyncio.get_running_loop().time()
        return now - self._slept_s


class Way:
    """The way of one process to one server. What is sent arrives in order, unless the way was cut meanwhile.

    *A cut* may hold what is sent until it is mended, as TCP does, or lose it; and it may be in one direction: the server does
    what it is asked for, and nobody hears of it.

    Args:
        unavailable: Makes the error of an answer that does not come.
        timeout_s: After so long an answer is not waited for any more.
    """

    def __init__(
        self, process: Process, chance: Random, unavailable: Callable[[str], Exception], *, timeout_s: float, name: str
    ) -> None:
        self.cut = ""
        self.stall_s = 0.0
        self.name = name
        self.troubled_at = float("-inf")
        self.process = process
        self._chance = chance
        self._unavailable = unavailable
        self._timeout_s = timeout_s
        self._held: list[Callable[[], None]] = []
        self._arrives_at = 0.0

    @property
    def is_troubled(self) -> bool:
        """Whether something that is asked now may not be answered in time."""
        return bool(self.cut or self.stall_s)

    def has_been_well_since(self, moment: float) -> bool:
        """Tell whether all that was asked since then was answered in time."""
        return not self.is_troubled and self.troubled_at < moment

    def mend(self) -> None:
        """Let pass again what is sent, and what was held."""
        if self.is_troubled:
            # What is asked from now on waits for what is still on its way, and what was held comes within half a second.
            held_s = 0.5 if self._held else 0.0
            self.troubled_at = max(anyio.current_time() + held_s, self._arrives_at)
        self.cut, self.stall_s = "", 0.0
        held, self._held = self._held, []
        loop = asyncio.get_running_loop()
        for deliver in held:
            loop.call_later(self._chance.uniform(0.0, 0.5), deliver)

    async def ask(self, what: str, work: Callable[[], T]) -> T:
        """Have the server do something, and return or raise what comes of it; the process may end before, amid and after."""
        process, loop = self.process, asyncio.get_running_loop()
        process.passes(f"before {what}")
        answer: asyncio.Future[Any] = loop.create_future()
        process.waiting[answer] = None
        outside = PROCESS.set(None)
        try:
            delay_s = self._chance.uniform(0.0, 0.02) + self._chance.uniform(0.0, self.stall_s)
            self._arrives_at = max(self._arrives_at, loop.time() + delay_s)
            loop.call_at(self._arrives_at, self._arrive, work, answer)
        finally:
            PROCESS.reset(outside)
        try:
            process.passes(f"amid {what}")
            with anyio.move_on_after(self._timeout_s):
                found: T = await answer
                process.passes(f"after {what}")
                return found
        finally:
            process.waiting.pop(answer, None)
            answer.cancel()
        raise self._unavailable(f"the {self.name} does not answer")

    def _arrive(self, work: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        if self.cut in ("both", "requests"):
            if self._chance.random() < 0.5:
                self._held.append(lambda: self._arrive(work, answer))
            return
        try:
            found, error = work(), None
        except BrokenPromise as broken:
            self.process.story.broken = broken
            return
        except Exception as raised:
            found, error = None, raised
        if self.cut == "answers":
            return
        delay_s = self._chance.uniform(0.0, 0.02) + self._chance.uniform(0.0, self.stall_s)
        asyncio.get_running_loop().call_later(delay_s, _answer, answer, found, error)


def _answer(answer: asyncio.Future[Any], found: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(found)
    else:
        answer.set_exception(error)
