"""Letters on a `Server`, as `store/postgres/mailbox.py` keeps them, and what one process sees of them over its `Way`.

The suite in `tests/contracts/test_mailbox.py` holds both to the same.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import anyio

from dyrygentd.core.records import JournalEntry
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.mailbox import Footprint, Letter, LetterAnswer, LetterKind, MailboxBounds, MailboxFull, MailboxStatistics
from tests.simulation.processes import Way
from tests.simulation.virtual import VirtualClock

T = TypeVar("T")
Turn = Callable[[str, Callable[[], Any]], Awaitable[Any]]

#: How often is looked for what nobody told.
_LOOK_EVERY_S = 1.0
_MAKING = (LetterKind.SUBMIT, LetterKind.IMPORT)


@dataclass
class _Kept:
    """A letter as it is kept."""

    letter: Letter
    answered_at: float | None = None

    @property
    def waits(self) -> bool:
        return self.answered_at is None

    @property
    def is_kept_long(self) -> bool:
        """Whether somebody may ask for it by the id that they were told."""
        return self.letter.kind in _MAKING and (self.letter.is_refused or bool(self.letter.known_as))


class Box:
    """The letters of a server.

    Attributes:
        left: All letters that were ever left, by number, as they came.
        answers: What was answered to them, by number.
    """

    def __init__(self, now: Callable[[], float], raise_if_away: Callable[[], None], is_led: Callable[[], bool]) -> None:
        self.raise_if_away = raise_if_away
        self._is_led = is_led
        self.news = anyio.Event()
        self.left: dict[int, Letter] = {}
        self.answers: dict[int, LetterAnswer] = {}
        self._now = now
        self._letters: dict[int, _Kept] = {}
        self._footprints: dict[int, dict[str, Footprint]] = {}

    @property
    def waiting(self) -> list[Letter]:
        """Letters that are not answered, the oldest first."""
        return [kept.letter for kept in self._letters.values() if kept.waits]

    def _tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()

    def leave(self, letter: Letter, bounds: MailboxBounds) -> Letter:
        """Keep a letter, unless it is there or there is no room."""
        same = [kept.letter for kept in self._letters.values() if kept.letter.token == letter.token]
        whose = letter.key, letter.owner
        same += [each for each in self.waiting if letter.key is not None and (each.key, each.owner) == whose]
        if same:
            return same[0]
        reason = self._why_full(letter, bounds)
        if reason:
            raise MailboxFull(reason)
        number = len(self.left) + 1
        kept = replace(letter, number=number, left_at=VirtualClock.START + self._now())
        self.left[number] = kept
        self._letters[number] = _Kept(kept)
        self._tell()
        return kept

    def _why_full(self, letter: Letter, bounds: MailboxBounds) -> str:
        waiting, size = self.waiting, len(letter.body)
        own = [each for each in waiting if each.sender == letter.sender]
        in_all, of_sender = (sum(len(each.body) for each in letters) for letters in (waiting, own))
        if len(waiting) >= bounds.letters_max:
            return f"{len(waiting)} letters wait, the most that may"
        if in_all + size > bounds.bytes_max:
            return f"letters of {in_all} bytes wait, and {bounds.bytes_max} may"
        if len(own) >= bounds.of_sender_max:
            return f"{len(own)} letters of yours wait, the most that may"
        if of_sender + size > bounds.of_sender_bytes_max:
            return f"letters of {of_sender} bytes of yours wait, and {bounds.of_sender_bytes_max} may"
        oldest_s = self.look().oldest_s
        if letter.kind not in _MAKING and oldest_s > bounds.verb_wait_s and not self._is_led():
            return f"nobody leads, and a letter has been waiting for {oldest_s:.0f} s"
        return ""

    def answered(self, numbers: Iterable[int]) -> list[Letter]:
        """Return those that are answered."""
        kept = (self._letters.get(number) for number in numbers)
        return [each.letter for each in kept if each is not None and not each.waits]

    def find(self, workflow_id: str) -> Letter | None:
        """Return the last letter that was to make this workflow, if there is more to say than that it did."""
        found = [
            kept.letter
            for kept in self._letters.values()
            if kept.letter.workflow_id == workflow_id and kept.letter.kind in _MAKING and (kept.waits or kept.is_kept_long)
        ]
        return found[-1] if found else None

    def take(self, in_hand: Collection[int], limit: int, bytes_max: int, resting: Collection[int] = ()) -> list[Letter]:
        """Return those whose turn it is."""
        about: set[str] = set()
        of_sender: dict[object, int] = {}
        blocked: set[object] = set()
        turns: list[tuple[int, int, Letter]] = []
        for letter in self.waiting:
            of_sender[letter.sender] = place = of_sender.get(letter.sender, 0) + 1
            if letter.number in resting or (letter.workflow_id and letter.workflow_id in about):
                blocked.add(letter.sender)
            about.add(letter.workflow_id)
            if letter.number not in in_hand and letter.sender not in blocked:
                turns.append((place, letter.number, letter))
        taken: list[Letter] = []
        for _, _, letter in sorted(turns, key=lambda turn: turn[:2])[:limit]:
            if taken and sum(len(each.body) for each in (*taken, letter)) > bytes_max:
                break
            taken.append(letter)
        return sorted(taken, key=lambda letter: letter.number)

    def note(self, entry: JournalEntry) -> None:
        """Keep what a letter has changed, as a part of the transaction that changes it."""
        if entry.letter:
            done = self._footprints.setdefault(entry.letter, {})
            done.setdefault(entry.workflow_id, Footprint(entry.workflow_id, tuple(entry.nodes), entry.count))

    def footprints(self, number: int) -> dict[str, Footprint]:
        """Return what was changed by a letter."""
        return dict(self._footprints.get(number, {}))

    def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Write answers."""
        for each in answers:
            kept = self._letters.get(each.number)
            if kept is not None and kept.waits:
                kept.letter = replace(
                    kept.letter, answer=each.answer, is_refused=each.is_refused, known_as=each.known_as, body=b"", key=None
                )
                kept.answered_at = self._now()
                self._footprints.pop(each.number, None)
                self.answers[each.number] = each
        self._tell()

    def expire(self, kept_s: float, refused_s: float, refused_max: int) -> int:
        """Delete what nobody waits for any more."""
        long = [number for number, kept in self._letters.items() if not kept.waits and kept.is_kept_long]
        too_many = set(sorted(long, reverse=True)[refused_max:])
        gone = [
            number
            for number, kept in self._letters.items()
            if kept.answered_at is not None
            and (number in too_many or kept.answered_at < self._now() - (refused_s if kept.is_kept_long else kept_s))
        ]
        for number in gone:
            del self._letters[number]
        return len(gone)

    def look(self) -> MailboxStatistics:
        """Return a snapshot."""
        waiting = self.waiting
        left_at = min((letter.left_at for letter in waiting), default=VirtualClock.START + self._now())
        size = sum(len(letter.body) for letter in waiting)
        return MailboxStatistics(len(waiting), size, max(0.0, VirtualClock.START + self._now() - left_at))


class ServedMailbox:
    """A `Box` as one process sees it.

    Args:
        turn: Carries something out in a turn of the process that has the database; None for who only leaves letters.
    """

    def __init__(self, box: Box, way: Way, *, turn: Turn | None = None, bounds: MailboxBounds | None = None) -> None:
        self._box = box
        self._way = way
        self._turn = turn
        self._bounds = bounds or MailboxBounds()
        self._came = anyio.Event()
        self._waiters: dict[int, anyio.Event] = {}

    async def run(self) -> None:
        """Hear of letters and answers; what nobody told is seen each second."""
        while True:
            with anyio.move_on_after(_LOOK_EVERY_S):
                await self._box.news.wait()
                if self._way.cut:
                    # Nobody has heard of it.
                    await anyio.sleep_forever()
            self._came.set()
            if self._waiters:
                await self._look_for_answers()

    async def _look_for_answers(self) -> None:
        numbers = [*self._waiters]
        try:
            found = await self._ask("a look for answers", lambda: self._box.answered(numbers))
        except StoreUnavailable:
            return
        for letter in found:
            if letter.number in self._waiters:
                self._waiters[letter.number].set()

    async def leave(self, letter: Letter) -> Letter:
        """Leave a letter; once more if the answer to that was lost, which its token allows."""
        try:
            return await self._ask("a letter", lambda: self._box.leave(letter, self._bounds))
        except StoreUnavailable:
            return await self._ask("a letter again", lambda: self._box.leave(letter, self._bounds))

    async def answered(self, number: int, *, timeout_s: float) -> Letter | None:
        """Wait until a letter is answered and return it."""
        with anyio.move_on_after(timeout_s):
            heard = self._waiters.setdefault(number, anyio.Event())
            try:
                if not await self._ask("a look for an answer", lambda: self._box.answered([number])):
                    await heard.wait()
            finally:
                self._waiters.pop(number, None)
        found = await self._ask("an answer", lambda: self._box.answered([number]))
        return found[0] if found else None

    async def find(self, workflow_id: str) -> Letter | None:
        """Return the last letter that was to make this workflow."""
        return await self._ask("a letter's fate", lambda: self._box.find(workflow_id))

    async def take(
        self, in_hand: Collection[int], *, limit: int, bytes_max: int, resting: Collection[int] = ()
    ) -> Sequence[Letter]:
        """Return letters that wait."""
        known, resting = [*in_hand], [*resting]
        return await self._ask("a look for letters", lambda: self._box.take(known, limit, bytes_max, resting))

    async def footprints(self, number: int) -> Mapping[str, Footprint]:
        """Return what was changed by a letter."""
        return await self._ask("a look for footprints", lambda: self._box.footprints(number))

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Write answers in a turn."""
        assert self._turn is not None, "who only leaves letters answers none"
        await self._turn("answers to letters", lambda: self._box.answer(answers))

    async def wait(self, timeout_s: float) -> None:
        """Return when a letter may have been left."""
        with anyio.move_on_after(timeout_s):
            await self._came.wait()
        self._came = anyio.Event()

    async def expire(self, *, kept_s: float, refused_s: float, refused_max: int) -> int:
        """Delete what nobody waits for any more, in a turn."""
        assert self._turn is not None, "who only leaves letters deletes none"
        gone: int = await self._turn("an end of letters", lambda: self._box.expire(kept_s, refused_s, refused_max))
        return gone

    async def look(self) -> MailboxStatistics:
        """Return a snapshot."""
        return await self._ask("a count of letters", self._box.look)

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    async def _ask(self, what: str, work: Callable[[], T]) -> T:
        def at_server() -> T:
            self._box.raise_if_away()
            return work()

        return await self._way.ask(what, at_server)
