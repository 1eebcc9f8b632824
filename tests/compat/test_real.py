"""The README of celery-dyrygent, section by section, with its imports changed: a real daemon and worker, the original beside."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dyrygentd.client.sync import Client
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.daemon import ROOT, Daemon
from tests.support.servers import CeleryWorker, wait_until
from tests.support.tasks import records

APP = """
import os
from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.broker_connection_retry_on_startup = True

@app.task
def note(word, wait_for=None):
    server = app.backend.client
    if wait_for:
        assert server.blpop([wait_for], timeout=30), f"nobody opened {wait_for}"
    server.rpush("notes", word)
    return word

@app.task
def fail():
    raise ValueError("no such osd")
"""

#: "Integration": the processor task is registered in the app.
INTEGRATION = """
from PACKAGE.tasks import register_workflow_processor

workflow_processor = register_workflow_processor(app)
"""

#: "Using signals": handlers print what they are given; in a worker, that is its log.
SIGNALS = """
from PACKAGE.workflows import Workflow

@Workflow.connect('on_state_change')
def handle_state_change(workflow, payload):
    print("Workflow {} has new state {}".format(workflow.id, payload), flush=True)

@Workflow.connect('on_finish')
def handle_finish(workflow, payload):
    print("Workflow {} finished {} {}".format(workflow.id, payload, workflow.custom_payload), flush=True)

@Workflow.connect('after_active_tick')
def handle_tick(workflow, payload):
    print("Workflow {} ticked {}".format(workflow.id, payload), flush=True)
"""

OURS, THEIRS = "dyrygentd.compat.celery_dyrygent", "celery_dyrygent"


class Site:
    """A directory with modules, a daemon and a worker for them."""

    def __init__(self, directory: Path, server: EmbeddedServer) -> None:
        self.directory = directory
        self.server = server
        path = os.pathsep.join(filter(None, [str(directory), str(ROOT), os.environ.get("PYTHONPATH")]))
        self.environment = {"REDIS_URL": server.url, "PYTHONPATH": path, "DYRYGENTD_SOCKET": str(directory / "dyrygentd.sock")}
        self.daemon = Daemon(["--broker", server.url, "--result-backend", server.url], directory=directory)

    def write(self, package: str, *parts: str) -> None:
        """Write the module `tasks` for one of the two libraries."""
        (self.directory / "tasks.py").write_text("".join((APP, *parts)).replace("PACKAGE", package))

    def run(self, script: str, package: str = OURS, *arguments: str) -> str:
        """Run a script and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", script.replace("PACKAGE", package), *arguments],
            cwd=self.directory,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def worker(self) -> Iterator[CeleryWorker]:
        """Run a worker of the module as it is now."""
        # Threads, as a tick must not wait behind a task that a test holds. It announces nothing: the module is not ours.
        worker = CeleryWorker(
            self.server.url,
            log_directory=self.directory,
            app="tasks",
            concurrency=2,
            pool="threads",
            environment=self.environment,
        )
        worker.launch()
        try:
            yield worker
        finally:
            worker.stop()

    def notes(self) -> list[str]:
        """Return what the tasks noted, in order."""
        with records(self.server.url) as client:
            return [str(note) for note in client.lrange("notes", 0, -1)]

    def waiting_in(self, queue: str) -> int:
        """Return how many messages a queue has, in the lists of all its priorities."""
        with records(self.server.url) as client:
            return sum(int(client.llen(key)) for key in client.keys(f"{queue}*") if client.type(key) == "list")

    def open(self, gate: str) -> None:
        """Let the task go on that waits for this."""
        with records(self.server.url) as client:
            client.rpush(gate, 1)


@pytest.fixture
def site(short_tmp: Path, redis_server: EmbeddedServer) -> Iterator[Site]:
    """A site with a running daemon."""
    site = Site(short_tmp, redis_server)
    with site.daemon:
        yield site


#: "Use workflow on you celery canvas", with tasks in the place of the dots.
USE = """
from celery import chain, chord, group
from tasks import app, note

from PACKAGE.workflows import Workflow

canvas = chain(note.s("a"), chord([note.s("b"), note.s("b")], note.s("c"))) | group(note.s("d"), note.s("d"))

wf = Workflow()
wf.add_celery_canvas(canvas)
result = wf.apply_async()
"""


def test_integration_and_use(site: Site) -> None:
    """A canvas runs in the order that it has, each task with its own arguments alone."""
    site.write(OURS, INTEGRATION)
    with site.worker():
        assert site.run(USE + "print(result.get(timeout=30), result.state, wf.is_success())") == "None SUCCESS True\n"
        assert site.notes() == ["a", "b", "b", "c", "d", "d"]


def test_signals(site: Site) -> None:
    """The handlers of the original's README are called where the workflow is waited for."""
    site.write(OURS, INTEGRATION, SIGNALS)
    with site.worker() as worker:
        lines = site.run(USE + "wf.custom_payload['ticket'] = 7\nresult.get(timeout=30)\nprint(wf.id)").splitlines()
        workflow_id = lines.pop()
        assert lines[0] == f"Workflow {workflow_id} has new state RUNNING"
        assert lines[-2:] == [
            f"Workflow {workflow_id} finished None {{'ticket': 7}}",
            f"Workflow {workflow_id} has new state SUCCESS",
        ]
        assert set(lines[1:-2]) == {f"Workflow {workflow_id} ticked None"}
        assert "has new state" not in worker.log()


CUSTOM_DATA = """
from tasks import note

from PACKAGE.workflows import Workflow

wf = Workflow()
for number in range(3):
    sig = note.s(str(number))
    sig.freeze()
    node = wf.add_signature(sig)
    node.custom_payload['user_id'] = number
wf.apply_async().get(timeout=30)
print(sorted(node.custom_payload['user_id'] for node in Workflow.from_dict(wf.to_dict()).nodes.values()))
"""


def test_custom_data(site: Site) -> None:
    """Payloads stay with their nodes."""
    site.write(OURS, INTEGRATION)
    with site.worker():
        assert site.run(CUSTOM_DATA) == "[0, 1, 2]\n"


OPTIONS = """
from celery import group
from tasks import note

from PACKAGE.workflows import Workflow

wf = Workflow(options={'priority': 10})
wf.add_celery_canvas(group(note.s("a"), note.s("b").set(queue="own")))
wf.apply_async(options={'priority': 8, 'queue': 'elsewhere'})
"""


@pytest.mark.long
def test_options(site: Site) -> None:
    """Options of the workflow reach each task, in front of its own."""
    site.write(OURS, INTEGRATION)
    site.run(OPTIONS)
    wait_until(lambda: site.waiting_in("elsewhere") == 2)


def test_failure(site: Site) -> None:
    """A failed task keeps back what follows it, and whoever waits is told."""
    site.write(OURS, INTEGRATION)
    script = """
from celery import chain
from PACKAGE import WorkflowFailed, Workflow
from tasks import fail, note

wf = Workflow()
wf.add_celery_canvas(chain(note.s("a"), fail.s(), note.s("b")))
result = wf.apply_async()
try:
    result.get(timeout=30)
except WorkflowFailed as error:
    print(result.state, list(error.failed_tasks.values()))
"""
    with site.worker():
        printed = site.run(script)
        assert printed.startswith("FAILURE ")
        assert "no such osd" in printed
        assert site.notes() == ["a"]


VIA_WORKER = """
from PACKAGE.tasks import register_workflow_processor

workflow_processor = register_workflow_processor(app, via_worker=True)
"""


def test_workflow_goes_via_a_worker(site: Site) -> None:
    """Without the socket a program submits through the broker, and handlers run in the worker, as ever."""
    site.write(OURS, VIA_WORKER, SIGNALS)
    submit = USE.replace("wf = Workflow()", "wf = Workflow(); wf.set_retry_policy('random', 1, 1)")
    with site.worker() as worker:
        away = "import os; os.environ['DYRYGENTD_SOCKET'] = '/nowhere'"
        workflow_id = site.run(away + submit + "result.get(timeout=30)\nprint(wf.id, result.id, result.state)")
        first, second, state = workflow_id.split()
        assert (first, state) == (second, "SUCCESS")
        assert f"Workflow {first} has new state SUCCESS" in worker.log()
        assert site.notes() == ["a", "b", "b", "c", "d", "d"]


# --- there and back -------------------------------------------------------------------------------------------------

UNDER_WAY = """
from celery import chain
from tasks import app, note

from PACKAGE.workflows import Workflow

wf = Workflow()
wf.set_retry_policy('random', 1, 1)
wf.add_celery_canvas(chain(note.s("a"), note.s("b", wait_for="gate"), note.s("c"), note.s("d")))
print(wf.apply_async().id)
"""


def _started_by_the_original(site: Site) -> str:
    """Start a workflow with celery-dyrygent, and stop its worker in the middle; return its id."""
    site.write(THEIRS, INTEGRATION)
    with site.worker() as worker:
        workflow_id = site.run(UNDER_WAY, THEIRS).strip()
        _wait_for_the_middle(site, worker)
        site.open("gate")
    return workflow_id


def _wait_for_the_middle(site: Site, worker: CeleryWorker) -> None:
    """Wait until the second task runs, and a tick has written that down."""
    wait_until(lambda: site.notes() == ["a"] and worker.log().count("tasks.note[") >= 3)
    ticks = worker.log().count("workflow-processor[")
    wait_until(lambda: worker.log().count("workflow-processor[") >= ticks + 4)


@pytest.mark.long
def test_workflow_under_way_moves_over(site: Site) -> None:
    """A workflow that celery-dyrygent started goes on at the daemon as soon as the workers have the changed import."""
    workflow_id = _started_by_the_original(site)
    site.write(OURS, INTEGRATION)
    with site.worker():
        wait_until(lambda: len(site.notes()) == 4)
        with Client(site.daemon.socket_path) as client:
            assert client.handle(workflow_id).wait(30).is_success
    assert site.notes() == ["a", "b", "c", "d"]


@pytest.mark.long
def test_workflow_goes_back(site: Site) -> None:
    """A way back in the middle: the original waits for what the daemon publishes, and publishes nothing twice."""
    site.write(OURS, VIA_WORKER)
    with site.worker() as worker:
        workflow_id = site.run(UNDER_WAY).strip()
        _wait_for_the_middle(site, worker)
        site.open("gate")
    site.write(THEIRS, INTEGRATION)
    with site.worker():
        wait = f"from tasks import app; print(app.AsyncResult('{workflow_id}').get(timeout=40))"
        assert site.run(wait) == "None\n"
    assert site.notes() == ["a", "b", "c", "d"]


FAILS_LATER = """
from celery import chain, group
from tasks import app, fail, note

from PACKAGE.workflows import Workflow

wf = Workflow()
wf.set_retry_policy('random', 1, 1)
never = chain(note.s("c"), group(note.s("d"), note.s("e")), note.s("f"))
wf.add_celery_canvas(chain(note.s("a"), note.s("b", wait_for="gate"), fail.s(), never))
print(wf.apply_async().id)
"""


@pytest.mark.long
def test_failure_is_told_after_the_way_back(site: Site) -> None:
    """What never runs because of a failure at the daemon has its end in the result backend, so the original tells FAILURE.

    Otherwise its processor would wait for these tasks to the end of its processing time, which is seven days.
    """
    site.write(OURS, VIA_WORKER)
    with site.worker() as worker:
        workflow_id = site.run(FAILS_LATER).strip()
        _wait_for_the_middle(site, worker)
        site.open("gate")
    site.write(THEIRS, INTEGRATION, SIGNALS)
    with site.worker() as worker:
        wait = f"from tasks import app; print(app.AsyncResult('{workflow_id}').get(timeout=50))"
        assert site.run(wait) == "None\n"
        wait_until(lambda: f"Workflow {workflow_id} has new state FAILURE" in worker.log())
    assert site.notes() == ["a", "b"]


@pytest.mark.long
def test_both_run_side_by_side(site: Site) -> None:
    """One worker serves both libraries, under two names of the processor task, while programs move over one by one."""
    other = INTEGRATION.replace("(app)", "(app, name='dyrygentd-processor')").replace("PACKAGE", OURS)
    site.write(THEIRS, INTEGRATION, other)
    wait = "import tasks\n" + USE.replace("wf = Workflow()", "wf = Workflow(); wf.set_retry_policy('random', 1, 1)")
    with site.worker():
        for package in (THEIRS, OURS):
            assert site.run(wait + "print(result.get(timeout=50))", package) == "None\n"
    assert site.notes() == ["a", "b", "b", "c", "d", "d"] * 2
