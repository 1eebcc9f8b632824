"""A broker of our own that is kept running: started again when it ends, with the data that it had.

Redis and Valkey end when the kernel runs out of memory, when somebody kills them or tells them to (``SHUTDOWN``), and by a fault
of their own. Nobody but us would start this one again. The pauses between two tries grow, up to a bound, and begin anew once it
has run for a while; it is never given up, because there is nobody to hand it to, and what keeps it down (a full disk) may pass.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import DyrygentError

logger = logging.getLogger("dyrygentd.broker")

#: Before the first try, the second and so on; the last one is the bound.
_PAUSES_S: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
#: One that has run for so long has not ended for the reason of its start.
_STEADY_S: Final = 60.0
_SHOWN_LINES: Final = 3


class KeptServer:
    """Starts a server and watches it. Guards: while this runs and is not stopped, the server runs or is about to be started.

    Args:
        on_change: Called with `problem` whenever it changes, from a thread of ours.
        pauses_s: Before each try; the last one holds for all that follow.
        steady_s: After so long the pauses begin anew.

    Attributes:
        problem: Why it does not run, and what can be done; empty if it does.
        restarts: How often it was started again.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        *,
        on_change: Callable[[str], None] = lambda problem: None,
        pauses_s: Sequence[float] = _PAUSES_S,
        steady_s: float = _STEADY_S,
    ) -> None:
        self.server = server
        self.problem = ""
        self.restarts = 0
        self._on_change = on_change
        self._pauses_s = pauses_s
        self._steady_s = steady_s
        self._tries = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<KeptServer {self.server!r} restarts={self.restarts}>"

    def start(self, *, is_patient: bool = False) -> None:
        """Start the server, and watch it from then on.

        Args:
            is_patient: One that cannot be started now is tried again later, as one that has ended.

        Raises:
            BrokerUnavailable: It cannot be started; nothing is watched.
        """
        try:
            self.server.start()
        except DyrygentError as error:
            if not is_patient:
                raise
            self._tell(words_of_failure(error))
        self._thread = threading.Thread(target=self._watch, name="keep-broker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the server in good order, and do not start it again."""
        self._stopping.set()
        self.server.stop()
        if self._thread is not None:
            self._thread.join()
        # It may have been about to be started.
        self.server.stop()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self._wait_and_start_again()
            except Exception:
                # Such as one of whoever is told. This thread is the only one that starts the server again.
                logger.exception("the daemon's own broker is watched on, after an error")
                self._stopping.wait(self._pauses_s[-1])

    def _wait_and_start_again(self) -> None:
        if self.server.is_alive:
            begun = time.monotonic()
            status = self.server.wait_exit()
            if self._stopping.is_set():
                return
            if time.monotonic() - begun >= self._steady_s:
                self._tries = 0
            self._tell(words_of_end(self.server, status))
        if self._stopping.wait(self._pauses_s[min(self._tries, len(self._pauses_s) - 1)]):
            return
        self._tries += 1
        self._try()

    def _try(self) -> None:
        try:
            self.server.start()
        except DyrygentError as error:
            if not self._stopping.is_set():
                self._tell(words_of_failure(error))
        except Exception as error:
            # Whatever it is, the next try comes; and this thread is the only one to make it.
            logger.exception("the daemon's own broker cannot be started")
            self._tell(f"the daemon's own broker cannot be started: {error!r}")
        else:
            self.restarts += 1
            self._tell("")
            logger.warning("the daemon's own broker (%s) was started again, with the data that it had", self.server.program)

    def _tell(self, problem: str) -> None:
        if problem == self.problem:
            return
        self.problem = problem
        if problem:
            logger.error("%s", problem)
        self._on_change(problem)


def words_of_end(server: EmbeddedServer, status: int | None) -> str:
    """Say how a server has ended by itself, and what comes next."""
    name = f"the daemon's own broker ({server.program or 'in ' + str(server.directory)})"
    if status is not None and status < 0:
        number = -status
        ended = f"was ended by {signal_name(number)}"
        cause = "; the kernel does that when memory runs out: `journalctl -k`" if number == signal.SIGKILL else ""
        return f"{name} {ended}, and is started again with the data that it had{cause}"
    last = " | ".join(server.log_tail().splitlines()[-_SHOWN_LINES:])
    return f"{name} ended with status {status}, and is started again with the data that it had; its log ends with: {last}"


def signal_name(number: int) -> str:
    """Return the name of a signal."""
    return next((each.name for each in signal.Signals if each == number), f"signal {number}")


def words_of_failure(error: DyrygentError) -> str:
    """Say why a server cannot be started, in one line, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    head, shown = lines[0], " | ".join(lines[1:][-_SHOWN_LINES:])
    words = f"the daemon's own broker does not run, and is tried again: {head} {shown}".rstrip()
    return f"{words}; next: {error.next_step}" if error.next_step else words
