"""Keeps large values wherever fsspec reaches, which comes with the extra `values`.

*Durable.* An object store has a text when it has answered.

*Names.* A text gets a name that was never used, so nothing here depends on what is seen first, an old text or a new one.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from dyrygentd.errors import ConfigurationError, StoreUnavailable
from dyrygentd.store.item_files import is_below


class _Remote:
    """What is below an address.

    Args:
        address: As fsspec takes it, such as ``s3://bucket/path``, ``gs://…``, ``memory://``.
        setting: Who names it.

    Raises:
        ConfigurationError: fsspec is not there, or knows no such address.
    """

    def __init__(self, address: str, setting: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise ConfigurationError(
                f"'{setting}' is an address, and {error.name or 'fsspec'} is not installed",
                next_step="pip install 'dyrygentd[values]'",
            ) from error
        scheme = urlsplit(address).scheme
        try:
            self._files, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"'{setting}' begins with '{scheme}://', and cannot be used: {error}") from error
        self._root = str(root).rstrip("/")
        self._scheme = scheme

    @property
    def where(self) -> str:
        """The address, without who asks."""
        return f"'{self._scheme}://{self._root.rpartition('@')[2].lstrip('/')}'"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class RemoteItemFiles(_Remote):
    """Files below an address."""

    def __init__(self, address: str) -> None:
        super().__init__(address, "map_files")

    def __repr__(self) -> str:
        return f"<RemoteItemFiles {self.where}>"

    def open(self, name: str) -> BinaryIO:
        """Open a file. Raises `KeyError` or `StoreUnavailable`."""
        if not is_below(name):
            raise KeyError(name)
        try:
            # Its own reads whole lines only, of any length.
            return io.BufferedReader(self._files.open(self._path(name), "rb"))
        except FileNotFoundError:
            raise KeyError(name) from None
        except Exception as error:
            raise StoreUnavailable(f"'{name}' at {self.where} cannot be read: {_words(error)}") from error


class RemoteValues(_Remote):
    """Keeps texts below an address."""

    def __init__(self, address: str) -> None:
        super().__init__(address, "value_store")

    def __repr__(self) -> str:
        return f"<RemoteValues {self.where}>"

    def write(self, name: str, text: bytes) -> None:
        """Keep a text. Raises `StoreUnavailable`."""
        path = self._path(name)
        try:
            if self._scheme in ("file", "local", "memory", "sftp", "ssh", "smb"):
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, text)
        except Exception as error:
            # Each library below fsspec has errors of its own.
            raise self._unavailable("written", error) from error

    def read(self, name: str) -> bytes:
        """Return a text. Raises `KeyError` or `StoreUnavailable`."""
        try:
            return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            raise KeyError(name) from None
        except Exception as error:
            raise self._unavailable("read", error) from error

    def delete(self, names: Sequence[str]) -> None:
        """Delete texts. Raises `StoreUnavailable`."""
        for name in names:
            try:
                self._files.rm_file(self._path(name))
            except FileNotFoundError:
                continue
            except Exception as error:
                raise self._unavailable("deleted", error) from error

    def find(self, database: str) -> Iterator[tuple[str, int]]:
        """Yield what there is of one database. Raises `StoreUnavailable`."""
        root = self._path(database)
        try:
            found: Any = self._files.find(root, detail=True)
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._unavailable("listed", error) from error
        for path, facts in found.items():
            yield f"{database}/{str(path).rpartition(f'{database}/')[2]}", int(facts.get("size") or 0)

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"values cannot be {what} at {self.where}: {_words(error)}")


def _words(error: Exception) -> str:
    return f"{str(error) or type(error).__name__:.300}"
