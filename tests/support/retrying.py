"""A worker's app with a task that is retried for ever, beside those of ``tests.support.tasks``."""

from celery import Task

from tests.support.tasks import app

__all__ = ["app"]


@app.task(bind=True, max_retries=None)
def again_in_a_minute(self: Task) -> None:
    """Be retried."""
    raise self.retry(countdown=60)
