"""Values that are kept elsewhere: JSON texts with references in the place of what would be too long to hold in memory.

*The idea.* A value beyond a size is written to a store of its own before the engine hears of it, and what the engine gets is a
short text that names it. It is kept, joined, stored in a row and handed on like any other; whoever needs the value itself (a
message, a result that somebody asks for) has the references filled in, outside of the core.

*What one looks like.* A byte that JSON never has outside of a mistake (control characters in its strings are escaped), the name,
the size, and another such byte. So texts with references can be put together as texts without, and a reference is never taken for
anything else. What comes from outside and holds such a byte is no JSON, and goes no further.

*Tried and rejected.* A class for it beside `bytes`: each place that stores, joins, or passes a value on would have two cases.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

#: Begin and end a reference.
OPEN: Final = b"\x02"
CLOSE: Final = b"\x03"
_REFERENCE: Final = re.compile(rb"\x02([\w.-]+/[\w.-]+):(\d+)\x03")


class Reference(NamedTuple):
    """Where a value is kept, and how long it is.

    Attributes:
        name: ``{workflow id}/{file}``.
        size: Bytes of the JSON text.
    """

    name: str
    size: int

    @property
    def workflow_id(self) -> str:
        """Whose value it is."""
        return self.name.partition("/")[0]

    @property
    def text(self) -> "Referring":
        """The text that stands for the value."""
        return Referring(b"%b%b:%d%b" % (OPEN, self.name.encode(), self.size, CLOSE))


class Referring(bytes):
    """A JSON text with references in it. It is told from others by its type, so that nobody has to look through them."""

    __slots__ = ()


def as_kept(text: bytes) -> bytes:
    """Return a text that was read back, of the type that it has in memory."""
    return Referring(text) if OPEN in text else text


def references_in(text: bytes) -> Iterator[Reference]:
    """Yield the references in a text, one as often as it stands there."""
    for name, size in _REFERENCE.findall(text):
        yield Reference(name.decode(), int(size))


def size_of(text: bytes) -> int:
    """Return how long a text is once its references are filled in."""
    if type(text) is not Referring:
        return len(text)
    return len(_REFERENCE.sub(b"", text)) + sum(reference.size for reference in references_in(text))


def pieces_of(text: bytes) -> Iterator[bytes | Reference]:
    """Yield what a text is made of: JSON as it is, and references."""
    end = 0
    for found in _REFERENCE.finditer(text):
        if found.start() > end:
            yield text[end : found.start()]
        yield Reference(found[1].decode(), int(found[2]))
        end = found.end()
    if end < len(text):
        yield text[end:]
