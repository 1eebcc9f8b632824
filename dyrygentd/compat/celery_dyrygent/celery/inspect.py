"""Mirrors ``celery_dyrygent.celery.inspect``: what a canvas holds, and what Celery's result backend says about a task."""

from typing import Any

from dyrygentd.compat.celery_dyrygent.celery import entities


def get_chain_tasks(chain_instance: Any) -> Any:
    """Return the steps of a chain."""
    return chain_instance.tasks


def get_chord_tasks(chord_instance: Any) -> tuple[Any, Any]:
    """Return the body of a chord and the tasks of its header."""
    return chord_instance.body, chord_instance.tasks


def get_group_tasks(group_instance: Any) -> Any:
    """Return the members of a group."""
    return group_instance.tasks


def get_task_state(task_id: str) -> "ResultState":
    """Ask the result backend of the current app about a task."""
    return ResultState(entities.AsyncResult(task_id))


class ResultState:
    """What the backend said. Celery's false failures (celery#5120) are the daemon's concern now, so an end is an end."""

    INIT = 0
    RUNNING = 1
    DONE = 2
    RESCHEDULE = 3
    FAILED_RETRYING = 4

    def __init__(self, celery_result: Any) -> None:
        self.result = celery_result
        # One reading for all three: the task may end in between.
        word = celery_result.state
        self.success: bool = word == "SUCCESS"
        self.done: bool = word in ("SUCCESS", "FAILURE", "REVOKED")
        self.state = self.DONE if self.done else self.INIT if word == "PENDING" else self.RUNNING

    def is_successful(self) -> bool:
        """Tell whether the task succeeded."""
        return self.success

    def is_done(self) -> bool:
        """Tell whether the task has ended."""
        return self.done

    def was_published(self) -> bool:
        """Tell whether a worker has reported the task; a task in a queue says nothing."""
        return self.state != self.INIT

    def needs_reschedule(self) -> bool:
        """Tell whether the task has to be published again: never, the daemon sees to that."""
        return self.state == self.RESCHEDULE

    def is_final(self) -> bool:
        """Tell whether the end is one."""
        return self.state in (self.DONE, self.RESCHEDULE)

    @property
    def value(self) -> Any:
        """The task's result or exception."""
        return self.result.result

    @property
    def task_state(self) -> Any:
        """Celery's word for the task's state."""
        return self.result.state
