"""Workers that do not fit together, or to the app: who gets a task and does not know it, and who stores results elsewhere."""

from typing import Any

import pytest
from celery import Celery, chain

from dyrygentd.lint import Finding, lint
from dyrygentd.tasks.fleet import Fleet, Worker, gap_of, other_backends

app = Celery("test_fleet", broker="memory://", backend="redis://:pw@store/2", set_as_current=False)


@app.task(name="img.mark")
def mark(x: int = 0) -> int:
    """Take a value."""
    return x


def _worker(name: str, *tasks: str, queues: str = "celery", **settings: Any) -> Worker:
    settings = {"result_backend": "redis://:********@store/2", "result_serializer": "json", **settings}
    return Worker(name, frozenset(tasks), frozenset(queues.split()), settings)


def _only(code: str, what: Any, *workers: Worker, reached: int | None = None) -> Finding:
    (finding,) = [each for each in lint(what, app=app, fleet=Fleet(workers, reached)) if each.code == code]
    return finding


def test_half_a_deploy() -> None:
    """One of two that consume the queue has the task: merged they have it, and every other message fails."""
    old, new = _worker("w1@vm", "img.size"), _worker("w2@vm", "img.mark", "img.size")
    finding = _only("task-not-at-worker", chain(mark.s(1), mark.s()), old, new)
    assert (finding.severity, finding.count) == ("error", 2)
    assert finding.message == (
        "'img.mark' goes into queue 'celery', and w1@vm, which consumes it, does not know it; w2@vm does: who gets it is chance"
    )
    assert finding.next_step == "restart w1@vm with the code that has it"
    assert [each.code for each in lint(mark.s(1), app=app, fleet=Fleet((new, new)))] == []


def test_task_that_the_wrong_workers_have() -> None:
    """Those that consume its queue do not know it, others do: it would fail always, and the route is the likely reason."""
    workers = _worker("w1@vm"), _worker("gpu@vm", "img.mark", queues="gpu")
    finding = _only("task-not-at-worker", mark.s(1), *workers)
    assert "w1@vm, which consumes it, does not know it; gpu@vm does, and consumes 'gpu'" in finding.message
    assert finding.next_step == "route it to 'gpu', or restart w1@vm with the code that has it"
    assert [each.code for each in lint(mark.s(1).set(queue="gpu"), app=app, fleet=Fleet(workers))] == []


def test_task_of_a_map_is_looked_for_too() -> None:
    """What `map` and `chunks` run has to be known to whoever gets the map."""
    workers = Fleet((_worker("w1@vm"), _worker("w2@vm", "img.mark")))
    for canvas in (mark.map([1, 2]), mark.chunks([(1,), (2,)], 1)):
        assert "task-not-at-worker" in {each.code for each in lint(canvas, app=app, fleet=workers)}


def test_names_that_nobody_has() -> None:
    """That is another fault, with the name that was meant."""
    finding = _only("unknown-task", mark.s(1), _worker("w1@vm", "images.mark"))
    assert finding.message == "no worker has the task 'img.mark'; did you mean 'images.mark'?"
    assert gap_of(Fleet((_worker("w1@vm"),)), "img.mark", "celery") == ("", "")
    finding = _only("unknown-queue", mark.s(1).set(queue="reprots"), _worker("w1@vm", "img.mark", queues="reports"))
    assert finding.message == "no worker consumes the queue 'reprots'; did you mean 'reports'?"


def test_many_workers_are_not_all_named() -> None:
    """A fleet may have hundreds."""
    fleet = Fleet((*(_worker(f"w{number}@vm") for number in range(5)), _worker("new@vm", "img.mark")))
    assert "w0@vm, w1@vm, w2@vm and 2 more, which consumes it" in gap_of(fleet, "img.mark", "celery")[0]


@pytest.mark.parametrize(
    ("theirs", "certain"),
    [
        ("redis://store/2", None),
        ("redis://:**@store:6379/2", None),
        ("rediss://store/2", None),
        ("redis://store/3", True),
        ("redis://store:6380/2", True),
        ("redis+socket:///run/redis.sock", True),
        ("redis://10.0.0.7/2", False),
        ("", True),
        ("disabled://", True),
        ("db+postgresql://store/results", True),
    ],
)
def test_results_elsewhere(theirs: str, certain: bool | None) -> None:
    """A worker that stores in another place is one whose tasks never end here; two names may be one host, so that is asked."""
    found = list(other_backends(Fleet((_worker("w1@vm", result_backend=theirs),)), "redis://:pw@store/2", {}))
    assert [is_certain for *_, is_certain in found] == ([] if certain is None else [certain])


def test_results_elsewhere_are_a_finding() -> None:
    """`lint --workers` says whose results would never be seen, without anybody's password."""
    finding = _only("other-result-backend", mark.s(1), _worker("w1@vm", "img.mark", result_backend="redis://store/3"))
    assert finding.severity == "error"
    assert "worker 'w1@vm' stores results in 'redis://store/3'" in finding.message
    assert "pw" not in finding.message
    finding = _only("other-result-backend", mark.s(1), _worker("w1@vm", "img.mark", result_backend="redis://other/2"))
    assert (finding.severity, "if these are two servers" in finding.message) == ("warning", True)
    prefixed = _worker("w1@vm", "img.mark", result_backend_transport_options={"global_keyprefix": "x"})
    assert "under the prefix 'x'" in _only("other-result-backend", mark.s(1), prefixed).message
    assert list(other_backends(Fleet((Worker("w"),)), "redis://store/2", {})) == []


def test_foreign_serializer_of_a_worker() -> None:
    """The workers' settings count, which may not be those of the app here; a value that nobody takes is no matter."""
    pickling = _worker("w1@vm", "img.mark", result_serializer="pickle")
    finding = _only("values-without-json", chain(mark.s(1), mark.s()), pickling)
    assert "worker 'w1@vm' writes results with 'pickle'" in finding.message
    assert [each.code for each in lint(mark.s(1), app=app, fleet=Fleet((pickling,)))] == []


def test_silent_workers_are_counted() -> None:
    """One that refuses JSON does not answer: what it has is not known, and the report does not pass for whole."""
    finding = _only("silent-workers", mark.s(1), _worker("w1@vm", "img.mark"), reached=3)
    assert finding.message == "2 of 3 workers did not answer: what they have is not known"
    assert "refuses JSON" in finding.next_step


def test_database_that_a_worker_leaves_out() -> None:
    """Workers of Celery 5.6 do not tell what is behind the question mark: no reason to say that they store elsewhere."""
    for url in ("redis+socket:///run/b.sock?virtual_host=3", "redis://store?db=3"):
        told = _worker("w1@vm", result_backend=url.partition("?")[0])
        assert list(other_backends(Fleet((told,)), url, {})) == []
