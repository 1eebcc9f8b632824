"""Submit from hosts that have the broker and no daemon: through a Celery task that a worker beside the daemon runs.

Theory of operation: the program makes the definition, as it has the tasks and routes; the message carries it as JSON text; the
worker hands it to the daemon's socket and returns the workflow's id. Every such definition has a key; one that somebody else has
written without gets the id of its message. So the task may be repeated as often as it takes: by Celery when a worker dies, and by
itself while the daemon is away.

*Who may submit.* Whoever may publish into the queue. The daemon sees the worker's user, and that user's rights count
(``submitters``, ``tasks``, ``tasks_denied``); all workflows that come this way are that user's. So nothing is registered unless
an app asks for it, and it has a queue of its own.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, Final, Unpack
from uuid import uuid4

from dyrygentd.client import bodies
from dyrygentd.client.sync import Client
from dyrygentd.errors import (
    BadRequest,
    ConfigurationError,
    DefinitionError,
    RemoteError,
    RemoteNotOnDiskYet,
    RemoteUnavailable,
    RequestError,
    SubmissionRefused,
)
from dyrygentd.tasks.apply_options import ApplyOptions

TASK: Final = "dyrygentd.submit"
QUEUE: Final = "dyrygentd"
#: With pauses of up to 5 minutes, which chance shortens to a half on average, that is a day.
_TRIES: Final = 600
_PAUSE_MAX_S: Final = 300
#: Longer than any answer takes: a shorter limit of the app's own would lose what is submitted while the daemon hangs.
_TIME_LIMIT_S: Final = 300
#: The app's attribute that has the socket: the app makes its tasks later than it is told of them.
_SOCKET: Final = "_dyrygentd_socket"


class Remote:
    """Submits through the broker. Made by `install`.

    Attributes:
        task: The Celery task, ``dyrygentd.submit``.
        queue: Where it goes; a worker beside the daemon consumes it.
    """

    def __init__(self, task: Any, queue: str) -> None:
        self.task = task
        self.queue = queue

    def __repr__(self) -> str:
        return f"<Remote {self.queue}>"

    def submit(
        self,
        what: Any,
        *,
        key: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        series: str | None = None,
        if_running: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        on_override: bodies.OnOverride = "call",
        **options: Unpack[ApplyOptions],
    ) -> Any:
        """Send a submission; return when the broker has it.

        Args:
            what, key, name, labels, series, if_running, parameters, on_override, options: As of `Client.submit`. Without a key it
                gets one, so that it is submitted once, whatever becomes of worker and daemon.

        Returns:
            celery.result.AsyncResult: ``get()`` gives the workflow's id when the daemon has it on disk (of one that was skipped
            that of the run which goes on), and raises `SubmissionRefused` if the daemon refuses. While the daemon is away it
            waits.

        Raises:
            NotACanvas, DefinitionError: It cannot be run; nothing was sent.
            kombu.exceptions.OperationalError: The broker cannot be reached.
        """
        body = bodies.submission_body(
            what,
            key=key,
            name=name,
            labels=labels,
            series=series,
            if_running=if_running,
            parameters=parameters,
            on_override=on_override,
            options=options,
        )
        document = json.loads(body)
        if document.get("key") is None:
            document["key"] = str(uuid4())
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return self.task.apply_async((text,), queue=self.queue, serializer="json", compression="zlib")


def install(app: Any, *, queue: str = QUEUE, socket: str | os.PathLike[str] | None = None) -> Remote:
    """Register ``dyrygentd.submit`` in an app, and return what submits by it.

    Call it in the module that programs and workers load. One worker on the daemon's host has to consume the queue:
    ``celery -A APP worker -Q dyrygentd``.

    Args:
        queue: The queue of that worker.
        socket: The daemon's socket there; by default ``$DYRYGENTD_SOCKET``, the system's, the user's.

    Raises:
        ConfigurationError: It was called for this app before, with another socket: the app has one task of this name.
    """
    place = None if socket is None else os.fspath(socket)
    present = vars(app).setdefault(_SOCKET, place)
    if present != place:
        raise ConfigurationError(
            f"the app '{app.main}' submits to the socket '{present or 'by default'}' already, not to '{place or 'by default'}'",
            next_step="call `dyrygentd.remote.install` once for an app",
        )

    @app.task(  # type: ignore[untyped-decorator]
        bind=True,
        name=TASK,
        shared=False,
        ignore_result=False,
        acks_late=True,
        reject_on_worker_lost=True,
        autoretry_for=(ConnectionError, TimeoutError, RemoteNotOnDiskYet),
        retry_backoff=True,
        retry_backoff_max=_PAUSE_MAX_S,
        max_retries=_TRIES,
        soft_time_limit=_TIME_LIMIT_S,
        time_limit=2 * _TIME_LIMIT_S,
    )
    def submit(task: Any, definition: str) -> str:
        try:
            document = _document(definition)
            if document.get("key") is None:
                document["key"] = task.request.id
            with Client(place) as client:
                # Overridden methods were called where the canvas was.
                return client.submit(document, on_override="ignore").id
        except (RemoteUnavailable, RemoteNotOnDiskYet):
            raise
        except (RemoteError, RequestError, DefinitionError) as error:
            raise SubmissionRefused(error.message, error.code, error.next_step, error.status) from error

    return Remote(submit, queue)


def _document(definition: object) -> dict[str, Any]:
    """Read a definition that anybody may have written who can publish into the queue. Raises `BadRequest`."""
    if not isinstance(definition, str):
        raise BadRequest(f"the definition is no text: {type(definition).__name__}", path="$", next_step="send it as JSON text")
    try:
        document = json.loads(definition)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the definition is not valid JSON: {error}", path="$") from error
    if not isinstance(document, dict):
        raise BadRequest("the definition is no JSON object", path="$", next_step="a definition is an object with `nodes`")
    return document
