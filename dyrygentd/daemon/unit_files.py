"""The files of a systemd service: templates from ``systemd/``, filled in for the virtual environment that this runs from."""

import sys
from pathlib import Path
from typing import Final

from dyrygentd.daemon.example import example

#: ``{template: place below the prefix}``. Drop-ins for the choice of the operator are beside the documentation.
_SYSTEM: Final = {
    "dyrygentd.service": "lib/systemd/system/dyrygentd.service",
    "dyrygentd.socket": "lib/systemd/system/dyrygentd.socket",
    "dyrygentd@.service": "lib/systemd/system/dyrygentd@.service",
    "dyrygentd@.socket": "lib/systemd/system/dyrygentd@.socket",
    "dyrygentd.sysusers.conf": "lib/sysusers.d/dyrygentd.conf",
    "dyrygentd.tmpfiles.conf": "lib/tmpfiles.d/dyrygentd.conf",
    "notify-reload.conf": "share/doc/dyrygentd/notify-reload.conf",
    "celery-worker.conf": "share/doc/dyrygentd/celery-worker.conf",
}
_USER: Final = {
    "user/dyrygentd.service": "share/systemd/user/dyrygentd.service",
    "user/dyrygentd.socket": "share/systemd/user/dyrygentd.socket",
}
_EXAMPLE: Final = "share/doc/dyrygentd/dyrygentd.toml"

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
        filled[path] = text
    return {**filled, _EXAMPLE: example()}


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


def command_line() -> str:
    """Return how `dyrygentd` is started from here, as ``ExecStart=`` takes it."""
    script = Path(sys.executable).with_name("dyrygentd")
    words = [str(script)] if script.exists() else [sys.executable, "-m", "dyrygentd"]
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    # See "COMMAND LINES" in systemd.service(5) and "SPECIFIERS" in systemd.unit(5).
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if " " in word or '"' in word else word


def _needed() -> list[Path]:
    """Return the directories that the service has to read: environment, interpreter, and the package itself."""
    places = (sys.prefix, sys.base_prefix, Path(__file__).parents[1])
    return list(dict.fromkeys(Path(place).resolve() for place in places))


def _is_below(path: Path, directories: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(directory) for directory in directories)
