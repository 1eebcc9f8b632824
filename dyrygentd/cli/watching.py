"""What is shown while a workflow is followed: on a terminal a few lines that stay, in a log a line now and then.

*On a terminal* each kind of thing has a line of its own, so that on 80 columns as on 200 the bar, the number and the time left
are whole: a long name is shortened, and of the counts those that say least are left out. Times count from the start of the
workflow, not from when somebody began to look. The time left is the daemon's estimate; an older one has none, and then it is that
of the last half minute's rate.

*In a log* there is a line when something has changed that matters, and otherwise one in ten seconds.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from dyrygentd.cli import render
from dyrygentd.cli.session import say
from dyrygentd.cli.time_left import TimeLeft
from dyrygentd.cli.times import localized, moment

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from dyrygentd import wire
    from dyrygentd.client.sync import Handle

_RATE_OVER_S: Final = 30.0
_MOMENTS_MAX: Final = 300
_LINE_EVERY_S: Final = 10.0
_FAILURES_TOLD_MAX: Final = 10
_FAILURES_PAGE: Final = 100
_NAME_MIN: Final = 12
_BAR_MAX: Final = 60
_COMMAND: Final = ": dyrygentctl"
#: What says most first: it is there on the narrowest terminal.
_COUNTS: Final = (
    "failed",
    "blocked",
    "cancelled",
    "succeeded",
    "dispatched",
    "held",
    "retrying",
    "skipped",
    "ready",
    "waiting",
    "dispatching",
)


class Speed:
    """How fast a workflow goes on, of late."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, int]] = deque(maxlen=_MOMENTS_MAX)

    def note(self, view: "wire.WorkflowView", now: float) -> None:
        """Take note of how far it is."""
        done = render.ended(view)
        if not self._moments or now > self._moments[-1][0]:
            self._moments.append((now, done))
        while self._moments[0][0] < now - _RATE_OVER_S and len(self._moments) > 2:
            self._moments.popleft()

    def rate(self, view: "wire.WorkflowView", now: float) -> float:
        """Return how many tasks end in a second: of late if that is known, else since the start; 0 if nobody can tell."""
        if len(self._moments) > 1:
            (begun, before), (_, done) = self._moments[0], self._moments[-1]
            if now - begun >= 1.0:
                return max(0, done - before) / (now - begun)
        elapsed_s = now - started_at(view)
        return render.ended(view) / elapsed_s if elapsed_s > 0 else 0.0

    def left_s(self, view: "wire.WorkflowView", now: float) -> float | None:
        """Return how long the rest takes at this speed; None if it stands still."""
        rate = self.rate(view, now)
        if not rate or view.state != "running" or view.waits_for_person:
            return None
        return (view.tasks - render.ended(view) - view.counts.get("blocked", 0)) / rate


def started_at(view: "wire.WorkflowView") -> float:
    """Return when a workflow began, or will."""
    return max(view.created_at, view.start_at or 0.0)


def headline(view: "wire.WorkflowView", speed: Speed, *, now: float, width: int, left: TimeLeft | None = None) -> str:
    """Return name, state and times in one line that fits; what gives way is the name."""
    rate = speed.rate(view, now)
    elapsed_s = (view.finished_at or now) - started_at(view)
    stands = "starts in" if elapsed_s < 0 else "for" if view.state != "running" else "running for"
    parts = [f"{stands} {render.duration(abs(elapsed_s))}"]
    if words := _left(view, speed, now, left):
        parts.append(f"about {words} left")
    if view.state == "running" and rate:
        parts.append(f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s")
    # Running is what everybody expects; any other state explains why the bar stands still.
    name, state = render.inline(view.name), "" if view.state == "running" else f" ({view.state})"
    while len(parts) > 1 and len(", ".join(parts)) + len(state) + _NAME_MIN + 2 > width:
        parts.pop()
    rest = f"{state}  {', '.join(parts)}"
    return shortened(name, max(1, width - len(rest))) + rest


def _left(view: "wire.WorkflowView", speed: Speed, now: float, left: TimeLeft | None) -> str:
    if left is not None and left.estimate is not None:
        return "" if view.is_finished else left.words()
    left_s = speed.left_s(view, now)
    return "" if left_s is None else render.duration(left_s)


def counts_line(counts: Mapping[str, int], *, width: int) -> str:
    """Return the counts that fit, those first that say most, in whole words."""
    parts = [f"{word} {counts[word]:,}" for word in _COUNTS if counts.get(word)]
    shown = ""
    for number, part in enumerate(parts):
        longer = f"{shown}, {part}" if shown else part
        if len(longer) + (3 if number < len(parts) - 1 else 0) > width and shown:
            return f"{shown}, …"
        shown = longer
    return shown


def shortened(text: str, width: int) -> str:
    """Return a text with its middle left out if it is too long: beginnings of names are alike."""
    if len(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{text[: width - 1 - half]}…{text[len(text) - half :]}" if width > 1 else "…"


def troubles(view: "wire.WorkflowView") -> list[str]:
    """Return why it may stand still: what is broken, what keeps failing, and what waits for a person."""
    found = [f"problem: {localized(render.inline(problem))}" for problem in view.problems]
    waits = render.waits(view.waits_for_person)
    if view.state == "paused":
        waits.insert(0, "paused")
    waits = [*render.loops(view), *waits]
    if waits and not view.is_finished:
        found.append(f"{', '.join(waits)}{_COMMAND} explain {render.shell(view.id)}")
    return found


class LiveProgress:
    """A few lines that follow views; a context manager."""

    def __init__(self, view: "wire.WorkflowView", left: TimeLeft | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._view, self._speed, self._left = view, Speed(), left
        self._speed.note(view, time.time())
        self.console = Console(stderr=True, highlight=False)
        self._live = Live(self, console=self.console, refresh_per_second=4)

    def __enter__(self) -> "LiveProgress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, view: "wire.WorkflowView") -> None:
        """Move to a view."""
        if self._left is not None and not view.is_finished:
            self._left.look()
        self._view = view
        self._speed.note(view, time.time())

    def say(self, words: str) -> None:
        """Write a line above, which stays."""
        self.console.print(words, markup=False, soft_wrap=True)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        """Draw it as it is now: times go on between two views."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        view, now, width = self._view, time.time(), options.max_width
        yield Text(headline(view, self._speed, now=now, width=width, left=self._left), no_wrap=True, overflow="crop")
        # What has failed is counted below, and not as done.
        done, tasks = render.succeeded(view), view.tasks
        number = f"{done:,}/{tasks:,}  {100 * done // tasks if tasks else 100} %"
        line = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=tasks or 1, completed=done if tasks else 1, width=max(4, min(_BAR_MAX, width - len(number) - 2)))
        line.add_row(bar, Text(number, no_wrap=True))
        yield line
        yield Text(counts_line(view.counts, width=width), no_wrap=True, overflow="crop")
        if self._left is not None and self._left.estimate is not None and not view.is_finished:
            yield Text(render.inline(self._left.estimate.words), style="dim", overflow="fold")
        for words in troubles(view):
            # A command is for pasting, so it is not broken in two.
            shown = words if len(words) <= width else words.replace(_COMMAND, f"\n  {_COMMAND.lstrip(': ')}")
            yield Text(shown, style="yellow", overflow="fold")


class Lines:
    """A line in a log whenever it is worth one."""

    def __init__(self) -> None:
        self._told: tuple[Any, ...] = ()
        self._told_at = float("-inf")
        self._troubles: list[str] = []

    def show(self, view: "wire.WorkflowView") -> None:
        """Write a line if something that matters has changed, or if the last one is old."""
        now = time.monotonic()
        has_failures = view.counts.get("failed", 0) > 0, view.keeps_failing > 0
        matters = (view.state, has_failures, bool(view.waits_for_person), bool(view.problems))
        if matters != self._told or view.is_finished or now - self._told_at >= _LINE_EVERY_S:
            self._told, self._told_at = matters, now
            say(f"{moment(view.finished_at or time.time())} {render.summary(view)}")
        found = troubles(view)
        for words in found:
            if words not in self._troubles:
                say(words)
        self._troubles = found


class Failures:
    """Tells failures as they happen, the first few of them with their reasons.

    Attributes:
        told: Names of the nodes that were told.
    """

    def __init__(self, handle: "Handle", view: "wire.WorkflowView") -> None:
        self._handle = handle
        self._count = view.counts.get("failed", 0)
        # What has failed before is not news; the end tells it.
        self._before = {node.name for node in self._failed()} if self._count and not view.is_finished else set[str]()
        self.told = set[str]()
        self._left = _FAILURES_TOLD_MAX

    def new(self, view: "wire.WorkflowView") -> list[str]:
        """Return what is to be told of failures since the last look."""
        count, self._count = self._count, view.counts.get("failed", 0)
        if self._count <= count or self._left <= 0:
            return []
        lines = []
        for node in self._failed():
            if node.name in self.told or node.name in self._before or self._left <= 0:
                continue
            self.told.add(node.name)
            self._left -= 1
            lines.append(f"'{render.inline(node.name)}' failed: {render.inline(node.error or '')}")
        if self._left <= 0:
            lines.append(f"further failures are only counted: {render.shell('dyrygentctl', 'show', view.id, '--causes')}")
        return lines

    def _failed(self) -> "list[wire.NodeView]":
        return list(islice(self._handle.nodes(states=["failed"], page=_FAILURES_PAGE), _FAILURES_PAGE))
