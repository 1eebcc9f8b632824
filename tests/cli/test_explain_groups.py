"""`dyrygentctl explain`: one command for a group of any size, who decided it, and what is about the whole workflow first."""

import json
import re

from dyrygentd.cli.explain import _steps
from dyrygentd.core.events import TaskLost
from tests.cli.support import Ctl, submit
from tests.cli.test_explain import commands_of
from tests.http.support import Daemon
from tests.support.servers import wait_until

_GONE = "its task is lost: not in queue 'celery', no worker knows it; the broker was emptied at 19:22:15 UTC"


def _lose(daemon: Daemon, workflow: str, count: int) -> None:
    """Have tasks of a workflow found lost."""
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("dispatched"))
    nodes = daemon.ask("GET", f"/v1/workflows/{workflow}/nodes?limit={count}").json["nodes"]
    daemon.call(lambda: daemon.scheduler._parts.inbox.post(*(TaskLost(node["task_id"], _GONE) for node in nodes)))
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("held") == count)


def test_one_command_for_all_that_was_lost(slow_ctl: Ctl, holding: Daemon) -> None:
    """For 120 nodes as for two: the command is printed, and does it; afterwards there is nothing to retry."""
    workflow = submit(slow_ctl, *({"name": f"n{number}"} for number in range(120)))
    _lose(holding, workflow, 120)
    out = slow_ctl("explain", workflow).stdout
    assert "\n120 nodes: 'n0' is held, since its task was lost: not in queue 'celery'" in out
    retry, skip = commands_of(out)
    assert retry[:3] == ["retry", workflow, "--cause"]
    assert skip == ["skip", *retry[1:]]
    causes = slow_ctl("show", workflow, "--causes").stdout
    assert causes.startswith("120 lost tasks, 1 cause\n")
    assert commands_of(causes) == [retry, skip]
    assert json.loads(slow_ctl("show", workflow, "--causes", "--json").stdout)["lost"] == 120
    assert "  120 nodes  running" in slow_ctl(*retry).stdout
    assert "nothing to retry" in slow_ctl("retry", workflow).stdout


def test_skip_of_all_that_was_lost(slow_ctl: Ctl, holding: Daemon) -> None:
    """What would only end in the same way again is gone on without by one command, too."""
    workflow = submit(slow_ctl, *({"name": f"n{number}"} for number in range(3)))
    _lose(holding, workflow, 3)
    assert slow_ctl("skip", workflow).exit_code == 2
    assert slow_ctl("skip", workflow, "--lost", "--cause", "1").exit_code == 2
    assert "  3 nodes  " in slow_ctl("skip", workflow, "--lost").stdout
    assert holding.finish(workflow) == "succeeded"


def test_what_was_lost_in_many_workflows(slow_ctl: Ctl, holding: Daemon) -> None:
    """After the broker has lost its memory one command sets everything going again, and nothing else."""
    ids = [submit(slow_ctl, {"name": "a"}, {"name": "b"}) for _ in range(3)]
    for workflow in ids[:2]:
        _lose(holding, workflow, 2)
    assert json.loads(slow_ctl("--json", "list").stdout)[1]["waits_for_person"] == {"lost": 2}
    assert slow_ctl("retry", "--lost", "--all").exit_code == 2
    out = slow_ctl("retry", "--lost", "--all", "--yes").stdout
    assert {line.split()[0] for line in out.splitlines()} == set(ids[:2])
    assert out.count("  2 nodes  running") == 2
    assert slow_ctl("retry", "--lost", "--all", "--yes").stderr == "no workflow fits that `retry` would change\n"


def test_who_paused_it_when_and_why(slow_ctl: Ctl) -> None:
    """The first command is the one that ends the pause, and programs are told who it was, too."""
    workflow = submit(slow_ctl, {"name": "a"}, {"name": "b", "after": ["a"]})
    slow_ctl("pause", workflow, "--why", "CHG-42: switch upgrade")
    out = slow_ctl("explain", workflow).stdout.splitlines()
    assert out[0].startswith("it is paused: ")
    assert re.fullmatch(r"by .*\(uid \d+, pid \d+\) at .*, .* ago: CHG-42: switch upgrade", out[1])
    assert out[2] == f"next: dyrygentctl resume {workflow}"
    decided = json.loads(slow_ctl("explain", workflow, "--json").stdout)["decided"]
    assert (decided["verb"], decided["why"]) == ("pause", "CHG-42: switch upgrade")
    waits = slow_ctl("explain", workflow, "b").stdout.splitlines()
    assert waits[0].endswith("; the workflow is paused")
    assert waits[2] == f"next: dyrygentctl resume {workflow}"
    slow_ctl("hold", workflow, "b", "--why", "DC-77: the disk")
    # What is asked about is the node: who holds it goes before who paused all of it.
    held = slow_ctl("explain", workflow, "b").stdout.splitlines()
    assert held[0].endswith("; besides, an operator holds it; the workflow is paused")
    assert held[1].endswith("ago: DC-77: the disk")
    shown = slow_ctl("show", workflow, "--node", "b").stdout
    assert re.search(r"^held +an operator holds it as soon as it is free by .* ago: DC-77: the disk$", shown, re.M)
    slow_ctl("resume", workflow)
    assert "decided" not in json.loads(slow_ctl("explain", workflow, "--json").stdout)


def test_who_cancelled_and_who_held_it(slow_ctl: Ctl) -> None:
    """The same for a cancelled workflow and for a node that an operator holds."""
    workflow = submit(slow_ctl, {"name": "a"}, {"name": "b", "after": ["a"]})
    slow_ctl("hold", workflow, "b", "--why", "disk is in use")
    slow_ctl("skip", workflow, "a")
    assert re.search(r"'b' is held by an operator\n  by .* ago: disk is in use$", slow_ctl("explain", workflow).stdout, re.M)
    slow_ctl("cancel", workflow, "--why", "wrong host")
    assert re.search(r"^by .* ago: wrong host$", slow_ctl("explain", workflow).stdout, re.M)


def test_scheduled_workflow_is_started_now(slow_ctl: Ctl, holding: Daemon) -> None:
    """What is printed for a workflow that waits for its time has it begin; releasing a node of it would not, and says so."""
    workflow = submit(slow_ctl, {"name": "a"}, {"name": "b", "after": ["a"]}, policy={"start_at": "2099-01-01T00:00:00Z"})
    for arguments in ([workflow], [workflow, "b"]):
        assert commands_of(slow_ctl("explain", *arguments).stdout) == [["release", workflow]]
    refused = slow_ctl("release", workflow, "a")
    assert (refused.exit_code, "without a node, starts it now" in refused.stderr) == (1, True)
    assert slow_ctl("release", workflow, "--why", "the window is open").stdout == f"{workflow}  sum  starts now  running\n"
    assert slow_ctl("release", workflow).exit_code == 1
    assert "started before its time" in slow_ctl("events", workflow).stdout


def test_cancelled_task_that_ended_late(slow_ctl: Ctl, holding: Daemon) -> None:
    """While it runs no command would leave it out; afterwards what is printed, pasted, ends well and runs nothing twice."""
    workflow = submit(slow_ctl, {"name": "a", "immutable": True}, {"name": "b", "after": ["a"], "immutable": True})
    wait_until(lambda: holding.ask("GET", f"/v1/workflows/{workflow}").json["counts"].get("dispatched"))
    slow_ctl("cancel", workflow, "--why", "wrong cluster")
    running = slow_ctl("explain", workflow).stdout
    assert running.count("wrong cluster") == 1
    assert "  next: retry or skip 'a', and it goes on after that; alone it would end as blocked\n" in running
    assert not any(command[0] == "retry" and command[-1] == "b" for command in commands_of(running))
    holding.let_go()
    wait_until(lambda: "late" in holding.ask("GET", f"/v1/workflows/{workflow}/nodes/a").json)
    [skip] = commands_of(slow_ctl("explain", workflow).stdout)
    assert skip == ["skip", workflow, "a"]
    assert commands_of(slow_ctl("explain", workflow, "b").stdout) == []
    assert slow_ctl(*skip).exit_code == 0
    holding.let_go()
    assert holding.finish(workflow) == "succeeded"
    states = {name: holding.ask("GET", f"/v1/workflows/{workflow}/nodes/{name}").json["state"] for name in "ab"}
    assert states == {"a": "skipped", "b": "succeeded"}


def test_one_command_for_many_cancelled_nodes(slow_ctl: Ctl, holding: Daemon) -> None:
    """A few names, how many more there are, what lists all of them, and commands for all of a group, whatever its size."""
    workflow = submit(slow_ctl, *({"name": f"n{number}", "immutable": True} for number in range(12)))
    wait_until(lambda: len(holding.broker.published) == 12)
    slow_ctl("cancel", workflow)
    done = [message.task_id for message in holding.broker.published[:7]]
    holding.call(holding.broker.let_go, *done)
    wait_until(lambda: slow_ctl("explain", workflow).stdout.count("later") == 1)
    out = slow_ctl("explain", workflow).stdout
    assert f"n0, n1, n2, n3, n4 and 2 more (dyrygentctl show {workflow} --state cancelled)\n" in out
    [skip] = [command for command in commands_of(out) if command[0] == "skip"]
    assert skip[:3] == ["skip", workflow, "--cause"]
    assert "  7 nodes  " in slow_ctl(*skip).stdout
    assert "n7" not in slow_ctl("explain", workflow, "n0").stdout
    states = [node["state"] for node in holding.ask("GET", f"/v1/workflows/{workflow}/nodes?limit=12").json["nodes"]]
    assert states == ["skipped"] * 7 + ["cancelled"] * 5


def test_values_that_were_not_taken(ctl: Ctl, daemon: Daemon) -> None:
    """What is printed for a group whose values were too large runs as it is, and says what it means."""
    daemon.broker.tasks |= {"long": lambda: "x" * 17_000_000, "last": lambda _: None}
    nodes = [{"name": f"n{number}", "task": "long"} for number in range(7)]
    workflow = submit(
        ctl, *nodes, {"name": "last", "task": "last", "after": [node["name"] for node in nodes], "immutable": False}
    )
    daemon.finish(workflow)
    for arguments in (["explain", workflow], ["show", workflow, "--causes"]):
        out = ctl(*arguments).stdout
        skip, retry = commands_of(out)
        assert (skip[:3], skip[4:]) == (["skip", workflow, "--cause"], ["--value", "null"])
        assert retry == ["retry", workflow, "--cause", skip[3]]
    out = ctl("explain", workflow).stdout
    assert "  (null takes the place of what was returned then: if what comes after needs a value, give that instead)\n" in out
    [skip, _] = commands_of(ctl("explain", workflow, "n3").stdout)
    assert skip == ["skip", workflow, "--value", "null", "n3"]
    assert ctl(*skip).exit_code == 0
    assert "  6 nodes  " in ctl(*commands_of(out)[0]).stdout
    assert daemon.finish(workflow) == "succeeded"


def test_what_is_to_be_done_before_and_instead() -> None:
    """Words that come first stand first, and what is another way altogether last; the commands are whole in between."""
    words = "give w1 the old name; then `retry a`, or `skip a` to go on without it; or else submit it anew"
    assert list(_steps("w", "a", words, [], ["--cause", "1f"])) == [
        "give w1 the old name",
        "dyrygentctl retry w --cause 1f",
        "dyrygentctl skip w --cause 1f",
        "submit it anew",
    ]


def test_what_is_run_again_first() -> None:
    """Where a condition cannot be decided, or a workflow not begun, the value has to be another one: the command comes first."""
    for why in ("decides anew", "makes anew what it is given"):
        words = f"`rerun --from check it` {why}, `skip a` goes on without it"
        assert list(_steps("w", "a", words, ["a"])) == ["dyrygentctl rerun w --from 'check it'", "dyrygentctl skip w a"]
