"""Lists of maps that stand in a file, an item a line: what precedes a map, or its `over`, is ``{"json_lines": NAME}`` then.

Only files below what `map_files` names are read: who may submit must not have the daemon read any other. A file is read line by
line, in a thread, up to the bound of a value; what is wrong with it is told with the number of its line.
"""

from collections.abc import Sequence
from typing import Any

import anyio
import anyio.to_thread

from dyrygentd.core.bounds import NODES_ACCEPTED_MAX
from dyrygentd.core.policy import Child
from dyrygentd.errors import BadRequest
from dyrygentd.ports.values import ItemFiles
from dyrygentd.wire.encoding import decode_any
from dyrygentd.wire.over import JSON_LINES, file_of, over_item, value_over


class ItemLists:
    """Reads them.

    Args:
        files: Where they are; None if nobody has said.
    """

    def __init__(self, files: ItemFiles | None) -> None:
        self._files = files
        # Each may have as many bytes as a value.
        self._one_at_a_time: anyio.CapacityLimiter | None = None

    def __repr__(self) -> str:
        return f"<ItemLists {self._files!r}>"

    async def written_out(
        self, child: Child, given: bytes | None, after: Sequence[str], *, bytes_max: int
    ) -> tuple[Child, bytes | None]:
        """Return a map with the list in it that a file has, and no value; or what was given, if it names no file.

        Args:
            given, after: As for `dyrygentd.wire.over.value_over`.

        Raises:
            BadRequest: There is no such file, or it has no such list.
            StoreUnavailable: It cannot be read just now.
        """
        if JSON_LINES.encode() not in (child.document if given is None else given):
            return child, given
        name = file_of(value_over(child, given, after))
        if name is None:
            return child, given
        if self._one_at_a_time is None:
            self._one_at_a_time = anyio.CapacityLimiter(1)
        items = await anyio.to_thread.run_sync(self._read, name, bytes_max, limiter=self._one_at_a_time)
        return over_item(child, items), None

    def _read(self, name: str, bytes_max: int) -> bytes:
        if self._files is None:
            raise BadRequest(
                f"the list of a map is in a file, '{name}', and `map_files` names no place for such",
                next_step="set `map_files` to the directory or address that such files are below",
            )
        try:
            file = self._files.open(name)
        except KeyError:
            raise BadRequest(
                f"there is no file '{name}' in {self._files.where}",
                next_step="name one below it: `map_files` says where it is",
            ) from None
        with file:
            return b"[%b]" % b",".join(_lines_of(file, name, bytes_max))


def _lines_of(file: Any, name: str, bytes_max: int) -> list[bytes]:
    lines, left, number = list[bytes](), bytes_max, 0
    # A line too long is not read to its end.
    while line := file.readline(left + 1):
        number += 1
        left -= len(line)
        if left < 0:
            raise BadRequest(
                f"line {number} of '{name}' ends beyond the {bytes_max} bytes that a value has at most",
                next_step="split the file, have its lines name what is large, or raise `value_bytes_max`",
            )
        item = line.strip()
        if not item:
            continue
        if len(lines) >= NODES_ACCEPTED_MAX:
            raise BadRequest(f"'{name}' has more than {NODES_ACCEPTED_MAX:,} items")
        try:
            decode_any(item, Any)
        except BadRequest as error:
            raise BadRequest(f"line {number} of '{name}' is no JSON: {error.message}") from None
        lines.append(item)
    return lines
