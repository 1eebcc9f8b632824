"""Where the name of a queue comes from, so that whoever has misspelt it knows where to look."""

import json
from typing import Any

import pytest
from celery import Celery, Task

from dyrygentd.core.node_spec import Signature
from dyrygentd.transport.origins import origin_of_queue

#: Celery warns of the attribute, which users have all the same.
pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")


def _route(name: str, *_: Any, **__: Any) -> Any:
    return {"queue": "routed"} if name == "by.code" else None


class _OfClass(Task):  # type: ignore[misc]
    name, queue = "of.class", "classy"


@pytest.fixture
def app() -> Celery:
    """An app with routes of each kind, and a class with a queue of its own."""
    app = Celery("origins", broker="memory://", set_as_current=False)
    app.conf.task_routes = ({"report.*": {"queue": "reprots"}, "plain": "simple"}, _route)

    # Not by the decorator, which keeps in mind what it has made.
    app.register_task(_OfClass())
    return app


@pytest.mark.parametrize(
    ("task", "options", "queue", "origin"),
    [
        ("report.mail", {}, "reprots", "`task_routes` for task 'report.mail'"),
        ("report.mail", {"queue": "reprots"}, "reprots", "`task_routes` for task 'report.mail'"),
        ("plain", {}, "simple", "`task_routes` for task 'plain'"),
        ("by.code", {}, "routed", "`task_routes` for task 'by.code'"),
        ("of.class", {}, "classy", "the class of task 'of.class' (`queue`)"),
        ("other", {"queue": "here"}, "here", "the option `queue` of the node in the definition"),
        ("other", {}, "celery", "`task_default_queue`"),
        ("other", {}, "elsewhere", ""),
    ],
)
def test_origin(app: Celery, task: str, options: dict[str, str], queue: str, origin: str) -> None:
    """Routes and classes go first, since clients write them into definitions."""
    assert origin_of_queue(app, Signature(task, options=json.dumps(options).encode()), queue) == origin


def test_router_that_raises(app: Celery) -> None:
    """Code of the user's that fails costs the answer, and nothing else."""

    def router(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no")

    app.conf.task_routes = (router,)
    app.amqp._rtable = None
    assert origin_of_queue(app, Signature("other"), "q") == ""
