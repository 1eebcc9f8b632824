"""Definition documents get what an app says of their tasks, as canvases do; arguments may be put in later, by parameters."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from dyrygentd.core.options import FROM_APP
from dyrygentd.tasks.known import current_app
from dyrygentd.tasks.overrides import override_of
from dyrygentd.tasks.unread import UNREAD
from dyrygentd.tasks.written import options_of

logger = logging.getLogger("dyrygentd.tasks")


def with_app(document: Mapping[str, Any], app: Any) -> dict[str, Any]:
    """Return a document whose nodes say where their tasks go; what is malformed stays for the daemon to refuse."""
    nodes = document.get("nodes")
    written = [_with_options(node, app) for node in nodes] if isinstance(nodes, list) else nodes
    return {**document, "nodes": written}


def overridden(tasks: Iterable[str], app: Any) -> list[str]:
    """Return what is passed over where nobody calls it: overridden methods of tasks, by name."""
    found = [app.tasks[name] for name in set(tasks) if name in app.tasks]
    return sorted({override for task in found if (override := override_of(task, app))})


def tasks_of(document: Mapping[str, Any]) -> list[str]:
    """Return the names of a document's tasks."""
    nodes = document.get("nodes")
    names = [node.get("task") for node in nodes if isinstance(node, Mapping)] if isinstance(nodes, list) else []
    return [name for name in names if isinstance(name, str)]


def warn_of_overrides(tasks: Iterable[str], app: Any = None) -> None:
    """Say in the log what is passed over, as far as this program has the tasks."""
    app = app or current_app()
    for override in overridden(tasks, app) if app is not None else ():
        logger.warning("%s is passed over: it is called for canvases and Workflows only", override)


def _with_options(node: Any, app: Any) -> Any:
    if not isinstance(node, dict) or not isinstance(node.get("task"), str):
        return node
    given, kwargs = node.get("options") or {}, node.get("kwargs") or {}
    if not isinstance(given, dict):
        return node
    said = options_of(app.tasks.get(node["task"]), app, node["task"], UNREAD, kwargs, given)
    said = {option: value for option, value in said.items() if given.get(option) is None}
    return {**node, "options": {**given, **said, FROM_APP: sorted(said)}} if said else node
