"""From a workflow into those that are the work of its nodes, and back, in a browser."""

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from dyrygentd.core.parent import Parent
from tests.http.support import Daemon
from tests.page.support import looking
from tests.support.servers import wait_until

pytestmark = pytest.mark.long

_BOTTOM: dict[str, Any] = {"name": "bottom", "nodes": [{"name": "dig", "task": "add"}, {"name": "approve", "gate": True}]}
_MIDDLE: dict[str, Any] = {"name": "middle", "nodes": [{"name": "k", "workflow": {"definition": _BOTTOM}}]}


def test_a_child_is_opened_from_its_box(holding: Daemon, browser: Browser) -> None:
    """The box counts what is in it; a click shows it, whose head leads back up; the table of nodes and a node lead there, too."""
    top = holding.submit({"name": "first", "task": "add"}, {"name": "deep", "workflow": {"definition": _MIDDLE}}, name="top")
    middle = Parent(top, 1).child_id
    bottom = Parent(middle, 0).child_id
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{bottom}").status == 200)
    with looking(browser, f"http://127.0.0.1:{holding.tcp_port}") as look:
        page = look.page
        look.at(f"#/w/{top}", until="#panel :is(svg, table)")
        expect(page.get_by_text("Waits for a person: 1 at a gate")).to_be_visible()
        expect(page.get_by_text("In workflows of its nodes:")).to_be_visible()
        page.locator('#panel [role][aria-label*="workflow deep"]').first.press("Enter")
        expect(page.get_by_role("heading", name="middle")).to_be_visible()
        page.locator('#panel [role][aria-label*="workflow k"]').first.press("Enter")
        expect(page.get_by_role("heading", name="bottom")).to_be_visible()
        crumbs = page.get_by_label("where this is")
        expect(crumbs.get_by_role("link")).to_have_text(["workflows", middle[:8], "k"])
        crumbs.get_by_role("link", name="k", exact=True).click()
        expect(page.get_by_role("heading", name="k")).to_be_visible()
        page.locator(".facts").get_by_role("link", name="bottom").click()
        expect(page.get_by_role("heading", name="bottom")).to_be_visible()
        look.at(f"#/w/{top}?tab=nodes", until=".row a")
        page.get_by_role("link", name="running", exact=True).click()
        expect(page.get_by_role("heading", name="middle")).to_be_visible()
        look.assert_readable()
        look.assert_clean()
