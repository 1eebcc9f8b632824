"""`dyrygentctl ui` as people and scripts start it: what it prints, and how it ends."""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from dyrygentd.cli.ui import is_desktop
from tests.cli.support import Ctl, environment_of
from tests.http.support import Daemon


@contextmanager
def ui(daemon: Daemon, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run it beside this process; it is ended if it has not ended by itself."""
    child = subprocess.Popen(
        [sys.executable, "-c", "from dyrygentd.cli import main; main()", "ui", *arguments],
        env=environment_of(daemon) | {"DISPLAY": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=30)


def line_of(child: "subprocess.Popen[str]") -> str:
    """Return the first line that it prints."""
    assert child.stdout is not None
    return child.stdout.readline().rstrip("\n")


@contextmanager
def asked(url: str, cookie: str = "") -> Iterator[http.client.HTTPResponse]:
    """Ask for something there, and read on as long as it is wanted."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=20)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers={"Cookie": cookie})
        yield connection.getresponse()
    finally:
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_printed_address_opens_the_page_until_the_end(holding: Daemon, number: int) -> None:
    """The address is all that goes to stdout; a stream that is followed ends with the command, whose end is no failure."""
    workflow_id = holding.submit(name="w")
    with ui(holding) as child:
        url = line_of(child)
        with asked(url) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        start = url.partition("/?")[0]
        with asked(f"{start}/", cookie) as page:
            assert b"<title>" in page.read()
        with asked(f"{start}/v1/workflows/{workflow_id}/events", cookie) as stream:
            assert stream.readline() == b"event: workflow\n"
            child.send_signal(number)
            stdout, stderr = child.communicate(timeout=30)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                stream.read()
        assert (child.returncode, stdout) == (0, "")
        port = urlsplit(url).port
        assert f"ssh -L {port}:127.0.0.1:{port} " in stderr
    with pytest.raises(ConnectionRefusedError), asked(f"{start}/"):
        pass


def test_script_reads_the_address(daemon: Daemon) -> None:
    """One line of JSON, and a workflow that is named is where the page opens."""
    workflow_id = daemon.submit(name="nightly")
    with ui(daemon, "nightly", "--json") as child:
        told = json.loads(line_of(child))
        assert told["url"].startswith(f"http://127.0.0.1:{told['port']}/?token=")
        assert told["url"].endswith(f"#/w/{workflow_id}")
        assert told["socket"] == str(daemon.path)
        with asked(told["url"]) as answer:
            assert answer.status == 303


def test_what_is_wrong_is_told_at_once(daemon: Daemon, ctl: Ctl) -> None:
    """A workflow that is not there, and a port that another has."""
    missing = ctl("ui", "nothing-like-it")
    assert (missing.exit_code, missing.stdout) == (1, "")
    taken = ctl("ui", "--port", str(daemon.tcp_port))
    assert (taken.exit_code, taken.stdout) == (2, "")
    assert "name another with --port" in taken.stderr


def test_browser_is_opened_on_a_desktop_only() -> None:
    """Not where nobody sees it: over ssh, without a screen, or as root, whose browser it would be."""
    assert is_desktop({"DISPLAY": ":0"}, user=1000)
    assert is_desktop({"WAYLAND_DISPLAY": "wayland-0"}, user=1000)
    assert not is_desktop({"DISPLAY": ":0"}, user=0)
    assert not is_desktop({"DISPLAY": ":0", "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, user=1000)
    assert not is_desktop({}, user=1000)
