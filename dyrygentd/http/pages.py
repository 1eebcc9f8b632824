"""The handlers of the page: its files as they stand, from memory."""

from aiohttp import web

from dyrygentd import page
from dyrygentd.http.api import Api
from dyrygentd.http.problems import RouteNotFound


async def show_start(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer where the page begins."""
    return _answer(request, page.START)


async def show_page_file(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer a file of the page."""
    return _answer(request, request.match_info["file"])


async def show_vendored_file(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer a file that is somebody else's work."""
    return _answer(request, f"vendor/{request.match_info['file']}")


async def show_mode(api: Api, request: web.Request) -> web.StreamResponse:
    """Answer what the page may do: nothing, since a browser cannot prove who sits before it."""
    return _response(page.mode(grafana=api.grafana))


def _answer(request: web.Request, name: str) -> web.Response:
    found = page.answer(name, request.headers)
    if found is None:
        raise RouteNotFound(request.path)
    return _response(found)


def _response(answer: page.PageAnswer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
