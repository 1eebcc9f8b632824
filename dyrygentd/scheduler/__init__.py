"""The asyncio shell around the core: embed this one.

`shell` puts the parts together and is what programs use; each part owns one thing that the others only ask it for::

    turns        the engine, the inbox and the order of a turn      courier    what goes to the broker
    submissions  what is on its way to the disk                     verbs      who waits for an answer
    queries      views, explanations, waiting                       archive    workflows read back from the store
"""

from dyrygentd.scheduler.handle import Handle
from dyrygentd.scheduler.limits import SchedulerLimits, SystemClock
from dyrygentd.scheduler.shell import Scheduler

__all__ = ["Handle", "Scheduler", "SchedulerLimits", "SystemClock"]
