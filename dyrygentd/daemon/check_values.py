"""Whether large values can be kept where the configuration says."""

import os
import secrets
from pathlib import Path

from dyrygentd.store.postgres.url import PostgresUrl
from dyrygentd.store.values import DirectoryValues, value_store_of


def check_values(setting: str | None, database: Path | PostgresUrl | None) -> str:
    """Return what is found. Raises `DyrygentError`, or `OSError` for a directory that cannot be used."""
    values = value_store_of(setting, database)
    if values is None:
        # Which directory its hosts share is for them to say.
        why = " beside a database on PostgreSQL" if setting is None else ""
        return f"there is no place for them{why}: they are kept in memory and in the database, within its bounds (`value_store`)"
    if isinstance(values, DirectoryValues):
        # Nothing is written: who asks may be another user than the daemon's.
        return _look_at(values.path)
    name = f"check-config/{secrets.token_hex(8)}/probe"
    values.write(name, b"1")
    try:
        values.read(name)
    finally:
        values.delete([name])
    return f"{values.where} takes and gives them"


def _look_at(path: Path) -> str:
    if path.exists():
        if not (path.is_dir() and os.access(path, os.R_OK | os.W_OK | os.X_OK)):
            raise PermissionError(f"'{path}' is no directory in which this user may write")
        return f"'{path}' is there"
    # What is above may be made by systemd, at the first start.
    if path.parent.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"'{path}' does not exist, and this user may not write '{path.parent}'")
    return f"'{path}' does not exist, and will be made"
