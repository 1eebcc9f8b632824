"""One visit of a part of a canvas: what it is, what it depends on, and what the containers around it hand down.

Guards: a part has the form of a signature before anybody reads it, else `NotACanvas` tells what it is and where it was found.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dyrygentd.canvas.parts import CONTAINERS, GROUPS, LINKS, TASKS, kind_of, listed, members_in, tasks_of, united
from dyrygentd.core.node_spec import RESERVED_OPTIONS
from dyrygentd.errors import NotACanvas

#: A chord's delay holds its header only, or the body would wait a second time (celery#7851).
_DELAYS: Final = frozenset({"countdown", "eta"})
#: What a canvas is worth: a node, or a list of nodes. None stands for a canvas without tasks, which added no nodes.
Worth = int | list[int]


class Passed(NamedTuple):
    """What containers hand down to the tasks in them.

    Attributes:
        options: Go before the options of whatever starts first in here.
        link: For whatever ends last in here; each member of a group.
        link_first: For the first member of the group that this is handed to, without its value.
        link_error: For all in here.
        args: Come before the arguments of whatever starts first in here.
        kwargs: Go before the keyword arguments of whatever starts first in here.
        is_sealed: Whatever starts first in here does not get the value that precedes it.
        task_id: Of whatever ends last in here, if that is one task and has none of its own.
    """

    options: Mapping[str, Any] = {}
    link: tuple[Any, ...] = ()
    link_first: tuple[Any, ...] = ()
    link_error: tuple[Any, ...] = ()
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    is_sealed: bool = False
    task_id: str = ""


NOTHING: Final = Passed()


class Header(NamedTuple):
    """The header of a chord: the join of its values, and what it depends on itself."""

    join: int
    after: Sequence[int]


class Visit(NamedTuple):
    """A part of a canvas that is to be read.

    Attributes:
        after: The nodes on which the tasks depend that start first in here; one at most, but for a single task.
        place: Where it was found, in words.
        section: To which it belongs; None for that of the container around it.
        unrolls: A group of one counts as its member (Celery's ``maybe_unroll_group``).
        header: The header of the chord whose body this is, or is a member of.
        led_by: The same of what begins a chain that is a body: its own error callbacks are called as well.
    """

    what: Any
    after: Sequence[int]
    passed: Passed
    place: str
    section: str | None = None
    unrolls: bool = False
    header: Header | None = None
    led_by: Header | None = None


class TaskIdOf(NamedTuple):
    """Stands for the task id of a node among arguments, until there is one."""

    node: int


def checked_kind(visit: Visit) -> str:
    """Return the kind of a signature, empty for a plain task. Raises `NotACanvas`."""
    what = visit.what
    if not isinstance(what, Mapping):
        raise not_a_canvas(f"{visit.place} is a '{type(what).__name__}', which is no signature", _what_to_write_for(what))
    task = what.get("task")
    if not isinstance(task, str) or not task:
        raise not_a_canvas(f"{visit.place} is a '{type(what).__name__}' that names no task", "")
    if not isinstance(what.get("subtask_type"), str | None):
        raise not_a_canvas(
            f"{visit.place} has a '{type(what['subtask_type']).__name__}' as its `subtask_type`",
            f"leave it out for a task, or use one of {', '.join(sorted((CONTAINERS | TASKS) - {''}))}",
        )
    kind = kind_of(what)
    if kind not in CONTAINERS and kind not in TASKS:
        raise not_a_canvas(f"{visit.place} is a '{kind}', a kind of signature that is not known here", "")
    if kind in CONTAINERS and not isinstance(what.get("kwargs"), Mapping):
        raise not_a_canvas(f"{visit.place} is a {kind} without contents", "")
    if not isinstance(what.get("options") or {}, Mapping) or not isinstance(what.get("args") or (), list | tuple):
        raise not_a_canvas(f"{visit.place} has `options` that are no mapping, or `args` that are no list", "")
    if kind in CONTAINERS and not isinstance(what["kwargs"].get("kwargs") or {}, Mapping):
        raise not_a_canvas(f"{visit.place} has `kwargs` in its `kwargs` that are no mapping", "")
    if what.get("options"):
        _check_stamps(visit)
    return kind


def _check_stamps(visit: Visit) -> None:
    stamps = visit.what["options"].get("stamped_headers") or ()
    if not isinstance(stamps, list | tuple | set | frozenset) or not all(isinstance(stamp, str) for stamp in stamps):
        raise not_a_canvas(f"{visit.place} has {str(stamps)[:50]!r} as its `stamped_headers`", "give a list of names")


def members_of(visit: Visit, key: str) -> Sequence[Any]:
    """Return what a container holds. Raises `NotACanvas` if that is no list."""
    tasks = visit.what["kwargs"].get(key)
    # As a chord's header, a chain is what Celery takes it for: its tasks, side by side.
    if key == "header" and kind_of(tasks) == "chain" and isinstance(tasks.get("kwargs"), Mapping):
        tasks = tasks_of(tasks)
    if isinstance(tasks, str | bytes) or not isinstance(tasks, Iterable):
        raise not_a_canvas(f"{visit.place} is a {kind_of(visit.what)} whose {key} are a '{type(tasks).__name__}', not a list", "")
    return members_in(tasks)


def not_a_canvas(message: str, next_step: str) -> NotACanvas:
    """Make the error; without a next step of its own it has the general one."""
    error = NotACanvas(message)
    if next_step:
        error.next_step = next_step
    return error


def _what_to_write_for(what: object) -> str:
    """Guess what the caller meant."""
    if hasattr(what, "apply_async") and hasattr(what, "name"):
        return f"write `{str(what.name).rpartition('.')[2]}.s(...)`: this is the task itself"
    if hasattr(what, "get") and hasattr(what, "id"):
        return "write `.s(...)` instead of `.delay(...)`: this task has been sent already"
    return ""


def passed_to_all(options: Mapping[str, Any]) -> Passed:
    """Return what a whole canvas is handed by arguments of `apply_async`."""
    return Passed(
        options={option: value for option, value in options.items() if option not in LINKS | {"task_id"}},
        link=listed(options.get("link")),
        link_error=listed(options.get("link_error")),
        task_id=options.get("task_id") or "",
    )


def passed_on(visit: Visit) -> Passed:
    """Return what a container hands down: what it was handed, and what is its own."""
    what, passed = visit.what, visit.passed
    options = what.get("options") or {}
    args = tuple(what.get("args") or ())
    # A chord keeps the keyword arguments for its header in its own.
    kwargs = what["kwargs"].get("kwargs") or {}
    is_sealed = bool(what.get("immutable"))
    if not (options or args or kwargs or is_sealed):
        return passed
    own = {key: value for key, value in options.items() if key not in RESERVED_OPTIONS | LINKS and value is not None}
    return Passed(
        options=overridden(own, passed.options),
        link=united(listed(options.get("link")), passed.link),
        link_first=passed.link_first,
        link_error=united(listed(options.get("link_error")), passed.link_error),
        args=args if is_sealed else passed.args + args,
        kwargs=kwargs if is_sealed else {**kwargs, **passed.kwargs},
        is_sealed=is_sealed or passed.is_sealed,
        task_id=passed.task_id or options.get("task_id") or "",
    )


def overridden(own: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge options; a signature's own stamps cannot be overridden."""
    stamps = {"stamped_headers", *(own.get("stamped_headers") or ())} if "stamped_headers" in own else ()
    return {**own, **{key: value for key, value in over.items() if key not in stamps or key not in own}}


def with_link(passed: Passed, link: tuple[Any, ...], part: Any, *, is_body: bool) -> Passed:
    """Hand a container's callbacks to the part that ends last in it.

    As options of a group they go to each member; linked to a group that is a chord's body, to the first without its value.
    """
    if is_body and kind_of(part) in GROUPS:
        return passed._replace(link_first=link)
    return passed._replace(link=link)


def with_link_first(passed: Passed, member: Any) -> Passed:
    """Hand a group's callbacks to its first member."""
    if kind_of(member) in GROUPS:
        return passed
    return passed._replace(link=united(passed.link, tuple(map(_immutable, passed.link_first))), link_first=())


def without_delays(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a chord that are for its body too."""
    return {key: value for key, value in options.items() if key not in _DELAYS}


def _immutable(callback: Any) -> Any:
    return {**callback, "immutable": True} if isinstance(callback, Mapping) else callback
