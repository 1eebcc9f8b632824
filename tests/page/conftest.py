"""One browser for all tests of the page, and a tab for each."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.http.support import Daemon, daemon, holding
from tests.page.support import FLAGS, Look, chromium, looking

__all__ = ["daemon", "holding"]


# Not for the session: while it runs, no other test could run a loop in this thread.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    path = chromium()
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=FLAGS) as running:
        yield running


@pytest.fixture
def look(browser: Browser, daemon: Daemon) -> Iterator[Look]:
    """A tab on `daemon`, in which nothing may go wrong."""
    with looking(browser, f"http://127.0.0.1:{daemon.tcp_port}") as opened:
        yield opened
        opened.assert_clean()
