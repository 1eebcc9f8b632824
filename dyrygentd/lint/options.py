"""The publish options of one task: what could not be published, would expire, or has no effect."""

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from dyrygentd.core.node_spec import RESERVED_OPTIONS, SERIALIZERS
from dyrygentd.core.options import (
    CHECKED_OPTIONS,
    COUNTDOWN_SECONDS_MAX,
    counts_from_dispatch,
    flaw_of,
    is_number,
    moment_of,
    shown,
    unix_time_of,
)
from dyrygentd.lint.faults import Fault, resembling

#: Text and seconds that kombu and Celery do not refuse, or a submission refuses elsewhere.
_TEXT: Final = ("serializer", "argsrepr", "kwargsrepr")
_SECONDS: Final = ("countdown", "expiration", "timeout", "confirm_timeout")
_KNOWN_OPTIONS: Final = frozenset(
    {*CHECKED_OPTIONS, *_TEXT, *_SECONDS, *RESERVED_OPTIONS, "eta", "expires", "ignore_result"}
    | {"mandatory", "immediate", "declare", "add_to_parent", "origin", "router"}
    | {"publisher", "result_cls", "task_type", "route_name", "event_dispatcher"}
    # Of a message in AMQP.
    | {"content_type", "content_encoding", "message_id", "user_id", "app_id", "cluster_id", "timestamp", "type"}
)
#: Subjects of what the import of a canvas and the decoding of a document refuse themselves.
UNREADABLE: Final = RESERVED_OPTIONS | {"countdown", "eta"}
#: Codes of flaws that have one of their own.
_CODES: Final = {"compression": "unknown-compression"}


def faults_of_options(options: Mapping[str, Any]) -> Iterator[Fault]:
    """Check the publish options of one task: what a submission refuses, in its words, and what is not meant so."""
    given = {str(name): value for name, value in options.items() if value is not None}
    for name, value in given.items():
        flaw = flaw_of(name, value)
        if flaw is not None:
            subject = shown(value) if name in _CODES else name
            yield Fault(_CODES.get(name, "bad-option"), subject, f"`{name}` {flaw.reason}", next_step=flaw.next_step)
        elif name in _TEXT and not isinstance(value, str):
            yield _bad_option(name, value, "text")
        elif name in _SECONDS and not is_finite(value):
            yield _bad_option(name, value, "a number of seconds")
        elif name == "serializer" and value not in SERIALIZERS:
            yield Fault("serializer-refused", value, f"serializer '{value}' is not accepted")
        elif name == "priority" and value > 9:
            yield Fault("priority-range", "", f"`priority` is {value}: Redis takes all above 9 for 9")
    yield from _faults_of_moments(given)
    stamps = given.get("stamped_headers")
    known = _KNOWN_OPTIONS | set(map(str, stamps)) if isinstance(stamps, list | tuple) else _KNOWN_OPTIONS
    for name in given.keys() - known:
        said = f"'{name}' is no publish option{resembling(name, _KNOWN_OPTIONS)}"
        yield Fault("unknown-option", name, said)


def faults_of_callbacks(options: Mapping[str, Any]) -> Iterator[Fault]:
    for name, word in (("link", "callback"), ("link_error", "error callback")):
        if options.get(name):
            said = f"`{name}` is called by the worker: the {word} has no state here and is not waited for"
            yield Fault("link-untracked", name, said)


def _faults_of_moments(given: Mapping[str, Any]) -> Iterator[Fault]:
    eta, expires = given.get("eta"), given.get("expires")
    if eta is not None and not is_finite(eta) and moment_of(eta) is None:
        yield _bad_option("eta", eta, "a time, as datetime or in ISO 8601")
    if expires is None:
        return
    if counts_from_dispatch(expires):
        if expires <= 0:
            yield Fault("expires-passed", "", f"`expires` is {expires:g} s, so the task has expired when it is sent")
        return
    expires_at = time_of(expires)
    if expires_at is None:
        yield _bad_option("expires", expires, "a number of seconds or a time")
    elif expires_at <= time.time():
        when = datetime.fromtimestamp(expires_at, UTC).isoformat(timespec="seconds")
        yield Fault("expires-passed", "", f"`expires` is {when}, which has passed")


def _bad_option(name: str, value: Any, wanted: str) -> Fault:
    return Fault("bad-option", name, f"`{name}` must be {wanted}, and is {shown(value)}")


def is_finite(value: Any) -> bool:
    """Tell whether it is a number of seconds that can be counted."""
    return is_number(value) and abs(value) <= COUNTDOWN_SECONDS_MAX


def time_of(given: Any) -> float | None:
    """Read a time as Unix seconds; without a time zone it is in UTC."""
    moment = moment_of(given)
    return None if moment is None else unix_time_of(moment)
