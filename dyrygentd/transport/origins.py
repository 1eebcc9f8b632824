"""Where the name of a task's queue comes from: the definition's own option, the task's class, a route, or the default."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dyrygentd.core.node_spec import Signature


def origin_of_queue(app: Any, signature: Signature, queue: str) -> str:
    """Say where to look for the name of the queue that a task is sent to; empty if that cannot be told."""
    with suppress(Exception):
        # Routers and settings are code of the user's.
        return _origin(app, signature, queue)
    return ""


def _origin(app: Any, signature: Signature, queue: str) -> str:
    task = app.tasks.get(signature.task)
    if task is not None and getattr(task, "queue", None) == queue:
        return f"the class of task '{signature.task}' (`queue`)"
    # Clients write what their own routes say into the definition, so these are looked at first.
    route = app.amqp.router.lookup_route(signature.task, [], {}, {}, task)
    given = {"queue": route} if isinstance(route, str) else route
    if isinstance(given, Mapping) and _names(given, queue):
        return f"`task_routes` for task '{signature.task}'"
    if _names(json.loads(signature.options or b"{}"), queue):
        return "the option `queue` of the node in the definition"
    return "`task_default_queue`" if app.conf.task_default_queue == queue else ""


def _names(options: Mapping[str, Any], queue: str) -> bool:
    given = options.get("queue")
    return queue in (given, getattr(given, "name", None), options.get("routing_key"))
