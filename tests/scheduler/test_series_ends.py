"""When a series succeeded last: over restarts and beyond the history, with a bound."""

import json
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from dyrygentd.core.series import series_of
from dyrygentd.core.user import User
from dyrygentd.ports.facts import SERIES_NOTE
from dyrygentd.scheduler.saving import Saving
from dyrygentd.scheduler.series_ends import SeriesEnds
from dyrygentd.testing import FakeBroker, FakeClock, MemoryStore
from tests.scheduler.support import definition, scheduler
from tests.store.records import finished, workflow

pytestmark = pytest.mark.anyio

_DAY_S = 86400.0


def _ends(store: MemoryStore, clock: FakeClock, *, most: int = 3) -> SeriesEnds:
    saving = Saving(store, clock, inbox=None, meanwhile=None)  # type: ignore[arg-type]
    return SeriesEnds(store, saving, clock, most=most)


async def test_success_is_told_and_outlives_the_process() -> None:
    """The metric has the last success of a run; of a series that never succeeded, when it was there first."""
    broker, store, registry = FakeBroker({"tasks.bad": lambda: 1 / 0}), MemoryStore(), CollectorRegistry()

    def at(series: str) -> float:
        return (
            registry.get_sample_value("dyrygentd_series_last_success_timestamp_seconds", {"series": series, "owner": "7"}) or 0.0
        )

    async with scheduler(broker, store, registry=registry) as running:
        for text, series in (("a", "good"), ("bad", "never")):
            given = replace(definition(text), series=series_of(series))
            submitted = await running.submit_definition(given, owner=7)
            await running.wait(submitted.id, timeout_s=5)
        good, never = await store.record(submitted.id), at("never")
        assert good is not None
        assert never == good.created_at
        assert at("good") > 0
        sample = registry.get_sample_value("dyrygentd_series_runs_total", {"decided": "began"})
        assert sample == 2
    assert [row[:2] for row in json.loads(await store.recall(SERIES_NOTE) or "")] == [["7", "good"], ["7", "never"]]
    registry = CollectorRegistry()
    async with scheduler(FakeBroker(), store, registry=registry):
        assert at("never") == never


async def test_a_note_that_was_changed_by_hand() -> None:
    """It is no reason not to start."""
    store, clock = MemoryStore(), FakeClock()
    await store.remember(SERIES_NOTE, '[["7", "good"]]')
    ends = _ends(store, clock)
    await ends.prepare()
    assert ends.view() == []


async def test_bound() -> None:
    """Beyond the bound those go that were submitted longest ago, and those that nobody submits any more."""
    clock = FakeClock()
    ends = _ends(MemoryStore(), clock)
    now = clock.now()
    for number in range(5):
        record = replace(workflow(f"w{number}"), series=f"s{number}", created_at=now + number, owner=User(7))
        ends.saved({"w": record})
    assert [name for _, name, _ in ends.view()] == ["s2", "s3", "s4"]
    ends.saved({"w": replace(workflow("w2"), series="s2", created_at=now + 9, owner=User(7))})
    assert [name for _, name, _ in ends.view()] == ["s3", "s4", "s2"]
    ends.saved({"w": finished(replace(workflow("w3"), series="s3", created_at=now, owner=User(7)), finished_at=now + 50)})
    assert ends.by_name["7", "s3"].at == now + 50
    clock.pass_time(101 * _DAY_S)
    ends.saved({"w": replace(workflow("w9"), series="s9", created_at=clock.now(), owner=User(7))})
    assert [name for _, name, _ in ends.view()] == ["s9"]
    ends.saved({"w": workflow("none")})
    assert len(ends.view()) == 1
