"""Arguments of `apply_async` that a submission takes, and what to do about the others.

They mean what they mean there: of a chain they are for its first step (a link for the last), of a group for each member, of a
chord for its header and body (a countdown or eta for the header, links for the body).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, TypedDict


class ApplyOptions(TypedDict, total=False):
    """What `submit` takes of a canvas, as `apply_async` does."""

    queue: str
    exchange: str
    routing_key: str
    priority: int
    countdown: float
    eta: datetime | str
    expires: float | datetime | str
    link: Any
    link_error: Any
    task_id: str
    time_limit: float
    soft_time_limit: float
    serializer: str
    compression: str
    headers: Mapping[str, Any]
    delivery_mode: int | str
    shadow: str
    argsrepr: str
    kwargsrepr: str


_IN_SIGNATURE: Final = "arguments belong into the signatures: `task.s(1, x=2)`, or `canvas.clone((1,), {'x': 2})`"
_PUBLISHES: Final = "the daemon publishes with connections of its own, and tries again while the broker is away: leave it out"
_RETRIES: Final = f"{_PUBLISHES}; to repeat a task that failed, `Workflow.add(task, retry=3)`"
_OWN: Final = "the daemon says which task belongs to which workflow: leave it out"
_NEEDED: Final = "the daemon has to see that the task is done: leave it out"
#: ``{argument of apply_async: why it is not taken, and what to do}``.
_ELSEWHERE: Final = {
    **dict.fromkeys(("args", "kwargs"), _IN_SIGNATURE),
    **dict.fromkeys(("retry", "retry_policy"), _RETRIES),
    **dict.fromkeys(("connection", "producer", "publisher", "router", "result_cls", "add_to_parent", "mandatory"), _PUBLISHES),
    **dict.fromkeys(("root_id", "parent_id", "group_id", "group_index", "chord", "chain", "retries", "reply_to"), _OWN),
    "ignore_result": _NEEDED,
}


def checked_apply_options(options: Mapping[str, Any], what: object) -> dict[str, Any]:
    """Return the options that were given; None is none.

    Raises:
        TypeError: One is not taken, or ``what`` is no canvas; the message says where it goes.
    """
    for option in options:
        if option in _ELSEWHERE:
            raise TypeError(f"submit() does not take `{option}`: {_ELSEWHERE[option]}")
        if option not in ApplyOptions.__annotations__:
            raise TypeError(f"submit() got an unexpected keyword argument '{option}'")
    given = {option: value for option, value in options.items() if value is not None}
    if given and not _is_canvas(what):
        first = next(iter(given))
        raise TypeError(
            f"submit() takes `{first}` with a canvas only, and this is a {type(what).__name__}: give it to the tasks that it is"
            f" for, `task.s().set({first}=...)`, or `options` in a definition document"
        )
    if "link" in given and _is_group(what):
        raise TypeError("submit() does not take `link` for a group, as Celery does not: use a chord")
    return given


def _is_canvas(what: object) -> bool:
    return isinstance(what, Mapping) and "task" in what


def _is_group(what: Any) -> bool:
    return "group" in (what.get("subtask_type"), str(what.get("task")).removeprefix("celery."))
