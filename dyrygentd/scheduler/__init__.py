"""The asyncio shell around the core: embed this one.

`shell` puts the parts together and is what programs use; each part owns one thing that the others only ask it for::

    inbox        what has happened                             turns      the engine, fed with it
    carrying     the order in which a turn is carried out      saving     what is on its way to the disk
    courier      what goes to the broker                       verbs      who waits for an answer
    submissions  who waits for the disk                        archive    workflows read back from the store
    queries      views, explanations, waiting
"""

from dyrygentd.scheduler.handle import Handle
from dyrygentd.scheduler.limits import SchedulerLimits, SystemClock
from dyrygentd.scheduler.shell import Scheduler

__all__ = ["Handle", "Scheduler", "SchedulerLimits", "SystemClock"]
