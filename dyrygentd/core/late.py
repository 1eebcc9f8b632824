"""Tasks that are watched on although their nodes have gone on without them, and revoked again for workers that were away.

What was cancelled while in flight may run all the same, since a worker that was away does not know: for a while its end is worth
a note. What was taken for lost, or was reported as ended by somebody else than itself, may correct that.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dyrygentd.core.effects import Revoke
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import InvariantBroken

#: Pauses between two broadcasts that revoke the same tasks.
_REVOKE_AGAIN_FIRST_S, _REVOKE_AGAIN_MAX_S = 10.0, 300.0


@dataclass(frozen=True, slots=True)
class LateTask:
    """A task that is still watched although its node has gone on without it."""

    workflow_id: str
    node: int
    until: float
    revoke: Revoke | None


class LateTasks:
    """Late tasks by id, the one noted first in front.

    Guards: there are as many of each workflow as are counted, and a workflow that has finished rests here exactly as long as one
    of its tasks is late.

    Attributes:
        by_id: ``{task id: LateTask}``; not to be changed from outside. Who asks for each node whether there are any, asks this.
    """

    __slots__ = ("_count_of", "_resting", "_revoke_again_at", "_revoke_again_s", "by_id")

    def __init__(self) -> None:
        self.by_id: OrderedDict[str, LateTask] = OrderedDict()
        self._count_of: Counter[str] = Counter()
        self._resting: dict[str, RunningWorkflow] = {}
        self._revoke_again_at: float | None = None
        self._revoke_again_s = _REVOKE_AGAIN_FIRST_S

    def __repr__(self) -> str:
        return f"<LateTasks late={len(self.by_id)} resting={len(self._resting)}>"

    def __len__(self) -> int:
        return len(self.by_id)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self.by_id

    def get(self, task_id: str) -> LateTask | None:
        """Return what is known of a task; None if it is not late."""
        return self.by_id.get(task_id)

    def newest_first(self) -> Iterator[LateTask]:
        """Iterate over all of them, the one noted last in front."""
        return reversed(self.by_id.values())

    def has(self, workflow_id: str) -> bool:
        """Tell whether any of a workflow's tasks is late."""
        return workflow_id in self._count_of

    def is_given_up(self, task_id: str) -> bool:
        """Tell whether a task was revoked while it was in flight, and its end has not been seen since."""
        task = self.by_id.get(task_id)
        return task is not None and task.revoke is not None

    def given_up_count(self, workflow_id: str) -> int:
        """Return how many of a workflow's tasks are."""
        if workflow_id not in self._count_of:
            return 0
        return sum(task.workflow_id == workflow_id and task.revoke is not None for task in self.by_id.values())

    # --- in and out -------------------------------------------------------------------------------------------------

    def note(self, task_id: str, task: LateTask) -> None:
        """Watch a task on."""
        self.by_id[task_id] = task
        self._count_of[task.workflow_id] += 1

    def drop(self, task_id: str) -> LateTask | None:
        """Watch a task no more; return what was known of it."""
        task = self.by_id.pop(task_id, None)
        if task is not None:
            self._count_out(task)
        return task

    def drop_beyond(self, most: int) -> list[str]:
        """Drop the oldest, so that at most so many are left; return their ids."""
        dropped = []
        while len(self.by_id) > most:
            task_id, task = self.by_id.popitem(last=False)
            self._count_out(task)
            dropped.append(task_id)
        return dropped

    def drop_over(self, now: float) -> list[tuple[str, LateTask]]:
        """Drop those whose time is over, and return them."""
        dropped = []
        while self.by_id and next(iter(self.by_id.values())).until <= now:
            task_id, task = self.by_id.popitem(last=False)
            self._count_out(task)
            dropped.append((task_id, task))
        return dropped

    def expect_end(self, task_id: str) -> None:
        """Go on watching a task that was revoked and is known to run: how it ends is still to come."""
        self.by_id[task_id] = replace(self.by_id[task_id], revoke=None)

    def _count_out(self, task: LateTask) -> None:
        self._count_of[task.workflow_id] -= 1
        if not self._count_of[task.workflow_id]:
            del self._count_of[task.workflow_id]
            self._resting.pop(task.workflow_id, None)

    # --- resting workflows ------------------------------------------------------------------------------------------

    def rest(self, workflow: RunningWorkflow) -> None:
        """Keep a workflow that has finished, if one of its tasks is late."""
        if workflow.workflow_id in self._count_of:
            self._resting[workflow.workflow_id] = workflow

    def resting(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a finished workflow that is kept for its tasks."""
        return self._resting.get(workflow_id)

    def wake(self, workflow_id: str) -> None:
        """Keep a workflow no more: it goes on."""
        self._resting.pop(workflow_id, None)

    # --- time -------------------------------------------------------------------------------------------------------

    def next_at(self) -> list[float]:
        """Return when something is due: the end of watching, the next broadcast."""
        due = [next(iter(self.by_id.values())).until] if self.by_id else []
        return due if self._revoke_again_at is None else [*due, self._revoke_again_at]

    @property
    def is_quiet(self) -> bool:
        """Whether nothing here waits for any time."""
        return not self.by_id and self._revoke_again_at is None

    def begin_revoking(self, now: float) -> None:
        """Have what was just revoked revoked again, soon for the first time."""
        self._revoke_again_s = _REVOKE_AGAIN_FIRST_S
        self._revoke_again_at = now + self._revoke_again_s

    def revoke_again(self, now: float) -> list[Revoke]:
        """Return what is due to be revoked again: workers keep that in memory only, and some may have been away."""
        if self._revoke_again_at is None or self._revoke_again_at > now:
            return []
        again = [task.revoke for task in self.by_id.values() if task.revoke is not None]
        self._revoke_again_s = min(2 * self._revoke_again_s, _REVOKE_AGAIN_MAX_S)
        self._revoke_again_at = now + self._revoke_again_s if again else None
        return again

    def shift_times(self, by_s: float) -> None:
        """Move everything along with the clock that was set."""
        for task_id, task in self.by_id.items():
            self.by_id[task_id] = replace(task, until=task.until + by_s)
        if self._revoke_again_at is not None:
            self._revoke_again_at += by_s

    def check(self, in_flight: Iterable[str]) -> None:
        """Raise `InvariantBroken` if the notes of late tasks disagree. For tests."""
        count_of = Counter(task.workflow_id for task in self.by_id.values())
        is_one_in_flight = any(task_id in self.by_id for task_id in in_flight)
        if count_of != self._count_of or not self._resting.keys() <= count_of.keys() or is_one_in_flight:
            raise InvariantBroken(f"late tasks of {dict(count_of)}, counted are {dict(self._count_of)}")
