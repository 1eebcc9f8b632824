"""Long work in threads beside the loop, which gets the interpreter back from them sooner than Python gives it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final, TypeVar

import anyio.to_thread

T = TypeVar("T")

#: Python lets a thread that computes have the interpreter for 5 ms, and whoever answers a request needs it anew after each wait.
#: With 1 ms the daemon answered 494 requests and not 163 in the time in which three workflows of 100,000 nodes were folded. Not
#: always: threads that publish compute, too, and a node of a layered graph would cost 5 % more CPU.
SWITCH_S: Final = 0.001


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Return what work gives that takes milliseconds or far more; once begun it goes on to its end, whoever is cancelled."""
    with giving_way():
        return await anyio.to_thread.run_sync(work, *args)


@contextmanager
def giving_way() -> Iterator[None]:
    """Have threads that compute give the interpreter up sooner, as long as anything is inside such a block."""
    with _INTERPRETER:
        yield


class _Interpreter:
    """How soon threads of this process give the interpreter up. Guards: it is as it was as soon as nothing computes any more."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._computing = 0
        self._before_s = 0.0

    def __repr__(self) -> str:
        return f"<_Interpreter computing={self._computing}>"

    def __enter__(self) -> None:
        with self._lock:
            self._computing += 1
            if self._computing == 1:
                self._before_s = sys.getswitchinterval()
                sys.setswitchinterval(min(SWITCH_S, self._before_s))

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._computing -= 1
            if not self._computing:
                sys.setswitchinterval(self._before_s)


#: Of the process, as the setting is, whatever number of schedulers it has.
_INTERPRETER: Final = _Interpreter()
