"""The ports to where large values are kept, beside the database, and to files that maps go over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol


class ValueStore(Protocol):
    """Keeps texts under names. All of it blocks, and is called in threads, from several at a time.

    A name is ``{database}/{workflow}/{file}``; each text gets a name that was never used before, so none is ever changed.
    What cannot be done now, and may be later, raises `StoreUnavailable`.
    """

    @property
    def where(self) -> str:
        """Where it is, in words for people, without secrets."""
        ...

    def write(self, name: str, text: bytes) -> None:
        """Keep a text. When this returns it outlasts the power, and everybody who shares the store can read it."""

    def read(self, name: str) -> bytes:
        """Return a text. Raises `KeyError` if it is not there."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete texts; those that are not there are deleted already."""

    def find(self, database: str) -> Iterator[tuple[str, int]]:
        """Yield what is kept of one database, and its bytes; what writing left behind that never ended is deleted."""
        ...


class ItemFiles(Protocol):
    """Files that others have written, each with an item a line. All of it blocks, and is called in threads."""

    @property
    def where(self) -> str:
        """Where they are, in words for people, without secrets."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file to be read. Raises `KeyError` if there is none of this name here, else `StoreUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class ValuesStatistics:
    """A snapshot of what is kept beside the database.

    Attributes:
        stored_values, stored_value_bytes: What is kept.
        stored_values_waiting: Ends of tasks that wait until their value is written.
        stored_values_written, stored_values_failed: How many were written, and how many could not be.
    """

    stored_values: int = 0
    stored_value_bytes: int = 0
    stored_values_waiting: int = 0
    stored_values_written: int = 0
    stored_values_failed: int = 0
