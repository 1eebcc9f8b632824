"""Where a message goes, and the text by which that is remembered with an attempt until its end."""

import json
from typing import Final, NamedTuple

#: Tasks of a workflow whose usual destination is kept once for all their nodes; those of further tasks are kept by the node.
ROUTES_MAX: Final = 100
_WORDS: Final = 4


class Destination(NamedTuple):
    """Where a message goes: straight into a queue if there is no exchange, else to the queues bound to it."""

    queue: str
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""

    @property
    def text(self) -> str:
        """Return what is remembered: the queue alone where that is all, which it nearly always is."""
        return json.dumps(self) if self.exchange or _is_list(self.queue) else self.queue


def destination_of(text: str) -> Destination | None:
    """Read what was remembered; None if nothing was."""
    if not text:
        return None
    if not _is_list(text):
        return Destination(text, "", "direct", text)
    return Destination(*json.loads(text)[:_WORDS])


def queue_of(text: str) -> str:
    """Return the queue's name, for counting; empty if it is not known."""
    return text if not _is_list(text) else str(json.loads(text)[0])


def _is_list(text: str) -> bool:
    return text.startswith("[")
