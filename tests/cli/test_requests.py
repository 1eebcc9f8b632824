"""How often a command asks the daemon: what it has read once it does not read again, however large the workflow is."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from dyrygentd.core.verbs import Verb
from dyrygentd.http.guard import Guard, GuardedConnection
from tests.cli.support import Ctl, ctl_of, submit
from tests.http.support import Daemon
from tests.support.servers import wait_until

MANY = tuple({"name": f"n{number}"} for number in range(150))
GATED = ({"name": "gate", "gate": True}, {"name": "last", "after": ["gate"]})
FAILING = ({"name": "a", "task": "fail"}, {"name": "b", "after": ["a"]}, {"name": "c", "after": ["b"]})

Ask = Callable[..., int]
Counted = tuple[Daemon, Ctl, Ask, "_Counting"]


class _Counting(Guard):
    """Counts who comes in: `dyrygentctl` has one connection for each request."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    def admit(self, connection: GuardedConnection) -> str:
        """Let in whom the guard lets in."""
        self.requests += 1
        return super().admit(connection)


@contextmanager
def _counted(path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, *, holds: bool) -> Iterator[Counted]:
    guard = _Counting()
    path.mkdir(exist_ok=True)
    with Daemon(path / "d.sock", holds=holds, guard=guard) as daemon:
        ctl = ctl_of(daemon, directory, monkeypatch)

        def requests_of(*arguments: str) -> int:
            before = guard.requests
            result = ctl(*arguments)
            # One that waited for a failure has status 1, too; a refusal has words about itself.
            assert result.exit_code == 0 or "next: `dyrygentctl show" in result.stderr, result.output
            return guard.requests - before

        yield daemon, ctl, requests_of, guard


@pytest.fixture
def running(short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Run a command about workflows that go on, with more nodes than an answer names; return how often it asked."""
    with _counted(short_tmp, tmp_path, monkeypatch, holds=True) as (_, ctl, requests_of, _):
        submit(ctl, *MANY, *GATED)
        yield requests_of


@pytest.fixture
def failed(short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Run a command about a workflow that has failed; return how often it asked."""
    with _counted(short_tmp, tmp_path, monkeypatch, holds=False) as (daemon, ctl, requests_of, _):
        daemon.finish(submit(ctl, *FAILING))
        yield requests_of


def test_verb_reads_once_and_acts_once(running: Ask) -> None:
    """The view that a reference was resolved to is the one that is told of, and the verb goes to its id."""
    every = [
        ["pause", "@latest"],
        ["pause", "@latest"],
        ["resume", "@latest"],
        ["set-priority", "@latest", "3"],
        ["hold", "@latest", "last"],
        ["release", "@latest", "gate"],
        ["release", "@latest", "last"],
        ["skip", "@latest", "n1", "--terminate"],
        ["cancel", "@latest"],
        ["rerun", "@latest", "--from", "n1"],
        ["cancel", "@latest"],
        ["retry", "@latest"],
    ]
    assert {command for command, *_ in every} == set(Verb)
    for arguments in every:
        assert (arguments, running(*arguments)) == (arguments, 2)


def test_verb_on_a_cause_reads_once_and_acts_once(failed: Ask) -> None:
    """A cause is found by the daemon."""
    assert failed("retry", "@latest", "--cause", "1") == 2
    assert failed("wait", "@latest") == 2
    assert failed("skip", "@latest", "--cause", "1") == 2


def test_verb_in_bulk_asks_once_a_workflow(short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing has read them all; named ones are looked at first, so that a typing error changes none of them."""
    with _counted(short_tmp, tmp_path, monkeypatch, holds=True) as (_, ctl, requests_of, _):
        ids = [submit(ctl, {"name": "a"}) for _ in range(5)]
        assert requests_of("pause", "--all", "--yes") == 1 + len(ids)
        assert requests_of("resume", "--all", "--dry-run") == 1
        assert requests_of("resume", "--state", "paused", "--yes") == 1 + len(ids)
        assert requests_of("cancel", *ids) == 2 * len(ids)


def test_looks_ask_twice(failed: Ask) -> None:
    """Once for the workflow, once for what is wanted of it."""
    for arguments in [
        ["show", "@latest", "--causes"],
        ["show", "@latest", "--node", "b"],
        ["show", "@latest", "--nodes"],
        ["--json", "show", "@latest", "--state", "failed,blocked"],
        ["graph", "@latest"],
        ["explain", "@latest"],
        ["explain", "@latest", "b"],
        ["explain", "@latest", "b", "--json"],
        ["events", "@latest"],
        ["export", "@latest"],
        ["export", "@latest", "--definition"],
        ["wait", "@latest"],
        ["watch", "@latest"],
    ]:
        assert (arguments, failed(*arguments)) == (arguments, 2)


def test_looks_at_what_goes_on_ask_twice(running: Ask) -> None:
    """Who holds a node is told with it."""
    running("hold", "@latest", "last")
    for arguments in [["explain", "@latest", "last"], ["show", "@latest", "--node", "last"], ["graph", "@latest"]]:
        assert (arguments, running(*arguments)) == (arguments, 2)


def test_one_look_is_one_request(failed: Ask, short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`show` is what people repeat, and costs the same whatever there is to tell; what is of all workflows costs one as well."""
    assert [failed(command) for command in ("explain", "events", "stats")] == [1, 1, 1]
    # The listing, and what keeps the daemon from its work.
    assert failed("list") == 2
    assert failed("show", "@latest") == failed("show", "@latest", "--json") == 1
    with _counted(short_tmp / "other", tmp_path, monkeypatch, holds=True) as (_, ctl, requests_of, _):
        submit(ctl, *MANY, *GATED)
        assert requests_of("show", "@latest") == requests_of("show", "@latest", "--json") == 1
        ctl("pause", "@latest")
        assert requests_of("show", "@latest") == 1


@pytest.mark.parametrize("command", ["watch", "wait"])
def test_follower_is_told_and_does_not_ask(
    short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The view, and a stream or a poll that is held until the end."""
    with (
        _counted(short_tmp, tmp_path, monkeypatch, holds=True) as (daemon, ctl, requests_of, guard),
        ThreadPoolExecutor() as pool,
    ):
        submit(ctl, {"name": "a"})
        both = guard.requests + 2
        asked = pool.submit(requests_of, command, "@latest")
        wait_until(lambda: guard.requests == both)
        daemon.let_go()
        assert asked.result() == 2
