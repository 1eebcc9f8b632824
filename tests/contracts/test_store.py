"""What every store promises, see `dyrygentd.ports.Store`."""

import random
from dataclasses import replace
from typing import Any

import anyio
import pytest

from dyrygentd.core.parent_task import ParentTask
from dyrygentd.core.records import Attempt, JournalEntry, NodeRecord, WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.user import User
from dyrygentd.ports import Store
from dyrygentd.ports.facts import JOURNAL_MAX, Holder, Retention, Selection, Stored, Term
from tests.contracts.adapters import StoreSetup
from tests.store.records import finished, node, workflow

pytestmark = pytest.mark.anyio


async def _reopened(stores: StoreSetup, store: Store) -> Store:
    await store.close()
    store = stores.make()
    await store.open()
    return store


async def _unfinished(store: Store) -> list[Stored]:
    return [stored async for stored in store.unfinished()]


async def _listed(store: Store, selection: Selection) -> list[str]:
    return [row.record.workflow_id for row in await store.list(selection)]


async def test_records_survive_a_restart(stores: StoreSetup, store: Store) -> None:
    """What was saved is read back field by field after a restart, since recovery knows nothing else."""
    record = workflow("w")
    nodes = [
        node("w", 0),
        node("w", 1, state="failed", error="ValueError: 'ż'", value=None),
        node("w", 2, state="blocked", blocked_by=1, value=None, dispatched_at=0.0, attempt=0),
        node("w", 3, state="held", held_until=1800000000.5, value=None, finished_at=0.0),
    ]
    await store.save([record], nodes)
    store = await _reopened(stores, store)
    loaded = await store.load("w")
    assert loaded is not None
    assert loaded.record == record
    assert sorted(loaded.nodes, key=lambda row: row.node) == nodes
    assert await _unfinished(store) == [loaded]
    await store.close()


async def test_notes_and_identity_survive_a_restart(stores: StoreSetup, store: Store) -> None:
    """What was noted about the world is there after a restart, and the database is known by the same name."""
    identity = store.identity
    assert identity
    assert await store.recall("reports") is None
    await store.remember("reports", "1-0")
    await store.remember("reports", "2-0")
    store = await _reopened(stores, store)
    assert await store.recall("reports") == "2-0"
    assert store.identity == identity
    await store.close()


async def test_term_rises_with_every_process(stores: StoreSetup, store: Store) -> None:
    """Each process that takes a database over has a higher term than all before, and the next one knows whose it was."""
    assert await store.term() is None
    for number in range(1, 6):
        holder = Holder("höst name", 4000 + number, 1700000000.125 + number)
        assert await store.raise_term(holder) == Term(number, holder)
        assert await store.term() == Term(number, holder)
        store = await _reopened(stores, store)
        assert await store.term() == Term(number, holder)
    await store.close()


async def test_term_rises_above_what_the_broker_knows(stores: StoreSetup, store: Store) -> None:
    """A database that is meant to go on although another one was further has a term of its own, and rises from there."""
    first, second, third = (Holder("h", pid, 1700000000.0) for pid in (1, 2, 3))
    assert await store.raise_term(first, above=41) == Term(42, first)
    assert await store.raise_term(second, above=7) == Term(43, second)
    store = await _reopened(stores, store)
    assert await store.raise_term(third) == Term(44, third)
    await store.close()


async def test_term_amid_saves_is_a_transaction_of_its_own(store: Store) -> None:
    """Raising the term while others write makes none of it durable halfway."""
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(store.save, [workflow(f"w{number}")], [node(f"w{number}", 0)])
            tasks.start_soon(store.raise_term, Holder("h", number, 1700000000.0))
    assert len(await _unfinished(store)) == 20
    term = await store.term()
    assert term is not None
    assert term.number == 20


async def test_note_amid_a_save_is_a_transaction_of_its_own(store: Store) -> None:
    """Noting something while a turn is saved makes neither durable halfway."""
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(store.save, [workflow(f"w{number}")], [node(f"w{number}", 0)])
            tasks.start_soon(store.remember, "count", str(number))
    assert len(await _unfinished(store)) == 20
    assert await store.recall("count") == "19"


async def test_unfinished_are_oldest_first(stores: StoreSetup, store: Store) -> None:
    """Unfinished workflows come back in the order of their submission, so that after a restart the oldest goes first."""
    await store.save([workflow(name) for name in "cab"], [])
    await store.save([workflow("d")], [])
    await store.save([finished(workflow("a"))], [])
    store = await _reopened(stores, store)
    assert await store.unfinished_count() == 3
    assert [stored.record.workflow_id for stored in await _unfinished(store)] == ["c", "b", "d"]
    await store.close()


async def test_a_later_record_keeps_the_definition(stores: StoreSetup, store: Store) -> None:
    """A record without a document changes the state and leaves the definition as it was."""
    await store.save([workflow("w")], [])
    await store.save([finished(workflow("w"), WorkflowState.FAILED, error="broken", result=b"[1]")], [])
    store = await _reopened(stores, store)
    loaded = await store.load("w")
    assert loaded is not None
    assert loaded.record == finished(
        workflow("w"), WorkflowState.FAILED, error="broken", result=b"[1]", document=workflow("w").document
    )
    assert await _unfinished(store) == []
    await store.close()


async def test_a_later_node_replaces_the_earlier(store: Store) -> None:
    """The newest record of a node wins, a value that was let go included."""
    await store.save([workflow("w")], [node("w", 0), node("w", 1)])
    await store.save([], [node("w", 0, value=None)])
    loaded = await store.load("w")
    assert loaded is not None
    assert sorted(loaded.nodes, key=lambda row: row.node) == [node("w", 0, value=None), node("w", 1)]


async def test_saving_the_same_twice_changes_nothing(stores: StoreSetup, store: Store) -> None:
    """A save may be repeated when nobody knows whether it went through."""
    for _ in range(2):
        await store.save([workflow("w")], [node("w", 0)])
    loaded = await store.load("w")
    assert loaded == Stored(workflow("w"), [node("w", 0)])
    assert len(await store.list(Selection())) == 1
    store = await _reopened(stores, store)
    await store.save([finished(workflow("x"), document=b"{}")], [])
    assert await _listed(store, Selection()) == ["x", "w"]
    await store.close()


async def test_recovered_workflows_can_be_saved_again(stores: StoreSetup, store: Store) -> None:
    """After a restart the unfinished ones go on where they were: nodes are added, the end is recorded."""
    await store.save([workflow("w")], [node("w", 0)])
    store = await _reopened(stores, store)
    await _unfinished(store)
    await store.save([], [node("w", 1)])
    await store.save([finished(workflow("w"))], [])
    loaded = await store.load("w")
    assert loaded is not None
    assert loaded.record.state is WorkflowState.SUCCEEDED
    assert {row.node for row in loaded.nodes} == {0, 1}
    await store.close()


async def test_record_is_what_load_has_without_the_definition(store: Store) -> None:
    """A view of a finished workflow needs neither its definition nor its nodes, which may be large."""
    await store.save([workflow("w")], [node("w", 0)])
    await store.save([finished(workflow("w"))], [])
    loaded = await store.load("w")
    assert loaded is not None
    assert await store.record("w") == replace(loaded.record, document=None)


async def test_unknown_workflow_is_none(store: Store) -> None:
    """Asking for what is not there is no error."""
    assert await store.load("nobody") is None
    assert await store.record("nobody") is None
    assert await store.find("nobody") == []
    assert await store.find_key("nobody") is None
    assert await _listed(store, Selection()) == []


async def test_find_by_id_prefix_and_name(store: Store) -> None:
    """A reference is an exact id, else a prefix or a name, newest first: what people type at a prompt."""
    await store.save([workflow(name, name="replace osd") for name in ("abc1", "abc2", "abd", "ab")], [])
    assert await store.find("ab") == ["ab"]
    assert await store.find("abc") == ["abc2", "abc1"]
    assert await store.find("replace osd") == ["ab", "abd", "abc2", "abc1"]
    assert await store.find("replace osd", limit=2) == ["ab", "abd"]
    assert await store.find("abcd") == []
    assert await store.find("replace") == []


@pytest.mark.parametrize("reference", ["%", "_", "a%", "a'; DROP TABLE workflows --", "\U0010ffff", "\ud800", "ż\0"])
async def test_odd_references_find_nothing(store: Store, reference: str) -> None:
    """A reference is text and never a pattern, and what no id can contain fits nothing."""
    await store.save([workflow("abc")], [])
    assert await store.find(reference) == []
    assert await store.load(reference) is None
    assert await store.find_key(reference) is None
    assert await _listed(store, Selection(name=reference)) == []
    assert await _listed(store, Selection(labels={reference: reference})) == []


async def test_find_by_key(stores: StoreSetup, store: Store) -> None:
    """A key is found whatever became of its workflow, so a repeated submission creates nothing."""
    await store.save([workflow("a", key="k"), workflow("b", key=None)], [])
    await store.save([finished(workflow("a", key="k"))], [])
    store = await _reopened(stores, store)
    assert await store.find_key("k") == "a"
    assert await store.find_key("") is None
    await store.close()


async def test_users_of_two_hosts_are_two(stores: StoreSetup, store: Store) -> None:
    """The same number at another host, or at none, is another owner, with keys of its own; a name changes nothing."""
    owners = [User(1000), User(1000, "app1", "ann"), User(1000, "app2", "bob"), User(0, "app1"), User(0), None]
    await store.save([workflow(f"w{at}", key="ticket", owner=owner) for at, owner in enumerate(owners)], [])
    await store.save([finished(workflow("w1", key="ticket", owner=owners[1]))], [])
    store = await _reopened(stores, store)
    for at, owner in enumerate(owners):
        record = await store.record(f"w{at}")
        assert record is not None
        assert (record.key, record.owner) == ("ticket", owner)
        assert record.owner is None or owner is None or record.owner.name == owner.name
        assert await store.find_key("ticket", owner) == f"w{at}"
        if owner is not None:
            assert await _listed(store, Selection(owner=owner)) == [f"w{at}"]
    assert await store.find_key("ticket", User(1000, "app1", "renamed")) == "w1"
    assert await store.find_key("ticket", User(1000, "app3")) is None
    assert await _listed(store, Selection(owner=User(1000, "app3"))) == []
    await store.close()


async def test_list_is_newest_first_and_pages(store: Store) -> None:
    """A listing is newest first; the cursor of the last row leads to the next page without gap or repetition."""
    await store.save([workflow(f"w{number}") for number in range(7)], [])
    pages: list[list[str]] = []
    before: int | None = None
    while rows := await store.list(Selection(before=before, limit=3)):
        assert all(row.record.document is None for row in rows)
        pages.append([row.record.workflow_id for row in rows])
        before = rows[-1].cursor
        # What comes in between two pages must not shift the second one.
        await store.save([workflow(f"later{len(pages)}")], [])
    assert pages == [["w6", "w5", "w4"], ["w3", "w2", "w1"], ["w0"]]


async def test_list_by_state_name_and_labels(store: Store) -> None:
    """Conditions of a listing hold together; labels are compared whole."""

    def make(name: str, **labels: str) -> WorkflowRecord:
        return workflow(name, name=name[0], labels=labels)

    ended = make("b1", site="gra1", team="ceph")
    await store.save([make("a1", site="gra1"), make("a2", site="gra10"), ended, make("b2")], [])
    await store.save([finished(ended, WorkflowState.FAILED)], [])
    assert await _listed(store, Selection(labels={"site": "gra1"})) == ["b1", "a1"]
    assert await _listed(store, Selection(labels={"site": "gra1", "team": "ceph"})) == ["b1"]
    assert await _listed(store, Selection(states=frozenset({"running"}))) == ["b2", "a2", "a1"]
    assert await _listed(store, Selection(states=frozenset({"failed", "cancelled"}))) == ["b1"]
    assert await _listed(store, Selection(name="a", labels={"site": "gra10"})) == ["a2"]
    assert await _listed(store, Selection(name="c")) == []
    row = (await store.list(Selection(name="b", states=frozenset({"failed"}))))[0]
    assert row.record == finished(ended, WorkflowState.FAILED)


async def test_text_that_utf8_cannot_carry_is_saved(store: Store) -> None:
    """A task's error may hold half a surrogate pair (JSON can); that must not keep a whole turn from the disk."""
    await store.save([workflow("w")], [node("w", 0, state="failed", error="ValueError: \ud83d", value=None)])
    await store.save([finished(workflow("w"), WorkflowState.FAILED, error="\udcff")], [])
    loaded = await store.load("w")
    assert loaded is not None
    assert loaded.nodes[0].error.startswith("ValueError: ")


async def test_generators_are_taken(store: Store) -> None:
    """Records may come from any iterable, also one that can be read only once."""
    await store.save((workflow(name) for name in "ab"), (node(name, 0) for name in "ab"))
    assert await _listed(store, Selection()) == ["b", "a"]


async def test_statistics_are_a_snapshot(store: Store) -> None:
    """A snapshot counts commits and rows and does not change under its reader."""
    before = store.statistics()
    await store.save([workflow("w")], [node("w", 0), node("w", 1)])
    after = store.statistics()
    assert (after.commits - before.commits, after.rows - before.rows, after.failures) == (1, 3, 0)
    assert replace(before) == before


async def test_closing_twice_is_harmless(stores: StoreSetup) -> None:
    """A store may be closed before it was opened, and twice."""
    store = stores.make()
    await store.close()
    await store.open()
    await store.close()
    await store.close()


async def test_ten_thousand_nodes_in_one_save(store: Store) -> None:
    """A turn may change thousands of nodes; they go in one transaction."""
    rows: list[NodeRecord] = [node("w", number, value=None) for number in range(10_000)]
    await store.save([workflow("w", document=b"[" + b"1," * 500_000 + b"1]")], rows)
    loaded = await store.load("w")
    assert loaded is not None
    assert len(loaded.nodes) == 10_000
    assert loaded.record.document == b"[" + b"1," * 500_000 + b"1]"
    assert store.statistics().commits == 1


async def test_old_workflows_expire(stores: StoreSetup, store: Store) -> None:
    """The oldest go first, so many at a time; what has not finished, or is younger, stays, and a restart brings none back."""
    for number in range(5):
        await store.save([workflow(f"w{number}")], [node(f"w{number}", 0)])
        await store.save([finished(workflow(f"w{number}"), finished_at=1000.0 + number)], [])
    await store.save([workflow("running", created_at=1.0)], [node("running", 0)])
    young = Retention(1003.0, 1003.0)
    assert await store.expire(Retention(), limit=2) == 0
    assert await store.expire(young, limit=2) == 2
    assert await store.record("w0") is None
    assert await store.record("w1") is None
    assert await store.expire(young, limit=2) == 1
    assert await store.expire(young, limit=2) == 0
    store = await _reopened(stores, store)
    kept = [row.record.workflow_id for row in await store.list(Selection())]
    assert kept == ["running", "w4", "w3"]
    assert await store.load("w2") is None
    await store.close()


async def test_what_failed_may_be_kept_longer(store: Store) -> None:
    """People come back to failures; what succeeded is of interest for a shorter time."""
    for number, state in enumerate((WorkflowState.SUCCEEDED, WorkflowState.FAILED, WorkflowState.CANCELLED)):
        await store.save([workflow(f"w{number}")], [])
        await store.save([finished(workflow(f"w{number}"), finished_at=1000.0 + number, state=state)], [])
    assert await store.expire(Retention(succeeded_since=1100.0, others_since=1002.0), limit=9) == 2
    assert await _listed(store, Selection()) == ["w2"]


async def test_a_full_database_drops_the_oldest(store: Store) -> None:
    """Beyond its bound in bytes the database keeps what has not finished, and the youngest of the rest that fit."""
    for number in range(5):
        document = random.Random(number).randbytes(400_000).hex().encode()
        await store.save([workflow(f"w{number}", document=document)], [])
        await store.save([finished(workflow(f"w{number}", document=document), finished_at=1000.0 + number)], [])
    await store.save([workflow("running", document=document)], [])
    bound = Retention(bytes_max=2_000_000)
    while await store.expire(bound, limit=1):
        pass
    kept = await _listed(store, Selection())
    assert kept[0] == "running"
    # How many fit is the store's affair.
    assert kept[1:] in (["w4"], ["w4", "w3"], ["w4", "w3", "w2"])


# --- what verbs need ------------------------------------------------------------------------------------------------


def _entry(workflow_id: str, number: int, **fields: Any) -> JournalEntry:
    entry = JournalEntry(
        workflow_id, 1700000000.5 + number, "hold", "żaneta (uid 1000, pid 7)", f"because {number}", ("a", "b"), 2
    )
    return replace(entry, **fields)


async def test_control_and_details_survive_a_restart(stores: StoreSetup, store: Store) -> None:
    """What verbs, retries and polls leave behind is read back field by field; where it is nothing, nothing is read."""
    record = workflow("w", priority=-7, run=3, deadline_at=1800000000.25)
    attempt = Attempt(
        1, 1700000001.125, 1700000002.5, "failed", 1700000009.75, 1700000001.25, "one@host", "\udcff no", is_over=True
    )
    nodes = [
        node("w", 0),
        node("w", 1, state="held", reason="gate", is_on_hold=True, value=None),
        node("w", 2, state="retrying", reason="retry", failures=2, fingerprint="ValueError at x.py:1", held_until=1800000001.5),
        node("w", 3, state="held", reason="poll", polling_since=1700000003.75),
        node("w", 4, state="cancelled", late="succeeded"),
        node("w", 5, state="dispatched", is_stale=True),
        node("w", 6, attempt=3, started_at=1700000001.5, worker="żaneta@host", earlier=(attempt, attempt._replace(number=2))),
    ]
    await store.save([record, workflow("plain")], nodes)
    store = await _reopened(stores, store)
    loaded = await store.load("w")
    assert loaded is not None
    assert loaded.record == record
    assert sorted(loaded.nodes, key=lambda row: row.node) == nodes
    plain = await store.record("plain")
    assert plain is not None
    assert (plain.priority, plain.run, plain.deadline_at) == (0, 0, 0.0)
    await store.save([replace(record, document=None, priority=0, run=0, deadline_at=0.0)], [])
    changed = await store.record("w")
    assert changed is not None
    assert (changed.priority, changed.run, changed.deadline_at) == (0, 0, 0.0)
    await store.close()


async def test_finished_workflow_goes_on(stores: StoreSetup, store: Store) -> None:
    """A workflow that finished may come again, running: it is unfinished then, with its definition, nodes and later ones."""
    await store.save([workflow("w")], [node("w", 0, state="failed")])
    await store.save([finished(workflow("w"), WorkflowState.FAILED)], [])
    assert await store.load("w", to_reopen=True) is not None
    await store.save([workflow("w", document=None, run=1)], [node("w", 0, state="waiting", value=None)], [_entry("w", 0)])
    store = await _reopened(stores, store)
    (unfinished,) = await _unfinished(store)
    assert unfinished.record == workflow("w", run=1)
    assert [row.state for row in unfinished.nodes] == ["waiting"]
    await store.save([finished(workflow("w"))], [node("w", 0)])
    assert await _unfinished(store) == []
    assert [entry.verb for entry in await store.journal("w")] == ["hold"]
    await store.close()


async def test_node_of_a_finished_workflow_is_saved(stores: StoreSetup, store: Store) -> None:
    """A task may end after its workflow did; its node's row is written all the same, also after a restart."""
    await store.save([workflow("w")], [node("w", 0, state="cancelled")])
    await store.save([finished(workflow("w"), WorkflowState.CANCELLED)], [])
    await store.save([], [node("w", 0, state="cancelled", late="succeeded")])
    store = await _reopened(stores, store)
    await store.save([], [node("w", 1, state="cancelled", late="failed")])
    loaded = await store.load("w")
    assert loaded is not None
    assert sorted((row.node, row.late) for row in loaded.nodes) == [(0, "succeeded"), (1, "failed")]
    assert loaded.record.state is WorkflowState.CANCELLED
    await store.close()


async def test_audit_goes_over_all_workflows(stores: StoreSetup, store: Store) -> None:
    """The newest entries of all workflows, oldest of them first; from a cursor on what came later, also after a restart."""
    entries = [_entry(f"w{number % 2}", number) for number in range(5)]
    await store.save([workflow("w0"), workflow("w1")], [], entries)
    newest = await store.audit(None, limit=2)
    assert [entry for _, entry in newest] == entries[-2:]
    assert [entry for _, entry in await store.audit(0, limit=3)] == entries[:3]
    cursor = newest[-1][0]
    assert await store.audit(cursor, limit=10) == []
    store = await _reopened(stores, store)
    later = _entry("w1", 9)
    await store.save([], [], [later])
    assert [entry for _, entry in await store.audit(cursor, limit=10)] == [later]
    await store.close()


async def test_journal_keeps_order_and_text(stores: StoreSetup, store: Store) -> None:
    """Entries come back oldest first as they were written, each workflow's own, whatever its state."""
    entries = [_entry("w", 2), _entry("w", 1, why="", nodes=(), count=0, detail="from 0 to 5"), _entry("w", 3, by="")]
    await store.save([workflow("w"), workflow("x")], [], entries[:2])
    await store.save([finished(workflow("w"))], [], [_entry("x", 9)])
    await store.save([], [], entries[2:])
    store = await _reopened(stores, store)
    assert await store.journal("w") == entries
    assert await store.journal("x") == [_entry("x", 9)]
    assert await store.journal("nobody") == []
    await store.close()


async def test_journal_is_bounded(store: Store) -> None:
    """Of a workflow the newest entries are kept: a script that holds and releases for ever must not fill the disk."""
    await store.save([workflow("w"), workflow("x")], [], [_entry("x", 0)])
    for start in range(0, JOURNAL_MAX + 50, 50):
        await store.save([], [], [_entry("w", start + number) for number in range(50)])
    kept = await store.journal("w")
    assert len(kept) == JOURNAL_MAX
    assert [kept[0].why, kept[-1].why] == ["because 50", f"because {JOURNAL_MAX + 49}"]
    assert len(await store.journal("x")) == 1


async def test_last_entry_of_a_verb(store: Store) -> None:
    """The newest of that verb and workflow is found, and nothing where there is none."""
    entries = [_entry("w", 1), _entry("w", 2, nodes=("a", "b")), replace(_entry("w", 3), verb="release")]
    await store.save([workflow("w"), workflow("x")], [], [*entries, replace(_entry("x", 4), verb="pause")])
    assert await store.last_entry("w", "hold") == entries[1]
    assert await store.last_entry("w", "release") == entries[2]
    assert await store.last_entry("w", "pause") is None
    assert await store.last_entry("nobody", "hold") is None


async def test_journal_takes_any_text(store: Store) -> None:
    """A reason is what somebody typed: quotes, emoji, zero bytes and half a surrogate pair keep no turn from the disk."""
    await store.save(
        [workflow("w")], [], [_entry("w", 0, why="'; DROP TABLE journal -- 🦭", nodes=("ż 'x'",)), _entry("w", 1, why="\ud83d")]
    )
    first, second = await store.journal("w")
    assert (first.why, first.nodes) == ("'; DROP TABLE journal -- 🦭", ("ż 'x'",))
    assert second.verb == "hold"


async def test_what_belongs_to_nobody_is_dropped(store: Store) -> None:
    """Records of a workflow that is not kept any more change nothing and fail nothing."""
    await store.save([], [node("gone", 0)], [_entry("gone", 0)])
    assert await store.journal("gone") == [] or await store.load("gone") is None
    assert await store.load("gone", to_reopen=True) is None


async def test_list_by_series(store: Store) -> None:
    """What is kept of a series finds its runs, newest first, and is there again."""
    runs = {"w1": ("s", "queue_one", ""), "w2": ("s/2", "", ""), "w3": ("s", "queue_one", "w1"), "w4": ("", "", "")}
    await store.save(
        [
            replace(workflow(name), series=series, if_running=if_running, queued_behind=behind)
            for name, (series, if_running, behind) in runs.items()
        ],
        [],
    )
    assert await _listed(store, Selection(series="s")) == ["w3", "w1"]
    assert await _listed(store, Selection(series="s", states=frozenset({"failed"}))) == []
    assert await _listed(store, Selection(series="nothing")) == []
    for name, kept in runs.items():
        loaded = await store.load(name)
        assert loaded is not None
        assert (loaded.record.series, loaded.record.if_running, loaded.record.queued_behind) == kept
    await store.save([finished(replace(workflow("w3"), series="s", if_running="queue_one"))], [])
    assert await _listed(store, Selection(series="s")) == ["w3", "w1"]


async def test_list_by_parent(store: Store) -> None:
    """The task in which a workflow was submitted is kept, and finds it; roots find nothing."""
    parents = {"w1": ParentTask("p", "r"), "w2": ParentTask("q", "r"), "w3": ParentTask("p", "p"), "w4": None}
    await store.save([replace(workflow(name), parent_task=parent) for name, parent in parents.items()], [])
    assert await _listed(store, Selection(parent_task="p")) == ["w3", "w1"]
    assert await _listed(store, Selection(parent_task="r")) == []
    for name, parent in parents.items():
        loaded = await store.load(name)
        assert loaded is not None
        assert loaded.record.parent_task == parent


async def test_list_by_time(store: Store) -> None:
    """A listing of last night has what was created then; another one what has ended since."""
    first, second, third = (replace(workflow(f"w{at}"), created_at=float(at)) for at in (100, 200, 300))
    await store.save([first, second, third], [])
    assert await _listed(store, Selection(since=200.0)) == ["w300", "w200"]
    assert await _listed(store, Selection(until=200.0)) == ["w200", "w100"]
    assert await _listed(store, Selection(since=101.0, until=299.5)) == ["w200"]
    await store.save([replace(finished(first), finished_at=900.0), replace(finished(second), finished_at=400.0)], [])
    assert await _listed(store, Selection(ended_since=0.0)) == ["w200", "w100"]
    assert await _listed(store, Selection(ended_since=0.0, by_end=True)) == ["w100", "w200"]
    assert await _listed(store, Selection(ended_since=0.0, by_end=True, limit=1)) == ["w100"]
    assert await _listed(store, Selection(ended_since=900.0)) == ["w100"]
    assert await _listed(store, Selection(ended_since=400.0, until=200.0, limit=1)) == ["w200"]
