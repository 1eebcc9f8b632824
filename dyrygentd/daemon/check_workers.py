"""What `check-config --online` says of the workers: where they store results, and how, what they take, who consumes what."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final

from dyrygentd.core.words import described
from dyrygentd.errors import ConfigurationError
from dyrygentd.tasks.fleet import Fleet, names_of, other_backends, serializers_of

_QUEUES_MAX: Final = 5
#: Errors of Celery's by which no arguments help.
_NEVER: Final = frozenset({"QueueNotFound", "ImproperlyConfigured"})
_JSON: Final = frozenset({"json", "application/json"})


def workers(fleet: Fleet, app: Any, *, has_tasks: bool) -> str:
    """Compare the workers with the app, or with what the daemon would assume without one.

    Args:
        has_tasks: Whether the app is the user's, with its tasks.

    Raises:
        ConfigurationError: Results would never be seen, or not be understood, or tasks be refused.
    """
    if not fleet.workers:
        if fleet.silent_count:
            many = f"{fleet.reached} of {fleet.reached} did not answer"
            return f"{many}: they refuse JSON (`accept_content`), are busy in the pool `solo`, or have just gone"
        return "none answered, so nothing is known of them"
    _check_backends(fleet, app)
    ours = app.conf.result_serializer
    foreign = {name: serializer for name, serializer in serializers_of(fleet).items() if serializer != ours}
    if foreign and not has_tasks:
        name, serializer = next(iter(foreign.items()))
        words = f"worker '{name}' writes results with '{serializer}', and the daemon would read them as '{ours}'"
        raise ConfigurationError(words, next_step="give --app")
    return "; ".join([_answered(fleet), *_doubts(fleet, app)])


def accepted(app: Any) -> str:
    """Check that the app's workers take what the daemon sends. Raises `ConfigurationError`."""
    content = frozenset(map(str, app.conf.accept_content or ()))
    serializer = str(app.conf.task_serializer)
    if content & _JSON or any(serializer in each for each in content):
        return f"workers accept {', '.join(sorted(content))}"
    words = f"the app's workers accept {', '.join(sorted(content)) or 'nothing'}, and tasks are sent as '{serializer}'"
    raise ConfigurationError(words, next_step="add 'json' to `accept_content`: workers refuse, and drop, what they do not accept")


def routes(app: Any, fleet: Fleet) -> str:
    """Route each task of the app, and look for queues that nobody consumes.

    Raises:
        ConfigurationError: A task can be routed with no arguments whatever.
    """
    queues: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name in sorted(app.tasks):
        if name.startswith(("celery.", "dyrygentd.")):
            continue
        try:
            routed = app.amqp.router.route({}, name, (), {}, app.tasks[name]).get("queue")
        # Routers are the user's own code; one that looks at arguments may fail without them.
        except Exception as error:
            refused[name] = described(error)
            if isinstance(error, ImportError) or type(error).__name__ in _NEVER:
                words = f"'{name}' cannot be routed: {refused[name]}"
                raise ConfigurationError(words, next_step="look at `task_routes` and `task_queues`") from error
            continue
        queues.setdefault(str(getattr(routed, "name", routed)), name)
    told = [f"tasks go into {', '.join(sorted(queues)[:_QUEUES_MAX]) or 'no queue'}"]
    if refused:
        name, reason = next(iter(refused.items()))
        told.append(f"{len(refused)} cannot be routed without their arguments, such as '{name}': {reason}")
    known = fleet.queues
    for queue, task in queues.items() if known else ():
        if queue not in known:
            close = get_close_matches(queue, known, n=1)
            meant = f": is '{close[0]}' meant, which {names_of(fleet.consumers_of(close[0]))} consumes?" if close else ""
            told.append(f"nobody who answered consumes '{queue}', where '{task}' goes{meant}")
    return "; ".join(told)


def _check_backends(fleet: Fleet, app: Any) -> None:
    for worker, said, is_certain in _others(fleet, app):
        if is_certain:
            where = app.backend.as_uri(include_password=False) or app.conf.result_backend
            raise ConfigurationError(
                f"worker '{worker}' {said}, and the daemon looks in '{where}': it would see no result of that worker",
                next_step="give the worker and the daemon one `result_backend`",
            )


def _doubts(fleet: Fleet, app: Any) -> Iterator[str]:
    for worker, said, _ in _others(fleet, app):
        yield f"worker '{worker}' {said}: is that the same server by another name?"
        return


def _others(fleet: Fleet, app: Any) -> Iterator[tuple[str, str, bool]]:
    return other_backends(fleet, str(app.conf.result_backend or ""), app.conf.result_backend_transport_options or {})


def _answered(fleet: Fleet) -> str:
    if fleet.silent_count:
        return f"{len(fleet.workers)} of {fleet.reached} answered: {names_of(fleet.workers)}"
    return f"{len(fleet.workers)} answered: {names_of(fleet.workers)}"
