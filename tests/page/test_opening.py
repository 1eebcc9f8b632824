"""From a workflow of any size to what has failed in it, by way of graph and timeline."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.http.support import Daemon
from tests.page.stage import stage
from tests.page.support import Look, looking

#: A browser takes long; name this file, or give --long. `test_loopback.py` opens the page among the quick ones.
pytestmark = pytest.mark.long

_ELEMENTS_MAX = 4000
#: Notes in milliseconds when something was first drawn and when contents were there, and what kept the browser from answering for
#: longer than 50 ms.
_WATCH = """() => {
  window.kept = { tasks: [] };
  const watch = (type, note) =>
    new PerformanceObserver((list) => list.getEntries().forEach(note)).observe({ type, buffered: true });
  watch("paint", (entry) => { window.kept.paint ??= Math.round(entry.startTime); });
  watch("longtask", (entry) => window.kept.tasks.push(Math.round(entry.duration)));
  const there = { box: "g.box", overview: ".verdict", latest: ".latest li", canvas: ".timeline canvas" };
  new MutationObserver(() => {
    for (const [name, what] of Object.entries(there))
      if (document.querySelector(what)) window.kept[name] ??= Math.round(performance.now());
  }).observe(document, { childList: true, subtree: true });
}"""


def _sections() -> list[dict[str, object]]:
    good: list[dict[str, object]] = [
        {"name": f"good-{number}", "task": "add", "section": f"hosts/rack-{number}"} for number in range(3)
    ]
    bad: dict[str, object] = {"name": "bad-1", "task": "fail", "section": "hosts/rack-1", "after": ["good-0"]}
    return [*good, bad, {"name": "last", "task": "add", "section": "end", "after": ["bad-1"]}]


def _box(page: Page, title: str) -> str:
    expect(page.locator(".box", has=page.locator(f"text.title:text-is('{title}')"))).to_be_visible()
    return f".box:has(text.title:text-is('{title}'))"


def test_two_clicks_to_a_failure(daemon: Daemon, look: Look) -> None:
    """One opens the box, one shows the node; back leads back, and so does the trail."""
    workflow_id = daemon.submit(*_sections())
    daemon.finish(workflow_id)
    page = look.at(f"#/w/{workflow_id}", until=".box")
    page.locator(f"{_box(page, 'hosts')} rect").click()
    page.wait_for_url("**path=hosts*")
    page.locator(f"{_box(page, 'rack-1')} .detail").click()
    expect(page.locator("h1")).to_contain_text("bad-1")
    page.go_back()
    _box(page, "rack-1")
    page.get_by_role("navigation", name="which part").get_by_role("link").first.click()
    _box(page, "end")


def test_keys_lead_there(daemon: Daemon, look: Look) -> None:
    """The same without a mouse; whoever opens a box is still in the graph."""
    workflow_id = daemon.submit(*_sections())
    daemon.finish(workflow_id)
    page = look.at(f"#/w/{workflow_id}", until=".box")
    page.locator(".box [tabindex='0']").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**path=hosts*")
    _box(page, "rack-1")
    page.keyboard.press("Backspace")
    _box(page, "end")
    page.keyboard.press("n")
    expect(page.locator("h1")).to_contain_text("bad-1")


def test_timeline_opens_boxes(daemon: Daemon, look: Look) -> None:
    """A row leads to its box, and a row of one node to the node."""
    workflow_id = daemon.submit(*_sections())
    daemon.finish(workflow_id)
    page = look.at(f"#/w/{workflow_id}?tab=timeline", until=".timeline canvas")
    for title in ("hosts", "rack-1", "bad-1"):
        page.locator(".timeline-labels").get_by_role("button", name=title, exact=True).click()
    expect(page.locator("h1")).to_contain_text("bad-1")


def test_whoever_follows_goes_on_following(holding: Daemon, browser: Browser) -> None:
    """What was chosen for the whole is chosen for a box of it."""
    workflow_id = stage(holding, 57)
    with looking(browser, f"http://127.0.0.1:{holding.tcp_port}") as look:
        page = look.at(f"#/w/{workflow_id}", until=".box")
        page.get_by_role("button", name="follow").click()
        page.locator(f"{_box(page, 'hosts')} rect").click()
        _box(page, "rack-0")
        expect(page.get_by_role("button", name="follow")).to_have_attribute("aria-pressed", "true")
        look.assert_clean()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("nodes", [10_000, 100_000])
def test_any_size_is_opened(holding: Daemon, browser: Browser, nodes: int) -> None:
    """What failed is a click away at any size, what is drawn is bounded; `-s` tells when it was there, and what took long."""
    workflow_id = stage(holding, nodes)
    moments: dict[str, dict[str, Any]] = {}
    with looking(browser, f"http://127.0.0.1:{holding.tcp_port}") as look:
        look.page.add_init_script(f"({_WATCH})()")

        def note(moment: str) -> None:
            # Two frames later what was just there is drawn.
            look.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            kept = look.page.evaluate("() => { const kept = window.kept; window.kept = { tasks: [] }; return kept; }")
            moments[moment] = kept | {"elements": look.elements()}

        page = look.at("#/", until=".latest li")
        page.locator(".verdict").wait_for()
        note("overview")
        page = look.at(f"#/w/{workflow_id}", until=".box")
        note("workflow")
        page.locator(f"{_box(page, 'hosts')} .detail").click()
        expect(page.locator("h1")).to_contain_text("bad-")
        note("node")
        page.go_back()
        page.locator(f"{_box(page, 'hosts')} rect").click()
        page.locator(".box.has-failed .title").first.wait_for()
        note("a hundred boxes")
        # They are seen from afar, without room for what failed first in each.
        page.locator(".box.has-failed [role]").first.focus()
        for _ in range(6):
            page.keyboard.press("+")
        page.locator(".box.has-failed .detail").first.wait_for()
        note("nearer")
        page.locator(".box.has-failed").first.click()
        page.locator(".box.has-failed .detail").first.click()
        expect(page.locator("h1")).to_contain_text("bad-")
        look.at(f"#/w/{workflow_id}?tab=timeline&path=hosts", until=".timeline canvas")
        note("timeline of a hundred boxes")
        look.assert_clean()
    for moment, kept in moments.items():
        print(nodes, moment, kept)
    assert max(kept["elements"] for kept in moments.values()) < _ELEMENTS_MAX
