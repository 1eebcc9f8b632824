"""Choices against a tiny model: whatever the order of ends, and with crashes between, each node ends as the conditions say."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dyrygentd.core.conditions import When, when_of
from dyrygentd.core.events import MessagePublished, TaskFailed, TaskSucceeded
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.policy import HandsOn, NodePolicy, Rule
from tests.support.conversation import Conversation
from tests.support.size import of_size

#: What a task may return, or how it fails.
ENDS: list[Any] = [1, 2, "a", None, "failed"]
OPERATORS = [("is", 1), ("is_not", 1), ("in", [2, "a"]), ("over", 1), ("exists", True), ("truthy", False)]
BAD = {"failed", "blocked"}


@dataclass(frozen=True)
class Shape:
    """One node: what it waits for, its rule, which node it asks what, and how its task ends if it runs."""

    after: list[int]
    rule: Rule
    asks: tuple[int, str, Any] | None
    end: Any
    is_join: bool
    section: str

    def condition(self) -> When | None:
        """Return its own condition."""
        return None if self.asks is None else when_of({"value": f"n{self.asks[0]}", self.asks[1]: self.asks[2]})


@st.composite
def shapes(draw: st.DrawFn) -> list[Shape]:
    """Make up to seven nodes; the first is asked by whatever is in section ``s``."""
    found: list[Shape] = []
    for number in range(draw(st.integers(1, 7))):
        before = list(range(number))
        after = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
        has_condition, has_rule = draw(st.booleans()), draw(st.booleans())
        asks = (draw(st.sampled_from(before)), *draw(st.sampled_from(OPERATORS))) if before and has_condition else None
        rule = draw(st.sampled_from(Rule)) if after and has_rule else Rule.ALL_SUCCEEDED
        is_join = bool(after) and draw(st.integers(0, 3)) == 0
        section = "s" if number and draw(st.integers(0, 3)) == 0 else ""
        found.append(Shape(after, rule, asks, draw(st.sampled_from(ENDS)), is_join, section))
    return found


def graph_of(nodes: list[Shape]) -> Graph:
    """Build the real graph."""
    specs = [
        NodeSpec(
            f"n{number}",
            None if node.is_join else Signature("t", immutable=True),
            "" if node.is_join else f"w/n{number}",
            [f"n{other}" for other in node.after],
            NodePolicy(rule=node.rule, when=node.condition(), hands_on=HandsOn.SUCCEEDED if node.is_join else HandsOn.ALL),
            node.section,
        )
        for number, node in enumerate(nodes)
    ]
    return Graph.build(specs, whens={"s": when_of({"value": "n0", "is": 1})} if any(node.section for node in nodes) else None)


def derived(nodes: list[Shape]) -> list[str]:
    """Return how each node ends, from scratch."""
    states: list[str] = []
    values: list[Any] = []
    for node in nodes:
        asked = [*([(0, "is", 1)] if node.section else []), *([node.asks] if node.asks else [])]
        before = [states[other] for other in dict.fromkeys([*(each[0] for each in asked), *node.after])]
        state = by_rule(node.rule, before)
        for number, operator, operand in asked:
            if state == "go":
                state = answer(states[number], values[number], operator, operand)
        if state == "go":
            state = "failed" if node.end == "failed" and not node.is_join else "succeeded"
        states.append(state)
        values.append([values[other] for other in node.after if states[other] == "succeeded"] if node.is_join else node.end)
    return states


def by_rule(rule: Rule, before: list[str]) -> str:
    """Return what a rule makes of ends."""
    bad, good, unneeded = (bool(words & set(before)) for words in (BAD, {"succeeded"}, {"skipped"}))
    match rule:
        case Rule.ALL_SUCCEEDED:
            return "blocked" if bad else "skipped" if unneeded else "go"
        case Rule.NONE_FAILED:
            return "blocked" if bad else "go"
        case Rule.ANY_FAILED:
            return "go" if bad else "skipped"
        case Rule.ANY_SUCCEEDED:
            return "go" if good else "blocked" if bad else "skipped"
    return "go"


def answer(state: str, value: Any, operator: str, operand: Any) -> str:
    """Return what one comparison makes of a node: it goes, is skipped, or cannot be decided."""
    if operator == "exists":
        return "go" if state == "succeeded" else "skipped"
    if state != "succeeded":
        return "failed"
    if operator == "truthy":
        return "skipped" if value else "go"
    if operator == "over":
        return "failed" if not isinstance(value, int) else "go" if value > operand else "skipped"
    others = operand if operator == "in" else [operand]
    if value is not None and not any(type(value) is type(other) for other in others):
        return "failed"
    holds = any(type(value) is type(other) and value == other for other in others)
    return "go" if holds is (operator != "is_not") else "skipped"


@settings(max_examples=of_size(300, 3000), deadline=None)
@given(shapes(), st.randoms(use_true_random=False))
def test_each_node_ends_as_its_conditions_say(nodes: list[Shape], chance: Any) -> None:
    """A node that is decided too early, late or twice, or by a value that was lost, ends in another way."""
    conversation = Conversation()
    conversation.submit(graph_of(nodes))
    for _ in range(100):
        states = conversation.states()
        running = [number for number in range(len(nodes)) if states[f"n{number}"] in ("dispatching", "dispatched")]
        if not running:
            break
        if chance.random() < 0.2:
            conversation.crash()
            conversation.turn()
        number = chance.choice(running)
        task_id, end = f"w/n{number}", nodes[number].end
        conversation.turn(
            MessagePublished(task_id),
            TaskFailed(task_id, "boom") if end == "failed" else TaskSucceeded(task_id, json.dumps(end).encode()),
        )
    states = conversation.states()
    assert [states[f"n{number}"] for number in range(len(nodes))] == derived(nodes)
