"""`dyrygentctl explain` without a reference: the first command at three in the morning."""

import json
import re
import shlex

from tests.cli.support import Ctl, submit
from tests.http.support import Daemon
from tests.support.servers import wait_until


def test_nothing_wrong_is_one_line(ctl: Ctl) -> None:
    """Nobody has to read more than that to go back to bed."""
    assert ctl("explain").stdout == "nothing is wrong (0 workflows under way, 0 tasks in flight)\n"
    assert json.loads(ctl("explain", "--json").stdout)["status"] == "ok"


def test_each_command_that_is_printed_works(slow_ctl: Ctl, holding: Daemon) -> None:
    """The gate that somebody has forgotten is opened by what is printed, pasted."""
    gated = submit(slow_ctl, {"name": "it's ok?", "gate": True}, {"name": "a", "after": ["it's ok?"]}, name="gated")
    paused = submit(slow_ctl, {"name": "a"}, name="resting")
    slow_ctl("pause", paused, "--why", "CHG-42")
    text = slow_ctl("explain").stdout
    assert text.startswith("2 workflows wait for a person (2 workflows under way, ")
    assert "\nwaits for a person\n  gated  'it's ok?' is a gate and waits for " in text
    assert re.search(r"^  resting  is paused by .* ago: CHG-42$", text, re.M)
    for command in re.findall(r"(?:next|or): dyrygentctl (.*)", text):
        assert slow_ctl(*shlex.split(command)).exit_code == 0
    states = {each["id"]: each for each in json.loads(slow_ctl("list", "--json").stdout)}
    assert states[paused]["state"] == "running"
    assert "waits_for_person" not in states[gated]
    assert slow_ctl("explain").stdout.startswith("nothing is wrong")


def test_what_is_left_out_is_told_with_where_it_is(slow_ctl: Ctl) -> None:
    """Forty gates are five lines and a number, so that a screen holds all kinds."""
    for number in range(8):
        submit(slow_ctl, {"name": "go", "gate": True}, name=f"w{number}")
    text = slow_ctl("explain").stdout
    assert "8 workflows wait for a person" in text.splitlines()[0]
    assert "  and 3 more (gate): dyrygentctl list --state running --all" in text
    assert len(text.splitlines()) < 20
    assert len(json.loads(slow_ctl("explain", "--json").stdout)["items"]) == 8


def test_failures_that_are_not_shown_are_where_it_says(ctl: Ctl, daemon: Daemon) -> None:
    """How many there are nobody counts, and the command shows all of them."""
    for number in range(7):
        daemon.finish(submit(ctl, {"name": "a", "task": "fail"}, name=f"f{number}"))
    text = ctl("explain").stdout
    assert "5 workflows or more failed in the last 24 h" in text.splitlines()[0]
    [command] = re.findall(r"^  and more \(failed\): dyrygentctl (.*)$", text, re.M)
    shown = ctl(*shlex.split(command)).stdout
    assert all(f"f{number}" in shown for number in range(7))


def test_names_from_outside_steer_no_terminal(slow_ctl: Ctl) -> None:
    """A name may be anything."""
    submit(slow_ctl, {"name": "go\x1b[2J", "gate": True}, name="a\nb\x1b]0;x\x07")
    text = slow_ctl("explain").stdout
    assert "\x1b" not in text
    assert "\x07" not in text


def test_failures_lead_to_their_explanation(ctl: Ctl, daemon: Daemon) -> None:
    """Which one failed, of what, and the command that says more."""
    workflow = submit(ctl, {"name": "a", "task": "fail"})
    daemon.finish(workflow)
    text = ctl("explain").stdout
    assert "1 workflow failed in the last 24 h" in text.splitlines()[0]
    assert re.search(r"^  sum  has failed .* ago: ", text, re.M)
    assert f"    next: dyrygentctl explain {workflow}\n" in text


def test_a_retry_loop_is_in_sight_wherever_one_looks(ctl: Ctl, daemon: Daemon) -> None:
    """One node that fails for ever looks like work: it is told by each command, with its error and what to do."""
    retry = {"attempts": 1000, "backoff_s": 0.01, "backoff_max_s": 0.01}
    loop = submit(ctl, {"name": "b 1", "task": "fail", "retry": retry}, {"name": "g", "gate": True}, name="loop")
    wait_until(lambda: daemon.ask("GET", f"/v1/workflows/{loop}").json.get("keeps_failing") == 1)
    ctl("pause", loop)
    text = ctl("explain").stdout
    assert "1 node keeps failing" in text.splitlines()[0]
    assert re.search(r"^  loop  'b 1' has failed \d+ times in a row within [\w ]+, and .*: ValueError: no such host$", text, re.M)
    assert f"    next: dyrygentctl explain {loop} 'b 1'\n      or: dyrygentctl skip {loop} 'b 1'\n" in text
    assert "1 keeps failing" in ctl("list").stdout
    assert "'b 1' has failed " in ctl("explain", loop).stdout.splitlines()[0]
    shown = ctl("show", loop).stdout
    assert re.search(r"^failing +1 node again and again$", shown, re.M)
    assert re.search(r"^failed, and tried again: 1 node\n  'b 1' has failed \d+ times in a row", shown, re.M)
    assert f"next: dyrygentctl skip {loop} 'b 1'" in ctl("show", loop, "--causes").stdout
    [cause] = json.loads(ctl("show", loop, "--json").stdout)["tried_again"]
    assert (cause["count"], cause["nodes"], cause["error"]) == (1, ["b 1"], "ValueError: no such host")
    assert ctl("skip", loop, "b 1").exit_code == 0
    assert "keeps failing" not in ctl("explain").stdout
