"""What the submitting program knows of its tasks is in the definition, and what `apply_async` refuses is refused."""

import json
from collections.abc import Iterator
from typing import Any

import celery
import pytest
from celery import Celery, Task, chain, chord, group
from celery.backends.base import DisabledBackend
from kombu.entity import Exchange, Queue
from pydantic import BaseModel

from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.core.node_spec import Signature
from dyrygentd.errors import BadNode
from dyrygentd.transport.message import MessageSender

#: Celery would rather have routes than queues in classes; people have both.
pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")


def anything(*args: Any) -> None:
    """Take anything."""


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose tasks have options of their own."""
    app = Celery("t", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.task(anything, shared=False, name="plain")
    app.task(anything, shared=False, name="video", queue="video", priority=7, time_limit=33, expires=60, compression="zlib")
    yield app
    app.close()


def _options(definition: Any, name: str = "") -> dict[str, Any]:
    graph = definition.graph
    found = [signature for signature in graph.signatures if signature is not None and name in ("", signature.task)]
    options: dict[str, Any] = json.loads(found[0].options)
    return options


def test_options_of_the_class_are_written(app: Celery) -> None:
    """A daemon that has URLs alone sends a task where its class says, in chains and groups too, or nobody would run it."""
    video = app.tasks["video"]
    wanted = {"queue": "video", "priority": 7, "time_limit": 33, "expires": 60, "compression": "zlib"}
    workflow = Workflow("w")
    workflow.add(video.s())
    for what in (video.s(), chain(app.tasks["plain"].s(), video.s()), group(video.s(), video.s()), workflow):
        assert _options(definition_of(what), "video") == {**wanted, "from_app": sorted(wanted)}
    assert "plain" not in wanted
    assert _options(definition_of(app.tasks["plain"].s())) == {}


def test_what_a_signature_says_goes_before_its_class(app: Celery) -> None:
    """An option that was set on purpose holds, and is not taken for the app's."""
    options = _options(definition_of(app.tasks["video"].s().set(queue="other", priority=1)))
    assert (options["queue"], options["priority"]) == ("other", 1)
    assert options["from_app"] == ["compression", "expires", "time_limit"]


def test_annotations_and_settings_are_written(app: Celery) -> None:
    """Limits, priorities and serializers of the configuration are as much the app's as those of classes."""
    app.conf.task_annotations = {"annotated": {"priority": 3}}
    app.conf.update(task_serializer="msgpack", task_time_limit=50, task_default_queue="jobs", task_default_delivery_mode=1)
    app.conf.update(result_serializer="yaml", task_compression="gzip")
    app.task(anything, shared=False, name="annotated")
    options = _options(definition_of(app.tasks["annotated"].s()))
    options.pop("from_app")
    # Of Celery 5.6 the limits of the configuration are the worker's alone.
    assert options.pop("time_limit", None) == (50 if celery.VERSION >= (5, 7) else None)
    assert options == {
        "priority": 3,
        "serializer": "msgpack",
        "queue": "jobs",
        "delivery_mode": 1,
        "compression": "gzip",
        "result_serializer": "yaml",
    }


def test_routes_are_written(app: Celery) -> None:
    """Routes by name, for tasks that this program has and for those that it only names."""
    app.conf.task_routes = {"plain": {"queue": "fast", "routing_key": "fast.it"}, "else.*": {"exchange": "x", "routing_key": "y"}}
    app.conf.task_queues = [Queue("celery"), Queue("fast", Exchange("e", type="topic"), routing_key="fast.#")]
    app.conf.task_create_missing_queues = False
    assert _options(definition_of(app.tasks["plain"].s())) == {
        "queue": "fast",
        "routing_key": "fast.it",
        "from_app": ["queue", "routing_key"],
    }
    there = definition_of(app.signature("else.where"))
    assert _options(there) == {"exchange": "x", "routing_key": "y", "from_app": ["exchange", "routing_key"]}
    inner = app.tasks["plain"].map([1, 2])
    assert _options(definition_of(inner))["queue"] == "fast"


def test_routes_as_code_are_asked_with_what_is_known(app: Celery) -> None:
    """A router that looks at a value which is not there yet has no answer, and one that looks at names has."""

    def by_name(name: str, *_: Any, **__: Any) -> Any:
        return {"queue": "named"} if name == "plain" else None

    def by_value(name: str, args: Any, *_: Any, **__: Any) -> Any:
        return {"queue": f"shard-{args[0]}"} if name == "plain" and args else None

    plain = app.tasks["plain"]
    app.conf.task_routes = (by_name,)
    app.amqp.flush_routes()
    app.amqp.router = app.amqp.Router()
    assert _options(definition_of(chain(app.tasks["video"].s(), plain.s())), "plain")["queue"] == "named"
    app.conf.task_routes = (by_value,)
    app.amqp.flush_routes()
    app.amqp.router = app.amqp.Router()
    assert _options(definition_of(plain.s("eu")))["queue"] == "shard-eu"
    assert _options(definition_of(chain(app.tasks["video"].s(), plain.s())), "plain") == {}


@pytest.mark.parametrize("has_task", [True, False])
def test_daemon_with_the_task_goes_by_its_own_app(app: Celery, has_task: bool) -> None:
    """What the submitting program has written holds where the daemon knows no better, and never against its app."""
    (signature,) = definition_of(app.tasks["video"].s().set(time_limit=5)).graph.signatures
    assert signature is not None
    daemon = Celery("d", broker="memory://", set_as_current=False)
    if has_task:
        daemon.task(anything, shared=False, name="video", queue="newer")
    sender = MessageSender(daemon)
    parts = sender._read(signature)
    assert sender.destination(signature).queue == ("newer" if has_task else "video")
    assert parts.options.get("priority") == (None if has_task else 7)
    assert parts.options["time_limit"] == 5
    assert "from_app" not in parts.options
    daemon.close()


def test_foreign_results_are_refused_before_the_task_runs(app: Celery) -> None:
    """A daemon that would read another value than the worker has written says so instead, by name."""
    app.conf.result_serializer = "yaml"
    (signature,) = definition_of(app.tasks["plain"].s()).graph.signatures
    assert signature is not None
    with Celery("d", broker="memory://", set_as_current=False) as daemon:
        with pytest.raises(Exception, match="workers write results of 'plain' with serializer 'yaml'"):
            MessageSender(daemon).destination(signature)
        daemon.conf.result_serializer = "yaml"
        assert MessageSender(daemon).destination(signature).queue == "celery"


# --- what `apply_async` refuses -------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_refused(app: Celery) -> None:
    """`apply_async` refuses them at once, and so does a submission: nothing runs in vain before."""

    def add(x: int, y: int) -> int:
        return x + y

    task = app.task(add, shared=False, name="add")
    with pytest.raises(BadNode, match=r"node 'add-1': the arguments do not fit to task 'add': add\(\) missing 1 .* 'y'"):
        definition_of(task.s(5))
    with pytest.raises(BadNode, match=r"node 'add-2': .* takes 2 positional arguments but 3 were given"):
        definition_of(chain(task.s(1, 2), task.s(1, 2)))
    for fits in (chain(task.s(1, 2), task.s(3), task.si(1, 2)), app.task(add, shared=False, name="untyped", typing=False).s(5)):
        assert definition_of(fits).graph.task_count
    workflow = Workflow("w")
    workflow.hook("failure", app.task(anything, shared=False, name="told").s())
    assert workflow.definition().graph.task_count == 1


def test_soft_limit_above_the_hard_one_is_refused(app: Celery) -> None:
    """It could never be met, and Celery refuses it too, whether class or signature say so."""
    task = app.task(anything, shared=False, name="limited", soft_time_limit=10, time_limit=5)
    with pytest.raises(BadNode, match="`soft_time_limit` of task 'limited' is 10 s, and its `time_limit` 5 s"):
        definition_of(task.s())
    with pytest.raises(BadNode, match="`soft_time_limit` is 10 s, and `time_limit` 5 s"):
        definition_of(app.tasks["plain"].s().set(soft_time_limit=10, time_limit=5))


def test_backend_of_a_tasks_own_is_refused(app: Celery) -> None:
    """Its result would be stored where the daemon never looks, and it would be taken for lost, and repeated."""

    class Elsewhere(Task):
        abstract = True
        backend = DisabledBackend(app)

    elsewhere = Elsewhere.backend
    for options in ({"name": "by_class", "base": Elsewhere}, {"name": "by_option", "backend": elsewhere}):
        task = app.task(anything, shared=False, **options)
        with pytest.raises(BadNode, match=r"in a backend of its own .*, where the daemon does not look"):
            definition_of(task.s())


# --- what `apply_async` does with arguments and names ---------------------------------------------------------------


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="`apply_async` of Celery 5.6 sends no models")
def test_models_are_sent_as_apply_async_sends_them(app: Celery) -> None:
    """Arguments that are models are turned into JSON for a task that takes models, alone, in groups and behind a value."""

    class Order(BaseModel):
        item: str
        count: int

    def take(order: Order) -> None: ...

    def put(shelf: str, order: Order) -> None: ...

    taking = app.task(take, shared=False, name="take", pydantic=True)
    putting = app.task(put, shared=False, name="put", pydantic=True)
    order = Order(item="book", count=2)
    for what, args in (
        (taking.s(order), b'[{"item":"book","count":2}]'),
        (group(taking.s(order), taking.s(order)), b'[{"item":"book","count":2}]'),
        (chain(app.tasks["plain"].s(), putting.s(order)), b'[{"item":"book","count":2}]'),
    ):
        signatures = [each for each in definition_of(what).graph.signatures if each is not None]
        assert signatures[-1].args == args
    (signature,) = definition_of(taking.s(order=order)).graph.signatures
    assert signature is not None
    assert signature.kwargs == b'{"order":{"item":"book","count":2}}'


def test_shadow_name_is_asked(app: Celery) -> None:
    """Monitors show the name that a task's class gives it, by the client's word or by the daemon's own app."""

    class Shadowed(Task):
        abstract = True

        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"shadowed:{args[0]}"

    task = app.task(anything, shared=False, name="shadowed", base=Shadowed)
    assert _options(definition_of(task.s("x"))) == {"shadow": "shadowed:x", "from_app": ["shadow"]}
    assert _options(definition_of(chain(app.tasks["plain"].s(), task.s())), "shadowed") == {}


@pytest.mark.parametrize(
    ("canvas", "wanted"),
    [
        (lambda p, k: chain(p.s().set(priority=6), p.s()), [6, 6]),
        (lambda p, k: chain(p.s().set(priority=6), p.s().set(priority=2)), [6, 6]),
        (lambda p, k: chain(p.s().set(priority=6), k.s()), [6, 6]),
        (lambda p, k: chain(p.s().set(priority=6), group(p.s(), p.s().set(priority=3))), [6, 6, 6]),
        (lambda p, k: chord([p.s().set(priority=6)] * 2, p.s()), [6, 6, 6]),
        (lambda p, k: chord([p.s().set(priority=6)] * 2, p.s().set(priority=5)), [6, 6, 5]),
        (lambda p, k: chord([p.s().set(priority=6)] * 2, k.s()), [6, 6, 4]),
        (lambda p, k: chain(p.s().set(priority=6), group(p.s(), p.s()), p.s(), p.s()), [6, 6, 6, 6, 6]),
    ],
)
def test_priority_of_the_parent_is_inherited(app: Celery, canvas: Any, wanted: list[int]) -> None:
    """With `task_inherit_parent_priority` each task has the priority that Celery 5.7 gives it, measured with a worker."""
    keen = app.task(anything, shared=False, name="keen", priority=4)
    app.conf.task_inherit_parent_priority = True
    graph = definition_of(canvas(app.tasks["plain"], keen)).graph
    signatures: list[Signature] = [each for each in graph.signatures if each is not None]
    assert [json.loads(each.options).get("priority") for each in signatures] == wanted
    assert all("priority" not in json.loads(each.options).get("from_app", ()) for each in signatures[1:] if wanted[-1] == 6)
