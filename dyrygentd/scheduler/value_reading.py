"""Reads values back that are kept elsewhere: for messages that are about to be sent, and for whoever asks for a result.

They are read in threads, a few at a time, and for messages never more of them together than `_FILLED_MAX` bytes and the last one.
A value that is gone is told by name. One that cannot be read just now keeps its own message waiting, and no other.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from dyrygentd.core.effects import Publish
from dyrygentd.core.events import MessageRefused
from dyrygentd.core.records import NodeRecord
from dyrygentd.core.references import OPEN, Reference, as_kept, pieces_of, size_of
from dyrygentd.core.values import is_referring
from dyrygentd.errors import OutsideError, RequestError, StoreUnavailable
from dyrygentd.ports.facts import Stored
from dyrygentd.ports.values import ValueStore

#: Bytes of values that are read for messages at one time.
_FILLED_MAX: Final = 32 * 1024 * 1024
#: Bytes of values in an export, which is made in one piece.
_EXPORTED_MAX: Final = 64 * 1024 * 1024
#: Values that are read at one time, for messages and for those who ask.
_READ_AT_ONCE: Final = 4

T = TypeVar("T")


def _texts_of(node: NodeRecord) -> Sequence[bytes]:
    """Return what of a stored node may have references in it."""
    return node.value or b"", node.behind.encode(), *(text.encode() for text in node.added if text)


class ValueLost(OutsideError):
    """A value is not where it was kept."""

    code = "value-lost"
    next_step = "rerun the node that made it; what `value_store` names belongs to the database, and is copied and shared with it"


class ValuesTooLong(RequestError):
    """A workflow keeps more beside the database than fits into one document."""

    status = 413
    code = "values-too-long"
    next_step = "copy the database and what `value_store` names instead"

    def __init__(self, workflow_id: str, size: int, size_max: int) -> None:
        super().__init__(f"values of workflow '{workflow_id}' have {size} bytes, and an export has {size_max} at most")
        self.workflow_id = workflow_id
        self.size = size
        self.size_max = size_max


class Filled(NamedTuple):
    """Messages with what they are given.

    Attributes:
        messages: Those that can be sent.
        refused: Those that never can be.
        problem: Why the others cannot be sent now; empty if there was only not enough room for all.
    """

    messages: Sequence[Publish]
    refused: Sequence[MessageRefused] = ()
    problem: str = ""


class ValueReading:
    """Fills references in. Guards: what it holds in memory at one time is bounded.

    Args:
        values: Where they are kept; None if nowhere, so that none can be read.
        database: Returns the identity of the database whose values they are.
    """

    def __init__(self, values: ValueStore | None, database: Callable[[], str]) -> None:
        self.problem = ""
        self._values = values
        self._database = database
        self._limiter: anyio.CapacityLimiter | None = None

    def __repr__(self) -> str:
        return f"<ValueReading {self._values!r} problem={self.problem!r}>"

    async def text(self, text: bytes) -> bytes:
        """Return a text with its references filled in. Raises `ValueLost` or `StoreUnavailable`."""
        return await self._in_thread(self._filled, text) if OPEN in text else text

    async def stored(self, stored: Stored) -> Stored:
        """Return what is stored of a workflow with its values in it. Raises as `text` does, or `ValuesTooLong`."""
        record, far = stored.record, [text for node in stored.nodes for text in _texts_of(node) if OPEN in text]
        result = record.result or b""
        if not far and OPEN not in result:
            return stored
        size = sum(size_of(as_kept(text)) for text in (result, *far))
        if size > _EXPORTED_MAX:
            raise ValuesTooLong(record.workflow_id, size, _EXPORTED_MAX)
        nodes = [await self._written_out(node) for node in stored.nodes]
        return replace(stored, record=replace(record, result=record.result and await self.text(result)), nodes=nodes)

    async def _written_out(self, node: NodeRecord) -> NodeRecord:
        if not any(OPEN in text for text in _texts_of(node)):
            return node
        added = node.added
        if added:
            kind, document, value, error = added
            document = (await self.text(document.encode())).decode()
            added = kind, document, value and (await self.text(value.encode())).decode(), error
        return node._replace(
            value=node.value and await self.text(node.value),
            behind=(await self.text(node.behind.encode())).decode(),
            added=added,
        )

    async def fill(self, messages: Sequence[Publish]) -> Filled:
        """Fill the inputs of messages in, as many as there is room for at one time; the others are to be given again."""
        far = [message for message in messages if message.input is not None and is_referring(message.input)]
        if not far:
            return Filled(messages)
        near = [message for message in messages if message.input is None or not is_referring(message.input)]
        filled = await self._in_thread(self._fill, far)
        self.problem = filled.problem
        return filled._replace(messages=[*near, *filled.messages])

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_READ_AT_ONCE)
        return await anyio.to_thread.run_sync(work, *args, limiter=self._limiter)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _fill(self, messages: Sequence[Publish]) -> Filled:
        found, refused, size = list[Publish](), list[MessageRefused](), 0
        # Members of a group are given the same value.
        last: tuple[object, bytes] = (None, b"")
        for message in messages:
            assert message.input is not None
            if found and size + len(message.input) > _FILLED_MAX:
                break
            try:
                text = last[1] if last[0] is message.input else self._filled(bytes(message.input))
            except ValueLost as error:
                refused.append(MessageRefused(message.task_id, error.message))
            except StoreUnavailable as error:
                return Filled(found, refused, error.message)
            else:
                size += 0 if last[0] is message.input else len(text)
                last = message.input, text
                found.append(message._replace(input=text))
        return Filled(found, refused)

    def _filled(self, text: bytes) -> bytes:
        return b"".join(piece if isinstance(piece, bytes) else self._read(piece) for piece in pieces_of(text))

    def _read(self, reference: Reference) -> bytes:
        """Return a value. Raises `ValueLost` or `StoreUnavailable`."""
        what = f"a value of {reference.size} bytes of workflow {reference.workflow_id}"
        if self._values is None:
            raise ValueLost(f"{what} is kept elsewhere, and `value_store` names no place")
        try:
            text = self._values.read(f"{self._database()}/{reference.name}")
        except KeyError:
            raise ValueLost(f"{what} is gone: '{reference.name}' is not in {self._values.where}") from None
        if len(text) != reference.size:
            raise ValueLost(f"{what} is damaged: '{reference.name}' in {self._values.where} has {len(text)} bytes")
        return text
