"""Sections: what of a workflow belongs together for a person, as paths such as ``drain/osd-42``. By themselves they run nothing:
what runs at their ends is a node of them (`dyrygentd.core.section_ends`).

Most workflows have few paths and many nodes, so each node has the number of its path, and a graph without sections has nothing.
"""

from array import array
from collections.abc import Sequence
from typing import Final

from dyrygentd.core.bounds import SECTION_DEPTH_MAX, SECTION_LENGTH_MAX
from dyrygentd.errors import BadNode

#: What stands between the parts of a path.
SEPARATOR: Final = "/"
#: Begins what a fold names itself, between the parts of a section.
RESERVED: Final = "~"


class Sections:
    """The section of each node of one graph; immutable.

    Attributes:
        paths: The paths there are, in the order of their first nodes; the first is empty, for nodes without one.
    """

    __slots__ = ("_numbers", "paths")

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.paths: Sequence[str] = ("",)
        self._numbers = array("I")
        if any(given):
            known = {"": 0}
            self._numbers = array("I", [known.setdefault(path, len(known)) for path in given])
            self.paths = tuple(known)

    def __bool__(self) -> bool:
        """Tell whether there is any."""
        return bool(self._numbers)

    def __repr__(self) -> str:
        return f"<Sections {len(self.paths) - 1}>"

    def number(self, node: int) -> int:
        """Return the number of the path of a node."""
        return self._numbers[node] if self._numbers else 0

    def of(self, node: int) -> str:
        """Return the path of a node, empty if it has none."""
        return self.paths[self.number(node)]


def inside(section: str, part: str) -> str:
    """Return the path of a part of a section."""
    return f"{section}{SEPARATOR}{part}" if section else part


def is_in(path: str, section: str) -> bool:
    """Tell whether a path is that of a section or of one in it."""
    return path == section or path.startswith(section + SEPARATOR)


def flaw_of_section(path: str) -> tuple[str, str] | None:
    """Return what is wrong with the path of a section, and what to do about it: ``(words, next step)``."""
    parts = path.split(SEPARATOR)
    if len(path) > SECTION_LENGTH_MAX:
        return f"has {len(path)} characters", f"use {SECTION_LENGTH_MAX} at most"
    if len(parts) > SECTION_DEPTH_MAX:
        return f"has {len(parts)} parts", f"use {SECTION_DEPTH_MAX} at most"
    if not all(part.strip() for part in parts):
        return "has a part without a name", "write it as in drain/osd-42"
    if not path.isprintable():
        # Marks of direction among them, which have a path read as another one.
        return "has characters that cannot be printed", "leave out control characters, marks of direction and odd spaces"
    if any(part.startswith(RESERVED) for part in parts):
        return f"has a part that begins with '{RESERVED}'", "use another character, as folded views begin their own names with it"
    return None


def checked_section(node: str, path: str) -> str:
    """Return the path of a node's section, empty for none. Raises `BadNode`."""
    flaw = flaw_of_section(path) if path else None
    if flaw is not None:
        raise BadNode(node, f"`section` {flaw[0]}", next_step=flaw[1])
    return path
