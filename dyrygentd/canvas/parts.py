"""What stands in a canvas as it was written: kinds, members, options and callbacks.

Shared by the importer and by `dyrygentd.lint`, which look at the same trees. Nothing here judges: what is no signature has no
kind, no members and no options; the importer says what is wrong with it, in `dyrygentd.canvas.visits`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

#: These have no ``subtask_type``; the task's name tells.
_KIND_BY_TASK: Final = {
    "celery.chain": "chain",
    "celery.group": "group",
    "celery.chord": "chord",
    "celery.chunks": "chunks",
}
CONTAINERS: Final = frozenset({"chain", "group", "chord", "chunks"})
GROUPS: Final = frozenset({"group", "chunks"})
#: One task each: ``celery.map`` and ``celery.starmap`` work through their list inside a worker.
TASKS: Final = frozenset({"", "xmap", "xstarmap"})
#: Containers in containers that are looked into for the task that begins them.
_LOOKS_MAX: Final = 16
#: Characters of a task's word in the name of a section.
_WORD_MAX: Final = 40
#: Members of a group that are sections of their own: more are told by what they have in common.
_TOLD_APART_MAX: Final = 20
#: Options that are no options of a message, and come to all in a container.
LINKS: Final = frozenset({"link", "link_error"})


def kind_of(what: Any) -> str:
    """Return the kind of a container or map, empty for a plain task."""
    # Nearly all are dicts, and asking an abstract class takes several times as long.
    if not isinstance(what, dict) and not isinstance(what, Mapping):
        return ""
    kind, task = what.get("subtask_type"), what.get("task")
    if kind and isinstance(kind, str):
        return kind
    return _KIND_BY_TASK.get(task, "") if isinstance(task, str) else ""


def options_of(what: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a signature."""
    options = what.get("options")
    return options if isinstance(options, Mapping) else {}


def tasks_of(what: Any) -> Any:
    """Return what stands as the ``tasks`` of a chain or group, as it stands there."""
    inner = what.get("kwargs") if isinstance(what, Mapping) else None
    return inner.get("tasks") if isinstance(inner, Mapping) else None


def members_in(tasks: Any) -> Sequence[Any]:
    """Return what a container holds. A lazy group is evaluated here, and remembers what it was made of."""
    if isinstance(tasks, list | tuple):
        return tasks
    if isinstance(tasks, Mapping):
        return [tasks]
    if tasks is None or isinstance(tasks, str | bytes) or not hasattr(tasks, "__iter__"):
        return []
    return list(tasks)


def is_empty(step: Any) -> bool:
    """Tell whether a step of a chain holds nothing."""
    tasks = tasks_of(step) if kind_of(step) in ("group", "chain") else None
    return tasks is not None and not tasks


def is_fan(step: Any) -> bool:
    """Tell whether a step of a chain is a group that Celery does not unroll."""
    if kind_of(step) not in GROUPS or not isinstance(step.get("kwargs"), Mapping):
        return False
    tasks = tasks_of(step)
    return not (isinstance(tasks, list | tuple) and len(tasks) == 1)


def ends_in_body(step: Any) -> bool:
    """Tell whether what ends last in a step of a chain is the body of a chord."""
    while isinstance(step, Mapping) and isinstance(step.get("kwargs"), Mapping):
        kind = kind_of(step)
        if kind == "chord":
            return step["kwargs"].get("body") is not None
        tasks = tasks_of(step)
        if kind != "chain" or not isinstance(tasks, list | tuple):
            return False
        step = next((task for task in reversed(tasks) if not is_empty(task)), None)
    return False


def first_word(what: Any) -> str:
    """Return the last word of the task that begins a canvas, as far as it is found without much looking; else its kind."""
    part: Any = what
    for _ in range(_LOOKS_MAX):
        kind = kind_of(part)
        inner = part.get("kwargs") if isinstance(part, Mapping) else None
        if kind not in CONTAINERS or not isinstance(inner, Mapping):
            break
        if kind == "chunks":
            part = inner.get("task")
            continue
        held = inner.get("header") if kind == "chord" else inner.get("tasks")
        part = held[0] if isinstance(held, list | tuple) and held else held
    task = part.get("task") if isinstance(part, Mapping) else getattr(part, "name", part)
    is_found = isinstance(task, str) and kind_of(part) not in CONTAINERS
    return str(task).rpartition(".")[2][:_WORD_MAX].replace("/", "-") if is_found else kind_of(what)


def are_unlike(members: Sequence[Any]) -> bool:
    """Tell whether the members of a group are few, are no single tasks, and begin with different ones."""
    if len(members) > _TOLD_APART_MAX or not all(kind_of(member) in CONTAINERS for member in members):
        return False
    return len({first_word(member) for member in members}) > 1


def errbacks_of(what: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the error callbacks of a chord's body, or of a member of one, as Celery looks for them.

    Of a chain its own, and not those of its steps; those of a chord are its own and those of what ends last in it.
    """
    found: tuple[Any, ...] = ()
    parts: list[Any] = [what]
    while parts:
        part = parts.pop()
        if not isinstance(part, Mapping):
            continue
        found = united(found, listed(options_of(part).get("link_error")))
        kind, inner = kind_of(part), part.get("kwargs")
        if kind in ("chord", "group") and isinstance(inner, Mapping):
            ends = [inner.get("body")] if kind == "chord" else inner.get("tasks")
            parts.extend(reversed(ends if isinstance(ends, list | tuple) else []))
    return found


def listed(callbacks: Any) -> tuple[Any, ...]:
    """Return callbacks, of which one stands by itself and several in a list."""
    if callbacks is None:
        return ()
    return tuple(callbacks) if isinstance(callbacks, list | tuple) else (callbacks,)


def united(callbacks: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return callbacks and those of the others that are not among them."""
    return (*callbacks, *(callback for callback in more if callback not in callbacks)) if more else callbacks
