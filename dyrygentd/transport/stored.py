"""Whether anything is stored under task ids that came from outside: asked once, before a submission is answered.

Nothing is decoded here. On Redis it is one command for some hundred ids, in a database one query; other backends are asked for
one key after the other, in a thread.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
import redis.asyncio
from celery.backends.base import KeyValueStoreBackend
from celery.states import PENDING

from dyrygentd.core.ids import as_compared
from dyrygentd.errors import BackendUnavailable
from dyrygentd.transport.meta import state_of_payload
from dyrygentd.transport.redis_asking import Asking
from dyrygentd.transport.redis_connections import asyncio_pool
from dyrygentd.transport.results import StoredResults, states_of

#: Ids in one question.
_SLICE: Final = 500
#: That all questions of a submission may take.
_TIMEOUT_S: Final = 20.0
#: Enough of a result to see its state.
_BEGINNING_BYTES: Final = 100
#: What is stored, and does not show its state.
_UNKNOWN: Final = "of an unreadable result"


async def find_on_redis(backend: Any, task_ids: Sequence[str]) -> dict[str, str]:
    """Ask a Redis backend, over a connection of its own. Raises `BackendUnavailable`."""
    pool = asyncio_pool(backend.connparams, _TIMEOUT_S)
    client, asking = redis.asyncio.Redis(connection_pool=pool), Asking(pool)
    found: dict[str, str] = {}
    # The key ends with the id.
    prefix: bytes = backend.get_key_for_task("x")[:-1]
    try:
        with anyio.fail_after(_TIMEOUT_S):
            for part in _slices(task_ids):
                keys = [prefix + task_id.encode(errors="replace") for task_id in part]
                # Nothing is there but for mistakes and mischief.
                if await asking.ask("EXISTS", *keys):
                    for task_id, key in zip(part, keys, strict=True):
                        if await client.exists(key):
                            beginning: Any = await client.getrange(key, 0, _BEGINNING_BYTES)
                            found[task_id] = state_of_payload(beginning) or _UNKNOWN
    except (redis.RedisError, OSError, RuntimeError) as error:
        raise _unavailable(error) from error
    finally:
        with anyio.move_on_after(_TIMEOUT_S, shield=True):
            await asking.close()
            await pool.disconnect()
    return found


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
