"""What fills the ports of one scheduler: adapters that a program has passed, and the usual ones, made of an app and a path.

The usual ones are imported here, inside functions: whoever brings adapters of their own loads none of these.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyrygentd.errors import ConfigurationError
from dyrygentd.ports import Clock, Dispatcher, Inspector, OutcomeKeeper, ReportReader, ResultWatcher, Store
from dyrygentd.ports.values import ItemFiles, ValueStore
from dyrygentd.scheduler.limits import SchedulerLimits, SystemClock


@dataclass(frozen=True, slots=True)
class Adapters:
    """What a scheduler reaches the world by. Without an inspector nobody looks for lost tasks."""

    store: Store
    dispatcher: Dispatcher
    watcher: ResultWatcher
    inspector: Inspector | None
    reports: ReportReader | None
    keeper: OutcomeKeeper | None
    clock: Clock
    values: ValueStore | None = None
    files: ItemFiles | None = None


def adapters_of(
    app: Any,
    database: str | Path | None,
    limits: SchedulerLimits,
    *,
    store: Store | None,
    dispatcher: Dispatcher | None,
    watcher: ResultWatcher | None,
    inspector: Inspector | None,
    reports: ReportReader | None,
    keeper: OutcomeKeeper | None,
    clock: Clock | None,
    values: ValueStore | None,
    files: ItemFiles | None,
) -> Adapters:
    """Return adapters of which those that were not passed are the usual ones.

    Raises:
        ConfigurationError: Neither an app nor adapters were given.
        BackendUnsupported: The app's results cannot be awaited from another process.
    """
    store = store or store_of(database)
    reports = reports or (None if app is None else reports_of(app))
    if not limits.store_unrun_results:
        keeper = None
    elif keeper is None and app is not None:
        keeper = keeper_of(app)
    return Adapters(
        store=store,
        dispatcher=dispatcher or dispatcher_of(app, reports),
        watcher=watcher or watcher_of(app, value_bytes_max=limits.engine.value_bytes_max),
        inspector=inspector or (None if app is None else inspector_of(app)),
        reports=reports,
        keeper=keeper,
        clock=clock or SystemClock(),
        values=values,
        files=files,
    )


def store_of(database: str | Path | None) -> Store:
    """Return the store in this file, or on PostgreSQL. Raises `ConfigurationError`."""
    from dyrygentd.store import choice

    if database is None:
        raise ConfigurationError("no database was named", next_step='pass `database="state.db"`')
    try:
        place = choice.place_of(database)
    except ValueError as error:
        raise ConfigurationError(f"the URL of the database cannot be read: {error}") from None
    return choice.store_of(place)


def dispatcher_of(app: Any, reports: ReportReader | None) -> Dispatcher:
    """Return what publishes to the broker of an app, and asks its workers to report."""
    from dyrygentd.transport.dispatcher import CeleryDispatcher

    return CeleryDispatcher(_required(app)) if reports is None else CeleryDispatcher(_required(app), reports=reports.header)


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
