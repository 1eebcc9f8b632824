"""The Celery app, as in Celery's tutorial for Django."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_ready

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.djangoshop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_ready.connect
def tell(**_: Any) -> None:
    """Tell whoever has started this worker that it consumes."""
    if key := os.environ.get("DYRYGENTD_TEST_READY"):
        from tests.support.tasks import records

        with records() as client:
            client.rpush(key, "ready")
