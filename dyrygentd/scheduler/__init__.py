"""The asyncio shell around the core: embed this one.

`shell` puts the parts together and is what programs use; each part owns one thing that the others only ask it for::

    inbox        what has happened                             turns      the engine, fed with it
    carrying     the order in which a turn is carried out      saving     what is on its way to the disk
    courier      what goes to the broker                       verbs      who waits for an answer
    submissions  who waits for the disk                        archive    workflows read back from the store
    queries      views, explanations, waiting

What puts all of it together is imported when it is first used: the daemon's settings need the limits, and nothing that runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from dyrygentd.scheduler.limits import Pace, SchedulerLimits, SystemClock

if TYPE_CHECKING:
    from dyrygentd.scheduler.handle import Handle
    from dyrygentd.scheduler.shell import Scheduler

__all__ = ["Handle", "Pace", "Scheduler", "SchedulerLimits", "SystemClock"]

_HOMES: Final = {"Handle": "dyrygentd.scheduler.handle", "Scheduler": "dyrygentd.scheduler.shell"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dyrygentd.scheduler' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
