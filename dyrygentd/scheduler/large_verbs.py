"""Verbs on very many nodes, in parts, so that nobody else waits for seconds.

A verb is worked in between two moments of a turn, and nothing else happens meanwhile: 100,000 nodes would hold up everybody for
seconds. So what names more than `PART` nodes is asked for in parts, each a transaction and an entry in the journal of its own,
with one answer in the end. Before the first part all are looked at: what would be refused is refused with nothing changed, as
always.

*What could go wrong.* The workflow goes on in between, and a later part is refused; the disk fails; whoever asked goes away;
the process ends. Then the parts before are done, and that is told where anybody is there to be told. Verbs are idempotent, so
asking for the same once more goes on where it ended.

In parts go hold, release and skip. A cancel is one turn (a part of it would let the rest go on), and so are retry and rerun:
after a part of them the rest may have ended again, and a hook be told of an end that was none. They set back all that follows
from their nodes anyway, however few are named. The turn takes such a verb in steps (`dyrygentd.core.steps`), between which others
in this process may look and are answered, but nothing is changed. It reaches the disk in one transaction, so after a crash all
of it is there or nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import anyio.lowlevel

from dyrygentd.core.effects import Answer
from dyrygentd.core.verbs import Verb, VerbRequest, check, nodes_of_cause
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.errors import DyrygentError

#: Nodes in one part: some tens of milliseconds.
PART: Final = 2000
_IN_PARTS: Final = frozenset({Verb.HOLD, Verb.RELEASE, Verb.SKIP})
#: Names in the answer, as many as in that of one turn.
_NAMED_MAX: Final = 100


async def ask_in_parts(
    ask: Callable[[str, VerbRequest], Awaitable[Answer]],
    workflow_of: Callable[[str], Awaitable[RunningWorkflow | None]],
    workflow_id: str,
    request: VerbRequest,
    *,
    part: int = PART,
) -> Answer:
    """Carry out a verb, in parts if it is about more than ``part`` nodes; raise as ``ask`` does.

    Args:
        ask: Carries out a verb in one turn.
        workflow_of: Returns a workflow as it is now, to be looked at; None if it is too small to be worth it.
    """
    names: Sequence[str] = list(dict.fromkeys(request.nodes))
    is_many = request.verb in _IN_PARTS and (len(names) > part or bool(request.cause))
    workflow = await workflow_of(workflow_id) if is_many else None
    if workflow is not None and request.cause:
        meant = dict.fromkeys(workflow.graph.names[node] for node in nodes_of_cause(workflow, request.cause))
        names = list({**dict.fromkeys(names), **meant})
    if workflow is None or len(names) <= part:
        return await ask(workflow_id, request)
    parts = [
        replace(request, cause="", nodes=tuple(names[begin : begin + part]), letter=0) for begin in range(0, len(names), part)
    ]
    # A letter is done with the last part; before, repeating all of it is harmless.
    parts[-1] = replace(parts[-1], letter=request.letter)
    for each in parts:
        check(workflow, each)
        await anyio.lowlevel.checkpoint()
    changed: list[str] = []
    is_changed, count = False, 0
    for number, each in enumerate(parts):
        try:
            answer = await ask(workflow_id, each)
        except DyrygentError as error:
            if number:
                error.next_step = f"{_done(number, part, len(names), request)}{_after(error.next_step)}"
            raise
        is_changed |= answer.is_changed
        count += answer.count
        changed += answer.nodes[: _NAMED_MAX - len(changed)]
    return Answer(0, tuple(changed), is_changed, count=count)


def _done(number: int, part: int, count: int, request: VerbRequest) -> str:
    return f"'{request.verb}' of the first {number * part} of {count} nodes is done: ask again, and it goes on from there"


def _after(next_step: str | None) -> str:
    return f"; of this part: {next_step}" if next_step else ""
