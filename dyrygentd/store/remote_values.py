"""Keeps large values wherever fsspec reaches, which comes with the extra `values`.

*Durable.* An object store has a text when it has answered.

*Names.* A text gets a name that was never used, so nothing here depends on what is seen first, an old text or a new one.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from dyrygentd.errors import ConfigurationError, StoreUnavailable


class RemoteValues:
    """Keeps texts below an address.

    Args:
        address: As fsspec takes it, such as ``s3://bucket/path``, ``gs://…``, ``memory://``.

    Raises:
        ConfigurationError: fsspec is not there, or knows no such address.
    """

    def __init__(self, address: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise ConfigurationError(
                f"'value_store' is an address, and {error.name or 'fsspec'} is not installed",
                next_step="pip install 'dyrygentd[values]'",
            ) from error
        scheme = urlsplit(address).scheme
        try:
            self._files, self._root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"'value_store' begins with '{scheme}://', and cannot be used: {error}") from error
        self._root = str(self._root).rstrip("/")
        self._scheme = scheme

    def __repr__(self) -> str:
        return f"<RemoteValues '{self.where}'>"

    @property
    def where(self) -> str:
        """The address, without who asks."""
        return f"'{self._scheme}://{self._root.rpartition('@')[2].lstrip('/')}'"

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

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _unavailable(self, what: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"values cannot be {what} at {self.where}: {str(error) or type(error).__name__!s:.300}")
