"""The handlers of what people look at: workflows of any size, in what fits on a screen."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from aiohttp import web

from dyrygentd.core.timeline import BINS, BINS_MAX, BINS_MIN
from dyrygentd.http import parameters
from dyrygentd.http.answers import as_json
from dyrygentd.http.api import Api
from dyrygentd.http.stream import event


async def show_fold(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer a workflow, or a box of it, folded into boxes."""
    workflow_id = await api.resolve(request)
    async with api.reading(request, workflow_id):
        return as_json(await api.service.faces.fold(workflow_id, request.query.get("path", "")))


async def show_timeline(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer where the time of a workflow, or of a box of it, went."""
    bins = parameters.integer(request, "bins", default=BINS, least=BINS_MIN, most=BINS_MAX) or BINS
    workflow_id = await api.resolve(request)
    async with api.reading(request, workflow_id):
        return as_json(await api.service.faces.timeline(workflow_id, request.query.get("path", ""), bins=bins))


async def stream_fold(api: Api, request: web.Request) -> web.StreamResponse:
    """Send a workflow, or a box of it, folded into boxes, and then the boxes that change."""
    workflow_id = await api.resolve(request)
    async with aclosing(api.service.faces.follow_fold(workflow_id, request.query.get("path", ""))) as told:
        # The first may take as long as `show_fold`, and an error of it is still a problem document.
        async with api.reading(request, workflow_id):
            first = await anext(told)

        async def events() -> AsyncIterator[bytes]:
            yield event(first.kind, first.data)
            async for each in told:
                yield event(each.kind, each.data)

        return await api.send(request, events())


async def show_estimate(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer how long a workflow goes on, and what bounds it."""
    workflow_id = await api.resolve(request)
    async with api.reading(request, workflow_id):
        return as_json(await api.service.faces.estimate(workflow_id))


async def show_run_times(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer how long tasks take."""
    return as_json(api.service.faces.run_times())
