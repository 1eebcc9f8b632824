"""What stands at the top whatever is looked at: name, state, times, counts, and why it may stand still."""

import time
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from rich.text import Text
from textual.app import RenderResult
from textual.widget import Widget

from dyrygentd.cli import render, watching
from dyrygentd.cli.times import localized
from dyrygentd.cli.tui import marks
from dyrygentd.cli.tui.marks import Glyphs
from dyrygentd.core.words import span_range

if TYPE_CHECKING:
    from dyrygentd import wire

_TROUBLES_MAX: Final = 3
_STATES: Final = {"running": "bold blue", "succeeded": "bold green", "failed": "bold red", "paused": "bold yellow"}


class Masthead(Widget):
    """How a workflow stands, in three lines and a few more for what its end depends on and what is wrong."""

    def __init__(self, view: "wire.WorkflowView", glyphs: Glyphs) -> None:
        super().__init__()
        self._glyphs, self._view, self._speed = glyphs, view, watching.Speed()
        self._lost = self._still = self._vantage = ""
        self._estimate: wire.EstimateView | None = None
        self._estimated_at = 0.0
        self._speed.note(view, time.time())

    def show_view(self, view: "wire.WorkflowView", estimate: "wire.EstimateView | None") -> None:
        """Move to a view, with what the daemon estimates of its end; None if that has come or the daemon is older."""
        self._view, self._estimate, self._estimated_at = view, estimate, time.time()
        self._speed.note(view, time.time())
        self.refresh(layout=True)

    def show_lost(self, why: str) -> None:
        """Say that the daemon is away, and why; empty as soon as it is back."""
        self._lost = why
        self.refresh(layout=True)

    def show_vantage(self, words: str) -> None:
        """Say that what is seen is as one that does not lead finds it stored; empty if it is the leader's."""
        if words != self._vantage:
            self._vantage = words
            self.refresh(layout=True)

    def show_standstill(self, why: str) -> None:
        """Say why nothing goes on; empty as soon as it does."""
        if why != self._still:
            self._still = why
            self.refresh(layout=True)

    def go_on(self) -> None:
        """Let times go on."""
        if not self._view.is_finished:
            self.refresh()

    def get_content_height(self, *_: object) -> int:
        """Return how many lines it has now."""
        return 3 + len(self._above(self.size.width)) + len(self._troubles())

    def render(self) -> RenderResult:
        """Draw it."""
        width, view = self.size.width, self._view
        lines = [self._first(width), self._second(width), marks.counts(view.counts, width, self._glyphs)]
        lines += [*self._above(width), *self._troubles()]
        for line in lines:
            line.truncate(width)
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def _first(self, width: int) -> Text:
        view, now = self._view, time.time()
        elapsed_s = (view.finished_at or now) - watching.started_at(view)
        stands = "starts in" if elapsed_s < 0 else "after" if view.is_finished else "for"
        words = [f"{stands} {render.duration(abs(elapsed_s))}"]
        rate, left = self._speed.rate(view, now), self._left(now)
        if view.state == "running":
            words.append(left or "time left unknown")
        if not view.is_finished:
            words.append(f"{marks.in_flight(view.counts):,} in flight")
        if view.state == "running" and rate:
            words.append(f"{rate:,.1f}/s")
        while len(words) > 3 and sum(map(len, words)) + 40 > width:
            words.pop()
        rest = Text.assemble("  ", (view.state, _STATES.get(view.state, "bold")), f" {', '.join(words)}")
        name = self._glyphs.plain(view.name)
        line = Text(self._glyphs.fitted(name, min(len(name) * 2, max(8, width - rest.cell_len))).rstrip(), style="bold")
        line.append_text(Text(" " * max(0, width - line.cell_len - rest.cell_len)))
        line.append_text(rest)
        return line

    def _second(self, width: int) -> Text:
        view = self._view
        done = render.ended(view)
        number = f"  {done:,}/{view.tasks:,} ended  {100 * done // view.tasks if view.tasks else 100} %"
        line = marks.bar(view.counts, max(4, width - len(number)), self._glyphs)
        line.append(number, style="bold")
        return line

    def _left(self, now: float) -> str:
        known = self._estimate
        if known is not None:
            if known.low_s is None or known.high_s is None:
                return ""
            passed_s = now - self._estimated_at
            return f"about {span_range(max(0.0, known.low_s - passed_s), max(0.0, known.high_s - passed_s))} left"
        left_s = self._speed.left_s(self._view, now)
        return "" if left_s is None else f"about {render.duration(left_s)} left"

    def _above(self, width: int) -> list[Text]:
        """Return whose child it is, and who answers, if that is not the leader: on as many lines as it takes."""
        parent = self._view.parent
        of = f"node '{self._glyphs.plain(parent.node)}' of workflow {parent.workflow}  (u goes up)" if parent is not None else ""
        return [*([Text(of, style="dim")] if of else []), *self._vantage_lines(width)]

    def _vantage_lines(self, width: int) -> list[Text]:
        return [Text(part, style="dim") for part in wrap(self._glyphs.plain(self._vantage), max(20, width))]

    def _troubles(self) -> list[Text]:
        view, lines = self._view, []
        if self._lost:
            lines.append(Text(f"reconnecting: {self._glyphs.plain(self._lost)}", style="bold yellow"))
        for problem in view.problems[:_TROUBLES_MAX]:
            lines.append(Text(f"problem: {self._glyphs.plain(localized(problem))}", style="bold red"))
        if self._still and not view.is_finished:
            lines.append(Text(f"nothing goes on: {self._glyphs.plain(self._still)}  (e explains)", style="bold red"))
        # What waits for a person is told below anyway.
        if self._estimate is not None and not view.is_finished and not view.waits_for_person:
            lines.append(Text(self._glyphs.plain(_bound(self._estimate.words)), style="dim"))
        waits = render.waits(view.waits_for_person)
        if view.state == "paused":
            waits.insert(0, "paused (p resumes it)")
        if loops := render.loops(view):
            lines.append(Text(f"{', '.join(loops)}, and tried again  (e explains)", style="bold yellow"))
        if waits and not view.is_finished:
            lines.append(Text(f"waits for a person: {', '.join(waits)}  (n goes there, e explains)", style="bold yellow"))
        return lines[: _TROUBLES_MAX + 2]


def _bound(words: str) -> str:
    """Return what an end depends on, without the range that stands above."""
    return words.partition(" left, ")[2] or words
