"""Random workflows, in the notation of `tests.support.conversation`, and what must become of them."""

import json
from dataclasses import dataclass, replace
from random import Random

from dyrygentd.core.conditions import NoValue, Undecided, why_not
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskEvent, TaskFailed, TaskIgnored, TaskSucceeded
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.core.policy import OnFailure, OnLost, Retry, Rule, SectionEnd, WorkflowPolicy
from dyrygentd.core.states import NodeState
from tests.core.test_model_verbs import verdict
from tests.simulation.virtual import VirtualClock
from tests.simulation.world import BrokenPromise
from tests.support.conversation import parse_graph

_RULES = ("all_succeeded", "all_finished", "any_failed", "any_succeeded", "none_failed")


@dataclass(frozen=True)
class Plan:
    """A workflow that somebody will submit.

    Attributes:
        at: When.
        is_left_alone: Nobody asks for verbs, but for what waits for a person at the end, so its end follows from its tasks.
    """

    key: str
    text: str
    policy: WorkflowPolicy
    at: float
    is_left_alone: bool

    def definition(self) -> Definition:
        """Return what is submitted."""
        return Definition(parse_graph(self.text, self.key), self.key, self.key, {}, policy=self.policy)


def random_plan(chance: Random, key: str, *, within_s: float) -> Plan:
    """Make a workflow of up to nine nodes."""
    is_left_alone = chance.random() < 0.6
    lines: list[str] = []
    names: list[str] = []
    for number in range(chance.choice([1, 2, 3, 5, 7, 9])):
        after = chance.sample(names, min(len(names), chance.choice([0, 1, 1, 1, 2, 3])))
        name, line = _random_node(chance, f"n{number}", after, is_left_alone=is_left_alone)
        lines.append(line)
        names.append(name)
    lines = _with_sections(Random(f"sections of {key}: {lines}"), lines)
    lines = _with_conditions(Random(f"conditions of {key}: {lines}"), lines)
    for when in ("success", "failure", "always"):
        if chance.random() < 0.08:
            lines.append(f"hook_{when}{chance.choice(['', '!'])} hook={when}")
    policy = WorkflowPolicy(
        retry=Retry(chance.choice([2, 3]), 0.5, 4.0, 0.5) if chance.random() < 0.3 else None,
        priority=chance.choice([0, 0, 0, 5]),
        weight=chance.choice([1, 1, 3]),
        in_flight_max=chance.choice([0, 0, 0, 1]),
    )
    if not is_left_alone:
        policy = replace(
            policy,
            on_failure=chance.choice([OnFailure.CONTINUE, OnFailure.STOP]),
            deadline_s=chance.choice([0.0, 0.0, 0.0, 30.0]),
            timeout_s=chance.choice([0.0, 0.0, 10.0]),
            start_at=chance.choice([0.0, 0.0, 0.0, VirtualClock.START + 20.0]),
        )
    return Plan(key, "\n".join(lines), policy, chance.uniform(0.0, within_s), is_left_alone)


def _with_sections(chance: Random, lines: list[str]) -> list[str]:
    """Put nodes into sections that have an end, and something behind; by chance of its own, so that seeds stay what they were."""
    if chance.random() < 0.7:
        return lines
    paths = [chance.choice(["", "s", "s", "s/t"]) for _ in lines]
    placed = [
        f"{line}{'' if '<' in line else ' <'} section={path}" if path else line for line, path in zip(lines, paths, strict=True)
    ]
    ended = [path for path in ("s/t", "s") if any(each == path or each.startswith(f"{path}/") for each in paths)]
    for path in ended:
        name = path.replace("/", "_")
        for when in ("finally", "success", "failure", "always"):
            if chance.random() < (0.8 if when == "finally" else 0.3):
                placed.append(f"{name}_{when}! section={path} end={when} on_lost={chance.choice(['retry', 'fail'])}")
    cleaned = [line.split("!")[0] for line in placed if "end=finally" in line and "section=s " in line]
    return placed + [f"behind < {name}" for name in cleaned]


#: Operators and what is compared with what tasks return: numbers, texts, lists, null.
_ASKED = (("exists", True), ("truthy", True), ("truthy", False), ("is", 1), ("is_not", "x"), ("over", 0), ("in", [1, "x", None]))


def _with_conditions(chance: Random, lines: list[str]) -> list[str]:
    """Let nodes run only if another one returned this or that; by chance of its own. Ends of sections may wait for who asks."""
    if chance.random() < 0.6 or any("end=" in line for line in lines):
        return lines
    names = [line.split()[0].strip("&!") for line in lines]
    asking = [lines[0]]
    for number, line in enumerate(lines[1:], start=1):
        operator, operand = chance.choice(_ASKED)
        when = json.dumps({"value": chance.choice(names[:number]), operator: operand}, separators=(",", ":"))
        asking.append(f"{line}{'' if '<' in line else ' <'} when={when}" if chance.random() < 0.4 else line)
    return asking


def _random_node(chance: Random, name: str, after: list[str], *, is_left_alone: bool) -> tuple[str, str]:
    kind = chance.choice(["task"] * 8 + ["join", "gate", "sleep", "poll", "countdown"])
    words: list[str] = []
    if chance.random() < 0.2 and after and kind != "join":
        words.append(f"rule={chance.choice(_RULES)}")
    if kind == "join":
        return name, f"&{name} < {' '.join(after)}" if after else f"&{name}"
    if kind in ("gate", "sleep"):
        words.append("gate=1" if kind == "gate" else f"sleep={chance.choice([1, 30])}")
    else:
        if kind == "poll":
            words.append("poll=5")
        elif kind == "countdown":
            words.append("countdown=7")
        if chance.random() < 0.3:
            words.append(f"retry={chance.choice([2, 3])} backoff=0.5 jitter=0.5")
        if chance.random() < 0.5:
            words.append(f"on_lost={chance.choice(['retry', 'retry', 'fail', 'hold'])}")
        if chance.random() < 0.15:
            words.append(f"pool={chance.choice(['one', 'many@a', 'many@b'])}")
        if not is_left_alone and chance.random() < 0.15:
            words.append("timeout=8")
    mark = "!" if kind == "poll" or chance.random() < 0.4 else ""
    head = f"{name}{mark if kind not in ('gate', 'sleep') else ''}"
    return name, " ".join([head, "<", *after, *words]) if after or words else head


@dataclass(frozen=True)
class _Decided:
    """What `verdict` needs to know of a node."""

    hook: object
    rule: object


class Ends:
    """What must have become of a workflow that nobody interfered with, derived from the results that its tasks really had."""

    def __init__(self, plan: Plan, sent: dict[str, Publish], stored: dict[str, TaskEvent], *, graph: Graph | None = None) -> None:
        self._plan = plan
        self._graph = graph or plan.definition().graph
        self._sent = sent
        self._stored = stored

    def check(self, states: dict[str, str]) -> None:
        """Compare with what the scheduler says: ``{node name: state}``, with ``unneeded`` for those that were not needed."""
        graph = self._graph
        expected: dict[int, str] = {}
        for node in range(len(graph)):
            policy = graph.policy(node)
            # Hooks come last here, and wait for everything else.
            waited_for = graph.dependencies(node) if policy.hook is None else [n for n in expected if n not in graph.hooks]
            before = [self._as_waited_for(dependency, expected) for dependency in waited_for]
            decided = self._of_section(node, expected) or verdict(_Decided(policy.hook, policy.rule), before)  # type: ignore[arg-type]
            if decided == "go":
                decided = self._by_condition(node, expected, states)
            said = states[graph.names[node]]
            expected[node] = self._of_task(node, said) if decided == "go" else decided
            if decided != "go" and self._attempts(node):
                raise BrokenPromise(f"{self._plan.key}/{graph.names[node]} was sent, and is {decided}")
            if said != expected[node]:
                raise BrokenPromise(
                    f"{self._plan.key}/{graph.names[node]} is {said}, not {expected[node]}: {self._evidence(node)}"
                    f"\n{self._plan.text}"
                )

    def _by_condition(self, node: int, expected: dict[int, str], states: dict[str, str]) -> str:
        """Return what the conditions of a node make of it once its rule would let it go."""

        def value_of(name: str) -> object:
            asked = self._graph.number(name)
            assert asked is not None
            if expected[asked] not in ("succeeded", "skipped"):
                raise NoValue(expected[asked])
            return json.loads(self._value(asked, states))

        for proviso in self._graph.choices.provisos.get(node, ()):
            try:
                if why_not(proviso.when.condition, value_of):
                    return "unneeded"
            except Undecided:
                return "failed"
        return "go"

    def _as_waited_for(self, node: int, expected: dict[int, str]) -> str:
        """Return how a node stands to what waits for it: a `finally` stands for its section."""
        is_bad = self._graph.policy(node).section_end is SectionEnd.FINALLY and self._is_bad(node, expected)
        return "failed" if is_bad and expected[node] in ("succeeded", "unneeded") else expected[node]

    def _is_bad(self, ender: int, expected: dict[int, str]) -> bool:
        return any(expected[node] in ("failed", "blocked", "cancelled") for node in self._graph.waited_for(ender))

    def _of_section(self, node: int, expected: dict[int, str]) -> str:
        """Return what becomes of the end of a section, empty for any other node."""
        end = self._graph.policy(node).section_end
        if end is None:
            return ""
        rest = [*self._graph.waited_for(node)]
        ran = [
            other
            for other in rest
            if self._attempts(other) or (expected[other] == "succeeded" and not self._graph.is_join(other))
        ]
        applies = {SectionEnd.SUCCESS: False, SectionEnd.FAILURE: True}.get(end)
        is_wanted = applies is None or applies == self._is_bad(node, expected)
        return "go" if ran and is_wanted else "unneeded"

    def _attempts(self, node: int) -> list[str]:
        first = self._graph.task_ids[node]
        found: list[str] = []
        while first and (task_id := task_id_of_attempt(first, len(found) + 1)) in self._sent:
            found.append(task_id)
        return found

    def _of_task(self, node: int, said: str) -> str:
        if not self._graph.is_task(node):
            return "succeeded"
        attempts = self._attempts(node)
        if not attempts:
            return "never sent"
        last = self._stored.get(attempts[-1])
        match last:
            case TaskSucceeded():
                return "succeeded"
            case TaskIgnored():
                return "unneeded"
            case TaskFailed():
                retry = self._graph.policy(node).retry or self._plan.policy.retry
                failures = sum(isinstance(self._stored.get(attempt), TaskFailed) for attempt in attempts)
                if retry is not None and failures < retry.attempts and not self._was_lost(attempts):
                    return f"tried again ({failures} of {retry.attempts})"
                return "failed"
        # It vanished: its policy has it failed, or it was lost too often.
        return "failed" if self._graph.policy(node).lost is not OnLost.HOLD else "held"

    def _was_lost(self, attempts: list[str]) -> bool:
        return any(attempt not in self._stored for attempt in attempts)

    def _evidence(self, node: int) -> str:
        return ", ".join(f"{attempt}: {self._stored.get(attempt)}" for attempt in self._attempts(node)) or "never sent"

    def check_inputs(self, states: dict[str, str]) -> None:
        """Check what each task was given."""
        graph = self._graph
        for node in range(len(graph)):
            for attempt in self._attempts(node)[-1:]:
                if (
                    not graph.policy(node).is_told_the_end
                    and self._waits_for_all(node)
                    and states[graph.names[node]] == "succeeded"
                ):
                    given, expected = self._sent[attempt].input, self._input(node, states)
                    if (given is None) != (expected is None) or (
                        given is not None and expected is not None and json.loads(bytes(given)) != json.loads(expected)
                    ):
                        raise BrokenPromise(f"{attempt} was given {given!r}, not {expected!r}\n{self._plan.text}")

    def _waits_for_all(self, node: int) -> bool:
        """Tell whether all had ended whose values it was given; with some rules a node, or a gate before it, goes on earlier."""
        graph = self._graph
        return graph.policy(node).rule not in (Rule.ANY_FAILED, Rule.ANY_SUCCEEDED) and all(
            self._waits_for_all(dependency) for dependency in graph.dependencies(node) if not graph.is_task(dependency)
        )

    def _input(self, node: int, states: dict[str, str]) -> bytes | None:
        graph = self._graph
        if not graph.takes_input(node):
            return None
        values = [self._value(dependency, states) for dependency in graph.inputs(node)]
        if graph.is_join(node) or len(values) > 1:
            return b"[" + b",".join(values) + b"]"
        if not values:
            return None if graph.is_task(node) else b"null"
        return values[0]

    def _value(self, node: int, states: dict[str, str]) -> bytes:
        if states[self._graph.names[node]] != "succeeded":
            return b"null"
        if not self._graph.is_task(node):
            return self._input(node, states) or b"null"
        attempts = self._attempts(node)
        last = self._stored.get(attempts[-1]) if attempts else None
        return last.value or b"null" if isinstance(last, TaskSucceeded) else b"null"


def word_of(state: str, is_unneeded: bool) -> str:
    """Return a node's state as `Ends` names it."""
    return "unneeded" if is_unneeded and state == NodeState.SKIPPED.word else state
