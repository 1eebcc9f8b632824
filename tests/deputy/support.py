"""What the tests of this room share."""

from collections.abc import Sequence

import anyio

from dyrygentd.errors import Fenced, StoreUnavailable
from dyrygentd.ports.facts import Holder, LeaseView, Namesake

#: Who leads.
LEADER = Holder("ops1", 17, 1_700_000_000.0)


class FixedLease:
    """A lease that stands as a test says; nobody can take it.

    Attributes:
        left_s: For how long it holds.
        is_away: Nobody can see it.
        is_silent: Nobody is answered.
    """

    def __init__(self, left_s: float, *, ttl_s: float = 5.0) -> None:
        self.left_s = left_s
        self.ttl_s = ttl_s
        self.is_away = self.is_silent = False

    async def view(self) -> LeaseView:
        """Tell how it stands."""
        if self.is_silent:
            await anyio.sleep_forever()
        if self.is_away:
            raise StoreUnavailable("the server is away")
        return LeaseView(LEADER, 7, self.left_s, standbys=2)

    async def take(self, holder: Holder) -> bool:
        """Refuse."""
        return False

    async def renew(self) -> None:
        """Refuse."""
        raise StoreUnavailable("it is another's")

    def lose(self, error: Fenced) -> None:
        """Do nothing."""

    async def resign(self) -> None:
        """Do nothing."""

    async def wait(self, timeout_s: float) -> None:
        """Do nothing."""

    async def namesakes(self, name: str, machine: str, holder: Holder) -> Sequence[Namesake]:
        """Know of none."""
        return []
