"""How things look in a terminal: tables whose names are never cut, times, bars, and no control characters from outside."""

import os
import pwd
import shlex
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from dyrygentd.cli.times import head, in_column, moment
from dyrygentd.core.words import counted, span

if TYPE_CHECKING:
    from dyrygentd import wire

_COLOURS: Final = {
    "succeeded": "green",
    "failed": "red",
    "blocked": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "dispatched": "cyan",
    "dispatching": "cyan",
    "held": "yellow",
    "retrying": "yellow",
    "paused": "yellow",
    "scheduled": "yellow",
}
_ORDER: Final = (
    "succeeded",
    "skipped",
    "dispatched",
    "dispatching",
    "retrying",
    "ready",
    "held",
    "waiting",
    "failed",
    "cancelled",
    "blocked",
)
"""Order in which counts are shown: what is behind, what is under way, what is ahead, what went wrong."""

number: Final = counted

_NAMED_MAX: Final = 5
_ALIGNED_MAX: Final = 60
_TASK_MIN: Final = 16

_WAITS: Final = {"lost": "{count} lost", "gate": "{count} gate{wait} for release", "operator": "{count} held"}

_DONE_MIN: Final = 3
"""Ends from which on a guess is made of how long the rest takes."""

_GOOD: Final = ("succeeded", "skipped")
"""What dependents go on after."""

_ENDED: Final = ("succeeded", "skipped", "failed", "cancelled")
"""What has come to its end. Blocked is not among them: such a node never ran."""


def visible(text: object) -> str:
    """Return a text without control characters: names and errors come from outside and must not steer a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else f"\\x{ord(character):02x}" for character in str(text)
    )


def inline(text: object) -> str:
    """Return a text as `visible` does, in one line."""
    return visible(text).replace("\n", " ")


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text of one line takes: two for what is as wide as Chinese or an emoji."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def padded(text: str, width: int) -> str:
    """Return a text with blanks behind it, up to a width."""
    return text + " " * (width - width_of(text))


def within(text: str, width: int) -> str:
    """Return a text with its middle left out, and a mark there, if it is wider than that: beginnings of names are alike."""
    if width_of(text) <= width:
        return text
    first, last = (width - 1) // 2, width - 1 - (width - 1) // 2
    head, tail = text[:first], text[len(text) - last :]
    while head and width_of(head) > first:
        head = head[:-1]
    while tail and width_of(tail) > last:
        tail = tail[1:]
    return f"{head}…{tail}"


def shell(*words: str) -> str:
    """Return a command that can be pasted into bash or zsh, whatever the names in it are."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # Backslashes first; what cannot be printed is written as its bytes, which no terminal obeys.
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    shown = "".join(
        character if character.isprintable() else "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogatepass"))
        for character in escaped
    )
    return f"$'{shown}'"


def command(verb: str, workflow_id: str, nodes: Sequence[str] = (), *, flags: Sequence[str] = ()) -> str:
    """Return the command that carries out a verb, ready to be pasted."""
    first = ["--from"] if verb == "rerun" else ["--"] if any(node.startswith("-") for node in nodes) else []
    return shell("dyrygentctl", verb, workflow_id, *flags, *first, *nodes)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an aligned table. A column with a state is coloured; nothing is ever cut.

    One name of 200 characters would push what follows it out of sight in every row. So what is longer than `_ALIGNED_MAX` is
    whole, and its own row alone is out of line. kubectl, docker and systemctl write columns into pipes, too.
    """
    cells = [[inline(cell) for cell in row] for row in rows]
    widths = [
        max(width for line in [list(heads), *cells] if (width := width_of(line[column])) <= _ALIGNED_MAX)
        for column in range(len(heads))
    ]
    lines = [_line(heads, widths, style=lambda head: click.style(head, bold=True))]
    lines += [_line(row, widths, style=state) for row in cells]
    return "\n".join(lines)


def screen() -> "os.terminal_size | None":
    """Return columns and lines of the terminal that stdout is; None if it is none."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size()


def state(word: str) -> str:
    """Return a state in its colour; any other text as it is. click drops colours if stdout is no terminal."""
    colour = colour_of(word)
    return click.style(word, fg=colour) if colour else word


def colour_of(word: str) -> str | None:
    """Return the colour of a state."""
    return _COLOURS.get(word)


def duration(seconds: float) -> str:
    """Return a span of time in its two largest units."""
    return span(seconds, is_fine=True)


def short_span(seconds: float) -> str:
    """Return a span of time that may be less than a second."""
    return duration(seconds) if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def counts(numbers: Mapping[str, int]) -> str:
    """Return ``succeeded 3, failed 1``, without what there is none of."""
    known = [word for word in _ORDER if numbers.get(word)]
    others = [word for word in numbers if word not in _ORDER and numbers[word]]
    return ", ".join(f"{state(word)} {numbers[word]:,}" for word in [*known, *others])


def ended(view: "wire.WorkflowView") -> int:
    """Return how many tasks have come to their end."""
    return sum(view.counts.get(word, 0) for word in _ENDED)


def succeeded(view: "wire.WorkflowView | wire.ChildView | wire.BelowView") -> int:
    """Return how many tasks have done what was asked of them, or are not needed any more."""
    return sum(view.counts.get(word, 0) for word in _GOOD)


def child(view: "wire.ChildView", *, with_id: bool = True) -> str:
    """Return how the workflow is that is the work of a node: ``3f2a… running, 3,812/10,000``."""
    first = f"{view.id} " if with_id else ""
    error = f": {inline(view.error)}" if view.error and view.state == "failed" else ""
    return f"{first}{view.state}, {progress(view)}{error}"


def progress(view: "wire.WorkflowView | wire.ChildView | wire.BelowView") -> str:
    """Return how many tasks have done what was asked of them, and of how many: ``6,516/10,000``."""
    return f"{succeeded(view):,}/{view.tasks:,}"


def note(view: "wire.WorkflowView") -> str:
    """Return what is to be known of a workflow at a glance: what went wrong, what waits for a person, how long it may take."""
    bad = [f"{view.counts[word]:,} {word}" for word in ("failed", "cancelled", "blocked") if view.counts.get(word)]
    left = left_s(view)
    return ", ".join(
        [*bad, *loops(view), *waits(view.waits_for_person), *([] if left is None else [f"about {duration(left)} left"])]
    )


def waits(for_person: Mapping[str, int]) -> list[str]:
    """Return what waits for a person, in words: ``1 gate waits``, ``2 lost``."""
    return [
        _WAITS[word].format(count=f"{count:,}", wait=" waits" if count == 1 else "s wait") for word, count in for_person.items()
    ]


def loops(view: "wire.WorkflowView") -> list[str]:
    """Return what fails again and again, in words: ``2 keep failing``; nothing if nothing does."""
    count = view.keeps_failing
    return [f"{count:,} {'keeps' if count == 1 else 'keep'} failing"] if count else []


def left_s(view: "wire.WorkflowView", *, now: float | None = None) -> float | None:
    """Return for how many seconds a workflow may still run, if it goes on as it has; None if nobody can tell."""
    now, done = time.time() if now is None else now, ended(view)
    elapsed_s = now - max(view.created_at, view.start_at or 0.0)
    if view.state != "running" or view.waits_for_person or done < _DONE_MIN or elapsed_s <= 0:
        return None
    return elapsed_s / done * max(0, view.tasks - done - view.counts.get("blocked", 0))


def took(view: "wire.WorkflowView") -> str:
    """Return how long a workflow took, or has been running."""
    return duration((view.finished_at or time.time()) - view.created_at)


def summary(view: "wire.WorkflowView") -> str:
    """Return one line that says how a workflow stands."""
    share = 100 * succeeded(view) // view.tasks if view.tasks else 100
    return f"{view.state} {progress(view)} {share}% ({click.unstyle(counts(view.counts))}) {took(view)}"


def fields(pairs: Mapping[str, object]) -> str:
    """Return ``name  value`` lines; empty values are left out."""
    shown = {name: value for name, value in pairs.items() if value not in ("", None)}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items())


def node_rows(nodes: "Iterable[wire.NodeView]") -> str:
    """Return a table of nodes: what is wrong with them stands at the end of the line. On a terminal a task gives way to it."""
    rows = [
        (
            node.name,
            node.state,
            node.task or f"({node.kind})",
            node.attempt or "",
            in_column(node.finished_at or node.dispatched_at),
            _node_took(node),
            reason(node),
        )
        for node in nodes
    ]
    heads = ("NODE", "STATE", "TASK", "ATTEMPT", head("AT"), "TOOK", "WHY")
    return table(heads, _narrowed(heads, rows, heads.index("TASK")))


def _narrowed(heads: Sequence[str], rows: Sequence[Sequence[object]], at: int) -> Sequence[Sequence[object]]:
    """Return rows that fit a terminal, if they do with less of one column, which says by its ``…`` that there is more."""
    on = screen()
    if on is None or not rows:
        return rows
    widths = [max(width_of(inline(line[column])) for line in [heads, *rows]) for column in range(len(heads))]
    too_much = sum(widths) + 2 * (len(widths) - 1) - on.columns
    if too_much <= 0:
        return rows
    width = max(_TASK_MIN, widths[at] - too_much)
    return [[*row[:at], within(inline(row[at]), width), *row[at + 1 :]] for row in rows]


def _node_took(node: "wire.NodeView") -> str:
    """Return how long the last attempt of a node took, from when it was sent."""
    if node.child is not None and node.finished_at and not node.dispatched_at:
        return duration(max(0.0, node.finished_at - node.child.created_at))
    if not node.dispatched_at or not node.finished_at:
        return ""
    return duration(max(0.0, node.finished_at - node.dispatched_at))


def reason(node: "wire.NodeView") -> str:
    """Return why a node is in its state."""
    late = f"; its task ended as {node.late} later" if node.late else "; its task may still run" if node.may_run_on else ""
    return f"{_reason(node)}{late}".removeprefix("; ")


def _reason(node: "wire.NodeView") -> str:
    if node.hold == "child" and node.child is not None:
        waits_for = ", ".join(waits(node.child.waits_for_person))
        return f"its workflow {child(node.child)}{f', {waits_for}' if waits_for else ''}"
    if node.state in ("held", "retrying"):
        return "; ".join(filter(None, [held_by(node), since(node), node.error]))
    if node.error:
        return node.error
    if node.blocked_by:
        return f"blocked by {node.blocked_by}"
    if node.state == "dispatching":
        return "waits for the broker"
    if node.state == "dispatched":
        age = duration(max(0.0, time.time() - (node.dispatched_at or 0.0)))
        return f"{node.reported or 'in the broker or at a worker'} for {age}"
    if node.state == "skipped":
        return "not needed" if node.is_unneeded else "by an operator"
    if node.is_on_hold:
        return "an operator holds it"
    return node.reported or ""


def behind(
    what: "wire.Changed | wire.CauseView | wire.NodeView",
) -> str:
    """Say who runs without what is skipped, and what takes the place of its value; empty if nobody does."""
    if not what.dependents:
        return ""
    waits = f"{number(what.dependents, 'node')} {'waits' if what.dependents == 1 else 'wait'} for what is skipped"
    if not what.takers:
        return f"{waits} and {'runs' if what.dependents == 1 else 'run'} without it; none takes its value"
    takers = "it takes" if what.dependents == 1 else f"{what.takers:,} of them take" if what.takers > 1 else "1 of them takes"
    gets = "gets" if what.takers == 1 else "get"
    runs = "runs" if what.dependents == 1 else "run"
    return f"{waits} and {runs} without it: {takers} its value and {gets} null (--value JSON gives another one)"


def since(node: "wire.NodeView") -> str:
    """Return for how long a gate has been waiting, or who holds a node, since when and why; empty if that is not known."""
    if node.gate_since:
        return f"for {duration(max(0.0, time.time() - node.gate_since))}"
    return "" if node.decided is None or node.decided.verb == "pause" else decided(node.decided)


def decided(entry: "wire.JournalView") -> str:
    """Return who did something, when and why: ``by ada at 14:03:21, 2 h ago: why``."""
    ago = duration(max(0.0, time.time() - entry.at))
    return visible(f"by {entry.by} at {moment(entry.at)}, {ago} ago{f': {entry.why}' if entry.why else ''}")


def held_by(node: "wire.NodeView") -> str:
    """Return what holds a node, and until when; empty if nothing does."""
    return held(node.hold, node.held_until, pool=node.pool)


def held(hold: str | None, held_until: float | None, *, pool: str | None = None) -> str:
    """Return in words what holds something, and until when."""
    until = f" until {moment(held_until)}" if held_until else ""
    # A newer daemon may have more words.
    match hold:
        case None:
            return ""
        case "gate":
            return "a gate: waits for `release`"
        case "operator":
            return "held by an operator"
        case "pool":
            return f"waits for a place in {f'pool {pool}' if pool else 'its pool'}"
        case "lost":
            return "its task was lost, an operator has to decide"
        case "poll":
            return f"asks again at {moment(held_until)}"
        case "retry":
            return f"next attempt at {moment(held_until)}"
        case "child":
            return "its workflow is not done"
        case "time":
            return f"held{until}"
        case reason:
            return f"held ({reason}){until}"


def entry(done: "wire.JournalView") -> str:
    """Return what somebody changed, as the journal has it."""
    return "; ".join(filter(None, [done.detail, _changed(done) if done.nodes else ""]))


def _changed(done: "wire.JournalView") -> str:
    # One that was tried again and again is named once, with how often.
    times = Counter(done.nodes)
    names = [f"{name} ({many} times)" if many > 1 else name for name, many in list(times.items())[:_NAMED_MAX]]
    distinct = done.count - len(done.nodes) + len(times)
    return f"{number(distinct, 'node')}: {', '.join(names)}{', …' if distinct > len(names) else ''}"


def _line(cells: Sequence[str], widths: Sequence[int], *, style: Any) -> str:
    # Styled after padding: escape sequences have no width.
    shown = [style(cell) + " " * (width - width_of(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(shown).rstrip()


def user(number: int | None) -> str:
    """Show a user by name, if the number has one on this machine."""
    if number is None:
        return ""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
