"""What is to be known of an app and its tasks before anything runs: one judgement for lint, `check-config` and the daemon."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from kombu.serialization import registry

from dyrygentd.tasks.overrides import override_of
from dyrygentd.tasks.written import own_backend_of

_JSON: Final = "application/json"
#: What there is to know of an app is told up to here.
SHOWN_MAX: Final = 10

WITHOUT_APP: Final = (
    "there is no app: queues, priorities, limits and serializers of tasks are known from what Python clients write into "
    "definitions, and definition files have to name them; receivers of publish signals and types of the app's own are not known"
)


class Remark(NamedTuple):
    """Something to know.

    Attributes:
        code: The word for it in `lint`.
        subject: The task it is about, empty for the app.
    """

    code: str
    subject: str
    words: str


def remarks_of_task(task: Any, app: Any) -> Iterator[Remark]:
    """Tell what of a task the daemon cannot do, or does in another way."""
    override = override_of(task, app)
    if override:
        yield Remark(
            "apply-async-overridden",
            task.name,
            f"{override} stands between '{task.name}' and Celery: it is called once, where a canvas or `Workflow` is submitted, "
            "and passed over in definition files",
        )
    backend = own_backend_of(task, app)
    if backend:
        yield Remark("own-backend", task.name, f"'{task.name}' stores its results in {backend}, where the daemon does not look")
    soft, hard = getattr(task, "soft_time_limit", None), getattr(task, "time_limit", None)
    if soft and hard and soft > hard:
        words = f"'{task.name}' has a `soft_time_limit` of {soft:g} s and a `time_limit` of {hard:g} s"
        yield Remark("limits-crossed", task.name, words)


def remark_without_bound(task: Any) -> Remark | None:
    """Tell of a task that its broker gives out again after each worker that died with it."""
    if not (getattr(task, "acks_late", None) and getattr(task, "reject_on_worker_lost", None)):
        return None
    words = (
        f"'{task.name}' has `acks_late` and `reject_on_worker_lost`, and nothing bounds how often: if it kills its worker, the"
        " broker gives it to the next one, again and again"
    )
    return Remark("redelivered-for-ever", task.name, words)


def remarks_of_app(app: Any) -> Iterator[Remark]:
    """Tell what of an app's settings matters for all of its tasks."""
    serializer = app.conf.result_serializer
    if registry.name_to_type.get(serializer) != _JSON or serializer != "json":
        yield Remark(
            "values-without-json",
            "",
            f"workers write results with '{serializer}': a value that JSON cannot carry fails its node after the task has run, "
            "if another task takes it",
        )


def remarks_of_all(app: Any) -> Iterator[Remark]:
    """Tell all of it, of the app first."""
    yield from remarks_of_app(app)
    for name in sorted(app.tasks):
        if not name.startswith("celery."):
            yield from remarks_of_task(app.tasks[name], app)
