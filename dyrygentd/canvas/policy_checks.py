"""What a program may ask for with the builder, checked where it asks: the same bounds as in a definition on the wire."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, TypeVar

from dyrygentd.canvas.values import encode_value
from dyrygentd.core.bounds import (
    ATTEMPTS_MAX,
    NAME_LENGTH_MAX,
    POLICY_SECONDS_MAX,
    PRIORITY_MAX,
    REDELIVERIES_MAX,
    SECTION_LENGTH_MAX,
    WEIGHT_MAX,
)
from dyrygentd.core.options import is_number, shown
from dyrygentd.core.policy import ANY, Hook, NodePolicy, OnFailure, OnLost, Retry, Rule, WorkflowPolicy
from dyrygentd.core.sections import flaw_of_section, inside
from dyrygentd.errors import BadNode, BadRequest

#: Far beyond any use, and still one integer for SQLite and JSON.
_IN_FLIGHT_MAX: Final = 1_000_000

_Word = TypeVar("_Word", bound=StrEnum)


def checked_word(kind: type[_Word], node: str, field: str, word: Any) -> _Word:
    """Return a word of a fixed set. Raises `BadNode` with the set."""
    try:
        return kind(word)
    except ValueError:
        raise BadNode(node, f"`{field}` is {shown(word)}", next_step=f"use one of {', '.join(kind)}") from None


def checked_flag(node: str, field: str, given: Any) -> bool:
    """Return true or false. Raises `BadNode`."""
    if not isinstance(given, bool):
        raise BadNode(node, f"`{field}` is {shown(given)}", next_step="use True or False")
    return given


def checked_seconds(node: str, field: str, given: Any) -> float:
    """Return a number of seconds, 0 or more. Raises `BadNode`."""
    if not is_number(given):
        # A timedelta is not taken: all other forms have seconds, with the unit in the name.
        next_step = f"write {given.total_seconds():g}" if hasattr(given, "total_seconds") else "write a number, 0 or more"
        raise BadNode(node, f"`{field}` must be a number of seconds, and is a '{type(given).__name__}'", next_step=next_step)
    if not 0 <= given <= POLICY_SECONDS_MAX:
        raise BadNode(node, f"`{field}` is {given:g} seconds", next_step=f"use 0 to {POLICY_SECONDS_MAX:.0f}")
    return float(given)


def checked_retry(node: str, given: Any) -> Retry | None:
    """Return a retry policy, made of a number of attempts if it is one. Raises `BadNode`."""
    if given is None:
        return None
    retry = Retry(attempts=given) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(retry, Retry):
        raise BadNode(node, f"`retry` is {shown(given)}", next_step="give a number of attempts, or a `dyrygentd.Retry(...)`")
    if not _is_whole(retry.attempts, 1, ATTEMPTS_MAX):
        words = f"`retry` is {shown(retry.attempts)} attempts"
        raise BadNode(node, words, next_step=f"use 1 to {ATTEMPTS_MAX}, the first attempt included")
    checked_seconds(node, "retry.backoff_s", retry.backoff_s)
    if checked_seconds(node, "retry.backoff_max_s", retry.backoff_max_s) < retry.backoff_s:
        raise BadNode(
            node,
            f"`retry`: the longest pause, {retry.backoff_max_s:g} s, is shorter than the first one, {retry.backoff_s:g} s",
            next_step="raise `backoff_max_s`, or lower `backoff_s`",
        )
    if not is_number(retry.jitter) or not 0 <= retry.jitter <= 1:
        raise BadNode(node, f"`retry.jitter` is {shown(retry.jitter)}", next_step="use a share from 0 to 1")
    return replace(retry, on=_failures(node, retry.on))


def checked_redeliveries(node: str, given: Any) -> int | None:
    """Return how often the broker may give a task out again, None if nothing is said. Raises `BadNode`."""
    if given is not None and not _is_whole(given, 0, REDELIVERIES_MAX):
        next_step = f"use 1 to {REDELIVERIES_MAX}, or 0 for as often as the broker likes"
        raise BadNode(node, f"`redeliveries_max` is {shown(given)}", next_step=next_step)
    return None if given is None else int(given)


def checked_policy(policy: Any) -> WorkflowPolicy:
    """Return a workflow's policy. Raises `BadRequest`."""
    if not isinstance(policy, WorkflowPolicy):
        raise BadRequest(f"`policy` is {shown(policy)}", path="$.policy", next_step="give a `dyrygentd.WorkflowPolicy(...)`")
    bounds = {"priority": (-PRIORITY_MAX, PRIORITY_MAX), "weight": (1, WEIGHT_MAX), "in_flight_max": (0, _IN_FLIGHT_MAX)}
    for field, (low, high) in bounds.items():
        number = getattr(policy, field)
        if not _is_whole(number, low, high):
            raise BadRequest(f"`{field}` is {shown(number)}", path=f"$.policy.{field}", next_step=f"use {low} to {high}")
    if not is_number(policy.start_at) or not 0 <= policy.start_at < float("inf"):
        next_step = "give Unix seconds: `moment.timestamp()` of a datetime with a time zone"
        raise BadRequest(f"`start_at` is {shown(policy.start_at)}", path="$.policy.start_at", next_step=next_step)
    try:
        checked_seconds("", "timeout_s", policy.timeout_s)
        checked_seconds("", "deadline_s", policy.deadline_s)
        checked_redeliveries("", policy.redeliveries_max)
        retry, on_failure = checked_retry("", policy.retry), checked_word(OnFailure, "", "on_failure", policy.on_failure)
    except BadNode as error:
        raise BadRequest(f"the workflow's policy: {error.reason}", path="$.policy", next_step=error.next_step) from None
    return replace(policy, retry=retry, on_failure=on_failure)


def node_policy(
    name: str | None,
    *,
    rule: Rule | str = Rule.ALL_SUCCEEDED,
    on_lost: OnLost | str | None = None,
    retry: Retry | int | None = None,
    hook: Hook | str | None = None,
    timeout_s: float = 0.0,
    redeliveries_max: int | None = None,
    expands: bool = False,
    pool: Any = "",
    payload: object = None,
    **fields: Any,
) -> NodePolicy:
    """Make a policy of what `Workflow` was given. Raises `BadNode` with what is allowed."""
    node = name or "without a name"
    for seconds in (timeout_s, fields.get("poll_timeout_s", 0.0)):
        checked_seconds(node, "timeout_s", seconds)
    if not isinstance(pool, str) or len(pool) > NAME_LENGTH_MAX:
        raise BadNode(node, f"`pool` is {shown(pool)}", next_step="give the name of a pool of the daemon's configuration")
    return NodePolicy(
        rule=checked_word(Rule, node, "rule", rule),
        on_lost=None if on_lost is None else checked_word(OnLost, node, "on_lost", on_lost),
        retry=checked_retry(node, retry),
        pool=pool,
        hook=None if hook is None else checked_word(Hook, node, "hook", hook),
        timeout_s=timeout_s,
        redeliveries_max=checked_redeliveries(node, redeliveries_max),
        expands=checked_flag(node, "expands", expands),
        payload=b"null" if payload is None else encode_value(payload),
        **fields,
    )


def checked_part(section: str, name: Any) -> str:
    """Return the path of a part of a section. Raises `BadRequest`."""
    if not isinstance(name, str):
        raise BadRequest(
            f"a section cannot be called {shown(name)}: its name is a text",
            path="$.section",
            next_step="give a text, such as drain/osd-42",
        )
    path = inside(section, name)
    flaw = flaw_of_section(path)
    if flaw is not None:
        raise BadRequest(f"section '{path[:SECTION_LENGTH_MAX]}' {flaw[0]}", path="$.section", next_step=flaw[1])
    return path


def check_rule(name: str | None, policy: NodePolicy, after: Sequence[int]) -> None:
    """Raise `BadNode` if a rule could never apply."""
    if policy.rule in (Rule.ANY_FAILED, Rule.ANY_SUCCEEDED) and not after:
        raise BadNode(
            name or "without a name", f"rule '{policy.rule}' needs something to wait for", next_step="name it in `after`"
        )


def _failures(node: str, given: Any) -> frozenset[str]:
    words = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if not all(isinstance(word, str) and word for word in words):
        next_step = "name kinds of failure or exceptions: any, infrastructure, OSError"
        raise BadNode(node, f"`retry.on` is {shown(given)}", next_step=next_step)
    return frozenset(words or [ANY])


def _is_whole(number: Any, low: int, high: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and low <= number <= high
