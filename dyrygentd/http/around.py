"""What is around every request, whatever it asks for.

`Around` lets a request in (Host header, role), waits for its body, gives it a place among the bounded ones, and sees to it that
each error leaves as an RFC 9457 problem document and each answer is counted.
"""

import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from aiohttp import web

from dyrygentd import wire
from dyrygentd.core.tally import Tally
from dyrygentd.errors import BadRequest, BodyTooLarge, DyrygentError
from dyrygentd.http import answers
from dyrygentd.http.access import Access, Role
from dyrygentd.http.guard import asking
from dyrygentd.http.hosts import check_host
from dyrygentd.http.limits import HttpLimits
from dyrygentd.http.problems import PROBLEM, BodyTooSlow, InternalError, MethodNotAllowed, RouteNotFound
from dyrygentd.http.seats import Seats, Use

logger = logging.getLogger("dyrygentd.http")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY: Final = web.RequestKey("dyrygentd_body", bytes)
"""Where the body of a request is as soon as all of it has arrived."""

#: Seconds after which is looked whether somebody who follows a workflow may still read it, though no rule has changed.
_LOOK_AT_RIGHTS_S: Final = 30.0

#: What stands in metrics for paths and methods that there are not.
_NO_ROUTE: Final = "(others)"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


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


class Around:
    """Lets requests in, and answers out. One is made for each application.

    Guards: nobody is served who may not be, no bound is exceeded, and what was taken is given back when a request ends.

    Attributes:
        limits, access: May be replaced while it serves; the numbers of places stay as they were.
        read_only: Whether the application leaves out whatever changes something.
    """

    def __init__(self, *, limits: HttpLimits, access: Access, read_only: bool, own_names: Collection[str] = ()) -> None:
        self.limits = limits
        self.read_only = read_only
        self._access_changed = anyio.Event()
        self.access = access
        self._own_names = own_names
        # Whoever comes by TCP is nobody in particular, so that all of them share what one user may take.
        self._requests = Seats("requests", limits.requests_max // 4 if read_only else limits.requests_max, self._count)
        self._listings = Seats("listings", limits.listings_max // 4 if read_only else limits.listings_max, self._count)
        self._waits = Seats("long polls", limits.waits_max, self._count)
        self._streams = Seats("event streams", limits.streams_max, self._count)
        self._bodies = Seats("bytes of request bodies", limits.bodies_bytes_max, self._count)
        self._sending = Seats("bytes of answers", limits.answers_bytes_max, self._count)
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, Tally] = {}
        self._refused: Counter[str] = Counter()
        self._uses: dict[object, Use] = {}
        self._needs: dict[tuple[str, object], Role] = {}

    def __repr__(self) -> str:
        return f"<Around {self._requests!r} read_only={self.read_only}>"

    @property
    def access(self) -> Access:
        """Who may do what."""
        return self._access

    @access.setter
    def access(self, access: Access) -> None:
        self._access = access
        changed, self._access_changed = self._access_changed, anyio.Event()
        changed.set()

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

    def expect(self, method: str, resource: object, *, use: Use, needs: Role) -> None:
        """Learn what a route takes, and what a client must be allowed to for it."""
        # GET and POST of one path share a resource, so what a route uses is kept by path and not by method.
        self._uses[resource] = use
        self._needs[method, resource] = needs

    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, by its handler if nothing keeps it out."""
        response: web.StreamResponse
        begun = time.monotonic()
        try:
            check_host(request, allowed=self.access.hosts, own=self._own_names)
            needed = self._needs.get((request.method, request.match_info.route.resource), Role.NONE)
            await self.access.check(asking(request), needed)
            # A body that arrives slowly takes no place from others, only its share of the memory for bodies.
            async with self._arrived(request), self._seat(request):
                response = await handler(request)
                await answers.compress(request, response)
                await answers.send_if_long(request, response, asking(request).user, self._sending)
        except DyrygentError as error:
            response = _problem(error)
        except web.HTTPException as error:
            response = self._translated(request, error)
        except answers.Gone:
            response = web.Response(status=408)
        except Exception:
            logger.exception("%s %s ended in an unexpected error", request.method, request.path)
            response = _problem(InternalError())
        self._note_answer(request, response.status, time.monotonic() - begun)
        return response

    async def wait_forbidden(self, request: web.Request) -> DyrygentError:
        """Return why a client may not read any more, as soon as that is so: at once if the rules change, in time if groups do."""
        while True:
            changed = self._access_changed
            try:
                await self.access.check(asking(request), Role.READ)
            except DyrygentError as error:
                return error
            with anyio.move_on_after(_LOOK_AT_RIGHTS_S):
                await changed.wait()

    def _note_answer(self, request: web.Request, status: int, seconds: float) -> None:
        resource = request.match_info.route.resource
        route = _NO_ROUTE if resource is None or resource not in self._uses else resource.canonical
        method = request.method if request.method in _METHODS else _NO_ROUTE
        self._answers[method, route, status] += 1
        if self._uses.get(resource) is not Use.STREAM and "wait_s" not in request.query:
            self._seconds.setdefault(route, Tally()).add(seconds)

    @asynccontextmanager
    async def _seat(self, request: web.Request) -> AsyncIterator[None]:
        user = asking(request).user
        with ExitStack() as exits:
            for places in self._seats_of(request):
                places.take(user)
                exits.callback(places.give_back, user)
            yield

    def _seats_of(self, request: web.Request) -> Sequence[Seats]:
        use = self._uses.get(request.match_info.route.resource, Use.NONE)
        if use is Use.NONE:
            return ()
        if use is Use.STREAM:
            return (self._streams,)
        # A submission has the same path as the listing.
        if use is Use.LISTING and request.method != "POST":
            return self._requests, self._listings
        return (self._waits,) if "wait_s" in request.query else (self._requests,)

    @asynccontextmanager
    async def _arrived(self, request: web.Request) -> AsyncIterator[None]:
        """Read the body, if the route takes one. What arrives counts against the common bound until the request has ended."""
        if request.method != "POST" or request.match_info.route.resource not in self._uses:
            yield
            return
        most, user = self.limits.body_bytes_max, asking(request).user
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
            request[BODY] = b"".join(chunks)
            chunks.clear()
            yield
        finally:
            self._bodies.give_back(user, held)

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


def _problem(error: DyrygentError) -> web.Response:
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return web.Response(body=wire.encode(wire.problem_of(error)), status=error.status, content_type=PROBLEM, headers=headers)
