"""Letters, colours and bars of states: the same everywhere, told apart without colours and without anything but ASCII."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from dyrygentd.cli import render

#: ``{state: (letter, colours)}``, in the order in which they stand in a bar: what is behind, under way, ahead, what went wrong.
#: Colours are those sixteen that every terminal has, in the terminal's own shades.
STATES: Final[Mapping[str, tuple[str, str]]] = {
    "succeeded": ("S", "black on green"),
    "skipped": ("K", "black on bright_white"),
    "dispatched": ("R", "bright_white on blue"),
    "dispatching": ("R", "bright_white on blue"),
    "retrying": ("T", "black on yellow"),
    "held": ("H", "black on bright_yellow"),
    "ready": ("r", "black on yellow"),
    "waiting": ("w", "bright_black"),
    "cancelled": ("C", "bright_white on bright_black"),
    "blocked": ("B", "black on magenta"),
    "failed": ("F", "bright_white on red"),
}
_UNKNOWN: Final = ("?", "bright_black")
_IN_FLIGHT: Final = ("dispatched", "dispatching")
_GOOD: Final = ("succeeded", "skipped")
#: What only a person can end.
PERSON: Final = ("gate", "operator", "lost")


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Signs beside letters, for terminals that show them and for those that do not."""

    opened: str
    closed: str
    leaf: str
    waiting: str
    cut: str
    is_ascii: bool

    def plain(self, text: object) -> str:
        """Return a text from outside in one line that steers nothing, and that this terminal can show."""
        shown = render.inline(text)
        return shown.encode("ascii", "backslashreplace").decode() if self.is_ascii else shown

    def fitted(self, text: str, width: int) -> str:
        """Return a text of exactly so many columns; its middle gives way, since beginnings of names are alike."""
        taken = cell_len(text)
        if taken <= width:
            return text + " " * (width - taken)
        mark = self.cut if width > len(self.cut) else ""
        first = (width - len(mark) + 1) // 2
        tail = text
        while cell_len(tail) > width - len(mark) - first:
            tail = tail[max(1, (cell_len(tail) - (width - len(mark) - first)) // 2) :]
        return set_cell_size(set_cell_size(text, first) + mark + tail, width)

    def begun(self, text: str, width: int) -> str:
        """Return a text of exactly so many columns; its end gives way, since a sentence says first what it is about."""
        if cell_len(text) <= width or width <= len(self.cut):
            return set_cell_size(text, width)
        return set_cell_size(text, width - len(self.cut)) + self.cut


UNICODE: Final = Glyphs("▾", "▸", "•", "·", "…", is_ascii=False)
ASCII: Final = Glyphs("-", "+", " ", "w", "..", is_ascii=True)


def glyphs_of(environment: Mapping[str, str]) -> Glyphs:
    """Return the signs that the locale of a terminal promises; one that says nothing gets ASCII."""
    named = next((environment[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if environment.get(name)), "")
    return UNICODE if "utf" in named.lower() else ASCII


def here() -> Glyphs:
    """Return the signs for the terminal of this process."""
    return glyphs_of(os.environ)


def in_flight(states: Mapping[str, int]) -> int:
    """Return how many are in the broker or at workers."""
    return sum(states.get(word, 0) for word in _IN_FLIGHT)


def good(states: Mapping[str, int]) -> int:
    """Return how many did what was asked of them."""
    return sum(states.get(word, 0) for word in _GOOD)


def letter(state: str, glyphs: Glyphs = UNICODE) -> Text:
    """Return the letter of a state in its colours."""
    sign, style = STATES.get(state, _UNKNOWN)
    return Text(glyphs.waiting if sign == "w" else sign, style=style)


def bar(states: Mapping[str, int], width: int, glyphs: Glyphs = UNICODE) -> Text:
    """Return how many nodes are in which state as a bar of letters: what there is at all has a place, however little it is."""
    shares = cells(states, width)
    drawn = Text()
    for state, places in shares.items():
        sign, style = STATES.get(state, _UNKNOWN)
        drawn.append((glyphs.waiting if sign == "w" else sign) * places, style=style)
    return drawn


def cells(states: Mapping[str, int], width: int) -> dict[str, int]:
    """Divide the columns of a bar among states, by their shares; if there is room, none that is there gets nothing.

    Of too many for the room those with most to tell stay: what failed, then what is held.
    """
    known = [word for word in STATES if states.get(word)] + [word for word in states if word not in STATES and states[word]]
    total = sum(states[word] for word in known)
    if not total or width < 1:
        return {}
    if len(known) > width:
        urgent = sorted(known, key=lambda word: -_urgency(word))[:width]
        known = [word for word in known if word in urgent]
        total = sum(states[word] for word in known)
    exact = {word: width * states[word] / total for word in known}
    found = {word: max(1, int(exact[word])) for word in known}
    while sum(found.values()) > width:
        found[max((word for word in known if found[word] > 1), key=lambda word: found[word] - exact[word])] -= 1
    rest = width - sum(found.values())
    for word in sorted(known, key=lambda word: found[word] - exact[word])[:rest]:
        found[word] += 1
    return found


def _urgency(word: str) -> int:
    order = ("failed", "held", "blocked", "retrying", "dispatched", "cancelled", "succeeded", "waiting", "ready", "skipped")
    return len(order) - order.index(word) if word in order else 0


def counts(states: Mapping[str, int], width: int, glyphs: Glyphs = UNICODE) -> Text:
    """Return the counts in words with their letters, those first that say most; what has no room is left out, which is said."""
    ordered = sorted((word for word in states if states[word]), key=lambda word: -_urgency(word))
    line = Text()
    for number, word in enumerate(ordered):
        part = Text.assemble(letter(word, glyphs), f" {word} {states[word]:,}")
        more = len(ordered) - number - 1
        if line and line.cell_len + 3 + part.cell_len + (len(glyphs.cut) + 1 if more else 0) > width:
            line.append(f" {glyphs.cut}")
            break
        line.append("   " if line else "")
        line.append_text(part)
    return line


DIM: Final = Style(dim=True)
BOLD: Final = Style(bold=True)
BAD: Final = Style(color="red", bold=True)
PERSONS: Final = Style(color="yellow", bold=True)
RUNS: Final = Style(color="blue", bold=True)
