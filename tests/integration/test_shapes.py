"""Every shape through the real daemon, real workers and a real server: each task exactly once, and none too early."""

import os
import time
from collections.abc import Iterator

import pytest

from tests.integration.conftest import IS_FULL, Site
from tests.support.daemon import Daemon
from tests.support.shapes import NAMES, Shape, make
from tests.support.size import of_size

pytestmark = pytest.mark.integration

_TASKS = of_size(100, 300)
_TASKS_FULL = 10_000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def daemon(site: Site) -> Iterator[Daemon]:
    """A daemon for all tests of this module."""
    with site.daemon() as daemon:
        yield daemon


@pytest.mark.parametrize("name", NAMES)
def test_shape(name: str, site: Site, daemon: Daemon) -> None:
    """A workflow of a hundred tasks or more runs as its author wrote it."""
    _run(make(name, _TASKS), site, daemon, timeout_s=60)


@pytest.mark.long
@pytest.mark.skipif(not IS_FULL, reason="set DYRYGENTD_TEST_FULL=1 for 10,000 tasks")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_shape_of_10000(name: str, site: Site, daemon: Daemon) -> None:
    """The same with ten thousand, the size at which Celery's own canvases break."""
    _run(make(name, _TASKS_FULL), site, daemon, timeout_s=300)


def _run(shape: Shape, site: Site, daemon: Daemon, *, timeout_s: float) -> None:
    site.executions.clear()
    cpu_s, begun = _cpu_s(daemon.pid), time.monotonic()
    with daemon.client() as client:
        outcome = client.submit(shape.definition).wait(timeout_s=timeout_s)
    wall_s, cpu_s = time.monotonic() - begun, _cpu_s(daemon.pid) - cpu_s
    assert outcome.state == "succeeded", outcome
    shape.assert_executed(site.executions)
    speed, cpu_us = shape.task_count / wall_s, 1e6 * cpu_s / shape.task_count
    print(f"{shape.name}: {shape.task_count} tasks, {wall_s:.1f} s, {speed:.0f}/s, {cpu_us:.0f} us CPU a node")


def _cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, user and system."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
