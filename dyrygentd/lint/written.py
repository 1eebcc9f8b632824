"""The canvas as it was written: where Celery would run it in another way, and what is lost on the way into a graph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final, NamedTuple

from dyrygentd.canvas.parts import LINKS, is_empty, kind_of, listed, members_in, options_of, tasks_of
from dyrygentd.core.nested import CALL_ERRBACKS
from dyrygentd.core.node_spec import RESERVED_OPTIONS
from dyrygentd.lint.faults import listing
from dyrygentd.lint.report import MESSAGES, LintReport, Place
from dyrygentd.tasks.callbacks import needs_request
from dyrygentd.tasks.known import KnownTasks

_NATIVE_STEPS_MAX: Final = 1_000


class Task(NamedTuple):
    """A task as it was written, before it is read."""

    what: Mapping[str, Any]
    place: Place | None
    name: str | None = None


class _Part(NamedTuple):
    """A part of a canvas that is to be looked at.

    Attributes:
        is_member: It is a member of a group or of a chord's header.
        is_step: It is a step of a chain.
        is_taken: Some task takes its value.
        is_given: A value precedes it.
        is_body: It is the body of a chord, or in one.
        is_fanned: It is in a group that stands before another step of a chain in a body.
        in_header: It is in the header of a chord.
        chords: Number of chords around it or beside it.
    """

    what: Any
    place: Place
    is_member: bool = False
    is_step: bool = False
    is_taken: bool = False
    is_given: bool = False
    is_body: bool = False
    is_fanned: bool = False
    in_header: bool = False
    chords: int = 0


def read_canvas(canvas: object, app: Any, report: LintReport) -> list[Task]:
    """Look for what Celery does in another way; return the tasks in the order in which `definition_of` makes nodes of them.

    What is no signature is left out: the import tells what it is.
    """
    tasks: list[Task] = []
    chords: list[Place] = []
    parts = [_Part(canvas, Place(None, ""))]
    while parts:
        part = parts.pop()
        if not isinstance(part.what, Mapping):
            continue
        kind = kind_of(part.what)
        if kind not in _CHECKS:
            tasks.append(Task(part.what, part.place))
            _check_ids(part, report)
            # Copies of 5.6, and of what stands in a chain, have the task's name only.
            if part.what.get("task") in ("celery.map", "celery.starmap"):
                _check_map(part, app, report)
            continue
        if not isinstance(part.what.get("kwargs"), Mapping):
            continue
        _check_ids(part, report)
        if kind == "chunks":
            _check_routes(part, app, report)
            tasks.extend([Task(part.what, part.place)] * _chunk_count(part.what["kwargs"]))
            continue
        if kind == "chord":
            _check_body_callbacks(part.what["kwargs"], part, app, report)
            if part.chords:
                chords.append(part.place)
        parts.extend(reversed(list(_CHECKS[kind](part, report))))
    if chords and len(tasks) > _NATIVE_STEPS_MAX:
        report.add("native-chord-cost", chords[0])
    return tasks


def _check_ids(part: _Part, report: LintReport) -> None:
    found = sorted(key for key in RESERVED_OPTIONS & options_of(part.what).keys() if part.what["options"][key] is not None)
    if "task_id" in found and kind_of(part.what) not in ("group", "chunks"):
        # What else is there was left by `freeze`, as it is by the worker of a native canvas.
        said = f"task id '{part.what['options']['task_id']}' is kept, and an id is taken once"
        report.add("ids-kept", part.place, said=said)
    elif found:
        said = f"the canvas was frozen or comes from a worker: {listing(found)} of its signatures are not used"
        report.add("ids-stripped", part.place, said=said)


def _check_map(part: _Part, app: Any, report: LintReport) -> None:
    options = options_of(part.what)
    own = [*_own_options(part.what), *(name for name in sorted(LINKS) if options.get(name))]
    if own:
        said = f"{listing(own)} set on a {part.what['task'].rpartition('.')[2]}"
        report.add("map-options", part.place, subject=", ".join(own), said=said)
    if part.place.parent is not None:
        _check_routes(part, app, report)


def _check_routes(part: _Part, app: Any, report: LintReport) -> None:
    """Look for a map whose inner task has a route by its name."""
    kwargs = part.what.get("kwargs")
    inner = kwargs.get("task") if isinstance(kwargs, Mapping) else None
    name = inner.get("task") if isinstance(inner, Mapping) else None
    if app is None or not isinstance(name, str) or any(options_of(part.what).get(key) for key in ("queue", "exchange")):
        return
    # Routers are the user's own code; what they raise is told of the task itself.
    with suppress(Exception):
        queues = [app.amqp.router.route({}, task, (), {}).get("queue") for task in (name, "celery.starmap")]
        if getattr(queues[0], "name", queues[0]) != getattr(queues[1], "name", queues[1]):
            report.add("map-routes", part.place, subject=name, said=f"'{name}' has a route by its name")


def _check_body_callbacks(kwargs: Mapping[str, Any], part: _Part, app: Any, report: LintReport) -> None:
    """Look for error callbacks of a body that are sent as tasks here, and called inside the worker by Celery."""
    body = kwargs.get("body")
    if not isinstance(body, Mapping):
        return
    first = _first_step(body)
    if first is not body and first is not None and options_of(first).get("link_error"):
        said = f"'{first.get('task')}' has a link_error, and something follows it"
        report.add("body-chain-link-error", part.place, subject=str(first.get("task")), said=said)
    can_call = app is not None and CALL_ERRBACKS in app.tasks
    given = [body, part.what, *([first] if first is not None and first is not body else [])]
    for callback in (callback for what in given for callback in listed(options_of(what).get("link_error"))):
        name = callback.get("task") if isinstance(callback, Mapping) else None
        if not isinstance(name, str):
            continue
        if kind_of(callback) == "chain":
            steps = members_in(tasks_of(callback))
            if steps and _takes_value(steps[0]):
                report.add(
                    "chord-errback-as-task", part.place, subject="chain", said="a chain is the link_error of a chord's body"
                )
        elif app is not None and not can_call and needs_request(KnownTasks.of(app), callback):
            report.add("chord-errback-as-task", part.place, subject=name, said=f"'{name}' is the link_error of a chord's body")


def _first_step(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what begins a body: of a chain, however nested, its first step."""
    first: Any = body
    while isinstance(first, Mapping) and kind_of(first) == "chain":
        first = next(iter(members_in(tasks_of(first))), None)
    return first if isinstance(first, Mapping) else None


def _check_dropped(part: _Part, report: LintReport) -> None:
    """Look for what Celery loses when it splices a container into the one around it."""
    what, kind = part.what, kind_of(part.what)
    options = options_of(what)
    found: list[str] = []
    if (kind == "group" and part.is_member) or (kind == "chain" and part.is_step):
        found += [*_own_options(what), *(name for name in sorted(LINKS) if options.get(name))]
    if kind == "chain" and (part.is_member or part.is_step) and what.get("args"):
        found.append("args")
    if (kind == "chain" or (kind == "group" and part.is_given)) and part.is_step and what.get("immutable"):
        found.append("immutable")
    if found:
        said = f"{listing(found)} set on a {kind} inside a {'group' if part.is_member else 'chain'}"
        report.add("inner-container-options", part.place, subject=", ".join(found), said=said)
    if kind == "group" and what.get("args"):
        report.add("group-arguments", part.place)


def _check_chain(part: _Part, report: LintReport) -> Iterator[_Part]:
    _check_dropped(part, report)
    steps = [
        (step, Place(part.place, "step {} of the chain", number))
        for number, step in enumerate(members_in(tasks_of(part.what)), start=1)
    ]
    full = [(step, where) for step, where in steps if not is_empty(step)]
    if len(steps) > 1:
        for step, where in steps:
            if is_empty(step) and kind_of(step) == "group":
                report.add("empty-group-in-chain", where)
    _check_steps(part, full, report)
    # Empty steps add no tasks, so nobody misses them.
    chords = sum(kind_of(step) == "chord" for step, _ in full)
    for number, (step, where) in enumerate(full):
        is_last = number + 1 == len(full)
        is_taken = part.is_taken if is_last else _takes_value(full[number + 1][0])
        is_fanned = part.is_fanned or (part.is_body and not is_last and kind_of(step) == "group")
        yield part._replace(
            what=step,
            place=where,
            is_member=False,
            is_step=True,
            is_taken=is_taken,
            is_given=part.is_given or number > 0,
            # A link on a chain goes to the first that Celery finds in its last group.
            is_body=part.is_body
            or (number > 0 and kind_of(full[number - 1][0]) == "group")
            or (is_last and bool(options_of(part.what).get("link"))),
            is_fanned=is_fanned,
            chords=part.chords + (chords > 1),
        )


def _check_steps(part: _Part, steps: Sequence[tuple[Any, Place]], report: LintReport) -> None:
    """Look for what concerns a chain as a whole; its empty steps are left out."""
    own = _own_options(part.what)
    if own and len(steps) > 1:
        said = f"{listing(own)} set on a chain of {len(steps)} steps"
        report.add("chain-options-first-task", part.place, subject=", ".join(own), said=said)
    if len(steps) > _NATIVE_STEPS_MAX:
        report.add("native-chain-cost", part.place, said=MESSAGES["native-chain-cost"].format(steps=f"{len(steps):,}"))
    _check_groups_of(steps, report)
    is_inside = (part.is_member or part.is_body) and not part.is_step
    if is_inside and part.is_given and len(steps) > 1 and _starts_with_fan(steps[0][0]):
        report.add("group-first-in-member", part.place)


def _check_groups_of(steps: Sequence[tuple[Any, Place]], report: LintReport) -> None:
    """Look for groups whose next step is not given their list, or runs too often."""
    leading = next((number for number, (step, _) in enumerate(steps) if kind_of(step) != "group"), len(steps))
    if leading == len(steps) and leading > 2:
        # In this form Celery makes a chord of the first two groups, and the third follows each member of the second.
        report.add("chain-of-groups", steps[2][1])
    for (step, where), (following, where_following) in pairwise(steps):
        kind = kind_of(step)
        if kind == "group" and len(members_in(tasks_of(step))) == 1 and _takes_value(following):
            report.add("one-member-group-unrolled", where)
        elif kind == "chord" and _ends_in_group(step, members_min=2):
            report.add("chain-of-groups", where_following)


def _check_group(part: _Part, report: LintReport) -> Iterator[_Part]:
    members = members_in(part.what["kwargs"].get("tasks"))
    own = _own_options(part.what)
    _check_dropped(part, report)
    if part.place.parent is not None and type(tasks_of(part.what)) not in (list, tuple) and any(map(kind_of, members)):
        report.add("lazy-group", part.place)
    if part.is_member and (part.is_taken or part.is_body) and len(members) > 1:
        report.add("nested-group-order", part.place)
    yield from _check_members(members, part, "member {} of the group", own, report)


def _check_members(members: Sequence[Any], part: _Part, template: str, own: Sequence[str], report: LintReport) -> Iterator[_Part]:
    options = options_of(part.what)
    for number, member in enumerate(members, start=1):
        where = Place(part.place, template, number)
        if isinstance(member, Mapping):
            has = options_of(member)
            for name in own:
                if has.get(name) is not None and has[name] != options[name]:
                    said = f"`{name}` of a group goes before the `{name}` of its members, in Celery too"
                    report.add("group-options-override", where, subject=name, said=said)
            if kind_of(part.what) == "group" and any(options.get(name) and has.get(name) for name in LINKS):
                report.add("link-error-added", where)
            if part.in_header and kind_of(member) in ("chain", "chord") and _ends_in_group(member, of_containers=True):
                report.add("group-body-of-containers", where)
            if part.is_taken and kind_of(member) == "chain" and _ends_in_group(member):
                report.add("chain-ends-in-group", where)
        yield part._replace(what=member, place=where, is_member=True, is_step=False)


def _check_chord(part: _Part, report: LintReport) -> Iterator[_Part]:
    place, kwargs = part.place, part.what["kwargs"]
    header, body = kwargs.get("header"), kwargs.get("body")
    is_taken = part.is_taken if body is None else _takes_value(body)
    inner = part._replace(is_taken=is_taken, in_header=True, chords=part.chords + 1)
    if body is None:
        report.add("chord-without-body", place)
    if part.is_fanned:
        report.add("chord-in-raw-body", place)
    if isinstance(header, Mapping) and kind_of(header) == "chain" and len(members_in(tasks_of(header))) > 1:
        report.add("chord-of-chain-parallel", place)
    is_nested = isinstance(header, Mapping) and kind_of(header) in ("group", "chain")
    members = members_in(tasks_of(header) if is_nested else header)
    if not members and body is not None:
        report.add("empty-header", place)
    if isinstance(body, Mapping) and members and (options_of(body).get("link_error") or options_of(part.what).get("link_error")):
        report.add("header-link-error", place)
    if isinstance(header, Mapping) and kind_of(header) == "group":
        yield inner._replace(what=header, place=Place(place, "the header of the chord"), is_member=False, is_step=False)
    else:
        yield from _check_members(members, inner, "member {} of the chord's header", (), report)
    if body is not None:
        yield part._replace(
            what=body,
            place=Place(place, "the body of the chord"),
            is_member=False,
            is_step=False,
            is_given=True,
            is_body=True,
            in_header=False,
            chords=inner.chords,
        )


#: What to look for in a container; each yields the parts that are to be looked at next.
_CHECKS: Final[dict[str, Callable[[_Part, LintReport], Iterator[_Part]]]] = {
    "chain": _check_chain,
    "group": _check_group,
    "chord": _check_chord,
    "chunks": lambda part, report: iter(()),
}


def _own_options(what: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that a container hands down to its tasks."""
    options = options_of(what)
    return [key for key in options if key not in RESERVED_OPTIONS and key not in LINKS and options[key] is not None]


def _takes_value(what: Any) -> bool:
    """Tell whether a part takes the value of what precedes it, as far as its first signature tells."""
    for _ in range(10):
        if kind_of(what) != "chain":
            break
        what = next(iter(members_in(tasks_of(what))), None)
    return isinstance(what, Mapping) and not what.get("immutable")


def _ends_in_group(what: Any, *, of_containers: bool = False, members_min: int = 1) -> bool:
    """Tell whether the last thing to run in a chain or chord is a group. The depth is bounded, to keep the whole linear."""
    for _ in range(10):
        if not isinstance(what, Mapping) or not isinstance(what.get("kwargs"), Mapping):
            return False
        match kind_of(what):
            case "group":
                members = members_in(tasks_of(what))
                return len(members) >= members_min and (not of_containers or any(map(kind_of, members)))
            case "chain":
                steps = members_in(tasks_of(what))
                what = steps[-1] if steps else None
            case "chord":
                what = what["kwargs"].get("body")
            case _:
                return False
    return False


def _starts_with_fan(step: Any) -> bool:
    """Tell whether a chain starts with a group of several. The depth is bounded, as above."""
    for _ in range(10):
        if kind_of(step) != "chain":
            break
        step = next(iter(members_in(tasks_of(step))), None)
    return kind_of(step) == "group" and len(members_in(tasks_of(step))) > 1


def _chunk_count(given: Mapping[str, Any]) -> int:
    size, items = given.get("n"), given.get("it") or ()
    if not isinstance(size, int) or size < 1 or not hasattr(items, "__len__"):
        return 0
    return -(-len(items) // size)
