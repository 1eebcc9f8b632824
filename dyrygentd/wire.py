"""JSON forms shared by server and client: definitions that come in, views and problems that go out.

A definition is ``{"nodes": [{"name", "task", "args", "kwargs", "options", "immutable", "after": [names]} …]}``; the same
document is the body of a submission, a definition file, and what the store keeps. Arguments are JSON in kombu's dialect
(``{"__type__": "datetime", …}``) and stay text here: nothing in this process looks into them before the message is built.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import uuid4

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dyrygentd.core.checkpoint import WorkflowRecord
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
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import BadNode, BadRequest, DyrygentError, RemoteError, WorkflowNotSucceeded

#: Response header with the version of the daemon; an answer without it comes from something else.
VERSION_HEADER: Final = "Dyrygentd-Version"

API_VERSION: Final = "v1"
DEFINITION_VERSION: Final = 1

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH_MAX)]
LabelValue = Annotated[str, Meta(max_length=NAME_LENGTH_MAX)]

_EMPTY_ARRAY, _EMPTY_OBJECT, _NULL = Raw(b"[]"), Raw(b"{}"), Raw(b"null")


# --- definitions ----------------------------------------------------------------------------------------------------


class NodeDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One node of a definition: a task, or with ``join: true`` a point where others meet."""

    name: Name | None = None
    task: Name | None = None
    join: bool = False
    args: Raw = _EMPTY_ARRAY
    kwargs: Raw = _EMPTY_OBJECT
    options: Raw = _EMPTY_OBJECT
    immutable: bool = False
    task_id: Name | None = None
    after: list[str] = []


class WorkflowDocument(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A definition: what to run, and what it is called."""

    nodes: list[NodeDocument]
    version: int = DEFINITION_VERSION
    name: Name | None = None
    key: Name | None = None
    labels: Annotated[dict[Name, LabelValue], Meta(max_length=LABELS_MAX)] = {}
    payload: Raw = _NULL
    output: str | None = None


def decode_definition(body: bytes, *, nodes_max: int, new_id: Callable[[], str] = lambda: str(uuid4())) -> Definition:
    """Parse and validate a definition.

    Args:
        new_id: Makes the task ids of nodes that bring none.

    Raises:
        BadRequest: It is no JSON, or JSON of another shape; ``path`` tells where.
        DefinitionError: It has the right shape, but cannot be run.
    """
    document = _decode(body, WorkflowDocument)
    if document.version != DEFINITION_VERSION:
        raise BadRequest(
            f"definition version {document.version} is unknown, this daemon reads {DEFINITION_VERSION}", path="$.version"
        )
    names = list(_names(document.nodes))
    signatures = _SignatureReader()
    specs = [
        NodeSpec(
            name=name,
            signature=signatures.read(name, node),
            task_id="" if node.join else node.task_id or new_id(),
            after=node.after,
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
    )


def encode_definition(definition: Definition) -> bytes:
    """Write a definition; decoding it gives an equal graph with the same task ids."""
    graph = definition.graph
    return _encoder.encode(
        WorkflowDocument(
            nodes=[_node_document(graph, node) for node in range(len(graph))],
            name=definition.name,
            key=definition.key,
            labels=dict(definition.labels),
            payload=Raw(definition.payload),
            output=None if graph.output is None else graph.names[graph.output],
        )
    )


def _node_document(graph: Graph, node: int) -> NodeDocument:
    after = [graph.names[dependency] for dependency in graph.dependencies(node)]
    signature = graph.signatures[node]
    if signature is None:
        return NodeDocument(name=graph.names[node], join=True, after=after)
    return NodeDocument(
        name=graph.names[node],
        task=signature.task,
        args=Raw(signature.args),
        kwargs=Raw(signature.kwargs),
        options=Raw(_options_with_times(signature)),
        immutable=signature.immutable,
        task_id=graph.task_ids[node],
        after=after,
    )


def _options_with_times(signature: Signature) -> bytes:
    if not signature.countdown_s and not signature.eta_at:
        return signature.options
    options = msgspec.json.decode(signature.options)
    if signature.countdown_s:
        options["countdown"] = signature.countdown_s
    if signature.eta_at:
        options["eta"] = signature.eta_at
    return msgspec.json.encode(options)


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
        self._options: dict[bytes, tuple[bytes, float, float]] = {}

    def read(self, name: str, node: NodeDocument) -> Signature | None:
        if node.join:
            if node.task is not None:
                raise BadNode(name, "a join has no task", next_step="leave out either `join` or `task`")
            if node != NodeDocument(name=node.name, join=True, after=node.after):
                raise BadNode(name, "a join has a name and `after`, and nothing else")
            return None
        if node.task is None:
            raise BadNode(name, "`task` is missing", next_step="name a task, or write `join: true`")
        args, kwargs, options = bytes(node.args).strip(), bytes(node.kwargs).strip(), bytes(node.options).strip()
        if not args.startswith(b"["):
            raise BadNode(name, "`args` must be an array")
        if not kwargs.startswith(b"{"):
            raise BadNode(name, "`kwargs` must be an object")
        if not options.startswith(b"{"):
            raise BadNode(name, "`options` must be an object")
        if options not in self._options:
            self._options[options] = _split_options(name, options)
        options, countdown_s, eta_at = self._options[options]
        signature = Signature(node.task, args, kwargs, options, node.immutable, countdown_s, eta_at)
        return self._signatures.setdefault(signature, signature)


def _split_options(name: str, text: bytes) -> tuple[bytes, float, float]:
    """Check publish options; the daemon's own timers take ``countdown`` and ``eta`` out of them."""
    if text == b"{}":
        return text, 0.0, 0.0
    options: dict[str, Any] = _decode(text, dict[str, Any])
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
    eta = options.pop("eta", None)
    return (msgspec.json.encode(options) if options else b"{}"), float(countdown), _unix_time(name, eta)


def _unix_time(name: str, eta: Any) -> float:
    """Read ``eta``: Unix seconds, an ISO 8601 text, or kombu's typed form of a datetime."""
    if eta is None:
        return 0.0
    if isinstance(eta, int | float) and eta >= 0:
        return float(eta)
    text = eta.get("__value__") if isinstance(eta, dict) else eta
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise BadNode(name, "`options.eta` must be an ISO 8601 time or Unix seconds") from None
    if moment.tzinfo is None:
        raise BadNode(name, "`options.eta` has no time zone", next_step="append 'Z' or an offset such as '+02:00'")
    # A time before 1970 would not be read back from the stored definition; it is as past as any.
    return max(0.0, moment.timestamp())


# --- views ----------------------------------------------------------------------------------------------------------


class WorkflowView(Struct, omit_defaults=True):
    """A workflow as clients see it. Times are Unix seconds; ``counts`` is ``{node state: number of tasks}``."""

    id: str
    name: str
    state: str
    created_at: float
    tasks: int
    counts: dict[str, int]
    finished_at: float | None = None
    key: str | None = None
    labels: dict[str, str] = {}
    error: str = ""
    result: Raw | UnsetType = UNSET

    @property
    def is_finished(self) -> bool:
        """Tell whether the workflow has come to its end."""
        return self.finished_at is not None

    @property
    def result_text(self) -> bytes | None:
        """Return the JSON text of the result, or None if there is none or it was not asked for."""
        # `Raw | None` would be the plain way, but msgspec decodes nothing than null into it.
        return None if self.result is UNSET else bytes(self.result)


class NodeView(Struct, omit_defaults=True):
    """A node as clients see it; ``blocked_by`` names the node to blame, ``reported`` is the worker's last word."""

    name: str
    state: str
    task: str | None = None
    task_id: str | None = None
    attempt: int = 0
    after: list[str] = []
    reported: str | None = None
    error: str | None = None
    blocked_by: str | None = None
    dispatched_at: float | None = None
    finished_at: float | None = None
    held_until: float | None = None


class WorkflowPage(Struct):
    """A page of a listing; ``next`` is the cursor of the following page, or None."""

    workflows: list[WorkflowView]
    next: str | None = None


class NodePage(Struct):
    """A page of the nodes of a workflow; ``next`` is the cursor of the following page, or None."""

    nodes: list[NodeView]
    next: str | None = None


class Submitted(Struct):
    """The answer to a submission: it is on disk. ``created`` is False if the key was known already."""

    id: str
    name: str
    tasks: int
    created: bool
    task_id: str | None = None


class Health(Struct):
    """Whether the daemon does its work; ``problems`` says what keeps it from that."""

    status: str
    version: str
    problems: list[str] = []


class Statistics(Struct):
    """What the daemon is doing, by part."""

    version: str
    uptime_s: float
    engine: dict[str, Any]
    store: dict[str, Any]
    dispatcher: dict[str, Any]
    watcher: dict[str, Any]
    problems: list[str] = []


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a workflow ended.

    Attributes:
        result: The decoded value of its output; None if it has none.
        failed_nodes: The nodes that failed, without those that were blocked by them; at most 100.
    """

    id: str
    name: str
    state: str
    result: object
    error: str
    failed_nodes: list[NodeView]

    @property
    def is_success(self) -> bool:
        """Tell whether every node succeeded."""
        return self.state == "succeeded"

    def raise_for_state(self) -> None:
        """Raise `WorkflowNotSucceeded` unless every node succeeded."""
        if not self.is_success:
            raise WorkflowNotSucceeded(self.id, self.name, self.state, [node.name for node in self.failed_nodes])


def outcome_of(view: WorkflowView, failed_nodes: list[NodeView], *, decode_value: Callable[[bytes], object]) -> Outcome:
    """Make an outcome of a finished workflow's view with its result."""
    result = None if view.result_text is None else decode_value(view.result_text)
    return Outcome(view.id, view.name, view.state, result, view.error, failed_nodes)


def view_of_running(workflow: RunningWorkflow, *, with_result: bool = False) -> WorkflowView:
    """Show a workflow that is in memory."""
    return WorkflowView(
        id=workflow.workflow_id,
        name=workflow.name,
        state=workflow.state.value,
        created_at=workflow.created_at,
        tasks=workflow.graph.task_count,
        counts=_present(workflow.counts_by_word()),
        finished_at=workflow.finished_at,
        key=workflow.key,
        labels=dict(workflow.labels),
        error=workflow.error,
        result=Raw(workflow.result) if with_result and workflow.result is not None else UNSET,
    )


def view_of_record(record: WorkflowRecord, *, with_result: bool = False) -> WorkflowView:
    """Show a workflow as it was stored."""
    return WorkflowView(
        id=record.workflow_id,
        name=record.name,
        state=record.state.value,
        created_at=record.created_at,
        tasks=record.task_count,
        counts=_present(record.counts or {}),
        finished_at=record.finished_at,
        key=record.key,
        labels=dict(record.labels),
        error=record.error,
        result=Raw(record.result) if with_result and record.result is not None else UNSET,
    )


def view_of_node(workflow: RunningWorkflow, node: int) -> NodeView:
    """Show one node."""
    graph = workflow.graph
    signature = graph.signatures[node]
    blocked_by = workflow.blocked_by.get(node)
    return NodeView(
        name=graph.names[node],
        state=workflow.state_of(node).word,
        task=None if signature is None else signature.task,
        task_id=workflow.task_id_of(node) or None,
        attempt=workflow.attempt_of(node),
        after=[graph.names[dependency] for dependency in graph.dependencies(node)],
        reported=workflow.reported.get(node),
        error=workflow.errors.get(node),
        blocked_by=None if blocked_by is None else graph.names[blocked_by],
        dispatched_at=workflow.dispatched_at[node] or None,
        finished_at=workflow.settled_at[node] or None,
        held_until=workflow.held_until.get(node),
    )


def _present(counts: Mapping[str, int]) -> dict[str, int]:
    return {word: count for word, count in counts.items() if count}


# --- problems (RFC 9457) --------------------------------------------------------------------------------------------


def problem_of(error: DyrygentError) -> dict[str, Any]:
    """Describe an error as a problem document: status, what, which, next step."""
    return {
        "type": f"https://dyrygentd.invalid/problems/{error.code}",
        "title": error.code.replace("-", " "),
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "next_step": error.next_step,
        "facts": error.facts,
    }


def error_of_problem(body: bytes, status: int) -> RemoteError:
    """Read a problem document back; anything else becomes an error that quotes the beginning of the body."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = {"detail": body[:200].decode(errors="replace").strip() or f"HTTP status {status}"}
    return RemoteError(
        str(document.get("detail", f"HTTP status {status}")),
        status=status,
        code=str(document.get("code", "unknown")),
        next_step=str(document.get("next_step", "")),
        document=document,
    )


# --- JSON -----------------------------------------------------------------------------------------------------------

_encoder = msgspec.json.Encoder()
_PATH = re.compile(r" - at `(?P<path>[^`]*)`$")


def encode(value: object) -> bytes:
    """Write any of the forms of this module as JSON."""
    return _encoder.encode(value)


T = TypeVar("T")


def decode(body: bytes, form: type[T]) -> T:
    """Read one of the forms of this module. Raises `BadRequest` with the path of the first error."""
    decoded: T = _decode(body, form)
    return decoded


def decode_view(body: bytes) -> WorkflowView:
    """Read a workflow's view; raises as `decode` does.

    Its result is passed on as the worker stored it, and Python writes what no standard of JSON knows: ``NaN``, ``Infinity``
    and halves of surrogate pairs.
    """
    try:
        return decode(body, WorkflowView)
    except BadRequest as error:
        try:
            document = json.loads(body)
            result = json.dumps(document.pop("result")).encode()
            view = msgspec.convert(document, WorkflowView)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise error from None
        view.result = Raw(result)
        return view


def _decode(body: bytes, form: Any) -> Any:
    try:
        if not body.isascii():
            body.decode()  # What is kept as raw text is not looked into below, and must not fail when a message is built from it.
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        message = str(error)
        match = _PATH.search(message)
        path = match["path"] if match else "$"
        raise BadRequest(f"{_PATH.sub('', message)}, at {path}", path=path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}", path="$") from error


def schemas(forms: Iterable[type[Struct]]) -> dict[str, Any]:
    """Describe views as JSON schemas, ``{name: schema}``, for an OpenAPI document."""
    _, components = msgspec.json.schema_components(forms, ref_template="#/components/schemas/{name}")
    return components
