"""Letters: what somebody asks for at a process that does not lead, and how the one that leads comes to it.

Theory of operation
===================
*The idea.* A process that shares its database with others and does not lead them answers no submission and no verb by itself. It
leaves a *letter*, which is as durable as a workflow when `Mailbox.leave` returns. Whoever leads takes letters, carries each out
as it does what it is asked for directly, and writes the answer, which the one who left it waits for.

*Exactly once.* A letter stays until its answer is written, so it may be taken again after a crash, or by a successor. What was
done of it is seen then: a submission by its workflow, whose id stands in the letter; a verb by a `Footprint`, which is written in
the transaction of the change itself (`JournalEntry.letter`). What changed nothing is asked once more, and was never answered. An
answer is written only by who still has the database, once it is confirmed that nobody has gone on with a copy of it. That can be
asked only after the change, so the answer is not written with it; all that came meanwhile are confirmed, and written, together.

*Order.* Letters of one sender (an owner at a host) are begun in the order in which they were left, and so are letters about one
workflow, whoever has left them.

*What could go wrong.* Whoever left a letter dies: it is carried out all the same, and a client that comes again with its key at
another host finds the letter, or the workflow. It is left twice because the database's answer was lost: it has a token, and the
second one is the first. Nobody leads for long: the letters that wait are bounded in number and in bytes, in all and of each
sender, and verbs are refused when nobody leads and the oldest letter is old.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dyrygentd.core.user import User
from dyrygentd.errors import NotOnDiskYet, OutsideError, RequestError


class NotLeader(OutsideError):
    """The daemon does not lead, and cannot do what only the one that leads can do; nothing was done.

    Attributes:
        leader: Who leads, as people are told; empty if nobody does just now.
    """

    code = "not-leader"

    def __init__(self, leader: str = "") -> None:
        who = f"{leader} does" if leader else "nobody does just now"
        super().__init__(f"this daemon does not lead: {who}")
        self.leader = leader
        self.next_step = "ask the one that leads" if leader else "try again in some seconds: another daemon takes over"


class LetterKind(StrEnum):
    """What a letter asks for; ``UNREADABLE``: nobody can tell, as another version or another program has left it."""

    SUBMIT = "submit"
    IMPORT = "import"
    PERFORM = "perform"
    PERFORM_IN_BULK = "perform-in-bulk"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Letter:
    """What somebody asks whoever leads for.

    Attributes:
        token: Made by who leaves it: a letter that is left again is the same one.
        kind: What it asks for.
        body: The same in full, as JSON of `dyrygentd.wire.letters`; empty once it is answered. Of an unreadable one the reason.
        workflow_id: Which workflow it makes, or is about; empty if it is about several.
        owner: For whom it is, as of a workflow; `User.identity` and its name are what is kept of one, `User.of` leads back.
        host: Where it was left.
        key, digest: Of a submission with a key; at any time one letter waits with one key of an owner.
        number: In the order in which they were left, with gaps; 0 before that.
        left_at: Unix time, by the database's clock.
        answer: JSON of what was answered, or of a problem document if it was refused; empty while it waits.
        is_refused: Whether it was refused; nothing was changed by it.
        known_as: The workflow that had its key before, if that is another one than the letter's.
        may_be_done: Whether anything of it may be done already. Of one that was taken it is known: whoever takes it has the
            database, and changes it by that letter alone.
    """

    token: str
    kind: LetterKind
    body: bytes
    workflow_id: str = ""
    owner: User | None = None
    host: str = ""
    key: str | None = None
    digest: str = ""
    number: int = 0
    left_at: float = 0.0
    answer: bytes = b""
    is_refused: bool = False
    known_as: str = ""
    may_be_done: bool = field(default=True, compare=False)

    @property
    def sender(self) -> tuple[str, User | None]:
        """Return whose letters are begun in order."""
        return self.host, self.owner


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a verb of a letter has changed of one workflow.

    Attributes:
        nodes: Names of nodes that it changed, the first of them.
        count: How many it changed.
    """

    workflow_id: str
    nodes: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class LetterAnswer:
    """What is written to one letter; see `Letter`."""

    number: int
    answer: bytes
    is_refused: bool = False
    known_as: str = ""


@dataclass(frozen=True, slots=True)
class MailboxBounds:
    """How much may wait.

    Attributes:
        letters_max, bytes_max: In all.
        of_sender_max, of_sender_bytes_max: Of one sender.
        verb_wait_s: A verb is refused while nobody leads and the oldest letter waits for longer. If somebody leads that one may
            be a submission that is not taken as too much is unfinished, which a verb may end.
    """

    letters_max: int = 10_000
    bytes_max: int = 256 * 1024 * 1024
    of_sender_max: int = 2_000
    of_sender_bytes_max: int = 64 * 1024 * 1024
    verb_wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """A snapshot of the box.

    Attributes:
        waiting, waiting_bytes: Letters that are not answered.
        oldest_s: For how long the oldest of them waits, by the database's clock; 0 if none does.
    """

    waiting: int = 0
    waiting_bytes: int = 0
    oldest_s: float = 0.0


class Mailbox(Protocol):
    """Where letters are left, found and answered. All of it raises `StoreUnavailable` if the database cannot be reached."""

    async def run(self) -> None:
        """Hear of letters and answers until cancelled, whatever happens to the database; nobody else wakes who waits."""

    async def leave(self, letter: Letter) -> Letter:
        """Leave a letter, and return it as it is kept, durably.

        With a token that is there already the letter of that token is returned; with the key of a letter that waits, that one,
        whose token differs. Raises `MailboxFull`, then nothing was left.
        """

    async def answered(self, number: int, *, timeout_s: float) -> Letter | None:
        """Wait until a letter is answered and return it; None if it is not in time, or is not kept any more."""

    async def find(self, workflow_id: str) -> Letter | None:
        """Return the last letter that was to make this workflow, while it waits, and if it was refused or has another id."""

    async def take(
        self, in_hand: Collection[int], *, limit: int, bytes_max: int, resting: Collection[int] = ()
    ) -> Sequence[Letter]:
        """Return letters that wait, the oldest first, the same number of each sender, but those that the caller has in hand.

        A letter about a workflow is not returned before all earlier ones about it are answered.

        Args:
            bytes_max: Of all bodies together; one letter is returned whatever its length.
            resting: Letters in hand that are tried again later: none of their senders is returned that was left after them.
        """

    async def footprints(self, number: int) -> Mapping[str, Footprint]:
        """Return what was changed by a letter: ``{workflow id: footprint}``."""

    async def answer(self, answers: Sequence[LetterAnswer]) -> None:
        """Write answers, and have those know who wait for them. Only whoever has the database may.

        Raises:
            Fenced: Another process has taken the database over; nothing was written.
        """

    async def wait(self, timeout_s: float) -> None:
        """Return when a letter may have been left, or after this time."""

    async def expire(self, *, kept_s: float, refused_s: float, refused_max: int) -> int:
        """Delete what nobody waits for any more; return how many.

        Args:
            kept_s: Answered letters are kept for so long.
            refused_s, refused_max: The same of refused submissions, and of those that got another id, and so many at most.
        """

    async def look(self) -> MailboxStatistics:
        """Return a snapshot."""

    async def close(self) -> None:
        """Let connections go; safe to repeat, and it may be used again after that."""


class MailboxFull(RequestError):
    """Too much waits for whoever leads; nothing was left."""

    status = 503
    code = "mailbox-full"

    def __init__(self, reason: str) -> None:
        super().__init__(f"whoever leads is behind or away, and no further letter is taken: {reason}")
        self.reason = reason
        self.next_step = "`dyrygentctl status` shows who leads; try again when somebody does"


class UnreadableLetter(RequestError):
    """A letter is none that this version knows; nothing was changed by it, and those behind it are carried out."""

    status = 422
    code = "unreadable-letter"
    next_step = "have the host where it was left and the one that leads run the same version, and ask for it again"

    def __init__(self, number: int, host: str, reason: str) -> None:
        super().__init__(f"letter {number} of '{host}' cannot be read: {reason}")
        self.number = number
        self.host = host
        self.reason = reason


class NotTakenYet(OutsideError):
    """A workflow was submitted, and whoever leads has not taken it yet; or another one has its key, ``known_as``."""

    code = "not-taken-yet"
    next_step = "wait: it is taken as soon as somebody leads, in the order of submission"

    def __init__(self, workflow_id: str, known_as: str = "") -> None:
        what = f"workflow '{known_as}' has its key" if known_as else "the daemon that leads has not taken it yet"
        super().__init__(f"workflow '{workflow_id}' was submitted, and {what}")
        self.workflow_id = workflow_id
        self.known_as = known_as
        if known_as:
            self.next_step = f"ask for '{known_as}'"


class RefusedLater(RequestError):
    """A submission was answered while nobody led, and refused by the daemon that led next."""

    status = 422
    code = "refused-later"

    def __init__(self, workflow_id: str, reason: str, *, next_step: str = "") -> None:
        super().__init__(f"workflow '{workflow_id}' was submitted while no daemon led, and then refused: {reason}")
        self.workflow_id = workflow_id
        self.reason = reason
        self.next_step = next_step or "mend that, and submit it again"


class NotCarriedOutYet(NotOnDiskYet):
    """A verb was left in a letter, and whoever leads has not carried it out yet. No failure: a *not yet*."""

    def __init__(self, what: str, workflow_id: str, number: int) -> None:
        # Not `super`, which says another thing: it is on disk.
        Exception.__init__(self, f"{what} waits for the daemon that leads, as letter {number}, and will be carried out by it")
        self.what = what
        self.workflow_id = workflow_id
        self.number = number
        self.next_step = "nothing has to be repeated; `dyrygentctl status` shows who leads"
