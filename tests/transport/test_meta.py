"""Every state that Celery stores, as an event."""

import json
import re
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject, TaskRevokedError, WorkerLostError
from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.core.events import TaskEvent, TaskFailed, TaskIgnored, TaskReported, TaskRevoked, TaskSucceeded
from dyrygentd.core.policy import FailureKind
from dyrygentd.transport.meta import (
    event_of_long_payload,
    event_of_meta,
    event_of_undecodable,
    is_final,
    is_usual_json,
    stored_at,
    stored_of_payload,
)
from dyrygentd.transport.results import StoredResults
from tests.support.apps import closing


class _Unspeakable:
    """Has no JSON form."""


def _endless() -> list[Any]:
    nested: list[Any] = []
    nested.append(nested)
    return nested


@pytest.mark.parametrize(
    ("status", "result", "event"),
    [
        ("PENDING", None, None),
        ("STARTED", {"pid": 1, "hostname": "w"}, TaskReported("t", "STARTED", start="w/1")),
        ("RETRY", ValueError("later"), TaskReported("t", "RETRY", error="ValueError: later")),
        ("RECEIVED", None, TaskReported("t", "RECEIVED")),
        ("REJECTED", "bad input", TaskFailed("t", "rejected: bad input", "Reject", fingerprint="Reject")),
        ("IGNORED", "not today", TaskIgnored("t", "not today")),
        ("IGNORED", "", TaskIgnored("t", "the task asked to be ignored")),
        ("PROGRESS", {"done": 50}, TaskReported("t", "PROGRESS")),
        ("SUCCESS", None, TaskSucceeded("t", b"null")),
        ("SUCCESS", {"ä": [1, True]}, TaskSucceeded("t", b'{"\\u00e4": [1, true]}')),
        ("FAILURE", ValueError("no"), TaskFailed("t", "ValueError: no", "ValueError", fingerprint="ValueError")),
        (
            "FAILURE",
            ValueError("two\n   lines"),
            TaskFailed("t", "ValueError: two\n   lines", "ValueError", fingerprint="ValueError"),
        ),
        (
            "FAILURE",
            WorkerLostError("exitcode 9"),
            TaskFailed(
                "t", "WorkerLostError: exitcode 9", "WorkerLostError", FailureKind.INFRASTRUCTURE, fingerprint="WorkerLostError"
            ),
        ),
        ("FAILURE", Reject("why", requeue=False), TaskFailed("t", "Reject: ('why', False)", "Reject", fingerprint="Reject")),
        ("FAILURE", "text only", TaskFailed("t", "text only", fingerprint="failure")),
        ("FAILURE", None, TaskFailed("t", "None", fingerprint="failure")),
        ("REVOKED", TaskRevokedError("expired"), TaskRevoked("t", "expired", is_expired=True)),
        ("REVOKED", TaskRevokedError("terminated"), TaskRevoked("t", "terminated")),
        ("REVOKED", None, TaskRevoked("t", "revoked")),
        (None, None, TaskFailed("t", "the stored result cannot be decoded: TypeError: its state is None")),
    ],
)
def test_states(status: Any, result: Any, event: TaskEvent | None) -> None:
    """Each state is read as what it means, and only ends are final."""
    read = event_of_meta("t", {"status": status, "result": result})
    assert read == event
    if read is not None:
        assert is_final(read) is not isinstance(read, TaskReported)


def test_cause_is_the_same_for_the_same_place() -> None:
    """Failures are grouped by the exception and where it was raised, whatever values its message has."""
    traceback = (
        'Traceback (most recent call last):\n  File "/x/celery/app/trace.py", line 585, in trace_task\n    R = fun()\n'
        '  File "/srv/tasks.py", line 12, in drain\n    connect(host)\n  File "/srv/net.py", line 3, in connect\n    raise\n'
    )
    fingerprints = {
        event_of_meta("t", {"status": "FAILURE", "result": OSError(host), "traceback": traceback}).fingerprint  # type: ignore[union-attr]
        for host in ("a", "b")
    }
    assert fingerprints == {"OSError in connect (net.py:3) in drain (tasks.py:12)"}


def test_absent_result_is_none() -> None:
    """A meta without a result field is a result of None, as backends leave it out."""
    assert event_of_meta("t", {"status": "SUCCESS"}) == TaskSucceeded("t", b"null")


@pytest.mark.parametrize("value", [_Unspeakable(), {1, _Unspeakable()}, _endless()])
def test_value_without_json_form(value: Any) -> None:
    """A pickled value that JSON cannot carry is a success without a value, with the reason for whoever needs it."""
    event = event_of_meta("t", {"status": "SUCCESS", "result": value})
    assert isinstance(event, TaskSucceeded)
    assert event.value is None
    assert "no JSON form" in event.value_error


def test_long_error_is_cut() -> None:
    """An error text is kept short, because it is stored and shown in lists."""
    event = event_of_meta("t", {"status": "FAILURE", "result": ValueError("x" * 10_000)})
    assert isinstance(event, TaskFailed)
    assert len(event.error) == 8192


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b'{"status": "SUCCESS", "result": "xx', TaskSucceeded),
        (b'{"status":"FAILURE","result":', TaskFailed),
        (b' {"status": "REVOKED", ', TaskRevoked),
        (b'{"status": "PROGRESS", "result": ', TaskReported),
        (b'{"status": "PENDING", "result": ', TaskFailed),
        (b"\x80\x05\x95", TaskFailed),
        (b"\x00celery-compressed\x00", TaskFailed),
    ],
)
def test_long_payload(beginning: bytes, kind: type[TaskEvent]) -> None:
    """The state of a result that is too long is read off its beginning, where Celery's JSON has it."""
    event = event_of_long_payload("t", 10**8, beginning, value_bytes_max=10)
    assert isinstance(event, kind)
    if isinstance(event, TaskSucceeded):
        assert event.value is None
    if not isinstance(event, TaskReported):
        assert "100000000 bytes" in str(event)


def test_undecodable() -> None:
    """What cannot be decoded is a failure, with the decoder's words."""
    assert event_of_undecodable("t", ValueError("bad\nbyte")) == TaskFailed(
        "t", "the stored result cannot be decoded: ValueError: bad\nbyte"
    )


# --- the short way of a success -------------------------------------------------------------------------------------

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def backend() -> Any:
    """Celery's backend for Redis, which is not connected."""
    with closing(Celery(backend="redis://127.0.0.1:1", set_as_current=False)) as app:
        yield app.backend


@settings(deadline=None, max_examples=300)
@given(value=_values, is_ascii=st.booleans(), is_extended=st.booleans())
def test_the_short_way_reads_what_celery_reads(value: Any, is_ascii: bool, is_extended: bool, backend: Any) -> None:
    """A success is read as Celery's own decoder reads it, whatever its value; what the short way leaves alone is no harm."""
    meta = {"status": "SUCCESS", "result": value, "traceback": None, "children": [], "date_done": "2030-01-31T00:00:00+00:00"}
    meta |= {"task_id": "t", "name": "n", "args": [value], "kwargs": {}, "worker": "w"} if is_extended else {"task_id": "t"}
    payload = json.dumps(meta, ensure_ascii=is_ascii).encode(errors="backslashreplace")
    success = stored_of_payload(payload)
    slow = event_of_meta("t", StoredResults(backend).decode(payload))
    assert isinstance(slow, TaskSucceeded)
    assert slow.value is not None
    if success is None:
        assert not payload.isascii() or any(word in payload for word in (b"NaN", b"Infinity")) or has_odd(payload)
    else:
        assert json.loads(bytes(success.result)) == json.loads(slow.value)
        assert stored_at(success.date_done) == 1896048000.0


def has_odd(payload: bytes) -> bool:
    """Tell whether there is half of a surrogate pair, which is no Unicode, or a number that fits into no machine's."""
    return b"\\ud" in payload or re.search(rb"\d{19}", payload) is not None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"result": 1}',
        b'{"status": null, "result": 1}',
        b'{"status": "SUCCESS", "result": NaN}',
        b'{"status": "SUCCESS", "result": "\xc5\x82"}',
        b"x\x9c\x03\x00",
        b'{"status": "SUCCESS", "result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_all_else_is_left_to_celery(payload: bytes) -> None:
    """What is no plain JSON is decoded in a thread, with whatever that says about it."""
    assert stored_of_payload(payload) is None


def test_other_backends_are_read_by_themselves(backend: Any) -> None:
    """Who has a decoder of their own, or another serializer, gets it asked."""
    assert is_usual_json(backend)

    class Own(type(backend)):  # type: ignore[misc]
        def decode_result(self, payload: Any) -> Any:
            return super().decode_result(payload)

    for own in (
        Own(app=backend.app, url="redis://127.0.0.1:1"),
        type(backend)(app=backend.app, url="redis://127.0.0.1:1", serializer="yaml"),
        type(backend)(app=backend.app, url="redis://127.0.0.1:1", accept=["yaml"]),
    ):
        assert not is_usual_json(own)
