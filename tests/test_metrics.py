"""Metrics as Prometheus sees them: every entry, its name, both forms, and two schedulers in one program."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from dyrygentd import __version__, metrics
from dyrygentd.core import engine
from dyrygentd.core.counting import Counters
from dyrygentd.core.events import TaskReported
from dyrygentd.core.graph import Definition, Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.errors import ConfigurationError, VerbRefused
from dyrygentd.testing import FakeBroker, FakeClock
from tests.scheduler.support import definition, limits, scheduler, settle, until

pytestmark = pytest.mark.anyio

OPENMETRICS = "application/openmetrics-text; version=1.0.0"

#: https://prometheus.io/docs/practices/naming, and what `promtool check metrics` complains about.
_NAME = re.compile(r"dyrygentd(_[a-z0-9]+)+")
_NO_BASE_UNITS = {"milliseconds", "ms", "minutes", "hours", "days", "kilobytes", "kb", "mb", "megabytes", "bits", "percent"}
_LABELS = {
    "state",
    "outcome",
    "path",
    "version",
    "pool",
    "where",
    "reason",
    "task",
    "queue",
    "event",
    "workflow",
    "step",
    "le",
    "series",
    "owner",
    "decided",
}
_RESERVED_ENDS = ("_count", "_sum", "_bucket", "_created", "_gauge", "_counter")


@pytest.fixture
def anyio_backend() -> str:
    """The scheduler is asyncio's."""
    return "asyncio"


def _families(registry: CollectorRegistry) -> dict[str, Metric]:
    return {family.name: family for family in registry.collect()}


def _value(registry: CollectorRegistry, name: str, **labels: str) -> float:
    value = registry.get_sample_value(name, labels)
    assert value is not None, name
    return value


async def _scraped() -> CollectorRegistry:
    """A registry with the metrics of a scheduler that has run a workflow of three tasks, one of which failed."""
    registry = CollectorRegistry()
    broker = FakeBroker({"tasks.bad": lambda: 1 // 0})
    async with scheduler(broker, registry=registry) as running:
        await (await running.submit(definition("a; b < a; bad"))).wait(timeout_s=5)
        text, _ = metrics.render(registry)
    frozen = CollectorRegistry()
    families = list(parse_classic(text.decode()))

    class Frozen:
        def collect(self) -> Iterator[Metric]:
            return iter(families)

    frozen.register(Frozen())
    return frozen


async def test_every_entry_of_the_catalogue_appears() -> None:
    """Each entry is exported once, with its help and kind, and nothing beside them but what has labels."""
    families = _families(await _scraped())
    names = [entry.name for entry in metrics.CATALOGUE]
    assert len(set(names)) == len(names)
    for entry in metrics.CATALOGUE:
        family = families.pop(entry.name)
        assert family.documentation == entry.help
        assert family.type == ("counter" if "Counter" in entry.kind.__name__ else "gauge")
        assert len(family.samples) == 1
    assert set(families) == {
        "dyrygentd_nodes",
        "dyrygentd_series_runs",
        "dyrygentd_series_last_success_timestamp_seconds",
        "dyrygentd_finished_workflows",
        "dyrygentd_finished_tasks",
        "dyrygentd_received_results",
        "dyrygentd_read_reports",
        "dyrygentd_problems",
        "dyrygentd_build_info",
        "dyrygentd_verbs",
        "dyrygentd_pool_size_tasks",
        "dyrygentd_pool_used_tasks",
        "dyrygentd_pool_waiting_tasks",
        "dyrygentd_overdue_tasks_found",
        "dyrygentd_workflows_present",
        "dyrygentd_held_nodes",
        "dyrygentd_task_events",
        "dyrygentd_queue_events",
        "dyrygentd_task_seconds",
        "dyrygentd_workflow_ends",
        "dyrygentd_workflow_seconds",
        "dyrygentd_step_seconds",
        "dyrygentd_commit_rows",
        "dyrygentd_start_time_seconds",
    }


@pytest.mark.parametrize("counter", [each.name for each in fields(Counters) if not each.name.startswith("workflows_")])
def test_every_counter_counts(counter: str) -> None:
    """A counter that nothing adds to is 0 for ever, and nobody notices. Those of ended workflows are added to by their state."""
    core = "\n".join(path.read_text() for path in Path(engine.__file__).parent.glob("*.py"))
    assert re.search(rf"\bcounters\.{counter} \+= ", core), f"nothing in the core adds to `counters.{counter}`"


async def test_values_are_those_of_the_scheduler() -> None:
    """What was counted stands under the name that says so."""
    registry = await _scraped()
    assert _value(registry, "dyrygentd_submissions_total") == 1
    assert _value(registry, "dyrygentd_dispatched_tasks_total") == 3
    assert _value(registry, "dyrygentd_published_messages_total") == 3
    assert _value(registry, "dyrygentd_finished_tasks_total", outcome="succeeded") == 2
    assert _value(registry, "dyrygentd_finished_tasks_total", outcome="failed") == 1
    assert _value(registry, "dyrygentd_finished_workflows_total", state="failed") == 1
    assert _value(registry, "dyrygentd_finished_workflows_total", state="succeeded") == 0
    assert _value(registry, "dyrygentd_received_results_total", path="pushed") == 3
    assert _value(registry, "dyrygentd_nodes", state="dispatched") == 0
    assert _value(registry, "dyrygentd_in_flight_limit_tasks") == 2000
    assert _value(registry, "dyrygentd_workflows") == 0
    assert _value(registry, "dyrygentd_problems") == 0
    assert _value(registry, "dyrygentd_build_info", version=__version__) == 1
    assert _value(registry, "dyrygentd_commits_total") >= 2


async def test_names_keep_the_rules_of_prometheus() -> None:
    """Prefix, base units, `_total` on counters and only there, help texts, bounded labels: what promtool would check."""
    for family in _families(await _scraped()).values():
        assert _NAME.fullmatch(family.name), family.name
        assert family.documentation, family.name
        assert not family.documentation.endswith("."), family.name
        assert not _NO_BASE_UNITS & set(family.name.split("_")), family.name
        assert not family.name.endswith(_RESERVED_ENDS), family.name
        assert family.type in {"counter", "gauge", "histogram"}, family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert set(sample.labels) <= _LABELS, sample.labels
            assert sample.value >= 0
        if family.type == "counter":
            assert not family.name.endswith("_total"), family.name


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", False),
        (OPENMETRICS, True),
        (f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
    ],
)
async def test_negotiation(accept: str, is_openmetrics: bool) -> None:
    """OpenMetrics goes to whom asks for it, the classic form to everybody else; both can be parsed and say the same."""
    registry = CollectorRegistry()
    async with scheduler(FakeBroker(), registry=registry):
        body, content_type = metrics.render(registry, accept)
    assert content_type.startswith("application/openmetrics-text" if is_openmetrics else "text/plain")
    assert body.endswith(b"# EOF\n") == is_openmetrics
    families = list((parse_openmetrics if is_openmetrics else parse_classic)(body.decode()))
    assert len(families) == len({family.name for family in families}) == len(metrics.CATALOGUE) + 24


async def test_steps_are_measured() -> None:
    """Each step on the way of a node has been passed, with the workflow as an example where it is asked for."""
    registry = CollectorRegistry()
    async with scheduler(FakeBroker(), registry=registry) as running:
        handle = await running.submit(definition("a; b < a; c < b"))
        await handle.wait(timeout_s=5)
        for step in metrics.STEPS.keys() - {"result", "start"}:
            count = registry.get_sample_value("dyrygentd_step_seconds_count", {"step": step})
            assert count is not None, step
            assert count >= (3 if step in ("task", "publish") else 1), step
        classic, _ = metrics.render(registry)
        openmetrics, _ = metrics.render(registry, OPENMETRICS)
    assert handle.id.encode() not in classic
    [example] = [line for line in openmetrics.decode().splitlines() if handle.id in line][:1]
    assert example.startswith('dyrygentd_step_seconds_bucket{le="')
    assert len(list(parse_openmetrics(openmetrics.decode()))) > 10  # type: ignore[no-untyped-call]


async def test_names_of_tasks_are_bounded() -> None:
    """However many tasks and workflows there are, a hundred names have series of their own; the sums stay right."""
    registry = CollectorRegistry()
    async with scheduler(FakeBroker(), registry=registry) as running:
        for number in range(3):
            names = [f"n{number}x{each}" for each in range(50)]
            specs = [NodeSpec(name, Signature(f"task.{name}"), f"id-{name}", []) for name in names]
            handle = await running.submit(Definition(graph=Graph.build(specs), name=f"w{number}"))
            await handle.wait(timeout_s=20)
        family = _families(registry)["dyrygentd_task_events"]
    ended = {sample.labels["task"]: sample.value for sample in family.samples if sample.labels["event"] == "succeeded"}
    assert len(ended) == 101
    assert ended["(others)"] == 50
    assert sum(ended.values()) == 150


async def test_tasks_are_counted_by_queue() -> None:
    """A queue whose tasks fail, or come too late, is seen, whatever they are called."""
    registry, broker = CollectorRegistry(), FakeBroker({"tasks.bad": lambda: 1 // 0}, holds=True)
    graph = Graph.build(
        [
            NodeSpec("a", Signature("tasks.a", options=b'{"queue": "one"}'), "id-a"),
            NodeSpec("b", Signature("tasks.bad", options=b'{"queue": "two"}'), "id-b"),
            NodeSpec("c", Signature("tasks.c", options=b'{"queue": "two"}'), "id-c"),
        ]
    )
    async with scheduler(broker, registry=registry) as running:
        handle = await running.submit(Definition(graph, "w"))
        await until(lambda: running.in_flight_count == 3)
        await handle.skip("c")
        broker.let_go()
        await until(lambda: running.statistics().engine["counters"]["late"] == 1)
        found = {
            (sample.labels["queue"], sample.labels["event"]): sample.value
            for sample in _families(registry)["dyrygentd_queue_events"].samples
            if sample.value and sample.name.endswith("_total")
        }
    assert found == {
        ("one", "dispatched"): 1,
        ("one", "succeeded"): 1,
        ("two", "dispatched"): 2,
        ("two", "failed"): 1,
        ("two", "late"): 1,
    }


async def test_the_wait_in_the_queue_is_measured() -> None:
    """Where workers tell that they begin, the first such word of each attempt is counted."""
    registry, broker = CollectorRegistry(), FakeBroker(holds=True)
    async with scheduler(broker, registry=registry) as running:
        await running.submit(definition("a; b", prefix="w"))
        await until(lambda: running.in_flight_count == 2)
        for _ in range(2):
            broker.deliver(TaskReported("w/a", "STARTED"))
            broker.deliver(TaskReported("w/b", "PROGRESS"))
        await until(lambda: registry.get_sample_value("dyrygentd_step_seconds_count", {"step": "start"}) == 1)
        await settle()
        assert registry.get_sample_value("dyrygentd_step_seconds_count", {"step": "start"}) == 1


async def test_ages_are_told() -> None:
    """How old the oldest workflow is, and how long nodes could have gone and did not, since all places are taken."""
    registry = CollectorRegistry()
    clock = FakeClock()
    async with scheduler(FakeBroker(holds=True), registry=registry, clock=clock, limits=limits(in_flight_max=1)) as running:
        await running.submit(definition("a; b"))
        await until(lambda: _value(registry, "dyrygentd_nodes", state="dispatched") == 1)
        assert _value(registry, "dyrygentd_oldest_ready_seconds") == 0
        clock.pass_time(90)
        assert _value(registry, "dyrygentd_oldest_workflow_seconds") == 90
        assert _value(registry, "dyrygentd_oldest_ready_seconds") == 90
        assert _value(registry, "dyrygentd_workflows_present", state="running") == 1
        # A restart is told by its change, so it must not change otherwise.
        assert (
            _value(registry, "dyrygentd_start_time_seconds")
            == _value(registry, "dyrygentd_start_time_seconds")
            == clock.now() - 90
        )


async def test_registry_is_left_as_it_was() -> None:
    """A scheduler's metrics are there while it runs, and gone afterwards, also after an error; it can be entered anew."""
    registry = CollectorRegistry()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is about leaving the block
            async with scheduler(FakeBroker(), registry=registry):
                assert "dyrygentd_workflows" in _families(registry)
                raise ZeroDivisionError
        assert _families(registry) == {}
    async with scheduler(FakeBroker()):
        assert _families(registry) == {}


async def test_two_schedulers_with_a_registry_each() -> None:
    """Two schedulers in one program are scraped apart, since nothing is global."""
    first, second = CollectorRegistry(), CollectorRegistry()
    async with scheduler(FakeBroker(), registry=first) as busy, scheduler(FakeBroker(holds=True), registry=second) as held:
        await (await busy.submit(definition("a; b"))).wait(timeout_s=5)
        await held.submit(definition("a"))
        assert _value(first, "dyrygentd_finished_tasks_total", outcome="succeeded") == 2
        assert _value(second, "dyrygentd_finished_tasks_total", outcome="succeeded") == 0
        assert _value(first, "dyrygentd_workflows") == 0
        assert _value(second, "dyrygentd_workflows") == 1


async def test_one_registry_for_two_is_refused() -> None:
    """A second scheduler on one registry is refused: every series would stand there twice, and a scrape would fail."""
    registry = CollectorRegistry()
    async with scheduler(FakeBroker(), registry=registry):
        with pytest.raises(ConfigurationError, match="metrics of another scheduler already"):
            async with scheduler(FakeBroker(), registry=registry):
                pass
        assert "dyrygentd_workflows" in _families(registry)


async def test_verbs_retries_and_pools_are_counted() -> None:
    """What operators did, what was tried again, and who waits for a place can be put on a dashboard."""
    registry = CollectorRegistry()
    broker = FakeBroker({"tasks.bad": lambda: 1 // 0}, holds=True)
    async with scheduler(broker, registry=registry, limits=limits(pools={"drain@*": 1})) as running:
        handle = await running.submit(definition("a! pool=drain@x; b! pool=drain@x; bad! retry=2; c! countdown=1000"))
        await until(lambda: len(broker._held) == 2)
        assert _value(registry, "dyrygentd_pool_size_tasks", pool="drain@x") == 1
        assert _value(registry, "dyrygentd_pool_used_tasks", pool="drain@x") == 1
        assert _value(registry, "dyrygentd_pool_waiting_tasks", pool="drain@x") == 1
        broker.let_go()
        await until(lambda: _value(registry, "dyrygentd_nodes", state="retrying") == 1)
        assert _value(registry, "dyrygentd_retried_tasks_total") == 1
        await handle.skip("c")
        with pytest.raises(VerbRefused):
            await handle.rerun("a", "b")
        await handle.cancel()
        assert _value(registry, "dyrygentd_verbs_total", outcome="done") == 2
        assert _value(registry, "dyrygentd_verbs_total", outcome="refused") == 1
        # Two verbs, and the retry that the daemon itself decided on.
        assert _value(registry, "dyrygentd_journal_entries_total") == 3
        assert _value(registry, "dyrygentd_late_watched_tasks") >= 1
        assert registry.get_sample_value("dyrygentd_pool_size_tasks", {"pool": "drain@x"}) is None


async def test_pools_are_a_bounded_number_of_series() -> None:
    """Whoever names a pool after each machine gets series of those that matter, and one for all the others."""
    registry = CollectorRegistry()
    async with scheduler(FakeBroker(holds=True), registry=registry, limits=limits(pools={"drain@*": 1})) as running:
        await running.submit(
            definition("; ".join(f"n{number}! pool=drain@{number}" for number in range(200)) + "; z! pool=drain@7")
        )
        await until(lambda: running.statistics().engine["in_flight"] == 200)
        samples = _families(registry)["dyrygentd_pool_used_tasks"].samples
        assert len(samples) == 51
        assert sum(sample.value for sample in samples) == 200
        assert _value(registry, "dyrygentd_pool_waiting_tasks", pool="drain@7") == 1
        assert _value(registry, "dyrygentd_pool_used_tasks", pool="(others)") == 150
