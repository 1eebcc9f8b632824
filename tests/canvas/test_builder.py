"""The builder: every option of every call, what is refused and why, and that it says the same as a definition document."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from celery import chain, group, signature

from dyrygentd import Retry, Workflow, WorkflowPolicy, wire
from dyrygentd.canvas import NodeRef, SectionRef, decode_value, definition_of
from dyrygentd.core.graph import Definition
from dyrygentd.errors import BadNode, BadRequest, DuplicateNode, DyrygentError, EmptyWorkflow, NotACanvas
from tests.canvas.support import a, b, c, d, e, edges
from tests.support.daemon import ROOT

JOB = signature("job", immutable=True)


def essence(definition: Definition) -> object:
    """Return what of a definition does not depend on the moment."""
    graph = definition.graph
    return (
        [
            (
                graph.names[node],
                graph.signatures[node],
                list(graph.dependencies(node)),
                graph.policy(node),
                graph.sections.of(node),
            )
            for node in range(len(graph))
        ],
        (graph.output, definition.name, definition.labels, definition.payload, definition.policy),
    )


def decode(document: Any) -> Definition:
    """Decode a definition document."""
    return wire.decode_definition(json.dumps(document, separators=(",", ":")).encode(), nodes_max=100)


def test_builder_and_document_say_the_same() -> None:
    """Whatever can be built can be written, and the other way round."""
    workflow = Workflow(
        "all of it",
        labels={"dc": "gra"},
        payload={"ticket": 7},
        policy=WorkflowPolicy(
            on_failure="stop",  # type: ignore[arg-type]
            retry=Retry(attempts=2, on=["OSError"]),  # type: ignore[arg-type]
            timeout_s=60,
            deadline_s=3600,
            start_at=1_900_000_000,
            priority=-3,
            weight=5,
            in_flight_max=10,
            redeliveries_max=7,
        ),
    )
    a = workflow.add(
        JOB,
        name="a",
        pool="drain@gra1",
        retry=Retry(attempts=4, backoff_s=2, backoff_max_s=30, jitter=0, on=frozenset({"infrastructure"})),
        timeout_s=5,
        on_lost="fail",
        idempotent=True,
        redeliveries_max=0,
        expands=True,
        payload=[1],
    )
    b = workflow.add(JOB, name="b", retry=3, after=a)
    c = workflow.poll(JOB, name="c", every_s=0.5, timeout_s=9, after=[b], pool="p", retry=2, payload="x")
    d = workflow.gate("d", after=c, payload={"ask": "the dc"})
    e = workflow.sleep(30, name="e", after=d)
    f = workflow.join([a, e], name="f", rule="any_succeeded")
    workflow.add(JOB, name="g", after=[f], rule="any_failed")
    workflow.add_canvas(chain(JOB, JOB), after=[f], name="i")
    with workflow.section("s") as section:
        k = workflow.add(JOB, after=f, name="k")
    section.finally_(signature("free"), after=k, name="l", retry=2, pool="p")
    section.hook("always", signature("tell"), name="m", retry=3)
    workflow.hook("failure", signature("tell"), name="h", retry=2)
    document = {
        "name": "all of it",
        "labels": {"dc": "gra"},
        "payload": {"ticket": 7},
        "policy": {
            "on_failure": "stop",
            "retry": {"attempts": 2, "on": ["OSError"]},
            "timeout_s": 60,
            "deadline_s": 3600,
            "start_at": 1_900_000_000,
            "priority": -3,
            "weight": 5,
            "in_flight_max": 10,
            "redeliveries_max": 7,
        },
        "nodes": [
            {
                "name": "a",
                "task": "job",
                "immutable": True,
                "pool": "drain@gra1",
                "retry": {"attempts": 4, "backoff_s": 2, "backoff_max_s": 30, "jitter": 0, "on": ["infrastructure"]},
                "timeout_s": 5,
                "on_lost": "fail",
                "idempotent": True,
                "redeliveries_max": 0,
                "expands": True,
                "payload": [1],
            },
            {"name": "b", "task": "job", "immutable": True, "retry": {"attempts": 3}, "after": ["a"]},
            {
                "name": "c",
                "task": "job",
                "immutable": True,
                "poll": {"every_s": 0.5, "timeout_s": 9},
                "after": ["b"],
                "pool": "p",
                "retry": {"attempts": 2},
                "payload": "x",
            },
            {"name": "d", "gate": True, "after": ["c"], "payload": {"ask": "the dc"}},
            {"name": "e", "sleep_s": 30, "after": ["d"]},
            {"name": "f", "join": True, "after": ["a", "e"], "rule": "any_succeeded"},
            {"name": "g", "task": "job", "immutable": True, "after": ["f"], "rule": "any_failed"},
            {"name": "job-8", "task": "job", "immutable": True, "after": ["f"]},
            {"name": "i", "task": "job", "immutable": True, "after": ["job-8"]},
            {"name": "k", "task": "job", "immutable": True, "after": ["f"], "section": "s"},
            {
                "name": "l",
                "task": "free",
                "after": ["k"],
                "retry": {"attempts": 2},
                "pool": "p",
                "section": "s",
                "section_end": "finally",
            },
            {"name": "m", "task": "tell", "retry": {"attempts": 3}, "section": "s", "section_end": "always"},
            {"name": "h", "hook": "failure", "task": "tell", "retry": {"attempts": 2}},
        ],
    }
    assert essence(workflow.definition()) == essence(decode(document))
    assert essence(workflow.definition()) == essence(decode(json.loads(wire.encode_definition(workflow.definition()))))


def test_canvas_of_a_rule_waits_for_all_it_names() -> None:
    """Words and members of the enumerations are the same."""
    workflow = Workflow()
    first = workflow.add(JOB)
    for rule in ("all_succeeded", "all_finished", "any_failed", "any_succeeded", "none_failed"):
        workflow.add(JOB, after=first, rule=rule, name=rule)
    graph = workflow.definition().graph
    assert [graph.policy(node).rule for node in range(1, 6)] == graph.names[1:]


@pytest.mark.parametrize(
    ("call", "message", "next_step"),
    [
        (lambda w, n: w.add(JOB, name="x", rule="all"), "node 'x': `rule` is 'all'", "use one of all_succeeded, all_finished"),
        (lambda w, n: w.add(JOB, name="x", rule=None), "`rule` is None", "use one of"),
        (lambda w, n: w.add(JOB, rule="any_failed"), "rule 'any_failed' needs something to wait for", "name it in `after`"),
        (lambda w, n: w.gate("x", rule="any_succeeded"), "rule 'any_succeeded' needs something", "name it in `after`"),
        (lambda w, n: w.add(JOB, on_lost="ignore"), "`on_lost` is 'ignore'", "use one of retry, fail, hold"),
        (lambda w, n: w.add(JOB, redeliveries_max=-1), "`redeliveries_max` is -1", "use 1 to 1000, or 0 for as often"),
        (lambda w, n: w.add(JOB, redeliveries_max=1.5), "`redeliveries_max` is 1.5", "use 1 to 1000"),
        (lambda w, n: w.add(JOB, expands="yes"), "`expands` is 'yes'", "use True or False"),
        (lambda w, n: w.add(JOB, pool=5), "`pool` is 5", "give the name of a pool"),
        (lambda w, n: w.add(JOB, pool="x" * 201), "`pool` is 'xxx", "give the name of a pool"),
        (lambda w, n: w.add(JOB, timeout_s="5"), "`timeout_s` must be a number of seconds, and is a 'str'", "write a number"),
        (lambda w, n: w.add(JOB, timeout_s=-1), "`timeout_s` is -1 seconds", "use 0 to 316224000"),
        (lambda w, n: w.add(JOB, timeout_s=float("nan")), "`timeout_s` is nan seconds", "use 0 to"),
        (lambda w, n: w.add(JOB, timeout_s=timedelta(minutes=5)), "and is a 'timedelta'", "write 300"),
        (lambda w, n: w.add(JOB, timeout_s=True), "and is a 'bool'", "write a number"),
        (lambda w, n: w.add(JOB, retry=0), "`retry` is 0 attempts", "use 1 to 1000"),
        (lambda w, n: w.add(JOB, retry=True), "`retry` is True", "give a number of attempts"),
        (lambda w, n: w.add(JOB, retry="3"), "`retry` is '3'", "give a number of attempts"),
        (lambda w, n: w.add(JOB, retry={"attempts": 3}), "`retry` is {'attempts': 3}", "give a number of attempts"),
        (lambda w, n: w.add(JOB, retry=Retry(attempts=1001)), "`retry` is 1001 attempts", "use 1 to 1000"),
        (lambda w, n: w.add(JOB, retry=Retry(backoff_s=-1)), "`retry.backoff_s` is -1 seconds", "use 0 to"),
        (lambda w, n: w.add(JOB, retry=Retry(backoff_s=timedelta(hours=1))), "`retry.backoff_s` must be", "write 3600"),  # type: ignore[arg-type]
        (lambda w, n: w.add(JOB, retry=Retry(backoff_s=9, backoff_max_s=5)), "the longest pause, 5 s, is shorter", "raise"),
        (lambda w, n: w.add(JOB, retry=Retry(jitter=2)), "`retry.jitter` is 2", "use a share from 0 to 1"),
        (lambda w, n: w.add(JOB, retry=Retry(on=[OSError])), "`retry.on` is [<class 'OSError'>]", "name kinds of failure"),  # type: ignore[arg-type]
        (lambda w, n: w.add(JOB, payload=object()), "JSON cannot carry the object", "pass text"),
        (lambda w, n: w.add(JOB, after="first"), "`after` has a 'str' in it", "name nodes by what"),
        (lambda w, n: w.add(JOB, after=5), "`after` is 5", "name nodes by what"),
        (lambda w, n: w.add(JOB, after=None), "`after` is None", "name nodes by what"),
        (lambda w, n: w.add(JOB, after=[n, None]), "`after` has a 'NoneType' in it", "name nodes by what"),
        (lambda w, n: w.add(JOB, name="first"), "two nodes are named 'first'", ""),
        (lambda w, n: w.add(JOB, name=5), "a name must be text", ""),
        (lambda w, n: w.add(group(JOB, JOB)), "add() takes one task, and this is a group", "use add_canvas()"),
        (lambda w, n: w.add(JOB.clone().set(queue=5)), "`queue` must be text, and is 5", "give the queue's name"),
        (lambda w, n: w.poll(JOB, every_s=0), "node 'poll': `every_s` is 0", "use 0.1 seconds or more"),
        (lambda w, n: w.poll(JOB, every_s=4e7), "node 'poll': `every_s` is 4e+07", "use 31622400 seconds or less"),
        (lambda w, n: w.poll(JOB, every_s=timedelta(seconds=9)), "`every_s` must be a number of seconds", "write 9"),
        (lambda w, n: w.poll(JOB, every_s=1, timeout_s=-1), "`timeout_s` is -1 seconds", "use 0 to"),
        (lambda w, n: w.sleep(0), "a pause must be longer than 0 seconds", "leave it out"),
        (lambda w, n: w.sleep(timedelta(hours=1), name="x"), "node 'x': `seconds` must be a number", "write 3600"),
        (lambda w, n: w.gate("first"), "two nodes are named 'first'", ""),
        (lambda w, n: w.gate("", after=n), "a name must be text", ""),
        (lambda w, n: w.hook("error", JOB), "`hook` is 'error'", "use one of success, failure, always"),
        (lambda w, n: w.hook("always", group(JOB)), "add() takes one task, and this is a group", "use add_canvas()"),
        (lambda w, n: w.join([n], rule="most"), "`rule` is 'most'", "use one of"),
        (lambda w, n: w.add_canvas(group(JOB, 5), name="x"), "member 2 of the group is a 'int'", ""),
        (lambda w, n: w.add_canvas(chain(JOB, JOB.clone().set(priority="high"))), "`priority` must be a whole number", "brokers"),
    ],
)  # fmt: skip
def test_refused_call_says_what_is_allowed_and_adds_nothing(
    call: Callable[[Workflow, NodeRef], object], message: str, next_step: str
) -> None:
    """A mistake is told where it is made, and the workflow is as it was."""
    workflow = Workflow("w")
    first = workflow.add(JOB, name="first")
    before = essence(workflow.definition())
    with pytest.raises(DyrygentError) as caught:
        call(workflow, first)
    assert message in str(caught.value)
    assert caught.value.next_step.startswith(next_step)
    assert (len(workflow), essence(workflow.definition())) == (1, before)
    assert workflow.add(JOB, name="x", after=first).name == "x"


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"weight": 5}, "`policy` is {'weight': 5}"),
        (WorkflowPolicy(weight=0), "`weight` is 0"),
        (WorkflowPolicy(priority=True), "`priority` is True"),
        (WorkflowPolicy(in_flight_max=-1), "`in_flight_max` is -1"),
        (WorkflowPolicy(redeliveries_max=True), "`redeliveries_max` is True"),
        (WorkflowPolicy(redeliveries_max=1001), "`redeliveries_max` is 1001"),
        (WorkflowPolicy(deadline_s=-1), "`deadline_s` is -1 seconds"),
        (WorkflowPolicy(timeout_s=timedelta(1)), "`timeout_s` must be a number of seconds, and is a 'timedelta'"),  # type: ignore[arg-type]
        (WorkflowPolicy(start_at=datetime.now(UTC)), "`start_at` is datetime.datetime("),  # type: ignore[arg-type]
        (WorkflowPolicy(start_at=-1), "`start_at` is -1"),
        (WorkflowPolicy(on_failure="halt"), "`on_failure` is 'halt'"),  # type: ignore[arg-type]
        (WorkflowPolicy(retry=Retry(attempts=0)), "`retry` is 0 attempts"),
    ],
)
def test_policy_is_checked_where_it_is_given(policy: Any, message: str) -> None:
    """An embedded scheduler has no wire that would check it."""
    with pytest.raises(BadRequest) as caught:
        Workflow("w", policy=policy)
    assert message in str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("expires", "expires_at", "published"),
    [
        (60, 0.0, 60),
        (datetime(2030, 1, 1, tzinfo=UTC), 1893456000.0, {"__type__": "datetime", "__value__": "2030-01-01T00:00:00+00:00"}),
        (datetime(2030, 1, 1), 1893456000.0, "2030-01-01T00:00:00+00:00"),
        ("2030-01-01T00:00:00", 1893456000.0, "2030-01-01T00:00:00+00:00"),
        ("2030-01-01T01:00:00+01:00", 1893456000.0, "2030-01-01T01:00:00+01:00"),
        ("1950-01-01T00:00:00Z", 0.0, "1950-01-01T00:00:00Z"),
    ],
)
def test_expiry_is_known_to_the_core(expires: Any, expires_at: float, published: Any) -> None:
    """What has expired is not dispatched, in an embedded scheduler either; without a time zone it is in UTC, as for workers."""
    definition = definition_of(JOB.clone().set(expires=expires))
    (found,) = definition.graph.signatures
    assert found is not None
    assert (found.expires_at, json.loads(found.options)) == (expires_at, {"expires": published})
    assert wire.decode_definition(wire.encode_definition(definition), nodes_max=1).graph.signatures == [found]


@pytest.mark.parametrize("expires", ["soon", [1], timedelta(1), True, 1e12])
def test_nonsense_expiry_is_refused(expires: Any) -> None:
    """It would be refused by the dispatcher when its turn comes."""
    with pytest.raises(BadNode, match="`expires` must be a number of seconds, a datetime or ISO 8601 text"):
        definition_of(JOB.clone().set(expires=expires))


def test_names_of_hooks_and_canvases_are_unique() -> None:
    """A name is taken by whatever has it."""
    workflow = Workflow()
    workflow.hook("always", JOB, name="h")
    with pytest.raises(DuplicateNode):
        workflow.add_canvas(chain(JOB, JOB), name="h")
    assert len(workflow) == 1


def test_workflow_is_built_node_by_node() -> None:
    """Tasks, joins and canvases are put together by the references that adding them returns."""
    workflow = Workflow("replace", labels={"cluster": "gra1"}, payload={"ticket": 7})
    drained = workflow.add(a.si("osd-42"), name="drain")
    healthy = workflow.add({"task": "tests.b", "args": ["gra1"]}, after=drained)
    both = workflow.join([drained, healthy], name="both")
    done = workflow.add_canvas(group(c.s(), d.s()) | e.s(), after=[both, drained], name="done")
    assert (len(workflow), repr(workflow), repr(done)) == (8, "<Workflow 'replace' nodes=8>", "<NodeRef 'done'>")
    assert edges(workflow) == {
        "drain": [],
        "b-2": ["drain"],
        "both": ["drain", "b-2"],
        "join-4": ["both", "drain"],
        **{"c-5": ["join-4"], "d-6": ["join-4"], "join-7": ["c-5", "d-6"], "done": ["join-7"]},
    }
    definition = workflow.definition(key="ticket-7")
    assert (definition.name, definition.key, definition.labels) == ("replace", "ticket-7", {"cluster": "gra1"})
    assert decode_value(definition.payload) == {"ticket": 7}
    assert definition.graph.names[definition.graph.output or 0] == "done"


def test_several_dependencies_of_a_task_need_no_join() -> None:
    """A task behind several nodes depends on them directly, whether added alone or as a canvas."""
    workflow = Workflow()
    first = [workflow.add(a.s()), workflow.add(b.s())]
    workflow.add(c.s(), after=iter(first))
    workflow.add_canvas(d.s(), after=[*first, first[0]])
    assert edges(workflow) == {"a-1": [], "b-2": [], "c-3": ["a-1", "b-2"], "d-4": ["a-1", "b-2"]}


def test_given_names_win() -> None:
    """A name that is given is kept even if one that was made up was there before."""
    workflow = Workflow()
    made = workflow.add(a.s())
    assert made.name == "a-1"
    workflow.add(b.s(), name="a-1", after=made)
    assert made.name == "a-1.2"
    assert edges(workflow) == {"a-1.2": [], "a-1": ["a-1.2"]}
    with pytest.raises(DuplicateNode):
        workflow.add(c.s(), name="a-1")


def test_failed_call_adds_nothing() -> None:
    """A call that raises leaves the workflow as it was, so that a caller may go on with it."""
    workflow = Workflow()
    other = Workflow("other")
    first, foreign = workflow.add(a.s(), name="first"), other.add(b.s(), name="foreign")
    with pytest.raises(BadNode, match="'x': `after` names 'foreign', a node of another workflow"):
        workflow.add(c.s(), after=foreign, name="x")
    with pytest.raises(BadNode, match="`after` has a 'str' in it"):
        workflow.join(["first"])  # type: ignore[list-item]
    with pytest.raises(NotACanvas, match="member 2 of the group"):
        workflow.add_canvas(group([b.s(), 5]), after=[first], name="group")
    with pytest.raises(DuplicateNode):
        workflow.add_canvas(group([b.s()]), name="first")
    with pytest.raises(BadRequest, match="1 to 200 characters"):
        workflow.add(a.s(), name="")
    workflow.add(b.s(), name="group", after=first)
    assert edges(workflow) == {"first": [], "group": ["first"]}


def test_definition_of_takes_all_three() -> None:
    """A canvas, a workflow and a definition are taken alike, and what is given in the call goes first."""
    workflow = Workflow(labels={"x": "1", "y": "1"})
    workflow.add(a.s())
    ready = definition_of(workflow, key="k", labels={"y": "2"})
    assert (ready.name, ready.key, ready.labels) == ("tests.a", "k", {"x": "1", "y": "2"})
    again = definition_of(ready, name="n")
    assert (again.name, again.key, again.graph) == ("n", "k", ready.graph)
    assert definition_of(a.s(), name="n").name == "n"
    assert isinstance(definition_of(a.s()), Definition)
    with pytest.raises(EmptyWorkflow):
        definition_of(Workflow())


@pytest.mark.parametrize("labels", [{"x": 5}, {"": "x"}, {"x": "y" * 201}, {str(n): "" for n in range(51)}])
def test_labels_are_checked(labels: Any) -> None:
    """Labels that the daemon would refuse are refused where the caller can see them."""
    with pytest.raises(BadRequest, match="label"):
        Workflow(labels=labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda section: section.hook("error", JOB), "`when` is 'error'"),
        (lambda section: section.finally_(group(JOB)), "add() takes one task, and this is a group"),
        (lambda section: section.finally_(JOB, after="lock"), "`after` has a 'str' in it"),
        (lambda section: section.finally_(JOB, rule="any_failed"), "rule 'any_failed' needs something to wait for"),
    ],
)
def test_what_cannot_end_a_section(call: Callable[[SectionRef], object], message: str) -> None:
    """A mistake is told where it is made, and the workflow is as it was."""
    workflow = Workflow()
    with workflow.section("s") as section:
        workflow.add(JOB)
    with pytest.raises(DyrygentError, match=re.escape(message)):
        call(section)
    workflow.add(JOB, name="elsewhere")
    assert [workflow.definition().graph.sections.of(node) for node in range(2)] == ["s", ""]


def test_the_guide_to_ends_of_sections_says_the_same_twice() -> None:
    """What is pasted from it builds, and is what its definition file says."""
    python, text = re.findall(
        r"```(?:python|yaml)\n(.*?)```", (ROOT / "dyrygentd/canvas/guide/finally.md").read_text(), re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(python, names)
    built, written = (
        [
            (graph.names[node], list(graph.dependencies(node)), graph.sections.of(node), graph.policy(node).section_end)
            for node in range(len(graph))
        ]
        for graph in (names["workflow"].definition().graph, decode(yaml.safe_load(text)).graph)
    )
    assert built == written
