"""Signatures inside signatures: callbacks in options, and what `celery.map`, a group, a chord or a chain runs.

A worker publishes them by itself, so nobody looks at them after the daemon has: whoever narrows what may be submitted means them
too. What is walked through is data from outside, and there is no recursion over it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

#: Celery's own tasks that run no signature that is handed to them.
_PLAIN: Final = frozenset({"celery.accumulate", "celery.backend_cleanup"})
#: Tasks of Celery's that run another task on each item of a list. That may be given by its name alone.
_MAPS: Final = frozenset({"celery.map", "celery.starmap", "celery.chunks"})
_MAP_TYPES: Final = frozenset({"xmap", "xstarmap", "chunks"})
#: The task of celery-dyrygent runs all that is in its argument.
_CARRIERS: Final = frozenset({"workflow-processor"})

#: A task of ours, see `dyrygentd.errbacks`: it runs the error callbacks of its own message, and nothing else.
CALL_ERRBACKS: Final = "dyrygentd.call_errbacks"
#: Options with signatures. A worker reads the last two from the options of a signature that it publishes.
CALLBACKS: Final = ("link", "link_error", "chord", "chain")


class Nested(NamedTuple):
    """A signature inside another one.

    Attributes:
        path: Where it stands, such as ``options.link[0]``.
        problem: Why it cannot be told what would run, in words that follow the task's name; empty if it can.
    """

    task: str
    path: str
    options: Mapping[str, Any]
    problem: str = ""


def is_carrier(task: str) -> bool:
    """Tell whether a task runs what is in its arguments."""
    return (task.startswith("celery.") and task not in _PLAIN) or task in _CARRIERS


def nested_in(task: str, args: Any, kwargs: Any, options: Mapping[str, Any], *, takes_value: bool = False) -> Iterator[Nested]:
    """Yield all signatures inside one, however deep.

    Args:
        takes_value: What another task returns is put in front of its arguments.
    """
    todo: list[tuple[str, Any, str, bool]] = []
    if is_carrier(task):
        if takes_value:
            yield Nested(task, "args", {}, _TAKES_VALUE)
        todo += _carried(task, "", args, kwargs, "")
    todo += _called_back(options, "options")
    while todo:
        kind, value, path, takes_value = todo.pop()
        if kind == "data":
            todo += _members(value, path)
            continue
        if kind == "problem":
            yield Nested(str(value), path, {}, _UNREADABLE)
            continue
        name, inner_options = value["task"], value.get("options") or {}
        if not isinstance(inner_options, Mapping):
            yield Nested(name, path, {}, _UNREADABLE)
            continue
        yield Nested(name, path, inner_options)
        inner_type = value.get("subtask_type")
        if is_carrier(name) or inner_type:
            # Celery's classes of canvases hand a value on to the signatures in them, or drop it; a plain call takes it for one.
            if takes_value and not inner_type and not value.get("immutable"):
                yield Nested(name, path, {}, _TAKES_VALUE)
            todo += _carried(name, inner_type, value.get("args"), value.get("kwargs"), f"{path}.")
        todo += _called_back(inner_options, f"{path}.options")


_TAKES_VALUE: Final = "would run what another task returns, which cannot be known"
_UNREADABLE: Final = "holds no signature that can be read"

Todo = tuple[str, Any, str, bool]


def _called_back(options: Mapping[str, Any], path: str) -> Iterator[Todo]:
    for option in CALLBACKS:
        value = options.get(option)
        if value:
            yield from _signature_or_list(value, f"{path}.{option}")


def _signature_or_list(value: Any, path: str) -> Iterator[Todo]:
    if isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield _signature(each, f"{path}[{number}]")
    else:
        yield _signature(value, path)


def _signature(value: Any, path: str) -> Todo:
    if isinstance(value, Mapping) and isinstance(value.get("task"), str):
        return "signature", value, path, True
    return "problem", "", path, True


def _carried(task: str, inner_type: Any, args: Any, kwargs: Any, path: str) -> Iterator[Todo]:
    """Yield what the arguments of a carrier hold."""
    if task in _MAPS or inner_type in _MAP_TYPES:
        # The other argument is the list of items, which is data.
        given = [(f"{path}kwargs.task", kwargs["task"])] if isinstance(kwargs, Mapping) and "task" in kwargs else []
        given += [(f"{path}args[0]", args[0])] if isinstance(args, list | tuple) and args else []
        for place, value in given:
            yield _signature({"task": value} if isinstance(value, str) else value, place)
        if not given:
            yield "problem", task, f"{path}kwargs.task", True
        return
    for name, value in (("args", args), ("kwargs", kwargs)):
        yield "data", value, f"{path}{name}", True


def _members(value: Any, path: str) -> Iterator[Todo]:
    """Yield the signatures among data, and the data in which there may be more."""
    if isinstance(value, Mapping):
        if "task" in value:
            inner = value["task"]
            if isinstance(inner, str):
                yield "signature", value, path, True
                return
            if isinstance(inner, Mapping | list):
                yield "data", inner, f"{path}.task", True
            else:
                yield "problem", "", f"{path}.task", True
        for name, each in value.items():
            if name != "task" and isinstance(each, Mapping | list | tuple):
                yield "data", each, f"{path}.{name[:100]}", True
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            if isinstance(each, Mapping | list | tuple):
                yield "data", each, f"{path}[{number}]", True
