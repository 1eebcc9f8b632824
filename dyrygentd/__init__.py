"""dyrygentd: runs workflows of thousands of Celery tasks from one asyncio process.

The map of the package, the upper floors first; a room imports only what stands below it (`dyrygentd/README.md` has the plan)::

    cli/        `dyrygentd` and `dyrygentctl`
    loopback/   `dyrygentctl ui`: the page with buttons, for one user
    demo/       tasks and stage of `dyrygentd demo`
    daemon/     process, configuration, signals, systemd, a broker of its own
    testing/    a daemon for your own tests, fakes of the ports
    http/       the API on a socket
    deputy/     answers beside a leader
    scheduler/  the asyncio shell: embed this one
    compat/     interface of celery-dyrygent
    remote      submits through the broker, from other hosts
    worker/     an addition to Celery workers
    client/     talks to the daemon
    results     Celery's own results of a workflow
    store/      SQLite
    transport/  Celery's broker, workers and result backend
    metrics     read when they are scraped
    lint/       what a canvas does that may not be meant
    canvas/     Celery canvas -> graph; `Workflow`
    tasks/      what the submitting program knows of its tasks
    wire/       JSON forms of server and client
    misspelt    names one letter away from what was meant
    witnesses   who may have a task that nobody who answered has
    ports/      what the scheduler needs from the world
    core/       decides: events in, effects out, no I/O
    versions    whether what is installed is new enough
    errors      what programs may catch
    advice      what an answer of a Redis server asks for
    commands    on nodes, as people paste them
    beside      threads for what would hold the loop
    progress    of long work, on a terminal
    page/       files for browsers, and the headers they go out with
    errbacks    error callbacks inside a worker

Absent on purpose: a result store, a worker, cron, pickle on the socket; and a room for what fits nowhere.

The public names below are imported when they are first used: a command line that shows its help needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyrygentd import errors
    from dyrygentd.canvas import Workflow, value_of
    from dyrygentd.client.aio import AsyncClient, AsyncHandle
    from dyrygentd.client.sync import Client, Handle
    from dyrygentd.core.policy import Retry, WorkflowPolicy
    from dyrygentd.errors import DaemonUnreachable, DyrygentError, RemoteError
    from dyrygentd.scheduler import Scheduler
    from dyrygentd.wire import NodeView, Outcome, WorkflowView

__all__ = [
    "AsyncClient",
    "AsyncHandle",
    "Client",
    "DaemonUnreachable",
    "DyrygentError",
    "Handle",
    "NodeView",
    "Outcome",
    "RemoteError",
    "Retry",
    "Scheduler",
    "Workflow",
    "WorkflowPolicy",
    "WorkflowView",
    "__version__",
    "errors",
    "value_of",
]

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "dyrygentd.client.aio",
    "AsyncHandle": "dyrygentd.client.aio",
    "Client": "dyrygentd.client.sync",
    "DaemonUnreachable": "dyrygentd.errors",
    "DyrygentError": "dyrygentd.errors",
    "Handle": "dyrygentd.client.sync",
    "NodeView": "dyrygentd.wire",
    "Outcome": "dyrygentd.wire",
    "RemoteError": "dyrygentd.errors",
    "Retry": "dyrygentd.core.policy",
    "Scheduler": "dyrygentd.scheduler",
    "Workflow": "dyrygentd.canvas",
    "WorkflowPolicy": "dyrygentd.core.policy",
    "WorkflowView": "dyrygentd.wire",
    "value_of": "dyrygentd.canvas",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("dyrygentd.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'dyrygentd' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
