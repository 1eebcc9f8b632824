"""The user's app, loaded as a worker loads it: in a process of its own, since apps are global."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import ROOT

_APP = 'from celery import Celery\napp = Celery("proj", broker="memory://", backend="cache+memory://", include=["%s"])\n'
_TASKS = """
from celery import shared_task

@shared_task(name="video", queue="video", priority=7, time_limit=33)
def video():
    pass
"""
_SENT = """
import json
from dyrygentd.core.node_spec import Signature
from dyrygentd.transport.app import load_app
from dyrygentd.transport.message import MessageSender

app = load_app("proj", broker=None, result_backend=None)
task = app.tasks["video"]
print(json.dumps([MessageSender(app).destination(Signature("video")).queue, task.priority, task.time_limit]))
"""
_REFUSED = """
from dyrygentd.errors import ConfigurationError
from dyrygentd.transport.app import load_app

try:
    load_app("proj", broker=None, result_backend=None)
except ConfigurationError as error:
    print(f"{error}; {error.next_step}")
"""


def _run(code: str, directory: Path, **files: str) -> str:
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    ran = subprocess.run([sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_tasks_of_included_modules_have_their_options(tmp_path: Path) -> None:
    """What a decorator in an included module says holds, else the task waits in a queue that nobody consumes."""
    found: Any = json.loads(_run(_SENT, tmp_path, proj=_APP % "jobs", jobs=_TASKS))
    assert found == ["video", 7, 33]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"proj": _APP % "missing"}, "the tasks of 'proj' cannot be imported: ModuleNotFoundError: No module named 'missing'"),
        ({"proj": _APP % "jobs", "jobs": "import lxmll\n"}, "No module named 'lxmll' ({directory}/jobs.py:1)"),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                ({"proj": _APP % "jobs", "jobs": "\n1 / 0\n"}, "ZeroDivisionError: division by zero ({directory}/jobs.py:2)"),
                (
                    {"proj": "1 / 0\n"},
                    "cannot import the Celery app 'proj': ZeroDivisionError: division by zero ({directory}/proj.py:1)",
                ),
                (
                    {"proj": "import sys\nsys.exit('no DSN')\n"},
                    "cannot import the Celery app 'proj': SystemExit: no DSN ({directory}/proj.py:2)",
                ),
                (
                    {"proj": _APP % "jobs", "jobs": "raise SystemExit(3)\n"},
                    "the tasks of 'proj' cannot be imported: SystemExit: 3",
                ),
            )
        ),
    ],
)
def test_module_that_cannot_be_imported_is_named(tmp_path: Path, files: dict[str, str], said: str) -> None:
    """The module and line at fault are named with a next step, instead of ninety lines of traceback."""
    told = _run(_REFUSED, tmp_path, **files)
    assert said.format(directory=tmp_path) in told
    assert told.endswith("try `celery -A proj report` in the same directory and environment")


def test_name_that_the_module_has_not(tmp_path: Path) -> None:
    """It is told as what it is, though Celery looks for a module of that name then."""
    told = _run(_REFUSED.replace('"proj"', '"proj:nmae"'), tmp_path, proj=_APP % "jobs")
    assert "cannot import the Celery app 'proj:nmae': AttributeError: module 'proj' has no attribute 'nmae'" in told


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ('broker="redis://localhost:1"', "the Celery app 'proj' has no result backend, so its workers store nothing"),
        ('broker="memory://", backend="nosuch://"', "the result backend of the Celery app cannot be set up: "),
        (
            'broker="nosuch://", backend="cache+memory://"',
            "the broker of the Celery app cannot be set up: KeyError: 'No such transport: ",
        ),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                (
                    'broker="redis://localhost:1/0?health_check_interval=10", backend="cache+memory://"',
                    "the broker of the Celery app cannot be set up: TypeError: ",
                ),
                (
                    'broker="memory://", backend="redis+socket:///nowhere.sock", changes={"redis_socket_keepalive": True}',
                    "the result backend of the Celery app cannot be set up: TypeError: ",
                ),
                (
                    'broker="memory://", backend="mongodb://localhost:1"',
                    "the result backend of the Celery app cannot be set up: ImproperlyConfigured: You need to install",
                ),
                (
                    'broker="memory://", backend="redis://localhost:1", changes={"result_serializer": "nosuch"}',
                    "the result backend of the Celery app cannot be set up: KeyError: 'nosuch'",
                ),
            )
        ),
    ],
)
def test_what_cannot_be_set_up_is_refused_at_the_start(tmp_path: Path, urls: str, said: str) -> None:
    """A URL or option that no worker could start with is one line with the next step, neither a traceback nor a silent wait."""
    said_here = _run(_REFUSED, tmp_path, proj=f'from celery import Celery\napp = Celery("proj", {urls})\n')
    assert said_here.startswith(said), said_here
    assert "; " in said_here
