"""Names that no queue, exchange or routing key may have: keys of kombu, of Celery and of ours.

On Redis a queue is a list under its own name, beside everything else that is kept there. A message that is pushed to
``unacked_index`` before a worker has made it makes a list of it, and every worker then ends with the first message it reserves;
a task that is sent to ``…pidbox`` goes to the workers' remote control. So these names are refused wherever a client can give one,
in nested signatures too, and once more where a message is put.
"""

import re
from typing import Final

#: Bytes of a short string of AMQP.
_BYTES_MAX: Final = 255
#: At any place where a prefix may stand before them, since two deployments may share one database.
_RESERVED: Final = re.compile(
    r"unacked.*"
    r"|.*unacked(?:_index|_mutex)?"
    r"|.*_kombu\..*"
    r"|.*\.pidbox"
    r"|celeryev.*"
    r"|.*dyrygentd:.*"
    r"|.*celery-task(?:set)?-meta-.*"
    r"|.*chord-unlock-.*"
)


def is_reserved(name: str) -> bool:
    """Tell whether something else than a queue has this name."""
    return _RESERVED.fullmatch(name) is not None


def flaw_of_name(name: str) -> str:
    """Return what is wrong with the name of a queue, an exchange or a routing key; empty if nothing is."""
    # Unprintable are control characters, kombu's own separator among them, marks of direction, and halves of characters.
    if not name.isprintable():
        return "has characters that cannot be printed"
    if len(name.encode()) > _BYTES_MAX:
        return f"has more than {_BYTES_MAX} bytes"
    if is_reserved(name):
        return "is the name of a key of kombu's, Celery's or the daemon's own"
    return ""
