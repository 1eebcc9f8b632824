"""What Celery's own results say of tasks that never ran, natively and through us, on one worker.

Each kind of Celery's integration tests of failing canvases: whoever holds an `AsyncResult` gets the same end, or an end where
natively there is none.
"""

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import celery
import pytest
from celery import chain, chord, group
from celery.result import AsyncResult

from dyrygentd.canvas import definition_of
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.scheduler import Scheduler
from tests.conformance.runs import Factory, Site, Tasks, running_site
from tests.support.servers import wait_until

pytestmark = pytest.mark.integration

_IS_5_6: Final = celery.__version__.startswith("5.6")
_WAIT_S: Final = 30.0
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Case:
    """A canvas that fails.

    Attributes:
        labels: The tasks of which the results are asked for: natively what `apply_async` answers with.
        ours: State and exception of each.
        differs: Whether natively there is another end, or none.
    """

    name: str
    make: Factory
    labels: str
    ours: list[tuple[str, str]]
    differs: bool = False


CASES: Final = [
    Case("the end of a chain", lambda t: chain(t("a"), t.fail("f"), t("c")), "c", [("FAILURE", "ValueError: f")]),
    Case("the end of a long chain", lambda t: chain(t.fail("f"), *map(t, "abcd")), "d", [("FAILURE", "ValueError: f")]),
    Case(
        "a chord's body",
        lambda t: chord([t("a"), t.fail("f")], t("c")),
        "c",
        [("FAILURE", "ChordError: Dependency <id> raised ValueError('f')")],
    ),
    Case(
        "a group as a chord's body",
        lambda t: chord([t("a"), t.fail("f")], group(t("c"), t("d"))),
        "cd",
        [("FAILURE", "ValueError: f")] * 2,
        differs=_IS_5_6,
    ),
    Case(
        "what follows a chord",
        lambda t: chain(chord([t("a"), t.fail("f")], t("c")), t("d")),
        "d",
        [("FAILURE", "ValueError: f")],
        differs=True,
    ),
    Case(
        "a chord's body behind a failed task",
        lambda t: chain(t.fail("f"), group(t("a"), t("b")), t("c")),
        "c",
        [("FAILURE", "ChordError: Dependency <id> raised ValueError('f')")],
        differs=True,
    ),
    Case(
        "the body of a chord whose header has a chord",
        lambda t: chord([chord([t("a"), t.fail("f")], t("b")), t("c")], t("d")),
        "d",
        [("FAILURE", "ChordError: Dependency <id> raised ValueError('f')")],
        differs=True,
    ),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server, a worker, and an app."""
    with running_site() as site:
        yield site


def _end(site: Site, task_id: str) -> tuple[str, str]:
    """Wait for what Celery takes for the end; return the state and the error, ids left out."""
    # The site's app has no subscriptions, so the result is asked for.
    wait_until(lambda: AsyncResult(task_id, app=site.app).ready(), timeout_s=_WAIT_S)
    result = AsyncResult(task_id, app=site.app)
    if isinstance(result.result, BaseException):
        return result.state, f"{type(result.result).__name__}: {_UUID.sub('<id>', str(result.result))}"
    return result.state, repr(result.result)


async def _run_ours(site: Site, make: Factory) -> dict[str, str]:
    """Run a canvas to its end; return ``{label: task id}``."""
    definition = definition_of(make(Tasks(site.app, "results")))
    directory = tempfile.mkdtemp(dir=site._directory)
    try:
        async with Scheduler(site.app, database=Path(directory) / "state.db") as scheduler:
            handle = await scheduler.submit(definition)
            await handle.wait(timeout_s=_WAIT_S)
            ids = _ids(definition)
            # While the scheduler runs: nobody has asked it to wait for what is to be told.
            await anyio.to_thread.run_sync(lambda: [_end(site, task_id) for task_id in ids.values()])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return ids


def _ids(definition: Any) -> dict[str, str]:
    graph = definition.graph
    labels = {}
    for node, signature in enumerate(graph.signatures):
        at = None if signature is None else json.loads(signature.kwargs).get("at")
        if at is not None:
            labels[at.partition("/")[2]] = graph.task_ids[node]
    return labels


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_results_end(site: Site, case: Case) -> None:
    """The same state and error as natively; where natively nothing comes, an end all the same."""
    ids = anyio.run(_run_ours, site, case.make)
    assert [_end(site, ids[label]) for label in case.labels] == case.ours
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        native = case.make(Tasks(site.app, "native")).apply_async()
    if not case.differs:
        natives = native.results if hasattr(native, "results") else [native]
        assert [_end(site, result.id) for result in natives] == case.ours


def test_a_retry_is_seen_under_the_same_id(site: Site) -> None:
    """Who holds the result of a task that was blocked gets its value after the cause is mended."""

    async def run() -> None:
        definition = definition_of(chain(Tasks(site.app, "retried").fail("f"), Tasks(site.app, "retried")("c")))
        with tempfile.TemporaryDirectory(dir=site._directory) as directory:
            async with Scheduler(site.app, database=Path(directory) / "state.db") as scheduler:
                handle = await scheduler.submit(definition)
                await handle.wait(timeout_s=_WAIT_S)
                last = _ids(definition)["c"]
                assert (await anyio.to_thread.run_sync(lambda: _end(site, last)))[0] == "FAILURE"
                await scheduler.perform(handle.id, VerbRequest(Verb.SKIP, nodes=(definition.graph.names[0],), value=b'"v"'))
                outcome = await handle.wait(timeout_s=_WAIT_S)
                assert outcome.result == "c(v)"
                assert await anyio.to_thread.run_sync(lambda: _end(site, last)) == ("SUCCESS", "'c(v)'")

    anyio.run(run)


def test_a_cancelled_workflow_leaves_nobody_waiting(site: Site) -> None:
    """What was never sent is revoked, and its clients are told at once."""

    async def run() -> None:
        tasks = Tasks(site.app, "cancelled")
        definition = definition_of(chain(tasks("a").set(countdown=600), group(tasks("b"), tasks("c")), tasks("d")))
        with tempfile.TemporaryDirectory(dir=site._directory) as directory:
            async with Scheduler(site.app, database=Path(directory) / "state.db") as scheduler:
                handle = await scheduler.submit(definition)
                await scheduler.cancel(handle.id)
                for task_id in _ids(definition).values():
                    state, error = await anyio.to_thread.run_sync(_end, site, task_id)
                    assert (state, error.partition(":")[0]) == ("REVOKED", "TaskRevokedError")

    anyio.run(run)


def test_an_error_callback_finds_the_failure_of_its_body(site: Site) -> None:
    """What it is told the id of must be there when it looks: FAILURE, with the dependency's name."""

    def make(t: Tasks) -> Any:
        return chord([t("a"), t.fail("f")], t("c").on_error(t.make("looked", "e")))

    ids = anyio.run(_run_ours, site, make)
    assert _end(site, ids["e"]) == ("SUCCESS", "'e(FAILURE,ChordError)'")
