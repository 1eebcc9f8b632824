"""What a node is made of before there is a graph: the call of its task, its name, and what it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dyrygentd.core.policy import PLAIN, NodePolicy

#: Never pickle: a definition is data from outside. These are kombu's other serializers.
SERIALIZERS: Final = frozenset({"json", "yaml", "msgpack"})

#: Publish options that belong to the daemon. Celery's ``freeze`` and workers leave some of them in a canvas: sent on, ``chord``
#: would mark a body failed. A ``task_id`` becomes that of the node.
RESERVED_OPTIONS: Final = frozenset(
    {"task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "retries", "replaced_task_nesting"}
    | {"reply_to", "reply-to", "correlation_id", "delivery_tag", "producer", "connection", "retry", "retry_policy"}
)


@dataclass(frozen=True, slots=True)
class Signature:
    """A Celery call. The parts that the core does not look into are kept as JSON text, as they came.

    Attributes:
        task: The task's name.
        args: JSON array of positional arguments, in kombu's JSON (datetimes and the like as ``{"__type__": …}``).
        kwargs: JSON object of keyword arguments.
        options: JSON object of publish options (queue, priority, headers …) without the two below.
        immutable: The value of what precedes is not passed.
        countdown_s: Seconds to hold the node after it became ready.
        eta_at: Unix time before which the node is held.
        expires_at: Unix time after which it is not dispatched any more, 0 for none; it is in ``options`` as well.
    """

    task: str
    args: bytes = b"[]"
    kwargs: bytes = b"{}"
    options: bytes = b"{}"
    immutable: bool = False
    countdown_s: float = 0.0
    eta_at: float = 0.0
    expires_at: float = 0.0


class NodeSpec(NamedTuple):
    """One node as it is handed to `Graph.build`; ``signature`` is None for a join, a gate or a sleep."""

    name: str
    signature: Signature | None
    task_id: str
    after: Sequence[str] = ()
    policy: NodePolicy = PLAIN
    section: str = ""
