"""Conditions and switches as a program writes them: the same as in a definition, with references instead of names."""

from typing import Any

import pytest
from celery import chain

from dyrygentd import Workflow, value_of
from dyrygentd.canvas.choosing import Test as Condition
from dyrygentd.core.graph import Graph
from dyrygentd.errors import BadNode, BadRequest
from tests.support import tasks


def conditions(graph: Graph) -> dict[str, list[str]]:
    """Return ``{node: its conditions in words}``."""
    return {graph.names[node]: [str(proviso.when) for proviso in provisos] for node, provisos in graph.choices.provisos.items()}


def after(graph: Graph, name: str) -> list[str]:
    """Return what a node waits for."""
    node = graph.number(name)
    assert node is not None
    return [graph.names[each] for each in graph.dependencies(node)]


def test_each_comparison_is_that_of_a_definition() -> None:
    """A reader of either form can read the other one."""
    workflow = Workflow()
    check = workflow.add(tasks.noop.si(), name="check")
    asked = value_of(check, "a.0")
    written: dict[Condition, dict[str, Any]] = {
        asked.is_(1): {"is": 1},
        asked.is_not(None): {"is_not": None},
        asked.is_in(("a", "b")): {"in": ["a", "b"]},
        asked.not_in({"a"}): {"not_in": ["a"]},
        asked.has([1]): {"has": [1]},
        asked.over(1): {"over": 1},
        asked.under(1): {"under": 1},
        asked.at_least(1): {"at_least": 1},
        asked.at_most(1): {"at_most": 1},
        asked.exists(): {"exists": True},
        asked.truthy(False): {"truthy": False},
    }
    for test, operator in written.items():
        assert test.given == {"value": check, "path": "a.0", **operator}
    both = asked.is_(1) & ~asked.over(2) | value_of(check).is_(3)
    assert both.given["any"][0]["all"][1] == {"not": {"value": check, "path": "a.0", "over": 2}}
    with pytest.raises(TypeError, match="a condition is decided when the workflow runs"):
        bool(both)


def test_a_condition_waits_for_the_node_that_it_asks_and_takes_nothing_of_it() -> None:
    """Names that are made up may change after the condition was given."""
    workflow = Workflow()
    check = workflow.add(tasks.noop.si())
    first = workflow.add(tasks.noop.si(), name="first")
    workflow.add(tasks.noop.s(), name="drain", after=first, when=value_of(check, "status").is_("full"))
    workflow.add(tasks.noop.si(), name="noop-1")
    graph = workflow.definition().graph
    assert check.name == "noop-1.2"
    assert conditions(graph) == {"drain": ["noop-1.2.status is 'full'"]}
    assert after(graph, "drain") == ["noop-1.2", "first"]
    assert [graph.names[node] for node in graph.inputs(2)] == ["first"]


def test_everything_that_is_added_takes_a_condition() -> None:
    """Tasks, polls, gates, sleeps, joins, all of a canvas, and all of a section."""
    workflow = Workflow()
    check = workflow.add(tasks.noop.si(), name="check")
    when = value_of(check).truthy()
    workflow.poll(tasks.noop.si(), name="poll", every_s=1, when=when)
    workflow.gate("gate", when=when)
    workflow.sleep(1, name="sleep", when=when)
    workflow.join(check, name="join", when=when)
    workflow.add_canvas(chain(tasks.noop.si(), tasks.noop.si()), name="end", when=when)
    with workflow.section("s", when={"value": "check", "is": 1}), workflow.section("t"):
        workflow.add(tasks.noop.si(), name="inside", when=when)
    assert conditions(workflow.definition().graph) == {
        **{name: ["check is true"] for name in ("poll", "gate", "sleep", "join", "noop-6", "end")},
        "inside": ["check is 1", "check is true"],
    }


def test_switch() -> None:
    """One branch for each case, each in a section of its own, and a join behind them that has the value of the one that ran."""
    workflow = Workflow()
    check = workflow.add(tasks.noop.si(), name="check")

    def drain() -> Any:
        weight = workflow.add(tasks.noop.si(), name="weight")
        return workflow.add(tasks.noop.si(), name="wait", after=weight)

    done = workflow.switch(
        check,
        {"full": drain, "em/pty": tasks.noop.s(), "skip": None},
        default=chain(tasks.noop.s(), tasks.noop.s()),
        path="status",
        name="choice",
    )
    workflow.add(tasks.noop.s(), name="tell", after=done)
    graph = workflow.definition().graph
    full, other = "check.status is 'full'", "check.status is none of 'full', 'em/pty', 'skip'"
    assert conditions(graph) == {
        "weight": [full],
        "wait": [full],
        "noop-4": ["check.status is 'em/pty'"],
        "noop-5": [other],
        "noop-6": [other],
        "choice": ["there is check"],
    }
    assert after(graph, "choice") == ["check", "wait", "noop-4", "noop-6"]
    assert [*graph.sections.paths] == ["", "choice/full", "choice/em-pty", "choice/default"]


@pytest.mark.parametrize(
    ("cases", "reason"),
    [
        ({}, "the cases of a switch are {}"),
        ("ab", "the cases of a switch are 'ab'"),
        ({"a": None}, "no branch of the switch has anything to run"),
        ({"a": tasks.noop.si(), 1: tasks.noop.si()}, "the cases of a switch are 'a', 1"),
        ({("a",): tasks.noop.si()}, "the cases of a switch are \\('a',\\)"),
    ],
)
def test_cases_that_cannot_be_told_apart_are_refused(cases: Any, reason: str) -> None:
    """A text is never equal to a number, so one of the two would fail."""
    workflow = Workflow()
    check = workflow.add(tasks.noop.si(), name="check")
    with pytest.raises(BadNode, match=reason):
        workflow.switch(check, cases)
    assert len(workflow) == 1


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("status", "`when` is 'status'"),
        ({"value": "check"}, "`when`: it compares with nothing"),
        ({"value": 3, "is": 1}, "`when`: `value` is 3"),
    ],
)
def test_bad_conditions_are_refused_where_they_are_given(when: Any, reason: str) -> None:
    """And nothing is added."""
    workflow = Workflow()
    with pytest.raises(BadNode, match=reason):
        workflow.add(tasks.noop.si(), when=when)
    with pytest.raises(BadRequest, match="section 's', `when`"), workflow.section("s", when=when):
        pass
    assert len(workflow) == 0


def test_half_a_condition_is_refused() -> None:
    """Whoever forgets the comparison is told which ones there are."""
    workflow = Workflow()
    check = workflow.add(tasks.noop.si(), name="check")
    with pytest.raises(BadNode, match="it says whose value it asks for, and not what it has to be"):
        workflow.add(tasks.noop.si(), when=value_of(check))  # type: ignore[arg-type]


def test_a_node_of_another_workflow_cannot_be_asked() -> None:
    """Its value is never here."""
    other = Workflow("other").add(tasks.noop.si(), name="check")
    with pytest.raises(BadNode, match="another workflow"):
        Workflow().add(tasks.noop.si(), when=value_of(other).is_(1))


def test_a_section_has_one_condition() -> None:
    """It may be entered again; with another condition it is another section."""
    workflow = Workflow()
    check = workflow.add(tasks.noop.si(), name="check")
    for _ in range(2):
        with workflow.section("s", when=value_of(check).is_(1)):
            workflow.add(tasks.noop.si())
    with pytest.raises(BadRequest, match="has another one already"), workflow.section("s", when=value_of(check).is_(2)):
        pass
    with workflow.section("unused", when=value_of(check).is_(2)):
        pass
    assert [*workflow.definition().graph.choices.of_sections] == ["s"]


def test_what_is_shown_of_a_condition() -> None:
    """In a debugger."""
    check = Workflow().add(tasks.noop.si(), name="check")
    assert repr(value_of(check)) == "<Asked {'value': <NodeRef 'check'>}>"
    assert repr(Condition({"given": 1, "is": 1})) == "<Test {'given': 1, 'is': 1}>"
