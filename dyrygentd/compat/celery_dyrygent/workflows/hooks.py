"""Hooks of workflows: functions that are called when something happens to any of them, and a word for those that never are.

The original ran hooks in the worker, wherever a workflow came from. Here they run in the process that follows the workflow. A
program that only calls `apply_async` follows nothing, so it is told once the workflow's object is gone: who waits keeps it.
"""

import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from dyrygentd.compat.celery_dyrygent.workflows.exceptions import WorkflowException

if TYPE_CHECKING:
    from dyrygentd.compat.celery_dyrygent.workflows.workflow import Workflow

logger = logging.getLogger("dyrygentd.compat.celery_dyrygent.workflows.workflow")

Hook = Callable[["Workflow", Any], Any]


class WorkflowSignalMixin:
    """Hooks: functions that are called when something happens to any workflow."""

    hooks: ClassVar[dict[str, list[Hook]]] = {"after_active_tick": [], "on_finish": [], "on_state_change": []}
    _unfollowed: Any = None

    @classmethod
    def connect(cls, hook_name: str) -> Callable[[Hook], Hook]:
        """Register a function that takes the workflow and a payload: for ``on_state_change`` the new state, else None.

        It is called in the process that follows the workflow: in `WorkflowResult.get`, in `Workflow.tick`, or in the worker
        that runs the processor task.
        """
        if hook_name not in cls.hooks:
            raise WorkflowException(f"'{hook_name}': invalid signal", next_step=f"use one of {', '.join(cls.hooks)}")

        def connected(function: Hook) -> Hook:
            cls.hooks[hook_name].append(function)
            return function

        return connected

    def emit(self, hook_name: str, payload: Any = None) -> None:
        """Call the functions of a hook; what they raise is logged and goes no further."""
        for hook in self.hooks[hook_name]:
            try:
                hook(self, payload)  # type: ignore[arg-type]
            except Exception as error:
                logger.warning("a function of the hook '%s' failed, %r: %s", hook_name, hook, error)

    def warn_if_unfollowed(self, workflow_id: str) -> None:
        """From now on log a warning if this object goes away while hooks wait for an end that it has not seen."""
        connected = [name for name, functions in self.hooks.items() if functions]
        if connected and self._unfollowed is None:
            self._unfollowed = weakref.finalize(self, _warn, workflow_id, ", ".join(f"'{name}'" for name in connected))

    def note_followed(self) -> None:
        """The end was seen, and with it every hook called."""
        if self._unfollowed is not None:
            self._unfollowed.detach()


def _warn(workflow_id: str, hooks: str) -> None:
    logger.warning(
        "workflow '%s' runs, but nobody here waits for its end, so nobody calls its hooks (%s): "
        "`register_workflow_processor(app, via_worker=True)` lets a worker call them, `result.wait()` this program",
        workflow_id,
        hooks,
    )
