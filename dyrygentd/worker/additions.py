"""What a task adds, until its success is stored: see `dyrygentd.worker.spawning`."""

import base64
import zlib
from typing import Any, Final

from kombu.exceptions import EncodeError

from dyrygentd.errors import RequestError

#: Of the word that stands first: whether values go behind the task's own, in the list of what follows.
BESIDE: Final = "beside"
BEHIND: Final = "behind"
#: Characters of what is stored; compressed, that is a group of some ten thousand tasks.
_PACKED_MAX: Final = 1024 * 1024
#: Of the value that is stored with it: what is far longer is not read by the daemon, and what was added would be lost.
_VALUE_BYTES_MAX: Final = 16 * 1024 * 1024


class CannotSpawn(RequestError):
    """A task cannot add work here, or not in this way; raised inside the task."""

    status = 409
    code = "cannot-spawn"

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        if next_step:
            self.next_step = next_step


class Adding:
    """What a task that runs has added so far. Guards: what cannot be added is raised at once, and changes nothing.

    Args:
        bytes_max: Of the definition, as the daemon says.
    """

    __slots__ = ("_bytes_max", "_joined", "_packed", "_refusal", "_whole", "_workflow")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._workflow: Any = None
        self._whole: bytes | None = None
        self._joined: list[Any] = []
        self._packed = self._refusal = ""

    def __bool__(self) -> bool:
        return self._workflow is not None or self._whole is not None

    def __repr__(self) -> str:
        return f"<Adding {self._workflow or self._whole!r} joined={len(self._joined)}>"

    def add(self, what: Any, *, is_joined: bool = False) -> None:
        """Take a canvas, a `Workflow` or a definition; ``is_joined``: its value goes behind the task's own."""
        # Tasks that add nothing need none of this.
        from dyrygentd.canvas import Workflow
        from dyrygentd.canvas.parts import is_empty
        from dyrygentd.client.bodies import submission_body

        is_whole = isinstance(what, Workflow | bytes | bytearray) or type(what) is dict
        if (is_whole and self) or self._whole is not None:
            raise CannotSpawn(
                "a task adds either canvases, or one `Workflow` or definition and nothing else",
                next_step="put all of it into one `Workflow`: `workflow.add_canvas(canvas)`",
            )
        if is_whole:
            self._whole = submission_body(what, on_override="call")
        elif is_joined or not is_empty(what):
            workflow = self._workflow or Workflow()
            added = workflow.add_canvas(what)
            self._workflow = workflow
            if is_joined:
                self._joined.append(added)

    def packed(self) -> str:
        """Return what is stored, once nothing more is added. Raises `EncodeError` if it cannot be."""
        if not self._packed and not self._refusal:
            try:
                self._packed = self._pack(self._document() if self._whole is None else self._whole)
            except Exception as error:
                # Also what the user's own `apply_async` raises, which is called as for a submission.
                self._refusal = f"what the task has added {'' if isinstance(error, _TooLong) else 'cannot be run: '}{error}"
        if self._refusal:
            raise EncodeError(self._refusal)
        return self._packed

    def _pack(self, document: bytes) -> str:
        packed = base64.b64encode(zlib.compress(document)).decode()
        for size, most, how in ((len(document), self._bytes_max, ""), (len(packed), _PACKED_MAX, ", compressed")):
            if size > most:
                raise _TooLong(
                    f"has {size} bytes{how}, and {most} is the most: add fewer tasks, pass references to their data, or submit it"
                    " as a workflow of its own"
                )
        return f"{BEHIND if self._joined else BESIDE} {packed}"

    def _document(self) -> bytes:
        from dyrygentd import wire
        from dyrygentd.canvas.builder import draft_of
        from dyrygentd.core.ids import MadeIds

        output = self._workflow.join(self._joined).number if self._joined else None
        made = draft_of(self._workflow).definition(
            name=None, labels={}, key=None, output=output, new_id=MadeIds(), calls_overrides=True
        )
        return wire.encode_definition(made, chosen_ids_only=True)


class _TooLong(Exception):
    """What was added is longer than what can be stored with a success."""


def check_value(value: Any, backend: Any) -> None:
    """Raise `EncodeError` if a value is so long that what was added with it would not be read."""
    size = len(backend.encode(value))
    if size > _VALUE_BYTES_MAX:
        raise EncodeError(f"the task has added work and returns {size} bytes, the most beside it is {_VALUE_BYTES_MAX}")
