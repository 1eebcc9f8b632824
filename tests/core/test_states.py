"""The table of transitions: each row can happen, nothing else can."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest

from dyrygentd.core.states import IN_FLIGHT, NODE_STATE_OF_WORD, SETTLED, TRANSITIONS, NodeState, WorkflowState
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken
from tests.core.conversation import parse_graph

Row = tuple[NodeState, NodeState]


class Recorded(RunningWorkflow):
    """A workflow that writes down each change of a node's state."""

    def __init__(self, text: str) -> None:
        graph = parse_graph(text)
        super().__init__(workflow_id="w", name="w", graph=graph, created_at=1.0, value_bytes_max=4)
        self.seen: list[tuple[str, Row]] = []
        self.start(1.0)

    def _move(self, node: int, state: NodeState) -> None:
        before = self.state_of(node)
        super()._move(node, state)
        self.seen.append((self.graph.names[node], (before, state)))

    def dispatch(self, *, confirmed: bool = False) -> None:
        """Dispatch one node."""
        node = self.take_ready(2.0)
        if confirmed:
            self.published(node)


def _in_flight(*, confirmed: bool) -> Recorded:
    workflow = Recorded("x")
    workflow.dispatch(confirmed=confirmed)
    return workflow


def _with(workflow: Recorded, do: Callable[[Recorded], object]) -> Recorded:
    do(workflow)
    return workflow


def _after_a(text: str, *, value: bytes = b"1", fails: bool = False) -> Recorded:
    workflow = Recorded(text)
    workflow.dispatch()
    if fails:
        workflow.failed(0, "boom", 3.0)
    else:
        workflow.succeeded(0, value, "", 3.0)
    return workflow


_W, _H, _R, _DG, _DD, _S, _F, _C, _B = NodeState

#: ``{row: the shortest story in which node ``x`` goes that way}``
STORIES: dict[Row, Callable[[], Recorded]] = {
    (_W, _R): lambda: Recorded("x"),
    (_W, _H): lambda: Recorded("x countdown=9"),
    (_W, _S): lambda: Recorded("&x"),
    (_W, _F): lambda: _after_a("a; &x < a; c < x", value=b"123"),
    (_W, _B): lambda: _after_a("a; x < a", fails=True),
    (_W, _C): lambda: _with(Recorded("a; x < a"), lambda workflow: workflow.cancel(2.0)),
    (_H, _R): lambda: _with(Recorded("x countdown=9"), lambda workflow: workflow.release_held(0, 10.0)),
    (_H, _C): lambda: _with(Recorded("x countdown=9"), lambda workflow: workflow.cancel(2.0)),
    (_R, _DG): lambda: _in_flight(confirmed=False),
    (_R, _C): lambda: _with(Recorded("x"), lambda workflow: workflow.cancel(2.0)),
    (_DG, _DD): lambda: _in_flight(confirmed=True),
    (_DG, _S): lambda: _with(_in_flight(confirmed=False), lambda workflow: workflow.succeeded(0, b"1", "", 3.0)),
    (_DG, _F): lambda: _with(_in_flight(confirmed=False), lambda workflow: workflow.failed(0, "boom", 3.0)),
    (_DG, _C): lambda: _with(_in_flight(confirmed=False), lambda workflow: workflow.cancel(3.0)),
    (_DD, _S): lambda: _with(_in_flight(confirmed=True), lambda workflow: workflow.succeeded(0, b"1", "", 3.0)),
    (_DD, _F): lambda: _with(_in_flight(confirmed=True), lambda workflow: workflow.failed(0, "boom", 3.0)),
    (_DD, _C): lambda: _with(_in_flight(confirmed=True), lambda workflow: workflow.cancel(3.0)),
}


def _row_name(row: Row) -> str:
    return f"{row[0].word}-{row[1].word}"


def test_every_row_has_a_story() -> None:
    """The table and the stories are the same set, so a new row cannot come in untold."""
    assert STORIES.keys() == TRANSITIONS.keys()


@pytest.mark.parametrize("row", TRANSITIONS, ids=_row_name)
def test_each_row_happens(row: Row) -> None:
    """Each row is reached through the public methods, and is the last thing that happens to the node."""
    assert [seen for name, seen in STORIES[row]().seen if name == "x"][-1] == row


@pytest.mark.parametrize("row", sorted(set(product(NodeState, NodeState)) - TRANSITIONS.keys()), ids=_row_name)
def test_anything_else_breaks_an_invariant(row: Row) -> None:
    """A change that is no row raises with the story of the node and leaves its state alone."""
    workflow = RunningWorkflow(workflow_id="w", name="w", graph=parse_graph("x"), created_at=1.0, value_bytes_max=4)
    workflow._place(0, row[0])
    with pytest.raises(InvariantBroken, match=f"node 'x' of workflow 'w' cannot go from {row[0].word} to {row[1].word}"):
        workflow._move(0, row[1])
    assert workflow.state_of(0) is row[0]


def test_settled_states_are_ends() -> None:
    """No row leaves a settled state, and every other state can still be left by a cancel."""
    assert {before for before, _ in TRANSITIONS}.isdisjoint(SETTLED)
    assert {before for before, after in TRANSITIONS if after is NodeState.CANCELLED} == set(NodeState) - SETTLED


def test_every_row_gives_its_reason() -> None:
    """The documentation's diagram is drawn from the table, so each row says why."""
    assert all(TRANSITIONS.values())


def test_words_and_kinds() -> None:
    """The words on disk lead back to the states, and the two kinds exclude each other."""
    assert {NODE_STATE_OF_WORD[state.word] for state in NodeState} == set(NodeState)
    assert {state for state in NodeState if state.is_in_flight} == IN_FLIGHT
    assert {state for state in NodeState if state.is_settled} == SETTLED
    assert not IN_FLIGHT & SETTLED
    assert [state.value for state in WorkflowState if not state.is_finished] == ["running"]


def _seen() -> Iterator[Row]:
    for story in STORIES.values():
        yield from (row for _, row in story().seen)


def test_stories_stay_within_the_table() -> None:
    """What the stories pass through on their way is the whole table and nothing beside it."""
    assert set(_seen()) == set(TRANSITIONS)
