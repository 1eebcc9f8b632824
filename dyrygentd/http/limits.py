"""Bounds of the HTTP side, with their defaults.

Guards: nothing is imported here that serves, so the configuration and `dyrygentd serve --help` need no aiohttp.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from dyrygentd.core.bounds import NODES_ACCEPTED_MAX
from dyrygentd.wire.bounds import NODE_BYTES_MAX


class PageLength(NamedTuple):
    """How long a page is if nothing is said, and how long it may be."""

    default: int
    most: int


WORKFLOWS_PAGE: Final = PageLength(50, 500)
NODES_PAGE: Final = PageLength(100, 1000)
JOURNAL_PAGE: Final = PageLength(100, 1000)
#: Nodes of a kind.
SUMMARY_PAGE: Final = PageLength(20, 100)
#: Items of a kind.
OVERVIEW_PAGE: Final = PageLength(5, 100)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of the HTTP side.

    Of each, one user who is not root may take three quarters; on TCP there is a quarter of requests and listings for all.

    Attributes:
        body_bytes_max: Longest request body.
        bodies_bytes_max: All request bodies in memory together.
        answers_bytes_max: All long answers that their readers have not taken yet.
        body_timeout_s: Time for a body to arrive.
        body_silence_s: Longest pause in it.
        nodes_max: Largest workflow.
        node_bytes_max: Longest arguments and payload of one node, and longest payload of a workflow.
        requests_max: Requests served at one time, without those below, `/metrics` and the health checks.
        listings_max: Of workflows, which look through all that there are.
        waits_max: Long polls at one time.
        streams_max: Event streams at one time.
        wait_s_max: Longest time that a long poll is held.
        heartbeat_s: Longest silence of an event stream; proxies and clients close what is silent for 30 to 60 s.
    """

    body_bytes_max: int = 64 * 1024 * 1024
    bodies_bytes_max: int = 256 * 1024 * 1024
    answers_bytes_max: int = 256 * 1024 * 1024
    body_timeout_s: float = 60.0
    body_silence_s: float = 10.0
    nodes_max: int = NODES_ACCEPTED_MAX
    node_bytes_max: int = NODE_BYTES_MAX
    requests_max: int = 256
    listings_max: int = 32
    waits_max: int = 1000
    streams_max: int = 100
    wait_s_max: float = 60.0
    heartbeat_s: float = 15.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of connections.

    Attributes:
        connections_max: All connections together; a tenth is kept for root.
        head_timeout_s: From the first byte of a request, or from connecting, to the end of its head.
        write_timeout_s: How long a client may take nothing of an answer.
        user_share: The share of all places that the connections of one user may take; root may take all.
    """

    connections_max: int = 4000
    head_timeout_s: float = 15.0
    write_timeout_s: float = 30.0
    user_share: float = 0.75
