"""Definitions: the JSON form of what is submitted.

A definition is ``{"nodes": [{"name", "task", "args", "kwargs", "options", "immutable", "after": [names]} …]}``; the same
document is the body of a submission, a definition file, and what the store keeps. Arguments are JSON in kombu's dialect
(``{"__type__": "datetime", …}``) and stay text here: nothing in this process looks into them before the message is built.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec
from msgspec import Raw

from dyrygentd.core.bounds import HOOKS_MAX
from dyrygentd.core.conditions import When
from dyrygentd.core.graph import NODES_MAX, Definition, Graph, Source
from dyrygentd.core.ids import MadeIds
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.parameters import Parameter
from dyrygentd.core.parent import DEPTH_MAX
from dyrygentd.core.policy import PLAIN, PLAIN_WORKFLOW, Child, NodePolicy
from dyrygentd.core.sections import checked_section
from dyrygentd.core.series import IfRunning, series_of
from dyrygentd.core.states import NodeState
from dyrygentd.errors import BadNode, BadRequest, DefinitionError, UnknownDependency
from dyrygentd.wire.bounds import NODE_BYTES_MAX, Look, check_data, nothing
from dyrygentd.wire.children import body_of_child, child_of, document_of_child, stand_in
from dyrygentd.wire.conditions import condition_document, section_documents, whens_of
from dyrygentd.wire.encoding import decode, decode_any, encode
from dyrygentd.wire.expanding import check_list, decode_expanded, decode_own, is_expanded, sample_of
from dyrygentd.wire.forms import (
    DEFINITION_VERSION,
    ChildDocument,
    MapDocument,
    NodeDocument,
    PollDocument,
    WorkflowDocument,
)
from dyrygentd.wire.maps import checked_map
from dyrygentd.wire.mistakes import explained, suggestion
from dyrygentd.wire.nodes import PolicyReader, SignatureReader, names_of
from dyrygentd.wire.over import MAP, await_lists, document_of_map, map_of
from dyrygentd.wire.parents import document_of_parent, parent_of
from dyrygentd.wire.policies import document_of_policy, document_of_retry, policy_of
from dyrygentd.wire.reading import LOOK_EVERY, DocumentReader, Growth

#: Where a mistake is one whatever the value of a parameter will be.
_OF_PARAMETERS: Final = ("$.values", "$.parameters", "$.definition")
_FEWER_HOOKS: Final = "let one hook do it, or one node that waits for all"
_READER: Final = DocumentReader(WorkflowDocument, NodeDocument)


def parameters_of(body: bytes) -> list[Parameter]:
    """Return the parameters that a definition declares. Raises `BadRequest`."""
    return _READER.parameters_of(body)


def decode_definition(
    body: bytes,
    *,
    nodes_max: int,
    node_bytes_max: int = NODE_BYTES_MAX,
    new_id: Callable[[], str] | None = None,
    has_good_options: bool = True,
    look: Look = nothing,
    reader: DocumentReader = _READER,
    depth: int = 0,
    growth: Growth | None = None,
) -> Definition:
    """Parse and validate a definition.

    Args:
        has_good_options: Whether publish options with which nothing could be published are refused. A linter reads on.
        new_id: Makes the task ids of nodes that bring none, by default so that they are known as made here.
        node_bytes_max: Bytes of one node's arguments and payload, and of the workflow's payload; 0 for what is stored, and was
            looked at when it came.
        reader: Takes the document apart.
        depth, growth: How many workflows are above it, if it is to do the work of a node, and what has become of all of them.
        look: Called now and then; it raises when nobody waits for the definition any more.

    Raises:
        BadRequest: It is no JSON, or JSON of another shape; ``path`` tells where.
        DefinitionError: It has the right shape, but cannot be run.
    """
    if is_expanded(body) and not node_bytes_max:
        # From outside, its task ids could be somebody else's.
        return decode_expanded(body, nodes_max=nodes_max, node_bytes_max=node_bytes_max, look=look)
    filled, document = reader.read(body, nodes_max=nodes_max, node_bytes_max=node_bytes_max, look=look)
    _refuse_unknown_version(document.version)
    if node_bytes_max:
        check_data("", {"payload": bytes(document.payload)}, node_bytes_max)
    await_lists(document.nodes)
    names, made = list(names_of(document.nodes)), new_id or MadeIds()
    growth = (growth or Growth()).with_more(len(filled) - len(body))
    bounds: Any = {"nodes_max": nodes_max, "node_bytes_max": node_bytes_max, "has_good_options": has_good_options}
    check = _ChildCheck(depth, look=look, growth=growth, **bounds)
    readers = SignatureReader(has_good_options, node_bytes_max), PolicyReader(node_bytes_max, check_child=check)
    specs = _read_nodes(names, document.nodes, *readers, made, look, has_good_options=has_good_options)
    graph = _graph_of(specs, names, document.output, nodes_max, whens_of(document.sections, specs))
    adopted = {number: NodeState[node.adopted.upper()] for number, node in enumerate(document.nodes) if node.adopted is not None}
    if has_good_options:
        _refuse_values_of_adopted(graph, adopted)
    definition = Definition(
        graph=graph,
        name=document.name or next((node.task for node in document.nodes if node.task), "workflow"),
        key=document.key,
        labels=document.labels,
        payload=bytes(document.payload),
        policy=PLAIN_WORKFLOW if document.policy is None else policy_of(document.policy),
        adopted=adopted,
        chosen=frozenset([number for number, node in enumerate(document.nodes) if node.task_id and node.task is not None]),
        is_fresh=isinstance(made, MadeIds),
        parent_task=parent_of(document.parent_task, graph.task_ids),
        inner=check.found,
        series=series_of(document.series, document.if_running),
    )
    return replace(definition, source=Source(filled, definition)) if _is_complete(document) else definition


def _is_complete(document: WorkflowDocument) -> bool:
    """Tell whether it gives the same when it is read again: then it need not be written anew to be stored."""
    return bool(document.name) and all(node.name and (node.task is None or node.task_id) for node in document.nodes)


def decode_imported(body: bytes, workflow_id: str, *, nodes_max: int, node_bytes_max: int, look: Look = nothing) -> Definition:
    """Read the definition of a workflow as it was stored elsewhere. Raises as `decode_definition` does."""
    if is_expanded(body):
        return decode_own(body, workflow_id, nodes_max=nodes_max, node_bytes_max=node_bytes_max, look=look)
    return decode_definition(body, nodes_max=nodes_max, node_bytes_max=node_bytes_max, has_good_options=False, look=look)


def decode_child(
    child: Child,
    given: bytes | None,
    *,
    name: str,
    depth: int,
    nodes_max: int,
    node_bytes_max: int = NODE_BYTES_MAX,
    new_id: Callable[[], str] | None = None,
    look: Look = nothing,
    has_good_options: bool = True,
    growth: Growth | None = None,
) -> Definition:
    """Return the definition of a workflow that is to do the work of a node, put together and checked like a submission.

    Args:
        given: JSON text of what precedes the node, if it takes that.
        name: What it is called if its definition does not say.
        depth: How many workflows are above it.

    Raises:
        BadRequest, DefinitionError
    """
    if depth > DEPTH_MAX:
        raise BadRequest(
            f"there are {depth} workflows above it, the limit is {DEPTH_MAX}",
            path="$.definition",
            next_step="let fewer of them begin others: one that begins itself never ends",
        )
    definition = decode_definition(
        body_of_child(child, given, name),
        nodes_max=nodes_max,
        node_bytes_max=node_bytes_max,
        new_id=new_id,
        look=look,
        has_good_options=has_good_options,
        depth=depth,
        growth=growth,
    )
    named = [definition.graph.names[node] for node in [*(definition.chosen or ()), *definition.adopted]]
    if named:
        raise BadNode(
            named[0],
            "it has a `task_id`, or is `adopted`: its workflow may be begun more than once",
            next_step="leave both out of workflows of nodes",
        )
    return definition


def inner_of(definition: Definition, *, has_good_options: bool = True) -> Mapping[str, Definition]:
    """Return what nodes of a definition begin as workflows of their own, as far as that is known. Raises `BadNode`."""
    graph = definition.graph
    check = _ChildCheck(0, nodes_max=NODES_MAX, node_bytes_max=NODE_BYTES_MAX, has_good_options=has_good_options)
    for child, node in {policy.child: node for node, policy in graph.policies.items() if policy.child is not None}.items():
        check(graph.names[node], child)
    return check.found


def checked_child(name: str, body: bytes) -> Child:
    """Read the workflow of a node of this name. Raises `BadRequest` or `BadNode`."""
    child = child_of(name, decode(body, ChildDocument))
    _ChildCheck(0, nodes_max=NODES_MAX, node_bytes_max=NODE_BYTES_MAX)(name, child)
    return child


def _refuse_unknown_version(version: int) -> None:
    if version != DEFINITION_VERSION:
        raise BadRequest(f"definition version {version} is unknown, this daemon reads {DEFINITION_VERSION}", path="$.version")


class _ChildCheck:
    """Looks at the workflows of nodes before anything runs. Guards: what could never be begun is refused.

    Attributes:
        found: What was looked at.
    """

    def __init__(self, depth: int, **bounds: Any) -> None:
        self.found: dict[str, Definition] = {}
        self._depth = depth
        self._bounds = bounds

    def __repr__(self) -> str:
        return f"<_ChildCheck depth={self._depth} found={len(self.found)}>"

    def __call__(self, name: str, child: Child) -> None:
        if not self._bounds["node_bytes_max"]:
            return  # It is stored, and was looked at when it came.
        if child.kind == MAP:
            self._check_map(name, child)
            return
        is_certain = True
        try:
            given, is_certain = stand_in(child)
            definition = decode_child(child, given, name=name, depth=self._depth + 1, **self._bounds)
        except (BadRequest, DefinitionError) as error:
            # What stands for a value that is not known yet may be wrong where the value will be right.
            if is_certain or (
                isinstance(error, BadRequest) and error.path.startswith(("$.values", "$.parameters", "$.definition"))
            ):
                step = error.next_step
                if "-p " in step:  # A command line fills parameters of what is submitted, and not those inside.
                    step = "give it in `workflow.values`, or name it as `workflow.input`"
                raise BadNode(name, f"`workflow.definition`: {error.message}", next_step=step) from error
        else:
            if is_certain:
                self.found[name] = definition

    def _check_map(self, name: str, child: Child) -> None:
        if self._depth >= DEPTH_MAX:
            raise BadNode(name, f"there are {DEPTH_MAX} workflows above it, the limit", next_step="put fewer maps into maps")
        deeper = _ChildCheck(self._depth + 1, **self._bounds)
        checked_map(name, document_of_map(child), check_child=deeper, **self._some("node_bytes_max", "has_good_options"))
        # With one item of which nothing is known, for whoever looks at what would be sent.
        inner = {f"{name}[0]{each.removeprefix(name)}": found for each, found in deeper.found.items()}
        self.found[name] = replace(sample_of(name, child).definition, inner=inner)
        if not child.takes_input:
            # What is wrong with a list that is written out need not wait until it is run.
            check_list(name, child, **self._some("nodes_max", "node_bytes_max"))

    def _some(self, *fields: str) -> dict[str, Any]:
        return {field: self._bounds[field] for field in fields if field in self._bounds}


def _read_nodes(
    names: Sequence[str],
    nodes: Sequence[NodeDocument],
    signatures: SignatureReader,
    policies: PolicyReader,
    new_id: Callable[[], str],
    look: Look,
    *,
    has_good_options: bool,
) -> list[NodeSpec]:
    specs: list[NodeSpec] = []
    signature_of, policy_of = signatures.read, policies.read
    for begin in range(0, len(nodes), LOOK_EVERY):
        look()
        part = list(zip(names[begin : begin + LOOK_EVERY], nodes[begin : begin + LOOK_EVERY], strict=True))
        if has_good_options:
            _refuse_bad_words(part)
        specs += [
            NodeSpec(
                name,
                signature_of(name, node),
                "" if node.task is None else node.task_id or new_id(),
                node.after,
                policy_of(name, node),
                node.section,
            )
            for name, node in part
        ]
    return specs


def _refuse_bad_words(nodes: Sequence[tuple[str, NodeDocument]]) -> None:
    """Refuse task ids that cannot be printed, and paths of sections that have a flaw. Nearly always all are good together."""
    if not "".join([node.task_id or "" for _, node in nodes]).isprintable():
        name = next(name for name, node in nodes if not (node.task_id or "").isprintable())
        raise BadNode(
            name, "`task_id` has characters that cannot be printed", next_step="leave it out, or use letters and digits"
        )
    for name, node in nodes:
        if node.section:
            checked_section(name, node.section)


def document_of(definition: Definition) -> bytes:
    """Return a definition as it is stored: as it came if that says everything, else written by `encode_definition`."""
    source = definition.source
    return source.document if source is not None and source.definition == definition else encode_definition(definition)


def _refuse_values_of_adopted(graph: Graph, adopted: Mapping[int, NodeState]) -> None:
    """Refuse to take a value from what was done before: nobody has it here, and what wants it could never be published."""
    for node, state in adopted.items():
        if state is not NodeState.SUCCEEDED or not graph.feeds_tasks[node]:
            continue
        takers = (taker for taker in graph.dependents(node) if graph.wants(taker, node) and taker not in adopted)
        for taker in takers:
            raise BadNode(
                graph.names[node],
                f"it is adopted as succeeded, and has no value for '{graph.names[taker]}'",
                next_step="make what takes its value immutable, or adopt that as well",
            )


def _graph_of(
    specs: Sequence[NodeSpec], names: Sequence[str], output: str | None, nodes_max: int, whens: Mapping[str, When]
) -> Graph:
    """Build the graph; say which node may have been meant where one is named that does not exist."""
    if output is not None and specs and output not in set(names):
        raise BadRequest(f"`output` names '{output}', which is no node", path="$.output", next_step=suggestion(output, names))
    # What is stored already is read whatever it has; each hook costs an edge to each end of the graph.
    hooks = sum([spec.policy.hook is not None for spec in specs if spec.policy is not PLAIN]) if nodes_max < NODES_MAX else 0
    if hooks > HOOKS_MAX:
        raise BadRequest(f"the workflow has {hooks} hooks, the limit is {HOOKS_MAX}", path="$.nodes", next_step=_FEWER_HOOKS)
    try:
        return Graph.build(specs, output=output, nodes_max=nodes_max, whens=whens)
    except UnknownDependency as error:
        error.next_step = suggestion(error.dependency, names)
        raise


def encode_definition(definition: Definition, *, chosen_ids_only: bool = False) -> bytes:
    """Write a definition; decoding it gives an equal graph with the same task ids.

    Args:
        chosen_ids_only: Leave the other ids out, so that whoever reads it makes them.
    """
    graph, series = definition.graph, definition.series
    return encode(
        WorkflowDocument(
            nodes=[_node_document(definition, node, chosen_ids_only) for node in range(len(graph))],
            name=definition.name,
            key=definition.key,
            labels=dict(definition.labels),
            payload=Raw(definition.payload),
            output=None if graph.output is None else graph.names[graph.output],
            policy=None if definition.policy == PLAIN_WORKFLOW else document_of_policy(definition.policy),
            parent_task=document_of_parent(definition.parent_task),
            series=None if series is None else series.name,
            if_running=None if series is None or series.if_running is IfRunning.ALLOW else series.if_running,
            sections=section_documents(graph),
        )
    )


def map_of_definition(name: str, do: Definition, fields: bytes) -> Child:
    """Return a map that does this with each item.

    Args:
        name: What its node is called in errors.
        fields: JSON text of its other fields.

    Raises:
        BadNode, BadRequest
    """
    written: dict[str, Raw] = decode_any(fields, dict[str, Raw])
    text = encode({**written, "do": _done_with_each(do)})
    try:
        document = decode(text, MapDocument)
    except BadRequest as error:
        told = explained(error, MapDocument, text)
        raise BadNode(name, told.message.removesuffix(f", at {told.path}"), next_step=told.next_step) from None
    checked_map(name, document, node_bytes_max=NODE_BYTES_MAX)
    return map_of(document)


def _done_with_each(do: Definition) -> Any:
    graph = do.graph
    fields: dict[str, Raw] = decode_any(encode_definition(do, chosen_ids_only=True), dict[str, Raw])
    if len(graph) > 1 or graph.signatures[0] is None:
        return {name: fields[name] for name in ("nodes", "output") if name in fields}
    (node,) = decode_any(bytes(fields["nodes"]), list[dict[str, Raw]])
    return {name: value for name, value in node.items() if name not in ("name", "section")}


def _node_document(definition: Definition, node: int, chosen_ids_only: bool) -> NodeDocument:
    graph = definition.graph
    policy, signature = graph.policy(node), graph.signatures[node]
    after = [] if policy.hook is not None else [graph.names[dependency] for dependency in graph.inputs(node)]
    if signature is None:
        document = NodeDocument(name=graph.names[node], join=graph.is_join(node), after=after)
    else:
        document = NodeDocument(
            name=graph.names[node],
            task=signature.task,
            args=Raw(signature.args),
            kwargs=Raw(signature.kwargs),
            options=Raw(_options_with_times(signature)),
            immutable=signature.immutable,
            task_id=None if chosen_ids_only and node not in (definition.chosen or ()) else graph.task_ids[node],
            after=after,
        )
    if policy is not PLAIN:
        _write_policy(document, policy)
    document.section = graph.sections.of(node)
    if node in definition.adopted:
        document.adopted = definition.adopted[node].word  # type: ignore[assignment]
    return document


def _write_policy(document: NodeDocument, policy: NodePolicy) -> None:
    if policy.child is not None and policy.child.kind == MAP:
        document.map = document_of_map(policy.child)
    elif policy.child is not None:
        document.workflow = document_of_child(policy.child)
    document.gate, document.sleep_s, document.hook = policy.is_gate, policy.sleep_s, policy.hook
    if policy.poll_every_s:
        document.poll = PollDocument(policy.poll_every_s, policy.poll_timeout_s)
    document.rule, document.pool, document.timeout_s = policy.rule, policy.pool, policy.timeout_s
    document.retry = None if policy.retry is None else document_of_retry(policy.retry)
    document.on_lost, document.idempotent, document.payload = policy.on_lost, policy.idempotent, Raw(policy.payload)
    document.expands = policy.expands
    document.redeliveries_max, document.section_end = policy.redeliveries_max, policy.section_end
    document.when = None if policy.when is None else condition_document(policy.when)
    document.hands_on = policy.hands_on


def _options_with_times(signature: Signature) -> bytes:
    if not signature.countdown_s and not signature.eta_at:
        return signature.options
    options = msgspec.json.decode(signature.options)
    if signature.countdown_s:
        options["countdown"] = signature.countdown_s
    if signature.eta_at:
        options["eta"] = signature.eta_at
    return encode(options)
