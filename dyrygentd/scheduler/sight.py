"""What is known of unfinished workflows, to whoever answers questions about them."""

from typing import Protocol

from dyrygentd.core.engine import Engine
from dyrygentd.core.workflow import RunningWorkflow


class Sight(Protocol):
    """Unfinished workflows, to be read only: those of the engine that runs them, or as they were read from the store."""

    @property
    def engine(self) -> Engine:
        """Return the engine that has them; another one may have them after the next look."""

    async def look(self, *workflow_ids: str) -> None:
        """Have what is known of these be as new as it is shown. Raises `StoreUnavailable`."""

    async def look_at_all(self) -> None:
        """The same of all workflows that have not finished, as many as are looked at at one time."""

    def live(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow whose end is not on disk yet."""

    def refuse_if_ended(self, workflow_id: str) -> None:
        """Raise `DaemonUnreachable` or `Fenced` if what somebody waits for will not happen any more."""
