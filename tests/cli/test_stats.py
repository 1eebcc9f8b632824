"""How the daemon stands, on one screen."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dyrygentd import __version__
from dyrygentd.cli.stats import _flat
from dyrygentd.scheduler import SchedulerLimits
from tests.cli.support import Ctl, Terminal, ctl_of, submit
from tests.http.support import Daemon
from tests.support.servers import wait_until


@pytest.fixture
def narrow(short_tmp: Path) -> Iterator[Daemon]:
    """A daemon of pools that have one place each, which is taken for as long as one likes."""
    limits = SchedulerLimits(follow_interval_s=0.0, pools={"*": 1})
    with Daemon(short_tmp / "narrow.sock", holds=True, scheduler_limits=limits) as running:
        yield running


@pytest.fixture
def narrow_ctl(narrow: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """Run a command against it."""
    return ctl_of(narrow, tmp_path, monkeypatch)


def test_nothing_under_way_is_few_lines(ctl: Ctl, daemon: Daemon) -> None:
    """What is 0 tells nobody anything; each number is one flag away, and programs get all of them."""
    result = ctl("stats")
    assert re.fullmatch(
        rf"daemon +{re.escape(__version__)}, up for .*\nworkflows +none under way\nin flight +0 of 2,000\ndatabase +0 B.*\n",
        result.stdout,
    )
    assert result.stderr == "\nnext: dyrygentctl list\n  or: dyrygentctl stats --all\n"
    assert re.search(r"^late +0$", ctl("stats", "--all").stdout, re.M)
    assert json.loads(ctl("--json", "stats").stdout)["version"] == __version__


def test_what_became_of_tasks_is_told_by_queue(ctl: Ctl, daemon: Daemon) -> None:
    """Which queue fails is what one wants to see of a daemon that seems to work."""
    daemon.finish(submit(ctl, {"name": "a"}))
    daemon.finish(submit(ctl, {"name": "a", "task": "fail"}))
    out = ctl("stats").stdout
    assert re.search(r"^since start +dispatched 2, succeeded 1, failed 1; [\d.]+ ends a second on average$", out, re.M)
    assert re.search(r"^QUEUE +SENT +SUCCEEDED +FAILED .*\ncelery +2 +1 +1 ", out, re.M)


def test_what_is_stuck_comes_first(idle: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that nobody consumes is above all numbers, with what to do."""
    ctl = ctl_of(idle, tmp_path, monkeypatch)
    submit(ctl, {"name": "a"})
    wait_until(lambda: len(idle.broker.queued) == 1)
    result = ctl("stats")
    first, step = result.stdout.splitlines()[:2]
    assert re.match(r"stuck: 'a' was sent .* in queue 'celery' .*, which nobody consumes", first)
    assert step.startswith("  next: start a worker")
    assert "next: dyrygentctl explain\n" in result.stderr


@pytest.mark.parametrize("columns", [100, 200])
def test_one_screen_holds_what_is_full_and_says_what_it_leaves_out(narrow: Daemon, narrow_ctl: Ctl, columns: int) -> None:
    """Forty pools are five rows and a number; those first that most wait for, and no row is wider than the screen."""
    for number in range(40):
        pool = f"{'drain-of-a-cluster-with-a-long-name-' * 3}{number}"
        nodes = [{"name": f"n{each}", "pool": pool} for each in range(number % 3 + 1)]
        submit(narrow_ctl, *nodes, name=f"w{number}")
    terminal = Terminal(narrow, "stats", columns=columns)
    assert terminal.end() == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.seen.decode()).splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("POOL"))
    assert [line.split()[-3:] for line in lines[at + 1 : at + 6]] == [["1", "1", "2"]] * 5
    assert lines[at + 6] == "and 35 more: dyrygentctl stats --all"
    assert sum(line.startswith("full: the one place of pool") for line in lines) == 3
    assert max(map(len, lines[at:])) <= columns
    assert "and 23 more are full: dyrygentctl stats --all" in lines
    assert len(lines) <= 30
    everything = narrow_ctl("stats", "--all").stdout
    assert everything.count("drain-of-a-cluster") == 40 * 3


def test_each_command_that_is_printed_works(narrow: Daemon, narrow_ctl: Ctl) -> None:
    """What is full leads to whoever waits."""
    submit(narrow_ctl, {"name": "a", "pool": "p"}, {"name": "b", "pool": "p"})
    wait_until(lambda: len(narrow.broker.published) == 1)
    result = narrow_ctl("stats")
    commands = re.findall(r"(?:next|or): dyrygentctl (.*)", result.stdout + result.stderr)
    assert len(commands) == 3, result.output
    for command in commands:
        assert narrow_ctl(*shlex.split(command)).exit_code == 0


def test_names_from_outside_steer_no_terminal(narrow_ctl: Ctl) -> None:
    """A pool may be called anything."""
    pool = "a\nb\x1b]0;x\x07"
    submit(narrow_ctl, {"name": "a", "pool": pool}, {"name": "b", "pool": pool})
    for arguments in (("stats",), ("stats", "--all")):
        assert "\x1b" not in narrow_ctl(*arguments).output


def test_pools_are_shown_one_by_one() -> None:
    """Who fills a pool is what `explain` sends people to `stats` for."""
    pools = [{"name": "drain@gra1", "size": 2, "used": 1}]
    assert _flat({"pools": pools, "none": []}) == {"pools.drain@gra1": "size 2, used 1"}
