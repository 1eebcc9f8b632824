"""What is said of workers that answered: who has a task and who has not, where they store results, and how they write them."""

from collections.abc import Iterator, Mapping
from typing import Any

from dyrygentd.lint.faults import Fault
from dyrygentd.tasks.fleet import Fleet, gap_of, other_backends, serializers_of


def faults_of_gap(fleet: Fleet, task: str, queue: str) -> Iterator[Fault]:
    """Tell if workers that consume the task's queue do not know the task, and others do."""
    said, next_step = gap_of(fleet, task, queue)
    if said:
        yield Fault("task-not-at-worker", f"{task} {queue}", said, next_step=next_step)


def faults_of_fleet(fleet: Fleet, app: Any, *, takes_values: bool) -> Iterator[Fault]:
    """Compare the workers' settings with the app's.

    Args:
        takes_values: Whether any task takes the value of another one.
    """
    if app is None:
        return
    backend = str(app.conf.result_backend or "")
    for worker, said, is_certain in other_backends(fleet, backend, _mapping(app.conf.result_backend_transport_options)):
        doubt = "" if is_certain else "; if these are two servers, no result is ever seen"
        words = f"worker '{worker}' {said}, and this app's is '{_masked(app)}'{doubt}"
        yield Fault("other-result-backend", said, words, None if is_certain else "warning")
    if takes_values:
        own = app.conf.result_serializer
        for worker, serializer in serializers_of(fleet).items():
            if serializer not in ("json", own):
                said = (
                    f"worker '{worker}' writes results with '{serializer}': a value that JSON cannot carry fails its node after"
                    " the task has run, if another task takes it"
                )
                yield Fault("values-without-json", f"worker {serializer}", said)
    if fleet.silent_count:
        said = f"{fleet.silent_count} of {fleet.reached} workers did not answer: what they have is not known"
        yield Fault("silent-workers", "", said)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _masked(app: Any) -> str:
    return str(app.backend.as_uri(include_password=False))
