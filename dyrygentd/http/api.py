"""The handlers: parse, call one method of the scheduler or its deputy, render through `wire`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
from aiohttp import web

from dyrygentd import wire
from dyrygentd.core.graph import Definition
from dyrygentd.core.states import NODE_STATE_OF_WORD, WorkflowState
from dyrygentd.core.user import User
from dyrygentd.core.verbs import WORKFLOW_VERBS, Verb, VerbRequest
from dyrygentd.errors import BadRequest, DyrygentError, NotOnDiskYet
from dyrygentd.http import answers, parameters
from dyrygentd.http.access import Role
from dyrygentd.http.around import BODY, Around
from dyrygentd.http.decoding import Decodes
from dyrygentd.http.guard import asking
from dyrygentd.http.limits import JOURNAL_PAGE, NODES_PAGE, OVERVIEW_PAGE, SUMMARY_PAGE, WORKFLOWS_PAGE
from dyrygentd.http.problems import JSON, UnsupportedMediaType
from dyrygentd.http.stream import event, send_events
from dyrygentd.ports.facts import Selection
from dyrygentd.scheduler.service import Service
from dyrygentd.wire.bounds import Look, nothing
from dyrygentd.wire.schema import definition_schema

RenderMetrics = Callable[[str], tuple[bytes, str]]
T = TypeVar("T")

_DECODE_INLINE_BYTES = 16 * 1024
"""Below, the hop to a thread costs more than the decoding."""


class Api:
    """The handlers and what they share. One is made for each application.

    Guards: whole workflows are read and long bodies decoded in turns; nobody is kept waiting when the application stops.

    Args:
        around: Has let the requests in, and knows who may do what.
        openapi: Returns the description of the interface, encoded.
        grafana: An address to which the page links.
    """

    def __init__(
        self,
        service: Service,
        around: Around,
        *,
        render_metrics: RenderMetrics,
        openapi: Callable[[], bytes],
        grafana: str = "",
    ) -> None:
        self.service = service
        self.around = around
        self.grafana = grafana
        self._render_metrics = render_metrics
        self._openapi = openapi
        self._turns = answers.ReadingTurns()
        self._decodes: Decodes | None = None
        self._stopping: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<Api {self.around!r}>"

    def start(self) -> None:
        """Begin to serve, in the loop that will."""
        self._stopping = anyio.Event()
        self._decodes = Decodes()

    def stop(self) -> None:
        """Let go whoever follows or waits."""
        if self._stopping is not None:
            self._stopping.set()
        if self._decodes is not None:
            self._decodes.stop()

    # --- workflows --------------------------------------------------------------------------------------------------

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Take a definition; answer when it is on disk."""
        if request.content_type != JSON and "Content-Type" in request.headers:
            raise UnsupportedMediaType(request.content_type)
        definition = await self._decode(request)
        definition = parameters.with_key(definition, request.headers.get("Idempotency-Key"))
        submitted = await self.service.submit_definition(definition, owner=self._user(request))
        location = f"/{wire.API_VERSION}/workflows/{submitted.id}"
        return answers.as_json(submitted, status=201 if submitted.created else 200, headers={"Location": location})

    async def list_workflows(self, request: web.Request) -> web.StreamResponse:
        """Answer a page of workflows, newest first, or those that ended last."""
        selection = Selection(
            states=parameters.states(request, frozenset(WorkflowState)),
            name=request.query.get("name"),
            labels=parameters.labels(request),
            since=parameters.at(request, "since"),
            until=parameters.at(request, "until"),
            ended_since=parameters.at(request, "ended_since"),
            by_end=parameters.flag(request, "by_end"),
            parent_task=request.query.get("parent_task"),
            series=request.query.get("series"),
            parent=await self._parent(request),
            with_children=parameters.flag(request, "children"),
            before=parameters.integer(request, "cursor", default=None, least=1),
            limit=parameters.length(request, WORKFLOWS_PAGE),
        )
        if selection.by_end and (selection.ended_since is None or selection.before is not None):
            raise BadRequest("`by_end` goes with `ended_since`, and has one page: leave `cursor` out", path="by_end")
        return answers.as_json(await self.service.list(selection))

    async def show_workflow(self, request: web.Request) -> web.StreamResponse:
        """Answer a workflow; with ``wait_s`` as soon as it has finished, or after that time as it stands."""
        with_result = parameters.flag(request, "result")
        wait_s = parameters.number(request, "wait_s", least=0, most=self.around.limits.wait_s_max)
        workflow_id = await self.resolve(request)
        if wait_s:
            await self._wait(workflow_id, wait_s)
            # Meanwhile the right to read may have been taken away.
            await self.around.access.check(asking(request), Role.READ)
        return answers.as_json(await self.service.view(workflow_id, with_result=with_result))

    async def show_definition(self, request: web.Request) -> web.StreamResponse:
        """Answer the definition. It has the arguments of the tasks, so it is for the owner and admins."""
        workflow_id = await self.resolve(request)
        await self.around.access.check_owner(asking(request), await self.service.owner(workflow_id), workflow_id)
        async with self.reading(request):
            return web.Response(body=await self.service.definition(workflow_id), content_type=JSON)

    async def export_workflow(self, request: web.Request) -> web.StreamResponse:
        """Answer all that is stored of a workflow. It has arguments and values, so it is for the owner and admins."""
        workflow_id = await self.resolve(request)
        await self.around.access.check_owner(asking(request), await self.service.owner(workflow_id), workflow_id)
        async with self.reading(request):
            return web.Response(body=await self.service.export(workflow_id), content_type=JSON)

    async def import_workflow(self, request: web.Request) -> web.StreamResponse:
        """Take in an export; answer when it is on disk. Its owner, ids and journal are believed, so it is for admins."""
        if request.content_type != JSON and "Content-Type" in request.headers:
            raise UnsupportedMediaType(request.content_type)
        limits, access = self.around.limits, self.around.access

        def decode(body: bytes, look: Look) -> wire.Imported:
            imported = wire.decode_export(body, nodes_max=limits.nodes_max, look=look)
            for each in imported.definitions:
                access.check_tasks(each.graph, look, knows=self.service.knows_task)
            return imported

        imported = await self._decoded(request, decode)
        owner, by = imported.record.owner, access.words_of(asking(request))
        taken = await self.service.take_over(imported, by=by, owner=owner and access.at_home(owner))
        return answers.as_json(taken, status=201)

    async def show_nodes(self, request: web.Request) -> web.StreamResponse:
        """Answer a page of the nodes of a workflow, in their order."""
        states = parameters.states(request, NODE_STATE_OF_WORD.keys())
        after = parameters.integer(request, "cursor", default=0, least=0) or 0
        limit = parameters.length(request, NODES_PAGE)
        workflow_id = await self.resolve(request)
        async with self.reading(request, workflow_id):
            page = await self.service.nodes(
                workflow_id,
                states=states,
                path=request.query.get("path", ""),
                name=request.query.get("name", ""),
                after=after,
                limit=limit,
            )
            return answers.as_json(page)

    async def show_node(self, request: web.Request) -> web.StreamResponse:
        """Answer one node; the owner and admins see its arguments and payload, without secrets."""
        workflow_id = await self.resolve(request)
        owner = await self.service.owner(workflow_id)
        may_control = await self.around.access.may_control(asking(request), owner)
        async with self.reading(request, workflow_id):
            return answers.as_json(await self.service.node(workflow_id, request.match_info["name"], with_arguments=may_control))

    async def stream_views(self, request: web.Request) -> web.StreamResponse:
        """Send the workflow now and after each change."""
        workflow_id = await self.resolve(request)
        await self.service.view(workflow_id)  # An error is still a problem document here, and not in the stream.
        views = self.service.follow(workflow_id)
        return await self.send(request, (event("workflow", wire.encode(view)) async for view in views))

    async def show_summary(self, request: web.Request) -> web.StreamResponse:
        """Answer what is to be known of a workflow at one look."""
        limit = parameters.length(request, SUMMARY_PAGE)
        workflow_id = await self.resolve(request)
        async with self.reading(request, workflow_id):
            return answers.as_json(await self.service.summary(workflow_id, limit=limit))

    async def show_causes(self, request: web.Request) -> web.StreamResponse:
        """Answer the failures of a workflow, grouped by cause."""
        workflow_id = await self.resolve(request)
        async with self.reading(request, workflow_id):
            return answers.as_json(await self.service.causes(workflow_id))

    async def show_journal(self, request: web.Request) -> web.StreamResponse:
        """Answer who did what to a workflow, when and why."""
        return answers.as_json(await self.service.journal(await self.resolve(request)))

    async def show_audit(self, request: web.Request) -> web.StreamResponse:
        """Answer who did what to all workflows, oldest first; without a cursor the newest."""
        after = parameters.integer(request, "cursor", default=None, least=0)
        limit = parameters.length(request, JOURNAL_PAGE)
        return answers.as_json(await self.service.audit(after, limit=limit))

    async def explain_workflow(self, request: web.Request) -> web.StreamResponse:
        """Answer why a workflow is not running, and what can be done."""
        workflow_id = await self.resolve(request)
        async with self.reading(request, workflow_id):
            return answers.as_json(await self.service.explain(workflow_id))

    async def explain_node(self, request: web.Request) -> web.StreamResponse:
        """Answer why a node is not running, and what can be done."""
        workflow_id = await self.resolve(request)
        async with self.reading(request, workflow_id):
            return answers.as_json(await self.service.explain(workflow_id, request.match_info["name"]))

    async def explain_all(self, request: web.Request) -> web.StreamResponse:
        """Answer what is wrong, what waits for a person, what is stuck and what has failed lately."""
        most = parameters.length(request, OVERVIEW_PAGE)
        async with self.reading(request):
            return answers.as_json(await self.service.overview(most=most))

    async def perform(self, request: web.Request) -> web.StreamResponse:
        """Carry out a verb on one workflow; asking for what is so already changes nothing."""
        verb = parameters.verb(request)
        asked = await self._request_of(request, verb)
        workflow_id = await self.resolve(request)
        await self.around.access.check_owner(asking(request), await self.service.owner(workflow_id), workflow_id)
        return answers.as_json(await self.service.perform(workflow_id, asked))

    async def perform_in_bulk(self, request: web.Request) -> web.StreamResponse:
        """Carry out a verb on all workflows that fit; of those, on one's own only for who is no admin."""
        verb = parameters.verb(request)
        owner = None if await self.around.access.role_of(asking(request)) is Role.ADMIN else self._user(request)
        asked = await self._request_of(request, verb)
        if asked.nodes:
            raise BadRequest("nodes have names in one workflow only", path="$.nodes", next_step="leave out `nodes`")
        if verb not in WORKFLOW_VERBS:
            words = ", ".join(WORKFLOW_VERBS)
            raise BadRequest(f"'{verb}' is for nodes, not for whole workflows", path="verb", next_step=f"use one of {words}")
        selection = Selection(
            states=parameters.states(request, frozenset(WorkflowState)),
            name=request.query.get("name"),
            labels=parameters.labels(request),
            owner=owner,
        )
        if not (selection.states or selection.name or selection.labels):
            raise BadRequest("a verb in bulk needs a filter", path="query", next_step="give `state`, `name` or `label`")
        changed = await self.service.perform_in_bulk(selection, asked)
        return answers.as_json(changed, status=NotOnDiskYet.status if changed.not_on_disk_yet else 200)

    async def _request_of(self, request: web.Request, verb: Verb) -> VerbRequest:
        if request[BODY].strip() and request.content_type != JSON and "Content-Type" in request.headers:
            raise UnsupportedMediaType(request.content_type)
        document = await self._decoded(request, wire.decode_request)
        if verb is Verb.SET_PRIORITY and document.priority is None:
            raise BadRequest("`priority` is missing", path="$.priority", next_step="give a whole number; higher goes first")
        by = self.around.access.words_of(asking(request))
        return wire.request_of(verb, document, by=by, asker=self._user(request))

    # --- the daemon -------------------------------------------------------------------------------------------------

    async def show_statistics(self, request: web.Request) -> web.StreamResponse:
        """Answer what the daemon is doing."""
        return answers.as_json(self.service.statistics())

    async def show_schema(self, request: web.Request) -> web.StreamResponse:
        """Answer the JSON schema of definitions, for editors."""
        return web.Response(body=wire.encode(definition_schema()), content_type=JSON)

    async def show_openapi(self, request: web.Request) -> web.StreamResponse:
        """Answer the description of this interface."""
        return web.Response(body=self._openapi(), content_type=JSON)

    async def show_health(self, request: web.Request) -> web.StreamResponse:
        """Answer 200 as long as this process works; the body tells what keeps it from its work."""
        return answers.as_json(self.service.health())

    async def show_readiness(self, request: web.Request) -> web.StreamResponse:
        """Answer 200 if submissions are accepted and carried out, else 503."""
        health = self.service.health()
        return answers.as_json(health, status=200 if health.status == "ok" else 503)

    async def show_metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer the metrics in the format that the scraper prefers."""
        body, content_type = self._render_metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    # --- parts of requests ------------------------------------------------------------------------------------------

    def _user(self, request: web.Request) -> User | None:
        return self.around.access.user_of(asking(request))

    async def _parent(self, request: web.Request) -> str | None:
        reference = request.query.get("parent")
        return None if reference is None else await self.service.resolve(reference, owner=self._user(request))

    async def resolve(self, request: web.Request) -> str:
        """Return the id of the workflow that a request is about."""
        return await self.service.resolve(request.match_info["ref"], owner=self._user(request))

    @asynccontextmanager
    async def reading(self, request: web.Request, workflow_id: str | None = None) -> AsyncIterator[None]:
        """Wait for a turn to read or look through a whole workflow, unless it is given, in memory and short."""
        if workflow_id is not None and self.service.is_at_hand(workflow_id):
            yield
            return
        async with self._turns.of(asking(request).user, lambda: request.transport is not None):
            yield

    async def send(self, request: web.Request, events: AsyncIterator[bytes]) -> web.StreamResponse:
        """Send events until there are no more, the daemon stops, or the client goes or may not read any more."""
        return await send_events(
            request,
            events,
            stopping=self.wait_stopping,
            forbidden=lambda: self.around.wait_forbidden(request),
            heartbeat_s=self.around.limits.heartbeat_s,
        )

    async def _wait(self, workflow_id: str, wait_s: float) -> None:
        """Return when the workflow has finished, the time is over, or the daemon stops."""
        async with anyio.create_task_group() as tasks:

            async def stop() -> None:
                await self.wait_stopping()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop)
            # Whatever else may be wrong with the workflow is told by the view that follows, not from inside a task group.
            with suppress(DyrygentError):
                await self.service.wait(workflow_id, timeout_s=wait_s)
            tasks.cancel_scope.cancel()

    async def wait_stopping(self) -> None:
        """Return as soon as the application stops."""
        assert self._stopping is not None
        await self._stopping.wait()

    async def _decode(self, request: web.Request) -> Definition:
        limits, access = self.around.limits, self.around.access

        def decode(body: bytes, look: Look) -> Definition:
            definition = wire.decode_definition(body, nodes_max=limits.nodes_max, node_bytes_max=limits.node_bytes_max, look=look)
            for each in definition.whole():
                access.check_tasks(each.graph, look, knows=self.service.knows_task)
            return definition

        return await self._decoded(request, decode)

    async def _decoded(self, request: web.Request, decode: Callable[[bytes, Look], T]) -> T:
        """Decode the body of a request, and forget it."""
        body = request[BODY]
        request[BODY] = b""
        # What a parameter stands for may be far longer than the body.
        if len(body) <= _DECODE_INLINE_BYTES and b'"parameters"' not in body:
            return decode(body, nothing)
        assert self._decodes is not None
        return await self._decodes.run(
            lambda look: decode(body, look), user=asking(request).user, is_there=lambda: request.transport is not None
        )
