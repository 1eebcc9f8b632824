"""What the guides show works: their files are taken out of them and run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import jsonschema
import pytest

from dyrygentd import wire
from dyrygentd.cli.documents import read_yaml
from dyrygentd.cli.serve import main as dyrygentd
from dyrygentd.daemon import config
from dyrygentd.daemon.embedded import EmbeddedServer
from dyrygentd.demo import REPLACEMENT
from tests.support.daemon import Daemon
from tests.support.guides import ROOT, blocks, guides
from tests.support.servers import CeleryWorker

FILES = {name: body for guide in guides() for name, body in blocks(guide, "file").items()}


@pytest.fixture
def directory(short_tmp: Path) -> Path:
    """A directory with the files that the guides show."""
    for name, body in FILES.items():
        (short_tmp / name).write_text(body)
    return short_tmp


@pytest.fixture
def environment(redis_server: EmbeddedServer, directory: Path) -> dict[str, str]:
    """The environment in which the guides' files find their modules and their server."""
    path = os.pathsep.join([str(directory), str(ROOT)])
    return {"REDIS_URL": redis_server.url, "PYTHONPATH": path}


@pytest.fixture
def worker(redis_server: EmbeddedServer, directory: Path, environment: dict[str, str]) -> Iterator[CeleryWorker]:
    """A worker of the guides' app."""
    worker = CeleryWorker(redis_server.url, log_directory=directory, app="tasks", environment=environment)
    worker.launch()
    yield worker
    worker.stop()


@pytest.fixture
def run(directory: Path, environment: dict[str, str]) -> Callable[[str], str]:
    """Run one of the guides' files and return what it prints."""

    def run(name: str) -> str:
        done = subprocess.run(
            [sys.executable, name],
            cwd=directory,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_three_steps(directory: Path, environment: dict[str, str], worker: CeleryWorker, run: Callable[[str], str]) -> None:
    """A canvas handed to the daemon gives what Celery promises, with one changed line."""
    arguments = ["--app", "tasks:app", "--database", "state.db", "--socket", "dyrygentd.sock"]
    with Daemon(arguments, directory=directory, environment=environment):
        assert run("submit.py") == f"succeeded {sum(width // 2 for width in range(100))}\n"
        ctl = [str(Path(sys.executable).with_name("dyrygentctl")), "--socket", "dyrygentd.sock", "submit", "--wait"]
        for target, result in (("definition.json", 32 + 2048), ("tasks:canvas", sum(width // 2 for width in range(100)))):
            command = [*ctl, "--json", target]
            done = subprocess.run(
                command, cwd=directory, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=True
            )
            assert json.loads(done.stdout)["result"] == result


def test_moved_from_celery_dyrygent(
    directory: Path, environment: dict[str, str], worker: CeleryWorker, run: Callable[[str], str]
) -> None:
    """Code written for celery-dyrygent runs with changed imports, and its hooks with it."""
    arguments = ["--app", "tasks:app", "--database", "state.db", "--socket", "dyrygentd.sock"]
    environment["DYRYGENTD_SOCKET"] = "dyrygentd.sock"
    with Daemon(arguments, directory=directory, environment=environment):
        assert run("moved.py") == "RUNNING\nSUCCESS\n"


def test_two_schedulers_in_one_program(worker: CeleryWorker, run: Callable[[str], str]) -> None:
    """Two schedulers run side by side in one program, each with its own database."""
    halves = [width // 2 for width in range(100)]
    assert run("embedded.py") == f"succeeded {halves}\nsucceeded {sum(halves[:10])}\n"


def test_workflow_built_by_hand(directory: Path, run: Callable[[str], str]) -> None:
    """The graph of the guide can be built."""
    with (directory / "replace.py").open("a") as file:
        file.write("graph = workflow.definition().graph\nprint(graph.task_count, graph.edge_count)\n")
    assert run("replace.py") == "4 4\n"


def test_definition_file_is_the_one_that_the_demo_runs(directory: Path) -> None:
    """The file with parameters is run by the demo, in JSON; an editor with the published schema accepts it."""
    document = read_yaml(directory / "replace.yaml")
    assert document == json.loads(REPLACEMENT.read_bytes())
    validator = jsonschema.Draft202012Validator(wire.definition_schema())
    validator.validate(document)
    validator.validate(json.loads((directory / "definition.json").read_bytes()))


def test_settings_are_listed_once() -> None:
    """Every setting has a flag, so that the three ways to set it cannot drift apart."""
    serve = dyrygentd.commands["serve"]
    flags = {flag for option in serve.get_params(click.Context(serve)) for flag in option.opts}
    # Whether the short form of --help is among them depends on who has asked click first.
    assert flags - {"-h"} == {"--" + setting.name.replace("_", "-") for setting in config.settings()} | {"--config", "--help"}


def test_requests_by_hand(directory: Path, environment: dict[str, str]) -> None:
    """What the guide to HTTP sends with curl is answered, and by no problem document."""
    if shutil.which("curl") is None:
        pytest.skip("NOT RUN: there is no curl")
    steps = blocks(ROOT / "dyrygentd/http/README.md", "run")["curl"]
    steps = (
        steps.replace("/run/dyrygentd/dyrygentd.sock", "dyrygentd.sock")
        .replace("curl -sS", "curl -sSf")
        .replace("REF", "@latest")
    )
    with Daemon(["--app", "tasks:app"], directory=directory, environment=environment):
        command = ["bash", "-O", "expand_aliases", "-euc", steps]
        answers = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    assert answers.returncode == 0, answers.stderr
    assert '"created":true' in answers.stdout


def _rows(mark: str) -> list[str]:
    """Return the rows of a marked table of the guide of faults, without its head."""
    guide = (ROOT / "tests/faults/README.md").read_text()
    return guide.partition(f"<!-- {mark} -->\n")[2].partition("\n\n")[0].splitlines()[2:]


def _check_shown(cell: str) -> None:
    """Fail unless a cell names tests, and they are there."""
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", cell)
    assert named, cell
    for path, function in named:
        text = (ROOT / path).read_text()
        assert not function or re.search(rf"def {function}\b", text), f"{path}::{function}"


def test_faults_are_shown() -> None:
    """Each row of the table of faults names tests, and they are there."""
    rows = _rows("faults")
    assert len(rows) >= 20
    for row in rows:
        _check_shown(row.split("|")[3])


def test_what_holds_on_each_store_and_broker_is_shown() -> None:
    """Each cell of the table of guarantees by store and broker says whether it holds, and names the tests that show it."""
    rows = _rows("stores and brokers")
    assert len(rows) >= 8
    for row in rows:
        _, promise, *cells, end = (cell.strip() for cell in row.split("|"))
        assert (bool(promise), len(cells), end) == (True, 4, ""), row
        for cell in cells:
            assert cell.partition(":")[0] in ("yes", "no", "at least once"), cell
            _check_shown(cell)
