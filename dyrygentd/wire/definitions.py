"""Definitions: the JSON form of what is submitted.

A definition is ``{"nodes": [{"name", "task", "args", "kwargs", "options", "immutable", "after": [names]} …]}``; the same
document is the body of a submission, a definition file, and what the store keeps. Arguments are JSON in kombu's dialect
(``{"__type__": "datetime", …}``) and stay text here: nothing in this process looks into them before the message is built.
"""

from collections.abc import Callable, Iterable, Sequence
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
)
from dyrygentd.core.parameters import expanded
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
from dyrygentd.errors import BadNode, BadRequest
from dyrygentd.wire.encoding import decode, decode_any, encode

DEFINITION_VERSION: Final = 1

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
LabelValue = Annotated[str, Meta(max_length=NAME_LENGTH_MAX)]

_EMPTY_ARRAY, _EMPTY_OBJECT, _NULL = Raw(b"[]"), Raw(b"{}"), Raw(b"null")


Seconds = Annotated[float, Meta(ge=0, le=10 * 366 * 86_400)]


class RetryDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A retry policy; ``attempts`` counts the first one, ``on`` names kinds of failure or exceptions (none: ``any``)."""

    attempts: Annotated[int, Meta(ge=1, le=1000)] = 3
    backoff_s: Seconds = 1.0
    backoff_max_s: Seconds = 600.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.5
    on: Annotated[list[Name], Meta(max_length=50)] = []


class PollDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How often a task is repeated until it returns something true, and for how long."""

    every_s: Annotated[float, Meta(ge=0.1, le=366 * 86_400)]
    timeout_s: Seconds = 0.0


class PolicyDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a workflow asks for; ``retry`` and ``timeout_s`` hold for nodes that bring none."""

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
        join: A point where others meet.
        gate: It waits until an operator releases it.
        sleep_s: It takes so long, and holds no worker.
        poll: The task is repeated until it returns something true.
        hook: The task runs at the end: on ``success``, on ``failure`` or ``always``.
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


def decode_definition(body: bytes, *, nodes_max: int, new_id: Callable[[], str] = lambda: str(uuid4())) -> Definition:
    """Parse and validate a definition.

    Args:
        new_id: Makes the task ids of nodes that bring none.

    Raises:
        BadRequest: It is no JSON, or JSON of another shape; ``path`` tells where.
        DefinitionError: It has the right shape, but cannot be run.
    """
    document = decode(_with_parameters(body), WorkflowDocument)
    if document.version != DEFINITION_VERSION:
        raise BadRequest(
            f"definition version {document.version} is unknown, this daemon reads {DEFINITION_VERSION}", path="$.version"
        )
    names = list(_names(document.nodes))
    signatures, policies = _SignatureReader(), _PolicyReader()
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
    graph = Graph.build(specs, output=document.output, nodes_max=nodes_max)
    return Definition(
        graph=graph,
        name=document.name or next((node.task for node in document.nodes if node.task), "workflow"),
        key=document.key,
        labels=document.labels,
        payload=bytes(document.payload),
        policy=PLAIN_WORKFLOW if document.policy is None else _workflow_policy(document.policy),
        adopted={
            number: NodeState[node.adopted.upper()] for number, node in enumerate(document.nodes) if node.adopted is not None
        },
    )


def definition_schema() -> dict[str, Any]:
    """Describe a definition as a JSON schema."""
    schema = msgspec.json.schema(WorkflowDocument)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dyrygentd definition", **schema}


def _with_parameters(body: bytes) -> bytes:
    if b'"parameters"' not in body and b'"values"' not in body:
        return body
    document = decode_any(body, Any)
    # The word may have stood in an argument.
    if not isinstance(document, dict) or document.get("parameters") is None:
        if isinstance(document, dict) and document.get("values") is not None:
            raise BadRequest("there are `values`, and no `parameters` to take them", path="$.values")
        return body
    return encode(expanded(document))


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
        retry=None if document.retry is None else _retry(document.retry),
        timeout_s=document.timeout_s,
        deadline_s=document.deadline_s,
        start_at=_start_at(document.start_at),
        priority=document.priority,
        weight=document.weight,
        in_flight_max=document.in_flight_max,
    )


def _retry(document: RetryDocument) -> Retry:
    return Retry(document.attempts, document.backoff_s, document.backoff_max_s, document.jitter, frozenset(document.on or [ANY]))


def _start_at(given: float | str) -> float:
    try:
        return _moment(given)
    except ValueError as error:
        raise BadRequest(f"`policy.start_at` {error}", path="$.policy.start_at") from None


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

    def __init__(self) -> None:
        self._signatures: dict[Signature, Signature] = {}
        self._options: dict[bytes, tuple[bytes, float, float, float]] = {}

    def read(self, name: str, node: NodeDocument) -> Signature | None:
        kinds = [word for word, given in (("join", node.join), ("gate", node.gate), ("sleep_s", node.sleep_s)) if given]
        if kinds:
            _check_taskless(name, node, kinds)
            return None
        if node.task is None:
            raise BadNode(name, "`task` is missing", next_step="name a task, or write `join: true`, `gate: true` or `sleep_s`")
        args, kwargs, options = bytes(node.args).strip(), bytes(node.kwargs).strip(), bytes(node.options).strip()
        if not args.startswith(b"["):
            raise BadNode(name, "`args` must be an array")
        if not kwargs.startswith(b"{"):
            raise BadNode(name, "`kwargs` must be an object")
        if not options.startswith(b"{"):
            raise BadNode(name, "`options` must be an object")
        if options not in self._options:
            self._options[options] = _split_options(name, options)
        options, countdown_s, eta_at, expires_at = self._options[options]
        signature = Signature(node.task, args, kwargs, options, node.immutable, countdown_s, eta_at, expires_at)
        return self._signatures.setdefault(signature, signature)


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
        raise BadNode(name, f"a {_WORDS[kinds[0]]} has a name, `after`, `rule` and `payload`, and nothing else")
    if node.adopted == "dispatched":
        raise BadNode(name, "what has no task cannot have been dispatched", next_step="leave out `adopted`")


_WORDS: Final = {"join": "join", "gate": "gate", "sleep_s": "sleep"}


class _PolicyReader:
    """Turns what node documents ask for into policies; equal ones become one object."""

    def __init__(self) -> None:
        self._policies: dict[NodePolicy, NodePolicy] = {PLAIN: PLAIN}

    def read(self, name: str, node: NodeDocument) -> NodePolicy:
        policy = NodePolicy(
            rule=node.rule,
            pool=node.pool,
            retry=None if node.retry is None else _retry(node.retry),
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
            raise BadNode(name, "a hook is neither a poll nor adopted")
        return self._policies.setdefault(policy, policy)


def _split_options(name: str, text: bytes) -> tuple[bytes, float, float, float]:
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
    countdown = options.pop("countdown", None) or 0
    if not isinstance(countdown, int | float) or countdown < 0:
        raise BadNode(name, "`options.countdown` must be a number of seconds, 0 or more")
    eta_at = _unix_time(name, options.pop("eta", None))
    return (encode(options) if options else b"{}"), float(countdown), eta_at, _expiry(options.get("expires"))


def _expiry(expires: Any) -> float:
    """Return when a task expires if that is a certain time; a number counts from its dispatch, and is the worker's to judge."""
    try:
        return _moment(expires) if isinstance(expires, str | dict) else 0.0
    except ValueError:
        return 0.0


def _unix_time(name: str, eta: Any) -> float:
    """Read ``eta``: Unix seconds, an ISO 8601 text, or kombu's typed form of a datetime."""
    try:
        return 0.0 if eta is None else _moment(eta)
    except ValueError as error:
        raise BadNode(name, f"`options.eta` {error}") from None


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
