"""One database that several processes reach, as on a server: owner, turns and lease are in one row, as in `store/postgres`.

What is asked of it goes over the `Way` of a process, so it may come late, twice in a row, or never, and an answer may be lost.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import anyio

from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.errors import Fenced, StoreLocked, StoreUnavailable
from dyrygentd.ports.facts import JOURNAL_MAX, Holder, LeaseView, Listed, Namesake, Selection, Stored, Term
from dyrygentd.testing import MemoryStore
from tests.simulation.box import Box, ServedMailbox
from tests.simulation.processes import JudgedStory, Way
from tests.simulation.world import BrokenPromise

#: As in PostgreSQL.
TTL_S = 5.0

T = TypeVar("T")


class Server(MemoryStore):
    """What the server has: rows, and who owns them.

    Attributes:
        problem: Why nobody can reach it; empty if it is there.
        ahead_s: How far its clock is ahead; somebody may set it.
        leaders: ``(moment, process)`` of each change of hands, of which the last is who has the lease.
        ends: ``(workflow, state)`` of each end that was ever durable.
        box: Where letters are left; one that is copied has none.
    """

    def __init__(self, identity: str, story: JudgedStory) -> None:
        super().__init__()
        self._identity = identity
        self.story = story
        self.problem = ""
        self.ahead_s = 0.0
        self.session = self.turn = 0
        self.process = ""
        self.holder: Holder | None = None
        self.until = -math.inf
        self.leaders: list[tuple[float, str]] = []
        self.holders: dict[int, str] = {}
        self.ends: set[tuple[str, str]] = set()
        self.told = anyio.Event()
        self.box = Box(self._now, self.raise_if_away, lambda: self.left_s > 0)

    def copied(self) -> "Server":
        """Return a copy on another server, as somebody restores it from a backup; nobody has its lease."""
        other = Server(self._identity, self.story)
        for name in ("_workflows", "_nodes", "_journal", "_audit", "_notes", "_term", "ends"):
            setattr(other, name, deepcopy(getattr(self, name)))
        return other

    # --- who has it -------------------------------------------------------------------------------------------------

    @property
    def left_s(self) -> float:
        """For how long the lease holds, by this server's clock."""
        return self.until - self._now()

    def _now(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s

    def raise_if_away(self) -> None:
        """Raise if it cannot be reached."""
        if self.problem:
            raise StoreUnavailable(self.problem)

    def take(self, process: str, holder: Holder) -> int:
        """Give the lease to a process if it may have it; return its session, 0 if another one has it."""
        if self.left_s > 0 and self.process != process:
            # A clock that was set back would leave it to one that is gone.
            self.until = min(self.until, self._now() + TTL_S)
            return 0
        if self.process != process:
            self.leaders.append((anyio.current_time(), process))
            self.story.tell(f"{process} has the lease")
        self.process, self.holder = process, holder
        self.session += 1
        self.prolong()
        return self.session

    def prolong(self) -> None:
        """Have the lease go on."""
        self.until = self._now() + TTL_S

    def resign(self, process: str) -> None:
        """Let the lease go, if it is this one's."""
        if self.process == process:
            self.story.tell(f"{process} resigns")
            self.until = -math.inf
            self.notify()

    def notify(self) -> None:
        """Wake who listens."""
        self.told.set()
        self.told = anyio.Event()

    def begin_session(self, process: str) -> int:
        """Begin a session of the process that has the lease, or had it last."""
        self.refuse_another(process)
        self.session += 1
        return self.session

    def refuse_another(self, process: str) -> None:
        """Raise if another process has taken it since."""
        if self.process != process:
            holder = self.holder.words if self.holder else "nobody"
            raise Fenced(0, self._term.number if self._term else 0, holder)

    def take_turn(self, process: str, session: int) -> None:
        """Begin a transaction of this session; raises if it is not the last one."""
        if session != self.session:
            self.refuse_another(process)
            raise StoreUnavailable("the turns do not agree")
        self.prolong()

    def raised(self, process: str, holder: Holder, above: int) -> Term:
        """Raise the term."""
        self._term = Term(max(self._term.number if self._term else 0, above) + 1, holder)
        if self.holders.setdefault(self._term.number, process) != process:
            raise BrokenPromise(f"term {self._term.number} is that of {process} and of {self.holders[self._term.number]}")
        self.story.tell(f"{process} has term {self._term.number}")
        return self._term

    # --- rows -------------------------------------------------------------------------------------------------------

    def write(self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry]) -> None:
        """Take all records."""
        for record in workflows:
            self._workflows[record.workflow_id] = record.following(self._workflows.get(record.workflow_id))
            if record.state.is_finished:
                self.ends.add((record.workflow_id, record.state.value))
        for node in nodes:
            self._nodes.setdefault(node.workflow_id, {})[node.node] = node
        for entry in journal:
            entries = self._journal.setdefault(entry.workflow_id, [])
            entries.append(entry)
            del entries[:-JOURNAL_MAX]
            self._journal_entries += 1
            self._audit.append((self._journal_entries, entry))
            self.box.note(entry)

    def note(self, name: str, value: str) -> None:
        """Note something."""
        self._notes[name] = value

    def noted(self, name: str) -> str | None:
        """Return what was noted."""
        return self._notes.get(name)

    @property
    def changes(self) -> Sequence[JournalEntry]:
        """What was done to all workflows, in this order."""
        return [entry for _, entry in self._audit]

    @property
    def records(self) -> Sequence[WorkflowRecord]:
        """All workflows."""
        return [*self._workflows.values()]

    @property
    def last_term(self) -> Term | None:
        """Return who has taken it over last."""
        return self._term

    def node_of(self, workflow_id: str, node: int) -> NodeRecord | None:
        """Return what is durable of a node."""
        return self._nodes.get(workflow_id, {}).get(node)

    def has(self, workflow_id: str) -> bool:
        """Tell whether a workflow is durable."""
        return workflow_id in self._workflows

    def journal_of(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what is durable of a journal."""
        return self._journal.get(workflow_id, ())


class ServedLease:
    """The lease of a `Server`, as one process sees it."""

    ttl_s = TTL_S

    def __init__(self, server: Server, way: Way, process: str, renew: Callable[[], Awaitable[None]]) -> None:
        self._server = server
        self._way = way
        self._process = process
        self._renew = renew
        self.session = 0

    async def take(self, holder: Holder) -> bool:
        """Take it, if it is free, over or this process's own."""
        self.session = await self._ask("a take", lambda: self._server.take(self._process, holder))
        return bool(self.session)

    async def renew(self) -> None:
        """Prolong it."""

        await self._renew()

    async def resign(self) -> None:
        """Let it go."""
        try:
            await self._ask("a resignation", lambda: self._server.resign(self._process))
        except StoreUnavailable as error:
            self._server.story.tell(f"{self._process} cannot resign: {error}")

    def lose(self, error: Fenced) -> None:
        """Do nothing: whoever waits here is answered, or told that the way is cut, in time."""

    async def view(self) -> LeaseView:
        """Return who leads."""
        server = self._server

        def seen() -> LeaseView:
            term = server.last_term.number if server.last_term else 0
            return LeaseView(server.holder, term, server.left_s, is_ours=server.process == self._process)

        return await self._ask("a look at the lease", seen)

    async def wait(self, timeout_s: float) -> None:
        """Wait until told, or for so long."""
        told = self._server.told
        with anyio.move_on_after(timeout_s):
            await told.wait()
            if self._way.cut or self._server.problem:
                # Nobody has heard of it.
                await anyio.sleep_forever()

    async def namesakes(self, name: str, machine: str, holder: Holder) -> Sequence[Namesake]:
        """Know of none: each machine of a simulation has a name of its own."""
        return []

    async def _ask(self, what: str, work: Callable[[], T]) -> T:
        def at_server() -> T:
            self._server.raise_if_away()
            return work()

        return await self._way.ask(what, at_server)


class ServedStore(MemoryStore):
    """What one process sees of a `Server`. After a lost answer it begins a new session, as `store/postgres/turns.py` does."""

    lease: ServedLease
    mailbox: ServedMailbox | None  # type: ignore[assignment]

    def __init__(self, server: Server, way: Way, process: str, *, has_mailbox: bool = False) -> None:
        super().__init__()
        self._server = server
        self._way = way
        self._process = process
        self._identity = server.identity
        self.lease = ServedLease(server, way, process, self._renew)
        self.mailbox = ServedMailbox(server.box, way, turn=self._turn) if has_mailbox else None
        self._is_connected = self._is_open = False
        self._one_at_a_time = anyio.Lock()
        # How many turns it knows of, and what the last one whose answer was lost was to add to the journal.
        self._turns = 0
        self._in_doubt: list[JournalEntry] = []
        self._written_before: Counter[JournalEntry] = Counter()

    async def open(self) -> None:
        """Have the lease, or take it."""
        holder = Holder(self._process, 1, 0.0)
        if not self.lease.session and not await self.lease.take(holder):
            raise StoreLocked(f"{self._server.process} leads")
        self._turns = await self._read(lambda: self._server.turn)
        self._is_connected = self._is_open = True

    async def close(self) -> None:
        """Let go of the lease, if it is this process's still as far as it knows."""
        is_ours, self._is_open = self._is_open, False
        if is_ours:
            await self.lease.resign()

    async def term(self) -> Term | None:
        """Return who has taken it over last."""
        return await self._read(lambda: self._server.last_term)

    async def raise_term(self, holder: Holder, *, above: int = 0) -> Term:
        """Take it over."""
        return await self._turn("a term", lambda: self._server.raised(self._process, holder, above))

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Save in one transaction."""
        records, node_records, entries = list(workflows), list(nodes), list(journal)
        await self._turn("a save", lambda: self._server.write(records, node_records, self._not_written_before(entries)), entries)

    def _not_written_before(self, entries: list[JournalEntry]) -> list[JournalEntry]:
        # Records take each other's place, so only what is added would be there twice.
        before, left = Counter(self._written_before), []
        for entry in entries:
            if before[entry]:
                before[entry] -= 1
            else:
                left.append(entry)
        return left

    async def _renew(self) -> None:
        """Take an empty turn, which prolongs the lease."""
        await self._turn("a renewal", lambda: None)

    async def remember(self, name: str, value: str) -> None:
        """Note something."""
        await self._turn("a note", lambda: self._server.note(name, value))

    async def expire(self, *_: Any, **__: Any) -> int:
        """Keep everything."""
        return 0

    async def _turn(self, what: str, work: Callable[[], T], entries: Sequence[JournalEntry] = ()) -> T:
        async with self._one_at_a_time:
            with anyio.CancelScope(shield=True):
                if not self._is_connected:
                    await self._clear_up()
                session = self.lease.session

                def at_server() -> T:
                    self._server.raise_if_away()
                    self._server.take_turn(self._process, session)
                    done = work()
                    self._server.turn += 1
                    return done

                try:
                    found = await self._way.ask(what, at_server)
                except StoreUnavailable:
                    self._is_connected, self._in_doubt = False, [*entries]
                    raise
                except Fenced:
                    self._is_open = False
                    raise
            self._turns += 1
            self._written_before.subtract(entries)
            self._written_before = +self._written_before
            return found

    async def _clear_up(self) -> None:
        """Begin a new session, after which it is known what became of the turn whose answer was lost."""

        def begin() -> tuple[int, int]:
            return self._server.begin_session(self._process), self._server.turn

        self.lease.session, turns = await self._read(begin)
        if turns > self._turns:
            self._written_before.update(self._in_doubt)
        self._turns, self._in_doubt, self._is_connected = turns, [], True

    # --- reading, over other connections ----------------------------------------------------------------------------

    async def _read(self, work: Callable[[], T]) -> T:
        def at_server() -> T:
            self._server.raise_if_away()
            return work()

        return await self._way.ask("a query", at_server)

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over what has not finished; what is read later is as it is then."""
        ids = await self._read(
            lambda: [each.workflow_id for each in self._server._workflows.values() if not each.state.is_finished]
        )
        for workflow_id in ids:
            stored = await self.load(workflow_id)
            if stored is not None:
                yield stored

    async def unfinished_count(self) -> int:
        """Count what has not finished."""
        return await self._asked(self._server.unfinished_count)

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow."""
        return await self._asked(lambda: self._server.load(workflow_id))

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself."""
        return await self._asked(lambda: self._server.record(workflow_id))

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return ids."""
        return await self._asked(lambda: self._server.find(reference, limit=limit))

    async def find_key(self, key: str, owner: User | None = None) -> str | None:
        """Return who has a key."""
        return await self._asked(lambda: self._server.find_key(key, owner))

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows."""
        return await self._asked(lambda: self._server.list(selection))

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done."""
        return await self._asked(lambda: self._server.journal(workflow_id))

    async def last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        """Return when a verb was carried out last."""
        return await self._asked(lambda: self._server.last_entry(workflow_id, verb))

    async def audit(self, after: int | None, *, limit: int) -> Sequence[tuple[int, JournalEntry]]:
        """Return what was done."""
        return await self._asked(lambda: self._server.audit(after, limit=limit))

    async def recall(self, name: str) -> str | None:
        """Return what was noted."""
        return await self._read(lambda: self._server.noted(name))

    async def _asked(self, query: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a query of the server returns, which waits for nothing."""

        def at_once() -> T:
            asked = query()
            try:
                asked.send(None)
            except StopIteration as stop:
                found: T = stop.value
                return found
            raise AssertionError("a query waits")

        return await self._read(at_once)
