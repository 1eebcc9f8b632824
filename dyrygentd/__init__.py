"""dyrygentd: runs workflows of thousands of Celery tasks from one asyncio process.

The map of the package::

    errors      every error class                         core/       decides: events in, effects out, no I/O
    wire        JSON forms of server and client           ports/      what the scheduler needs from the world
    canvas/     Celery canvas -> graph; `Workflow`        testing/    a daemon for your own tests, fakes of the ports
    scheduler   the asyncio shell: embed this one         metrics     read when they are scraped
    results     Celery's own results of a workflow
    witnesses   who may have a task that nobody who answered has
    commands    on nodes, as people paste them
    store/      SQLite                                    transport/  Celery's broker and result backend
    http/       the API on a socket                       client/     talks to it
    daemon/     process, configuration, systemd           cli/        `dyrygentd` and `dyrygentctl`
    demo/       tasks and stage of `dyrygentd demo`       compat/     interface of celery-dyrygent
    remote      submits through the broker, from other hosts

The public names below are imported when they are first used: a command line that shows its help needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyrygentd import errors
    from dyrygentd.canvas import Workflow
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
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("dyrygentd.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'dyrygentd' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
