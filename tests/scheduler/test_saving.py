"""Making a batch durable: what is not on disk yet can be asked for, and what happens meanwhile is saved with it."""

from collections.abc import Iterable

import anyio
import pytest

from dyrygentd.core.effects import Answer, Batch
from dyrygentd.core.events import DrainRequested, Event
from dyrygentd.core.records import JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.scheduler import SystemClock
from dyrygentd.scheduler.inbox import Inbox
from dyrygentd.scheduler.redaction import Redaction
from dyrygentd.scheduler.saving import Saving
from dyrygentd.testing import MemoryStore
from tests.scheduler.support import DEADLINE_S, GatedMemory, until

pytestmark = pytest.mark.anyio


def _entry(word: str) -> JournalEntry:
    return JournalEntry("w", 1.0, word, "anna")


class _Meanwhile:
    """Answers for the turns: of each request in the inbox comes an entry of the journal."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.inbox: Inbox | None = None

    def __call__(self, *events: Event) -> Batch:
        assert self.inbox is not None
        taken = [*events, *self.inbox.take()]
        self.told += taken
        return Batch(journal=[_entry("meanwhile") for _ in taken])


def _saving(store: MemoryStore) -> tuple[Saving, Inbox, _Meanwhile]:
    meanwhile, inbox = _Meanwhile(), Inbox(Redaction())
    meanwhile.inbox = inbox
    return Saving(store, SystemClock(), inbox=inbox, meanwhile=meanwhile), inbox, meanwhile


async def test_what_is_not_on_disk_yet_can_be_asked_for() -> None:
    """An answer that the disk keeps back is known here, so that a refusal can be told; afterwards it is not ours any more."""
    store = GatedMemory()
    saving, _, _ = _saving(store)
    answer = Answer(7, ("a",))
    async with anyio.create_task_group() as tasks:
        store.shut()
        tasks.start_soon(saving.save, Batch(journal=[_entry("hold")], answers=[answer]))
        await until(lambda: store.waiting == 1)
        assert (saving.unsaved_answer(7), saving.unsaved_answer(8)) == (answer, None)
        assert saving.waiting_s > 0
        assert saving.reason == "the database is slow"
        store.open_gate()
    assert saving.unsaved_answer(7) is None
    assert saving.waiting_s == 0
    assert [entry.verb for entry in await store.journal("w")] == ["hold"]


async def test_what_happens_while_the_disk_refuses_is_saved_with_it() -> None:
    """One batch comes of it, in one transaction, and the problem is told until then."""
    store = MemoryStore()
    store.broken = "no space left"
    saving, inbox, meanwhile = _saving(store)
    batch = Batch(journal=[_entry("first")])
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(saving.save, batch)
            await until(lambda: bool(saving.problem))
            assert "no space left" in saving.reason
            inbox.post(DrainRequested())
            await until(lambda: len(batch.journal) == 2)
            store.broken = ""
    assert meanwhile.told == [DrainRequested()]
    assert saving.problem == ""
    assert [entry.verb for entry in await store.journal("w")] == ["first", "meanwhile"]
    assert store.statistics().commits == 1


async def test_batch_without_rows_costs_no_transaction() -> None:
    """Listeners may be told of something that nobody has to write down."""
    store = MemoryStore()
    saving, _, _ = _saving(store)
    await saving.save(Batch(changed={"w": None}))
    assert store.statistics().commits == 0


class _Odd(MemoryStore):
    """A store that takes nothing of one workflow, whatever the disk does."""

    async def save(
        self, workflows: Iterable[WorkflowRecord], nodes: Iterable[NodeRecord], journal: Iterable[JournalEntry] = ()
    ) -> None:
        journal = [*journal]
        if any(entry.workflow_id == "odd" for entry in journal):
            raise ValueError("odd row")
        await super().save(workflows, nodes, journal)


async def test_rows_that_are_refused_for_good_keep_no_others_back() -> None:
    """The others are on disk, and the engine is told about which workflow it is."""
    store = _Odd()
    saving, _, meanwhile = _saving(store)
    await saving.save(Batch(journal=[_entry("hold"), JournalEntry("odd", 1.0, "hold", "anna")]))
    assert [entry.verb for entry in await store.journal("w")] == ["hold", "meanwhile"]
    assert ["odd row" in str(event) for event in meanwhile.told] == [True]


async def test_note_that_cannot_be_written_is_no_trouble() -> None:
    """It is written anew another time; whether the disk works is told by what has to be written."""
    store = MemoryStore()
    saving, _, _ = _saving(store)
    assert await saving.remember("place", "1")
    store.broken = "no space left"
    assert not await saving.remember("place", "2")
    assert saving.problem == ""
    assert await store.recall("place") == "1"
