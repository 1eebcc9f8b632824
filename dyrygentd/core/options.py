"""Publish options with which nothing could be published: found where a workflow is made, not when its turn comes.

What is checked is what kombu and Celery refuse anyway, or what would reach a worker that cannot make sense of it. None stands for
an option that was not given, everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeGuard

from dyrygentd.core.bounds import MESSAGE_PRIORITY_MAX
from dyrygentd.core.headers import OWN_HEADERS, flaw_of_headers
from dyrygentd.core.ids import looks_made
from dyrygentd.core.node_spec import SERIALIZERS
from dyrygentd.core.queues import flaw_of_name

#: Names and content types of kombu's compression, those of optional packages included: what is missing here the daemon may have.
COMPRESSIONS: Final = frozenset(
    {"gzip", "zlib", "bzip", "bzip2", "lzma", "xz", "brotli", "zstd", "zstandard"}
    | {"application/x-gzip", "application/x-bz2", "application/x-lzma", "application/x-brotli", "application/zstd"}
)
#: What a task class may set about its messages; the same attributes as `celery.app.task.extract_exec_options` reads.
EXEC_OPTIONS: Final = (
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
)
LIMITS: Final = ("soft_time_limit", "time_limit")
#: Names the options that the submitting program's app has said, not the signature: an app that has the task says them itself.
FROM_APP: Final = "from_app"
#: How workers write results, where that is not JSON.
RESULT_SERIALIZER: Final = "result_serializer"
#: Beyond, the year of an expiry no longer has four digits.
SECONDS_MAX: Final = 100 * 366 * 86_400.0
#: Some 300 million years: all that can be counted on from now; NaN and infinity are beyond it.
COUNTDOWN_SECONDS_MAX: Final = 1e16


class Flaw(NamedTuple):
    """What is wrong with an option, in words that follow its name, and what to do."""

    reason: str
    next_step: str


def flaw_of(option: str, value: Any) -> Flaw | None:
    """Return what is wrong with the value of an option; None if nothing is, or if the option is not known here."""
    if value is None or option not in _CHECKS:
        return None
    is_good, reason, next_step = _CHECKS[option]
    if not is_good(value):
        return Flaw(f"{reason}, and is {shown(value)}", next_step)
    if option in _PLACES:
        wrong = flaw_of_name(value)
        return Flaw(f"{shown(value)} {wrong}", "name one of your own") if wrong else None
    header = flaw_of_headers(value) if option == "headers" else None
    return Flaw(f"has `{header[0]}`, which workers read", header[1]) if header else None


#: Options that name where a message goes.
_PLACES: Final = frozenset({"queue", "exchange", "routing_key"})


def flaw_among(options: Mapping[str, Any]) -> tuple[str, Flaw] | None:
    """Return the first option with a flaw and what that is; the serializer is for `flaw_of_serializer`, times for who reads them.

    How strict times are read differs at the two doors: a program's canvas may leave out the zone, a definition may not.
    """
    for option, value in options.items():
        flaw = flaw_of(option, value)
        if flaw is not None:
            return option, flaw
    clash = clash_of(options)
    return None if clash is None else ("soft_time_limit", clash)


def flaw_of_nested(options: Mapping[str, Any]) -> tuple[str, Flaw] | None:
    """Return the first option with a flaw of a signature inside another one; workers publish it, and nobody looks at it there."""
    refused = flaw_of_serializer(options.get("serializer"))
    if refused is not None:
        return "serializer", refused
    found = flaw_among(options)
    if found is not None:
        return found
    task_id = options.get("task_id")
    if task_id is not None and not (isinstance(task_id, str) and task_id.isprintable() and not looks_made(task_id)):
        # A worker would store its result under it, and this daemon take it for that of the task whose id it is.
        return "task_id", Flaw("is no text that can be printed, or was made by a dyrygentd for a task of its own", "leave it out")
    headers = options.get("headers")
    own = sorted(OWN_HEADERS & headers.keys()) if isinstance(headers, Mapping) else []
    if own:
        return f"headers.{own[0]}", Flaw("is what a message says about itself", "leave it out")
    return None


def flaw_of_serializer(serializer: object) -> Flaw | None:
    """Return what is wrong with a serializer: looked at even where other options are not, since unpickling runs code."""
    if serializer is None or (isinstance(serializer, str) and serializer in SERIALIZERS):
        return None
    return Flaw(f"'{serializer!s:.60}' is not accepted from a client", f"use one of {', '.join(sorted(SERIALIZERS))}")


def clash_of(options: Mapping[str, Any]) -> Flaw | None:
    """Return what is wrong with options that are good each by itself, in words that follow the first one's name."""
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if soft and hard and soft > hard:
        return Flaw(f"is {soft:g} s, and `time_limit` {hard:g} s", "let the soft limit be the lower one")
    return None


def shown(value: object) -> str:
    """Write a value that somebody gave, cut to a length that fits into a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether it is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def counts_from_dispatch(value: object) -> bool:
    """Tell whether an expiry is a number of seconds: it counts from the dispatch, and is the worker's to judge."""
    return is_number(value) and abs(value) <= SECONDS_MAX


def moment_of(given: object) -> datetime | None:
    """Read a time: a datetime, its ISO 8601 text, or kombu's typed form of it; None if it is none of these.

    It may have no time zone. In a canvas that is UTC, as for workers (``maybe_make_aware``); the wire refuses it.
    """
    moment = given.get("__value__") if isinstance(given, Mapping) else given
    if isinstance(moment, str):
        try:
            return datetime.fromisoformat(moment)
        except ValueError:
            return None
    return moment if isinstance(moment, datetime) else None


def unix_time_of(moment: datetime) -> float:
    """Return a time as Unix seconds; without a time zone it is in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_priority(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MESSAGE_PRIORITY_MAX


def _is_time_limit(value: Any) -> bool:
    return is_number(value) and 0 <= value <= SECONDS_MAX


def _is_compression(value: object) -> bool:
    return not value or (isinstance(value, str) and value in COMPRESSIONS)


def _is_delivery_mode(value: object) -> bool:
    return value in ("transient", "persistent") if isinstance(value, str) else isinstance(value, int)


def _is_headers(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(text, str) for text in value)


def _is_callbacks(value: object) -> bool:
    if not value:
        return True
    callbacks = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(each, Mapping) and isinstance(each.get("task"), str) and each["task"] for each in callbacks)


_TEXT: Final = (_is_text, "must be text")
_CALLBACKS: Final = (_is_callbacks, "must be a signature or a list of them", 'write {"task": name, "args": [...]}')
_LIMIT: Final = (_is_time_limit, "must be a number of seconds, 0 or more", "for a bound from dispatch to result use `timeout_s`")

_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str, str]]] = {
    "queue": (*_TEXT, "give the queue's name; the daemon's app knows the rest"),
    "routing_key": (*_TEXT, "give the key as text"),
    "exchange": (*_TEXT, "give the exchange's name"),
    "exchange_type": (*_TEXT, "use direct, topic, fanout or headers"),
    "shadow": (*_TEXT, "it is the name that logs and monitors show"),
    "priority": (_is_priority, f"must be a whole number from 0 to {MESSAGE_PRIORITY_MAX}", "brokers know numbers only"),
    "time_limit": _LIMIT,
    "soft_time_limit": _LIMIT,
    "compression": (
        _is_compression,
        "must be one that kombu knows",
        f"use one of {', '.join(sorted(name for name in COMPRESSIONS if '/' not in name))}",
    ),
    "delivery_mode": (_is_delivery_mode, "must be 1, 2, 'transient' or 'persistent'", "leave it out for persistent"),
    "headers": (_is_headers, "must be an object", 'write {"name": value}'),
    FROM_APP: (_is_texts, "must be a list of names", "leave it out: the client writes it"),
    RESULT_SERIALIZER: (*_TEXT, "give its name"),
    "stamped_headers": (_is_texts, "must be a list of names", "leave it out, or let Celery's `stamp()` write it"),
    "link": _CALLBACKS,
    "link_error": _CALLBACKS,
}
#: The options that are looked at by `flaw_of`.
CHECKED_OPTIONS: Final = frozenset(_CHECKS)
