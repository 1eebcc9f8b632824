"""A verb in steps does what it does in one piece, whatever the graph and the states, and agrees with itself in between."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dyrygentd.core import outcomes, steering, steps
from dyrygentd.core.additions import Additions
from dyrygentd.core.attempts import Attempts
from dyrygentd.core.graph import Graph
from dyrygentd.core.kept_values import KeptValues
from dyrygentd.core.node_states import NodeStates
from dyrygentd.core.notes import Failure
from dyrygentd.core.origin import Origin
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.ready import ReadyNodes
from dyrygentd.core.states import FINISHED, IN_FLIGHT, NodeState
from dyrygentd.core.story import Story
from dyrygentd.core.values import Value
from dyrygentd.core.verbs import Verb, VerbRequest, perform_in_steps
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import RequestError
from tests.core.test_model_verbs import Shape, graph_of, shapes

_VERBS = st.sampled_from([Verb.CANCEL, Verb.RETRY, Verb.RETRY, Verb.RERUN, Verb.RERUN, Verb.SKIP, Verb.HOLD, Verb.RELEASE])


@st.composite
def _several(draw: st.DrawFn) -> list[Shape]:
    """Some random graphs beside each other, so that there are more nodes than in one step."""
    nodes: list[Shape] = []
    for _ in range(draw(st.integers(1, 3))):
        begin = len(nodes)
        for shape in draw(shapes()):
            if shape.hook is None:
                after = [begin + dependency for dependency in shape.after]
                nodes.append(Shape(after, shape.is_join, shape.is_mutable, shape.has_retry, shape.rule))
    return nodes


def _workflow(shape: list[Shape], policy: WorkflowPolicy) -> RunningWorkflow:
    graph = graph_of(shape, "w")
    workflow = RunningWorkflow(workflow_id="w", name="w", graph=graph, origin=Origin(1.0), value_bytes_max=20, policy=policy)
    workflow.begin(1.0)
    return workflow


#: What a workflow is made of; compared part by part.
_PARTS = (NodeStates, KeptValues, Attempts, Additions)


def _all_of(whole: Any) -> dict[str, Any]:
    """Return everything that a workflow or a part of it holds."""
    found: dict[str, Any] = {}
    for name in type(whole).__slots__:
        each = getattr(whole, name)
        match each:
            case Graph():
                continue
            case ReadyNodes():
                found[name] = sorted(each)
            case Story():
                found[name] = [each.of("w", node) for node in range(len(whole.states))]
            case dict():
                found[name] = {
                    key: (bytes(value.text), value.users) if isinstance(value, Value) else value for key, value in each.items()
                }
            case _:
                found[name] = _all_of(each) if isinstance(each, _PARTS) else each
    return found


def _agrees(workflow: RunningWorkflow) -> None:
    """The counts say what the states are, also between two steps."""
    tasks = [node for node in range(len(workflow.graph)) if not workflow.graph.is_join(node)]
    states = [workflow.state_of(node) for node in tasks]
    assert list(workflow.nodes.counts) == [states.count(state) for state in NodeState]
    assert workflow.nodes.unfinished == sum(state not in FINISHED for state in workflow.states)
    assert all((node in workflow.holds) == (workflow.states[node] in (NodeState.HELD, NodeState.RETRYING)) for node in tasks)
    assert set(workflow.ready) == set(workflow.nodes.all_in(NodeState.READY))


def _ask(workflow: RunningWorkflow, request: VerbRequest, step: int) -> object:
    """Carry out a verb so many nodes at a time and return what it did, or why it was refused."""
    before = steps.STEP
    steps.STEP = step  # type: ignore[misc]
    try:
        taken = perform_in_steps(workflow, request, 9.0)
        while True:
            try:
                next(taken)
            except StopIteration as done:
                return done.value
            _agrees(workflow)
    except RequestError as error:
        return str(error)
    finally:
        steps.STEP = before  # type: ignore[misc]


def _end_one(workflow: RunningWorkflow, word: str, number: int) -> None:
    """Have a task go, or end as it is said, if there is one to go or to end."""
    if word == "go":
        if workflow.can_dispatch:
            workflow.take_ready(3.0)
        return
    in_flight = workflow.nodes.all_in(*IN_FLIGHT)
    if not in_flight:
        return
    node = in_flight[number % len(in_flight)]
    match word:
        case "succeed":
            outcomes.succeeded(workflow, node, b'"0123"', "", 4.0)
        case "fail":
            outcomes.failed(workflow, node, Failure("boom"), 4.0)
        case _:
            outcomes.lost(workflow, node, "lost", 4.0)


_MOVES = st.one_of(
    st.tuples(st.sampled_from(["go", "go", "go", "succeed", "succeed", "fail", "lose"]), st.integers(0, 20)),
    st.tuples(_VERBS, st.lists(st.integers(0, 20), max_size=8), st.booleans()),
)


@given(_several() | shapes(), st.sampled_from(list(OnFailure)), st.lists(_MOVES, max_size=40), st.integers(1, 3))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_steps_do_what_the_whole_does(shape: list[Shape], on_failure: OnFailure, moves: list[tuple[Any, ...]], step: int) -> None:
    """The same happens to two workflows, one of which is asked in steps: answers and everything that is kept are equal."""
    policy = WorkflowPolicy(on_failure=on_failure)
    whole, stepped = _workflow(shape, policy), _workflow(shape, policy)
    for word, *rest in moves:
        if isinstance(word, Verb):
            names = tuple(f"n{node % len(shape)}" for node in rest[0])
            request = VerbRequest(word, nodes=() if word is Verb.CANCEL else names, force=rest[1])
            assert _ask(whole, request, 10**6) == _ask(stepped, request, step)
        else:
            for workflow in (whole, stepped):
                _end_one(workflow, word, *rest)
        assert _all_of(whole) == _all_of(stepped)
        _agrees(stepped)


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.RERUN])
def test_many_nodes_take_many_steps(verb: Verb) -> None:
    """What is set back behind one node is set back in steps."""
    many = 5 * steps.STEP
    shape = [Shape([]), *[Shape([0])] * many]
    workflow = _workflow(shape, WorkflowPolicy())
    steering.cancel(workflow, 2.0)
    count = sum(1 for _ in perform_in_steps(workflow, VerbRequest(verb, nodes=("n0",)), 3.0))
    assert count > 2 * 5
    assert workflow.nodes.counts_by_word()["ready"] == 1
    assert workflow.nodes.counts_by_word()["waiting"] == many


def test_what_is_reached_is_found_once_and_in_steps() -> None:
    """A node on two ways is looked at once, and a wide layer gives others their turn."""
    after = {0: [1, 2, 3, 4, 5], **{node: [6] for node in range(1, 6)}, 6: []}
    asked: list[int] = []

    def following(node: int) -> list[int]:
        asked.append(node)
        return after[node]

    found: list[set[int]] = []

    def walk() -> steps.Steps[None]:
        found.append((yield from steps.reached([0], following, step=2)))

    turns = len([*walk()])
    assert found == [set(after)]
    assert turns == 2
    assert asked == [0, 1, 2, 3, 4, 5, 6]
