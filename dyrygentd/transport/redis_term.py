"""Redis: one process at a time may change something on behalf of a database, also of a copy of it.

The ledger beside the sentinel keeps the highest term that the server was told, with its holder. Whatever changes the server in
our name (messages, markers, marks, broadcasts to workers) does so in a script that looks at it first, so nothing is between look
and change: a process that was paused, or cut off, or never knew that there was a copy, is refused by the server itself.

*Tried and rejected*: a lock with a time to live. Its holder may be stopped between looking at the clock and sending, and goes on
when another has the lock (RedBeat's lock has that hole). And a token that another process replaces, as the sentinel's: who finds
another token cannot tell whether the server was emptied or somebody else has begun.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from dyrygentd.errors import Fenced
from dyrygentd.ports.facts import Term

#: Returns what the server knows, if the holder of ``term`` is not to change anything any more; ``term`` is empty if nobody asks.
LATER_THAN: Final = """
local function later_than(term, known)
    if term == '' or not known or known == term then
        return false
    end
    return tonumber(string.match(known, '^%d+')) >= tonumber(string.match(term, '^%d+')) and known
end
"""

#: KEYS: that of the ledger. ARGV: the term. Keeps the term unless a later one is known, which is returned.
_RAISE: Final = (
    LATER_THAN
    + """
local later = later_than(ARGV[1], redis.call('HGET', KEYS[1], 'term'))
if not later then
    redis.call('HSET', KEYS[1], 'term', ARGV[1])
end
return {later or '', 0}
"""
)

#: KEYS: that of the ledger, and those of a command. ARGV: the term, the command, and what follows its keys. Returns a later term,
#: or nothing and what the command answers.
_COMMAND: Final = (
    LATER_THAN
    + """
local later = later_than(ARGV[1], redis.call('HGET', KEYS[1], 'term'))
if later then
    return {later, 0}
end
local words = {ARGV[2]}
for at = 2, #KEYS do
    words[#words + 1] = KEYS[at]
end
for at = 3, #ARGV do
    words[#words + 1] = ARGV[at]
end
return {'', redis.call(unpack(words)) or 0}
"""
)


class Fence(NamedTuple):
    """For which database something is done, and what the server must know of it.

    Attributes:
        token: What tells a server with its memory from one without; empty not to ask.
        term: Text of the term of the process that does it; empty not to ask.
    """

    name: str = ""
    token: str = ""
    term: str = ""

    def refuse(self, later: bytes | str) -> None:
        """Raise `Fenced` if a script has told a later term."""
        known = Term.of(later.decode() if isinstance(later, bytes) else later)
        if known is not None:
            own = Term.of(self.term)
            raise Fenced(own.number if own else 0, known.number, known.holder.words)


def ledger_key(prefix: str, name: str) -> str:
    """Return the key of what the server remembers of a database."""
    return f"{prefix}dyrygentd:ledger:{name}"


def raise_term(client: Any, ledger: str, fence: Fence) -> None:
    """Have the server know a term. Raises `Fenced` or ``redis.RedisError``."""
    fence.refuse(client.eval(_RAISE, 1, ledger, fence.term)[0])


def command(client: Any, ledger: str, fence: Fence, name: str, keys: Sequence[str], *arguments: str | int | bytes) -> Any:
    """Carry out one command unless a later term is known, and return its answer.

    Args:
        client: Takes keys as they are, with their prefix.
        ledger: Key of what the server remembers of the database.

    Raises:
        Fenced: A later term is known, and nothing was done.
        redis.RedisError: It is unknown whether it was done.
    """
    if not fence.term:
        return client.execute_command(name, *keys, *arguments)
    later, answer = client.eval(_COMMAND, 1 + len(keys), ledger, *keys, fence.term, name, *arguments)
    fence.refuse(later)
    return answer


def commands(client: Any, ledger: str, fence: Fence, calls: Sequence[tuple[str, str, Sequence[str]]]) -> None:
    """Carry out commands together, or none, each given as its name, its key and what follows. Raises as `command` does."""
    with client.pipeline() as pipe:
        for name, key, arguments in calls:
            pipe.eval(_COMMAND, 2, ledger, key, fence.term, name, *arguments)
        for later, _ in pipe.execute():
            fence.refuse(later)
