"""Who waits for changes of which workflow."""

from types import TracebackType
from typing import Self

import anyio


class Listener:
    """One caller's interest in the changes of one workflow; a change between two waits is not lost."""

    def __init__(self, listeners: "Listeners", workflow_id: str) -> None:
        self._listeners = listeners
        self.workflow_id = workflow_id
        self._changed = anyio.Event()

    def __enter__(self) -> Self:
        self._listeners.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._listeners.remove(self)

    def notify(self) -> None:
        """Wake the caller."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait for the next change since the last wait."""
        await self._changed.wait()
        self._changed = anyio.Event()


class Listeners:
    """All who wait, who are told in the order in which they came. A workflow for which nobody waits takes no place here."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Listener, None]] = {}

    def __repr__(self) -> str:
        return f"<Listeners workflows={len(self._of)}>"

    def __len__(self) -> int:
        """Return for how many workflows somebody waits."""
        return len(self._of)

    def count(self, workflow_id: str) -> int:
        """Return how many wait for changes of one workflow."""
        return len(self._of.get(workflow_id, ()))

    def to(self, workflow_id: str) -> Listener:
        """Return a listener; it listens inside its ``with`` block."""
        return Listener(self, workflow_id)

    def add(self, listener: Listener) -> None:
        """Begin to tell it of changes."""
        self._of.setdefault(listener.workflow_id, {})[listener] = None

    def remove(self, listener: Listener) -> None:
        """Tell it no more."""
        listeners = self._of[listener.workflow_id]
        listeners.pop(listener, None)
        if not listeners:
            del self._of[listener.workflow_id]

    def notify(self, workflow_id: str) -> None:
        """Tell of a change of one workflow."""
        for listener in self._of.get(workflow_id, ()):
            listener.notify()

    def notify_all(self) -> None:
        """Have everybody look again."""
        for workflow_id in self._of:
            self.notify(workflow_id)
