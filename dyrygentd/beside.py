"""Long work in threads beside the loop, which gets the interpreter back from them sooner than Python gives it."""

import gc
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
#: One of all objects holds everybody: while 100,000 finished nodes were read back there were five, of up to 150 ms each. What
#: such work makes it frees by itself, so they wait until it is over.
_NO_FULL_COLLECTION: Final = 1_000_000


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Return what work gives that takes milliseconds or far more; once begun it goes on to its end, whoever is cancelled."""
    with giving_way():
        return await anyio.to_thread.run_sync(work, *args)


@contextmanager
def giving_way() -> Iterator[None]:
    """Have threads that compute give the interpreter up sooner, and let garbage be, while anything is inside such a block."""
    with _INTERPRETER:
        yield


class _Interpreter:
    """Settings of this process's interpreter. Guards: they are as they were as soon as nothing computes any more."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._computing = 0
        self._before_s = 0.0
        self._thresholds = gc.get_threshold()

    def __repr__(self) -> str:
        return f"<_Interpreter computing={self._computing}>"

    def __enter__(self) -> None:
        with self._lock:
            self._computing += 1
            if self._computing == 1:
                self._before_s = sys.getswitchinterval()
                sys.setswitchinterval(min(SWITCH_S, self._before_s))
                self._thresholds = gc.get_threshold()
                gc.set_threshold(*self._thresholds[:2], _NO_FULL_COLLECTION)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._computing -= 1
            if not self._computing:
                sys.setswitchinterval(self._before_s)
                gc.set_threshold(*self._thresholds)


#: Of the process, as the settings are, whatever number of schedulers it has.
_INTERPRETER: Final = _Interpreter()
