"""Everything that runs by itself has an owner that hears its end: a daemon in which something has died only seems to work."""

import ast
from collections.abc import Iterator

from tests.support.daemon import ROOT

#: Tasks are started in anyio's groups, which end with any of them. These start one that nobody would hear of.
_UNOWNED = {"create_task", "ensure_future", "run_coroutine_threadsafe"}
#: Groups of asyncio's own, which end with any of their tasks as well.
_OWNED = {"dyrygentd/cli/tui/feed.py: create_task": "anyio would cancel once more what closes a connection meanwhile"}
_STARTS = {"Thread", "ThreadPoolExecutor", "ProcessPoolExecutor", "Popen"}
#: Where a thread or a process is started, and who hears its end.
_HEARD = {
    "dyrygentd/cli/standstill.py: Thread": "nobody need: it asks for a hint, tells it or nothing, and is gone with its command",
    "dyrygentd/cli/ui.py: Thread": "nobody need: the address is printed, whether a browser opens or not",
    "dyrygentd/client/tunnel.py: Thread": "what ssh says is wanted where something fails; without it there are fewer words",
    "dyrygentd/client/tunnel.py: Popen": "whoever asks through it finds that it has ended, and says so with ssh's words",
    "dyrygentd/daemon/broker.py: Thread": "the main thread waits for a signal or for the error of the start",
    "dyrygentd/daemon/embedded.py: Thread": "a future has the child or the error; it waits for the child and for nothing else",
    "dyrygentd/daemon/embedded.py: Popen": "the thread that waits for it; `wait` and `is_alive` of `ChildProcess` tell",
    "dyrygentd/daemon/kept.py: Thread": "it goes on after every error, and `stop` joins it",
    "dyrygentd/daemon/reload.py: Thread": "a future has the configuration or the error; no other is read before it has ended",
    "dyrygentd/demo/stage.py: Thread": "a future has the value or the error",
    "dyrygentd/http/decoding.py: Thread": "the loop gets the value or the error, and whoever waits has a time limit",
    "dyrygentd/scheduler/pattern_process.py: Popen": "each question is answered in time, or its child is ended and replaced",
    "dyrygentd/testing/in_process.py: ThreadPoolExecutor": "what runs stores its outcome; the pool is shut down at the end",
}


def test_no_task_is_without_an_owner() -> None:
    """A task of asyncio's that nobody awaits takes its error along, or is collected as garbage."""
    assert {where for where in _calls() if where.rpartition(" ")[2] in _UNOWNED} == _OWNED.keys()


def test_threads_and_processes_are_heard() -> None:
    """Whoever starts another one says here who hears its end."""
    assert {where for where in _calls() if where.rpartition(" ")[2] in _STARTS} == _HEARD.keys()


def _calls() -> Iterator[str]:
    for path in sorted((ROOT / "dyrygentd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                yield f"{path.relative_to(ROOT)}: {node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id}"
