"""The timeline: what is drawn on a canvas is also there for keys and in numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.http.support import Daemon
from tests.page.folds import HOSTILE, showing
from tests.page.support import Look, looking

#: A browser takes long; name this file, or give --long. `test_loopback.py` opens the page among the quick ones.
pytestmark = pytest.mark.long

_BINS: Final = 40
#: Draws a timeline in place of the page's views, and counts how often.
_DRAW = """async (timeline) => {
  const { html, render } = await import("/page/html.js");
  const { Timeline } = await import("/page/timeline.js");
  window.said ??= [];
  const { scale } = CanvasRenderingContext2D.prototype;
  CanvasRenderingContext2D.prototype.scale = function (...given) {
    document.body.dataset.drawn = Number(document.body.dataset.drawn ?? 0) + 1;
    return scale.apply(this, given);
  };
  const onOpen = (path) => said.push(["open", path]);
  const onNode = (name) => said.push(["node", name]);
  window.draw = (timeline) =>
    render(html`<${Timeline} timeline=${timeline} onOpen=${onOpen} onNode=${onNode} />`, document.getElementById("page"));
  draw(timeline);
}"""
#: What is on the canvas in the colour of a legend, in pixels.
_PIXELS = """(name) => {
  const legend = document.querySelector(`.legend [data-name=${name}]`);
  const colour = getComputedStyle(legend).backgroundColor.match(/\\d+/g).map(Number);
  const canvas = document.querySelector("canvas");
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let at = 0; at < data.length; at += 4) found += colour.every((each, part) => Math.abs(each - data[at + part]) < 3);
  return found;
}"""


@pytest.fixture
def empty(browser: Browser, short_tmp: Path) -> Iterator[Look]:
    """A tab on a daemon that has nothing."""
    with showing(short_tmp / "d.sock") as (daemon, _), looking(browser, f"http://127.0.0.1:{daemon.tcp_port}") as look:
        look.at("#/")
        yield look
        look.assert_clean()


def _row(number: int, bins: int = _BINS, **fields: Any) -> dict[str, Any]:
    zeros = [0] * bins
    return {
        "path": f"s{number}", "kind": "section", "title": f"s{number}", "nodes": 9, "first": 1.0, "last": None,
        "waiting": zeros, "running": [2] * bins, "again": zeros, "ended": zeros, "failed": zeros, **fields,
    }  # fmt: skip


def _timeline(*rows: dict[str, Any], **fields: Any) -> dict[str, Any]:
    bins = len(rows[0]["running"])
    times = {"since": 1_000_000.0, "until": 1_000_000.0 + 60 * bins, "bin_s": 60.0}
    return {"id": "w", "name": "w", "state": "running", "path": "", "rows": list(rows), "rows_left_out": 0, **times, **fields}


def _draw(look: Look, timeline: dict[str, Any]) -> Page:
    look.page.evaluate(_DRAW, timeline)
    look.page.locator(".timeline canvas").wait_for()
    return look.page


def test_real_one(daemon: Daemon, look: Look) -> None:
    """What a daemon tells of a workflow is drawn: what ended and what failed, each in its colour."""
    nodes = [{"name": f"n{number}", "task": "fail" if number == 3 else "add"} for number in range(9)]
    workflow_id = daemon.submit(*nodes, name=HOSTILE)
    daemon.finish(workflow_id)
    look.at("#/")
    page = _draw(look, daemon.ask("GET", f"/v1/workflows/{workflow_id}/timeline?bins=20").json)
    assert page.evaluate(_PIXELS, "ended") > 0
    assert page.evaluate(_PIXELS, "failed") > 0
    assert page.evaluate(_PIXELS, "again") == 0
    page.get_by_role("button", name="n3", exact=True).click()
    assert page.evaluate("said") == [["node", "n3"]]


def test_keys_are_enough(empty: Look) -> None:
    """Whoever has no mouse goes through time and boxes, hears what was there, looks closer and opens."""
    again: list[float] = [0] * _BINS
    again[2] = 1.5
    failed = [0] * _BINS
    failed[2] = 1
    page = _draw(empty, _timeline(_row(0), _row(1, again=again, failed=failed)))
    time = page.get_by_role("slider", name="time")
    time.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(time).to_have_attribute(
        "aria-valuetext", "1970-01-12 13:48 to 1970-01-12 13:49 UTC, s1: 2 in flight, 1.5 again, 1 failed"
    )
    expect(page.locator(".readout")).to_contain_text("1.5 again")
    page.keyboard.press("+")
    expect(page.get_by_role("button", name="all of it")).to_be_enabled()
    page.keyboard.press("End")
    expect(time).to_have_attribute("aria-valuenow", str(_BINS - 1))
    page.keyboard.press("0")
    expect(page.get_by_role("button", name="all of it")).to_be_disabled()
    page.keyboard.press("Enter")
    assert page.evaluate("said") == [["open", "s1"]]


def test_drag_looks_closer(empty: Look) -> None:
    """A range that is dragged over is shown in full width."""
    page = _draw(empty, _timeline(_row(0, running=[2] + [0] * (_BINS - 1))))
    few = page.evaluate(_PIXELS, "running")
    frame = page.locator(".timeline-frame")
    box = frame.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 40, steps=3)
    page.mouse.up()
    expect(page.get_by_role("button", name="all of it")).to_be_enabled()
    assert page.evaluate(_PIXELS, "running") > 2 * few


def test_drawn_on_change_only(empty: Look) -> None:
    """The same timeline is not drawn again; another one, another width and other colours are."""
    timeline = _timeline(_row(0))
    page = _draw(empty, timeline)
    body = page.locator("body")
    expect(body).to_have_attribute("data-drawn", "1")
    page.evaluate("(timeline) => draw(timeline)", timeline)
    page.locator(".timeline-frame").hover()
    expect(page.locator(".readout")).to_contain_text("s0")
    expect(body).to_have_attribute("data-drawn", "1")
    page.evaluate("(timeline) => draw(timeline)", timeline | {"until": 1_000_000.5})
    expect(body).to_have_attribute("data-drawn", "2")
    page.evaluate("document.documentElement.dataset.scheme = 'dark'")
    expect(body).to_have_attribute("data-drawn", "3")
    page.set_viewport_size({"width": 700, "height": 800})
    expect(body).not_to_have_attribute("data-drawn", "3")


def test_table_has_the_numbers(empty: Look) -> None:
    """The table adds up to what came, and is made only when somebody opens it."""
    ended = [3] * _BINS
    page = _draw(empty, _timeline(_row(0, ended=ended, backoff=[0.5] * _BINS), rows_left_out=7))
    assert page.locator("td").count() == 0
    page.locator("summary").click()
    cells = [cell.strip() for cell in page.locator("tbody td").all_inner_texts()]
    # Two for 40 minutes are 80, half a pause is 20.
    assert cells == ["9", "1970-01-01 00:00", "", "80 min", "0.0 s", "20 min", "0.0 s", str(3 * _BINS), "0"]
    assert "7 further boxes" in page.locator(".timeline").inner_text()


def test_rows_of_one_task_are_told_apart(empty: Look) -> None:
    """As their boxes are, for eyes, for keys and in the table."""
    page = _draw(empty, _timeline(*(_row(number, path=f"~{number}", title="shop.pay", kind="group") for number in (7, 8))))
    assert page.locator(".timeline-labels button").all_inner_texts() == ["~7 shop.pay", "~8 shop.pay"]
    page.get_by_role("slider", name="time").focus()
    expect(page.locator(".readout")).to_contain_text("~7 shop.pay: 2 in flight")
    page.locator("summary").click()
    assert page.locator("tbody th").all_inner_texts() == ["~7 shop.pay", "~8 shop.pay"]


def test_rows_below_the_screen_are_drawn_later(empty: Look) -> None:
    """A browser answers while a hundred rows are drawn, and in the end all are there; of two in a row the last one is."""
    failed = [1] * _BINS
    first = _timeline(*(_row(number) for number in range(99)), _row(99, failed=failed))
    page = _draw(empty, first)
    page.wait_for_function(f"({_PIXELS})('failed') > 0")
    page.evaluate(
        "(some) => some.forEach(draw)", [first | {"until": 1.0}, _timeline(*(_row(number) for number in range(100)), until=2.0)]
    )
    page.wait_for_function("document.body.dataset.drawn === '3'")
    # In this time the first of the two would have been drawn to its end.
    for _ in range(8):
        page.evaluate("() => new Promise(requestAnimationFrame)")
    assert page.evaluate(_PIXELS, "failed") == 0


def test_nothing_new_costs_nothing(empty: Look) -> None:
    """Steps of the same value are one rectangle and those of none are not drawn, so hours in which nothing changes are free."""
    row = {"running": [1.5] * 400, "waiting": [9000] * 200 + [0] * 200}
    empty.page.evaluate(
        "() => { window.drawn = 0; const { fillRect } = CanvasRenderingContext2D.prototype;"
        " CanvasRenderingContext2D.prototype.fillRect = function (...given) { drawn += 1; fillRect.apply(this, given); }; }"
    )
    _draw(empty, _timeline(*(_row(number, 400, **row) for number in range(20))))
    # For each a line above it, what ran, and what waited; and the ticks of the axis.
    assert 60 < empty.page.evaluate("drawn") < 90


def test_large_one_is_bounded(empty: Look) -> None:
    """As much as a daemon sends is some hundred elements, and hostile names stay where they belong."""
    row = {"running": [1.5] * 400, "waiting": [9000] * 400, "failed": [1] * 400}
    page = _draw(empty, _timeline(*(_row(number, 400, title=HOSTILE * 3, path=f"s{number}", **row) for number in range(100))))
    assert empty.elements() < 700
    assert page.locator("img").count() == 0
    assert "\u202e" not in page.locator("body").inner_html()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    assert page.evaluate(_PIXELS, "failed") > 0
