"""`dyrygentctl lint` as a user runs it: what is printed where, the exit status, and workers that are asked."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
from click.testing import Result

from dyrygentd.cli import main
from dyrygentd.daemon.embedded import EmbeddedServer
from tests.support.commands import runner
from tests.support.daemon import ROOT
from tests.support.servers import CeleryWorker

Run = Callable[..., Result]

MODULE = """
import os
from celery import Celery, chain, chord, group

URL = os.environ.get("LINT_TEST_URL", "memory://")
app = Celery("lintable", broker=URL, backend=os.environ.get("LINT_TEST_URL", "cache+memory://"), set_as_current=False)

@app.task(name="lintable.add", shared=False)
def add(x, y):
    return x + y

good = chain(add.s(1, 2), add.s(3))
surprising = chain(add.s(1, 2), add.s(3)).set(queue="q")
wrong = chain(add.s(1, 2), add.s())
unlucky = chord([add.s(1, 2).set(serializer="pickle")] * 3, add.si(1, 2))

def make():
    return good

def build(count: int, *, first=0):
    return chain(add.s(first, 1), *(add.s(1) for _ in range(count)), add.s())

remote = chain(*(app.signature(name) for name in ("tests.support.tasks.noop", "tests.support.tasks.npoo")))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run `dyrygentctl lint` in a directory with the module ``lintable``; no daemon runs anywhere."""
    (tmp_path / "lintable.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield lambda *arguments, **options: runner().invoke(main, ["lint", *arguments], catch_exceptions=False, **options)
    sys.path[:] = path
    for name in ("lintable", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("target", ["lintable:good", "lintable:make"])
def test_nothing_to_report(run: Run, target: str) -> None:
    """No news is an empty stdout, a line that says so, and status 0."""
    result = run(target, "--app", "lintable:app")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "0 errors, 0 warnings, 0 info\n")


def test_warning_does_not_fail(run: Run) -> None:
    """A warning may be what the author wants: it fails only where --strict asks for it."""
    result = run("lintable:surprising")
    assert result.exit_code == 0
    assert result.stdout == (
        "warning: chain-options-first-task\n"
        "  `queue` set on a chain of 2 steps\n"
        "  Celery: they reach the first task only (and the second, if the first is a group)\n"
        "  here: the same\n"
        "  next: set them on each task that is to have them\n\n"
    )
    assert result.stderr.endswith("0 errors, 1 warning, 0 info\n")
    assert "without --app nothing was compared" in result.stderr
    assert run("lintable:surprising", "--strict").exit_code == 1
    assert run("lintable:good", "--strict").exit_code == 0


def test_error_fails(run: Run) -> None:
    """CI stops a canvas that cannot run, and says where; the app brings the tasks' signatures."""
    assert run("lintable:wrong").exit_code == 0
    result = run("lintable:wrong", "--app", "lintable:app")
    assert result.exit_code == 1
    assert "error: arguments-do-not-fit\n  'lintable.add(x, y)' is given 1 positional argument" in result.stdout
    assert "\n  at: step 2 of the chain\n" in result.stdout


def test_function_with_arguments(run: Run) -> None:
    """CI lints a canvas that is built from arguments, given by name, without a wrapper for each."""
    result = run("lintable:build", "-p", "count=3", "--parameter", 'first="x"', "--app", "lintable:app")
    assert result.exit_code == 1
    assert "at: step 5 of the chain" in result.stdout
    assert run("lintable:build", "-p", "count=x").stderr.startswith("error: 'lintable:build' failed: TypeError: ")


def test_parameters_of_a_definition(run: Run) -> None:
    """A definition with parameters is read with their values, as it would be submitted."""
    nodes = [{"name": "x", "task": "t", "args": ["${osd}"], "options": {"queu": 1}}]
    document = json.dumps({"parameters": {"osd": {"type": "integer"}}, "nodes": nodes})
    assert "unknown-option" not in run("-", input=document).stdout
    assert "unknown-option" in run("-", "-p", "osd=3", input=document).stdout
    assert "must be of type integer" in run("-", "-p", "osd=three", input=document).stdout


def test_canvas_that_cannot_be_imported_is_reported(run: Run) -> None:
    """What `submit` would refuse is a finding with a place, not an error without one."""
    result = run("lintable:unlucky")
    assert result.exit_code == 1
    assert "error: serializer-refused (3 times)" in result.stdout
    assert "at: member 1 of the chord's header; member 2" in result.stdout


@pytest.mark.parametrize("arguments", [["--json", "lint", "lintable:wrong"], ["lint", "--json", "lintable:wrong"]])
def test_json(run: Run, arguments: list[str]) -> None:
    """Programs get every field, and the same status."""
    result = runner().invoke(main, [*arguments, "--app", "lintable:app"])
    (finding,) = json.loads(result.stdout)
    assert finding.keys() == {"code", "severity", "place", "node", "message", "next_step", "count"}
    assert (result.exit_code, finding["node"], finding["count"]) == (1, "add-2", 1)


def test_definition_files(run: Run, tmp_path: Path) -> None:
    """Targets are those of `submit`, and a bad file is reported as a whole."""
    document: dict[str, Any] = {"nodes": [{"name": "x", "task": "t", "options": {"queue": 5}}, {"task": "t", "args": 7}]}
    text = json.dumps(document)
    (tmp_path / "flow.json").write_text(text)
    for result in (run("flow.json"), run("-", input=text)):
        assert result.exit_code == 1
        assert "node '2'" in result.stdout or "`args` must be an array" in result.stdout
        assert "`queue` must be text" in result.stdout
    broken = run("-", input="{")
    assert (broken.exit_code, "what came on stdin is no JSON" in broken.stderr) == (2, True)
    yaml = pytest.importorskip("yaml")
    (tmp_path / "flow.yml").write_text(yaml.safe_dump({"nodes": [{"task": "t", "options": {"queu": "x"}}]}))
    assert "unknown-option" in run("flow.yml").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lintable"], "neither module:object nor"),
        (["nowhere:x"], "there is no module 'nowhere'"),
        (["lintable:goo"], "did you mean 'good'?"),
        (["none.json"], "cannot read 'none.json'"),
        (["lintable:good", "--app", "nowhere:app"], "cannot import the Celery app 'nowhere:app'"),
        (["lintable:good", "--app", "lintable:add"], "no Celery app"),
        (["lintable:good", "--app", "broken:app"], "the tasks of 'broken:app' cannot be imported: ModuleNotFoundError"),
        (["lintable:good", "--workers"], "give --app too"),
        (["lintable:build"], "'lintable:build(count: int, *, first=0)' is given nothing: missing a required argument: 'count'"),
        (["lintable:build", "-p", "n=3"], "give its arguments by name: `-p NAME=VALUE`"),
        (["lintable:good", "-p", "n=3"], "is no function, and takes no arguments"),
        (["lintable:build", "-p", "n"], "is not of the form k=v"),
        ([], "Missing argument"),
    ],
)
def test_wrong_usage(run: Run, tmp_path: Path, arguments: list[str], words: str) -> None:
    """A script can tell a canvas with errors from a command that was not understood."""
    (tmp_path / "broken.py").write_text(
        "from celery import Celery\napp = Celery('b', broker='memory://', include=['none_such'])\n"
    )
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_names_cannot_steer_the_terminal(run: Run) -> None:
    """A definition may come from anywhere."""
    nodes = [{"name": "\x1b]0;owned\x07", "task": "t", "options": {"\x1b[2J": 1, "queue": 5}}]
    result = run("-", input=json.dumps({"nodes": nodes}))
    assert "unknown-option" in result.stdout
    assert "\x1b" not in result.output


@pytest.mark.integration
def test_running_workers_are_asked(
    run: Run, redis_server: EmbeddedServer, make_worker: Callable[..., CeleryWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the workers have is the truth: a task or queue that none of them knows is found before anything waits for it."""
    monkeypatch.setenv("LINT_TEST_URL", redis_server.url)
    make_worker(queues=["celery", "special"])
    result = run("lintable:remote", "--app", "lintable:app", "--workers")
    assert result.exit_code == 1
    assert " tasks, queues celery, special" in result.stderr
    assert "no worker has the task 'tests.support.tasks.npoo'; did you mean 'tests.support.tasks.noop'?" in result.stdout
    assert result.stdout.count("unknown-task") == 1
    result = run("lintable:surprising", "--app", "lintable:app", "--workers")
    assert "no worker consumes the queue 'q'" in result.stdout


@pytest.mark.integration
def test_deploy_skew_is_seen(
    run: Run,
    redis_server: EmbeddedServer,
    make_worker: Callable[..., CeleryWorker],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Of two workers of one queue the old one has no such task, and stores its results elsewhere: both are named."""
    monkeypatch.setenv("LINT_TEST_URL", redis_server.url)
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "LINT_TEST_URL": redis_server.url}
    for name in ("lintable", "lintold"):
        # The tests' tasks tell when a worker is ready.
        (tmp_path / f"worker_{name}.py").write_text(f"import tests.support.tasks\nfrom {name} import app\n")
    new = make_worker(app="worker_lintable:app", environment=environment)
    old_code = MODULE.replace('name="lintable.add"', 'name="lintable.old"')
    old_code = old_code.replace('"cache+memory://")', '"") + "?virtual_host=3"')
    (tmp_path / "lintold.py").write_text(old_code)
    old = make_worker(app="worker_lintold:app", environment=environment)
    result = run("lintable:good", "--app", "lintable:app", "--workers")
    assert result.exit_code == 1, result.output
    assert f"{old.name}, which consumes it, does not know it; {new.name} does: who gets it is chance" in result.stdout
    assert f"next: restart {old.name} with the code that has it" in result.stdout
    # Workers of Celery 5.6 do not tell which database of a socket is theirs.
    tells = celery.VERSION >= (5, 7)
    assert (f"worker '{old.name}' stores results in" in result.stdout) == tells
    assert result.stdout.count("error: ") == 1 + tells
    assert f"{new.name} answered: " in result.stderr


@pytest.mark.integration
def test_silence_of_the_workers_is_told(run: Run, redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes an unanswered question for a clean report; a broker that is down is an error."""
    monkeypatch.setenv("LINT_TEST_URL", redis_server.url)
    result = run("lintable:good", "--app", "lintable:app", "--workers")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: no worker answered: tasks and queues were not looked up\n")
    redis_server.stop()
    result = run("lintable:good", "--app", "lintable:app", "--workers")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: cannot ask the workers over ")
