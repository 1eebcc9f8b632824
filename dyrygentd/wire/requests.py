"""What goes with a verb, as JSON."""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from dyrygentd.core.verbs import Request, Verb

#: Names in one request: a whole group of a large workflow.
_NODES_MAX = 100_000
#: A reason is a sentence or a link to a ticket.
_WHY_MAX = 1000


class VerbDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a verb's request; all of it may be left out.

    Attributes:
        why: The reason, for the journal.
        nodes: Names of the nodes that are meant (hold, release, skip, rerun, retry).
        cause: Retry only what failed for this cause: its number, or the beginning of its id.
        value: What takes the place of a skipped node's value.
        priority: For set-priority.
        terminate: For cancel, skip and retry with force: end running tasks, too.
        force: For retry: give up an attempt that is in flight.
    """

    why: Annotated[str, Meta(max_length=_WHY_MAX)] = ""
    nodes: Annotated[list[str], Meta(max_length=_NODES_MAX)] = []
    cause: str = ""
    value: Raw = Raw(b"null")
    priority: int | None = None
    terminate: bool = False
    force: bool = False


def request_of(verb: Verb, document: VerbDocument, *, by: str) -> Request:
    """Make the request that the core understands."""
    return Request(
        verb=verb,
        by=by,
        why=document.why,
        nodes=tuple(dict.fromkeys(document.nodes)),
        cause=document.cause,
        value=bytes(document.value),
        priority=document.priority or 0,
        terminate=document.terminate,
        force=document.force,
    )
