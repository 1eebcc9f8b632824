"""Task ids: how they are made, what tells those that were made here, and who holds those that came from outside.

An id that a daemon makes is a UUID that is known for what it is without a table, since its last digits follow from the first
ones: whoever submits a definition cannot bring one, be it that of a task in flight, of an attempt still to come, or of a workflow
that finished long ago. Nothing is gained by making up one that looks right: it is refused for that. What came from outside looks
like anything, so while its workflow is unfinished it stands in a table here.

Of the 32 digits the first 19 (70 bits) are drawn for each definition, six count its tasks, and seven are the mark. So an id costs
no hash and no draw of its own, and the ids of a definition are pressed well where it is stored.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final
from unicodedata import combining, normalize
from uuid import NAMESPACE_URL, uuid4, uuid5

#: How the attempts of a workflow are named: by earlier versions; with no first id from outside; with some.
OF_OLD, ALL_MADE, SOME_FROM_OUTSIDE = 0, 1, 2

_PERSON: Final = b"dyrygentd"
_NO_DIGIT: Final = re.compile(r"[^0-9a-f-]")


class MadeIds:
    """Makes the task ids of one definition; each call gives another one.

    Args:
        seed: What they are made of, instead of chance: the same ids each time.
    """

    __slots__ = ("_beginning", "_count", "_mark", "_seed")

    def __init__(self, seed: str = "") -> None:
        self._beginning = self._mark = ""
        self._seed = seed
        self._count = -1

    def __call__(self) -> str:
        """Make a task id."""
        self._count = count = self._count + 1
        if not count:
            # Most definitions bring all of their ids along.
            seed = self._seed.encode(errors="replace")
            digits = blake2b(seed, digest_size=16, person=_PERSON).hexdigest() if seed else uuid4().hex
            self._beginning, self._mark = _frame(digits)
        return f"{self._beginning}{count >> 20:x}-{count & 0xFFFFF:05x}{self._mark}"


def is_made(task_id: str) -> bool:
    """Tell whether a daemon has made this id; one in a thousand million others looks so."""
    if len(task_id) != 36 or task_id[14] != "4" or task_id[19] != "a":
        return False
    if not task_id[8] == task_id[13] == task_id[18] == task_id[23] == "-":
        return False
    return task_id.endswith(_mark(f"{task_id[:8]}{task_id[9:13]}{task_id[14:18]}{task_id[19:22]}"))


def looks_made(task_id: str) -> bool:
    """Tell whether some database would take this id for one that a daemon has made.

    Those of MySQL and MariaDB compare without regard to case, accents, width and blanks at the end: a result that is stored under
    such an id takes the place of the other's. So only the digits count here, whatever they are written in.
    """
    if len(task_id) < 36:
        return False
    if len(task_id) == 36 and task_id.isascii():
        # Nearly all are UUIDs of others, in which every character counts.
        return task_id[14] == "4" and task_id[19] in "aA" and is_made(task_id.lower())
    plain = task_id if task_id.isascii() else normalize("NFKD", task_id)
    return is_made(_NO_DIGIT.sub("", plain.lower()))


def as_compared(task_id: str) -> str:
    """Return what is left of an id where such a database compares it."""
    if not task_id.isascii():
        task_id = "".join(each for each in normalize("NFKD", task_id.casefold()) if not combining(each))
    return task_id.lower().rstrip()


def task_id_of_attempt(first: str, attempt: int) -> str:
    """Return the task id of a later attempt: always the same for one attempt, and never that of another."""
    if attempt <= 1:
        return first
    digits = blake2b(f"{first}:{attempt}".encode(errors="replace"), digest_size=16, person=_PERSON).hexdigest()
    beginning, mark = _frame(digits)
    return f"{beginning}{digits[19]}-{digits[20:25]}{mark}"


def task_id_of_old(first: str, attempt: int) -> str:
    """Return the task id of an attempt of a workflow that an earlier version took in."""
    return first if attempt <= 1 else str(uuid5(NAMESPACE_URL, f"dyrygentd:{first}:{attempt}"))


def _frame(digits: str) -> tuple[str, str]:
    """Return the beginning of a UUID of version 4 that has the first 19 of some hexadecimal digits, and the mark at its end."""
    digits = f"{digits[:12]}4{digits[13:16]}a{digits[17:19]}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:]}", _mark(digits)


def _mark(digits: str) -> str:
    """Return what the last seven digits are if the first nineteen are these."""
    return blake2b(digits.encode(errors="replace"), digest_size=4, person=_PERSON).hexdigest()[:7]


class Claims:
    """Who holds the ids from outside. Guards: an id has one holder, and no workflow takes it from another.

    A workflow holds ids from before it is taken in until it has finished, so there are as many as it has nodes, and a few for
    attempts of workflows of earlier versions.

    Attributes:
        by_id: ``{task id: workflow}``; not to be changed from outside.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, str] = {}
        self._held: dict[str, list[str]] = {}

    def __repr__(self) -> str:
        return f"<Claims claimed={len(self.by_id)} workflows={len(self._held)}>"

    def __len__(self) -> int:
        """Return how many ids are held."""
        return len(self.by_id)

    def __contains__(self, task_id: object) -> bool:
        """Tell whether anybody holds an id."""
        return task_id in self.by_id

    def holder(self, task_id: str) -> str | None:
        """Return the workflow that holds an id."""
        return self.by_id.get(task_id)

    def has(self, workflow_id: str) -> bool:
        """Tell whether a workflow has made its claims."""
        return workflow_id in self._held

    def claim(self, workflow_id: str, task_ids: Iterable[str]) -> None:
        """Hold ids for a workflow; those that another has stay with that."""
        holders, held = self.by_id, self._held.setdefault(workflow_id, [])
        for task_id in task_ids:
            if task_id and task_id not in holders:
                holders[task_id] = workflow_id
                held.append(task_id)

    def release(self, workflow_id: str) -> None:
        """Give up all ids of a workflow."""
        for task_id in self._held.pop(workflow_id, ()):
            self.by_id.pop(task_id, None)
