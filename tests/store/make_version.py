"""Write what the present version leaves in a database, for the fixtures ``schema_N.sql`` and ``version_N.sql``.

Run once for each schema that is released: ``python -m tests.store.make_version tests/store``. The scheduler is the real one; the
process "dies" with one workflow in each state that has something of its own to lose.
"""

import re
import shutil
import sqlite3
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import anyio

import dyrygentd.store
from dyrygentd.core.series import Series
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.scheduler import Scheduler
from dyrygentd.store.migrations import VERSION
from dyrygentd.store.sqlite import SqliteStore
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, limits, published, until

#: ``{name: graph}``; tasks are named after it, so that ids do not meet.
GRAPHS = {
    "succeeded": "a; b < a",
    "failed": "a; bad < a; after < bad",
    "cancelled": "a; b < a",
    "running": "a; b < a; c < b; late countdown=0.5; later < late",
    "paused": "a; b < a",
    "held": "a; b < a; g < a gate=1; c < g",
    "retrying": "bad retry=5 backoff=0.5 jitter=0; after < bad",
    "polling": "poll poll=0.5; after < poll",
    "skipped": "bad; after < bad",
    "lost": "a on_lost=hold; b < a",
}
#: Runs of a series.
SERIES = {"polling": Series("nightly"), "skipped": Series("nightly")}


def _bad(*_: object) -> None:
    raise ZeroDivisionError("division by zero")


async def _leave(path: Path) -> dict[str, str]:
    """Run all graphs and stop amid them; return ``{id: id in the fixture}``."""
    broker = FakeBroker({"tasks.bad": _bad, "tasks.poll": lambda: False, "tasks.a": lambda *_: 1}, holds=True)
    ids = {}
    scheduler = Scheduler(
        store=SqliteStore(path),
        dispatcher=broker.dispatcher,
        watcher=broker.watcher,
        limits=limits(),
    )
    async with scheduler as running:
        for name, text in GRAPHS.items():
            given = definition(text, name=name, key=f"k-{name}", labels={"site": "gra1"}, prefix=name)
            if name in SERIES:
                given = replace(given, series=SERIES[name])
            ids[name] = (await running.submit(given)).id
        await until(lambda: len(broker.published) == 10)
        for name, verb, nodes in (("paused", Verb.PAUSE, ()), ("held", Verb.HOLD, ("b",)), ("skipped", Verb.HOLD, ("after",))):
            await running.perform(ids[name], VerbRequest(verb, nodes=nodes, by="ops", why="a reason"))
        await running.perform(ids["cancelled"], VerbRequest(Verb.CANCEL, by="ops", why="no more"))
        stays = {"cancelled/a", "lost/a"}
        broker.let_go(*(message.task_id for message in broker.published if message.task_id not in stays))
        await until(lambda: "after" not in published(broker) and published(broker).count("b") == 2)
        broker.let_go("succeeded/b", "failed/bad")
        for name in ("succeeded", "failed"):
            await running.wait(ids[name], timeout_s=5)
        await running.perform(ids["skipped"], VerbRequest(Verb.SKIP, nodes=("bad",), by="ops", value=b"7"))
        await until(lambda: not running.statistics().engine["inbox"])
        await anyio.sleep(0.1)
    return {workflow_id: f"w-{name}" for name, workflow_id in ids.items()}


def main(directory: Path) -> None:
    """Write both files."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "state.db"
        ids = anyio.run(_leave, path)
        connection = sqlite3.connect(path)
        rows = [line for line in connection.iterdump() if line.startswith("INSERT") and "'identity'" not in line]
        connection.close()
    text = "\n".join(rows)
    for workflow_id, name in ids.items():
        text = text.replace(workflow_id, name)
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", re.sub(r"X'[0-9A-F]*'", "", text))
    head = f"-- What version {VERSION} wrote, for a database made by schema_{VERSION}.sql; see make_version.py for what it did.\n"
    (directory / f"version_{VERSION}.sql").write_text(head + text + "\n")
    shutil.copy(Path(dyrygentd.store.__path__[0]) / "schema.sql", directory / f"schema_{VERSION}.sql")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
