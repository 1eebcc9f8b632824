"""Routes as code."""

from typing import Any


def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, str] | None:
    """Send all of the Django app `media` to its queue, and orders of many to the slow one."""
    if name.startswith("media."):
        return {"queue": "media"}
    if name == "orders.reserve" and len(args) > 1 and args[1] > 100:
        return {"queue": "bulk"}
    return None
