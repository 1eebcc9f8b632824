"""The views, in a browser, on a real daemon: what they show, that it fits, and that it is safe and readable for everybody."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from dyrygentd.http.app import AROUND
from dyrygentd.http.limits import HttpLimits
from dyrygentd.loopback.passing import user_name
from tests.http.support import Daemon
from tests.loopback.support import Served
from tests.page.stage import HOSTILE, PRINTABLE, stage
from tests.page.support import Look, looking
from tests.support.servers import wait_until

#: A browser takes long; name this file, or give --long. `test_loopback.py` opens the page among the quick ones.
pytestmark = pytest.mark.long
#: Why a workflow stands as it does.
_REASONS: Final = re.compile(r"/workflows/[^/]+/explain$")

#: Elements of any view; a table of rows in sight and 300 boxes are the most.
_ELEMENTS_MAX: Final = 4000
#: ``{view: (address, what is there as soon as it is)}``
_VIEWS: Final = {
    "fleet": ("#/", ".tile"),
    "list": ("#/workflows", ".row a"),
    "graph": ("#/w/{id}", "#panel :is(svg, table)"),
    "inside": ("#/w/{id}?path=hosts", "#panel :is(svg, table)"),
    "timeline": ("#/w/{id}?tab=timeline", "#panel canvas"),
    "causes": ("#/w/{id}?tab=causes", ".causes li"),
    "nodes": ("#/w/{id}?tab=nodes", ".row a"),
    "journal": ("#/w/{id}?tab=journal", ".journal td"),
    "failed": ("#/w/{id}/n/first-bad", "pre.error"),
    "gate": ("#/w/{id}/n/gate", ".facts"),
}


#: Notes when folds are asked for, streams left aside.
_NOTE_FOLDS: Final = """window.asked = [];
const { fetch } = window;
window.fetch = (path, ...given) => {
  if (path.endsWith("/fold")) window.asked.push(Date.now());
  return fetch(path, ...given);
};"""


#: Names of links that are shortened, and cells that are left out or reach beyond the table.
_CUT_ON_A_PHONE: Final = """() => {
  const right = document.querySelector(".rows").getBoundingClientRect().right;
  const rows = [...document.querySelectorAll(".rows-all .row")];
  return rows.flatMap((row) => [...row.querySelectorAll(".cell")].filter((cell) => {
    const { width, right: end } = cell.getBoundingClientRect();
    const link = cell.querySelector("a:not(.label)")?.getBoundingClientRect();
    const isLeftOut = width === 0 && cell.textContent && !cell.classList.contains("wide-only");
    return isLeftOut || end > right || (link && link.right > cell.getBoundingClientRect().right + 1);
  }).map((cell) => cell.textContent));
}"""


def _base(daemon: Daemon) -> str:
    return f"http://127.0.0.1:{daemon.tcp_port}"


def _walk(look: Look, workflow_id: str, each: Callable[[str], None]) -> None:
    """Go through all views."""
    for view, (address, there) in _VIEWS.items():
        look.at(address.format(id=workflow_id), until=there)
        each(view)


@contextmanager
def _acting(daemon: Daemon, browser: Browser) -> Iterator[Look]:
    """Open a tab on what `dyrygentctl ui` serves."""
    with Served(daemon) as served, looking(browser, f"http://127.0.0.1:{served.port}") as look:
        look.page.goto(served.url)
        look.page.locator("h1").first.wait_for()
        yield look


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_views_are_readable(holding: Daemon, browser: Browser, dark: bool) -> None:
    """Contrast, names, roles and headings are as a screen reader, and tired eyes, need them."""
    workflow_id = stage(holding, 57)
    with looking(browser, _base(holding), dark=dark) as look:
        _walk(look, workflow_id, lambda _: look.assert_readable())
        look.assert_clean()


def test_views_fit_on_a_phone(holding: Daemon, browser: Browser) -> None:
    """Nothing is wider than a narrow screen, whatever something is called."""
    workflow_id = stage(holding, 57, name=HOSTILE)
    with looking(browser, _base(holding), width=400) as look:
        wide: list[str] = []

        def measure(view: str) -> None:
            if look.page.evaluate("document.documentElement.scrollWidth") > 400:
                wide.append(view)

        _walk(look, workflow_id, measure)
        look.assert_clean()
        assert wide == []


def test_a_phone_leaves_nothing_out(holding: Daemon, browser: Browser) -> None:
    """Columns stand in two lines there, so names are not cut, and what went wrong is below them; rows are where they seem."""
    workflow_id = stage(holding, 1000, name="replace the disks of gra1-osd-42")
    with looking(browser, _base(holding), width=400) as look:
        for address in ("#/workflows", f"#/w/{workflow_id}?tab=nodes"):
            page = look.at(address, until=".row a")
            heads = page.locator(".rows-head .cell:not(.wide-only)")
            assert all(heads.nth(number).is_visible() for number in range(heads.count()))
            assert page.evaluate(_CUT_ON_A_PHONE) == []
            look.assert_readable()
        row = page.locator(".row", has=page.get_by_role("link", name="first-bad", exact=True))
        assert row.locator(".short").bounding_box()["y"] > row.locator("a").bounding_box()["y"] + 10  # type: ignore[index]
        expect(row).to_contain_text("attempt 1")
        page.locator(".rows").evaluate("each => { each.scrollIntoView(); each.scrollTo(0, 56 * 200); }")
        expect(page.locator(".rows .row[aria-rowindex='202']")).to_be_in_viewport()
        page.set_viewport_size({"width": 1200, "height": 800})
        page.locator(".rows").evaluate("each => { each.scrollIntoView(); each.scrollTo(0, 34 * 200); }")
        expect(page.locator(".rows .row[aria-rowindex='202']")).to_be_in_viewport()
        look.assert_clean()


def test_what_is_out_of_sight_has_a_shade(holding: Daemon, browser: Browser) -> None:
    """A table that is wider than the screen looks cut on the side where there is more."""
    workflow_id = stage(holding, 57)
    with looking(browser, _base(holding), width=400) as look:
        page = look.at(f"#/w/{workflow_id}", until="#panel svg")
        page.get_by_role("button", name="as a table").click()
        table = page.locator("#panel .scroll")
        assert table.evaluate("each => each.scrollWidth > each.clientWidth")
        assert table.evaluate("each => getComputedStyle(each).backgroundAttachment") == "local, local, scroll, scroll"
        look.assert_clean()


def test_what_is_held_in_advance_can_be_let_go(holding: Daemon, browser: Browser) -> None:
    """A node that waits, and is to be held once it is free, has a button that takes this back."""
    workflow_id = stage(holding, 57)
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}")
        offered = page.evaluate(
            """async (nodes) => {
                const { actsOnNode } = await import('/page/acts.js');
                return nodes.map((node) => actsOnNode('w', { name: 'n', ...node }).map((act) => act.about.split(" '")[0]));
            }""",
            [
                {"state": "waiting", "kind": "task"},
                {"state": "waiting", "kind": "task", "is_on_hold": True},
                {"state": "held", "kind": "task", "hold": "operator", "is_on_hold": True},
                {"state": "held", "kind": "gate", "hold": "gate"},
                {"state": "waiting", "kind": "gate", "is_on_hold": True},
            ],
        )
        keep, let_go, skip = "Keep from being dispatched:", "Let go", "Go on without"
        assert offered == [[keep, skip], [let_go, skip], [let_go, skip], ["Open the gate", keep, skip], [let_go, skip]]
        look.assert_clean()


def test_the_journal_says_it_once(holding: Daemon, browser: Browser) -> None:
    """What one did again and again is a line with a count; below a line of the same nodes their names are not repeated."""
    workflow_id = stage(holding, 57)
    for verb, nodes, why in (
        ("hold", ["gated-4", "gated-7"], "look"),
        ("release", ["gated-4"], ""),
        ("hold", ["gated-4"], "look"),
        ("pause", [], ""),
        ("resume", [], ""),
    ):
        assert holding.ask("POST", f"/v1/workflows/{workflow_id}/{verb}", {"nodes": nodes, "why": why}).status == 200
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}?tab=journal", until=".journal td")
        told = [each.replace("\n", " ") for each in page.locator(".journal td:nth-child(2)").all_inner_texts()]
        assert told[:5] == ["resume", "pause", "hold gated-4", "release ″", "hold 2 nodes: gated-4 gated-7"]
        expect(page.get_by_role("img", name="gated-4")).to_have_count(1)
        entries = [{"at": at, "verb": "retry", "by": f"ada (uid 7, pid {at})", "nodes": ["n"], "count": 1} for at in range(47)]
        lines = page.evaluate(
            "async (all) => (await import('/page/journal.js')).linesOf(all)", [*entries, {"at": 99, "verb": "pause"}]
        )
        assert [(line["verb"], line["times"], line["since"], line["at"]) for line in lines] == [
            ("pause", 1, 99, 99),
            ("retry", 47, 0, 46),
        ]
        assert lines[1]["by"] == "ada (uid 7)"
        look.assert_readable()
        page.locator(".journal a").first.click()
        expect(page.locator("h1")).to_contain_text("gated-4")
        look.assert_clean()


@pytest.mark.parametrize(
    "nodes",
    [
        57,
        1000,
        pytest.param(10_000, marks=pytest.mark.long),
        pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(900)]),
    ],
)
def test_any_size_is_few_elements(holding: Daemon, browser: Browser, nodes: int) -> None:
    """A browser has as much to do with a hundred thousand nodes as with a hundred."""
    workflow_id = stage(holding, nodes)
    with looking(browser, _base(holding)) as look:
        sizes: dict[str, int] = {}
        _walk(look, workflow_id, lambda view: sizes.update({view: look.elements()}))
        look.assert_clean()
    assert {view: number for view, number in sizes.items() if number > _ELEMENTS_MAX} == {}


def test_rows_in_sight_are_drawn(holding: Daemon, browser: Browser) -> None:
    """Of ten thousand nodes some thirty are in the document, and whoever scrolls gets the others."""
    workflow_id = stage(holding, 3000)
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}?tab=nodes", until=".row a")
        rows = page.locator(".rows .row")
        assert rows.count() < 70

        def is_at(number: int) -> bool:
            page.locator(".rows").evaluate("each => each.scrollTo(0, each.scrollHeight)")
            return page.locator(f".rows .row[aria-rowindex='{number}']").count() > 0

        wait_until(lambda: is_at(1001), timeout_s=30)
        assert rows.count() < 90
        look.assert_clean()


def test_names_do_no_harm(daemon: Daemon, look: Look) -> None:
    """What users wrote is text: no element, no script, no turned line, no control character."""
    node = {"name": HOSTILE, "task": "fail", "payload": {HOSTILE: HOSTILE}, "args": [HOSTILE], "section": PRINTABLE}
    workflow_id = daemon.submit(node, name=HOSTILE, labels={"k": HOSTILE[:100]})
    daemon.finish(workflow_id)
    for address in ("#/", "#/workflows", f"#/w/{workflow_id}", f"#/w/{workflow_id}?tab=causes", f"#/w/{workflow_id}?tab=nodes"):
        page = look.at(address, until="main .name")
        assert page.locator("main img").count() == 0
        text = page.inner_text("body")
        assert "<img src=x" in text
        assert not {"\u202e", "\x1b"} & set(text)
        assert page.evaluate("window.harmed") is None
    look.page.locator(".rows .row a").first.click()
    expect(look.page.locator("pre.error")).to_contain_text("no such host")
    assert look.page.evaluate("window.harmed") is None


def test_secrets_stay_hidden(holding: Daemon, browser: Browser) -> None:
    """What the daemon redacts is nowhere in the page."""
    workflow_id = stage(holding, 57)
    with _acting(holding, browser) as look:
        page = look.at(f"#/w/{workflow_id}/n/bad-20", until="h2:has-text('Arguments')")
        assert "password" in page.inner_text("main")
        assert "hunter2" not in page.content()
        look.assert_clean()


def test_what_changes_is_seen(holding: Daemon, browser: Browser) -> None:
    """An open page follows the workflow to its end by itself."""
    workflow_id = holding.submit({"name": "one", "task": "add"}, {"name": "two", "task": "fail", "after": ["one"]})
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}")
        expect(page.locator("h1")).to_contain_text("running")
        holding.let_go()
        holding.let_go()
        expect(page.locator("h1")).to_contain_text("failed", timeout=20_000)
        expect(page.locator(".head .counts")).to_contain_text("1 failed")
        # The picture is told by the stream, and by nothing else.
        expect(page.locator("#panel svg")).to_contain_text("no such host")
        look.assert_clean()


def test_a_page_that_nobody_sees_asks_nothing(holding: Daemon, browser: Browser) -> None:
    """Fifty forgotten tabs cost the daemon nothing; one that is looked at again is as new as the daemon."""
    workflow_id = holding.submit({"name": "one", "task": "add"})
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}", until="#panel svg")
        _show(page, is_hidden=True)
        wait_until(lambda: holding.call(lambda: holding.public[AROUND].statistics().streams) == 0)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        holding.let_go()
        assert holding.finish(workflow_id) == "succeeded"
        # Two rounds of what would be asked again and again: in this time nothing is.
        page.wait_for_timeout(4500)
        assert asked == []
        _show(page, is_hidden=False)
        expect(page.locator("h1")).to_contain_text("succeeded")
        expect(page.locator("#panel svg")).to_contain_text("succeeded")
        look.assert_clean()


def test_a_page_that_finds_no_place_says_so(short_tmp: Path, browser: Browser) -> None:
    """Where all streams are taken it asks for the boxes now and then, and says so; it is told of them as soon as it finds one."""
    with Daemon(short_tmp / "d.sock", holds=True, limits=HttpLimits(streams_max=1)) as daemon:
        workflow_id = daemon.submit(*({"name": f"n{number}", "task": "add"} for number in range(3)))
        with looking(browser, _base(daemon)) as first, looking(browser, _base(daemon)) as second:
            first.at(f"#/w/{workflow_id}", until="#panel svg")
            second.expect("status of 503")
            second.page.clock.install()
            second.page.add_init_script(_NOTE_FOLDS)
            page = second.at(f"#/w/{workflow_id}", until="#panel svg")
            said = page.locator("#panel > [role=status]")
            expect(said).to_contain_text("the daemon serves 1 event streams already")
            expect(said).to_contain_text("every 10 s instead")
            second.assert_readable()
            page.clock.pause_at(page.evaluate("Date.now() / 1000 + 1"))
            daemon.call(lambda: daemon.broker.let_go(daemon.broker.published[0].task_id))

            def has_asked() -> bool:
                page.clock.run_for(1000)
                return len(page.evaluate("asked")) > 3

            wait_until(has_asked, timeout_s=30)
            times = page.evaluate("asked.splice(0)")
            assert all(10_000 <= later - sooner < 20_000 for sooner, later in pairwise(times[1:]))
            expect(page.locator("#panel svg")).to_contain_text("succeeded")
            first.page.goto("about:blank")
            wait_until(lambda: daemon.call(lambda: daemon.public[AROUND].statistics().streams) == 0)
            page.clock.run_for(60_000)
            expect(said).to_be_empty()
            wait_until(lambda: daemon.call(lambda: daemon.public[AROUND].statistics().streams) == 1)
            second.assert_clean()


def test_who_runs_again_is_followed_again(holding: Daemon, browser: Browser) -> None:
    """A stream ends with the workflow; after a retry there is another one, and only one."""
    workflow_id = holding.submit({"name": "one", "task": "fail"})
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}", until="#panel svg")
        holding.let_go()
        expect(page.locator("h1")).to_contain_text("failed", timeout=20_000)
        expect(page.locator("#panel svg")).to_contain_text("failed")
        wait_until(lambda: holding.call(lambda: holding.public[AROUND].statistics().streams) == 0)
        asked: list[str] = []
        page.on("request", lambda request: asked.extend([request.url] if "/fold" in request.url else []))
        assert holding.ask("POST", f"/v1/workflows/{workflow_id}/retry", {"why": "again"}).status == 200
        expect(page.locator("#panel svg")).to_contain_text("in flight", timeout=20_000)
        assert len(asked) == 1
        look.assert_clean()


def test_boxes_are_asked_for_first(holding: Daemon, browser: Browser) -> None:
    """They take longest to come, and how long all of it takes is worked out when they are there, since that keeps a core busy."""
    workflow_id = stage(holding, 57)
    with looking(browser, _base(holding)) as look:
        asked: list[str] = []
        look.page.on("request", lambda request: asked.append(request.url.partition(workflow_id)[2]))
        with look.page.expect_request("**/estimate"):
            look.at(f"#/w/{workflow_id}", until="#panel svg")
        assert asked.index("/fold/events") < asked.index("/estimate")
        look.assert_clean()


def test_a_daemon_that_is_away_is_told(daemon: Daemon, look: Look) -> None:
    """Whoever looks knows that nothing is known, and what was known stays."""
    workflow_id = daemon.submit(name="still there")
    page = look.at(f"#/w/{workflow_id}")
    look.expect("ERR_CONNECTION_REFUSED")
    look.expect("ERR_CONNECTION_RESET")
    look.expect("ERR_EMPTY_RESPONSE")
    daemon.stop()
    expect(page.locator(".lost")).to_contain_text("does not answer", timeout=20_000)
    expect(page.locator("h1")).to_contain_text("still there")


def test_what_is_not_there_says_so(daemon: Daemon, look: Look) -> None:
    """A link to something that has expired leads to words."""
    look.expect("404")
    page = look.at("#/w/nothing", until=".problem")
    expect(page.locator(".problem")).to_contain_text("nothing")
    assert look.at("#/nowhere").inner_text("h1") == "Nothing here"


def test_links_share_what_is_seen(holding: Daemon, browser: Browser) -> None:
    """Filters and tabs stand in the address, and an address leads back to them."""
    workflow_id = stage(holding, 57)
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}", until=".head .counts button")
        page.locator(".head .counts button", has_text="failed").click()
        page.wait_for_url("**tab=nodes*")
        expect(page.locator(".rows .row a").first).to_have_text("first-bad")
        again = look.at(page.url.partition("/#")[2].join(("#", "")), until=".rows .row a")
        expect(again.locator("[role=tab][aria-selected=true]")).to_have_text("Nodes")
        expect(again.locator(".counts button[aria-pressed=true]")).to_contain_text("failed")
        look.at("#/workflows?state=succeeded", until=".rows")
        expect(page.locator(".rows")).to_contain_text("no workflow fits")
        look.assert_clean()


def test_keys_are_enough(holding: Daemon, browser: Browser) -> None:
    """Tabs and rows are reached and changed without a mouse."""
    workflow_id = stage(holding, 57)
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}", until="[role=tab]")
        page.locator("[role=tab][aria-selected=true]").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        expect(page.locator("[role=tab][aria-selected=true]")).to_have_text("Nodes")
        page.locator(".rows .row a").first.focus()
        page.keyboard.press("ArrowDown")
        expect(page.locator(":focus")).to_have_text("first-bad")
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_contain_text("first-bad")
        # Whoever hears the page is told that another view is there.
        expect(page).to_have_title("first-bad · of every state · dyrygentd")
        expect(page.locator("main")).to_be_focused()
        assert page.locator("main").evaluate("each => getComputedStyle(each).outlineStyle") == "none"
        look.assert_clean()


def test_how_long_it_takes_is_told(holding: Daemon, browser: Browser) -> None:
    """Beside how a workflow stands is how long it still takes, and the longest way there leads to its nodes."""
    measured = holding.submit()
    holding.let_go()
    holding.finish(measured)
    nodes = [{"name": f"n{number}", "task": "add", "after": [f"n{number - 1}"] if number else []} for number in range(4)]
    workflow_id = holding.submit(*nodes)
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}", until=".head summary")
        page.locator("summary", has_text="the longest way: 4 nodes").click()
        page.locator(".way a", has_text="n3").click()
        expect(page.locator("h1")).to_contain_text("n3")
        look.assert_clean()


def test_where_it_only_reads_there_are_commands(holding: Daemon, browser: Browser) -> None:
    """On `listen` nobody is anybody, so the page says what to paste instead."""
    workflow_id = stage(holding, 57)
    with looking(browser, _base(holding)) as look:
        page = look.at(f"#/w/{workflow_id}/n/gate", until=".toolbar code")
        assert page.locator(".toolbar code").first.inner_text() == f"dyrygentctl release {workflow_id} gate"
        page = look.at(f"#/w/{workflow_id}?tab=causes", until=".causes code")
        assert f"dyrygentctl retry {workflow_id} --cause" in page.locator(".causes code").first.inner_text()
        look.assert_clean()


def test_what_is_advised_can_be_pasted(daemon: Daemon, look: Look) -> None:
    """A command names the workflow and all of a group; failures lead to their causes, and nothing waits that has ended."""
    failing = daemon.submit(
        {"name": "two-7", "task": "fail"}, {"name": "two-8", "task": "fail"}, {"name": "gone", "task": "add", "after": ["two-7"]}
    )
    daemon.finish(failing)
    page = look.at(f"#/w/{failing}", until=".why li")
    expect(page.locator(".verdict-line")).to_contain_text("what failed, by cause")
    assert "`" not in page.locator(".why").inner_text()
    expect(page.locator(".why summary")).to_have_text("what did not succeed")
    expect(page.locator(".why li").first).to_contain_text("two-7 failed")
    assert page.locator(".why li code").first.inner_text().startswith(f"dyrygentctl retry {failing} --cause ")
    page.locator(".verdict-line a").click()
    expect(page.locator(".causes > li")).to_have_count(1)
    page.locator("[role=tab]", has_text="Nodes").click()
    expect(page.locator(".rows .row a")).to_have_text(["two-7", "two-8"])
    page.locator(".counts button[aria-pressed=true]").click()
    expect(page.locator(".rows .row a")).to_have_count(3)
    held = daemon.submit({"name": "gate", "gate": True}, name="of the gate")
    page = look.at(f"#/w/{held}", until=".verdict-line code")
    assert page.locator(".verdict-line code").inner_text() == f"dyrygentctl release {held} gate"
    expect(page.locator(".why summary")).to_have_text("what its nodes wait for")
    page = look.at(f"#/w/{held}/n/gate", until=".part code")
    expect(page.locator(".crumbs")).to_contain_text("of the gate")


def test_where_it_acts_it_asks_first(holding: Daemon, browser: Browser) -> None:
    """A button shows how many nodes are meant and takes the reason, and the journal names who did it."""
    workflow_id = stage(holding, 57)
    with _acting(holding, browser) as look:
        page = look.at(f"#/w/{workflow_id}?tab=causes", until=".causes .acts button")
        expect(page.locator(".who")).to_contain_text(f"acting as {user_name()}")
        failed = int(page.locator(".causes .large").first.inner_text())
        page.locator(".causes .acts button", has_text="retry").first.click()
        expect(page.locator("dialog .large")).to_have_text(str(failed))
        look.assert_readable()
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
        assert "retry" not in _verbs(holding, workflow_id)
        page.locator(".causes .acts button", has_text="retry").first.click()
        page.locator("dialog input").fill("DNS is back")
        page.keyboard.press("Enter")
        expect(page.locator("dialog")).to_have_count(0)
        look.assert_clean()
    entries = holding.ask("GET", f"/v1/workflows/{workflow_id}/journal").json["entries"]
    assert (entries[-1]["verb"], entries[-1]["why"]) == ("retry", "DNS is back")


def test_a_button_that_moves_while_it_is_pressed_is_meant(holding: Daemon, browser: Browser) -> None:
    """Why a workflow stands as it does can come between the press and its end, and pushes down all that is below."""
    workflow_id = stage(holding, 57)
    with _acting(holding, browser) as look:
        held: list[Route] = []
        look.page.route(_REASONS, lambda route: held.append(route))
        with look.page.expect_request(_REASONS):
            page = look.at(f"#/w/{workflow_id}?tab=causes", until=".causes .acts button")
        button = page.locator(".causes .acts button", has_text="skip").first
        button.hover()
        page.mouse.down()
        before = button.bounding_box()
        for route in held:
            route.continue_()
        page.locator(".why").wait_for()
        after = button.bounding_box()
        assert before is not None
        assert after is not None
        assert after["y"] > before["y"] + before["height"]
        page.mouse.up()
        expect(page.locator("dialog h2")).to_contain_text("Go on without cause")
        look.assert_clean()


def test_an_address_opens_once(daemon: Daemon, browser: Browser) -> None:
    """Who finds it in somebody's history sees nothing, and is told what to do."""
    with Served(daemon) as served, looking(browser, f"http://127.0.0.1:{served.port}") as first:
        first.page.goto(served.url)
        expect(first.page.locator("h1")).to_have_text("Overview")
        first.assert_clean()
        with looking(browser, first.base) as second:
            second.expect("Failed to load resource: the server responded with a status of 40")
            second.page.goto(served.url)
            expect(second.page.locator("h1")).to_contain_text("Not let in")
            assert second.page.goto(f"{first.base}/v1/stats").status == 401  # type: ignore[union-attr]


def test_colours_can_be_chosen(daemon: Daemon, look: Look) -> None:
    """Whoever wants it dark has it dark, also next time."""
    dark = "rgb(20, 23, 27)"
    page = look.at("#/")
    expect(page.locator("body")).not_to_have_css("background-color", dark)
    page.locator(".scheme select").select_option("dark")
    expect(page.locator("body")).to_have_css("background-color", dark)
    expect(look.at("#/workflows").locator("body")).to_have_css("background-color", dark)


def _show(page: Page, *, is_hidden: bool) -> None:
    """Have a page believe that its tab is not seen, or is seen again: a browser without a window cannot hide one."""
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


def _verbs(daemon: Daemon, workflow_id: str) -> list[str]:
    return [entry["verb"] for entry in daemon.ask("GET", f"/v1/workflows/{workflow_id}/journal").json["entries"]]


def test_failures_that_are_not_shown_are_where_it_says(look: Look, daemon: Daemon) -> None:
    """How many failed in a day nobody counts, and the command lists them all."""
    for number in range(7):
        daemon.finish(daemon.submit({"name": "a", "task": "fail"}, name=f"f{number}"))
    found = look.at("#/", until=".findings").locator(".findings", has_text="Failed lately")
    expect(found.locator("h2")).to_contain_text("6 or more")
    expect(found).to_contain_text("and more (failed):")
    expect(found).to_contain_text("dyrygentctl list --state failed --all")
    expect(found.locator("a", has_text="more (failed)")).to_have_attribute("href", "#/workflows?state=failed")
    expect(found.locator("li").first).to_contain_text("f6")
    look.assert_clean()


def test_what_keeps_failing_is_told_wherever_one_looks(look: Look, daemon: Daemon) -> None:
    """A task that fails for the fortieth time has not failed for good, and is what somebody looks for."""
    retry = {"attempts": 1000, "backoff_s": 0.01, "backoff_max_s": 0.01}
    workflow_id = daemon.submit({"name": "a", "task": "fail", "retry": retry}, {"name": "g", "gate": True}, name="loop")
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow_id}").json.get("keeps_failing") == 1)
    daemon.ask("POST", f"/v1/workflows/{workflow_id}/pause")
    page = look.at("#/", until=".findings")
    found = page.locator("section.findings", has_text="Keeps failing").locator("li")
    expect(found).to_contain_text("'a' has failed ")
    expect(found).to_contain_text(": ValueError: no such host")
    expect(page.locator(".verdict")).to_contain_text("1 node keeps failing")
    found.get_by_role("link", name="loop").click()
    expect(page.locator(".head")).to_contain_text("Keeps failing: 1 node, tried again")
    tried = page.locator("#panel section")
    expect(tried).to_contain_text("Tried again 1 node")
    expect(tried).to_contain_text("times in a row")
    look.assert_readable()
    tried.get_by_role("link", name="a", exact=True).click()
    attempts = page.locator("table.attempts")
    expect(attempts.locator("tbody tr").nth(1)).to_contain_text("ValueError: no such host")
    titles = attempts.locator("th").all_inner_texts()
    # What matters first, and nothing that no attempt can tell: nobody has said who works here.
    assert titles[:3] == ["attempt", "how it ended", "ran"]
    assert "worker" not in titles
    page.set_viewport_size({"width": 400, "height": 800})
    ended = attempts.locator("tbody td:nth-child(2)").first.bounding_box()
    assert ended is not None
    assert ended["x"] + 100 < 400
    look.assert_clean()


def test_who_holds_it_and_since_when_stands_where_it_is_looked_at(look: Look, holding: Daemon) -> None:
    """Of a gate, a held node and a paused workflow, on its page and on that of the node."""
    workflow_id = holding.submit({"name": "g", "gate": True}, {"name": "a", "task": "add"}, name="w")
    holding.ask("POST", f"/v1/workflows/{workflow_id}/pause", {"why": "CHG-42"})
    look.base = f"http://127.0.0.1:{holding.tcp_port}"
    page = look.at(f"#/w/{workflow_id}")
    why = page.locator(".why")
    expect(why).to_contain_text("waits since")
    expect(why).to_contain_text(": CHG-42")
    page = look.at(f"#/w/{workflow_id}/n/g")
    expect(page.locator(".decided")).to_contain_text("waits since")
    holding.ask("POST", f"/v1/workflows/{workflow_id}/cancel", {"why": "over"})
    look.assert_clean()
