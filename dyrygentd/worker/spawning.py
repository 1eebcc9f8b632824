"""Work that a task adds while it runs: ``spawn(canvas)``, and Celery's ``self.add_to_chord(signature)``.

What is added is made into a definition where it is added, so that what is wrong with it is raised there. All of it together is
stored with the task's success, in the same result: there is no moment at which one of both is known without the other. So a
task that fails, is ignored or rejected adds nothing; of one that is run again, what its last run has added counts. The daemon
begins it when it has the result, and what follows the task waits for it.

*How it is stored.* In the place of the traceback, which a success has none of: a line that says what it is, and the definition,
compressed. What cannot be stored (it is too long, or the task has ended its chain) makes a failure of the task, by an error that
Celery takes for one of the result's encoding.

*Where it works.* In tasks that a daemon has sent which says in the message that it takes additions, and in what such a task is
replaced by. Anywhere else `CannotSpawn` says what to do. In eager mode, where there is no daemon, what is added is run at once.
"""

from functools import wraps
from typing import Any, Final

from celery._state import get_current_worker_task
from celery.app.task import Task

from dyrygentd.worker import running
from dyrygentd.worker.additions import Adding, CannotSpawn
from dyrygentd.worker.requests import WORKFLOW_STAMP, addition_bytes_max

#: In a report, of what the stored result alone has.
ELSEWHERE: Final = "elsewhere"
_SUBMIT: Final = "submit it with `dyrygentd.Client`"


def spawn(what: Any) -> None:
    """Add work behind the task that runs: what follows the task waits for that, too. Several calls add it side by side.

    Args:
        what: A canvas, a `dyrygentd.Workflow`, or a definition.

    Raises:
        CannotSpawn: Outside of a task that dyrygentd has sent, or by a daemon or worker that is too old.
        NotACanvas, DefinitionError: It cannot be run.
    """
    task = get_current_worker_task()
    if task is None:
        raise CannotSpawn("`spawn` was called outside of a task", next_step=_SUBMIT)
    if task.request.is_eager:
        _apply(what)
    else:
        _additions_of(task).add(what)


def _apply(what: Any) -> None:
    if not hasattr(what, "apply"):
        raise CannotSpawn("in eager mode only a canvas can be spawned", next_step="test what adds a `Workflow` with a daemon")
    what.apply()


def _additions_of(task: Any) -> Adding:
    bytes_max = addition_bytes_max(task.request)
    if bytes_max:
        return running.additions_of(task, bytes_max)
    if WORKFLOW_STAMP not in (task.request.stamps or {}):
        raise CannotSpawn(f"task '{task.name}' was not sent by dyrygentd", next_step=_SUBMIT)
    raise CannotSpawn(
        f"task '{task.name}' is no node of a workflow, or its daemon is of an older version, which takes no additions",
        next_step="spawn in the node's own task; of what replaces it, call `dyrygentd.worker.install(app)`",
    )


def listen() -> None:
    """Have `add_to_chord` and `replace` of all tasks see those that dyrygentd has sent; once more does nothing."""
    if not hasattr(Task.add_to_chord, _MARK):
        _listen_to_chords()
        _listen_to_replacements()


#: On our own methods, so that they are put over Celery's once.
_MARK: Final = "_is_dyrygentds"


def _listen_to_chords() -> None:
    celerys = Task.add_to_chord

    @wraps(celerys)
    def add_to_chord(self: Any, sig: Any, lazy: bool = False) -> Any:
        bytes_max = addition_bytes_max(self.request)
        if not bytes_max:
            return celerys(self, sig, lazy)
        if lazy:
            raise CannotSpawn("`add_to_chord(lazy=True)` leaves it to the task to send what is added", next_step=_LEAVE_OUT_LAZY)
        result = sig.freeze()
        running.additions_of(self, bytes_max).add(sig, is_joined=True)
        return result

    setattr(add_to_chord, _MARK, True)
    Task.add_to_chord = add_to_chord


def _listen_to_replacements() -> None:
    celerys = Task.replace

    @wraps(celerys)
    def replace(self: Any, sig: Any) -> Any:
        if running.added_by(self.request.id):
            raise CannotSpawn("the task has added work and is to be replaced", next_step="have what replaces it add the work")
        return celerys(self, sig)

    setattr(replace, _MARK, True)
    Task.replace = replace


_LEAVE_OUT_LAZY: Final = "leave `lazy` out: dyrygentd sends it when the task has succeeded"
