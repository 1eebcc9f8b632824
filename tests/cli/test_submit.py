"""Definition files on the command line: JSON and YAML, their parameters, a dry run, and the schema that editors use."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import Result

from dyrygentd import wire
from dyrygentd.cli import documents, main
from dyrygentd.client.bodies import submission_body
from dyrygentd.client.sync import Client
from dyrygentd.demo import REPLACEMENT
from dyrygentd.errors import BadRequest
from tests.cli.support import Ctl, Terminal
from tests.http.support import Daemon
from tests.support.commands import runner

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
    return lambda *arguments, **options: runner().invoke(main, list(arguments), **options)


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
    assert (refused.exit_code, refused.stderr.splitlines()[0]) == (1, "error: a canvas or `Workflow` has no parameters")


FUNCTIONS = """\
from celery import chain, signature


def flow(host, count=1):
    return chain(*(signature('drain', args=(host,)) for _ in range(count)))


def file():
    return {"parameters": {"host": {}}, "nodes": [{"task": "drain", "args": ["${host}"]}]}
"""


@pytest.mark.parametrize(
    ("target", "given", "expected"),
    [
        ("flow", ["-p", "host=osd-1"], [["osd-1"]]),
        ("flow", ["-p", "host=osd-1", "-p", "count=2"], [["osd-1"], ["osd-1"]]),
        ("flow", ["--parameters", "values.json"], [["osd-2"], ["osd-2"], ["osd-2"]]),
        ("flow", ["--parameters", "values.json", "-p", "count=1"], [["osd-2"]]),
        ("file", ["-p", "host=osd-1"], [["osd-1"]]),
    ],
)
def test_functions_are_called_with_values(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, given: list[str], expected: list[Any]
) -> None:
    """As `lint` does it. One that takes nothing leaves them to the definition that it returns."""
    monkeypatch.delitem(sys.modules, "functions_of_submit", raising=False)
    (tmp_path / "functions_of_submit.py").write_text(FUNCTIONS)
    (tmp_path / "values.json").write_text('{"host": "osd-2", "count": 3}')
    result = run("submit", f"functions_of_submit:{target}", "--dry-run", *given)
    assert result.exit_code == 0, result.stderr
    assert [node["args"] for node in json.loads(result.stdout)["nodes"]] == expected


def test_a_function_says_what_it_takes(run: Run, tmp_path: Path) -> None:
    """The next step that is told can be taken with this command."""
    (tmp_path / "function_of_submit.py").write_text(FUNCTIONS)
    refused = run("submit", "function_of_submit:flow", "--dry-run")
    assert (refused.exit_code, refused.stderr.splitlines()) == (
        2,
        [
            "error: 'function_of_submit:flow(host, count=1)' is given nothing: missing a required argument: 'host'",
            "next: give its arguments by name: `-p NAME=VALUE`, where VALUE is JSON or text",
        ],
    )


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


def _laughs(form: str) -> str:
    """Return a short text in which each line names the one before a hundred times."""
    lines = ["l0: &l0 {x: lol, y: lol}"]
    lines += [f"l{level}: &l{level} {form.format(', '.join([f'*l{level - 1}'] * 100))}" for level in range(1, 12)]
    return "\n".join(lines)


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
        (_laughs("[{}]"), "characters when its aliases are written out"),
        (_laughs("{{a: [{}]}}"), "characters when its aliases are written out"),
        ('nodes: ["\\ud800"]', "half of a character"),
    ],
)
def test_yaml_that_json_cannot_carry_is_explained(run: Run, tmp_path: Path, text: str, error: str) -> None:
    """The place and the type are named; nobody sees a traceback."""
    (tmp_path / "bad.yaml").write_text(text)
    result = run("submit", "bad.yaml", "--dry-run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr
    assert "Traceback" not in result.stderr


def test_merges_of_yaml_have_a_bound(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `<<` names is copied, which older versions of PyYAML do as often as it is named."""
    (tmp_path / "bad.yaml").write_text(_laughs("{{<<: [{}]}}"))
    monkeypatch.setattr(documents, "_MERGED_MAX", 1000)
    result = run("submit", "bad.yaml", "--dry-run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "with its merges it has more than 1000 names" in result.stderr


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
    (tmp_path / "large.json").write_text(json.dumps({"nodes": [{"name": "n", "task": "add"}], "payload": "p" * 4_000_000}))
    sending = Terminal(daemon, "submit", str(tmp_path / "large.json"))
    assert sending.end() == 0
    assert b"sending [####" in sending.seen
    assert "storing …".encode() in sending.seen
    (tmp_path / "small.json").write_text(json.dumps({"nodes": [{"name": "n", "task": "add"}]}))
    # However busy the machine is, this takes less than a moment.
    patient = "from dyrygentd.cli import submit; submit._MOMENT_S = 60"
    sending = Terminal(daemon, "submit", str(tmp_path / "small.json"), before=patient)
    assert sending.end() == 0
    assert b"storing" not in sending.seen


_SHOP = """
from celery import Celery, Task

class Branded(Task):
    def apply_async(self, args=None, kwargs=None, **options):
        options["headers"] = {**(options.get("headers") or {}), "brand": "acme"}
        return super().apply_async(args, kwargs, **options)

app = Celery("branded", broker="memory://", backend="cache+memory://", set_as_current=False)
app.conf.task_routes = {"branded_*": {"queue": "brands"}}

@app.task(base=Branded, name=f"{__name__}.one", shared=False)
def task(x=1):
    return x

canvas = task.s(1)
document = {"nodes": [{"name": "a", "task": task.name}]}
"""


@pytest.mark.parametrize(("target", "headers", "told"), [("canvas", {"brand": "acme"}, 0), ("document", None, 1)])
def test_what_is_passed_over_is_told_once_and_only_if_it_is(
    daemon: Daemon, ctl: Ctl, tmp_path: Path, caplog: pytest.LogCaptureFixture, target: str, headers: Any, told: int
) -> None:
    """An override that was called is not said to be passed over; a definition gets the app's routes wherever it stands."""
    module = f"branded_{target}"
    (tmp_path / f"{module}.py").write_text(_SHOP)
    submitted = ctl("submit", f"{module}:{target}", "--app", f"{module}:app")
    assert submitted.exit_code == 0, submitted.stderr
    assert f"{submitted.stderr}{caplog.text}".count("is passed over") == told
    with Client(daemon.path) as client:
        (node,) = json.loads(client.handle(submitted.stdout.strip()).definition())["nodes"]
    assert (node["options"].get("headers"), node["options"]["queue"]) == (headers, "brands")


@pytest.mark.parametrize("where", ["import", "call", "override"])
def test_app_is_named_where_django_is_not_set_up(run: Run, tmp_path: Path, where: str) -> None:
    """What fails for want of a set-up says what sets it up: while it is imported, called, or asks its models."""
    pytest.importorskip("django")
    fails = "from django.apps import apps; apps.get_models()"
    texts = {
        "import": fails,
        "call": f"def canvas():\n    {fails}",
        "override": "from celery import Celery, Task\n"
        f"class Own(Task):\n    def apply_async(self, *args, **options):\n        {fails}\n"
        "app = Celery('o', broker='memory://', set_as_current=False)\n"
        "def own():\n    pass\n"
        "canvas = app.task(base=Own, name='own', shared=False)(own).s()\n",
    }
    (tmp_path / f"models_at_{where}.py").write_text(texts[where])
    refused = run("submit", f"models_at_{where}:canvas")
    assert refused.exit_code == 1
    assert "AppRegistryNotReady" in refused.stderr
    assert "next: name the Celery app with --app" in refused.stderr
