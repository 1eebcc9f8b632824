"""From a map and its list to the workflow of its members, which is stored as these two and not node by node.

*Names.* The member of item 7 is ``resize[7]``, or has the item's key in the place of the number; a graph's nodes are
``resize[7].fetch`` in the section ``resize[7]``. A join called as the map, ``resize``, has the list of their values in the order
of the items, and is the output.

*The same again.* What is stored is read once more after a restart, so it becomes the same graph: names and numbers follow from
the map and the list, and task ids from a seed that is stored with them, the id of the workflow.

*What could go wrong* is told before anything of it is anywhere: it is no list, it is too long, an item is too large, keys repeat.
Whoever expands a map makes a failure of its node of that.
"""

import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from msgspec import Raw, Struct

from dyrygentd.core.bounds import DEPTH_MAX, NAME_LENGTH_MAX, SECTION_LENGTH_MAX
from dyrygentd.core.conditions import renamed
from dyrygentd.core.graph import NODES_MAX, Definition, Graph, Source
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.members import member_name
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.parameters import EXPANSION_MAX
from dyrygentd.core.policy import PLAIN_WORKFLOW, Child, NodePolicy, Rule, WorkflowPolicy
from dyrygentd.core.sections import RESERVED, SEPARATOR, inside
from dyrygentd.errors import BadNode, BadRequest
from dyrygentd.wire.bounds import NODE_BYTES_MAX, Look, count_of, has_long_number, has_more_than, is_deeper, nothing
from dyrygentd.wire.children import with_input
from dyrygentd.wire.encoding import decode, decode_any, encode
from dyrygentd.wire.forms import MapDocument, NodeDocument, PolicyDocument, WorkflowDocument
from dyrygentd.wire.maps import ItemPart, ItemTemplate, checked_map
from dyrygentd.wire.over import MAP, document_of_map, kind_of, over_item, value_over
from dyrygentd.wire.policies import document_of_policy, policy_of

#: How the document of an expanded map begins: by this it is known from a definition's.
BEGINNING: Final = b'{"expanded":'
#: Items between two looks at whether anybody still wants it.
_LOOK_EVERY: Final = 1000
#: Stands for `/` in the path of a section, where a key has one: there it would begin a section in a section.
_SLASH: Final = "\u2215"
#: What a person is shown of a wrong item.
_SHOWN_MAX: Final = 60


class _Expanded(Struct, forbid_unknown_fields=True, omit_defaults=True):
    node: str
    seed: str
    map: MapDocument
    items: Raw


class ExpandedDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The workflow of a map's members, as it is stored: the map, its list, and of what task ids are made, but no nodes."""

    expanded: _Expanded
    name: str
    policy: PolicyDocument | None = None


def is_expanded(document: bytes) -> bool:
    """Tell whether a stored document is that of a map with its list."""
    return document.startswith(BEGINNING)


def as_submitted(document: bytes) -> WorkflowDocument:
    """Return what is stored of an expanded map as the definition of a workflow with the map, over the same list."""
    stored = decode(document, ExpandedDocument)
    made = stored.expanded
    made.map.over = made.items
    return WorkflowDocument(nodes=[NodeDocument(name=made.node, map=made.map)], name=stored.name, policy=stored.policy)


class ChildPlace(NamedTuple):
    """Where a map stands.

    Attributes:
        node: Its name.
        after: Names of what precedes it.
        child_id: The id of the workflow that is made of it.
        policy: What its own workflow asks for.
    """

    node: str
    after: Sequence[str]
    child_id: str
    policy: WorkflowPolicy


def expand_child(
    child: Child,
    given: bytes | None,
    place: ChildPlace,
    *,
    name: str,
    nodes_max: int,
    node_bytes_max: int = NODE_BYTES_MAX,
    look: Look = nothing,
) -> Definition | None:
    """Make the workflow of a map that stands at a place, of the value of what precedes it; see `expand`."""
    try:
        value = value_over(child, given, place.after)
        return expand(
            child.document,
            value,
            node=place.node,
            seed=place.child_id,
            name=name,
            policy=replace(place.policy, start_at=0.0, deadline_s=0.0),
            nodes_max=nodes_max,
            node_bytes_max=node_bytes_max,
            look=look,
        )
    except BadRequest as error:
        raise BadNode(place.node, error.message, next_step=error.next_step) from error


def expand(
    document: bytes,
    value: bytes,
    *,
    node: str,
    seed: str,
    name: str,
    policy: WorkflowPolicy = PLAIN_WORKFLOW,
    nodes_max: int = NODES_MAX,
    node_bytes_max: int = NODE_BYTES_MAX,
    look: Look = nothing,
) -> Definition | None:
    """Make the workflow of a map's members; None if its list is empty and the node is to be skipped for that.

    Args:
        document: The map, as `MapDocument`.
        value: JSON text of its list.
        node: Name of the node that is the map.
        seed: The workflow's id, of which its task ids are made.
        name: What the workflow is called.
        policy: What holds for its members where the map says nothing.

    Raises:
        BadNode: It cannot be done: ``reason`` says what is wrong with the list, or its items.
    """
    given = decode(document, MapDocument)
    items = _items_of(node, given, value)
    if not items and given.if_empty != "succeed":
        if given.if_empty == "skip":
            return None
        raise BadNode(node, "its list is empty, and `if_empty` is 'fail'")
    own = replace(policy, on_failure=given.on_failure, in_flight_max=given.in_flight_max)
    graph = _graph_of(node, seed, given, items, nodes_max=nodes_max, node_bytes_max=node_bytes_max, look=look)
    plain = None if own == PLAIN_WORKFLOW else document_of_policy(own)
    body = encode(ExpandedDocument(_Expanded(node, seed, given, Raw(_listed(items))), name, plain))
    return _definition(graph, name, own, body)


def check_list(name: str, child: Child, *, nodes_max: int = NODES_MAX, node_bytes_max: int = NODE_BYTES_MAX) -> None:
    """Raise `BadNode` if a list that is written out in a map cannot become members; nothing is made of it yet."""
    given = document_of_map(child)
    items = _items_of(name, given, bytes(given.over))
    for number, item in enumerate(items):
        _check_item(name, number, item, node_bytes_max)
    if items:
        template = checked_map(name, given, has_good_options=False)
        given_to, _, _ = _members_of(name, given, items, parts=len(template.parts), nodes_max=nodes_max)
        _refuse_if_too_long(name, template, len(given_to))


class Sample(NamedTuple):
    """What a map does with an item, to be looked at before there is a list.

    Attributes:
        definition: For one item, of which nothing is known.
        takes_item: Whether anything is given the item.
        is_spread: Whether the item stands for any number of arguments.
    """

    definition: Definition
    takes_item: bool
    is_spread: bool


def sample_of(name: str, child: Child) -> Sample:
    """Return what a map does with an item; its list, if it is written out, is left aside. Raises `BadNode`."""
    document = document_of_map(child)
    is_spread = document.spread
    document.over, document.key, document.min_success, document.spread = Raw(b"null"), None, None, False
    definition = expand(encode(document), b"[null]", node=name, seed=name, name=name)
    assert definition is not None
    return Sample(definition, any(part.takes_item for part in checked_map(name, document).parts), is_spread)


def decode_expanded(body: bytes, *, nodes_max: int, node_bytes_max: int = 0, look: Look = nothing) -> Definition:
    """Read what is stored of an expanded map: the same graph, with the same task ids. Raises `BadRequest`, `BadNode`."""
    document = decode(body, ExpandedDocument)
    made = document.expanded
    items = _items_of(made.node, made.map, bytes(made.items))
    graph = _graph_of(made.node, made.seed, made.map, items, nodes_max=nodes_max, node_bytes_max=node_bytes_max, look=look)
    policy = PLAIN_WORKFLOW if document.policy is None else policy_of(document.policy)
    return _definition(graph, document.name, policy, body)


def decode_own(body: bytes, workflow_id: str, *, nodes_max: int, node_bytes_max: int, look: Look) -> Definition:
    """Read as `decode_expanded` does what comes from outside: ids of tasks that belong to another workflow are refused."""
    definition = decode_expanded(body, nodes_max=nodes_max, node_bytes_max=node_bytes_max, look=look)
    if decode(body, ExpandedDocument).expanded.seed != workflow_id:
        raise BadRequest(
            f"the tasks of workflow '{workflow_id}' have ids that are made of another one's",
            path="$.definition.expanded.seed",
            next_step="leave an export as `dyrygentctl export` has written it",
        )
    return definition


def names_in(body: bytes) -> list[str]:
    """Return the names of all nodes of an expanded map."""
    return [*decode_expanded(body, nodes_max=NODES_MAX).graph.names]


def _definition(graph: Graph, name: str, policy: WorkflowPolicy, body: bytes) -> Definition:
    definition = Definition(graph, name, policy=policy, chosen=frozenset(), is_fresh=True)
    return replace(definition, source=Source(body, definition))


# --- the list ---------------------------------------------------------------------------------------------------------


def _items_of(node: str, given: MapDocument, value: bytes) -> list[bytes]:
    value = value.strip()
    if not value.startswith(b"["):
        hint = ": let its task return one, such as list(d.items()) of a dictionary" if value.startswith(b"{") else ""
        raise BadNode(node, f"a map needs a list, and what it is over is {kind_of(value)}{hint}")
    if has_more_than(value, given.max_items):
        # Counted in the text: to build them takes a hundred times as many bytes as `0,` has.
        raise BadNode(
            node,
            f"its list has {count_of(value):,} items, `max_items` is {given.max_items:,}",
            next_step="raise `max_items`, or give several items to one task by `batch`",
        )
    try:
        return [bytes(item) for item in decode_any(value, list[Raw])]
    except BadRequest as error:
        raise BadNode(node, f"its list cannot be read: {error.message}") from None


def _listed(items: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


def _labels(node: str, given: MapDocument, items: Sequence[bytes]) -> Sequence[object]:
    """Return what tells the members apart: numbers, or keys."""
    if given.key is None:
        return range(len(items))
    keys = [_key(node, given.key, number, item) for number, item in enumerate(items)]
    if len(set(keys)) < len(keys):
        repeated, times = Counter(keys).most_common(1)[0]
        raise BadNode(node, f"the key '{repeated}' is that of {times} items", next_step="choose another `key`, or leave it out")
    return keys


def _key(node: str, field: str, number: int, item: bytes) -> str:
    if field == ".":
        found: Any = decode_any(item, Any) if item[:1] not in b"[{" else item
        words = f"item {number}"
    else:
        if not item.startswith(b"{"):
            raise BadNode(node, f"`key` is a field of each item, and item {number} is {kind_of(item)}")
        fields = decode_any(item, dict[str, Any])
        if field not in fields:
            known = ", ".join(sorted(fields)[:20]) or "none"
            raise BadNode(node, f"item {number} has no field '{field}' to be its key: its fields are {known}")
        found, words = fields[field], f"`{field}` of item {number}"
    if not isinstance(found, str) or not found or not found.isprintable():
        shown = (
            "has characters that cannot be printed" if isinstance(found, str) and found else "is no text that could be its key"
        )
        raise BadNode(node, f"{words} {shown}: {item[:_SHOWN_MAX].decode(errors='replace')}")
    return found


# --- the graph --------------------------------------------------------------------------------------------------------


def _graph_of(
    node: str,
    seed: str,
    given: MapDocument,
    items: Sequence[bytes],
    *,
    nodes_max: int,
    node_bytes_max: int,
    look: Look,
) -> Graph:
    template = checked_map(node, given, has_good_options=False)
    items, labels, policy = _members_of(node, given, items, parts=len(template.parts), nodes_max=nodes_max)
    if node_bytes_max:
        _refuse_if_too_long(node, template, len(items))
    members: list[str] = []
    specs = list(_specs(node, MadeIds(seed), given, template, labels, items, members, node_bytes_max, look))
    specs.append(NodeSpec(node, None, "", members, policy))
    return Graph.build(specs, output=node, nodes_max=nodes_max, item_nodes=len(template.parts))


def _members_of(
    node: str, given: MapDocument, items: Sequence[bytes], *, parts: int, nodes_max: int
) -> tuple[Sequence[bytes], Sequence[object], NodePolicy]:
    """Return what each member is given, what tells it from the others, and what their join asks for."""
    labels = _labels(node, given, items)
    if given.batch:
        items = [_listed(items[begin : begin + given.batch]) for begin in range(0, len(items), given.batch)]
        labels = range(len(items))
    count = len(items) * parts + 1
    if count > nodes_max:
        each = f", {parts} nodes each" if parts > 1 else ""
        raise BadNode(
            node,
            f"its list has {len(items):,} items{each}: {count:,} nodes with the join behind them, `nodes_max` is {nodes_max:,}",
            next_step="give several items to one task by `batch`, or raise `nodes_max` in the daemon's configuration",
        )
    return items, labels, _policy_of_join(node, given, len(items))


def _refuse_if_too_long(node: str, template: ItemTemplate, count: int) -> None:
    """Raise `BadNode` if what stands beside the item would be there so often that it does not fit into memory."""
    taking = [part for part in template.parts if part.takes_item]
    size = sum(len(part.signature.args) + len(part.signature.kwargs) for part in taking if part.signature is not None)
    size += sum(len(part.policy.child.document) for part in taking if part.policy.child is not None)
    if size * count > EXPANSION_MAX:
        raise BadNode(
            node,
            f"`map.do` has {size:,} bytes beside the item, and with {count:,} items more than {EXPANSION_MAX:,}",
            next_step="give several items to one task by `batch`, or pass a reference to long data instead of the data",
        )


def _policy_of_join(node: str, given: MapDocument, members: int) -> NodePolicy:
    if given.min_success is None:
        # A member that asked to be ignored has no value, and is no reason to have none of the others either.
        return NodePolicy(rule=Rule.NONE_FAILED)
    asked = given.min_success
    least = asked if isinstance(asked, int) else math.ceil(asked * members - 1e-9)
    if least > members:
        raise BadNode(node, f"`min_success` asks for {least:,} members that succeed, and there are {members:,}")
    return NodePolicy(rule=Rule.ALL_FINISHED, succeeded_min=least)


def _specs(
    node: str,
    new_id: MadeIds,
    given: MapDocument,
    template: ItemTemplate,
    labels: Sequence[object],
    items: Sequence[bytes],
    members: list[str],
    node_bytes_max: int,
    look: Look,
) -> Iterator[NodeSpec]:
    """Yield the nodes item by item; ``members`` gets the names of those whose values are the items'."""
    longest = max(len(part.suffix) for part in template.parts)
    is_graph = len(template.parts) > 1 or longest > 0
    sections: set[str] = set()
    for number, (label, item) in enumerate(zip(labels, items, strict=True)):
        if not number % _LOOK_EVERY:
            look()
        if node_bytes_max:
            _check_item(node, number, item, node_bytes_max)
        member = member_name(node, label)
        if len(member) + longest > NAME_LENGTH_MAX:
            raise BadNode(
                node,
                f"the name '{member[:50]}…' of a node of item {number} would have {len(member) + longest} characters,"
                f" the most is {NAME_LENGTH_MAX}",
                next_step="choose a shorter `key`",
            )
        section = member.replace(SEPARATOR, _SLASH).lstrip(RESERVED)[:SECTION_LENGTH_MAX] if is_graph else ""
        if section in sections:
            # Of another item, whose key looks the same by then: each item's section ends by itself.
            section = f"{section[: SECTION_LENGTH_MAX - 12]}~{number}"
        if section:
            sections.add(section)
        members.append(member + template.parts[template.output].suffix)
        for part in template.parts:
            signature, policy = part.signature, part.policy
            if part.takes_item:
                if signature is not None:
                    signature = _with_item(node, number, signature, item, is_spread=given.spread)
                else:
                    policy = _policy_with_item(part, item)
            after = [member + suffix for suffix in part.after] if part.after else ()
            if policy.when is not None:
                policy = replace(policy, when=renamed(policy.when, partial(operator.add, member)))
            inner = inside(section, part.section) if part.section else section
            yield NodeSpec(member + part.suffix, signature, new_id() if signature is not None else "", after, policy, inner)


def _check_item(node: str, number: int, item: bytes, node_bytes_max: int) -> None:
    if len(item) > node_bytes_max:
        raise BadNode(
            node,
            f"item {number} has {len(item):,} bytes, the most is {node_bytes_max:,} (`node_bytes_max`)",
            next_step="return references to long data instead of the data",
        )
    if len(item) > DEPTH_MAX and (is_deeper(item, DEPTH_MAX - 2) or has_long_number(item)):
        raise BadNode(node, f"item {number} is nested too deeply, or has a number of thousands of digits")


def _with_item(node: str, number: int, signature: Signature, item: bytes, *, is_spread: bool) -> Signature:
    """Return a signature with the item in front of its arguments, or among them."""
    args, kwargs = signature.args, signature.kwargs
    if is_spread and item.startswith(b"{"):
        kwargs = encode({**decode_any(kwargs, dict[str, Raw]), **decode_any(item, dict[str, Raw])})
    elif is_spread and not item.startswith(b"["):
        raise BadNode(node, f"`spread` needs a list or an object, and item {number} is {kind_of(item)}")
    else:
        parts = [text for text in (_within(item) if is_spread else item, _within(args)) if text]
        args = _listed(parts)
    return Signature(
        signature.task,
        args,
        kwargs,
        signature.options,
        signature.immutable,
        signature.countdown_s,
        signature.eta_at,
        signature.expires_at,
    )


def _policy_with_item(part: ItemPart, item: bytes) -> NodePolicy:
    """Return what a map or a workflow in this map asks for, with the item in it."""
    child = part.policy.child
    assert child is not None
    return replace(part.policy, child=over_item(child, item) if child.kind == MAP else with_input(child, item))


def _within(array: bytes) -> bytes:
    """Return what stands between the brackets of an array."""
    return array.strip()[1:-1].strip()
