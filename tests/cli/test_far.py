"""`dyrygentctl -H ssh://…`: the commands that people use, through a real ssh."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dyrygentd.cli import main
from dyrygentd.http.around import HttpStatistics
from tests.cli.support import Terminal, environment_of
from tests.cli.test_ui import asked, line_of
from tests.http.support import Daemon
from tests.support.commands import runner
from tests.support.directories import short_directory
from tests.support.servers import wait_until
from tests.support.sshd import Sshd, far_host, ssh_processes


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """The host `ops1`."""
    with short_directory() as directory, far_host(directory, monkeypatch) as running:
        yield running
        wait_until(lambda: not ssh_processes(directory))


def start(daemon: Daemon, *arguments: str, is_host: bool = True) -> "subprocess.Popen[str]":
    """Run a command beside this process, without a terminal."""
    environment = {name: value for name, value in environment_of(daemon).items() if name != "DYRYGENTD_SOCKET"}
    host = ["-H", f"ssh://ops1{daemon.path}"] if is_host else []
    return subprocess.Popen(
        [sys.executable, "-c", "from dyrygentd.cli import main; main()", *host, *arguments],
        env=environment | {"DISPLAY": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(daemon: Daemon, *arguments: str) -> tuple[int, str, str]:
    """Run a command to its end; return its status, and what it said."""
    child = start(daemon, *arguments)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def is_followed(daemon: Daemon) -> bool:
    """Tell whether somebody waits for what happens there."""
    statistics: HttpStatistics = daemon.http_statistics()
    return statistics.streams + statistics.waits > 0


def test_commands_work_as_on_the_host(far: Sshd, daemon: Daemon) -> None:
    """One that looks, one that waits, one that changes something, and one that fails: the same status and words."""
    workflow_id = daemon.submit(name="nightly")
    daemon.finish(workflow_id)
    assert run(daemon, "wait", "nightly")[0] == 0
    status, out, _ = run(daemon, "list", "--json")
    assert (status, [each["id"] for each in json.loads(out)]) == (0, [workflow_id])
    assert run(daemon, "rerun", "nightly", "--from", "one")[0] == 0
    assert run(daemon, "show", "nobody")[0] == 1


def test_host_that_cannot_be_reached(far: Sshd, daemon: Daemon) -> None:
    """Exit status 3, words and a next step; with --json a document; and no question."""
    far.forget()
    status, _, err = run(daemon, "list")
    assert (status, "its host key is not known here" in err, "next: run `ssh ops1" in err) == (3, True, True)
    status, _, err = run(daemon, "list", "--json")
    assert (status, json.loads(err)["exit_status"], json.loads(err)["code"]) == (3, 3, "daemon-unreachable")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-H", "ops1", "list"), "did you mean 'ssh://ops1'?"),
        (("--socket", "/etc/passwd", "-H", "ssh://ops1", "list"), "is no socket"),
        (("-H", "ssh://me:pw@ops1", "list"), "a password has no place"),
    ],
)
def test_wrong_address_is_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    """Exit status 2, before anything is asked."""
    result = runner().invoke(main, list(arguments))
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


def test_two_daemons_are_wrong_usage(daemon: Daemon) -> None:
    """None is taken by guess."""
    for arguments in (("--socket", str(daemon.path), "-H", "ssh://ops1"), ("-H", "ssh://ops1", "--socket", str(daemon.path))):
        result = runner().invoke(main, [*arguments, "list"])
        assert (result.exit_code, "both name a daemon" in result.stderr) == (2, True), result.stderr


def test_environment_names_a_host(far: Sshd, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """`export DYRYGENTD_HOST=ssh://ops1` is as good as -H each time; words are completed there, too."""
    daemon.finish(daemon.submit(name="nightly"))
    monkeypatch.delenv("DYRYGENTD_SOCKET", raising=False)
    monkeypatch.setenv("DYRYGENTD_HOST", f"ssh://ops1{daemon.path}")
    result = runner().invoke(main, ["list"])
    assert "nightly" in result.stdout
    words = {"_DYRYGENTCTL_COMPLETE": "bash_complete", "COMP_WORDS": "dyrygentctl show n", "COMP_CWORD": "2"}
    result = runner().invoke(main, [], prog_name="dyrygentctl", env=words)
    assert [line.partition(",")[2] for line in result.stdout.splitlines()] == ["nightly"]


@pytest.mark.parametrize("arguments", [("watch", "w"), ("wait", "w")])
def test_ctrl_c_leaves_no_ssh(far: Sshd, holding: Daemon, arguments: tuple[str, ...]) -> None:
    """Streams and polls go through it, and end with the command, which ends as it does without ssh."""
    holding.submit(name="w")
    child = start(holding, *arguments)
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        wait_until(lambda: is_followed(holding))
        assert len(ssh_processes(far.directory)) == 1
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
        wait_until(lambda: not ssh_processes(far.directory))
    finally:
        child.kill()
        child.communicate()


@pytest.mark.long
def test_ctrl_c_at_a_terminal(far: Sshd, holding: Daemon) -> None:
    """There ssh may ask, so it belongs to the terminal and gets its keys; the command ends as it does without ssh."""
    holding.submit(name="w")
    terminal = Terminal(holding, "-H", f"ssh://ops1{holding.path}", "watch", "w")
    wait_until(lambda: is_followed(holding))
    terminal.type(b"\x03")
    assert terminal.end() == 130
    wait_until(lambda: not ssh_processes(far.directory))


def test_page_goes_through_it(far: Sshd, daemon: Daemon) -> None:
    """The page is served here, and says as whom one acts there."""
    workflow_id = daemon.submit(name="w")
    child = start(daemon, "ui")
    try:
        url = line_of(child)
        with asked(url) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        base = url.partition("/?")[0]
        with asked(f"{base}/page/mode.json", cookie) as answer:
            assert json.loads(answer.read())["user"] == far.user
        with asked(f"{base}/v1/workflows/{workflow_id}", cookie) as answer:
            assert json.loads(answer.read())["id"] == workflow_id
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.communicate()
