"""What these tests share: an app, canvases of its tasks, and hooks that do not outlive a test."""

from collections.abc import Iterator

import celery_dyrygent.workflows as theirs
import pytest
from celery import Celery

from dyrygentd.compat.celery_dyrygent import Workflow
from tests.http.support import Daemon, daemon, holding
from tests.support.apps import closing

__all__ = ["daemon", "holding"]


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app in memory; the original asks the current app, so this is it."""
    made = Celery("compat", broker="memory://", backend="cache+memory://")
    made.set_current()
    with closing(made):
        yield made


@pytest.fixture(autouse=True)
def _own_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks, socket and processor task are kept on the class; each test starts without."""
    for library in (Workflow, theirs.Workflow):
        monkeypatch.setattr(library, "hooks", {name: [] for name in library.hooks})
        monkeypatch.setattr(library, "workflow_processor_task", None)
    monkeypatch.setattr(Workflow, "via_worker", False)
    monkeypatch.setattr(Workflow, "socket", None)


@pytest.fixture
def at(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon whose tasks run at once, and to which workflows go."""
    monkeypatch.setattr(Workflow, "socket", daemon.path)
    return daemon


@pytest.fixture
def at_holding(holding: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon whose results are held back, and to which workflows go."""
    monkeypatch.setattr(Workflow, "socket", holding.path)
    return holding
