"""A stored definition as it can be submitted once more: another workflow, whose tasks have ids of their own."""

from collections.abc import Iterable
from uuid import uuid4

from msgspec import Raw

from dyrygentd.core.ids import is_made
from dyrygentd.wire.encoding import decode, encode
from dyrygentd.wire.expanding import as_submitted, is_expanded
from dyrygentd.wire.forms import NodeDocument, WorkflowDocument


def definition_again(document: bytes) -> bytes:
    """Leave out the task ids that a daemon has made; those that were chosen stay.

    Error callbacks of a chord's body are told its id, so that is a new one in both places.
    """
    if is_expanded(document):
        # From outside nobody may say of what ids are made.
        return encode(as_submitted(document))
    definition = decode(document, WorkflowDocument)
    told = _told_of(definition.nodes)
    for node in definition.nodes:
        if node.task_id and (is_made(node.task_id) or node.task_id in told):
            node.task_id = told.get(node.task_id)
    return encode(definition)


def _told_of(nodes: Iterable[NodeDocument]) -> dict[str, str]:
    """Give new ids to the tasks that others are told of, and write them there."""
    ids = {node.task_id for node in nodes if node.task_id}
    told: dict[str, str] = {}
    for node in nodes:
        args = bytes(node.args)
        # Nobody else's argument is meant, whatever it is.
        if ".errback" in (node.name or "") and args.startswith(b'["'):
            task_id, quote, rest = args[2:].partition(b'"')
            known = task_id.decode(errors="replace")
            if quote and known in ids:
                node.args = Raw(b'["%s"%s' % (told.setdefault(known, str(uuid4())).encode(), rest))
    return told
