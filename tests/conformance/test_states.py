"""Each way in which a task can end on a real worker, and what the daemon makes of it."""

import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from celery import Celery, chain, chord, group

from dyrygentd import Workflow
from dyrygentd.canvas import definition_of
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.errors import BadNode
from dyrygentd.scheduler import Scheduler
from dyrygentd.wire import NodeView, Outcome
from tests.support.apps import closing
from tests.support.directories import short_directory
from tests.support.following import eventually
from tests.support.servers import CeleryWorker, Executions, wait_until
from tests.support.tasks import create_app

pytestmark = [pytest.mark.anyio, pytest.mark.integration]

_WAIT_S: Final = 30.0


@dataclass(frozen=True)
class Site:
    """A server, a worker with our plugin, and an app that knows the tasks by name only."""

    app: Celery
    executions: Executions
    directory: Path

    def task(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a signature of a task in `tests.conformance.states`."""
        return self.app.signature(f"tests.conformance.states.{name}", args=args, kwargs=kwargs)

    def common(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a signature of a task in `tests.support.tasks`."""
        return self.app.signature(f"tests.support.tasks.{name}", args=args, kwargs=kwargs)

    @asynccontextmanager
    async def scheduler(self) -> AsyncIterator[Scheduler]:
        """Run a scheduler with a database of its own."""
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            async with Scheduler(self.app, database=Path(directory) / "state.db") as scheduler:
                yield scheduler

    async def run(self, canvas: Any) -> Outcome:
        """Run a canvas to its end."""
        async with self.scheduler() as scheduler:
            handle = await scheduler.submit(canvas)
            return await handle.wait(timeout_s=_WAIT_S)

    async def errors(self, canvas: Any) -> dict[str, str]:
        """Run a canvas that fails; return ``{node: error}``."""
        outcome = await self.run(canvas)
        assert outcome.state == "failed"
        return {node.name: node.error or "" for node in outcome.failed_nodes}


@pytest.fixture
def anyio_backend() -> str:
    """The only backend: the adapters are asyncio's."""
    return "asyncio"


#: With the companion the same is to come of everything that both know.
_PLUGINS: Final = ["states", "companion"] if os.environ.get("DYRYGENTD_TEST_FULL") == "1" else ["states"]


@pytest.fixture(scope="module", params=_PLUGINS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A server and a worker with child processes, for all tests of this module."""
    with ExitStack() as exits:
        directory = exits.enter_context(short_directory())
        server = exits.enter_context(EmbeddedServer(directory, appendonly=False))
        plugin = f"tests.conformance.{request.param}"
        worker = CeleryWorker(server.url, log_directory=directory, app=plugin, pool="prefork", concurrency=2)
        exits.callback(worker.stop)
        worker.start()
        executions = Executions(server.url)
        exits.callback(executions.close)
        app = exits.enter_context(closing(create_app(server.url, server.url)))
        yield Site(app, executions, directory)
        if os.environ.get("DYRYGENTD_TEST_CONFORMANCE_LOGS"):
            print(worker.log())


def _echoed(*args: Any) -> dict[str, Any]:
    return {"args": list(args), "kwargs": {}}


async def test_replaced_task_in_a_chain(site: Site) -> None:
    """A replaced task keeps its id, so the next step gets what its successor returns."""
    outcome = await site.run(chain(site.task("replaced", 1), site.common("echo", "next")))
    assert (outcome.state, outcome.result) == ("succeeded", _echoed(_echoed(1), "next"))


@pytest.mark.parametrize(
    ("by", "value"),
    [
        ("chain", _echoed(_echoed(7), "last")),
        ("group", [_echoed(7), _echoed("other")]),
        ("chord", _echoed([_echoed(7), _echoed("other")], "body")),
    ],
)
async def test_task_replaced_by_a_canvas(site: Site, by: str, value: Any) -> None:
    """A task may replace itself by a canvas; its id gets the canvas's value, and the workflow goes on with that."""
    outcome = await site.run(chain(site.task("replaced", 7, by=by), site.common("identity")))
    assert (outcome.state, outcome.result) == ("succeeded", value)


async def test_replaced_task_in_a_group_and_a_chord(site: Site) -> None:
    """Beside others and in a header, a replaced task counts once, when its successor has finished."""
    outcome = await site.run(group(site.task("replaced", 1), site.common("echo", 2)))
    assert outcome.result == [_echoed(1), _echoed(2)]
    outcome = await site.run(chord([site.task("replaced", 1), site.common("echo", 2)], site.common("identity")))
    assert outcome.result == [_echoed(1), _echoed(2)]
    outcome = await site.run(chord([site.common("identity", 1)], site.task("replaced")))
    assert outcome.result == _echoed([1])


async def test_replaced_task_is_not_taken_for_an_ignored_one(site: Site) -> None:
    """While the successor runs, the node is still in flight, and nothing says that it was ignored."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(site.task("replaced", "replaced-gate", by="waiting"))
        (task_id,) = await _task_ids(scheduler, handle.id)
        await eventually(lambda: site.executions.counts().get(task_id) == 2)
        node = await _node(scheduler, handle.id)
        # That it was sent may still be on its way to the disk.
        assert node.state in ("dispatching", "dispatched")
        # The companion knows.
        assert node.reported in (None, "REPLACED")
        site.executions.release("replaced-gate", value="done")
        assert (await handle.wait(timeout_s=_WAIT_S)).result == "done"


async def test_own_retry_is_shown_and_not_ours(site: Site) -> None:
    """A task that retries itself keeps its id; the node shows RETRY, stays in flight, and has one attempt."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(site.task("retried", "retry-gate"))
        node = await _node_reporting(scheduler, handle.id, "RETRY")
        assert node.state in ("dispatching", "dispatched")
        assert node.attempt == 1
        site.executions.release("retry-gate", value="third time")
        outcome = await handle.wait(timeout_s=_WAIT_S)
    assert outcome.result == "third time"
    assert site.executions.counts()[node.task_id or ""] == 2


async def test_retries_used_up(site: Site) -> None:
    """When a task's own retries are used up, its failure is final, with the task's own error."""
    assert await site.errors(site.task("never_content")) == {"never_content-1": "ValueError: still not"}


async def test_ignored_task_is_skipped(site: Site) -> None:
    """The plugin lets us see an ignored task. As in Celery the chain stops there, and nothing has failed."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(chain(site.task("ignored"), site.common("echo")))
        outcome = await handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, outcome.result) == ("succeeded", None)
        first, second = (await scheduler.nodes(handle.id)).nodes
        assert (first.state, first.error, second.state) == ("skipped", "nothing to do", "skipped")
        assert site.app.backend.get_task_meta(first.task_id)["status"] == "IGNORED"
        assert second.task_id not in site.executions.counts()


async def test_body_of_a_chord_with_an_ignored_task_is_skipped(site: Site) -> None:
    """As in Celery, the body does not run, nor do its error callbacks; the rest of the header does."""
    body = site.common("echo", "body")
    body.link_error(site.common("echo", "failed"))
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(chord([site.task("ignored"), site.common("echo", 1)], body))
        outcome = await handle.wait(timeout_s=_WAIT_S)
        assert (outcome.state, outcome.result) == ("succeeded", None)
        states = {node.name: node.state for node in (await scheduler.nodes(handle.id)).nodes}
    assert {name: state for name, state in states.items() if "join" not in name} == {
        **{"ignored-1": "skipped", "echo-2": "succeeded", "echo-4": "skipped", "echo-4.errback": "skipped"},
    }


async def test_plugin_leaves_other_tasks_alone(site: Site) -> None:
    """A task that was not sent by us stores what Celery stores: nothing when it is ignored."""
    ignored = site.task("ignored").apply_async()
    wait_until(lambda: ignored.id in site.executions.started())
    # Each of the two processes has done something since, so that the signal of the first task has been sent.
    gates = [site.common("wait_for", "two").apply_async() for _ in range(2)]
    wait_until(lambda: {gate.id for gate in gates} <= site.executions.started().keys())
    site.executions.release("two", count=2)
    assert ignored.state == "PENDING"


async def test_rejected_task(site: Site) -> None:
    """A task that is rejected for good has failed, and what follows is blocked; only the plugin or 5.7 tell."""
    (error,) = (await site.errors(chain(site.task("rejected"), site.common("echo")))).values()
    assert "bad input" in error


async def test_requeued_task(site: Site) -> None:
    """A task that is rejected and requeued runs again under its id, and the first end counts for nothing."""
    outcome = await site.run(chain(site.task("requeued"), site.common("echo")))
    assert outcome.result == _echoed("second run")


async def test_task_revoked_by_somebody_else(site: Site) -> None:
    """A task that an operator revoked by Celery's means has failed, with that as the reason."""
    canvas = chain(site.common("wait_for", "revoke-gate"), site.common("echo"))
    definition = definition_of(canvas)
    _, second = definition.graph.task_ids
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(definition)
        await anyio.to_thread.run_sync(lambda: site.app.control.revoke(second))
        await anyio.to_thread.run_sync(_wait_for_revoked, site.app, second)
        site.executions.release("revoke-gate")
        outcome = await handle.wait(timeout_s=_WAIT_S)
    assert outcome.state == "failed"
    assert [(node.name, node.error) for node in outcome.failed_nodes] == [("echo-2", "revoked: revoked")]
    assert second not in site.executions.counts()


async def test_expired_task(site: Site) -> None:
    """A task that came too late for its worker has failed, and says so."""
    late = site.common("echo").set(expires=0.001)
    assert await site.errors(chain(late, site.common("echo"))) == {"echo-1": "revoked: expired"}
    past = site.common("echo").set(expires="2020-01-01T00:00:00+00:00")
    assert await site.errors(chain(past, site.common("echo"))) == {"echo-1": "it expired before it was dispatched"}


async def test_unknown_task(site: Site) -> None:
    """A task that no worker knows fails with the name of what is missing."""
    (error,) = (await site.errors(site.app.signature("no.such.task"))).values()
    assert error.startswith("NotRegistered")
    assert "no.such.task" in error


async def test_wrong_arguments(site: Site) -> None:
    """A task that cannot be called so is refused as by `apply_async`; one that nobody here knows fails with the TypeError."""
    wrong = site.common("identity", 1, 2, 3)
    with pytest.raises(BadNode, match="identity"):
        await site.errors(wrong)
    (error,) = (await site.errors(json.loads(json.dumps(wrong)))).values()
    assert error.startswith("TypeError")


async def test_killed_worker_process(site: Site) -> None:
    """A child process that dies leaves a failure that names it, so that it can be told from a failure of the task."""
    (error,) = (await site.errors(site.task("killed"))).values()
    assert error.startswith("WorkerLostError")


async def test_time_limit(site: Site) -> None:
    """A task over its hard time limit fails with TimeLimitExceeded."""
    (error,) = (await site.errors(site.task("endless").set(time_limit=1))).values()
    assert error.startswith("TimeLimitExceeded")


async def test_soft_time_limit(site: Site) -> None:
    """A task over its soft time limit fails with SoftTimeLimitExceeded."""
    (error,) = (await site.errors(site.task("endless").set(soft_time_limit=1))).values()
    assert error.startswith("SoftTimeLimitExceeded")


async def test_own_states_are_shown(site: Site) -> None:
    """A state of the task's own is shown and is not its end."""
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(site.task("progressing", "progress-gate"))
        node = await _node_reporting(scheduler, handle.id, "PROGRESS")
        # The worker may be faster than the broker's answer to the push.
        await _wait_for_state(scheduler, handle.id, node.name, "dispatched")
        site.executions.release("progress-gate", value="done")
        assert (await handle.wait(timeout_s=_WAIT_S)).result == "done"


# Celery's own call of redis-py, in this process for once.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
@pytest.mark.parametrize(("first", "second"), [("FAILURE", "SUCCESS"), ("SUCCESS", "FAILURE")])
async def test_contradicting_results(site: Site, first: str, second: str) -> None:
    """Of two ends that are stored for one id, the first counts, and the second is counted and changes nothing."""
    workflow = Workflow()
    node = workflow.add(site.common("echo").set(queue="nobody"), name="twice")
    # Keeps the workflow alive, so that the second end finds it.
    workflow.add(site.common("wait_for", f"contradiction-{first}"), name="beside")
    assert node.name == "twice"
    async with site.scheduler() as scheduler:
        handle = await scheduler.submit(workflow)
        task_id = (await scheduler.node(handle.id, "twice")).task_id
        results = {"FAILURE": ValueError("no"), "SUCCESS": "yes"}
        site.app.backend.store_result(task_id, results[first], first)
        wanted = "failed" if first == "FAILURE" else "succeeded"
        await _wait_for_state(scheduler, handle.id, "twice", wanted)
        site.app.backend.store_result(task_id, results[second], second)
        site.executions.release(f"contradiction-{first}")
        outcome = await handle.wait(timeout_s=_WAIT_S)
        assert (await scheduler.node(handle.id, "twice")).state == wanted
        assert outcome.state == wanted
        assert scheduler.statistics().problems == []


async def test_add_to_chord(site: Site) -> None:
    """The value of what is added stands behind that of the task that added it, in the list that the body gets."""
    outcome = await site.run(chord([site.task("adding_to_chord")], site.common("identity")))
    assert outcome.result == [None, {"args": [], "kwargs": {}}]


async def test_class_that_wants_no_result(site: Site) -> None:
    """A class with ``ignore_result`` is no obstacle, because our message says that a result is wanted."""
    outcome = await site.run(chain(site.task("quiet"), site.common("identity")))
    assert outcome.result == "quiet"
    assert await site.errors(site.task("quietly_failing")) == {"quietly_failing-1": "ValueError: quiet"}


async def _task_ids(scheduler: Scheduler, workflow_id: str) -> list[str]:
    page = await scheduler.nodes(workflow_id)
    return [node.task_id for node in page.nodes if node.task_id]


async def _node(scheduler: Scheduler, workflow_id: str) -> NodeView:
    """Return the first node."""
    return (await scheduler.nodes(workflow_id)).nodes[0]


async def _node_reporting(scheduler: Scheduler, workflow_id: str, state: str) -> NodeView:
    """Wait until a worker has reported this state of the first node."""
    with anyio.fail_after(_WAIT_S):
        while True:
            node = await _node(scheduler, workflow_id)
            if node.reported == state:
                return node
            await anyio.sleep(0.01)


async def _wait_for_state(scheduler: Scheduler, workflow_id: str, node: str, state: str) -> None:
    with anyio.fail_after(_WAIT_S):
        while (await scheduler.node(workflow_id, node)).state != state:  # noqa: ASYNC110 - there is no event.
            await anyio.sleep(0.01)


def _wait_for_revoked(app: Celery, task_id: str) -> None:
    wait_until(lambda: any(task_id in ids for ids in (app.control.inspect(timeout=0.3).revoked() or {}).values()))
