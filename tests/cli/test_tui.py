"""`dyrygentctl watch` that fills the screen, against a real daemon: what is seen, and what each key does."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from dyrygentd.cli import control, standstill
from dyrygentd.cli.tui import marks
from dyrygentd.cli.tui.lines import BranchLine
from dyrygentd.cli.tui.rows import Rows
from dyrygentd.client.sync import Client
from dyrygentd.http.limits import HttpLimits
from dyrygentd.testing import MemoryStore
from tests.cli.support import Terminal, environment_of
from tests.cli.tui.support import HOSTILE, Seen, watched
from tests.http.support import Daemon
from tests.support.servers import wait_until

SIZES = [(80, 24), (100, 30), (200, 50)]


def staged(daemon: Daemon, *, name: str = "replace gra1-osd-42") -> str:
    """Submit a workflow with a failure two floors down, a gate, what is in flight, and what waits; results are held back."""
    nodes: list[dict[str, Any]] = [{"name": "begin", "task": "add", "section": "prepare"}]
    for host in range(5):
        for step in range(3):
            after = [f"host-{host}-{step - 1}"] if step else ["begin"]
            task = "fail" if (host, step) == (3, 0) else "add"
            section = f"hosts/host-{host}"
            nodes.append({"name": f"host-{host}-{step}", "task": task, "immutable": True, "after": after, "section": section})
    nodes.append({"name": "approve", "gate": True, "section": "release"})
    nodes.append({"name": "switch", "task": "add", "immutable": True, "after": ["approve"], "section": "release"})
    workflow = daemon.submit(*nodes, name=name)
    daemon.let_go()
    wait_until(lambda: len(daemon.broker.published) == 6)
    failing = next(message.task_id for message in daemon.broker.published if message.signature.task == "fail")
    daemon.call(daemon.broker.let_go, failing)
    wait_until(lambda: counts(daemon, workflow).get("failed") == 1)
    return workflow


def counts(daemon: Daemon, workflow: str) -> dict[str, int]:
    found: dict[str, int] = daemon.ask("GET", f"/v1/workflows/{workflow}").json["counts"]
    return found


def entries(daemon: Daemon, workflow: str) -> list[tuple[str, str, list[str]]]:
    """Return verb, reason and nodes of what was done."""
    found = daemon.ask("GET", f"/v1/workflows/{workflow}/journal").json["entries"]
    return [(entry["verb"], entry.get("why", ""), entry.get("nodes", [])) for entry in found]


def title(rows: Rows) -> str:
    """Return what the cursor stands on."""
    return rows.line.branch.title if isinstance(rows.line, BranchLine) else ""


async def confirm(seen: Seen, question: str, *why: str) -> None:
    """Answer a question with a reason."""
    await seen.until(question)
    await seen.press(*why, "enter")
    await seen.gone(question)


def test_all_that_matters_is_on_one_screen(holding: Daemon) -> None:
    """State, counts, what waits for a person, boxes with bars, causes, and what is in flight, at any size."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        for words in ("running for", "4 in flight", "waits for a person: 1 gate waits", "F failed 1", "R dispatched 4"):
            await seen.until(words)
        for words in ("prepare", "0/15", "FAILURES BY CAUSE 1 failed", "HELD AND IN FLIGHT"):
            await seen.until(words)
        assert len(seen.lines) <= seen.app.size.height
        # The keys that are used most, and the one that shows all of them, have room everywhere.
        hints = re.sub(" +", " ", seen.lines[-1])
        for key in ("? all keys", "q leave", "n trouble", "e explain", "r retry", "g release"):
            assert key in hints
        assert ("f state" in hints) == (seen.app.size.width > 100)
        # On a wide screen reasons and causes get what boxes do not need.
        right = seen.app.screen.query_one("#right").size.width
        assert right >= (95 if seen.app.size.width == 200 else 30)

    for size in SIZES:
        watched(holding, workflow, scene, size=size)


def test_a_queue_that_nobody_consumes_is_told(idle: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who watches nothing happen is told why, until something does."""
    monkeypatch.setattr(standstill, "AFTER_S", 0.4)
    workflow = idle.submit()
    wait_until(lambda: len(idle.broker.queued) == 1)

    async def scene(seen: Seen) -> None:
        await seen.until("nothing goes on: 1 task in flight; nobody consumes queue 'celery'")
        await asyncio.to_thread(idle.ask, "POST", f"/v1/workflows/{workflow}/pause")
        await seen.gone("nothing goes on")

    watched(idle, workflow, scene)


def test_next_trouble_opens_the_way_to_it(holding: Daemon) -> None:
    """One key from the top to what failed two floors down, the next to the gate, and round again."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("n")
        await seen.until("host-3-0")
        await seen.until("ValueError: no such host")
        rows = seen.app.screen.query_one("#boxes", Rows)
        await seen.until(lambda: title(rows) == "host-3-0")
        await seen.press("n")
        await seen.until("a gate waits for release")
        await seen.until(lambda: title(rows) == "approve")
        await seen.press("N")
        await seen.until(lambda: title(rows) == "host-3-0")
        # Closed again with one key each: first to the box around it, which then closes.
        await seen.press("left", "left")
        await seen.gone("host-3-0 ")

    watched(holding, workflow, scene)


def test_verbs_ask_first_and_say_what_they_mean(holding: Daemon) -> None:
    """Each key that acts is followed by a question with the count; the reason goes into the journal."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("c")
        await seen.until("cancel the whole workflow: 14 nodes")
        await seen.press("escape")
        await seen.gone("cancel the whole workflow")
        await seen.press("tab", "r")
        await seen.until(f"dyrygentctl retry {workflow} --cause")
        await confirm(seen, "retry the only node of cause 1?", *"dns")
        await seen.until("retry: 3 nodes")
        await seen.until(lambda: len(holding.broker.published) == 7)
        await seen.press("tab", "g")
        await confirm(seen, "release the gate 'approve'?", *"ada")
        await seen.until("switch")

    watched(holding, workflow, scene, size=(120, 40))
    assert [(verb, why) for verb, why, _ in entries(holding, workflow)] == [("retry", "dns"), ("release", "ada")]


def test_a_workflow_is_paused_and_resumed_by_one_key(holding: Daemon) -> None:
    """Whichever changes something."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("p")
        await confirm(seen, "pause the workflow: ")
        await seen.until("paused (p resumes it)")
        await seen.press("p")
        await confirm(seen, "resume the workflow: ")
        await seen.gone("paused (p resumes it)")
        await seen.until("JOURNAL 2")

    watched(holding, workflow, scene)
    assert [verb for verb, _, _ in entries(holding, workflow)] == ["pause", "resume"]


def test_nodes_are_skipped_and_retried_by_name(holding: Daemon) -> None:
    """What is chosen on the left is a node like any other."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("n")
        await seen.until("task fail")
        await seen.press("s")
        await confirm(seen, "skip 'host-3-0'?", *"gone")
        await seen.until("K skipped 1")
        await seen.press("r")
        await seen.until("retry 'host-3-0'?")
        await seen.press("enter")
        # The daemon's refusal is shown whole, with what to do, and nothing is done.
        await seen.until("error: ")
        await seen.until("next: ")
        await seen.press("escape")
        await seen.gone("error: ")

    watched(holding, workflow, scene, size=(120, 40))
    assert entries(holding, workflow) == [("skip", "gone", ["host-3-0"])]


def test_what_cannot_be_done_is_told(holding: Daemon) -> None:
    """A key that does nothing says why."""
    workflow = holding.submit(name="w")

    async def scene(seen: Seen) -> None:
        await seen.until("longest in flight")
        for key, words in (("r", "nothing has failed"), ("s", "choose a node or a cause"), ("g", "nothing is held here")):
            await seen.press(key)
            await seen.until(words)
        await seen.press("n")
        await seen.until("nothing waits for a person")

    watched(holding, workflow, scene)
    assert entries(holding, workflow) == []


def test_explanations_and_help_are_read(holding: Daemon) -> None:
    """Why a node does not run, what a cause is, and which keys there are."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("e")
        await seen.until(f"dyrygentctl release {workflow} approve")
        await seen.press("escape", "n", "enter")
        await seen.until("Node 'host-3-0'")
        await seen.until("failed in attempt 1")
        await seen.until("hosts/host-3")
        await seen.press("q", "tab", "enter")
        await seen.until("Cause 1")
        await seen.until(f"dyrygentctl skip {workflow} --cause")
        await seen.press("escape", "question_mark")
        await seen.until("leave; the workflow goes on")
        await seen.press("escape")
        await seen.gone("leave; the workflow goes on")

    watched(holding, workflow, scene, size=(120, 40))


def test_boxes_are_filtered_by_name_and_state(holding: Daemon) -> None:
    """Of hundreds of boxes a person wants to see one."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("f")
        await seen.until("failed only")
        await seen.gone("prepare")
        await seen.press("f")
        await seen.until("held only")
        await seen.until("release")
        await seen.press("F", "F", "slash", *"prep", "enter")
        await seen.until("with 'prep'")
        await seen.gone("hosts")
        await seen.press("escape")
        await seen.until("hosts")

    watched(holding, workflow, scene)


def test_nodes_are_found_wherever_they_are(holding: Daemon) -> None:
    """In boxes that nobody has opened; what is found is chosen, explained and acted on like the rest."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("slash", *"T-2-", "enter")
        await seen.until("FOUND 3")
        await seen.until("host-2-1")
        await seen.press("down", "e")
        await seen.until("Node 'host-2-1'")
        await seen.press("escape", "slash", *"no such", "enter")
        await seen.until("no node has ")
        await seen.press("escape")
        await seen.until("HELD AND IN FLIGHT 5")

    watched(holding, workflow, scene)


def test_all_failures_of_a_box_are_meant_by_it(holding: Daemon) -> None:
    """Without opening it, and none of another box."""
    names = [{"name": f"{box}-{number}", "task": "fail", "section": box} for box in "ab" for number in range(3)]
    workflow = holding.submit(*names, {"name": "g", "gate": True})
    holding.let_go()
    wait_until(lambda: counts(holding, workflow).get("failed") == 6)

    async def scene(seen: Seen) -> None:
        await seen.until("first failure 'a-0'")
        await seen.press("down", "r")
        await confirm(seen, "retry the 3 failures in 'a'?")
        await seen.until("R dispatched 3")

    watched(holding, workflow, scene, size=(120, 40))
    assert entries(holding, workflow) == [("retry", "", ["a-0", "a-1", "a-2"])]


def test_it_follows_what_happens_and_ends_with_the_workflow(holding: Daemon) -> None:
    """Nobody has to press a key for it, and nothing is left to look at after a success."""
    workflow = holding.submit({"name": "a", "task": "add"}, {"name": "b", "task": "add", "after": ["a"], "immutable": True})

    async def scene(seen: Seen) -> None:
        await seen.until("R dispatched 1")
        await seen.until("nothing of task 'add' has ended")
        await asyncio.to_thread(holding.let_go)
        await seen.until("S succeeded 1")
        await seen.until(" left, 1 in flight")
        await asyncio.to_thread(holding.let_go)
        ended = await seen.ended()
        assert ended.view is not None
        assert ended.view.state == "succeeded"

    watched(holding, workflow, scene)


def test_after_a_failure_it_stays_to_be_tried_again(holding: Daemon) -> None:
    """Who watches it fail is the one to do something about it."""
    workflow = holding.submit({"name": "a", "task": "fail"})

    async def scene(seen: Seen) -> None:
        await seen.until("R dispatched 1")
        await asyncio.to_thread(holding.let_go)
        await seen.until("failed after")
        await seen.until("FAILURES BY CAUSE 1 failed")
        await seen.press("r")
        await confirm(seen, "retry all of the workflow that failed")
        await seen.until("running for")
        await seen.until("R dispatched 1")
        await seen.press("q")
        ended = await seen.ended()
        assert ended.view is not None
        assert not ended.view.is_finished

    watched(holding, workflow, scene)


def test_cancelling_ends_it(holding: Daemon) -> None:
    """What was asked for has come."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("c")
        await confirm(seen, "cancel the whole workflow", *"wrong")
        ended = await seen.ended()
        assert ended.view is not None
        assert ended.view.state == "cancelled"

    watched(holding, workflow, scene)
    assert entries(holding, workflow)[0][:2] == ("cancel", "wrong")


def test_a_daemon_that_restarts_is_waited_for(holding: Daemon) -> None:
    """It says so, keeps what it knows on the screen, and goes on by itself."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await asyncio.to_thread(holding.stop)
        await seen.until("reconnecting: ")
        await seen.until("hosts")
        await seen.press("e")
        await seen.until("error: ")
        await seen.press("escape")
        await asyncio.to_thread(holding.start)
        await seen.gone("reconnecting: ")
        await asyncio.to_thread(holding.ask, "POST", f"/v1/workflows/{workflow}/pause", {"why": "later"})
        await seen.until("paused (p resumes it)")

    watched(holding, workflow, scene)


def test_a_workflow_that_is_gone_ends_it(holding: Daemon) -> None:
    """Waiting does not help, so the reason is told where it can be read."""
    workflow = holding.submit({"name": "a", "task": "fail"})
    holding.let_go()
    holding.finish(workflow)

    async def scene(seen: Seen) -> None:
        await seen.until("failed after")
        await asyncio.to_thread(holding.stop)
        holding.store = MemoryStore()
        await asyncio.to_thread(holding.start)
        ended = await seen.ended()
        assert ended.error is not None
        assert workflow in str(ended.error)

    watched(holding, workflow, scene)


def test_nothing_is_asked_while_nothing_happens(holding: Daemon) -> None:
    """Twenty screens that are looked at by nobody cost the daemon nothing but twenty open streams."""
    workflow = staged(holding)

    async def scene(seen: Seen) -> None:
        await seen.until("hosts")
        await seen.press("n")
        await seen.until("host-3-0")
        before = answered(holding)
        # Time passes, as the screen's own clock tells, in which nothing is to be done.
        for _ in range(3):
            await seen.gone(running_for(seen))
        assert answered(holding) - before <= 4

    watched(holding, workflow, scene)


def running_for(seen: Seen) -> str:
    [told] = re.findall(r"running for [\w ]+", seen.text)
    return str(told)


def answered(daemon: Daemon) -> int:
    return sum(daemon.http_statistics().answers.values())


@pytest.mark.parametrize("glyphs", [marks.UNICODE, pytest.param(marks.ASCII, marks=pytest.mark.long)])
def test_names_from_outside_do_no_harm(holding: Daemon, glyphs: marks.Glyphs) -> None:
    """Markup is shown as it is, nothing steers the terminal or turns the line around, and long names are cut to the screen."""
    workflow = holding.submit(
        {"name": HOSTILE, "task": "fail"}, {"name": "g", "gate": True, "section": "[b]s [@click=app.leave]"}, name=HOSTILE
    )
    holding.let_go()
    wait_until(lambda: counts(holding, workflow).get("failed") == 1)

    async def scene(seen: Seen) -> None:
        await seen.until("[red]x[/]")
        await seen.until("[b]s [@cli")
        for key in ("e", "escape", "n", "e", "escape", "tab", "enter", "escape", "r", "escape", "s", "escape"):
            await seen.press(key)
            await seen.pilot.pause()
            shown = "\n".join(seen.lines)
            assert "\x1b" not in shown
            assert "\u202e" not in shown
            assert all(len(line) <= 130 for line in seen.lines)
            if glyphs.is_ascii:
                assert shown.isascii()
        assert seen.app.return_value is None

    watched(holding, workflow, scene, size=(100, 30), glyphs=glyphs)


@pytest.mark.long
def test_a_hundred_thousand_tasks_are_as_many_lines_as_ten(short_tmp: Path) -> None:
    """What is drawn and asked for is a few hundred boxes, and one key leads to the one failure."""
    nodes: list[dict[str, Any]] = [{"name": "begin", "gate": True}]
    for number in range(100_000):
        after = [f"n-{number - 1}"] if number % 100 else ["begin"]
        section = f"racks/rack-{number // 1000}/host-{number // 100}"
        nodes.append({"name": f"n-{number}", "task": "add", "immutable": True, "after": after, "section": section})
    nodes.append({"name": "bad", "task": "fail", "section": "racks/rack-77/host-7712"})
    with Daemon(short_tmp / "d.sock", limits=HttpLimits(nodes_max=200_000)) as daemon, Client(daemon.path) as client:
        workflow = client.submit({"nodes": nodes, "name": "a hundred thousand"}).id
        wait_until(lambda: counts(daemon, workflow).get("failed") == 1)

        async def scene(seen: Seen) -> None:
            rows = seen.app.screen.query_one("#boxes", Rows)
            await seen.until("racks")
            await seen.press("n")
            await seen.until(lambda: title(rows) == "bad")
            assert len(rows.lines) <= 3 * 300 + 10
            await seen.press("slash", *"n-99999", "enter")
            await seen.until("FOUND 1")

        watched(daemon, workflow, scene)


def test_one_of_many_is_chosen(holding: Daemon) -> None:
    """Without a name those are listed that have not finished, with what is to be noted of each."""
    gated, other = staged(holding, name="gated"), holding.submit(name="other")
    ended = holding.submit({"name": "a", "task": "add"}, name="ended")
    holding.ask("POST", f"/v1/workflows/{ended}/cancel")

    async def scene(seen: Seen) -> None:
        await seen.until("gated")
        await seen.until("other")
        assert "ended" not in seen.text
        await seen.until("1 gate waits")
        await seen.press("slash", *"gat", "enter")
        await seen.gone("other")
        await seen.press("enter")
        await seen.until("BOXES")
        await seen.until("hosts")
        await seen.press("q")
        found = await seen.ended()
        assert found.view is not None
        assert found.view.id == gated != other

    watched(holding, None, scene)


def test_there_may_be_nothing_to_choose(daemon: Daemon) -> None:
    """An empty screen would leave one to wonder."""
    daemon.finish(daemon.submit())
    watched = _Screen(daemon, ["watch"], {})
    assert watched.end() == 0
    assert b"there is no workflow that has not finished" in watched.seen
    daemon.stop()
    unreachable = _Screen(daemon, ["watch"], {})
    assert unreachable.end() == 3


def test_nothing_chosen_is_nothing_done(holding: Daemon) -> None:
    """Whoever leaves the list has left."""

    async def scene(seen: Seen) -> None:
        await seen.until("none")
        await seen.press("q")
        assert (await seen.ended()).view is None

    watched(holding, None, scene)


@pytest.mark.parametrize(
    "variables",
    [{}, *(pytest.param(each, marks=pytest.mark.long) for each in ({"NO_COLOR": "1"}, {"LC_ALL": "C", "TERM": "vt100"}))],
)
def test_it_fills_a_real_terminal(holding: Daemon, variables: dict[str, str]) -> None:
    """As a person starts it: it takes the screen, gives it back, and says how to come back."""
    workflow = staged(holding)
    watched = _Screen(holding, ["watch", workflow], variables)
    watched.wait_for(b"BOXES")
    watched.wait_for(b"hosts")
    os.write(watched.terminal, b"q")
    assert watched.end() == 130
    assert b"\x1b[?1049h" in watched.seen
    assert watched.seen.rindex(b"\x1b[?1049l") < watched.seen.index(b"goes on; `dyrygentctl watch")
    if "LC_ALL" in variables:
        assert watched.seen.isascii()
    if "NO_COLOR" in variables:
        assert not [code for code in (b"\x1b[31m", b"\x1b[1;31m", b"48;5", b"48;2") if code in watched.seen]


def test_the_end_is_told_on_the_terminal(holding: Daemon) -> None:
    """Exit status and last line are those of the lines of progress."""
    workflow = holding.submit({"name": "a", "task": "add"})
    watched = _Screen(holding, ["watch", workflow], {})
    watched.wait_for(b"BOXES")
    holding.let_go()
    assert watched.end() == 0
    assert b"succeeded after" in watched.seen


def test_what_has_ended_well_is_told_at_once(daemon: Daemon) -> None:
    """There is nothing to follow."""
    workflow = daemon.submit()
    daemon.finish(workflow)
    watched = _Screen(daemon, ["watch", workflow], {})
    assert watched.end() == 0
    assert b"\x1b[?1049h" not in watched.seen
    assert b"succeeded after" in watched.seen


def test_without_the_extra_there_are_lines(holding: Daemon) -> None:
    """It works as it always has, and one line says what would fill the screen."""
    workflow = holding.submit(name="slow")
    hidden = (
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda name, *a: name != 'textual' and f(name, *a) or None"
    )
    watched = Terminal(holding, "watch", workflow, before=hidden)
    watched.wait_for(b"pip install 'dyrygentd[tui]'")
    watched.wait_for(b"0/1")
    watched.send(signal.SIGINT)
    assert watched.end() == 130
    assert b"\x1b[?1049h" not in watched.seen


@pytest.mark.parametrize("arguments", [["list"], ["watch", "--plain", "@latest"], ["watch", "@latest"], ["explain"]])
def test_other_commands_do_not_load_it(daemon: Daemon, arguments: list[str]) -> None:
    """Half a second is nothing that a script should pay."""
    workflow = daemon.submit()
    daemon.finish(workflow)
    script = (
        "import sys, dyrygentd.cli as program\ntry: program.main()\nfinally: print('textual' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment_of(daemon), capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.splitlines()[-1] == "False"


def test_without_a_terminal_a_workflow_has_to_be_named(daemon: Daemon) -> None:
    """Nobody can choose where nobody is."""
    command = [sys.executable, "-c", "from dyrygentd.cli import main; main()", "watch"]
    done = subprocess.run(command, env=environment_of(daemon), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "name a workflow" in done.stderr
    assert not control._fills_screen()


class _Screen:
    """A `dyrygentctl` on a terminal of a size."""

    def __init__(self, daemon: Daemon, arguments: list[str], variables: dict[str, str], size: tuple[int, int] = (80, 24)) -> None:
        self.terminal, line = pty.openpty()
        fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.seen = b""
        environment = environment_of(daemon) | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | variables
        self._child = subprocess.Popen(
            [sys.executable, "-c", "from dyrygentd.cli import main; main()", *arguments],
            env=environment,
            stdin=line,
            stdout=line,
            stderr=line,
            start_new_session=True,
        )
        os.close(line)

    def wait_for(self, words: bytes) -> None:
        """Read until these words have been seen."""
        while words not in self.seen:
            self.seen += os.read(self.terminal, 10_000)

    def end(self) -> int:
        """Read to the end; return the exit status."""
        try:
            while chunk := os.read(self.terminal, 10_000):
                self.seen += chunk
        except OSError:
            pass  # How a terminal says that the other side is closed.
        os.close(self.terminal)
        return self._child.wait(30)
