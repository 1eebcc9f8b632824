"""Bars of letters: how many of some nodes are in which state, to be read without colours, and by who cannot see them."""

from collections.abc import Mapping
from typing import Final

import click

from dyrygentd.cli import render

#: ``{state: letter}`` in the order of the bar: what has ended, what is under way, what is ahead. The page has the same ones.
LETTERS: Final = {
    "succeeded": "S",
    "skipped": "K",
    "failed": "F",
    "cancelled": "C",
    "dispatched": "R",
    "dispatching": "R",
    "retrying": "T",
    "held": "H",
    "ready": "r",
    "waiting": "·",
    "blocked": "B",
}
_WIDEST: Final = 20


def cells_of(states: Mapping[str, int], width: int) -> dict[str, int]:
    """Return ``{state: cells}`` of a bar as wide as that, or as there are nodes; no state that has nodes is without a cell."""
    present = {word: states[word] for word in LETTERS if states.get(word)}
    total = sum(present.values())
    width = min(total, max(width, len(present)))
    cells = {word: max(1, count * width // total) for word, count in present.items()}
    # What rounding has left over or taken too much of is that of the longest part, where it is seen least.
    while cells and (difference := width - sum(cells.values())):
        longest = max(cells, key=lambda word: (cells[word], present[word]))
        cells[longest] += difference if difference > 0 or cells[longest] + difference >= 1 else 1 - cells[longest]
    return cells


def bar(states: Mapping[str, int], width: int = _WIDEST) -> str:
    """Return a bar in its colours, ``SSSSSSFF··``."""
    return "".join(
        click.style(LETTERS[word] * cells, fg=render.colour_of(word)) for word, cells in cells_of(states, width).items()
    )


def legend(words: "set[str]") -> str:
    """Return what the letters mean for these states."""
    meant: dict[str, str] = {}
    for word, letter in LETTERS.items():
        if word in words:
            meant.setdefault(letter, "in flight" if letter == "R" else word)
    return "  ".join(f"{letter} {word}" for letter, word in meant.items())
