"""Publish options with which nothing could be published: found where a workflow is made, not when its turn comes.

What is checked is what kombu and Celery refuse anyway, or what would reach a worker that cannot make sense of it. None stands for
an option that was not given, everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

#: Names and content types of kombu's compression, those of optional packages included: what is missing here the daemon may have.
COMPRESSIONS: Final = frozenset(
    {"gzip", "zlib", "bzip", "bzip2", "lzma", "xz", "brotli", "zstd", "zstandard"}
    | {"application/x-gzip", "application/x-bz2", "application/x-lzma", "application/x-brotli", "application/zstd"}
)
#: AMQP has one byte for it.
PRIORITY_MAX: Final = 255
#: Beyond, the year of an expiry no longer has four digits.
SECONDS_MAX: Final = 100 * 366 * 86_400.0


class Flaw(NamedTuple):
    """What is wrong with an option, in words that follow its name, and what to do."""

    reason: str
    next_step: str


def flaw_of(option: str, value: Any) -> Flaw | None:
    """Return what is wrong with the value of an option; None if nothing is, or if the option is not known here."""
    if value is None or option not in _CHECKS:
        return None
    is_good, reason, next_step = _CHECKS[option]
    return None if is_good(value) else Flaw(f"{reason}, and is {shown(value)}", next_step)


def shown(value: object) -> str:
    """Write a value that somebody gave, cut to a length that fits into a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def is_number(value: object) -> bool:
    """Tell whether it is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_priority(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= PRIORITY_MAX


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
    "priority": (_is_priority, f"must be a whole number from 0 to {PRIORITY_MAX}", "brokers know numbers only"),
    "time_limit": _LIMIT,
    "soft_time_limit": _LIMIT,
    "compression": (
        _is_compression,
        "must be one that kombu knows",
        f"use one of {', '.join(sorted(name for name in COMPRESSIONS if '/' not in name))}",
    ),
    "delivery_mode": (_is_delivery_mode, "must be 1, 2, 'transient' or 'persistent'", "leave it out for persistent"),
    "headers": (_is_headers, "must be an object", 'write {"name": value}'),
    "stamped_headers": (_is_texts, "must be a list of names", "leave it out, or let Celery's `stamp()` write it"),
    "link": _CALLBACKS,
    "link_error": _CALLBACKS,
}
