"""What a person sees at three in the morning: honest counts, what waits for them, what is broken, and errors that help."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from dyrygentd.cli import render
from dyrygentd.core.events import TaskReported
from dyrygentd.wire import JournalView, WorkflowView
from tests.cli.support import Ctl, Terminal, environment_of, submit
from tests.http.support import Daemon
from tests.support.servers import wait_until

FAILING = ({"name": "a", "task": "fail"}, {"name": "b", "task": "add", "after": ["a"]})


def view(**fields: Any) -> WorkflowView:
    """Return the view of a workflow that began at 1,000."""
    given: dict[str, Any] = {"id": "i", "name": "n", "state": "running", "created_at": 1000.0, "tasks": 100, "counts": {}}
    return WorkflowView(**given | fields)


def json_error(result: Any) -> dict[str, Any]:
    """Return the document that stands in the last line of stderr, after nothing on stdout."""
    assert result.stdout == ""
    document: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])
    assert document["exit_status"] == result.exit_code
    return document


# --- counts ---------------------------------------------------------------------------------------------------------


def test_failures_are_not_counted_as_done(ctl: Ctl, daemon: Daemon) -> None:
    """`failed 8/8` of a workflow in which nothing succeeded is a lie."""
    workflow = submit(ctl, *FAILING)
    daemon.finish(workflow)
    [line] = ctl("list").stdout.splitlines()[1:]
    assert " 0/2 " in line
    assert line.endswith("1 failed, 1 blocked")


def test_a_join_among_the_blocked_hides_none_of_them(ctl: Ctl, daemon: Daemon) -> None:
    """A join has a line and is no task: two lines of two blocked tasks are not all of them."""
    join = {"name": "j", "join": True, "after": ["a"]}
    workflow = submit(ctl, FAILING[0], join, {"name": "b", "after": ["j"]}, {"name": "c", "after": ["b"]})
    daemon.finish(workflow)
    shown = ctl("show", workflow)
    assert "blocked 2" in shown.stdout
    assert re.findall(r"^(\w) +blocked", shown.stdout, re.M) == ["j", "b"]
    assert f"and 1 more: `dyrygentctl show {workflow} --state blocked`" in shown.stderr


def test_what_is_submitted_does_not_steer_the_terminal(ctl: Ctl) -> None:
    """A name may be a stranger's: what turns the line around is shown, and not done."""
    told = ctl("submit", "-", input=json.dumps({"name": "\u202egnp.exe", "nodes": [{"task": "add"}]})).stderr
    assert told == "submitted '\\x202egnp.exe', 1 task\n"


def test_a_node_that_was_tried_again_and_again_is_named_once() -> None:
    """The journal folds the attempts of a retry loop into one entry, which has its node once for each."""

    def entry(*nodes: str, count: int) -> str:
        return render.entry(JournalView(verb="will-retry", by="dyrygentd", at=1000.0, nodes=list(nodes), count=count))

    assert entry("a", "a", "a", count=3) == "1 node: a (3 times)"
    assert entry("a", "b", "a", count=3) == "2 nodes: a (2 times), b"
    assert entry("a", "b", count=700) == "700 nodes: a, b, …"


def test_list_tells_what_waits_for_a_person(slow_ctl: Ctl) -> None:
    """With 147 running workflows nobody opens each to find the one gate."""
    submit(slow_ctl, {"name": "go", "gate": True}, {"name": "on", "after": ["go"]}, name="gated")
    other = submit(slow_ctl, {"name": "go", "gate": True}, {"name": "x", "after": ["go"]}, name="held")
    slow_ctl("release", other, "go")
    slow_ctl("hold", other, "x")
    text = slow_ctl("list").stdout
    assert "1 gate waits for release" in text
    views = {each["name"]: each for each in json.loads(slow_ctl("list", "--json").stdout)}
    assert views["gated"]["waits_for_person"] == {"gate": 1}
    assert re.search(r"^waits +1 gate waits for release$", slow_ctl("show", "gated").stdout, re.M)


def test_time_left_is_guessed_where_it_can_be() -> None:
    """A gate, a pause or a beginning leave nothing to reckon with."""
    running = view(counts={"succeeded": 20, "failed": 5, "blocked": 25, "waiting": 50})
    assert render.left_s(running, now=1050.0) == 100.0
    assert render.note(view(counts={"failed": 2, "waiting": 98})) == "2 failed"
    assert render.left_s(view(counts={"succeeded": 2}), now=1050.0) is None
    for stands in ({"state": "paused"}, {"waits_for_person": {"gate": 1}}, {"start_at": 2000.0}):
        assert render.left_s(view(counts={"succeeded": 20}, **stands), now=1050.0) is None


def test_words_for_what_waits() -> None:
    """One gate waits, two gates wait."""
    assert render.waits({"lost": 1200, "gate": 1, "operator": 3}) == ["1,200 lost", "1 gate waits for release", "3 held"]
    assert render.waits({"gate": 2}) == ["2 gates wait for release"]


def test_nodes_are_shown_with_how_long_they_took(ctl: Ctl, daemon: Daemon) -> None:
    """Which of them is slow is the next question."""
    workflow = submit(ctl, {"name": "a"})
    daemon.finish(workflow)
    heads, line = ctl("show", workflow, "--nodes").stdout.split("\n\n")[1].splitlines()
    at = heads.index("TOOK")
    assert line[at:].split()[1] == "s"


def test_tables_of_nodes_do_not_wrap_for_a_task(slow_ctl: Ctl, holding: Daemon) -> None:
    """The beginning of a task's module gives way to what is wrong; in a pipe it is whole."""
    task = f"{'module.' * 8}add"
    submit(slow_ctl, {"name": "n" * 30, "task": task, "after": ["go"]}, {"name": "go", "gate": True}, name="w")
    terminal = Terminal(holding, "show", "w", "--nodes", columns=100)
    assert terminal.end() == 0
    lines = click.unstyle(terminal.seen.decode()).splitlines()
    [line] = [line for line in lines if line.startswith("n" * 30)]
    assert len(line) <= 100
    assert "…" in line
    assert task in slow_ctl("show", "w", "--nodes").stdout


def test_a_terminal_follows_who_did_what_in_short_lines(slow_ctl: Ctl, holding: Daemon) -> None:
    """Process numbers and ids of 36 characters push the reason out of the line; a pipe has them."""
    workflow = submit(slow_ctl, {"name": "a"})
    slow_ctl("pause", workflow, "--why", "CHG-42")
    terminal = Terminal(holding, "events", columns=100)
    assert terminal.end() == 0
    shown = click.unstyle(terminal.seen.decode())
    assert re.search(rf"  \S+  {workflow[:8]}  pause  CHG-42", shown)
    assert " (uid " not in shown
    assert re.search(rf"\(uid .*\)  {workflow}  pause  CHG-42", slow_ctl("events").stdout)


# --- which ones -----------------------------------------------------------------------------------------------------


def test_list_takes_a_range_of_time(ctl: Ctl) -> None:
    """Last night's failures are wanted, not those of all time."""
    submit(ctl, {"name": "a"})
    assert len(json.loads(ctl("list", "--since", "1h", "--json").stdout)) == 1
    assert len(json.loads(ctl("list", "--since", "yesterday", "--until", "now", "--json").stdout)) == 1
    assert json.loads(ctl("list", "--until", "1h", "--json").stdout) == []
    assert json.loads(ctl("list", "--since", "2999-01-01T00:00Z", "--json").stdout) == []
    wrong = ctl("list", "--since", "1h", "--until", "2h")
    assert (wrong.exit_code, "nothing can be in between" in wrong.stderr) == (2, True)


def test_list_tells_what_ended_last(slow_ctl: Ctl) -> None:
    """What failed in the last two hours may have been submitted last week; the column has the time of the end."""
    old, new, other = (submit(slow_ctl, {"name": "a"}, name=name) for name in ("old", "new", "other"))
    for each in (new, old):
        slow_ctl("cancel", each)
    heads, *lines = slow_ctl("list", "--ended-since", "2h").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[old, "old"], [new, "new"]]
    assert " ENDED (" in heads
    assert [line.split()[1] for line in slow_ctl("list", "--ended-since", "2h", "--limit", "1").stdout.splitlines()[1:]] == [
        "old"
    ]
    assert "no workflows" in slow_ctl("list", "--ended-since", "2999-01-01").stderr
    assert other in slow_ctl("list").stdout


def test_a_long_name_puts_its_own_row_alone_out_of_line(slow_ctl: Ctl) -> None:
    """A row that is read by a person or by `awk` is as long as what stands in it."""
    submit(slow_ctl, {"name": "a"}, name="x" * 200)
    submit(slow_ctl, {"name": "a"}, name="short")
    heads, short, long = slow_ctl("list").stdout.splitlines()
    assert heads.index("STATE") == short.index("running") < 60
    assert max(len(heads), len(short)) < 140
    assert long.split()[1:3] == ["x" * 200, "running"]


def test_a_name_of_two_workflows_shows_both(slow_ctl: Ctl) -> None:
    """Two ids without a state leave one to guess."""
    ended = submit(slow_ctl, {"name": "a"}, name="nightly")
    slow_ctl("cancel", ended)
    running = submit(slow_ctl, {"name": "a"}, name="nightly")
    result = slow_ctl("show", "nightly")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{ended}  nightly  cancelled" in result.stderr
    assert f"{running}  nightly  running" in result.stderr
    assert f"next: {running} is the only one of them that has not finished" in result.stderr
    assert json_error(slow_ctl("--json", "show", "nightly"))["facts"]["matches"] == [running, ended]


# --- wrong usage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("show", "{}", "--state", "falied"), "'falied' is no state of a node, these are: waiting, held"),
        (("wait", "{}", "--timeout", "soon"), "'soon' is no span of time"),
        (("set-priority", "{}", "high"), "'high' is no whole number: higher goes first"),
        (("set-priority", "{}", "1000001"), "1000001 is not from -1000000 to 1000000"),
        (("list", "--since", "last week"), "'last week' is no time"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_shown(slow_ctl: Ctl, arguments: tuple[str, ...], words: str) -> None:
    """What is allowed stands in the message, and the exit status is 2."""
    workflow = submit(slow_ctl, {"name": "a"})
    given = [each.format(workflow) for each in arguments]
    result = slow_ctl(*given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    document = json_error(slow_ctl(*given, "--json"))
    assert (document["code"], words in document["detail"]) == ("usage", True)


def test_times_to_wait_have_units(slow_ctl: Ctl) -> None:
    """5m is what everybody types."""
    workflow = submit(slow_ctl, {"name": "a"})
    result = slow_ctl("wait", workflow, "--timeout", "0.0001m")
    assert (result.exit_code, "has not finished within 0.006 s" in result.stderr) == (1, True)


@pytest.mark.parametrize("more", [(), ("--name", "x"), ("--dry-run",)])
def test_file_that_is_no_json_is_named(ctl: Ctl, tmp_path: Path, more: tuple[str, ...]) -> None:
    """ "the body is not valid JSON" names neither the file nor the line."""
    (tmp_path / "bad.json").write_text('{"nodes": [\n  {"name": }]}')
    result = ctl("submit", "bad.json", *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: 'bad.json' is no JSON: Expecting value: line 2 column 12 (char 23)\n"
    assert "what came on stdin is no JSON" in ctl("submit", "-", *more, input="{").stderr


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is no JSON"), ('{"nodes": 5}', "Expected `array`"), ("[]", "Expected `object`")]
)
def test_an_export_that_cannot_be_imported_is_named(ctl: Ctl, tmp_path: Path, text: str, words: str) -> None:
    """A field that is unknown, of which file, is what one asks."""
    (tmp_path / "ticket.json").write_text(text)
    result = ctl("import", "ticket.json")
    assert "'ticket.json'" in result.stderr
    assert words in result.stderr
    assert "what came on stdin" in ctl("import", "-", input=text).stderr


def test_a_key_is_a_reference(ctl: Ctl) -> None:
    """Who submits by a key need not keep ids; one who gives the bare key is told."""
    workflow = submit(ctl, {"name": "a"}, key="ticket-1234", name="nightly")
    assert json.loads(ctl("show", "key:ticket-1234", "--json").stdout)["workflow"]["id"] == workflow
    assert "one with a key is `key:KEY`" in ctl("show", "ticket-1234").stderr
    assert ctl("show", "key:ticket").exit_code == 1
    named = submit(ctl, {"name": "a"}, name="key:ticket-1234")
    assert json.loads(ctl("show", "key:ticket-1234", "--json").stdout)["workflow"]["id"] == named


def test_who_holds_it_is_told_where_it_is_looked_at(slow_ctl: Ctl) -> None:
    """Since when, who and why: of a gate, a held node, and a paused workflow, one click in."""
    workflow = submit(
        slow_ctl, {"name": "g", "gate": True}, {"name": "a", "after": ["g"]}, {"name": "b"}, {"name": "c", "gate": True}
    )
    slow_ctl("hold", workflow, "a", "--why", "disk is in use")
    by = r"by \w+ \(uid \d+, pid \d+\) at [\d:]+ UTC, [\d.]+ s ago: "
    assert re.search(r"^held +a gate: waits for `release` for [\d.]+ s$", slow_ctl("show", workflow, "--node", "g").stdout, re.M)
    assert re.search(
        rf"^held +an operator holds it .* {by}disk is in use$", slow_ctl("show", workflow, "--node", "a").stdout, re.M
    )
    assert re.search(r"a gate: waits for `release`; for [\d.]+ s$", slow_ctl("show", workflow).stdout, re.M)
    assert re.search(r"^  since [\d:]+ UTC, [\d.]+ s ago$", slow_ctl("explain", workflow).stdout, re.M)
    slow_ctl("release", workflow, "g")
    assert re.search(rf"held by an operator; {by}disk is in use$", slow_ctl("show", workflow).stdout, re.M)
    slow_ctl("pause", workflow, "--why", "CHG-42")
    node = slow_ctl("show", workflow, "--node", "c").stdout
    assert re.search(rf"^paused +the workflow, {by}CHG-42$", node, re.M)
    assert re.search(r"^held +a gate: waits for `release` for ", node, re.M)
    slow_ctl("cancel", workflow)


def test_skip_says_who_runs_without_the_value(ctl: Ctl, daemon: Daemon) -> None:
    """How many run without what was skipped, and how many of them would have taken its value."""
    taker = {"name": "b", "after": ["a"], "immutable": False}
    nodes: list[dict[str, Any]] = [{"name": "a", "task": "fail"}, taker, {"name": "c", "after": ["a"], "immutable": True}]
    workflow = submit(ctl, *nodes)
    daemon.finish(workflow)
    shown = json.loads(ctl("show", workflow, "--node", "a", "--json").stdout)
    assert (shown["dependents"], shown["takers"]) == (2, 1)
    cause = json.loads(ctl("show", workflow, "--causes", "--json").stdout)["causes"][0]
    assert (cause["dependents"], cause["takers"]) == (2, 1)
    told = ctl("skip", workflow, "a").stderr
    assert told.startswith("2 nodes wait for what is skipped and run without it: 1 of them takes its value and gets null (")
    alone = submit(ctl, {"name": "a", "task": "fail"}, {"name": "c", "after": ["a"], "immutable": True})
    daemon.finish(alone)
    assert ctl("skip", alone, "a").stderr == "1 node waits for what is skipped and runs without it; none takes its value\n"


def test_skip_says_what_takes_the_place_of_values(ctl: Ctl, daemon: Daemon) -> None:
    """Null goes a long way before somebody wonders where it came from."""
    workflow = submit(ctl, *FAILING)
    daemon.finish(workflow)
    assert "runs without it" in ctl("skip", workflow, "--cause", "1").stderr
    other = submit(ctl, *FAILING)
    daemon.finish(other)
    assert ctl("skip", other, "--cause", "1", "--value", "1").stderr == ""


def test_errors_are_json_where_json_is_asked_for(ctl: Ctl, short_tmp: Path) -> None:
    """A program reads what went wrong as it reads the rest: the daemon's own problem document, or one like it."""
    document = json_error(ctl("show", "nothing", "--json"))
    assert (document["code"], document["status"]) == ("workflow-not-found", 404)
    assert document["next_step"]
    (short_tmp / "s").touch()
    document = json_error(ctl("--socket", str(short_tmp / "s"), "--json", "list"))
    assert document["code"] == "usage"


def test_output_that_cannot_be_written_is_no_traceback(daemon: Daemon, ctl: Ctl) -> None:
    """A full disk is told in a line."""
    submit(ctl, {"name": "a"})
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", "from dyrygentd.cli import main; main()", "list"],
            env=environment_of(daemon),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.decode().startswith("error: cannot write the output: No space left on device\nnext: ")
    assert b"Traceback" not in result.stderr
    assert b"Exception" not in result.stderr


# --- one workflow ---------------------------------------------------------------------------------------------------


def test_show_has_what_runs_before_what_waits_in_the_queue(slow_ctl: Ctl, holding: Daemon) -> None:
    """Ten that wait for a worker hide the two that run, and the gate, unless those come first."""
    workflow = submit(slow_ctl, *({"name": f"n{number}"} for number in range(30)), {"name": "go", "gate": True})
    wait_until(lambda: len(holding.broker.published) == 30)
    task_id = json.loads(slow_ctl("show", workflow, "--node", "n17", "--json").stdout)["task_id"]
    holding.call(holding.broker.deliver, TaskReported(task_id, "STARTED"))
    wait_until(lambda: "STARTED" in slow_ctl("show", workflow, "--node", "n17").stdout)
    result = slow_ctl("show", workflow)
    rows = result.stdout.split("\nNODE")[1].splitlines()[1:11]
    assert [row.split()[0] for row in rows[:2]] == ["go", "n17"]
    assert "and 21 more: " in result.stderr
    assert f"`dyrygentctl explain {workflow}` asks the broker and the workers" in result.stderr
    assert result.stdout.splitlines()[-1] == "sum: running  0/31  1 gate waits for release"


def test_show_tells_who_knows_more_of_what_is_tried_again(slow_ctl: Ctl, holding: Daemon) -> None:
    """That a worker tries it again by and by does not tell where it is, as that it runs does."""
    workflow = submit(slow_ctl, {"name": "n"})
    wait_until(lambda: len(holding.broker.published) == 1)
    task_id = json.loads(slow_ctl("show", workflow, "--node", "n", "--json").stdout)["task_id"]
    for state, is_told in (("STARTED", False), ("RETRY", True)):
        holding.call(holding.broker.deliver, TaskReported(task_id, state))
        wait_until(lambda state=state: state in slow_ctl("show", workflow, "--node", "n").stdout)  # type: ignore[misc]
        assert (f"`dyrygentctl explain {workflow}` asks the broker" in slow_ctl("show", workflow).stderr) is is_told


def test_programs_get_the_commands_that_people_get(ctl: Ctl, daemon: Daemon) -> None:
    """Words such as "`retry NODE`, or `skip NODE`" cannot be run; causes and failures need no second question."""
    workflow = submit(ctl, *FAILING)
    daemon.finish(workflow)
    text = ctl("explain", workflow).stdout
    document = json.loads(ctl("explain", workflow, "--json").stdout)
    steps = document["standings"][0]["next_steps"]
    assert steps[0] == f"dyrygentctl retry {workflow} a"
    assert all(f": {step}" in text for step in steps)
    assert json.loads(ctl("explain", workflow, "a", "--json").stdout)["next_steps"] == steps
    shown = json.loads(ctl("show", workflow, "--json").stdout)
    assert [node["name"] for node in shown["nodes"]] == ["a"]
    assert [cause["count"] for cause in shown["causes"]] == [1]
    assert shown["problems"] == []


def test_show_ends_with_the_next_command(slow_ctl: Ctl, holding: Daemon) -> None:
    """On a terminal: what fails or waits is explained, what runs is watched, of what has ended the shape is of use."""
    gated = submit(slow_ctl, {"name": "go", "gate": True})
    running = submit(slow_ctl, {"name": "a"})
    for workflow, verb in ((gated, "explain"), (running, "watch")):
        terminal = Terminal(holding, "show", workflow)
        assert terminal.end() == 0
        assert terminal.seen.decode().splitlines()[-1] == f"next: dyrygentctl {verb} {workflow}"
    wait_until(lambda: len(holding.broker.published) == 1)
    holding.let_go()
    holding.finish(running)
    terminal = Terminal(holding, "show", running)
    assert terminal.end() == 0
    assert terminal.seen.decode().splitlines()[-1] == f"next: dyrygentctl graph {running}"


def test_list_and_show_count_the_same_while_nothing_can_be_written(slow_ctl: Ctl, holding: Daemon) -> None:
    """28/62 beside 50/62 leaves one to guess which of them is old; what is broken stands above both."""
    workflow = submit(slow_ctl, *({"name": f"n{number}"} for number in range(6)))
    wait_until(lambda: len(holding.broker.published) == 6)
    holding.store.broken = "database or disk is full"
    done = [message.task_id for message in holding.broker.published[:4]]
    holding.call(holding.broker.let_go, *done)
    wait_until(lambda: bool(json.loads(slow_ctl("explain", "--json").stdout)["problems"]))
    for command in (("list",), ("show", workflow)):
        result = slow_ctl(*command)
        assert "4/6" in result.stdout
        assert result.stderr.startswith("problem: ")
        assert "full" in result.stderr.splitlines()[0]
    holding.store.broken = ""
