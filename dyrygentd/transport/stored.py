"""Whether anything is stored under task ids that came from outside: asked once, before a submission is answered.

Nothing is decoded here. On Redis it is one command for some hundred ids, in a database one query; other backends are asked for
one key after the other, in a thread.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
import redis
from celery.backends.base import KeyValueStoreBackend
from celery.states import PENDING

from dyrygentd.core.ids import as_compared
from dyrygentd.errors import BackendUnavailable
from dyrygentd.transport.meta import state_of_payload
from dyrygentd.transport.redis_asking import Asking
from dyrygentd.transport.redis_connections import pool_like
from dyrygentd.transport.redis_reading import key_bytes
from dyrygentd.transport.results import StoredResults, states_of

#: Ids in one question.
_SLICE: Final = 500
#: That all questions of a submission may take.
_TIMEOUT_S: Final = 20.0
#: Enough of a result to see its state.
_BEGINNING_BYTES: Final = 100
#: What is stored, and does not show its state.
_UNKNOWN: Final = "of an unreadable result"


class StoredOnRedis:
    """Asks a Redis backend. Guards: one question at a time, and after `close` no connection is left.

    From `keep` to `close` the connection stays open: opening one costs more than all the rest of a small submission.
    """

    def __init__(self, backend: Any) -> None:
        self._asking = Asking(pool_like(backend, None))
        self._is_kept = False
        self._one_at_a_time = asyncio.Lock()
        # The key ends with the id.
        self._prefix: bytes = key_bytes(backend.get_key_for_task("x"))[:-1]

    def __repr__(self) -> str:
        return f"<StoredOnRedis is_connected={not self._asking.is_fresh}>"

    async def find(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the states of those of which anything is stored. Raises `BackendUnavailable`."""
        try:
            # anyio's way costs 50 us.
            async with asyncio.timeout(_TIMEOUT_S), self._one_at_a_time:
                try:
                    return await self._find(task_ids)
                finally:
                    if not self._is_kept:
                        await self._asking.close()
        except (redis.RedisError, OSError, RuntimeError) as error:
            raise _unavailable(error) from error

    def keep(self) -> None:
        """Keep the connection open after a question, until `close`."""
        self._is_kept = True

    async def close(self) -> None:
        """Close the connection, and from now on after each question."""
        self._is_kept = False
        await self._asking.close()

    async def _find(self, task_ids: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in _slices(task_ids):
            keys = [self._prefix + task_id.encode(errors="replace") for task_id in part]
            # Nothing is there but for mistakes and mischief.
            if await self._ask("EXISTS", *keys):
                for task_id, key in zip(part, keys, strict=True):
                    if await self._ask("EXISTS", key):
                        beginning: Any = await self._ask("GETRANGE", key, 0, _BEGINNING_BYTES)
                        found[task_id] = state_of_payload(beginning) or _UNKNOWN
        return found

    async def _ask(self, *words: str | int | bytes) -> Any:
        is_fresh = self._asking.is_fresh
        try:
            return await self._asking.ask(*words)
        except (redis.ConnectionError, OSError):
            if is_fresh:
                raise
            # It may have been cut while nobody used it, which is no outage.
            return await self._asking.ask(*words)


async def find_in(backend: Any, task_ids: Sequence[str]) -> dict[str, str]:
    """Ask any backend, in a thread. Raises `BackendUnavailable`."""
    try:
        with anyio.fail_after(_TIMEOUT_S):
            return await anyio.to_thread.run_sync(_ask, backend, task_ids, abandon_on_cancel=True)
    except Exception as error:
        # Each backend has errors of its own.
        raise _unavailable(error) from error


def _ask(backend: Any, task_ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _slices(task_ids):
        if hasattr(backend, "ResultSession"):
            found |= _ask_database(backend, part)
        elif isinstance(backend, KeyValueStoreBackend):
            for task_id in part:
                payload = backend.get(backend.get_key_for_task(task_id))
                if payload:
                    beginning = payload.encode() if isinstance(payload, str) else bytes(payload)
                    found[task_id] = state_of_payload(beginning[:_BEGINNING_BYTES]) or _UNKNOWN
        else:
            metas = states_of(StoredResults(backend), part)
            found |= {task_id: meta["status"] for task_id, meta in metas.items() if meta["status"] != PENDING}
    return found


def _ask_database(backend: Any, task_ids: Sequence[str]) -> dict[str, str]:
    """Ask Celery's backend over SQLAlchemy with one query, and for two columns only."""
    table, session = backend.task_cls, backend.ResultSession()
    try:
        rows = session.query(table.task_id, table.status).filter(table.task_id.in_(task_ids))
        # A database that takes two spellings for one answers with that which it has.
        asked = {as_compared(task_id): task_id for task_id in task_ids}
        return {asked.get(as_compared(task_id), task_id): status for task_id, status in rows if status != PENDING}
    finally:
        session.close()


def _slices(task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(task_ids), _SLICE):
        yield task_ids[start : start + _SLICE]


def _unavailable(error: BaseException) -> BackendUnavailable:
    return BackendUnavailable(f"cannot look whether task ids have results: {str(error) or type(error).__name__}")
