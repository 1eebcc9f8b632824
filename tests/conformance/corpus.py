"""Hand-written canvases, one for each row and variant of what Celery promises, and what is expected of both sides.

A case without ``differs`` is one in which Celery and we do the same: the value, every call with its arguments and options, how
often, and in which order. Labels are single letters; the values spell out the calls, see `tests.conformance.tasks`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import chain, chord, group, signature
from celery.canvas import StampingVisitor, _chain

from tests.conformance.runs import Factory, Tasks


@dataclass(frozen=True, slots=True)
class Case:
    """One canvas.

    Attributes:
        name: Says what it is.
        make: Makes the canvas, once for each side.
        shows: The keys of the known differences that it shows. A side-by-side case must differ on the versions that these are
            for, and must not on others.
        ours: What comes out on our side.
        is_racy: The difference depends on which of Celery's processes is faster, and is not asked for each time.
        pending: What has to be built before both do the same; the case must differ until then.
    """

    name: str
    make: Factory
    shows: tuple[str, ...] = ()
    ours: str = ""
    pending: str = ""
    is_racy: bool = False


def _frozen(canvas: Any) -> Any:
    canvas.freeze()
    return canvas


def _as_dict(canvas: Any) -> Any:
    return signature(json.loads(json.dumps(canvas)), app=canvas.app)


def _immutable(canvas: Any) -> Any:
    canvas.set_immutable(True)
    return canvas


def _flagged(canvas: Any) -> Any:
    canvas["immutable"] = True
    return canvas


def _with_args(canvas: Any, *args: Any) -> Any:
    canvas.args = args
    return canvas


def _linked(canvas: Any, callback: Any) -> Any:
    canvas.link(callback)
    return canvas


def _guarded(canvas: Any, errback: Any) -> Any:
    canvas.link_error(errback)
    return canvas


def _guarded_everywhere(canvas: Any, errback: Any) -> Any:
    conf = canvas.app.conf
    conf.task_allow_error_cb_on_chord_header = True
    try:
        return _guarded(canvas, errback)
    finally:
        conf.task_allow_error_cb_on_chord_header = False


def _stamped(canvas: Any, **stamps: Any) -> Any:
    canvas.stamp(**stamps)
    return canvas


class _ByName(StampingVisitor):  # type: ignore[misc]
    """Stamps each task on its own."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"of": sig.kwargs["at"].rpartition("/")[2], "stamped_headers": ["of"]}


def _visited(canvas: Any) -> Any:
    canvas.stamp(_ByName())
    return canvas


def _lazily(*members: Any) -> Iterator[Any]:
    yield from members


def _twice(task: Any) -> Any:
    return group(task, task)


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


_VALUES: list[Any] = [None, True, 0, 1.5, "", [], {}, [[1], {"k": [None]}], "ż"]


def _giving(value: Any) -> Case:
    def make(t: Tasks) -> Any:
        return t.give("a", value) | t("b")

    return Case(f"value {value!r}", make)


TASKS = [
    Case("one task", lambda t: t("a")),
    Case("one task with arguments", lambda t: t("a", 1, "x", [2, {"k": None}], y=True)),
    Case("one immutable task", lambda t: t.si("a", 1)),
    Case("one task that fails", lambda t: t.fail("a")),
    Case("one task as a dict", lambda t: _as_dict(t("a", 1))),
    Case("one frozen task", lambda t: _frozen(t("a"))),
    Case("clone with further arguments", lambda t: t("a", 2, x=1).clone((1,), {"x": 2, "y": 3})),
    Case("clone of an immutable task ignores arguments", lambda t: t.si("a", 2).clone((1,), {"x": 2})),
    *map(_giving, _VALUES),
]

CHAINS = [
    Case("chain of two", lambda t: chain(t("a"), t("b"))),
    Case("chain of two by |", lambda t: t("a") | t("b")),
    Case("chain of five", lambda t: chain(t("a"), t("b", 1), t("c"), t("d", x=1), t("e"))),
    Case("chain of a list", lambda t: chain([t("a"), t("b")])),
    Case("chain of a generator", lambda t: chain(_lazily(t("a"), t("b"), t("c")))),
    Case("chain of one task", lambda t: chain(t("a"))),
    Case("chain of one task in a list", lambda t: chain([t("a")])),
    Case("chain of the class chain", lambda t: chain(t("a"), t("b"), app=t.app)),
    Case("chain with an immutable step", lambda t: chain(t("a"), t.si("b", 1), t("c"))),
    Case("chain of immutable steps", lambda t: chain(t.si("a"), t.si("b"), t.si("c"))),
    Case("chain in a chain", lambda t: _chain(t("a"), _chain(t("b"), t("c")), t("d"), app=t.app)),
    Case("chain in a chain, at the front", lambda t: _chain(_chain(t("a"), t("b")), t("c"), app=t.app)),
    Case("chain | chain", lambda t: (t("a") | t("b")) | (t("c") | t("d"))),
    Case("task | chain", lambda t: t("a") | (t("b") | t("c"))),
    Case("partial arguments and keywords", lambda t: t("a") | t("b", 1, 2, x=3) | t("c", y=[4])),
    Case("chain as a dict", lambda t: _as_dict(t("a") | t("b"))),
    Case("chain of dicts", lambda t: _chain(json.loads(json.dumps(t("a"))), json.loads(json.dumps(t("b"))), app=t.app)),
    Case("frozen chain", lambda t: _frozen(t("a") | t("b") | t("c"))),
    Case("chain with arguments of its own", lambda t: _with_args(chain(t("a", 2), t("b")), 1)),
    Case("chain with arguments before an immutable task", lambda t: _with_args(chain(t.si("a", 2), t("b")), 1)),
    Case("the same signature twice in a chain", lambda t: (lambda a: a | a | a)(t("a"))),
    Case("chain with a task of another queue", lambda t: t("a") | t("b").set(queue="other") | t("c")),
    Case("chain fails at its first", lambda t: t.fail("a") | t("b") | t("c")),
    Case("chain fails in its middle", lambda t: t("a") | t.fail("b") | t("c")),
    Case("chain fails at its last", lambda t: t("a") | t("b") | t.fail("c")),
    Case("reduced with |=", lambda t: _piped(t("a"), t("b"), t("c"))),
]


def _piped(first: Any, *others: Any) -> Any:
    for other in others:
        first |= other
    return first


GROUPS = [
    Case("group", lambda t: group(t("a"), t("b"), t("c"))),
    Case("group of a list", lambda t: group([t("a"), t("b")])),
    Case("group of a generator", lambda t: group(_lazily(t("a"), t("b"), t("c")))),
    Case("group of a set of arguments", lambda t: group(t("a", n) for n in range(4))),
    Case("group of one", lambda t: group(t("a"))),
    Case("group of one in a list", lambda t: group([t("a")])),
    Case("group of a group", lambda t: group(group(t("a"), t("b")))),
    Case("group in a group", lambda t: group(t("a"), group(t("b"), t("c")), t("d"))),
    Case("groups three deep", lambda t: group(t("a"), group(t("b"), group(t("c"), t("d"))))),
    Case("group of chains", lambda t: group(t("a") | t("b"), t("c") | t("d"))),
    Case("group of chords", lambda t: group(chord([t("a"), t("b")], t("c")), chord([t("d")], t("e")))),
    Case("group of a chain that ends in a group", lambda t: group(chain(t("a"), group(t("b"), t("c"))))),
    Case("group with a chain that ends in a group", lambda t: group(chain(t("a"), group(t("b"), t("c"))), t("d"))),
    Case("group with an empty chain", lambda t: group([t("a"), _chain(app=t.app)]), shows=("broken-in-5.6",)),
    Case("empty group", lambda t: t.group([])),
    Case("empty chain", lambda t: _chain(app=t.app), shows=("empty-chain",), ours="refused EmptyWorkflow"),
    Case("empty chord", lambda t: chord([], t.group([]), app=t.app)),
    Case(
        "a task that adds to its chord",
        lambda t: chord([t("a"), t.make("adds", "b")], t("c")),
        shows=("add-to-chord",),
    ),
    Case(
        "group in the request", lambda t: group(t.make("asks", "a"), t.make("asks", "b")), shows=("request-fields", "own-chain")
    ),
    Case("group with an empty group", lambda t: group([t("a"), t.group([])])),
    Case("the same signature twice in a group", lambda t: _twice(t("a"))),
    Case("group of dicts", lambda t: t.group([json.loads(json.dumps(t("a"))), json.loads(json.dumps(t("b")))])),
    Case("group as a dict", lambda t: _as_dict(group(t("a"), t("b")))),
    Case("frozen group", lambda t: _frozen(group(t("a"), t("b")))),
    Case("group of immutables", lambda t: _immutable(group(t("a"), t("b")))),
    Case("group with a member that fails", lambda t: group(t("a"), t.fail("b"), t("c"))),
    Case("group with two that fail", lambda t: group(t.fail("a"), t("b"), t.fail("c"))),
    Case("group with a chain that fails", lambda t: group(t("a"), t.fail("b") | t("c"))),
]

FANS = [
    Case("group | task", lambda t: group(t("a"), t("b")) | t("c")),
    Case("task | group", lambda t: t("a") | group(t("b"), t("c"))),
    Case("task | group | task", lambda t: t("a") | group(t("b"), t("c")) | t("d")),
    Case("chain(task, group, task)", lambda t: chain(t("a"), group(t("b", 1), t("c", x=2)), t("d", 3))),
    Case("raw chain(task, group, task)", lambda t: _chain(t("a"), group(t("b"), t("c")), t("d"), app=t.app)),
    Case("raw chain(group, task)", lambda t: _chain(group(t("a"), t("b")), t("c"), app=t.app)),
    Case("raw chain(group, task, task)", lambda t: _chain(group(t("a"), t("b")), t("c"), t("d"), app=t.app)),
    Case("group | chain", lambda t: group(t("a"), t("b")) | (t("c") | t("d"))),
    Case("chain | group", lambda t: (t("a") | t("b")) | group(t("c"), t("d"))),
    Case("group | immutable task", lambda t: group(t("a"), t("b")) | t.si("c")),
    Case("task | group with immutables", lambda t: t("a") | group(t("b"), t.si("c"))),
    Case("task | immutable group", lambda t: t("a") | _immutable(group(t("b"), t("c"))) | t("d")),
    Case("group | group", lambda t: group(t("a"), t("b")) | group(t("c"), t("d"))),
    Case("chain(group, group)", lambda t: chain(group(t("a"), t("b")), group(t("c"), t("d")))),
    Case("chain(task, group, group)", lambda t: chain(t("x"), group(t("a"), t("b")), group(t("c"), t("d")))),
    Case("group | group | task", lambda t: group(t("a"), t("b")) | group(t("c"), t("d")) | t("e")),
    Case("chain(group, group, task)", lambda t: chain(group(t("a"), t("b")), group(t("c"), t("d")), t("e"))),
    Case("raw chain(group, group, task)", lambda t: _chain(group(t("a"), t("b")), group(t("c"), t("d")), t("e"), app=t.app)),
    Case("group | task | group | task", lambda t: group(t("a"), t("b")) | t("c") | group(t("d"), t("e")) | t("f")),
    Case("group | task | group", lambda t: group(t("a"), t("b")) | t("c") | group(t("d"), t("e"))),
    Case(
        "task | group | task | group | task",
        lambda t: t("a") | group(t("b"), t("c")) | t("d") | group(t("e"), t("f")) | t("g"),
    ),
    Case(
        "chain(group, group, group)",
        lambda t: chain(*(group(t(x), t(y)) for x, y in ("ab", "cd", "ef"))),
        shows=("chain-of-groups",),
        ours="value [e([c([a(),b()]),d([a(),b()])]),f([c([a(),b()]),d([a(),b()])])]",
    ),
    Case(
        "group | group | group",
        lambda t: group(t("a"), t("b")) | group(t("c"), t("d")) | group(t("e"), t("f")),
        shows=("chain-of-groups",),
    ),
    Case("chain(group, group, group, task)", lambda t: chain(*(group(t(x), t(y)) for x, y in ("ab", "cd", "ef")), t("g"))),
    Case("chain(task, group, group, group)", lambda t: chain(t("x"), *(group(t(x), t(y)) for x, y in ("ab", "cd", "ef")))),
    Case("group of one | task", lambda t: group([t("a")]) | t("b")),
    Case(
        "chain(group of one, task)",
        lambda t: chain(group([t("a")]), t("b")),
        shows=("one-member-group-unrolled",),
        ours="value b(a())",
    ),
    Case("raw chain(group of one, task)", lambda t: _chain(group([t("a")]), t("b"), app=t.app)),
    Case("task | group of one", lambda t: t("a") | group([t("b")])),
    Case("task | group of one | task", lambda t: t("a") | group([t("b")]) | t("c")),
    Case("chain(task, group of one, task)", lambda t: chain(t("a"), group([t("b")]), t("c"))),
    Case("raw chain(task, group of one, task)", lambda t: _chain(t("a"), group([t("b")]), t("c"), app=t.app)),
    Case("raw chain(task, group of one)", lambda t: _chain(t("a"), group([t("b")]), app=t.app)),
    Case("group of one chain, task", lambda t: _chain(group([t("a") | t("b")]), t("c"), app=t.app)),
    Case("group | group of one", lambda t: group(t("a"), t("b")) | group([t("c")])),
    Case("group | group of one | task", lambda t: group(t("a"), t("b")) | group([t("c")]) | t("d")),
    Case(
        "empty group in a raw chain",
        lambda t: _chain(t("a"), t.group([]), t("b"), app=t.app),
        shows=("empty-group-in-chain",),
        ours="value b(a())",
    ),
    Case("empty group in chain()", lambda t: chain(t("a"), t.group([]), t("b"))),
    Case("task | empty group | task", lambda t: t("a") | t.group([]) | t("b")),
    Case("empty group first in a raw chain", lambda t: _chain(t.group([]), t("a"), app=t.app), shows=("empty-group-in-chain",)),
    Case("empty group | task", lambda t: t.group([]) | t("a")),
    Case("empty group last in a raw chain", lambda t: _chain(t("a"), t.group([]), app=t.app), shows=("empty-group-in-chain",)),
    Case("task | empty group", lambda t: t("a") | t.group([]), shows=("empty-group-in-chain",)),
    Case(
        "group of groups | task",
        lambda t: group(group(t("a"), t("b")), group(t("c"), t("d"))) | t("e"),
        shows=("nested-group-order",),
        ours="value e([a(),b(),c(),d()])",
    ),
    Case(
        "group with a group inside | task",
        lambda t: group(t("a"), group(t("b"), t("c"), t("d")), t("e")) | t("f"),
        shows=("nested-group-order",),
        ours="value f([a(),b(),c(),d(),e()])",
    ),
    Case(
        "task | group in a group | task",
        lambda t: t("x") | group(t("a"), group(t("b"), t("c"))) | t("d"),
        shows=("nested-group-order",),
    ),
    Case("group of chains | task", lambda t: group(t("a") | t("b"), t("c") | t("d")) | t("e")),
    Case("group of fans | task", lambda t: group(t("a") | group(t("b"), t("c")) | t("d"), t("e")) | t("f")),
    Case("group of chains that end in groups | task", lambda t: group(t("a") | group(t("b"), t("c")), t("d")) | t("e")),
    Case("group of a generator | task", lambda t: group(t("a", n) for n in range(3)) | t("b")),
    Case("task | group of a generator | task", lambda t: t("a") | group(t("b", n) for n in range(3)) | t("c")),
    Case(
        "raw chain(chord with a group body, task)",
        lambda t: _chain(chord([t("a")], group(t("b"), t("c"))), t("d"), app=t.app),
        shows=("chain-of-groups",),
        ours="value d([b([a()]),c([a()])])",
    ),
    Case(
        "raw chain(chord with a group body of one, task)",
        lambda t: _chain(chord([t("a"), t("b")], t.group([t("c")])), t("d"), app=t.app),
        ours="value d(c([a(),b()]))",
    ),
    Case(
        "raw chain(chord with a group body of one, group)",
        lambda t: _chain(chord([t("a"), t("b")], t.group([t("c")])), group(t("d"), t("e")), app=t.app),
    ),
    Case(
        "raw chain(chord with a group body of one chain, task)",
        lambda t: _chain(t("x"), chord([t("a")], t.group([t("b") | t("c")])), t("d"), app=t.app),
    ),
    Case(
        "raw chain(chord with a chord body with a group body of one, task)",
        lambda t: _chain(chord([t("x")], chord([t("a"), t("b")], t.group([t("c")]))), t("d"), app=t.app),
    ),
    Case(
        "raw chain(chain(task, chord with a group body of one), task)",
        lambda t: _chain(_chain(t("x"), chord([t("a"), t("b")], t.group([t("c")])), app=t.app), t("d"), app=t.app),
    ),
    Case("chord with a group body of one | task", lambda t: chord([t("a"), t("b")], t.group([t("c")])) | t("d")),
    Case("chord with a group body of one | group", lambda t: chord([t("a"), t("b")], t.group([t("c")])) | group(t("d"), t("e"))),
    Case(
        "chord with a group body of one | chord", lambda t: chord([t("a"), t("b")], t.group([t("c")])) | chord([t("d")], t("e"))
    ),
    Case("chain(group, group of one, task)", lambda t: chain(group(t("a"), t("b")), t.group([t("c")]), t("d"))),
    Case("chain(group, group of one, group)", lambda t: chain(group(t("a"), t("b")), t.group([t("c")]), group(t("d"), t("e")))),
    Case(
        "chain(group, group of one, chain)",
        lambda t: chain(group(t("a"), t("b")), t.group([t("c")]), chain(t("d"), t("e"))),
        shows=("broken-in-5.6",),
        ours="value e(d(c([a(),b()])))",
    ),
    Case("raw chain(group, group of one, task)", lambda t: _chain(group(t("a"), t("b")), t.group([t("c")]), t("d"), app=t.app)),
    Case(
        "chord with a chain to a group of chords in its header",
        lambda t: chord([t("a"), t("b") | group(chord([t("c")], t("d")), t("e"))], t("f")),
        shows=("group-body-of-containers",),
        ours="value f([a(),[d([c(b())]),e(b())]])",
    ),
    Case(
        "chord with a chord to a group of chords in its header",
        lambda t: chord([t("a"), chord([t("b")], group(chord([t("c")], t("d")), t("e")))], t("f")),
        shows=("group-body-of-containers",),
        ours="value f([a(),[d([c([b()])]),e([b()])]])",
    ),
    Case(
        "task | group of a raw chain that starts with a group",
        lambda t: t("x") | group(_chain(group(t("a"), t("b")), t("c"), app=t.app), t("d")),
        shows=("group-first-in-member",),
        ours="value [c([a(x()),b(x())]),d(x())]",
    ),
    Case(
        "task | group of a chain that starts with a group",
        lambda t: t("x") | group(group(t("a"), t("b")) | t("c"), t("d")),
    ),
    Case(
        "lazy group with a chain that ends in a group | task",
        lambda t: _chain(group(_lazily(t("a") | group(t("b"), t("c")), t("d")), app=t.app), t("e"), app=t.app),
        shows=("lazy-group",),
        ours="value e([[b(a()),c(a())],d()])",
    ),
    Case("same group twice", lambda t: (lambda g: g | t("c") | g)(group(t("a"), t("b")))),
    Case("member of a group fails before a task", lambda t: group(t("a"), t.fail("b")) | t("c")),
    Case("task fails before a group", lambda t: t.fail("a") | group(t("b"), t("c")), shows=("failure-hangs",), ours="failed a"),
    Case("task says that it has succeeded", lambda t: t.make("says", "a") | t("b"), shows=("own-end",), ours="value b(early)"),
    Case("task ends its chain", lambda t: t.make("closes", "a") | t("b"), shows=("own-chain",), ours="value b(a())"),
    Case("task fails after a group", lambda t: group(t("a"), t("b")) | t.fail("c") | t("d")),
    Case("member of a fan fails", lambda t: t("a") | group(t("b"), t.fail("c")) | t("d") | t("e"), shows=("5.6:failure-hangs",)),
    Case("member of a second group fails", lambda t: group(t("a"), t("b")) | group(t("c"), t.fail("d")) | t("e")),
]

CHORDS = [
    Case("chord", lambda t: chord([t("a"), t("b")], t("c"))),
    Case("chord called with its body", lambda t: chord([t("a"), t("b")], app=t.app).clone(kwargs={"body": t("c")})),
    Case("chord of a group", lambda t: chord(group(t("a"), t("b")), t("c"))),
    Case("chord of a generator", lambda t: chord((t("a", n) for n in range(3)), t("c"))),
    Case("chord of one", lambda t: chord([t("a")], t("b"))),
    Case("chord of a single signature", lambda t: chord(t("a"), t("b"))),
    Case("chord of a group of one", lambda t: chord(group([t("a")]), t("b"))),
    Case("chord with an immutable body", lambda t: chord([t("a"), t("b")], t.si("c"))),
    Case("chord with immutable members", lambda t: chord([t.si("a"), t.si("b")], t("c", 1, x=2))),
    Case("chord of nothing", lambda t: chord([], t("b"), app=t.app)),
    Case("chord of nothing with arguments", lambda t: chord([], t("b", 1, x=2), app=t.app)),
    Case("chord of nothing with an immutable body", lambda t: chord([], t.si("b"), app=t.app)),
    Case("chord of nothing before a task", lambda t: chord([], t("b"), app=t.app) | t("c")),
    Case("task before a chord of nothing", lambda t: chain(t("a"), chord([], t("b"), app=t.app))),
    Case(
        "chord of a chain",
        lambda t: chord(chain(t("a"), t("b")), t("c")),
        shows=("chord-of-chain-parallel",),
        ours="value c([a(),b()])",
    ),
    Case("chord of a list with a chain", lambda t: chord([chain(t("a"), t("b"))], t("c"))),
    Case("chord of chains", lambda t: chord([t("a") | t("b"), t("c") | t("d") | t("e")], t("f"))),
    Case(
        "chord with a group in its header",
        lambda t: chord([t("a"), group(t("b"), t("c")), t("d")], t("e")),
        shows=("nested-group-order",),
        ours="value e([a(),b(),c(),d()])",
    ),
    Case("chord with a group of one in its header", lambda t: chord([t("a"), group([t("b")])], t("c"))),
    Case(
        "chord with a group first in its header",
        lambda t: chord([group(t("a"), t("b")), t("c")], t("d")),
        shows=("nested-group-order",),
    ),
    Case(
        "chord with groups in groups",
        lambda t: chord([t("a"), group(t("b"), group(t("c"), t("d")))], t("e")),
        shows=("nested-group-order",),
        ours="value e([a(),b(),c(),d()])",
    ),
    Case("chord with a chord in its header", lambda t: chord([chord([t("a"), t("b")], t("c")), t("d")], t("e"))),
    Case("chord with a fan in its header", lambda t: chord([t("a") | group(t("b"), t("c")) | t("d"), t("e")], t("f"))),
    Case("chord with a chain to a group", lambda t: chord([t("a") | group(t("b"), t("c")), t("d")], t("e"))),
    Case("chord with a chain to a group, last", lambda t: chord([t("d"), t("a") | group(t("b"), t("c"))], t("e"))),
    Case("chord with a chord to a group in its header", lambda t: chord([group(t("a"), t("b")) | group(t("c"), t("d"))], t("e"))),
    Case(
        "chord with a raw chain with a group of chords as its body",
        lambda t: chord([t("a")], _chain(t("b"), group(chord([t("c")], t("d")), t("e")), t("f"), app=t.app)),
        shows=("chord-in-raw-body",),
        ours="value f([d([c(b([a()]))]),e(b([a()]))])",
    ),
    Case(
        "chord with a chord with a group body of one in its header",
        lambda t: chord([chord([t("a")], t.group([t("b")])), t("c")], t("d")),
        shows=("broken-in-5.6",),
        ours="value d([[b([a()])],c()])",
    ),
    Case("chord with a chain as its body", lambda t: chord([t("a"), t("b")], t("c") | t("d"))),
    Case("chord with a longer chain as its body", lambda t: chord([t("a"), t("b")], chain(t("c"), t.si("d"), t("e")))),
    Case("chord with a group as its body", lambda t: chord([t("a"), t("b")], group(t("c"), t("d")))),
    Case("chord with a group of one as its body", lambda t: chord([t("a"), t("b")], group([t("c")]))),
    Case("chord with a chord as its body", lambda t: chord([t("a"), t("b")], chord([t("c"), t("d")], t("e")))),
    Case("chord with a fan as its body", lambda t: chord([t("a"), t("b")], t("c") | group(t("d"), t("e")) | t("f"))),
    Case("chord with a chain to a group as its body", lambda t: chord([t("a"), t("b")], t("c") | group(t("d"), t("e")))),
    Case("chord | task", lambda t: chord([t("a"), t("b")], t("c")) | t("d")),
    Case(
        "chord | chain",
        lambda t: chord([t("a"), t("b")], t("c")) | (t("d") | t("e")),
        shows=("broken-in-5.6",),
        ours="value e(d(c([a(),b()])))",
    ),
    Case("chord | group", lambda t: chord([t("a"), t("b")], t("c")) | group(t("d"), t("e"))),
    Case("chord | group of one", lambda t: chord([t("a"), t("b")], t("c")) | group([t("d")])),
    Case("chord | group | task", lambda t: chord([t("a"), t("b")], t("c")) | group(t("d"), t("e")) | t("f")),
    Case("chord | chord", lambda t: chord([t("a"), t("b")], t("c")) | chord([t("d"), t("e")], t("f"))),
    Case("task | chord", lambda t: t("a") | chord([t("b"), t("c")], t("d"))),
    Case("chain(task, chord, task)", lambda t: chain(t("a"), chord([t("b"), t("c")], t("d")), t("e"))),
    Case(
        "chain of chords",
        lambda t: chain(*(chord([t(x), t(y)], t(z)) for x, y, z in ("abc", "def", "ghi"))),
        shows=("broken-in-5.6",),
    ),
    Case("raw chain of chords", lambda t: _chain(*(chord([t(x), t(y)], t(z)) for x, y, z in ("abc", "def", "ghi")), app=t.app)),
    Case("group | chord", lambda t: group(t("a"), t("b")) | chord([t("c"), t("d")], t("e"))),
    Case("chord with a group body | task", lambda t: chord([t("a"), t("b")], group(t("c"), t("d"))) | t("e")),
    Case(
        "chord with a group body | group",
        lambda t: chord([t("a"), t("b")], group(t("c"), t("d"))) | group(t("e"), t("f")),
        shows=("chain-of-groups",),
    ),
    Case(
        "chord without a body",
        lambda t: chord([t("a"), t("b")], app=t.app),
        shows=("chord-without-body",),
        ours="value [a(),b()]",
    ),
    Case("chord with arguments of its own", lambda t: chord([t("a", 2), t.si("b", 3)], t("c"), args=(1,))),
    Case("chord with keywords of its own", lambda t: chord([t("a", x=1), t("b")], t("c"), kwargs={"kwargs": {"x": 2}})),
    Case("chord with an immutable header", lambda t: t("x") | _immutable(chord([t("a"), t("b")], t("c")))),
    Case("chord as a dict", lambda t: _as_dict(chord([t("a"), t("b")], t("c")))),
    Case("frozen chord", lambda t: _frozen(chord([t("a"), t("b")], t("c")))),
    Case("frozen chord in a chain", lambda t: _frozen(chain(t("x"), chord([t("a"), t("b")], t("c")), t("y")))),
    Case("the same signature twice in a chord", lambda t: (lambda a: chord([a, a], a))(t("a"))),
    Case("chord with a member that fails", lambda t: chord([t("a"), t.fail("b"), t("c")], t("d"))),
    Case("chord with all members failing", lambda t: chord([t.fail("a")], t("d"))),
    Case("chord with a failing chain in its header", lambda t: chord([t("a"), t.fail("b") | t("c")], t("d"))),
    Case("chord with a failing body", lambda t: chord([t("a"), t("b")], t.fail("c"))),
    Case("chord fails before a task", lambda t: chord([t("a"), t.fail("b")], t("c")) | t("d")),
    Case("body fails before a task", lambda t: chord([t("a"), t("b")], t.fail("c")) | t("d")),
    Case(
        "inner chord fails in its header",
        lambda t: chord([chord([t("a"), t.fail("b")], t("c")), t("d")], t("e")),
        shows=("failure-hangs",),
        ours="failed b",
    ),
    Case("inner chord fails in its body", lambda t: chord([chord([t("a"), t("b")], t.fail("c")), t("d")], t("e"))),
    Case("body that is a chord fails in its header", lambda t: chord([t("a")], chord([t("b"), t.fail("c")], t("d")))),
    Case(
        "chord with a group body fails in its header",
        lambda t: chord([t("a"), t.fail("b")], group(t("c"), t("d"))),
        shows=("group-body-revoked",),
        is_racy=True,
    ),
    Case("group body fails", lambda t: chord([t("a"), t("b")], group(t("c"), t.fail("d")))),
]

MAPS = [
    Case("map", lambda t: t.task().map([t.item("a"), t.item("b")])),
    Case("starmap", lambda t: t.task().starmap([(t.item("a"), 1), (t.item("b"), 2)])),
    Case("map | task", lambda t: t.task().map([t.item("a"), t.item("b")]) | t("c")),
    Case("task | map", lambda t: t("a") | t.task().map([t.item("b"), t.item("c")]) | t("d")),
    Case("group of maps", lambda t: group(t.task().map([t.item("a")]), t.task().starmap([(t.item("b"), 1)])) | t("c")),
    Case("map of a generator", lambda t: t.task().map(_lazily(t.item("a"), t.item("b")))),
    Case("map of nothing", lambda t: t.task().map([]) | t("a")),
    Case("map with a queue", lambda t: t.task().map([t.item("a")]).set(queue="other"), shows=("map-options",)),
    Case("map of a task that is routed by name", lambda t: t.task("routed").map([t.item("a")])),
    Case(
        "starmap of a task that is routed by name",
        lambda t: t.task("routed").starmap([(t.item("a"), 1)]) | t("b"),
        shows=("map-routes",),
    ),
    Case("map that fails", lambda t: t.task("fail").map([t.item("a"), t.item("b")]) | t("c")),
    Case("chunks", lambda t: t.task().chunks([(t.item(x), n) for n, x in enumerate("abc")], 2)),
    Case("chunks as a group", lambda t: t.task().chunks([(t.item(x),) for x in "abcde"], 2).group()),
    Case("chunks | task", lambda t: t.task().chunks([(t.item(x),) for x in "abc"], 2).group() | t("d")),
    Case("chunks in a group", lambda t: t.group([t.task().chunks([(t.item(x),) for x in "abc"], 2).group(), t("d")])),
    Case("task | chunks", lambda t: t("a") | t.task().chunks([(t.item(x),) for x in "bcd"], 2).group()),
    Case(
        "chunks of a task that is routed by name",
        lambda t: t.task("routed").chunks([(t.item(x),) for x in "abc"], 2),
        shows=("map-routes",),
    ),
    Case("map as a dict", lambda t: _as_dict(t.task().map([t.item("a"), t.item("b")]))),
    Case("map with a link", lambda t: _linked(t.task().map([t.item("a")]), t("l")), shows=("map-options",)),
]

LINKS = [
    Case("link on a task", lambda t: _linked(t("a"), t("l"))),
    Case("link on a task with arguments", lambda t: _linked(t("a"), t("l", 1, x=2))),
    Case("immutable link on a task", lambda t: _linked(t("a"), t.si("l"))),
    Case("two links on a task", lambda t: _linked(_linked(t("a"), t("l")), t("m"))),
    Case("link of a link", lambda t: _linked(t("a"), _linked(t("l"), t("m")))),
    Case("link that is a chain", lambda t: _linked(t("a"), t("l") | t("m"))),
    Case("link that is a group", lambda t: _linked(t("a"), group(t("l"), t("m")))),
    Case("link that is a chord", lambda t: _linked(t("a"), chord([t("l"), t("m")], t("n")))),
    Case("link that is a map", lambda t: _linked(t("a"), t.task().map([t.item("l")]))),
    Case("link in options", lambda t: t("a").set(link=t("l"))),
    Case("link with a queue", lambda t: _linked(t("a"), t("l").set(queue="other"))),
    Case("link in the middle of a chain", lambda t: t("a") | _linked(t("b"), t("l")) | t("c")),
    Case("link at the end of a chain", lambda t: t("a") | _linked(t("b"), t("l"))),
    Case("link on a chain", lambda t: _linked(t("a") | t("b"), t("l"))),
    Case("link on a chain of one", lambda t: _linked(chain([t("a")]), t("l"))),
    Case("link on a chain | task", lambda t: _linked(t("a") | t("b"), t("l")) | t("c")),
    Case(
        "link on a chain in a chain",
        lambda t: _chain(t("a"), _linked(t("b") | t("c"), t("l")), t("d"), app=t.app),
        shows=("inner-container-options",),
    ),
    Case("link on a member of a group", lambda t: group(_linked(t("a"), t("l")), t("b"))),
    Case("link on a group", lambda t: _linked(group(t("a"), t("b")), t("l"))),
    Case("link on a group | task", lambda t: _linked(group(t("a"), t("b")), t("l")) | t("c")),
    Case("link on a chain in a group", lambda t: group(_linked(t("a") | t("b"), t("l")), t("c"))),
    Case("link on a chain in a header", lambda t: chord([_linked(t("a") | t("b"), t("l")), t("c")], t("d"))),
    Case("link on a chord", lambda t: _linked(chord([t("a"), t("b")], t("c")), t("l"))),
    Case("link on a member of a header", lambda t: chord([_linked(t("a"), t("l")), t("b")], t("c"))),
    Case("link on a body", lambda t: chord([t("a"), t("b")], _linked(t("c"), t("l")))),
    Case("link on a chord with a chain body", lambda t: _linked(chord([t("a"), t("b")], t("c") | t("d")), t("l"))),
    Case("link on a chord with a group body", lambda t: _linked(chord([t("a"), t("b")], group(t("c"), t("d"))), t("l"))),
    Case("link on a chord of nothing", lambda t: _linked(chord([], t("c"), app=t.app), t("l"))),
    Case("link on a fan", lambda t: _linked(t("a") | group(t("b"), t("c")) | t("d"), t("l")), shows=("broken-in-5.6",)),
    Case("link on a chain to a group", lambda t: _linked(t("a") | group(t("b"), t("c")), t("l"))),
    Case("link on a task that fails", lambda t: _linked(t.fail("a"), t("l"))),
    Case("link that fails", lambda t: _linked(t("a"), t.fail("l")) | t("b")),
    Case("link set on a chain", lambda t: (t("a") | t("b")).set(link=[t("l")])),
    Case("link set on a chord", lambda t: chord([t("a"), t("b")], t("c")).set(link=[t("l")]), shows=("broken-in-5.6",)),
    Case(
        "link set on a group of containers",
        lambda t: group(t("a") | t("b"), chord([t("c")], t("d")), group(t("e"), t("f"))).set(link=[t("l")]),
        shows=("broken-in-5.6",),
    ),
    Case(
        "link set on a group with a linked member",
        lambda t: group(_linked(t("a"), t("m")), t("b")).set(link=[t("l")]),
        shows=("link-error-added", "broken-in-5.6"),
    ),
    Case(
        "link on a fan to a group of containers",
        lambda t: _linked(t("x") | group(t("a") | t("b"), group(t("c"), t("d"))), t("l")),
        shows=("nested-group-order",),
    ),
    Case("link on group | group", lambda t: _linked(group(t("a"), t("b")) | group(t("c"), t("d")), t("l"))),
    Case(
        "link on a raw chain(group, group)",
        lambda t: _linked(_chain(group(t("a"), t("b")), group(t("c"), t("d")), app=t.app), t("l")),
        shows=("broken-in-5.6",),
    ),
    Case(
        "link on a raw chain(group, group of one)",
        lambda t: _linked(_chain(group(t("a"), t("b")), group([t("c")]), app=t.app), t("l")),
        shows=("broken-in-5.6",),
    ),
    Case(
        "link set on a chord with a group body",
        lambda t: chord([t("a"), t("b")], group(t("c") | t("d"), t("e"))).set(link=[t("l")]),
        shows=("broken-in-5.6",),
    ),
    Case(
        "link set on a chord with a nested group body",
        lambda t: chord([t("a"), t("b")], group(group(t("c"), t("d")), t("e"))).set(link=[t("l")]),
        shows=("nested-group-order", "broken-in-5.6"),
    ),
    Case(
        "link on a chain to a chord with a group body",
        lambda t: _linked(_chain(t("x"), chord([t("a")], group(t("c"), t("d"))), app=t.app), t("l")),
        shows=("broken-in-5.6",),
    ),
    Case("link set on a group", lambda t: group(t("a"), t("b")).set(link=[t("l")])),
]

ERRBACKS = [
    Case("link_error on a task", lambda t: _guarded(t.fail("a"), t.failed("e"))),
    Case("link_error of the newer kind", lambda t: _guarded(t.fail("a"), t.failed_here("e"))),
    Case("two errbacks", lambda t: _guarded(_guarded(t.fail("a"), t.failed("e")), t.failed_here("f"))),
    Case("link_error that takes everything", lambda t: _guarded(t.fail("a"), t.si("e"))),
    Case("on_error", lambda t: t.fail("a").on_error(t.failed("e"))),
    Case("link_error on a task that succeeds", lambda t: _guarded(t("a"), t.failed("e"))),
    Case("link_error in the middle of a chain", lambda t: t("a") | _guarded(t.fail("b"), t.failed("e")) | t("c")),
    Case("link_error behind the failure", lambda t: t.fail("a") | _guarded(t("b"), t.failed("e"))),
    Case("link_error on a chain, first fails", lambda t: _guarded(t.fail("a") | t("b"), t.failed("e"))),
    Case("link_error on a chain, last fails", lambda t: _guarded(t("a") | t.fail("b"), t.failed("e"))),
    Case("link_error on a chain and its task", lambda t: _guarded(t("a") | _guarded(t.fail("b"), t.failed("f")), t.failed("e"))),
    Case("link_error on a chain with a group", lambda t: _guarded(t("a") | group(t("b"), t.fail("c")), t.failed("e"))),
    Case(
        "link_error on a chain in a chain",
        lambda t: _chain(t("a"), _guarded(t.fail("b") | t("c"), t.failed("e")), app=t.app),
        shows=("inner-container-options",),
    ),
    Case("link_error on a chain | task", lambda t: _guarded(t("a") | t("b"), t.failed("e")) | t.fail("c")),
    Case("link_error on a group", lambda t: _guarded(group(t("a"), t.fail("b")), t.failed("e"))),
    Case("link_error on a group, both fail", lambda t: _guarded(group(t.fail("a"), t.fail("b")), t.failed("e"))),
    Case(
        "link_error on a group and a member",
        lambda t: _guarded(group(t("a"), _guarded(t.fail("b"), t.failed("f"))), t.failed("e")),
    ),
    Case("link_error on a group of chains", lambda t: _guarded(group(t("a") | t.fail("b"), t("c")), t.failed("e"))),
    Case("link_error on a chain in a group", lambda t: group(_guarded(t("a") | t.fail("b"), t.failed("e")), t("c"))),
    Case("link_error on a chord, body fails", lambda t: _guarded(chord([t("a"), t("b")], t.fail("c")), t.failed("e"))),
    Case("link_error on a body that fails", lambda t: chord([t("a"), t("b")], _guarded(t.fail("c"), t.failed("e")))),
    Case(
        "link_error of the newer kind on a body that fails",
        lambda t: chord([t("a"), t("b")], _guarded(t.fail("c"), t.failed_here("e"))),
    ),
    Case("link_error on a member of a header", lambda t: chord([t("a"), _guarded(t.fail("b"), t.failed("e"))], t("c"))),
    Case(
        "link_error on a chord, member fails",
        lambda t: _guarded(chord([t("a"), t.fail("b")], t("c")), t.failed("e")),
        shows=("header-link-error",),
    ),
    Case(
        "link_error on a body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e"))),
    ),
    Case(
        "link_error of the newer kind on a body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed_here("e"))),
    ),
    Case(
        "link_error of both kinds on a group body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(_guarded(group(t("c"), t("d")), t.failed_here("e")), t.failed("f"))),
        shows=("group-body-revoked",),
        is_racy=True,
    ),
    Case(
        "link_error of the newer kind with an argument of its own on a body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed_there("e", "x"))),
    ),
    Case(
        "link_error on group | task, member fails",
        lambda t: _guarded(group(t("a"), t.fail("b")) | t("c"), t.failed("e")),
    ),
    Case(
        "link_error on a fan, member fails",
        lambda t: _guarded(t("x") | group(t("a"), t.fail("b")) | t("c"), t.failed("e")),
    ),
    Case(
        "link_error on a chain body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c") | t("d"), t.failed("e"))),
    ),
    Case(
        "link_error on a group body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(group(t("c"), t("d")), t.failed("e"))),
        shows=("group-body-revoked",),
        is_racy=True,
    ),
    Case(
        "link_error that is a chain on a body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e") | t("f"))),
        shows=("chord-errback-as-task",),
    ),
    Case(
        "link_error that is an immutable chain on a body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), t.si("e", 1) | t("f"))),
    ),
    Case(
        "link_error that is a chord on a body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), chord([t("e"), t("f")], t("g")))),
    ),
    Case(
        "two link_error on a body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(_guarded(t("c"), t.failed("e")), t.failed("f").set(queue="other"))),
    ),
    Case(
        "link_error on a body and a header, member fails",
        lambda t: (lambda e: chord([t("a"), _guarded(t.fail("b"), e)], _guarded(t("c"), e)))(t.failed("e")),
    ),
    Case(
        "link_error on the first task of a chain body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e")) | t("d")),
        shows=("body-chain-link-error",),
        ours="failed b",
    ),
    Case(
        "link_error on a body before a task, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e"))) | t("d"),
        shows=("body-chain-link-error",),
    ),
    Case(
        "link_error on a body in a chain, member fails",
        lambda t: chain(chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e"))), t("w")),
        shows=("5.6:body-chain-link-error",),
    ),
    Case(
        "link_error on a body in a long chain, member fails",
        lambda t: chain(t("x"), chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e"))), t("w"), t("v")),
        shows=("5.6:body-chain-link-error",),
    ),
    Case(
        "link_error on both tasks of a chain body in a chain, member fails",
        lambda t: chain(
            t("x"),
            chord([t("a"), t.fail("b")], chain(_guarded(t("c"), t.failed("e")), _guarded(t("d"), t.failed("f")))),
            t("w"),
        ),
        shows=("5.6:body-chain-link-error",),
    ),
    Case(
        "link_error on what follows a group in a chain, member fails",
        lambda t: chain(t("x"), group(t("a"), t.fail("b")), _guarded(t("c"), t.failed("e")), t("w")),
        shows=("5.6:body-chain-link-error",),
    ),
    Case(
        "link_error on what follows a group in a chain in a group, as JSON",
        lambda t: _as_dict(group(chain(chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e"))), t("w")), t("z"))),
        shows=("5.6:body-chain-link-error",),
    ),
    Case(
        "link_error on a body in a chain, body fails",
        lambda t: chain(chord([t("a"), t("b")], _guarded(t.fail("c"), t.failed("e"))), t("w")),
    ),
    Case(
        "link_error on a body in a chain, what follows fails",
        lambda t: chain(chord([t("a"), t("b")], _guarded(t("c"), t.failed("e"))), t.fail("w")),
    ),
    Case("link_error of the newer kind on a group", lambda t: _guarded(group(t.fail("a"), t("b")), t.failed_here("e"))),
    Case(
        "link_error on a chain that ends in a group", lambda t: _guarded(chain(t("x"), group(t("a"), t.fail("b"))), t.failed("e"))
    ),
    Case(
        "link_error on a chord with a chord among its header, member fails",
        lambda t: _guarded(chord([t("a"), chord([t("b"), t.fail("f")], t("c"))], t("d")), t.failed("e")),
        shows=("failure-hangs",),
        ours="failed f",
    ),
    Case(
        "link_error on a chord | task, member fails",
        lambda t: _guarded(chord([t("a"), t.fail("b")], t("c")) | t("d"), t.failed("e")),
    ),
    Case(
        "link_error behind a chord whose member fails",
        lambda t: chord([t("a"), t.fail("b")], t("c")) | _guarded(t("d"), t.failed("e")),
    ),
    Case(
        "link_error on a body, chain in its header fails",
        lambda t: chord([t.fail("a") | t("b"), t("d")], _guarded(t("c"), t.failed("e"))),
    ),
    Case(
        "link_error on a raw chain with a group, member fails",
        lambda t: _guarded(_chain(group(t("a"), t.fail("b")), t("c"), app=t.app), t.failed("e")),
    ),
    Case(
        "link_error on a raw fan, member fails",
        lambda t: _guarded(_chain(t("x"), group(t("a"), t.fail("b")), t("c"), app=t.app), t.failed("e")),
    ),
    Case(
        "link_error on a fan, failure before it",
        lambda t: t.fail("x") | group(t("a"), t("b")) | _guarded(t("c"), t.failed("e")),
        shows=("5.6:failure-hangs",),
        ours="failed x",
    ),
    Case(
        "link_error on a body that succeeds",
        lambda t: chord([t("a"), t("b")], _guarded(t("c"), t.failed("e"))) | t("d"),
    ),
    Case(
        "link_error set on a group body, member fails",
        lambda t: chord([t("a"), t.fail("b")], group(t("c"), t("d")).set(link_error=[t.failed("e")])),
        shows=("group-body-revoked",),
        is_racy=True,
    ),
    Case(
        "link_error on members of a group body, member fails",
        lambda t: chord(
            [t("a"), t.fail("b")],
            group(
                _guarded(t("c") | t("d"), t.failed("e")),
                _guarded(chord([t("x")], t("y")), t.failed("f")),
                _guarded(t("z"), t.si("g")),
            ),
        ),
        shows=("group-body-revoked",),
        is_racy=True,
    ),
    Case(
        "link_error on a chord body, member fails",
        lambda t: chord([t("a"), t.fail("b")], _guarded(chord([t("c"), t("d")], t("x")), t.failed("e"))),
        shows=("failure-hangs",),
        ours="failed b",
    ),
    Case(
        "link_error on both chords of a nest, inner member fails",
        lambda t: chord([chord([t("a"), t.fail("b")], _guarded(t("c"), t.failed("e"))), t("d")], _guarded(t("x"), t.failed("f"))),
        shows=("failure-hangs",),
        ours="failed b",
    ),
    Case(
        "link_error on both chords of a nest, inner body fails",
        lambda t: chord([chord([t("a")], _guarded(t.fail("c"), t.failed("e"))), t("d")], _guarded(t("x"), t.failed("f"))),
    ),
    Case(
        "link_error on a chord in a header, inner member fails",
        lambda t: _guarded(chord([chord([t.fail("a"), t("b")], t("c")), t("d")], t("x")), t.failed("e")),
        shows=("failure-hangs",),
    ),
    Case(
        "link_error on a chord, allowed on its header, member fails",
        lambda t: _guarded_everywhere(chord([t("a"), t.fail("b")], t("c")), t.failed("e")),
    ),
    Case(
        "link_error on a chord, allowed on its header, body fails",
        lambda t: _guarded_everywhere(chord([t("a"), t("b")], t.fail("c")), t.failed("e")),
    ),
    Case("link_error set on a chain", lambda t: (t("a") | t.fail("b")).set(link_error=[t.failed("e")])),
    Case("link_error set on a group", lambda t: group(t("a"), t.fail("b")).set(link_error=[t.failed("e")])),
    Case(
        "link_error set on a chord",
        lambda t: chord([t("a"), t("b")], t.fail("c")).set(link_error=[t.failed("e")]),
        shows=("broken-in-5.6",),
    ),
    Case("link_error that is a chain", lambda t: _guarded(t.fail("a"), t.si("e") | t("f"))),
    Case("link_error on an inner group of a chain", lambda t: chain(t("a"), _guarded(group(t("b"), t.fail("c")), t.failed("e")))),
]

OPTIONS = [
    Case("queue", lambda t: t("a").set(queue="other")),
    Case("routing key", lambda t: t("a").set(routing_key="other", exchange="other")),
    Case("priority", lambda t: t("a").set(priority=3)),
    Case("headers", lambda t: t("a").set(headers={"x-team": "storage"})),
    Case("shadow", lambda t: t("a").set(shadow="nice.name")),
    Case("time limits", lambda t: t("a").set(time_limit=60, soft_time_limit=50)),
    Case("serializer", lambda t: t("a", 1).set(serializer="json", compression="gzip")),
    Case("expires in seconds", lambda t: t("a").set(expires=600)),
    Case("expires at a time", lambda t: t("a").set(expires=_soon())),
    Case("expired", lambda t: t("a").set(expires=datetime.now(UTC) - timedelta(seconds=5)) | t("b"), shows=("failure-hangs",)),
    Case("countdown", lambda t: t("a").set(countdown=0.3), shows=("countdown-in-daemon",), ours="value a()"),
    Case("countdown in a chain", lambda t: t("a") | t("b").set(countdown=0.3) | t("c"), shows=("countdown-in-daemon",)),
    Case("countdown in a group", lambda t: group(t("a").set(countdown=0.3), t("b")) | t("c"), shows=("countdown-in-daemon",)),
    Case("eta", lambda t: t("a").set(eta=datetime.now(UTC) + timedelta(seconds=0.4)), shows=("countdown-in-daemon",)),
    Case("eta in the past", lambda t: t("a").set(eta=datetime.now(UTC) - timedelta(seconds=5)), shows=("countdown-in-daemon",)),
    Case("ignore_result", lambda t: t("a").set(ignore_result=True), shows=("ignore-result-forced",), ours="value a()"),
    Case("ignore_result in a chain", lambda t: t("a").set(ignore_result=True) | t("b"), shows=("ignore-result-forced",)),
    Case(
        "ignore_result in a header",
        lambda t: chord([t("a").set(ignore_result=True), t("b")], t("c")),
        shows=("ignore-result-forced",),
    ),
    Case("stamps", lambda t: _stamped(t("a"), team="storage")),
    Case("stamps on a chain", lambda t: _stamped(t("a") | t("b"), team="storage")),
    Case("stamps on a group", lambda t: _stamped(group(t("a"), t("b")), team="storage")),
    Case("stamps on a chord", lambda t: _stamped(chord([t("a"), t("b")], t("c")), team="storage")),
    Case("stamps by a visitor", lambda t: _visited(chain(t("a"), group(t("b"), t("c")), t("d")))),
    Case("stamps on a link", lambda t: _stamped(_linked(t("a"), t("l")), team="storage")),
    Case("route by name", lambda t: t("a") | t.make("routed", "b")),
    Case("queue goes before the route", lambda t: t.make("routed", "a").set(queue="other")),
    Case(
        "options on a chain",
        lambda t: (t("a") | t("b")).set(queue="other", priority=3),
        shows=("chain-options-first-task",),
        ours="value b(a())",
    ),
    Case("options on a chain and its first task", lambda t: (t("a").set(queue="third") | t("b")).set(queue="other")),
    Case(
        "options on a chain that starts with a group",
        lambda t: _chain(group(t("a"), t("b")), t("c"), app=t.app).set(queue="other"),
    ),
    Case(
        "options on a chain that starts with two groups",
        lambda t: _chain(group(t("a"), t("b")), group(t("c"), t("d")), t("e"), app=t.app).set(queue="other"),
    ),
    Case(
        "options on a chain(group, chain)",
        lambda t: _chain(group(t("a"), t("b")), t("c") | t("d"), app=t.app).set(queue="other", countdown=0.2),
        shows=("countdown-in-daemon",),
    ),
    Case(
        "options on a chain(group, chord)",
        lambda t: _chain(group(t("a"), t("b")), chord([t("c")], t("d")), app=t.app).set(queue="other"),
    ),
    Case("options on a chain(group of one, task)", lambda t: _chain(group([t("a")]), t("c"), app=t.app).set(queue="other")),
    Case("options on a fan", lambda t: (t("a") | group(t("b"), t("c")) | t("d")).set(queue="other")),
    Case("options on a group", lambda t: group(t("a").set(queue="third", priority=1), t("b")).set(queue="other")),
    Case("options on a group of chains", lambda t: group(t("a") | t("b"), t("c")).set(queue="other")),
    Case("options on a group | task", lambda t: group(t("a"), t("b")).set(queue="other") | t("c")),
    Case("options on a group in a chain", lambda t: t("a") | group(t("b"), t("c")).set(queue="other")),
    Case("options on a group in a chain before a task", lambda t: t("a") | group(t("b"), t("c")).set(queue="other") | t("d")),
    Case(
        "options on a group in a group",
        lambda t: group(t("a"), group(t("b"), t("c")).set(queue="other")),
        shows=("inner-container-options",),
    ),
    Case("options on a chain in a group", lambda t: group((t("a") | t("b")).set(queue="other"), t("c"))),
    Case(
        "options on a chain in a chain",
        lambda t: _chain(t("a"), (t("b") | t("c")).set(queue="other"), app=t.app),
        shows=("inner-container-options",),
    ),
    Case("options on a chord", lambda t: chord([t("a"), t("b")], t("c")).set(queue="other", priority=3)),
    Case(
        "options on a chord and its tasks",
        lambda t: chord([t("a").set(queue="third")], t("c").set(queue="third")).set(queue="other"),
    ),
    Case("options on a chord with a chain body", lambda t: chord([t("a"), t("b")], t("c") | t("d")).set(queue="other")),
    Case("options on a chord with a group body", lambda t: chord([t("a"), t("b")], group(t("c"), t("d"))).set(queue="other")),
    Case("options on a chord in a chain", lambda t: t("x") | chord([t("a"), t("b")], t("c")).set(queue="other")),
    Case("options on a chord in a group", lambda t: group(chord([t("a"), t("b")], t("c")).set(queue="other"), t("d"))),
    Case("options on a chord in a header", lambda t: chord([chord([t("a")], t("b")).set(queue="other"), t("c")], t("d"))),
    Case("options on a chunks", lambda t: t.task().chunks([(t.item(x),) for x in "abc"], 2).group().set(queue="other")),
    Case("options on a body", lambda t: chord([t("a"), t("b")], (t("c") | t("d")).set(queue="other"))),
    Case("headers on a group", lambda t: group(t("a"), t("b")).set(headers={"x-team": "storage"})),
    Case("countdown on a chain", lambda t: (t("a") | t("b")).set(countdown=0.3), shows=("countdown-in-daemon",)),
    Case("countdown on a group", lambda t: group(t("a"), t("b")).set(countdown=0.3), shows=("countdown-in-daemon",)),
    Case("expires on a chord", lambda t: chord([t("a"), t("b")], t("c")).set(expires=600)),
    Case(
        "immutable chain in a chain",
        lambda t: _chain(t("a"), _flagged(_chain(t("b"), t("c"))), t("d"), app=t.app),
        shows=("inner-container-options",),
        ours="value d(c(b()))",
    ),
    Case("immutable chain after a task by |", lambda t: t("a") | _flagged(_chain(t("b"), t("c")))),
    Case("immutable chain with set_immutable", lambda t: t("a") | _immutable(_chain(t("b"), t("c")))),
    Case(
        "immutable group flag in a chain", lambda t: t("a") | _flagged(group(t("b"), t("c"))), shows=("inner-container-options",)
    ),
    Case("immutable chord flag in a chain", lambda t: _chain(t("a"), _flagged(chord([t("b"), t("c")], t("d"))), app=t.app)),
    Case(
        "arguments on a group",
        lambda t: _with_args(group(t("a", 2), t("b")), 1),
        shows=("group-arguments",),
        ours="value [a(1,2),b(1)]",
    ),
    Case(
        "arguments on a chain in a group",
        lambda t: group(_with_args(chain(t("a", 2), t("b")), 1), t("c")),
        shows=("inner-container-options",),
    ),
    Case(
        "arguments on a chain in a chain",
        lambda t: _chain(t("x"), _with_args(chain(t("a", 2), t("b")), 1), app=t.app),
        shows=("inner-container-options",),
    ),
]

BLOG = [
    Case(
        "the blog's chain of chords",
        lambda t: chain([t("a")] + [chord([t("b", i) for i in range(4)], t.si("c")) for _ in range(5)] + [t("d")]),
    ),
    Case(
        "the blog's groups in groups",
        lambda t: (
            group(
                group(group([t.si("a", i) for i in range(3)]), chain([t.si("b", i) for i in range(3)]))
                | t.si("c")
                | group([t.si("d", i) for i in range(3)])
                | t.si("e"),
                chain([t.si("f", i) for i in range(3)]),
            )
            | t.si("g")
        ),
    ),
    Case("a deep nest", lambda t: _deep(t, 4)),
    Case("a wide fan", lambda t: t("a") | group(t("b", n) for n in range(30)) | t.si("c")),
    Case("a long chain", lambda t: chain(t.si("a", n) for n in range(40))),
    Case("a chain of fans", lambda t: chain(*(step for n in range(3) for step in (group(t("a", n), t("b", n)), t.si("c", n))))),
]


def _deep(t: Tasks, depth: int) -> Any:
    canvas: Any = t("a")
    for level in range(depth):
        canvas = chord([canvas, t("b", level)], t("c", level))
    return canvas


CORPUS = [*TASKS, *CHAINS, *GROUPS, *FANS, *CHORDS, *MAPS, *LINKS, *ERRBACKS, *OPTIONS, *BLOG]
