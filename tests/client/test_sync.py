"""The synchronous client against a real daemon."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, chain, group

from dyrygentd import AsyncClient, Client, errors
from dyrygentd.client import bodies, forms
from dyrygentd.wire import decode_definition, encode_definition
from tests.http.support import Daemon

CHAIN = {
    "nodes": [{"name": "a", "task": "add", "args": [1, 2]}, {"name": "b", "task": "add", "args": [3], "after": ["a"]}],
    "name": "sum",
}
HALF_BROKEN = {"nodes": [{"name": "a", "task": "fail"}, {"name": "b", "task": "add", "after": ["a"]}]}


@pytest.fixture
def client(daemon: Daemon) -> Client:
    """A client of a daemon whose tasks run at once."""
    return Client(daemon.path)


@pytest.mark.parametrize(
    "form",
    [
        lambda: CHAIN,
        lambda: json.dumps(CHAIN).encode(),
        lambda: decode_definition(json.dumps(CHAIN).encode(), nodes_max=9),
    ],
    ids=["dict", "bytes", "definition"],
)
def test_definition_is_submitted_in_every_form(client: Client, form: Callable[[], Any]) -> None:
    """What a program has at hand is taken as it is, and name, key and labels can be given beside it."""
    handle = client.submit(form())
    outcome = handle.wait(10)
    assert (outcome.state, outcome.result, outcome.is_success, outcome.failed_nodes) == ("succeeded", 6, True, [])
    outcome.raise_for_state()
    named = client.submit(form(), name="other", key="k", labels={"dc": "gra"}).status()
    assert (named.name, named.key, named.labels) == ("other", "k", {"dc": "gra"})


def test_canvas_is_submitted(client: Client) -> None:
    """The usual user hands over a canvas, and the value goes through the chain as Celery has it."""
    app = Celery("t", broker="memory://", set_as_current=False)
    add = app.signature("add")
    handle = client.submit(chain(add.clone((1, 2)), add.clone((4,))), key="ticket-1")
    assert handle.wait(10).result == 7
    assert client.submit(chain(add.clone((1, 2)), add.clone((4,))), key="ticket-1").id == handle.id
    assert sorted(client.submit(group(add.clone((number,)) for number in range(3))).wait(10).result) == [0, 1, 2]
    app.close()


def test_a_large_submission_tells_how_far_it_is(daemon: Daemon) -> None:
    """Both clients tell that they build, how much was sent, and that the rest is the daemon's."""
    document = {"nodes": [{"name": "n", "task": "add"}], "payload": "p" * 300_000}
    told: list[tuple[str, int, int]] = []
    Client(daemon.path).submit(document, progress=lambda *step: told.append(step))
    _check_steps(told)
    told.clear()

    async def submit() -> None:
        async with AsyncClient(daemon.path) as client:
            await client.submit(document, progress=lambda *step: told.append(step))

    asyncio.run(submit())
    _check_steps(told)


def _check_steps(told: list[tuple[str, int, int]]) -> None:
    assert told[0] == ("building", 0, 0)
    assert told[-1] == ("storing", 0, 0)
    sent = [done for what, done, _ in told if what == "sending"]
    assert len(sent) > 1
    assert sent == sorted(sent)
    assert {of for what, _, of in told if what == "sending"} == {sent[-1]}


def test_what_is_no_canvas_is_refused_before_it_is_sent(client: Client) -> None:
    """The error comes from the line that is wrong, and the daemon is not asked."""
    with pytest.raises(errors.NotACanvas):
        client.submit(42)
    with pytest.raises(errors.BadRequest, match="not valid JSON"):
        client.submit(b"{", name="x")


def test_refusal_carries_the_problem(client: Client) -> None:
    """A program can react to the code, and a person reads the daemon's own words."""
    with pytest.raises(errors.RemoteError, match="depends on 'ghost'") as caught:
        client.submit({"nodes": [{"name": "a", "task": "add", "after": ["ghost"]}]})
    assert (caught.value.status, caught.value.code) == (422, "unknown-dependency")


def test_failure_is_told_with_its_nodes(client: Client) -> None:
    """Who waits learns which node failed and why, and not about those that were blocked by it."""
    outcome = client.submit(HALF_BROKEN).wait(10)
    assert (outcome.state, outcome.is_success) == ("failed", False)
    assert [(node.name, node.error) for node in outcome.failed_nodes] == [("a", "ValueError: no such host")]
    with pytest.raises(errors.WorkflowNotSucceeded, match="'a'"):
        outcome.raise_for_state()


def test_failure_of_a_join_is_told(daemon: Daemon) -> None:
    """The counts know tasks only, and these all succeeded: the node that failed says why."""
    daemon.broker.tasks["large"] = lambda: "x" * 9_000_000
    nodes: list[dict[str, Any]] = [{"name": name, "task": "large"} for name in "ab"]
    nodes += [{"name": "all", "join": True, "after": ["a", "b"]}, {"name": "c", "task": "add", "after": ["all"]}]
    outcome = Client(daemon.path).submit({"nodes": nodes}).wait(10)
    assert outcome.state == "failed"
    assert [node.name for node in outcome.failed_nodes] == ["all"]
    assert "the limit is" in (outcome.failed_nodes[0].error or "")


@pytest.mark.parametrize("value", ["NaN", "[Infinity, -Infinity]", '"\\ud800"'])
def test_result_that_only_python_calls_json_is_read(daemon: Daemon, value: str) -> None:
    """Celery stores what Python's JSON writes; the workflow succeeded, so its result is there to be read."""
    daemon.broker.tasks["odd"] = lambda: json.loads(value)
    handle = Client(daemon.path).submit({"nodes": [{"task": "odd"}]})
    assert json.dumps(handle.wait(10).result) == value
    assert handle.status(with_result=True).result_text == value.encode()


def test_workflows_are_listed_and_found(client: Client) -> None:
    """Pages are the client's business: a caller says how many workflows it wants."""
    ids = [client.submit(CHAIN, labels={"n": str(number)}).id for number in range(5)]
    assert [view.id for view in client.list(limit=None)] == ids[::-1]
    assert [view.id for view in client.list(limit=2, name="sum")] == ids[:-3:-1]
    assert [view.id for view in client.list(labels={"n": "1"}, states=["running", "succeeded"])] == [ids[1]]
    assert client.handle("@latest").id == client.get(ids[-1][:12]).id == ids[-1]


@pytest.mark.parametrize("page", [500, 2])
def test_those_that_ended_last_come_first(client: Client, page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one page has as many as are wanted, or all have to be read."""
    monkeypatch.setattr(forms, "PAGE", page)
    handles = [client.submit({"nodes": [{"name": "go", "gate": True}]}) for _ in range(5)]
    ended = [handles[number].cancel().id for number in (3, 0, 4, 2)]
    assert [view.id for view in client.list(ended_since=0.0, by_end=True, limit=3)] == ended[:0:-1]
    assert [view.id for view in client.list(ended_since=0.0, by_end=True, limit=None)] == ended[::-1]


def test_handle_stays_with_the_workflow_that_was_meant(client: Client) -> None:
    """A name, or `@latest`, may mean another one by the time that somebody acts; what was read is kept, and costs no request."""
    first = client.submit({"name": "nightly", "nodes": [{"name": "gate", "gate": True}]})
    meant, newest = client.handle("nightly"), client.handle("@latest")
    client.submit({"name": "nightly", "nodes": [{"name": "gate", "gate": True}]})
    assert meant.pause().id == newest.cancel().id == first.id
    assert meant.view is not None
    assert (meant.view.state, client.handle(meant.view).status().state) == ("running", "cancelled")


def test_pages_are_followed_to_the_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing or a workflow longer than a page loses nothing at the seams."""
    monkeypatch.setattr(forms, "PAGE", 2)
    handles = [client.submit({"nodes": [{"task": "add"}] * 5}) for _ in range(5)]
    assert len(client.list(limit=None)) == 5
    assert len(client.list(limit=3)) == 3
    assert [node.name for node in handles[0].nodes(page=2)] == [f"add-{number}" for number in range(1, 6)]
    assert list(handles[0].nodes(states=["failed"])) == []
    assert handles[0].node("add-3").task == "add"


def test_wait_ends_with_its_time(holding: Daemon) -> None:
    """A timeout is an error of its own, since the workflow goes on."""
    handle = Client(holding.path).submit(CHAIN)
    with pytest.raises(errors.WaitTimeout, match="goes on"):
        handle.wait(0.05)
    assert handle.cancel().state == "cancelled"
    assert handle.wait().state == "cancelled"


def test_wait_survives_a_restart(holding: Daemon) -> None:
    """An upgrade of the daemon interrupts no script that waits."""
    handle = Client(holding.path).submit({"nodes": [{"task": "add", "args": [20, 22]}]})
    outcomes: list[Any] = []
    waiter = threading.Thread(target=lambda: outcomes.append(handle.wait(30)))
    waiter.start()
    holding.stop()
    holding.start()
    holding.let_go()
    waiter.join(30)
    assert [outcome.result for outcome in outcomes] == [42]


def test_events_survive_a_restart(holding: Daemon) -> None:
    """A follower sees the end even if the daemon was replaced meanwhile."""
    handle = Client(holding.path).submit(CHAIN)
    events = handle.events()
    assert next(events).state == "running"
    holding.stop()
    holding.start()
    assert next(events).state == "running"
    holding.let_go()
    holding.let_go()
    assert list(events)[-1].state == "succeeded"


def test_daemon_that_stays_away_is_told(holding: Daemon) -> None:
    """Neither following nor waiting hides for ever that the daemon is gone."""
    handle = Client(holding.path).submit(CHAIN)
    events = handle.events(reconnect_s=0.05)
    next(events)
    holding.stop()
    with pytest.raises(errors.DaemonUnreachable):
        list(events)
    with pytest.raises(errors.WaitTimeout):
        handle.wait(0.05)


def test_statistics_and_health(client: Client) -> None:
    """What monitoring asks for is there for programs too."""
    assert client.health().status == "ok"
    assert client.stats().engine["workflows"] == 0


def test_signature_is_no_document() -> None:
    """A signature is a dict, but must go through the canvas and not out as it is."""
    app = Celery("t", broker="memory://", set_as_current=False)
    body = bodies.submission_body(app.signature("add", (1,)))
    assert json.loads(body)["nodes"][0]["task"] == "add"
    assert encode_definition(decode_definition(body, nodes_max=1), chosen_ids_only=True) == body
    app.close()


def test_every_verb_and_question(holding: Daemon) -> None:
    """Each method of a handle asks for what its name says; the journal has it with the reason."""
    client = Client(holding.path)
    handle = client.submit({"nodes": [{"name": "a", "task": "add", "args": [1]}, {"name": "b", "task": "fail", "after": ["a"]}]})
    assert handle.hold("b", why="1").nodes == ["b"]
    assert handle.release("b", why="2").is_changed
    assert not handle.release("b").is_changed
    assert handle.pause(why="3").workflow.state == "paused"
    assert "paused" in handle.explain().verdict
    assert [(item.code, item.workflow) for item in client.explain(most=1).items] == [("paused", handle.id)]
    assert handle.resume(why="4").workflow.state == "running"
    assert handle.set_priority(4, why="5").workflow.priority == 4
    assert handle.retry("a", force=True, why="6").nodes == ["a"]
    assert handle.skip("a", value={"n": 1}, why="7").nodes == ["a"]
    holding.let_go()
    assert handle.wait(10).state == "failed"
    assert handle.causes().failures == 1
    assert handle.explain("b").node == "b"
    assert handle.rerun("b", why="8").is_changed
    assert client.perform_in_bulk("pause", states=["running"], why="9").changed == [handle.id]
    assert handle.cancel(terminate=True, why="10").state == "cancelled"
    entries = handle.journal()
    verbs = ["hold", "release", "pause", "resume", "set-priority", "retry", "skip", "rerun", "pause", "cancel"]
    assert [(entry.verb, entry.why) for entry in entries] == [(verb, str(n)) for n, verb in enumerate(verbs, start=1)]


def test_every_verb_and_question_in_asyncio(holding: Daemon) -> None:
    """The other client asks for the same."""

    async def use() -> list[str]:
        async with AsyncClient(holding.path) as client:
            handle = await client.submit({"nodes": [{"name": "a", "task": "add"}, {"name": "b", "task": "fail", "after": ["a"]}]})
            await handle.hold("b")
            await handle.release("b")
            await handle.pause()
            assert "paused" in (await handle.explain()).verdict
            assert [item.code for item in (await client.explain()).items] == ["paused"]
            await handle.resume()
            await handle.set_priority(4)
            await handle.retry("a", force=True)
            await handle.skip("a", value=1)
            await asyncio.to_thread(holding.let_go)
            assert (await handle.wait(10)).state == "failed"
            assert (await handle.causes()).failures == 1
            assert (await handle.explain("b")).node == "b"
            await handle.rerun("b")
            assert (await client.perform_in_bulk("pause", states=["running"])).changed == [handle.id]
            await handle.cancel()
            return [entry.verb for entry in await handle.journal()]

    verbs = ["hold", "release", "pause", "resume", "set-priority", "retry", "skip", "rerun", "pause", "cancel"]
    assert asyncio.run(use()) == verbs
