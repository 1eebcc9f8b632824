"""The daemons that these tests talk to, and the commands that do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrygentd.scheduler import Pace
from tests.cli.support import Ctl, ctl_of
from tests.http.support import Daemon, daemon, holding

__all__ = ["daemon", "holding"]


@pytest.fixture
def idle(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon whose queue nobody consumes."""
    with Daemon(short_tmp / "idle.sock", has_worker=False, pace=Pace(young_s=0.0)) as running:
        yield running


@pytest.fixture
def ctl(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Run a command against ``daemon``, in an empty directory that may hold modules."""
    return ctl_of(daemon, tmp_path, monkeypatch)


@pytest.fixture
def slow_ctl(holding: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Run a command against ``holding``, whose tasks do not finish by themselves."""
    return ctl_of(holding, tmp_path, monkeypatch)
