"""What a task's body does that a worker tells nobody, unless it has the companion (`dyrygentd.worker`): read off its bytecode.

As in `dyrygentd.tasks.bodies`, what the body calls in turn is not looked into.
"""

import dis
from collections.abc import Iterator
from types import CodeType
from typing import Any, Final

from dyrygentd.tasks.bodies import codes_of
from dyrygentd.tasks.remarks import Remark

#: Exceptions of Celery's after which no result is stored.
_ENDS_WITHOUT_RESULT: Final = ("Ignore", "Reject")


def remarks_without_companion(task: Any, *, is_imported: bool) -> Iterator[Remark]:
    """Tell what of a task would not be seen where workers have not called `dyrygentd.worker.install`.

    Args:
        is_imported: Whether they import `dyrygentd.worker`, which stores that a task was ignored or rejected.
    """
    named = [name for name in _ENDS_WITHOUT_RESULT if any(name in code.co_names for code in codes_of(task))]
    if named and not is_imported:
        words = f"'{task.name}' uses {' and '.join(f'`{name}`' for name in named)}, after which no result is stored"
        yield Remark("end-untold", task.name, f"{words}: nobody learns that it has ended, and it is held as lost")
    called = set(_called_on_self(task))
    if "replace" in called:
        words = f"'{task.name}' calls `self.replace`: what runs in its place is not seen until the whole of it has ended"
        yield Remark("replaced-unseen", task.name, words)
    if "retry" in called:
        words = f"'{task.name}' calls `self.retry`: when its next try is, and which one it is, is not known"
        yield Remark("retry-untold", task.name, words)


def _called_on_self(task: Any) -> Iterator[str]:
    """Return the attributes of its first parameter that a bound task uses."""
    own = ""
    for number, code in enumerate(codes_of(task)):
        if number == 0 and code.co_argcount:
            # What is defined inside sees the task as a variable of the function around it.
            own = code.co_varnames[0]
        yield from _attributes_of(code, own)


def _attributes_of(code: CodeType, name: str) -> Iterator[str]:
    before: Any = None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and before == name:
            yield str(step.argval)
        if step.opname in ("CACHE", "EXTENDED_ARG", "PRECALL"):
            continue
        # Python 3.13 loads two variables at once.
        loaded = step.argval[-1] if isinstance(step.argval, tuple) and step.argval else step.argval
        before = loaded if step.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) else None
