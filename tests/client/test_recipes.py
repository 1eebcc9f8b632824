"""The recipes of the guide for programs, taken out of it and run in a daemon of the test's process."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dyrygentd import testing

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "dyrygentd/client/README.md").read_text()
PARTS = re.findall(r"(?ms)^<!-- (?:file|more of): (\S+) -->\n```python\n(.*?)^```", GUIDE)


def code_of(name: str) -> str:
    """Return a file of the guide, put together from its parts."""
    return "\n\n".join(body for file, body in PARTS if file == name)


@pytest.fixture(scope="module")
def recipes() -> Iterator[Any]:
    """The module that the guide shows. Once, since Celery shares its tasks with every app of the process."""
    module = ModuleType("recipes")
    exec(compile(code_of("recipes.py"), "recipes.py", "exec"), module.__dict__)
    yield module
    module.app.close()


def test_fan_out_over_a_returned_list(recipes: Any) -> None:
    """Each item of the list has its task, seen as a workflow of its own, and the values come back."""
    with testing.daemon(recipes.app) as client:
        handle = client.submit(recipes.upgrade_rack("a"))
        assert handle.wait(30).result == ["a-0 ok", "a-1 ok", "a-2 ok"]
        assert len(client.list(labels={"part_of": handle.node("start").task_id or ""})) == 1


def test_fan_out_over_nothing(recipes: Any) -> None:
    """An empty list is no workflow, and no poll that waits for ever."""
    assert recipes.start_each.run([]) == ""
    assert recipes.values_of.run("") == {"values": []}


@pytest.mark.parametrize(("path", "taken", "left"), [("ab", "copy", "split"), ("a" * 20, "split", "copy")])
def test_branch_on_a_value(recipes: Any, path: str, taken: str, left: str) -> None:
    """One branch runs, the other is skipped, and what closes both runs."""
    with testing.daemon(recipes.app) as client:
        handle = client.submit(recipes.import_file(path))
        assert handle.wait(30).result == f"closed {path}"
        assert (handle.node(taken).state, handle.node(left).state) == ("succeeded", "skipped")


def test_backfill_may_be_repeated(recipes: Any) -> None:
    """The same days again are the same workflows."""
    with testing.daemon(recipes.app, pools={"warehouse": 2}) as client:
        first = recipes.backfill(["05-01", "05-02"])
        assert recipes.backfill(["05-01", "05-02"]) == first
        assert len(client.list(labels={"backfill": "may"})) == 2
        assert all(client.handle(each).wait(30).is_success for each in first)


VIEWS = """
import json, time
from django.conf import settings
settings.configure()
from django.test import RequestFactory
import recipes, views
from dyrygentd import testing

with testing.daemon(recipes.app):
    request = RequestFactory().post("/upgrades/a", headers={"Idempotency-Key": "k"})
    ids = [json.loads(views.start(request, "a").content)["id"] for _ in range(2)]
    assert len(set(ids)) == 1, ids
    until = time.monotonic() + 30
    while (seen := json.loads(views.look(request, ids[0]).content))["state"] == "running":
        assert time.monotonic() < until
    assert seen["result"] == ["a-0 ok", "a-1 ok", "a-2 ok"], seen
    assert views.look(request, "unknown").status_code == 404
assert views.look(request, ids[0]).status_code == 503
"""


def test_views_submit_and_look(short_tmp: Path) -> None:
    """The views answer at once, a repeated request is the same workflow, and a daemon that is away is a 503."""
    for name in ("recipes.py", "views.py"):
        (short_tmp / name).write_text(code_of(name))
    environment = os.environ | {"DYRYGENTD_SOCKET": "/nowhere", "PYTHONPATH": os.pathsep.join([str(short_tmp), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", VIEWS], cwd=short_tmp, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
