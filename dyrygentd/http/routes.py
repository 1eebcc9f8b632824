"""The routes: parse, call one method of the scheduler, render through `wire`.

`ROUTES` is the list of what there is; the application and its OpenAPI document are made from it. Every error, wrong paths and
unexpected exceptions included, leaves as an RFC 9457 problem document.
"""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from aiohttp import web

from dyrygentd import __version__, wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.states import NODE_STATE_OF_WORD, WorkflowState
from dyrygentd.core.tally import Tally
from dyrygentd.core.verbs import WORKFLOW_VERBS, Request, Verb
from dyrygentd.errors import BadRequest, BodyTooLarge, DyrygentError
from dyrygentd.http.access import Access, Peer, Role, peer_of
from dyrygentd.http.guard import Connection
from dyrygentd.http.openapi import describe
from dyrygentd.http.problems import (
    JSON,
    PROBLEM,
    BodyTooSlow,
    ForeignHost,
    ForeignOrigin,
    InternalError,
    MethodNotAllowed,
    RouteNotFound,
    TooBusy,
    TooManyOfYours,
    UnknownVerb,
    UnsupportedMediaType,
)
from dyrygentd.http.sockets import is_loopback
from dyrygentd.http.stream import send_views
from dyrygentd.ports import Selection
from dyrygentd.scheduler import Scheduler

logger = logging.getLogger("dyrygentd.http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RenderMetrics = Callable[[str], tuple[bytes, str]]
T = TypeVar("T")

_DECODE_INLINE_BYTES = 16 * 1024
"""Below, the hop to a thread costs more than the decoding."""

_BODY: Final = web.RequestKey("dyrygentd_body", bytes)

_USER_SHARE: Final = 0.75
"""Of all places, those that one user may take; root may take all."""

#: What stands in metrics for paths and methods that there are not.
_NO_ROUTE: Final = "(others)"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})

_DECODES_MAX = 2
"""Decoding holds the interpreter's lock most of the time: more threads would only make everybody slower."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of the HTTP side.

    Of each, one user who is not root may take three quarters.

    Attributes:
        body_bytes_max: Longest request body.
        bodies_bytes_max: All request bodies in memory together.
        body_timeout_s: Time for a body to arrive.
        body_silence_s: Longest pause in it.
        nodes_max: Largest workflow.
        requests_max: Requests served at one time, without those below, `/metrics` and the health checks.
        waits_max: Long polls at one time.
        streams_max: Event streams at one time.
        wait_s_max: Longest time that a long poll is held.
        heartbeat_s: Longest silence of an event stream; proxies and clients close what is silent for 30 to 60 s.
    """

    body_bytes_max: int = 64 * 1024 * 1024
    bodies_bytes_max: int = 256 * 1024 * 1024
    body_timeout_s: float = 60.0
    body_silence_s: float = 10.0
    nodes_max: int = 200_000
    requests_max: int = 256
    waits_max: int = 1000
    streams_max: int = 100
    wait_s_max: float = 60.0
    heartbeat_s: float = 15.0


class Use(Enum):
    """Which of the bounded places a route takes."""

    NONE = "none"
    REQUEST = "requests"
    STREAM = "event streams"


@dataclass(frozen=True, slots=True)
class Parameter:
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
    handler: "Callable[[Api, web.Request], Awaitable[web.StreamResponse]]"
    answer: type | str
    use: Use = Use.REQUEST
    parameters: tuple[Parameter, ...] = ()
    takes_definition: bool = False
    body: type | None = None
    needs: Role = Role.READ


@dataclass(slots=True)
class HttpStatistics:
    """What the HTTP side serves now, and what it has answered since it was made.

    Attributes:
        answers: ``{(method, route, status): number}``.
        seconds: ``{route: view of a tally}``, event streams and long polls left aside.
    """

    requests: int = 0
    waits: int = 0
    streams: int = 0
    bodies_bytes: int = 0
    answers: dict[tuple[str, str, int], int] = field(default_factory=dict)
    seconds: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)


class Places:
    """A bounded number of places. Guards: ``taken`` never exceeds ``maximum``, no user has more than a share, all are given back.

    Args:
        refused: Told what was refused.
    """

    def __init__(self, what: str, maximum: int, refused: Callable[[str], None]) -> None:
        self.what = what
        self.maximum = maximum
        self.taken = 0
        self._refused = refused
        self._of_user: Counter[int | None] = Counter()

    def take(self, user: int | None, number: int = 1) -> None:
        """Take places for a user; root may take all. Raises `TooBusy` or `TooManyOfYours` if there are not enough."""
        own_max = max(1, int(self.maximum * _USER_SHARE))
        if self.taken + number > self.maximum:
            self._refused(self.what)
            raise TooBusy(self.what, self.maximum)
        if user and self._of_user[user] + number > own_max:
            self._refused(self.what)
            raise TooManyOfYours(self.what, own_max)
        self.taken += number
        self._of_user[user] += number

    def give_back(self, user: int | None, number: int = 1) -> None:
        """Give places back."""
        self.taken -= number
        self._of_user[user] -= number


class Api:
    """The handlers and what they share. One is made for each application.

    Attributes:
        limits, access: May be replaced while it serves; the numbers of places stay as they were.
        read_only: Whether it leaves out whatever changes something.
    """

    def __init__(
        self, scheduler: Scheduler, *, limits: HttpLimits, access: Access, render_metrics: RenderMetrics, read_only: bool
    ) -> None:
        self._scheduler = scheduler
        self.access = access
        self.limits = limits
        self._render_metrics = render_metrics
        self.read_only = read_only
        self._requests = Places("requests", limits.requests_max, self._count)
        self._waits = Places("long polls", limits.waits_max, self._count)
        self._streams = Places("event streams", limits.streams_max, self._count)
        self._bodies = Places("bytes of request bodies", limits.bodies_bytes_max, self._count)
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, Tally] = {}
        self._refused: Counter[str] = Counter()
        self._decodes: anyio.CapacityLimiter | None = None
        self._stopping: anyio.Event | None = None
        self._openapi: bytes | None = None
        self._uses: dict[object, Use] = {}
        self._needs: dict[tuple[str, object], Role] = {}

    # --- workflows --------------------------------------------------------------------------------------------------

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Take a definition; answer when it is on disk."""
        if request.content_type != JSON and "Content-Type" in request.headers:
            raise UnsupportedMediaType(request.content_type)
        definition = await self._decode(request[_BODY])
        request[_BODY] = b""
        self.access.check_tasks(definition.graph)
        definition = _with_key(definition, request.headers.get("Idempotency-Key"))
        submitted = await self._scheduler.submit_definition(definition, owner=_peer(request).user)
        location = f"/{wire.API_VERSION}/workflows/{submitted.id}"
        return _json(submitted, status=201 if submitted.created else 200, headers={"Location": location})

    async def list_workflows(self, request: web.Request) -> web.StreamResponse:
        """Answer a page of workflows, newest first."""
        selection = Selection(
            states=_states(request, frozenset(WorkflowState)),
            name=request.query.get("name"),
            labels=_labels(request),
            before=_integer(request, "cursor", default=None, least=1),
            limit=_integer(request, "limit", default=50, least=1, most=500) or 50,
        )
        return _json(await self._scheduler.list(selection))

    async def show_workflow(self, request: web.Request) -> web.StreamResponse:
        """Answer a workflow; with ``wait_s`` as soon as it has finished, or after that time as it stands."""
        with_result = _flag(request, "result")
        wait_s = _number(request, "wait_s", least=0, most=self.limits.wait_s_max)
        workflow_id = await self._resolve(request)
        if wait_s:
            await self._wait(workflow_id, wait_s)
        return _json(await self._scheduler.view(workflow_id, with_result=with_result))

    async def show_definition(self, request: web.Request) -> web.StreamResponse:
        """Answer the definition. It has the arguments of the tasks, so it is for the owner and admins."""
        workflow_id = await self._resolve(request)
        await self.access.check_owner(_peer(request), await self._scheduler.owner(workflow_id), workflow_id)
        return web.Response(body=await self._scheduler.definition(workflow_id), content_type=JSON)

    async def export_workflow(self, request: web.Request) -> web.StreamResponse:
        """Answer all that is stored of a workflow. It has arguments and values, so it is for the owner and admins."""
        workflow_id = await self._resolve(request)
        await self.access.check_owner(_peer(request), await self._scheduler.owner(workflow_id), workflow_id)
        return web.Response(body=await self._scheduler.export(workflow_id), content_type=JSON)

    async def import_workflow(self, request: web.Request) -> web.StreamResponse:
        """Take in an export; answer when it is on disk. Its owner, ids and journal are believed, so it is for admins."""
        if request.content_type != JSON and "Content-Type" in request.headers:
            raise UnsupportedMediaType(request.content_type)
        body, peer = request[_BODY], _peer(request)
        request[_BODY] = b""
        imported = await self._in_thread_if_long(lambda: wire.decode_export(body, nodes_max=self.limits.nodes_max), len(body))
        self.access.check_tasks(imported.definition.graph)
        owner = imported.record.owner
        return _json(await self._scheduler.take_over(imported, by=str(peer), owner=owner), status=201)

    async def show_nodes(self, request: web.Request) -> web.StreamResponse:
        """Answer a page of the nodes of a workflow, in their order."""
        states = _states(request, NODE_STATE_OF_WORD.keys())
        after = _integer(request, "cursor", default=0, least=0) or 0
        limit = _integer(request, "limit", default=100, least=1, most=1000) or 100
        workflow_id = await self._resolve(request)
        return _json(await self._scheduler.nodes(workflow_id, states=states, after=after, limit=limit))

    async def show_node(self, request: web.Request) -> web.StreamResponse:
        """Answer one node; the owner and admins see its arguments, without secrets."""
        workflow_id = await self._resolve(request)
        owner = await self._scheduler.owner(workflow_id)
        may_control = await self.access.may_control(_peer(request), owner)
        return _json(await self._scheduler.node(workflow_id, request.match_info["name"], with_arguments=may_control))

    async def stream_views(self, request: web.Request) -> web.StreamResponse:
        """Send the workflow now and after each change."""
        workflow_id = await self._resolve(request)
        await self._scheduler.view(workflow_id)  # An error is still a problem document here, and not in the stream.
        views = self._scheduler.follow(workflow_id)
        return await send_views(request, views, stopping=self._wait_stopping, heartbeat_s=self.limits.heartbeat_s)

    async def show_causes(self, request: web.Request) -> web.StreamResponse:
        """Answer the failures of a workflow, grouped by cause."""
        return _json(await self._scheduler.causes(await self._resolve(request)))

    async def show_journal(self, request: web.Request) -> web.StreamResponse:
        """Answer who did what to a workflow, when and why."""
        return _json(await self._scheduler.journal(await self._resolve(request)))

    async def show_audit(self, request: web.Request) -> web.StreamResponse:
        """Answer who did what to all workflows, oldest first; without a cursor the newest."""
        after = _integer(request, "cursor", default=None, least=0)
        limit = _integer(request, "limit", default=100, least=1, most=1000) or 100
        return _json(await self._scheduler.audit(after, limit=limit))

    async def explain_workflow(self, request: web.Request) -> web.StreamResponse:
        """Answer why a workflow is not running, and what can be done."""
        return _json(await self._scheduler.explain(await self._resolve(request)))

    async def explain_node(self, request: web.Request) -> web.StreamResponse:
        """Answer why a node is not running, and what can be done."""
        workflow_id = await self._resolve(request)
        return _json(await self._scheduler.explain(workflow_id, request.match_info["name"]))

    async def perform(self, request: web.Request) -> web.StreamResponse:
        """Carry out a verb on one workflow; asking for what is so already changes nothing."""
        verb = _verb(request)
        asked = await self._request_of(request, verb)
        workflow_id = await self._resolve(request)
        await self.access.check_owner(_peer(request), await self._scheduler.owner(workflow_id), workflow_id)
        return _json(await self._scheduler.perform(workflow_id, asked))

    async def perform_in_bulk(self, request: web.Request) -> web.StreamResponse:
        """Carry out a verb on all workflows that fit; of those, on one's own only for who is no admin."""
        peer, verb = _peer(request), _verb(request)
        owner = None if await self.access.role_of(peer) is Role.ADMIN else peer.user
        asked = await self._request_of(request, verb)
        if asked.nodes:
            raise BadRequest("nodes have names in one workflow only", path="$.nodes", next_step="leave out `nodes`")
        if verb not in WORKFLOW_VERBS:
            words = ", ".join(WORKFLOW_VERBS)
            raise BadRequest(f"'{verb}' is for nodes, not for whole workflows", path="verb", next_step=f"use one of {words}")
        selection = Selection(
            states=_states(request, frozenset(WorkflowState)),
            name=request.query.get("name"),
            labels=_labels(request),
            owner=owner,
        )
        if not (selection.states or selection.name or selection.labels):
            raise BadRequest("a verb in bulk needs a filter", path="query", next_step="give `state`, `name` or `label`")
        return _json(await self._scheduler.perform_in_bulk(selection, asked))

    async def _request_of(self, request: web.Request, verb: Verb) -> Request:
        body = request[_BODY]
        if body.strip() and request.content_type != JSON and "Content-Type" in request.headers:
            raise UnsupportedMediaType(request.content_type)
        document = await self._in_thread_if_long(lambda: wire.decode(body.strip() or b"{}", wire.VerbDocument), len(body))
        if verb is Verb.SET_PRIORITY and document.priority is None:
            raise BadRequest("`priority` is missing", path="$.priority", next_step="give a whole number; higher goes first")
        return wire.request_of(verb, document, by=str(_peer(request)))

    # --- the daemon -------------------------------------------------------------------------------------------------

    async def show_statistics(self, request: web.Request) -> web.StreamResponse:
        """Answer what the daemon is doing."""
        return _json(self._scheduler.statistics())

    async def show_schema(self, request: web.Request) -> web.StreamResponse:
        """Answer the JSON schema of definitions, for editors."""
        return web.Response(body=wire.encode(wire.definition_schema()), content_type=JSON)

    async def show_openapi(self, request: web.Request) -> web.StreamResponse:
        """Answer the description of this interface."""
        if self._openapi is None:
            self._openapi = wire.encode(describe(_served(read_only=self.read_only)))
        return web.Response(body=self._openapi, content_type=JSON)

    async def show_health(self, request: web.Request) -> web.StreamResponse:
        """Answer 200 as long as this process works; the body tells what keeps it from its work."""
        return _json(self._scheduler.health())

    async def show_readiness(self, request: web.Request) -> web.StreamResponse:
        """Answer 200 if submissions are accepted and carried out, else 503."""
        health = self._scheduler.health()
        return _json(health, status=200 if health.status == "ok" else 503)

    async def show_metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer the metrics in the format that the scraper prefers."""
        body, content_type = self._render_metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    # --- around every request ---------------------------------------------------------------------------------------

    def statistics(self) -> HttpStatistics:
        """Return a snapshot."""
        return HttpStatistics(
            requests=self._requests.taken,
            waits=self._waits.taken,
            streams=self._streams.taken,
            bodies_bytes=self._bodies.taken,
            answers=dict(self._answers),
            seconds={route: tally.view() for route, tally in self._seconds.items()},
            refused=dict(self._refused),
        )

    def attach(self, app: web.Application) -> None:
        """Put the routes and what is around them into an application."""
        for route in _served(read_only=self.read_only):
            handler = _bound(self, route)
            # GET and POST of one path share a resource, so what a route uses is kept by path and not by method.
            resource = app.router.add_route(route.method, route.path, handler).resource
            self._uses[resource] = route.use
            self._needs[route.method, resource] = route.needs
            if route.method == "GET" and route.use is not Use.STREAM:
                app.router.add_route("HEAD", route.path, handler)
                self._needs["HEAD", resource] = route.needs

        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._around(request, handler)

        app.middlewares.append(around)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        app.on_response_prepare.append(self._sign)

    async def _around(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        begun = time.monotonic()
        try:
            _check_host(request)
            needed = self._needs.get((request.method, request.match_info.route.resource), Role.NONE)
            await self.access.check(_peer(request), needed)
            # A body that arrives slowly takes no place from others, only its share of the memory for bodies.
            async with self._arrived(request), self._place(request):
                response = await handler(request)
        except DyrygentError as error:
            response = _problem(error)
        except web.HTTPException as error:
            response = self._translated(request, error)
        except Exception:
            logger.exception("%s %s ended in an unexpected error", request.method, request.path)
            response = _problem(InternalError())
        self._note_answer(request, response.status, time.monotonic() - begun)
        return response

    def _note_answer(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = _NO_ROUTE if resource is None or resource not in self._uses else resource.canonical
        method = request.method if request.method in _METHODS else _NO_ROUTE
        self._answers[method, route, status] += 1
        if self._uses.get(resource) is not Use.STREAM and "wait_s" not in request.query:
            self._seconds.setdefault(route, Tally()).add(seconds)

    @asynccontextmanager
    async def _place(self, request: web.Request) -> AsyncIterator[None]:
        use = self._uses.get(request.match_info.route.resource, Use.NONE)
        places = {Use.REQUEST: self._requests, Use.STREAM: self._streams}.get(use)
        if places is self._requests and "wait_s" in request.query:
            places = self._waits
        if places is None:
            yield
            return
        user = _peer(request).user
        places.take(user)
        try:
            yield
        finally:
            places.give_back(user)

    def _translated(self, request: web.Request, error: web.HTTPException) -> web.Response:
        if isinstance(error, web.HTTPMethodNotAllowed):
            allowed = sorted(error.allowed_methods)
            response = _problem(MethodNotAllowed(request.method, request.path, allowed, read_only=self.read_only))
            response.headers["Allow"] = ", ".join(allowed)
            return response
        if error.status == 404:
            return _problem(RouteNotFound(request.path))
        return _problem(BadRequest(error.text or error.reason))

    def _count(self, what: str) -> None:
        self._refused[what] += 1

    async def _start(self, app: web.Application) -> None:
        self._stopping = anyio.Event()
        self._decodes = anyio.CapacityLimiter(_DECODES_MAX)

    async def _stop(self, app: web.Application) -> None:
        if self._stopping is not None:
            self._stopping.set()

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers[wire.VERSION_HEADER] = __version__

    # --- parts of requests ------------------------------------------------------------------------------------------

    async def _resolve(self, request: web.Request) -> str:
        return await self._scheduler.resolve(request.match_info["ref"])

    async def _wait(self, workflow_id: str, wait_s: float) -> None:
        """Return when the workflow has finished, the time is over, or the daemon stops."""
        async with anyio.create_task_group() as tasks:

            async def stop() -> None:
                await self._wait_stopping()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop)
            # Whatever else may be wrong with the workflow is told by the view that follows, not from inside a task group.
            with suppress(DyrygentError):
                await self._scheduler.wait(workflow_id, timeout_s=wait_s)
            tasks.cancel_scope.cancel()

    async def _wait_stopping(self) -> None:
        assert self._stopping is not None
        await self._stopping.wait()

    @asynccontextmanager
    async def _arrived(self, request: web.Request) -> AsyncIterator[None]:
        """Read the body, if the route takes one. What arrives counts against the common bound until the request has ended."""
        if request.method != "POST" or request.match_info.route.resource not in self._uses:
            yield
            return
        most, user = self.limits.body_bytes_max, _peer(request).user
        if (request.content_length or 0) > most:
            raise BodyTooLarge(most)
        chunks: list[bytes] = []
        held = 0
        try:
            try:
                end, silence_s = anyio.current_time() + self.limits.body_timeout_s, self.limits.body_silence_s
                with anyio.fail_after(min(silence_s, self.limits.body_timeout_s)) as patience:
                    async for chunk in request.content.iter_any():
                        patience.deadline = min(end, anyio.current_time() + silence_s)
                        self._bodies.take(user, len(chunk))
                        held += len(chunk)
                        chunks.append(chunk)
                        if held > most:
                            raise BodyTooLarge(most)
            except TimeoutError:
                raise BodyTooSlow(held, self.limits.body_timeout_s, self.limits.body_silence_s) from None
            except web.RequestPayloadError as error:
                raise BadRequest("the request body is not encoded as its headers say") from error
            except ConnectionError as error:
                raise BadRequest("the connection was cut before the end of the request body") from error
            request[_BODY] = b"".join(chunks)
            chunks.clear()
            yield
        finally:
            self._bodies.give_back(user, held)

    async def _decode(self, body: bytes) -> Definition:
        return await self._in_thread_if_long(lambda: wire.decode_definition(body, nodes_max=self.limits.nodes_max), len(body))

    async def _in_thread_if_long(self, decode: Callable[[], T], size: int) -> T:
        return decode() if size <= _DECODE_INLINE_BYTES else await anyio.to_thread.run_sync(decode, limiter=self._decodes)


_RESULT = Parameter("result", "whether the result is wanted", {"type": "boolean"})
_LABEL = Parameter("label", "`k=v`; repeat it to demand several", {"type": "array", "items": {"type": "string"}})
_CURSOR = Parameter("cursor", "`next` of the previous page")
_WAIT_S = Parameter("wait_s", "answer when it has finished, or after so many seconds", {"type": "number", "maximum": 60})
_WORDS: Final = {"type": "array", "items": {"type": "string"}}


def _limit(most: int) -> Parameter:
    return Parameter("limit", "length of a page", {"type": "integer", "minimum": 1, "maximum": most})


ROUTES: Final = (
    Route(
        "POST",
        "/v1/workflows",
        "Submit a workflow; 201 once it is durable, 200 if the key was known",
        Api.submit,
        wire.Submitted,
        parameters=(Parameter("Idempotency-Key", "the key, if the definition has none", place="header"),),
        takes_definition=True,
        needs=Role.SUBMIT,
    ),
    Route(
        "GET",
        "/v1/workflows",
        "List workflows, newest first",
        Api.list_workflows,
        wire.WorkflowPage,
        parameters=(
            Parameter("state", "workflow states; repeated or separated by commas", _WORDS),
            Parameter("name", "the exact name"),
            _LABEL,
            _limit(500),
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
        parameters=(Parameter("state", "node states; repeated or separated by commas", _WORDS), _limit(1000), _CURSOR),
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
    Route("GET", "/v1/workflows/{ref}/causes", "Group the failures of a workflow by cause", Api.show_causes, wire.Causes),
    Route("GET", "/v1/workflows/{ref}/journal", "Tell who did what to a workflow", Api.show_journal, wire.Journal),
    Route(
        "GET",
        "/v1/journal",
        "Tell who did what to all workflows; without a cursor the newest",
        Api.show_audit,
        wire.Journal,
        parameters=(_limit(1000), _CURSOR),
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
        parameters=(Parameter("state", "workflow states", _WORDS), Parameter("name", "the exact name"), _LABEL),
        body=wire.VerbDocument,
        needs=Role.SUBMIT,
    ),
    Route("GET", "/v1/definition.schema.json", "Describe definitions as a JSON schema", Api.show_schema, JSON),
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
)

API_KEY: Final = web.AppKey("dyrygentd", Api)
"""Where an application made by `make_app` keeps its `Api`, for its statistics."""


def make_app(
    scheduler: Scheduler,
    *,
    limits: HttpLimits | None = None,
    access: Access | None = None,
    render_metrics: RenderMetrics,
    read_only: bool,
) -> web.Application:
    """Make the application for one kind of listener.

    Args:
        render_metrics: Takes the Accept header; returns the body and its content type.
        read_only: Leave out whatever changes something, as for TCP.
    """
    app = web.Application()
    app[API_KEY] = api = Api(
        scheduler,
        limits=limits or HttpLimits(),
        access=access or Access(),
        render_metrics=render_metrics,
        read_only=read_only,
    )
    api.attach(app)
    return app


def _served(*, read_only: bool) -> list[Route]:
    return [route for route in ROUTES if route.method == "GET" or not read_only]


def _bound(api: Api, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await route.handler(api, request)

    return handle


def _peer(request: web.Request) -> Peer:
    """Return who asks, as it was when the connection was made."""
    protocol = request.protocol
    return protocol.peer if isinstance(protocol, Connection) else peer_of(request.transport)


def _check_host(request: web.Request) -> None:
    """Refuse pages of strangers in a browser on this machine: one may have its name resolve to us, or ask from where it is."""
    transport = request.transport
    address = None if transport is None else transport.get_extra_info("sockname")
    if not isinstance(address, tuple) or not is_loopback(str(address[0])):
        return
    if not is_loopback(request.host):
        raise ForeignHost(request.host)
    origin = request.headers.get("Origin")
    if origin is not None and not is_loopback(origin.partition("://")[2]):
        raise ForeignOrigin(origin)


def _json(view: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=wire.encode(view), status=status, content_type=JSON, headers=headers)


def _problem(error: DyrygentError) -> web.Response:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return web.Response(body=wire.encode(wire.problem_of(error)), status=error.status, content_type=PROBLEM, headers=headers)


def _with_key(definition: Definition, key: str | None) -> Definition:
    if key is None:
        return definition
    if not 1 <= len(key) <= 200:
        raise BadRequest("a key has 1 to 200 characters", path="Idempotency-Key")
    if definition.key not in (None, key):
        raise BadRequest(f"the header says key '{key}', the definition '{definition.key}'", path="Idempotency-Key")
    return replace(definition, key=key)


def _states(request: web.Request, known: Any) -> frozenset[str]:
    words = frozenset(word for text in request.query.getall("state", []) for word in text.split(",") if word)
    unknown = sorted(words - {str(word) for word in known})
    if unknown:
        raise BadRequest(f"'{unknown[0]}' is no state", path="state", next_step=f"use one of {', '.join(known)}")
    return words


def _verb(request: web.Request) -> Verb:
    word = request.match_info["verb"]
    try:
        return Verb(word)
    except ValueError:
        raise UnknownVerb(word, list(Verb)) from None


def _labels(request: web.Request) -> dict[str, str]:
    labels = {}
    for text in request.query.getall("label", []):
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadRequest(f"label '{text}' is not of the form k=v", path="label")
        labels[name] = value
    return labels


def _integer(request: web.Request, name: str, *, default: int | None, least: int, most: int = 2**63 - 1) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not least <= int(text) <= most:
        bounds = f"from {least} to {most}" if most < 2**63 - 1 else "as the previous page gave it"
        raise BadRequest(f"`{name}` must be a whole number, {bounds}", path=name)
    return int(text)


def _number(request: web.Request, name: str, *, least: float, most: float) -> float:
    text = request.query.get(name, "0")
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise BadRequest(f"`{name}` must be a number from {least:g} to {most:g}", path=name)
    return number


def _flag(request: web.Request, name: str) -> bool:
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise BadRequest(f"`{name}` must be true or false", path=name)
    return text in ("true", "1")
