"""Two schedulers in one program on one broker: they share it and nothing else."""

from pathlib import Path

import pytest

from dyrygentd.scheduler import Scheduler
from tests.integration.conftest import Site
from tests.support.apps import closing
from tests.support.shapes import make
from tests.support.tasks import create_app

pytestmark = [pytest.mark.anyio, pytest.mark.integration]


async def test_two_schedulers(site: Site, tmp_path: Path) -> None:
    """Each runs its own workflow and sees its own results only; each task is executed once."""
    shapes = [make("five chords", 200), make("layered", 200)]
    site.executions.clear()
    with (
        closing(create_app(site.server.url, site.server.url)) as first_app,
        closing(create_app(site.server.url, site.server.url)) as second_app,
    ):
        async with (
            Scheduler(first_app, database=tmp_path / "first.db") as first,
            Scheduler(second_app, database=tmp_path / "second.db") as second,
        ):
            handles = [await first.submit(shapes[0].definition), await second.submit(shapes[1].definition)]
            outcomes = [await handle.wait(timeout_s=60) for handle in handles]
            statistics = [scheduler.statistics() for scheduler in (first, second)]
    assert [outcome.state for outcome in outcomes] == ["succeeded", "succeeded"]
    for shape, counted in zip(shapes, statistics, strict=True):
        shape.assert_executed(site.executions)
        assert counted.dispatcher["published"] == shape.task_count
        assert counted.dispatcher["repeated"] == 0
        assert counted.engine["counters"]["unrouted"] == 0
        assert counted.problems == []
