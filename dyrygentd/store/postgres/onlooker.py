"""The database of a process that does not lead: it is read, and nothing else but letters is written.

It may be opened before the leader has made the schema, and while the server is away: whoever reads is told so then.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import psycopg

from dyrygentd.beside import in_thread
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.facts import Holder, Retention, Stored, StoreStatistics, Term
from dyrygentd.ports.mailbox import Letter, LetterKind, NotLeader, NotTakenYet, RefusedLater
from dyrygentd.store.continuity import MOVED_NOTE, refuse_moved
from dyrygentd.store.postgres.mailbox import PostgresMailbox
from dyrygentd.store.postgres.migrations import VERSION_QUERY, refuse_newer
from dyrygentd.store.postgres.reader import PostgresReader
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.readable import Readable
from dyrygentd.wire.letters import awaited_record, decode_import, error_of_refusal

_LISTING_MAX_S = 5.0
#: How long the server is waited for at first.
_OPEN_MAX_S = 2.0


class PostgresOnlooker(Readable[PostgresReader]):
    """A store that is only read. Guards: whatever would write raises `NotLeader`, and its sessions are read only.

    Args:
        listing_max_s: How long workflows are looked through for one listing.
    """

    lease: None = None

    def __init__(self, url: PostgresUrl, *, listing_max_s: float = _LISTING_MAX_S) -> None:
        self._url = url
        self._reader = PostgresReader(url, listing_max_s=listing_max_s)
        self._mailbox = PostgresMailbox(url)

    def __repr__(self) -> str:
        return f"<PostgresOnlooker '{self._url}'>"

    @property
    def mailbox(self) -> PostgresMailbox:
        """Return where letters to whoever leads are left: that is written, and nothing else."""
        return self._mailbox

    async def open(self) -> None:
        """Connect if the server answers. Raises `StoreIncompatible` if the schema is one that cannot be read here."""
        try:
            # A server that does not answer is as one that is away: who asks here should be told so soon.
            with contextlib.suppress(psycopg.Error, StoreUnavailable), anyio.move_on_after(_OPEN_MAX_S):
                await self._reader.open()
                refuse_newer(self._url, await self._reader.number(VERSION_QUERY))
                refuse_moved(await self._reader.recall(MOVED_NOTE), self._url)
                self._identity = await self._reader.recall("identity") or ""
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close; safe to repeat."""
        self._identity = ""
        await self._mailbox.close()
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

    async def unfinished(self) -> AsyncIterator[Stored]:
        """Iterate over the workflows that have not finished, oldest first."""
        async for _, part in self._reader.unfinished():
            for stored in part:
                yield stored

    async def load(self, workflow_id: str, *, to_reopen: bool = False) -> Stored | None:
        """Read one workflow, whatever its state. Raises `NotLeader` if it is to be reopened."""
        if to_reopen:
            raise NotLeader
        stored = await self._reader.load(workflow_id)
        letter = await self._waiting(workflow_id) if stored is None else None
        return stored if letter is None else Stored(await self._awaited(letter), [])

    async def record(self, workflow_id: str) -> WorkflowRecord | None:
        """Read what is stored of a workflow itself, without its definition and nodes. Raises `RefusedLater` or `NotTakenYet`."""
        record = await super().record(workflow_id)
        letter = await self._mailbox.find(workflow_id) if record is None else None
        if letter is None:
            return record
        if letter.is_refused:
            error = error_of_refusal(letter.answer)
            raise RefusedLater(workflow_id, error.message, next_step=error.next_step)
        if letter.known_as:
            # Whoever waits for it asks once more, and is led to that one.
            raise NotTakenYet(workflow_id, letter.known_as)
        return replace(await self._awaited(letter), document=None)

    async def _waiting(self, workflow_id: str) -> Letter | None:
        """Return the letter that is to make a workflow, if it is not answered."""
        letter = await self._mailbox.find(workflow_id)
        return None if letter is None or letter.answer else letter

    async def _awaited(self, letter: Letter) -> WorkflowRecord:
        """Return what will be stored of a workflow that waits for whoever leads: to those who ask here it is there already."""
        if letter.kind is LetterKind.IMPORT:
            imported, _ = await in_thread(lambda: decode_import(letter.body))
            return replace(imported.record, owner=letter.owner)
        about: dict[str, Any] = {"left_at": letter.left_at, "owner": letter.owner, "digest": letter.digest}
        return await in_thread(lambda: awaited_record(letter.body, letter.workflow_id, **about))

    async def find(self, reference: str, *, limit: int = 5) -> Sequence[str]:
        """Return the ids that fit, newest first; the exact id alone if there is one."""
        found = await super().find(reference, limit=limit)
        return found or ([reference] if await self._waiting(reference) else [])

    def statistics(self) -> StoreStatistics:
        """Return an immutable snapshot: nothing is written."""
        return StoreStatistics()
