"""A deputy behind a socket: what clients and the command line see of one that does not lead."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest
from click.testing import Result

from dyrygentd import Client, wire
from dyrygentd.cli import main
from dyrygentd.http.app import make_app
from dyrygentd.http.server import serving
from dyrygentd.http.sockets import listen_unix
from tests.cli.tui.support import Seen, watched
from tests.deputy.support import LEADER
from tests.deputy.test_deputy import Pair, on_disk, pair
from tests.http.support import Answer, unix_connection
from tests.scheduler.support import definition, until
from tests.support.commands import runner
from tests.support.postgres import PostgresServer


class DeputyDaemon:
    """A leader, and its deputy on a socket, in a thread."""

    def __init__(self, path: Path, server: PostgresServer) -> None:
        self.path = path
        self._server = server
        self.running: Pair

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["DeputyDaemon"]:
        """Serve the deputy."""
        async with pair(self._server, role="gateway") as self.running:
            deputy = self.running.deputy
            app = make_app(deputy, render_metrics=lambda _: (b"", "text/plain"), read_only=False)
            listener = listen_unix(self.path)
            try:
                async with serving(app, [listener.socket]):
                    yield self
            finally:
                listener.close()

    def call(self, *call: Any) -> Any:
        """Call something in the loop."""
        return self.portal.call(*call)

    portal: Any = None

    def ask(self, target: str, method: str = "GET", body: bytes | None = None) -> Answer:
        """Ask it."""
        connection = unix_connection(self.path)
        try:
            connection.request(method, target, body=body, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def ctl(self, *arguments: str) -> Result:
        """Run a command against it."""
        return runner().invoke(main, ["--socket", str(self.path), *arguments], catch_exceptions=False)

    async def begin(self, text: str, name: str) -> str:
        """Have the leader begin a workflow, and return its id when its first task is on disk as sent."""
        leader, broker = self.running.leader, self.running.broker
        count = len(broker.published)
        workflow_id = (await leader.submit_definition(definition(text, name=name))).id
        await until(lambda: len(broker.published) > count)
        await on_disk(self.running)
        return workflow_id

    async def finish(self, workflow_id: str) -> None:
        """Have a workflow end."""
        self.running.broker.holds = False
        self.running.broker.let_go()
        await self.running.leader.wait(workflow_id)


@pytest.fixture
def gateway(short_tmp: Path, shared_postgres: PostgresServer) -> Iterator[DeputyDaemon]:
    """A gateway beside a leader."""
    daemon = DeputyDaemon(short_tmp / "g.sock", shared_postgres)
    with anyio.from_thread.start_blocking_portal() as portal, portal.wrap_async_context_manager(daemon.serving()):
        daemon.portal = portal
        yield daemon


def test_each_answer_says_who_leads(gateway: DeputyDaemon) -> None:
    """Whatever is asked, the answer has it; health and statistics have it as fields."""
    for target in (
        "/healthz",
        "/readyz",
        "/v1/stats",
        "/v1/workflows",
        "/",
        "/metrics",
        "/v1/run-times",
        "/v1/explain",
        "/nowhere",
    ):
        answer = gateway.ask(target)
        assert f"{LEADER.words} leads" in answer.headers[wire.VANTAGE_HEADER], target
        assert answer.status == (404 if target == "/nowhere" else 200), target
    health = gateway.ask("/healthz").json
    assert (health["role"], health["leader"], health["term"]) == ("gateway", LEADER.words, 7)
    assert gateway.ask("/v1/stats").json["role"] == "gateway"


def test_commands_work_and_say_what_answers(gateway: DeputyDaemon) -> None:
    """What is looked at is as at the leader; on stderr stands once who answers, and data stays data."""
    workflow_id = gateway.call(gateway.begin, "a; b < a", "nightly")
    said = f"answered by a gateway, from what is stored: {LEADER.words} leads"
    for command in (
        ("list",),
        ("show", "nightly"),
        ("show", workflow_id[:8], "--node", "a"),
        ("explain", "nightly"),
        ("explain",),
        ("timeline", "nightly"),
        ("events", "nightly"),
        ("graph", "nightly"),
    ):
        if command[0] == "events":
            gateway.call(gateway.finish, workflow_id)
        result = gateway.ctl(*command)
        assert result.exit_code == 0, (command, result.output)
        assert result.stderr.count(said) == 1, (command, result.stderr)
        assert "answered by" not in result.stdout
    result = gateway.ctl("--json", "wait", "nightly")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (0, "succeeded")


def test_stats_say_who_leads(gateway: DeputyDaemon) -> None:
    """What only the leader counts is not shown as nothing."""
    gateway.call(gateway.begin, "a", "nightly")
    gateway.call(gateway.running.deputy._lookout.look)
    result = gateway.ctl("stats")
    assert result.exit_code == 0
    assert "a gateway for" in result.stdout
    assert f"leader     {LEADER.words}, heard of" in result.stdout
    assert re.search(r"^lease +term 7, \w+ for .* s, 2 standbys$", result.stdout, re.MULTILINE)
    assert "1 unfinished; the leader's own `stats` has the rest" in result.stdout


def test_clients_follow_and_wait(gateway: DeputyDaemon) -> None:
    """A program at a gateway gets events and the outcome, and is told once what answers, if it wants to know."""
    workflow_id, told = gateway.call(gateway.begin, "a; b < a", "nightly"), list[str]()
    with Client(str(gateway.path), note=told.append) as client:
        handle = client.handle("nightly")
        events = handle.events()
        assert next(iter(events)).id == workflow_id
        gateway.call(gateway.finish, workflow_id)
        assert [view.state for view in events][-1] == "succeeded"
        assert handle.wait(timeout_s=30).state == "succeeded"
        # Carried out by the leader, of what has ended already.
        assert not handle.cancel().is_changed
    assert len(told) == 1


def test_watch_follows_and_says_what_answers(gateway: DeputyDaemon) -> None:
    """Lines for a log follow to the end, and one of them says that what is seen is stored, how old it is and who leads."""
    gateway.call(gateway.begin, "a; b < a", "nightly")
    with ThreadPoolExecutor(1) as other:
        watched = other.submit(gateway.ctl, "watch", "nightly", "--plain")
        gateway.call(gateway.finish, gateway.ask("/v1/workflows/nightly").json["id"])
        result = watched.result(timeout=60)
    assert result.exit_code == 0, result.output
    assert result.stderr.count(f"answered by a gateway, from what is stored: {LEADER.words} leads, heard of ") == 1
    assert "succeeded" in result.stderr


def test_screen_says_what_answers_and_acts_by_letter(gateway: DeputyDaemon) -> None:
    """The full screen has a line for it, which follows who leads; its keys act by letter; it ends with the workflow."""
    workflow_id = gateway.call(gateway.begin, "a; b < a", "nightly")

    async def scene(seen: Seen) -> None:
        # On two lines, where one is too short for it.
        said = f"answered by a gateway, from what is stored: {LEADER.words} leads, heard of"
        await seen.until(lambda: said in " ".join(seen.text.split()))
        await seen.press("p")
        await seen.until("pause the workflow")
        await seen.press("enter")
        await seen.until("paused (p resumes it)")
        gateway.running.lease.left_s = -9.0
        await seen.press("p")
        await seen.until("resume the workflow")
        await seen.press("enter")
        await seen.until("nobody leads at present")
        gateway.running.lease.left_s = 599.0
        await asyncio.to_thread(gateway.call, gateway.finish, workflow_id)
        ended = await seen.ended()
        assert ended.view is not None
        assert ended.view.state == "succeeded"

    watched(gateway, "nightly", scene, size=(80, 30))
    assert [entry["verb"] for entry in gateway.ask(f"/v1/workflows/{workflow_id}/journal").json["entries"]] == ["pause", "resume"]
