"""What keeps the scheduler from its work, and what people should know besides."""

from collections.abc import Callable, Sequence

from dyrygentd.ports import ResultWatcher, Store
from dyrygentd.scheduler.courier import Courier
from dyrygentd.scheduler.hindsight import Hindsight
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.saving import Saving
from dyrygentd.scheduler.sentinel import Sentinel


class Troubles:
    """Asks the parts what is wrong with disk, broker and backend.

    Args:
        parts: Returns what others want to have told, of values beside the database and of workflows that wait for room.
        broker_trouble: Given what is seen of the broker (empty: nothing is wrong), returns what whoever runs it knows.
        lease_trouble: Returns why it is not known whether this process leads.
    """

    def __init__(
        self,
        *,
        store: Store,
        watcher: ResultWatcher,
        saving: Saving,
        courier: Courier,
        sentinel: Sentinel,
        hindsight: Hindsight,
        redaction: Redaction,
        parts: Callable[[], Sequence[str]] = tuple,
        broker_trouble: Callable[[str], str] = str,
        lease_trouble: Callable[[], str] = str,
    ) -> None:
        self._store = store
        self._watcher = watcher
        self._saving = saving
        self._courier = courier
        self._sentinel = sentinel
        self._hindsight = hindsight
        self._redaction = redaction
        self._parts = parts
        self._broker_trouble = broker_trouble
        self._lease_trouble = lease_trouble
        self._noted = ""

    def __repr__(self) -> str:
        return f"<Troubles {[*self.problems()]} {[*self.notices()]}>"

    @property
    def seen_of_broker(self) -> str:
        """What is wrong with the broker as far as is seen from here, empty if nothing is."""
        return self._courier.problem or self._sentinel.problem

    def note(self, words: str) -> None:
        """Tell among the notices what whoever runs the scheduler has noticed; nothing takes it back."""
        self._noted = words

    def located(self) -> Sequence[tuple[str, str]]:
        """Return what is wrong, each with where it is: disk, broker or backend."""
        found = (
            ("disk", self._lease_trouble()),
            ("disk", self._saving.problem),
            ("disk", self._saving.slowness),
            ("disk", self._store.statistics().problem),
            ("backend", self._hindsight.problem),
            ("broker", self._broker_trouble(self.seen_of_broker)),
            ("backend", self._watcher.statistics().problem),
        )
        return [(where, problem) for where, problem in found if problem]

    def problems(self) -> Sequence[str]:
        """Return what is wrong."""
        return [problem for _, problem in self.located()]

    def notices(self) -> Sequence[str]:
        """Return what people should know, and what keeps nobody from work."""
        # What is hidden is no problem: else whoever can have tasks fail could take readiness away.
        notices = (self._sentinel.notice, self._hindsight.notice, self._noted, self._redaction.problem, *self._parts())
        return [notice for notice in notices if notice]
