"""Celery's own results of a workflow's tasks, as `apply_async` of the same canvas returns them.

Of a canvas that is a task its `AsyncResult`, of a chain that of its last step with those before as parents, of a group a
`GroupResult`, of a chord that of its body, with the header as its parent. They are made of the graph alone, so that they can be
had at any time and by anybody who may read: a join is a group, and its parent is what all paths to it pass through last.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from celery.result import AsyncResult, GroupResult

from dyrygentd.wire import NodeView

#: Stands for the group of all ends, if there is no one node whose value is the workflow's.
_ENDS: Final = -1

#: A node, and the one before which its parents end: what precedes a group is the parent of the group, and not of its members.
_Line = tuple[int, int | None]


def celery_result(workflow_id: str, nodes: Iterable[NodeView], *, app: Any = None) -> Any:
    """Return the result of a workflow as Celery has it.

    Args:
        app: The Celery app with the result backend, by default the current one.
    """
    return _Tree(workflow_id, list(nodes), app).build()


class _Tree:
    """Makes results, each line of parents once. No recursion: a workflow may be as deep as it is long."""

    def __init__(self, workflow_id: str, nodes: Sequence[NodeView], app: Any) -> None:
        self._workflow_id = workflow_id
        self._nodes = nodes
        self._app = app
        numbers = {node.name: number for number, node in enumerate(nodes)}
        self._after = [[numbers[name] for name in node.after if name in numbers] for node in nodes]
        self._ends = [number for number, node in enumerate(nodes) if node.is_output] or self._loose_ends()
        self._entries: dict[int, int | None] = {}
        self._depths: dict[int, int] = {}
        self._made: dict[_Line, Any] = {}

    def build(self) -> Any:
        """Return the result of the output, or of the group of all ends."""
        for number in self._in_order():
            self._note_entry(number, self._after[number])
        start = self._ends[0] if len(self._ends) == 1 else _ENDS
        if start == _ENDS:
            self._note_entry(_ENDS, self._ends)
        wanted: list[_Line] = [(start, None)]
        while wanted:
            line = wanted[-1]
            if line in self._made:
                wanted.pop()
                continue
            steps = self._steps(line)
            missing = [member for step in steps for member in self._members(step) if member not in self._made]
            if missing:
                wanted += missing
            else:
                self._made[line] = self._linked(steps)
        return self._made[start, None]

    def _loose_ends(self) -> list[int]:
        is_aside = [node.kind == "hook" or bool(node.section_end) for node in self._nodes]
        waited_for = {number for after, aside in zip(self._after, is_aside, strict=True) if not aside for number in after}
        return [number for number, aside in enumerate(is_aside) if number not in waited_for and not aside]

    def _in_order(self) -> list[int]:
        """Return what the ends depend on, and themselves, each after its dependencies."""
        order: list[int] = []
        seen: set[int] = set()
        stack = [(number, False) for number in reversed(self._ends)]
        while stack:
            number, is_done = stack.pop()
            if is_done:
                order.append(number)
            elif number not in seen:
                seen.add(number)
                stack.append((number, True))
                stack += [(other, False) for other in self._after[number] if other not in seen]
        return order

    def _note_entry(self, number: int, after: Sequence[int]) -> None:
        """Find what all paths to a node pass through last; of a group of one, which cannot tell, there is nothing."""
        entry: int | None = after[0] if after else None
        for other in after[1:]:
            entry = self._common(entry, other)
        if self._is_group(number) and entry in after:
            entry = self._entries[entry] if entry is not None and len(after) > 1 else None
        self._entries[number] = entry
        self._depths[number] = 0 if entry is None else self._depths[entry] + 1

    def _common(self, one: int | None, other: int | None) -> int | None:
        while one is not None and other is not None and one != other:
            if self._depths[one] >= self._depths[other]:
                one = self._entries[one]
            else:
                other = self._entries[other]
        return one if one == other else None

    def _steps(self, line: _Line) -> list[int]:
        """Return the nodes of a line, the last one first."""
        steps: list[int] = []
        number: int | None
        number, before = line
        while number is not None and number != before:
            steps.append(number)
            number = self._entries[number] if self._is_group(number) else self._after[number][0] if self._after[number] else None
        return steps

    def _is_group(self, number: int) -> bool:
        return number == _ENDS or self._nodes[number].kind == "join" or len(self._after[number]) > 1

    def _members(self, number: int) -> list[_Line]:
        """Return the lines of the members of a group."""
        if number != _ENDS and self._nodes[number].kind != "join":
            return []
        members = self._ends if number == _ENDS else self._after[number]
        return [(member, self._entries[number]) for member in members]

    def _linked(self, steps: Sequence[int]) -> Any:
        """Make the results of a line, each the parent of the one before it in ``steps``."""
        results: list[Any] = []
        for step in steps:
            members = self._members(step)
            if members:
                results.append(self._group(step, [self._made[member] for member in members]))
                continue
            task_id = self._nodes[step].task_id
            if task_id:
                results.append(AsyncResult(task_id, app=self._app))
            if len(self._after[step]) > 1:
                # A task that waits for several without a join: they are a group as well, though one without parents.
                before = [self._nodes[other].task_id for other in self._after[step]]
                group = [AsyncResult(each, app=self._app) for each in before if each]
                results.append(self._group(step, group))
        for result, parent in pairwise(results):
            result.parent = parent
        # Of nothing but gates and sleeps there is nothing to wait for.
        return results[0] if results else self._group(steps[0] if steps else _ENDS, [])

    def _group(self, number: int, results: list[Any]) -> Any:
        name = "" if number == _ENDS else self._nodes[number].name
        return GroupResult(str(uuid5(NAMESPACE_URL, f"dyrygentd:{self._workflow_id}:{name}")), results, app=self._app)
