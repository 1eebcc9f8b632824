"""Files of JSON lines that maps go over: below one directory or one address, and nowhere else."""

import errno
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.values import ItemFiles


def item_files_of(setting: str | None) -> ItemFiles | None:
    """Return where they are, None if nobody has said. Raises `ConfigurationError` for an address that nothing here can reach."""
    if setting is None:
        return None
    if "://" in setting:
        from dyrygentd.store.remote_values import RemoteItemFiles

        return RemoteItemFiles(setting)
    return DirectoryItemFiles(Path(setting).expanduser())


def is_below(name: str) -> bool:
    """Tell whether a name means something below where it is looked for, whatever that is."""
    parts = name.split("/")
    sizes = [len(part.encode(errors="surrogatepass")) for part in parts]
    is_long = max(sizes) > _PART_BYTES_MAX or sum(sizes) + len(sizes) > _NAME_BYTES_MAX
    if is_long or any("\ud800" <= each <= "\udfff" for each in name):
        return False
    return not PurePosixPath(name).is_absolute() and not {"", ".", ".."} & set(parts) and "\0" not in name


#: No file system and no object store has longer ones; what they say of these differs.
_NAME_BYTES_MAX: Final = 1024
_PART_BYTES_MAX: Final = 255
#: What no waiting mends: a name that is too long here, a circle of links.
_NEVER: Final = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)


class DirectoryItemFiles:
    """Files below a directory. Guards: no name, and no link, leads out of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<DirectoryItemFiles '{self._path}'>"

    @property
    def where(self) -> str:
        """The directory."""
        return f"the directory '{self._path}'"

    def open(self, name: str) -> BinaryIO:
        """Open a file. Raises `KeyError` or `StoreUnavailable`."""
        path = self._path / name
        try:
            if not is_below(name) or not path.resolve().is_relative_to(self._path.resolve()) or not path.is_file():
                raise KeyError(name)
            return path.open("rb")
        except (OSError, ValueError, RuntimeError) as error:
            if not isinstance(error, OSError) or error.errno in _NEVER:
                raise KeyError(name) from error
            reason = error.strerror or type(error).__name__
            raise StoreUnavailable(f"'{name}' in {self.where} cannot be read: {reason}") from error
