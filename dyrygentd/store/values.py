"""Where large values are kept: in a directory, or where `dyrygentd.store.remote_values` reaches.

*A directory* has one below it for each database, and in that one for each workflow. A text is written under another name, synced
and renamed, and the directory is synced, too: then the row that names it may be saved.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.values import ValueStore
from dyrygentd.store.postgres.url import PostgresUrl

#: Beside the file of the database, if nothing else is said.
BESIDE: Final = "values"
NOWHERE: Final = "none"
_UNFINISHED: Final = ".new-"


def value_store_of(setting: str | None, database: Path | PostgresUrl | None) -> ValueStore | None:
    """Return where large values are kept, None for nowhere but in memory and database.

    Args:
        setting: A directory, an address, or `NOWHERE`; by default a directory beside the file of the database. There is none
            beside one on PostgreSQL: which directory its hosts share, only they know.

    Raises:
        ConfigurationError: It is an address that nothing here can reach.
    """
    if setting == NOWHERE or (setting is None and not isinstance(database, Path)):
        return None
    if setting is None:
        assert isinstance(database, Path)
        return DirectoryValues(database.parent / BESIDE)
    if "://" in setting:
        from dyrygentd.store.remote_values import RemoteValues

        return RemoteValues(setting)
    return DirectoryValues(Path(setting).expanduser())


class DirectoryValues:
    """Keeps texts as files of the daemon's own user alone. The directory is made when there is something to keep.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<DirectoryValues '{self.path}'>"

    @property
    def where(self) -> str:
        """The directory."""
        return f"the directory '{self.path}'"

    def write(self, name: str, text: bytes) -> None:
        """Keep a text; it is on disk when this returns. Raises `StoreUnavailable`."""
        path = self.path / name
        unfinished = path.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")
        try:
            self._make(path.parent)
            try:
                with open(unfinished, "xb", opener=_for_us) as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.rename(path)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            _sync(path.parent)
        except OSError as error:
            raise self._unavailable("written", error) from error

    def read(self, name: str) -> bytes:
        """Return a text. Raises `KeyError` if it is not there, `StoreUnavailable` if it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(name) from None
        except OSError as error:
            raise self._unavailable("read", error) from error

    def delete(self, names: Sequence[str]) -> None:
        """Delete texts, and directories in which there is nothing any more. Raises `StoreUnavailable`."""
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
            for directory in {(self.path / name).parent for name in names}:
                _remove_if_empty(directory)
        except OSError as error:
            raise self._unavailable("deleted", error) from error

    def find(self, database: str) -> Iterator[tuple[str, int]]:
        """Yield what there is of one database. Raises `StoreUnavailable`."""
        root = self.path / database
        try:
            for directory in _entries(root):
                for file in _entries(root / directory.name) if directory.is_dir(follow_symlinks=False) else ():
                    if file.name.startswith(_UNFINISHED):
                        (root / directory.name / file.name).unlink(missing_ok=True)
                    elif file.is_file(follow_symlinks=False):
                        yield f"{database}/{directory.name}/{file.name}", file.stat().st_size
        except OSError as error:
            raise self._unavailable("listed", error) from error

    def _make(self, directory: Path) -> None:
        """Make a directory and those above it, so that they outlast the power, too."""
        if directory.is_dir():
            return
        if directory != self.path:
            self._make(directory.parent)
            directory.mkdir(mode=0o700, exist_ok=True)
        else:
            # What is above is not ours.
            directory.mkdir(mode=0o700, exist_ok=True, parents=True)
        _sync(directory.parent)

    def _unavailable(self, what: str, error: OSError) -> StoreUnavailable:
        reason = error.strerror or type(error).__name__
        return StoreUnavailable(f"values cannot be {what} in {self.where}: {reason}")


def _entries(directory: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(directory) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _for_us(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return  # There is more in it, or it is gone.


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
