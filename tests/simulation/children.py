"""Runs by seed in which nodes are workflows of their own, two levels deep, in the same world of faults.

What holds besides: a child and its node agree at the end, nothing of a tree is left, and what came of one is what its tasks say.
"""

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from dyrygentd import wire
from dyrygentd.core.effects import Publish
from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.graph import NODES_MAX, Definition, Graph
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.core.parent import Parent
from dyrygentd.core.policy import OnFailure, WorkflowPolicy
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.scheduler import Scheduler
from tests.simulation import runs
from tests.simulation.runs import Outcome, Simulation
from tests.simulation.workflows import Ends, Plan, word_of
from tests.simulation.world import Behaviour, BrokenPromise, Disk

_RULES = ("all_finished", "any_failed", "any_succeeded", "none_failed")
#: How often a node is a workflow, by its level.
_SHARE = (0.45, 0.3, 0.0)

#: What tasks add, as workers pack it.
_ADDITIONS = [
    base64.b64encode(zlib.compress(json.dumps({"nodes": nodes}).encode()))
    for nodes in (
        [{"name": "n0", "task": "tasks.added", "on_lost": "retry"}],
        [
            {"name": "n0", "task": "tasks.added", "on_lost": "fail"},
            {"name": "n1", "task": "tasks.added", "after": ["n0"], "on_lost": "retry"},
        ],
    )
]

#: More than any node is tried.
_ATTEMPTS_MAX = 30


def run(seed: int) -> Outcome:
    """Play a seed."""
    return runs.run(seed, _Simulation(seed))


@dataclass(frozen=True)
class _Plan(Plan):
    """A workflow with workflows in it; ``text`` is its document."""

    def definition(self) -> Definition:
        """Return what is submitted."""
        definition = wire.decode_definition(self.text.encode(), nodes_max=100)
        return replace(definition, policy=self.policy, source=None)


def _random_document(chance: Random, key: str, level: int, *, is_left_alone: bool) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    names: list[str] = []
    for number in range(chance.choice([1, 2, 3, 5]) if not level else chance.choice([1, 1, 2, 3])):
        name = f"n{number}"
        after = chance.sample(names, min(len(names), chance.choice([0, 1, 1, 1, 2])))
        node: dict[str, Any] = {"name": name, "after": after}
        if after and chance.random() < 0.2:
            node["rule"] = chance.choice(_RULES)
        if chance.random() < _SHARE[level]:
            inner = _random_document(chance, "", level + 1, is_left_alone=is_left_alone)
            node["workflow"] = {"definition": inner}
            if after and chance.random() < 0.6:
                inner["parameters"] = {"x": {"type": "string", "default": ""}}
                first = {"name": "n0", "task": "tasks.given", "args": ["${x}"], "immutable": True, "on_lost": "retry"}
                inner["nodes"][0] = first
                # A value that is no text is refused by name: the node fails.
                node["workflow"]["input"] = "x"
            if not is_left_alone and chance.random() < 0.15:
                node["workflow"]["on_close"] = "abandon"
        elif chance.random() < 0.1:
            node["gate"] = True
        else:
            node |= {"task": f"tasks.{name}", "immutable": chance.random() < 0.4, "on_lost": chance.choice(["retry", "fail"])}
            if key:
                node["task_id"] = f"{key}/{name}"
            if chance.random() < 0.3:
                node["retry"] = {"attempts": 2, "backoff_s": 0.5, "backoff_max_s": 4}
        nodes.append(node)
        names.append(name)
    return {"name": key or "inner", "nodes": nodes} | ({"key": key} if key else {})


class _Simulation(Simulation):
    """One seed."""

    _disk: Disk

    def _random_plans(self) -> list[Plan]:
        chance, plans = self._chance, list[Plan]()
        for number in range(chance.choice([1, 2, 3])):
            is_left_alone = chance.random() < 0.5
            document = _random_document(chance, f"w{number}", 0, is_left_alone=is_left_alone)
            policy = WorkflowPolicy(priority=chance.choice([0, 0, 5]), in_flight_max=chance.choice([0, 0, 1]))
            if not is_left_alone:
                on_failure = chance.choice([OnFailure.CONTINUE, OnFailure.STOP])
                policy = replace(policy, on_failure=on_failure, deadline_s=chance.choice([0.0, 0.0, 30.0]))
            at = chance.uniform(0.0, self._chaos_s)
            plans.append(_Plan(f"w{number}", json.dumps(document), policy, at, is_left_alone))
        return plans

    def _behave(self, publish: Publish) -> Behaviour:
        chance = Random(f"{self.seed}:{publish.task_id}")
        duration_s = chance.choice([0.0, 0.0, 0.01, 0.3, 2.0, 15.0])
        event = chance.choice(["succeeded"] * 16 + ["failed"] * 3 + ["ignored", "vanishes"])
        value = chance.choice([b'"one"', b'"two"', b'"three"', b"input", b"5"])
        acks_late = chance.random() < 0.3
        # Tasks of the workflow at the top add work, so that this ends.
        added = chance.choice(_ADDITIONS) if not publish.root_id and chance.random() < 0.2 else b""
        return Behaviour(duration_s, event, value, acks_late, added)

    def _is_left_alone(self, workflow_id: str) -> bool:
        record = self._disk._workflows.get(workflow_id)
        root = None if record is None or record.parent is None else record.parent.root_id
        return super()._is_left_alone(root or workflow_id)

    def _meant(self, plan: Plan) -> tuple[str | None, Any]:
        root_id, names = super()._meant(plan)
        children = [each for each in self._children() if each.parent is not None and each.parent.root_id == root_id]
        if not children or self._chance.random() < 0.5:
            return root_id, names
        child = self._chance.choice(sorted(children, key=lambda each: each.workflow_id))
        return child.workflow_id, self._graph_of(child).names

    def _unfinished(self, running: Scheduler) -> dict[str, str]:
        return {workflow_id: workflow_id for workflow_id in running._parts.turns.engine.workflows}

    def _children(self) -> list[WorkflowRecord]:
        return [record for record in self._disk._workflows.values() if record.parent is not None]

    def _row_of(self, task_id: str) -> NodeRecord | None:
        known = super()._row_of(task_id)
        if known is not None:
            return known
        for child in self._children():
            for node, first in enumerate(self._graph_of(child).task_ids):
                if first and task_id in (task_id_of_attempt(first, number) for number in range(1, _ATTEMPTS_MAX)):
                    return self._disk.node_of(child.workflow_id, node)
        return None

    def _journal_of(self, workflow_id: str) -> Sequence[JournalEntry]:
        """Return that of a workflow and all below it: what is asked of a node may be done to its child."""
        found, level = list(super()._journal_of(workflow_id)), {workflow_id}
        while level:
            level = {
                each.workflow_id for each in self._children() if each.parent is not None and each.parent.workflow_id in level
            }
            found += [entry for each in level for entry in super(_Simulation, self)._journal_of(each)]
        return found

    def _ends_of(self, plan: Plan) -> Ends:
        return _ChildEnds(self, self._disk._workflows[self._accepted[plan.key]], plan.policy)

    def _graph_of(self, record: WorkflowRecord) -> Graph:
        assert record.document is not None
        return wire.decode_definition(record.document, nodes_max=NODES_MAX, node_bytes_max=0, has_good_options=False).graph

    # --- the oracle -------------------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        super()._check_end()
        for child in self._children():
            self._check_child(child)
        self.facts["children"] = len(self._children())
        self.facts["additions"] = sum(map(self._is_added, self._children()))
        self.facts["levels"] = max([child.parent.depth for child in self._children() if child.parent is not None], default=0)

    def _is_added(self, child: WorkflowRecord) -> bool:
        assert child.parent is not None
        return self._graph_of(self._disk._workflows[child.parent.workflow_id]).is_task(child.parent.node)

    def _check_child(self, child: WorkflowRecord) -> None:
        parent = child.parent
        assert parent is not None
        row = self._disk.node_of(parent.workflow_id, parent.node)
        if child.finished_at is None:
            raise BrokenPromise(f"{child.workflow_id} has not finished, its parent's node is {row}")
        if row is None or row.generation < parent.generation:
            raise BrokenPromise(f"{child.workflow_id} was begun, and its node is {row}")
        if row.generation > parent.generation:
            return
        if self._is_added(child) and row.dispatched_at > child.finished_at:
            # The task ran again after that, and added nothing.
            return
        is_good = child.state is WorkflowState.SUCCEEDED
        if (row.state == "succeeded") > is_good or (row.state == "failed" and is_good and "its workflow" in row.error):
            raise BrokenPromise(f"{child.workflow_id} is {child.state}, and its node is {row}")
        if not self._broker.memory and self._is_left_alone(child.workflow_id):
            ends = _ChildEnds(self, child, WorkflowPolicy())
            graph = self._graph_of(child)
            rows = self._disk._nodes.get(child.workflow_id, {})
            said = dict.fromkeys(graph.names, "waiting")
            for node, each in rows.items():
                said[graph.names[node]] = word_of(each.state, each.reason == "unneeded")
            ends.check(said)
            ends.check_inputs(said)


class _ChildEnds(Ends):
    """What must have become of a workflow in whose nodes others do the work."""

    def __init__(self, simulation: _Simulation, record: WorkflowRecord, policy: WorkflowPolicy) -> None:
        plan = _Plan(record.workflow_id, (record.document or b"").decode(), policy, 0.0, is_left_alone=True)
        super().__init__(plan, simulation._broker.sent, simulation._broker.results, graph=simulation._graph_of(record))
        self._disk = simulation._disk
        self._record = record

    def _of_task(self, node: int, said: str) -> str:
        if not self._graph.is_child(node):
            return self._with_added(node, super()._of_task(node, said))
        child = self._disk._workflows.get(Parent(self._record.workflow_id, node).child_id)
        if child is None:
            # What it was given is refused: no text, or no value.
            return "failed" if self._graph.takes_input(node) else "never begun"
        return "succeeded" if child.state is WorkflowState.SUCCEEDED else "failed"

    def _with_added(self, node: int, word: str) -> str:
        """Return how a node has ended whose task may have added something."""
        attempts = self._attempts(node)
        last = self._stored.get(attempts[-1]) if attempts else None
        if word != "succeeded" or not isinstance(last, TaskSucceeded) or last.added is None:
            return word
        row = self._disk.node_of(self._record.workflow_id, node)
        generation = 0 if row is None else row.generation
        child = self._disk._workflows.get(Parent(self._record.workflow_id, node, generation).child_id)
        return "never begun" if child is None else "succeeded" if child.state is WorkflowState.SUCCEEDED else "failed"

    def _value(self, node: int, states: dict[str, str]) -> bytes:
        if not self._graph.is_child(node):
            return super()._value(node, states)
        child = self._disk._workflows.get(Parent(self._record.workflow_id, node).child_id)
        is_good = states[self._graph.names[node]] == "succeeded"
        return b"null" if child is None or child.result is None or not is_good else child.result
