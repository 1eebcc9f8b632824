"""A folded workflow on one screen: its boxes level by level, how they stand, and what fails or waits in them.

There are 300 boxes at most, whatever the workflow's size. What has no room gives way to what fails, waits for a person or runs:
boxes that follow each other become one row, which says how many they are.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from dyrygentd.cli import bars, render
from dyrygentd.cli.watching import counts_line

if TYPE_CHECKING:
    from dyrygentd import wire

_HEADS: Final = ("#", "AFTER", "LEVEL", "BOX", "NODES")
_BAR: Final = 20
_BAR_MIN: Final = 11
"""A cell for each state that nodes can be in."""
_BOX_MIN: Final = 14
_COUNTS_MIN: Final = 14
_AFTER_MAX: Final = 3
_TOLD_MAX: Final = 3
_IN_FLIGHT: Final = ("dispatched", "dispatching")
#: What is shown if there is no room for all; what comes first is seen longest.
_LOUD: Final = (("failed",), ("held",), ("retrying",), _IN_FLIGHT, ("cancelled",), ("ready",), ("blocked",))


class Shown(NamedTuple):
    """A row: one box, or several that follow each other.

    Attributes:
        cells: Under `_HEADS`.
        colour: Of its name, if something is to be seen there.
        is_node: It is a single node, which is in one state.
    """

    cells: tuple[str, ...]
    states: Counter[str]
    colour: str | None
    is_node: bool


def lines(fold: "wire.FoldView", *, width: int | None, rows_max: int | None) -> Iterator[str]:
    """Draw a fold.

    Args:
        width: Of the terminal, None where nothing has to be cut.
        rows_max: Rows of the table, None for all.
    """
    states = total(fold)
    opened = f" / {render.inline(fold.path)}" if fold.path else ""
    name = render.inline(fold.name) + opened
    rest = f": {fold.state}, {render.number(fold.nodes, 'node')}"
    name = name if width is None else render.within(name, max(_BOX_MIN, width - len(rest)))
    yield f"{click.style(name, bold=True)}: {render.state(fold.state)}{rest.removeprefix(f': {fold.state}')}"
    if states:
        taken = sum(bars.cells_of(states, 2 * _BAR).values()) + 2
        yield f"{bars.bar(states, 2 * _BAR)}  {_counted(states, None if width is None else width - taken)}"
    yield ""
    yield from _table(rows_of(fold, rows_max), width)
    for line in troubles(fold):
        yield line if width is None else render.within(line, width)
    if len(states) > 1:
        yield click.style(f"\n{bars.legend(set(states))}", dim=True)


def around(fold: "wire.FoldView") -> int:
    """Return how many lines of a screen are for what stands around the table, with the next commands."""
    return 6 + len(list(troubles(fold))) + 2 * (len(total(fold)) > 1) + len(list(next_commands(fold)))


def total(fold: "wire.FoldView") -> Counter[str]:
    """Return how many nodes are in which state."""
    states = Counter[str]()
    for box in fold.boxes:
        states.update(box.states)
    return states


def rows_of(fold: "wire.FoldView", rows_max: int | None) -> list[Shown]:
    """Return the rows, by level: all boxes, or so many that there are ``rows_max`` of them."""
    boxes = fold.boxes
    order = sorted(range(len(boxes)), key=lambda place: (boxes[place].first_level, boxes[place].last_level, place))
    number = {place: row for row, place in enumerate(order, 1)}
    after: list[list[int]] = [[] for _ in boxes]
    for edge in fold.edges:
        after[edge.after].append(number[edge.before])
    rows = []
    for some in _parted([boxes[place] for place in order], len(boxes) if rows_max is None else rows_max):
        first, last = some[0], some[-1]
        waits = ranges(after[order[first]]) if first == last else ""
        rows.append(_row([boxes[order[each]] for each in some], (first + 1, last + 1), waits))
    return rows


def _parted(boxes: "Sequence[wire.BoxView]", rows_max: int) -> list[list[int]]:
    """Return which boxes are a row each, and which are one together: the most that fit, those first that are to be seen."""
    by_loudness = sorted(range(len(boxes)), key=lambda place: (_loudness(boxes[place]), place))
    rows: list[list[int]] = []
    for most in range(min(len(boxes), rows_max), -1, -1):
        alone = set(by_loudness[:most])
        rows = []
        for place in range(len(boxes)):
            if place in alone or not rows or rows[-1][-1] in alone:
                rows.append([place])
            else:
                rows[-1].append(place)
        if len(rows) <= rows_max:
            break
    return rows


def _loudness(box: "wire.BoxView") -> int:
    return next((rank for rank, words in enumerate(_LOUD) if any(box.states.get(word) for word in words)), len(_LOUD))


def _row(boxes: "Sequence[wire.BoxView]", numbers: tuple[int, int], after: str) -> Shown:
    states = Counter[str]()
    child = boxes[0].child if len(boxes) == 1 else None
    for box in boxes:
        states.update(box.states if child is None else child.counts)
    levels = (min(box.first_level for box in boxes), max(box.last_level for box in boxes))
    name = name_of(boxes[0]) if len(boxes) == 1 else f"… {len(boxes):,} boxes"
    nodes = sum(box.nodes for box in boxes) if child is None else child.tasks
    colour = render.colour_of(next((word for word in ("failed", "held") if states[word]), ""))
    cells = (_range(*numbers), after, _range(*levels), name, f"{nodes:,}" if nodes else "")
    return Shown(cells, states, colour, len(boxes) == 1 and boxes[0].kind == "node" and child is None)


def name_of(box: "wire.BoxView | wire.TimelineRow") -> str:
    """Return what a box is called and, if its name does not open it, what does."""
    title = render.inline(box.title)
    match box.kind:
        case "node":
            if getattr(box, "child", None) is not None:
                return f"{title} (workflow)"
            return title if box.nodes else f"{title} (join)"
        case "section":
            return f"{title}/" if box.path.endswith(box.title) else f"{_key(box)}  {title}/"
        case _:
            return f"{_key(box)}  {title}"


def _key(box: "wire.BoxView | wire.TimelineRow") -> str:
    return render.inline(box.path.rpartition("/")[2])


def ranges(numbers: Sequence[int]) -> str:
    """Return numbers as people write them, ``1-3, 7``; after a few of them ``…``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] + 1 == number:
            parts[-1].append(number)
        else:
            parts.append([number])
    shown = [_range(part[0], part[-1]) for part in parts[:_AFTER_MAX]]
    return ", ".join([*shown, *(["…"] if len(parts) > len(shown) else [])])


def _range(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,}-{last:,}"


def _table(rows: Sequence[Shown], width: int | None) -> Iterator[str]:
    """Draw the table; what does not fit is shortened, and says so by its ``…``."""
    kept = [column for column in range(len(_HEADS)) if column != _HEADS.index("AFTER") or any(row.cells[column] for row in rows)]
    counts = [_counts(row, None) for row in rows]
    widths = {column: max(render.width_of(cells[column]) for cells in [_HEADS, *(row.cells for row in rows)]) for column in kept}
    box, counts_width, bar_width = _HEADS.index("BOX"), max(map(len, counts), default=0), _BAR
    if width is not None:
        room = width - sum(widths[column] + 2 for column in kept if column != box) - 4
        bar_width = max(_BAR_MIN, min(_BAR, room // 4))
        widths[box] = min(widths[box], max(_BOX_MIN, room - bar_width - counts_width))
        counts_width = max(_COUNTS_MIN, room - bar_width - widths[box])
    yield "  ".join(
        [*(click.style(_aligned(column, _HEADS[column], widths), bold=True) for column in kept), click.style("STATES", bold=True)]
    )
    for row in rows:
        cells = [_aligned(column, row.cells[column], widths, row.colour) for column in kept]
        drawn = bars.bar(row.states, bar_width) + " " * (bar_width - sum(bars.cells_of(row.states, bar_width).values()))
        yield "  ".join([*cells, drawn, _counts(row, counts_width)]).rstrip()


def _aligned(column: int, text: str, widths: dict[int, int], colour: str | None = None) -> str:
    head = _HEADS[column]
    if head == "BOX":
        text = render.within(text, widths[column])
        return click.style(text, fg=colour) + " " * (widths[column] - render.width_of(text))
    return text.rjust(widths[column]) if head in ("#", "NODES") else text.ljust(widths[column])


def _counts(row: Shown, width: int | None) -> str:
    if row.is_node:
        return "".join(render.state(word) if width else word for word in row.states)
    return _counted(row.states, width) if width else counts_line(row.states, width=10_000)


def _counted(states: Counter[str], width: int | None) -> str:
    """Return the counts that fit, with the states in their colours."""
    text = counts_line(states, width=width or 10_000)
    return ", ".join(" ".join([render.state(word), *rest]) for word, *rest in (part.split(" ") for part in text.split(", ")))


def troubles(fold: "wire.FoldView") -> Iterator[str]:
    """Say what fails and what is held, the first few of each, and what has been in flight for the longest time."""
    failed = [box for box in fold.boxes if box.failed is not None]
    held = [box for box in fold.boxes if box.held is not None]
    oldest = min((box for box in fold.boxes if box.longest_since), key=lambda box: box.longest_since or 0.0, default=None)
    if failed or held or oldest is not None:
        yield ""
    for box in failed[:_TOLD_MAX]:
        yield f"{render.state('failed')}  {_place(box, box.failed)}: {render.inline(box.error or '')}"
        if box.failed_too is not None:
            yield f"        and {_place(box, box.failed_too)}: {render.inline(box.error_too or '')}"
    if len(failed) > _TOLD_MAX:
        yield f"        and in {len(failed) - _TOLD_MAX:,} more"
    for box in held[:_TOLD_MAX]:
        why = render.held(box.hold, box.held_until)
        if box.hold == "child" and box.child is not None:
            why = f"its workflow {render.child(box.child)}"
        yield f"{render.state('held')}    {_place(box, box.held)}: {why}"
    if len(held) > _TOLD_MAX:
        yield f"        and in {len(held) - _TOLD_MAX:,} more"
    if oldest is not None:
        age = render.duration(max(0.0, time.time() - (oldest.longest_since or 0.0)))
        yield f"longest {_place(oldest, oldest.longest)}, in flight for {age}"


def _place(box: "wire.BoxView", node: str | None) -> str:
    name = f"'{render.inline(node)}'"
    return name if box.kind == "node" else f"{name} in {render.within(name_of(box), 2 * _BAR)}"


def next_commands(fold: "wire.FoldView") -> Iterator[str]:
    """Return what is worth a look: the first failure, or what is held, and the box that it is in; else the largest one."""
    loud = sorted(fold.boxes, key=_loudness)
    box = next((each for each in loud if each.failed is not None or each.held is not None), None)
    if box is not None:
        node = box.failed if box.failed is not None else box.held
        yield render.command("explain", fold.id, [node or ""])
        if box.child is not None:
            yield render.shell("dyrygentctl", "graph", box.child.id)
    opened = box if box is not None and box.kind != "node" else _largest(fold, loud)
    if opened is not None:
        yield render.shell("dyrygentctl", "graph", fold.id, "--section", opened.path)


def _largest(fold: "wire.FoldView", loud: "Sequence[wire.BoxView]") -> "wire.BoxView | None":
    opening = [box for box in loud if box.kind != "node"]
    return next((box for box in opening if any(box.states.get(word) for word in _IN_FLIGHT)), None) or max(
        opening, key=lambda box: box.nodes, default=None
    )
