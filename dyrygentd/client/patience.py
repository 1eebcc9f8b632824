"""How long both clients wait, and when they ask again: polls, streams that broke off, a daemon that restarts."""

import time
from collections.abc import Iterator
from typing import Final

from dyrygentd.client.forms import Ask, workflow_target
from dyrygentd.errors import DaemonUnreachable, DyrygentError, RemoteUnavailable, WaitTimeout

WAIT_POLL_S: Final = 20.0
"""Longest time that one poll of `wait` is held by the daemon."""

SILENCE_MAX_S: Final = 45.0
"""An event stream says something every 15 s; three times that means that the daemon is gone."""

RECONNECT_S: Final = 60.0
"""How long a stream tries to come back: a daemon that restarts recovers its workflows first."""


class Wait:
    """Long polls until a workflow has finished; a daemon that goes away meanwhile is waited for as well."""

    def __init__(self, workflow_id: str, timeout_s: float | None) -> None:
        self._workflow_id = workflow_id
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._pauses = pauses()
        self._pause_s = 0.0

    def ask(self) -> Ask:
        """Return the next poll."""
        wait_s = max(0.0, min(self._left_s(), WAIT_POLL_S))
        query = {"result": "true", "wait_s": f"{wait_s:.3f}"}
        return Ask("GET", workflow_target(self._workflow_id, query=query), extra_s=wait_s)

    def answered(self) -> None:
        """Note that the daemon is there and the workflow goes on."""
        self._pauses, self._pause_s = pauses(), 0.0

    def failed(self, error: DyrygentError) -> None:
        """Note that a poll failed; raise the error if waiting does not help."""
        if not is_passing(error):
            raise error
        self._pause_s = next(self._pauses)

    def pause_s(self) -> float:
        """Return how long to pause before the next poll. Raises `WaitTimeout`."""
        left_s = self._left_s()
        if left_s <= 0:
            raise WaitTimeout(self._workflow_id, self._timeout_s or 0.0)
        return min(self._pause_s, left_s)

    def _left_s(self) -> float:
        return WAIT_POLL_S if self._deadline is None else self._deadline - time.monotonic()


class Reconnection:
    """When to come back to a stream that broke off, and for how long."""

    def __init__(self, reconnect_s: float) -> None:
        self._reconnect_s = reconnect_s
        self._lost_at: float | None = None
        self._pauses = pauses()

    def answered(self) -> None:
        """Note that the daemon is there."""
        self._lost_at, self._pauses = None, pauses()

    def failed(self, error: DyrygentError) -> None:
        """Note that the stream broke off; raise the error if the daemon has been away for too long, or will not say more."""
        self._lost_at = self._lost_at or time.monotonic()
        if not is_passing(error) or time.monotonic() - self._lost_at >= self._reconnect_s:
            raise error

    def pause_s(self) -> float:
        """Return how long to pause before the next try."""
        return next(self._pauses)


def is_passing(error: DyrygentError) -> bool:
    """Tell whether waiting may help: the daemon restarts, or has reached a bound."""
    return isinstance(error, DaemonUnreachable | RemoteUnavailable)


def pauses() -> Iterator[float]:
    """Yield growing pauses between tries, from 0.1 s to 2 s."""
    pause_s = 0.1
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, 2.0)
