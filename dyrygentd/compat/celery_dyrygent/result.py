"""What `Workflow.apply_async` returns: it is asked as Celery's ``AsyncResult`` is, and answers for the workflow."""

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from dyrygentd import wire
from dyrygentd.client.sync import Client, Handle
from dyrygentd.compat.celery_dyrygent.workflows.exceptions import WorkflowException
from dyrygentd.errors import WaitTimeout

if TYPE_CHECKING:
    from dyrygentd.compat.celery_dyrygent.workflows.workflow import Workflow

#: Celery's words for the states of a workflow.
_WORDS: Final = {"scheduled": "PENDING", "succeeded": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED", "broken": "FAILURE"}
_READY: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})


class WorkflowFailed(WorkflowException):
    """The workflow has ended, and not every task succeeded; ``failed_tasks`` is ``{name of the node: error}``."""

    code = "workflow-failed"

    def __init__(self, workflow_id: str, failed_tasks: dict[str, str]) -> None:
        shown = "; ".join(f"'{name}': {error}" for name, error in list(failed_tasks.items())[:5])
        super().__init__(f"workflow '{workflow_id}' failed{f', {shown}' if shown else ''}")
        self.failed_tasks = failed_tasks


class WorkflowResult:
    """A workflow at the daemon.

    Args:
        id: The workflow's id.
        workflow: Follow it with this object's hooks; without one, no hooks run.
        socket: The daemon's socket.

    Differs from the ``AsyncResult`` of celery-dyrygent's processor task: the state is that of the workflow, so a failed workflow
    is FAILURE (the processor succeeds), and waiting for it raises `WorkflowFailed`.
    """

    children = None
    traceback = None

    def __init__(self, id: str, *, workflow: "Workflow | None" = None, socket: str | os.PathLike[str] | None = None) -> None:
        self.id = id
        self.workflow = workflow
        self._socket = socket if workflow is None else workflow.socket

    def __repr__(self) -> str:
        return f"<WorkflowResult: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, WorkflowResult) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def task_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @property
    def handle(self) -> Handle:
        """The workflow's `dyrygentd.client.sync.Handle`: its nodes, events, result and verbs."""
        return Client(self._socket).handle(self._reference)

    @property
    def state(self) -> str:
        """PENDING, STARTED, SUCCESS, FAILURE or REVOKED."""
        return "SUCCESS" if self._is_empty else _word(Client(self._socket).get(self._reference))

    status = state

    @property
    def result(self) -> WorkflowFailed | TaskRevokedError | None:
        """None, or after a failure the exception."""
        if self._is_empty or not self.ready():
            return None
        return self._failure_of(self.handle.wait(0))

    info = result

    def ready(self) -> bool:
        """Tell whether the workflow has ended."""
        return self.state in _READY

    def successful(self) -> bool:
        """Tell whether every task succeeded."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Tell whether the workflow failed."""
        return self.state == "FAILURE"

    def get(self, timeout: float | None = None, propagate: bool = True, interval: float = 1.0, **_: Any) -> None:
        """Wait for the end, and run the hooks of the workflow meanwhile; return None, as no values are passed.

        Args:
            timeout: Seconds.
            propagate: Raise if the workflow failed.
            interval: Seconds between two looks, if a hook wants to know about each; the end is seen at once.

        Raises:
            WorkflowFailed: The workflow failed.
            celery.exceptions.TaskRevokedError: The workflow was cancelled.
            celery.exceptions.TimeoutError: The time is over; the workflow goes on.
        """
        if self._is_empty:
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        handle = self.handle
        # Hooks run once for an end; one that was retried at the daemon may come to another.
        if self.workflow is not None and not (self.workflow.has_ended and self.ready()):
            while self.workflow.tick():
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise CeleryTimeoutError("The operation timed out.")
                look_s = self.workflow.pause_between_looks_s(interval)
                _wait(handle, look_s if left_s is None else min(look_s, left_s))
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            outcome = handle.wait(left_s)
        except WaitTimeout as error:
            raise CeleryTimeoutError("The operation timed out.") from error
        failure = self._failure_of(outcome)
        if failure is not None and propagate:
            raise failure

    wait = get

    def revoke(self, *_: Any, **__: Any) -> None:
        """Cancel the workflow. Revoking celery-dyrygent's processor ends it too, but says so to nobody."""
        if not self._is_empty:
            self.handle.cancel()

    def forget(self) -> None:
        """Do nothing: there is no result in Celery's backend to be removed."""

    @property
    def _reference(self) -> str:
        return self.id if self.workflow is None else self.workflow.dyrygentd_id or self.id

    @property
    def _is_empty(self) -> bool:
        return self.workflow is not None and not self.workflow.nodes

    def _failure_of(self, outcome: wire.Outcome) -> WorkflowFailed | TaskRevokedError | None:
        if outcome.state == "succeeded":
            return None
        if outcome.state == "cancelled":
            return TaskRevokedError(f"workflow '{self.id}' was cancelled")
        return WorkflowFailed(self.id, {node.name: node.error or "" for node in outcome.failed_nodes})


def _word(view: wire.WorkflowView) -> str:
    return _WORDS.get(view.state, "STARTED")


def _wait(handle: Handle, seconds: float) -> None:
    with contextlib.suppress(WaitTimeout):
        handle.wait(seconds)
