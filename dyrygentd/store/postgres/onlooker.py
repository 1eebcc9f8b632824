"""The database of a process that does not lead: it is read, and nothing else; the server sees to that.

It may be opened before the leader has made the schema, and while the server is away: whoever reads is told so then.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence

import psycopg

from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.errors import NotLeader, StoreIncompatible, StoreUnavailable
from dyrygentd.ports.facts import Holder, Listed, Retention, Selection, Stored, StoreStatistics, Term
from dyrygentd.store.continuity import MOVED_NOTE, refuse_moved
from dyrygentd.store.postgres.migrations import VERSION
from dyrygentd.store.postgres.reader import PostgresReader
from dyrygentd.store.postgres.url import PostgresUrl

_LISTING_MAX_S = 5.0


class PostgresOnlooker:
    """A store that is only read. Guards: whatever would write raises `NotLeader`, and its sessions are read only.

    Args:
        listing_max_s: How long workflows are looked through for one listing.
    """

    lease: None = None
    mailbox: None = None
    setback = ""

    def __init__(self, url: PostgresUrl, *, listing_max_s: float = _LISTING_MAX_S) -> None:
        self._url = url
        self._reader = PostgresReader(url, listing_max_s=listing_max_s)
        self._identity = ""

    def __repr__(self) -> str:
        return f"<PostgresOnlooker '{self._url}'>"

    @property
    def identity(self) -> str:
        """Return what tells this database from every other one; empty as long as it was not there when it was opened."""
        return self._identity

    async def open(self) -> None:
        """Connect if the server answers. Raises `StoreIncompatible` if the schema is one that cannot be read here."""
        try:
            with contextlib.suppress(psycopg.Error, StoreUnavailable):
                await self._reader.open()
                version = await self._reader.number("SELECT max(version) FROM about")
                if version > VERSION:
                    error = StoreIncompatible(f"'{self._url}' has schema {version}, this dyrygentd reads up to {VERSION}")
                    error.next_step = "install the version that the leader has"
                    raise error
                refuse_moved(await self._reader.recall(MOVED_NOTE), self._url)
                self._identity = await self._reader.recall("identity") or ""
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close; safe to repeat."""
        self._identity = ""
        self._reader.close()

    # --- what only a leader does ------------------------------------------------------------------------------------

    async def raise_term(self, holder: Holder, *, above: int = 0) -> Term:
        """Raise `NotLeader`."""
        raise NotLeader

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        """Raise `NotLeader`."""
        raise NotLeader

    async def remember(self, name: str, value: str) -> None:
        """Raise `NotLeader`."""
        raise NotLeader

    async def expire(self, retention: Retention, *, limit: int) -> int:
        """Raise `NotLeader`."""
        raise NotLeader

    # --- reading ----------------------------------------------------------------------------------------------------

    async def term(self) -> Term | None:
        """Return who has taken the database over last, None if nobody ever has. Raises `StoreUnavailable`."""
        ((text,),) = await self._reader.found("SELECT term FROM owner")
        return Term.of(text)

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first."""
        async for _, part in self._reader.unfinished():
            for stored in part:
                yield stored

    async def unfinished_count(self) -> int:
        """Return how many workflows have not finished."""
        return await self._reader.unfinished_count()

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow, whatever its state. Raises `NotLeader` if it is to be reopened."""
        if to_reopen:
            raise NotLeader
        return await self._reader.load(workflow_id)

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes."""
        return await self._reader.record(workflow_id)

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit, newest first; the exact id alone if there is one."""
        return await self._reader.find(reference, limit=limit)

    async def find_key(self, key: str, owner: User | None = None) -> str | None:
        """Return the id of the workflow that this user has submitted with this key."""
        return await self._reader.find_key(key, owner)

    async def list(self, selection: Selection) -> Sequence[Listed]:
        """List workflows, newest first. Raises `ListingTooLong` if too many have to be looked at."""
        return await self._reader.list(selection)

    async def journal(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return what was done to a workflow, oldest first."""
        return await self._reader.journal(workflow_id)

    async def last_entry(self, workflow_id: str, verb: str) -> JournalEntry | None:
        """Return when a verb was carried out last on a workflow."""
        return await self._reader.last_entry(workflow_id, verb)

    async def audit(self, after: int | None, *, limit: int) -> Sequence[tuple[int, JournalEntry]]:
        """Return what was done to all workflows, oldest first, each with its cursor; without one the newest."""
        return await self._reader.audit(after, limit=limit)

    async def recall(self, name: str) -> str | None:
        """Return what was noted last under this name, None if nothing was. Raises `StoreUnavailable`."""
        return await self._reader.recall(name)

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot: nothing is written."""
        return StoreStatistics()
