"""Mirrors ``celery_dyrygent.workflows.exceptions``."""

from dyrygentd.errors import DyrygentError


class WorkflowException(DyrygentError):
    """What celery-dyrygent raises when it is used wrongly, and when a workflow takes too long."""

    code = "workflow-exception"

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        if next_step:
            self.next_step = next_step
