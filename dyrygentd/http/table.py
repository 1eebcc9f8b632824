"""`ROUTES`: what there is. The application and the OpenAPI document are made from it, and so is the table of the guide."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from dyrygentd import wire
from dyrygentd.core.timeline import BINS, BINS_MAX, BINS_MIN
from dyrygentd.core.verbs import WORKFLOW_VERBS, Verb
from dyrygentd.http import faces, pages
from dyrygentd.http.access import Role
from dyrygentd.http.api import Api
from dyrygentd.http.limits import JOURNAL_PAGE, NODES_PAGE, OVERVIEW_PAGE, SUMMARY_PAGE, WORKFLOWS_PAGE, PageLength
from dyrygentd.http.parameters import LATEST
from dyrygentd.http.problems import JSON
from dyrygentd.http.seats import Use


@dataclass(frozen=True, slots=True)
class RouteParameter:
    """A query parameter or header of a route."""

    name: str
    about: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table: what is served, by whom, and what the answer looks like.

    Attributes:
        answer: Form of the answer, or its media type.
        takes_definition: Whether the body is a definition.
        body: Form of the body, if it is none.
        needs: What a client must be allowed to.
    """

    method: str
    path: str
    about: str
    handler: Callable[[Api, web.Request], Awaitable[web.StreamResponse]]
    answer: type | str
    use: Use = Use.REQUEST
    parameters: tuple[RouteParameter, ...] = ()
    takes_definition: bool = False
    body: type | None = None
    needs: Role = Role.READ


_BOOLEAN: Final = {"type": "boolean"}
_RESULT = RouteParameter("result", "whether the result is wanted", _BOOLEAN)
_LABEL = RouteParameter("label", "`k=v`; repeat it to demand several", {"type": "array", "items": {"type": "string"}})
_CURSOR = RouteParameter("cursor", "`next` of the previous page")
_WAIT_S = RouteParameter("wait_s", "answer when it has finished, or after so many seconds", {"type": "number", "maximum": 60})
_UNIX_SECONDS: Final = {"type": "number", "minimum": 0, "maximum": LATEST}
_TIMES: Final = (
    RouteParameter("since", "created at this time or later, in Unix seconds", _UNIX_SECONDS),
    RouteParameter("until", "created at this time or earlier, in Unix seconds", _UNIX_SECONDS),
    RouteParameter("ended_since", "finished at this time or later, in Unix seconds", _UNIX_SECONDS),
    RouteParameter("by_end", "with `ended_since`: those that finished last come first; one page, without `next`", _BOOLEAN),
)
_PARENT_TASK: Final = RouteParameter("parent_task", "submitted in the Celery task of this id")
_PARENT: Final = RouteParameter("parent", "children of this workflow: those that are the work of its nodes")
_CHILDREN: Final = RouteParameter("children", "children of others, too, and not only what somebody submitted", _BOOLEAN)
_SERIES: Final = RouteParameter("series", "runs of this series")
_PATH: Final = RouteParameter("path", "which box to open, as its `path` says; by default all of the workflow")
_BINS: Final = {"type": "integer", "minimum": BINS_MIN, "maximum": BINS_MAX}
_WORDS: Final = {"type": "array", "items": {"type": "string"}}


def _limit(page: PageLength, about: str = "length of a page") -> RouteParameter:
    return RouteParameter("limit", about, {"type": "integer", "minimum": 1, "maximum": page.most})


ROUTES: Final = (
    Route(
        "POST",
        "/v1/workflows",
        "Submit a workflow; 201 once durable, 200 if the key is known or its series skips it, 409 if it has another definition",
        Api.submit,
        wire.Submitted,
        parameters=(RouteParameter("Idempotency-Key", "the key, if the definition has none", place="header"),),
        takes_definition=True,
        needs=Role.SUBMIT,
    ),
    Route(
        "GET",
        "/v1/workflows",
        "List workflows, newest first",
        Api.list_workflows,
        wire.WorkflowPage,
        use=Use.LISTING,
        parameters=(
            RouteParameter("state", "workflow states; repeated or separated by commas", _WORDS),
            RouteParameter("name", "the exact name"),
            _LABEL,
            _PARENT_TASK,
            _SERIES,
            _PARENT,
            _CHILDREN,
            *_TIMES,
            _limit(WORKFLOWS_PAGE),
            _CURSOR,
        ),
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}",
        "Show a workflow",
        Api.show_workflow,
        wire.WorkflowView,
        parameters=(_RESULT, _WAIT_S),
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/definition",
        "Show the definition, arguments included; for the owner and admins",
        Api.show_definition,
        JSON,
        needs=Role.SUBMIT,
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/export",
        "Export all of a workflow, arguments and values included; for the owner and admins",
        Api.export_workflow,
        wire.ExportDocument,
        needs=Role.SUBMIT,
    ),
    Route(
        "POST",
        "/v1/imports",
        "Take in an export of a workflow that has finished, or is paused with nothing in flight; 201 once durable; for admins",
        Api.import_workflow,
        wire.Submitted,
        body=wire.ExportDocument,
        needs=Role.ADMIN,
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/nodes",
        "List the nodes of a workflow",
        Api.show_nodes,
        wire.NodePage,
        parameters=(
            RouteParameter("state", "node states; repeated or separated by commas", _WORDS),
            RouteParameter("path", "only those in this box of the fold, or the one that it is"),
            RouteParameter("name", "only those with this in their name, in capital letters or not"),
            _limit(NODES_PAGE),
            _CURSOR,
        ),
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/fold",
        "Show a workflow, or a box of it, folded into at most 300 boxes, whatever its size",
        faces.show_fold,
        wire.FoldView,
        parameters=(_PATH,),
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/timeline",
        "Show where the time of a workflow, or of a box of it, went: how many nodes of each box waited, ran and ended, over time",
        faces.show_timeline,
        wire.TimelineView,
        parameters=(_PATH, RouteParameter("bins", f"spans of time, {BINS} by default", _BINS)),
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/fold/events",
        "Stream the fold, as `event: fold`, then boxes that change, as `event: boxes`; then `end`, or `bye` if the daemon stops",
        faces.stream_fold,
        "text/event-stream",
        use=Use.STREAM,
        parameters=(_PATH,),
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/estimate",
        "Tell how long a workflow goes on, as a range, and what bounds it",
        faces.show_estimate,
        wire.EstimateView,
    ),
    Route("GET", "/v1/workflows/{ref}/nodes/{name}", "Show a node", Api.show_node, wire.NodeView),
    Route(
        "GET",
        "/v1/workflows/{ref}/events",
        "Stream the workflow after each change, as `event: workflow`; then `end`, or `bye` if the daemon stops",
        Api.stream_views,
        "text/event-stream",
        use=Use.STREAM,
    ),
    Route(
        "GET",
        "/v1/workflows/{ref}/summary",
        "Show a workflow and those of its nodes that matter most",
        Api.show_summary,
        wire.Summary,
        parameters=(_limit(SUMMARY_PAGE, "nodes of a kind"),),
    ),
    Route("GET", "/v1/workflows/{ref}/causes", "Group the failures of a workflow by cause", Api.show_causes, wire.Causes),
    Route("GET", "/v1/workflows/{ref}/journal", "Tell who did what to a workflow", Api.show_journal, wire.Journal),
    Route(
        "GET",
        "/v1/journal",
        "Tell who did what to all workflows; without a cursor the newest",
        Api.show_audit,
        wire.Journal,
        parameters=(_limit(JOURNAL_PAGE), _CURSOR),
    ),
    Route(
        "GET",
        "/v1/explain",
        "Say what is wrong, what waits for a person, what is stuck and what has failed lately",
        Api.explain_all,
        wire.Overview,
        parameters=(_limit(OVERVIEW_PAGE),),
    ),
    Route("GET", "/v1/workflows/{ref}/explain", "Say why a workflow is not running", Api.explain_workflow, wire.Explanation),
    Route("GET", "/v1/workflows/{ref}/nodes/{name}/explain", "Say why a node is not running", Api.explain_node, wire.Explanation),
    Route(
        "POST",
        "/v1/workflows/{ref}/{verb}",
        f"Do something to a workflow or its nodes: {', '.join(Verb)}",
        Api.perform,
        wire.Changed,
        body=wire.VerbDocument,
        needs=Role.SUBMIT,
    ),
    Route(
        "POST",
        "/v1/bulk/{verb}",
        f"Do something to all workflows that fit: {', '.join(WORKFLOW_VERBS)}",
        Api.perform_in_bulk,
        wire.BulkChanged,
        parameters=(RouteParameter("state", "workflow states", _WORDS), RouteParameter("name", "the exact name"), _LABEL),
        body=wire.VerbDocument,
        needs=Role.SUBMIT,
    ),
    Route("GET", "/v1/definition.schema.json", "Describe definitions as a JSON schema", Api.show_schema, JSON),
    Route("GET", "/v1/run-times", "Tell how long tasks take, by their names", faces.show_run_times, wire.RunTimesView),
    Route("GET", "/v1/stats", "Show what the daemon is doing", Api.show_statistics, wire.Statistics),
    Route("GET", "/v1/openapi.json", "Describe this interface", Api.show_openapi, JSON),
    Route("GET", "/healthz", "Tell whether the process works", Api.show_health, wire.Health, use=Use.NONE, needs=Role.NONE),
    Route(
        "GET",
        "/readyz",
        "Tell whether work is accepted; 503 if not",
        Api.show_readiness,
        wire.Health,
        use=Use.NONE,
        needs=Role.NONE,
    ),
    Route("GET", "/metrics", "Metrics for Prometheus", Api.show_metrics, "text/plain", use=Use.NONE),
    Route("GET", "/", "The page, for browsers", pages.show_start, "text/html", use=Use.NONE, needs=Role.NONE),
    Route("GET", "/page/mode.json", "Tell what the page may do here", pages.show_mode, JSON, use=Use.NONE, needs=Role.NONE),
    Route("GET", "/page/{file}", "A file of the page", pages.show_page_file, "*/*", use=Use.NONE, needs=Role.NONE),
    Route(
        "GET",
        "/page/vendor/{file}",
        "A library of the page's",
        pages.show_vendored_file,
        "*/*",
        use=Use.NONE,
        needs=Role.NONE,
    ),
)


def served(*, read_only: bool) -> list[Route]:
    """Return the routes of a listener; on a read-only one those that change nothing."""
    return [route for route in ROUTES if route.method == "GET" or not read_only]
