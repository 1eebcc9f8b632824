"""One task of a canvas, written as the core keeps it: arguments and options as JSON, start and expiry as Unix times."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any

from dyrygentd.canvas.parts import listed, united
from dyrygentd.canvas.values import json_array, json_object
from dyrygentd.canvas.visits import Passed, overridden
from dyrygentd.core.bounds import NAME_LENGTH_MAX
from dyrygentd.core.node_spec import RESERVED_OPTIONS, Signature
from dyrygentd.core.options import (
    COUNTDOWN_SECONDS_MAX,
    counts_from_dispatch,
    flaw_among,
    flaw_of_serializer,
    moment_of,
    shown,
    unix_time_of,
)
from dyrygentd.errors import BadNode


def signature_of(name: str, what: Mapping[str, Any], passed: Passed, *, has_good_options: bool) -> Signature:
    """Write one task's signature as the core keeps it."""
    if len(what["task"]) > NAME_LENGTH_MAX:
        raise BadNode(name[:NAME_LENGTH_MAX], f"the task's name has more than {NAME_LENGTH_MAX} characters")
    args, kwargs, immutable = what.get("args") or (), what.get("kwargs") or {}, bool(what.get("immutable"))
    if not isinstance(kwargs, Mapping):
        raise BadNode(name, "`kwargs` must be a mapping")
    if not immutable:
        args = (*passed.args, *args) if passed.args else args
        kwargs = {**kwargs, **passed.kwargs} if passed.kwargs else kwargs
    options, countdown_s, eta_at = _split_options(name, what.get("options") or {}, passed)
    expires_at = _checked_options(name, options) if options and has_good_options else 0.0
    return Signature(
        task=what["task"],
        args=json_array(name, args) if args else b"[]",
        kwargs=json_object(name, kwargs, "argument") if kwargs else b"{}",
        options=json_object(name, options, "option") if options else b"{}",
        immutable=immutable or passed.is_sealed,
        countdown_s=countdown_s,
        eta_at=eta_at,
        expires_at=expires_at,
    )


def checked_id(name: str, task_id: object) -> str:
    if not isinstance(task_id, str) or len(task_id) > NAME_LENGTH_MAX or not task_id.isprintable():
        reason = f"`task_id` must be printable text of 1 to {NAME_LENGTH_MAX} characters, and is {shown(task_id)}"
        raise BadNode(name, reason, next_step="leave it out, and one is made")
    return task_id


def told(signature: Signature | None, task_id: str) -> Signature | None:
    """Write a task id before the arguments of an error callback."""
    if signature is None:
        return None
    rest = signature.args[1:].strip()
    return replace(signature, args=b'["%s"%s%s' % (task_id.encode(), b"" if rest == b"]" else b",", rest))


def _split_options(name: str, given: Mapping[str, Any], passed: Passed) -> tuple[dict[str, Any], float, float]:
    """Return the options to publish with, the countdown in seconds and the start as Unix time."""
    options = overridden({key: value for key, value in given.items() if key not in RESERVED_OPTIONS}, passed.options)
    if passed.link:
        options["link"] = list(united(listed(options.get("link")), passed.link))
    if passed.link_error:
        options["link_error"] = list(united(listed(options.get("link_error")), passed.link_error))
    refused = flaw_of_serializer(options.get("serializer"))
    if refused is not None:
        raise BadNode(name, f"serializer {refused.reason}", next_step=refused.next_step)
    countdown, eta = options.pop("countdown", None) or 0, options.pop("eta", None)
    if not _is_seconds(countdown):
        raise BadNode(name, f"`countdown` must be a number of seconds, and is a '{type(countdown).__name__}'")
    # As in Celery, a countdown goes before an eta, and a negative one means now.
    return options, max(0.0, float(countdown)), 0.0 if countdown or eta is None else _unix_time(name, eta)


def _checked_options(name: str, options: dict[str, Any]) -> float:
    """Refuse what could not be published; return when it expires, which gets a time zone."""
    found = flaw_among(options)
    if found is not None:
        option, flaw = found
        raise BadNode(name, f"`{option}` {flaw.reason}", next_step=flaw.next_step)
    return _aware_expiry(name, options) if options.get("expires") is not None else 0.0


def _aware_expiry(name: str, options: dict[str, Any]) -> float:
    """Return when a task expires if that is a certain time, and give it a time zone: without one, it could not be published."""
    expires = options["expires"]
    if counts_from_dispatch(expires):
        return 0.0
    moment = moment_of(expires)
    if moment is None:
        next_step = f"write {expires.total_seconds():g}" if isinstance(expires, timedelta) else "give a datetime, or seconds"
        words = f"`expires` must be a number of seconds, a datetime or ISO 8601 text, and is {shown(expires)}"
        raise BadNode(name, words, next_step=next_step)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
        options["expires"] = moment.isoformat()
    return max(0.0, unix_time_of(moment))


def _is_seconds(value: Any) -> bool:
    # Python's integers have no bound, and floats do.
    return isinstance(value, int | float) and abs(value) <= COUNTDOWN_SECONDS_MAX


def _unix_time(name: str, eta: Any) -> float:
    """Read a start time: a datetime, its text, kombu's typed form of it, or Unix seconds.

    Without a time zone it is in UTC, whatever the app's time zone: that is how workers read it (``maybe_make_aware``).
    """
    if _is_seconds(eta):
        return max(0.0, float(eta))
    moment = moment_of(eta)
    if moment is None:
        raise BadNode(name, f"`eta` must be a datetime or ISO 8601 text, and is a '{type(eta).__name__}'")
    return max(0.0, unix_time_of(moment))
