"""Drawings for a file that is looked at without anything else: a folded graph and a timeline, as SVG of bounded length.

Every text is escaped and shortened here, so nothing that comes from outside can end an attribute or begin an element.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from dyrygentd.cli import bars, render
from dyrygentd.cli.boxes import name_of

if TYPE_CHECKING:
    from dyrygentd import wire

#: Sizes of the graph: a box, the ways between boxes, and boxes below each other before there is another column.
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _COLUMN_MAX = 168, 46, 52, 12, 14
_BAR: Final = 7
#: A graph that is wider is moved from side to side; one that is less wide is made as narrow as the page, and can still be read.
_FIT: Final = 1500
_TITLE: Final = 25
#: Sizes of the timeline.
_NAMES, _CHART, _ROW, _AXIS = 230, 760, 24, 22
_NAME: Final = 34
_TICKS: Final = 6


def text(what: object, most: int) -> str:
    """Return a text from outside for HTML: in one line, shortened, without what would steer anything, escaped."""
    return html.escape(render.within(render.inline(str(what)[: 4 * most]), most))


def graph(fold: "wire.FoldView") -> str:
    """Draw the boxes of a fold from left to right, with lines to what waits for them."""
    if not fold.boxes:
        return ""
    places, width, height = _placed(fold)
    fits = "fit" if width <= _FIT else "long"
    parts = [
        f'<svg class="{fits}" role="img" aria-label="Boxes of the workflow and what waits for what, as in the table below"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    ]
    for edge in fold.edges:
        (x, y), (to_x, to_y) = places[edge.before], places[edge.after]
        x, y, to_y = x + _WIDTH, y + _HEIGHT // 2, to_y + _HEIGHT // 2
        bend = max(16, (to_x - x) // 2)
        parts.append(f'<path class="edge" d="M{x} {y}C{x + bend} {y} {to_x - bend} {to_y} {to_x} {to_y}"/>')
    for box, (x, y) in zip(fold.boxes, places, strict=True):
        parts.append(_box(box, x, y))
    parts.append("</svg>")
    return "".join(parts)


def _placed(fold: "wire.FoldView") -> tuple[list[tuple[int, int]], int, int]:
    """Return where each box stands, and the size of all: a column behind all that it waits for, near to those."""
    before: list[list[int]] = [[] for _ in fold.boxes]
    after: list[list[int]] = [[] for _ in fold.boxes]
    for edge in fold.edges:
        before[edge.after].append(edge.before)
        after[edge.before].append(edge.after)
    ranks, missing = [0] * len(fold.boxes), [len(each) for each in before]
    ready = [box for box, count in enumerate(missing) if not count]
    for box in ready:  # It grows while it is read.
        for other in after[box]:
            ranks[other] = max(ranks[other], ranks[box] + 1)
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)
    places: list[tuple[int, int]] = [(0, 0)] * len(fold.boxes)
    x = height = 0
    for _, some in groupby(sorted(range(len(fold.boxes)), key=ranks.__getitem__), key=ranks.__getitem__):
        column = sorted(some, key=lambda box: sum(places[other][1] for other in before[box]) / max(1, len(before[box])))
        columns = -(-len(column) // _COLUMN_MAX)
        for number, box in enumerate(column):
            places[box] = x + number % columns * (_WIDTH + _DOWN), number // columns * (_HEIGHT + _DOWN)
            height = max(height, places[box][1] + _HEIGHT)
        x += columns * (_WIDTH + _DOWN) - _DOWN + _ACROSS
    return [(left + 1, top + 1) for left, top in places], x - _ACROSS + 2, height + 2


def _box(box: "wire.BoxView", x: int, y: int) -> str:
    counts = ", ".join(f"{word} {count:,}" for word, count in box.states.items())
    bad = " bad" if box.states.get("failed") else ""
    return (
        f"<g><title>{text(name_of(box), 200)}: {text(counts, 200) or 'joins'}</title>"
        f'<rect class="box{bad}" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x + 8}" y="{y + 17}">{text(name_of(box), _TITLE)}</text>'
        f'<text class="small" x="{x + 8}" y="{y + 32}">{_numbers(box)}</text>{_bar(box, x + 1, y + _HEIGHT - _BAR - 1)}</g>'
    )


def _numbers(box: "wire.BoxView") -> str:
    """Return how many there are, and how many of those failed, with the letters of the bars of a terminal."""
    loud = [f"{count:,} {bars.LETTERS[word]}" for word, count in box.states.items() if word in ("failed", "held", "retrying")]
    nodes = render.number(box.nodes, "node") if box.nodes else render.number(box.joins, "join")
    return ", ".join([nodes, *loud])


def _bar(box: "wire.BoxView", x: int, y: int) -> str:
    total, at, parts = sum(box.states.values()), 0.0, []
    for word, count in box.states.items():
        length = (_WIDTH - 2) * count / total
        parts.append(f'<rect class="{_class(word)}" x="{x + at:.1f}" y="{y}" width="{length:.1f}" height="{_BAR}"/>')
        at += length
    return "".join(parts)


def _class(word: str) -> str:
    # A newer daemon may have more words, which are no class of ours.
    return f"s-{word}" if word in bars.LETTERS else "s-waiting"


def timeline(view: "wire.TimelineView", rows: "Sequence[wire.TimelineRow]", axis: Callable[[float], str]) -> str:
    """Draw rows of a timeline.

    Args:
        axis: Returns the words for a time.
    """
    height = _AXIS + _ROW * len(rows)
    width = _NAMES + _CHART + 10
    parts = [
        f'<svg role="img" aria-label="When nodes of each box waited, ran and failed; the table above says when each began"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    ]
    for number in range(_TICKS):
        x = _NAMES + _CHART * number // _TICKS
        at = view.since + (view.until - view.since) * number / _TICKS
        parts.append(f'<path class="edge" d="M{x} {_AXIS - 6}V{height}"/>')
        parts.append(f'<text class="small" x="{x + 3}" y="{_AXIS - 8}">{html.escape(axis(at))}</text>')
    for number, row in enumerate(rows):
        parts += _row(row, _AXIS + number * _ROW)
    parts.append("</svg>")
    return "".join(parts)


def _row(row: "wire.TimelineRow", top: int) -> Iterator[str]:
    bottom, step = top + _ROW - 3, _CHART / max(1, len(row.running))
    bad = ' class="bad"' if any(row.failed) else ""
    yield f'<text{bad} x="0" y="{bottom - 5}">{text(name_of(row), _NAME)}</text>'
    in_flight = [some + more for some, more in zip(row.running, row.again, strict=True)]
    paused = [some + more for some, more in zip(in_flight, row.backoff or [0.0] * len(in_flight), strict=True)]
    both = [some + more for some, more in zip(paused, row.waiting, strict=True)]
    peak = max(both, default=0.0)
    for state, counts in (("waiting", both), ("blocked", paused), ("retrying", in_flight), ("dispatched", row.running)):
        if peak and any(counts):
            path = _steps([count / peak * (_ROW - 6) for count in counts], step, bottom)
            yield f'<path class="s-{state}" d="{path}"/>'
    places = [_NAMES + (place + 0.5) * step for place, count in enumerate(row.failed) if count]
    if places:
        marks = "".join(f"M{x:.0f} {bottom - 10}l5 10h-10z" for x in places)
        yield f'<path class="s-failed" d="{marks}"><title>{sum(row.failed):,} failed</title></path>'


def _steps(heights: Sequence[float], step: float, bottom: int) -> str:
    """Return the outline of bars that stand side by side."""
    parts, place = [f"M{_NAMES} {bottom}"], 0
    for height, some in groupby(round(height, 1) for height in heights):
        place += len(list(some))
        parts.append(f"V{bottom - height:g}H{_NAMES + place * step:.1f}")
    return "".join([*parts, f"V{bottom}Z"])
