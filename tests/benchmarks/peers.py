"""What users have today beside us, on two Celery workers: native canvases, and celery-dyrygent with its shortest tick."""

from tests.benchmarks.harness import Bench, Site, run_child, short_directory
from tests.benchmarks.report import Row, samples
from tests.benchmarks.shapes import Shape, chain_of, group_of
from tests.support.servers import CeleryWorker, Executions


def run(bench: Bench) -> None:
    """Run a chain and a group of each, in turn; small ones, since a tick is a second."""
    sizes = {"chain": bench.size(20, 3), "group": bench.size(500, 20)}
    found = samples()
    runs = bench.size(2, 1)
    with short_directory() as directory, Site(directory, bench.report) as site:
        url = site.server.url
        environment = {"DYRYGENTD_TEST_BROKER": url, "DYRYGENTD_TEST_BACKEND": url, "DYRYGENTD_TEST_RECORDS": url}
        # One worker for celery-dyrygent, whose tasks are in another app, and two for the others.
        ticking = CeleryWorker(
            url,
            log_directory=directory,
            app="tests.benchmarks.ticking_peer",
            concurrency=2,
            pool="threads",
            environment=environment,
        )
        for number in range(runs):
            bench.say(f"peers: run {number + 1} of {runs}")
            with CeleryWorker(url, log_directory=directory), CeleryWorker(url, log_directory=directory):
                for what, n in sizes.items():
                    found[f"{what} ours"].append(n / _ours(site, chain_of(n) if what == "chain" else group_of(n)))
                    if what == "chain":
                        native = run_child("celery_peer", what, n, environment=environment)
                        found[f"{what} native"].append(n / (native["ended"] - native["began"]))
            ticking.launch()
            try:
                for what, n in sizes.items():
                    _forget(url)
                    ticked = run_child("ticking_peer", what, n, environment=environment)
                    found[f"{what} ticking"].append(n / (ticked["ended"] - ticked["began"]))
            finally:
                ticking.stop()
    add = bench.report.rows.append
    for what, n in sizes.items():
        add(
            Row("peers", f"{what}({n:,})", n, "tasks/s", found[f"{what} ours"], "celery-dyrygent 0.8.0", found[f"{what} ticking"])
        )
    add(
        Row(
            "peers", f"chain({sizes['chain']:,})", sizes["chain"], "tasks/s", found["chain ours"], "native", found["chain native"]
        )
    )


def _ours(site: Site, shape: Shape) -> float:
    _forget(site.server.url)
    return site.run_shape(shape)


def _forget(url: str) -> None:
    executions = Executions(url)
    executions.clear()
    executions.close()
