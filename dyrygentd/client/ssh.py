"""What is asked of ssh, and what its words mean: the address, the arguments, the look around on the other host. No I/O.

Theory of operation. One `ssh` for each client forwards a Unix socket (``-L``), as `dyrygentd.client.tunnel` runs it, and each
request is a connection of its own through it: a channel of ssh's, which costs half a millisecond and a round trip. All that the
user's ssh knows holds: its configuration, aliases, jump hosts, agent, keys and known hosts. The daemon sees the user that sshd
has let in.

On the other host runs nothing of ours: a few words for its shell say which socket is there and whether the user may use it, and
then wait until our end is closed, so that an ssh whose client was killed ends by itself. A refusal of sshd's to open the socket
has no reason in it; this look has.

Rejected: a command there for each connection, as ``docker -H ssh://`` has it (``docker system dial-stdio``). It costs a handshake
and the start of an interpreter for each request, a second where this takes half a millisecond; over one shared connection sshd's
``MaxSessions`` (10) is less than a page in a browser opens; and our command would have to be on the PATH that sshd gives. ``-W``
takes a socket only from OpenSSH 9.4 on. A library in place of ssh would need keys, agents and configuration a second time.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from dyrygentd.errors import ConfigurationError, DaemonUnreachable

SCHEME: Final = "ssh://"
SYSTEM_SOCKET: Final = "/run/dyrygentd/dyrygentd.sock"
FORM: Final = "ssh://[USER@]HOST[:PORT][/PATH/TO/SOCKET]"

_ADDRESS: Final = re.compile(r"(?:(?P<user>[^@/]*)@)?(?P<host>\[[^\]/]*\]|[^:@/\[\]]*)(?::(?P<port>[^/]*))?(?P<path>/.*)?", re.S)
#: Names that ssh, its configuration and a shell take as they are: never an option, and nothing that a `ProxyCommand` would run.
_USER: Final = re.compile(r"[\w][\w.@\\+-]*", re.A)
_HOST: Final = re.compile(r"\w[\w.-]*|[\da-fA-F:.]+(%\w+)?", re.A)
_PATH: Final = re.compile(r"/[\w./@+,=-]*")
_PORT_MAX: Final = 65_535
_MARK: Final = "dyrygentd-look"
#: As `dyrygentd.client.connection.find_socket` looks on this host. Without single quotes, line ends and exclamation marks, which
#: shells of other kinds than sh would read.
_LOOK: Final = (
    "p=$1; "
    'if [ -z "$p" ]; then p=$DYRYGENTD_SOCKET; fi; '
    f'if [ -z "$p" ]; then p={SYSTEM_SOCKET}; if [ -w "$p" ]; then :; else '
    'for own in "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}" "${XDG_STATE_HOME:-$HOME/.local/state}"; do '
    'if [ -S "$own/dyrygentd/dyrygentd.sock" ]; then p=$own/dyrygentd/dyrygentd.sock; break; fi; done; fi; fi; '
    'if [ -S "$p" ]; then if [ -w "$p" ]; then s=usable; else s=denied; fi; elif [ -e "$p" ]; then s=other; else s=absent; fi; '
    'g=$(stat -L -c %G "$p" 2>/dev/null); '
    f'printf "{_MARK}\\t%s\\t%s\\t%s\\t%s\\n" "$(id -un)" "$s" "$g" "$p"; exec cat >/dev/null'
)


@dataclass(frozen=True, slots=True)
class SshAddress:
    """A daemon's socket on another host.

    Attributes:
        user, port: None: as ssh's configuration says.
        path: None: the one that a client there would take.
    """

    host: str
    user: str | None = None
    port: int | None = None
    path: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port else ""
        return f"{SCHEME}{user}{host}{port}{self.path or ''}"

    def by_hand(self, *words: str) -> str:
        """Return the command by which a person comes there."""
        port = ("-p", str(self.port)) if self.port else ()
        return shlex.join(["ssh", *port, f"{self.user}@{self.host}" if self.user else self.host, *words])


@dataclass(frozen=True, slots=True)
class FarSocket:
    """What a look around on the other host has seen.

    Attributes:
        user: Who one is there.
        state: Of the socket: ``usable``, ``denied``, ``other`` (a file of another kind), ``absent``.
        group: Whose the socket is; empty if it cannot be told.
    """

    user: str
    state: str
    group: str
    path: str


def parse(text: str) -> SshAddress:
    """Read ``ssh://[USER@]HOST[:PORT][/PATH]``. Raises `ConfigurationError`, which repeats no password."""
    found = _ADDRESS.fullmatch(text.removeprefix(SCHEME)) if text.startswith(SCHEME) else None
    if found is None:
        raise _wrong("the address of a daemon's host is of another form")
    user, host, port, path = found["user"], found["host"].strip("[]"), found["port"], unquote(found["path"] or "")
    if user is not None and ":" in user:
        raise _wrong("a password has no place in the address of a host", "ssh asks for it, or better takes a key: `ssh-copy-id`")
    if user is not None and not _USER.fullmatch(unquote(user)):
        raise _wrong(f"'{unquote(user)}' is no name of a user")
    if not _HOST.fullmatch(host):
        raise _wrong(f"'{host}' is no name of a host")
    if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port[:9]) <= _PORT_MAX):
        raise _wrong(f"'{port}' is no port")
    if path in ("", "/"):
        path = ""
    if path and not _PATH.fullmatch(path):
        raise _wrong(f"'{path}' cannot be forwarded: a path has letters, digits and ./@+,=_- alone")
    return SshAddress(host, unquote(user) if user else None, int(port) if port else None, path or None)


def arguments(address: SshAddress, local: str, path: str, *, asks: bool) -> list[str]:
    """Return the command that forwards ``path`` there to ``local`` here.

    Args:
        asks: Whether ssh may ask a person, at the terminal, for a passphrase or about a host that it does not know.
    """
    options = {
        "BatchMode": "no" if asks else "yes",
        # One that is there already is used, which spares the handshake; one that would stay behind is not started.
        "ControlMaster": "no",
        # Of what the configuration forwards besides, something may be taken already; whether ours is there is seen.
        "ExitOnForwardFailure": "no",
        "StreamLocalBindMask": "0177",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        # What it says of refusals is read.
        "LogLevel": "INFO",
        # A host that has gone without a word is noticed after 45 s.
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
    }
    settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # Neither a terminal there, nor the agent, nor X11: what was forwarded to an ops host by habit has no business here.
    command = ["ssh", "-T", "-a", "-x", *settings, "-L", f"{local}:{path}"]
    if address.port is not None:
        command += ["-p", str(address.port)]
    if address.user is not None:
        command += ["-l", address.user]
    return [*command, "--", address.host, f"exec sh -c {shlex.quote(_LOOK)} {_MARK} {shlex.quote(address.path or '')}"]


def cancelling(address: SshAddress, local: str, path: str) -> list[str]:
    """Return the command by which a connection that others share gives up what it forwards for us."""
    port = ["-p", str(address.port)] if address.port else []
    user = ["-l", address.user] if address.user else []
    return ["ssh", "-O", "cancel", "-L", f"{local}:{path}", *port, *user, "--", address.host]


def read_look(line: bytes) -> FarSocket | None:
    """Read a line of the look around; None if it is something else, of a shell's start-up files say."""
    # A greeting without a line end stands before it.
    _, mark, rest = line.decode(errors="replace").rstrip("\r\n").partition(f"{_MARK}\t")
    words = rest.split("\t")
    return FarSocket(*words) if mark and len(words) == 4 else None


def unusable(address: SshAddress, seen: FarSocket) -> DaemonUnreachable:
    """Say why the socket that was seen cannot be used."""
    path, who = seen.path, f"'{seen.user}' on '{address.host}'"
    if seen.state == "denied":
        if seen.group in ("", "root", "UNKNOWN"):
            step = "give its socket a group there that this user is in, or come as another one"
        else:
            step = f"have {who} join the group: `sudo usermod -aG {seen.group} {seen.user}` there; or come as another user"
        return DaemonUnreachable(f"cannot reach '{address}': {who} may not use '{path}'", next_step=step)
    if seen.state == "other":
        return DaemonUnreachable(f"cannot reach '{address}': '{path}' there is no socket", next_step=f"the address is {FORM}")
    if path == SYSTEM_SOCKET:
        words = f"there is no dyrygentd: {who} sees neither '{path}' nor a daemon of their own"
        if address.path is not None:
            words = f"there is no '{path}'"
        step = f"is dyrygentd.service running there? `{address.by_hand('systemctl', 'status', 'dyrygentd')}`; else {FORM}"
    else:
        words, step = f"there is no '{path}', or {who} may not see it", "is the daemon running there?"
    return DaemonUnreachable(f"cannot reach '{address}': {words}", next_step=step)


def refused(address: SshAddress, said: Sequence[str], *, status: int | None) -> DaemonUnreachable:
    """Say why ssh has not come through.

    Args:
        said: The last lines that it wrote.
        status: With which it ended; None if it has not.
    """
    text = "\n".join(said)
    for sign, words, step in _REFUSALS:
        if sign in text:
            last = said[-1]
            return _unreachable(address, words.format(said=last), step.format(by_hand=address.by_hand(), host=address.host))
    if status is not None and 0 <= status < 128:
        return _unreachable(
            address,
            f"something else runs there than was asked for{f' ({said[-1]})' if said else ''}",
            f"a user there who has a shell; where a key may only forward, use `{address.by_hand()} -N -L SOCKET:{SYSTEM_SOCKET}` "
            "and --socket SOCKET",
        )
    words = f"ssh says: {said[-1]}" if said else "ssh has ended without a word"
    return _unreachable(address, words, f"try `{address.by_hand()}`, and mend what it says")


def broken(address: SshAddress, said: Sequence[str]) -> tuple[str, str]:
    """Return what to say of an opened way on which no answer came, and what to do; of both nothing if nothing is known."""
    text = "\n".join(said)
    if "administratively prohibited" in text:
        return "sshd there does not let through", _ALLOW
    if "open failed" in text:
        # OpenSSH's sshd has the same words for both.
        step = f"is the daemon running? `{address.by_hand('systemctl', 'status', 'dyrygentd')}`; if it is, {_ALLOW}"
        return "nobody answers there, or sshd does not let through", step
    return "", ""


#: Also a key with `restrict` in authorized_keys.
_ALLOW: Final = "sshd's configuration has to allow it to this user and key (AllowStreamLocalForwarding, port-forwarding)"


def late(address: SshAddress, timeout_s: float) -> DaemonUnreachable:
    """Say that ssh has not come through in time."""
    return _unreachable(address, f"ssh has not come through within {timeout_s:g} s", f"try `{address.by_hand()}`")


def missing(address: SshAddress) -> DaemonUnreachable:
    """Say that there is no ssh on this host."""
    return _unreachable(address, "there is no `ssh` on PATH here", "install OpenSSH's client (Debian: openssh-client)")


_BY_HAND: Final = "`{by_hand}` has to work without a question"
#: ``(what ssh writes, what it means, what to do)``; the first that fits counts.
_REFUSALS: Final = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is another one than before",
        "ask who runs '{host}' whether that is right, before `ssh-keygen -R {host}` forgets the old one",
    ),
    ("Host key verification failed", "its host key is not known here", "run `{by_hand}` once, and compare the key that it shows"),
    (
        "Permission denied",
        "it does not let this user in ({said})",
        f"{_BY_HAND}: a key there (`ssh-copy-id`), unlocked (`ssh-add`)",
    ),
    ("Too many authentication failures", "it does not let this user in ({said})", f"{_BY_HAND}: name the key (`IdentityFile`)"),
    ("Could not resolve hostname", "there is no host of that name", "look at the name, and at ~/.ssh/config"),
    ("Connection refused", "no sshd answers there", "is it another port? {by_hand}"),
    ("Connection timed out", "nothing answers there", "is the host up, and the way to it open? {by_hand}"),
    ("No route to host", "there is no way to it", "is the host up, and the way to it open? {by_hand}"),
    ("Network is unreachable", "there is no way to it", "is this host's network up? {by_hand}"),
    ("Bad configuration option", "ssh does not understand its configuration ({said})", "mend ~/.ssh/config: {by_hand}"),
    ("account is currently not available", "this user has no shell there", "come as another user, who has one"),
)


def _unreachable(address: SshAddress, words: str, next_step: str) -> DaemonUnreachable:
    return DaemonUnreachable(f"cannot reach '{address}': {words}", next_step=next_step)


def _wrong(words: str, next_step: str = f"it is {FORM}") -> ConfigurationError:
    return ConfigurationError(words, next_step=next_step)
