"""Mirrors ``celery_dyrygent.tasks``."""

from dyrygentd.compat.celery_dyrygent.tasks.processor import register_workflow_processor, workflow_processor

__all__ = ["register_workflow_processor", "workflow_processor"]
