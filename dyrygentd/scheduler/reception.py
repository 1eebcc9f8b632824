"""What takes submissions and verbs, from whoever asks here, and of letters; see `Scheduler`'s methods of the same names."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from dyrygentd import wire
from dyrygentd.core.effects import Answer
from dyrygentd.core.graph import Definition
from dyrygentd.core.records import JournalEntry
from dyrygentd.core.user import User
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.ports import Clock, Dispatcher, Store
from dyrygentd.ports.facts import JOURNAL_MAX, Selection
from dyrygentd.ports.mailbox import Footprint, Letter
from dyrygentd.scheduler.admissions import answer_to, fields_of
from dyrygentd.scheduler.archive import Archive
from dyrygentd.scheduler.foreign import refuse_foreign
from dyrygentd.scheduler.large_verbs import PART, ask_in_parts
from dyrygentd.scheduler.members import addressed
from dyrygentd.scheduler.queries import Queries
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.submissions import Submissions
from dyrygentd.scheduler.turns import Turns
from dyrygentd.scheduler.verbs import REOPENING, Verbs


def _nobody() -> None:
    pass


class Reception:
    """Has what is asked for carried out, and answers. Guards: nobody's reasons reach the journal with a secret in them."""

    def __init__(
        self,
        turns: Turns,
        *,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
        archive: Archive,
        submissions: Submissions,
        verbs: Verbs,
        queries: Queries,
        redaction: Redaction,
        wait_parents: Callable[[str], Awaitable[None]],
    ) -> None:
        self._wait_parents = wait_parents
        self._turns = turns
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._archive = archive
        self._submissions = submissions
        self._verbs = verbs
        self._queries = queries
        self._redaction = redaction

    def __repr__(self) -> str:
        return f"<Reception {self._submissions!r} {self._verbs!r}>"

    async def submit(
        self,
        definition: Definition,
        owner: User | None,
        *,
        letter: Letter | None = None,
        begun: Callable[[], None] = _nobody,
    ) -> wire.Submitted:
        """Submit a definition; return when it is on disk. Raises as `Scheduler.submit_definition`.

        Args:
            letter: By which it came; it waits for the disk however long that takes.
            begun: Told once nothing that is submitted later can be worked in before it.
        """
        for each in definition.whole():
            await refuse_foreign(each, self._dispatcher)
        taken = await self._submissions.submit(definition, owner, letter=letter, begun=begun)
        if taken.is_new:
            return answer_to(definition, taken.workflow_id, taken.admission)
        view = await self._queries.view(taken.workflow_id)
        decided = fields_of(definition, taken.admission)
        return wire.Submitted(id=taken.workflow_id, name=view.name, tasks=view.tasks, created=False, **decided)

    async def take_over(
        self, imported: wire.Imported, *, by: str, owner: User | None, letter: Letter | None = None
    ) -> wire.Submitted:
        """Take in a workflow that another daemon had; return when it is on disk. Raises as `Scheduler.take_over`."""
        now, number = self._clock.now(), 0 if letter is None else letter.number

        def owned(each: wire.Imported) -> wire.Imported:
            record = replace(each.record, owner=owner)
            letter_of = number if record.parent is None else 0
            entry = JournalEntry(record.workflow_id, now, "import", by, detail=f"it came {record.state}", letter=letter_of)
            return each._replace(record=record, journal=[*each.journal[1 - JOURNAL_MAX :], entry])

        whole = owned(imported)._replace(children=[owned(child) for child in imported.children])
        workflow_id = await self._submissions.take_over(whole, is_patient=letter is not None)
        return answer_to(imported.definition, workflow_id)

    async def perform(self, workflow_id: str, request: VerbRequest, done: Footprint | None = None) -> wire.Changed:
        """Carry out a verb; return when that is on disk. Raises as `Scheduler.perform`.

        Args:
            done: What a letter has changed already, if it has: then only the answer is made.
        """
        home = workflow_id
        if done is None:
            home, meant = await addressed(self._queries.unpacked, self._turns.live, workflow_id, self._cleaned(request))
            answer = await ask_in_parts(self._verbs.ask, self._large_one, home, meant)
            if answer.is_changed and meant.verb in REOPENING:
                await self._wait_parents(home)
        else:
            answer = Answer(0, done.nodes, is_changed=True, count=done.count)
        return wire.Changed(
            id=workflow_id,
            verb=request.verb.value,
            is_changed=answer.is_changed,
            nodes=list(answer.nodes),
            node_count=answer.count,
            workflow=await self._queries.view(workflow_id),
            **(await self._queries.behind(home, answer.nodes) if request.verb is Verb.SKIP else {}),
        )

    async def perform_in_bulk(
        self, selection: Selection, request: VerbRequest, done: frozenset[str] = frozenset()
    ) -> wire.BulkChanged:
        """Carry out a verb on all workflows that fit, but those for which it is done already."""
        return await self._verbs.ask_all(selection, self._cleaned(request), done=done)

    async def _large_one(self, workflow_id: str) -> RunningWorkflow | None:
        """Return a workflow that has so many nodes that a verb on them may have to go in parts."""
        workflow = self._turns.live(workflow_id)
        if workflow is None:
            record = await self._store.record(workflow_id)
            if record is not None and record.task_count > PART:
                workflow = await self._archive.unpacked(workflow_id)
        return workflow

    def _cleaned(self, request: VerbRequest) -> VerbRequest:
        return replace(request, why=self._redaction.text(request.why))
