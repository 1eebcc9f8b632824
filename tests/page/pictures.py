"""The pictures of the guide, taken of the page itself: ``python -m tests.page.pictures``."""

from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

from tests.http.support import Daemon
from tests.page.stage import stage
from tests.page.support import FLAGS, chromium, looking
from tests.support.directories import short_directory

PICTURES: Final = Path(__file__).parent / "pictures"
#: Of JPEG: letters stay readable, and a picture has 60 kB at most.
_QUALITY: Final = 45


def main() -> None:
    """Take them."""
    PICTURES.mkdir(exist_ok=True)
    with (
        short_directory() as directory,
        Daemon(directory / "d.sock", holds=True) as daemon,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium(), args=FLAGS) as browser,
    ):
        workflow_id = stage(daemon, 10_000, name="replace gra1 disks")
        stage(daemon, 57, name="night backup")
        base = f"http://127.0.0.1:{daemon.tcp_port}"
        with looking(browser, base, width=1000, height=640) as look:
            page = look.at("#/", until=".latest li")
            page.screenshot(path=PICTURES / "overview.jpg", type="jpeg", quality=_QUALITY)
        with looking(browser, base, width=1000, height=680, dark=True) as look:
            page = look.at(f"#/w/{workflow_id}?", until="#panel svg .box")
            page.locator(".head .said").first.wait_for()
            page.screenshot(path=PICTURES / "workflow.jpg", type="jpeg", quality=_QUALITY)


if __name__ == "__main__":
    main()
