"""Maps under a real daemon, with real workers: what a list becomes once it is known."""

import itertools
import random
import re
import signal
from typing import Any
from uuid import uuid4

import pytest

from dyrygentd.errors import RemoteError
from tests.integration.conftest import IS_FULL, Site
from tests.support.servers import wait_until
from tests.support.size import of_size

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

_WAIT_S = 60
_TASKS = "tests.support.tasks"


def _map(items: Any, do: Any = None, **fields: Any) -> dict[str, Any]:
    """A task that returns a list, a map over it, and a task that takes what comes of it."""
    return {
        "name": "outer",
        "nodes": [
            {"name": "list", "task": f"{_TASKS}.identity", "args": [items]},
            {"name": "m", "map": {"over": "list", "do": do or {"task": f"{_TASKS}.add", "args": [10]}, **fields}},
            {"name": "after", "task": f"{_TASKS}.identity", "after": ["m"]},
        ],
    }


@pytest.mark.parametrize("count", [0, 1, 3, 300])
def test_from_a_list_to_a_list(site: Site, count: int) -> None:
    """Each item goes to a task, and the list of what they return is in the order of the items."""
    with site.daemon(f"list{count}") as daemon, daemon.client() as client:
        outcome = client.submit(_map([*range(count)])).wait(timeout_s=_WAIT_S)
        expected = [number + 10 for number in range(count)]
        assert (outcome.state, outcome.result) == ("succeeded", expected), f"{outcome} {daemon.log()}"


def test_a_graph_for_each_item_and_maps_in_maps(site: Site) -> None:
    """What is done with an item may be a graph, and another map."""
    add = f"{_TASKS}.add"
    graph = {"nodes": [{"name": "a", "task": add, "args": [1]}, {"name": "b", "task": add, "args": [1], "after": ["a"]}]}
    inner = {"map": {"do": {"task": add, "args": [1]}}}
    with site.daemon("graphs") as daemon, daemon.client() as client:
        first = client.submit(_map([1, 2], graph)).wait(timeout_s=_WAIT_S)
        assert (first.state, first.result) == ("succeeded", [3, 4]), f"{first} {daemon.log()}"
        second = client.submit(_map([[1, 2], [], [3]], inner)).wait(timeout_s=_WAIT_S)
        assert (second.state, second.result) == ("succeeded", [[2, 3], [], [4]]), f"{second} {daemon.log()}"


@pytest.mark.parametrize(
    ("value", "fields", "error"),
    [
        ("text", {}, "a map needs a list, and what it is over is text"),
        ([1, 2, 3], {"max_items": 2}, "its list has 3 items, `max_items` is 2"),
        ([{"k": "a"}, {"k": "a"}], {"key": "k"}, "the key 'a' is that of 2 items"),
        ([], {"if_empty": "fail"}, "its list is empty, and `if_empty` is 'fail'"),
    ],
)
def test_what_cannot_be_expanded_fails_by_name(site: Site, value: Any, fields: dict[str, Any], error: str) -> None:
    """The node says what is wrong with its list, and nothing of it was sent."""
    with site.daemon("refused") as daemon, daemon.client() as client:
        handle = client.submit(_map(value, **fields))
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert outcome.state == "failed", f"{outcome} {daemon.log()}"
        assert error in (handle.node("m").error or "")
        assert handle.node("after").state == "blocked"


def test_an_empty_list_may_skip(site: Site) -> None:
    """What waits for the success of a map that was not needed is not needed either."""
    with site.daemon("skipped") as daemon, daemon.client() as client:
        handle = client.submit(_map([], if_empty="skip"))
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, handle.node("m").state, handle.node("after").state) == ("succeeded", "skipped", "skipped")


def test_enough_members(site: Site) -> None:
    """With `min_success` the list says which did not succeed."""
    do = {"task": f"{_TASKS}.total"}
    with site.daemon("enough") as daemon, daemon.client() as client:
        outcome = client.submit(_map([[1, 2], "x", [3]], do, min_success=2)).wait(timeout_s=_WAIT_S)
        assert outcome.state == "succeeded", f"{outcome} {daemon.log()}"
        assert (outcome.result[0], outcome.result[1]["__failed__"], outcome.result[2]) == (3, "m[1]", 3)
        assert "TypeError" in outcome.result[1]["error"]


def _flaky(*failures: int, **fields: Any) -> dict[str, Any]:
    """A map whose members fail so many times each; each returns how often it was called."""
    run = uuid4().hex
    items = [{"key": f"{run}-{number}", "failures": count, "name": f"k{number}"} for number, count in enumerate(failures)]
    do = {"task": f"{_TASKS}.flaky_item"}
    return _map(items, do, **fields)


def test_retry_of_one_member(site: Site) -> None:
    """Only what is named runs again (airflow#40543), and the map and what waits for it go on (dagster#19490, #30077)."""
    with site.daemon("retry") as daemon, daemon.client() as client:
        handle = client.submit(_flaky(0, 1, 0))
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, handle.node("m").state) == ("failed", "failed"), f"{outcome} {daemon.log()}"
        assert "m[1]" in (handle.node("m").error or "")
        assert handle.retry("m[1]").nodes == ["m[1]", "m"]
        wait_until(lambda: handle.status().state == "succeeded")
        assert handle.wait(timeout_s=_WAIT_S).result == [1, 2, 1]
        assert [handle.node(f"m[{number}]").attempt for number in range(3)] == [1, 2, 1]


def test_retry_of_all(site: Site) -> None:
    """A retry of the map is one of its members that have not succeeded, in place."""
    with site.daemon("all") as daemon, daemon.client() as client:
        handle = client.submit(_flaky(0, 1, 1))
        handle.wait(timeout_s=_WAIT_S)
        handle.retry("m")
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, outcome.result) == ("succeeded", [1, 2, 2]), f"{outcome} {daemon.log()}"


def test_skip_by_key(site: Site) -> None:
    """A person may stand in for one item, whose value then is what they gave."""
    with site.daemon("skip") as daemon, daemon.client() as client:
        handle = client.submit(_flaky(0, 9, key="name"))
        handle.wait(timeout_s=_WAIT_S)
        assert handle.node("m[k1]").state == "failed"
        handle.skip("m[k1]", value="by hand")
        # The workflow with the map had failed, and is set going when the members' has gone on.
        wait_until(lambda: handle.status().state == "succeeded")
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, outcome.result) == ("succeeded", [1, "by hand"]), f"{outcome} {daemon.log()}"


def test_rerun_by_generation(site: Site) -> None:
    """What is run again begins with a list of its own, and what was there before is left as it was."""
    with site.daemon("rerun") as daemon, daemon.client() as client:
        handle = client.submit(_flaky(0, 0))
        assert handle.wait(timeout_s=_WAIT_S).result == [1, 1]
        first = handle.node("m[0]").task_id
        handle.rerun("list")
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, outcome.result) == ("succeeded", [2, 2]), f"{outcome} {daemon.log()}"
        assert handle.node("m[0]").task_id != first


def test_verbs_on_the_item_of_a_graph(site: Site) -> None:
    """The name of a member means all that its item goes through."""
    do = {
        "nodes": [
            {"name": "a", "task": f"{_TASKS}.flaky_item"},
            {"name": "b", "task": f"{_TASKS}.add", "args": [10], "after": ["a"]},
        ]
    }
    run = uuid4().hex
    items = [{"key": f"{run}-{number}", "failures": number} for number in range(2)]
    with site.daemon("item") as daemon, daemon.client() as client:
        handle = client.submit(_map(items, do))
        handle.wait(timeout_s=_WAIT_S)
        assert handle.node("m[1].b").state == "blocked"
        # An item that is asked for is told by the node of it that failed.
        assert handle.node("m[1]").name == "m[1].a"
        assert handle.explain("m[1]").verdict.startswith("'m[1].a' failed in attempt 1")
        handle.retry("m[1]")
        wait_until(lambda: handle.status().state == "succeeded")
        outcome = handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, outcome.result) == ("succeeded", [11, 12]), f"{outcome} {daemon.log()}"


def test_names_that_nobody_has(site: Site) -> None:
    """A member that does not exist is told by its name, of the workflow that was asked."""
    with site.daemon("unknown") as daemon, daemon.client() as client:
        handle = client.submit(_flaky(0))
        handle.wait(timeout_s=_WAIT_S)
        for name in ("m[7]", "x[0]"):
            with pytest.raises(RemoteError, match=re.escape(f"'{handle.id}' has no node '{name}'")):
                handle.retry(name)
        with pytest.raises(RemoteError, match="different workflows"):
            handle.retry("m[0]", "after")


@pytest.mark.parametrize("seed", range(20 if IS_FULL else of_size(3, 5)))
def test_killed_and_restarted(seed: int, site: Site) -> None:
    """Killed before the list is there, between that and the members, and amid these: each task is executed once."""
    chance = random.Random(seed)
    count = 100
    # At 0 it dies as soon as the submission is answered, at 1 as soon as the list is there.
    moments = sorted(chance.choice([0, 1, 1, 2, chance.randrange(2 * count)]) for _ in range(3))
    print(f"seed {seed}: killed after {moments} executions")
    executions = site.executions
    executions.clear()
    add = f"{_TASKS}.add"
    graph = {"nodes": [{"name": "a", "task": add, "args": [1]}, {"name": "b", "task": add, "args": [1], "after": ["a"]}]}
    daemon = site.daemon(f"killed-{seed}")
    with daemon, daemon.client() as client:
        handle = client.submit(_map([*range(count)], graph))
        for moment in moments:
            wait_until(lambda moment=moment: len(executions.counts()) >= moment, timeout_s=60, message=daemon.log)  # type: ignore[misc]
            daemon.signal(signal.SIGKILL, timeout_s=20)
            daemon.start()
        outcome = handle.wait(timeout_s=120)
        assert (outcome.state, outcome.result) == ("succeeded", [number + 2 for number in range(count)]), daemon.log()
    counts = executions.counts()
    assert (len(counts), {*counts.values()}) == (2 * count + 2, {1})


def test_depth_first(site: Site) -> None:
    """Of a thousand graphs of five nodes few are under way at a time: seen in the order in which tasks were executed."""
    count = 1000 if IS_FULL else of_size(60, 200)
    nodes = [{"name": "n0", "task": f"{_TASKS}.identity"}]
    nodes += [{"name": f"n{n}", "task": f"{_TASKS}.identity", "after": [f"n{n - 1}"]} for n in range(1, 5)]  # type: ignore[dict-item]
    executions = site.executions
    executions.clear()
    with site.daemon("depth") as daemon, daemon.client() as client:
        handle = client.submit(_map([*range(count)], {"nodes": nodes}, in_flight_max=8))
        outcome = handle.wait(timeout_s=120)
        assert (outcome.state, outcome.result) == ("succeeded", [*range(count)]), daemon.log()
        child = client.handle(handle.node("m").child.id)  # type: ignore[union-attr]
        ids = {node.name: node.task_id for node in child.nodes()}
    started, finished = executions.started(), executions.finished()
    spans = [(started[ids[f"m[{n}].n0"] or ""], finished[ids[f"m[{n}].n4"] or ""]) for n in range(count)]
    moments = sorted([*((begin, 1) for begin, _ in spans), *((end, -1) for _, end in spans)])
    most = max(itertools.accumulate(step for _, step in moments))
    assert most <= 2 * 8, f"{most} of {count} items were under way at once"
