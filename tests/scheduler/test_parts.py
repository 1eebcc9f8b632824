"""The parts put together: their bounds are those in force, and each is told what concerns it."""

from dataclasses import fields, replace
from typing import Any

import pytest

from dyrygentd.core.limits import Limits
from dyrygentd.ports import Store
from dyrygentd.scheduler import SchedulerLimits
from dyrygentd.testing import FakeBroker
from tests.scheduler.support import QUICK, definition, published, scheduler, until

pytestmark = pytest.mark.anyio


def _another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case Limits():
            return Limits(**{each.name: _another(getattr(value, each.name)) for each in fields(Limits)})
        case tuple():
            return (*value, "another")
    return {**value, "another": 1}


async def test_only_live_bounds_change(store: Store) -> None:
    """What the parts were given for good stays, and there is one truth: what is told as a bound is what a part goes by."""
    wanted = SchedulerLimits(**{each.name: _another(getattr(QUICK, each.name)) for each in fields(SchedulerLimits)})
    async with scheduler(FakeBroker(), store) as running:
        running.set_limits(wanted)
        await running._parts.inbox.wait_saved()
        assert running.limits == QUICK.following(wanted)
        assert running.limits.engine is running._parts.turns.engine.limits
        assert running._parts.redaction.text("this is another one") == "this is **** one"
    changed = {each.name for each in fields(SchedulerLimits) if getattr(running.limits, each.name) != getattr(QUICK, each.name)}
    assert changed == {"engine", "history_s", "history_failed_s", "history_bytes_max", "redact", "nodes_max", "node_bytes_max"}


async def test_bound_that_is_raised_lets_go_what_waits(store: Store) -> None:
    """The change is an event, so a turn follows it without anything else happening."""
    broker = FakeBroker(has_worker=False)
    few = replace(QUICK, engine=replace(QUICK.engine, in_flight_max=1))
    async with scheduler(broker, store, limits=few) as running:
        await running.submit(definition("a; b; c"))
        await until(lambda: len(published(broker)) == 1)
        await running._parts.inbox.wait_saved()
        running.set_limits(QUICK)
        await until(lambda: len(published(broker)) == 3)


async def test_pattern_that_is_none_changes_nothing(store: Store) -> None:
    """Bounds are taken as a whole or not at all."""
    async with scheduler(FakeBroker(), store) as running:
        with pytest.raises(Exception, match="unterminated"):
            running.set_limits(replace(QUICK, history_s=5.0, redact=("[",)))
        assert running.limits == QUICK
