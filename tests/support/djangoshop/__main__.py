"""``python -m tests.support.djangoshop migrate``, or ``run native|SOCKET``: run all canvases and print what became of them."""

import json
import os
import sys
from typing import Any

import django

from tests.support.djangoshop.base import tenant
from tests.support.djangoshop.celery import app
from tests.support.servers import wait_until

_TIMEOUT_S = 60.0


def _run(where: str) -> dict[str, Any]:
    """Return ``{canvas: {"value", "calls"}}``; the calls are the journal's entries, without order."""
    from tests.support.djangoshop.canvases import FAILING, canvases
    from tests.support.djangoshop.orders.models import Entry

    tenant.set("acme")
    found = {}
    for name, canvas in canvases().items():
        # Orders are numbered anew, so that both ways give the same values.
        _begin_anew()
        value = _native(canvas) if where == "native" else _submitted(where, canvas)
        if name == FAILING:
            # A worker calls `on_failure` after it has stored the result.
            wait_until(lambda: Entry.objects.filter(word__startswith="failed").exists())
        calls = [
            [entry.task, entry.word, entry.queue, entry.priority, entry.limits]
            for entry in Entry.objects.order_by("task", "word", "queue", "priority")
        ]
        found[name] = {"value": value, "calls": calls}
    return found


def _native(canvas: Any) -> str:
    try:
        return repr(canvas.apply_async().get(timeout=_TIMEOUT_S))
    except ValueError as error:
        return f"ValueError: {error}"


def _submitted(socket: str, canvas: Any) -> str:
    from dyrygentd import Client

    with Client(socket) as client:
        outcome = client.submit(canvas).wait(timeout_s=_TIMEOUT_S)
    return repr(outcome.result) if outcome.state == "succeeded" else str(outcome.failed_nodes[0].error)


def _begin_anew() -> None:
    from tests.support.djangoshop.orders.models import Entry, Order

    Entry.objects.all().delete()
    Order.objects.all().delete()
    from django.db import connection

    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM sqlite_sequence")


def main() -> None:
    """Do what the command line says."""
    if sys.argv[1] == "migrate":
        django.setup()
        from django.core.management import call_command

        call_command("migrate", run_syncdb=True, verbosity=0)
    else:
        django.setup()
        app.loader.import_default_modules()
        print(json.dumps(_run(sys.argv[2])))
    sys.stdout.flush()
    # Nothing of Celery's background threads is to hold this up.
    os._exit(0)


if __name__ == "__main__":
    main()
