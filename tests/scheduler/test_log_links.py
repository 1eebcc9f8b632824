"""Addresses of logs: made from a template, and harmless whatever the values are."""

from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyrygentd import wire
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskReported
from dyrygentd.core.graph import Graph
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.origin import Origin
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.scheduler import SchedulerLimits
from dyrygentd.scheduler.log_links import FIELDS, LogLinks, flaw_of
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import definition, scheduler
from tests.support.conversation import START, Conversation

_ALL = "https://logs.example/find?" + "&".join(f"{name}={{{name}}}" for name in FIELDS)


def _asked(address: str) -> dict[str, str]:
    """Return what an address asks for, as the one who is asked reads it."""
    return {name: value for name, [value] in parse_qs(urlsplit(address).query, keep_blank_values=True).items()}


def test_a_template_asks_for_what_is_known() -> None:
    """Whose log it is, where it ran and when, with some time around; a worker that nobody told is empty."""
    conversation = Conversation()
    conversation.submit("a retry=2 backoff=4 jitter=0; b")
    started = TaskReported("w/a", "STARTED", start="one@host/17")
    conversation.turn(MessagePublished("w/a", "celery"), started, after_s=1)
    conversation.turn(TaskFailed("w/a", "boom"), after_s=1)
    conversation.turn(after_s=10)
    conversation.turn(MessagePublished(task_id_of_attempt("w/a", 2), "celery"))
    workflow = conversation.workflow()
    links = LogLinks({"": _ALL}, 5)
    first, second = wire.views_of_attempts(workflow, 0)
    address = links.of(workflow, 0, first, START + 12)
    assert address is not None
    assert _asked(address) == {
        "task_id": "w/a",
        "node": "a",
        "attempt": "1",
        "workflow": "w",
        "workflow_name": "name of w",
        "task": "tasks.a",
        "worker": "one@host",
        "queue": "celery",
        "start_ms": "996000",
        "end_ms": "1007000",
        "start_iso": "1970-01-01T00:16:36.000Z",
        "end_iso": "1970-01-01T00:16:47.000Z",
    }
    asked = _asked(links.of(workflow, 0, second, START + 100) or "")
    assert (asked["attempt"], asked["worker"], asked["start_ms"], asked["end_ms"]) == ("2", "", "1007000", "1105000")
    assert asked["task_id"] == second.task_id
    assert links.of_last(workflow, 0, START + 100) == links.of(workflow, 0, second, START + 100)
    assert LogLinks({}).of_last(workflow, 0, START) is None
    assert not LogLinks({})


def test_the_longest_beginning_decides() -> None:
    """Teams keep their logs in different places; what fits none has no link, and neither has what is no task."""
    specs = [NodeSpec(task, Signature(task) if task != "join" else None, task) for task in ("a.b.c", "a.x", "z", "join")]
    workflow = RunningWorkflow(workflow_id="w", name="w", graph=Graph.build(specs), origin=Origin(START), value_bytes_max=9)
    links = LogLinks({"a.": "http://one/", "a.b": "http://two/"})
    attempt = wire.AttemptView(1, "failed", START)
    assert [links.of(workflow, node, attempt, START) for node in range(4)] == ["http://two/", "http://one/", None, None]
    assert LogLinks({"": "http://all/"}).of(workflow, 3, attempt, START) is None


@given(st.text(), st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_no_value_leaves_its_place(name: str, worker: str, at: float) -> None:
    """Whatever somebody calls a node: host, path and the other fields stay, and no text of a query language ends."""
    graph = Graph.build([NodeSpec(name or "x", Signature("t"), "i")])
    workflow = RunningWorkflow(workflow_id="w", name=name, graph=graph, origin=Origin(START), value_bytes_max=9)
    template = "https://logs.example/{node}/at/{worker}?q=%22{workflow_name}%22&t={task}&from={start_iso}#{node}"
    address = LogLinks({"": template}).of(workflow, 0, wire.AttemptView(1, "failed", at, worker=worker), at)
    assert address is not None
    assert address.isascii()
    assert address.isprintable()
    assert not set(" \"'<>\\^`{|}") & {*address}
    parts = urlsplit(address)
    assert (parts.scheme, parts.netloc, parts.path.count("/")) == ("https", "logs.example", 3)
    assert not {".", ".."} & {*parts.path.split("/")}
    asked = parse_qs(parts.query, keep_blank_values=True)
    assert [*asked] == ["q", "t", "from"]
    assert not set("\"'`\\!\n") & {*asked["q"][0][1:-1]}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("ftp://logs/{task_id}", "begins with http"),
        ("javascript:alert(1)//{node}", "begins with http"),
        ("https:///{node}", "and a host"),
        ("https://{worker}.example/", "and a host"),
        ("https://anna:secret@logs.example/", "and a host"),
        ("https://logs.example/a b", "printable ASCII"),
        ("https://logs.example/{taskid}", "'{taskid}', which is none of task_id, node"),
        ("https://logs.example/{}", "'{}', which is none of"),
        ('https://logs.example/?q={"a":1}', "%7B or %7D"),
        ("https://logs.example/{node", "a brace that belongs to no field"),
        ("https://logs.example/" + "x" * 4000, "4021 characters"),
    ],
)
def test_a_template_that_cannot_be_is_told(template: str, words: str) -> None:
    """At the start, and not when somebody needs the log."""
    assert words in flaw_of(template)


def test_templates_that_can_be() -> None:
    """Every field, an address of the network, and none at all."""
    for template in (_ALL, "http://[::1]:3000/x", "https://logs", "https://kibana/app/discover#/?_g=(time:(from:'{start_iso}'))"):
        assert not flaw_of(template)


@pytest.mark.anyio
async def test_nodes_causes_and_explanations_have_them() -> None:
    """Each attempt of a node that was asked for, a cause by its first node, and an explanation by its last attempt."""
    broker = FakeBroker({"tasks.bad": lambda *_: 1 // 0})
    limits = SchedulerLimits(logs_url={"": "https://logs.example/{task_id}/{attempt}"}, logs_margin_s=1)
    async with scheduler(broker, limits=limits) as running:
        handle = await running.submit(definition("bad retry=2 backoff=0 jitter=0; b < bad"))
        assert (await handle.wait()).state == "failed"
        node = await running.node(handle.id, "bad")
        assert [each.logs for each in node.attempts] == [
            f"https://logs.example/{each.task_id.replace('/', '%2F')}/{each.number}" for each in node.attempts
        ]
        assert [len(node.attempts), (node.attempts[0].logs or "").endswith("%2Fbad/1")] == [2, True]
        last = node.attempts[1].logs
        assert [cause.logs for cause in (await running.causes(handle.id)).causes] == [last]
        assert [cause.logs for cause in (await running.summary(handle.id, limit=5)).causes.causes] == [last]
        explained = await running.explain(handle.id, "bad")
        assert (explained.logs, [each.logs for each in explained.attempts]) == (last, [each.logs for each in node.attempts])
        assert (await running.explain(handle.id, "b")).logs is None
        # A listing of thousands has no use for them.
        assert all(each.logs is None for row in (await running.nodes(handle.id)).nodes for each in row.attempts)
