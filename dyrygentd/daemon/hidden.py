"""Why a service does not find an app that a shell finds: what its unit hides, and where it looks."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: What ``ProtectHome=yes`` makes inaccessible and empty, see systemd.exec(5).
_HOMES: Final = ("home", "root", "run/user")
_GUIDE: Final = "systemd/README.md has the steps"


def advice(environ: Mapping[str, str] = os.environ, *, root: Path = Path("/")) -> str:
    """Return the next step for an app that a service cannot import; an empty string outside systemd, where the shell's holds.

    Args:
        root: Where the directories of homes are.
    """
    if not environ.get("NOTIFY_SOCKET"):
        return ""
    searched = [Path(entry) for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    for path in searched:
        home = next((root / home for home in _HOMES if path.is_relative_to(root / home)), None)
        if home is not None and _is_hidden(home):
            return (
                f"`ProtectHome=yes` in the unit hides '{path}' from the service: move the app, to /srv say, or set"
                f" `ProtectHome=read-only` in a drop-in; {_GUIDE}"
            )
        if not os.access(path, os.R_OK | os.X_OK):
            return f"the service's user cannot read '{path}', which PYTHONPATH names: is it there, and open to that user?"
    where = ", ".join(f"'{path}'" for path in [*searched, Path.cwd()])
    return (
        f"the service looks in {where} and in its own environment: name the app's directory as PYTHONPATH in"
        f" /etc/dyrygentd/environment, and install what it imports beside dyrygentd; {_GUIDE}"
    )


def _is_hidden(home: Path) -> bool:
    try:
        return not home.stat().st_mode & 0o777
    except OSError:
        return False
