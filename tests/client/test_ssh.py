"""Addresses of other hosts, and what ssh's words mean; no ssh runs here."""

import re
import shlex
import subprocess

import pytest

from dyrygentd.client import ssh
from dyrygentd.client.ssh import FarSocket, SshAddress
from dyrygentd.errors import ConfigurationError, DaemonUnreachable

_OPS1 = SshAddress("ops1")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://ops1", _OPS1),
        ("ssh://ops1/", _OPS1),
        ("ssh://me@Ops1.example:2222/run/a/b.sock", SshAddress("Ops1.example", "me", 2222, "/run/a/b.sock")),
        ("ssh://DOM%5Cme@ops1", SshAddress("ops1", "DOM\\me")),
        ("ssh://[::1]:2222", SshAddress("::1", None, 2222)),
        ("ssh://[fe80::1%eth0]", SshAddress("fe80::1%eth0")),
    ],
)
def test_address_is_read(text: str, address: SshAddress) -> None:
    """It is the form that Docker's users know; a name keeps its capitals, as ssh's configuration has them."""
    assert ssh.parse(text) == address
    assert ssh.parse(str(address).replace("\\", "%5C")) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh://", "'' is no name of a host"),
        ("ssh://me@", "'' is no name of a host"),
        ("ssh://-oProxyCommand=id", "is no name of a host"),
        ("ssh://a$(id)", "is no name of a host"),
        ("ssh://ops1;id", "is no name of a host"),
        ("ssh://ops1:ssh", "'ssh' is no port"),
        ("ssh://ops1:0", "'0' is no port"),
        ("ssh://ops1:99999999999999999999", "is no port"),
        ("ssh://-l@ops1", "'-l' is no name of a user"),
        ("ssh://ops1/a b", "cannot be forwarded"),
        ("ssh://ops1/a%0Ab", "cannot be forwarded"),
        ("ssh://ops1/a:b", "cannot be forwarded"),
        ("ssh://a@b@ops1", "is of another form"),
        ("http://ops1", "is of another form"),
    ],
)
def test_wrong_address_is_refused(text: str, words: str) -> None:
    """Nothing of it can be an option of ssh, or a command of a shell on either side."""
    with pytest.raises(ConfigurationError, match=re.escape(words)) as refusal:
        ssh.parse(text)
    assert "ssh://[USER@]HOST" in refusal.value.next_step


def test_password_is_not_repeated() -> None:
    """Whoever gives one is told so, and finds it in no log."""
    with pytest.raises(ConfigurationError, match="a password has no place") as refusal:
        ssh.parse("ssh://me:hunter2@ops1")
    assert "hunter2" not in f"{refusal.value.message} {refusal.value.next_step}"


def test_nothing_is_asked_unless_somebody_is_there() -> None:
    """A script hangs at no question; a person may give a passphrase."""
    assert "BatchMode=yes" in ssh.arguments(_OPS1, "/l", "/r", asks=False)
    assert "BatchMode=no" in ssh.arguments(_OPS1, "/l", "/r", asks=True)


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish"])
def test_look_around_is_understood_by_shells(shell: str) -> None:
    """The user there may have another one than sh; whatever it is, the look is handed on to sh as it stands."""
    command = ssh.arguments(SshAddress("ops1", path="/nowhere/a.sock"), "/l", "/r", asks=False)[-1]
    try:
        done = subprocess.run([shell, "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True)
    except FileNotFoundError:
        pytest.skip(f"NOT RUN: there is no {shell} (Debian: {shell})")
    seen = ssh.read_look(done.stdout)
    assert seen is not None
    assert (seen.state, seen.path) == ("absent", "/nowhere/a.sock")


@pytest.mark.parametrize("line", [b"", b"Welcome to ops1\n", b"dyrygentd-look\tme\tusable\n", b"\xff\n"])
def test_words_of_a_shell_are_no_sight(line: bytes) -> None:
    """Start-up files that print something are passed over."""
    assert ssh.read_look(line) is None


def test_greeting_without_a_line_end() -> None:
    """What a start-up file has printed last stands before what is looked for, and hides nothing."""
    seen = ssh.read_look(b"Welcome to ops1: dyrygentd-look\tme\tusable\tops\t/run/a.sock\n")
    assert seen == ssh.FarSocket("me", "usable", "ops", "/run/a.sock")


@pytest.mark.parametrize(
    ("said", "status", "words", "step"),
    [
        (["Host key verification failed."], 255, "its host key is not known here", "run `ssh ops1` once"),
        (
            ["@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "Host key verification failed."],
            255,
            "another one",
            "ask who",
        ),
        (["me@ops1: Permission denied (publickey)."], 255, "does not let this user in (me@ops1: Perm", "without a question"),
        (["ssh: Could not resolve hostname ops1: Name or service not known"], 255, "no host of that name", "~/.ssh/config"),
        (["ssh: connect to host ops1 port 22: Connection refused"], 255, "no sshd answers there", "another port"),
        (["ssh: connect to host ops1 port 22: Connection timed out"], 255, "nothing answers there", "is the host up"),
        (["This account is currently not available."], 1, "this user has no shell there", "another user"),
        (["sh: not found"], 127, "something else runs there than was asked for (sh: not found)", "--socket SOCKET"),
        (["kex_exchange_identification: banner"], 255, "ssh says: kex_exchange_identification: banner", "try `ssh ops1`"),
        ([], -9, "ssh has ended without a word", "try `ssh ops1`"),
    ],
)
def test_refusal_says_what_and_what_next(said: list[str], status: int, words: str, step: str) -> None:
    """Each of ssh's words that people meet becomes ours, with a next step."""
    error = ssh.refused(_OPS1, said, status=status)
    assert isinstance(error, DaemonUnreachable)
    assert words in error.message
    assert step in error.next_step


@pytest.mark.parametrize(
    ("seen", "words", "step"),
    [
        (FarSocket("me", "denied", "dyrygent", ssh.SYSTEM_SOCKET), "may not use", "usermod -aG dyrygent me"),
        (FarSocket("me", "denied", "root", ssh.SYSTEM_SOCKET), "may not use", "give its socket a group"),
        (FarSocket("me", "other", "", "/a"), "'/a' there is no socket", "ssh://[USER@]HOST"),
        (FarSocket("me", "absent", "", "/a"), "there is no '/a'", "is the daemon running there?"),
        (FarSocket("me", "absent", "", ssh.SYSTEM_SOCKET), "there is no dyrygentd", "`ssh ops1 systemctl status dyrygentd`"),
    ],
)
def test_socket_that_cannot_be_used_says_why(seen: FarSocket, words: str, step: str) -> None:
    """sshd gives no reason; the look around has it."""
    error = ssh.unusable(_OPS1, seen)
    assert words in error.message
    assert step in error.next_step


def test_command_by_hand_is_what_a_person_types() -> None:
    """It is pasted as it stands."""
    assert shlex.split(SshAddress("ops1", "me", 2222).by_hand("id")) == ["ssh", "-p", "2222", "me@ops1", "id"]


def test_other_words_of_failure() -> None:
    """No ssh here, none that comes through in time, and a way that was open and brought no answer."""
    assert "no `ssh` on PATH" in ssh.missing(_OPS1).message
    assert "within 3 s" in ssh.late(_OPS1, 3.0).message
    prohibited = "channel 2: open failed: administratively prohibited: open failed"
    assert "AllowStreamLocalForwarding" in ssh.broken(_OPS1, [prohibited])[1]
    assert ssh.broken(_OPS1, ["channel 2: open failed: connect failed: open failed"])[0].startswith("nobody answers there")
    assert ssh.broken(_OPS1, []) == ("", "")
