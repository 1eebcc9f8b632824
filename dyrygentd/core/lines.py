"""When tasks began, where nobody tells: a queue is a line, of which so many at its head run.

*The idea.* Each task sent to a queue gets a number. Where ``n`` run at a time and the broker gives out what came first, number
``k`` begins when ``k - n`` have left the line, and when they did is known. So its time in the queue can be told from its run
time, without a word from a worker.

*How many run at a time* is seen by overtaking: if ``k`` ends while ``m`` of those before it have not, at least ``m + 1`` ran. The
most of late is close, since run times differ; where they hardly do, those that end within a tenth of a run time count as ending
together. It sinks slowly while there is a queue, as workers go away.

*What could go wrong.* Workers that take messages ahead of time, or brokers with priorities, let more be overtaken than run: then
the queue is in the run times in part, or wholly. Estimates do not mind much, as they divide by the number that is too large, too.

It costs a node about a microsecond.
"""

from array import array
from typing import Final

#: Times of those that left last; more than are in flight at a time, by far.
_TIMES_MAX: Final = 4096
#: Queues that have lines of their own; all others share one.
_LINES_MAX: Final = 100
_OTHERS: Final = "(others)"
_TOGETHER: Final = 0.1
_SMOOTHING: Final = 0.1
_SINKING: Final = 0.999
#: In line for so many times as many as run, there is a queue.
_QUEUE: Final = 1.5


class QueueLine:
    """The tasks of one queue. Guards: they have numbers in the order in which they were sent.

    Attributes:
        slots: How many run at a time, as far as it was seen.
        was_full: Whether there was a queue, so that it cannot be many more.
    """

    __slots__ = ("_joined", "_left", "_left_at", "_run_s", "_settled", "slots", "was_full")

    def __init__(self, slots: float = 1.0, *, was_full: bool = False) -> None:
        self.slots, self.was_full = slots, was_full
        self._joined = self._left = self._settled = 0
        self._left_at = array("d", bytes(8 * _TIMES_MAX))
        self._run_s = 0.0

    def __repr__(self) -> str:
        return f"<QueueLine in_line={self._joined - self._left} slots={self.slots:.0f}>"

    def join(self) -> int:
        """Return the number of a task that is sent."""
        self._joined += 1
        return self._joined

    def leave(self, now: float) -> None:
        """Have one leave, whichever it is."""
        self._left += 1
        self._left_at[self._left % _TIMES_MAX] = now

    def ended(self, number: int, dispatched_at: float, now: float) -> float:
        """Have a task leave that ends now; return when it began."""
        since, times, left, settled = now - _TOGETHER * self._run_s, self._left_at, self._left, self._settled
        while settled < left and times[(settled + 1) % _TIMES_MAX] <= since:
            settled += 1
        self._settled = settled
        ran = number - settled
        if ran > self.slots:
            self.slots = float(ran)
        elif self._joined - left > _QUEUE * self.slots:
            self.was_full, self.slots = True, max(1.0, self.slots * _SINKING)
        ahead = number - round(self.slots)
        begun_at = dispatched_at
        if max(0, left - _TIMES_MAX) < ahead <= left:
            begun_at = max(dispatched_at, times[ahead % _TIMES_MAX])
        self._left = left = left + 1
        times[left % _TIMES_MAX] = now
        self._run_s += _SMOOTHING * (now - begun_at - self._run_s) if self._run_s else now - begun_at
        return begun_at

    def begun_at(self, number: int, dispatched_at: float) -> float:
        """Return when a task in the line began, 0 if it has not."""
        ahead = number - round(self.slots)
        if ahead <= max(0, self._left - _TIMES_MAX):
            return dispatched_at
        return 0.0 if ahead > self._left else max(dispatched_at, self._left_at[ahead % _TIMES_MAX])


class QueueLines:
    """The lines of all queues. Guards: their number is bounded."""

    __slots__ = ("_by_queue",)

    def __init__(self) -> None:
        self._by_queue: dict[str, QueueLine] = {}

    def __repr__(self) -> str:
        return f"<QueueLines queues={len(self._by_queue)}>"

    def of(self, queue: str) -> QueueLine:
        """Return the line of a queue."""
        line = self._by_queue.get(queue)
        if line is None:
            if len(self._by_queue) >= _LINES_MAX:
                queue = _OTHERS
            line = self._by_queue.setdefault(queue, QueueLine())
        return line

    def slots(self) -> dict[str, float]:
        """Return ``{queue: how many run at a time}`` of the queues that were full."""
        return {queue: line.slots for queue, line in self._by_queue.items() if line.was_full}

    def read(self, slots: dict[str, float]) -> None:
        """Take what was known before."""
        for queue, number in slots.items():
            if len(self._by_queue) < _LINES_MAX:
                self._by_queue.setdefault(queue, QueueLine(max(1.0, number), was_full=True))
