"""The workers that answered, each with what it has: tasks, queues, settings; and what of that does not fit together.

A queue is served by whoever consumes it, so a task must be known to all of them: after half a deploy one has it and another one
has not, and which of them gets a message is chance.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

#: A task that workers with `dyrygentd.worker.install` have, see `dyrygentd.errbacks`.
_OF_COMPANION: Final = "dyrygentd.call_errbacks"
_NAMED_MAX: Final = 3
#: Ports that go without saying.
_PORTS: Final = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671, "mongodb": 27017, "postgresql": 5432, "mysql": 3306}


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker, as it answered.

    Attributes:
        queues: Empty if it did not say.
        settings: With Celery's defaults, without secrets; empty if it did not say.
    """

    name: str
    tasks: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_companion(self) -> bool:
        """Tell whether its app has called `dyrygentd.worker.install`."""
        return _OF_COMPANION in self.tasks


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that answered, by name.

    Attributes:
        reached: How many got the question, if the broker told: more than answered are silent.
    """

    workers: tuple[Worker, ...] = ()
    reached: int | None = None

    @property
    def tasks(self) -> frozenset[str]:
        """Return the names that any of them has."""
        return frozenset().union(*(worker.tasks for worker in self.workers))

    @property
    def queues(self) -> frozenset[str]:
        """Return the queues that any of them consumes."""
        return frozenset().union(*(worker.queues for worker in self.workers))

    @property
    def has_companion(self) -> bool:
        """Tell whether all of them have called `dyrygentd.worker.install`."""
        return bool(self.workers) and all(worker.has_companion for worker in self.workers)

    @property
    def silent_count(self) -> int:
        """Return how many did not answer, as far as that is known."""
        return max(0, (self.reached or 0) - len(self.workers))

    def consumers_of(self, queue: str) -> list[Worker]:
        """Return those that consume a queue."""
        return [worker for worker in self.workers if queue in worker.queues]

    def having(self, task: str) -> list[Worker]:
        """Return those that have a task."""
        return [worker for worker in self.workers if task in worker.tasks]


def gap_of(fleet: Fleet, task: str, queue: str) -> tuple[str, str]:
    """Say which workers get a task and do not know it, and what to do; empty if there is none, or nobody has it at all.

    Returns:
        ``(what, next step)``.
    """
    consumers, having = fleet.consumers_of(queue), fleet.having(task)
    without = [worker for worker in consumers if worker not in having]
    if not without or not having:
        return "", ""
    both = [worker for worker in consumers if worker in having]
    lacking = f"'{task}' goes into queue '{queue}', and {names_of(without)}, which consumes it, does not know it"
    if both:
        return (
            f"{lacking}; {names_of(both)} does: who gets it is chance",
            f"restart {names_of(without)} with the code that has it",
        )
    queues = sorted(frozenset().union(*(worker.queues for worker in having)))
    said = f"{lacking}; {names_of(having)} does, and consumes {', '.join(map(repr, queues[:_NAMED_MAX])) or 'no queue'}"
    where = f"route it to '{queues[0]}', or " if len(queues) == 1 else ""
    return said, f"{where}restart {names_of(without)} with the code that has it"


def other_backends(fleet: Fleet, backend: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Find workers that store results elsewhere than where they are looked for.

    Args:
        backend: URL of the backend that is looked into; passwords do not matter.
        options: Its `result_backend_transport_options`.

    Yields:
        ``(worker, what, is_certain)``: hosts of two names may be one.
    """
    for worker in fleet.workers:
        if "result_backend" not in worker.settings:
            continue
        theirs = str(worker.settings["result_backend"] or "")
        if theirs in ("", "None", "disabled", "disabled://", "disabled:///"):
            yield worker.name, "stores no results at all", True
            continue
        where, prefix = _server_of(theirs), _prefix_of(worker.settings.get("result_backend_transport_options"))
        # Workers of Celery 5.6 leave out what is behind the question mark, where the database of a socket stands.
        ours = _server_of(backend if "?" in theirs else backend.partition("?")[0])
        if where[0] != ours[0] or where[2:] != ours[2:]:
            yield worker.name, f"stores results in '{theirs}'", True
        elif prefix != _prefix_of(options):
            yield worker.name, f"stores results under the prefix '{prefix}'", True
        elif where[1] != ours[1]:
            yield worker.name, f"stores results in '{theirs}'", False


def serializers_of(fleet: Fleet) -> dict[str, str]:
    """Return how the workers write results, ``{worker: serializer}``, of those that said so."""
    return {each.name: str(each.settings.get("result_serializer") or "json") for each in fleet.workers if each.settings}


def names_of(workers: Iterable[Worker]) -> str:
    """Return the first few names, and how many more there are."""
    names = [worker.name for worker in workers]
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _server_of(url: str) -> tuple[Any, ...]:
    """Return what tells one server of results from another: kind, host, port, path and database."""
    try:
        parts = urlsplit(url)
        port, query = parts.port, parse_qs(parts.query)
    except ValueError:
        return (url, "")
    kind = parts.scheme.replace("rediss", "redis").removeprefix("sentinel+")
    host = parts.hostname or "localhost"
    path = parts.path.rstrip("/")
    if kind.startswith("redis"):
        # The database is in the path, or for sockets in the query.
        is_socket = "socket" in kind
        database = query.get("virtual_host", ["0"])[0] if is_socket else path.lstrip("/") or query.get("db", ["0"])[0]
        return (kind, host, port or 6379, path if is_socket else "", database)
    return (kind, "localhost" if host == "127.0.0.1" else host, port or _PORTS.get(kind), path)


def _prefix_of(options: Any) -> str:
    return str(options.get("global_keyprefix") or "") if isinstance(options, Mapping) else ""
