"""What every store tells in the same way: what it found when it was opened, and what its reader reads."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from dyrygentd.core.records import JournalEntry, WorkflowRecord
from dyrygentd.core.user import User
from dyrygentd.ports.facts import Listed, Selection, Term
from dyrygentd.store.reader import Reader

R = TypeVar("R", bound=Reader)


class Readable(Generic[R]):
    """The part of `dyrygentd.ports.Store` that a reader answers alone; whoever derives from it makes that."""

    _reader: R
    _identity = _setback = ""

    @property
    def identity(self) -> str:
        """Return what tells this database from every other one; empty before it was opened, and where it was not there then."""
        return self._identity

    @property
    def setback(self) -> str:
        """Return why the database is older than what was done with it, as far as it can tell by itself; empty if it is not."""
        return self._setback

    async def term(self) -> Term | None:
        """Return who has taken the database over last, None if nobody ever has. Raises `StoreUnavailable`."""
        return await self._reader.term()

    async def unfinished_count(self) -> int:
        """Return how many workflows have not finished."""
        return await self._reader.unfinished_count()

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
