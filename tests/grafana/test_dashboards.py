"""Dashboards and alerts with a real daemon, workers and a real Prometheus: every expression runs and finds something."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chord, group
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.core import CounterMetricFamily

from dyrygentd import Workflow, metrics
from dyrygentd.errors import DyrygentError
from tests.grafana import dashboards
from tests.grafana.test_alerts import RULES, hurried
from tests.integration.conftest import Site, running_site
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.disk_faults import FaultyDisk
from tests.support.postgres import PostgresServer
from tests.support.prometheus import Prometheus, promtool
from tests.support.servers import CeleryWorker, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(480)]

#: Tasks of a round of work that succeed.
_SUCCEED = 22
_WAIT_S = 150
_OF_HOSTS = {panel.title for panel in dashboards.HOSTS.panels}
#: Fields that Grafana's editors of variables and annotations write, and its schema of dashboards does not name.
_BESIDE_THE_SCHEMA = {"definition", "titleFormat", "textFormat", "step"}


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_committed_dashboard_is_the_one_that_is_made(name: str) -> None:
    """`python -m tests.grafana.dashboards` was run after the last change."""
    assert (dashboards.DIRECTORY / f"{name}.json").read_text() == dashboards.text(name)


#: Metrics for questions that come up seldom: no panel and no alert shows them. A new metric gets a place on a dashboard, in an
#: alert, or here.
_SHOWN_NOWHERE = {
    # Another metric with labels, or a histogram, shows the same in more detail.
    *("workflows", "dispatched_tasks_total", "retried_tasks_total", "commits_total", "saved_rows_total"),
    *("commit_seconds_total", "publish_seconds_total"),
    # How an outage or a loss went on, for those who look into one of which other metrics have told.
    *("turned_up_tasks_total", "redelivered_tasks_total", "lost_looks_total", "missing_tasks", "lost_pushes_total"),
    *("found_tasks_total", "timed_out_tasks_total", "refused_messages_total", "clock_steps_total"),
    "broker_changed_total",
    *("reports_up", "report_gaps_total", "unreadable_reports_total", "concluded_reports_total", "unconfirmed_reports"),
    *("report_lag_seconds", "unrun_results_total", "unrun_results_waiting"),
    *("stored_values", "stored_value_bytes", "waiting_stored_values", "written_stored_values_total"),
    "failed_stored_values_total",
    # Sizes and what is done once in a while.
    *(
        "imported_workflows_total",
        "recovered_workflows_total",
        "recovery_seconds",
        "late_watched_tasks",
        "kept_value_bytes",
        "term",
    ),
    *("refused_values_total", "timers", "journal_entries_total", "watched_tasks", "fold_nodes", "folds_total"),
}


def test_every_metric_is_shown_somewhere() -> None:
    """Whoever adds a metric decides where it is seen; and what is shown after all leaves the list."""
    shown = "".join(path.read_text() for path in [*dashboards.DIRECTORY.glob("*.json"), RULES])
    names = {entry.name + "_total" * (entry.kind is CounterMetricFamily) for entry in metrics.CATALOGUE}
    nowhere = {name.removeprefix("dyrygentd_") for name in names if not re.search(rf"\b{name}\b", shown)}
    assert nowhere == _SHOWN_NOWHERE


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_dashboard_has_grafanas_schema(name: str) -> None:
    """Grafana's own model reads each dashboard, and writes the same again."""
    plugins.register_default_plugins()
    made = dashboards.made(name)
    written = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(made)))
    assert set(_lost(made, written)) <= _BESIDE_THE_SCHEMA


def _lost(given: Any, written: Any, field: str = "") -> Iterator[str]:
    """Iterate over the names of fields that were not understood."""
    if isinstance(given, dict):
        for name, value in given.items():
            if not isinstance(written, dict) or name not in written:
                yield name
            else:
                yield from _lost(value, written[name], name)
    elif isinstance(given, list):
        for value, other in zip(given, written, strict=True):
            yield from _lost(value, other, field)
    elif given != written:
        yield field


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_links_lead_to_views_of_the_page(name: str) -> None:
    """A link takes labels that its queries keep, none of which is an id, and leads to a view that the page has."""
    made = dashboards.made(name)
    assert {"page", "instance"} <= {variable["name"] for variable in made["templating"]["list"]}
    assert any(link.get("url") == "${page:raw}/" for link in made["links"])
    for panel in made["panels"]:
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", ()):
            view = re.fullmatch(
                r"\$\{page:raw\}/#/(workflows\?(state|name)=(failed|\$\{__field\.labels\.(\w+):percentencode\}))?", link["url"]
            )
            assert view is not None, link
            assert all(view[4] is None or f"by ({view[4]})" in target["expr"] for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_panels_are_laid_out(name: str) -> None:
    """No two panels share a place, each says what it shows, and each has a number of its own."""
    panels = dashboards.made(name)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FaultyDisk:
    """The disk below the daemon's database."""
    return FaultyDisk(tmp_path_factory.mktemp("disk"), files="/state.db")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A server with one worker."""
    with running_site(workers=0) as site:
        yield site


@pytest.fixture(scope="module")
def daemon(site: Site, disk: FaultyDisk) -> Iterator[Daemon]:
    """A daemon that is scraped, and soon looks for what is lost."""
    flags = ["--listen", "127.0.0.1:0", "--lost-after-s", "1", "--lost-confirm-s", "1", "--pools", "drain=1"]
    with site.daemon("scraped", *flags, **disk.environment) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def prometheus(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the alerts, in seconds instead of minutes."""
    found = re.search(r"listening on (127\.0\.0\.1:\d+)", daemon.log())
    assert found is not None
    directory = tmp_path_factory.mktemp("prometheus")
    with Prometheus(directory, target=found[1], rules=hurried(directory)) as prometheus:
        yield prometheus


def test_metrics_are_what_promtool_likes(daemon: Daemon, site: Site) -> None:
    """`promtool check metrics` has nothing to say."""
    found = re.search(r"listening on (127\.0\.0\.1:\d+)", daemon.log())
    assert found is not None
    with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=10) as answer:
        said = promtool("check", "metrics", given=answer.read().decode())
    assert said.strip() == ""


@pytest.mark.long
def test_every_expression_finds_something(daemon: Daemon, site: Site, prometheus: Prometheus) -> None:
    """After some work each panel of each dashboard has data, and each alert and recording rule can be evaluated."""
    worker = CeleryWorker(site.server.url, log_directory=site.directory, pool="threads", concurrency=4)
    with daemon.client() as client, worker:
        wait_until(lambda: prometheus.query("up") != [])
        # One that runs and one that waits for its place in the pool.
        in_pool = Workflow("in the pool")
        for number in range(2):
            in_pool.add(tasks.wait_for.si("pool"), name=f"n{number}", pool="drain")
        held = client.submit(in_pool)
        for _ in range(3):
            so_far = _finished(prometheus)
            workflow = Workflow("work")
            first = workflow.add(tasks.noop.si(), name="first")
            workflow.add(tasks.fail.si(), name="failing", after=[first])
            handles = [
                client.submit(workflow, series="work"),
                client.submit(chord([tasks.noop.si()] * (_SUCCEED - 2), tasks.noop.si())),
            ]
            for handle in handles:
                handle.wait(timeout_s=_WAIT_S)
            # Somebody whose request is wrong.
            with pytest.raises(DyrygentError):
                client.get("none")
            wait_until(lambda so_far=so_far: _finished(prometheus) >= so_far + _SUCCEED)  # type: ignore[misc]
        empty = []
        for name in dashboards.DASHBOARDS:
            for title, expression in dashboards.expressions(name):
                if title not in _OF_HOSTS and not prometheus.query(_asked(expression)):
                    empty.append(f"{name} / {title}: {_asked(expression)}")
        assert empty == []
        site.executions.release("pool", count=2)
        assert held.wait(timeout_s=_WAIT_S).state == "succeeded"
        assert prometheus.exemplars("dyrygentd_step_seconds_bucket")
    metrics = set(re.findall(r"\b(?:dyrygentd|process)_[a-z_0-9]+\b", RULES.read_text()))
    recorded = {"dyrygentd_finished_tasks", "dyrygentd_step_seconds", "dyrygentd_open_nodes"}
    # Only where several processes share a database, as in tests/daemon/test_roles.py and tests/deputy.
    shared = {name for name in metrics if re.search("_(lease|role|leader|letters?)(_|$)", name)}
    assert shared
    missing = [name for name in metrics - recorded - shared if not prometheus.query(f"count({name})") and "rate5m" not in name]
    assert missing == []


def _asked(expression: str) -> str:
    """Return what Grafana asks for."""
    found = expression.replace("$__rate_interval", "30s").replace("$__range", "1m")
    return found.replace('instance=~"$instance"', 'instance=~".*"')


@pytest.mark.long
def test_hosts_are_seen(site: Site, short_tmp: Path, tmp_path: Path) -> None:
    """Where daemons share a database each panel of that row has data: who leads, how the lease stands, what waits."""
    with PostgresServer(short_tmp) as postgres:
        database = ["--database", f"{postgres.conninfo()}&schema=dyrygentd"]
        with site.daemon("leads", *database, "--listen", "127.0.0.1:0") as leader:
            found = re.search(r"listening on (127\.0\.0\.1:\d+)", leader.log())
            assert found is not None
            with (
                site.daemon("beside", *database, "--role", "gateway") as gateway,
                Prometheus(tmp_path, target=found[1], rules=hurried(tmp_path)) as prometheus,
                gateway.client() as client,
            ):
                # An increase is seen only of what was there before.
                wait_until(lambda: prometheus.query("dyrygentd_carried_out_letters_total == 0"))
                client.submit(tasks.noop.si())
                wait_until(lambda: prometheus.query("dyrygentd_carried_out_letters_total == 1"))
                expressions = dict(each for each in dashboards.expressions("overview") if each[0] in _OF_HOSTS)
                assert expressions.keys() == _OF_HOSTS
                wait_until(lambda: not [title for title, each in expressions.items() if not prometheus.query(_asked(each))])
                (leads,) = prometheus.query(_asked(expressions["Who leads"]))
                assert leads["value"][1] == "1"


def _finished(prometheus: Prometheus) -> float:
    [found] = prometheus.query('sum(dyrygentd_finished_tasks_total{outcome="succeeded"}) or vector(0)')
    return float(found["value"][1])


def _wait_fired(prometheus: Prometheus, *alerts: str) -> None:
    """Wait until each has fired; one may be over before another begins, as windows are short here."""
    fired: set[str] = set()

    def have_all() -> bool:
        fired.update(prometheus.firing())
        return set(alerts) <= fired

    wait_until(have_all, timeout_s=_WAIT_S, message=lambda: f"not all of {alerts}, but {fired}")


@pytest.mark.long
def test_faults_light_their_alerts(daemon: Daemon, site: Site, prometheus: Prometheus, disk: FaultyDisk) -> None:
    """A failing task, a full disk, a stuck workflow, a killed worker, none at all, a stopped broker and daemon: each is told."""
    with daemon.client() as client:
        worker = CeleryWorker(site.server.url, log_directory=site.directory, pool="threads", concurrency=2)
        with worker:
            # An increase is seen only of what was there before.
            wait_until(lambda: prometheus.query("dyrygentd_finished_workflows_total"))
            client.submit(group(tasks.fail.si() for _ in range(20))).wait(timeout_s=_WAIT_S)
            _wait_fired(prometheus, "DyrygentdTaskFails", "DyrygentdWorkflowFailed")
            with disk.failing("full"):
                with pytest.raises(DyrygentError):
                    client.submit(tasks.noop.si())
                _wait_fired(prometheus, "DyrygentdDatabaseFails", "DyrygentdHasProblems")
            wait_until(lambda: client.health().status == "ok", timeout_s=_WAIT_S)
            handle = client.submit(tasks.wait_for.si("alerts"))
            site.executions.wait_started([str(node.task_id) for node in handle.nodes()])
            _wait_fired(prometheus, "DyrygentdStuck")
            worker.kill()
            waiting = client.submit(tasks.noop.si())
            _wait_fired(prometheus, "DyrygentdNoWorker", "DyrygentdWorkerGone", "DyrygentdTasksLost", "DyrygentdWaitsForOperator")
            assert waiting.status().state == "running"
            site.server.stop()
            _wait_fired(prometheus, "DyrygentdBrokerDown", "DyrygentdBackendDown")
            site.server.start()
    daemon.stop()
    _wait_fired(prometheus, "DyrygentdDown")
    daemon.start()
