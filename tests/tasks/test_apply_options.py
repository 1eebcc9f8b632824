"""Arguments of `apply_async` may be given to `submit`, mean what they mean there, and are refused with the way out if not."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import Celery, chain, chord, group
from celery.signals import before_task_publish

from dyrygentd import Client
from dyrygentd.client.bodies import submission_body
from dyrygentd.tasks.apply_options import _ELSEWHERE, ApplyOptions
from tests.http.support import Daemon

GUIDE = (Path(__file__).parents[2] / "dyrygentd/client/README.md").read_text()
SHAPES: dict[str, Callable[[Any], Any]] = {
    "task": lambda task: task("a"),
    "chain": lambda task: chain(task("a"), task("b"), task("c")),
    "group": lambda task: group([task("a"), task("b")]),
    "chord": lambda task: chord([task("a"), task("b")], task("c")),
    "chain of a group": lambda task: chain(group([task("a"), task("b")]), task("c")),
}


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app on a broker in memory."""
    app = Celery("t", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


def _task(app: Celery) -> Callable[[str], Any]:
    return lambda name: app.signature(name, immutable=True)


def _natively(canvas: Any, **options: Any) -> dict[str, dict[str, Any]]:
    """Call a canvas; return ``{task: options}`` of all messages that are sent now or carried along for later."""
    found: dict[str, dict[str, Any]] = {}

    def note(signature: Any) -> None:
        for each in signature if isinstance(signature, list) else [signature]:
            found.setdefault(each["task"], dict(each["options"]))
            for inner in each["options"].get("chain") or []:
                note(inner)

    def sent(sender: str, body: Any, headers: Any, routing_key: str, **_: Any) -> None:
        found[sender] = {"queue": routing_key, "expires": headers["expires"], "countdown": headers["eta"]}
        found[sender] |= {"link": body[2]["callbacks"], "link_error": body[2]["errbacks"]}
        for follower in [*(body[2]["chain"] or []), *([body[2]["chord"]] if body[2]["chord"] else [])]:
            note(follower)

    before_task_publish.connect(sent, weak=False)
    try:
        canvas.apply_async(**options)
    finally:
        before_task_publish.disconnect(sent)
    return found


def _ours(canvas: Any, **options: Any) -> dict[str, dict[str, Any]]:
    document = json.loads(submission_body(canvas, options=options))
    return {node["task"]: {"countdown": None, **node.get("options", {})} for node in document["nodes"] if node.get("task")}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options", [{"queue": "fast"}, {"expires": 600}, {"countdown": 60}], ids=lambda options: next(iter(options))
)
def test_option_goes_where_celery_has_it(app: Celery, shape: str, options: dict[str, Any]) -> None:
    """The first step, each member, header and body: the same tasks as natively, whatever one would wish."""
    (option,) = options
    if option == "countdown" and shape in ("chord", "chain of a group") and celery.VERSION < (5, 7):
        pytest.skip("Celery 5.6 has a chord's body wait, and not its header")
    default = "celery" if option == "queue" else None
    natively = _natively(SHAPES[shape](_task(app)), **options)
    have = {task for task, found in natively.items() if found.get(option) not in (None, default)}
    ours = _ours(SHAPES[shape](_task(app)), **options)
    assert {task for task, found in ours.items() if found.get(option) not in (None, default)} == have


def test_callbacks_and_ids(app: Celery) -> None:
    """A link is for the last step and joins those that are there; an id is that of the task, or of the last one."""
    task = _task(app)
    canvas = chain(task("a"), task("b").set(link=task("own")))
    found = _ours(canvas, link=task("done"), link_error=task("alarm"), task_id="mine")
    assert [callback["task"] for callback in found["b"]["link"]] == ["own", "done"]
    assert "link" not in found["a"]
    assert [[callback["task"] for callback in found[name]["link_error"]] for name in "ab"] == [["alarm"], ["alarm"]]
    document = json.loads(submission_body(canvas, options={"task_id": "mine"}))
    assert [node.get("task_id") for node in document["nodes"]] == [None, "mine"]
    # What was handed over is as it was.
    assert "queue" not in canvas.tasks[0].options


def test_options_reach_the_message(daemon: Daemon, app: Celery) -> None:
    """From `submit` to what is published."""
    handle = Client(daemon.path).submit(app.signature("add", args=(1, 2)), queue="fast", priority=7, headers={"tenant": "t"})
    assert handle.wait(10).result == 3
    (message,) = daemon.broker.published
    assert json.loads(message.signature.options) == {"queue": "fast", "priority": 7, "headers": {"tenant": "t"}}


def test_none_is_not_given(app: Celery) -> None:
    """Programs pass on what they were given, and that may be nothing."""
    assert _ours(_task(app)("a").set(queue="own"), queue=None, countdown=None)["a"] == {"queue": "own", "countdown": None}


@pytest.mark.parametrize("option", sorted(_ELSEWHERE))
def test_other_arguments_say_where_they_go(app: Celery, option: str) -> None:
    """Nothing that somebody asked for is passed over, and the error tells what to do instead."""
    with pytest.raises(TypeError, match=rf"submit\(\) does not take `{option}`: .+: .+"):
        submission_body(_task(app)("a"), options={option: 1})


@pytest.mark.parametrize("what", [{"nodes": [{"task": "a"}]}, b'{"nodes": [{"task": "a"}]}'], ids=["document", "bytes"])
def test_options_are_for_canvases(what: Any) -> None:
    """A definition says itself what each node needs."""
    with pytest.raises(TypeError, match=r"`queue` with a canvas only, and this is a (dict|bytes): give it to the tasks"):
        submission_body(what, options={"queue": "fast"})


def test_misspelt_and_impossible_arguments_are_refused(app: Celery) -> None:
    """As Python and Celery do."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'keey'"):
        submission_body(_task(app)("a"), options={"keey": "k"})
    with pytest.raises(TypeError, match="use a chord"):
        submission_body(group([_task(app)("a")]), options={"link": _task(app)("b")})


def test_guide_lists_every_argument() -> None:
    """Whoever moves a call over finds each of its arguments in the table."""
    table = GUIDE.partition("## Where the arguments of `apply_async` go")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+)`", "\n".join(line.partition(" | ")[0] for line in table.splitlines() if line[:3] == "| `")))
    assert listed == set(ApplyOptions.__annotations__) | set(_ELSEWHERE)
