"""Work that tasks add while they run, with real workers: Celery's own tests of it, and each way in which it can end."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from celery import chain, chord, group

from dyrygentd import Workflow
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.scheduler import Scheduler
from tests.support.apps import closing
from tests.support.directories import short_directory
from tests.support.following import eventually
from tests.support.servers import CeleryWorker, Executions
from tests.support.tasks import create_app

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

_WAIT_S: Final = 60.0


class Site:
    """A server, a worker with the companion, and an app that knows the tasks by name only."""

    def __init__(self, server: EmbeddedServer, app: Any, directory: Path) -> None:
        self.app = app
        self.directory = directory
        self.executions = Executions(server.url)

    def task(self, name: str, *args: Any, **options: Any) -> Any:
        """Make a signature."""
        module = "tests.support.tasks" if name in ("add", "identity", "fail", "wait_for") else "tests.conformance.spawning"
        return self.app.signature(f"{module}.{name}", args=args, **options)

    @asynccontextmanager
    async def scheduler(self) -> AsyncIterator[Scheduler]:
        """Run a scheduler with a database of its own."""
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            async with Scheduler(self.app, database=Path(directory) / "state.db") as scheduler:
                yield scheduler

    async def run(self, what: Any) -> Any:
        """Run a workflow to its end."""
        async with self.scheduler() as scheduler:
            return await (await scheduler.submit(what)).wait(timeout_s=_WAIT_S)


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: the adapters are asyncio's."""
    return "asyncio"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server and a worker for all tests of this module."""
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        server = exits.enter_context(EmbeddedServer(directory, appendonly=False))
        worker = CeleryWorker(server.url, log_directory=directory, app="tests.conformance.spawning")
        exits.callback(worker.stop)
        worker.launch()
        worker.wait_ready()
        yield Site(server, exits.enter_context(closing(create_app(server.url, server.url))), directory)


# --- Celery's own tests ---------------------------------------------------------------------------------------------


async def test_add_to_chord(site: Site) -> None:
    """As Celery's test of this name (t/integration/test_canvas.py), with the order that is kept here."""
    outcome = await site.run(group([site.task("add_to_all_to_chord", [1, 2, 3], 4)]) | site.task("identity"))
    assert outcome.result == [0, 5, 6, 7]


async def test_add_chord_to_chord(site: Site) -> None:
    """As Celery's test of this name."""
    outcome = await site.run(group([site.task("add_chord_to_chord", [1, 2, 3], 4)]) | site.task("identity"))
    assert outcome.result == [0, 5 + 6 + 7]


async def test_nested_chords_with_replaced_tasks(site: Site) -> None:
    """As Celery's test of groups that replace tasks in nested chords."""
    outcome = await site.run(
        chord(
            [
                chord([site.task("add", 1, 2), site.task("add_replaced", 3, 4)], site.task("add_to_all", 5)) | site.task("tsum"),
                chord([site.task("add_replaced", 6, 7), site.task("add", 0, 0)], site.task("add_to_all", 8)) | site.task("tsum"),
            ],
            site.task("add_to_all", 9),
        )
    )
    assert outcome.result == [29, 38]


async def test_replaced_by_a_chain_in_a_chain(site: Site) -> None:
    """What follows in the chain gets what the last of the replacement returns."""
    outcome = await site.run(chain(site.task("identity", 44), site.task("replace_with_chain"), site.task("identity")))
    assert outcome.result == 44


# --- values and order -----------------------------------------------------------------------------------------------


async def test_what_follows_waits(site: Site) -> None:
    """What follows the task waits for what was added, and gets the task's own value."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(chain(site.task("spawning", "gate", "spawn-gate"), site.task("identity")))
        await eventually(lambda: scheduler.statistics().engine["counters"]["submitted"] == 2)
        first, second = (await scheduler.nodes(handle.id)).nodes
        assert (first.state, first.hold, second.state) == ("held", "child", "waiting")
        site.executions.release("spawn-gate")
        outcome = await handle.wait(timeout_s=_WAIT_S)
        assert outcome.result == "spawned gate"
        assert scheduler.statistics().problems == []


@pytest.mark.parametrize("what", ["one", "workflow", "definition", "several", "chord", "nothing"])
async def test_each_kind(site: Site, what: str) -> None:
    """Canvases, workflows and definitions can be added, and several canvases are added side by side."""
    outcome = await site.run(chain(site.task("spawning", what), site.task("identity")))
    assert (outcome.state, outcome.result) == ("succeeded", f"spawned {what}")


async def test_values_go_behind_their_own_in_the_list(site: Site) -> None:
    """Each member's values stand together, whoever ends first."""
    header = [site.task("identity", "a"), site.task("add_to_all_to_chord", [1, 2], 4), site.task("identity", "b")]
    assert (await site.run(chord(header, site.task("identity")))).result == ["a", 0, 5, 6, "b"]
    assert (await site.run(group(header))).result == ["a", 0, 5, 6, "b"]


async def test_no_chord(site: Site) -> None:
    """Natively `add_to_chord` raises where there is no chord; here the node fails by name."""
    outcome = await site.run(chain(site.task("add_to_all_to_chord", [1], 4), site.task("identity")))
    assert [(node.name, node.error) for node in outcome.failed_nodes] == [
        ("add_to_all_to_chord-1", "the task adds to its chord, and is no member of any")
    ]


async def test_large_addition(site: Site) -> None:
    """Some hundred tasks are nothing special."""
    outcome = await site.run(chain(site.task("spawning", "many", 300), site.task("identity")))
    assert outcome.result == "spawned many"


# --- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("fail", "ValueError: after all"),
        ("replace", "CannotSpawn: the task has added work and is to be replaced (next: have what replaces it add the work)"),
        ("lazy", "CannotSpawn: `add_to_chord(lazy=True)` leaves it to the task"),
        ("close", "EncodeError: the task has ended its chain and added work"),
    ],
)
async def test_failed_tasks_add_nothing(site: Site, then: str, error: str) -> None:
    """Only a success brings along what was added."""
    async with site.scheduler() as scheduler:
        outcome = await (await scheduler.submit(site.task("spawns_then", then))).wait(timeout_s=_WAIT_S)
        assert str(outcome.failed_nodes[0].error).startswith(error)
        assert scheduler.statistics().engine["counters"]["submitted"] == 1


async def test_last_run_counts(site: Site) -> None:
    """A task that asks for another run adds what that one has added."""
    async with site.scheduler() as scheduler:
        outcome = await (await scheduler.submit(site.task("spawns_then", "retry"))).wait(timeout_s=_WAIT_S)
        assert outcome.result == "retry"
        assert scheduler.statistics().engine["counters"]["submitted"] == 2


async def test_final_state_that_was_said_before(site: Site) -> None:
    """What a task says about itself while it runs takes nothing from what it adds."""
    async with site.scheduler() as scheduler:
        outcome = await (await scheduler.submit(site.task("spawns_then", "said"))).wait(timeout_s=_WAIT_S)
        assert outcome.result == "said"
        assert scheduler.statistics().engine["counters"]["submitted"] == 2


async def test_what_was_added_fails(site: Site) -> None:
    """The node fails with it, and what follows is blocked; a retry goes on in what was added, and not with the task."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(chain(site.task("spawning", "failing"), site.task("identity")))
        outcome = await handle.wait(timeout_s=_WAIT_S)
        assert "failed: 'fail-2' failed: ValueError: no" in str(outcome.failed_nodes[0].error)
        (task_id,) = [node.task_id for node in (await scheduler.nodes(handle.id)).nodes if node.name == "spawning-1"]
        await handle.retry()
        outcome = await handle.wait(timeout_s=_WAIT_S)
        assert outcome.state == "failed"
        (node,) = [node for node in (await scheduler.nodes(handle.id)).nodes if node.name == "spawning-1"]
        assert (node.task_id, node.attempt) == (task_id, 1)
        assert scheduler.statistics().engine["counters"]["submitted"] == 2


async def test_rerun_adds_anew(site: Site) -> None:
    """The task runs again, and what it adds is another workflow."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(chain(site.task("spawning", "one"), site.task("identity")))
        await handle.wait(timeout_s=_WAIT_S)
        await handle.rerun("spawning-1")
        assert (await handle.wait(timeout_s=_WAIT_S)).state == "succeeded"
        assert scheduler.statistics().engine["counters"]["submitted"] == 3


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("spawning", ("wrong",), "NotACanvas: "),
        ("spawning", ("keyed",), "`key` cannot be given to what a task adds"),
        ("counting_down", (9,), "there are 9 workflows above"),
    ],
)
async def test_what_cannot_be_added(site: Site, name: str, args: tuple[Any, ...], error: str) -> None:
    """It fails by name, with what is wrong; nothing of it was sent."""
    outcome = await site.run(site.task(name, *args))
    assert error in str(outcome.failed_nodes[0].error)


async def test_replaced_task_adds(site: Site) -> None:
    """What ends under the task's id may add work in its name; what a task sends beside may not."""
    async with site.scheduler() as scheduler:
        outcome = await (await scheduler.submit(site.task("replaced_by_spawning"))).wait(timeout_s=_WAIT_S)
        assert outcome.result == "spawned one"
        assert scheduler.statistics().engine["counters"]["submitted"] == 2
    assert (await site.run(site.task("child_spawning"))).state == "succeeded"


async def test_class_that_wants_no_result(site: Site) -> None:
    """What was added comes with the stored result, which our message has the worker store."""
    async with site.scheduler() as scheduler:
        await (await scheduler.submit(site.task("quietly_spawning"))).wait(timeout_s=_WAIT_S)
        assert scheduler.statistics().engine["counters"]["submitted"] == 2


# --- what a task returns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "value"), [("canvas", 6), ("definition", 42)])
async def test_expands(site: Site, what: str, value: int) -> None:
    """What a task returns is run, and its result is the node's value."""
    workflow = Workflow("expanding")
    first = workflow.add(site.task("returning", what), name="first", expands=True)
    workflow.add(site.task("identity"), name="second", after=first)
    assert (await site.run(workflow)).result == value


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (None, "the task has returned null, which is no definition and no canvas"),
        ([1], "the task has returned [1], which is no definition"),
        ({"tasks": []}, 'the task has returned {"tasks": []}, which is'),
        ({"nodes": []}, "has no nodes"),
        ({"nodes": [{"task": "t", "aftre": []}]}, "unknown field `aftre`"),
        ("both", "it can do one of both"),
    ],
)
async def test_what_cannot_be_expanded(site: Site, what: Any, error: str) -> None:
    """What is no definition fails the node by name; the smallest mistakes are told."""
    workflow = Workflow("expanding")
    workflow.add(site.task("returning", what), name="first", expands=True)
    outcome = await site.run(workflow)
    assert error in str(outcome.failed_nodes[0].error)


async def test_only_declared_nodes_expand(site: Site) -> None:
    """A value that looks like a definition is a value: data must not become code by chance."""
    outcome = await site.run(site.task("returning", "definition"))
    assert outcome.result == {"nodes": [{"name": "a", "task": "tests.support.tasks.add", "args": [20, 22]}]}
