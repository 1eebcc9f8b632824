"""The usual adapters of the ports, made of an app and a path: what a program need not pass.

They are imported here, inside functions: whoever brings adapters of their own loads none of these.
"""

from pathlib import Path
from typing import Any

from dyrygentd.errors import ConfigurationError
from dyrygentd.ports import Dispatcher, Inspector, OutcomeKeeper, ReportReader, ResultWatcher, Store


def store_of(database: str | Path | None) -> Store:
    """Return the store in this file."""
    from dyrygentd.store.sqlite import SqliteStore

    if database is None:
        raise ConfigurationError("no database was named", next_step='pass `database="state.db"`')
    return SqliteStore(Path(database))


def dispatcher_of(app: Any, reports: ReportReader | None) -> Dispatcher:
    """Return what publishes to the broker of an app, and asks its workers to report."""
    from dyrygentd.transport.dispatcher import CeleryDispatcher

    return CeleryDispatcher(_required(app), reports=(lambda: None) if reports is None else reports.header)


def reports_of(app: Any) -> ReportReader:
    """Return what reads the reports of workers that have `dyrygentd.worker`."""
    from dyrygentd.transport.reports import RedisReports

    return RedisReports(app)


def watcher_of(app: Any, *, value_bytes_max: int) -> ResultWatcher:
    """Return what waits for results in the app's backend."""
    from dyrygentd import transport

    return transport.watcher_of(_required(app), value_bytes_max=value_bytes_max)


def keeper_of(app: Any) -> OutcomeKeeper:
    """Return what stores the ends of tasks that never run in the app's backend."""
    from dyrygentd.transport.outcomes import CeleryOutcomeKeeper

    return CeleryOutcomeKeeper(app.backend)


def inspector_of(app: Any) -> Inspector:
    """Return what asks broker, workers and backend where tasks are."""
    from dyrygentd.transport.inspector import CeleryInspector

    return CeleryInspector(app)


def _required(app: Any) -> Any:
    if app is None:
        raise ConfigurationError("no Celery app was given", next_step="pass the app, or adapters of your own")
    return app
