"""The engine against a naive model: random graphs, events in any order, disks that fail and crashes at every batch boundary.

The model remembers the outcomes of tasks and derives everything else from scratch each time it is asked. A save takes a
copy of it, a crash puts the copy back; what the engine then says must be what the model derives.
"""

import copy
import json
import os
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dyrygentd.core.effects import Batch, Publish
from dyrygentd.core.events import (
    MessagePublished,
    MessageRefused,
    TaskEvent,
    TaskFailed,
    TaskReported,
    TaskSucceeded,
)
from dyrygentd.core.graph import Graph
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import NodeSpec, Signature
from tests.support.conversation import Conversation, states_of
from tests.support.conversation import cancel as cancel_requested
from tests.support.size import of_size

VALUE_BYTES_MAX = 12

#: The longest value here fills the limit, so that lists of several go over it; None has no JSON form.
VALUES = [b"1", b'"two"', b'"0123456789"', b'"0123456789a"', None]


@st.composite
def shapes(draw: st.DrawFn) -> "list[Shape]":
    """Make up to eight nodes whose dependencies may stand before or after them."""
    count = draw(st.integers(1, 8))
    ranks = draw(st.permutations(range(count)))
    return [
        Shape(
            is_join=draw(st.integers(0, 3)) == 0,
            is_mutable=draw(st.booleans()),
            countdown_s=draw(st.sampled_from([0, 0, 0, 5])),
            after=draw(st.lists(st.sampled_from(below), unique=True, max_size=4)) if below else [],
        )
        for below in ([other for other in range(count) if ranks[other] < rank] for rank in ranks)
    ]


@dataclass(frozen=True)
class Shape:
    """One node of a random graph."""

    is_join: bool
    is_mutable: bool
    countdown_s: int
    after: list[int]


def graph_of(shape: list[Shape], workflow_id: str, output: int | None) -> Graph:
    """Build the real graph."""
    specs = [
        NodeSpec(
            f"n{number}",
            None if node.is_join else Signature("t", immutable=not node.is_mutable, countdown_s=node.countdown_s),
            "" if node.is_join else f"{workflow_id}/{number}",
            [f"n{dependency}" for dependency in node.after],
        )
        for number, node in enumerate(shape)
    ]
    return Graph.build(specs, output=None if output is None else f"n{output}")


@dataclass
class Model:
    """One workflow: the outcomes of its tasks, and whatever follows from them, derived from scratch with each question."""

    shape: list[Shape]
    output: int | None
    submitted_at: float
    outcomes: dict[int, TaskEvent] = field(default_factory=dict)
    dispatched: set[int] = field(default_factory=set)
    frozen: dict[int, str] | None = None

    def order(self) -> list[int]:
        """Return the nodes, each after those it depends on."""
        order: list[int] = []
        while len(order) < len(self.shape):
            order += [n for n, node in enumerate(self.shape) if n not in order and set(node.after) <= set(order)]
        return order

    def wanted(self) -> set[int]:
        """Return the nodes whose value a task gets, directly or through joins."""
        wanted: set[int] = set()
        for number in reversed(self.order()):
            node = self.shape[number]
            if number in wanted if node.is_join else node.is_mutable:
                wanted.update(node.after)
        return wanted

    def derive(self) -> tuple[dict[int, str], dict[int, bytes | None]]:
        """Return the states of all nodes (``free`` is a task that may be dispatched) and the values of those that succeeded."""
        states: dict[int, str] = {}
        values: dict[int, bytes | None] = {}
        wanted = self.wanted()
        for number in self.order():
            node, outcome = self.shape[number], self.outcomes.get(number)
            before = {states[dependency] for dependency in node.after}
            if before & {"failed", "blocked"}:
                states[number] = "blocked"
            elif not before <= {"succeeded"}:
                states[number] = "waiting"
            elif not node.is_join and outcome is None:
                states[number] = "in flight" if number in self.dispatched else "free"
            elif not node.is_join and not isinstance(outcome, TaskSucceeded):
                states[number] = "failed"
            else:
                value = outcome.value if isinstance(outcome, TaskSucceeded) else list_of([values[other] for other in node.after])
                values[number] = None if value is None or len(value) > VALUE_BYTES_MAX else value
                states[number] = "failed" if number in wanted and values[number] is None else "succeeded"
        return self.frozen or states, values

    def states(self) -> dict[int, str]:
        """Return the states of all nodes."""
        return self.derive()[0]

    def input(self, number: int) -> bytes | None:
        """Return what a task is given."""
        node, values = self.shape[number], self.derive()[1]
        if not node.is_mutable or not node.after:
            return None
        return values[node.after[0]] if len(node.after) == 1 else list_of([values[other] for other in node.after])

    def result(self) -> bytes | None:
        """Return the value of the output."""
        return None if self.output is None else self.derive()[1][self.output]

    def end(self) -> str:
        """Return the state of the workflow."""
        if self.frozen is not None:
            return "cancelled"
        states = set(self.states().values())
        if states & {"waiting", "free", "in flight"}:
            return "running"
        return "succeeded" if states == {"succeeded"} else "failed"

    def cancel(self) -> None:
        """End what has not ended."""
        if self.end() == "running":
            finished = ("succeeded", "failed", "blocked")
            self.frozen = {number: state if state in finished else "cancelled" for number, state in self.states().items()}


def list_of(values: list[bytes | None]) -> bytes | None:
    """Return the JSON text of a list, None if one of its members is missing."""
    return None if None in values else json.dumps([json.loads(value or b"") for value in values], separators=(",", ":")).encode()


class EngineAgainstModel(RuleBasedStateMachine):
    """Submit, deliver, cancel, wait, fail to save and crash, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Model] = {}
        self.saved: dict[str, Model] = {}
        self.unsaved = Batch()
        self.sent: dict[str, Publish] = {}
        self.sendings: Counter[tuple[str, int]] = Counter()
        self.sendings_max: Counter[tuple[str, int]] = Counter()
        self.submissions = 0

    @initialize(in_flight_max=st.sampled_from([2, 5, 100]), dispatch_max=st.sampled_from([1, 3, 100]))
    def begin(self, in_flight_max: int, dispatch_max: int) -> None:
        """Begin with limits that are sometimes in the way."""
        self.conversation = Conversation(Limits(in_flight_max, dispatch_max, VALUE_BYTES_MAX))

    @precondition(lambda self: len(self.models) < 4)
    @rule(shape=shapes(), data=st.data())
    def submit(self, shape: list[Shape], data: st.DataObject) -> None:
        """Submit a workflow, sometimes with an output in the middle of it."""
        workflow_id = f"w{self.submissions}"
        self.submissions += 1
        output = data.draw(st.none() | st.integers(0, len(shape) - 1), label="output")
        graph = graph_of(shape, workflow_id, output)
        self.models[workflow_id] = Model(shape, graph.output, self.conversation.now)
        self.conversation.tell(self.conversation.submission(graph, workflow_id))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), value=st.sampled_from(VALUES), kind=st.sampled_from(["succeeded"] * 5 + ["failed", "refused"]))
    def deliver(self, data: st.DataObject, value: bytes | None, kind: str) -> None:
        """Deliver a result of any task that was ever sent: in time, late, doubled or contradicting."""
        task_id = data.draw(st.sampled_from(sorted(self.sent)), label="task")
        event: TaskEvent
        match kind:
            case "succeeded":
                event = TaskSucceeded(task_id, value, "" if value is not None else "no JSON form")
            case "failed":
                event = TaskFailed(task_id, "boom")
            case _:
                event = MessageRefused(task_id, "too odd")
        self._happen(event)

    @precondition(lambda self: self.sent)
    @rule(value=st.sampled_from(VALUES))
    def deliver_all(self, value: bytes | None) -> None:
        """Deliver all that is awaited in one turn, which brings workflows to their ends."""
        for task_id in sorted(self.sent):
            self._happen(TaskSucceeded(task_id, value, "" if value is not None else "no JSON form"))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), state=st.sampled_from(["", "STARTED"]))
    def report(self, data: st.DataObject, state: str) -> None:
        """Deliver the broker's answer or an interim state, whenever."""
        task_id = data.draw(st.sampled_from(sorted(self.sent)), label="task")
        self.conversation.tell(TaskReported(task_id, state) if state else MessagePublished(task_id))

    @rule()
    def deliver_foreign(self) -> None:
        """Deliver a result of somebody else's task."""
        self.conversation.tell(TaskSucceeded("foreign", b"1"))

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a workflow, in progress or not."""
        workflow_id = data.draw(st.sampled_from(sorted(self.models)), label="workflow")
        self.conversation.tell(cancel_requested(workflow_id))
        self.models[workflow_id].cancel()

    @rule(seconds=st.sampled_from([1, 5, 30]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.conversation.now += seconds

    @rule(are_answered=st.booleans())
    def end_turn(self, are_answered: bool) -> None:
        """Save and publish, as it should be; the broker's answers come at once or some time."""
        messages = self._save()
        self._publish(messages)
        if are_answered:
            self.conversation.tell(*[MessagePublished(message.task_id) for message in messages])

    @rule()
    def fail_to_save(self) -> None:
        """End the turn while the disk does not work: the batch waits for the next one."""
        self._take()

    @rule()
    def crash(self) -> None:
        """Crash before anything of the turn was saved."""
        self._recover()

    @rule()
    def crash_after_save(self) -> None:
        """Crash between saving and publishing."""
        self._save()
        self._recover()

    @rule(data=st.data())
    def crash_while_publishing(self, data: st.DataObject) -> None:
        """Crash when some messages of the batch have been sent, before the broker's answers are known."""
        messages = self._save()
        self._publish(messages[: data.draw(st.integers(0, len(messages)), label="sent")])
        self._recover()

    @invariant()
    def agrees(self) -> None:
        """Everything the engine says is what the model derives."""
        if not hasattr(self, "conversation"):
            return
        running = self.conversation.engine.workflows
        for workflow_id, model in self.models.items():
            if workflow_id in running:
                assert running[workflow_id].state.value == model.end()
                self._compare_states(states_of(running[workflow_id]), model)
            else:
                assert model.end() != "running"
        assert running.keys() <= self.models.keys()
        for workflow_id, model in self.saved.items():
            record = self.conversation.workflows[workflow_id]
            assert record.state.value == model.end()
            if model.end() == "succeeded":
                expected = model.result()
                assert record.result == expected
                assert bool(record.error) == (model.output is not None and expected is None)
        assert all(count <= 1 + self.sendings_max[place] for place, count in self.sendings.items())

    def teardown(self) -> None:
        """Let everything come to its end: no workflow hangs, and what succeeded was sent."""
        if not hasattr(self, "conversation"):
            return
        for _ in range(100):
            self._publish(self._save())
            if not self.conversation.engine.workflows:
                break
            self.conversation.now += 10
            for task_id, _, _ in list(self.conversation.engine.flights.in_flight()):
                self._happen(TaskSucceeded(task_id, b"1"))
            self.agrees()
        assert not self.conversation.engine.workflows
        assert not list(self.conversation.engine.flights.in_flight())
        self.agrees()
        for workflow_id, model in self.saved.items():
            event(f"ended as {model.end()}")
            sent = {number for owner, number in self.sendings if owner == workflow_id}
            assert model.outcomes.keys() <= sent

    def _happen(self, event: TaskEvent) -> None:
        self.conversation.tell(event)
        workflow_id, _, number = event.task_id.partition("/")
        model = self.models.get(workflow_id)
        if model is not None and model.states()[int(number)] == "in flight":
            model.outcomes[int(number)] = event

    def _take(self) -> None:
        batch = self.conversation.take()
        for message in batch.publish:
            model = self.models[message.workflow_id]
            if message.node not in model.dispatched:
                assert model.states()[message.node] == "free"
                model.dispatched.add(message.node)
            assert (message.task_id, message.attempt) == (f"{message.workflow_id}/{message.node}", 1)
            assert message.input == model.input(message.node)
        self.unsaved.merge(batch)
        assert set(batch.watch) >= {message.task_id for message in batch.publish}
        assert not set(batch.watch) & set(batch.unwatch)

    def _save(self) -> list[Publish]:
        """Take the batch, save it with all that waited, and return what may be published now."""
        self._take()
        batch, self.unsaved = self.unsaved, Batch()
        self.conversation.save(batch)
        self.saved = copy.deepcopy(self.models)
        return batch.publish

    def _publish(self, messages: list[Publish]) -> None:
        """Send messages; by then the disk must hold the intent and the success of every dependency."""
        for message in messages:
            model, rows = self.saved[message.workflow_id], self.conversation.nodes
            place = (message.workflow_id, message.node)
            # An answer to the sending before a crash may come in the very turn that sends again.
            assert rows[place].state in ("dispatching", "dispatched")
            assert all(
                rows[message.workflow_id, dependency].state == "succeeded" for dependency in model.shape[message.node].after
            )
            assert self.conversation.now >= model.submitted_at + model.shape[message.node].countdown_s
            self.sent[message.task_id] = message
            self.sendings[place] += 1

    def _recover(self) -> None:
        """Lose what was not saved, and go on with a new engine; what was being sent may be sent once more."""
        self.unsaved = Batch()
        self.models = copy.deepcopy(self.saved)
        unfinished = set(self.conversation.unfinished())
        self.sendings_max.update(
            place for place, row in self.conversation.nodes.items() if row.state == "dispatching" and place[0] in unfinished
        )
        self.conversation.crash()

    @staticmethod
    def _compare_states(words: dict[str, str], model: Model) -> None:
        for number, state in model.states().items():
            word = words[f"n{number}"]
            match state:
                case "free":
                    assert word == "ready" or (word == "held" and model.shape[number].countdown_s)
                case "in flight":
                    assert word in ("dispatching", "dispatched")
                case _:
                    assert word == state


_PROFILES = {
    "fast": settings(max_examples=of_size(60, 150), stateful_step_count=30, derandomize=True),
    "deep": settings(max_examples=2000, stateful_step_count=50, print_blob=True),
}

TestEngineAgainstModel = pytest.mark.timeout(0)(EngineAgainstModel.TestCase)  # The deep profile takes minutes.
TestEngineAgainstModel.settings = settings(
    _PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "fast")],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
