"""For tests of your own: a daemon in the test's process, and fakes of the ports for programs that embed the `Scheduler`."""

from dyrygentd.testing.broker import FakeBroker, FakeDispatcher, FakeInspector, FakeKeeper, FakeWatcher
from dyrygentd.testing.clock import FakeClock
from dyrygentd.testing.in_process import daemon, run
from dyrygentd.testing.reports import FakeReports
from dyrygentd.testing.store import MemoryStore

__all__ = [
    "FakeBroker",
    "FakeClock",
    "FakeDispatcher",
    "FakeInspector",
    "FakeKeeper",
    "FakeReports",
    "FakeWatcher",
    "MemoryStore",
    "daemon",
    "run",
]
