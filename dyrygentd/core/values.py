"""Values of nodes: JSON texts that are never copied to make a longer one, and how many bytes of them may be kept.

*By reference.* What a join, a gate or a pause hands on is made of the values of its dependencies, so it is kept as that: a list
of references, of which the text is made when a message needs it. Two hundred joins after one value of 8 MB cost a few
kilobytes. In the database such a node has no value of its own either; its dependencies keep theirs as long as it is needed, and
after a restart it is made of them again.

*Bounds.* Each value has a bound of its own; the values that a workflow keeps for nodes to come have one together, and so have
those of all workflows. What would pass it is refused by name. The bound for all hits those first who keep the most: an owner
who keeps less than an equal share is not refused, so that all together are a small multiple of the bound in the worst case.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final

from dyrygentd.core.references import Reference, Referring, size_of

#: Shorter inputs are put together at once: looking them up later would cost more.
INLINE_BYTES: Final = 64 * 1024


class Joined:
    """A text that is made of others: one of them, or a JSON list of all. Immutable.

    Attributes:
        is_referring: Whether there are references in it; then its length is that of the text with them filled in.
    """

    __slots__ = ("_is_list", "_parts", "_size", "is_referring")

    def __init__(self, parts: "Sequence[bytes | Joined]", *, is_list: bool) -> None:
        self._parts = tuple(parts)
        self._is_list = is_list
        size = sum(map(len, self._parts))
        self.is_referring = any(map(is_referring, self._parts))
        if self.is_referring:
            size = sum(size_of(part) if isinstance(part, bytes) else len(part) for part in self._parts)
        self._size = size + max(2, len(self._parts) + 1) if is_list else size

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<Joined {len(self._parts)} parts, {self._size} bytes>"

    def __bytes__(self) -> bytes:
        pieces: list[bytes] = []
        stack: list[bytes | Joined] = [self]
        while stack:
            text = stack.pop()
            if isinstance(text, bytes):
                pieces.append(text)
            elif text._is_list:
                stack.append(b"]")
                for number in range(len(text._parts) - 1, -1, -1):
                    stack.append(text._parts[number])
                    if number:
                        stack.append(b",")
                stack.append(b"[")
            else:
                stack.extend(reversed(text._parts))
        return b"".join(pieces)


Text = bytes | Joined


def is_referring(text: Text) -> bool:
    """Tell whether there are references in a text."""
    return type(text) is Referring or (type(text) is Joined and text.is_referring)


def as_one(text: Text) -> bytes:
    """Return a text in one piece, with its references."""
    return Referring(bytes(text)) if is_referring(text) else bytes(text)


def taken_from(contents: Sequence[Text], *, is_list: bool) -> Text:
    """Return what is made of these values; one that is handed on as it is stays the same object."""
    return contents[0] if not is_list and isinstance(contents[0], bytes) else Joined(contents, is_list=is_list)


class Value:
    """A value that somebody still needs, and how many do.

    Attributes:
        is_derived: Whether it is made of values that others keep.
    """

    __slots__ = ("is_derived", "text", "users")

    def __init__(self, text: Text, users: int) -> None:
        self.text = text
        self.users = users
        self.is_derived = isinstance(text, Joined)

    @property
    def content(self) -> bytes:
        """The JSON text."""
        return bytes(self.text)


class ValueBudget:
    """How many bytes of values are kept. Guards: whoever is let through knows that there is room.

    Args:
        workflow_bytes_max, bytes_max: For one workflow, and for all of them.
        why_here: Tells why values are kept here that could be kept elsewhere, or how they could be.

    Attributes:
        bytes: Kept now, in all workflows.
        refused: How many values were refused.
        released: Names of values that are kept elsewhere, and that nobody needs any more once what was decided is durable.
    """

    __slots__ = ("_by_owner", "_offered", "_why_here", "bytes", "bytes_max", "refused", "released", "workflow_bytes_max")

    def __init__(
        self,
        workflow_bytes_max: int = 256 * 1024 * 1024,
        bytes_max: int = 1024 * 1024 * 1024,
        why_here: Callable[[], str] = str,
    ) -> None:
        self.workflow_bytes_max = workflow_bytes_max
        self.bytes_max = bytes_max
        self.bytes = self.refused = 0
        self._why_here = why_here
        self.released: list[str] = []
        self._offered: set[str] = set()
        self._by_owner: dict[Hashable, int] = {}

    def __repr__(self) -> str:
        return f"<ValueBudget bytes={self.bytes} refused={self.refused} released={len(self.released)}>"

    def offer(self, references: Iterable[Reference]) -> None:
        """Note values that were written elsewhere, each under a name of its own; those that nobody keeps are released."""
        self._offered.update(reference.name for reference in references)

    def taken(self, name: str) -> None:
        """Note that somebody keeps a value that is elsewhere."""
        self._offered.discard(name)

    def take_released(self) -> list[str]:
        """Return the names of values elsewhere that nobody needs any more, and forget them."""
        released, self.released = [*self.released, *self._offered], []
        self._offered.clear()
        return released

    def add(self, owner: Hashable, size: int) -> None:
        """Take note of bytes that are kept from now on, or no more."""
        self.bytes += size
        by_owner = self._by_owner
        kept = by_owner[owner] = by_owner.get(owner, 0) + size
        if not kept:
            del by_owner[owner]

    def refusal(self, owner: Hashable, kept: int, size: int) -> str:
        """Return why ``size`` more bytes may not be kept for a workflow that keeps ``kept``; empty if they may."""
        if kept + size > self.workflow_bytes_max:
            self.refused += 1
            return (
                f"the value has {size} bytes of JSON, and its workflow keeps {kept} for nodes to come; the limit is"
                f" {self.workflow_bytes_max}: pass references to the data instead, or raise `workflow_values_bytes_max`"
                f"{self._why_here()}"
            )
        if self.bytes + size > self.bytes_max:
            own = self._by_owner.get(owner, 0)
            owners = len(self._by_owner) + (owner not in self._by_owner)
            if own + size > self.bytes_max // owners:
                self.refused += 1
                return (
                    f"the value has {size} bytes of JSON, and all workflows keep {self.bytes} for nodes to come, {own} of them"
                    f" this owner's; the limit is {self.bytes_max}: pass references to the data, or raise `values_bytes_max`"
                    f"{self._why_here()}"
                )
        return ""


def in_order(nodes: Iterable[int], dependencies: Callable[[int], Iterable[int]]) -> list[int]:
    """Return these nodes so that each comes after those of them on which it depends."""
    left, order = set(nodes), list[int]()
    for first in sorted(left):
        stack = [first]
        while stack:
            node = stack[-1]
            if node not in left:
                stack.pop()
                continue
            before = [other for other in dependencies(node) if other in left]
            if before:
                stack.extend(before)
            else:
                left.discard(node)
                order.append(stack.pop())
    return order
