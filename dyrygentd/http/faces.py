"""The handlers of what people look at: workflows of any size, in what fits on a screen."""

from aiohttp import web

from dyrygentd.http.answers import as_json
from dyrygentd.http.api import Api


async def show_fold(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer a workflow, or a box of it, folded into boxes."""
    workflow_id = await api.resolve(request)
    async with api.reading(request, workflow_id):
        return as_json(await api.scheduler.faces.fold(workflow_id, request.query.get("path", "")))
