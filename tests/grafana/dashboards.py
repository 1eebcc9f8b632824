"""Makes the dashboards in ``grafana/dashboards`` from the tables below: ``python -m tests.grafana.dashboards``.

They are committed, so that nobody needs this to use them; a test says if they are not what this makes.
"""

# ruff: noqa: E501 - queries are read best on one line.

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

DIRECTORY: Final = Path(__file__).parents[2] / "grafana" / "dashboards"
_ON: Final = 'instance=~"$instance"'
_WIDTH: Final = 24


class Panel(NamedTuple):
    """A panel: ``queries`` are ``(expression, legend)``; ``I`` in an expression is the chosen instances; ``page`` is a view of the
    daemon's page, to which a click on what is drawn leads."""

    title: str
    about: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    thresholds: Sequence[tuple[float | None, str]] = ()
    is_stacked: bool = False
    mappings: Sequence[tuple[str, str, str]] = ()
    page: str | None = None


class Row(NamedTuple):
    """A heading with its panels."""

    title: str
    panels: Sequence[Panel]


#: Labels are names and states; an id is none, so that no link leads to a single run.
_BY_NAME: Final = "workflows?name=${__field.labels.workflow:percentencode}"
_BY_STATE: Final = "workflows?state=${__field.labels.state:percentencode}"
_FAILED: Final = "workflows?state=failed"
_GOOD_IF_ZERO: Final = ((None, "green"), (1, "red"))
_UP: Final = ((None, "red"), (1, "green"))
_UP_WORDS: Final = (("0", "down", "red"), ("1", "up", "green"))


def _stat(title: str, about: str, expression: str, **options: Any) -> Panel:
    return Panel(
        title, about, [(expression, options.pop("legend", "{{instance}}"))], "stat", **({"width": 4, "height": 4} | options)
    )


def _quantiles(step: str) -> list[tuple[str, str]]:
    buckets = f'sum by (le) (rate(dyrygentd_step_seconds_bucket{{I, step="{step}"}}[$__rate_interval]))'
    return [(f"histogram_quantile({quantile}, {buckets})", f"p{round(100 * quantile)}") for quantile in (0.5, 0.9, 0.99)]


#: Of daemons that may share a database; where one alone has it there is nothing to see.
HOSTS: Final = Row(
    "Hosts: who leads, and what waits for it?",
    (
        Panel(
            "Who leads",
            "1 where a daemon leads; none for seconds at a takeover.",
            [('max by (instance) (dyrygentd_role{I, role="leader"})', "{{instance}}")],
        ),
        Panel(
            "Lease left",
            "For how long it holds without a renewal, as each one sees it; at 0 it is over, and a standby takes over.",
            [("min by (instance) (dyrygentd_lease_left_seconds{I})", "{{instance}}")],
            unit="s",
        ),
        Panel(
            "Takeovers",
            "The lease taken, lost and handed over.",
            [("sum by (change) (increase(dyrygentd_lease_changes_total{I}[$__rate_interval]))", "{{change}}")],
            width=4,
        ),
        Panel(
            "Standbys",
            "Daemons that wait to lead; without one a loss of the leader's host is an outage.",
            [("max(dyrygentd_lease_standbys{I})", "standbys")],
            "stat",
            thresholds=_UP,
            width=4,
        ),
        Panel(
            "Letters that wait",
            "What standbys and gateways were asked for, and whoever leads has not answered.",
            [("sum(dyrygentd_waiting_letters{I})", "waiting")],
        ),
        Panel(
            "Oldest letter",
            "For how long it waits; verbs are refused at standbys and gateways after 30 s.",
            [("max(dyrygentd_oldest_letter_seconds{I})", "oldest")],
            unit="s",
        ),
        Panel(
            "Letters answered",
            "Per second.",
            [
                ("sum(rate(dyrygentd_carried_out_letters_total{I}[$__rate_interval]))", "carried out"),
                ("sum(rate(dyrygentd_refused_letters_total{I}[$__rate_interval]))", "refused"),
            ],
            unit="ops",
        ),
    ),
)

OVERVIEW: Final = (
    Row(
        "Is it healthy?",
        (
            _stat("Daemon", "Whether it can be scraped.", 'up{job="dyrygentd", I}', thresholds=_UP, mappings=_UP_WORDS),
            _stat(
                "Problems",
                "What keeps it from its work; `dyrygentctl stats` names it.",
                "dyrygentd_problems{I}",
                thresholds=_GOOD_IF_ZERO,
                page="",
            ),
            _stat("Broker", "Whether it answers.", "dyrygentd_broker_up{I}", thresholds=_UP, mappings=_UP_WORDS),
            _stat(
                "Result backend",
                "Whether results can be received.",
                "dyrygentd_backend_up{I}",
                thresholds=_UP,
                mappings=_UP_WORDS,
            ),
            _stat(
                "Tasks lost",
                "In the chosen time.",
                "sum(increase(dyrygentd_lost_tasks_total{I}[$__range]))",
                legend="lost",
                thresholds=_GOOD_IF_ZERO,
                page="",
            ),
            _stat("Running since", "Time since the daemon was started.", "time() - dyrygentd_start_time_seconds{I}", unit="s"),
        ),
    ),
    Row(
        "What is running, and how far behind is it?",
        (
            Panel(
                "Nodes by state",
                "Tasks of unfinished workflows.",
                [
                    (
                        'sum by (state) (dyrygentd_nodes{I, state=~"waiting|held|ready|dispatching|dispatched|retrying"})',
                        "{{state}}",
                    )
                ],
                width=12,
                is_stacked=True,
            ),
            Panel(
                "Tasks ended per second",
                "By outcome.",
                [("sum by (outcome) (rate(dyrygentd_finished_tasks_total{I}[$__rate_interval]))", "{{outcome}}")],
                unit="ops",
                width=12,
                is_stacked=True,
            ),
            Panel(
                "In flight against the limit",
                "Tasks in the broker or at workers. At the limit, ready nodes wait.",
                [("sum(dyrygentd_in_flight_tasks{I})", "in flight"), ("sum(dyrygentd_in_flight_limit_tasks{I})", "limit")],
            ),
            Panel(
                "Oldest ready node",
                "How long nodes that could go have not.",
                [("max by (instance) (dyrygentd_oldest_ready_seconds{I})", "{{instance}}")],
                unit="s",
            ),
            Panel(
                "Unfinished workflows",
                "By state.",
                [("sum by (state) (dyrygentd_workflows_present{I})", "{{state}}")],
                is_stacked=True,
                page=_BY_STATE,
            ),
        ),
    ),
    Row(
        "What fails?",
        (
            Panel(
                "Failures by task",
                "The ten tasks that fail most.",
                [('topk(10, sum by (task) (increase(dyrygentd_task_events_total{I, event="failed"}[$__range])))', "{{task}}")],
                "bargauge",
                width=12,
                page=_FAILED,
            ),
            Panel(
                "Workflows ended",
                "In the chosen time.",
                [("sum by (state) (increase(dyrygentd_finished_workflows_total{I}[$__range]))", "{{state}}")],
                "bargauge",
                width=6,
                page=_BY_STATE,
            ),
            Panel(
                "Held and failing nodes",
                "By what holds them; and those that have failed three times in a row or more, and are tried again.",
                [
                    ("sum by (reason) (dyrygentd_held_nodes{I})", "{{reason}}"),
                    ("sum(dyrygentd_failing_nodes{I})", "keeps failing"),
                ],
                width=6,
                is_stacked=True,
                page="",
            ),
        ),
    ),
    HOSTS,
)

WORKFLOWS: Final = (
    Row(
        "Throughput",
        (
            Panel(
                "Workflows ended per hour",
                "By name, the ten most frequent.",
                [
                    (
                        "topk(10, sum by (workflow) (3600 * rate(dyrygentd_workflow_ends_total{I}[$__rate_interval])))",
                        "{{workflow}}",
                    )
                ],
                width=12,
                page=_BY_NAME,
            ),
            Panel(
                "Since a series succeeded last",
                "Of one that never has, since it was there first; the ten longest.",
                [
                    (
                        "topk(10, time() - max by (series, owner) (dyrygentd_series_last_success_timestamp_seconds{I}))",
                        "{{series}} of {{owner}}",
                    )
                ],
                "bargauge",
                unit="s",
                width=12,
            ),
            Panel(
                "Runs of series per hour",
                "By what was decided when they were submitted; ended: cancelled for a newer one.",
                [("3600 * sum by (decided) (rate(dyrygentd_series_runs_total{I}[$__rate_interval]))", "{{decided}}")],
                width=12,
            ),
            Panel(
                "Submitted and ended per hour",
                "If the first is above the second for long, work piles up.",
                [
                    ("3600 * sum(rate(dyrygentd_submissions_total{I}[$__rate_interval]))", "submitted"),
                    ("3600 * sum(rate(dyrygentd_finished_workflows_total{I}[$__rate_interval]))", "ended"),
                ],
                width=12,
            ),
        ),
    ),
    Row(
        "Duration",
        (
            Panel(
                "Mean duration by workflow",
                "From submission to the end.",
                [
                    (
                        "topk(10, sum by (workflow) (rate(dyrygentd_workflow_seconds_total{I}[$__range]))"
                        " / sum by (workflow) (rate(dyrygentd_workflow_ends_total{I}[$__range])))",
                        "{{workflow}}",
                    )
                ],
                "bargauge",
                unit="s",
                width=12,
                page=_BY_NAME,
            ),
            Panel(
                "Mean duration by task",
                "From dispatch to result: queue and worker.",
                [
                    (
                        "topk(10, sum by (task) (rate(dyrygentd_task_seconds_total{I}[$__range])) / sum by (task)"
                        ' (rate(dyrygentd_task_events_total{I, event=~"succeeded|failed|ignored"}[$__range])))',
                        "{{task}}",
                    )
                ],
                "bargauge",
                unit="s",
                width=12,
            ),
            Panel(
                "Time until all is done",
                "Open nodes divided by the present rate: a guess, if the rate stays as it is.",
                [
                    (
                        'sum(dyrygentd_nodes{I, state=~"waiting|ready|dispatching|dispatched|retrying"})'
                        " / sum(rate(dyrygentd_finished_tasks_total{I}[$__rate_interval]))",
                        "left",
                    )
                ],
                unit="s",
            ),
            Panel(
                "Oldest unfinished workflow",
                "Its age.",
                [("max by (instance) (dyrygentd_oldest_workflow_seconds{I})", "{{instance}}")],
                unit="s",
            ),
            Panel("Finished workflows kept", "The history.", [("sum(dyrygentd_history_workflows{I})", "kept")]),
        ),
    ),
    Row(
        "Failures and retries",
        (
            Panel(
                "What became of tasks",
                "Per second.",
                [('sum by (event) (rate(dyrygentd_task_events_total{I, event!="dispatched"}[$__rate_interval]))', "{{event}}")],
                unit="ops",
                width=12,
            ),
            Panel(
                "Ends by queue",
                "Tasks that ended, per second.",
                [
                    (
                        'sum by (queue) (rate(dyrygentd_queue_events_total{I, event=~"succeeded|failed|ignored"}[$__rate_interval]))',
                        "{{queue}}",
                    )
                ],
                unit="ops",
                width=12,
            ),
            Panel(
                "Verbs of operators",
                "Done and refused.",
                [("sum by (outcome) (increase(dyrygentd_verbs_total{I}[$__rate_interval]))", "{{outcome}}")],
            ),
            Panel(
                "Pools",
                "Nodes that wait for a place.",
                [("sum by (pool) (dyrygentd_pool_waiting_tasks{I})", "{{pool}}")],
                width=4,
            ),
        ),
    ),
)

INTERNALS: Final = (
    Row(
        "From node to node",
        tuple(
            Panel(f"Step: {step}", about, _quantiles(step), unit="s")
            for step, about in (
                ("react", "From the first event of a turn to what follows being handed to the broker."),
                ("commit", "A transaction until it is durable."),
                ("publish", "From a durable dispatch to its message in the broker."),
                ("start", "From dispatch to a worker's beginning: the queue. Of workers with task_track_started."),
                ("task", "From dispatch to result: queue and worker."),
                ("result", "From a result being stored, by the worker's clock, to its being seen."),
                ("turn", "Deciding what follows."),
            )
        ),
    ),
    Row(
        "Loop and process",
        (
            Panel(
                "Event loop",
                "How late it is.",
                [
                    (
                        f"histogram_quantile({quantile}, sum by (le) (rate(dyrygentd_loop_lag_seconds_bucket{{I}}[$__rate_interval])))",
                        f"p{round(100 * quantile)}",
                    )
                    for quantile in (0.5, 0.99)
                ],
                unit="s",
            ),
            Panel(
                "CPU",
                "Of one core.",
                [("rate(process_cpu_seconds_total{I}[$__rate_interval])", "{{instance}}")],
                unit="percentunit",
            ),
            Panel("Memory", "Resident.", [("process_resident_memory_bytes{I}", "{{instance}}")], unit="bytes"),
            Panel("Open files", "Of the process.", [("process_open_fds{I}", "open"), ("process_max_fds{I}", "limit")]),
            Panel(
                "Queues inside",
                "What waits for a turn, for the broker, for the disk.",
                [
                    ("sum(dyrygentd_inbox_events{I})", "events"),
                    ("sum(dyrygentd_publish_queue_messages{I})", "messages"),
                    ("sum(dyrygentd_errands{I})", "errands"),
                    ("sum(dyrygentd_waiting_verbs{I})", "verbs"),
                ],
            ),
            Panel("Turns", "Per second.", [("sum(rate(dyrygentd_turns_total{I}[$__rate_interval]))", "turns")], unit="ops"),
        ),
    ),
    Row(
        "Database",
        (
            Panel(
                "Size",
                "Of the file and its write-ahead log.",
                [("sum(dyrygentd_database_bytes{I})", "database"), ("sum(dyrygentd_wal_bytes{I})", "log")],
                unit="bytes",
            ),
            Panel(
                "Rows per transaction",
                "The more, the better they share a sync.",
                [
                    (
                        "sum(rate(dyrygentd_commit_rows_sum{I}[$__rate_interval])) / sum(rate(dyrygentd_commit_rows_count{I}[$__rate_interval]))",
                        "rows",
                    )
                ],
            ),
            Panel(
                "Transactions that failed",
                "Per second.",
                [("sum(rate(dyrygentd_commit_failures_total{I}[$__rate_interval]))", "failed")],
                unit="ops",
            ),
        ),
    ),
    Row(
        "Broker and results",
        (
            Panel(
                "Results by the way they came",
                "Pushed is the usual way.",
                [("sum by (path) (rate(dyrygentd_received_results_total{I}[$__rate_interval]))", "{{path}}")],
                unit="ops",
                is_stacked=True,
            ),
            Panel(
                "Published",
                "Messages a second, and attempts that had to be repeated.",
                [
                    ("sum(rate(dyrygentd_published_messages_total{I}[$__rate_interval]))", "published"),
                    ("sum(rate(dyrygentd_publish_failures_total{I}[$__rate_interval]))", "failed"),
                    ("sum(rate(dyrygentd_repeated_messages_total{I}[$__rate_interval]))", "found in the broker"),
                ],
                unit="ops",
            ),
            Panel(
                "Unusual results",
                "Late, doubled, foreign, undecodable.",
                [
                    ("sum(rate(dyrygentd_unrouted_results_total{I}[$__rate_interval]))", "unrouted"),
                    ("sum(rate(dyrygentd_late_results_total{I}[$__rate_interval]))", "late"),
                    ("sum(rate(dyrygentd_undecodable_results_total{I}[$__rate_interval]))", "undecodable"),
                ],
                unit="ops",
            ),
        ),
    ),
    Row(
        "Clients",
        (
            Panel(
                "Requests by route",
                "Per second.",
                [("sum by (method, route) (rate(dyrygentd_http_requests_total{I}[$__rate_interval]))", "{{method}} {{route}}")],
                unit="reqps",
            ),
            Panel(
                "Answers that were errors",
                "By status.",
                [('sum by (status) (rate(dyrygentd_http_requests_total{I, status=~"[45].."}[$__rate_interval]))', "{{status}}")],
                unit="reqps",
            ),
            Panel(
                "Time to the answer",
                "99 of 100 requests, by route.",
                [
                    (
                        "histogram_quantile(0.99, sum by (route, le) (rate(dyrygentd_http_request_seconds_bucket{I}[$__rate_interval])))",
                        "{{route}}",
                    )
                ],
                unit="s",
            ),
            Panel("Connections", "Of clients.", [("sum(dyrygentd_http_connections{I})", "connections")]),
            Panel("Followers", "Of folded workflows.", [("sum(dyrygentd_fold_readers{I})", "followers")]),
            Panel(
                "Time for folding",
                "Of one core, beside the loop.",
                [("sum(rate(dyrygentd_fold_seconds_total{I}[$__rate_interval]))", "folding")],
                unit="percentunit",
            ),
            Panel(
                "Turned away",
                "By reason.",
                [("sum by (reason) (rate(dyrygentd_http_refused_total{I}[$__rate_interval]))", "{{reason}}")],
                unit="ops",
            ),
        ),
    ),
)

DASHBOARDS: Final = {
    "overview": ("dyrygentd / Overview", OVERVIEW),
    "workflows": ("dyrygentd / Workflows", WORKFLOWS),
    "internals": ("dyrygentd / Internals", INTERNALS),
}


def made(name: str) -> dict[str, Any]:
    """Make a dashboard."""
    title, rows = DASHBOARDS[name]
    return {
        "uid": f"dyrygentd-{name}",
        "title": title,
        "tags": ["dyrygentd", "celery"],
        "schemaVersion": 36,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "templating": {"list": [*_variables()]},
        "annotations": {"list": [*_annotations()]},
        "links": [
            {
                "title": "dyrygentd",
                "type": "dashboards",
                "tags": ["dyrygentd"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            },
            {"title": "The daemon's page", "type": "link", "url": f"{_PAGE}/", "icon": "external link", "targetBlank": True},
        ],
        "panels": [*_placed(rows)],
    }


def expressions(name: str) -> Iterator[tuple[str, str]]:
    """Iterate over ``(title of the panel, expression)`` of a dashboard, as Grafana has it."""
    for panel in made(name)["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1}
    yield {
        "name": "instance",
        "label": "Instance",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(dyrygentd_build_info, instance)", "refId": "instance"},
        "definition": "label_values(dyrygentd_build_info, instance)",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "hide": 0,
    }
    # Where people reach it is not where Prometheus does, so that no label knows.
    yield {
        "name": "page",
        "label": "Page",
        "type": "textbox",
        "query": _PAGE_USUALLY,
        "current": {"text": _PAGE_USUALLY, "value": _PAGE_USUALLY},
        "hide": 0,
    }


def _annotations() -> Iterator[dict[str, Any]]:
    for title, expression, colour in (
        ("Restarts", f"changes(dyrygentd_start_time_seconds{{{_ON}}}[1m]) > 0", "orange"),
        ("Deploys", f"count by (version) (dyrygentd_build_info{{{_ON}}} unless dyrygentd_build_info{{{_ON}}} offset 1m)", "blue"),
    ):
        yield {
            "name": title,
            "datasource": _SOURCE,
            "enable": True,
            "expr": expression,
            "iconColor": colour,
            "titleFormat": title,
            "textFormat": "{{instance}} {{version}}",
            "step": "60s",
        }


_PAGE: Final = "${page:raw}"
_PAGE_USUALLY: Final = "http://localhost:9465"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for row in rows:
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": _at(0, top, _WIDTH, 1),
        }
        number, top, left, height = number + 1, top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > _WIDTH:
                left, top, height = 0, top + height, 0
            yield _panel(panel, number, _at(left, top, panel.width, panel.height))
            number, left, height = number + 1, left + panel.width, max(height, panel.height)
        top += height


def _at(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.thresholds:
        steps = [{"value": value, "color": colour} for value, colour in panel.thresholds]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.mappings:
        options = {value: {"text": text, "color": colour} for value, text, colour in panel.mappings}
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 20 if panel.is_stacked else 5,
            "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
            "showPoints": "never",
        }
    if panel.page is not None:
        defaults["links"] = [{"title": "Show on the daemon's page", "url": f"{_PAGE}/#/{panel.page}", "targetBlank": True}]
    is_instant = panel.kind != "timeseries"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + place_of_query),
                "datasource": _SOURCE,
                "expr": expression.replace("{I}", f"{{{_ON}}}").replace("{I,", f"{{{_ON},").replace(", I}", f", {_ON}}}"),
                "legendFormat": legend,
                "instant": is_instant,
                "range": not is_instant,
                "exemplar": panel.kind == "timeseries" and "step_seconds" in expression,
            }
            for place_of_query, (expression, legend) in enumerate(panel.queries)
        ],
    }


_REDUCE: Final = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Final = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"reduceOptions": _REDUCE, "colorMode": "value", "graphMode": "none", "textMode": "auto"},
    "bargauge": {"reduceOptions": _REDUCE, "orientation": "horizontal", "displayMode": "basic"},
}


def text(name: str) -> str:
    """Return a dashboard as it is committed."""
    return json.dumps(made(name), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (DIRECTORY / f"{each}.json").write_text(text(each))
