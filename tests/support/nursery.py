"""``python -m tests.support.nursery DESCRIPTOR MODULE…``: what `tests.support.forking` forks daemons and workers from.

It imports the modules, has one thread, and forks whenever it is asked to. What is forked then does what ``python -m`` would: it
runs a module as ``__main__``, in a session, an environment and a directory of its own.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

MESSAGE_BYTES_MAX: Final = 150_000
DESCRIPTORS_MAX: Final = 16
_PR_SET_PDEATHSIG: Final = 1


def _serve(descriptor: int) -> dict[str, Any]:
    """Fork whenever asked to, until nobody can ask any more; return, in what was forked, what it has to do."""
    parent = os.getpid()
    asking = socket.socket(fileno=descriptor)
    poll = select.poll()
    poll.register(asking, select.POLLIN)
    #: ``{descriptor of a process, or of what is told of it: (its process id, what is told of it)}``
    ends: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready == asking.fileno():
                message, descriptors, _, _ = socket.recv_fds(asking, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX)
                if not message:
                    sys.exit(0)
                telling, output, errors, *passed = descriptors
                if not (pid := os.fork()):
                    # Whoever knows the process may send a signal to its group.
                    os.setsid()
                    os.write(telling, str(os.getpid()).encode())
                    # Their descriptors are closed with all others, and nobody may close them once more.
                    for each in (asking, *(told for _, told in ends.values())):
                        each.detach()
                    asked: dict[str, Any] = json.loads(message)
                    _become(asked, (output, errors), passed, parent)
                    return asked
                for number in (output, errors, *passed):
                    os.close(number)
                told = socket.socket(fileno=telling)
                ends[process := os.pidfd_open(pid)] = pid, told
                poll.register(process, select.POLLIN)
            else:
                pid, told = ends.pop(ready)
                poll.unregister(ready)
                os.close(ready)
                status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                assert status is not None
                is_exit = status.si_code == os.CLD_EXITED
                with contextlib.suppress(OSError), told:
                    told.send(str(status.si_status if is_exit else -status.si_status).encode())
                    told.recv(64)
                os.waitpid(pid, 0)


def _become(asked: Mapping[str, Any], outputs: tuple[int, int], passed: Sequence[int], parent: int) -> None:
    """Be as a process that was just started, with what is passed from descriptor 3 on, as systemd passes sockets."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != parent:
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, *outputs)):
        os.dup2(source, target)
    above = max(map(int, os.listdir("/proc/self/fd"))) + 1
    aside = [fcntl.fcntl(source, fcntl.F_DUPFD, above) for source in passed]
    os.closerange(3, above)
    for target, source in enumerate(aside, 3):
        os.dup2(source, target)
        os.close(source)
    ours, theirs = (each.get("PYTHONPATH", "").split(os.pathsep) for each in (os.environ, asked["environment"]))
    os.environ.clear()
    os.environ.update(asked["environment"], **dict.fromkeys(asked["own_id_in"], str(os.getpid())))
    os.chdir(asked["directory"])
    time.tzset()
    tempfile.tempdir = None
    # Python puts these first, and has nothing twice; our own first one is the directory that we were started in.
    first = [asked["directory"], *filter(None, theirs)]
    sys.path[:] = [*first, *(entry for entry in sys.path[1:] if entry not in {*ours, *theirs})]
    sys.argv[:] = [asked["module"], *asked["arguments"]]


def _main() -> None:
    for name in sys.argv[2:]:
        importlib.import_module(name)
    # What is here now is never garbage, and is shared with what is forked as long as nobody touches it.
    gc.collect()
    gc.freeze()
    asked = _serve(int(sys.argv[1]))
    runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
