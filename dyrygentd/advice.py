"""What to do about an answer of a Redis server that keeps us from our work."""

import re
from typing import Final, NamedTuple


class _Advice(NamedTuple):
    """What an answer means.

    Attributes:
        answer: A pattern of it.
        words: What is the matter, and what can be done, in short.
        step: What to do first, with ``{server}`` for the server; empty where the words say all.
        afterwards: What to look after when that is done.
    """

    answer: str
    words: str
    step: str = ""
    afterwards: str = ""


_LOOK_AFTER_WORKERS: Final = "see that the workers still run: Celery's may have ended with an error"
#: What Redis and (without the digest) Valkey add for whoever wrote a script.
_OF_SCRIPT: Final = re.compile(r"\.? script: (?:[0-9a-f]{40}, )?on @user_\w+:\d+\.?")

_ADVICE: Final = (
    _Advice(
        r"maxmemory",
        "it is full: give it more memory, or free some",
        "give {server} more memory (`redis-cli CONFIG SET maxmemory BYTES`, and `maxmemory` in its configuration), or free some",
        _LOOK_AFTER_WORKERS,
    ),
    _Advice(
        r"READONLY|read only replica|replica with a down|MASTERDOWN|MASTER is down",
        "it is a replica: name the primary in the URL, or promote it",
        "promote {server} (`redis-cli REPLICAOF NO ONE`) if it is to be the primary; if not, name the primary in the URL of"
        " daemon and workers, and restart them",
        _LOOK_AFTER_WORKERS,
    ),
    _Advice(
        r"NOREPLICAS|Not enough good replicas",
        "it takes nothing without its replicas: bring them back, or lower its `min-replicas-to-write`",
        "bring the replicas of {server} back, or `redis-cli CONFIG SET min-replicas-to-write 0`",
        _LOOK_AFTER_WORKERS,
    ),
    _Advice(
        r"NOAUTH|WRONGPASS|HELLO must be called|invalid username-password|Authentication required",
        "user or password of the URL are not accepted: correct the URL and restart, or change them back",
    ),
    _Advice(
        r"NOPERM|[Nn]o permissions",
        "its ACL forbids that to our user: allow it, keys (`~…`) and channels (`&…`);"
        " dyrygentd/transport/README.md has the least that is needed",
    ),
    _Advice(
        r"Error 13 |Permission denied",
        "its socket, or the directory of it, is closed to this user; that of the daemon's own broker is for the daemon's user"
        " alone, since whoever may talk to a broker may run anything: `sudo -u dyrygent …`",
    ),
    _Advice(
        r"max number of clients",
        "it has too many clients: raise its `maxclients`, or find out who they are (`CLIENT LIST`)",
        "raise `maxclients` of {server} (`redis-cli CONFIG SET maxclients N`), or end some clients (`redis-cli CLIENT LIST`)",
    ),
    _Advice(r"LOADING|loading the dataset", "it is reading its data: wait", "wait until {server} has read its data"),
    _Advice(
        r"MISCONF",
        "it cannot save to its disk: look at its log",
        "make the disk of {server} work (its log says what is wrong)",
        _LOOK_AFTER_WORKERS,
    ),
)


def with_advice(text: str) -> str:
    """Add to what a server or a client library says what can be done about it, if that is known."""
    text, advice = _OF_SCRIPT.sub("", text), _advice_on(text)
    return text if advice is None else f"{text.rstrip('.')}; {advice.words}"


def step_after(text: str, server: str, then: str) -> str:
    """Return what to do about a server of which this was said, and what comes of it; empty if nothing special is known."""
    advice = _advice_on(text)
    if advice is None or not advice.step:
        return ""
    afterwards = f"; {advice.afterwards}" if advice.afterwards else ""
    return f"{advice.step.format(server=server)}: {then}{afterwards}"


def _advice_on(text: str) -> _Advice | None:
    return next((advice for advice in _ADVICE if re.search(advice.answer, text)), None)
