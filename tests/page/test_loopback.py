"""`dyrygentctl ui` in a real browser: the page acts there, and other pages in the same browser do not."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from dyrygentd.loopback.passing import user_name
from tests.http.support import Daemon
from tests.loopback.support import Served
from tests.page.support import looking


@pytest.fixture
def served(daemon: Daemon) -> Iterator[Served]:
    """The page with buttons, whose address nobody has opened."""
    with Served(daemon) as running:
        yield running


def base(served: Served) -> str:
    """Return its origin."""
    return f"http://127.0.0.1:{served.port}"


def enter(page: Page, served: Served, hash_: str = "") -> None:
    """Open the printed address."""
    page.goto(served.url + hash_)
    page.locator("h1").first.wait_for()


def test_printed_address_opens_the_page_where_it_says(browser: Browser, served: Served) -> None:
    """It shows as whom it acts; the token is not in the address any more; another browser cannot use it again."""
    workflow_id = served.daemon.submit(name="nightly <b>run</b>")
    with looking(browser, base(served)) as look:
        enter(look.page, served, f"#/w/{workflow_id}")
        expect(look.page.locator(".who")).to_contain_text("acting as")
        expect(look.page.locator("h1")).to_contain_text("nightly <b>run</b>")
        assert look.page.url == f"{base(served)}/#/w/{workflow_id}"
        tab = look.page.context.new_page()
        tab.goto(f"{base(served)}/#/workflows")
        expect(tab.locator(".who")).to_contain_text("acting as")
        look.assert_clean()
    with looking(browser, base(served)) as other:
        other.page.goto(served.url)
        expect(other.page.locator("h1")).to_have_text("Not let in")
        expect(other.page.locator("body")).to_contain_text("has been used")


def test_button_acts_as_the_user(browser: Browser, served: Served) -> None:
    """A gate is opened with two clicks and a reason, and the journal has the name."""
    workflow_id = served.daemon.submit({"name": "gate", "gate": True})
    with looking(browser, base(served)) as look:
        page = look.page
        enter(page, served, f"#/w/{workflow_id}/n/gate")
        page.get_by_role("button", name="release", exact=True).click()
        page.get_by_label("reason").fill("checked by Ada")
        page.get_by_role("dialog").get_by_role("button", name="release").click()
        assert served.daemon.finish(workflow_id) == "succeeded"
        page.goto(f"{base(served)}/#/w/{workflow_id}?tab=journal")
        row = page.locator(".journal tbody tr", has_text="checked by Ada")
        expect(row).to_contain_text(f"{user_name()} (uid {os.geteuid()}")
        look.assert_clean()


@pytest.mark.long
def test_link_of_another_page_leads_to_where_it_says(browser: Browser, served: Served) -> None:
    """A dashboard elsewhere may link to a workflow, though the browser sends no cookie with such a link at first."""
    workflow_id = served.daemon.submit(name="linked")
    with looking(browser, base(served)) as look:
        enter(look.page, served)
        # The same machine by another name is another site.
        look.page.goto(f"http://localhost:{served.daemon.tcp_port}/")
        look.page.evaluate("where => { location.href = where }", f"{base(served)}/#/w/{workflow_id}")
        expect(look.page.locator("h1")).to_contain_text("linked")
        assert look.page.url == f"{base(served)}/?#/w/{workflow_id}"


_ATTACKS = """async ([origin, target]) => {
  const tried = [];
  const header = { "X-Dyrygentd-Page": "1", "Content-Type": "application/json" };
  for (const options of [
    { method: "POST", mode: "no-cors", credentials: "include", body: "{}" },
    { method: "POST", credentials: "include", headers: header, body: "{}" },
    { method: "GET", credentials: "include" },
  ])
    try { tried.push(await (await fetch(origin + target, options)).text()); } catch (error) { tried.push(error.name); }
  const form = document.body.appendChild(document.createElement("form"));
  Object.assign(form, { method: "post", action: origin + target, enctype: "text/plain", target: "_blank" });
  try { form.submit(); } catch (error) { tried.push(error.name); }
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.src = origin + "/";
  return tried;
}"""


@pytest.mark.parametrize("name", ["127.0.0.1", pytest.param("localhost", marks=pytest.mark.long)])
def test_other_pages_in_the_browser_change_and_read_nothing(browser: Browser, served: Served, name: str) -> None:
    """A page on another port of the same host, to which the browser does send the cookie, and one of another site."""
    workflow_id = served.daemon.submit({"name": "gate", "gate": True})
    with looking(browser, base(served)) as look:
        enter(look.page, served)
        # A document without a policy of its own, as a stranger's would be.
        look.page.goto(f"http://{name}:{served.daemon.tcp_port}/v1/stats")
        tried = look.page.evaluate(_ATTACKS, [base(served), f"/v1/workflows/{workflow_id}/cancel"])
        assert set(tried) <= {"TypeError", ""}, tried
        assert served.daemon.ask("GET", f"/v1/workflows/{workflow_id}").json["state"] == "running"
        look.page.goto(f"{base(served)}/#/w/{workflow_id}")
        expect(look.page.locator(".who")).to_contain_text("acting as")


@pytest.mark.long
def test_page_knows_the_way_to_grafana_and_back(browser: Browser, short_tmp: Path) -> None:
    """On `listen` and here, if the daemon's configuration says where it is: with this page's own address for its links."""
    with Daemon(short_tmp / "d.sock", grafana="https://grafana.example/base") as daemon, Served(daemon) as served:
        for origin, first in ((base(served), served.url), (f"http://127.0.0.1:{daemon.tcp_port}", "/")):
            with looking(browser, origin) as look:
                look.page.goto(first if first != "/" else f"{origin}/")
                expected = f"https://grafana.example/base/d/dyrygentd-overview?var-page={quote(origin, safe='')}"
                expect(look.page.locator("footer a")).to_have_attribute("href", expected)
                look.assert_clean()


@pytest.mark.long
def test_daemon_goes_away_and_comes_back(browser: Browser, served: Served) -> None:
    """The page says so and stays, and goes on by itself."""
    with looking(browser, base(served)) as look:
        enter(look.page, served)
        served.daemon.stop()
        expect(look.page.locator(".lost")).to_be_visible(timeout=20_000)
        served.daemon.start()
        expect(look.page.locator(".lost")).to_have_count(0, timeout=20_000)


@pytest.mark.long
def test_commands_to_paste_press_no_keys(browser: Browser, daemon: Daemon) -> None:
    """Whatever a node is called, its command is printable, and a shell reads the name as it is."""
    names = ["a\x03rm -rf ~\nb", "it's \\n \x1b[201~", "-rf", "\u202egnp", "plain", "$(id)`id`!!", "\t\u2028é🙈"]
    with looking(browser, f"http://127.0.0.1:{daemon.tcp_port}") as look:
        page = look.at()
        written = page.evaluate("async names => (await import('/page/parts.js')).shell(...names)", names)
        assert written.isprintable()
        shell = ["bash", "-c", f"printf '%s\\0' {written}"]
        read = subprocess.run(
            shell, capture_output=True, check=True, timeout=30, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
        )
        assert read.stdout.decode().split("\0")[:-1] == names
        # As it stands where somebody copies it from.
        workflow_id = daemon.submit({"name": names[0], "gate": True})
        look.at(f"#/w/{workflow_id}/n/{quote(names[0], safe='')}", until=".command code")
        shown = page.locator(".command code").first.text_content() or ""
        assert shown.startswith("dyrygentctl release ")
        assert shown.isprintable()
        look.assert_clean()


@pytest.mark.long
def test_a_long_name_in_a_command_is_broken(browser: Browser, daemon: Daemon) -> None:
    """What to do next holds the name, and nothing is wider than the window."""
    name = "x" * 200
    workflow_id = daemon.submit({"name": name, "task": "fail"})
    daemon.finish(workflow_id)
    with looking(browser, f"http://127.0.0.1:{daemon.tcp_port}") as look:
        page = look.at(f"#/w/{workflow_id}/n/{name}", until="p.quiet >> text=dyrygentctl")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
