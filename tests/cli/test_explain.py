"""`dyrygentctl explain`, `events`, and the causes in `show`: why, who, and commands that can be pasted."""

import json
import re
import shlex
from typing import Any

import pytest

from tests.cli.support import Ctl, submit, zone
from tests.cli.test_verbs import FAILING, GATED, HOSTILE
from tests.http.support import Daemon
from tests.support.servers import wait_until


def commands_of(output: str) -> list[list[str]]:
    """Return the commands that are offered, as a shell would split them."""
    return [shlex.split(line)[1:] for line in re.findall(r"^ *(?:next|then|or): (dyrygentctl .*)$", output, re.M)]


def test_verdict_comes_first_and_commands_work(ctl: Ctl, daemon: Daemon) -> None:
    """The answer, then groups for which somebody can do something; what is pasted brings the workflow to its end."""
    workflow = submit(ctl, *FAILING, *GATED)
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("held"))
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("failed"))
    result = ctl("explain", workflow)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("nothing is in flight: 1 gate waits for a person\n\n1 node: 'a' failed in")
    assert "1 node: 'b' never ran, because of 'a'" in result.stdout
    assert commands_of(result.stdout) == [
        ["retry", workflow, "a"],
        ["skip", workflow, "a"],
        ["release", workflow, "gate"],
    ]
    for command in commands_of(result.stdout)[1:]:
        assert ctl(*command).exit_code == 0
    assert daemon.finish(workflow) == "succeeded"
    assert ctl("explain", workflow).stdout == "it has succeeded\n"
    assert json.loads(ctl("explain", workflow, "--json").stdout)["code"] == "succeeded"


@pytest.mark.parametrize("name", HOSTILE)
def test_commands_for_any_name(slow_ctl: Ctl, name: str) -> None:
    """The command names the node exactly, whatever its name does to shells and terminals."""
    workflow = submit(slow_ctl, {"name": name, "gate": True})
    for arguments in ([workflow], [workflow, "--", name]):
        out = slow_ctl("explain", *arguments).stdout
        assert out.replace("\n", "").isprintable()
        [line] = [line.partition(": ")[2] for line in out.splitlines() if "next: dyrygentctl" in line]
        expected = ["dyrygentctl", "release", workflow, *(["--"] if name.startswith("-") else [])]
        assert line.startswith(f"{shlex.join(expected)} ")
        if name.isprintable():
            assert shlex.split(line) == [*expected, name]


def test_each_state_of_a_node_is_explained(slow_ctl: Ctl, holding: Daemon) -> None:
    """One node: why it waits, down to what it waits for in the end, with the command for that."""
    nodes: list[dict[str, Any]] = [
        *GATED,
        {"name": "end", "after": ["last"]},
        {"name": "busy"},
        {"name": "after", "after": ["busy"]},
    ]
    workflow = submit(slow_ctl, *nodes)
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("dispatched"))
    out = slow_ctl("explain", workflow, "end").stdout
    assert out.startswith(
        "'end' waits for 1 of 1 dependencies, first 'last', which waits in the end for 'gate': 'gate' is a gate"
    )
    assert commands_of(out) == [["release", workflow, "gate"]]
    assert slow_ctl("explain", workflow, "busy").stdout.startswith("'busy' has been in the broker or at a worker for")
    slow_ctl("hold", workflow, "after")
    assert commands_of(slow_ctl("explain", workflow, "after").stdout) == [["release", workflow, "after"]]
    slow_ctl("pause", workflow)
    paused = slow_ctl("explain", workflow).stdout
    assert paused.startswith("it is paused: ")
    assert commands_of(paused)[0] == ["resume", workflow]
    assert re.search(r"^by .*\(uid \d+, pid \d+\) at .* ago$", paused, re.M)
    slow_ctl("cancel", workflow)
    assert commands_of(slow_ctl("explain", workflow, "busy").stdout) == [["retry", workflow, "busy"]]
    assert json.loads(slow_ctl("--json", "explain", workflow, "busy").stdout)["node"] == "busy"


def test_blocked_node_leads_to_the_one_to_blame(ctl: Ctl, daemon: Daemon) -> None:
    """Who asks about a node that never ran is given the commands for the one that failed."""
    workflow = submit(ctl, *FAILING)
    daemon.finish(workflow)
    out = ctl("explain", workflow, "b").stdout
    assert commands_of(out) == [["retry", workflow, "a"], ["skip", workflow, "a"]]


def test_failure_for_a_node_that_was_skipped(ctl: Ctl, daemon: Daemon) -> None:
    """Null in place of a value makes a failure of its own: told with what runs the node after all, which ends it well."""
    daemon.broker.tasks["parse"] = lambda fetched: fetched[0]
    fetch = {"name": "fetch", "task": "fail"}
    workflow = submit(ctl, fetch, {"name": "parse", "task": "parse", "immutable": False, "after": ["fetch"]})
    daemon.finish(workflow)
    assert ctl("skip", workflow, "fetch").exit_code == 0
    daemon.finish(workflow)
    out = ctl("explain", workflow, "parse").stdout
    assert "; it was given null for 'fetch', which was skipped" in out
    assert commands_of(out)[:2] == [["rerun", workflow, "--from", "fetch"], ["skip", workflow, "parse"]]
    assert "  or: rerun 'fetch', and skip it with `--value JSON` before it ends" in out
    daemon.broker.tasks["fail"] = lambda: [2]
    assert ctl(*commands_of(out)[0]).exit_code == 0
    assert daemon.finish(workflow) == "succeeded"


def test_failures_are_grouped_by_cause(ctl: Ctl, daemon: Daemon) -> None:
    """Hundreds of failures are a few causes, each with a number, an id, an example and its command."""

    def timeout() -> None:
        raise TimeoutError("osd.7 did not answer")

    daemon.broker.tasks["late"] = timeout
    nodes = [{"name": f"n{number}", "task": "late" if number % 3 else "fail"} for number in range(30)]
    workflow = submit(ctl, *nodes)
    daemon.finish(workflow)
    causes = json.loads(ctl("show", workflow, "--causes", "--json").stdout)
    assert (causes["failures"], [cause["count"] for cause in causes["causes"]]) == (30, [10, 20])
    ids = [cause["id"] for cause in causes["causes"]]
    offered = [[verb, workflow, "--cause", cause] for cause in ids for verb in ("retry", "skip")]
    _, skip, second, _ = offered
    for arguments in (["show", workflow], ["show", workflow, "--causes"]):
        out = ctl(*arguments).stdout
        assert "\n30 failures, 2 causes\n" in f"\n{out}"
        assert re.search(rf"^  2  {causes['causes'][1]['id']}  20 nodes: TimeoutError: osd.7 did not answer$", out, re.M)
        assert commands_of(out) == offered
    assert "nodes: n0, n3, n6" in out
    explained = ctl("explain", workflow).stdout
    assert commands_of(explained) == offered
    assert f"n0, n3, n6, n9, n12 and 5 more (dyrygentctl show {workflow} --state failed)\n" in explained
    # The second command means what it meant, though its cause is the first one now.
    daemon.broker.tasks["late"] = lambda: None
    for command, count in ((skip, 10), (second, 20)):
        assert f"  {count} nodes  " in ctl(*command).stdout
    assert daemon.finish(workflow) == "succeeded"


def test_small_groups_are_dealt_with_by_one_command(slow_ctl: Ctl) -> None:
    """Three gates need one line; of more than are named the first is offered."""
    few = submit(slow_ctl, *({"name": f"g{number}", "gate": True} for number in range(3)))
    out = slow_ctl("explain", few).stdout
    assert "\n3 nodes: 'g0' is a gate" in out
    assert commands_of(out) == [["release", few, "g0", "g1", "g2"]]
    many = submit(slow_ctl, *({"name": f"g{number}", "gate": True} for number in range(30)))
    out = slow_ctl("explain", many).stdout
    assert "\n30 nodes: 'g0' is a gate" in out
    assert f"g0, g1, g2, g3, g4 and 25 more (dyrygentctl show {many} --state held)\n" in out
    assert commands_of(out) == [["release", many, "g0"]]


def test_journal_tells_who_when_what_and_why(slow_ctl: Ctl) -> None:
    """In the morning the others ask who cancelled it."""
    workflow = submit(slow_ctl, {"name": "a"})
    nothing = slow_ctl("events", workflow)
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "nobody has done anything to it\n")
    slow_ctl("set-priority", workflow, "5", "--why", "CHG-42")
    slow_ctl("cancel", workflow, "--why", "wrong\x1b[2J host")
    heads, first, second = slow_ctl("events", workflow).stdout.splitlines()
    assert heads.split() == ["AT", f"({zone()})", "WHO", "VERB", "WHAT", "WHY"]
    assert re.search(r"\(uid \d+, pid \d+\)  set-priority  from 0 to 5 +CHG-42$", first)
    assert second.endswith("1 node: a    wrong\\x1b[2J host")
    entries = json.loads(slow_ctl("events", workflow, "--json").stdout)
    assert [(entry["verb"], entry["why"]) for entry in entries] == [("set-priority", "CHG-42"), ("cancel", "wrong\x1b[2J host")]
    assert re.search(r"^state +cancelled  by .* ago: wrong\\x1b\[2J host$", slow_ctl("show", workflow).stdout, re.M)


def test_journal_of_all_workflows(slow_ctl: Ctl) -> None:
    """Whoever comes in the morning sees what was done in the night, to whichever workflow."""
    assert slow_ctl("events").stderr == "nobody has done anything\n"
    first, second = submit(slow_ctl, {"name": "a"}), submit(slow_ctl, {"name": "b"})
    slow_ctl("set-priority", first, "5", "--why", "CHG-42")
    slow_ctl("pause", second, "--why", "wrong\x1b[2J host")
    lines = slow_ctl("events").stdout.splitlines()
    assert first in lines[0]
    assert lines[0].endswith("set-priority  from 0 to 5  CHG-42")
    assert second in lines[1]
    assert "wrong\\x1b[2J host" in lines[1]
    entries = [json.loads(line) for line in slow_ctl("events", "--json").stdout.splitlines()]
    assert [(entry["workflow"], entry["verb"]) for entry in entries] == [(first, "set-priority"), (second, "pause")]


def test_exported_workflow_can_be_submitted_again(slow_ctl: Ctl) -> None:
    """All of it is there as JSON; its definition alone makes another workflow, with ids and a key of its own."""
    first: dict[str, object] = {"name": "a", "args": [1, {"b": None}]}
    workflow = submit(slow_ctl, first, {"name": "c", "after": ["a"], "gate": True}, key="ticket")
    slow_ctl("pause", workflow, "--why", "CHG-42")
    whole = json.loads(slow_ctl("export", workflow).stdout)
    assert (whole["workflow"]["id"], whole["workflow"]["state"]) == (workflow, "paused")
    assert [(node["name"], node["state"]) for node in whole["nodes"]] == [("a", "dispatched")]
    assert whole["journal"][0]["why"] == "CHG-42"
    assert whole["definition"]["nodes"][0]["args"] == [1, {"b": None}]
    definition = slow_ctl("export", workflow, "--definition").stdout
    again = slow_ctl("submit", "-", input=definition).stdout.strip()
    assert again != workflow
    copy = json.loads(slow_ctl("export", again).stdout)
    assert copy["definition"]["nodes"][0]["args"] == [1, {"b": None}]
    assert copy["definition"]["nodes"][0]["task_id"] != whole["definition"]["nodes"][0]["task_id"]


def test_a_workflow_moves_to_another_daemon(ctl: Ctl, slow_ctl: Ctl) -> None:
    """What is paused, with nothing in flight, comes along as it stands, and goes on there."""
    workflow = submit(slow_ctl, {"name": "a", "gate": True}, {"name": "b", "after": ["a"], "args": [5]}, key="ticket")
    refused = ctl("import", "-", input=slow_ctl("export", workflow).stdout)
    assert refused.exit_code == 1
    assert "it was running when it was exported" in refused.stderr
    slow_ctl("pause", workflow)
    taken = ctl("import", "-", input=slow_ctl("export", workflow).stdout)
    assert taken.stdout == f"{workflow}\n"
    assert (
        taken.stderr == f"imported 'sum', 2 tasks, paused; cancel it where it came from, then `dyrygentctl resume {workflow}`\n"
    )
    assert slow_ctl("cancel", workflow).exit_code == 0
    ctl("resume", workflow)
    ctl("release", workflow, "a")
    assert ctl("wait", workflow).exit_code == 0
    assert [json.loads(line)["verb"] for line in ctl("events", "--json").stdout.splitlines()] == [
        "pause",
        "import",
        "resume",
        "release",
    ]
    assert "it is here already" in ctl("import", "-", input=slow_ctl("export", workflow).stdout).stderr
    assert ctl("import", "nowhere.json").exit_code == 2


def test_paused_workflow_tells_who_did_it(slow_ctl: Ctl) -> None:
    """A workflow that stands still by order names who gave it."""
    workflow = submit(slow_ctl, {"name": "a"})
    slow_ctl("pause", workflow, "--why", "switch upgrade")
    assert re.search(r"^state +paused  by .*\(uid \d+.* ago: switch upgrade$", slow_ctl("show", workflow).stdout, re.M)
    assert re.search(rf"^{workflow}  sum +paused ", slow_ctl("list", "--state", "paused,scheduled").stdout, re.M)


def test_scheduled_workflow_shows_its_start(slow_ctl: Ctl) -> None:
    """Nothing happens before its time, and the list says when that is."""
    workflow = submit(slow_ctl, {"name": "a"}, policy={"start_at": 4102444800, "priority": 3, "deadline_s": 60})
    shown = slow_ctl("show", workflow).stdout
    assert re.search(r"^starts +2100-01-01", shown, re.M)
    assert re.search(r"^priority +3$", shown, re.M)
    assert "running for" not in shown
    assert re.search(r"scheduled +0/1 .* starts 2100-01-01 ", slow_ctl("list", "--state", "scheduled").stdout)
    assert slow_ctl("explain", workflow).stdout.startswith("it starts in ")


def test_node_shows_all_there_is(ctl: Ctl, daemon: Daemon) -> None:
    """Kind, rule, attempts and the next one are what decides whether to wait or to act."""
    retry = {"attempts": 5, "backoff_s": 500, "jitter": 0}
    nodes: list[dict[str, Any]] = [
        {"name": "a", "task": "fail", "retry": retry},
        {"name": "z", "rule": "all_finished", "after": ["a"]},
    ]
    workflow = submit(ctl, *nodes, {"name": "gate", "gate": True}, {"name": "tidy", "hook": "always"})
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("retrying"))
    node = ctl("show", workflow, "--node", "a").stdout
    assert re.search(r"^state +retrying\nkind +task\n(?s:.*)attempt +1\nnext attempt +\d", node, re.M)
    assert re.search(r"^rule +all_finished$", ctl("show", workflow, "--node", "z").stdout, re.M)
    assert re.search(
        r"^kind +gate\n(?s:.*)held +a gate: waits for `release` for \d+\.\d s$",
        ctl("show", workflow, "--node", "gate").stdout,
        re.M,
    )
    assert re.search(r"^kind +hook$", ctl("show", workflow, "--node", "tidy").stdout, re.M)
    out = ctl("show", workflow).stdout
    assert re.search(r"^a +retrying +fail +1 .* next attempt at .*; ValueError: no such host$", out, re.M)
    assert re.search(r"^tasks +0/4 ", out, re.M)
    assert commands_of(ctl("explain", workflow, "a").stdout) == [["retry", workflow, "a"], ["skip", workflow, "a"]]


def test_blocked_nodes_do_not_count_as_done(ctl: Ctl, daemon: Daemon) -> None:
    """14/14 of a workflow in which 13 never ran is a lie."""
    workflow = submit(ctl, *FAILING)
    daemon.finish(workflow)
    assert re.search(r"^tasks +0/2  \(failed 1, blocked 1\)$", ctl("show", workflow).stdout, re.M)
    assert re.search(r" failed +0/2 .* 1 failed, 1 blocked$", ctl("list").stdout, re.M)
    assert "failed 0/2 0% " in ctl("watch", workflow).stderr


def test_late_result_is_shown(slow_ctl: Ctl, holding: Daemon) -> None:
    """A task that ended after its workflow was cancelled has done its work, and somebody has to know."""
    workflow = submit(slow_ctl, {"name": "a"})
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("dispatched"))
    slow_ctl("cancel", workflow)
    may = f"may still run: `dyrygentctl explain {workflow}"
    assert f"its task      {may} a` asks the workers" in re.sub(
        " {2,}", "      ", slow_ctl("show", workflow, "--node", "a").stdout
    )
    assert f"1 task {may}` asks the workers" in slow_ctl("show", workflow).stdout
    assert "its task may still run" in slow_ctl("show", workflow, "--nodes").stdout
    holding.let_go()
    wait_until(lambda: "late" in holding.ask("GET", f"/v1/workflows/{workflow}/nodes/a").json)
    assert re.search(r"^late result +succeeded$", slow_ctl("show", workflow, "--node", "a").stdout, re.M)
    assert "its task ended as succeeded later" in slow_ctl("show", workflow, "--nodes").stdout
    assert not any("may still run" in slow_ctl("show", workflow, *more).stdout for more in ((), ("--nodes",), ("--node", "a")))


@pytest.mark.parametrize(
    "arguments", [["--node", "a", "--causes"], ["--nodes", "--causes"], ["--state", "failed", "--node", "a"]], ids=" ".join
)
def test_one_view_at_a_time(ctl: Ctl, arguments: list[str]) -> None:
    """Options that exclude each other are not silently ignored."""
    assert ctl("show", submit(ctl, {"name": "a"}), *arguments).exit_code == 2


@pytest.mark.parametrize("reference", ["", ".", ".."])
def test_empty_reference_is_explained(ctl: Ctl, reference: str) -> None:
    """An empty shell variable is a mistake of usage, and no path that does not exist."""
    result = ctl("show", reference)
    assert result.exit_code == 2
    assert f"'{reference}' names no workflow" in result.stderr


def test_socket_of_another_kind_is_wrong_usage(ctl: Ctl, tmp_path: object) -> None:
    """A file or directory in its place is a typing error, not a daemon that is down."""
    for path in (str(tmp_path), __file__, ""):
        result = ctl("--socket", path, "list")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"'{path}' is no socket" in result.stderr
