"""How things look in a terminal: tables whose names are never cut, times, bars, and no control characters from outside."""

import pwd
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

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

_NAMED_MAX: Final = 5

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


def number(count: int, word: str) -> str:
    """Return ``1 node`` or ``3,812 nodes``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an aligned table. A column with a state is coloured; nothing is ever cut."""
    cells = [[inline(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(heads), *cells]) for column in range(len(heads))]
    lines = [_line(heads, widths, style=lambda head: click.style(head, bold=True))]
    lines += [_line(row, widths, style=state) for row in cells]
    return "\n".join(lines)


def state(word: str) -> str:
    """Return a state in its colour; any other text as it is. click drops colours if stdout is no terminal."""
    colour = _COLOURS.get(word)
    return click.style(word, fg=colour) if colour else word


def moment(at: float | None) -> str:
    """Return a time of the past in local time, as short as today permits."""
    if at is None:
        return ""
    try:
        then, now = time.localtime(at), time.localtime()
    except (OverflowError, OSError):
        return "the end of time"  # A countdown may be any number.
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


def duration(seconds: float) -> str:
    """Return a span of time in its two largest units."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    return f"{whole} s"


def counts(numbers: Mapping[str, int]) -> str:
    """Return ``succeeded 3, failed 1``, without what there is none of."""
    known = [word for word in _ORDER if numbers.get(word)]
    others = [word for word in numbers if word not in _ORDER and numbers[word]]
    return ", ".join(f"{state(word)} {numbers[word]}" for word in [*known, *others])


def ended(view: "wire.WorkflowView") -> int:
    """Return how many tasks have come to their end."""
    return sum(view.counts.get(word, 0) for word in _ENDED)


def took(view: "wire.WorkflowView") -> str:
    """Return how long a workflow took, or has been running."""
    return duration((view.finished_at or time.time()) - view.created_at)


def summary(view: "wire.WorkflowView") -> str:
    """Return one line that says how a workflow stands."""
    share = 100 * ended(view) // view.tasks if view.tasks else 100
    return f"{view.state} {ended(view)}/{view.tasks} {share}% ({click.unstyle(counts(view.counts))}) {took(view)}"


def fields(pairs: Mapping[str, object]) -> str:
    """Return ``name  value`` lines; empty values are left out."""
    shown = {name: value for name, value in pairs.items() if value not in ("", None)}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items())


def node_rows(nodes: "Iterable[wire.NodeView]") -> str:
    """Return a table of nodes: what is wrong with them stands at the end of the line."""
    rows = [
        (
            node.name,
            node.state,
            node.task or f"({node.kind})",
            node.attempt or "",
            moment(node.finished_at or node.dispatched_at),
            reason(node),
        )
        for node in nodes
    ]
    return table(("NODE", "STATE", "TASK", "ATTEMPT", "AT", "WHY"), rows)


def reason(node: "wire.NodeView") -> str:
    """Return why a node is in its state."""
    late = f"; its task ended as {node.late} later" if node.late else ""
    return f"{_reason(node)}{late}".removeprefix("; ")


def _reason(node: "wire.NodeView") -> str:
    if node.state in ("held", "retrying"):
        return "; ".join(filter(None, [held_by(node), node.error]))
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


def held_by(node: "wire.NodeView") -> str:
    """Return what holds a node, and until when; empty if nothing does."""
    until = f" until {moment(node.held_until)}" if node.held_until else ""
    match node.hold:
        case None:
            return ""
        case "gate":
            return "a gate: waits for `release`"
        case "operator":
            return "held by an operator"
        case "pool":
            return f"waits for a place in pool {node.pool}"
        case "lost":
            return "its task was lost, an operator has to decide"
        case "poll":
            return f"asks again at {moment(node.held_until)}"
        case "retry":
            return f"next attempt at {moment(node.held_until)}"
        case reason:
            return f"held{until}" if reason == "time" else f"held ({reason}){until}"


def entry(done: "wire.JournalView") -> str:
    """Return what somebody changed, as the journal has it."""
    return "; ".join(filter(None, [done.detail, _changed(done) if done.nodes else ""]))


def _changed(done: "wire.JournalView") -> str:
    names = done.nodes[:_NAMED_MAX]
    return f"{number(done.count, 'node')}: {', '.join(names)}{', …' if done.count > len(names) else ''}"


class LiveProgress:
    """A progress bar with counts, rate and time left that follows views; a context manager."""

    def __init__(self, view: "wire.WorkflowView") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[counts]}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(inline(view.name), total=view.tasks, completed=ended(view), rate="", counts="")

    def __enter__(self) -> "LiveProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, view: "wire.WorkflowView") -> None:
        """Move to a view."""
        speed = next((task.speed for task in self._bar.tasks if task.id == self._task), None)
        details: dict[str, Any] = {"rate": f"{speed:.1f}/s" if speed else "", "counts": click.unstyle(counts(view.counts))}
        # Running is what everybody expects; any other state explains why the bar stands still.
        state = "" if view.state == "running" else f" ({view.state})"
        self._bar.update(self._task, completed=ended(view), description=f"{inline(view.name)}{state}", **details)


def _line(cells: Sequence[str], widths: Sequence[int], *, style: Any) -> str:
    # Styled after padding: escape sequences have no width.
    padded = [style(cell) + " " * (width - len(cell)) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def user(number: int | None) -> str:
    """Show a user by name, if the number has one on this machine."""
    if number is None:
        return ""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"
