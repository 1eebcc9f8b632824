"""Nodes of a definition as they are written: their signatures, options, times and policies, read and checked one by one."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from dyrygentd.core.nested import CALLBACKS, Nested, is_carrier, nested_in
from dyrygentd.core.node_spec import RESERVED_OPTIONS, Signature
from dyrygentd.core.options import (
    counts_from_dispatch,
    flaw_among,
    flaw_of_nested,
    flaw_of_serializer,
    moment_of,
    shown,
    unix_time_of,
)
from dyrygentd.core.policy import (
    ANY,
    PLAIN,
    Child,
    HandsOn,
    NodePolicy,
    Retry,
    Rule,
)
from dyrygentd.errors import BadNode
from dyrygentd.wire.bounds import OPTIONS_BYTES_MAX, check_data
from dyrygentd.wire.children import child_of
from dyrygentd.wire.conditions import when_of_node
from dyrygentd.wire.encoding import decode_any, encode
from dyrygentd.wire.forms import NodeDocument, RetryDocument
from dyrygentd.wire.over import map_of, refuse_without_list

_EXPANDS: Final = "what a task returns is run in the node's place once"
RAISE_MAXIMUM: Final = "raise `backoff_max_s`, or lower `backoff_s`"


def retry_of(document: RetryDocument) -> Retry:
    if document.backoff_max_s < document.backoff_s:
        raise ValueError(
            f"the longest pause, {document.backoff_max_s:g} s, is shorter than the first one, {document.backoff_s:g} s"
        )
    return Retry(document.attempts, document.backoff_s, document.backoff_max_s, document.jitter, frozenset(document.on or [ANY]))


def _node_retry(name: str, document: RetryDocument) -> Retry:
    try:
        return retry_of(document)
    except ValueError as error:
        raise BadNode(name, f"`retry`: {error}", next_step=RAISE_MAXIMUM) from None


def names_of(nodes: Sequence[NodeDocument]) -> Iterable[str]:
    """Give a name to each node that has none: its task's last word and its position."""
    given = {node.name for node in nodes}
    for position, node in enumerate(nodes, start=1):
        # Cut, so that the position of a task with a long name still fits into a name, as it will be read back from the store.
        name = node.name or f"{(node.task or 'join').rpartition('.')[2][:180]}-{position}"
        while not node.name and name in given:
            name += "+"
        yield name


class SignatureReader:
    """Turns node documents into signatures; equal ones become one object, since large workflows repeat few shapes.

    Args:
        is_given: What comes first is given something, too: the item of a map.
    """

    def __init__(self, has_good_options: bool, node_bytes_max: int, *, is_given: bool = False) -> None:
        self._is_given = is_given
        self._has_good_options = has_good_options
        self._node_bytes_max = node_bytes_max
        self._signatures: dict[tuple[str, bytes, bytes, bytes, bool], Signature] = {}
        self._options: dict[bytes, tuple[bytes, float, float, float]] = {}

    def read(self, name: str, node: NodeDocument) -> Signature | None:
        if node.join or node.gate or node.sleep_s or node.workflow is not None or node.map is not None:
            kinds = [word for word in _WORDS if getattr(node, word)]
            _check_taskless(name, node, kinds)
            if not self._is_given:
                refuse_without_list(name, node)
            return None
        if node.task is None:
            kind = "a poll repeats a task, and " if node.poll else "a hook runs a task, and " if node.hook else ""
            kind = "what ends a section runs a task, and " if node.section_end else kind
            others = ", or write `join: true`, `gate: true`, `sleep_s`, `map` or `workflow`"
            next_step = "name a task" if kind else f"name a task{others}"
            raise BadNode(name, f"{kind}`task` is missing", next_step=next_step)
        written = node.task, bytes(node.args), bytes(node.kwargs), bytes(node.options), node.immutable
        signature = self._signatures.get(written)
        if signature is None:
            signature = self._signatures[written] = self._read(name, node)
        return signature

    def _read(self, name: str, node: NodeDocument) -> Signature:
        assert node.task is not None
        args, kwargs, options = bytes(node.args).strip(), bytes(node.kwargs).strip(), bytes(node.options).strip()
        if not args.startswith(b"["):
            raise BadNode(name, "`args` must be an array", next_step="write `args: [1, 2]`; named ones go into `kwargs`")
        if not kwargs.startswith(b"{"):
            raise BadNode(name, "`kwargs` must be an object", next_step='write `kwargs: {"name": value}`')
        if not options.startswith(b"{"):
            raise BadNode(name, "`options` must be an object", next_step='write `options: {"queue": "name"}`')
        if self._node_bytes_max:
            check_data(name, {"args": args, "kwargs": kwargs}, self._node_bytes_max)
            check_data(name, {"options": options}, OPTIONS_BYTES_MAX)
        if options not in self._options:
            self._options[options] = _split_options(name, options, has_good_options=self._has_good_options)
        if self._has_good_options and is_carrier(node.task):
            _check_nested(name, nested_in(node.task, decode_any(args, Any), decode_any(kwargs, Any), {}))
        options, countdown_s, eta_at, expires_at = self._options[options]
        return Signature(node.task, args, kwargs, options, node.immutable, countdown_s, eta_at, expires_at)


def _check_taskless(name: str, node: NodeDocument, kinds: Sequence[str]) -> None:
    """Refuse what makes no sense on a node without a task."""
    if node.task is not None:
        raise BadNode(name, f"a {_WORDS[kinds[0]]} has no task", next_step=f"leave out either `{kinds[0]}` or `task`")
    if len(kinds) > 1:
        raise BadNode(name, f"it is {' and '.join(f'`{kind}`' for kind in kinds)} in one", next_step="make two nodes of it")
    allowed = NodeDocument(
        name=node.name,
        join=node.join,
        gate=node.gate,
        sleep_s=node.sleep_s,
        after=node.after,
        rule=node.rule,
        payload=node.payload,
        adopted=node.adopted,
        section=node.section,
        workflow=node.workflow,
        map=node.map,
        when=node.when,
        hands_on=node.hands_on if node.join else HandsOn.ALL,
    )
    if node != allowed:
        wrong = [field for field in NodeDocument.__struct_fields__ if getattr(node, field) != getattr(allowed, field)]
        raise BadNode(
            name,
            f"a {_WORDS[kinds[0]]} has a name, `after`, `rule`, `when`, `payload` and `section`, and nothing else",
            next_step=f"leave out {', '.join(f'`{field}`' for field in wrong)}",
        )
    if node.adopted == "dispatched":
        raise BadNode(name, "what has no task cannot have been dispatched", next_step="leave out `adopted`")


_WORDS: Final = {"join": "join", "gate": "gate", "sleep_s": "sleep", "map": "map", "workflow": "node with a workflow of its own"}


def _child(name: str, node: NodeDocument) -> Child | None:
    if node.map is not None:
        return map_of(node.map)
    return None if node.workflow is None else child_of(name, node.workflow)


def _is_plain(node: NodeDocument) -> bool:
    """Tell whether a node asks for nothing that makes a policy; most do not, and comparing is cheaper than making one."""
    return (
        node.rule is Rule.ALL_SUCCEEDED
        and (node.retry is None and node.on_lost is None and node.poll is None and node.hook is None)
        and node.section_end is None
        and not (node.pool or node.timeout_s or node.idempotent or node.gate or node.sleep_s or node.expands)
        and node.redeliveries_max is None
        and node.workflow is None
        and node.map is None
        and (node.when is None and node.hands_on is HandsOn.ALL)
        and bytes(node.payload) == b"null"
    )


CheckChild = Callable[[str, Child], None]
"""Looks at the workflow that does the work of a node of this name; raises `BadNode` if it could never run."""


class PolicyReader:
    """Turns what node documents ask for into policies; equal ones become one object.

    Args:
        check_child: Raises `BadNode` if the workflow of a node of this name could never run.
    """

    def __init__(self, node_bytes_max: int, *, check_child: CheckChild | None = None) -> None:
        self._node_bytes_max = node_bytes_max
        self._check_child = check_child
        self._policies: dict[NodePolicy, NodePolicy] = {PLAIN: PLAIN}

    def read(self, name: str, node: NodeDocument) -> NodePolicy:
        if _is_plain(node):
            return PLAIN
        if self._node_bytes_max:
            check_data(name, {"payload": bytes(node.payload)}, self._node_bytes_max)
        policy = NodePolicy(
            rule=node.rule,
            pool=node.pool,
            retry=None if node.retry is None else _node_retry(name, node.retry),
            timeout_s=node.timeout_s,
            on_lost=node.on_lost,
            idempotent=node.idempotent,
            expands=node.expands,
            payload=bytes(node.payload),
            is_gate=node.gate,
            sleep_s=node.sleep_s,
            poll_every_s=0.0 if node.poll is None else node.poll.every_s,
            poll_timeout_s=0.0 if node.poll is None else node.poll.timeout_s,
            hook=node.hook,
            redeliveries_max=node.redeliveries_max,
            child=_child(name, node),
            section_end=node.section_end,
            when=None if node.when is None else when_of_node(name, node.when),
            hands_on=node.hands_on,
        )
        if policy.child is not None and policy not in self._policies and self._check_child is not None:
            self._check_child(name, policy.child)
        if node.section_end is not None and node.adopted is not None:
            raise BadNode(name, "what ends a section is not adopted", next_step="leave out `adopted` or `section_end`")
        if node.hook is not None and (node.poll is not None or node.adopted is not None):
            word = "poll" if node.poll is not None else "adopted"
            raise BadNode(name, "a hook is neither a poll nor adopted", next_step=f"leave out `{word}` or `hook`")
        if node.expands and (node.poll is not None or node.hook is not None or node.adopted is not None):
            word = "poll" if node.poll is not None else "hook" if node.hook is not None else "adopted"
            raise BadNode(name, f"{_EXPANDS}, so it is no {word}", next_step=f"leave out `{word}` or `expands`")
        return self._policies.setdefault(policy, policy)


#: Beyond it, whole numbers have no float. Definitions in older databases may have countdowns that a canvas may no longer have.
_FLOAT_MAX: Final = sys.float_info.max


def _split_options(name: str, text: bytes, *, has_good_options: bool) -> tuple[bytes, float, float, float]:
    """Check publish options; the daemon's own timers take ``countdown`` and ``eta`` out of them."""
    if text == b"{}":
        return text, 0.0, 0.0, 0.0
    options: dict[str, Any] = decode_any(text, dict[str, Any])
    reserved = sorted(RESERVED_OPTIONS & options.keys())
    if reserved:
        raise BadNode(name, f"`options.{reserved[0]}` is set by the daemon", next_step="leave it out")
    refused = flaw_of_serializer(options.get("serializer"))
    if refused is not None:
        raise BadNode(name, f"serializer {refused.reason}", next_step=refused.next_step)
    expires_at = _checked_options(name, options) if has_good_options else 0.0
    countdown = options.pop("countdown", None) or 0
    if not isinstance(countdown, int | float) or not 0 <= countdown <= _FLOAT_MAX:
        raise BadNode(name, "`options.countdown` must be a number of seconds, 0 or more", next_step="write a number")
    eta_at = _unix_time(name, options.pop("eta", None))
    return (encode(options) if options else b"{}"), float(countdown), eta_at, expires_at


def _checked_options(name: str, options: dict[str, Any]) -> float:
    """Refuse what could not be published; return when it expires."""
    found = flaw_among(options)
    if found is not None:
        option, flaw = found
        raise BadNode(name, f"`options.{option}` {flaw.reason}", next_step=flaw.next_step)
    if any(options.get(option) for option in CALLBACKS):
        _check_nested(name, nested_in("", None, None, options))
    return _expiry(name, options.get("expires"))


def _check_nested(name: str, nested: Iterable[Nested]) -> None:
    """Refuse signatures inside others with options that would be refused at a node: a worker publishes them as they are."""
    for inner in nested:
        flaw = flaw_of_nested(inner.options)
        if flaw is not None:
            raise BadNode(name, f"`{inner.path}.options.{flaw[0]}` {flaw[1].reason}", next_step=flaw[1].next_step)
        _check_nested_times(name, inner)


def _check_nested_times(name: str, inner: Nested) -> None:
    """Refuse what is no time: the worker that publishes it does not look, and ends the worker that takes it."""
    for option in ("expires", "eta", "countdown"):
        value = inner.options.get(option)
        if value is None or (option != "eta" and counts_from_dispatch(value)):
            continue
        flaw = f"must be a number of seconds, and is {shown(value)}"
        if option != "countdown":
            # Without a time zone it is that of the worker, as natively.
            flaw = _flaw_of_time(value)
        if flaw:
            raise BadNode(name, f"`{inner.path}.options.{option}` {flaw}", next_step=WRITE_TIME)


def _expiry(name: str, expires: Any) -> float:
    """Return when a task expires if that is a certain time."""
    if expires is None or counts_from_dispatch(expires):
        return 0.0
    if not isinstance(expires, str | dict):
        words = f"must be a number of seconds or an ISO 8601 time, and is {shown(expires)}"
        raise BadNode(name, f"`options.expires` {words}", next_step=WRITE_TIME)
    try:
        return moment(expires)
    except ValueError as error:
        raise BadNode(name, f"`options.expires` {error}", next_step=WRITE_TIME) from None


def _unix_time(name: str, eta: Any) -> float:
    """Read ``eta``: Unix seconds, an ISO 8601 text, or kombu's typed form of a datetime."""
    try:
        return 0.0 if eta is None else moment(eta)
    except ValueError as error:
        raise BadNode(name, f"`options.eta` {error}", next_step=WRITE_TIME) from None


def _flaw_of_time(given: Any) -> str:
    return "" if moment_of(given) is not None else f"must be an ISO 8601 time, and is {shown(given)}"


WRITE_TIME: Final = "write it as in 2030-01-31T08:00:00Z"


def moment(given: Any) -> float:
    if isinstance(given, int | float) and 0 <= given <= _FLOAT_MAX:
        return float(given)
    moment = moment_of(given)
    if moment is None:
        raise ValueError("must be an ISO 8601 time or Unix seconds")
    if moment.tzinfo is None:
        raise ValueError("has no time zone; append 'Z' or an offset such as '+02:00'")
    # A time before 1970 would not be read back from the stored definition; it is as past as any.
    return max(0.0, unix_time_of(moment))
