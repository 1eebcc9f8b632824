"""The graph: what is drawn of a fold, and how it is moved through without a mouse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.page.folds import HOSTILE, hairball, showing
from tests.page.support import Look, looking

#: A browser takes long; name this file, or give --long. `test_loopback.py` opens the page among the quick ones.
pytestmark = pytest.mark.long

_ELEMENTS_MAX = 4000
#: Draws a fold in place of the page's views, and notes what it calls.
_DRAW = """async ([fold, more]) => {
  const { html, render } = await import("/page/html.js");
  const { Graph } = await import("/page/graph.js");
  window.said ??= [];
  const onOpen = (path) => said.push(["open", path]);
  const onNode = (name) => said.push(["node", name]);
  window.draw = (fold, more) =>
    render(html`<${Graph} fold=${fold} onOpen=${onOpen} onNode=${onNode} ...${more} />`, document.getElementById("page"));
  draw(fold, more);
}"""


@pytest.fixture
def empty(browser: Browser, short_tmp: Path) -> Iterator[Look]:
    """A tab on a daemon that has nothing."""
    with showing(short_tmp / "d.sock") as (daemon, _), looking(browser, f"http://127.0.0.1:{daemon.tcp_port}") as look:
        look.at("#/")
        yield look
        look.assert_clean()


def _box(number: int, **fields: Any) -> dict[str, Any]:
    return {"path": f"s{number}", "kind": "section", "title": f"s{number}", "nodes": 2, "states": {"waiting": 2}, **fields}


def _fold(*boxes: dict[str, Any], edges: tuple[tuple[int, int], ...] = (), **fields: Any) -> dict[str, Any]:
    links = [{"before": before, "after": after, "weight": 1} for before, after in edges]
    return {
        "id": "w", "name": "w", "state": "running", "path": "", "nodes": 9, "edges": links, "edges_left_out": 0,
        "boxes": list(boxes), **fields,
    }  # fmt: skip


def _draw(look: Look, fold: dict[str, Any], **more: Any) -> Page:
    look.page.evaluate(_DRAW, [fold, more])
    look.page.locator("g.box").first.wait_for()
    return look.page


def _said(page: Page) -> list[list[str]]:
    found: list[list[str]] = page.evaluate("said.splice(0)")
    return found


@pytest.mark.long
def test_elements_are_bounded(empty: Look) -> None:
    """300 boxes in every state, and 600 edges, are some thousand elements, far off as well as near."""
    page = _draw(empty, hairball())
    assert page.locator("g.box").count() == 300
    assert empty.elements() < _ELEMENTS_MAX
    page.locator("g.box [role]").first.focus()
    for _ in range(9):
        page.keyboard.press("+")
    page.locator(".counts").first.wait_for()
    assert empty.elements() < _ELEMENTS_MAX


def test_names_do_no_harm(empty: Look) -> None:
    """What users wrote is text, stays within its box, and turns nothing round."""
    title = HOSTILE + "x" * 300
    page = _draw(empty, _fold(_box(0, title=title, states={"failed": 1}, failed=HOSTILE, error=HOSTILE * 9)))
    assert page.locator("img").count() == 0
    shown = page.locator(".title").text_content() or ""
    assert "…" in shown
    assert "\u202e" not in page.locator("body").inner_html()
    for text in page.locator("svg text").all():
        assert text.evaluate("it => it.getComputedTextLength()") <= 192
    told = page.get_by_role("button", name="section <img src=x")
    assert "first failure" in (told.get_attribute("aria-label") or "")


def test_long_names_are_cut_to_fit(empty: Look) -> None:
    """Plain ones are measured by their letters, which is never too little and hardly too much."""
    names = ["AVAToWAVAYo" * 9, "W" * 99, "i.l'j|" * 30, "replace_the_disks.of(gra1, gra2) " * 4, "short"]
    page = _draw(empty, _fold(*(_box(number, title=name) for number, name in enumerate(names))))
    widths = [text.evaluate("it => it.getComputedTextLength()") for text in page.locator(".title").all()]
    assert all(150 < width <= 192 for width in widths[:-1]), widths
    assert widths[-1] < 100


def test_ranges_are_told_apart(empty: Look) -> None:
    """Of a range that is too long to be shown, both ends are seen, without what all of them have in common."""
    titles = [f"the racks of gra1/rack-{number} … the racks of gra1/rack-{number + 19}" for number in (0, 1180)]
    page = _draw(empty, _fold(*(_box(number, kind="sections", title=title) for number, title in enumerate(titles))))
    assert page.locator(".title").all_text_contents() == ["0 … 19", "1180 … 1199"]
    assert page.get_by_role("button", name=titles[1]).count() == 1


def test_boxes_of_one_task_are_told_apart(empty: Look) -> None:
    """Each has the key that opens it before its name, as in the terminal, and says its level; others are called as before."""
    alike = [
        _box(number, kind="group", path=f"a/~{number}", title="shop.pay", first_level=number, last_level=number + number % 2)
        for number in (2, 3)
    ]
    fold = _fold(*alike, _box(4, kind="node", title="a/~4"), edges=((0, 1), (1, 2)))
    page = _draw(empty, fold)
    assert page.locator(".title").all_text_contents() == ["~2 shop.pay", "~3 shop.pay", "a/~4"]
    assert page.locator(".detail").all_text_contents() == ["level 2", "levels 3 to 4", ""]
    told = page.locator("g.box [role]").nth(0).get_attribute("aria-label") or ""
    assert told.startswith("tasks of one kind ~2 shop.pay; level 2; ")
    assert told.endswith("before ~3 shop.pay")
    page.get_by_label("highlight boxes").fill("~3")
    expect(page.locator("g.box.found")).to_have_count(1)
    page.locator('g.box[data-at="1"] rect').click()
    assert _said(page) == [["open", "a/~3"]]


def test_keys_are_enough(empty: Look) -> None:
    """Whoever has no mouse goes along edges, opens, sees what failed, and goes up again."""
    fold = _fold(
        _box(0, states={"succeeded": 2}),
        _box(1),
        _box(2, states={"failed": 1, "succeeded": 1}, failed="n7", error="no such host"),
        _box(3, kind="node", title="last", nodes=1, states={"waiting": 1}),
        edges=((0, 1), (0, 2), (1, 3), (2, 3)),
        path="a/b",
    )
    page = _draw(empty, fold)
    page.locator('g.box [tabindex="0"]').focus()
    for key, place in (("ArrowRight", 1), ("ArrowDown", 2), ("ArrowRight", 3), ("ArrowLeft", 1), ("End", 3), ("Home", 0)):
        page.keyboard.press(key)
        expect(page.locator(f'g.box[data-at="{place}"] [role]')).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("n")
    page.keyboard.press("Backspace")
    assert _said(page) == [["open", "s0"], ["node", "last"], ["node", "n7"], ["open", "a"]]
    # One stop of Tab for the whole picture.
    assert page.locator('g.box [tabindex="0"]').count() == 1


def test_mouse_opens_and_drags(empty: Look) -> None:
    """A click opens, one on the failure shows it, and a drag does neither."""
    page = _draw(empty, _fold(_box(0, states={"failed": 1}, failed="n7", error="no such host"), _box(1)))
    page.locator('g.box[data-at="1"] rect').click()
    page.locator('g.box[data-at="0"] .detail').click()
    assert _said(page) == [["open", "s1"], ["node", "n7"]]
    before = page.locator("g.scene").get_attribute("transform")
    page.locator('g.box[data-at="0"] rect').hover()
    page.mouse.down()
    page.mouse.move(500, 300, steps=4)
    page.mouse.up()
    assert _said(page) == []
    assert page.locator("g.scene").get_attribute("transform") != before
    page.get_by_role("button", name="fit").click()
    assert page.locator("g.scene").get_attribute("transform") == before


def test_zoom(empty: Look) -> None:
    """Wheel and keys zoom where somebody is at work; else the wheel is the page's."""
    page = _draw(empty, _fold(*(_box(number) for number in range(3))))
    scene = page.locator("g.scene")
    before = scene.get_attribute("transform")
    page.locator("g.box").first.hover()
    page.mouse.wheel(0, -100)
    page.locator("g.box [role]").first.focus()
    assert scene.get_attribute("transform") == before
    page.mouse.wheel(0, -100)
    expect(scene).not_to_have_attribute("transform", before or "")
    page.keyboard.press("0")
    expect(scene).to_have_attribute("transform", before or "")
    page.keyboard.press("+")
    expect(scene).not_to_have_attribute("transform", before or "")


def test_search_highlights(empty: Look) -> None:
    """What is looked for stands out, is counted, and is gone to by Enter."""
    page = _draw(empty, _fold(*(_box(number, task=f"shop.{'pay' if number == 5 else 'send'}") for number in range(8))))
    page.get_by_label("highlight boxes").fill("PAY")
    expect(page.locator("g.box.found")).to_have_count(1)
    expect(page.locator("g.box.faint")).to_have_count(7)
    expect(page.get_by_role("status").filter(has_text="1 of 8 boxes")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator('g.box[data-at="5"] [role]')).to_be_focused()


def test_what_runs_is_followed(empty: Look) -> None:
    """It stays in view while a workflow goes on, until somebody looks elsewhere."""

    def step(running: int) -> dict[str, Any]:
        states = [{"dispatched": 1} if number == running else {"waiting": 1} for number in range(60)]
        return _fold(
            *(_box(number, states=each) for number, each in enumerate(states)),
            edges=tuple((each, each + 1) for each in range(59)),
        )

    page = _draw(empty, step(0), follow=True)
    for _ in range(6):
        page.get_by_label("zoom in").click()
    for running in (5, 59, 30):
        page.evaluate("([fold, more]) => draw(fold, more)", [step(running), {"follow": True}])
        expect(page.locator(f'g.box[data-at="{running}"]')).to_be_in_viewport(ratio=1)
    page.locator(".graph-frame").hover()
    page.mouse.down()
    page.mouse.move(700, 500, steps=4)
    page.mouse.up()
    expect(page.get_by_role("button", name="follow")).to_have_attribute("aria-pressed", "false")


def test_counts_change_in_place(empty: Look) -> None:
    """What changed is drawn anew; nothing else moves, and whoever has gone to a box stays there."""
    page = _draw(empty, _fold(_box(0), _box(1), edges=((0, 1),)))
    page.locator('g.box[data-at="1"] [role]').focus()
    page.get_by_label("zoom in").click()
    before = page.locator("g.scene").get_attribute("transform")
    page.locator('g.box[data-at="0"] title').evaluate("it => { it.dataset.mark = 'same'; }")
    fold = _fold(_box(0), _box(1, states={"succeeded": 2}), edges=((0, 1),))
    page.evaluate("([fold, more]) => draw(fold, more)", [fold, {}])
    expect(page.locator('g.box[data-at="1"] .counts')).to_have_text("2 succeeded")
    assert page.locator("g.scene").get_attribute("transform") == before
    assert page.locator('g.box[data-at="0"] title').get_attribute("data-mark") == "same"


def test_telephone_scrolls(browser: Browser, short_tmp: Path) -> None:
    """On a narrow screen it is a list that the page scrolls, with letters of the usual size."""
    with showing(short_tmp / "d.sock") as (daemon, _), looking(browser, f"http://127.0.0.1:{daemon.tcp_port}", width=390) as look:
        look.at("#/")
        page = _draw(look, _fold(*(_box(number) for number in range(20)), edges=tuple((each, each + 1) for each in range(19))))
        assert page.locator("svg").evaluate("it => it.getBoundingClientRect().height") > 1500
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator('g.box[data-at="19"]').click()
        assert _said(page) == [["open", "s19"]]
        look.assert_clean()
