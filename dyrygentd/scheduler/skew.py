"""Which workers know a task, if one of them does not: the code of their hosts differs, and another attempt is a coin toss."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from shlex import quote
from typing import Final

from dyrygentd.core.standing import Standing
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.misspelt import nearest
from dyrygentd.ports import Inspector
from dyrygentd.scheduler.holders import Trace
from dyrygentd.scheduler.lost import sought
from dyrygentd.witnesses import named

#: What Celery stores of a task that the worker does not have.
_NOT_REGISTERED: Final = re.compile(r"\bNotRegistered\b")
#: Tasks that are asked for in one explanation; the answer of each worker is short.
_TASKS_MAX: Final = 3


class Skew:
    """Asks the workers for tasks that one of them did not know; each is asked for once in an explanation.

    Args:
        trace: Looks for tasks, and takes note of who answered.
        app: What Celery's ``-A`` takes; empty if that is not known.
    """

    def __init__(self, inspector: Inspector | None, trace: Trace, app: str) -> None:
        self._inspector = inspector
        self._trace = trace
        self._app = app or "APP"
        self._known: dict[str, Mapping[str, bool] | None] = {}
        self._names: Sequence[str] | None = None

    async def told(self, workflow: RunningWorkflow, standing: Standing) -> Standing:
        """Add to what is said of a failed node which workers know its task, if that is why it failed."""
        if standing.code != "failed" or self._inspector is None or not _NOT_REGISTERED.search(standing.text):
            return standing
        number = workflow.graph.number(standing.node)
        signature = None if number is None else workflow.graph.signatures[number]
        if signature is None:
            return standing
        if signature.task not in self._known and len(self._known) < _TASKS_MAX:
            self._known[signature.task] = await self._inspector.registered(signature.task)
        known, queue, others = self._known.get(signature.task), "", list[str]()
        if known and number is not None and len(set(known.values())) > 1:
            queue, takers = await self._takers(workflow, number)
            known, others = _of_queue(known, takers)
        words = words_of(known)
        if not known or not words:
            return standing
        lacking = [name for name in sorted(known) if not known[name]]
        if any(known.values()):
            first = f"restart {named(lacking)} with the code that has the task" if lacking else ""
            return _beside(standing, words, first)
        if others:
            words += f"; {named(others)} {'does' if len(others) == 1 else 'do'}, of another queue"
            add = f"celery -A {self._app} control -d {others[0]} add_consumer {quote(queue)}"
            first = f"give {named(lacking)} the code that has the task, or let {others[0]} consume '{queue}', too: `{add}`"
            return _beside(standing, words, first)
        meant = await self._meant(signature.task)
        if not meant:
            return _beside(
                standing,
                words,
                f"run a worker whose code has the task, which {named(lacking)} {'has' if len(lacking) == 1 else 'have'} not",
            )
        return _renamed(workflow, standing, words, signature.task, meant)

    async def _takers(self, workflow: RunningWorkflow, number: int) -> tuple[str, Sequence[str]]:
        """Ask for the queue of a node and for who takes from it; nobody if that is not told."""
        place = sought(workflow, number)
        found = await self._trace([place])
        task = found.tasks.get(place.task_id)
        queue = None if task is None else found.queues.get(task.queue)
        return ("", ()) if queue is None else (queue.name, queue.workers)

    async def _meant(self, task: str) -> str:
        """Ask, of a task that nobody knows, for one whose name is much like it."""
        if self._inspector is None:
            return ""
        if self._names is None:
            self._names = await self._inspector.task_names()
        return nearest(task, self._names)


def _beside(standing: Standing, words: str, first: str, last: str = "") -> Standing:
    """Put what is known of a failed node's task beside what is said of it, and what is to be done before another attempt."""
    steps = f"{first}; then {standing.next_step}" if first else standing.next_step
    return replace(standing, text=f"{standing.text}; {words}", next_step=steps + (f"; or else {last}" if last else ""))


def _renamed(workflow: RunningWorkflow, standing: Standing, words: str, task: str, meant: str) -> Standing:
    """Say what helps where the task has another name by now: no restart does, since all workers have the new code."""
    # An entry in `app.tasks` alone would run, and workers would not tell that they have it.
    alias = f"app.register_task(type('old', (type(app.tasks[{meant!r}]),), {{'name': {task!r}}})())"
    again = " | ".join(
        (
            f"dyrygentctl export {workflow.workflow_id} --definition",
            f"sed {quote(f's/{_in_json(task)}/{_in_json(meant)}/g')}",
            "dyrygentctl submit -",
        )
    )
    return _beside(
        standing,
        f"{words}; did you mean '{meant}'? If it was renamed, restarting them with the same code does not help",
        f"give the workers the old name, too: `{alias}` in their code after the task, and restart them with that",
        f"submit all of it anew with the new name: `{again}`",
    )


def _in_json(task: str) -> str:
    """Return a pattern for a task's name, and text to put in its place, as it is quoted in a definition."""
    return re.sub(r"([\\/&.*\[\]^$])", r"\\\1", json.dumps(task, ensure_ascii=False))


def _of_queue(known: Mapping[str, bool], takers: Sequence[str]) -> tuple[Mapping[str, bool], list[str]]:
    """Leave out workers that will never get the task; tell which of them know it."""
    own = {name: known[name] for name in takers if name in known}
    if not own:
        return known, []
    return own, [name for name in sorted(known) if known[name] and name not in own]


def words_of(known: Mapping[str, bool] | None) -> str:
    """Say who knows a task and who does not; empty if nobody answered."""
    if not known:
        return ""
    having, lacking = ([name for name in sorted(known) if known[name] is has] for has in (True, False))
    if not having:
        return f"no worker that answered knows the task{named(lacking, brackets=True)}"
    if not lacking:
        return f"all workers that answered know it by now{named(having, brackets=True)}"
    verb, restart = ("does", "it") if len(lacking) == 1 else ("do", "them")
    return (
        f"{named(lacking)} {verb} not know the task, and {named(having)} {'does' if len(having) == 1 else 'do'}:"
        f" restart {restart} with the new code first, or another attempt is a matter of luck"
    )
