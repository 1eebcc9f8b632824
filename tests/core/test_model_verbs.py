"""The engine against a second naive model: rules, retries, holds, skips, reruns, hooks, lost and late tasks, in any order.

`test_model` looks at values, disks and crashes of plain workflows; here it is what operators do. The model keeps facts about each
node (how its task ended, that it is in flight, held, or to be tried again) and derives the rest from scratch.
"""

import copy
import json
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dyrygentd.core.effects import Answer, Batch, Publish
from dyrygentd.core.events import MessagePublished, TaskEvent, TaskFailed, TaskLost, TaskRevoked, TaskSucceeded, VerbRequested
from dyrygentd.core.graph import Graph
from dyrygentd.core.limits import Limits
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.notes import HoldReason
from dyrygentd.core.policy import PLAIN, Hook, NodePolicy, Retry, Rule
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import RequestError, ValueGone
from tests.support.conversation import Conversation
from tests.support.size import of_size

ATTEMPTS, PAUSE_S = 2, 10.0
GOOD, BAD = {"succeeded", "skipped", "unneeded"}, {"failed", "cancelled", "blocked"}
#: Set back together with what they depend on.
SET_BACK = {"blocked", "cancelled", "unneeded", "free", "held", "lost", "retrying"}


@dataclass(frozen=True)
class Shape:
    """One node of a random graph."""

    after: list[int]
    is_join: bool = False
    is_mutable: bool = False
    has_retry: bool = False
    rule: Rule = Rule.ALL_SUCCEEDED
    hook: Hook | None = None


@st.composite
def shapes(draw: st.DrawFn) -> list[Shape]:
    """Make up to six nodes in order, and sometimes hooks after all of them."""
    nodes: list[Shape] = []
    for number in range(draw(st.integers(1, 6))):
        after = draw(st.lists(st.sampled_from(range(number)), unique=True, max_size=3)) if number else []
        is_join = draw(st.integers(0, 4)) == 0
        chosen = draw(st.sampled_from([Rule.ALL_SUCCEEDED, *Rule])) if after and not is_join else Rule.ALL_SUCCEEDED
        nodes.append(Shape(after, is_join, draw(st.booleans()), draw(st.booleans()), chosen))
    hooks = draw(st.sampled_from([[], [], *([hook] for hook in Hook), [*Hook]]))
    waited_for = list(range(len(nodes)))
    return nodes + [Shape(waited_for, hook=hook) for hook in hooks]


def graph_of(shape: list[Shape], workflow_id: str) -> Graph:
    """Build the real graph."""
    specs = []
    for number, node in enumerate(shape):
        retry = Retry(ATTEMPTS, PAUSE_S, jitter=0.0) if node.has_retry else None
        policy = NodePolicy(rule=node.rule, retry=retry, hook=node.hook)
        specs.append(
            NodeSpec(
                f"n{number}",
                None if node.is_join else Signature("t", immutable=not node.is_mutable),
                "" if node.is_join else f"{workflow_id}/{number}",
                [] if node.hook else [f"n{dependency}" for dependency in node.after],
                PLAIN if policy == NodePolicy() else policy,
            )
        )
    return Graph.build(specs)


@dataclass
class Facts:
    """What cannot be derived about a node."""

    outcome: str = ""
    value: bytes = b"null"
    task_id: str = ""
    is_in_flight: bool = False
    is_lost: bool = False
    retry_at: float = 0.0
    is_on_hold: bool = False
    is_stale: bool = False
    failures: int = 0
    attempts: int = 0

    def forget(self) -> None:
        """Be as if it had never run, but for the number of attempts and an operator's hold."""
        self.outcome, self.value, self.retry_at, self.failures = "", b"null", 0.0, 0
        self.is_in_flight = self.is_lost = self.is_stale = False

    def let_go(self) -> None:
        """End the pause before the next attempt; a hook that was told of an end which is none any more begins anew."""
        self.is_lost, self.retry_at = False, 0.0
        if self.is_stale:
            self.is_stale, self.failures = False, 0


@dataclass
class Model:
    """One workflow."""

    shape: list[Shape]
    facts: list[Facts]
    is_paused: bool = False
    is_cancelled: bool = False
    doubted: set[str] = field(default_factory=set)

    def states(self) -> list[str]:
        """Derive the states of all nodes; ``free`` may be dispatched."""
        states: list[str] = []
        for node, facts in zip(self.shape, self.facts, strict=True):
            if facts.outcome:
                states.append(facts.outcome)
            elif facts.is_in_flight:
                states.append("in flight")
            elif facts.is_lost:
                states.append("lost")
            elif facts.retry_at:
                states.append("retrying")
            else:
                state = verdict(node, [states[dependency] for dependency in node.after])
                is_go = state == "go"
                states.append("succeeded" if is_go and node.is_join else "held" if is_go and facts.is_on_hold else state)
        return ["free" if state == "go" else state for state in states]

    def end(self) -> str:
        """Return the state of the workflow."""
        states = set(self.states())
        if self.is_cancelled:
            return "cancelled"
        if states <= GOOD | BAD:
            return "failed" if states & BAD else "succeeded"
        return "paused" if self.is_paused else "running"

    def tidy(self) -> None:
        """An end ends a pause, and whatever has finished is held by nobody."""
        self.is_paused = self.is_paused and self.end() == "paused"
        for facts, state in zip(self.facts, self.states(), strict=True):
            if state in GOOD | BAD:
                facts.is_on_hold = False

    def value(self, number: int) -> bytes:
        """Return what a node hands on."""
        node = self.shape[number]
        if node.is_join and not self.facts[number].outcome and self.states()[number] == "succeeded":
            return b"[" + b",".join(self.value(other) for other in node.after) + b"]"
        return self.facts[number].value

    def input(self, number: int) -> bytes | None:
        """Return what a task is given."""
        node = self.shape[number]
        if not node.is_mutable or not node.after:
            return None
        values = [self.value(other) for other in node.after]
        return values[0] if len(values) == 1 else b"[" + b",".join(values) + b"]"

    def reopen(self, nodes: set[int]) -> None:
        """Set nodes back, and what had not run because of them."""
        states, reset = self.states(), set(nodes)
        if any(self.shape[node].hook is None for node in nodes):
            hooks = {number for number, node in enumerate(self.shape) if node.hook}
            in_flight = {number for number in hooks if states[number] == "in flight"}
            reset |= hooks - in_flight
            for number in in_flight:
                self.facts[number].is_stale = True
        for number, node in enumerate(self.shape):
            if set(node.after) & reset and states[number] in SET_BACK:
                reset.add(number)
        for number in reset:
            facts = self.facts[number]
            if facts.outcome == "skipped" and not facts.attempts:
                facts.attempts = 1  # Its first task id was told to have succeeded, so it begins with the second.
            facts.forget()
        self.is_cancelled = False

    def below(self, number: int) -> set[int]:
        """Return a node and all that follows from it."""
        found = {number}
        for other, node in enumerate(self.shape):
            if set(node.after) & found:
                found.add(other)
        return found


def verdict(node: Shape, before: list[str]) -> str:
    """Return what a node's rule makes of the states of its dependencies."""
    has_bad, is_waiting = bool(set(before) & BAD), not set(before) <= GOOD | BAD
    if node.hook is not None:
        applies = node.hook is Hook.ALWAYS or (node.hook is Hook.FAILURE) == has_bad
        return "waiting" if is_waiting else "go" if applies else "unneeded"
    match node.rule:
        case Rule.ALL_SUCCEEDED | Rule.NONE_FAILED if has_bad:
            return "blocked"
        case Rule.ANY_FAILED if has_bad:
            return "go"
        case Rule.ANY_SUCCEEDED if {"succeeded", "skipped"} & set(before):
            return "go"
        case _ if is_waiting:
            return "waiting"
        case Rule.ALL_SUCCEEDED if "unneeded" in before:
            return "unneeded"
        case Rule.ANY_FAILED:
            return "unneeded"
        case Rule.ANY_SUCCEEDED:
            return "blocked" if has_bad else "unneeded"
    return "go"


class VerbsAgainstModel(RuleBasedStateMachine):
    """Submit, deliver, ask for verbs, wait, fail to save and crash, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation()
        self.models: dict[str, Model] = {}
        self.saved: dict[str, Model] = {}
        self.unsaved = Batch()
        self.sent: list[str] = []

    @initialize(in_flight_max=st.sampled_from([1, 3, 100]), shape=shapes())
    def begin(self, in_flight_max: int, shape: list[Shape]) -> None:
        """Begin with limits that are sometimes in the way, and one workflow."""
        self.conversation = Conversation(Limits(in_flight_max))
        self.submit(shape)

    @precondition(lambda self: len(self.models) < 2)
    @rule(shape=shapes())
    def submit(self, shape: list[Shape]) -> None:
        """Submit a workflow."""
        workflow_id = f"w{len(self.models)}"
        self.models[workflow_id] = Model(shape, [Facts() for _ in shape])
        self.conversation.tell(self.conversation.submission(graph_of(shape, workflow_id), workflow_id))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), kind=st.sampled_from(["succeeded", "succeeded", "failed", "failed", "revoked", "lost", "published"]))
    def deliver(self, data: st.DataObject, kind: str) -> None:
        """Deliver a result of any task that was ever sent: in time, late, doubled or contradicting."""
        self._deliver(data.draw(st.sampled_from(self.sent), label="task"), kind)

    @rule(kind=st.sampled_from(["succeeded", "failed"]))
    def deliver_all(self, kind: str) -> None:
        """Deliver all that is awaited, which brings workflows to their ends."""
        for task_id, _, _ in list(self.conversation.engine.flights.in_flight()):
            self._deliver(task_id, kind)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), verb=st.sampled_from([Verb.RETRY, Verb.SKIP, Verb.HOLD, Verb.RELEASE, Verb.RERUN]), force=st.booleans())
    def ask_about_node(self, data: st.DataObject, verb: Verb, force: bool) -> None:
        """Ask for a verb on one node, which may be refused."""
        workflow_id = data.draw(st.sampled_from(sorted(self.models)), label="workflow")
        number = data.draw(st.integers(0, len(self.models[workflow_id].shape) - 1), label="node")
        answer = self._ask(workflow_id, VerbRequest(verb, nodes=(f"n{number}",), value=b'"skipped"', force=force))
        if answer is None or not answer.is_changed:
            return
        event(f"{verb.value} of a node")
        model = self.models[workflow_id]
        facts, state = model.facts[number], model.states()[number]
        match verb:
            case Verb.HOLD:
                facts.is_on_hold = True
            case Verb.RELEASE:
                facts.is_on_hold = False
                facts.let_go()
            case Verb.RETRY if state in ("retrying", "lost"):
                facts.is_on_hold = False
                facts.let_go()
            case Verb.RETRY if state == "in flight":
                facts.is_in_flight, facts.failures = False, 0
                facts.let_go()
            case Verb.RETRY:
                model.reopen({number})
            case Verb.RERUN:
                model.reopen(model.below(number))
            case _:
                if state in BAD:
                    model.reopen({number})
                facts.forget()
                facts.outcome, facts.value = "skipped", b'"skipped"'
        model.tidy()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), verb=st.sampled_from([Verb.RETRY, Verb.RETRY, Verb.PAUSE, Verb.RESUME, Verb.CANCEL]))
    def ask_about_workflow(self, data: st.DataObject, verb: Verb) -> None:
        """Ask for a verb on a whole workflow."""
        workflow_id = data.draw(st.sampled_from(sorted(self.models)), label="workflow")
        answer = self._ask(workflow_id, VerbRequest(verb))
        if answer is None or not answer.is_changed:
            return
        event(f"{verb.value} of a workflow")
        model = self.models[workflow_id]
        match verb:
            case Verb.PAUSE | Verb.RESUME:
                model.is_paused = verb is Verb.PAUSE
            case Verb.RETRY:
                states = model.states()
                for facts, state in zip(model.facts, states, strict=True):
                    if state == "lost":
                        facts.is_on_hold = False
                        facts.let_go()
                model.reopen({number for number, state in enumerate(states) if state in ("failed", "cancelled")})
            case _:
                for facts, state in zip(model.facts, model.states(), strict=True):
                    if state not in GOOD | BAD:
                        facts.forget()
                        facts.outcome = "cancelled"
                model.is_cancelled = True
        model.tidy()

    @rule(seconds=st.sampled_from([1, 10, 30]))
    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.conversation.now += seconds

    @rule()
    def end_turn(self) -> None:
        """Save and publish."""
        for message in self._save():
            assert self.conversation.nodes[message.workflow_id, message.node].state in ("dispatching", "dispatched")
            self.sent.append(message.task_id)

    @rule()
    def fail_to_save(self) -> None:
        """End the turn while the disk does not work: the batch waits for the next one."""
        self._take()

    @rule(is_saved=st.booleans())
    def crash(self, is_saved: bool) -> None:
        """Lose what was not saved; which tasks were doubted is not remembered either."""
        if is_saved:
            self._save()
        self.unsaved = Batch()
        self.models = copy.deepcopy(self.saved)
        for model in self.models.values():
            model.doubted.clear()
        self.conversation.crash()
        self._note_times_that_came()

    @invariant()
    def agrees(self) -> None:
        """Everything the engine says is what the model derives."""
        running = self.conversation.engine.workflows
        for workflow_id, model in self.models.items():
            if workflow_id in running:
                self._compare(running[workflow_id], model, self.conversation.now)
            else:
                assert model.end() in ("succeeded", "failed", "cancelled")
        for workflow_id, model in self.saved.items():
            self._compare(self.conversation.restored(workflow_id), model, self.conversation.now)

    def teardown(self) -> None:
        """Let everything come to its end: nothing hangs, whatever was done."""
        for _ in range(60):
            self.end_turn()
            if not self.conversation.engine.workflows:
                break
            for workflow_id, model in self.models.items():
                if model.is_paused:
                    assert self._ask(workflow_id, VerbRequest(Verb.RESUME)) is not None
                    model.is_paused = False
                for number, state in enumerate(model.states()):
                    if state in ("held", "lost") or model.facts[number].is_on_hold:
                        assert self._ask(workflow_id, VerbRequest(Verb.RELEASE, nodes=(f"n{number}",))) is not None
                        model.facts[number].is_on_hold = False
                        model.facts[number].let_go()
            self.conversation.now += 30
            self.deliver_all("succeeded")
            self.agrees()
        assert not self.conversation.engine.workflows
        for model in self.models.values():
            event(f"ended as {model.end()}")

    def _ask(self, workflow_id: str, request: VerbRequest) -> Answer | None:
        """Ask in the present turn; None if the workflow has gone and its end is not stored yet."""
        engine, restored = self.conversation.engine, None
        if workflow_id not in engine.workflows:
            if self.models[workflow_id] != self.saved.get(workflow_id):
                return None
            restored = self.conversation.restored(workflow_id)
        count = len(engine._turn.batch.answers)
        self.conversation.tell(VerbRequested(workflow_id, request, 1, restored))
        (answer,) = engine._turn.batch.answers[count:]
        assert answer.error is None or isinstance(answer.error, RequestError)
        assert not isinstance(answer.error, ValueGone) or request.verb is Verb.RERUN
        return answer

    def _deliver(self, task_id: str, kind: str) -> None:
        value = json.dumps(task_id[:4]).encode()
        happened: dict[str, TaskEvent] = {
            "succeeded": TaskSucceeded(task_id, value),
            "failed": TaskFailed(task_id, "boom"),
            "revoked": TaskRevoked(task_id, "somebody did"),
            "lost": TaskLost(task_id, "gone"),
            "published": MessagePublished(task_id),
        }
        self.conversation.tell(happened[kind])
        if kind == "published":
            return
        for model in self.models.values():
            for number, facts in enumerate(model.facts):
                if facts.task_id == task_id:
                    self._apply(model, number, kind, value)
            model.tidy()

    def _apply(self, model: Model, number: int, kind: str, value: bytes) -> None:
        facts = model.facts[number]
        if facts.is_lost and not facts.outcome and kind != "lost":
            # It turns up: nobody has decided about it yet.
            event("turned up")
            facts.is_lost, facts.is_in_flight = False, True
        if not facts.is_in_flight:
            if facts.task_id in model.doubted and kind == "succeeded":
                model.doubted.discard(facts.task_id)
                is_open = model.end() in ("running", "paused")
                if facts.outcome == "failed" and is_open:
                    event("corrected")
                    model.reopen({number})
                    facts.outcome, facts.value = "succeeded", value
            return
        facts.is_in_flight = False
        has_another = model.shape[number].has_retry and facts.failures + 1 < ATTEMPTS
        match kind:
            case _ if facts.is_stale and kind != "lost" and not (kind == "failed" and has_another):
                event("a stale hook")
                facts.forget()
            case "succeeded":
                facts.outcome, facts.value = "succeeded", value
            case "lost":
                facts.is_lost = True
            case "failed" if has_another:
                facts.failures += 1
                facts.retry_at = self.conversation.now + PAUSE_S
            case _:
                facts.outcome = "failed"
                if kind == "revoked":
                    model.doubted.add(facts.task_id)

    def _take(self) -> None:
        batch = self.conversation.take()
        self._note_times_that_came()
        for message in batch.publish:
            model = self.models[message.workflow_id]
            facts = model.facts[message.node]
            if not (facts.is_in_flight and facts.task_id == message.task_id):  # Otherwise it is sent again after a crash.
                assert model.states()[message.node] == "free"
                facts.is_in_flight, facts.task_id = True, message.task_id
                facts.attempts += 1
            assert message.attempt == facts.attempts
            if model.shape[message.node].hook is None:
                assert message.input == model.input(message.node)
        self.unsaved.merge(batch)

    def _note_times_that_came(self) -> None:
        """Follow the engine in when it takes note of a time that has come: in this turn, or, if it is new, in the next."""
        for workflow_id, model in self.models.items():
            workflow = self.conversation.engine.workflows.get(workflow_id)
            for number, facts in enumerate(model.facts):
                hold = None if workflow is None else workflow.holds.get(number)
                if hold is not None and hold.reason is HoldReason.RETRY and hold.until <= self.conversation.now:
                    facts.retry_at = hold.until
                elif 0 < facts.retry_at <= self.conversation.now:
                    facts.let_go()

    def _save(self) -> list[Publish]:
        self._take()
        batch, self.unsaved = self.unsaved, Batch()
        self.conversation.save(batch)
        self.saved = copy.deepcopy(self.models)
        return batch.publish

    @staticmethod
    def _compare(workflow: RunningWorkflow, model: Model, now: float) -> None:
        assert workflow.state.value == model.end()
        for number, state in enumerate(model.states()):
            word, hold = workflow.state_of(number).word, workflow.holds.get(number)
            match state:
                case "free":
                    # That a time has come is not written down, since it follows from the clock.
                    assert word == "ready" or (hold is not None and hold.reason is HoldReason.RETRY and hold.until <= now)
                case "in flight":
                    assert word in ("dispatching", "dispatched")
                case "lost":
                    assert hold is not None
                    assert hold.reason is HoldReason.LOST
                case "unneeded":
                    assert word == "skipped"
                    assert number in workflow.unneeded
                case _:
                    assert word == state
            assert (number in workflow.on_hold) == model.facts[number].is_on_hold


_PROFILES = {
    "fast": settings(max_examples=of_size(40, 100), stateful_step_count=30, derandomize=True),
    "deep": settings(max_examples=3000, stateful_step_count=50, print_blob=True),
}

TestVerbsAgainstModel = pytest.mark.timeout(0)(VerbsAgainstModel.TestCase)  # The deep profile takes minutes.
TestVerbsAgainstModel.settings = settings(
    _PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "fast")],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
