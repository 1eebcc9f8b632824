"""Each alert fires when it must and is quiet when it must: by promtool with made-up series, and with a real daemon and faults."""

import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.support.prometheus import promtool

RULES: Final = Path(__file__).parents[2] / "grafana" / "prometheus" / "alerts.yml"
_INSTANCE: Final = 'instance="ops:9465"'


class Case(NamedTuple):
    """Series, ``{selector: values}`` a minute apart, with which an alert fires, or almost does, after so many minutes."""

    alert: str
    fires: dict[str, str]
    quiet: dict[str, str]
    minutes: int = 20


def _steps(step: str, fast: int, slow: int) -> dict[str, str]:
    """Return buckets of a histogram that grow by so many values below 0.1 s, and between 1 and 2.5 s, a minute."""
    name = f'dyrygentd_step_seconds_bucket{{{_INSTANCE}, step="{step}", le='
    return {f'{name}"0.1"}}': f"0+{fast}x60", f'{name}"1.0"}}': f"0+{fast}x60", f'{name}"2.5"}}': f"0+{fast + slow}x60"} | {
        f'{name}"+Inf"}}': f"0+{fast + slow}x60"
    }


def _lag(fast: int, slow: int) -> dict[str, str]:
    name = f"dyrygentd_loop_lag_seconds_bucket{{{_INSTANCE}, le="
    return {f'{name}"0.1"}}': f"0+{fast}x60", f'{name}"1.0"}}': f"0+{fast + slow}x60", f'{name}"+Inf"}}': f"0+{fast + slow}x60"}


def _one(name: str, fires: str, quiet: str, labels: str = "") -> tuple[dict[str, str], dict[str, str]]:
    series = f"dyrygentd_{name}{{{_INSTANCE}{', ' if labels else ''}{labels}}}"
    return {series: fires}, {series: quiet}


def _series(fires: str, quiet: str) -> tuple[dict[str, str], dict[str, str]]:
    return _one("series_last_success_timestamp_seconds", fires, quiet, 'series="nightly", owner="1000"')


def _task(event: str, values: str) -> dict[str, str]:
    return {f'dyrygentd_task_events_total{{{_INSTANCE}, task="t", event="{event}"}}': values}


def _pair(role: str, standbys: str) -> dict[str, str]:
    """Return what a process tells of the lease that has, or had, so many standbys."""
    roles = {
        f'dyrygentd_role{{{_INSTANCE}, role="{each}"}}': f"{int(each == role)}x60" for each in ("leader", "standby", "gateway")
    }
    return roles | {f"dyrygentd_lease_standbys{{{_INSTANCE}}}": standbys}


def _results(path: str, values: str) -> dict[str, str]:
    return {f'dyrygentd_received_results_total{{{_INSTANCE}, path="{path}"}}': values}


_OLD = {f"dyrygentd_oldest_workflow_seconds{{{_INSTANCE}}}": "0+60x90", f"dyrygentd_in_flight_tasks{{{_INSTANCE}}}": "3x90"}
_CONNECTED = {f"dyrygentd_backend_connections_total{{{_INSTANCE}}}": "1x90"}

CASES: Final = (
    Case(
        "DyrygentdDown", {f'up{{job="dyrygentd", {_INSTANCE}}}': "1 1 0x30"}, {f'up{{job="dyrygentd", {_INSTANCE}}}': "1 0 1x30"}
    ),
    Case("DyrygentdRestartsOften", *_one("start_time_seconds", "0+100x30", "0x9 500x9 900x12")),
    Case("DyrygentdHasProblems", *_one("problems", "0 0 1x30", "0 1 1 1 0x30")),
    Case("DyrygentdBrokerDown", *_one("broker_up", "1 1 0x30", "1 0 1x30")),
    Case("DyrygentdBackendDown", *_one("backend_up", "1 1 0x30", "1 0 1x30")),
    Case("DyrygentdBrokerEmptied", *_one("broker_emptied_total", "0x15 1x15", "1x30")),
    Case("DyrygentdBrokerWentBack", *_one("broker_setbacks_total", "0x15 1x15", "1x30")),
    Case("DyrygentdDatabaseWentBack", *_one("database_setbacks_total", "0x15 1x15", "1x30")),
    Case("DyrygentdDatabaseFails", *_one("commit_failures_total", "0x16 1 2 3 4 5", "0x3 1x30")),
    Case("DyrygentdDatabaseSlow", _steps("commit", 10, 10), _steps("commit", 1000, 1)),
    Case("DyrygentdLogGrows", *_one("wal_bytes", "4e6 3e8x30", "3e8x8 4e6x30")),
    Case("DyrygentdNoWorker", *_one("overdue_tasks_found_total", "0x15 1 2 3 4 5", "3x30", 'where="no-consumer"')),
    Case("DyrygentdWorkerGone", *_one("overdue_tasks_found_total", "0x15 1 2 3 4 5", "3x30", 'where="orphaned"')),
    Case("DyrygentdTasksLost", *_one("lost_tasks_total", "0x15 2x10", "2x30")),
    Case("DyrygentdWaitsForOperator", *_one("held_nodes", "0 1x30", "1x30", 'reason="lost"')),
    Case("DyrygentdNobodyLeads", *_one("lease_left_seconds", "4x10 -1 -61 -121 -Inf -Inf -Inf -Inf -Inf", "4x10 -3 4x10")),
    Case("DyrygentdNoStandby", _pair("leader", "1x6 0x30"), _pair("leader", "0x36")),
    Case("DyrygentdNoStandby", _pair("leader", "1x6 0x30"), _pair("leader", "1x6 0x3 1x30")),
    Case("DyrygentdNoStandby", _pair("leader", "1x6 0x30"), _pair("gateway", "1x6 0x30")),
    Case("DyrygentdTookOver", *_one("lease_changes_total", "0x15 1x10", "_x15 1x10", 'change="taken"')),
    Case("DyrygentdFenced", *_one("lease_changes_total", "1x15 2x10", "1x30", 'change="lost"')),
    Case("DyrygentdLettersWait", *_one("oldest_letter_seconds", "0x5 61+60x15", "0x5 61 0x15")),
    # Prometheus counts from 1970 here: the last success was at the beginning, and again after a day.
    Case("DyrygentdSeriesStopped", *_series("0x2400", "0x1200 72000x1200"), 2300),
    Case("DyrygentdKeepsFailing", *_one("failing_nodes", "1x30", "0x5 1x10 0x15")),
    Case(
        "DyrygentdTaskFails",
        _task("succeeded", "0+2x30") | _task("failed", "0+1x30"),
        _task("succeeded", "0+99x30") | _task("failed", "0+1x30"),
    ),
    Case(
        "DyrygentdTaskFails",
        _task("succeeded", "_x15 1x9") | _task("failed", "_x15 20x9"),
        _task("succeeded", "99x30") | _task("failed", "20x30"),
    ),
    Case("DyrygentdWorkflowFailed", *_one("finished_workflows_total", "0x15 1x10", "4x30", 'state="failed"')),
    Case("DyrygentdStuck", _OLD | _results("pushed", "7x90"), _OLD | _results("pushed", "0+1x90"), 60),
    Case("DyrygentdReadyNodesWait", *_one("oldest_ready_seconds", "0+60x30", "0+60x11 0+60x20")),
    Case(
        "DyrygentdResultsComeLate",
        _CONNECTED | _results("pushed", "0+10x60") | _results("swept", "0+5x60"),
        _CONNECTED | _results("pushed", "0+1000x60") | _results("swept", "0+1x60"),
        50,
    ),
    Case("DyrygentdLoopLags", _lag(10, 10), _lag(1000, 1)),
    Case("DyrygentdClientsRefused", *_one("http_refused_total", "0+5x30", "0+0x15 3x20", 'reason="full"')),
    Case("DyrygentdConfigurationRefused", *_one("config_last_reload_successful", "1 0x30", "1 0 0 1x30")),
    Case("DyrygentdBrokenWorkflow", *_one("broken_workflows_total", "0x15 1x20", "1x30")),
)
#: It is looked at before the ten minutes are over for which nodes are held from the beginning.
_EARLY: Final = {"DyrygentdWaitsForOperator": 8, "DyrygentdBrokenWorkflow": 20}


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_every_alert_has_a_case_and_a_runbook() -> None:
    """No alert without a test, a severity, a sentence, and the first step for whoever is woken by it."""
    assert {case.alert for case in CASES} == {rule["alert"] for rule in _rules()}
    for rule in _rules():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert len(rule["annotations"]["runbook"]) > 60
        assert rule["annotations"]["summary"]
        # A view that the page has, at the daemon that it is about: the expression keeps its instance.
        place = rule["annotations"].get("page", "http://{{ $labels.instance }}/#/")
        assert re.fullmatch(r"http://\{\{ \$labels\.instance \}\}/#/(workflows\?state=(failed|running))?", place)


def test_rules_are_valid() -> None:
    """Promtool finds nothing to complain of."""
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("check", "config", str(RULES.with_name("prometheus.yml")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_alert(case: Case, tmp_path: Path) -> None:
    """It fires for the one set of series, and not for the other."""
    early = _EARLY.get(case.alert, case.minutes)
    for series, minutes, is_firing in ((case.fires, case.minutes, True), (case.quiet, early, False)):
        file = tmp_path / f"{is_firing}.yml"
        tests = [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}}) or vector(0)',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [{"labels": "{}", "value": int(is_firing)}],
                    }
                ],
            }
        ]
        file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
        promtool("test", "rules", str(file))


def hurried(directory: Path) -> Path:
    """Write the same rules with seconds for minutes, so that a test need not wait for them."""
    text = re.sub(r"for: \d+m", "for: 1s", RULES.read_text())
    text = re.sub(r"offset \d+m", "offset 10s", text)
    text = re.sub(r"\[\d+[mh]\]", "[10s]", text).replace("oldest_workflow_seconds > 1800", "oldest_workflow_seconds > 5")
    assert "[5m]" not in text
    path = directory / "hurried.yml"
    path.write_text(text)
    return path
