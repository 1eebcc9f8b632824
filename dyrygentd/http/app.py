"""The application for one kind of listener: the routes of the table, with what is around every request."""

import re
from collections.abc import Collection
from functools import cache
from typing import Final

from aiohttp import web

from dyrygentd import __version__, wire
from dyrygentd.http.access import Access
from dyrygentd.http.api import Api, RenderMetrics
from dyrygentd.http.around import Around, Handler
from dyrygentd.http.limits import HttpLimits
from dyrygentd.http.openapi import describe
from dyrygentd.http.seats import Use
from dyrygentd.http.table import Route, served
from dyrygentd.scheduler.service import Service

AROUND: Final = web.AppKey("dyrygentd", Around)
"""Where an application made by `make_app` keeps its `Around`, for its statistics, limits and access."""


def make_app(
    service: Service,
    *,
    limits: HttpLimits | None = None,
    access: Access | None = None,
    render_metrics: RenderMetrics,
    read_only: bool,
    own_names: Collection[str] = (),
    grafana: str = "",
) -> web.Application:
    """Make the application for one kind of listener.

    Args:
        service: Who is asked: a `Scheduler`, or a deputy.
        render_metrics: Takes the Accept header; returns the body and its content type.
        read_only: Leave out whatever changes something, as for TCP.
        own_names: What this machine is called, see `dyrygentd.http.hosts`.
        grafana: An address to which the page links.
    """
    around = Around(limits=limits or HttpLimits(), access=access or Access(), read_only=read_only, own_names=own_names)
    api = Api(
        service,
        around,
        render_metrics=render_metrics,
        openapi=cache(lambda: wire.encode(describe(served(read_only=read_only)))),
        grafana=grafana,
    )
    app = web.Application()
    app[AROUND] = around
    for route in served(read_only=read_only):
        _add(app, api, around, route)

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await around.serve(request, handler)

    async def start(app: web.Application) -> None:
        api.start()

    async def stop(app: web.Application) -> None:
        api.stop()

    app.middlewares.append(serve)
    app.on_startup.append(start)
    app.on_shutdown.append(stop)

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        _sign(response, service.vantage)

    app.on_response_prepare.append(sign)
    return app


def _add(app: web.Application, api: Api, around: Around, route: Route) -> None:
    path, handler = _pattern(route.path), _bound(api, route)
    resource = app.router.add_route(route.method, path, handler).resource
    around.expect(route.method, resource, use=route.use, needs=route.needs)
    if route.method == "GET" and route.use is not Use.STREAM:
        app.router.add_route("HEAD", path, handler)
        around.expect("HEAD", resource, use=route.use, needs=route.needs)


def _sign(response: web.StreamResponse, vantage: str) -> None:
    response.headers[wire.VERSION_HEADER] = __version__
    if vantage:
        # Names of hosts may be anything, and a header is one line.
        response.headers[wire.VANTAGE_HEADER] = vantage.encode("ascii", "backslashreplace").decode().replace("\n", " ")
    # Much of what is answered was written by users, and a browser that takes it for a page would run it.
    response.headers["X-Content-Type-Options"] = "nosniff"


def _pattern(path: str) -> str:
    """Return a path for aiohttp, which would let no parameter have a brace in it; a node may be called so."""
    return re.sub(r"\{(\w+)\}", r"{\1:[^/]+}", path)


def _bound(api: Api, route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await route.handler(api, request)

    return handle
