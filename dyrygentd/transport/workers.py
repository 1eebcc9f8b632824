"""What the running workers have: asked for over the broker, as ``celery inspect`` does it."""

from dataclasses import dataclass
from typing import Any

from kombu.exceptions import OperationalError

from dyrygentd.errors import BrokerUnavailable


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that answered, and what they have between them."""

    names: frozenset[str]
    tasks: frozenset[str]
    queues: frozenset[str]


def ask_workers(app: Any, *, timeout_s: float = 2.0) -> Workers:
    """Ask all workers for their tasks and queues. Takes up to twice ``timeout_s``: nobody knows how many there are to answer.

    Raises:
        BrokerUnavailable: The app's broker cannot be reached.
    """
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=timeout_s)
            inspect = app.control.inspect(timeout=timeout_s, connection=connection)
            registered: dict[str, Any] = inspect.registered() or {}
            consumed: dict[str, Any] = (inspect.active_queues() or {}) if registered else {}
    except (OperationalError, OSError) as error:
        raise BrokerUnavailable(f"cannot ask the workers over '{app.connection_for_write().as_uri()}': {error}") from error
    return Workers(
        names=frozenset(registered.keys() | consumed.keys()),
        # A worker may add what it limits: `tasks.add [rate_limit=10/s]`.
        tasks=frozenset(task.partition(" ")[0] for tasks in registered.values() for task in tasks),
        queues=frozenset(queue["name"] for queues in consumed.values() for queue in queues),
    )


def load_tasks(app: Any) -> None:
    """Import the modules that the app names (``include``, ``imports``, ``autodiscover_tasks``), as a worker does."""
    app.loader.import_default_modules()
