"""The tests' app with routes as the environment says: to one queue, or by code that looks at the first argument."""

import os
from typing import Any

from tests.support.tasks import app

__all__ = ["app"]

BY_ARGUMENT = "by argument"


def _by_argument(name: str, args: Any, *_: Any, **__: Any) -> dict[str, str] | None:
    return {"queue": f"shard-{args[0] if args else 'none'}"} if name.endswith(".wait_for") else None


_route = os.environ["DYRYGENTD_TEST_ROUTE"]
app.conf.task_routes = (_by_argument,) if _route == BY_ARGUMENT else {"tests.support.tasks.wait_for": {"queue": _route}}
