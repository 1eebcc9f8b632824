"""The broker's own account of what was pushed: its append-only file, in which every write stands, in order, once.

Counters of the server start over with it, and a connection that watches is cut with the others. The file is written before a
command is answered and outlives restarts, so nothing can be pushed unseen.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

_TAG: Final = re.compile(rb'"delivery_tag":\s*"dyrygentd:([^":]+):(\d+)"')
_MARKER: Final = b"dyrygentd:published:"


@dataclass(frozen=True, slots=True)
class Push:
    """A message of ours that went into a queue.

    Attributes:
        is_restored: A worker gave it back.
        workflow_id, node: Whose marker was raised with it; of a restored one they are not known.
    """

    task_id: str
    attempt: int
    queue: str
    is_restored: bool
    workflow_id: str = ""
    node: int = -1


class Ledger:
    """Reads what was pushed since it was made, or since it was asked before; also where the server rewrites its file meanwhile.

    Entered, so that its file is closed also where what goes through the broker meanwhile ends with an error.

    Args:
        directory: The server's ``appendonlydir``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._buffer = b""
        self._number, path = self._files()[-1]
        # Kept open: a file that was rewritten is deleted, and read to its end nevertheless.
        self._file: BinaryIO = path.open("rb")
        self._file.seek(0, os.SEEK_END)
        self._marker: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def pushes(self) -> Iterator[Push]:
        """Yield every push that was not read before, in order."""
        while True:
            newer = [(number, path) for number, path in self._files() if number > self._number]
            # After the look for a newer one, since nothing is added to this one once there is one.
            yield from self._read()
            if not newer:
                return
            self._file.close()
            self._number, path = newer[0]
            self._buffer, self._file = b"", path.open("rb")

    def _read(self) -> Iterator[Push]:
        self._buffer += self._file.read()
        at = 0
        while (end := _end_of_command(self._buffer, at)) is not None:
            command = _arguments(self._buffer, at)
            at = end
            if command:
                yield from self._pushes(command)
        self._buffer = self._buffer[at:]

    def _pushes(self, command: list[bytes]) -> Iterator[Push]:
        word = command[0].upper()
        if word == b"HSET" and _MARKER in command[1]:
            self._marker = command
        elif word in (b"LPUSH", b"RPUSH"):
            for payload in command[2:]:
                tag = _TAG.search(payload)
                if tag is None:
                    continue
                task_id, attempt, queue = tag[1].decode(), int(tag[2]), command[1].decode()
                # A worker that gives a message back says so in it.
                if b'"redelivered": true' in payload:
                    yield Push(task_id, attempt, queue, is_restored=True)
                else:
                    marker, self._marker = self._marker, []
                    workflow_id = marker[1].rpartition(b":")[2].decode() if marker else ""
                    yield Push(task_id, attempt, queue, False, workflow_id, int(marker[2]) if marker else -1)

    def _files(self) -> list[tuple[int, Path]]:
        return sorted((int(path.name.split(".")[-3]), path) for path in self._directory.glob("*.incr.aof"))


# Commands stand there as clients send them: ``*2``, then ``$length`` and the argument, for each; a line with # is a comment.


def _end_of_command(buffer: bytes, at: int) -> int | None:
    """Return where the command that begins ``at`` ends, None if it is not complete."""
    end = buffer.find(b"\n", at)
    if end < 0:
        return None
    if buffer[at : at + 1] != b"*":
        return end + 1
    count, at = int(buffer[at + 1 : end]), end + 1
    for _ in range(count):
        end = buffer.find(b"\n", at)
        if end < 0:
            return None
        at = end + 1 + int(buffer[at + 1 : end]) + 2
    return at if at <= len(buffer) else None


def _arguments(buffer: bytes, at: int) -> list[bytes]:
    """Return the command that begins ``at`` and is complete; nothing for a comment."""
    end = buffer.find(b"\n", at)
    arguments: list[bytes] = []
    if buffer[at : at + 1] != b"*":
        return arguments
    count, at = int(buffer[at + 1 : end]), end + 1
    for _ in range(count):
        end = buffer.find(b"\n", at)
        length = int(buffer[at + 1 : end])
        arguments.append(buffer[end + 1 : end + 1 + length])
        at = end + 1 + length + 2
    return arguments
