"""Maps as they are written: what is to be done with each item, checked before there is a list.

A map becomes a *template*: the nodes that each item gets, with the arguments of those that take the item still to be filled in.
It is made when the definition comes, so that what is wrong with it is told to whoever submits it, and again when there is a list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from msgspec import Raw, Struct

from dyrygentd.core.bounds import NODES_ACCEPTED_MAX
from dyrygentd.core.conditions import renamed
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.policy import NodePolicy, OnFailure
from dyrygentd.core.sections import checked_section, inside
from dyrygentd.errors import BadNode, BadRequest, DefinitionError, UnknownDependency
from dyrygentd.wire.bounds import NODE_BYTES_MAX, check_long_node, has_more_than
from dyrygentd.wire.encoding import decode, decode_any
from dyrygentd.wire.forms import MapDocument, Name, NodeDocument
from dyrygentd.wire.mistakes import explained, suggestion
from dyrygentd.wire.nodes import CheckChild, PolicyReader, SignatureReader, names_of
from dyrygentd.wire.over import await_lists, file_of, kind_of, list_of

#: Fields of a node that mean nothing for one of which there are as many as a list has items.
_NOT_OF_EACH: Final = ("hook", "adopted", "task_id")
_ONE_TASK: Final = ("name", "after", "section", "section_end", "join", "gate", "sleep_s")


class ItemGraphDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A small graph through which each item of a map goes on its own.

    Attributes:
        nodes: What waits for nothing gets the item.
        output: Name of the node whose value is the item's; by default the only one that nothing waits for.
    """

    nodes: list[NodeDocument]
    output: Name | None = None


class ItemPart(NamedTuple):
    """One of the nodes that each item gets.

    Attributes:
        suffix: What follows the name of the member in the node's own.
        after: The suffixes of what it waits for.
        takes_item: The item stands in front of its arguments.
    """

    suffix: str
    signature: Signature | None
    after: Sequence[str]
    policy: NodePolicy
    section: str
    takes_item: bool


class ItemTemplate(NamedTuple):
    """The nodes that each item gets, and the place among them of the one whose value is the item's."""

    parts: Sequence[ItemPart]
    output: int


def checked_map(
    name: str,
    document: MapDocument,
    *,
    node_bytes_max: int = 0,
    has_good_options: bool = True,
    check_child: CheckChild | None = None,
) -> ItemTemplate:
    """Read what a map does with each item. Raises `BadNode` that names the field, and what is allowed.

    Args:
        name: Of the node that is a map.
        node_bytes_max: Bytes of one node's arguments; 0 for what is stored.
        check_child: See `PolicyReader`, of maps and workflows in this map.
    """
    _refuse_contradictions(name, document)
    signatures = SignatureReader(has_good_options, node_bytes_max, is_given=True)
    return _template(name, document, signatures, PolicyReader(node_bytes_max, check_child=check_child))


def _refuse_contradictions(name: str, document: MapDocument) -> None:
    over = list_of(document)
    if over is not None and not over.startswith(b"[") and file_of(over) is None:
        raise BadNode(
            name,
            f"`map.over` is {kind_of(over)}",
            next_step='write the name of the node whose value is the list, the list itself: [1, 2], or {"json_lines": FILE}',
        )
    if document.batch and document.key is not None:
        raise BadNode(name, "`map.key` names single items, and `map.batch` puts them together", next_step="leave one of them out")
    if document.batch and document.spread:
        raise BadNode(name, "`map.batch` gives a list of items, which `map.spread` would take apart", next_step="leave one out")
    if document.min_success is not None and document.on_failure is OnFailure.STOP:
        raise BadNode(
            name, "`map.min_success` goes on after failures, and `map.on_failure` stops at the first", next_step="leave one out"
        )


# --- what is done with each item --------------------------------------------------------------------------------------


def _template(name: str, document: MapDocument, signatures: SignatureReader, policies: PolicyReader) -> ItemTemplate:
    nodes, output, is_graph = _nodes_of(name, bytes(document.do))
    given = list(names_of(nodes))
    suffixes = [f".{each}" for each in given] if is_graph else [""]
    known = dict(zip(given, suffixes, strict=True))
    parts = []
    for inner, node, suffix in zip(given, nodes, suffixes, strict=True):
        where = f"{name}.{inner}" if is_graph else name
        _refuse_what_is_one(name, inner if is_graph else "", node)
        signature, policy = signatures.read(where, node), policies.read(where, node)
        if document.pool and signature is not None and not policy.pool:
            policy = replace(policy, pool=document.pool)
        # What ends a section waits for the rest of that, without naming it.
        is_first = not node.after and node.section_end is None
        if is_first and signature is None and policy.child is None:
            raise BadNode(
                name,
                f"`map.do`: '{inner}' comes first and has no task, so nobody is given the item",
                next_step="put a task first: it is given the item in front of its arguments",
            )
        if node.section:
            checked_section(where, node.section)
        after = [known.get(each, f".{each}") for each in node.after]
        if policy.when is not None:
            policy = replace(policy, when=renamed(policy.when, lambda each: known.get(each, f".{each}")))
        takes_item = is_first and (not signature.immutable if signature is not None else _takes_item(node))
        parts.append(ItemPart(suffix, signature, after, policy, node.section, takes_item))
    return ItemTemplate(parts, _output_of(name, parts, given, output))


def _takes_item(node: NodeDocument) -> bool:
    """Tell whether a map or a workflow in this map takes the item."""
    if node.map is not None:
        return list_of(node.map) is None
    return node.workflow is not None and node.workflow.input is not None


def _nodes_of(name: str, do: bytes) -> tuple[list[NodeDocument], str | None, bool]:
    """Return the nodes of ``do``, the name of their output, and whether it is a graph and not one task."""
    try:
        fields = decode_any(do, dict[str, Raw])
    except BadRequest:
        raise BadNode(
            name, f"`map.do` is {kind_of(do)}", next_step='write a task: {"task": "name"}, or a graph: {"nodes": [...]}'
        ) from None
    form: Any = ItemGraphDocument if "nodes" in fields else NodeDocument
    if len(do) > NODE_BYTES_MAX:
        _refuse_long(name, do, fields)
    try:
        document = decode(do, form)
    except BadRequest as error:
        told = explained(error, form, do)
        words = told.message.replace(", at $", ", at $.map.do")
        raise BadNode(name, f"`map.do`: {words}", next_step=told.next_step) from None
    if form is NodeDocument:
        wrong = [field for field in _ONE_TASK if getattr(document, field) != getattr(NodeDocument(), field)]
        if wrong:
            raise BadNode(
                name,
                f"`map.do` is one task, and has `{wrong[0]}`",
                next_step=f'leave `{wrong[0]}` out, or write a graph: {{"nodes": [...]}}',
            )
        await_lists([document])
        return [document], None, False
    if not document.nodes:
        raise BadNode(name, "`map.do.nodes` is empty", next_step="write at least one task")
    await_lists(document.nodes)
    return document.nodes, document.output, True


def _refuse_long(name: str, do: bytes, fields: Mapping[str, Raw]) -> None:
    """Refuse what would be built before anybody looks at how much it is."""
    nodes = bytes(fields.get("nodes", b""))
    if has_more_than(nodes or b"[]", NODES_ACCEPTED_MAX):
        raise BadNode(name, f"`map.do.nodes` has more than {NODES_ACCEPTED_MAX} nodes", next_step="do less with one item")
    try:
        for number, node in enumerate(decode_any(nodes, list[Raw]) if nodes else [do]):
            check_long_node(bytes(node), number, NODES_ACCEPTED_MAX)
    except BadRequest as error:
        raise BadNode(name, f"`map.do`: {error.message}", next_step=error.next_step) from None


def _refuse_what_is_one(name: str, inner: str, node: NodeDocument) -> None:
    of = f"`map.do`: '{inner}' has" if inner else "`map.do` has"
    for field in _NOT_OF_EACH:
        if getattr(node, field) is not None:
            raise BadNode(name, f"{of} `{field}`, and there is one for each item", next_step=f"leave `{field}` out")


def _output_of(name: str, parts: Sequence[ItemPart], given: Sequence[str], output: str | None) -> int:
    """Return the place of the node whose value is the item's. Raises `BadNode`: there is none, or it is no graph."""
    if output is not None and output not in given:
        raise BadNode(name, f"`map.do.output` names '{output}', which is no node of it", next_step=suggestion(output, given))
    # Each item is a section; the first part of its path may be any.
    specs = [
        NodeSpec(
            part.suffix,
            part.signature,
            str(number),
            part.after,
            part.policy,
            inside("item", part.section) if part.section else "item",
        )
        for number, part in enumerate(parts)
    ]
    try:
        graph = Graph.build(specs, output=None if output is None else f".{output}")
    except UnknownDependency as error:
        wrong = error.dependency.removeprefix(".")
        at = error.node.removeprefix(".")
        raise BadNode(
            name, f"`map.do`: '{at}' waits for '{wrong}', which is no node of it", next_step=suggestion(wrong, given)
        ) from None
    except DefinitionError as error:
        raise BadNode(name, f"`map.do`: {error.message}", next_step=error.next_step) from None
    if graph.output is None:
        raise BadNode(
            name,
            "`map.do` ends in several nodes, and an item has one value",
            next_step="name one of them as `output` of `map.do`, or let a join wait for them",
        )
    return graph.output
