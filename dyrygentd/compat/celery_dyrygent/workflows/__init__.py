"""Mirrors ``celery_dyrygent.workflows``."""

from dyrygentd.compat.celery_dyrygent.workflows.exceptions import WorkflowException
from dyrygentd.compat.celery_dyrygent.workflows.node import WorkflowNode
from dyrygentd.compat.celery_dyrygent.workflows.workflow import Workflow

__all__ = ["Workflow", "WorkflowException", "WorkflowNode"]
