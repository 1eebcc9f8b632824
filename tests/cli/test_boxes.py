"""A folded workflow on a screen of any size."""

from typing import Any

import click
import pytest

from dyrygentd.cli.boxes import lines, next_commands, ranges, rows_of
from dyrygentd.wire import BoxView, EdgeView, FoldView


def box(place: int, **fields: Any) -> BoxView:
    """Return the box at a place: a section of ten nodes that succeeded."""
    given: dict[str, Any] = {
        "path": f"s{place}",
        "kind": "section",
        "title": f"s{place}",
        "nodes": 10,
        "states": {"succeeded": 10},
    }
    return BoxView(**given | {"first_level": place + 1, "last_level": place + 1} | fields)


def fold(*boxes: BoxView, edges: list[EdgeView] | None = None, **fields: Any) -> FoldView:
    """Return boxes that wait for each other in turn."""
    edges = [EdgeView(place, place + 1, 1) for place in range(len(boxes) - 1)] if edges is None else edges
    given: dict[str, Any] = {"id": "i", "name": "n", "state": "running", "path": "", "nodes": sum(each.nodes for each in boxes)}
    return FoldView(**given | {"boxes": list(boxes), "edges": edges, "edges_left_out": 0} | fields)


def failing(place: int, **fields: Any) -> BoxView:
    """Return a box in which something has failed."""
    return box(place, states={"succeeded": 9, "failed": 1}, failed=f"f{place}", error="no", **fields)


def test_what_fails_or_waits_keeps_its_row() -> None:
    """Of 300 boxes those are seen that are worth it; the others are counted, and what they wait for is not."""
    boxes = [box(place) for place in range(300)]
    boxes[200], boxes[100] = failing(200), box(100, states={"held": 10}, held="h", hold="gate")
    rows = rows_of(fold(*boxes), 10)
    assert len(rows) <= 10
    told = {row.cells[3]: row.cells for row in rows}
    assert told["s200/"][0:2] == ("201", "200")
    assert "s100/" in told
    assert sum(int(row.cells[4].replace(",", "")) for row in rows) == 3_000
    assert [row.cells[3] for row in rows if row.colour] == ["s100/", "s200/"]
    assert len(rows_of(fold(*boxes), None)) == 300


@pytest.mark.parametrize("rows_max", range(1, 12))
def test_rows_are_never_more_than_there_is_room_for(rows_max: int) -> None:
    """However many boxes fail."""
    rows = rows_of(fold(*(failing(place) if place % 2 else box(place) for place in range(20))), rows_max)
    assert 1 <= len(rows) <= rows_max


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([], ""), ([2], "2"), ([3, 1, 2, 7], "1-3, 7"), ([1, 3, 5, 7], "1, 3, 5, …"), ([1200, 1201], "1,200-1,201")],
)
def test_numbers_in_a_row_are_a_range(numbers: list[int], words: str) -> None:
    """A join of a hundred boxes is one word."""
    assert ranges(numbers) == words


@pytest.mark.parametrize("width", [80, 100, 200])
def test_lines_do_not_wrap(width: int) -> None:
    """Names of any script and length, errors of any length: what is left out is marked."""
    names = ["x" * 200, "日本語" * 40, "😀" * 50, "a\x1b[2Jb\u202e" * 20, "[red]x[/red]\n"]
    boxes = [failing(place, title=name, path=name, first_level=1, last_level=99_999) for place, name in enumerate(names)]
    drawn = [click.unstyle(line) for line in lines(fold(*boxes, name="n" * 300), width=width, rows_max=None)]
    assert all(character.isprintable() for line in drawn for character in line.replace("\n", ""))
    for line in drawn:
        wide = sum(character in "日本語😀" for character in line)
        assert len(line.strip("\n")) + wide <= width
    assert any("…" in line for line in drawn)
    whole = "\n".join(lines(fold(*boxes), width=None, rows_max=None))
    assert "x" * 200 in whole


def test_next_commands_lead_to_what_fails() -> None:
    """First the failure itself, then the box that it is in; of what goes well the box that runs."""
    assert list(next_commands(fold(box(0), failing(1, path="a b")))) == [
        "dyrygentctl explain i f1",
        "dyrygentctl graph i --section 'a b'",
    ]
    assert list(next_commands(fold(box(0), box(1, nodes=20, path="~2", kind="group")))) == ["dyrygentctl graph i --section '~2'"]
    assert list(next_commands(fold(box(0, nodes=50), box(1, states={"dispatched": 10})))) == ["dyrygentctl graph i --section s1"]
    assert list(next_commands(fold(box(0, kind="node", title="x")))) == []


def test_what_is_told_of_troubles_has_a_bound() -> None:
    """Three failures, three that are held, one that takes long, and how many more."""
    boxes = [
        failing(
            place,
            failed_too="other" if not place else None,
            error_too="Bang",
            held=f"h{place}",
            hold="gate",
            longest=f"l{place}",
            longest_since=1e9 + place,
        )
        for place in range(9)
    ]
    text = "\n".join(click.unstyle(line) for line in lines(fold(*boxes), width=100, rows_max=5))
    assert text.count("failed  'f") == 3
    assert text.count("        and 'other' in s0/: Bang\n") == 1
    assert "held    'h0' in s0/: a gate: waits for `release`" in text
    assert text.count("and in 6 more") == 2
    assert "longest 'l0' in s0/, in flight for " in text
