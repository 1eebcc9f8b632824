"""Longer texts to read: what an explanation says, a cause, a node, and which keys there are."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from dyrygentd.cli import render
from dyrygentd.cli.explain import with_steps
from dyrygentd.cli.times import localized, moment
from dyrygentd.cli.tui import marks
from dyrygentd.cli.tui.marks import Glyphs

if TYPE_CHECKING:
    from dyrygentd import wire

KEYS: Final[Sequence[tuple[str, str]]] = (
    ("Up Down", "choose (also PgUp, PgDn, j, k)"),
    ("Enter", "open or close a box, or a node's workflow; read a node or cause"),
    ("u", "up: to the workflow whose node this one does"),
    ("Right", "open a box"),
    ("Left", "close it, or go to the box around it"),
    ("Tab", "to causes, what is in flight, journal, and back"),
    ("n N", "next, last: what failed or waits for a person"),
    ("/", "boxes with this in a name; Enter finds nodes, Esc ends"),
    ("f F", "boxes with a node in this state: failed, held, ..."),
    ("e", "explain what is chosen, and what can be done"),
    ("r", "retry a node, a cause, a box, or at the top all failures"),
    ("s", "skip it: go on as if it had succeeded"),
    ("g", "release the gate, or let go what is held"),
    ("p", "pause the workflow, or resume it"),
    ("c", "cancel the workflow"),
    ("q", "leave; the workflow goes on"),
)
_LEGEND: Final = "Before a name: in it something F failed, H waits for a person,\nh waits for a pool or a time, R is in flight."


def help_text(glyphs: Glyphs) -> Text:
    """Return which keys there are, and what the letters mean."""
    text = Text()
    for key, means in KEYS:
        text.append(f"{key:<8}", style="bold")
        text.append(f" {means}\n")
    text.append("\nEach of r, s, g, p and c asks first, and says what it means and for how many.\n\n")
    for number, state in enumerate(marks.STATES):
        text.append_text(marks.letter(state, glyphs))
        text.append(f" {state:<12}" + ("\n" if number % 4 == 3 else " "))
    return text.append(f"\n\n{_LEGEND}")


def explained(found: "wire.Explanation", glyphs: Glyphs) -> Text:
    """Return an explanation with the commands it leads to, as `dyrygentctl explain` prints it."""
    document = with_steps(found)
    text = Text()
    text.append(f"{glyphs.plain(localized(found.verdict))}\n", style="bold")
    _add_steps(text, document["next_steps"], glyphs, indent="")
    for standing, shown in zip(found.standings, document.get("standings", []), strict=True):
        text.append(f"\n{render.number(standing.count, 'node')}: {glyphs.plain(localized(standing.text))}\n", style="bold")
        if standing.count > 1:
            text.append(f"  {glyphs.plain(', '.join(standing.examples))}\n")
        _add_steps(text, shown["next_steps"], glyphs, indent="  ")
    for problem in found.problems:
        text.append(f"\nproblem: {glyphs.plain(localized(problem))}\n", style="red")
    return text


def node_text(node: "wire.NodeView", glyphs: Glyphs) -> Text:
    """Return what is known of a node."""
    facts: dict[str, Any] = {
        "state": node.state,
        "task": node.task or f"({node.kind})",
        "workflow": "" if node.child is None else f"{node.child.id} {node.child.state}, {render.progress(node.child)}",
        "attempt": node.attempt or "",
        "task id": node.task_id,
        "arguments": node.arguments,
        "payload": "" if node.payload is None else json.dumps(node.payload, ensure_ascii=False),
        "section": node.section,
        "pool": node.pool,
        "held": localized(render.held_by(node)),
        "dispatched": moment(node.dispatched_at),
        "reported": node.reported,
        "finished": moment(node.finished_at),
        "blocked by": node.blocked_by,
        "cause": node.cause,
        "error": node.error,
    }
    text = Text()
    for name, fact in facts.items():
        if fact not in ("", None):
            text.append(f"{name:<11}", style="dim")
            text.append(f" {glyphs.plain(fact)}\n", style="red" if name == "error" else "")
    return text


def cause_text(cause: "wire.CauseView", workflow_id: str, glyphs: Glyphs) -> Text:
    """Return a cause whole, with its nodes and what can be done about it."""
    text = Text(f"{glyphs.plain(cause.example or cause.cause)}\n", style="red")
    text.append(f"\ncause  {glyphs.plain(cause.cause)}\n")
    more = f" and {cause.count - len(cause.nodes):,} more" if cause.count > len(cause.nodes) else ""
    text.append(f"nodes  {glyphs.plain(', '.join(cause.nodes))}{more}\n\n")
    steps = [render.command(verb, workflow_id, flags=["--cause", cause.id]) for verb in ("retry", "skip")]
    _add_steps(text, steps, glyphs, indent="")
    return text


def _add_steps(text: Text, steps: Sequence[str], glyphs: Glyphs, *, indent: str) -> None:
    for number, step in enumerate(steps):
        text.append(f"{indent}{'  or' if number else 'next'}: {glyphs.plain(step)}\n", style="bright_blue")
