"""The page at a gateway: it says who answers, and its buttons act by letter."""

import json
from collections.abc import Iterator
from pathlib import Path

import anyio.from_thread
import pytest
from playwright.sync_api import Browser, expect

from tests.deputy.support import LEADER
from tests.deputy.test_over_http import DeputyDaemon
from tests.loopback.support import Served
from tests.page.support import looking
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.long

#: The page asks every five seconds, and the machine may be busy.
_HEARD_MS = 90_000


@pytest.fixture
def gateway(short_tmp: Path, shared_postgres: PostgresServer) -> Iterator[DeputyDaemon]:
    """A gateway beside a leader."""
    daemon = DeputyDaemon(short_tmp / "g.sock", shared_postgres)
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(daemon.serving()):
        daemon.portal = portal
        yield daemon


def test_page_says_who_answers_and_acts_by_letter(browser: Browser, gateway: DeputyDaemon) -> None:
    """A gate is opened at a gateway, and the leader opens it; a line says who leads, also when nobody does any more."""
    body = json.dumps({"name": "nightly", "nodes": [{"name": "gate", "gate": True}]}).encode()
    workflow_id = gateway.ask("/v1/workflows", "POST", body).json["id"]
    with Served(gateway) as served, looking(browser, f"http://127.0.0.1:{served.port}") as look:
        page = look.page
        page.goto(f"{served.url}#/w/{workflow_id}/n/gate")
        line = page.locator(".vantage")
        expect(line).to_contain_text(f"A gateway answers, from what is stored: {LEADER.words} leads, heard of", timeout=_HEARD_MS)
        look.assert_readable()
        page.get_by_role("button", name="release", exact=True).click()
        page.get_by_label("reason").fill("checked by Ada")
        page.get_by_role("dialog").get_by_role("button", name="release").click()
        assert gateway.call(gateway.running.leader.wait, workflow_id).state == "succeeded"
        (entry,) = gateway.call(gateway.running.leader.journal, workflow_id).entries
        assert (entry.verb, entry.why) == ("release", "checked by Ada")
        gateway.running.lease.left_s = -9.0
        expect(line).to_contain_text("nobody leads at present", timeout=_HEARD_MS)
        look.assert_readable()
        look.assert_clean()
