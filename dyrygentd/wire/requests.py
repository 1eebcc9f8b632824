"""What goes with a verb, as JSON."""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from dyrygentd.core.bounds import NAME_LENGTH_MAX
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.wire.bounds import Look, check_counts, check_data, nothing
from dyrygentd.wire.encoding import decode

#: Names in one request: a whole group of a large workflow.
_NODES_MAX = 100_000
#: A reason is a sentence or a link to a ticket.
_WHY_MAX = 1000
#: The number of a cause, its id, or a word. Longer ones would be told again of each workflow in bulk.
_CAUSE_MAX = 100


class VerbDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a verb's request; all of it may be left out.

    Attributes:
        why: The reason, for the journal.
        nodes: Names of the nodes that are meant (hold, release, skip, rerun, retry).
        cause: For retry and skip: what failed or was lost for this cause, its number or the beginning of its id; ``lost`` is all
            that was lost.
        value: What takes the place of a skipped node's value.
        priority: For set-priority.
        terminate: For cancel, skip and retry with force: end running tasks, too.
        force: For retry: give up an attempt that is in flight. For cancel: end at once what cleans up after sections, too.
    """

    why: Annotated[str, Meta(max_length=_WHY_MAX)] = ""
    nodes: Annotated[list[Annotated[str, Meta(max_length=NAME_LENGTH_MAX)]], Meta(max_length=_NODES_MAX)] = []
    cause: Annotated[str, Meta(max_length=_CAUSE_MAX)] = ""
    value: Raw = Raw(b"null")
    priority: int | None = None
    terminate: bool = False
    force: bool = False


def decode_request(body: bytes, look: Look = nothing) -> VerbDocument:
    """Read the body of a verb's request, which may be empty. Raises `BadRequest`."""
    check_counts(body, {"nodes": _NODES_MAX}, {"value": len(body)}, look)
    document = decode(body.strip() or b"{}", VerbDocument)
    check_data("", {"value": bytes(document.value)}, len(body) + 4)
    return document


def request_of(verb: Verb, document: VerbDocument, *, by: str, asker: User | None = None) -> VerbRequest:
    """Make the request that the core understands."""
    return VerbRequest(
        verb=verb,
        by=by,
        why=document.why,
        nodes=tuple(dict.fromkeys(document.nodes)),
        cause=document.cause,
        value=bytes(document.value),
        priority=document.priority or 0,
        terminate=document.terminate,
        force=document.force,
        asker=asker,
    )
