"""What both clients share: requests, and the reading of answers. No input or output.

What may be repeated when a connection broke before the answer is told by `dyrygentd.client.again`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, Unpack, cast
from urllib.parse import quote, urlencode

from dyrygentd import wire
from dyrygentd.client import again, bodies
from dyrygentd.core.parent_task import ParentTask

FAILED_NODES_MAX: Final = 100
PAGE: Final = 500


Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much; of 0 if that is not known."""

Seen = Callable[[wire.WorkflowView], object]
"""Told a view."""


class Which(TypedDict, total=False):
    """Which workflows a listing has; times are Unix seconds.

    Attributes:
        since, until: Only those created in this time.
        ended_since: Only those that have finished since then.
        by_end: With ``ended_since``: those that finished last come first.
        parent_task: Only those that were submitted in the Celery task of this id.
        series: Only the runs of this series.
        parent: Only the children of this workflow: those that are the work of its nodes.
        with_children: Children of others, too, and not only those that somebody submitted.
    """

    states: Iterable[str]
    name: str | None
    labels: Mapping[str, str] | None
    since: float | None
    until: float | None
    ended_since: float | None
    by_end: bool
    parent_task: str | None
    series: str | None
    parent: str | None
    with_children: bool


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
    """An event of a stream; ``view`` goes with ``workflow``, and ``fold``, all of it, with ``fold``."""

    kind: Literal["workflow", "fold", "end", "bye"]
    view: wire.WorkflowView | None = None
    fold: wire.FoldView | None = None


STATISTICS: Final = Ask("GET", f"/{wire.API_VERSION}/stats")
RUN_TIMES: Final = Ask("GET", f"/{wire.API_VERSION}/run-times")
HEALTH: Final = Ask("GET", "/healthz")


def submission(
    what: Any,
    *,
    key: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    series: str | None = None,
    if_running: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    on_override: bodies.OnOverride = "call",
    options: Mapping[str, Any] | None = None,
    parent_task: ParentTask | None = None,
) -> Ask:
    """Return the request that submits a canvas, `Workflow`, `Definition`, or a definition document."""
    body = bodies.submission_body(
        what,
        key=key,
        name=name,
        labels=labels,
        series=series,
        if_running=if_running,
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
    return Ask("POST", workflow_target(workflow_id, word), bodies.verb_body(**fields), if_lost=if_lost)


def verb_in_bulk(word: str, *, states: Iterable[str], name: str | None, labels: Mapping[str, str] | None, **fields: Any) -> Ask:
    """Return the request for a verb on all workflows that fit."""
    target = bulk_target(word, states=states, name=name, labels=labels)
    return Ask("POST", target, bodies.verb_body(**fields), if_lost=again.of_verb(word))


def view(reference: str, *, with_result: bool = False) -> Ask:
    """Return the request for the present view of a workflow."""
    return Ask("GET", workflow_target(reference, query={"result": "true"} if with_result else {}))


def about(workflow_id: str, *parts: str) -> Ask:
    """Return the request for something below a workflow."""
    return Ask("GET", workflow_target(workflow_id, *parts))


def summary(reference: str, limit: int) -> Ask:
    """Return the request for what is to be known of a workflow at one look."""
    return Ask("GET", workflow_target(reference, "summary", query={"limit": limit}))


def fold(workflow_id: str, path: str) -> Ask:
    """Return the request for a folded workflow, or for a box of it."""
    return Ask("GET", workflow_target(workflow_id, "fold", query={"path": path} if path else {}))


def timeline(workflow_id: str, path: str, bins: int | None) -> Ask:
    """Return the request for where the time of a workflow, or of a box of it, went."""
    query = {name: value for name, value in (("path", path), ("bins", bins)) if value}
    return Ask("GET", workflow_target(workflow_id, "timeline", query=query))


def fold_events_target(workflow_id: str, path: str) -> str:
    """Return the target of the stream of a folded workflow, or of a box of it."""
    return workflow_target(workflow_id, "fold", "events", query={"path": path} if path else {})


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
    """Follows the pages of a listing; iterating gives the request for each, and `take` gets its answer.

    Of those that ended last the daemon has one page. Where more are wanted, all are read as they were created, and put in order.
    """

    def __init__(self, *, limit: int | None, **which: Unpack[Which]) -> None:
        self._views: list[wire.WorkflowView] = []
        self._by_end = which.get("by_end", False)
        self._most = limit
        has_one_page = self._by_end and limit is not None and limit <= PAGE
        if self._by_end and not has_one_page:
            limit = None
        self._which = which
        self._which["by_end"] = has_one_page
        self._limit = limit
        self._cursor: str | None = None
        self._is_over = False

    def __iter__(self) -> Iterator[Ask]:
        while not self._is_over and (self._limit is None or len(self._views) < self._limit):
            size = PAGE if self._limit is None else min(PAGE, self._limit - len(self._views))
            yield Ask("GET", listing_target(limit=size, cursor=self._cursor, **self._which))

    @property
    def views(self) -> list[wire.WorkflowView]:
        """What was listed, in its order."""
        if not self._by_end:
            return self._views
        return sorted(self._views, key=lambda view: view.finished_at or 0.0, reverse=True)[: self._most]

    def take(self, answer: bytes) -> None:
        """Take a page."""
        page = wire.decode(answer, wire.WorkflowPage)
        self._views += page.workflows
        self._cursor = page.next
        self._is_over = page.next is None


class NodePages:
    """Follows the pages of a workflow's nodes, as `Listing` does."""

    def __init__(self, workflow_id: str, *, states: Iterable[str], page: int, path: str = "", name: str = "") -> None:
        self._workflow_id = workflow_id
        self._filter: dict[str, Any] = {"states": list(states), "path": path, "name": name}
        self._page = page
        self._cursor: str | None = None
        self._is_over = False

    def __iter__(self) -> Iterator[Ask]:
        while not self._is_over:
            yield Ask("GET", nodes_target(self._workflow_id, **self._filter, limit=self._page, cursor=self._cursor))

    def take(self, answer: bytes) -> list[wire.NodeView]:
        """Take a page, and return its nodes."""
        page = wire.decode(answer, wire.NodePage)
        self._cursor = page.next
        self._is_over = page.next is None
        return page.nodes


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


def listing_target(*, limit: int, cursor: str | None = None, **which: Unpack[Which]) -> str:
    """Return the target of a page of the listing."""
    words = {word: which.get(word) for word in ("name", "parent_task", "series", "parent")}
    flags = {"by_end": which.get("by_end"), "children": which.get("with_children")}
    times = {word: which.get(word) for word in ("since", "until", "ended_since")}
    query = {
        "state": list(which.get("states", ())),
        "label": [f"{label}={value}" for label, value in (which.get("labels") or {}).items()],
        **{word: [value] for word, value in words.items() if value is not None},
        **{word: ["true"] for word, is_set in flags.items() if is_set},
        "limit": [limit],
        "cursor": [cursor] if cursor else [],
        **{word: [] if at is None else [repr(float(cast("float", at)))] for word, at in times.items()},
    }
    return f"/{wire.API_VERSION}/workflows{_query(query)}"


def nodes_target(
    workflow_id: str,
    *,
    states: Iterable[str] = (),
    path: str = "",
    name: str = "",
    limit: int = PAGE,
    cursor: str | None = None,
) -> str:
    """Return the target of a page of nodes."""
    words = {word: [value] for word, value in (("path", path), ("name", name), ("cursor", cursor)) if value}
    query = {"state": list(states), "limit": [limit], **words}
    return workflow_target(workflow_id, "nodes", query=query)


class EventReader:
    """Reads server-sent events line by line. One is made for each connection."""

    def __init__(self) -> None:
        self._kind = ""
        self._data = b""
        self._fold: wire.FoldView | None = None

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
            return self._event(kind, data)
        return None

    def _event(self, kind: str, data: bytes) -> StreamEvent | None:
        match kind:
            case "workflow":
                return StreamEvent("workflow", wire.decode(data, wire.WorkflowView))
            case "fold":
                self._fold = wire.decode(data, wire.FoldView)
            case "boxes" if self._fold is not None:
                self._fold = wire.with_changes(self._fold, wire.decode(data, wire.FoldChanges))
            case "end" | "bye":
                return StreamEvent(kind)
            case "error":
                raise wire.error_of_problem(data, 500)
            case _:
                return None  # A newer daemon may say more.
        return StreamEvent("fold", fold=self._fold)


def _query(query: Mapping[str, object]) -> str:
    text = urlencode(query, doseq=True)
    return f"?{text}" if text else ""
