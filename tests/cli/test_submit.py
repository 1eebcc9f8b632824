"""Definition files on the command line: JSON and YAML, their parameters, a dry run, and the schema that editors use."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from dyrygentd import wire
from dyrygentd.cli import main
from dyrygentd.client.forms import submission_body
from dyrygentd.client.sync import Client
from dyrygentd.demo import REPLACEMENT
from dyrygentd.errors import BadRequest
from tests.cli.support import Terminal
from tests.http.support import Daemon

Run = Callable[..., Result]

PARAMETRIC = """\
name: drain ${cluster}
parameters:
  cluster: {description: name of the cluster, choices: [gra1, sbg2]}
  count: {type: integer, default: 2}
  quiet: false
nodes:
  - {name: a, task: add, args: ["${count}", 1], retry: {attempts: "${count}", on: [any]}}
  - {name: b, task: add, args: [1], after: [a], immutable: true, payload: {since: 2030-01-31, at: 12:30:00, word: no}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty directory, where no daemon can be reached."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DYRYGENTD_SOCKET", str(tmp_path / "nobody.sock"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return lambda *arguments, **options: CliRunner().invoke(main, list(arguments), **options)


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    """A YAML file with parameters."""
    path = tmp_path / "drain.yaml"
    path.write_text(PARAMETRIC)
    return path


def test_dry_run_prints_what_would_be_submitted(run: Run, definition: Path) -> None:
    """Values are put in as their types, everything is checked, no daemon is asked, and no task id is fixed."""
    result = run("submit", "drain.yaml", "-p", "cluster=gra1", "-p", "count=4", "--dry-run", "--label", "x=y")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["name"], document["labels"]) == ("drain gra1", {"x": "y"})
    a, b = document["nodes"]
    assert (a["args"], a["retry"]["attempts"]) == ([4, 1], 4)
    assert b["payload"] == {"since": "2030-01-31", "at": "12:30:00", "word": "no"}
    assert "task_id" not in a
    assert not document.keys() & {"parameters", "values"}
    assert result.stderr == "'drain gra1' can be submitted: 2 tasks\n"
    (definition.parent / "again.json").write_text(result.stdout)
    assert run("submit", "again.json", "--dry-run").stdout == result.stdout


def test_dry_run_of_a_canvas_makes_a_file_of_it(run: Run, tmp_path: Path) -> None:
    """Task ids that were made for one submission do not get into a file that is submitted many times."""
    (tmp_path / "canvas_of_dry_run.py").write_text(
        "from celery import chain, signature\nflow = chain(signature('a'), signature('b'))\n"
    )
    result = run("submit", "canvas_of_dry_run:flow", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert [node.keys() & {"task_id"} for node in json.loads(result.stdout)["nodes"]] == [set(), set()]
    assert result.stdout.count("\n") == 1
    refused = run("submit", "canvas_of_dry_run:flow", "--dry-run", "-p", "a=1")
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (1, "error: a Definition has no parameters")


def test_given_task_ids_stay(run: Run, tmp_path: Path) -> None:
    """Whoever wrote one means it."""
    (tmp_path / "ids.json").write_text(json.dumps({"nodes": [{"task": "t", "task_id": "0"}, {"task": "t"}]}))
    document = json.loads(run("submit", "ids.json", "--dry-run").stdout)
    assert [node.get("task_id") for node in document["nodes"]] == ["0", None]


@pytest.mark.parametrize("name", ["values.json", "values.yaml"])
def test_values_come_from_a_file(run: Run, definition: Path, name: str) -> None:
    """A file has types; what stands on the command line goes first."""
    (definition.parent / name).write_text('{"cluster": "gra1", "count": 5}')
    result = run("submit", "drain.yaml", "--parameters", name, "-p", "cluster=sbg2", "--dry-run")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["name"], document["nodes"][0]["args"]) == ("drain sbg2", [5, 1])


@pytest.mark.parametrize(
    ("arguments", "status", "error", "step"),
    [
        ([], 1, "parameter 'cluster' (name of the cluster) has no value", "give one: -p cluster=…"),
        (["-p", "cluster=rbx"], 1, "parameter 'cluster' cannot be 'rbx'", "use one of 'gra1', 'sbg2'"),
        (
            ["-p", "cluster=gra1", "-p", "x=1"],
            1,
            "the definition has no parameter 'x'",
            "its parameters are cluster, count, quiet",
        ),
        (["-p", "cluster=gra1", "-p", "count=x"], 1, "parameter 'count' must be of type integer, and is 'x'", None),
        (
            ["-p", "cluster=gra1", "-p", "count=0"],
            1,
            "node 'a': `retry.attempts` must be a whole number >= 1",
            "write a whole number",
        ),
        (["--parameters", "bad.json"], 2, "'bad.json' is no JSON", None),
        (["--parameters", "list.json"], 2, "'list.json' holds no values of parameters", 'write {"name": value}'),
        (["--parameters", "none.json"], 2, None, None),
        (["-p", "cluster"], 2, None, None),
    ],
)
def test_wrong_values_are_explained(
    run: Run, definition: Path, arguments: list[str], status: int, error: str | None, step: str | None
) -> None:
    """Each mistake is told with what is allowed."""
    (definition.parent / "bad.json").write_text("{")
    (definition.parent / "list.json").write_text("[1]")
    result = run("submit", "drain.yaml", "--dry-run", *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    if error is not None:
        assert result.stderr.startswith(f"error: {error}")
    if step is not None:
        assert f"next: {step}" in result.stderr


def test_parameters_are_listed(run: Run, definition: Path) -> None:
    """Before giving values, a person sees what may be given, and a program too."""
    result = run("submit", "drain.yaml", "--show-parameters")
    assert [line.split(maxsplit=3) for line in result.stdout.splitlines()] == [
        ["NAME", "TYPE", "DEFAULT", "DESCRIPTION"],
        ["cluster", "string", "(required)", "name of the cluster (one of gra1, sbg2)"],
        ["count", "integer", "2"],
        ["quiet", "boolean", "false"],
    ]
    cluster, *_ = json.loads(run("submit", "drain.yaml", "--show-parameters", "--json").stdout)
    assert (cluster["required"], cluster["choices"]) == (True, ["gra1", "sbg2"])
    (definition.parent / "plain.json").write_text('{"nodes": []}')
    assert run("submit", "plain.json", "--show-parameters").stderr == "'plain.json' has no parameters\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "is no YAML"),
        ("- 1", "holds no definition"),
        ("nodes: [{1: x}]", "the name 1 at $.nodes[0] is no text"),
        ("nodes: {null: x}", "the name None at $.nodes is no text"),
        ("nodes: [{task: !!binary aGk=}]", "the bytes at $.nodes[0].task has no form in JSON"),
        ("nodes: [{task: !!timestamp 2030-01-31}]", "the date at $.nodes[0].task has no form in JSON"),
        ("nodes: [{task: !!timestamp 2030-99-99}]", "is no YAML"),
        ("nodes: !!set {a, b}", "the set at $.nodes has no form in JSON"),
        ("nodes: [!!float .nan]", "the float at $.nodes[0] has no form in JSON"),
        ("nodes: &a [*a]", "refers to itself"),
        ("nodes: [!!python/object:os.system {}]", "is no YAML"),
        ("a: " + "[" * 5000 + "]" * 5000, "is no YAML that can be read"),
    ],
)
def test_yaml_that_json_cannot_carry_is_explained(run: Run, tmp_path: Path, text: str, error: str) -> None:
    """The place and the type are named; nobody sees a traceback."""
    (tmp_path / "bad.yaml").write_text(text)
    result = run("submit", "bad.yaml", "--dry-run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr
    assert "Traceback" not in result.stderr


def test_yaml_words_are_those_of_version_1_2(run: Run, tmp_path: Path) -> None:
    """`on` is a field of retry policies, and 1:30 is no number of seconds."""
    (tmp_path / "words.yaml").write_text(
        "nodes:\n- task: t\n  retry: {on: [OSError]}\n"
        "  args: [on, yes, 1:30, 0644, 2030-01-31T08:00:00Z, 1e3, 1.5, -7, 0x10, true, ~, '', 1_000]\n"
    )
    result = run("submit", "words.yaml", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    (node,) = json.loads(result.stdout)["nodes"]
    assert node["retry"]["on"] == ["OSError"]
    assert node["args"] == ["on", "yes", "1:30", "0644", "2030-01-31T08:00:00Z", 1000.0, 1.5, -7, 16, True, None, "", "1_000"]


def test_client_takes_values(daemon: Daemon) -> None:
    """A program passes parameters as a shell does, and the daemon puts them in."""
    document = yaml.safe_load(
        PARAMETRIC.replace(", payload: {since: 2030-01-31, at: 12:30:00, word: no}", "")
        .replace(" on:", " 'on':")
        .replace("{on:", "{'on':")
    )
    with Client(daemon.path) as client:
        handle = client.submit(document, parameters={"cluster": "gra1", "count": 1}, key="k")
        assert (handle.status().name, handle.wait(10).state) == ("drain gra1", "succeeded")
        with pytest.raises(Exception, match="parameter 'cluster' cannot be 'x'"):
            client.submit(json.dumps(document).encode(), parameters={"cluster": "x"})


def test_values_are_merged() -> None:
    """What is given in the call goes before what the document brings, and what cannot be sent is our error."""
    body = submission_body({"nodes": [], "values": {"a": 1, "b": 1}}, parameters={"b": 2})
    assert json.loads(body)["values"] == {"a": 1, "b": 2}
    assert submission_body(b'{"nodes": []}', parameters={}) == b'{"nodes": []}'
    for what, parameters in (
        ({"nodes": [], "values": 5}, {"a": 1}),
        (b"[1]", {"a": 1}),
        ({"nodes": [object()]}, {}),
        (b"{", {"a": 1}),
    ):
        with pytest.raises(BadRequest):
            submission_body(what, parameters=parameters)


# --- schema ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """The published schema, as an editor uses it."""
    schema = wire.definition_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_schema_is_printed(run: Run) -> None:
    """No daemon is needed to set an editor up."""
    result = run("schema")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == wire.definition_schema()


@pytest.mark.parametrize(
    "document",
    [
        json.loads(REPLACEMENT.read_bytes()),
        {"nodes": [{"task": "t"}]},
        {"nodes": "${nodes}", "policy": "${policy}"},
        {
            "nodes": [
                {"task": "t", "timeout_s": "${x}", "after": "${after}", "rule": "any_${x}", "idempotent": "${x}", "args": "${x}"}
            ]
        },
        {
            "nodes": [
                {"task": "t", "retry": {"attempts": "${n}", "on": ["${word}"]}, "poll": {"every_s": "${x}"}, "adopted": "${a}"}
            ]
        },
        {"nodes": [], "parameters": {"a": 1, "b": None, "c": [1], "d": {"type": "integer", "choices": [1]}}, "values": {"a": {}}},
        {"nodes": [], "policy": {"start_at": "2030-01-31T08:00:00Z", "retry": None}},
    ],
)
def test_schema_takes_what_the_daemon_takes(validator: jsonschema.Draft202012Validator, document: Any) -> None:
    """An editor underlines nothing that is right, references included."""
    validator.validate(document)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"nodes": {}},
        {"nodes": [{"task": "t", "arg": []}]},
        {"nodes": [{"task": 5}]},
        {"nodes": [{"task": "t", "rule": "some"}]},
        {"nodes": [{"task": "t", "timeout_s": "5"}]},
        {"nodes": [{"task": "t", "timeout_s": "${x}0"}]},
        {"nodes": [{"task": "t", "retry": {"attempts": 0}}]},
        {"nodes": [{"task": "t", "poll": {}}]},
        {"nodes": [], "policy": {"weight": 0}},
        {"nodes": [], "parameters": {"a": {"typ": "string"}}},
        {"nodes": [], "parameters": {"a": {"type": "int"}}},
        {"nodes": [], "parameters": {"a b": 1}},
        {"nodes": [], "labels": {"a": 1}},
        {"nodes": [], "version": "${v}"},
    ],
)
def test_schema_refuses_what_the_daemon_refuses(validator: jsonschema.Draft202012Validator, document: Any) -> None:
    """An editor underlines what is wrong."""
    assert not validator.is_valid(document)


def test_every_field_is_described(validator: jsonschema.Draft202012Validator) -> None:
    """Editors show what a field is for, so none is forgotten."""
    for name, form in wire.definition_schema()["$defs"].items():
        assert "Attributes" not in form.get("description", ""), name
        for field, about in form.get("properties", {}).items():
            assert about.get("description"), f"{name}.{field}"


def test_a_large_submission_shows_how_far_it_is(daemon: Daemon, tmp_path: Path) -> None:
    """Somebody at a terminal sees that megabytes are sent, then that the daemon stores them; a small one is just done."""
    (tmp_path / "large.json").write_text(json.dumps({"nodes": [{"name": "n", "task": "add"}], "payload": "p" * 5_000_000}))
    sending = Terminal(daemon, "submit", str(tmp_path / "large.json"))
    assert sending.end() == 0
    assert b"sending [####" in sending.seen
    assert "storing …".encode() in sending.seen
    (tmp_path / "small.json").write_text(json.dumps({"nodes": [{"name": "n", "task": "add"}]}))
    sending = Terminal(daemon, "submit", str(tmp_path / "small.json"))
    assert sending.end() == 0
    assert b"storing" not in sending.seen
