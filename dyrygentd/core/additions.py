"""What a task has added to its workflow: work that follows its success, and that what follows the task waits for."""

from enum import StrEnum
from typing import NamedTuple


class Adds(StrEnum):
    """How an addition came, and what becomes of its result.

    *Beside* is what a task has spawned: the node keeps its own value. *Behind* is Celery's ``add_to_chord``: the result is a list
    of values, which go behind the node's own wherever that is put into a list. What an *expansion* gives is the node's value.
    """

    BESIDE = "beside"
    BEHIND = "behind"
    EXPANDS = "expands"


class Addition(NamedTuple):
    """What a task has added.

    Attributes:
        document: The definition as the worker has packed it; of an expansion, what the task has returned. The core looks into
            neither.
    """

    kind: Adds
    document: bytes
