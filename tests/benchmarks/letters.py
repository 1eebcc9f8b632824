"""What it costs to submit at a gateway: the same small workflows by letter, and to the leader itself, in turn."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from dyrygentd import AsyncClient, wire
from tests.benchmarks.harness import Bench, Daemon, Site, Stopwatch, family_cpu_s, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import UNATTENDED, layered
from tests.benchmarks.stores import postgres_server
from tests.support.postgres import programs

#: Each waits for its answer before it submits again.
_CLIENTS: Final = 32
_NODES: Final = 5


def run(bench: Bench) -> None:
    """Submit at both; nobody executes it."""
    if programs() is None:
        bench.say("letters: NOT RUN: there are no programs of PostgreSQL")
        return
    n, runs = bench.size(1_000, 40), bench.size(3, 1)
    found = samples()
    with short_directory() as first, short_directory() as second, postgres_server() as server:
        database = ["--database", f"{server.conninfo()}&schema=dyrygentd"]
        with Site(first, bench.report, arguments=database) as site, _gateway(site, second, database) as gateway:
            for number in range(runs + 1):
                bench.say(f"letters: run {number} of {runs}" if number else "letters: warming up")
                for kind, asked in (("direct", site.daemon), ("letter", gateway)):
                    before_s = family_cpu_s(server.pid)
                    with Stopwatch(site.daemon.pid, gateway.pid) as watch:
                        asyncio.run(_submit(asked, n))
                    server_s = family_cpu_s(server.pid) - before_s
                    site.daemon.wait_published()
                    if number:
                        found[f"{kind} rate"].append(n / watch.seconds)
                        found[f"{kind} leader"].append(1e6 * watch.cpu_s[0] / n)
                        found[f"{kind} gateway"].append(1e6 * watch.cpu_s[1] / n)
                        found[f"{kind} server"].append(1e6 * server_s / n)
    add = bench.report.rows.append
    title = f"{_CLIENTS} clients, workflows of {_NODES}, by letter"
    add(Row("letters", f"{title}, rate", n, "1/s", found["letter rate"], "direct", found["direct rate"]))
    add(Row("letters", f"{title}, leader CPU", n, "us", found["letter leader"], "direct", found["direct leader"]))
    add(Row("letters", f"{title}, server CPU", n, "us", found["letter server"], "direct", found["direct server"]))
    add(Row("letters", f"{title}, gateway CPU", n, "us", found["letter gateway"]))


@contextlib.contextmanager
def _gateway(site: Site, directory: Path, database: list[str]) -> Iterator[Daemon]:
    with Daemon(directory, site.server.url, name="g", arguments=[*database, "--role", "gateway"]) as gateway:
        yield gateway


async def _submit(daemon: Daemon, n: int) -> None:
    """Submit so many, each client one after the other."""
    document: Any = msgspec.json.decode(wire.encode_definition(layered(_NODES, queue=UNATTENDED).definition))
    for node in document["nodes"]:
        # So that each workflow gets ids of its own.
        node.pop("task_id", None)
    body, left = msgspec.json.encode(document), iter(range(n))
    async with AsyncClient(str(daemon.socket), timeout_s=300) as client:

        async def hand_over() -> None:
            for _ in left:
                await client.submit(body)

        await asyncio.gather(*[hand_over() for _ in range(_CLIENTS)])
