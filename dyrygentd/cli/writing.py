"""Files that commands write for people: all of one or nothing, and never over something by mistake."""

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dyrygentd.cli.session import fail


def write_file(target: str, parts: Iterable[str], *, force: bool) -> None:
    """Write a file that only its owner may read: it may tell of errors and names. Exits if it is there, unless ``force``.

    Args:
        target: Its name; ``-`` is stdout. What is no regular file, such as a pipe, is written into.
        parts: Its text; what comes later is made later.
    """
    if target == "-":
        for part in parts:
            sys.stdout.write(part)
        sys.stdout.flush()
        return
    path = Path(target)
    try:
        if path.exists() and not path.is_file():
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(parts)
            return
        # A link that leads nowhere is somebody's, too.
        if not force and os.path.lexists(path):
            fail(f"'{target}' exists", next_step="choose another name, or pass --force")
        _replace(path, parts, force=force)
    except FileExistsError:
        fail(f"'{target}' exists", next_step="choose another name, or pass --force")
    except OSError as error:
        fail(f"cannot write '{target}': {error.strerror}", next_step="choose another place")


def _replace(path: Path, parts: Iterable[str], *, force: bool) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.writelines(parts)
        if force:
            os.replace(name, path)
        else:
            # Fails if somebody has made one of that name meanwhile.
            os.link(name, path)
            os.unlink(name)
    except BaseException:
        os.unlink(name)
        raise
