"""Which finished workflows stay, and which are deleted: by their number, their age and their bytes.

What is said of a workflow is of one that somebody submitted: its children go with it, and not before.
"""

import json
import logging
import math
from typing import Any, Final

import aiosqlite

from dyrygentd.ports.facts import Retention
from dyrygentd.store.rows import DELETE, TO_EXPIRE, TO_PRUNE, USED_BYTES, utf8

logger = logging.getLogger("dyrygentd.store")

#: Finished workflows kept for `list` and `show`; the oldest go first.
HISTORY_MAX: Final = 20_000
#: Finished workflows deleted in one transaction beyond those that ended in it, so that cleaning up never holds a turn for long.
_PRUNED_PER_SAVE: Final = 5
#: Finished workflows kept from being deleted because they were read to go on; the oldest go first, should nothing come of it.
_KEPT_MAX: Final = 100


class History:
    """Deletes, over a connection whose transaction somebody else begins and ends. Guards: what was read to go on stays.

    Args:
        most: Finished workflows to keep.

    Attributes:
        finished: How many there are.
        kept: Those that were read to go on.
    """

    def __init__(self, most: int) -> None:
        self.finished = 0
        self.kept: dict[str, None] = {}
        self._most = most
        self._is_crowded = False

    def __repr__(self) -> str:
        return f"<History finished={self.finished} of={self._most} kept={len(self.kept)}>"

    async def keep(self, writer: aiosqlite.Connection, workflow_id: str) -> bool:
        """Keep a workflow from being deleted; tell whether it is there."""
        self.kept[workflow_id] = None
        while len(self.kept) > _KEPT_MAX:
            del self.kept[next(iter(self.kept))]
        # Over the writer's connection: a transaction that deletes it already is seen, and a later one leaves it alone.
        found = bool([*await writer.execute_fetchall("SELECT 1 FROM workflows WHERE id = ?", (utf8(workflow_id),))])
        if not found:
            self.let_go(workflow_id)
        return found

    def let_go(self, workflow_id: str) -> None:
        """Keep it no longer."""
        self.kept.pop(workflow_id, None)

    async def prune(self, writer: aiosqlite.Connection, more: int) -> int:
        """Delete the oldest finished workflows if there are too many, some beside the ``more`` of this save; return how many."""
        surplus = min(max(0, more) + _PRUNED_PER_SAVE, self.finished + more - self._most)
        if surplus <= 0:
            return 0
        return await _delete(writer, TO_PRUNE, json.dumps([*self.kept]), surplus)

    async def expire(self, writer: aiosqlite.Connection, retention: Retention, *, limit: int) -> int:
        """Delete the oldest that are not to be kept any more, ``limit`` at most; return how many."""
        since = retention.succeeded_since, retention.others_since
        used_bytes = 0
        if retention.bytes_max:
            ((used_bytes,),) = await writer.execute_fetchall(USED_BYTES)
            since = (math.inf, math.inf) if used_bytes > retention.bytes_max else since
        deleted = await _delete(writer, TO_EXPIRE, *since, *since, json.dumps([*self.kept]), limit)
        is_crowded = math.isinf(since[0]) and not deleted
        if is_crowded and not self._is_crowded:
            logger.warning(
                "%d bytes of the database are in use, more than `history_bytes_max`, and no finished workflow is left to delete",
                used_bytes,
            )
        self._is_crowded = is_crowded
        return deleted


async def _delete(writer: aiosqlite.Connection, chosen: str, *values: Any) -> int:
    """Delete the workflows that a query chooses, with all that are below them; return how many it has chosen."""
    roots = [workflow_id for (workflow_id,) in await writer.execute_fetchall(chosen, values)]
    if roots:
        await writer.execute(DELETE, (json.dumps(roots), json.dumps(roots)))
    return len(roots)
