"""What both clients share: requests, the reading of answers, and when to ask again. No input or output.

What may be repeated when a connection broke before the answer is told by `dyrygentd.client.again`.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from dyrygentd import wire
from dyrygentd.client import again
from dyrygentd.core.graph import Definition
from dyrygentd.core.parent_task import ParentTask
from dyrygentd.errors import BadRequest, DaemonUnreachable, DyrygentError, RemoteUnavailable, WaitTimeout
from dyrygentd.tasks.apply_options import checked_apply_options

WAIT_POLL_S: Final = 20.0
"""Longest time that one poll of `wait` is held by the daemon."""

SILENCE_MAX_S: Final = 45.0
"""An event stream says something every 15 s; three times that means that the daemon is gone."""

RECONNECT_S: Final = 60.0
"""How long a stream tries to come back: a daemon that restarts recovers its workflows first."""

FAILED_NODES_MAX: Final = 100
PAGE: Final = 500


Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much; of 0 if that is not known."""

Seen = Callable[[wire.WorkflowView], object]
"""Told a view."""


OnOverride = Literal["call", "ignore"]
"""Call an `apply_async` or `send_task` that somebody has overridden, once for each node, or pass it over."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request.

    Attributes:
        extra_s: Time that the answer may take beyond the client's timeout.
        if_lost: What to do if no answer comes although all was sent; see `dyrygentd.client.again`.
    """

    method: str
    target: str
    body: bytes | None = None
    extra_s: float = 0.0
    if_lost: again.IfLost = again.QUESTION

    @property
    def headers(self) -> Mapping[str, str]:
        """Return what the body is."""
        return {} if self.body is None else {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event of a stream; ``view`` goes with ``workflow``."""

    kind: Literal["workflow", "end", "bye"]
    view: wire.WorkflowView | None = None


STATISTICS: Final = Ask("GET", f"/{wire.API_VERSION}/stats")
HEALTH: Final = Ask("GET", "/healthz")


def submission(
    what: Any,
    *,
    key: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    on_override: OnOverride = "call",
    options: Mapping[str, Any] | None = None,
    parent_task: ParentTask | None = None,
) -> Ask:
    """Return the request that submits a canvas, `Workflow`, `Definition`, or a definition document."""
    body = submission_body(
        what,
        key=key,
        name=name,
        labels=labels,
        parameters=parameters,
        on_override=on_override,
        options=options,
        parent_task=parent_task,
    )
    return Ask("POST", f"/{wire.API_VERSION}/workflows", body, if_lost=again.of_submission(what, key=key))


def told_by_step(progress: Progress | None) -> Progress:
    """Return what tells ``progress`` that a submission is being stored as soon as all of it was sent."""

    def tell(what: str, done: int, of: int) -> None:
        if progress is not None:
            progress(what, done, of)
            if done >= of > 0:
                progress("storing", 0, 0)

    return tell


def importation(document: bytes) -> Ask:
    """Return the request that takes in an export."""
    return Ask("POST", f"/{wire.API_VERSION}/imports", document, if_lost=again.IMPORT)


def verb(workflow_id: str, word: str, **fields: Any) -> Ask:
    """Return the request for a verb on one workflow."""
    if_lost = again.of_verb(word, force=bool(fields.get("force")))
    return Ask("POST", workflow_target(workflow_id, word), verb_body(**fields), if_lost=if_lost)


def verb_in_bulk(word: str, *, states: Iterable[str], name: str | None, labels: Mapping[str, str] | None, **fields: Any) -> Ask:
    """Return the request for a verb on all workflows that fit."""
    target = bulk_target(word, states=states, name=name, labels=labels)
    return Ask("POST", target, verb_body(**fields), if_lost=again.of_verb(word))


def view(reference: str, *, with_result: bool = False) -> Ask:
    """Return the request for the present view of a workflow."""
    return Ask("GET", workflow_target(reference, query={"result": "true"} if with_result else {}))


def about(workflow_id: str, *parts: str) -> Ask:
    """Return the request for something below a workflow."""
    return Ask("GET", workflow_target(workflow_id, *parts))


def summary(reference: str, limit: int) -> Ask:
    """Return the request for what is to be known of a workflow at one look."""
    return Ask("GET", workflow_target(reference, "summary", query={"limit": limit}))


def audit(cursor: str | None) -> Ask:
    """Return the request for what was done to all workflows after a cursor, or for the newest."""
    query = {} if cursor is None else {"cursor": cursor}
    return Ask("GET", f"/{wire.API_VERSION}/journal{f'?{urlencode(query)}' if query else ''}")


def overview(most: int) -> Ask:
    """Return the request for what is wrong and what waits for a person, in all workflows."""
    return Ask("GET", f"/{wire.API_VERSION}/explain?limit={most}")


def explanation(workflow_id: str, node: str | None) -> Ask:
    """Return the request for an explanation of a workflow, or of a node."""
    return about(workflow_id, "explain") if node is None else about(workflow_id, "nodes", node, "explain")


def failed_nodes(workflow: wire.WorkflowView) -> Ask | None:
    """Return the request for the nodes that an outcome names; None if there can be none."""
    # Not `counts`, which know tasks only: a join fails too, if its list of values is too large.
    if workflow.state == "succeeded":
        return None
    return Ask("GET", nodes_target(workflow.id, states=["failed"], limit=FAILED_NODES_MAX))


class Listing:
    """Follows the pages of a listing; iterating gives the request for each, and `take` gets its answer."""

    def __init__(
        self,
        *,
        states: Iterable[str],
        name: str | None,
        labels: Mapping[str, str] | None,
        limit: int | None,
        parent_task: str | None,
        **times: float | None,
    ) -> None:
        self.views: list[wire.WorkflowView] = []
        self._filter: dict[str, Any] = {
            "states": list(states),
            "name": name,
            "labels": labels,
            "parent_task": parent_task,
            **times,
        }
        self._limit = limit
        self._cursor: str | None = None
        self._is_over = False

    def __iter__(self) -> Iterator[Ask]:
        while not self._is_over and (self._limit is None or len(self.views) < self._limit):
            size = PAGE if self._limit is None else min(PAGE, self._limit - len(self.views))
            yield Ask("GET", listing_target(**self._filter, limit=size, cursor=self._cursor))

    def take(self, answer: bytes) -> None:
        """Take a page."""
        page = wire.decode(answer, wire.WorkflowPage)
        self.views += page.workflows
        self._cursor = page.next
        self._is_over = page.next is None


class NodePages:
    """Follows the pages of a workflow's nodes, as `Listing` does."""

    def __init__(self, workflow_id: str, *, states: Iterable[str], page: int) -> None:
        self._workflow_id = workflow_id
        self._states = list(states)
        self._page = page
        self._cursor: str | None = None
        self._is_over = False

    def __iter__(self) -> Iterator[Ask]:
        while not self._is_over:
            yield Ask("GET", nodes_target(self._workflow_id, states=self._states, limit=self._page, cursor=self._cursor))

    def take(self, answer: bytes) -> list[wire.NodeView]:
        """Take a page, and return its nodes."""
        page = wire.decode(answer, wire.NodePage)
        self._cursor = page.next
        self._is_over = page.next is None
        return page.nodes


class Wait:
    """Long polls until a workflow has finished; a daemon that goes away meanwhile is waited for as well."""

    def __init__(self, workflow_id: str, timeout_s: float | None) -> None:
        self._workflow_id = workflow_id
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._pauses = pauses()
        self._pause_s = 0.0

    def ask(self) -> Ask:
        """Return the next poll."""
        wait_s = max(0.0, min(self._left_s(), WAIT_POLL_S))
        query = {"result": "true", "wait_s": f"{wait_s:.3f}"}
        return Ask("GET", workflow_target(self._workflow_id, query=query), extra_s=wait_s)

    def answered(self) -> None:
        """Note that the daemon is there and the workflow goes on."""
        self._pauses, self._pause_s = pauses(), 0.0

    def failed(self, error: DyrygentError) -> None:
        """Note that a poll failed; raise the error if waiting does not help."""
        if not is_passing(error):
            raise error
        self._pause_s = next(self._pauses)

    def pause_s(self) -> float:
        """Return how long to pause before the next poll. Raises `WaitTimeout`."""
        left_s = self._left_s()
        if left_s <= 0:
            raise WaitTimeout(self._workflow_id, self._timeout_s or 0.0)
        return min(self._pause_s, left_s)

    def _left_s(self) -> float:
        return WAIT_POLL_S if self._deadline is None else self._deadline - time.monotonic()


class Reconnection:
    """When to come back to a stream that broke off, and for how long."""

    def __init__(self, reconnect_s: float) -> None:
        self._reconnect_s = reconnect_s
        self._lost_at: float | None = None
        self._pauses = pauses()

    def answered(self) -> None:
        """Note that the daemon is there."""
        self._lost_at, self._pauses = None, pauses()

    def failed(self, error: DyrygentError) -> None:
        """Note that the stream broke off; raise the error if the daemon has been away for too long, or will not say more."""
        self._lost_at = self._lost_at or time.monotonic()
        if not is_passing(error) or time.monotonic() - self._lost_at >= self._reconnect_s:
            raise error

    def pause_s(self) -> float:
        """Return how long to pause before the next try."""
        return next(self._pauses)


def submission_body(
    what: Any,
    *,
    key: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    on_override: OnOverride = "ignore",
    options: Mapping[str, Any] | None = None,
    parent_task: ParentTask | None = None,
) -> bytes:
    """Write the definition of a canvas, `Workflow`, `Definition`, or of a definition document (dict, or JSON as bytes).

    Args:
        parameters: Values of the document's parameters; they go before those in its ``values``.
        on_override: What to do with an `apply_async` or `send_task` that somebody has overridden.
        options: Arguments of `apply_async`, for a canvas.
        parent_task: The task in which it is submitted; one that ``what`` names itself goes before it.
    """
    checked_apply_options(options or {}, what)
    if on_override not in ("call", "ignore"):
        raise BadRequest(f"`on_override` is {on_override!r}", path="$", next_step="use call or ignore")
    given: dict[str, Any] = {
        field: value
        for field, value in {"key": key, "name": name, "labels": None if labels is None else dict(labels)}.items()
        if value is not None
    }
    if isinstance(what, bytes | bytearray) and not given and not parameters and parent_task is None:
        return bytes(what)
    if isinstance(what, bytes | bytearray):
        try:
            what = json.loads(what)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the definition is not valid JSON: {error}", path="$") from error
        if type(what) is not dict:
            raise BadRequest("the definition is no JSON object", path="$", next_step="a definition is an object with `nodes`")
    # A signature is a dict too, so only a plain one is a document.
    if type(what) is dict:
        if on_override == "call":
            _warn_of_overrides(what)
        parent = {} if parent_task is None else {"parent_task": parent_task._asdict()}
        return _document_body(parent | what | given | ({"values": _values(what, parameters)} if parameters else {}))
    if parameters:
        kind = "canvas or `Workflow`" if isinstance(what, Definition) else type(what).__name__
        raise BadRequest(
            f"a {kind} has no parameters",
            path="$.values",
            next_step="put the values into the canvas itself; parameters belong to definition documents",
        )
    if not isinstance(what, Definition):
        from dyrygentd.canvas import definition_of

        what = definition_of(what, name=name, key=key, labels=labels, options=options, calls_overrides=on_override == "call")
        # The daemon makes the ids that nobody has chosen, and need not ask whether anybody has them.
        return wire.encode_definition(replace(what, parent_task=what.parent_task or parent_task), chosen_ids_only=True)
    if on_override == "call":
        _warn_of_overrides(what)
    given["parent_task"] = what.parent_task or parent_task
    return wire.encode_definition(replace(what, **given), chosen_ids_only=what.is_fresh)


def _warn_of_overrides(what: dict[str, Any] | Definition) -> None:
    from dyrygentd.tasks.documents import tasks_of, warn_of_overrides

    if isinstance(what, Definition):
        warn_of_overrides(each.task for each in what.graph.signatures if each is not None)
    else:
        warn_of_overrides(tasks_of(what))


def _values(document: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    values = document.get("values") or {}
    if not isinstance(values, dict):
        raise BadRequest("`values` must be an object", path="$.values", next_step="write {name: value}")
    return {**values, **parameters}


def _document_body(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(
            f"JSON cannot carry the definition: {error}",
            path="$",
            next_step="use text, numbers, true, false, null, lists and objects",
        ) from error


def verb_body(**fields: Any) -> bytes:
    """Write what goes with a verb; fields that say nothing are left out, and a skipped node's value is encoded."""
    if "value" in fields and fields["value"] is not None:
        from dyrygentd.canvas import encode_value

        fields["value"] = json.loads(encode_value(fields["value"]))
    # A value that is false and a priority of 0 say something.
    said = {name: value for name, value in fields.items() if value is not None and (value or name in ("value", "priority"))}
    return json.dumps(said).encode()


def bulk_target(
    verb: str, *, states: Iterable[str] = (), name: str | None = None, labels: Mapping[str, str] | None = None
) -> str:
    """Return the target of a verb for many workflows."""
    query = {
        "state": list(states),
        "name": [name] if name is not None else [],
        "label": [f"{label}={value}" for label, value in (labels or {}).items()],
    }
    return f"/{wire.API_VERSION}/bulk/{quote(verb, safe='')}{_query(query)}"


def workflow_target(reference: str, *parts: str, query: Mapping[str, object] | None = None) -> str:
    """Return the target of a request about one workflow."""
    path = "/".join(quote(part, safe="") for part in ("workflows", reference, *parts))
    return f"/{wire.API_VERSION}/{path}{_query(query or {})}"


def listing_target(
    *,
    states: Iterable[str] = (),
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    limit: int,
    cursor: str | None = None,
    since: float | None = None,
    until: float | None = None,
    ended_since: float | None = None,
    parent_task: str | None = None,
) -> str:
    """Return the target of a page of the listing; times are Unix seconds."""
    times = {"since": since, "until": until, "ended_since": ended_since}
    query = {
        "state": list(states),
        "name": [name] if name is not None else [],
        "label": [f"{label}={value}" for label, value in (labels or {}).items()],
        "parent_task": [parent_task] if parent_task is not None else [],
        "limit": [limit],
        "cursor": [cursor] if cursor else [],
        **{word: [] if at is None else [repr(float(at))] for word, at in times.items()},
    }
    return f"/{wire.API_VERSION}/workflows{_query(query)}"


def nodes_target(workflow_id: str, *, states: Iterable[str] = (), limit: int = PAGE, cursor: str | None = None) -> str:
    """Return the target of a page of nodes."""
    query = {"state": list(states), "limit": [limit], "cursor": [cursor] if cursor else []}
    return workflow_target(workflow_id, "nodes", query=query)


def is_passing(error: DyrygentError) -> bool:
    """Tell whether waiting may help: the daemon restarts, or has reached a bound."""
    return isinstance(error, DaemonUnreachable | RemoteUnavailable)


def pauses() -> Iterator[float]:
    """Yield growing pauses between tries, from 0.1 s to 2 s."""
    pause_s = 0.1
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, 2.0)


class EventReader:
    """Reads server-sent events line by line."""

    def __init__(self) -> None:
        self._kind = ""
        self._data = b""

    def feed(self, line: bytes) -> StreamEvent | None:
        """Take a line without its end; return an event if it completes one.

        Raises:
            RemoteError: The daemon reports that it cannot go on with this stream.
        """
        name, _, value = line.partition(b": ")
        if name == b"event":
            self._kind = value.decode()
        elif name == b"data":
            self._data += value
        elif not line and self._kind:
            kind, data = self._kind, self._data
            self._kind, self._data = "", b""
            return _stream_event(kind, data)
        return None


def _stream_event(kind: str, data: bytes) -> StreamEvent | None:
    match kind:
        case "workflow":
            return StreamEvent("workflow", wire.decode(data, wire.WorkflowView))
        case "end" | "bye":
            return StreamEvent(kind)
        case "error":
            raise wire.error_of_problem(data, 500)
        case _:
            return None  # A newer daemon may say more.


def _query(query: Mapping[str, object]) -> str:
    text = urlencode(query, doseq=True)
    return f"?{text}" if text else ""
