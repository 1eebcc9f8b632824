"""The engine against the naive model of `tests.core.test_model`, with a real database instead of a store in memory.

A crash leaves the files as ``kill -9`` would: they are copied while the store has them open, and the copy is opened. What is
read back is compared with what was saved, field by field, and the engine goes on from it. Saves fail as on a full disk; the
history is trimmed; workflows that finished are read back and set running again; notes are kept.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dyrygentd.core.effects import Batch
from dyrygentd.core.limits import Limits
from dyrygentd.core.states import WorkflowState
from dyrygentd.errors import StoreUnavailable
from dyrygentd.ports.facts import Selection
from dyrygentd.store.sqlite import SqliteStore
from tests.core.test_model import VALUE_BYTES_MAX, EngineAgainstModel
from tests.core.test_model_verbs import Shape as VerbsShape
from tests.core.test_model_verbs import VerbsAgainstModel
from tests.core.test_model_verbs import shapes as verbs_shapes
from tests.support.conversation import Conversation
from tests.support.size import of_size

T = TypeVar("T")

#: Finished workflows that are kept: one, so that others go often; or all, for verbs on what has finished.
ONE, ALL = 1, 1_000_000
#: Where there is a file system in memory the machine takes a tenth of the time.
_MEMORY = Path("/dev/shm")


class StoredConversation(Conversation):
    """A conversation that saves to a real database as well, and recovers from that alone."""

    def __init__(self, limits: Limits, directory: Path, history_max: int) -> None:
        super().__init__(limits)
        self.directory = directory
        self.history_max = history_max
        self.openings = 0
        self.notes: dict[str, str] = {}
        # `asyncio.run` would make a loop for each call.
        self.loop = asyncio.new_event_loop()
        self.store = self.opened()

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        """Wait for a call of the store."""
        return self.loop.run_until_complete(call)

    @property
    def path(self) -> Path:
        """Where the present database is."""
        return self.directory / str(self.openings) / "state.db"

    def opened(self) -> SqliteStore:
        """Open the present database."""
        store = SqliteStore(self.path, history_max=self.history_max)
        self.wait(store.open())
        return store

    def save(self, batch: Batch) -> None:
        """Save in both places; the history of the one in memory is trimmed as that on disk was."""
        if not batch.row_count:
            return
        self.wait(self.store.save(batch.save_workflows.values(), batch.save_nodes.values(), batch.journal))
        super().save(batch)
        # Nobody asks for the values of what has succeeded.
        done = {name for name, record in batch.save_workflows.items() if record.state is WorkflowState.SUCCEEDED}
        self.nodes = {place: row._replace(value=None) if place[0] in done else row for place, row in self.nodes.items()}
        self.forget_pruned()

    def is_full(self, batch: Batch) -> bool:
        """Try to save on a disk without room; tell whether that failed, after which nothing of it may be there."""
        assert self.store._writer is not None
        self.wait(self._limit("PRAGMA max_page_count = 1"))
        try:
            # Longer than what may be free inside the file.
            long = {name: replace(record, error="x" * 200_000) for name, record in batch.save_workflows.items()}
            nodes = [row._replace(error="x" * 200_000) for row in batch.save_nodes.values()]
            self.wait(self.store.save(long.values(), nodes, batch.journal))
        except StoreUnavailable:
            return True
        finally:
            self.wait(self._limit("PRAGMA max_page_count = 1000000"))
        return False

    async def _limit(self, pragma: str) -> None:
        assert self.store._writer is not None
        await self.store._writer.execute_fetchall(pragma)

    def forget_pruned(self) -> None:
        """Take what the history let go for gone; that it is never too much and never unfinished is checked."""
        kept = {row.record.workflow_id for row in self.wait(self.store.list(Selection(limit=1000)))}
        gone = self.workflows.keys() - kept
        assert all(self.workflows[workflow_id].state.is_finished for workflow_id in gone)
        finished = [workflow_id for workflow_id in kept if self.workflows[workflow_id].state.is_finished]
        assert len(finished) <= self.history_max
        assert not gone or len(finished) == self.history_max
        for workflow_id in gone:
            del self.workflows[workflow_id]
        self.nodes = {place: row for place, row in self.nodes.items() if place[0] not in gone}
        self.journal = [entry for entry in self.journal if entry.workflow_id not in gone]

    def crash(self) -> None:
        """Die as by ``kill -9``: another process finds the files as they are."""
        before = self.path
        self.openings += 1
        self.path.parent.mkdir()
        for name in ("state.db", "state.db-wal"):
            if (before.parent / name).exists():
                shutil.copy(before.parent / name, self.path.parent / name)
        self.wait(self.store.close())
        shutil.rmtree(before.parent)
        self.store = self.opened()
        self.compare()
        super().crash()

    def restored(self, workflow_id: str) -> Any:
        """Rebuild a workflow from the database alone."""
        stored = self.wait(self.store.load(workflow_id))
        assert stored is not None
        self.workflows[workflow_id] = stored.record
        kept = {place: row for place, row in self.nodes.items() if place[0] != workflow_id}
        self.nodes = kept | {(workflow_id, row.node): row for row in stored.nodes}
        return super().restored(workflow_id)

    def compare(self) -> None:
        """Compare all that is stored with what was saved."""
        for workflow_id, record in self.workflows.items():
            stored = self.wait(self.store.load(workflow_id))
            assert stored is not None
            assert stored.record == record
            rows = {place[1]: row for place, row in self.nodes.items() if place[0] == workflow_id}
            assert {row.node: row for row in stored.nodes} == rows
            entries = [entry for entry in self.journal if entry.workflow_id == workflow_id]
            assert self.wait(self.store.journal(workflow_id)) == entries
        for name, value in self.notes.items():
            assert self.wait(self.store.recall(name)) == value
        ids = {workflow_id for workflow_id, record in self.workflows.items() if not record.state.is_finished}
        assert self.wait(_unfinished(self.store)) == ids

    def close(self) -> None:
        """Close and delete everything."""
        self.wait(self.store.close())
        self.loop.close()
        shutil.rmtree(self.directory)


async def _unfinished(store: SqliteStore) -> set[str]:
    return {stored.record.workflow_id async for stored in store.unfinished()}


class _OnDisk(RuleBasedStateMachine):
    """What the machines do with a disk; each of them is a machine that saves into a conversation."""

    conversation: Any
    unsaved: Batch
    _take: Callable[[], None]

    def use_disk(self, limits: Limits, *, history_max: int) -> None:
        """Begin with an empty database."""
        directory = Path(tempfile.mkdtemp(prefix="dyr-model-", dir=_MEMORY if _MEMORY.is_dir() else None))
        (directory / "0").mkdir()
        self.conversation = StoredConversation(limits, directory, history_max)

    @rule()
    def fail_to_save(self) -> None:
        """End the turn on a full disk: the batch waits for the next one, and nothing of it is stored."""
        self._take()
        if self.unsaved.row_count:
            event(f"full disk: {self.conversation.is_full(self.unsaved)}")
            self.conversation.compare()

    @rule(name=st.sampled_from(["reports", "sentinel", "żółw"]), value=st.text(max_size=20))
    def remember(self, name: str, value: str) -> None:
        """Note something; it is durable at once."""
        value = value.encode(errors="ignore").decode()
        self.conversation.wait(self.conversation.store.remember(name, value))
        self.conversation.notes[name] = value

    @rule()
    def restart_store(self) -> None:
        """Close the file in order and open it again where it is."""
        self.conversation.wait(self.conversation.store.close())
        self.conversation.store = self.conversation.opened()
        self.conversation.compare()

    def teardown(self) -> None:
        """Let everything come to its end, and compare all that is stored then, also after one more crash."""
        if not isinstance(getattr(self, "conversation", None), StoredConversation):
            return
        try:
            super().teardown()
            self.conversation.compare()
            self.conversation.crash()
        finally:
            self.conversation.close()


class StoreAgainstModel(_OnDisk, EngineAgainstModel):
    """Values, disks, crashes, and a history that is trimmed."""

    @initialize(in_flight_max=st.sampled_from([2, 5, 100]), dispatch_max=st.sampled_from([1, 3, 100]))
    def begin(self, in_flight_max: int, dispatch_max: int) -> None:
        """Begin with an empty database."""
        self.use_disk(Limits(in_flight_max, dispatch_max, VALUE_BYTES_MAX), history_max=ONE)

    @invariant()
    def agrees(self) -> None:
        """What the engine says and what is on disk is what the model derives; a workflow that is gone says nothing."""
        if hasattr(self, "conversation"):
            for workflow_id in [workflow_id for workflow_id in self.saved if workflow_id not in self.conversation.workflows]:
                event("trimmed")
                assert self.saved.pop(workflow_id).end() != "running"
                self.models.pop(workflow_id, None)
        super().agrees()


class StoreAgainstVerbs(_OnDisk, VerbsAgainstModel):
    """Verbs, also on workflows that finished and are read back from the disk with each step."""

    @initialize(in_flight_max=st.sampled_from([1, 3, 100]), shape=verbs_shapes())
    def begin(self, in_flight_max: int, shape: list[VerbsShape]) -> None:
        """Begin with an empty database, and one workflow."""
        self.use_disk(Limits(in_flight_max), history_max=ALL)
        self.submit(shape)


_PROFILES = {
    "fast": settings(max_examples=of_size(10, 60), stateful_step_count=30, derandomize=True),
    "deep": settings(max_examples=2000, stateful_step_count=50, print_blob=True),
}
_SETTINGS = settings(
    _PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "fast")],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestStoreAgainstModel = pytest.mark.timeout(0)(StoreAgainstModel.TestCase)  # The deep profile takes minutes.
TestStoreAgainstModel.settings = _SETTINGS
TestStoreAgainstVerbs = pytest.mark.timeout(0)(StoreAgainstVerbs.TestCase)
TestStoreAgainstVerbs.settings = _SETTINGS
