"""A worker that does nothing but what Redis sees of one: it takes messages and stores results, at a fraction of the cost.

It runs as a process of its own: ``python -m tests.benchmarks.synthetic_worker --socket PATH --report PATH``. Results are
stored as Celery's Redis backend does, SETEX and PUBLISH in a MULTI for each task, sent in batches. It keeps no ``unacked`` hash,
so a message that is taken and not answered is lost; its report tells every message that it has taken. It may fail some tasks,
lose some, and store the results of some twice.
"""

import argparse
import contextlib
import heapq
import json
import random
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import msgspec

_READ_BYTES = 1 << 20
_STORED = b'{"status":"SUCCESS","result":true,"traceback":null,"children":[],"date_done":"%s","parent_id":null,"task_id":"%s"}'
_FAILED = (
    b'{"status":"FAILURE","result":{"exc_type":"ValueError","exc_message":["no luck"],"exc_module":"builtins"},'
    b'"traceback":"Traceback (most recent call last):\\nValueError: no luck","children":[],'
    b'"date_done":"%s","parent_id":null,"task_id":"%s"}'
)
_STORE = (
    b"*1\r\n$5\r\nMULTI\r\n*4\r\n$5\r\nSETEX\r\n$%(key_bytes)d\r\n%(key)s\r\n$5\r\n86400\r\n$%(value_bytes)d\r\n%(value)s\r\n"
    b"*3\r\n$7\r\nPUBLISH\r\n$%(key_bytes)d\r\n%(key)s\r\n$%(value_bytes)d\r\n%(value)s\r\n*1\r\n$4\r\nEXEC\r\n"
)
_REPLIES_PER_STORE = 4


class _Headers(msgspec.Struct):
    id: str


class _Message(msgspec.Struct):
    headers: _Headers


class _Stopped(Exception):
    """SIGTERM has come."""


class _Connection:
    """Speaks the protocol of Redis on a Unix socket, blocking."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._reader = hiredis.Reader()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, commands: bytes) -> None:
        self._socket.sendall(commands)

    def reply(self) -> Any:
        while (reply := self._reader.gets()) is False:
            received = self._socket.recv(_READ_BYTES)
            if not received:
                raise ConnectionError("the server has closed the connection")
            self._reader.feed(received)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply


class Faults(NamedTuple):
    """Shares of the tasks that fail, that are never answered, and whose results are stored twice."""

    fail: float = 0.0
    lose: float = 0.0
    repeat: float = 0.0


class Worker:
    """Takes messages and answers them, at once or after a random hold around ``hold_s``.

    Holding spreads the answers evenly over time, so ``k`` parallel chains make a steady rate of about ``k / hold_s``.

    Args:
        spread: Of the hold: ``even``, from half of it to one and a half, or ``long``, an exponential distribution.
    """

    def __init__(
        self, path: str, *, queue: str, batch: int, hold_s: float, seed: int, faults: Faults, spread: str = "even"
    ) -> None:
        self._faults = faults
        self._is_even = spread == "even"
        self.fates: Counter[str] = Counter()
        self._incoming, self._outgoing = _Connection(path), _Connection(path)
        name, size = queue.encode(), str(batch).encode()
        self._pop = _command(b"BLMPOP", b"0", b"1", name, b"RIGHT", b"COUNT", size)
        self._hold_s = hold_s
        self._random = random.Random(seed)
        self._decoder = msgspec.json.Decoder(_Message)
        self._held: list[tuple[float, str, float]] = []
        self.tasks: list[tuple[str, float, float]] = []
        self.cpu_s = 0.0

    def run(self, tasks_max: int) -> None:
        """Work until so many tasks are answered, or for ever if it is 0."""
        self._incoming.send(self._pop)
        cpu_begun_s = 0.0
        try:
            while not tasks_max or len(self.tasks) < tasks_max:
                pause_s = max(0.0, self._held[0][0] - time.monotonic()) if self._held else None
                if select.select([self._incoming], [], [], pause_s)[0]:
                    messages = self._incoming.reply()[1]
                    popped_at = time.monotonic()
                    cpu_begun_s = cpu_begun_s or time.process_time()
                    ids = [self._decoder.decode(message).headers.id for message in messages]
                    if self._hold_s:
                        for task_id in ids:
                            factor = self._random.uniform(0.5, 1.5) if self._is_even else self._random.expovariate(1.0)
                            due_at = popped_at + self._hold_s * factor
                            heapq.heappush(self._held, (due_at, task_id, popped_at))
                    else:
                        self._store([(task_id, popped_at) for task_id in ids])
                    self._incoming.send(self._pop)
                elif self._held:
                    self._store(self._due())
        finally:
            self.cpu_s = time.process_time() - cpu_begun_s

    def _due(self) -> list[tuple[str, float]]:
        now = time.monotonic()
        due = []
        while self._held and self._held[0][0] <= now:
            _, task_id, popped_at = heapq.heappop(self._held)
            due.append((task_id, popped_at))
        return due

    def _store(self, tasks: Sequence[tuple[str, float]]) -> None:
        if not tasks:
            return
        done_at = datetime.now(UTC).isoformat().encode()
        commands = []
        for task_id, _ in tasks:
            fate = self._fate() if any(self._faults) else ""
            if fate == "lose":
                continue
            value = (_FAILED if fate == "fail" else _STORED) % (done_at, task_id.encode())
            key = b"celery-task-meta-" + task_id.encode()
            command = _STORE % {b"key_bytes": len(key), b"key": key, b"value_bytes": len(value), b"value": value}
            commands += [command] * (2 if fate == "repeat" else 1)
        # Noted before sending, so that nothing can follow from a result before the time that is noted for it.
        stored_at = time.monotonic()
        self._outgoing.send(b"".join(commands))
        for _ in range(_REPLIES_PER_STORE * len(commands)):
            self._outgoing.reply()
        self.tasks += [(task_id, popped_at, stored_at) for task_id, popped_at in tasks]

    def _fate(self) -> str:
        """Draw what becomes of a task, and count it."""
        drawn = self._random.random()
        for fate, share in zip(self._faults._fields, self._faults, strict=True):
            if drawn < share:
                self.fates[fate] += 1
                return fate
            drawn -= share
        return ""


def main() -> None:
    """Work until SIGTERM or ``--tasks-max``, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="Unix socket of the server")
    parser.add_argument("--report", required=True, type=Path, help="where to write what was done")
    parser.add_argument("--queue", default="celery")
    parser.add_argument("--batch", type=int, default=100, help="messages taken at once")
    parser.add_argument("--hold-s", type=float, default=0.0, help="mean time between taking a message and answering it")
    parser.add_argument("--tasks-max", type=int, default=0, help="end after so many; 0: at SIGTERM")
    parser.add_argument("--spread", choices=["even", "long"], default="even", help="of the hold")
    parser.add_argument("--seed", type=int, default=0)
    for fate in Faults._fields:
        parser.add_argument(f"--{fate}", type=float, default=0.0, help="share of the tasks, from 0 to 1")
    arguments = parser.parse_args()

    def stop(*_: object) -> None:
        raise _Stopped

    signal.signal(signal.SIGTERM, stop)
    worker = Worker(
        arguments.socket,
        queue=arguments.queue,
        batch=arguments.batch,
        hold_s=arguments.hold_s,
        seed=arguments.seed,
        faults=Faults(arguments.fail, arguments.lose, arguments.repeat),
        spread=arguments.spread,
    )
    with contextlib.suppress(_Stopped):
        worker.run(arguments.tasks_max)
    arguments.report.write_text(json.dumps({"cpu_s": worker.cpu_s, "tasks": worker.tasks, "fates": worker.fates}))


def _command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


if __name__ == "__main__":
    main()
