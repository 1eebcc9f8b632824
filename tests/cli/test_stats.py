"""What the daemon is doing, on one screen."""

from dyrygentd.cli.stats import _flat


def test_pools_are_shown_one_by_one() -> None:
    """Who fills a pool is what `explain` sends people to `stats` for."""
    pools = [{"name": "drain@gra1", "size": 2, "used": 1}]
    assert _flat({"pools": pools, "none": []}) == {"pools.drain@gra1": "size 2, used 1"}
