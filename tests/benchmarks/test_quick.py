"""The benchmarks work: each runs in small, and what it runs is executed once and in order."""

import json

import pytest

from tests.benchmarks.__main__ import BENCHMARKS, measure
from tests.support.postgres import programs


@pytest.mark.long
def test_every_benchmark_runs() -> None:
    """A benchmark that broke, or that measures tasks lost or run twice, should be noticed before anybody reads its figures."""
    report = measure([], quick=True, say=lambda text: None)

    without = {"stores", "takeover", "letters"} if programs() is None else set()
    assert {row.benchmark for row in report.rows} == BENCHMARKS.keys() - without
    assert all(row.ours for row in report.rows)
    assert report.counts
    assert [count for count in report.counts if not count.is_right] == []
    assert json.loads(report.as_json())["versions"]["server"]
    assert len(report.as_table().splitlines()) >= len(report.rows)
