"""Very many who follow one folded workflow, in one thread or one process: what is open in browsers and terminals all day."""

import asyncio
import json
import sys
from pathlib import Path

from dyrygentd import wire
from dyrygentd.client.forms import EventReader, fold_events_target

#: Of one line, which holds all of a fold.
_LINE_MAX = 16 * 1024 * 1024


class Followers:
    """Those who follow, and what they have seen together.

    Attributes:
        began: All of them have seen the whole fold.
        events, received_bytes: Of all of them.
        folds: What each of them had at its end.
    """

    def __init__(self, workflow_id: str, path: str = "", *, pages: int, port: int, terminals: int, socket: Path) -> None:
        self.began = asyncio.Event()
        self.events = self.received_bytes = 0
        self.folds: list[wire.FoldView] = []
        self._target = fold_events_target(workflow_id, path)
        self._pages, self._terminals, self._port, self._socket = pages, terminals, port, socket
        self._beginning = pages + terminals

    async def run(self) -> None:
        """Follow to the end of the workflow, so many over TCP and so many over the Unix socket."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._pages):
                tasks.create_task(self._follow(await asyncio.open_connection("127.0.0.1", self._port, limit=_LINE_MAX)))
            for _ in range(self._terminals):
                tasks.create_task(self._follow(await asyncio.open_unix_connection(self._socket, limit=_LINE_MAX)))

    async def _follow(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        lines, writer = streams
        writer.write(f"GET {self._target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        events, fold = EventReader(), None
        async for line in lines:
            self.received_bytes += len(line)
            # What is in between are the head and the lengths of chunks, of which each has one event.
            event = events.feed(line.rstrip()) if line.startswith((b"event: ", b"data: ", b"\n")) else None
            if event is None:
                continue
            if event.kind == "end":
                break
            self.events += 1
            if fold is None:
                self._beginning -= 1
                if not self._beginning:
                    self.began.set()
            fold = event.fold
        writer.close()
        if fold is not None:
            self.folds.append(fold)


async def _main(workflow_id: str, path: str, pages: str, port: str, terminals: str, socket: str) -> None:
    """Follow until the other side closes our input; tell when all are there, and what they were sent afterwards."""
    followers = Followers(workflow_id, path, pages=int(pages), port=int(port), terminals=int(terminals), socket=Path(socket))
    following = asyncio.create_task(followers.run())
    await followers.began.wait()
    events, received_bytes = followers.events, followers.received_bytes
    print(json.dumps({"first_bytes": received_bytes / events}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"events": followers.events - events, "bytes": followers.received_bytes - received_bytes}), flush=True)
    following.cancel()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
