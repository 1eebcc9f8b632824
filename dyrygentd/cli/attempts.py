"""The attempts of a node as a table: when each was sent, began and ended, what was before it, and how it ended."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from dyrygentd.cli import render
from dyrygentd.cli.times import head, in_column

if TYPE_CHECKING:
    from dyrygentd import wire

_ERROR: Final = 100
_COLUMNS: Final = ("ATTEMPT", "SENT", "STARTED", "ENDED", "PAUSED", "WAITED", "RAN", "WORKER", "HOW IT ENDED")
_SOME: Final = ("STARTED", "PAUSED", "WORKER")
#: States of a node whose attempt has not ended.
_UNDER_WAY: Final = ("dispatching", "dispatched")


def lines(attempts: "Sequence[wire.AttemptView]", left_out: int, *, now: float | None = None) -> Iterator[str]:
    """Return a table of attempts; of what nobody told there is nothing.

    Args:
        left_out: How many were before these.
    """
    now = time.time() if now is None else now
    if not attempts:
        return
    rows = [_row(attempt, now) for attempt in attempts]
    # What no worker tells, and pauses of what was never tried again, need no column.
    shown = [place for place, name in enumerate(_COLUMNS) if name not in _SOME or any(row[place] for row in rows)]
    heads = [head(_COLUMNS[place]) if place == 1 else _COLUMNS[place] for place in shown]
    if left_out:
        yield f"{render.number(left_out, 'earlier attempt')}, not kept one by one"
    yield render.table(heads, [[row[place] for place in shown] for row in rows])
    # That of the last one is told beside what is told of the node.
    earlier = [f"log of attempt {attempt.number}: {render.visible(attempt.logs)}" for attempt in attempts[:-1] if attempt.logs]
    if earlier:
        yield "\n".join(earlier)


def _row(attempt: "wire.AttemptView", now: float) -> tuple[str, ...]:
    begun = attempt.started_at or attempt.sent_at
    is_under_way = attempt.state in _UNDER_WAY
    ended = "" if is_under_way else f"{attempt.state}: {attempt.error}" if attempt.error else attempt.state
    return (
        str(attempt.number),
        in_column(attempt.sent_at),
        "" if attempt.started_at is None else in_column(attempt.started_at),
        "" if attempt.ended_at is None else in_column(attempt.ended_at),
        render.short_span(attempt.backoff_s) if attempt.backoff_s else "",
        render.short_span(attempt.waited_s) if attempt.waited_s else "",
        render.short_span(max(0.0, (attempt.ended_at or now) - begun)),
        attempt.worker,
        render.within(render.inline(ended), _ERROR) if ended else "under way",
    )
