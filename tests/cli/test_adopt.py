"""`dyrygentctl adopt`: files of celery-dyrygent in, an id or a definition out."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Ctl
from tests.http.support import Daemon


def workflow(**changes: Any) -> dict[str, Any]:
    """Return a workflow of two tasks as celery-dyrygent writes it."""
    signature: dict[str, Any] = {
        "task": "add",
        "args": [1, 2],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    return {
        "id": "the-id",
        "version": 1,
        "nodes": {
            "drain": {"id": "drain", "signature": signature, "dependencies": {}, "custom_payload": {}},
            "remove": {"id": "remove", "signature": signature, "dependencies": {"drain": None}, "custom_payload": {}},
        },
        "running": {},
        "finished": {},
        **changes,
    }


@pytest.mark.parametrize("file", ["running.json", "-"])
def test_workflow_is_adopted(ctl: Ctl, daemon: Daemon, tmp_path: Path, file: str) -> None:
    """The id goes to stdout; adopting again creates nothing; the tasks have their ids."""
    text = json.dumps(workflow())
    (tmp_path / "running.json").write_text(text)
    result = ctl("adopt", file, input=text)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "adopted 'the-id', 2 tasks: 0 succeeded, 0 failed, 0 dispatched\n"
    assert daemon.finish(result.stdout.strip()) == "succeeded"
    again = ctl("adopt", file, input=text)
    assert again.stdout == result.stdout
    assert again.stderr.startswith("known already, nothing was created; it is succeeded\nnext: dyrygentctl graph ")
    assert json.loads(ctl("--json", "adopt", file, input=text).stdout)["id"] == result.stdout.strip()
    nodes = daemon.ask("GET", f"/v1/workflows/{result.stdout.strip()}/nodes").json["nodes"]
    assert [(node["name"], node["task_id"]) for node in nodes] == [("drain", "drain"), ("remove", "remove")]


def test_dry_run_prints_the_definition(ctl: Ctl, tmp_path: Path) -> None:
    """What would be submitted is shown with all that is known of it, and nothing is."""
    (tmp_path / "running.json").write_text(json.dumps(workflow(finished={"drain": True})))
    result = ctl("adopt", "running.json", "--dry-run", "--name", "osd-42")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "would adopt 2 tasks: 1 succeeded, 0 failed, 0 dispatched\n"
    document = json.loads(result.stdout)
    assert document["name"] == "osd-42"
    assert [(node["name"], node.get("adopted")) for node in document["nodes"]] == [("drain", "succeeded"), ("remove", None)]
    assert ctl("list").stdout.count("osd-42") == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("{}", "this is no workflow of celery-dyrygent, but an object with nothing in it"),
        (json.dumps(workflow(version=2)), "version 2 is unknown"),
        (json.dumps(workflow(nodes={})), "the workflow has no nodes"),
        (json.dumps(workflow(running={"x": 1})), "`running` names 'x'"),
        (json.dumps(workflow(nodes={"a": {"signature": {"task": "t", "subtask_type": [1]}}})), "as its `subtask_type`"),
        (
            json.dumps(
                workflow(
                    nodes={
                        "a": {"signature": {"task": "t"}, "dependencies": {"b": None}},
                        "b": {"signature": {"task": "t"}, "dependencies": {"a": None}},
                    }
                )
            ),
            "form a cycle",
        ),
    ],
)
def test_bad_input_is_told(ctl: Ctl, tmp_path: Path, text: str, words: str) -> None:
    """A file that is no JSON, or no workflow, is named with what is wrong in it, before any daemon is asked."""
    (tmp_path / "running.json").write_text(text)
    result = ctl("adopt", "running.json")
    assert result.exit_code == (2 if words == "is no JSON" else 1)
    assert words in result.stderr.splitlines()[0]


def test_missing_file_is_told(ctl: Ctl) -> None:
    """A file that is not there is named."""
    result = ctl("adopt", "nothing.json")
    assert (result.exit_code, result.stderr) == (2, "error: cannot read 'nothing.json': No such file or directory\n")
