"""Definitions: the JSON form of what is submitted.

A definition is ``{"nodes": [{"name", "task", "args", "kwargs", "options", "immutable", "after": [names]} …]}``; the same
document is the body of a submission, a definition file, and what the store keeps. Arguments are JSON in kombu's dialect
(``{"__type__": "datetime", …}``) and stay text here: nothing in this process looks into them before the message is built.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import uuid4

import msgspec
from msgspec import Meta, Raw, Struct

from dyrygentd.core.graph import (
    LABELS_MAX,
    NAME_LENGTH_MAX,
    RESERVED_OPTIONS,
    SERIALIZERS,
    Definition,
    Graph,
    NodeSpec,
    Signature,
    Source,
)
from dyrygentd.core.options import SECONDS_MAX, flaw_of, is_number, shown
from dyrygentd.core.parameters import Parameter, declared, expanded
from dyrygentd.core.policy import (
    ANY,
    PLAIN,
    PLAIN_WORKFLOW,
    Hook,
    NodePolicy,
    OnFailure,
    OnLost,
    Retry,
    Rule,
    WorkflowPolicy,
)
from dyrygentd.core.states import NodeState
from dyrygentd.core.verbs import PRIORITY_MAX
from dyrygentd.errors import BadNode, BadRequest, UnknownDependency
from dyrygentd.wire.encoding import decode, decode_any, encode
from dyrygentd.wire.mistakes import explained, suggestion

DEFINITION_VERSION: Final = 1

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
LabelValue = Annotated[str, Meta(max_length=NAME_LENGTH_MAX)]

_EMPTY_ARRAY, _EMPTY_OBJECT, _NULL = Raw(b"[]"), Raw(b"{}"), Raw(b"null")


Seconds = Annotated[float, Meta(ge=0, le=10 * 366 * 86_400)]


class RetryDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A retry policy.

    Attributes:
        attempts: How often it is tried at most, the first time included.
        backoff_s: Pause before the second attempt; it doubles with each further one.
        backoff_max_s: Longest pause.
        jitter: Share of the pause that chance may take away, from 0 to 1.
        on: After which failures: ``any`` (the default), ``infrastructure``, ``revoked``, ``expired``, or names of exceptions.
    """

    attempts: Annotated[int, Meta(ge=1, le=1000)] = 3
    backoff_s: Seconds = 1.0
    backoff_max_s: Seconds = 600.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    on: Annotated[list[Name], Meta(max_length=50)] = []


class PollDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How a task is repeated until it returns something true.

    Attributes:
        every_s: Seconds from one answer to the next question.
        timeout_s: Longest time from the first question on, after which the node has failed; 0 for no bound.
    """

    every_s: Annotated[float, Meta(ge=0.1, le=366 * 86_400)]
    timeout_s: Seconds = 0.0


class PolicyDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a workflow asks for.

    Attributes:
        on_failure: ``continue``: what does not depend on a failed node goes on. ``stop``: what has not been sent is cancelled.
        retry: Retry policy of nodes that bring none.
        timeout_s: From dispatch to result, of nodes that bring none; 0 for no bound.
        deadline_s: From the start; then what has not finished is cancelled, and the workflow has failed. 0 for none.
        start_at: Nothing is sent before this time: ISO 8601 with a time zone, or Unix seconds.
        priority: Workflows with a higher one go first.
        weight: Nodes given in one turn of the round robin among workflows of one priority.
        in_flight_max: Most tasks in flight at once; 0 for no bound of its own.
    """

    on_failure: OnFailure = OnFailure.CONTINUE
    retry: RetryDocument | None = None
    timeout_s: Seconds = 0.0
    deadline_s: Seconds = 0.0
    start_at: float | str = 0.0
    priority: Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    in_flight_max: Annotated[int, Meta(ge=0)] = 0


class NodeDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One node of a definition: a task, a join, a gate or a sleep.

    Attributes:
        name: Unique in the workflow; made of the task's name and the position if there is none.
        task: Name of the Celery task.
        join: It is a point where others meet, without a task.
        args: Positional arguments; what precedes comes in front of them, unless the node is immutable.
        kwargs: Keyword arguments.
        options: Celery's publish options: ``queue``, ``priority``, ``countdown``, ``eta``, ``expires``, ``headers`` and so on.
        immutable: The task does not get the values of what precedes it.
        task_id: Celery's id of the first attempt; made if there is none.
        after: Names of the nodes that it waits for.
        gate: It waits until an operator releases it.
        sleep_s: It takes so long, and holds no worker.
        poll: The task is repeated until it returns something true.
        hook: The task runs at the end: on ``success``, on ``failure`` or ``always``.
        rule: When it runs, by how the nodes in ``after`` ended.
        pool: Name of a pool of the daemon's configuration, of which it takes a place while it is in flight.
        retry: Retry policy, instead of the workflow's.
        timeout_s: From dispatch to result, for each attempt, instead of the workflow's; 0 for none of its own.
        on_lost: What to do when the task has vanished; by default ``retry`` if the node is idempotent, else ``hold``.
        idempotent: Running the task twice does no harm.
        payload: Free data, shown with the node.
        adopted: It was done, or sent, before this workflow is submitted.
    """

    name: Name | None = None
    task: Name | None = None
    join: bool = False
    args: Raw = _EMPTY_ARRAY
    kwargs: Raw = _EMPTY_OBJECT
    options: Raw = _EMPTY_OBJECT
    immutable: bool = False
    task_id: Name | None = None
    after: list[str] = []
    gate: bool = False
    sleep_s: Seconds = 0.0
    poll: PollDocument | None = None
    hook: Hook | None = None
    rule: Rule = Rule.ALL_SUCCEEDED
    pool: Annotated[str, Meta(max_length=NAME_LENGTH_MAX)] = ""
    retry: RetryDocument | None = None
    timeout_s: Seconds = 0.0
    on_lost: OnLost | None = None
    idempotent: bool = False
    payload: Raw = _NULL
    adopted: Literal["succeeded", "failed", "dispatched"] | None = None


class WorkflowDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A definition: what to run, and what it is called.

    Attributes:
        nodes: What to run.
        version: Of the form of this document.
        name: What the workflow is called; by default as its first task.
        key: A second submission with the same key is answered with the first one's workflow.
        labels: Texts to find it by.
        payload: Free data, shown with the workflow.
        output: Name of the node whose value is the result; by default the only one that nothing waits for.
        policy: What holds for all of it.
        parameters: ``{name: default, or {"type", "default", "description", "choices"}}``; ``${name}`` in texts becomes the value.
        values: ``{name: value}`` of parameters.
    """

    nodes: list[NodeDocument]
    version: int = DEFINITION_VERSION
    name: Name | None = None
    key: Name | None = None
    labels: Annotated[dict[Name, LabelValue], Meta(max_length=LABELS_MAX)] = {}
    payload: Raw = _NULL
    output: str | None = None
    policy: PolicyDocument | None = None
    parameters: dict[str, Any] | None = None
    values: dict[str, Any] | None = None


#: Bodies that are longer are decoded so many nodes at a time.
_SLICED_BYTES: Final = 500_000
_SLICE: Final = 500
_IN_SLICE: Final = re.compile(r"\$\[(\d+)\](.*)")
#: The same form with its nodes left as they are.
_Sliced: Final[Any] = msgspec.defstruct(
    "WorkflowDocument",
    [
        (field.name, list[Raw] if field.name == "nodes" else field.type, *([] if field.required else [field.default]))
        if field.default_factory is msgspec.NODEFAULT
        else (field.name, field.type, msgspec.field(default_factory=field.default_factory))
        for field in msgspec.structs.fields(WorkflowDocument)
    ],
    forbid_unknown_fields=True,
)


def decode_definition(
    body: bytes, *, nodes_max: int, new_id: Callable[[], str] = lambda: str(uuid4()), has_good_options: bool = True
) -> Definition:
    """Parse and validate a definition.

    Args:
        has_good_options: Whether publish options with which nothing could be published are refused. A linter reads on.
        new_id: Makes the task ids of nodes that bring none.

    Raises:
        BadRequest: It is no JSON, or JSON of another shape; ``path`` tells where.
        DefinitionError: It has the right shape, but cannot be run.
    """
    filled = _with_parameters(body)
    document = _decoded(filled)
    if document.version != DEFINITION_VERSION:
        raise BadRequest(
            f"definition version {document.version} is unknown, this daemon reads {DEFINITION_VERSION}", path="$.version"
        )
    names = list(_names(document.nodes))
    signatures, policies = _SignatureReader(has_good_options), _PolicyReader()
    specs = [
        NodeSpec(
            name=name,
            signature=signatures.read(name, node),
            task_id="" if node.task is None else node.task_id or new_id(),
            after=node.after,
            policy=policies.read(name, node),
        )
        for name, node in zip(names, document.nodes, strict=True)
    ]
    graph = _graph_of(specs, names, document.output, nodes_max)
    adopted = {number: NodeState[node.adopted.upper()] for number, node in enumerate(document.nodes) if node.adopted is not None}
    if has_good_options:
        _refuse_values_of_adopted(graph, adopted)
    definition = Definition(
        graph=graph,
        name=document.name or next((node.task for node in document.nodes if node.task), "workflow"),
        key=document.key,
        labels=document.labels,
        payload=bytes(document.payload),
        policy=PLAIN_WORKFLOW if document.policy is None else _workflow_policy(document.policy),
        adopted=adopted,
    )
    # Read again, it gives the same: it need not be written anew to be stored.
    is_complete = bool(document.name) and all(node.name and (node.task is None or node.task_id) for node in document.nodes)
    return replace(definition, source=Source(filled, definition)) if is_complete else definition


def document_of(definition: Definition) -> bytes:
    """Return a definition as it is stored: as it came if that says everything, else written by `encode_definition`."""
    source = definition.source
    return source.document if source is not None and source.definition == definition else encode_definition(definition)


def _refuse_values_of_adopted(graph: Graph, adopted: Mapping[int, NodeState]) -> None:
    """Refuse to take a value from what was done before: nobody has it here, and what wants it could never be published."""
    for node, state in adopted.items():
        if state is not NodeState.SUCCEEDED or not graph.feeds_tasks[node]:
            continue
        takers = (taker for taker in graph.dependents(node) if graph.takes_input(taker) and taker not in adopted)
        for taker in takers:
            raise BadNode(
                graph.names[node],
                f"it is adopted as succeeded, and has no value for '{graph.names[taker]}'",
                next_step="make what takes its value immutable, or adopt that as well",
            )


def parameters_of(body: bytes) -> list[Parameter]:
    """Return the parameters that a definition declares. Raises `BadRequest`."""
    document = decode_any(body, Any)
    return declared(document) if isinstance(document, dict) else []


def _decoded(body: bytes) -> WorkflowDocument:
    document = _decoded_in_slices(body) if len(body) > _SLICED_BYTES else _decoded_as(WorkflowDocument, body)
    if document.parameters is not None or document.values is not None:
        # They are looked for in the bytes, so that documents without them are read once only.
        raise BadRequest("`parameters` and `values` must be written without escapes in their names", path="$.parameters")
    return document


def _decoded_in_slices(body: bytes) -> WorkflowDocument:
    """Decode a long definition some nodes at a time: one call for all would hold the interpreter's lock, and the loop with it."""
    sliced = _decoded_as(_Sliced, body)
    nodes: list[NodeDocument] = []
    for start in range(0, len(sliced.nodes), _SLICE):
        raw = sliced.nodes[start : start + _SLICE]
        try:
            nodes += decode_any(b"[" + b",".join(raw) + b"]", list[NodeDocument])
        except BadRequest as error:
            raise _in_the_whole(error, raw, start) from error.__cause__
    rest = {name: getattr(sliced, name) for name in _Sliced.__struct_fields__ if name != "nodes"}
    return WorkflowDocument(nodes=nodes, **rest)


def _decoded_as(form: Any, body: bytes) -> Any:
    try:
        return decode(body, form)
    except BadRequest as error:
        raise explained(error, body, WorkflowDocument) from error.__cause__


def _in_the_whole(error: BadRequest, raw: Sequence[Raw], start: int) -> BadRequest:
    """Return an error in a slice as one in the whole definition, without reading that again."""
    found = _IN_SLICE.match(error.path)
    if found is None:
        return error
    number, rest = start + int(found[1]), found[2]
    path = f"$.nodes[{number}]{rest}"
    message = str(error).removesuffix(error.path) + path
    padded = b'{"nodes": [' + b"null," * number + bytes(raw[int(found[1])]) + b"]}"
    return explained(BadRequest(message, path=path), padded, WorkflowDocument)


def _with_parameters(body: bytes) -> bytes:
    if b'"parameters"' not in body and b'"values"' not in body:
        return body
    document = decode_any(body, Any)
    # The words may have stood in an argument.
    if not isinstance(document, dict) or not document.keys() & {"parameters", "values"}:
        return body
    filled = expanded(document)
    try:
        return encode(filled)
    except (RecursionError, ValueError) as error:
        raise BadRequest(f"the definition cannot be written with its parameters: {error}", path="$") from error


def _graph_of(specs: Sequence[NodeSpec], names: Sequence[str], output: str | None, nodes_max: int) -> Graph:
    """Build the graph; say which node may have been meant where one is named that does not exist."""
    if output is not None and specs and output not in set(names):
        raise BadRequest(f"`output` names '{output}', which is no node", path="$.output", next_step=suggestion(output, names))
    try:
        return Graph.build(specs, output=output, nodes_max=nodes_max)
    except UnknownDependency as error:
        error.next_step = suggestion(error.dependency, names)
        raise


def encode_definition(definition: Definition) -> bytes:
    """Write a definition; decoding it gives an equal graph with the same task ids."""
    graph = definition.graph
    return encode(
        WorkflowDocument(
            nodes=[_node_document(definition, node) for node in range(len(graph))],
            name=definition.name,
            key=definition.key,
            labels=dict(definition.labels),
            payload=Raw(definition.payload),
            output=None if graph.output is None else graph.names[graph.output],
            policy=None if definition.policy == PLAIN_WORKFLOW else _policy_document(definition.policy),
        )
    )


def _node_document(definition: Definition, node: int) -> NodeDocument:
    graph = definition.graph
    policy, signature = graph.policy(node), graph.signatures[node]
    after = [] if policy.hook is not None else [graph.names[dependency] for dependency in graph.dependencies(node)]
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
            task_id=graph.task_ids[node],
            after=after,
        )
    if policy is not PLAIN:
        _write_policy(document, policy)
    if node in definition.adopted:
        document.adopted = definition.adopted[node].word  # type: ignore[assignment]
    return document


def _write_policy(document: NodeDocument, policy: NodePolicy) -> None:
    document.gate, document.sleep_s, document.hook = policy.is_gate, policy.sleep_s, policy.hook
    if policy.poll_every_s:
        document.poll = PollDocument(policy.poll_every_s, policy.poll_timeout_s)
    document.rule, document.pool, document.timeout_s = policy.rule, policy.pool, policy.timeout_s
    document.retry = None if policy.retry is None else _retry_document(policy.retry)
    document.on_lost, document.idempotent, document.payload = policy.on_lost, policy.idempotent, Raw(policy.payload)


def _policy_document(policy: WorkflowPolicy) -> PolicyDocument:
    return PolicyDocument(
        on_failure=policy.on_failure,
        retry=None if policy.retry is None else _retry_document(policy.retry),
        timeout_s=policy.timeout_s,
        deadline_s=policy.deadline_s,
        start_at=policy.start_at,
        priority=policy.priority,
        weight=policy.weight,
        in_flight_max=policy.in_flight_max,
    )


def _retry_document(retry: Retry) -> RetryDocument:
    return RetryDocument(retry.attempts, retry.backoff_s, retry.backoff_max_s, retry.jitter, sorted(retry.on))


def _workflow_policy(document: PolicyDocument) -> WorkflowPolicy:
    return WorkflowPolicy(
        on_failure=document.on_failure,
        retry=None if document.retry is None else _workflow_retry(document.retry),
        timeout_s=document.timeout_s,
        deadline_s=document.deadline_s,
        start_at=_start_at(document.start_at),
        priority=document.priority,
        weight=document.weight,
        in_flight_max=document.in_flight_max,
    )


def _node_retry(name: str, document: RetryDocument) -> Retry:
    try:
        return _retry(document)
    except ValueError as error:
        raise BadNode(name, f"`retry`: {error}", next_step=_RAISE_MAXIMUM) from None


def _workflow_retry(document: RetryDocument) -> Retry:
    try:
        return _retry(document)
    except ValueError as error:
        raise BadRequest(f"`policy.retry`: {error}", path="$.policy.retry", next_step=_RAISE_MAXIMUM) from None


_RAISE_MAXIMUM: Final = "raise `backoff_max_s`, or lower `backoff_s`"


def _retry(document: RetryDocument) -> Retry:
    if document.backoff_max_s < document.backoff_s:
        raise ValueError(
            f"the longest pause, {document.backoff_max_s:g} s, is shorter than the first one, {document.backoff_s:g} s"
        )
    return Retry(document.attempts, document.backoff_s, document.backoff_max_s, document.jitter, frozenset(document.on or [ANY]))


def _start_at(given: float | str) -> float:
    try:
        return _moment(given)
    except ValueError as error:
        raise BadRequest(f"`policy.start_at` {error}", path="$.policy.start_at", next_step=_WRITE_TIME) from None


def _options_with_times(signature: Signature) -> bytes:
    if not signature.countdown_s and not signature.eta_at:
        return signature.options
    options = msgspec.json.decode(signature.options)
    if signature.countdown_s:
        options["countdown"] = signature.countdown_s
    if signature.eta_at:
        options["eta"] = signature.eta_at
    return encode(options)


def _names(nodes: Sequence[NodeDocument]) -> Iterable[str]:
    """Give a name to each node that has none: its task's last word and its position."""
    given = {node.name for node in nodes}
    for position, node in enumerate(nodes, start=1):
        # Cut, so that the position of a task with a long name still fits into a name, as it will be read back from the store.
        name = node.name or f"{(node.task or 'join').rpartition('.')[2][:180]}-{position}"
        while not node.name and name in given:
            name += "+"
        yield name


class _SignatureReader:
    """Turns node documents into signatures; equal ones become one object, since large workflows repeat few shapes."""

    def __init__(self, has_good_options: bool) -> None:
        self._has_good_options = has_good_options
        self._signatures: dict[tuple[str, bytes, bytes, bytes, bool], Signature] = {}
        self._options: dict[bytes, tuple[bytes, float, float, float]] = {}

    def read(self, name: str, node: NodeDocument) -> Signature | None:
        kinds = [word for word, given in (("join", node.join), ("gate", node.gate), ("sleep_s", node.sleep_s)) if given]
        if kinds:
            _check_taskless(name, node, kinds)
            return None
        if node.task is None:
            kind = "a poll repeats a task, and " if node.poll else "a hook runs a task, and " if node.hook else ""
            next_step = "name a task" if kind else "name a task, or write `join: true`, `gate: true` or `sleep_s`"
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
        if options not in self._options:
            self._options[options] = _split_options(name, options, has_good_options=self._has_good_options)
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
    )
    if node != allowed:
        wrong = [field for field in NodeDocument.__struct_fields__ if getattr(node, field) != getattr(allowed, field)]
        raise BadNode(
            name,
            f"a {_WORDS[kinds[0]]} has a name, `after`, `rule` and `payload`, and nothing else",
            next_step=f"leave out {', '.join(f'`{field}`' for field in wrong)}",
        )
    if node.adopted == "dispatched":
        raise BadNode(name, "what has no task cannot have been dispatched", next_step="leave out `adopted`")


_WORDS: Final = {"join": "join", "gate": "gate", "sleep_s": "sleep"}


def _is_plain(node: NodeDocument) -> bool:
    """Tell whether a node asks for nothing that makes a policy; most do not, and comparing is cheaper than making one."""
    return (
        node.rule is Rule.ALL_SUCCEEDED
        and (node.retry is None and node.on_lost is None and node.poll is None and node.hook is None)
        and not (node.pool or node.timeout_s or node.idempotent or node.gate or node.sleep_s)
        and bytes(node.payload) == b"null"
    )


class _PolicyReader:
    """Turns what node documents ask for into policies; equal ones become one object."""

    def __init__(self) -> None:
        self._policies: dict[NodePolicy, NodePolicy] = {PLAIN: PLAIN}

    def read(self, name: str, node: NodeDocument) -> NodePolicy:
        if _is_plain(node):
            return PLAIN
        policy = NodePolicy(
            rule=node.rule,
            pool=node.pool,
            retry=None if node.retry is None else _node_retry(name, node.retry),
            timeout_s=node.timeout_s,
            on_lost=node.on_lost,
            idempotent=node.idempotent,
            payload=bytes(node.payload),
            is_gate=node.gate,
            sleep_s=node.sleep_s,
            poll_every_s=0.0 if node.poll is None else node.poll.every_s,
            poll_timeout_s=0.0 if node.poll is None else node.poll.timeout_s,
            hook=node.hook,
        )
        if node.hook is not None and (node.poll is not None or node.adopted is not None):
            word = "poll" if node.poll is not None else "adopted"
            raise BadNode(name, "a hook is neither a poll nor adopted", next_step=f"leave out `{word}` or `hook`")
        return self._policies.setdefault(policy, policy)


def _split_options(name: str, text: bytes, *, has_good_options: bool) -> tuple[bytes, float, float, float]:
    """Check publish options; the daemon's own timers take ``countdown`` and ``eta`` out of them."""
    if text == b"{}":
        return text, 0.0, 0.0, 0.0
    options: dict[str, Any] = decode_any(text, dict[str, Any])
    reserved = sorted(RESERVED_OPTIONS & options.keys())
    if reserved:
        raise BadNode(name, f"`options.{reserved[0]}` is set by the daemon", next_step="leave it out")
    serializer = options.get("serializer")
    if serializer is not None and not (isinstance(serializer, str) and serializer in SERIALIZERS):
        raise BadNode(
            name,
            f"serializer '{serializer}' is not accepted from a client",
            next_step=f"use one of {', '.join(sorted(SERIALIZERS))}",
        )
    expires_at = _checked_options(name, options) if has_good_options else 0.0
    countdown = options.pop("countdown", None) or 0
    if not isinstance(countdown, int | float) or countdown < 0:
        raise BadNode(name, "`options.countdown` must be a number of seconds, 0 or more", next_step="write a number")
    eta_at = _unix_time(name, options.pop("eta", None))
    return (encode(options) if options else b"{}"), float(countdown), eta_at, expires_at


def _checked_options(name: str, options: dict[str, Any]) -> float:
    """Refuse what could not be published; return when it expires."""
    for option, value in options.items():
        flaw = flaw_of(option, value)
        if flaw is not None:
            raise BadNode(name, f"`options.{option}` {flaw.reason}", next_step=flaw.next_step)
    return _expiry(name, options.get("expires"))


def _expiry(name: str, expires: Any) -> float:
    """Return when a task expires if that is a certain time; a number counts from its dispatch, and is the worker's to judge."""
    if expires is None or (is_number(expires) and abs(expires) <= SECONDS_MAX):
        return 0.0
    if not isinstance(expires, str | dict):
        words = f"must be a number of seconds or an ISO 8601 time, and is {shown(expires)}"
        raise BadNode(name, f"`options.expires` {words}", next_step=_WRITE_TIME)
    try:
        return _moment(expires)
    except ValueError as error:
        raise BadNode(name, f"`options.expires` {error}", next_step=_WRITE_TIME) from None


def _unix_time(name: str, eta: Any) -> float:
    """Read ``eta``: Unix seconds, an ISO 8601 text, or kombu's typed form of a datetime."""
    try:
        return 0.0 if eta is None else _moment(eta)
    except ValueError as error:
        raise BadNode(name, f"`options.eta` {error}", next_step=_WRITE_TIME) from None


_WRITE_TIME: Final = "write it as in 2030-01-31T08:00:00Z"


def _moment(given: Any) -> float:
    if isinstance(given, int | float) and given >= 0:
        return float(given)
    text = given.get("__value__") if isinstance(given, dict) else given
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError("must be an ISO 8601 time or Unix seconds") from None
    if moment.tzinfo is None:
        raise ValueError("has no time zone; append 'Z' or an offset such as '+02:00'")
    # A time before 1970 would not be read back from the stored definition; it is as past as any.
    return max(0.0, moment.timestamp())
