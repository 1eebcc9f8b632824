"""Reading the database past its writer: the three ways of `dyrygentd.store.reader` are connections."""

from collections.abc import Sequence
from typing import Any, Final

import psycopg

from dyrygentd.errors import ListingTooLong, StoreIncompatible
from dyrygentd.ports.facts import Selection, Term
from dyrygentd.store.postgres.connection import Link
from dyrygentd.store.postgres.refusals import refusal_to
from dyrygentd.store.postgres.rows import pair_of, text_of
from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.reader import Condition, Reader

#: How long the server works on what is read of one workflow, and on what a turn or a submission waits for.
_SHOWN_MAX_S: Final = 60.0


class PostgresReader(Reader):
    """Reads one schema.

    Args:
        listing_max_s: How long workflows are looked through for one listing.
    """

    DOCUMENT_BYTES = "octet_length(document)"
    BY_END = "finished_at DESC NULLS LAST, seq DESC"

    def __init__(self, url: PostgresUrl, *, listing_max_s: float) -> None:
        self._url = url
        self._listing_max_s = listing_max_s
        self._finder = Link(url, query_max_s=_SHOWN_MAX_S)
        self._shower = Link(url, query_max_s=_SHOWN_MAX_S)
        self._lister = Link(url, query_max_s=listing_max_s)

    def __repr__(self) -> str:
        return f"<PostgresReader {self._finder!r}>"

    async def open(self) -> None:
        """Connect to a database that has its schema. Raises ``psycopg.Error``; then whoever reads connects, until `close`."""
        links = (self._finder, self._shower, self._lister)
        for link in links:
            link.is_open = True
        for link in links:
            await link.open()

    def close(self) -> None:
        """Close the connections; safe to repeat."""
        for link in (self._finder, self._shower, self._lister):
            link.close()

    async def term(self) -> Term | None:
        """Return who has taken the database over last, None if nobody ever has. Raises `StoreUnavailable`."""
        ((text,),) = await self.found("SELECT term FROM owner")
        return Term.of(text)

    # --- what a reader needs ----------------------------------------------------------------------------------------

    async def found(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what an index leads to, past everybody who reads much."""
        return await self._fetched(self._finder, query, values)

    async def fetch(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what is shown of one workflow, or needs no hurry."""
        return await self._fetched(self._shower, query, values)

    async def _listed(self, query: str, *values: Any) -> Sequence[Any]:
        """Fetch what may need a look at all workflows, for a bounded time."""
        try:
            return await self._fetched(self._lister, query, values)
        except Exception as error:
            if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
                raise ListingTooLong(self._listing_max_s) from error
            raise

    async def _fetched(self, link: Link, query: str, values: Sequence[Any]) -> Sequence[Any]:
        parameters = [text_of(value) if isinstance(value, str) else value for value in values]
        try:
            return await link.fetch(query.replace("?", "%s"), parameters)
        except psycopg.Error as error:
            raise refusal_to("read", self._url, error) from error

    def _among(self, column: str, numbers: Sequence[int]) -> tuple[str, Any]:
        return f"{column} = ANY (?::bigint[])", numbers

    def _conditions(self, selection: Selection) -> Sequence[Condition]:
        labels = [pair_of(label, value) for label, value in selection.labels.items()]
        return [
            (condition, [value])
            for condition, value in (
                ("state = ANY (?::text[])", sorted(selection.states) or None),
                ("owner = ?", selection.owner and str(selection.owner.identity)),
                ("label_pairs @> ?::text[]", labels or None),
                ("parent_task = ?", selection.parent_task),
                ("series = ?", selection.series),
                ("finished_at >= ?", selection.ended_since),
            )
            if value is not None
        ]

    def _damaged(self, what: str) -> StoreIncompatible:
        error = StoreIncompatible(f"the database '{self._url}' is damaged: {what}")
        error.next_step = "did somebody change its rows? A copy of the server's own tools has them as they were"
        return error
