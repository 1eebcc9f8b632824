"""What a canvas or definition will do that its author may not expect: a report, made without running anything.

A canvas is read twice. As it was written, it tells where Celery itself would run it in another way, and what is lost on the way
into a graph. As a graph, it tells what each task is given, after containers have handed down their options. Tasks come in the
same order in both, so that a node can be found in the canvas.

What Celery does while a canvas is being built cannot be seen any more: ``chord(chain(a, b), c)`` holds a and b side by side,
and ``a.s() | group([b.s()])`` is a chain of two tasks. Canvases that came as JSON still have these forms.

Findings of one code are one finding with a count; costs are linear in the canvas, and its depth costs no recursion. What Celery
does was seen on 5.6.3 and 5.7.0 with a worker.
"""

import difflib
import inspect
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

from dyrygentd import wire
from dyrygentd.canvas import Workflow, definition_of, encode_value
from dyrygentd.core.graph import NODES_MAX, RESERVED_OPTIONS, SERIALIZERS, Definition, Graph, Signature
from dyrygentd.differences import BY_KEY
from dyrygentd.errors import BadNode, DefinitionError, RequestError

Severity = Literal["error", "warning", "info"]

_SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")
_PLACES_MAX: Final = 3
"""Places shown of a finding that occurs often."""
_SUBJECTS_MAX: Final = 5
"""Findings of one code that are told apart (by task, queue, option …); the rest of them is one finding."""
_PATH_MAX: Final = 6
"""Containers named in a place; of a deeper one the middle is left out."""
_COMPARISONS_MAX: Final = 50
"""Unknown names for which a similar one is looked for."""
_LIST_MAX: Final = 1_000
"""Above it a list of results is a burden: it is copied into the message of everyone who takes it."""
_ARGUMENTS_BYTES_MAX: Final = 100_000
_NATIVE_STEPS_MAX: Final = 1_000
_VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""The daemon's default for one value, such as the list of a chord."""
_VISIBILITY_TIMEOUT_S: Final = 3600.0
"""Kombu's default for Redis."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a canvas.

    Attributes:
        code: A stable word for programs.
        severity: ``error`` cannot work, ``warning`` may not do what was meant, ``info`` is worth knowing.
        place: Where it is in the canvas, in words; the first few places if there are several.
        node: Name of the first node concerned, if it is one.
        message: What it is. Where Celery differs, a line for Celery and a line for this program.
        next_step: What to do about it.
        count: How often it occurs.
    """

    code: str
    severity: Severity
    place: str
    node: str | None
    message: str
    next_step: str
    count: int


def lint(
    what: object,
    *,
    app: Any = None,
    known_tasks: Collection[str] | None = None,
    known_queues: Collection[str] | None = None,
    visibility_timeout_s: float | None = None,
) -> list[Finding]:
    """Report on a canvas, a `Workflow`, a `Definition`, or a definition document (JSON text or a mapping with ``nodes``).

    Args:
        app: The Celery app: brings the signatures and options of its tasks, its routes and its broker's visibility timeout.
        known_tasks: Names of the tasks that workers have; by default tasks are not looked up.
        known_queues: Names of the queues that workers consume; by default queues are not looked up.
        visibility_timeout_s: Of the broker, in seconds; by default the app's, else kombu's for Redis.

    Returns:
        Errors first, then warnings. What cannot be read at all is a finding, not an exception.
    """
    report = _Report()
    tasks: list[_Task] = []
    definition: Definition | None = None
    try:
        if isinstance(what, str | bytes | bytearray) or (isinstance(what, Mapping) and "nodes" in what):
            definition = _read_document(what, tasks)
        elif isinstance(what, Definition | Workflow):
            definition = definition_of(what)
        else:
            tasks = _read_canvas(what, app, report)
            definition = definition_of(what, has_good_options=False)
    except (DefinitionError, RequestError) as error:
        is_told = _check_unread_tasks(tasks, report)
        # The error tells of one node what may have been told of all of them, in the place where they stand.
        if not (isinstance(error, BadNode) and is_told):
            report.add(error.code, None, node=getattr(error, "node", None), said=str(error), next_step=error.next_step)
    if definition is not None:
        surroundings = _Surroundings(app, known_tasks, known_queues, visibility_timeout_s)
        _check_graph(definition.graph, tasks, surroundings, report)
    return report.findings()


# --- texts ----------------------------------------------------------------------------------------------------------


class _Rule(NamedTuple):
    severity: Severity
    next_step: str


#: Severity and next step of each code.
_RULES: Final = {
    "chain-of-groups": _Rule("warning", "nothing, if it is meant to run once; else write a chain into each member of a group"),
    "nested-group-order": _Rule("warning", "check that the task that takes the list does not count on Celery's order"),
    "chord-of-chain-parallel": _Rule("warning", "write `chord([chain], body)` for a chain that runs in sequence"),
    "one-member-group-unrolled": _Rule("warning", "use a chord, whose body takes a list even of one value"),
    "empty-group-in-chain": _Rule("warning", "leave the group out, or give it a member"),
    "inner-container-options": _Rule("warning", "set them on the tasks, which is the same everywhere"),
    "link-error-added": _Rule("info", "nothing, if both are to be called"),
    "header-link-error": _Rule("info", "set `link_error` on the tasks of the header too"),
    "chain-options-first-task": _Rule("warning", "set them on each task that is to have them"),
    "group-arguments": _Rule("warning", "set them on the members, which is the same everywhere"),
    "chord-errback-as-task": _Rule("warning", "give the body an error callback that takes one argument, the task id"),
    "chord-without-body": _Rule("info", "write a group, which is the same everywhere"),
    "group-first-in-member": _Rule("warning", "build the chain with `|` or `chain()`, if Celery is to run it too"),
    "group-body-of-containers": _Rule("info", "nothing, if it is submitted; do not send it with apply_async"),
    "chord-in-raw-body": _Rule("info", "nothing, if it is submitted; build the chain with `|`, if Celery is to run it too"),
    "lazy-group": _Rule("warning", "give the group a list, which is the same everywhere"),
    "map-routes": _Rule("warning", "set the queue on it, which is the same everywhere"),
    "map-options": _Rule("info", "nothing, if they are meant to hold"),
    "ignore-result-forced": _Rule("info", "leave `ignore_result` out"),
    "countdown-in-daemon": _Rule("info", "nothing: that is how it should be"),
    # Celery and this program agree, or only one of them is concerned.
    "chain-ends-in-group": _Rule("warning", "end the chain with a task that takes the inner list, such as one that returns it"),
    "empty-header": _Rule("warning", "leave the chord out if it has no header, or do not count on the value before it"),
    "group-options-override": _Rule("warning", "set the options on the group or on its members, not on both"),
    "ids-stripped": _Rule("info", "submit a canvas that was not frozen; the answer to a submission names its task ids"),
    "link-untracked": _Rule("info", "make it a step of a chain, which is tracked, restarted and shown"),
    "native-chain-cost": _Rule("info", "nothing, if it is submitted; do not send it with apply_async"),
    "native-chord-cost": _Rule("info", "nothing, if it is submitted; do not send it with apply_async"),
    "huge-list": _Rule("warning", "let the tasks store their results and return references, or use `.si()` if it only waits"),
    "list-input": _Rule("info", "write `.si()` (`immutable: true`) if it only waits for them"),
    "large-arguments": _Rule("warning", "store the data elsewhere and pass a reference"),
    "bad-option": _Rule("error", "correct the option: the task could not be published"),
    "unknown-option": _Rule("warning", "correct the name, or leave it out: it changes nothing"),
    "unreadable-signature": _Rule("error", "pass text, numbers, lists and dicts, or a reference to the data"),
    "serializer-refused": _Rule("error", f"use one of {', '.join(sorted(SERIALIZERS))}"),
    "unknown-compression": _Rule("error", "use gzip, bzip2, lzma or zstd"),
    "priority-range": _Rule("warning", "use 0 to 9"),
    "expires-passed": _Rule("error", "set `expires` to a time ahead: a worker would revoke the task"),
    "expires-before-start": _Rule("warning", "let `expires` be later than the start of the task"),
    "unknown-task": _Rule("error", "start the worker that has it, or correct the name"),
    "task-not-in-app": _Rule("info", "correct the name if it is meant to be there; its arguments were not checked"),
    "unknown-queue": _Rule("warning", "start a worker with `--queues`, or correct the name: the task would wait for ever"),
    "routing-failed": _Rule("error", "correct `task_routes` and `task_queues` of the app: the task could not be published"),
    "arguments-do-not-fit": _Rule("error", "give the arguments that the task takes"),
    "argument-given-twice": _Rule("error", "rename the keyword argument, or write `.si()` if the value is not wanted"),
    "unexpected-input": _Rule("error", "write `.si()` (`immutable: true`): the task does not take the value before it"),
}

_MESSAGES: Final = {
    "native-chain-cost": "a chain of {steps} steps: Celery sends the rest of the chain along with each step",
    "native-chord-cost": "chords that follow or hold each other: Celery sends what follows along with each task of a header",
    "empty-header": "the header of a chord is empty, so its body takes [], in Celery too",
    "chain-ends-in-group": "a chain in a group ends with a group, and somebody takes the values\n"
    "Celery: the value of the chain is a list inside the list\nhere: all values are in one list",
}


def _message(code: str, said: str) -> str:
    difference = BY_KEY.get(code)
    if difference is None:
        return said or _MESSAGES.get(code, code)
    link = f" ({difference.link})" if difference.link else ""
    return f"{said or difference.title}\nCelery: {difference.native}{link}\nhere: {difference.ours or 'the same'}"


# --- the report -----------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where something stands; put into words only if it is shown."""

    parent: "_Place | None"
    template: str
    number: int = 0

    def words(self) -> str:
        parts: list[str] = []
        place: _Place | None = self
        while place is not None:
            if place.template:
                parts.append(place.template.format(place.number))
            place = place.parent
        parts.reverse()
        if len(parts) > _PATH_MAX:
            parts[_PATH_MAX // 2 : -_PATH_MAX // 2] = ["…"]
        return ", ".join(parts)


class _Folded:
    """A finding in the making."""

    __slots__ = ("count", "message", "next_step", "node", "places")

    def __init__(self, node: str | None, message: str, next_step: str) -> None:
        self.node, self.message, self.next_step = node, message, next_step
        self.places: list[str] = []
        self.count = 0


class _Report:
    """Findings, folded. Guards: at most `_SUBJECTS_MAX` and one more for each code and severity."""

    def __init__(self) -> None:
        self._folded: dict[tuple[str, Severity, str | None], _Folded] = {}
        self._subjects: Counter[tuple[str, Severity]] = Counter()

    def add(
        self,
        code: str,
        place: _Place | None,
        *,
        node: str | None = None,
        subject: str = "",
        said: str = "",
        next_step: str = "",
        severity: Severity | None = None,
    ) -> None:
        """Add a finding; its text is that of the first one with this code and subject."""
        rule = _RULES.get(code, _Rule("error", ""))
        severity = severity or rule.severity
        folded = self._folded.get((code, severity, subject))
        if folded is None:
            folded = self._new(code, severity, subject, node, _message(code, said), next_step or rule.next_step)
        folded.count += 1
        if folded.count <= _PLACES_MAX:
            words = place.words() if place is not None else f"node '{node}'" if node is not None else ""
            if words and words not in folded.places:
                folded.places.append(words)

    def _new(self, code: str, severity: Severity, subject: str, node: str | None, message: str, next_step: str) -> _Folded:
        key: tuple[str, Severity, str | None] = (code, severity, subject)
        self._subjects[code, severity] += 1
        if self._subjects[code, severity] > _SUBJECTS_MAX:
            key = (code, severity, None)
            if key in self._folded:
                return self._folded[key]
            message = f"others like this; the first of them: {message}"
        self._folded[key] = folded = _Folded(node, message, next_step)
        return folded

    def findings(self) -> list[Finding]:
        """Return them, errors first, in the order in which they were met."""
        return [
            Finding(code, severity, _words_of(folded), folded.node, folded.message, folded.next_step, folded.count)
            for wanted in _SEVERITIES
            for (code, severity, _), folded in self._folded.items()
            if severity == wanted
        ]


def _words_of(folded: _Folded) -> str:
    more = max(0, folded.count - _PLACES_MAX)
    return "; ".join([*folded.places, *([f"{more:,} more"] if folded.places and more else [])])


# --- the canvas as it was written -----------------------------------------------------------------------------------


class _Task(NamedTuple):
    """A task as it was written, before it is read."""

    what: Mapping[str, Any]
    place: _Place | None
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
    place: _Place
    is_member: bool = False
    is_step: bool = False
    is_taken: bool = False
    is_given: bool = False
    is_body: bool = False
    is_fanned: bool = False
    in_header: bool = False
    chords: int = 0


_KIND_BY_TASK: Final = {
    "celery.chain": "chain",
    "celery.group": "group",
    "celery.chord": "chord",
    "celery.chunks": "chunks",
}
_CALLBACKS: Final = frozenset({"link", "link_error"})


def _read_canvas(canvas: object, app: Any, report: _Report) -> list[_Task]:
    """Look for what Celery does in another way; return the tasks in the order in which `definition_of` makes nodes of them.

    What is no signature is left out: the import tells what it is.
    """
    tasks: list[_Task] = []
    chords: list[_Place] = []
    parts = [_Part(canvas, _Place(None, ""))]
    while parts:
        part = parts.pop()
        if not isinstance(part.what, Mapping):
            continue
        kind = _kind_of(part.what)
        if kind not in _CHECKS:
            tasks.append(_Task(part.what, part.place))
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
            tasks.extend([_Task(part.what, part.place)] * _chunk_count(part.what["kwargs"]))
            continue
        if kind == "chord":
            _check_body_callbacks(part.what["kwargs"], part, app, report)
            if part.chords:
                chords.append(part.place)
        parts.extend(reversed(list(_CHECKS[kind](part, report))))
    if chords and len(tasks) > _NATIVE_STEPS_MAX:
        report.add("native-chord-cost", chords[0])
    return tasks


def _check_ids(part: _Part, report: _Report) -> None:
    found = sorted(key for key in RESERVED_OPTIONS & _options_of(part.what).keys() if part.what["options"][key] is not None)
    if found:
        said = f"the canvas was frozen or comes from a worker: {_listing(found)} of its signatures are not used"
        report.add("ids-stripped", part.place, said=said)


def _check_map(part: _Part, app: Any, report: _Report) -> None:
    options = _options_of(part.what)
    own = [*_own_options(part.what), *(name for name in sorted(_CALLBACKS) if options.get(name))]
    if own:
        said = f"{_listing(own)} set on a {part.what['task'].rpartition('.')[2]}"
        report.add("map-options", part.place, subject=", ".join(own), said=said)
    if part.place.parent is not None:
        _check_routes(part, app, report)


def _check_routes(part: _Part, app: Any, report: _Report) -> None:
    """Look for a map whose inner task has a route by its name."""
    kwargs = part.what.get("kwargs")
    inner = kwargs.get("task") if isinstance(kwargs, Mapping) else None
    name = inner.get("task") if isinstance(inner, Mapping) else None
    if app is None or not isinstance(name, str) or any(_options_of(part.what).get(key) for key in ("queue", "exchange")):
        return
    # Routers are the user's own code; what they raise is told of the task itself.
    with suppress(Exception):
        queues = [app.amqp.router.route({}, task, (), {}).get("queue") for task in (name, "celery.starmap")]
        if getattr(queues[0], "name", queues[0]) != getattr(queues[1], "name", queues[1]):
            report.add("map-routes", part.place, subject=name, said=f"'{name}' has a route by its name")


def _check_body_callbacks(kwargs: Mapping[str, Any], part: _Part, app: Any, report: _Report) -> None:
    """Look for error callbacks of a body that are sent as tasks here, and called inside the worker by Celery."""
    body = kwargs.get("body")
    if not isinstance(body, Mapping):
        return
    for callback in (*_listed(_options_of(body).get("link_error")), *_listed(_options_of(part.what).get("link_error"))):
        name = callback.get("task") if isinstance(callback, Mapping) else None
        if not isinstance(name, str):
            continue
        if _kind_of(callback) == "chain":
            steps = _members(_tasks_of(callback))
            if steps and _takes_value(steps[0]):
                report.add(
                    "chord-errback-as-task", part.place, subject="chain", said="a chain is the link_error of a chord's body"
                )
        elif app is not None and not callback.get("immutable") and _takes_more_than_an_id(app.tasks.get(name)):
            report.add("chord-errback-as-task", part.place, subject=name, said=f"'{name}' is the link_error of a chord's body")


def _takes_more_than_an_id(task: Any) -> bool:
    parameters = _parameters_of(task)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # As Celery tells the two kinds apart; those that take any number could be either.
    return parameters is not None and sum(each.kind in kinds for each in parameters.parameters.values()) > 1


def _listed(callbacks: Any) -> Sequence[Any]:
    return callbacks if isinstance(callbacks, list | tuple) else [] if callbacks is None else [callbacks]


def _check_dropped(part: _Part, report: _Report) -> None:
    """Look for what Celery loses when it splices a container into the one around it."""
    what, kind = part.what, _kind_of(part.what)
    options = _options_of(what)
    found: list[str] = []
    if (kind == "group" and part.is_member) or (kind == "chain" and part.is_step):
        found += [*_own_options(what), *(name for name in sorted(_CALLBACKS) if options.get(name))]
    if kind == "chain" and (part.is_member or part.is_step) and what.get("args"):
        found.append("args")
    if (kind == "chain" or (kind == "group" and part.is_given)) and part.is_step and what.get("immutable"):
        found.append("immutable")
    if found:
        said = f"{_listing(found)} set on a {kind} inside a {'group' if part.is_member else 'chain'}"
        report.add("inner-container-options", part.place, subject=", ".join(found), said=said)
    if kind == "group" and what.get("args"):
        report.add("group-arguments", part.place)


def _check_chain(part: _Part, report: _Report) -> Iterator[_Part]:
    place = part.place
    _check_dropped(part, report)
    steps = [
        (step, _Place(place, "step {} of the chain", number))
        for number, step in enumerate(_members(part.what["kwargs"].get("tasks")), start=1)
    ]
    full = [(step, where) for step, where in steps if not _is_empty(step)]
    for step, where in steps:
        if _is_empty(step) and _kind_of(step) == "group" and len(steps) > 1:
            report.add("empty-group-in-chain", where)
    own = _own_options(part.what)
    if own and len(full) > 1:
        said = f"{_listing(own)} set on a chain of {len(full)} steps"
        report.add("chain-options-first-task", place, subject=", ".join(own), said=said)
    if len(full) > _NATIVE_STEPS_MAX:
        report.add("native-chain-cost", place, said=_MESSAGES["native-chain-cost"].format(steps=f"{len(full):,}"))
    _check_groups_of(full, report)
    if (part.is_member or part.is_body) and not part.is_step and part.is_given and len(full) > 1 and _starts_with_fan(full[0][0]):
        report.add("group-first-in-member", place)
    # Empty steps add no tasks, so nobody misses them.
    chords = sum(_kind_of(step) == "chord" for step, _ in full)
    for number, (step, where) in enumerate(full):
        is_last = number + 1 == len(full)
        is_taken = part.is_taken if is_last else _takes_value(full[number + 1][0])
        is_fanned = part.is_fanned or (part.is_body and not is_last and _kind_of(step) == "group")
        yield part._replace(
            what=step,
            place=where,
            is_member=False,
            is_step=True,
            is_taken=is_taken,
            is_given=part.is_given or number > 0,
            # A link on a chain goes to the first that Celery finds in its last group.
            is_body=part.is_body
            or (number > 0 and _kind_of(full[number - 1][0]) == "group")
            or (is_last and bool(_options_of(part.what).get("link"))),
            is_fanned=is_fanned,
            chords=part.chords + (chords > 1),
        )


def _check_groups_of(steps: Sequence[tuple[Any, _Place]], report: _Report) -> None:
    """Look for groups whose next step is not given their list, or runs too often."""
    leading = next((number for number, (step, _) in enumerate(steps) if _kind_of(step) != "group"), len(steps))
    if leading == len(steps) and leading > 2:
        # In this form Celery makes a chord of the first two groups, and the third follows each member of the second.
        report.add("chain-of-groups", steps[2][1])
    for (step, where), (following, where_following) in pairwise(steps):
        kind = _kind_of(step)
        if kind == "group" and len(_members(step["kwargs"].get("tasks"))) == 1 and _takes_value(following):
            report.add("one-member-group-unrolled", where)
        elif kind == "chord" and _ends_in_group(step, members_min=2):
            report.add("chain-of-groups", where_following)


def _check_group(part: _Part, report: _Report) -> Iterator[_Part]:
    members = _members(part.what["kwargs"].get("tasks"))
    own = _own_options(part.what)
    _check_dropped(part, report)
    if part.place.parent is not None and type(_tasks_of(part.what)) not in (list, tuple) and any(map(_kind_of, members)):
        report.add("lazy-group", part.place)
    if part.is_member and (part.is_taken or part.is_body) and len(members) > 1:
        report.add("nested-group-order", part.place)
    yield from _check_members(members, part, "member {} of the group", own, report)


def _check_members(members: Sequence[Any], part: _Part, template: str, own: Sequence[str], report: _Report) -> Iterator[_Part]:
    options = _options_of(part.what)
    for number, member in enumerate(members, start=1):
        where = _Place(part.place, template, number)
        if isinstance(member, Mapping):
            has = _options_of(member)
            for name in own:
                if has.get(name) is not None and has[name] != options[name]:
                    said = f"`{name}` of a group goes before the `{name}` of its members, in Celery too"
                    report.add("group-options-override", where, subject=name, said=said)
            if _kind_of(part.what) == "group" and any(options.get(name) and has.get(name) for name in _CALLBACKS):
                report.add("link-error-added", where)
            if part.in_header and _kind_of(member) in ("chain", "chord") and _ends_in_group(member, of_containers=True):
                report.add("group-body-of-containers", where)
            if part.is_taken and _kind_of(member) == "chain" and _ends_in_group(member):
                report.add("chain-ends-in-group", where)
        yield part._replace(what=member, place=where, is_member=True, is_step=False)


def _check_chord(part: _Part, report: _Report) -> Iterator[_Part]:
    place, kwargs = part.place, part.what["kwargs"]
    header, body = kwargs.get("header"), kwargs.get("body")
    is_taken = part.is_taken if body is None else _takes_value(body)
    inner = part._replace(is_taken=is_taken, in_header=True, chords=part.chords + 1)
    if body is None:
        report.add("chord-without-body", place)
    if part.is_fanned:
        report.add("chord-in-raw-body", place)
    if isinstance(header, Mapping) and _kind_of(header) == "chain" and len(_members(_tasks_of(header))) > 1:
        report.add("chord-of-chain-parallel", place)
    is_nested = isinstance(header, Mapping) and _kind_of(header) in ("group", "chain")
    members = _members(_tasks_of(header) if is_nested else header)
    if not members and body is not None:
        report.add("empty-header", place)
    if (
        isinstance(body, Mapping)
        and members
        and (_options_of(body).get("link_error") or _options_of(part.what).get("link_error"))
    ):
        report.add("header-link-error", place)
    if isinstance(header, Mapping) and _kind_of(header) == "group":
        yield inner._replace(what=header, place=_Place(place, "the header of the chord"), is_member=False, is_step=False)
    else:
        yield from _check_members(members, inner, "member {} of the chord's header", (), report)
    if body is not None:
        yield part._replace(
            what=body,
            place=_Place(place, "the body of the chord"),
            is_member=False,
            is_step=False,
            is_given=True,
            is_body=True,
            in_header=False,
            chords=inner.chords,
        )


#: What to look for in a container; each yields the parts that are to be looked at next.
_CHECKS: Final[dict[str, Callable[[_Part, _Report], Iterator[_Part]]]] = {
    "chain": _check_chain,
    "group": _check_group,
    "chord": _check_chord,
    "chunks": lambda part, report: iter(()),
}


def _kind_of(what: Any) -> str:
    if not isinstance(what, Mapping):
        return ""
    kind, task = what.get("subtask_type"), what.get("task")
    if isinstance(kind, str) and kind:
        return kind
    return _KIND_BY_TASK.get(task, "") if isinstance(task, str) else ""


def _options_of(what: Mapping[str, Any]) -> Mapping[str, Any]:
    options = what.get("options")
    return options if isinstance(options, Mapping) else {}


def _own_options(what: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that a container hands down to its tasks."""
    options = _options_of(what)
    return [key for key in options if key not in RESERVED_OPTIONS and key not in _CALLBACKS and options[key] is not None]


def _tasks_of(what: Mapping[str, Any]) -> Any:
    return what["kwargs"].get("tasks") if isinstance(what.get("kwargs"), Mapping) else None


def _members(tasks: Any) -> Sequence[Any]:
    """Return what a container holds. Lazy groups remember what they were made of."""
    if isinstance(tasks, list | tuple):
        return tasks
    if isinstance(tasks, Mapping):
        return [tasks]
    if tasks is None or isinstance(tasks, str | bytes) or not hasattr(tasks, "__iter__"):
        return []
    return list(tasks)


def _is_empty(step: Any) -> bool:
    return _kind_of(step) in ("group", "chain") and _tasks_of(step) is not None and not _members(_tasks_of(step))


def _takes_value(what: Any) -> bool:
    """Tell whether a part takes the value of what precedes it, as far as its first signature tells."""
    for _ in range(10):
        if _kind_of(what) != "chain":
            break
        what = next(iter(_members(_tasks_of(what))), None)
    return isinstance(what, Mapping) and not what.get("immutable")


def _ends_in_group(what: Any, *, of_containers: bool = False, members_min: int = 1) -> bool:
    """Tell whether the last thing to run in a chain or chord is a group. The depth is bounded, to keep the whole linear."""
    for _ in range(10):
        if not isinstance(what, Mapping) or not isinstance(what.get("kwargs"), Mapping):
            return False
        match _kind_of(what):
            case "group":
                members = _members(_tasks_of(what))
                return len(members) >= members_min and (not of_containers or any(map(_kind_of, members)))
            case "chain":
                steps = _members(_tasks_of(what))
                what = steps[-1] if steps else None
            case "chord":
                what = what["kwargs"].get("body")
            case _:
                return False
    return False


def _starts_with_fan(step: Any) -> bool:
    """Tell whether a chain starts with a group of several. The depth is bounded, as above."""
    for _ in range(10):
        if _kind_of(step) != "chain":
            break
        step = next(iter(_members(_tasks_of(step))), None)
    return _kind_of(step) == "group" and len(_members(_tasks_of(step))) > 1


def _chunk_count(given: Mapping[str, Any]) -> int:
    size, items = given.get("n"), given.get("it") or ()
    if not isinstance(size, int) or size < 1 or not hasattr(items, "__len__"):
        return 0
    return -(-len(items) // size)


# --- definition documents -------------------------------------------------------------------------------------------


def _read_document(document: Any, tasks: list[_Task]) -> Definition:
    """Decode a definition; ``tasks`` is filled for the case that this fails."""
    if isinstance(document, Mapping):
        body = encode_value(document)
    else:
        body = document.encode() if isinstance(document, str) else bytes(document)
    try:
        return wire.decode_definition(body, nodes_max=NODES_MAX, has_good_options=False)
    except BadNode:
        # The form is right, and only the first of what is wrong with the nodes has been told.
        # Python's own decoder gives up on what msgspec reads: deep nesting, and numbers of thousands of digits.
        with suppress(ValueError, RecursionError):
            nodes = enumerate(json.loads(body)["nodes"], start=1)
            tasks.extend(_Task(node, None, node.get("name") or f"number {number}") for number, node in nodes)
        raise


def _check_unread_tasks(tasks: Sequence[_Task], report: _Report) -> bool:
    """Check the options of all tasks, since the first wrong one keeps the whole from being read.

    Returns:
        Whether one was found that cannot be read.
    """
    is_unreadable = False
    for task in tasks:
        options = _options_of(task.what)
        faults = list(_faults_of_options(options))
        # In a canvas they are leftovers, in a document somebody wrote them.
        if task.place is None:
            faults += [
                _Fault("bad-option", key, f"`{key}` is set by the daemon") for key in sorted(RESERVED_OPTIONS & options.keys())
            ]
        for fault in faults:
            is_unreadable = is_unreadable or fault.code == "serializer-refused" or fault.subject in _UNREADABLE
            report.add(fault.code, task.place, node=task.name, subject=fault.subject, said=fault.said)
    return is_unreadable


# --- the graph ------------------------------------------------------------------------------------------------------


class _Surroundings:
    """What is known beside the canvas. The app's parts are asked for once for each task or signature."""

    def __init__(
        self,
        app: Any,
        known_tasks: Collection[str] | None,
        known_queues: Collection[str] | None,
        visibility_timeout_s: float | None,
    ) -> None:
        self.app = app
        self.registry: Mapping[str, Any] = {} if app is None else app.tasks
        self.known_tasks = None if known_tasks is None else frozenset(known_tasks)
        self.known_queues = None if known_queues is None else frozenset(known_queues)
        self.visibility_timeout_s = visibility_timeout_s or _visibility_timeout_of(app)
        self.now = time.time()
        self._parameters: dict[str, inspect.Signature | None] = {}
        self._options: dict[bytes, Sequence[_Fault]] = {}
        self._tasks: dict[str, Sequence[_Fault]] = {}
        self._queues: dict[str, Sequence[_Fault]] = {}
        self._comparisons = 0

    def parameters_of(self, task: str) -> inspect.Signature | None:
        """Return what the task's function takes; None if it is not known, or does not want to be checked."""
        if task not in self._parameters:
            self._parameters[task] = _parameters_of(self.registry.get(task))
        return self._parameters[task]

    def faults_of_options(self, text: bytes, options: Mapping[str, Any]) -> Sequence["_Fault"]:
        """Check publish options, once for each text of them."""
        if text not in self._options:
            self._options[text] = [*_faults_of_options(options), *_faults_of_callbacks(options)]
        return self._options[text]

    def faults_of_task(self, task: str) -> Sequence["_Fault"]:
        """Look a task up among those that workers have, else among those of the app."""
        if task not in self._tasks:
            self._tasks[task] = list(self._look_task_up(task))
        return self._tasks[task]

    def faults_of_queue(self, queue: str) -> Sequence["_Fault"]:
        """Look a queue up among those that workers consume."""
        known = self.known_queues
        if known is None or queue in known:
            return ()
        if queue not in self._queues:
            said = f"no worker consumes the queue '{queue}'{self._resembling(queue, known)}"
            self._queues[queue] = [_Fault("unknown-queue", queue, said)]
        return self._queues[queue]

    def queue_of(self, call: "_Call") -> str | None:
        """Return the queue that a call would be sent to, if that can be told. Raises what the app's routers raise."""
        task = self.registry.get(call.task)
        queue = call.options.get("queue") or getattr(task, "queue", None)
        if self.app is None:
            return queue
        given = {**call.options, "queue": queue} if queue else dict(call.options)
        routed = self.app.amqp.router.route(given, call.task, call.args, call.kwargs, task).get("queue")
        name: str | None = getattr(routed, "name", routed)
        return name

    def _look_task_up(self, task: str) -> Iterator["_Fault"]:
        if self.known_tasks is not None:
            if task not in self.known_tasks:
                said = f"no worker has the task '{task}'{self._resembling(task, self.known_tasks)}"
                yield _Fault("unknown-task", task, said)
        elif self.app is not None and task not in self.registry:
            said = f"the app has no task '{task}'{self._resembling(task, self.registry)}"
            yield _Fault("task-not-in-app", task, said)

    def _resembling(self, name: str, known: Collection[str]) -> str:
        # Only the first few are shown, and comparing costs milliseconds.
        self._comparisons += 1
        return _resembling(name, known) if self._comparisons <= _COMPARISONS_MAX else ""


def _visibility_timeout_of(app: Any) -> float:
    given = None if app is None else (app.conf.broker_transport_options or {}).get("visibility_timeout")
    return float(given) if isinstance(given, int | float) else _VISIBILITY_TIMEOUT_S


def _parameters_of(task: Any) -> inspect.Signature | None:
    # Celery's own tasks take what they like; without `typing`, Celery does not check arguments either.
    if task is None or task.name.startswith("celery.") or not getattr(task, "typing", True):
        return None
    try:
        return inspect.signature(task.run)
    except (TypeError, ValueError):
        return None


class _Input(NamedTuple):
    """What a node is given by its dependencies: nothing, one value, or a list of so many."""

    values: int = 0
    is_list: bool = False

    @property
    def words(self) -> str:
        return f"a list of {self.values:,} values" if self.is_list else "a value"


class _Fault(NamedTuple):
    """What is wrong with a signature, wherever it stands."""

    code: str
    subject: str = ""
    said: str = ""
    severity: Severity | None = None


def _check_graph(graph: Graph, tasks: Sequence[_Task], surroundings: _Surroundings, report: _Report) -> None:
    # Large workflows repeat few signatures, and the ones that are equal are one object.
    known_faults: dict[tuple[int, bool, bool], list[_Fault]] = {}
    places: Iterator[_Task] | None = iter(tasks) if len(tasks) == graph.task_count else None
    takers: Counter[int] = Counter()
    for node, signature in enumerate(graph.signatures):
        if signature is None:
            continue
        place = None if places is None else next(places).place
        name = graph.names[node]
        given = _input_of(graph, node, signature)
        is_taken = bool(graph.feeds_tasks[node])
        key = (id(signature), given.values > 0, is_taken)
        if key not in known_faults:
            known_faults[key] = list(_faults_of(signature, given, surroundings, is_taken=is_taken))
        for fault in known_faults[key]:
            report.add(fault.code, place, node=name, subject=fault.subject, said=fault.said, severity=fault.severity)
        if given.is_list:
            join = graph.dependencies(node)[0] if graph.dependency_count(node) == 1 else node
            takers[join] += 1
            if join == node and given.values <= _LIST_MAX:
                said = "a task with several dependencies takes the list of their values as its first argument"
                report.add("list-input", place, node=name, said=said)
            elif given.values > _LIST_MAX and takers[join] == 1:
                report.add("huge-list", place, node=name, subject=str(given.values), said=_words_for_list(graph, join, given))


def _input_of(graph: Graph, node: int, signature: Signature) -> _Input:
    count = graph.dependency_count(node)
    if signature.immutable or not count:
        return _Input()
    if count > 1:
        return _Input(count, is_list=True)
    dependency = graph.last_dependency(node)
    assert dependency is not None
    if graph.is_join(dependency):
        return _Input(graph.dependency_count(dependency), is_list=True)
    return _Input(1)


def _words_for_list(graph: Graph, join: int, given: _Input) -> str:
    share = _VALUE_BYTES_MAX // given.values
    words = f"a task takes {given.words}: more than {share:,} bytes each go beyond the daemon's limit for one value (16 MiB)"
    copies = sum(graph.takes_input(dependent) for dependent in graph.dependents(join)) if graph.is_join(join) else 1
    return f"{words}, and the list is copied into {copies:,} messages" if copies > 1 else words


class _Call(NamedTuple):
    """A signature, read."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]


def _faults_of(signature: Signature, given: _Input, surroundings: _Surroundings, *, is_taken: bool) -> Iterator[_Fault]:
    try:
        call = _Call(signature.task, *(json.loads(text) for text in (signature.args, signature.kwargs, signature.options)))
    except (ValueError, RecursionError) as error:
        yield _Fault("unreadable-signature", signature.task, f"the arguments of '{signature.task}' cannot be read: {error}")
        return
    yield from surroundings.faults_of_options(signature.options, call.options)
    yield from _faults_of_times(signature, call.options.get("expires"), surroundings)
    yield from _faults_of_result(call, surroundings.registry.get(call.task), is_taken=is_taken)
    arguments_bytes = len(signature.args) + len(signature.kwargs)
    if arguments_bytes > _ARGUMENTS_BYTES_MAX:
        said = f"the arguments of '{call.task}' have {arguments_bytes:,} bytes, which are stored, and sent with each attempt"
        yield _Fault("large-arguments", call.task, said)
    for task in _task_names_of(call):
        yield from surroundings.faults_of_task(task)
    yield from _faults_of_queue(call, surroundings)
    parameters = surroundings.parameters_of(call.task)
    if parameters is not None:
        yield from _faults_of_arguments(call, given, parameters)


def _faults_of_times(signature: Signature, expires: Any, surroundings: _Surroundings) -> Iterator[_Fault]:
    now = surroundings.now
    delay_s = signature.countdown_s or max(0.0, signature.eta_at - now if signature.eta_at else 0.0)
    if delay_s:
        is_long = delay_s > surroundings.visibility_timeout_s
        limit = f"{surroundings.visibility_timeout_s:,.0f} s"
        said = f"a task starts later, beyond the broker's visibility timeout of {limit}" if is_long else ""
        yield _Fault("countdown-in-daemon", "long" if is_long else "", said)
    if _is_number(expires) and 0 < expires < delay_s:
        said = f"it expires after {expires:g} s and starts after {delay_s:g} s"
        native = "it counts both from the moment of sending, and never runs it"
        said = f"{said}\nCelery: {native}\nhere: `expires` counts from the start"
        yield _Fault("expires-before-start", "relative", said)
    elif (moment := _moment_of(expires)) is not None and now < moment <= now + delay_s:
        yield _Fault("expires-before-start", "absolute", "a task expires before it starts, so that it never runs", "error")


def _faults_of_result(call: _Call, task: Any, *, is_taken: bool) -> Iterator[_Fault]:
    taken = ", and another task takes its value" if is_taken else ""
    if getattr(task, "ignore_result", False):
        said = (
            f"task '{call.task}' has `ignore_result` in its class{taken}; workers before Celery 5.7 obey that, and it never ends"
        )
        yield _Fault("ignore-result-forced", call.task + taken, said, "warning")
    elif call.options.get("ignore_result") is True:
        yield _Fault("ignore-result-forced", taken, f"a task ignores its result{taken}")


def _task_names_of(call: _Call) -> Iterator[str]:
    """Return the task, and the one that `celery.map` or `celery.starmap` calls. Celery's own are known everywhere."""
    inner = call.kwargs.get("task") if call.task in ("celery.map", "celery.starmap") else None
    names = [call.task, inner.get("task") if isinstance(inner, dict) else None]
    yield from (name for name in names if isinstance(name, str) and not name.startswith("celery."))


def _faults_of_queue(call: _Call, surroundings: _Surroundings) -> Iterator[_Fault]:
    if not isinstance(call.options.get("queue"), str | None):
        return
    try:
        queue = surroundings.queue_of(call)
    # Routers are the user's own code.
    except Exception as error:
        yield _Fault("routing-failed", call.task, f"'{call.task}' cannot be routed: {type(error).__name__}: {error}")
        return
    if queue is not None:
        yield from surroundings.faults_of_queue(queue)


def _faults_of_arguments(call: _Call, given: _Input, parameters: inspect.Signature) -> Iterator[_Fault]:
    args = [None, *call.args] if given.values else call.args
    refusal = _refusal(parameters, args, call.kwargs)
    if refusal is None:
        return
    function = f"'{call.task}{parameters}'"
    subject = f"{call.task} {refusal}"
    words = _call_words(args, call.kwargs, given)
    twice = next((name for name in _filled_by_position(parameters, len(args)) if name in call.kwargs), None)
    if twice is not None:
        yield _Fault("argument-given-twice", subject, f"{function} is given {words}: `{twice}` would have two values")
    elif given.values and _refusal(parameters, call.args, call.kwargs) is None:
        said = f"{function} is given {given.words} by what precedes it, which it does not take: {refusal}"
        yield _Fault("unexpected-input", subject, said)
    else:
        yield _Fault("arguments-do-not-fit", subject, f"{function} is given {words}: {refusal}")


def _filled_by_position(parameters: inspect.Signature, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters.parameters.values() if parameter.kind in kinds]
    return [each.name for each in positional[:count] if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]


def _refusal(parameters: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    try:
        parameters.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def _call_words(args: Sequence[Any], kwargs: Mapping[str, Any], given: _Input) -> str:
    words = f"{len(args)} positional argument{'' if len(args) == 1 else 's'}"
    if given.values:
        words = f"{words} (the first is {given.words} from what precedes it)"
    return f"{words} and {_listing(list(kwargs))}" if kwargs else words


# --- options --------------------------------------------------------------------------------------------------------

_TEXT: Final = ("queue", "routing_key", "exchange", "serializer", "compression", "shadow", "argsrepr", "kwargsrepr")
_SECONDS: Final = ("countdown", "time_limit", "soft_time_limit", "expiration", "timeout", "confirm_timeout")
_KNOWN_OPTIONS: Final = frozenset(
    {*_TEXT, *_SECONDS, *_CALLBACKS, *RESERVED_OPTIONS, "priority", "eta", "expires", "headers", "ignore_result"}
    | {"stamped_headers", "delivery_mode", "mandatory", "immediate", "declare", "add_to_parent", "origin", "router"}
    | {"publisher", "result_cls", "task_type", "route_name", "exchange_type", "event_dispatcher"}
    # Of a message in AMQP.
    | {"content_type", "content_encoding", "message_id", "user_id", "app_id", "cluster_id", "timestamp", "type"}
)
#: Subjects of what the import of a canvas and the decoding of a document refuse themselves.
_UNREADABLE: Final = RESERVED_OPTIONS | {"countdown", "eta"}
_COMPRESSIONS: Final = frozenset(
    {"gzip", "zlib", "bzip2", "bzip", "lzma", "xz", "zstd", "zstandard", "brotli"}
    | {"application/x-gzip", "application/x-bz2", "application/x-lzma", "application/zstd", "application/x-brotli"}
)


def _faults_of_options(options: Mapping[str, Any]) -> Iterator[_Fault]:
    """Check the publish options of one task."""
    given = {str(name): value for name, value in options.items() if value is not None}
    for name in _TEXT:
        if name in given and not isinstance(given[name], str):
            yield _bad_option(name, given[name], "text")
    for name in _SECONDS:
        if name in given and not _is_number(given[name]):
            yield _bad_option(name, given[name], "a number of seconds")
    for name, form, word in (("headers", Mapping, "a mapping"), ("stamped_headers", list | tuple, "a list of names")):
        if name in given and not isinstance(given[name], form):
            yield _bad_option(name, given[name], word)
    for name in _CALLBACKS:
        if name in given and not _are_signatures(given[name]):
            yield _bad_option(name, given[name], "a signature or a list of them")
    if isinstance(given.get("serializer"), str) and given["serializer"] not in SERIALIZERS:
        yield _Fault("serializer-refused", given["serializer"], f"serializer '{given['serializer']}' is not accepted")
    if isinstance(given.get("compression"), str) and given["compression"] not in _COMPRESSIONS:
        yield _Fault("unknown-compression", given["compression"], f"kombu has no compression '{given['compression']}'")
    yield from _faults_of_priority(given.get("priority"))
    yield from _faults_of_moments(given)
    stamps = given.get("stamped_headers")
    known = _KNOWN_OPTIONS | set(map(str, stamps)) if isinstance(stamps, list | tuple) else _KNOWN_OPTIONS
    for name in given.keys() - known:
        said = f"'{name}' is no publish option{_resembling(name, _KNOWN_OPTIONS)}"
        yield _Fault("unknown-option", name, said)


def _faults_of_callbacks(options: Mapping[str, Any]) -> Iterator[_Fault]:
    for name, word in (("link", "callback"), ("link_error", "error callback")):
        if options.get(name):
            said = f"`{name}` is called by the worker: the {word} has no state here and is not waited for"
            yield _Fault("link-untracked", name, said)


def _faults_of_priority(priority: Any) -> Iterator[_Fault]:
    if priority is None:
        return
    if not isinstance(priority, int) or isinstance(priority, bool):
        yield _bad_option("priority", priority, "a whole number")
    elif not 0 <= priority <= 255:
        yield _Fault("bad-option", "priority range", f"`priority` is {priority}, and must be 0 to 9 (255 on RabbitMQ)")
    elif priority > 9:
        yield _Fault("priority-range", "", f"`priority` is {priority}: Redis takes all above 9 for 9")


def _faults_of_moments(given: Mapping[str, Any]) -> Iterator[_Fault]:
    eta, expires = given.get("eta"), given.get("expires")
    if eta is not None and not _is_number(eta) and _moment_of(eta) is None:
        yield _bad_option("eta", eta, "a time, as datetime or in ISO 8601")
    if expires is None:
        return
    if _is_number(expires):
        if expires <= 0:
            yield _Fault("expires-passed", "", f"`expires` is {expires:g} s, so the task has expired when it is sent")
        return
    moment = _moment_of(expires)
    if moment is None:
        yield _bad_option("expires", expires, "a number of seconds or a time")
    elif moment <= time.time():
        when = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
        yield _Fault("expires-passed", "", f"`expires` is {when}, which has passed")


def _bad_option(name: str, value: Any, wanted: str) -> _Fault:
    shown = repr(value)
    shown = shown if len(shown) <= 50 else f"{shown[:50]}…"
    return _Fault("bad-option", name, f"`{name}` must be {wanted}, and is {shown} ({type(value).__name__})")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _moment_of(value: Any) -> float | None:
    """Read a time as Unix seconds: a datetime, ISO 8601, or kombu's typed form. Without a time zone it is in UTC."""
    text = value.get("__value__") if isinstance(value, Mapping) else value
    if isinstance(text, str):
        try:
            text = datetime.fromisoformat(text)
        except ValueError:
            return None
    if not isinstance(text, datetime):
        return None
    return (text if text.tzinfo else text.replace(tzinfo=UTC)).timestamp()


def _are_signatures(callbacks: Any) -> bool:
    callbacks = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return all(isinstance(callback, Mapping) and isinstance(callback.get("task"), str) for callback in callbacks)


# --- words ----------------------------------------------------------------------------------------------------------


def _listing(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _resembling(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
