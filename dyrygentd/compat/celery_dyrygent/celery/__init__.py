"""Mirrors ``celery_dyrygent.celery``."""

from dyrygentd.compat.celery_dyrygent.celery import entities, inspect

__all__ = ["entities", "inspect"]
