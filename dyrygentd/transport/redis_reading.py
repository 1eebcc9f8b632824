"""What is stored of tasks in a Redis backend: under which keys, and how it is read without holding anybody up."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import anyio
import anyio.to_thread
import redis.asyncio

from dyrygentd.transport.meta import as_seen, is_usual_json, state_of_payload, stored_of_payload
from dyrygentd.transport.redis_asking import Script
from dyrygentd.transport.redis_connections import pool_like
from dyrygentd.transport.results import UNREADABLE, StoredResults

#: A reply that carries more is cut, and the rest asked for again: what has to arrive within the deadline of one command is
#: bounded, however large the results are.
REPLY_BYTES_MAX: Final = 8 * 1024 * 1024
#: Enough of a result that is too long to see its state.
BEGINNING_BYTES: Final = 100
#: Longest result that is decoded for somebody who only asks for its state.
_INSPECTED_BYTES_MAX: Final = 64 * 1024

#: ARGV: bytes of the reply, and of one payload. Answers for each key, up to where the reply is full: nothing, the payload, or the
#: size and the beginning of one that is too long.
_READ_SCRIPT: Final = f"""
local answers, left = {{}}, tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
    local size = redis.pcall('STRLEN', key)
    if type(size) ~= 'number' then
        answers[i] = false
    elseif size > tonumber(ARGV[2]) then
        answers[i] = {{size, redis.call('GETRANGE', key, 0, {BEGINNING_BYTES - 1})}}
    elseif size > left and i > 1 then
        break
    else
        answers[i] = redis.call('GET', key)
        left = left - size
    end
end
return answers
"""
READ: Final = Script(_READ_SCRIPT)


def prefix_of(backend: Any) -> str:
    """Return what stands before all keys of a Redis backend, as `celery.backends.base.KeyValueStoreBackend` has put it there."""
    key = backend.task_keyprefix
    return (key.decode() if isinstance(key, bytes) else str(key)).removesuffix("celery-task-meta-")


async def read_results(backend: Any, task_ids: Sequence[str], *, timeout_s: float) -> dict[str, Mapping[str, Any]]:
    """Read what is stored of a few tasks, over a connection of its own: ``{task_id: meta}``, with PENDING where nothing is.

    Of a result that is too long, or cannot be decoded, the meta is no more than the state at its beginning.
    """
    client = redis.asyncio.Redis(connection_pool=pool_like(backend, timeout_s))
    has_usual_form = is_usual_json(backend)
    metas: dict[str, Mapping[str, Any]] = {}
    odd: dict[str, bytes] = {}
    left = {task_id: key_bytes(backend.get_key_for_task(task_id)) for task_id in task_ids}
    try:
        while left:
            channels = list(left.values())
            with anyio.fail_after(timeout_s):
                payloads = await client.eval(_READ_SCRIPT, len(channels), *channels, REPLY_BYTES_MAX, _INSPECTED_BYTES_MAX)
            for task_id, payload in zip(list(left), payloads, strict=False):
                if payload is None:
                    metas[task_id] = {"status": "PENDING"}
                elif isinstance(payload, list):
                    metas[task_id] = {"status": state_of_payload(payload[1]) or UNREADABLE}
                elif (stored := stored_of_payload(payload) if has_usual_form else None) is not None:
                    metas[task_id] = as_seen(stored.meta())
                else:
                    odd[task_id] = payload
                del left[task_id]
    finally:
        with anyio.move_on_after(timeout_s, shield=True):
            await client.aclose()
            await client.connection_pool.disconnect()
    if odd:
        metas |= await anyio.to_thread.run_sync(_decoded, StoredResults(backend), odd, abandon_on_cancel=True)
    return metas


def _decoded(stored: StoredResults, payloads: Mapping[str, bytes]) -> dict[str, Mapping[str, Any]]:
    metas: dict[str, Mapping[str, Any]] = {}
    for task_id, payload in payloads.items():
        metas[task_id] = {"status": state_of_payload(payload) or UNREADABLE}
        with suppress(Exception):
            # Whatever the serializer raises.
            metas[task_id] = as_seen(stored.decode(payload))
    return metas


def key_bytes(key: str | bytes) -> bytes:
    """Return a key as it is sent; backends make them as either."""
    return key.encode() if isinstance(key, str) else key
