"""How often the broker gave a task out: twice at the same time, or again and again because its worker dies with it.

A worker that stores STARTED says who it is. If another one, or another process, says so without a retry in between, the task was
given out once more, or it has replaced itself: so it is only suspected, and looked for at once. What the workers answer then,
whether the broker marked the message as redelivered, decides.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: Tasks whose beginnings are kept in mind; the oldest go first.
_TASKS_MAX: Final = 10_000
_SUSPECTED_MAX: Final = 1_000


@dataclass(slots=True)
class _Starts:
    last: str = ""
    again: int = 0
    redelivered: int = 0
    tries: int = 0
    next_try_at: float = 0.0
    tells: bool = False


class Deliveries:
    """What is known of tasks in flight. Guards: a redelivery that no worker has confirmed is not counted."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, _Starts] = OrderedDict()
        self._suspected: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<Deliveries tasks={len(self._tasks)} suspected={len(self._suspected)}>"

    def began(self, task_id: str, start: str) -> None:
        """Take note of a beginning, which may be told more than once; ``start`` names worker and process."""
        task = self._of(task_id)
        if task.last and task.last != start:
            task.again += 1
            if len(self._suspected) < _SUSPECTED_MAX:
                self._suspected[task_id] = None
        task.last, task.tells = start, True

    def tries_again(self, task_id: str, next_try_at: float = 0.0) -> None:
        """Take note that the task itself has asked for another try, which may be told more than once.

        Each follows on a beginning. Of a task that does not tell these, only the time of its next try tells one from another.
        """
        task = self._of(task_id) if next_try_at else self._tasks.get(task_id)
        if task is None:
            return
        if task.last or (not task.tells and next_try_at > task.next_try_at):
            task.tries, task.last = task.tries + 1, ""
        task.next_try_at = max(next_try_at, task.next_try_at)

    def tries(self, task_id: str) -> int:
        """Return how often a task has asked for another try, as far as it was seen."""
        task = self._tasks.get(task_id)
        return 0 if task is None else task.tries

    def confirmed(self, task_id: str) -> int:
        """Count one redelivery that a worker has confirmed, and return how many there were."""
        task = self._of(task_id)
        task.redelivered = max(task.redelivered + 1, task.again)
        return task.redelivered

    def take_suspected(self) -> list[str]:
        """Return the tasks that should be looked for at once."""
        suspected, self._suspected = list(self._suspected), {}
        return suspected

    def forget(self, task_id: str) -> None:
        """Drop what is kept of a task that is in flight no more."""
        self._tasks.pop(task_id, None)

    def _of(self, task_id: str) -> _Starts:
        task = self._tasks.get(task_id)
        if task is None:
            task = self._tasks[task_id] = _Starts()
            if len(self._tasks) > _TASKS_MAX:
                self._tasks.popitem(last=False)
        return task
