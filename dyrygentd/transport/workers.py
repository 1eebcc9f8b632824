"""What the running workers have: asked for over the broker, as ``celery inspect`` does it."""

from typing import Any, Final

from kombu.exceptions import OperationalError

from dyrygentd.errors import BrokerUnavailable
from dyrygentd.tasks.fleet import Fleet, Worker
from dyrygentd.transport.broadcast import ask_workers, connected, url_of

_COMMANDS: Final = {"registered": {}, "active_queues": {}, "conf": {"with_defaults": True}}
_SOCKET_TIMEOUT_S: Final = 5.0


def ask_fleet(app: Any, *, timeout_s: float = 2.0) -> Fleet:
    """Ask all workers for their tasks, queues and settings.

    Takes ``timeout_s`` unless the broker tells how many there are to answer, as Redis does. Those without remote control do not
    answer, nor do those that refuse what this app sends, or are busy in the pool ``solo``.

    Raises:
        BrokerUnavailable: The app's broker cannot be reached.
    """
    try:
        with connected(app, timeout_s=_SOCKET_TIMEOUT_S) as (connection, producer, _):
            answers, reached = ask_workers(app, connection, producer, _COMMANDS, timeout_s=timeout_s)
    except (OperationalError, OSError, *app.connection_for_write().connection_errors) as error:
        where = url_of(app.connection_for_write())
        refused = BrokerUnavailable(f"cannot ask the workers over '{where}': {error}")
        if "Permission denied" in str(error):
            refused.next_step = (
                "its socket is open to its own user alone: ask as that user, for the service's own `sudo -u dyrygent`"
            )
        raise refused from error
    names = sorted(frozenset().union(*answers.values()))
    return Fleet(tuple(_worker(name, answers) for name in names), reached)


def _worker(name: str, answers: dict[str, dict[str, Any]]) -> Worker:
    conf = answers["conf"].get(name)
    return Worker(
        name,
        # A worker may add what it limits: `tasks.add [rate_limit=10/s]`.
        tasks=frozenset(str(task).partition(" ")[0] for task in answers["registered"].get(name) or ()),
        queues=frozenset(str(queue["name"]) for queue in answers["active_queues"].get(name) or ()),
        # Without defaults, settings have the names and prefixes under which the user wrote them.
        settings=conf if isinstance(conf, dict) else {},
    )
