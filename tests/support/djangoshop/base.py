"""The base class of the shop's tasks."""

from contextvars import ContextVar
from typing import Any

from celery import Task

tenant: ContextVar[str] = ContextVar("tenant", default="public")


class ShopTask(Task):
    """Keeps a journal of what was started and what failed, in the database."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Write down how the task came here."""
        self._note("started")

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Write down why it failed."""
        self._note(f"failed: {exc}")

    def _note(self, word: str) -> None:
        from tests.support.djangoshop.orders.models import Entry

        request = self.request
        delivery = request.delivery_info or {}
        Entry.objects.create(
            run=(request.headers or {}).get("run") or "",
            task=self.name,
            word=word,
            queue=delivery.get("routing_key") or "",
            priority=delivery.get("priority") or 0,
            limits=str(list(request.timelimit or ())),
        )


class TenantTask(ShopTask):
    """Runs for the tenant for whom it was called."""

    abstract = True

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Send the tenant along."""
        options["headers"] = {**(options.get("headers") or {}), "tenant": tenant.get()}
        return super().apply_async(*args, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Be the tenant, for what this calls too."""
        tenant.set((self.request.headers or {}).get("tenant") or getattr(self.request, "tenant", None) or "public")
        return super().__call__(*args, **kwargs)
