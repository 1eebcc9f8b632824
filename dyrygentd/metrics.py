"""Prometheus metrics, collected when they are scraped: nothing is counted twice and an unscraped process pays nothing.

The catalogue below is the only place where a metric is named. No label has unbounded values: never ids.

Long because it is a catalogue, and each entry is read for itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Exemplar

from dyrygentd import wire
from dyrygentd.errors import ConfigurationError

Registry = CollectorRegistry
Read = Callable[[], wire.Statistics]


class _Entry(NamedTuple):
    """A metric: where its value stands in `wire.Statistics`, and what it means."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    part: str
    key: str
    name: str
    help: str


_counter, _gauge = partial(_Entry, CounterMetricFamily), partial(_Entry, GaugeMetricFamily)
_DISPATCHED: Final = "Nodes given to the broker, each attempt once"

#: ``counters`` and ``nodes`` are dictionaries inside the engine's part.
CATALOGUE: Final = (
    _gauge("engine", "workflows", "dyrygentd_workflows", "Unfinished workflows in memory, with children"),
    _gauge("engine", "in_flight", "dyrygentd_in_flight_tasks", "Tasks in the broker or at workers"),
    _gauge("engine", "in_flight_max", "dyrygentd_in_flight_limit_tasks", "Largest number of tasks in flight"),
    _gauge("engine", "inbox", "dyrygentd_inbox_events", "Events that wait for the next turn"),
    _gauge("engine", "publish_queue", "dyrygentd_publish_queue_messages", "Durable dispatches that wait for the broker"),
    _counter("engine", "turns", "dyrygentd_turns", "Turns of the loop that had work to do"),
    _counter("counters", "submitted", "dyrygentd_submissions", "Workflows accepted"),
    _counter("counters", "imported", "dyrygentd_imported_workflows", "Workflows brought from another daemon"),
    _counter("counters", "recovered", "dyrygentd_recovered_workflows", "Unfinished workflows read back at start"),
    _counter("counters", "dispatched", "dyrygentd_dispatched_tasks", _DISPATCHED),
    _counter(
        "counters", "unrouted", "dyrygentd_unrouted_results", "Results that were late, doubled or foreign and changed nothing"
    ),
    _counter("counters", "retried", "dyrygentd_retried_tasks", "Failed attempts that are followed by another one"),
    _counter("counters", "timed_out", "dyrygentd_timed_out_tasks", "Attempts that were given up because they took too long"),
    _counter("counters", "lost", "dyrygentd_lost_tasks", "Tasks that vanished from broker, workers and backend"),
    _counter("counters", "turned_up", "dyrygentd_turned_up_tasks", "Tasks taken for lost that ended all the same"),
    _counter("counters", "redelivered", "dyrygentd_redelivered_tasks", "Messages that the broker gave out once more"),
    _counter("lost", "looks", "dyrygentd_lost_looks", "Times that overdue tasks were looked for"),
    _gauge("lost", "missing", "dyrygentd_missing_tasks", "Tasks found nowhere once, and looked for again"),
    _counter("counters", "late", "dyrygentd_late_results", "Ends of tasks without which their node had gone on"),
    _gauge("engine", "late", "dyrygentd_late_watched_tasks", "Tasks that are followed although their node went on"),
    _gauge("engine", "values_bytes", "dyrygentd_kept_value_bytes", "Bytes of the values that are kept for nodes to come"),
    _gauge("engine", "stored_values", "dyrygentd_stored_values", "Large values that are kept beside the database"),
    _gauge("engine", "stored_value_bytes", "dyrygentd_stored_value_bytes", "Bytes of the large values beside the database"),
    _gauge(
        "engine",
        "stored_values_waiting",
        "dyrygentd_waiting_stored_values",
        "Ends of tasks that wait for their value to be written",
    ),
    _counter("engine", "stored_values_written", "dyrygentd_written_stored_values", "Large values that were written"),
    _counter(
        "engine",
        "stored_values_failed",
        "dyrygentd_failed_stored_values",
        "Large values kept as if there were no place for them",
    ),
    _counter("engine", "values_refused", "dyrygentd_refused_values", "Values for which there was no room"),
    _gauge("engine", "timers", "dyrygentd_timers", "Times at which something is due"),
    _gauge("engine", "errands", "dyrygentd_errands", "Revokes and clean-ups that wait for the broker"),
    _gauge("engine", "asking", "dyrygentd_waiting_verbs", "Verbs that wait for the disk"),
    _counter("counters", "refused", "dyrygentd_refused_messages", "Messages that could not be built or were refused for good"),
    _counter("counters", "broken", "dyrygentd_broken_workflows", "Workflows set aside because they contradicted themselves"),
    _counter("store", "commits", "dyrygentd_commits", "Transactions made durable"),
    _counter("store", "rows", "dyrygentd_saved_rows", "Rows written"),
    _counter("store", "journal_entries", "dyrygentd_journal_entries", "Entries written to the journals of workflows"),
    _gauge("engine", "saving_s", "dyrygentd_present_commit_seconds", "How long the present transaction has been waiting"),
    _counter("counters", "clock_steps", "dyrygentd_clock_steps", "Times that somebody set the clock of this machine"),
    _counter("store", "commit_seconds", "dyrygentd_commit_seconds", "Time spent on transactions"),
    _counter("store", "failures", "dyrygentd_commit_failures", "Transactions that failed"),
    _gauge("engine", "oldest_workflow_s", "dyrygentd_oldest_workflow_seconds", "Age of the oldest unfinished workflow"),
    _gauge(
        "engine",
        "oldest_ready_s",
        "dyrygentd_oldest_ready_seconds",
        "How long a workflow with ready nodes has had none dispatched",
    ),
    _gauge(
        "engine",
        "keeps_failing",
        "dyrygentd_failing_nodes",
        "Nodes that have failed at least three times in a row and are tried again",
    ),
    _gauge("engine", "term", "dyrygentd_term", "How many processes have taken this database over, this one included"),
    _gauge("engine", "recovery_seconds", "dyrygentd_recovery_seconds", "How long reading back took at the start"),
    _gauge(
        "store",
        "finished_workflows",
        "dyrygentd_history_workflows",
        "Finished workflows that are kept, without children",
    ),
    _gauge("store", "database_bytes", "dyrygentd_database_bytes", "Size of the database"),
    _gauge("store", "wal_bytes", "dyrygentd_wal_bytes", "Size of the write-ahead log"),
    _gauge("engine", "broker_up", "dyrygentd_broker_up", "Whether the broker answered when it was last asked"),
    _counter("engine", "broker_emptied", "dyrygentd_broker_emptied", "Times that the broker had lost its memory"),
    _counter("engine", "broker_changed", "dyrygentd_broker_changed", "Times that the broker was at another address"),
    _gauge("engine", "unrun_waiting", "dyrygentd_unrun_results_waiting", "Tasks that never ran, of which that is not stored yet"),
    _counter("engine", "unrun_stored", "dyrygentd_unrun_results", "Results stored for tasks that never ran"),
    _counter(
        "engine",
        "broker_went_back",
        "dyrygentd_broker_setbacks",
        "Times that the broker had lost its last messages",
    ),
    _counter("engine", "lost_pushes", "dyrygentd_lost_pushes", "Messages that the broker had lost with it"),
    _counter("engine", "setbacks", "dyrygentd_database_setbacks", "Times that the database was older than what was done with it"),
    _counter("engine", "found_stored", "dyrygentd_found_tasks", "Tasks from before a setback that were found, and not sent"),
    _gauge("engine", "letters_waiting", "dyrygentd_waiting_letters", "Letters of standbys and gateways that are not answered"),
    _gauge("engine", "letters_oldest_s", "dyrygentd_oldest_letter_seconds", "For how long the oldest of these letters waits"),
    _counter("engine", "letters_carried_out", "dyrygentd_carried_out_letters", "Letters that were carried out"),
    _counter("engine", "letters_refused", "dyrygentd_refused_letters", "Letters that asked for what cannot be done"),
    _gauge("engine", "fold_readers", "dyrygentd_fold_readers", "Those who follow a folded workflow, or a box of it"),
    _gauge("engine", "fold_nodes", "dyrygentd_fold_nodes", "Nodes of the workflows whose folds are kept"),
    _counter("engine", "folds", "dyrygentd_folds", "Folds of workflows counted for those who look"),
    _counter("engine", "fold_seconds", "dyrygentd_fold_seconds", "Time spent on folding and counting, beside the loop"),
    _counter("dispatcher", "published", "dyrygentd_published_messages", "Messages that the broker took"),
    _counter("dispatcher", "repeated", "dyrygentd_repeated_messages", "Messages found in the broker already and not sent again"),
    _counter("dispatcher", "failures", "dyrygentd_publish_failures", "Attempts to publish that must be repeated"),
    _counter("dispatcher", "publish_seconds", "dyrygentd_publish_seconds", "Time spent on building and sending messages"),
    _gauge("watcher", "watched", "dyrygentd_watched_tasks", "Tasks whose results are awaited"),
    _gauge("watcher", "connected", "dyrygentd_backend_up", "Whether results can be received now"),
    _counter("watcher", "connections", "dyrygentd_backend_connections", "Connections made to the result backend"),
    _gauge("reports", "connected", "dyrygentd_reports_up", "Whether the reports of workers can be read now"),
    _counter(
        "reports", "gaps", "dyrygentd_report_gaps", "Times that reports may be missing, since their stream was cut or emptied"
    ),
    _counter("reports", "unreadable", "dyrygentd_unreadable_reports", "Entries in the stream of reports that are none"),
    _counter("reports", "concluded", "dyrygentd_concluded_reports", "Ends taken from a report, since no result was found"),
    _gauge("reports", "unconfirmed", "dyrygentd_unconfirmed_reports", "Reported ends whose result was not seen yet"),
    _gauge("reports", "lag_seconds", "dyrygentd_report_lag_seconds", "How old the newest report was when it was read"),
    _counter("watcher", "undecodable", "dyrygentd_undecodable_results", "Stored results that could not be decoded"),
)

#: Steps on the way from one node to the next: ``{step: what it lasts}``.
STEPS: Final = {
    "turn": "handling the events of a turn and deciding what follows",
    "commit": "a transaction, until it is durable",
    "publish": "from a dispatch being durable to its message being in the broker",
    "start": "from the dispatch of a task to the first word that a worker has begun it, if workers track that",
    "task": "from the dispatch of a task to its result being seen: queue and worker",
    "result": "from a result being stored, by the worker's clock, to its being seen",
    "react": "from the first event of a turn to what follows from it being handed to the broker",
}
_STEP_SECONDS: Final = (
    f"Seconds of each step on the way of a node: {'; '.join(f'{step}: {text}' for step, text in STEPS.items())}"
)
_COMMIT_ROWS: Final = "Rows of a transaction"
#: Sums by the name of a task, and of a workflow; names beyond the first hundred are added up as (others).
_TASK_WORDS: Final = ("dispatched", "succeeded", "failed", "ignored", "lost", "retried", "late")

_RESULT_PATHS: Final = ("pushed", "read", "swept")
_OUTCOMES: Final = ("succeeded", "failed", "revoked")
_WORKFLOW_OUTCOMES: Final = ("succeeded", "failed", "cancelled")
#: Pools that have series of their own: those that most nodes wait for. Names may come from users without end, if a size is given
#: for a pattern, so the others are added up under one name.
_POOLS_MAX: Final = 50
_OTHER_POOLS: Final = "(others)"


class SchedulerCollector:
    """Reads the statistics of one scheduler at scrape time."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Yield names without values, so that a registry refuses a second scheduler; statistics are not read for it."""
        for entry in CATALOGUE:
            yield entry.kind(entry.name, entry.help)
        yield HistogramMetricFamily("dyrygentd_step_seconds", _STEP_SECONDS, labels=["step"])

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the catalogue."""
        statistics = self._read()
        counters: dict[str, Any] = statistics.engine["counters"]
        parts: dict[str, dict[str, Any]] = {
            "engine": statistics.engine,
            "counters": counters,
            "store": statistics.store,
            "dispatcher": statistics.dispatcher,
            "watcher": statistics.watcher,
            "reports": statistics.reports,
            "lost": statistics.lost,
        }
        for entry in CATALOGUE:
            yield entry.kind(entry.name, entry.help, value=float(parts[entry.part][entry.key]))
        yield _labelled(
            GaugeMetricFamily, "dyrygentd_nodes", "Tasks of unfinished workflows", "state", statistics.engine["nodes"]
        )
        finished = {outcome: counters[f"workflows_{outcome}"] for outcome in _WORKFLOW_OUTCOMES}
        yield _labelled(CounterMetricFamily, "dyrygentd_finished_workflows", "Workflows that ended", "state", finished)
        outcomes = {outcome: counters[outcome] for outcome in _OUTCOMES}
        yield _labelled(CounterMetricFamily, "dyrygentd_finished_tasks", "Results of tasks", "outcome", outcomes)
        paths = {path: statistics.watcher[path] for path in _RESULT_PATHS}
        yield _labelled(CounterMetricFamily, "dyrygentd_received_results", "Results by the way they came", "path", paths)
        yield _labelled(
            CounterMetricFamily, "dyrygentd_read_reports", "Reports of workers by state", "state", statistics.reports["read"]
        )
        yield _labelled(
            CounterMetricFamily,
            "dyrygentd_overdue_tasks_found",
            "Where overdue tasks were, for each time that one was looked for",
            "where",
            statistics.lost["findings"],
        )
        verbs = {"done": counters["verbs"], "refused": counters["verbs_refused"]}
        yield _labelled(
            CounterMetricFamily, "dyrygentd_verbs", "Verbs of operators that changed something or were refused", "outcome", verbs
        )
        pools = _pools(statistics.engine["pools"])
        for key, name, text in _POOL_SERIES:
            values = {pool: float(sizes[key]) for pool, sizes in pools.items()}
            yield _labelled(GaugeMetricFamily, name, text, "pool", values)
        engine = statistics.engine
        yield _labelled(
            GaugeMetricFamily, "dyrygentd_workflows_present", "Unfinished workflows", "state", engine["workflow_states"]
        )
        yield _labelled(
            GaugeMetricFamily, "dyrygentd_held_nodes", "Nodes that are held, by what holds them", "reason", engine["held"]
        )
        yield from _by_name(statistics)
        yield from _of_series(statistics.engine)
        yield from _histograms(statistics.tallies)
        problems = len(statistics.problems)
        yield GaugeMetricFamily("dyrygentd_problems", "What keeps the daemon from its work, see /healthz", value=problems)
        # The process's own start time is not to be had where /proc/stat is hidden, as in some sandboxes.
        started = statistics.engine["started_at"]
        yield GaugeMetricFamily("dyrygentd_start_time_seconds", "When the daemon was started, as Unix time", value=started)
        build = GaugeMetricFamily("dyrygentd_build_info", "The running version", labels=["version"])
        build.add_metric([statistics.version], 1)
        yield build


def _by_name(statistics: wire.Statistics) -> Iterator[Metric]:
    tasks = CounterMetricFamily("dyrygentd_task_events", "What became of tasks, by their name", labels=["task", "event"])
    seconds = CounterMetricFamily(
        "dyrygentd_task_seconds", "Seconds from dispatch to the end, by name of the task", labels=["task"]
    )
    for name, sums in statistics.tasks.items():
        for word in _TASK_WORDS:
            tasks.add_metric([name, word], sums[word])
        seconds.add_metric([name], sums["seconds"])
    yield tasks
    yield seconds
    queues = CounterMetricFamily("dyrygentd_queue_events", "What became of tasks, by their queue", labels=["queue", "event"])
    for name, sums in statistics.queues.items():
        for word in _TASK_WORDS:
            queues.add_metric([name, word], sums[word])
    yield queues
    workflows = CounterMetricFamily(
        "dyrygentd_workflow_ends", "Workflows that ended, by their name", labels=["workflow", "state"]
    )
    lasted = CounterMetricFamily("dyrygentd_workflow_seconds", "Seconds from submission to the end", labels=["workflow"])
    for name, sums in statistics.workflows.items():
        for word in _WORKFLOW_OUTCOMES:
            workflows.add_metric([name, word], sums[word])
        lasted.add_metric([name], sums["seconds"])
    yield workflows
    yield lasted


def _of_series(engine: Mapping[str, Any]) -> Iterator[Metric]:
    decided = engine.get("series_submissions", {})
    yield _labelled(
        CounterMetricFamily,
        "dyrygentd_series_runs",
        "Runs of series by what was decided about them",
        "decided",
        decided,
    )
    text = "When a series succeeded last, as Unix time; of one that never has, when it was there first"
    ends = GaugeMetricFamily("dyrygentd_series_last_success_timestamp_seconds", text, labels=["series", "owner"])
    for owner, series, at in engine.get("series", ()):
        ends.add_metric([series, owner], at)
    yield ends


def _histograms(tallies: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    steps = HistogramMetricFamily("dyrygentd_step_seconds", _STEP_SECONDS, labels=["step"])
    for step in STEPS:
        steps.add_metric([step], _buckets(tallies[step]), tallies[step]["sum"])
    yield steps
    rows = HistogramMetricFamily("dyrygentd_commit_rows", _COMMIT_ROWS)
    rows.add_metric([], _buckets(tallies["commit rows"]), tallies["commit rows"]["sum"])
    yield rows


def _buckets(tally: Mapping[str, Any]) -> list[Any]:
    """Return ``(upper bound, values up to it, an example if there is one)``; examples are shown in OpenMetrics alone."""
    buckets: list[Any] = []
    count = 0
    for place, bound in enumerate([*tally["bounds"], float("inf")]):
        count += tally["counts"][place]
        example = tally["examples"].get(str(place))
        shown = None if example is None else Exemplar({"workflow": example[1]}, example[0], example[2])
        text = "+Inf" if bound == float("inf") else str(bound)
        buckets.append((text, count, shown) if shown else (text, count))
    return buckets


class HttpCollector:
    """Reads what the HTTP side tells.

    That is ``{"connections": n, "refused": {reason: n}, "answers": {(method, route, status): n}, "seconds": {route: tally}}``.
    """

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Yield names without values."""
        yield GaugeMetricFamily("dyrygentd_http_connections", _CONNECTIONS)
        yield CounterMetricFamily("dyrygentd_http_refused", _REFUSED, labels=["reason"])
        yield CounterMetricFamily("dyrygentd_http_requests", _REQUESTS, labels=["method", "route", "status"])
        yield HistogramMetricFamily("dyrygentd_http_request_seconds", _REQUEST_SECONDS, labels=["route"])

    def collect(self) -> Iterator[Metric]:
        """Yield all of them."""
        found = self._read()
        yield GaugeMetricFamily("dyrygentd_http_connections", _CONNECTIONS, value=found["connections"])
        yield _labelled(CounterMetricFamily, "dyrygentd_http_refused", _REFUSED, "reason", found["refused"])
        requests = CounterMetricFamily("dyrygentd_http_requests", _REQUESTS, labels=["method", "route", "status"])
        for (method, route, status), number in found["answers"].items():
            requests.add_metric([method, route, str(status)], number)
        yield requests
        seconds = HistogramMetricFamily("dyrygentd_http_request_seconds", _REQUEST_SECONDS, labels=["route"])
        for route, tally in found["seconds"].items():
            seconds.add_metric([route], _buckets(tally), tally["sum"])
        yield seconds


class DaemonCollector:
    """Reads how late the event loop was, as the view of a tally, and whether the configuration could be loaded."""

    def __init__(self, lag: Callable[[], Mapping[str, Any]], is_loaded: Callable[[], bool]) -> None:
        self._lag = lag
        self._is_loaded = is_loaded

    def describe(self) -> Iterator[Metric]:
        """Yield the names without values."""
        yield HistogramMetricFamily("dyrygentd_loop_lag_seconds", _LOOP_LAG)
        yield GaugeMetricFamily("dyrygentd_config_last_reload_successful", _LAST_RELOAD)

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        lag, tally = HistogramMetricFamily("dyrygentd_loop_lag_seconds", _LOOP_LAG), self._lag()
        lag.add_metric([], _buckets(tally), tally["sum"])
        yield lag
        yield GaugeMetricFamily("dyrygentd_config_last_reload_successful", _LAST_RELOAD, value=float(self._is_loaded()))


class DeputyCollector:
    """Reads the statistics of a process that does not lead."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Yield the names without values."""
        for entry in _OF_DEPUTY:
            yield entry.kind(entry.name, entry.help)

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        statistics = self._read()
        values = statistics.engine | {"lag_s": math.nan if statistics.lag_s is None else statistics.lag_s}
        for entry in _OF_DEPUTY:
            yield entry.kind(entry.name, entry.help, value=values[entry.key])


class RolesCollector:
    """Reads what a process is that may share its database.

    That is ``{"role": word, "left_s": s, "standbys": n, "changes": {change: n}}``; empty if it shares none.
    """

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:
        self._read = read

    def describe(self) -> Iterator[Metric]:
        """Yield the names without values."""
        yield GaugeMetricFamily("dyrygentd_role", _ROLE, labels=["role"])
        yield GaugeMetricFamily("dyrygentd_lease_left_seconds", _LEASE_LEFT)
        yield GaugeMetricFamily("dyrygentd_lease_standbys", _STANDBYS)
        yield CounterMetricFamily("dyrygentd_lease_changes", _CHANGES, labels=["change"])

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        if found := self._read():
            roles = {role: float(role == found["role"]) for role in ("leader", "standby", "gateway")}
            yield _labelled(GaugeMetricFamily, "dyrygentd_role", _ROLE, "role", roles)
            yield GaugeMetricFamily("dyrygentd_lease_left_seconds", _LEASE_LEFT, value=found["left_s"])
            yield GaugeMetricFamily("dyrygentd_lease_standbys", _STANDBYS, value=found["standbys"])
            yield _labelled(CounterMetricFamily, "dyrygentd_lease_changes", _CHANGES, "change", found["changes"])


_BESIDE: Final = "Of a standby or gateway"
_OF_DEPUTY: Final = (
    _gauge(
        "engine", "lag_s", "dyrygentd_leader_lag_seconds", f"{_BESIDE}: since when the leader was not heard of; NaN if unknown"
    ),
    _gauge("engine", "looked_at", "dyrygentd_mirror_nodes", f"{_BESIDE}: nodes of unfinished workflows at which somebody looks"),
    _counter("engine", "looks", "dyrygentd_mirror_readings", f"{_BESIDE}: how often what is looked at was read"),
    _counter("engine", "look_seconds", "dyrygentd_mirror_seconds", f"{_BESIDE}: how long that took"),
)
_ROLE: Final = "What this process is, where several share a database: 1 at that word"
_LEASE_LEFT: Final = (
    "For how long whoever leads has the database, unless it renews that; negative: since when nobody is known to lead"
)
_STANDBYS: Final = "Processes that wait to lead, as far as they were seen lately"
_CHANGES: Final = "How often this process has begun to lead (taken), or another one has while this one led (lost)"
_CONNECTIONS: Final = "Connections of clients"
_REQUESTS: Final = "Answers to requests; what fits no route is (others)"
_REQUEST_SECONDS: Final = "From the head of a request to its answer; event streams and long polls are left aside"
_LAST_RELOAD: Final = "Whether the configuration could be loaded the last time that SIGHUP asked for it"
_LOOP_LAG: Final = "How late the event loop came to a timer, looked at four times a second"
_REFUSED: Final = "Connections and requests that were refused or ended because they kept others waiting"


def register_deputy(registry: Registry, read: Read) -> DeputyCollector:
    """Add the metrics of a process that does not lead; `unregister` takes them out again."""
    collector = DeputyCollector(read)
    registry.register(collector)
    return collector


def register(registry: Registry, read: Read) -> SchedulerCollector:
    """Add the metrics of a scheduler to ``registry``; `unregister` takes them out again.

    Raises:
        ConfigurationError: The registry has another scheduler's; every series would stand there twice, and scrapes would fail.
    """
    collector = SchedulerCollector(read)
    try:
        registry.register(collector)
    except ValueError as error:
        raise ConfigurationError(
            f"the registry has metrics of another scheduler already: {error}", next_step="give each scheduler a registry"
        ) from error
    return collector


def register_process(registry: Registry) -> None:
    """Add what the process itself uses: CPU, memory, open files."""
    ProcessCollector(registry=registry)


def unregister(registry: Registry, collector: SchedulerCollector | DeputyCollector) -> None:
    """Take a scheduler's or a deputy's metrics out of ``registry``."""
    registry.unregister(collector)


def render(registry: Registry, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics and their content type: OpenMetrics if ``accept`` asks for it, else the classic text form."""
    encode, content_type = choose_encoder(accept) if accept else (generate_latest, "text/plain; version=0.0.4; charset=utf-8")
    return encode(registry), content_type


def _pools(views: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return ``{pool: {"size", "used", "waiting"}}``, the pools beyond the bound added up."""
    ranked = sorted(views, key=lambda view: (-view["waiting"], -view["used"], view["name"]))
    pools = {view["name"]: {key: view[key] for key, _, _ in _POOL_SERIES} for view in ranked[:_POOLS_MAX]}
    if len(ranked) > _POOLS_MAX:
        pools[_OTHER_POOLS] = {key: sum(view[key] for view in ranked[_POOLS_MAX:]) for key, _, _ in _POOL_SERIES}
    return pools


_POOL_SERIES: Final = (
    ("size", "dyrygentd_pool_size_tasks", "Places of a pool or a limited queue; only those that are in use"),
    ("used", "dyrygentd_pool_used_tasks", "Places that are taken"),
    ("waiting", "dyrygentd_pool_waiting_tasks", "Nodes that stand in line for a place"),
)


def _labelled(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily], name: str, text: str, label: str, values: dict[str, float]
) -> Metric:
    family = kind(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
