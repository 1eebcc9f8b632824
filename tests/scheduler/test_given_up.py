"""What was given up shortly before a process ended is revoked by the next one, and watched."""

from dataclasses import replace

import pytest

from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.verbs import Verb, VerbRequest
from dyrygentd.testing import FakeBroker, MemoryStore
from tests.scheduler.support import definition, scheduler, settle, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", ["timeout", "timeout and retry", "deadline", "skip", "force"])
async def test_given_up_tasks_are_revoked_again(how: str) -> None:
    """A timeout, a deadline, a skip, a forced retry: the workers may never have heard of it."""
    broker, store = FakeBroker(holds=True), MemoryStore()
    text = {"timeout": "a timeout=0.05", "timeout and retry": "a timeout=0.05 retry=3 backoff=60"}.get(how, "a")
    policy = WorkflowPolicy(deadline_s=0.05 if how == "deadline" else 0.0)
    async with scheduler(broker, store) as running:
        handle = await running.submit(replace(definition(f"{text}; b", prefix="p"), policy=policy))
        await until(lambda: len(broker.published) == 2)
        await until(lambda: running.statistics().engine["nodes"]["dispatched"] == 2 or how != "skip")
        broker.broken = "gone"
        if how == "skip":
            await running.perform(handle.id, VerbRequest(Verb.SKIP, nodes=("a",), value=b"1"))
        if how == "force":
            await running.perform(handle.id, VerbRequest(Verb.RETRY, nodes=("a",), force=True))
        counts = {"timeout": "failed", "timeout and retry": "retrying", "deadline": "cancelled", "skip": "skipped"}
        if how in counts:
            await until(lambda: running.statistics().engine["nodes"][counts[how]] >= 1 or not running.workflow_count)
        await settle()
        assert "p/a" not in broker.revoked
    broker.broken = ""
    async with scheduler(broker, store) as running:
        await until(lambda: "p/a" in broker.revoked)
        assert ("p/a" in broker.terminated) == (how not in ("skip", "force"))
