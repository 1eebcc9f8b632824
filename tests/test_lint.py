"""What `lint` finds, and what it leaves alone: a report that cries wolf is not read."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu.entity import Queue

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.differences import BY_KEY, table
from dyrygentd.lint import _MESSAGES, _RULES, Finding, lint
from dyrygentd.wire import encode_definition

app = Celery("test_lint", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(name="t.add")
def add(x: int, y: int) -> int:
    """Take two arguments."""
    return x + y


@app.task(name="t.ping")
def ping() -> str:
    """Take nothing."""
    return "pong"


@app.task(name="t.total")
def total(numbers: list[int], *, factor: int = 1) -> int:
    """Take a list."""
    return sum(numbers) * factor


@app.task(name="t.anything")
def anything(*args: Any, **kwargs: Any) -> None:
    """Take whatever comes."""


@app.task(name="t.bound", bind=True)
def bound(self: Any, x: int) -> int:
    """Take one argument besides the task itself."""
    return x


@app.task(name="t.injected", typing=False)
def injected(session: object, x: int) -> int:
    """Take one argument that a base class adds."""
    return x


@app.task(name="t.quiet", ignore_result=True)
def quiet(x: int) -> int:
    """Leave no result."""
    return x


a, b, c, d, e, f = (app.signature(f"t.{name}") for name in "abcdef")
"""Tasks that no app knows the function of."""


def codes(what: object, **known: Any) -> dict[str, int]:
    """Return ``{code: count}``."""
    found: dict[str, int] = {}
    for finding in lint(what, **known):
        found[finding.code] = found.get(finding.code, 0) + finding.count
    return found


def only(what: object, code: str, **known: Any) -> Finding:
    """Return the one finding with this code."""
    found = [finding for finding in lint(what, **known) if finding.code == code]
    assert len(found) == 1, lint(what, **known)
    return found[0]


def container(kind: str, tasks: Any, **options: Any) -> dict[str, Any]:
    """Write a chain or group as JSON has it, which Celery has not rewritten while it was built."""
    return {"task": f"celery.{kind}", "subtask_type": kind, "args": [], "kwargs": {"tasks": tasks}, "options": options}


def chord_of(header: Any, body: Any) -> dict[str, Any]:
    """Write a chord as JSON has it."""
    return {
        "task": "celery.chord",
        "subtask_type": "chord",
        "args": [],
        "kwargs": {"header": header, "body": body},
        "options": {},
    }


def failing(task: Any) -> Any:
    """Give a task an error callback."""
    return task.clone().on_error(waiting(f))


def waiting(task: Any) -> Any:
    """Make a signature immutable."""
    return task.clone().set(immutable=True)


# --- where Celery differs -------------------------------------------------------------------------------------------

TWO = container("group", [a, b])
ONE = container("group", [a])
NONE = container("group", [])


@pytest.mark.parametrize(
    ("code", "what", "place"),
    [
        ("chain-of-groups", chain(group(a, b), group(c, d), group(e, f)), "step 2 of the chain"),
        ("chain-of-groups", chain(chord([a, b], group(c, d)), chord([e, f], a)), "step 2 of the chain"),
        ("chain-of-groups", container("chain", [TWO, TWO, TWO]), "step 3 of the chain"),
        ("nested-group-order", chord([a, group(b, c, d), e], f), "member 2 of the chord's header"),
        (
            "nested-group-order",
            container("chain", [container("group", [a, TWO]), f]),
            "step 1 of the chain, member 2 of the group",
        ),
        ("chord-of-chain-parallel", chord_of(container("chain", [a, b]), c), ""),
        ("one-member-group-unrolled", container("chain", [a, ONE, b]), "step 2 of the chain"),
        ("empty-group-in-chain", container("chain", [a, NONE, b]), "step 2 of the chain"),
        ("inner-container-options", group(group(a, b).set(queue="q"), c), "member 1 of the group"),
        ("inner-container-options", container("group", [container("group", [a, b], link=[c])]), "member 1 of the group"),
        ("link-error-added", group(failing(a), b).set(link_error=[f]), "member 1 of the group"),
        ("header-link-error", chord([a, b], failing(c)), ""),
        ("chain-options-first-task", chain(a, b).set(queue="q"), ""),
        ("chain-options-first-task", group(chain(a, b).set(countdown=3), c), "member 1 of the group"),
        ("ignore-result-forced", a.clone().set(ignore_result=True), ""),
        ("countdown-in-daemon", a.clone().set(countdown=5), ""),
        ("countdown-in-daemon", a.clone().set(eta=datetime.now(UTC) + timedelta(hours=1)), ""),
        ("chain-ends-in-group", chord([chain(a, group(b, c)), d], e), "member 1 of the chord's header"),
        ("empty-header", a | group([]) | b, "step 2 of the chain"),
        ("group-options-override", group(a.clone().set(queue="p"), b).set(queue="q"), "member 1 of the group"),
        ("native-chain-cost", container("chain", [a] * 1001), ""),
        ("native-chord-cost", chain(*[chord([a] * 300, b) for _ in range(4)]), "step 1 of the chain"),
        ("native-chord-cost", chord([chord([a] * 1000, b), c], d), "member 1 of the chord's header"),
    ],
)
def test_difference_to_celery_is_found(code: str, what: Any, place: str) -> None:
    """Somebody who moves a canvas over learns where it will not run as before, and where in the canvas that is."""
    finding = only(what, code)
    assert (finding.count, finding.place) == (1, place)
    assert finding.next_step


@pytest.mark.parametrize(
    ("code", "what"),
    [
        # Celery runs each step once if a task leads the chain, or follows the groups.
        ("chain-of-groups", chain(a, group(a, b), group(c, d), group(e, f))),
        ("chain-of-groups", chain(group(a, b), group(c, d), group(e, f), a)),
        ("chain-of-groups", chain(group(a, b), group(c, d))),
        ("chain-of-groups", container("chain", [TWO, TWO, TWO, a])),
        # Nobody takes the list, or there is nothing to reverse.
        ("nested-group-order", group(a, group(b, c, d))),
        ("nested-group-order", chord([a, group(b, c, d)], waiting(e))),
        ("nested-group-order", container("chain", [container("group", [a, ONE]), f])),
        ("chord-of-chain-parallel", chord([container("chain", [a, b])], c)),
        ("one-member-group-unrolled", container("chain", [a, TWO, b])),
        ("one-member-group-unrolled", container("chain", [a, ONE])),
        ("one-member-group-unrolled", chord_of(ONE, b)),
        ("empty-group-in-chain", container("chain", [a, TWO, b])),
        # Celery keeps the options of a chain in a group, and of a group at the end of a chain.
        ("inner-container-options", group(chain(a, b).set(queue="q"), c)),
        ("inner-container-options", chain(a, group(b, c).set(queue="q"))),
        ("link-error-added", group(a, failing(b))),
        ("header-link-error", chord([failing(a), b], c)),
        ("chain-options-first-task", chain(a, b)),
        ("chain-options-first-task", container("chain", [a], queue="q")),
        ("ignore-result-forced", a.clone().set(ignore_result=False)),
        ("countdown-in-daemon", a.clone().set(eta=datetime(2001, 1, 1, tzinfo=UTC))),
        ("chain-ends-in-group", group(chain(a, group(b, c)), d)),
        ("empty-header", chord([a], b)),
        ("group-options-override", group(a.clone().set(queue="q"), b.clone().set(priority=1)).set(queue="q")),
        ("native-chain-cost", container("chain", [a] * 1000)),
        ("native-chord-cost", group(chord([a] * 600, b), chord([a] * 600, b))),
    ],
)
def test_what_celery_does_too_is_left_alone(code: str, what: Any) -> None:
    """A warning that does not apply costs more trust than ten that do are worth."""
    assert code not in codes(what)


def test_difference_names_both_sides() -> None:
    """The reader decides by what happens there and here, and can look it up."""
    message = only(chain(group(a, b), group(c, d), group(e, f)), "chain-of-groups").message
    celery, here = message.splitlines()[1:]
    assert celery.startswith("Celery: the last of three groups in a row runs once per member")
    assert "issues/8180" in celery
    assert here.startswith("here: each group runs once")


def test_readme_has_the_differences() -> None:
    """The list that people read is the one that programs read."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    shown = readme.partition("<!-- differences -->\n")[2].partition("\n<!-- /differences -->")[0]
    assert shown == table(), "write `dyrygentd.differences.table()` into the README"


def test_every_rule_has_its_words() -> None:
    """A code without a severity or next step would be reported as an error with nothing to do about it."""
    assert {key for key, difference in BY_KEY.items() if not difference.unseen} | _MESSAGES.keys() <= _RULES.keys()
    assert all(rule.next_step for rule in _RULES.values())


# --- times ----------------------------------------------------------------------------------------------------------


def test_start_beyond_the_visibility_timeout() -> None:
    """In Celery such a task runs again and again; here it does not, and whoever worked around it may stop."""
    far = a.clone().set(countdown=4000)
    assert "visibility timeout of 3,600 s" in only(far, "countdown-in-daemon").message
    assert "visibility timeout of 3,600 s" not in only(far, "countdown-in-daemon", visibility_timeout_s=5000).message
    patient = Celery("p", broker="memory://", set_as_current=False, broker_transport_options={"visibility_timeout": 60})
    assert "visibility timeout of 60 s" in only(a.clone().set(countdown=90), "countdown-in-daemon", app=patient).message


@pytest.mark.parametrize("expires", [-1, 0, datetime(2020, 1, 1, tzinfo=UTC), "2020-01-01T00:00:00Z", datetime(2020, 1, 1)])
def test_expires_that_has_passed(expires: Any) -> None:
    """A worker would revoke it, hours after it was submitted."""
    assert only(a.clone().set(expires=expires), "expires-passed").severity == "error"


@pytest.mark.parametrize("expires", [60, datetime.now(UTC) + timedelta(days=1), None])
def test_expires_ahead(expires: Any) -> None:
    """An expiry that can be met is nobody's business."""
    assert codes(a.clone().set(expires=expires)) == {}


def test_expires_before_the_start() -> None:
    """Celery counts `expires` from sending and never runs such a task; from an absolute time there is no way out here either."""
    relative = only(a.clone().set(expires=10, countdown=60), "expires-before-start")
    assert relative.severity == "warning"
    assert "here: `expires` counts from the start" in relative.message
    soon, later = datetime.now(UTC) + timedelta(minutes=1), datetime.now(UTC) + timedelta(hours=1)
    assert only(a.clone().set(expires=soon, eta=later), "expires-before-start").severity == "error"
    assert "expires-before-start" not in codes(a.clone().set(expires=60, countdown=10))
    assert "expires-before-start" not in codes(a.clone().set(expires=later, eta=soon))


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 5}, "`queue` must be text, and is 5 (int)"),
        ({"routing_key": ["x"]}, "`routing_key` must be text"),
        ({"priority": "high"}, "`priority` must be a whole number"),
        ({"priority": True}, "`priority` must be a whole number"),
        ({"priority": 1.5}, "`priority` must be a whole number"),
        ({"priority": 300}, "`priority` is 300"),
        ({"priority": -1}, "`priority` is -1"),
        ({"time_limit": "1h"}, "`time_limit` must be a number of seconds"),
        ({"countdown": "5"}, "`countdown` must be a number of seconds"),
        ({"countdown": float("nan")}, "`countdown` must be a number of seconds"),
        ({"eta": "tomorrow"}, "`eta` must be a time"),
        ({"expires": "tomorrow"}, "`expires` must be a number of seconds or a time"),
        ({"headers": [1]}, "`headers` must be a mapping"),
        ({"link": "t.a"}, "`link` must be a signature"),
        ({"link_error": [{"no": "task"}]}, "`link_error` must be a signature"),
        ({"stamped_headers": "x"}, "`stamped_headers` must be a list of names"),
    ],
)
def test_option_of_a_wrong_type(options: dict[str, Any], words: str) -> None:
    """It would be found when the task is published: at night, in the middle of a workflow."""
    finding = only(chain(a, b.clone().set(**options)), "bad-option")
    assert (finding.severity, finding.place) == ("error", "step 2 of the chain")
    assert words in finding.message


def test_good_options_are_left_alone() -> None:
    """Whatever Celery documents passes, and so do stamps."""
    good = a.clone().set(
        queue="q", routing_key="q.r", exchange="x", priority=9, serializer="json", compression="gzip", shadow="b", expires=60,
        time_limit=10, soft_time_limit=9.5, headers={"k": "v"}, delivery_mode=1, ignore_result=False,
    )  # fmt: skip
    good.stamp(customer="x")
    assert codes(good) == {}


@pytest.mark.parametrize("serializer", ["pickle", "jsno"])
def test_serializer_that_is_not_accepted(serializer: str) -> None:
    """The import refuses the first; the report names them all, and says it once."""
    found = lint(group(a.clone().set(serializer=serializer) for _ in range(3)))
    assert [(finding.code, finding.count) for finding in found] == [("serializer-refused", 3)]
    assert found[0].place == "member 1 of the group; member 2 of the group; member 3 of the group"


def test_compression() -> None:
    """A compression that kombu does not have fails at publishing."""
    assert codes(a.clone().set(compression="zip")) == {"unknown-compression": 1}
    assert codes(a.clone().set(compression="bzip2")) == {}


def test_priority_that_is_cut() -> None:
    """On Redis 10 to 255 are all one priority, and the order that was wanted is lost."""
    assert codes(a.clone().set(priority=10)) == {"priority-range": 1}


def test_unknown_option_is_told_with_a_suggestion() -> None:
    """A misspelt option is silently ignored by Celery."""
    assert "did you mean 'queue'?" in only(a.clone().set(queu="q"), "unknown-option").message


def test_options_that_containers_hand_down_are_checked() -> None:
    """What counts is what each task will have."""
    finding = only(chain(a, group(b, c).set(priority="x")), "bad-option")
    assert (finding.count, finding.place) == (
        2,
        "step 2 of the chain, member 1 of the group; step 2 of the chain, member 2 of the group",
    )


def test_callbacks_are_told_to_be_untracked() -> None:
    """A callback that fails is seen by nobody."""
    finding = only(group(a.clone().set(link=[b]), c), "link-untracked")
    assert (finding.severity, finding.node, finding.place) == ("info", "a-1", "member 1 of the group")
    assert "link-untracked" not in codes(group(a, b))


def test_frozen_canvas() -> None:
    """Whoever froze a canvas holds task ids that will never have a result."""
    frozen = chain(a.clone(), b.clone())
    frozen.freeze()
    assert "`task_id`" in only(frozen, "ids-stripped").message
    assert "ids-stripped" not in codes(chain(a.clone(), b.clone()))


# --- what tasks are given -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (add.s(1), "arguments-do-not-fit", "is given 1 positional argument: missing a required argument: 'y'"),
        (add.s(1, 2, 3), "arguments-do-not-fit", "too many positional arguments"),
        (add.s(1, z=2), "arguments-do-not-fit", "1 positional argument and `z`"),
        (chain(add.s(1, 2), add.s()), "arguments-do-not-fit", "(the first is a value from what precedes it)"),
        (bound.s(), "arguments-do-not-fit", "'t.bound(x: int)"),
        (add.s(1, x=2), "argument-given-twice", "`x` would have two values"),
        (chain(add.s(1, 2), add.s(x=1)), "argument-given-twice", "`x` would have two values"),
        (chain(add.s(1, 2), ping.s()), "unexpected-input", "is given a value by what precedes it"),
        (chain(group(add.s(1, 2), add.s(1, 2)), ping.s()), "unexpected-input", "is given a list of 2 values by what precedes it"),
        (chord([add.s(1, 2)], ping.s()), "unexpected-input", "a list of 1 values"),
    ],
)
def test_arguments_that_do_not_fit(what: Any, code: str, words: str) -> None:
    """A TypeError in the last step of a long workflow is the most expensive place for a typing error."""
    finding = only(what, code, app=app)
    assert finding.severity == "error"
    assert words in finding.message
    assert code not in codes(what)


@pytest.mark.parametrize(
    "what",
    [
        chain(add.s(1, 2), add.s(1), ping.si(), add.si(x=1, y=2)),
        chord([add.s(1, 2), add.s(y=1, x=1)], total.s(factor=2)),
        chain(bound.s(1), bound.s()),
        chain(anything.s(1, 2, x=3), anything.s(), injected.s()),
        add.chunks([(1, 2), (3, 4)], 1),
        bound.map([1, 2]),
    ],
)
def test_arguments_that_fit(what: Any) -> None:
    """Bound tasks, keyword-only arguments, values from before and Celery's own tasks are counted as a worker does."""
    assert codes(what, app=app) == {}


def test_class_that_ignores_results() -> None:
    """Workers before 5.7 do as the class says, and the workflow waits for ever: that is more than an option that is overruled."""
    finding = only(chain(quiet.s(1), bound.s()), "ignore-result-forced", app=app)
    assert (finding.severity, finding.node) == ("warning", "quiet-1")
    assert "another task takes its value" in finding.message
    assert "another task" not in only(quiet.s(1), "ignore-result-forced", app=app).message
    assert codes(quiet.s(1)) == {}


def test_huge_list() -> None:
    """The list is one value: it must fit into the limit, and each taker has a copy in its message."""
    finding = only(chord([a] * 1001, b), "huge-list")
    assert (finding.place, finding.node) == ("the body of the chord", "b-1003")
    assert "a list of 1,001 values: more than 16,760 bytes each" in finding.message
    assert "copied into 2,000 messages" in only(chain(group([a] * 2000), group([b] * 2000)), "huge-list").message
    assert "huge-list" not in codes(chord([a] * 1000, b))
    assert "huge-list" not in codes(chord([a] * 1001, waiting(b)))


def test_several_dependencies_give_a_list() -> None:
    """In a graph built by hand a task that only waits is easily written as one that takes values."""
    workflow = Workflow("w")
    first = [workflow.add(a) for _ in range(3)]
    workflow.add(b, after=first, name="taker")
    workflow.add(waiting(c), after=first)
    finding = only(workflow, "list-input")
    assert (finding.node, finding.place, finding.count) == ("taker", "node 'taker'", 1)
    many = Workflow("w")
    many.add(b, after=[many.add(a) for _ in range(1001)])
    assert codes(many) == {"huge-list": 1}


def test_large_arguments() -> None:
    """They are stored, and sent again with each attempt."""
    assert codes(app.signature("t.a", args=("x" * 100_001,))) == {"large-arguments": 1}
    assert codes(app.signature("t.a", args=("x" * 99_000,))) == {}


# --- tasks and queues -----------------------------------------------------------------------------------------------


def test_unknown_tasks() -> None:
    """A misspelt task fails at the worker, after everything before it has run."""
    finding = only(chain(a, b), "unknown-task", known_tasks=["t.a", "t.bb"])
    assert (finding.severity, finding.message) == ("error", "no worker has the task 't.b'; did you mean 't.bb'?")
    assert codes(chain(a, b), known_tasks=["t.a", "t.b"]) == {}
    assert codes(add.chunks([(1, 2)], 1), known_tasks=["t.mul"]) == {"unknown-task": 1}


def test_tasks_that_the_app_does_not_have() -> None:
    """They may be another app's, so that is no error; but their arguments were not checked."""
    finding = only(app.signature("t.ad"), "task-not-in-app", app=app)
    assert (finding.severity, "did you mean 't.add'?" in finding.message) == ("info", True)
    assert codes(app.signature("t.ad"), app=app, known_tasks=["t.ad"]) == {}


def test_unknown_queues() -> None:
    """A message in a queue that nobody consumes waits for ever."""
    finding = only(a.clone().set(queue="fast"), "unknown-queue", known_queues=["fats", "slow"])
    assert finding.message == "no worker consumes the queue 'fast'; did you mean 'fats'?"
    assert codes(a.clone().set(queue="slow"), known_queues=["slow"]) == {}
    assert codes(a, known_queues=["slow"]) == {}


def test_routes_of_the_app_tell_the_queue() -> None:
    """Most canvases name no queue: the app's routes do."""
    routed = Celery("r", broker="memory://", set_as_current=False, task_routes={"t.a": "special"}, task_default_queue="usual")
    assert "'special'" in only(a, "unknown-queue", app=routed, known_queues=["usual"]).message
    assert "unknown-queue" not in codes(b, app=routed, known_queues=["usual"])
    strict = Celery("s", broker="memory://", set_as_current=False, task_queues=[Queue("one")], task_create_missing_queues=False)
    assert only(a.clone().set(queue="two"), "routing-failed", app=strict).severity == "error"


# --- forms ----------------------------------------------------------------------------------------------------------


def test_definition_document() -> None:
    """A definition file is checked as a canvas is, by the names of its nodes."""
    nodes: list[dict[str, Any]] = [
        {"name": "x", "task": "t.add", "args": [1]},
        {"task": "t.a", "after": ["x"], "options": {"queue": 5}},
    ]
    for form in ({"nodes": nodes}, json.dumps({"nodes": nodes}), json.dumps({"nodes": nodes}).encode()):
        found = {finding.code: finding for finding in lint(form, app=app)}
        assert found.keys() == {"arguments-do-not-fit", "bad-option", "task-not-in-app"}
        assert (found["arguments-do-not-fit"].place, found["arguments-do-not-fit"].node) == ("node 'x'", "x")


def test_all_of_a_refused_document_is_told() -> None:
    """The daemon names the first node that it refuses; the report names all."""
    nodes = [
        {"name": "x", "task": "t.a", "options": {"serializer": "pickle", "queue": 5}},
        {"name": "y", "task": "t.a", "options": {"task_id": "1", "countdown": "soon"}},
        {"task": "t.a", "options": {"serializer": "pickle"}},
    ]
    found = {(finding.code, finding.message): (finding.node, finding.count) for finding in lint({"nodes": nodes})}
    assert found == {
        ("serializer-refused", "serializer 'pickle' is not accepted"): ("x", 2),
        ("bad-option", "`queue` must be text, and is 5 (int)"): ("x", 1),
        ("bad-option", "`task_id` is set by the daemon"): ("y", 1),
        ("bad-option", "`countdown` must be a number of seconds, and is 'soon' (str)"): ("y", 1),
    }


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (b"{", "bad-request", "not valid JSON"),
        ({"nodes": 5}, "bad-request", "must be an array"),
        ({"nodes": [{"name": "a"}]}, "bad-node", "`task` is missing"),
        ({"nodes": [{"name": "a", "task": "t", "after": ["b"]}]}, "unknown-dependency", "depends on 'b'"),
        ({"nodes": [{"name": "a", "task": "t", "args": [object()]}]}, "bad-request", "JSON cannot carry"),
        (42, "not-a-canvas", "the canvas is a 'int', which is no signature"),
        (container("chain", [a, add]), "not-a-canvas", "which is no signature"),
        (group([]), "empty-workflow", "no nodes"),
        (container("group", [a], stamped_headers=5), "not-a-canvas", "as its `stamped_headers`"),
        ({"task": "celery.chunks", "kwargs": {"task": a, "it": True, "n": 1}}, "not-a-canvas", "chunks of a 'bool'"),
        ({"task": "t.a", "subtask_type": ["x"]}, "not-a-canvas", "as its `subtask_type`"),
        (Workflow("w"), "empty-workflow", "no nodes"),
        (app.signature("t.a", args=(object(),)), "bad-node", "argument 1 is a 'object'"),
    ],
)
def test_what_cannot_be_read_is_a_finding(what: Any, code: str, words: str) -> None:
    """A program that collects reports need not catch anything."""
    (finding,) = [found for found in lint(what) if found.severity == "error"]
    assert (finding.code, words in finding.message) == (code, True)


def test_definition_and_workflow_are_checked_as_graphs() -> None:
    """What was imported already has lost its containers, and keeps its nodes."""
    canvas = chain(add.s(1), add.s(2).set(queue="q"))
    (expected,) = lint(canvas, app=app)
    definition = definition_of(canvas)
    workflow = Workflow("w")
    workflow.add_canvas(canvas)
    for form in (definition, workflow, encode_definition(definition)):
        (finding,) = lint(form, app=app)
        assert (finding.code, finding.message, finding.node) == (expected.code, expected.message, expected.node)
        assert finding.place == "node 'add-1'"


def test_chunks_and_joins_do_not_shift_the_places() -> None:
    """Nodes are found in the canvas by their order: containers that become several nodes, or none, must be counted right."""
    canvas = group(add.chunks([(1, 2)] * 7, 3), chain(group(a, b), container("chain", []), c), add.s(1))
    assert only(canvas, "arguments-do-not-fit", app=app).place == "member 3 of the group"


# --- size -----------------------------------------------------------------------------------------------------------


def test_report_on_a_large_canvas_is_short() -> None:
    """Ten thousand equal mistakes are one line, and different ones are told apart up to a bound."""
    same = lint(group(a.clone().set(queue=5) for _ in range(10_000)))
    assert [(finding.count, finding.place) for finding in same] == [
        (10_000, "member 1 of the group; member 2 of the group; member 3 of the group; 9,997 more")
    ]
    different = lint(container("group", [{"task": f"t.{number}"} for number in range(1_000)]), known_tasks=["t.x"])
    assert [finding.count for finding in different] == [1, 1, 1, 1, 1, 995]
    assert different[-1].message.startswith("others like this; the first of them: no worker has the task 't.5'")


@pytest.mark.parametrize("kind", ["chain", "group"])
def test_depth_costs_no_recursion(kind: str) -> None:
    """Programs build canvases deeper than Python's stack."""
    canvas: Any = dict(a)
    other = b.clone().set(queue=5)
    for _ in range(5_000):
        canvas = container(kind, [canvas, other])
    finding = only(canvas, "bad-option")
    assert finding.count == 5_000
    assert finding.place.startswith("step 1 of the chain, " if kind == "chain" else "member 1 of the group, ")
    assert ", …, " in finding.place


def test_nested_chords_cost_no_recursion() -> None:
    """The same for headers and bodies."""
    canvas: Any = dict(a)
    for number in range(5_000):
        canvas = chord_of([canvas], dict(b)) if number % 2 else chord_of([dict(a)], canvas)
    assert "native-chord-cost" in codes(canvas)


def test_ten_thousand_tasks_give_a_short_report() -> None:
    """A report is read by a person, whatever the size of the canvas."""
    canvases = [group(add.s(number, 1) for number in range(10_000)), container("chain", [add.s(1)] * 10_000)]
    for canvas in canvases:
        assert len(lint(canvas, app=app, known_tasks=["t.add"], known_queues=["celery"])) < 10
