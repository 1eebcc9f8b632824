"""The table of transitions: each row can happen, nothing else can."""

from collections.abc import Callable, Iterator
from itertools import product

import pytest

from dyrygentd.core import outcomes, steering
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_states import NodeStates
from dyrygentd.core.notes import Failure
from dyrygentd.core.origin import Origin
from dyrygentd.core.reopening import reopen_in_steps, reopen_undecided_in_steps, skip_in_steps
from dyrygentd.core.states import FINISHED, IN_FLIGHT, NODE_STATE_OF_WORD, TRANSITIONS, NodeState, WorkflowState
from dyrygentd.core.steps import exhaust
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import parse_graph

Row = tuple[NodeState, NodeState]


class RecordedStates(NodeStates):
    """States that write down each of their changes."""

    def __init__(self, workflow_id: str, graph: Graph) -> None:
        super().__init__(workflow_id, graph)
        self.names = graph.names
        self.seen: list[tuple[str, Row]] = []

    def move(self, node: int, state: NodeState, now: float) -> None:
        before = self.of(node)
        super().move(node, state, now)
        self.seen.append((self.names[node], (before, state)))

    def cancel_open(self, now: float) -> None:
        before = [self.of(node) for node in range(len(self.states))]
        super().cancel_open(now)
        for name, was, state in zip(self.names, before, self.states, strict=True):
            if was != state:
                self.seen.append((name, (was, NodeState(state))))


class Recorded(RunningWorkflow):
    """A workflow that writes down each change of a node's state."""

    def __init__(self, text: str) -> None:
        graph = parse_graph(text)
        super().__init__(workflow_id="w", name="w", graph=graph, origin=Origin(1.0), value_bytes_max=4)
        self.nodes = self.recorded = RecordedStates("w", graph)
        self.states = self.nodes.states
        self.begin(1.0)

    @property
    def seen(self) -> list[tuple[str, Row]]:
        """The changes, in their order."""
        return self.recorded.seen

    def dispatch(self, *, confirmed: bool = False) -> None:
        """Dispatch one node."""
        node = self.take_ready(2.0)
        if confirmed:
            self.published(node, 2.0)


def _in_flight(*, confirmed: bool) -> Recorded:
    workflow = Recorded("x")
    workflow.dispatch(confirmed=confirmed)
    return workflow


def _with(workflow: Recorded, *steps: Callable[[Recorded], object]) -> Recorded:
    for step in steps:
        step(workflow)
    return workflow


def _after_a(text: str, *, value: bytes = b"1", fails: bool = False) -> Recorded:
    workflow = Recorded(text)
    workflow.dispatch()
    if fails:
        outcomes.failed(workflow, 0, Failure("boom"), 3.0)
    else:
        outcomes.succeeded(workflow, 0, value, "", 3.0)
    return workflow


def _fail(workflow: Recorded) -> None:
    outcomes.failed(workflow, 0, Failure("boom"), 3.0)


def _cancel(workflow: Recorded) -> None:
    steering.cancel(workflow, 3.0)


def _skip(workflow: Recorded) -> None:
    exhaust(skip_in_steps(workflow, [0], b"null", 3.0))


def _reopen(workflow: Recorded) -> None:
    exhaust(reopen_in_steps(workflow, [0], 4.0))


def _reopen_only(workflow: Recorded) -> None:
    exhaust(reopen_undecided_in_steps(workflow, [0], 4.0))


def _retrying() -> Recorded:
    return _with(_with(Recorded("x retry=3"), lambda workflow: workflow.dispatch(confirmed=True)), _fail)


def _in_state(text: str, *, confirmed: bool) -> Recorded:
    return _with(Recorded(text), lambda workflow: workflow.dispatch(confirmed=confirmed))


_W, _H, _R, _DG, _DD, _X, _S, _K, _F, _C, _B = NodeState

#: ``{row: the shortest story in which node ``x`` goes that way}``
STORIES: dict[Row, Callable[[], Recorded]] = {
    (_W, _R): lambda: Recorded("x"),
    (_W, _H): lambda: Recorded("x countdown=9"),
    (_W, _S): lambda: Recorded("&x"),
    (_W, _F): lambda: _after_a("a; &x < a; c < x", value=b"123"),
    (_W, _B): lambda: _after_a("a; x < a", fails=True),
    (_W, _K): lambda: _after_a("a; x < a rule=any_failed"),
    (_W, _C): lambda: _with(Recorded("a; x < a"), _cancel),
    (_H, _R): lambda: _with(Recorded("x countdown=9"), lambda workflow: workflow.time_passed(0, 10.0)),
    (_H, _S): lambda: _with(Recorded("x gate=1"), lambda workflow: steering.release(workflow, 0, 2.0)),
    (_H, _F): lambda: _with(
        _after_a("a; b < a; x < b a gate=1; c < x"),
        lambda workflow: workflow.dispatch(),
        lambda workflow: outcomes.succeeded(workflow, 1, b"123", "", 3.0),
        lambda workflow: steering.release(workflow, 2, 3.0),
    ),
    (_H, _K): lambda: _with(Recorded("x gate=1"), _skip),
    (_H, _C): lambda: _with(Recorded("x countdown=9"), _cancel),
    (_H, _W): lambda: _with(_after_a("a; x < a countdown=9"), lambda workflow: exhaust(reopen_in_steps(workflow, [0, 1], 4.0))),
    (_R, _DG): lambda: _in_flight(confirmed=False),
    (_R, _H): lambda: _with(Recorded("x"), lambda workflow: steering.hold(workflow, 0, 3.0)),
    (_R, _K): lambda: _with(Recorded("x"), _skip),
    (_R, _C): lambda: _with(Recorded("x"), _cancel),
    (_R, _W): lambda: _with(_after_a("a; x < a"), lambda workflow: exhaust(reopen_in_steps(workflow, [0, 1], 4.0))),
    (_DG, _DD): lambda: _in_flight(confirmed=True),
    (_DG, _S): lambda: _with(_in_flight(confirmed=False), lambda workflow: outcomes.succeeded(workflow, 0, b"1", "", 3.0)),
    (_DG, _F): lambda: _with(_in_flight(confirmed=False), _fail),
    (_DG, _X): lambda: _with(_in_state("x retry=3", confirmed=False), _fail),
    (_DG, _H): lambda: _with(
        _in_state("x poll=5", confirmed=False), lambda workflow: outcomes.succeeded(workflow, 0, b"false", "", 3.0)
    ),
    (_DG, _K): lambda: _with(_in_flight(confirmed=False), _skip),
    (_DG, _C): lambda: _with(_in_flight(confirmed=False), _cancel),
    (_DD, _S): lambda: _with(_in_flight(confirmed=True), lambda workflow: outcomes.succeeded(workflow, 0, b"1", "", 3.0)),
    (_DD, _F): lambda: _with(_in_flight(confirmed=True), _fail),
    (_DD, _X): lambda: _retrying(),
    (_DD, _H): lambda: _with(_in_flight(confirmed=True), lambda workflow: outcomes.lost(workflow, 0, "nobody has it", 3.0)),
    (_DD, _K): lambda: _with(_in_flight(confirmed=True), lambda workflow: outcomes.ignored(workflow, 0, "Ignore", 3.0)),
    (_DD, _C): lambda: _with(_in_flight(confirmed=True), _cancel),
    (_H, _DD): lambda: _with(
        _in_flight(confirmed=True),
        lambda workflow: outcomes.lost(workflow, 0, "nobody has it", 3.0),
        lambda workflow: outcomes.turned_up(workflow, 0, 4.0),
    ),
    (_X, _DD): lambda: _with(
        _in_state("x on_lost=retry", confirmed=True),
        lambda workflow: outcomes.lost(workflow, 0, "nobody has it", 3.0),
        lambda workflow: outcomes.turned_up(workflow, 0, 4.0),
    ),
    (_X, _R): lambda: _with(_retrying(), lambda workflow: workflow.time_passed(0, 99.0)),
    (_X, _H): lambda: _with(
        _retrying(), lambda workflow: steering.hold(workflow, 0, 3.0), lambda workflow: workflow.time_passed(0, 99.0)
    ),
    (_X, _K): lambda: _with(_retrying(), _skip),
    (_X, _C): lambda: _with(_retrying(), _cancel),
    # Below a node that succeeded late: only a rerun from above takes it back.
    (_X, _W): lambda: _with(
        _after_a("a; x < a retry=3"),
        lambda workflow: workflow.dispatch(),
        lambda workflow: outcomes.failed(workflow, 1, Failure("boom"), 3.0),
        lambda workflow: exhaust(reopen_in_steps(workflow, [0, 1], 4.0)),
    ),
    (_S, _W): lambda: _with(_with(_in_flight(confirmed=True), lambda w: outcomes.succeeded(w, 0, b"1", "", 3.0)), _reopen_only),
    (_K, _W): lambda: _with(_with(Recorded("x"), _skip), _reopen_only),
    (_F, _W): lambda: _with(_with(_in_flight(confirmed=True), _fail), _reopen_only),
    (_C, _W): lambda: _with(_with(_in_flight(confirmed=True), _cancel), _reopen_only),
    (_B, _W): lambda: _with(_after_a("a; x < a", fails=True), _reopen),
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
    workflow = RunningWorkflow(workflow_id="w", name="w", graph=parse_graph("x"), origin=Origin(1.0), value_bytes_max=4)
    workflow.nodes.place(0, row[0])
    with pytest.raises(InvariantBroken, match=f"node 'x' of workflow 'w' cannot go from {row[0].word} to {row[1].word}"):
        workflow.nodes.move(0, row[1], 2.0)
    assert workflow.state_of(0) is row[0]


def test_finished_states_are_ends() -> None:
    """A finished state is left for waiting only, by somebody's wish, and every other state can still be left by a cancel."""
    assert {after for before, after in TRANSITIONS if before in FINISHED} == {NodeState.WAITING}
    assert {before for before, after in TRANSITIONS if after is NodeState.CANCELLED} == set(NodeState) - FINISHED


def test_every_row_gives_its_reason() -> None:
    """The documentation's diagram is drawn from the table, so each row says why."""
    assert all(TRANSITIONS.values())


def test_words_and_kinds() -> None:
    """The words on disk lead back to the states, and the two kinds exclude each other."""
    assert {NODE_STATE_OF_WORD[state.word] for state in NodeState} == set(NodeState)
    assert {NodeState.DISPATCHING, NodeState.DISPATCHED} == IN_FLIGHT
    assert {state for state in NodeState if state.is_finished} == FINISHED
    assert not IN_FLIGHT & FINISHED
    assert [state.value for state in WorkflowState if not state.is_finished] == ["scheduled", "running", "paused"]


def _seen() -> Iterator[Row]:
    for story in STORIES.values():
        yield from (row for _, row in story().seen)


def test_stories_stay_within_the_table() -> None:
    """What the stories pass through on their way is the whole table and nothing beside it."""
    assert set(_seen()) == set(TRANSITIONS)
