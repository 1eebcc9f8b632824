"""One workflow in progress: what changes inside it when something happens to one of its nodes.

Theory of operation
===================
*The idea.* Each node carries a count of unmet dependencies. When a node succeeds, the counts of its dependents drop; a count of
zero makes a node ready. When a node fails or is cancelled, everything that can no longer run becomes *blocked* and
remembers which node is to blame. Both spread through an explicit stack, so depth costs no recursion, and both touch each
edge once in the life of a workflow.

*Values.* The value of a node is kept until every node that wants it has succeeded (and the output's to the end), counted per
value, so that a failed node can be tried again. A join makes one list out of its members' values, hands that on and lets theirs
go. Values are JSON text: the core splices lists from them but never looks inside.

*What could go wrong.* A result may arrive before the broker's answer to the publishing (dispatching → succeeded is a row of the
table), twice, or after a cancel (the engine no longer knows the task id by then). Any change that is not in the
table raises `InvariantBroken` with the story of the node; the engine then sets the workflow aside and goes on with the others.

*Tried and rejected.* One object per node: 600 bytes each and slow to rebuild after a restart. The rows are flat arrays
instead, and what few nodes have (errors, values, holds) lives in dictionaries.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from dyrygentd.core.graph import Graph
from dyrygentd.core.states import IN_FLIGHT, SETTLED, TRANSITIONS, NodeState, WorkflowState
from dyrygentd.errors import InvariantBroken

_NODE_BITS = 32
_NODE_MASK = (1 << _NODE_BITS) - 1
_STATES = tuple(NodeState)


@dataclass(slots=True)
class Value:
    """A value that somebody still needs."""

    content: bytes
    users: int


class Live(NamedTuple):
    """What a stored row tells about a node that is no longer waiting."""

    node: int
    state: NodeState
    dispatched_at: float = 0.0
    settled_at: float = 0.0
    held_until: float = 0.0
    blocked_by: int | None = None
    error: str = ""
    value: bytes | None = None


class RunningWorkflow:
    """The state of one workflow.

    Guards: every change of a node's state is a row of `TRANSITIONS`; the counts agree with the states; the workflow is finished
    exactly when all its nodes are settled.

    Attributes:
        changed: Nodes whose record has changed since `take_changed`.
        reported: Last state that a worker reported for a node in flight, such as ``STARTED`` or ``RETRY``.
    """

    __slots__ = (
        "_counts",
        "_ready",
        "_unmet",
        "_unsettled",
        "_value_bytes_max",
        "blocked_by",
        "changed",
        "created_at",
        "dispatched_at",
        "error",
        "errors",
        "finished_at",
        "graph",
        "held_until",
        "key",
        "labels",
        "name",
        "reported",
        "result",
        "settled_at",
        "state",
        "states",
        "values",
        "workflow_id",
    )

    def __init__(
        self,
        *,
        workflow_id: str,
        name: str,
        graph: Graph,
        created_at: float,
        value_bytes_max: int,
        key: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.workflow_id = workflow_id
        self.name = name
        self.key = key
        self.labels = labels or {}
        self.graph = graph
        self.created_at = created_at
        self.finished_at: float | None = None
        self.state = WorkflowState.RUNNING
        self.result: bytes | None = None
        self.error = ""
        self.states = bytearray(len(graph))
        self.dispatched_at = array("d", bytes(8 * len(graph)))
        self.settled_at = array("d", bytes(8 * len(graph)))
        self.errors: dict[int, str] = {}
        self.blocked_by: dict[int, int] = {}
        self.held_until: dict[int, float] = {}
        self.reported: dict[int, str] = {}
        self.values: dict[int, Value] = {}
        self.changed: set[int] = set()
        self._unmet = graph.unmet_counts()
        self._counts = [0] * len(_STATES)
        self._counts[NodeState.WAITING] = graph.task_count
        self._unsettled = len(graph)
        self._ready: list[int] = []
        self._value_bytes_max = value_bytes_max

    def __repr__(self) -> str:
        counts = " ".join(f"{word}={count}" for word, count in self.counts_by_word().items() if count)
        return f"<RunningWorkflow {self.workflow_id} '{self.name}' {self.state} {counts}>"

    # --- what can happen --------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Make every node ready that waits for nothing."""
        for node in range(len(self.graph)):
            # A join without dependencies settles at once and may have made later nodes ready already.
            if not self._unmet[node] and self.states[node] == NodeState.WAITING:
                self._set_free(node, now)

    def resume(self, live: Iterable[Live], *, state: WorkflowState, finished_at: float | None, now: float) -> None:
        """Take the states from stored rows instead of starting from the beginning."""
        values: dict[int, bytes] = {}
        for row in live:
            self._place(row.node, row.state)
            self.dispatched_at[row.node] = row.dispatched_at
            self.settled_at[row.node] = row.settled_at
            if row.held_until and row.state is NodeState.HELD:
                self.held_until[row.node] = row.held_until
            if row.blocked_by is not None:
                self.blocked_by[row.node] = row.blocked_by
            if row.error:
                self.errors[row.node] = row.error
            if row.value is not None:
                values[row.node] = row.value
            if row.state is NodeState.SUCCEEDED:
                for dependent in self.graph.dependents(row.node):
                    self._unmet[dependent] -= 1
        self.state, self.finished_at = state, finished_at
        for node, content in values.items():
            self._keep_value(node, content)
        if not state.is_finished:
            self.start(now)

    def release_held(self, node: int, now: float) -> bool:
        """Make a held node ready if its time has come; tell whether it was."""
        if self.states[node] != NodeState.HELD or self.held_until[node] > now:
            return False
        del self.held_until[node]
        self._move(node, NodeState.READY)
        self._push_ready(node)
        return True

    def take_ready(self, now: float) -> int:
        """Take the ready node with the longest way to go and set it dispatching."""
        node = heappop(self._ready) & _NODE_MASK
        self.dispatched_at[node] = now
        self._move(node, NodeState.DISPATCHING)
        return node

    def published(self, node: int) -> None:
        """Note that the broker has the message."""
        if self.states[node] == NodeState.DISPATCHING:
            self._move(node, NodeState.DISPATCHED)

    def succeeded(self, node: int, value: bytes | None, value_error: str, now: float) -> None:
        """Settle a node whose task succeeded; a value that is needed but cannot be carried makes it failed."""
        problem = ""
        if self.graph.value_uses[node]:
            if value is None:
                problem = f"the task succeeded, but its value cannot be passed on: {value_error}"
            elif len(value) > self._value_bytes_max:
                problem = self._too_large(len(value))
        if problem:
            self._settle(node, self._state_without_value(node), now, error=problem)
        else:
            self._settle(node, NodeState.SUCCEEDED, now, value=value)

    def failed(self, node: int, error: str, now: float) -> None:
        """Settle a node whose task failed."""
        self._settle(node, NodeState.FAILED, now, error=error)

    def cancel(self, now: float) -> list[int]:
        """End everything that is not settled; return the nodes that were in flight."""
        in_flight = []
        for node in range(len(self.graph)):
            state = self.state_of(node)
            if state in SETTLED:
                continue
            if state in IN_FLIGHT:
                in_flight.append(node)
            self._move(node, NodeState.CANCELLED)
            self.settled_at[node] = now
        self._ready.clear()
        self.values.clear()
        self._finish(WorkflowState.CANCELLED, now)
        return in_flight

    def set_aside(self, error: str, now: float) -> None:
        """End a workflow that contradicts itself, as it stands; its story is kept in ``error``."""
        self._ready.clear()
        self.error = error
        self.state, self.finished_at = WorkflowState.FAILED, now

    # --- what can be asked ------------------------------------------------------------------------------------------

    def state_of(self, node: int) -> NodeState:
        """Return the state of a node."""
        return _STATES[self.states[node]]

    def attempt_of(self, node: int) -> int:
        """Return how often the node was dispatched, 0 if never."""
        return 1 if self.dispatched_at[node] else 0

    def task_id_of(self, node: int) -> str:
        """Return the task id of the node's current attempt; empty for a join."""
        return self.graph.task_ids[node]

    @property
    def ready_count(self) -> int:
        """Number of nodes that wait for their turn."""
        return len(self._ready)

    @property
    def unsettled_count(self) -> int:
        """Number of nodes, joins included, to which something will still happen."""
        return self._unsettled

    def count(self, state: NodeState) -> int:
        """Return how many tasks are in ``state``; joins are not counted."""
        return self._counts[state]

    def counts_by_word(self) -> dict[str, int]:
        """Return ``{state word: number of tasks}`` for all states; joins are not counted."""
        return {state.word: self._counts[state] for state in _STATES}

    def input_of(self, node: int) -> bytes | None:
        """Return the JSON text of the value that precedes a node, or None if it takes none."""
        if not self.graph.takes_input(node):
            return None
        dependencies = self.graph.dependencies(node)
        try:
            contents = [self.values[dependency].content for dependency in dependencies]
        except KeyError as error:
            raise self._broken(node, f"has lost the value of '{self.graph.names[error.args[0]]}'") from None
        if self.graph.is_join(node) or len(contents) > 1:
            return b"[" + b",".join(contents) + b"]"
        return contents[0] if contents else None

    def parent_task_id(self, node: int) -> str:
        """Return the task id of the last dependency that is a task; empty if there is none."""
        parent = self.graph.last_dependency(node)
        while parent is not None and self.graph.is_join(parent):
            parent = self.graph.last_dependency(parent)
        return "" if parent is None else self.task_id_of(parent)

    def take_changed(self) -> set[int]:
        """Return the nodes whose records have changed, and forget them."""
        changed, self.changed = self.changed, set()
        return changed

    # --- how it spreads ---------------------------------------------------------------------------------------------

    def _settle(self, node: int, state: NodeState, now: float, *, value: bytes | None = None, error: str = "") -> None:
        """Settle a node and everything that is decided by it."""
        stack = [(node, state, value, error)]
        while stack:
            node, state, value, error = stack.pop()
            self._move(node, state)
            self.settled_at[node] = now
            self.reported.pop(node, None)
            if error:
                self.errors[node] = error
            if value is not None and state is NodeState.SUCCEEDED:
                self._keep_value(node, value)
            if state is NodeState.SUCCEEDED:
                self._release_inputs(node)
            to_blame = self.blocked_by.get(node, node)
            for dependent in self.graph.dependents(node):
                if self.states[dependent] != NodeState.WAITING:
                    continue
                if state is not NodeState.SUCCEEDED:
                    if dependent not in self.blocked_by:
                        self.blocked_by[dependent] = to_blame
                        stack.append((dependent, NodeState.BLOCKED, None, ""))
                    continue
                self._unmet[dependent] -= 1
                if self._unmet[dependent]:
                    continue
                if self.graph.is_join(dependent):
                    stack.append(self._joined(dependent))
                else:
                    self._make_ready(dependent, now)
        if not self._unsettled:
            self._finish_by_counts(now)

    def _set_free(self, node: int, now: float) -> None:
        if self.graph.is_join(node):
            _, state, value, error = self._joined(node)
            self._settle(node, state, now, value=value, error=error)
        else:
            self._make_ready(node, now)

    def _joined(self, join: int) -> tuple[int, NodeState, bytes | None, str]:
        if not self.graph.takes_input(join):
            return join, NodeState.SUCCEEDED, None, ""
        if any(dependency not in self.values for dependency in self.graph.dependencies(join)):
            # Only the output may lack a value (`succeeded` fails the node otherwise), so nobody misses this list.
            return join, NodeState.SUCCEEDED, None, ""
        value = self.input_of(join)
        assert value is not None
        if len(value) <= self._value_bytes_max:
            return join, NodeState.SUCCEEDED, value, ""
        return join, self._state_without_value(join), None, self._too_large(len(value))

    def _make_ready(self, node: int, now: float) -> None:
        signature = self.graph.signatures[node]
        assert signature is not None
        until = max(signature.eta_at, now + signature.countdown_s if signature.countdown_s > 0 else 0.0)
        if until > now:
            self.held_until[node] = until
            self._move(node, NodeState.HELD)
        else:
            self._move(node, NodeState.READY)
            self._push_ready(node)

    def _push_ready(self, node: int) -> None:
        heappush(self._ready, (NODE_HEIGHT_MAX - self.graph.heights[node]) << _NODE_BITS | node)

    def _finish_by_counts(self, now: float) -> None:
        # Joins need no look: one that fails leaves a task blocked that wanted its list.
        all_succeeded = self._counts[NodeState.SUCCEEDED] == self.graph.task_count
        self._finish(WorkflowState.SUCCEEDED if all_succeeded else WorkflowState.FAILED, now)

    def _finish(self, state: WorkflowState, now: float) -> None:
        self.state, self.finished_at = state, now
        if state is WorkflowState.SUCCEEDED and self.graph.output is not None:
            value = self.values.get(self.graph.output)
            if value is not None:
                self.result = value.content
            else:
                # Nodes that succeeded without a value that the result needed say why; their records keep it over a crash.
                self.error = next(iter(self.errors.values()), "")

    # --- values -----------------------------------------------------------------------------------------------------

    def _keep_value(self, node: int, content: bytes) -> None:
        users = 1 if node == self.graph.output else 0
        if self.graph.value_uses[node]:
            users += sum(
                self.states[dependent] != NodeState.SUCCEEDED and self.graph.takes_input(dependent)
                for dependent in self.graph.dependents(node)
            )
        if users:
            self.values[node] = Value(content, users)

    def _release_inputs(self, node: int) -> None:
        if not self.values or not self.graph.takes_input(node):
            return
        for dependency in self.graph.dependencies(node):
            value = self.values.get(dependency)
            if value is None:
                continue
            value.users -= 1
            if not value.users:
                del self.values[dependency]
                self.changed.add(dependency)

    def _state_without_value(self, node: int) -> NodeState:
        """Return what becomes of a node whose value cannot be kept: if only the result misses it, it has succeeded."""
        return NodeState.FAILED if self.graph.feeds_tasks[node] else NodeState.SUCCEEDED

    def _too_large(self, value_bytes: int) -> str:
        return (
            f"the value has {value_bytes} bytes of JSON, the limit is {self._value_bytes_max}: "
            "pass a reference to the data instead, or raise `value_bytes_max`"
        )

    # --- the table --------------------------------------------------------------------------------------------------

    def _move(self, node: int, state: NodeState) -> None:
        """Change a node's state; the only place that does, but for `resume`."""
        before = self.state_of(node)
        if (before, state) not in TRANSITIONS:
            raise self._broken(node, f"cannot go from {before.word} to {state.word}")
        self._place(node, state)
        if state is not NodeState.READY:
            self.changed.add(node)

    def _broken(self, node: int, complaint: str) -> InvariantBroken:
        return InvariantBroken(
            f"node '{self.graph.names[node]}' of workflow '{self.workflow_id}' {complaint}"
            f" (attempt {self.attempt_of(node)}, unmet dependencies {self._unmet[node]}, {self!r})"
        )

    def _place(self, node: int, state: NodeState) -> None:
        before = self.states[node]
        self.states[node] = state
        if not self.graph.is_join(node):
            self._counts[before] -= 1
            self._counts[state] += 1
        if state in SETTLED:
            self._unsettled -= 1
            self.held_until.pop(node, None)


#: Heights are counted down from here, so that the smallest number in a heap is the node with the longest way to go.
NODE_HEIGHT_MAX = (1 << 31) - 1
