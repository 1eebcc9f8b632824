"""What the code of a task's body does that no canvas shows, as far as it stands there: read off its bytecode, nothing is run.

What the body calls in turn is not looked into, nor what a name stands for.
"""

import dis
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any, Final

#: These store a state of a task; the first two need one to be named.
_STORE_A_STATE: Final = frozenset({"update_state", "store_result"})
_STORE_AN_END: Final = frozenset({"mark_as_done", "mark_as_failure", "mark_as_revoked"})
_ENDS: Final = frozenset({"SUCCESS", "FAILURE", "REVOKED"})
#: What a request says in Celery about what follows or surrounds its task.
_SURROUNDINGS: Final = ("chain", "chord", "group", "group_index")


def stores_own_end(task: Any) -> bool:
    """Tell whether a task seems to store a final state about itself while it runs."""
    for code in codes_of(task):
        names = set(code.co_names)
        texts = {each for each in code.co_consts if isinstance(each, str)}
        if names & _STORE_AN_END or (names & _STORE_A_STATE and (names | texts) & _ENDS):
            return True
    return False


def uses_of_surroundings(task: Any) -> list[str]:
    """Return what of its request a task uses that is empty in our messages, such as ``chain``."""
    found: dict[str, None] = {}
    for code in codes_of(task):
        before = ""
        for step in dis.get_instructions(code):
            if before == "request" and step.opname in ("LOAD_ATTR", "STORE_ATTR", "LOAD_METHOD") and step.argval in _SURROUNDINGS:
                found[step.argval] = None
            if step.opname not in ("CACHE", "EXTENDED_ARG"):
                before = str(step.argval) if step.opname in ("LOAD_ATTR", "LOAD_METHOD") else ""
    return list(found)


def codes_of(task: Any) -> Iterator[CodeType]:
    """Return the code of a task's body and what is defined in it."""
    body = inspect.unwrap(getattr(task, "run", None) or (lambda: None))
    code = getattr(body, "__code__", None)
    left = [code] if isinstance(code, CodeType) else []
    while left:
        code = left.pop()
        yield code
        left += [each for each in code.co_consts if isinstance(each, CodeType)]
