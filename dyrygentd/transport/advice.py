"""What to do about an answer of a Redis server that keeps us from our work."""

import re
from typing import Final

_ADVICE: Final = (
    (r"maxmemory", "it is full: give it more memory, or free some"),
    (r"READONLY|read only replica|replica with a down", "it is a replica: name the primary in the URL, or promote it"),
    (
        r"NOAUTH|WRONGPASS|HELLO must be called|invalid username-password|Authentication required",
        "user or password of the URL are not accepted: correct the URL and restart, or change them back",
    ),
    (
        r"NOPERM|no permissions",
        "its ACL forbids that to our user: allow it, and `+@all ~*` is what Celery's workers need as well",
    ),
    (r"max number of clients", "it has too many clients: raise its `maxclients`, or find out who they are (`CLIENT LIST`)"),
    (r"LOADING|loading the dataset", "it is reading its data: wait"),
    (r"MISCONF", "it cannot save to its disk: look at its log"),
)


def with_advice(text: str) -> str:
    """Add to what a server or a client library says what can be done about it, if that is known."""
    for pattern, advice in _ADVICE:
        if re.search(pattern, text):
            return f"{text}; {advice}"
    return text
