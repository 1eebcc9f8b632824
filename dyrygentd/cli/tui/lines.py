"""How boxes, causes, nodes, entries of the journal and workflows look in one line each, and in a few where they are chosen."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from dyrygentd.cli import render
from dyrygentd.cli.times import localized, moment
from dyrygentd.cli.tui import marks
from dyrygentd.cli.tui.marks import Glyphs
from dyrygentd.cli.tui.outline import Branch

if TYPE_CHECKING:
    from dyrygentd import wire

_BAR: Final = ((110, 20), (70, 14), (54, 10), (0, 6))
_NOTE_FROM: Final = 80
_INDENT_MAX: Final = 10
_NAME_MIN: Final = 16
_HELD: Final = {
    "gate": "a gate waits for release",
    "operator": "held by an operator",
    "lost": "its task was lost",
    "pool": "waits for its pool",
    "time": "waits for its time",
    "poll": "asks again later",
    "retry": "waits for its next attempt",
    "child": "its workflow is not done",
}


@dataclass(frozen=True, slots=True)
class BranchLine:
    """A box: marks, name, bar, how much of it is done, and on a wide terminal what is to be known of it."""

    branch: Branch

    @property
    def key(self) -> str:
        """Its path."""
        return self.branch.path

    def draw(self, width: int, glyphs: Glyphs) -> Text:
        """Draw it; what gives way is the name."""
        branch = self.branch
        room = next(bar for least, bar in _BAR if width >= least)
        is_one = branch.is_node and not branch.child
        done = _state_of(branch) if is_one else f"{marks.good(branch.shown_states):,}/{branch.inner_tasks or branch.nodes:,}"
        noted = (width - 50) // 2 if width >= _NOTE_FROM else 0
        indent = "  " * branch.depth if branch.depth * 2 <= _INDENT_MAX else " " * _INDENT_MAX
        sign = glyphs.leaf if is_one else glyphs.opened if branch.is_open else glyphs.closed
        named = width - 4 - len(indent) - len(sign) - 1 - 1 - room - 1 - max(11, len(done)) - (noted + 2 if noted else 0)
        text = signs(branch)
        text.append(f" {indent}{sign} ")
        text.append(glyphs.fitted(glyphs.plain(branch.title), max(4, named)))
        text.append(" ")
        drawn = marks.bar(branch.shown_states, 1 if is_one else room, glyphs)
        text.append_text(drawn)
        text.append(" " * (room - drawn.cell_len + 1))
        text.append(done.rjust(11), style="" if is_one else "bold")
        if noted:
            style = "red" if branch.failed else "yellow" if branch.held else "dim"
            text.append(f"  {glyphs.fitted(glyphs.plain(_note(branch)), noted)}", style=style)
        return text


def signs(branch: Branch) -> Text:
    """Return three columns that say what is in a box: a failure, something that waits for a person, something that runs."""
    text = Text()
    text.append("F" if branch.states.get("failed") or branch.inner.get("failed") else " ", style=marks.BAD)
    held = branch.states.get("held")
    text.append("H" if branch.waits_for_person else "h" if held else " ", style=marks.PERSONS if held else "")
    text.append("R" if marks.in_flight(branch.shown_states) else " ", style=marks.RUNS)
    return text


def details_of(branch: Branch, glyphs: Glyphs, width: int) -> list[Text]:
    """Return three lines about a box: its counts, its first failure, and what waits in it for longest, or is held."""
    name = glyphs.plain(branch.title)
    first = Text.assemble((glyphs.fitted(name, min(cell_len(name), width // 2)), "bold"), "  ")
    lines = [first.append_text(marks.counts(branch.shown_states, width - first.cell_len, glyphs))]
    if branch.child:
        lines.append(Text(f"done by workflow {branch.child}  (Enter opens it)"))
    if branch.failed:
        who = "" if branch.is_node else f"first failure '{glyphs.plain(branch.failed)}': "
        lines.append(Text(f"{who}{glyphs.plain(branch.error or 'failed')}", style="red"))
    if branch.held:
        lines.append(Text(glyphs.plain(_hold(branch)), style="yellow"))
    if branch.longest and branch.longest_since:
        age = render.duration(max(0.0, time.time() - branch.longest_since))
        who = "" if branch.is_node else f": '{glyphs.plain(branch.longest)}'"
        share = f", {100 * branch.share:.0f} % of the work that is left" if branch.share else ""
        lines.append(Text(f"longest in flight for {age}{who}{share}"))
    if branch.task:
        lines.append(Text(f"task {glyphs.plain(branch.task)}", style=marks.DIM))
    return lines[:3]


@dataclass(frozen=True, slots=True)
class CauseLine:
    """Failures of one cause."""

    cause: "wire.CauseView"

    @property
    def key(self) -> str:
        """The id of the cause."""
        return self.cause.id

    def draw(self, width: int, glyphs: Glyphs) -> Text:
        """Draw number, count and text."""
        text = Text(f" {self.cause.number:>2} ", style=marks.BOLD)
        text.append(f"{self.cause.count:>5,}x ", style=marks.BAD)
        text.append(glyphs.fitted(glyphs.plain(self.cause.example or self.cause.cause), max(1, width - text.cell_len)))
        return text

    def details(self, glyphs: Glyphs) -> list[Text]:
        """Return its text whole, and whom it hit."""
        cause = self.cause
        more = f" and {cause.count - len(cause.nodes):,} more" if cause.count > len(cause.nodes) else ""
        return [
            Text(f"cause {cause.number}: {glyphs.plain(cause.example or cause.cause)}", style="red"),
            Text(f"{render.number(cause.count, 'node')}: {glyphs.plain(', '.join(cause.nodes))}{more}"),
        ]


@dataclass(frozen=True, slots=True)
class NodeLine:
    """A node that is in flight, or waits."""

    node: "wire.NodeView"

    @property
    def key(self) -> str:
        """Its name."""
        return self.node.name

    def draw(self, width: int, glyphs: Glyphs) -> Text:
        """Draw state, age and name."""
        node = self.node
        since = node.dispatched_at if node.state in ("dispatched", "dispatching") else None
        age = render.duration(max(0.0, time.time() - since)) if since else _HELD_SHORT.get(node.hold or "", node.state)
        text = Text.assemble(" ", marks.letter(node.state, glyphs), f" {age:>10} ")
        attempt = f" (attempt {node.attempt})" if node.attempt > 1 else ""
        text.append(glyphs.fitted(f"{glyphs.plain(node.name)}{attempt}", max(1, width - text.cell_len)))
        return text

    def details(self, glyphs: Glyphs) -> list[Text]:
        """Return where it is, and what it is."""
        node = self.node
        lines = [Text(f"'{glyphs.plain(node.name)}': {glyphs.plain(localized(render.reason(node)) or node.state)}")]
        return [*lines, Text(f"task {glyphs.plain(node.task or node.kind)}", style=marks.DIM)]


_HELD_SHORT: Final = {
    "gate": "gate",
    "operator": "held",
    "lost": "lost",
    "pool": "pool",
    "retry": "next try",
    "child": "workflow",
}


@dataclass(frozen=True, slots=True)
class EntryLine:
    """Something that somebody did."""

    number: int
    entry: "wire.JournalView"

    @property
    def key(self) -> str:
        """Its place, from the oldest."""
        return str(self.number)

    def draw(self, width: int, glyphs: Glyphs) -> Text:
        """Draw when, who and what."""
        # The whole of who it was stands below, where it is chosen.
        who = glyphs.plain(self.entry.by.partition(" (")[0])
        text = Text.assemble((f" {moment(self.entry.at, with_zone=False)} ", marks.DIM), f"{who} ")
        text.append(glyphs.begun(glyphs.plain(_told(self.entry)), max(1, width - text.cell_len)))
        return text

    def details(self, glyphs: Glyphs) -> list[Text]:
        """Return all of it."""
        why = f"why: {glyphs.plain(self.entry.why)}" if self.entry.why else "no reason was given"
        what = f"{self.entry.by}: {self.entry.verb} {render.entry(self.entry)}".rstrip()
        return [Text(f"{moment(self.entry.at)}  {glyphs.plain(what)}"), Text(why)]


@dataclass(frozen=True, slots=True)
class WorkflowLine:
    """A workflow to choose."""

    view: "wire.WorkflowView"

    @property
    def key(self) -> str:
        """Its id."""
        return self.view.id

    def draw(self, width: int, glyphs: Glyphs) -> Text:
        """Draw state, bar, progress, name and what is to be noted."""
        view = self.view
        bar = marks.bar(view.counts, 10, glyphs)
        text = Text(f" {view.state:<9} ")
        text.append_text(bar)
        text.append(" " * (11 - bar.cell_len))
        text.append(f"{render.progress(view):>15} ", style=marks.BOLD)
        bad = [f"{view.counts[word]:,} {word}" for word in ("failed", "blocked", "cancelled") if view.counts.get(word)]
        note = ", ".join([*render.waits(view.waits_for_person), *render.loops(view), *bad])
        noted = min(cell_len(note), max(0, width - text.cell_len - _NAME_MIN - 2))
        text.append(glyphs.fitted(glyphs.plain(view.name), max(4, width - text.cell_len - noted - 2)))
        text.append(f"  {glyphs.fitted(note, noted)}", style="yellow")
        return text


def _state_of(branch: Branch) -> str:
    return next(iter(branch.states), "")


def _note(branch: Branch) -> str:
    failed, parts = branch.states.get("failed", 0), []
    if failed:
        parts.append(branch.error if branch.is_node else f"{failed:,} failed: {branch.error or branch.failed}")
    if branch.held:
        parts.append(_hold(branch))
    if branch.longest_since:
        parts.append(f"longest {render.duration(max(0.0, time.time() - branch.longest_since))}")
    if branch.share:
        parts.append(f"{100 * branch.share:.0f} % of what is left")
    return "; ".join(parts)


def _hold(branch: Branch) -> str:
    count = branch.states.get("held", 0)
    until = f" until {moment(branch.held_until)}" if branch.held_until else ""
    who = "" if branch.is_node else f"'{branch.held}': "
    return f"{f'{count:,} held; ' if count > 1 else ''}{who}{_HELD.get(branch.hold, branch.hold)}{until}"


def _told(entry: "wire.JournalView") -> str:
    words = (entry.verb, render.entry(entry), f"({entry.why})" if entry.why else "")
    return " ".join(word for word in words if word)
