"""The rows that open boxes make: bounded, filtered, and with a way to each trouble."""

from typing import Any

import pytest

from dyrygentd import wire
from dyrygentd.cli.tui.outline import OPEN_MAX, Branch, Filter, Outline, next_trouble


def box(path: str, kind: str = "section", **fields: Any) -> wire.BoxView:
    title = path.rpartition("/")[2]
    given: dict[str, Any] = {"path": path, "kind": kind, "title": title, "nodes": 4, "states": {"waiting": 4}}
    return wire.BoxView(**given | fields)


def fold(path: str, *boxes: wire.BoxView) -> wire.FoldView:
    return wire.FoldView(
        id="i", name="w", state="running", path=path, nodes=4 * len(boxes), boxes=list(boxes), edges=[], edges_left_out=0
    )


def shown(rows: list[Branch]) -> list[str]:
    return ["  " * row.depth + row.title for row in rows]


@pytest.fixture
def outline() -> Outline:
    """A workflow of two sections, with a failure two floors down and a gate."""
    bad: dict[str, Any] = {"states": {"failed": 1, "waiting": 3}, "failed": "x", "error": "E"}
    outline = Outline()
    outline.put(fold("", box("a"), box("b", **bad), box("c", states={"held": 1}, held="g", hold="gate")))
    outline.put(fold("b", box("b/1", **bad), box("b/2", longest="y", longest_since=7.0)))
    return outline


def test_open_boxes_stand_below_each_other(outline: Outline) -> None:
    """The whole is the first row, and sums up what its boxes say."""
    rows = outline.rows()
    assert shown(rows) == ["w", "  a", "  b", "    1", "    2", "  c"]
    assert (rows[0].failed, rows[0].held, rows[0].hold) == ("x", "g", "gate")
    assert rows[0].states == {"waiting": 7, "failed": 1, "held": 1}
    assert [row.is_open for row in rows] == [True, False, True, False, False, False]
    outline.close("b")
    assert shown(outline.rows()) == ["w", "  a", "  b", "  c"]


def test_closing_closes_what_is_in_it(outline: Outline) -> None:
    """What cannot be seen is not asked for."""
    outline.put(fold("b/1", box("b/1/n", "node")))
    outline.close("b")
    assert outline.paths == [""]
    outline.close("nothing")


def test_few_boxes_are_open_at_a_time() -> None:
    """Whoever opens one after the other asks for a bounded number of folds; the way to what was opened last stays."""
    outline = Outline()
    outline.put(fold("", *(box(f"s{number}") for number in range(40))))
    for number in range(40):
        outline.put(fold(f"s{number}", box(f"s{number}/t")))
        outline.put(fold(f"s{number}/t", box(f"s{number}/t/n", "node")))
        assert len(outline.paths) <= OPEN_MAX + 1
        assert {"", f"s{number}", f"s{number}/t"} <= set(outline.paths)
    assert repr(outline) == f"<Outline {OPEN_MAX + 1} folds>"


def test_what_has_changed_is_asked_for(outline: Outline) -> None:
    """Of the open boxes only those are asked for again that are not what they were."""
    old = outline.fold("")
    assert old is not None
    assert outline.stale(old) == []
    assert outline.stale(fold("", box("a", nodes=5), box("b"), box("c"))) == ["b"]


def test_a_filter_keeps_the_way(outline: Outline) -> None:
    """What is found is shown with the boxes it is in."""
    assert shown(outline.rows(Filter("Y"))) == ["w", "  b", "    2"]
    assert shown(outline.rows(Filter(state="failed"))) == ["w", "  b", "    1"]
    assert shown(outline.rows(Filter("x", "held"))) == ["w"]
    assert not Filter()


def test_troubles_are_gone_through_in_both_directions(outline: Outline) -> None:
    """Round the end; what nobody has to look at is passed over."""
    rows = outline.rows()
    seen, at = [], ""
    for _ in range(4):
        found = next_trouble(rows, at)
        assert found is not None
        seen.append(found.path)
        at = found.path
    assert seen == ["b", "b/1", "c", "b"]
    back = next_trouble(rows, "b/1", step=-1)
    assert back is not None
    assert back.path == "b"
    assert next_trouble(rows, "", step=-1) == rows[-1]
    assert next_trouble(rows[:2], "") is None
