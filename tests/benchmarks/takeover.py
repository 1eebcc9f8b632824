"""From the end of the daemon that leads to the first new message of the one that stood by, with unfinished workflows."""

from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec

from dyrygentd import wire
from tests.benchmarks.harness import START_MAX_S, Bench, Daemon, Site, Stopwatch, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import UNATTENDED, layered
from tests.support.postgres import PostgresServer, programs
from tests.support.servers import wait_until

#: Of each workflow; ten of them are ready from the beginning.
_NODES: Final = 100
#: Far less than what is ready: whatever ends makes place for a message.
_IN_FLIGHT_MAX: Final = 20


def run(bench: Bench) -> None:
    """Have two daemons take turns to lead: one is killed, or told to end; the other one finds a result, and publishes."""
    if programs() is None:
        bench.say("takeover: NOT RUN: there are no programs of PostgreSQL")
        return
    for workflows, runs in ((5, 1),) if bench.quick else ((100, 3), (1_000, 3), (10_000, 1)):
        with short_directory() as first, short_directory() as second, PostgresServer(second) as postgres:
            database = ["--database", f"{postgres.conninfo()}&schema=dyrygentd", "--in-flight-max", str(_IN_FLIGHT_MAX)]
            with Site(first, bench.report, arguments=database) as site:
                _take_turns(bench, site, Daemon(first, site.server.url, name="s", arguments=database), workflows, runs)


def _take_turns(bench: Bench, site: Site, standby: Daemon, workflows: int, runs: int) -> None:
    n, found = workflows * _NODES, samples()
    document: Any = msgspec.json.decode(wire.encode_definition(layered(_NODES, queue=UNATTENDED).definition))
    for node in document["nodes"]:
        # So that each workflow gets ids of its own.
        node.pop("task_id", None)
    body = msgspec.json.encode(document)
    for _ in range(workflows):
        site.daemon.client.submit(body)
    site.daemon.wait_published()
    with ExitStack() as exits:
        leader, other = site.daemon, exits.enter_context(standby)
        for number in range(2 * runs):
            kind = "told to end" if number % 2 else "killed"
            bench.say(f"takeover: {n:,} nodes, run {number // 2 + 1} of {runs}, {kind}")
            with Stopwatch() as watch:
                if kind == "killed":
                    leader.kill()
                else:
                    leader.stop()
                left = _end_a_task(site)
                wait_until(partial(_has_more_than, site, left), timeout_s=START_MAX_S, message="nobody has taken over")
            found[kind].append(watch.seconds)
            leader.start()
            leader, other = other, leader
    bench.report.rows.append(
        Row("takeover", "to the first new message, killed", n, "s", found["killed"], "told to end", found["told to end"])
    )


def _end_a_task(site: Site) -> int:
    """Store the result of the oldest task in flight, as a worker does; return how many messages are left."""
    message: Any = site.redis.rpop(UNATTENDED)
    task_id = msgspec.json.decode(message)["headers"]["id"]
    key = f"celery-task-meta-{task_id}"
    result = {"status": "SUCCESS", "result": True, "traceback": None, "children": [], "task_id": task_id}
    body = msgspec.json.encode({**result, "date_done": datetime.now(UTC).isoformat(), "parent_id": None})
    site.redis.set(key, body)
    site.redis.publish(key, body)
    return _waiting(site)


def _waiting(site: Site) -> int:
    """Count the messages that are in the queue."""
    count: Any = site.redis.llen(UNATTENDED)
    return int(count)


def _has_more_than(site: Site, left: int) -> bool:
    """Tell whether a message has come."""
    return _waiting(site) > left
