"""Every store tells workflows that somebody submitted from their children, and deletes these with what is above them."""

from collections.abc import Sequence

import pytest

from dyrygentd.core.parent import Parent
from dyrygentd.core.records import WorkflowRecord
from dyrygentd.core.states import WorkflowState
from dyrygentd.ports import Store
from dyrygentd.ports.facts import Retention, Selection
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.sqlite import SqliteStore
from tests.store.records import finished, node, workflow

pytestmark = pytest.mark.anyio

_ALL = Selection(with_children=True, limit=100)


def _child(name: str, parent: str, *, root: str = "", depth: int = 1, position: int = 3) -> WorkflowRecord:
    above = Parent(parent, position, 0, depth, root or parent)
    return workflow(name, key=None, parent=above)


async def _listed(store: Store, selection: Selection) -> list[str]:
    return [row.record.workflow_id for row in await store.list(selection)]


async def _tree(store: Store, root: str, *, ends_at: float | None, child_ends_at: float | None) -> Sequence[str]:
    """Save a workflow with a child and a grandchild, and let them end; return their ids."""
    names = (root, f"{root}.a", f"{root}.a.b")
    records = [workflow(names[0]), _child(names[1], root), _child(names[2], names[1], root=root, depth=2)]
    await store.save(records, [node(name, 0) for name in names])
    ends = [child_ends_at, child_ends_at, ends_at]
    for record, at in zip(reversed(records), ends, strict=True):
        if at is not None:
            await store.save([finished(record, finished_at=at)], [])
    return names


async def test_parents_are_kept(store: Store) -> None:
    """A child comes back with all that is known of what is above it, also after its end."""
    child = _child("c", "w")
    await store.save([workflow("w"), child], [])
    await store.save([finished(child)], [])
    loaded = await store.load("c")
    record = await store.record("c")
    assert loaded is not None
    assert record is not None
    assert loaded.record.parent == record.parent == Parent("w", 3, 0, 1, "w")


async def test_listings_have_roots(store: Store) -> None:
    """A listing has what people submitted; the children of one, or all, if they are asked for."""
    await _tree(store, "w", ends_at=None, child_ends_at=None)
    await store.save([workflow("x"), _child("w.c", "w")], [])
    assert await _listed(store, Selection()) == ["x", "w"]
    assert await _listed(store, _ALL) == ["w.c", "x", "w.a.b", "w.a", "w"]
    assert await _listed(store, Selection(parent="w")) == ["w.c", "w.a"]
    assert await _listed(store, Selection(parent="w", limit=1)) == ["w.c"]
    assert await _listed(store, Selection(parent="w.a")) == ["w.a.b"]
    assert await _listed(store, Selection(parent="x")) == []
    first = await store.list(Selection(limit=1))
    assert await _listed(store, Selection(limit=1, before=first[0].cursor)) == ["w"]


async def test_listings_of_ends(store: Store) -> None:
    """What has ended lately is looked for among roots, children of one, or all."""
    await _tree(store, "w", ends_at=900.0, child_ends_at=800.0)
    for by_end in (False, True):
        assert await _listed(store, Selection(ended_since=1.0, by_end=by_end)) == ["w"]
        assert await _listed(store, Selection(ended_since=1.0, by_end=by_end, parent="w")) == ["w.a"]
        assert await _listed(store, Selection(ended_since=850.0, by_end=by_end, parent="w")) == []
        found = await _listed(store, Selection(ended_since=1.0, by_end=by_end, with_children=True))
        assert sorted(found) == ["w", "w.a", "w.a.b"]


async def test_names_are_of_roots(store: Store) -> None:
    """A name finds what somebody submitted, and none of a thousand children of that name; an id finds anything."""
    await store.save([workflow("w", name="nightly"), workflow("c", name="nightly", key=None, parent=_child("c", "w").parent)], [])
    assert await store.find("nightly") == ["w"]
    assert await store.find("c") == ["c"]


async def test_children_expire_with_their_root(store: Store) -> None:
    """They are not deleted as long as it is kept, however old they are, and go with it, whatever they are."""
    names = await _tree(store, "w", ends_at=1000.0, child_ends_at=10.0)
    await _tree(store, "x", ends_at=2000.0, child_ends_at=20.0)
    assert await store.expire(Retention(500.0, 500.0), limit=9) == 0
    assert len(await _listed(store, _ALL)) == 6
    assert await store.expire(Retention(1500.0, 1500.0), limit=9) == 1
    assert await _listed(store, _ALL) == ["x.a.b", "x.a", "x"]
    for name in names:
        assert await store.load(name) is None


async def test_a_root_stays_while_children_run(store: Store) -> None:
    """A child that was left to itself keeps what is above it: it is shown as that one's."""
    await _tree(store, "w", ends_at=1000.0, child_ends_at=None)
    assert await store.expire(Retention(5000.0, 5000.0), limit=9) == 0
    for name in ("w.a", "w.a.b"):
        await store.save([finished(_child(name, "w", root="w"), finished_at=1100.0)], [])
    assert await store.expire(Retention(5000.0, 5000.0), limit=9) == 1
    assert await _listed(store, _ALL) == []


async def test_a_child_that_goes_on_keeps_its_root(store: Store) -> None:
    """Somebody retries a finished child: until that is saved nothing of its tree is deleted."""
    await _tree(store, "w", ends_at=1000.0, child_ends_at=10.0)
    assert await store.load("w.a.b", to_reopen=True) is not None
    if isinstance(store, SqliteStore | PostgresStore):
        # The fakes leave to whoever uses them that nothing is deleted meanwhile.
        assert await store.expire(Retention(5000.0, 5000.0), limit=9) == 0
    running = _child("w.a.b", "w.a", root="w", depth=2)
    await store.save([workflow("w.a.b", key=None, parent=running.parent, document=None)], [])
    assert await store.expire(Retention(5000.0, 5000.0), limit=9) == 0
    assert len(await _listed(store, _ALL)) == 3


async def test_children_are_not_counted(store: Store) -> None:
    """How many finished workflows are kept is a number of those that people submitted: one with many children pushes none out."""
    await _tree(store, "w", ends_at=1000.0, child_ends_at=10.0)
    assert store.statistics().finished_workflows == 1
    await store.save([workflow("f", key=None)], [])
    await store.save([finished(workflow("f", key=None), state=WorkflowState.FAILED)], [])
    assert store.statistics().finished_workflows == 2
    assert await store.expire(Retention(1500.0, 1500.0), limit=9) == 1
    assert store.statistics().finished_workflows == 1
