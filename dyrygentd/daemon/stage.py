"""Where clients are served: sockets that are open from the start of the process to its end, whoever answers on them."""

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from dyrygentd.daemon.reload import Reload
from dyrygentd.http.app import AROUND, make_app
from dyrygentd.http.around import Around
from dyrygentd.http.guard import Guard
from dyrygentd.http.server import Site, serving
from dyrygentd.http.sockets import UnixListener
from dyrygentd.scheduler.service import Service


class Stage:
    """Serves one application after the other. Guards: while the next one comes, the last one is served, too.

    Args:
        listeners: More of them may be added.
        tcp: Sockets on which nothing is changed.
        render: Takes the Accept header; returns the metrics and their content type.
        own_names: What this machine is called.

    Attributes:
        listeners: On Unix sockets.
        arounds: What is around the requests of the present application.
        site: Where clients of the Unix sockets are served now; None before the first application.
    """

    def __init__(
        self,
        reload: Reload,
        guard: Guard,
        *,
        listeners: list[UnixListener],
        tcp: Sequence[socket.socket],
        render: Callable[[str], tuple[bytes, str]],
        own_names: Collection[str],
    ) -> None:
        self.arounds: list[Around] = []
        self.site: Site | None = None
        self.guard = guard
        self._reload = reload
        self.listeners = listeners
        self._tcp = tcp
        self._render = render
        self._own_names = own_names

    def __repr__(self) -> str:
        return f"<Stage {self.site!r}>"

    @asynccontextmanager
    async def serving(self, service: Service) -> AsyncIterator[None]:
        """Have clients served by ``service``, from here on and until the end of the statement."""
        configuration = self._reload.configuration
        async with AsyncExitStack() as exits:
            arounds, sites = [], []
            for sockets, read_only in (([each.socket for each in self.listeners], False), (self._tcp, True)):
                if sockets:
                    served = make_app(
                        service,
                        limits=configuration.http_limits,
                        access=configuration.access,
                        render_metrics=self._render,
                        read_only=read_only,
                        own_names=self._own_names,
                        grafana=configuration.grafana,
                    )
                    arounds.append(served[AROUND])
                    # A server closes its sockets, which another role needs.
                    copies = [listening.dup() for listening in sockets]
                    sites.append(await exits.enter_async_context(serving(served, copies, guard=self.guard)))
            self.arounds[:] = arounds
            self.site = sites[0]
            yield

    async def listen(self, listening: socket.socket) -> None:
        """Serve on one more socket."""
        assert self.site is not None
        await self.site.listen(listening.dup())

    def statistics(self) -> dict[str, Any]:
        """Return what is told of connections and requests."""
        connections = self.guard.statistics()
        refused, answers = Counter(connections.refused), Counter[tuple[str, str, int]]()
        seconds: dict[str, Any] = {}
        for around in self.arounds:
            statistics = around.statistics()
            refused.update(statistics.refused)
            answers.update(statistics.answers)
            # The routes on TCP are a part of those on the socket, and their times are shown apart.
            prefix = "tcp " if around.read_only else ""
            seconds |= {f"{prefix}{route}": tally for route, tally in statistics.seconds.items()}
        return {"connections": connections.connections, "refused": refused, "answers": answers, "seconds": seconds}
