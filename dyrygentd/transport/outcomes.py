"""Stores how tasks ended that never ran, in Celery's result backend, as Celery itself stores a failure.

A failure that is handed on is the stored one of the task to blame, with its type; behind a join it is Celery's ``ChordError``.
The traceback says that no worker has seen the task (`meta.NEVER_RAN`): by that our watchers tell it from a worker's result.
Failures are data here, as they are for those who read results (`dyrygentd.transport.results`): a name and arguments, and no
exception is made.

On Redis one script decides and writes, so a worker that stores its result at the same moment is never overwritten; elsewhere the
result is read first, as `celery.backends.base.Backend` itself does it, and somebody may come in between.
"""

import builtins
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
import celery.exceptions
import kombu.exceptions
from celery.backends.redis import RedisBackend
from kombu.utils.json import loads

from dyrygentd.core.unrun import StoreOutcome, Told
from dyrygentd.errors import BackendUnavailable
from dyrygentd.transport.meta import NEVER_RAN, is_never_ran
from dyrygentd.transport.results import DECODING_ERRORS, StoredResults

#: What no worker writes into a result by accident, and no serializer changes.
_MARK: Final = NEVER_RAN.rpartition(" in ")[2].strip()
#: Longer ones are not ours, and a failure that is handed on and is longer than half of it is told in words instead.
_OURS_BYTES_MAX: Final = 32_768
_NAMED: Final = re.compile(r"(?:not dispatched: )?([A-Za-z_][\w.]*): ?(.*)", re.DOTALL)
_NAME_SPACES: Final = (builtins, celery.exceptions, kombu.exceptions)
#: KEYS: results. ARGV: our mark, longest result that may be ours, then of each key the seconds that it is kept, and the result.
_STORE: Final = """
local count = 0
for index, key in ipairs(KEYS) do
  local is_free = redis.call('EXISTS', key) == 0
  if not is_free and redis.call('STRLEN', key) <= tonumber(ARGV[2]) then
    is_free = string.find(redis.call('GET', key), ARGV[1], 1, true) ~= nil
  end
  if is_free then
    local kept_s, result = tonumber(ARGV[1 + 2 * index]), ARGV[2 + 2 * index]
    if kept_s > 0 then
      redis.call('SETEX', key, kept_s, result)
    else
      redis.call('SET', key, result)
    end
    redis.call('PUBLISH', key, result)
    count = count + 1
  end
end
return count
"""


class CeleryOutcomeKeeper:
    """Stores outcomes through a Celery result backend, in one thread."""

    def __init__(self, backend: Any) -> None:
        self._stored = StoredResults(backend)
        self._backend = self._stored.backend
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._is_redis = isinstance(backend, RedisBackend)

    async def store(self, outcomes: Sequence[StoreOutcome]) -> int:
        """Store those of whose tasks nothing is stored but what was stored here."""
        try:
            return await anyio.to_thread.run_sync(self._store, outcomes, limiter=self._one_at_a_time, abandon_on_cancel=True)
        except Exception as error:
            # Each backend has errors of its own.
            raise BackendUnavailable(f"the result backend does not take results: {error!s:.200}") from error

    async def close(self) -> None:
        """Leave the connections to the backend, whose they are."""

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _store(self, outcomes: Sequence[StoreOutcome]) -> int:
        self._stored.begin()
        try:
            causes = self._causes({outcome.to_blame for outcome in outcomes if outcome.to_blame})
            results = [_result_of(outcome, causes.get(outcome.to_blame)) for outcome in outcomes]
            return self._store_in_redis(outcomes, results) if self._is_redis else self._store_one_by_one(outcomes, results)
        except Exception as error:
            self._stored.failed(error)
            raise

    def _store_in_redis(self, outcomes: Sequence[StoreOutcome], results: Sequence[Any]) -> int:
        backend = self._backend
        arguments: list[Any] = [_MARK, _OURS_BYTES_MAX]
        for outcome, result in zip(outcomes, results, strict=True):
            state = outcome.told.value
            meta = backend._get_result_meta(
                result=backend.encode_result(result, state), state=state, traceback=_traceback_of(outcome, result), request=None
            )
            kept_s = backend.expires
            if outcome.told is Told.FAILURE:
                kept_s = getattr(backend, "failure_expires", kept_s)
            arguments += [int(kept_s or 0), backend.encode({**meta, "task_id": outcome.task_id})]
        keys = [backend.get_key_for_task(outcome.task_id) for outcome in outcomes]
        return int(backend.client.eval(_STORE, len(keys), *keys, *arguments))

    def _store_one_by_one(self, outcomes: Sequence[StoreOutcome], results: Sequence[Any]) -> int:
        count = 0
        for outcome, result in zip(outcomes, results, strict=True):
            try:
                meta = self._stored.meta(outcome.task_id)
            except DECODING_ERRORS:
                continue  # There is something, and it is not ours.
            if meta["status"] == "PENDING" or is_never_ran(meta):
                traceback = _traceback_of(outcome, result)
                self._backend.store_result(outcome.task_id, result, outcome.told.value, traceback=traceback)
                count += 1
        return count

    def _causes(self, task_ids: set[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the failures that are handed on, ``{task id: failure}``, as far as they can be read as data."""
        causes: dict[str, Mapping[str, Any]] = {}
        for task_id in task_ids:
            try:
                failure: Any = self._stored.meta(task_id).get("result")
                is_failure = isinstance(failure, dict) and isinstance(failure.get("exc_type"), str)
                if is_failure and len(json.dumps(failure)) <= _OURS_BYTES_MAX // 2:
                    causes[task_id] = failure
            except DECODING_ERRORS:
                continue  # The words that we have are told instead.
        return causes


def _result_of(outcome: StoreOutcome, cause: Mapping[str, Any] | None) -> Any:
    """Return the value, or the failure as Celery stores it, that whoever asks for the result gets."""
    if outcome.told is Told.SUCCESS:
        return loads(outcome.value)
    if outcome.told is Told.REVOKED:
        return _failure("TaskRevokedError", outcome.reason, "celery.exceptions")
    failure = cause or _failure_of(outcome.reason)
    if not outcome.is_chord:
        return failure
    arguments = failure.get("exc_message")
    listed = arguments if isinstance(arguments, list | tuple) else [arguments]
    raised = f"{failure['exc_type']}({', '.join(map(repr, listed))})"
    return _failure("ChordError", f"Dependency {outcome.to_blame} raised {raised}", "celery.exceptions")


def _failure(name: str, text: str, module: str | None) -> dict[str, Any]:
    return {"exc_type": name, "exc_message": [text], "exc_module": module}


def _failure_of(words: str) -> dict[str, Any]:
    """Make of an error's words the failure that they name; whoever reads it makes a class of that name if there is none."""
    named = _NAMED.fullmatch(words)
    if named is None:
        return _failure("TaskError", words, "celery.exceptions")
    name = named[1].rpartition(".")[2]
    module = next((space.__name__ for space in _NAME_SPACES if _is_exception(getattr(space, name, None))), None)
    return _failure(name, named[2], module)


def _is_exception(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _traceback_of(outcome: StoreOutcome, result: Any) -> str | None:
    if outcome.told is Told.SUCCESS:
        return None
    return f"{NEVER_RAN}{result['exc_type']}: {result.get('exc_message')!s:.500}"
