"""Mirrors ``celery_dyrygent.celery.entities``: Celery's classes under one name each."""

from celery import Celery
from celery.canvas import Signature
from celery.canvas import _chain as Chain
from celery.canvas import chord as Chord
from celery.canvas import group as Group
from celery.exceptions import WorkerLostError
from celery.result import AsyncResult

__all__ = ["AsyncResult", "Celery", "Chain", "Chord", "Group", "Signature", "WorkerLostError"]
