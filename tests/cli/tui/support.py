"""A view that fills a screen, without a terminal: keys are pressed, and what stands on the screen is read."""

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from textual.pilot import Pilot

from dyrygentd.cli.tui import marks
from dyrygentd.cli.tui.app import Ended, WatchApp
from dyrygentd.client.sync import Client

_TEXT = re.compile(r'<text[^>]* x="([\d.]+)"[^>]*clip-path="url\(#[\w-]+-line-(\d+)\)"[^>]*>(.*?)</text>')

#: A name that would steer, hide, or be read as markup anywhere.
HOSTILE = "[red]x[/] [@click=app.leave]y[/] \x1b[31m\x1b]0;t\x07 \u202e \u05d0\u05d1 \N{GRINNING FACE} " + "n" * 130


_PATIENCE_S = 20.0


class OnSocket(Protocol):
    """Whatever answers on a socket."""

    @property
    def path(self) -> Path:
        """Where that is."""


class Seen:
    """The screen, and the keyboard."""

    def __init__(self, app: WatchApp, pilot: "Pilot[Ended]") -> None:
        self.app, self.pilot = app, pilot

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, line by line; parts of a line in other colours are a blank apart."""
        found: dict[int, list[tuple[float, str]]] = {}
        for at, line, words in _TEXT.findall(self.app.export_screenshot()):
            found.setdefault(int(line), []).append((float(at), html.unescape(words).replace("\xa0", " ")))
        return [" ".join(words for _, words in sorted(found[line])) for line in sorted(found)]

    @property
    def text(self) -> str:
        """All of it, with one blank where there are many."""
        return re.sub(r"[ ]+", " ", "\n".join(self.lines))

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        await self.pilot.press(*keys)

    async def until(self, words: str | Callable[[], Any]) -> None:
        """Wait until words are on the screen, or until something is the case."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (words in self.text if isinstance(words, str) else words()):
            assert time.monotonic() < deadline, f"{words!r} did not come:\n{self.text}"
            await self.pilot.pause(0.02)

    async def gone(self, words: str) -> None:
        """Wait until words are on the screen no more."""
        await self.until(lambda: words not in self.text)

    async def ended(self) -> Ended:
        """Wait until the program ends; return how."""
        await self.until(lambda: self.app.return_value is not None)
        assert self.app.return_value is not None
        return self.app.return_value


@asynccontextmanager
async def watching(
    daemon: OnSocket, workflow: str | None, *, size: tuple[int, int] = (100, 30), glyphs: marks.Glyphs = marks.UNICODE
) -> AsyncIterator[Seen]:
    """Watch a workflow, or choose one."""
    view = None
    if workflow is not None:
        with Client(daemon.path) as client:
            view = await asyncio.to_thread(client.get, workflow)
    app = WatchApp(str(daemon.path), view, glyphs=glyphs)
    async with app.run_test(size=size, notifications=True) as pilot:
        seen = Seen(app, pilot)
        await seen.until("BOXES" if workflow is not None else "WORKFLOWS")
        yield seen


def watched(
    daemon: OnSocket,
    workflow: str | None,
    scene: Callable[[Seen], Coroutine[Any, Any, None]],
    *,
    size: tuple[int, int] = (100, 30),
    glyphs: marks.Glyphs = marks.UNICODE,
) -> None:
    """Play a scene before the view of a workflow, or before those of which one is chosen, in a loop of its own."""

    async def run() -> None:
        async with watching(daemon, workflow, size=size, glyphs=glyphs) as seen:
            await scene(seen)

    asyncio.run(run())
