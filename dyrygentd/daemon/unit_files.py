"""The files of a systemd service: templates from ``systemd/``, filled in for the virtual environment that this runs from."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dyrygentd.daemon.example import example

#: ``{template: place below the prefix}``. Drop-ins for the choice of the operator are beside the documentation.
_SYSTEM: Final = {
    "dyrygentd.service": "lib/systemd/system/dyrygentd.service",
    "dyrygentd.socket": "lib/systemd/system/dyrygentd.socket",
    "dyrygentd@.service": "lib/systemd/system/dyrygentd@.service",
    "dyrygentd@.socket": "lib/systemd/system/dyrygentd@.socket",
    "dyrygentd-broker.service": "lib/systemd/system/dyrygentd-broker.service",
    "dyrygentd-broker@.service": "lib/systemd/system/dyrygentd-broker@.service",
    "dyrygentd-submit@.service": "lib/systemd/system/dyrygentd-submit@.service",
    "dyrygentd-submit@.timer": "lib/systemd/system/dyrygentd-submit@.timer",
    "dyrygentd.sysusers.conf": "lib/sysusers.d/dyrygentd.conf",
    "dyrygentd.tmpfiles.conf": "lib/tmpfiles.d/dyrygentd.conf",
    "notify-reload.conf": "share/doc/dyrygentd/notify-reload.conf",
    "celery-worker.conf": "share/doc/dyrygentd/celery-worker.conf",
    "celery-worker.service": "share/doc/dyrygentd/celery-worker.service",
}
_USER: Final = {
    "user/dyrygentd.service": "share/systemd/user/dyrygentd.service",
    "user/dyrygentd.socket": "share/systemd/user/dyrygentd.socket",
    "user/dyrygentd-broker.service": "share/systemd/user/dyrygentd-broker.service",
}
EXAMPLE: Final = "share/doc/dyrygentd/dyrygentd.toml"

#: What ``ProtectHome=yes`` hides, and what ``PrivateTmp=yes`` does.
_HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY: Final = (Path("/tmp"), Path("/var/tmp"))


def unit_files(*, for_user: bool) -> dict[str, str]:
    """Return ``{place below the prefix: text}`` of the units, what belongs to them, and the example of a configuration."""
    protect_home = "read-only" if any(_is_below(path, _HOMES) for path in _needed()) else "yes"
    filled = {}
    for template, path in (_USER if for_user else _SYSTEM).items():
        text = (templates() / template).read_text()
        text = text.replace("@EXECUTABLE@", command_line()).replace("@PROTECT_HOME@", protect_home)
        text = text.replace("@CONTROL@", command_line("dyrygentctl"))
        filled[path] = text
    return {**filled, EXAMPLE: example()}


def links(prefix: Path) -> dict[str, Path]:
    """Return ``{place below the prefix: command}`` of links that put the commands of this environment on PATH."""
    commands = [Path(sys.executable).with_name(name) for name in ("dyrygentd", "dyrygentctl")]
    return {f"bin/{each.name}": each for each in commands if each.exists() and each.parent != prefix / "bin"}


def is_link_to(path: Path, target: Path) -> bool:
    """Tell whether this is a link, and to the command of this environment."""
    return path.is_symlink() and path.readlink() == target


def user_configuration(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the configuration of a user's own daemon is, as the unit for users has it."""
    return _user_directory("XDG_CONFIG_HOME", ".config", environ) / "dyrygentd.toml"


def in_use(*, for_user: bool, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the units of ours, instances among them, that run or are started at boot or login; sockets come first."""
    directories, runtime = [root / "etc/systemd/system"], root / "run"
    if for_user:
        directories = [_user_directory("XDG_CONFIG_HOME", ".config").parent / "systemd/user", root / "etc/systemd/user"]
        runtime = Path(environ.get("XDG_RUNTIME_DIR") or "/nowhere")
    names = {link.name for each in directories for link in each.glob("*.wants/dyrygentd*")}
    # How systemd tells the journal which units run.
    names |= {link.name.partition(":")[2] for link in runtime.glob("systemd/units/invocation:dyrygentd*")}
    return sorted(names, key=lambda name: (not name.endswith(".socket"), name))


def left_behind(*, for_user: bool, root: Path = Path("/")) -> list[tuple[Path, str]]:
    """Return what is there beside the files that were installed, and what it is: nobody but the operator decides on that."""
    if for_user:
        state = _user_directory("XDG_STATE_HOME", ".local/state")
        places = [(user_configuration().parent, "configuration"), (state, "state: the database, a broker's files")]
        return [(path, about) for path, about in places if path.exists()]
    found = [(root / "etc/dyrygentd", "configuration")]
    for directory in ("credstore", "credstore.encrypted"):
        found += [(path, "a credential") for path in sorted((root / "etc" / directory).glob("dyrygentd*"))]
    found += [(path, "drop-ins") for path in sorted((root / "etc/systemd/system").glob("dyrygentd*.d"))]
    found += [(root / "var/lib/dyrygentd", "state: databases, a broker's files")]
    users = root / "etc/passwd"
    if users.exists() and any(line.startswith("dyrygent:") for line in users.read_text(errors="replace").splitlines()):
        found.append((users, "the user dyrygent, and a group of that name with its members: `userdel dyrygent`"))
    if sys.prefix != sys.base_prefix:
        found.append((Path(sys.prefix), "the virtual environment"))
    return [(path, about) for path, about in found if path.exists()]


def warnings() -> list[str]:
    """Say why the service of the system could not run from here, although its units are right."""
    found = []
    for path in _needed():
        if _is_below(path, _TEMPORARY):
            found.append(f"'{path}' is not there for the service, which has a /tmp of its own")
        closed = next((each for each in [*reversed(path.parents), path] if not each.stat().st_mode & 0o001), None)
        if closed is not None:
            found.append(f"user 'dyrygent' may not enter '{closed}', where '{path}' is")
    return list(dict.fromkeys(found))


def templates() -> Path:
    """Return where the templates are: in the package, or in the source that it is run from."""
    installed = Path(__file__).parent / "units"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "systemd"


def command_line(program: str = "dyrygentd") -> str:
    """Return how a program of ours is started from here, as ``ExecStart=`` takes it."""
    script = Path(sys.executable).with_name(program)
    words = [str(script)] if script.exists() else [sys.executable, "-m", "dyrygentd"]
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    # See "COMMAND LINES" in systemd.service(5) and "SPECIFIERS" in systemd.unit(5).
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if " " in word or '"' in word else word


def _user_directory(variable: str, default: str, environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get(variable) or Path.home() / default) / "dyrygentd"


def _needed() -> list[Path]:
    """Return the directories that the service has to read: environment, interpreter, and the package itself."""
    places = (sys.prefix, sys.base_prefix, Path(__file__).parents[1])
    return list(dict.fromkeys(Path(place).resolve() for place in places))


def _is_below(path: Path, directories: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(directory) for directory in directories)
