"""Real Celery workers for tests, and the reading of what their tasks recorded."""

import itertools
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import redis

from tests.support.directories import make_short_directory
from tests.support.forking import Child, start_child
from tests.support.tasks import PREFIX, records

REPOSITORY = Path(__file__).resolve().parents[2]
_SHOWN_MAX = 5
_POLL_S = 0.01

_numbers = itertools.count(1)


class CeleryWorker:
    """A child process that runs ``celery worker`` on the tasks of ``tests.support.tasks``."""

    def __init__(
        self,
        broker: str,
        backend: str | None = None,
        *,
        log_directory: Path,
        records_url: str | None = None,
        keyprefix: str = "",
        pool: str = "solo",
        concurrency: int = 1,
        queues: Sequence[str] = ("celery",),
        name: str | None = None,
        app: str = "tests.support.tasks",
        arguments: Sequence[str] = ("--without-gossip", "--without-mingle", "--without-heartbeat"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare a worker.

        Args:
            broker: Its URL.
            backend: The URL for results; the broker's if None.
            log_directory: Gets ``<name>.log``.
            records_url: The Redis for the records; the backend's if None.
            keyprefix: ``global_keyprefix`` of the results.
            pool: As in ``celery worker --pool``.
            concurrency: As in ``celery worker --concurrency``.
            queues: The queues it consumes.
            name: Its node name, made up if None.
            app: The app it loads.
            arguments: Further arguments of ``celery worker``.
            environment: Added to this process's own.
        """
        self.name = name or f"w{next(_numbers)}-{uuid.uuid4().hex[:8]}@test"
        self.log_path = log_directory / f"{self.name}.log"
        backend = backend or broker
        self._records_url = records_url or backend
        self._command = [sys.executable, "-m", "celery", "-A", app, "worker", "--loglevel", "INFO"]
        self._command += ["--hostname", self.name, "--pool", pool, "--concurrency", str(concurrency)]
        self._command += ["--queues", ",".join(queues), *arguments]
        self._environment = {
            **os.environ,
            "DYRYGENTD_TEST_BROKER": broker,
            "DYRYGENTD_TEST_BACKEND": backend,
            "DYRYGENTD_TEST_RECORDS": self._records_url,
            "DYRYGENTD_TEST_KEYPREFIX": keyprefix,
            **(environment or {}),
        }
        self._child: Child | None = None
        self._temporary: Path | None = None

    @property
    def pid(self) -> int | None:
        """Return the main process's id, or None if it does not run."""
        return self._child.pid if self._child is not None and self._child.is_alive else None

    def __repr__(self) -> str:
        return f"<CeleryWorker {self.name} {f'pid {self.pid}' if self.pid else 'not running'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start it and wait until it consumes (it says so itself, on its ``worker_ready`` signal)."""
        try:
            self.launch()
            self.wait_ready(timeout_s=timeout_s)
        except BaseException:
            # Such as the end of the test's own time: nobody leaves what was not entered.
            self.kill()
            raise

    def launch(self) -> None:
        """Start it without waiting, for starting several at once."""
        assert self.pid is None, f"{self!r} is running"
        self._ready_key = f"{PREFIX}ready:{uuid.uuid4().hex}"
        # A pool makes a directory for its semaphores, and leaves it there if it is killed.
        self._remove_temporary()
        self._temporary = make_short_directory()
        self._child = start_child(
            self._command,
            output=self.log_path,
            environment={**self._environment, "DYRYGENTD_TEST_READY": self._ready_key, "TMPDIR": str(self._temporary)},
            working_directory=REPOSITORY,
        )

    def wait_ready(self, *, timeout_s: float = 60.0) -> None:
        """Wait until a launched worker consumes."""
        assert self._child is not None
        deadline = time.monotonic() + timeout_s
        with records(self._records_url) as client:
            while client.blpop([self._ready_key], timeout=1) is None:
                if not self._child.is_alive or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError(f"worker '{self.name}' did not get ready:\n{self.log()[-3000:]}")

    def stop(self, *, timeout_s: float = 20.0) -> None:
        """Stop it warmly: it finishes the tasks it runs. Kill it if that takes too long."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            if self._child.wait(timeout_s) is None:
                self.kill()
        self._remove_temporary()

    def kill(self) -> None:
        """Kill it and its pool with SIGKILL."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL, group=True)
            self._child.wait()
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process, such as SIGSTOP."""
        assert self._child is not None
        self._child.send_signal(number)

    def log(self) -> str:
        """Return what it logged so far."""
        return self.log_path.read_text(errors="replace")


class Executions:
    """What the tasks recorded, and the gates that ``wait_for`` tasks wait at."""

    def __init__(self, url: str) -> None:
        self._client: redis.Redis = records(url)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def counts(self) -> dict[str, int]:
        """Return ``{task_id: number of executions}``."""
        return self._numbers("executions")

    def started(self) -> dict[str, int]:
        """Return ``{task_id: clock at its first start}``."""
        return self._numbers("started")

    def finished(self) -> dict[str, int]:
        """Return ``{task_id: clock at its last end}``, by return or by exception."""
        return self._numbers("finished")

    def ended(self) -> dict[str, int]:
        """Return ``{task_id: clock at its first end}``, by return or by exception."""
        return self._numbers("ended")

    def most_at_once(self, task_ids: Iterable[str]) -> int:
        """Return how many of these tasks were executed at one time at most; those that did not finish are left out."""
        started, finished = self.started(), self.finished()
        moments = [(started[each], 1) for each in task_ids if each in finished]
        moments += [(finished[each], -1) for each in task_ids if each in finished]
        return max(itertools.accumulate(step for _, step in sorted(moments)), default=0)

    def clear(self) -> None:
        """Forget all records."""
        self._client.delete(*(PREFIX + name for name in ("executions", "started", "finished", "ended", "clock")))

    def release(self, key: str, *, count: int = 1, value: str = "") -> None:
        """Open the gate for so many ``wait_for(key)`` tasks, which return the value."""
        self._client.rpush(f"{PREFIX}gate:{key}", *([value] * count))

    def wait_started(self, task_ids: Iterable[str], *, timeout_s: float = 30.0) -> None:
        """Wait until each of these tasks has started."""
        self._wait_in(self.started, task_ids, "started", timeout_s)

    def wait_finished(self, task_ids: Iterable[str], *, timeout_s: float = 30.0) -> None:
        """Wait until each of these tasks has finished."""
        self._wait_in(self.finished, task_ids, "finished", timeout_s)

    def assert_each_once(self, task_ids: Iterable[str]) -> None:
        """Check that each of these tasks was executed exactly once."""
        counts = self.counts()
        wanted = list(task_ids)
        never = [task_id for task_id in wanted if task_id not in counts]
        repeated = [f"{task_id} ({counts[task_id]} times)" for task_id in wanted if counts.get(task_id, 0) > 1]
        assert not [*never, *repeated], (
            f"of {len(wanted)} tasks, {len(never)} were never executed{_some(never)}, "
            f"{len(repeated)} more than once{_some(repeated)}"
        )

    def assert_order(self, edges: Iterable[tuple[str, str]]) -> None:
        """Check for each edge ``(before, after)`` that the first had finished when the second started."""
        started, finished = self.started(), self.finished()
        wanted = list(edges)
        wrong = []
        for before, after in wanted:
            if before not in finished:
                wrong.append(f"{before} has not finished")
            elif after not in started:
                wrong.append(f"{after} has not started")
            elif finished[before] >= started[after]:
                wrong.append(f"{after} started at {started[after]}, {before} finished at {finished[before]}")
        assert not wrong, f"{len(wrong)} of {len(wanted)} edges are out of order{_some(wrong)}"

    def _numbers(self, name: str) -> dict[str, int]:
        return {str(task_id): int(number) for task_id, number in self._client.hgetall(PREFIX + name).items()}

    def _wait_in(self, read: Callable[[], dict[str, int]], task_ids: Iterable[str], word: str, timeout_s: float) -> None:
        wanted = set(task_ids)
        wait_until(
            lambda: wanted <= read().keys(),
            timeout_s=timeout_s,
            message=lambda: f"tasks that have not {word}: {_some(sorted(wanted - read().keys()))}",
        )


def wait_until(
    condition: Callable[[], object],
    *,
    timeout_s: float = 30.0,
    message: str | Callable[[], str] = "the condition did not come true",
) -> None:
    """Wait until the condition is true; fail with the message when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            said = message if isinstance(message, str) else message()
            raise AssertionError(f"{said} (waited {timeout_s:g} s)")
        time.sleep(_POLL_S)


def _some(items: Sequence[str]) -> str:
    if not items:
        return ""
    return ": " + ", ".join(items[:_SHOWN_MAX]) + (", …" if len(items) > _SHOWN_MAX else "")
