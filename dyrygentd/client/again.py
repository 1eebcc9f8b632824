"""What may be repeated if no answer came although all was sent, and what a person is told then.

Questions change nothing, and verbs change nothing that is so already. Two of them are the exception, since they mean "once
more": `rerun`, and `retry` with ``force``. A submission may be repeated if it has a key, and an import is refused if it was taken
before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class IfLost:
    """What becomes of a request whose answer was lost.

    Attributes:
        what: What may have been done; empty if nothing can have been.
        next_step: What to do about it.
    """

    what: str
    next_step: str


QUESTION: Final = IfLost("", "")
IMPORT: Final = IfLost(
    "the workflow may have been taken over", "repeat it: a workflow that was taken over is refused, and nothing changes"
)
_WITH_KEY: Final = IfLost(
    "the submission may have been taken",
    "repeat it with the same key, which gives the workflow that was taken, or submits it now",
)
_WITHOUT_KEY: Final = IfLost(
    "the submission may have been taken",
    "see `dyrygentctl list` before you submit it again, which would run everything twice; one with a key can be repeated at will",
)
_DOCUMENT: Final = IfLost(
    "the submission may have been taken",
    "if the definition has a key, repeat it; else see `dyrygentctl list` first, since it would run everything twice",
)
_VERB: Final = IfLost("the verb may have been carried out", "repeat it: what is so already does not change")
_ONCE_MORE: Final = IfLost(
    "the verb may have been carried out",
    "see `dyrygentctl events` of the workflow before you repeat it, since it means once more",
)


def of_submission(what: Any, *, key: str | None) -> IfLost:
    """Tell what to do about a submission: whether ``what`` has a key of its own is seen of everything but bytes."""
    if key is not None:
        return _WITH_KEY
    if isinstance(what, bytes | bytearray):
        return _DOCUMENT
    # A signature is a mapping too, and has no such field.
    own = what.get("key") if isinstance(what, Mapping) else getattr(what, "key", None)
    return _WITHOUT_KEY if own is None else _WITH_KEY


def of_verb(word: str, *, force: bool = False) -> IfLost:
    """Tell what to do about a verb."""
    return _ONCE_MORE if word == "rerun" or (word == "retry" and force) else _VERB
