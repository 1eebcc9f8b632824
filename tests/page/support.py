"""A browser for tests, and what it must not see: errors, strangers' addresses, violations of the policy."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, ViewportSize

#: Nothing of it may be fetched, and a container has no sandbox to give.
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Return the path of a Chromium that is there; without one the test is skipped, and says so."""
    found = os.environ.get("DYRYGENTD_TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("NOT RUN: no Chromium on PATH, so nobody looks at the page")
    return found


class Look:
    """A tab that notes what must not happen. Guards: `assert_clean` passes only if nothing of it did.

    Attributes:
        wrong: What happened that must not, in words.
    """

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.wrong: list[str] = []
        self._expected: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.wrong.append(f"an error: {error}"))
        page.on("request", self._on_request)
        page.set_default_timeout(30_000)

    def __repr__(self) -> str:
        return f"<Look {self.page.url} wrong={len(self.wrong)}>"

    def at(self, hash_: str = "#/", *, until: str = "h1") -> Page:
        """Go to a view by its address, and wait until it is there."""
        # Of another hash alone a browser loads nothing anew.
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}/{hash_}")
        self.page.locator(until).first.wait_for()
        return self.page

    def expect(self, words: str) -> None:
        """Let something of these words happen, which the test is about."""
        self._expected.append(words)

    def elements(self) -> int:
        """Return how many elements the document has."""
        number: int = self.page.evaluate("document.querySelectorAll('*').length")
        return number

    def assert_clean(self) -> None:
        """Fail if anything happened that must not."""
        wrong = [words for words in self.wrong if not any(each in words for each in self._expected)]
        assert not wrong, wrong

    def assert_readable(self) -> None:
        """Fail if a rule of axe is broken: contrast, names, roles, headings."""
        found = Axe().run(self.page).response["violations"]
        wrong = [(each["id"], [node["html"][:160] for node in each["nodes"][:3]]) for each in found]
        assert not wrong, (self.page.url, wrong)

    def _on_console(self, message: ConsoleMessage) -> None:
        # What the policy refuses is told there, too.
        if message.type in ("error", "warning"):
            self.wrong.append(f"on the console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.base}/", "about:", "data:")):
            self.wrong.append(f"a request to {request.url}")


@contextmanager
def looking(browser: Browser, base: str, *, width: int = 1200, height: int = 800, dark: bool = False) -> Iterator[Look]:
    """Open a tab on a daemon, with nothing remembered from earlier ones."""
    size = ViewportSize(width=width, height=height)
    with browser.new_context(viewport=size, color_scheme="dark" if dark else "light") as context:
        yield Look(context.new_page(), base)
