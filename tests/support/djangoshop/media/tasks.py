"""Tasks with a queue of their own, by the routes."""

from typing import Any

from celery import shared_task
from celery.signals import before_task_publish

from tests.support.djangoshop.base import ShopTask


@before_task_publish.connect
def name_the_run(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Add a header to each message that is published, whoever does it."""
    if headers is not None:
        headers.setdefault("source", "shop")


@shared_task(base=ShopTask, name="media.thumbnail")
def thumbnail(picture: str, size: int) -> str:
    """Return the name of a small picture."""
    return f"{picture}@{size}"


@shared_task(base=ShopTask, bind=True, name="media.probe")
def probe(self: Any, *_: Any) -> str:
    """Tell what a receiver of Celery's publish signal has added to the message."""
    return str((self.request.headers or {}).get("source") or getattr(self.request, "source", None))
