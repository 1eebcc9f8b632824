"""`dyrygentctl` against a real daemon: what is printed where, and the exit status."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from dyrygentd import __version__
from dyrygentd.cli import main
from tests.cli.support import Ctl, Terminal, environment_of, zone
from tests.http.support import Daemon
from tests.support.commands import runner
from tests.support.servers import wait_until

GOOD = {"name": "sum", "nodes": [{"name": "a", "task": "add", "args": [1, 2]}]}
BAD = {
    "name": "drain gra1/osd 42",
    "labels": {"dc": "gra"},
    "nodes": [{"name": "a", "task": "fail"}, {"name": "b", "task": "add", "after": ["a"]}],
}


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Write the module ``flows`` into the directory in which `ctl` runs."""
    path = list(sys.path)

    def write(text: str) -> None:
        (tmp_path / "flows.py").write_text(text)

    yield write
    sys.path[:] = path
    sys.modules.pop("flows", None)


# --- submit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["good.json", "-"])
def test_definition_is_submitted(ctl: Ctl, tmp_path: Path, target: str) -> None:
    """The id alone goes to stdout, so that a script can take it; words go to stderr."""
    (tmp_path / "good.json").write_text(json.dumps(GOOD))
    result = ctl("submit", target, "--name", "mine", "--label", "dc=gra", "--key", "k", input=json.dumps(GOOD))
    assert result.exit_code == 0, result.stderr
    assert re.fullmatch(r"[0-9a-f-]{36}\n", result.stdout)
    assert result.stderr == "submitted 'mine', 1 task\n"
    view = json.loads(ctl("--json", "show", "mine").stdout)["workflow"]
    assert (view["id"], view["labels"], view["key"]) == (result.stdout.strip(), {"dc": "gra"}, "k")
    again = ctl("submit", target, "--key", "k", input=json.dumps(GOOD))
    assert again.stdout == result.stdout
    assert re.match(r"known already, nothing was created; it is (running|succeeded)\nnext: dyrygentctl \w+ ", again.stderr)


def test_submission_that_is_known_and_has_failed(ctl: Ctl) -> None:
    """Who submits once more wants it to run: they are told that it will not by itself, and what tells why."""
    first = ctl("submit", "-", "--key", "k", "--wait", input=json.dumps(BAD)).stdout.split()[0]
    again = ctl("submit", "-", "--key", "k", input=json.dumps(BAD)).stderr
    assert again == f"known already, nothing was created; it is failed\nnext: dyrygentctl explain {first}\n"


def test_parent_task_is_shown_and_found(ctl: Ctl) -> None:
    """From the task that submitted a workflow to the workflow, and back; nothing in it steers a terminal."""
    ids = {}
    for name, parent in {"tied": {"task_id": "t-1", "root_id": "r-1"}, "first": {"task_id": "r\u202e1"}, "alone": None}.items():
        document = GOOD | {"name": name} | ({"parent_task": parent} if parent else {})
        if name == "first":
            # A mark of direction cannot be printed.
            assert "cannot be printed" in ctl("submit", "-", input=json.dumps(document)).stderr
            document["parent_task"] = {"task_id": "r-1"}
        ids[name] = ctl("submit", "-", input=json.dumps(document)).stdout.strip()
    assert re.search(r"(?m)^parent task +t-1, whose root is r-1$", ctl("show", "tied").stdout)
    assert re.search(r"(?m)^parent task +r-1$", ctl("show", "first").stdout)
    assert "parent task" not in ctl("show", "alone").stdout
    (view,) = json.loads(ctl("--json", "list", "--parent-task", "t-1").stdout)
    assert (view["id"], view["parent_task"]) == (ids["tied"], {"task_id": "t-1", "root_id": "r-1"})
    assert ctl("list", "--parent-task", "t-2").stderr == "no workflows\n"


def test_yaml_without_its_package_is_explained(ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML is a convenience, and the message says how to get it."""
    (tmp_path / "good.yaml").write_text("nodes: []")
    monkeypatch.setitem(sys.modules, "yaml", None)
    result = ctl("submit", "good.yaml")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "error: YAML needs the PyYAML package")


def test_yaml_is_submitted(ctl: Ctl, tmp_path: Path) -> None:
    """A definition file may be YAML, the same document in other clothes."""
    yaml = pytest.importorskip("yaml")
    (tmp_path / "good.yml").write_text(yaml.safe_dump(GOOD))
    assert ctl("submit", "good.yml", "--wait").exit_code == 0


@pytest.mark.parametrize(
    "name", ["canvas", "make", "Flows.make", "workflow", "document"], ids=["canvas", "function", "method", "workflow", "document"]
)
def test_object_of_a_module_is_submitted(ctl: Ctl, module: Callable[[str], None], name: str) -> None:
    """A canvas, a Workflow, a document, or a function that makes one, found as `celery -A` finds an app."""
    module(
        "from celery import Celery, chain\n"
        "from dyrygentd import Workflow\n"
        "app = Celery('flows', broker='memory://', set_as_current=False)\n"
        "canvas = chain(app.signature('add', (1,)), app.signature('add', (2,)))\n"
        "def make(): return canvas\n"
        "class Flows:\n"
        "    make = staticmethod(make)\n"
        "workflow = Workflow('two')\n"
        "workflow.add(app.signature('add', (1,)), name='x')\n"
        "document = {'nodes': [{'task': 'add'}]}\n"
    )
    result = ctl("submit", f"flows:{name}", "--wait")
    assert result.exit_code == 0, result.stderr
    assert "succeeded" in result.stdout


@pytest.mark.parametrize(
    ("target", "text", "status", "words"),
    [
        ("nowhere:x", "", 2, "there is no module 'nowhere'"),
        ("flows:x", "import nowhere", 1, "module 'flows' cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("flows:x", "1/0", 1, "module 'flows' cannot be imported: ZeroDivisionError: division by zero"),
        ("flows:x", "def (", 1, "SyntaxError"),
        ("flows:x", "from celery import chain, signature\nx = chain(signature('t'), 3)", 1, "flows.py:2)"),
        ("flows:canvs", "canvas = 1", 2, "did you mean 'canvas'?"),
        ("flows:nothing", "x = {'task': 'add'}\ny = {'nodes': []}\nz = 1", 2, "next: it has x, y\n"),
        ("flows:nothing", "z = 1", 2, "next: it has no canvas, workflow or definition at all"),
        ("flows:make", "def make(): return {}['dc']", 1, "'flows:make' failed: KeyError: 'dc'"),
        ("flows:x", "x = 42", 1, "'flows:x' is not a canvas"),
        ("flows:int", "", 2, "module 'flows' has no 'int'"),
        ("flows", "", 2, "neither module:object nor"),
        ("none.json", "", 2, "cannot read 'none.json': No such file or directory"),
    ],
)
def test_bad_target_is_explained(
    ctl: Ctl, module: Callable[[str], None], target: str, text: str, status: int, words: str
) -> None:
    """Each way to get it wrong has a message of its own, with the last line of a traceback and not all of it."""
    module(text + "\n")
    result = ctl("submit", target)
    assert (result.exit_code, result.stdout) == (status, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [["list"], ["retry", "@latest"]])
def test_socket_after_the_command(ctl: Ctl, words: list[str]) -> None:
    """It is told where the option goes, instead of which other one it resembles."""
    result = ctl(*words, "--socket", "x.sock")
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: --socket stands before the command: main --socket … {words[0]}\n")


def test_refused_definition_tells_what_and_what_next(ctl: Ctl) -> None:
    """The daemon's problem document becomes two lines."""
    result = ctl("submit", "-", input='{"nodes": [{"name": "a"}]}')
    assert result.exit_code == 1
    assert (
        result.stderr == "error: node 'a': `task` is missing\n"
        "next: name a task, or write `join: true`, `gate: true`, `sleep_s`, `map` or `workflow`\n"
    )


@pytest.mark.parametrize("option", ["--wait", "--watch"])
def test_submit_and_wait_fails_with_the_workflow(ctl: Ctl, option: str) -> None:
    """A shell script can use `&&`."""
    assert ctl("submit", "-", option, input=json.dumps(GOOD)).exit_code == 0
    result = ctl("submit", "-", option, input=json.dumps(BAD))
    assert result.exit_code == 1
    assert "failed after" in result.stdout
    assert "'a' failed: ValueError: no such host" in result.stderr


# --- list, show -----------------------------------------------------------------------------------------------------


def test_list_shows_names_whole(ctl: Ctl) -> None:
    """A name that is cut cannot be copied; the newest comes first."""
    name = "replace " + "x" * 150
    for document in (GOOD, BAD | {"name": name}):
        ctl("submit", "-", "--wait", input=json.dumps(document))
    heads, first, second = ctl("list").stdout.splitlines()
    assert heads.split() == ["ID", "NAME", "STATE", "TASKS", "CREATED", f"({zone()})", "TOOK", "NOTE"]
    assert name in first
    assert "failed" in first
    assert "succeeded" in second
    assert len(ctl("list", "--state", "failed", "--label", "dc=gra").stdout.splitlines()) == 2
    assert [view["name"] for view in json.loads(ctl("list", "--json", "--name", "sum").stdout)] == ["sum"]


def test_list_says_when_there_is_more(ctl: Ctl) -> None:
    """Nobody takes a page for the whole; an empty list is not silent."""
    assert ctl("list").stderr == "no workflows\n"
    for _ in range(3):
        ctl("submit", "-", input=json.dumps(GOOD))
    short = ctl("list", "--limit", "2")
    assert (len(short.stdout.splitlines()), "there are more" in short.stderr) == (3, True)
    assert len(ctl("list", "--all").stdout.splitlines()) == 4
    assert len(json.loads(ctl("--json", "list", "--limit", "2").stdout)) == 2


def test_show_puts_failures_first_with_their_causes(ctl: Ctl) -> None:
    """Whoever looks at a failed workflow wants to know which node it was, why, and what it holds up."""
    ctl("submit", "-", "--wait", input=json.dumps(BAD))
    out = ctl("show", "drain gra1/osd 42").stdout
    assert re.search(r"^state +failed$", out, re.M)
    assert re.search(r"^labels +dc=gra$", out, re.M)
    assert out.index("ValueError: no such host") < out.index("blocked by a")
    everything = ctl("show", "@latest", "--nodes").stdout
    assert re.search(r"^a +failed +fail", everything, re.M)
    assert "no such host" not in ctl("show", "@latest", "--state", "blocked").stdout.partition("NODE")[2]
    node = ctl("show", "@latest", "--node", "b").stdout
    assert ctl("show", "@latest", "b").stdout == ctl("show", "@latest", "b", "--node", "b").stdout == node
    two = ctl("show", "@latest", "a", "--node", "b")
    assert (two.exit_code, "'a' and 'b': give one of them" in two.stderr) == (2, True)
    assert re.search(r"^blocked by +a$", node, re.M)
    document = json.loads(ctl("show", "@latest", "--json").stdout)
    assert [node["name"] for node in document["nodes"]] == ["a"]
    assert json.loads(ctl("show", "@latest", "--node", "b", "--json").stdout)["blocked_by"] == "a"


def test_payload_is_shown_with_its_node(ctl: Ctl) -> None:
    """What people attached to a node stands where they look at it, as data for programs."""
    payload = {"ticket": "CHG-42", "disks": ["sdé"], "password": "hunter2"}
    definition = {"nodes": [{"name": "a", "task": "add", "payload": payload}, {"name": "b", "task": "add"}]}
    assert ctl("submit", "-", input=json.dumps(definition)).exit_code == 0
    shown = {**payload, "password": "****"}
    assert json.loads(ctl("show", "@latest", "--node", "a", "--json").stdout)["payload"] == shown
    out = ctl("show", "@latest", "--node", "a").stdout
    assert re.search(r'^payload +{"ticket": "CHG-42", "disks": \["sdé"\], "password": "\*+"}$', out, re.M)
    assert "payload" not in ctl("show", "@latest", "--node", "b").stdout


def test_show_tells_what_a_running_workflow_waits_for(slow_ctl: Ctl) -> None:
    """At three in the morning the question is which task it hangs on, and for how long."""
    nodes = [{"name": "slow", "task": "add"}, {"name": "after", "task": "add", "after": ["slow"]}]
    slow_ctl("submit", "-", input=json.dumps({"nodes": nodes}))
    out = slow_ctl("show", "@latest").stdout
    assert re.search(r"^slow +dispatch\w+ +add .*(waits for the broker|in the broker or at a worker for)", out, re.M)
    assert not re.search("^after", out, re.M)


def test_failed_join_is_shown(ctl: Ctl, daemon: Daemon) -> None:
    """No task failed, so the counts are silent; the operator still wants to know what stopped the workflow."""
    daemon.broker.tasks["large"] = lambda: "x" * 9_000_000
    nodes: list[dict[str, Any]] = [{"name": name, "task": "large"} for name in "ab"]
    nodes += [{"name": "all", "join": True, "after": ["a", "b"]}, {"name": "c", "task": "add", "after": ["all"]}]
    ctl("submit", "-", "--wait", input=json.dumps({"nodes": nodes}))
    assert re.search(r"^all +failed +\(join\) .* the limit is ", ctl("show", "@latest").stdout, re.M)


def test_node_that_is_held_beyond_all_calendars_is_shown(slow_ctl: Ctl) -> None:
    """A countdown may be any number, and `show` must not break on it."""
    nodes = [{"name": "a", "task": "add", "options": {"countdown": 1e300}}]
    slow_ctl("submit", "-", input=json.dumps({"nodes": nodes}))
    assert "held until the end of time" in slow_ctl("show", "@latest", "--nodes").stdout
    assert "the end of time" in slow_ctl("show", "@latest", "--node", "a").stdout


def test_result_is_shown(ctl: Ctl) -> None:
    """The result is what many workflows are run for."""
    ctl("submit", "-", "--wait", input=json.dumps(GOOD))
    assert re.search(r"^result +3$", ctl("show", "@latest").stdout, re.M)
    assert json.loads(ctl("show", "@latest", "--json").stdout)["workflow"]["result"] == 3


def test_names_cannot_steer_the_terminal(ctl: Ctl) -> None:
    """A name from outside must not move the cursor or change the title of an operator's window."""
    ctl("submit", "-", "--wait", input=json.dumps(BAD | {"name": "\x1b]0;owned\x07"}))
    for arguments in (["list"], ["show", "@latest"], ["cancel", "@latest"], ["wait", "@latest"], ["submit", "-"]):
        result = ctl(*arguments, input=json.dumps(GOOD | {"name": "\x1b[2J"}))
        assert "\x1b" not in result.output


def test_time_left_is_told_with_what_bounds_it(slow_ctl: Ctl, daemon: Daemon) -> None:
    """Of a workflow that goes on; before anything was measured nobody can tell, and then a range with its reason."""
    nodes: list[dict[str, Any]] = [{"name": "a", "task": "add"}, {"name": "<b>\u202e\x1b[2J", "task": "add", "after": ["a"]}]
    slow_ctl("submit", "-", input=json.dumps({"nodes": nodes}))
    assert re.search("^left +not known yet: nothing of task 'add' has ended", slow_ctl("show", "@latest").stdout, re.M)
    assert "no task has ended yet" in slow_ctl("stats", "--tasks").stderr
    slow_ctl("cancel", "@latest")


def test_run_times_are_told_by_task(ctl: Ctl) -> None:
    """How long a task takes is known once some of it have ended."""
    ctl("submit", "-", "--wait", input=json.dumps(GOOD))
    assert re.search(r"^TASK +RUNS +HALF WITHIN +95 % WITHIN +FAILED\nadd +1 ", ctl("stats", "--tasks").stdout, re.M)
    assert json.loads(ctl("--json", "stats", "--tasks").stdout)["tasks"][0]["task"] == "add"
    nodes = [
        {"name": "a", "task": "add"},
        {"name": "go", "gate": True, "after": ["a"]},
        {"name": "b", "task": "add", "after": ["go"]},
    ]
    ctl("submit", "-", input=json.dumps({"nodes": nodes}))
    out = ctl("show", "@latest").stdout
    assert re.search("^left +nobody can tell when it ends: 'go' waits for a person, or will; without that, about ", out, re.M)
    assert json.loads(ctl("--json", "show", "@latest").stdout)["estimate"]["bound"] == "person"


# --- watch, wait --------------------------------------------------------------------------------------------


def test_watch_prints_lines_without_a_terminal(ctl: Ctl) -> None:
    """In a log there is no bar to draw; the outcome is on stdout, the way there on stderr."""
    ctl("submit", "-", "--wait", input=json.dumps(GOOD))
    result = ctl("watch", "@latest")
    assert (result.exit_code, result.stdout.startswith("succeeded after")) == (0, True)
    assert re.fullmatch(r"[\d:]+ \S+ succeeded 1/1 100% \(succeeded 1\) .* s\n", result.stderr)
    last = ctl("watch", "--json", "@latest").stdout.splitlines()[-1]
    assert json.loads(last)["state"] == "succeeded"


def test_wait_tells_the_outcome(ctl: Ctl) -> None:
    """`wait` is for scripts: status 1 for whatever is no success, one document with --json."""
    ctl("submit", "-", input=json.dumps(BAD))
    assert ctl("wait", "@latest").exit_code == 1
    result = ctl("wait", "@latest", "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "failed")


def test_wait_gives_up_in_time(slow_ctl: Ctl) -> None:
    """A timeout is a failure of the waiting, and says that the workflow goes on."""
    slow_ctl("submit", "-", input=json.dumps(GOOD))
    result = slow_ctl("wait", "@latest", "--timeout", "0.05")
    assert result.exit_code == 1
    assert result.stderr.startswith("timeout: 'sum' has not finished within 0.05 s; it goes on: running 0/1")
    ended = slow_ctl("wait", "@latest", "--timeout", "0", "--json")
    assert (json.loads(ended.stdout)["state"], json.loads(ended.stderr)["exit_status"]) == ("running", 1)
    assert "has not finished within 0 s" in json.loads(ended.stderr)["detail"]


# --- errors, help, start --------------------------------------------------------------------------------------------


def test_unreachable_daemon_has_its_own_status(short_tmp: Path) -> None:
    """A script can tell a daemon that is down from a workflow that failed."""
    result = runner().invoke(main, ["--socket", f"{short_tmp}/d.sock", "list"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert re.match(rf"error: cannot reach .{short_tmp}/d.sock.*\nnext: start it as it was started before", result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [["shwo"], ["show"], ["list", "--limit", "0"], ["submit", "x", "--label", "k"], ["cancel"], ["wait", "x", "--timeout", "-1"]],
)
def test_usage_errors_exit_with_2(ctl: Ctl, arguments: list[str]) -> None:
    """Wrong usage is told from failure."""
    assert ctl(*arguments).exit_code == 2


def test_unknown_reference_tells_where_to_look(ctl: Ctl) -> None:
    """A typing error in a reference is answered with the way to the right one."""
    result = ctl("show", "nonsense")
    assert result.exit_code == 1
    assert "next: `dyrygentctl list`" in result.stderr


def test_help_mentions_references_statuses_and_completion() -> None:
    """What a user cannot guess stands in the help, and every command has a line there."""
    out = runner().invoke(main, ["--help"]).stdout
    for word in ("@latest", "3 daemon", "bash_source", *main.commands):
        assert word in out
    for command in main.commands.values():
        assert isinstance(command, click.Command)
        assert command.get_short_help_str()


def test_version_is_the_one_of_the_package() -> None:
    """The version stands in two files, which must agree."""
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in pyproject
    assert __version__ in runner().invoke(main, ["--version"]).stdout


def test_help_imports_nothing_slow() -> None:
    """Completion asks the program at every key press: what is not needed for it is not imported."""
    script = (
        "import sys, dyrygentd.cli as c; sys.argv = ['x', '-h']\ntry: c.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    modules = set(done.stderr.split())
    assert not modules & {"rich", "asyncio", "celery", "kombu", "aiohttp", "msgspec", "http.client", "anyio"}


def test_real_process_and_its_pipe(daemon: Daemon) -> None:
    """Run as users run it: statuses come through, and the output of one command feeds the next."""
    submitted = _run(daemon, "submit", "-", input=json.dumps(BAD))
    assert submitted.returncode == 0
    waited = _run(daemon, "wait", submitted.stdout.strip())
    assert waited.returncode == 1
    assert "Traceback" not in waited.stderr
    assert _run(daemon, "--socket", f"{daemon.path}x", "list").returncode == 3


def test_interrupted_watch_leaves_the_workflow_running(holding: Daemon) -> None:
    """Ctrl-C ends the watching and nothing else, says so, and has the status that shells expect."""
    workflow_id = holding.submit(name="slow")
    watching = Terminal(holding, "watch", "--plain", workflow_id)
    watching.wait_for(b"0/1")
    wait_until(lambda: holding.http_statistics().streams == 1, timeout_s=10, message="no stream was opened")
    watching.send(signal.SIGINT)
    assert watching.end() == 130
    assert b"'slow' goes on" in watching.seen
    assert b"Traceback" not in watching.seen
    assert holding.ask("GET", f"/v1/workflows/{workflow_id}").json["state"] == "running"


def test_live_view_tells_why_it_stands_still(holding: Daemon) -> None:
    """A bar that does not move is a riddle unless it says that somebody has paused the workflow."""
    workflow_id = holding.submit(name="slow")
    watching = Terminal(holding, "watch", "--plain", workflow_id)
    watching.wait_for(b"0/1")
    holding.ask("POST", f"/v1/workflows/{workflow_id}/pause")
    watching.wait_for(b"slow (paused)")
    watching.send(signal.SIGINT)
    assert watching.end() == 130


def _run(daemon: Daemon, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from dyrygentd.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment_of(daemon), **options)


def test_audit_is_followed(short_tmp: Path) -> None:
    """What is done is shown within seconds, one line each, until Ctrl-C ends it; a restart of the daemon is waited for."""
    with Daemon(short_tmp / "d.sock", holds=True) as daemon:
        command = [
            sys.executable,
            "-c",
            "from dyrygentd.cli import main; main()",
            "--socket",
            str(daemon.path),
            "events",
            "--follow",
            "--json",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            try:
                workflow_id = daemon.submit()
                daemon.ask("POST", f"/v1/workflows/{workflow_id}/pause", {"why": "a test"})
                assert json.loads(following.stdout.readline())["verb"] == "pause"
                daemon.stop()
                daemon.start()
                daemon.ask("POST", f"/v1/workflows/{workflow_id}/resume", {})
                entry = json.loads(following.stdout.readline())
                assert (entry["workflow"], entry["verb"]) == (workflow_id, "resume")
            finally:
                following.send_signal(signal.SIGINT)
            assert following.wait(10) == 130


_STEERING = "a\x9b31m\u202eb\u2028c\x7f\U000e0001żółw😀"


@pytest.mark.parametrize(
    "arguments", [["show", "@latest"], ["list"], ["export", "@latest"], ["graph", "@latest"], ["events", "@latest"]]
)
def test_json_steers_no_terminal(arguments: list[str], ctl: Ctl) -> None:
    """What others have named is data in JSON as well, and read back it is what it was."""
    nodes = [{"name": _STEERING, "task": "add"}]
    assert ctl("submit", "-", input=json.dumps({"name": _STEERING, "nodes": nodes})).exit_code == 0
    shown = ctl("--json", *arguments).stdout
    assert shown.replace("\n", "").isprintable()
    assert "żółw😀" in shown or "events" in arguments
    assert (
        _STEERING in json.dumps(json.loads(shown.splitlines()[0]), ensure_ascii=False).replace("\\u007f", "\x7f")
        or "events" in arguments
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--state", "x\x1b[31m"],
        ["list", "--label", "x\x1b[31m"],
        ["x\x1b[31m"],
        ["show", "a", "--x\x1b[31m"],
        ["--socket", "/x\x1b[31m", "list"],
        ["list", "--limit", "x\x1b[31m"],
    ],
)
def test_wrong_arguments_steer_no_terminal(arguments: list[str], ctl: Ctl) -> None:
    """A script may have them from anywhere."""
    result = ctl(*arguments)
    assert result.exit_code in (2, 3)
    assert "\x1b" not in result.stderr
    assert "x\\x1b[31m" in result.stderr
