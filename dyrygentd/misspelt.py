"""Names that are one letter away from what somebody meant: of queues that nobody consumes, and of tasks that nobody has."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from dyrygentd.ports.facts import Inspection, TaskFacts
from dyrygentd.witnesses import named

#: Names that are compared; to compare one takes microseconds.
_NAMES_MAX: Final = 2000
#: How alike two names must be, from 0 to 1: one letter in six may be another one.
_ALIKE: Final = 0.8


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the name that is most like another one, empty if none is much like it."""
    others = [other for other in names if other != name][:_NAMES_MAX]
    found = get_close_matches(name, others, n=1, cutoff=_ALIKE)
    return found[0] if found else ""


def misspelling(inspection: Inspection, task: TaskFacts, retry: str) -> tuple[str, str]:
    """Say of a queue that nobody consumes where its name comes from, and whether it may be misspelt; and what to do then.

    Args:
        retry: The command that sends the task anew.
    """
    origin = inspection.origins.get(task.task, "")
    meant = nearest(task.queue, inspection.consumed)
    words = f"; the name comes from {origin}" if origin else ""
    if not meant:
        return words, ""
    workers = inspection.consumed[meant]
    verb = "consumes" if len(workers) == 1 else "consume"
    words += f"; {named(workers)} {verb} '{meant}', which is much like it: a misspelling?"
    return words, f"if '{meant}' is meant, correct {origin or 'the name'}, and `{retry}` sends it anew; if not, "
