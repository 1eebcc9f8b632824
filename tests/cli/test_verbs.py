"""The verbs of `dyrygentctl`: what they change, what they say, and what they refuse."""

import json
import re
import signal
import subprocess

import click
import pytest

from dyrygentd.cli import main, render
from dyrygentd.cli.choosing import MEANT_STATES, STATES
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.verbs import NODE_VERBS, WORKFLOW_VERBS, Allowed, Verb
from tests.cli.support import Ctl, Terminal, submit
from tests.http.support import Daemon
from tests.support.servers import wait_until

DOES = Allowed.DOES
FAILING = ({"name": "a", "task": "fail"}, {"name": "b", "after": ["a"]})
GATED = ({"name": "gate", "gate": True}, {"name": "last", "after": ["gate"]})
HOSTILE = ["it's; rm -rf $HOME", "-x", "\x1b[31mred\x07", "a`b`", "new\nline", "\\x41", "ü\u202e", "'", "a b"]


# --- whole workflows ------------------------------------------------------------------------------------------------


def test_a_cancel_says_that_sections_clean_up(slow_ctl: Ctl) -> None:
    """Whoever thinks that it is over would wonder what still runs; `--force` ends that, too."""
    workflow = submit(
        slow_ctl,
        {"name": "a", "section": "s"},
        {"name": "clean", "section": "s", "section_end": "finally"},
        {"name": "b", "after": ["a"]},
    )
    assert slow_ctl("cancel", workflow).stdout == f"{workflow}  sum  2 nodes, its sections clean up first  running\n"
    assert slow_ctl("cancel", workflow).stdout == f"{workflow}  sum  already so  running\n"
    shown = slow_ctl("show", workflow).stdout
    assert "it was cancelled, and ends when its sections have cleaned up" in " ".join(shown.split())
    assert "at its end: finally" in slow_ctl("show", workflow, "clean").stdout
    drawn = slow_ctl("graph", workflow, "--dot", "--nodes").stdout
    assert "n0 -> s0 [style=dashed];\n  s0 -> n1 [style=dashed];" in drawn
    assert slow_ctl("cancel", workflow, "--force").stdout == f"{workflow}  sum  1 node  cancelled\n"


def test_each_verb_tells_what_it_changed(slow_ctl: Ctl) -> None:
    """One line with id, name, change and state; asking for what is so already is no error."""
    workflow = submit(slow_ctl, {"name": "a"}, {"name": "b", "after": ["a"]})
    for arguments, line in [
        (["pause", workflow], "was running  paused"),
        (["pause", workflow], "already so  paused"),
        (["set-priority", workflow, "-7"], "priority 0 -> -7  paused"),
        (["set-priority", workflow, "0"], "priority -7 -> 0  paused"),
        (["set-priority", workflow, "0"], "already so  paused"),
        (["resume", workflow], "was paused  running"),
        (["retry", workflow], "nothing to retry  running"),
        (["cancel", workflow], "2 nodes  cancelled"),
        (["cancel", workflow], "already so  cancelled"),
        (["retry", workflow], "2 nodes  running"),
    ]:
        result = slow_ctl(*arguments)
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{workflow}  sum  {line}\n", "")


def test_several_workflows_are_changed_or_none(slow_ctl: Ctl) -> None:
    """A typing error in the second reference must not leave the first one cancelled; naming one twice does it once."""
    ids = [submit(slow_ctl, {"name": "a"}) for _ in range(2)]
    assert slow_ctl("cancel", ids[0], "nonsense").exit_code == 1
    assert json.loads(slow_ctl("show", ids[0], "--json").stdout)["workflow"]["state"] == "running"
    result = slow_ctl("cancel", *ids, ids[0])
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    assert slow_ctl("retry", "--each", *ids).stdout.count("1 node  running") == 2
    assert slow_ctl("set-priority", *ids, "3").stdout.count("priority 0 -> 3") == 2


def test_json_of_a_verb_is_one_document(slow_ctl: Ctl) -> None:
    """Scripts get what the daemon answered for each workflow, and the refused ones with their codes."""
    ids = [submit(slow_ctl, {"name": "a"}) for _ in range(2)]
    slow_ctl("cancel", ids[1])
    result = slow_ctl("--json", "pause", *ids)
    changed, refused = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (changed["id"], changed["is_changed"], changed["workflow"]["state"]) == (ids[0], True, "paused")
    assert (refused["id"], refused["code"]) == (ids[1], "verb-refused")
    [cancelled] = json.loads(slow_ctl("cancel", ids[0], "--json").stdout)
    assert (cancelled["verb"], cancelled["nodes"]) == ("cancel", ["a"])


def test_large_changes_are_counted_in_full(slow_ctl: Ctl) -> None:
    """The answer names 100 nodes at most; the line tells the true number."""
    workflow = submit(slow_ctl, *({"name": f"n{number}"} for number in range(1200)))
    assert slow_ctl("cancel", workflow).stdout == f"{workflow}  sum  1,200 nodes  cancelled\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["cancel"],
        ["cancel", "x", "--label", "a=b", "--yes"],
        ["cancel", "--label", "a", "--yes"],
        ["cancel", "--state", "held", "--yes"],
        ["cancel", "--label", "a=b"],
        ["cancel", ""],
        ["cancel", ".."],
        ["pause", "--yes"],
        ["retry"],
        ["set-priority", "5"],
        ["set-priority", "x", "much"],
        ["set-priority", "x", "1000001"],
        ["set-priority", "x", "--yse", "1"],
        ["hold", "x"],
        ["skip", "x"],
        ["skip", "x", "a", "--value", "text"],
        ["rerun", "x", "a"],
        ["rerun", "x"],
        ["graph"],
    ],
)
def test_wrong_usage_changes_nothing(ctl: Ctl, arguments: list[str]) -> None:
    """Wrong usage has its own status, is explained on stderr, and is found before anything is done."""
    result = ctl(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def test_a_filter_means_the_states_in_which_the_verb_does_something() -> None:
    """`cancel --label` must not count a year of finished workflows; `retry` leaves alone what a person cancelled."""
    assert tuple(WorkflowState) == STATES
    for verb, by_state in WORKFLOW_VERBS.items():
        does = {state.value for state, allowed in by_state.items() if allowed is Allowed.DOES}
        assert set(MEANT_STATES[verb.value]) == does - ({"cancelled"} if verb is Verb.RETRY else set())


def test_filter_is_shown_first_and_then_carried_out(slow_ctl: Ctl) -> None:
    """--dry-run shows what fits and changes nothing; --yes does it, to those and no others."""
    mine = [submit(slow_ctl, {"name": "a"}, labels={"dc": "gra"}) for _ in range(3)]
    other = submit(slow_ctl, {"name": "a"}, name="other")
    slow_ctl("cancel", mine[2])
    dry = slow_ctl("pause", "--label", "dc=gra", "--dry-run")
    assert (dry.exit_code, dry.stderr) == (0, "pause would go to 2 workflows; nothing was changed\n")
    assert re.findall(r"^(\S{36})  sum +running +0/1$", dry.stdout, re.M) == mine[1::-1]
    assert [view["id"] for view in json.loads(slow_ctl("pause", "--label", "dc=gra", "--dry-run", "--json").stdout)] == mine[
        1::-1
    ]
    done = slow_ctl("pause", "--label", "dc=gra", "--yes")
    assert done.stdout == "".join(f"{workflow}  sum  was running  paused\n" for workflow in mine[1::-1])
    assert slow_ctl("pause", "--name", "other", "--state", "running", "--yes").stdout.startswith(other)
    nothing = slow_ctl("pause", "--label", "dc=gra", "--yes")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "no workflow fits that `pause` would change\n")
    assert slow_ctl("set-priority", "--state", "paused", "--yes", "2").stdout.count("priority 0 -> 2") == 3
    assert slow_ctl("cancel", mine[0], "--dry-run").stdout.count(mine[0]) == 1
    assert slow_ctl("resume", "--state", "paused", "--yes").stdout.count("was paused  running") == 3


def test_what_is_refused_in_bulk_is_told_and_the_rest_is_done(slow_ctl: Ctl) -> None:
    """One workflow that has finished meanwhile does not keep the others running; the exit status tells."""
    ended, running = submit(slow_ctl, {"name": "a"}), submit(slow_ctl, {"name": "a"})
    slow_ctl("cancel", ended)
    result = slow_ctl("pause", "--state", "running,cancelled", "--yes")
    assert (result.exit_code, result.stdout) == (1, f"{running}  sum  was running  paused\n")
    assert result.stderr.splitlines() == [
        f"error: {ended}  sum: 'pause' is not possible: workflow '{ended}' is cancelled",
        "next: possible are retry; of single nodes retry, skip, rerun",
        "pause was refused for 1 of 2 workflows",
    ]


def test_retry_in_bulk_leaves_out_what_has_not_failed(ctl: Ctl, daemon: Daemon) -> None:
    """Workflows that failed are meant, and running ones in which something has; cause ids serve all of them."""
    failed = [submit(ctl, *FAILING) for _ in range(2)]
    half = submit(ctl, *FAILING, {"name": "gate", "gate": True})
    submit(ctl, *GATED)
    for workflow in failed:
        daemon.finish(workflow)
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{half}").json["counts"].get("blocked") == 1)
    assert set(re.findall(r"^\S{36}", ctl("retry", "--name", "sum", "--dry-run").stdout, re.M)) == {*failed, half}
    cause = json.loads(ctl("show", half, "--causes", "--json").stdout)["causes"][0]["id"]
    daemon.broker.tasks["fail"] = lambda: 1
    result = ctl("retry", "--name", "sum", "--cause", cause, "--yes")
    assert (result.exit_code, result.stdout.count("2 nodes  ")) == (0, 3)


@pytest.mark.parametrize(
    ("keys", "status", "words", "state"),
    [
        (b"y\n", 0, b"1 node  cancelled", "cancelled"),
        (b"n\n", 1, b"nothing was changed", "running"),
        (b"\n", 1, b"nothing was changed", "running"),
        (signal.SIGINT, 130, b"nothing was changed", "running"),
        (b"\x04", 130, b"nothing was changed", "running"),
    ],
    ids=["yes", "no", "enter", "ctrl-c", "ctrl-d"],
)
def test_person_is_asked(holding: Daemon, keys: bytes | int, status: int, words: bytes, state: str) -> None:
    """On a terminal the list is shown and one has to say yes; everything else changes nothing."""
    workflow = holding.submit(name="slow", labels={"dc": "gra"})
    asking = Terminal(holding, "cancel", "--label", "dc=gra", "--terminate")
    asking.wait_for(b"cancel 1 workflow and end running tasks? [y/N]")
    assert workflow.encode() in asking.seen
    if isinstance(keys, bytes):
        asking.type(keys)
    else:
        asking.send(keys)
    assert asking.end() == status
    assert words in click.unstyle(asking.seen.decode()).encode()
    assert holding.ask("GET", f"/v1/workflows/{workflow}").json["state"] == state


def test_interrupted_verb_tells_how_far_it_came(holding: Daemon) -> None:
    """After Ctrl-C a person has to know what was done, and may repeat the command."""
    ids = [holding.submit(name="slow") for _ in range(2)]
    holding.store.broken = "the disk is full"
    cancelling = Terminal(holding, "cancel", *ids)
    # It is cancelled in memory, and the answer waits for the disk.
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{ids[0]}").json["state"] == "cancelled")
    cancelling.send(signal.SIGINT)
    assert cancelling.end() == 130
    assert b"stopped after 0 of 2 workflows; the next one may be done, too" in cancelling.seen
    assert b"Traceback" not in cancelling.seen
    holding.store.broken = ""


def test_daemon_that_is_gone_has_its_status(ctl: Ctl, daemon: Daemon) -> None:
    """Every verb tells a daemon that is down from one that refuses."""
    workflow = submit(ctl, *GATED)
    daemon.stop()
    for arguments in (
        ["pause", workflow],
        ["hold", workflow, "last"],
        ["cancel", "--state", "running", "--yes"],
        ["explain", "x"],
    ):
        assert ctl(*arguments).exit_code == 3


# --- retry ----------------------------------------------------------------------------------------------------------


def test_retry_of_everything_a_node_or_a_cause(ctl: Ctl, daemon: Daemon) -> None:
    """What failed is tried again with all that it blocked: everything, by name, by number or by id of its cause."""
    workflow = submit(ctl, *FAILING)
    for arguments in ([], ["a"], ["--cause", "1"], ["--cause", "@id"]):
        assert daemon.finish(workflow) == "failed"
        cause = json.loads(ctl("show", workflow, "--causes", "--json").stdout)["causes"][0]["id"]
        result = ctl("retry", workflow, *(cause if word == "@id" else word for word in arguments))
        assert result.stdout.startswith(f"{workflow}  sum  2 nodes  ")
    daemon.finish(workflow)
    unknown = ctl("retry", workflow, "--cause", "7")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert re.search(r"has the cause '7'\nnext: its causes are 1 \([0-9a-f]{8}\)\n", unknown.stderr)
    blocked = ctl("retry", workflow, "b")
    assert blocked.exit_code == 1
    assert "'a' is to blame: retry or skip that one" in blocked.stderr


def test_attempt_in_flight_is_given_up_by_force_only(slow_ctl: Ctl) -> None:
    """The task may be at a worker: that is refused with the command that does it all the same."""
    workflow = submit(slow_ctl, {"name": "a b"})
    slow_ctl("pause", workflow)
    refused = slow_ctl("retry", workflow, "a b")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.endswith(f"next: wait for it, or dyrygentctl retry {workflow} --force 'a b'\n")
    assert slow_ctl("retry", workflow, "--force", "a b").stdout == f"{workflow}  sum  1 node  paused\n"


# --- nodes ----------------------------------------------------------------------------------------------------------


def test_nodes_are_held_and_released(ctl: Ctl, daemon: Daemon) -> None:
    """A node that is held stays while the rest goes on; a gate opens with a note, and the journal has both."""
    workflow = submit(ctl, *GATED, {"name": "free", "after": ["gate"]})
    assert ctl("hold", workflow, "last", "--why", "not yet").stdout == f"{workflow}  sum  1 node  running\n"
    assert ctl("hold", workflow, "last").stdout == f"{workflow}  sum  already so  running\n"
    assert ctl("release", workflow, "gate", "--why", "checked by Ada").exit_code == 0
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow}").json["counts"] == {"succeeded": 2, "held": 1})
    shown = ctl("show", workflow, "--node", "last").stdout
    assert re.search(r"^held +held by an operator by .* ago: not yet$", shown, re.M)
    assert ctl("release", workflow, "last").stdout.startswith(f"{workflow}  sum  1 node  ")
    assert daemon.finish(workflow) == "succeeded"
    rows = ctl("events", workflow).stdout.splitlines()
    assert [row.split("  ")[-1] for row in rows[1:3]] == ["not yet", "checked by Ada"]
    assert ctl("release", workflow, "last", "gate").stdout.endswith("already so  succeeded\n")
    late = ctl("hold", workflow, "last")
    assert (late.exit_code, late.stderr.splitlines()[1]) == (1, "next: possible are rerun")


@pytest.mark.parametrize("value", ["0", "false", '""', "null", "[1, 2]", '{"a": "ü"}'])
def test_skipped_node_hands_on_the_value(ctl: Ctl, daemon: Daemon, value: str) -> None:
    """What waits for the value gets the one that the operator gives, one that counts as false too."""
    daemon.broker.tasks["same"] = lambda given: given
    workflow = submit(ctl, {"name": "a", "task": "fail"}, {"name": "b", "task": "same", "after": ["a"], "immutable": False})
    daemon.finish(workflow)
    assert ctl("skip", workflow, "a", "--value", value).stdout.startswith(f"{workflow}  sum  1 node  ")
    assert daemon.finish(workflow) == "succeeded"
    view = json.loads(ctl("show", workflow, "--json").stdout)["workflow"]
    assert view["result"] == json.loads(value)
    assert view["counts"] == {"succeeded": 1, "skipped": 1}
    assert re.search(r"^tasks +2/2 ", ctl("show", workflow).stdout, re.M)


def test_rerun_from_several_nodes(ctl: Ctl, daemon: Daemon) -> None:
    """What succeeded can run again, with all that follows and nothing else."""
    workflow = submit(ctl, {"name": "a"}, {"name": "b"}, {"name": "c", "after": ["a"]}, {"name": "d"})
    daemon.finish(workflow)
    assert ctl("rerun", workflow, "--from", "a", "b").stdout.startswith(f"{workflow}  sum  3 nodes  ")
    daemon.finish(workflow)
    assert ctl("rerun", workflow, "--from", "a", "--from", "d", "--why", "again").stdout.startswith(f"{workflow}  sum  3 nodes  ")


def test_rerun_whose_values_are_gone(ctl: Ctl, daemon: Daemon) -> None:
    """The next step can be pasted, and names all that has to run again."""
    first = [{"name": name, "args": [1]} for name in ("a", "b")]
    second = [{"name": name, "after": [before], "immutable": False} for name, before in (("c", "a"), ("d", "b"))]
    workflow = submit(ctl, *first, *second, {"name": "end", "after": ["c", "d"]})
    assert daemon.finish(workflow) == "succeeded"
    refused = ctl("rerun", workflow, "--from", "c", "d")
    assert (refused.exit_code, refused.stderr.splitlines()[1]) == (1, f"next: dyrygentctl rerun {workflow} --from a b")


@pytest.mark.parametrize(
    "arguments",
    [
        *([verb, "@latest"] for verb in ("hold", "release", "skip", "retry", "explain")),
        ["rerun", "@latest", "--from"],
        ["show", "@latest", "--node"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("drian-osd-7", "did you mean 'drain-osd-7' or 'drain-osd-17'?"),
        ("DRAIN-OSD-7", "did you mean 'drain-osd-7'?"),
        ("17", "did you mean 'drain-osd-17'?"),
        ("zzz", "`dyrygentctl show {id} --nodes` lists its nodes"),
    ],
)
def test_misspelt_node_is_answered_with_the_right_one(ctl: Ctl, arguments: list[str], name: str, hint: str) -> None:
    """At night nobody types names without mistakes."""
    workflow = submit(ctl, {"name": "drain-osd-7"}, {"name": "drain-osd-17"}, {"name": "gate", "gate": True})
    result = ctl(*arguments, name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: workflow '{workflow}' has no node '{name}'\nnext: {hint.format(id=workflow)}\n"


# --- names and help -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_shell_reads_back_what_is_quoted(name: str) -> None:
    """What we print to be pasted is what the shell understands, and no control character reaches the terminal."""
    command = render.shell("printf", "%s", name)
    assert command.isprintable()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=10)
    assert done.stdout == name


@pytest.mark.parametrize("name", HOSTILE)
def test_nodes_of_any_name_can_be_meant(slow_ctl: Ctl, name: str) -> None:
    """Names come from programs: slashes, dashes and controls are found again, and cannot steer a terminal."""
    workflow = submit(slow_ctl, {"name": "gate", "gate": True}, {"name": name, "after": ["gate"]}, name=name)
    for verb in ("hold", "release", "skip"):
        result = slow_ctl(verb, workflow, "--", name)
        assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)
        assert result.stdout.removesuffix("\n").isprintable()


def test_every_verb_of_the_daemon_is_a_command() -> None:
    """An operator has in the shell what a program has, each with an example in its help."""
    assert {verb.value for verb in {**WORKFLOW_VERBS, **NODE_VERBS}} <= set(main.commands)
    for verb in [*Verb, "explain", "events", "graph", "show", "list", "watch", "wait"]:
        command = main.commands[str(verb)]
        assert isinstance(command, click.Command)
        assert f"Example: dyrygentctl {verb}" in (command.help or "")
