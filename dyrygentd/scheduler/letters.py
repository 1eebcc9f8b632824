"""Letters, carried out by whoever leads; `dyrygentd.ports.mailbox` has the theory of operation.

*Beside each other* are letters of different senders, and submissions of one: the next one of a sender is begun when this one can
no longer be overtaken. That is when a submission is in the inbox of the turns, and when anything else is carried out. A verb in
bulk finds its workflows in the database, so it waits until what its sender asked for before is there.

*Not now* is no answer: a submission that cannot be taken in at this moment, or a verb that the database does not let through,
stays a letter, and is tried again. Who left it may have gone on, as it was durable. Until then it rests: it takes no place of
those that are carried out at one time, and its sender gets no further one. So a daemon that takes no submissions, as too much is
unfinished, hears of the verbs that end that.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

import anyio
from anyio.abc import TaskGroup

from dyrygentd import wire
from dyrygentd.core.tally import Tally
from dyrygentd.errors import (
    BackendUnavailable,
    BrokerUnavailable,
    DaemonUnreachable,
    DyrygentError,
    Fenced,
    NotAccepting,
    NotImportable,
    NotOnDiskYet,
    StoreUnavailable,
)
from dyrygentd.ports.facts import Selection
from dyrygentd.ports.mailbox import Footprint, Letter, LetterAnswer, LetterKind, Mailbox, MailboxStatistics, UnreadableLetter
from dyrygentd.scheduler.admissions import answer_to
from dyrygentd.scheduler.archive import in_thread_if_long
from dyrygentd.scheduler.leadership import NotConfirmed
from dyrygentd.scheduler.limits import RETRY_FIRST_S, RETRY_MAX_S
from dyrygentd.scheduler.reception import Reception
from dyrygentd.scheduler.tenure import unwrapped
from dyrygentd.wire import letters as forms

logger = logging.getLogger("dyrygentd")

#: Letters that are carried out at one time, and bytes of those that are fetched together.
_AT_ONCE: Final = 128
_BYTES_AT_ONCE: Final = 32 * 1024 * 1024
#: How often is looked at what waits, told or not.
_LOOK_EVERY_S: Final = 1.0
#: How long an answer is kept for who left the letter; and a refusal, or another id, for who was told the letter's.
_KEPT_S: Final = 120.0
_REFUSED_KEPT_S: Final = 7 * 86400.0
_REFUSED_MAX: Final = 10_000
_EXPIRE_EVERY_S: Final = 30.0
#: What does not hold for ever: the letter stays.
_LATER: Final = (NotAccepting, NotOnDiskYet, StoreUnavailable, BackendUnavailable, BrokerUnavailable)


@dataclass(slots=True)
class LettersStatistics:
    """A snapshot of what was done with letters here, beside what waits.

    Attributes:
        carried_out, refused: Letters that were answered, by what they were answered with.
    """

    waiting: int = 0
    oldest_s: float = 0.0
    in_hand: int = 0
    carried_out: int = 0
    refused: int = 0


def letter_figures(statistics: LettersStatistics) -> dict[str, float]:
    """Return a snapshot under the names of `wire.Statistics`."""
    return {f"letters_{name}": value for name, value in asdict(statistics).items()}


class Letters:
    """Carries letters out. Guards: the order of a sender's letters, and that a letter is answered with what became of it.

    Args:
        confirm: Returns once it is known that this process has the database, and raises `Fenced` or `NotConfirmed`.
        at_once: Letters that are carried out at one time.

    Attributes:
        seconds: From a letter's being left to its answer, by the database's clock and this host's.
    """

    def __init__(
        self, mailbox: Mailbox, reception: Reception, *, confirm: Callable[[], Awaitable[None]], at_once: int = _AT_ONCE
    ) -> None:
        self._mailbox = mailbox
        self._confirm = confirm
        self._reception = reception
        self._at_once = at_once
        self._in_hand: set[int] = set()
        self._resting: set[int] = set()
        self._last_of: dict[object, anyio.Event] = {}
        self._under_way: dict[object, set[anyio.Event]] = {}
        self._answers: list[LetterAnswer] = []
        self._answered = anyio.Event()
        self._news = anyio.Event()
        self._box = MailboxStatistics()
        self._carried_out = self._refused = 0
        self.seconds = Tally()

    def __repr__(self) -> str:
        return f"<Letters in_hand={len(self._in_hand)} carried_out={self._carried_out} refused={self._refused}>"

    def statistics(self) -> LettersStatistics:
        """Return a snapshot; what waits is as it was at the last look."""
        box = self._box
        return LettersStatistics(box.waiting, box.oldest_s, len(self._in_hand), self._carried_out, self._refused)

    async def run(self) -> None:
        """Carry out letters until cancelled, whatever happens to the database. Raises `Fenced` if another one has taken over."""
        try:
            async with anyio.create_task_group() as tasks:
                for work in (self._mailbox.run, self._write_answers, self._hear, self._look, self._expire):
                    tasks.start_soon(work)
                await self._take(tasks)
        except BaseExceptionGroup as group:
            raise unwrapped(group) from None
        finally:
            with anyio.CancelScope(shield=True):
                await self._mailbox.close()
            self._in_hand.clear()
            self._resting.clear()
            self._last_of.clear()
            self._under_way.clear()
            self._answers.clear()

    # --- taking -----------------------------------------------------------------------------------------------------

    async def _take(self, tasks: TaskGroup) -> None:
        while True:
            self._news = anyio.Event()
            room = self._at_once - len(self._in_hand) + len(self._resting)
            letters = []
            if room > 0:
                try:
                    letters = [
                        *await self._mailbox.take(self._in_hand, limit=room, bytes_max=_BYTES_AT_ONCE, resting=self._resting)
                    ]
                except StoreUnavailable as error:
                    logger.info("letters cannot be looked for: %s", error)
                    await anyio.sleep(_LOOK_EVERY_S)
            for letter in letters:
                before = self._last_of.get(letter.sender)
                begun = self._last_of[letter.sender] = anyio.Event()
                self._in_hand.add(letter.number)
                tasks.start_soon(self._carry_out, letter, before, begun)
            if not letters:
                await self._news.wait()

    async def _hear(self) -> None:
        while True:
            await self._mailbox.wait(_LOOK_EVERY_S)
            self._news.set()

    async def _look(self) -> None:
        while True:
            try:
                self._box = await self._mailbox.look()
            except StoreUnavailable as error:
                logger.info("letters cannot be counted: %s", error)
            await anyio.sleep(_LOOK_EVERY_S)

    # --- carrying out -----------------------------------------------------------------------------------------------

    async def _carry_out(self, letter: Letter, before: anyio.Event | None, begun: anyio.Event) -> None:
        """Carry one letter out, after the one ``before`` it was begun, and hand in its answer."""
        ended, under_way = anyio.Event(), self._under_way.setdefault(letter.sender, set())
        try:
            if before is not None:
                await before.wait()
            if letter.kind is LetterKind.PERFORM_IN_BULK:
                for earlier in [*under_way]:
                    await earlier.wait()
            under_way.add(ended)
            answer = await self._answer_to(letter, begun)
        except DaemonUnreachable:
            return  # Nothing is carried out here any more; the next one finds it.
        finally:
            self._resting.discard(letter.number)
            ended.set()
            under_way.discard(ended)
            if self._last_of.get(letter.sender) is begun:
                del self._last_of[letter.sender]
            if not under_way and letter.sender not in self._last_of:
                self._under_way.pop(letter.sender, None)
        self._answers.append(answer)
        self._answered.set()
        begun.set()

    async def _answer_to(self, letter: Letter, begun: anyio.Event) -> LetterAnswer:
        """Carry one letter out, however often it takes, and return what is to be answered."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                answer, known_as = await _CASES[letter.kind](self, letter, begun.set)
            except (Fenced, DaemonUnreachable):
                raise
            except _LATER as error:
                logger.info("letter %d is tried again: %s", letter.number, error)
                letter = replace(letter, may_be_done=True)
                if letter.number not in self._resting:
                    self._resting.add(letter.number)
                    self._news.set()
            except DyrygentError as error:
                self._refused += 1
                return LetterAnswer(letter.number, forms.encode_refusal(error), is_refused=True)
            except Exception as error:
                logger.exception("letter %d cannot be carried out", letter.number)
                self._refused += 1
                unexpected = DyrygentError(f"letter {letter.number} cannot be carried out: {error!r:.200}")
                unexpected.next_step = "the leader's log tells more"
                return LetterAnswer(letter.number, forms.encode_refusal(unexpected), is_refused=True)
            else:
                self._carried_out += 1
                return LetterAnswer(letter.number, answer, known_as=known_as)
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _submit(self, letter: Letter, begun: Callable[[], None]) -> tuple[bytes, str]:
        definition = await in_thread_if_long(lambda: forms.decode_submission(letter.body), len(letter.body))
        submitted = await self._reception.submit(definition, letter.owner, letter=letter, begun=begun)
        return wire.encode(submitted), "" if submitted.id == letter.workflow_id else submitted.id

    async def _import(self, letter: Letter, begun: Callable[[], None]) -> tuple[bytes, str]:
        imported, by = await in_thread_if_long(lambda: forms.decode_import(letter.body), len(letter.body))
        done = await self._done(letter)
        if not done:
            try:
                return wire.encode(await self._reception.take_over(imported, by=by, owner=letter.owner, letter=letter)), ""
            except NotImportable:
                # It may be this letter that has brought it, and reached the disk when it was not waited for any more.
                if not await self._mailbox.footprints(letter.number):
                    raise
        return wire.encode(answer_to(imported.definition, letter.workflow_id)), ""

    async def _perform(self, letter: Letter, begun: Callable[[], None]) -> tuple[bytes, str]:
        request = forms.decode_verb(letter.body, letter=letter.number)
        done = await self._done(letter)
        return wire.encode(await self._reception.perform(letter.workflow_id, request, done.get(letter.workflow_id))), ""

    async def _perform_in_bulk(self, letter: Letter, begun: Callable[[], None]) -> tuple[bytes, str]:
        request = forms.decode_verb(letter.body, letter=letter.number)
        selection = forms.decode_selection(letter.body, Selection)
        done = await self._done(letter)
        return wire.encode(await self._reception.perform_in_bulk(selection, request, frozenset(done))), ""

    async def _refuse(self, letter: Letter, begun: Callable[[], None]) -> tuple[bytes, str]:
        error = UnreadableLetter(letter.number, letter.host, letter.body.decode(errors="replace"))
        logger.warning("%s", error)
        raise error

    async def _done(self, letter: Letter) -> Mapping[str, Footprint]:
        return await self._mailbox.footprints(letter.number) if letter.may_be_done else {}

    # --- answering --------------------------------------------------------------------------------------------------

    async def _write_answers(self) -> None:
        """Write the answers that have come together meanwhile, once it is known that they count. Raises `Fenced`."""
        while True:
            await self._answered.wait()
            self._answered = anyio.Event()
            answers, self._answers = self._answers, []
            pause_s = RETRY_FIRST_S
            while True:
                try:
                    await self._confirm()
                    await self._mailbox.answer(answers)
                    break
                except (StoreUnavailable, NotConfirmed) as error:
                    logger.info("answers to letters wait: %s", error)
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
            self._in_hand.difference_update([each.number for each in answers])
            # Others may have waited for them, or for room.
            self._news.set()

    async def _expire(self) -> None:
        while True:
            try:
                await self._mailbox.expire(kept_s=_KEPT_S, refused_s=_REFUSED_KEPT_S, refused_max=_REFUSED_MAX)
            except StoreUnavailable as error:
                logger.info("answered letters are kept for longer: %s", error)
            await anyio.sleep(_EXPIRE_EVERY_S)


_Case = Callable[[Letters, Letter, Callable[[], None]], Awaitable[tuple[bytes, str]]]
_CASES: Final[dict[LetterKind, _Case]] = {
    LetterKind.SUBMIT: Letters._submit,
    LetterKind.IMPORT: Letters._import,
    LetterKind.PERFORM: Letters._perform,
    LetterKind.PERFORM_IN_BULK: Letters._perform_in_bulk,
    LetterKind.UNREADABLE: Letters._refuse,
}
