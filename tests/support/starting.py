"""Tasks that start others, natively and through the daemon, and tasks that tell who started them.

Each of the latter pushes ``{"name", "id", "parent", "root"}`` as JSON to the list ``test:started:<run>``. The environment is
that of `tests.support.tasks`; the daemon's socket is in ``DYRYGENTD_SOCKET``.
"""

import asyncio
import json
import os
from typing import Any, Final

from celery import chain, chord, group

from dyrygentd import AsyncClient, Client
from tests.support.tasks import PREFIX, app, records_of

__all__ = ["SHAPES", "app"]


def _told(task: Any, run: str, name: str) -> None:
    told = {"name": name, "id": task.request.id, "parent": task.request.parent_id, "root": task.request.root_id}
    records_of(os.getpid()).rpush(f"{PREFIX}started:{run}", json.dumps(told))


@app.task(bind=True)
def tell(self: Any, run: str, name: str) -> None:
    """Tell who started it."""
    _told(self, run, name)


def _single(run: str) -> Any:
    return tell.si(run, "a")


def _chain(run: str) -> Any:
    return chain(tell.si(run, "a"), tell.si(run, "b"))


def _group(run: str) -> Any:
    return group(tell.si(run, "a"), tell.si(run, "b"))


def _chord(run: str) -> Any:
    return chord([tell.si(run, "a"), tell.si(run, "b")], tell.si(run, "c"))


def _groups(run: str) -> Any:
    return group(_chain(run), chain(tell.si(run, "c"), group(tell.si(run, "d"), tell.si(run, "e"))))


#: ``{shape: (canvas of a run, number of its tasks)}``.
SHAPES: Final = {"single": (_single, 1), "chain": (_chain, 2), "group": (_group, 2), "chord": (_chord, 3), "groups": (_groups, 5)}


@app.task(bind=True)
def start(self: Any, run: str, shape: str, how: str) -> str | None:
    """Start a canvas; return the id of its workflow, if it is one."""
    _told(self, run, "start")
    canvas = SHAPES[shape][0](run)
    match how:
        case "natively":
            canvas.apply_async()
            return None
        case "async":
            return asyncio.run(_submitted(canvas))
        case _:
            with Client() as client:
                return client.submit(canvas).id


async def _submitted(canvas: Any) -> str:
    async with AsyncClient() as client:
        return (await client.submit(canvas)).id
