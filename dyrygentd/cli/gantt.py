"""A timeline as text: a row for each box, a column for a span of time, in the width that there is.

What ran is a bar as high as there were nodes in flight, against the most that ever ran and waited in the box; the rest are
letters, so that it can be read without colours.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

import click

from dyrygentd.cli import render
from dyrygentd.cli.boxes import name_of
from dyrygentd.cli.times import in_column, moment

if TYPE_CHECKING:
    from dyrygentd import wire

_BARS: Final = "▁▂▃▄▅▆▇█"
_FAILED, _AGAIN, _PAUSED, _WAITING, _ENDED = "F", "T", "~", "·", "S"
_HEADS: Final = ("BOX", "NODES", "TOOK", "WAITED")
_NODES, _TOOK, _WAITED, _GAP = 7, 11, 6, 2
_BOX_MIN, _BOX_MAX = 14, 40
_CHART_MIN, _CHART_MAX = 20, 400
#: Columns from one time of the axis to the next: room for `23 h 59 min`.
_TICK: Final = 14
#: Less than half of the lowest bar is not seen beside what waits.
_SEEN: Final = 1 / 16
#: Nodes that are under way at least, on average over a bin, to be drawn as that.
_ANY: Final = 0.0005


def columns(width: int) -> int:
    """Return how many bins have room on so wide a screen."""
    return min(max(_CHART_MIN, width - _box_width(width) - _NODES - _TOOK - _WAITED - 4 * _GAP), _CHART_MAX)


def lines(view: "wire.TimelineView", *, width: int, rows_max: int | None) -> Iterator[str]:
    """Draw a timeline.

    Args:
        rows_max: Rows of the table, None for all.
    """
    opened = f" / {render.inline(view.path)}" if view.path else ""
    name = render.within(render.inline(view.name) + opened, max(_BOX_MIN, width - len(view.state) - 2))
    yield f"{click.style(name, bold=True)}: {render.state(view.state)}"
    took, column = render.short_span(view.until - view.since), render.short_span(view.bin_s)
    yield f"{in_column(view.since)} to {moment(view.until)}, {took}; a column is {column}"
    yield ""
    rows, hidden = shown(view.rows, rows_max)
    names = [render.within(name_of(row), _box_width(width)) for row in rows]
    box = max(map(render.width_of, [*names, _HEADS[0]]))
    heads = [render.padded(_HEADS[0], box), _HEADS[1], _axis(view), *_HEADS[2:]]
    yield click.style(_line(heads, _columns_of(view)), bold=True)
    for row, name in zip(rows, names, strict=True):
        cells = [_coloured(row, render.padded(name, box)), f"{row.nodes:,}", chart(row), _took(view, row), _waited(row)]
        yield _line(cells, _columns_of(view))
    hidden += view.rows_left_out
    if hidden:
        yield f"… {hidden:,} more, in which less happened"
    yield ""
    yield legend()


def shown(rows: "Sequence[wire.TimelineRow]", rows_max: int | None) -> "tuple[Sequence[wire.TimelineRow], int]":
    """Return the rows that fit, in their order, and how many do not: those stay that failed, and took most time."""
    if rows_max is None or len(rows) <= rows_max:
        return rows, 0
    kept = set(sorted(range(len(rows)), key=lambda place: _weight(rows[place]), reverse=True)[: rows_max - 1])
    return [row for place, row in enumerate(rows) if place in kept], len(rows) - len(kept)


def chart(row: "wire.TimelineRow") -> str:
    """Return a character for each bin, in its colour."""
    under_way = [running + again for running, again in zip(row.running, row.again, strict=True)]
    paused = row.backoff or [0.0] * len(under_way)
    peak = max(map(sum, zip(under_way, row.waiting, paused, strict=True)), default=0.0)
    drawn: list[tuple[str, str]] = []
    for place, count in enumerate(under_way):
        if row.failed[place]:
            drawn.append((_FAILED, "failed"))
        elif max(row.waiting[place], paused[place]) > _ANY and count < peak * _SEEN:
            drawn.append(_idle(row, place, paused[place]))
        elif count > _ANY and row.again[place] > row.running[place]:
            drawn.append((_AGAIN, "retrying"))
        elif count > _ANY:
            drawn.append((_BARS[min(len(_BARS) - 1, int(count / peak * len(_BARS)))], "dispatched"))
        elif row.ended[place]:
            drawn.append((_ENDED, "succeeded"))
        else:
            drawn.append((" ", ""))
    return "".join(
        click.style("".join(mark for mark, _ in some), fg=render.colour_of(state)) if state else "".join(mark for mark, _ in some)
        for state, some in groupby(drawn, key=itemgetter(1))
    )


def _idle(row: "wire.TimelineRow", place: int, paused: float) -> tuple[str, str]:
    """Return the mark of a bin in which next to nothing ran; between the pauses of a retry loop its attempts are looked for."""
    if row.waiting[place] >= paused:
        return _WAITING, "held"
    if row.again[place] > _ANY:
        return _AGAIN, "retrying"
    return (_BARS[0], "dispatched") if row.running[place] > _ANY else (_PAUSED, "retrying")


def legend() -> str:
    """Return what the characters mean."""
    meant = (
        ("▂█", "dispatched", "in flight"),
        (_AGAIN, "retrying", "again"),
        (_PAUSED, "retrying", "pauses"),
        (_WAITING, "held", "waits"),
        (_ENDED, "succeeded", "ended"),
        (_FAILED, "failed", "failed"),
    )
    return "  ".join(f"{click.style(mark, fg=render.colour_of(state))} {words}" for mark, state, words in meant)


def next_commands(view: "wire.TimelineView") -> Iterator[str]:
    """Return what is worth a look: why something failed, and inside the box that failed or took most time."""
    if any(any(row.failed) for row in view.rows):
        yield render.command("explain", view.id)
    opening = [row for row in view.rows if row.kind != "node"]
    if opening:
        yield render.shell("dyrygentctl", "timeline", view.id, "--section", max(opening, key=_weight).path)
    elif view.rows and not view.path:
        yield render.command("show", view.id)


def _weight(row: "wire.TimelineRow") -> tuple[bool, float]:
    return any(row.failed), sum(map(sum, (row.waiting, row.running, row.again, row.backoff)))


def _box_width(width: int) -> int:
    return min(max(_BOX_MIN, width // 4), _BOX_MAX)


def _columns_of(view: "wire.TimelineView") -> int:
    return len(view.rows[0].running) if view.rows else _CHART_MIN


def _axis(view: "wire.TimelineView") -> str:
    """Return times since the beginning, over the columns that they are the beginning of."""
    count = _columns_of(view)
    marks = (f"|{render.short_span(place * view.bin_s) if place else '0'}" for place in range(0, count, _TICK))
    text = "".join(mark.ljust(_TICK) if len(mark) <= _TICK else "|".ljust(_TICK) for mark in marks)
    # What would be cut at the right edge is left out, as a time that is cut is another time.
    last = text.rfind("|")
    return text[:count] if len(text[last:].rstrip()) <= count - last else f"{text[:last]}|"


def _line(cells: Sequence[str], count: int) -> str:
    name, nodes, drawn, took, waited = cells
    drawn += " " * (count - len(click.unstyle(drawn)))
    return (" " * _GAP).join([name, nodes.rjust(_NODES), drawn, took.rjust(_TOOK), waited.rjust(_WAITED)]).rstrip()


def _coloured(row: "wire.TimelineRow", name: str) -> str:
    return click.style(name, fg=render.colour_of("failed")) if any(row.failed) else name


def _took(view: "wire.TimelineView", row: "wire.TimelineRow") -> str:
    """Return how long it was from when the first of a box was sent until the last has ended, or until now."""
    if row.first is None:
        return ""
    is_open = not row.last or row.running[-1] + row.again[-1] > _ANY
    return render.short_span(max(0.0, (view.until if is_open else row.last or view.until) - row.first))


def _waited(row: "wire.TimelineRow") -> str:
    """Return which share of their time the nodes of a box waited that could run."""
    waited, ran = sum(row.waiting), sum(row.running) + sum(row.again) + sum(row.backoff)
    return f"{100 * waited / (waited + ran):.0f}%" if waited + ran > _ANY else ""
