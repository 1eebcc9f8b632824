"""Named pools: never more places than there are, and whoever waits longest goes first."""

import pytest

from dyrygentd.core import pools as module
from dyrygentd.core.node_spec import Signature
from dyrygentd.core.policy import NodePolicy
from dyrygentd.core.pools import Pools, PoolView


def test_sizes_by_name_and_by_pattern() -> None:
    """The name itself counts more than a pattern; what fits none has no bound."""
    pools = Pools({"drain@*": 2, "drain@gra1": 5})
    assert [pools.size_of(name) for name in ("drain@gra1", "drain@sbg3", "other")] == [5, 2, None]
    assert pools.names == ["drain@*", "drain@gra1"]
    assert pools
    assert not Pools()
    assert Pools(queue_limits={"q": 1})


def test_each_name_of_a_pattern_is_a_pool() -> None:
    """Two clusters do not wait for each other."""
    pools = Pools({"drain@*": 1})
    pools.take(("drain@a",))
    assert pools.full_one(("drain@b",)) is None
    assert pools.full_one(("drain@b", "drain@a")) == "drain@a"
    pools.give_back(("drain@a",))
    assert pools.full_one(("drain@a",)) is None
    assert pools.used() == {}


def test_queues_with_limits() -> None:
    """A task need not name them: where its message goes decides, as far as that is known better than by the signature."""
    pools = Pools({"p": 1}, queue_limits={"slow": 3}, queue_of=lambda signature: signature.task)
    policy = NodePolicy(pool="p")
    assert pools.needed_by(Signature("slow"), policy) == ("p", "queue:slow")
    assert pools.needed_by(Signature("fast"), NodePolicy()) == ()
    assert pools.needed_by(Signature("fast"), NodePolicy(), "slow") == ("queue:slow",)
    pools.take(("queue:slow",))
    assert pools.views() == [PoolView("queue:slow", 3, 1, 0)]


def test_the_line() -> None:
    """Places go to those who stand in line longest, and to no more than there are places."""
    pools = Pools({"p": 2})
    pools.take(("p", "p"))
    for node in range(3):
        pools.wait("p", "w", node)
    assert (pools.first_in_line("p"), pools.is_waited_for("p"), pools.is_callable("p")) == (("w", 0), True, False)
    assert pools.called("p") == []
    pools.give_back(("p",))
    assert pools.is_callable("p")
    assert pools.called("p") == [("w", 0)]
    assert pools.lines() == {("w", 1): "p", ("w", 2): "p"}
    assert pools.has_guests


def test_called_too_late_stands_at_the_head() -> None:
    """Whoever was called and found the place taken meanwhile has lost nothing by it."""
    pools = Pools({"p": 1})
    pools.wait("p", "w", 1)
    pools.wait("p", "w", 2)
    assert pools.called("p") == [("w", 1)]
    pools.take(("p",))
    pools.wait("p", "w", 1)
    assert pools.first_in_line("p") == ("w", 1)


def test_one_line_at_a_time() -> None:
    """Who waits for another pool leaves the first line, and who leaves stands in none."""
    pools = Pools({"p": 1, "q": 1})
    pools.wait("p", "w", 1)
    pools.wait("q", "w", 1)
    assert (pools.is_waited_for("p"), pools.is_waited_for("q")) == (False, True)
    pools.leave("w", 1)
    pools.leave("w", 1)
    assert not pools.has_guests
    assert pools.first_in_line("q") is None


def test_a_pool_without_size_holds_nobody_up() -> None:
    """The configuration was changed, and what names the old pool goes on."""
    pools = Pools({"p": 1})
    pools.take(("gone",) * 100)
    assert pools.full_one(("gone",)) is None


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_names_without_end_are_not_kept(is_waited_for: bool) -> None:
    """Names come from users; only those in which somebody stands in line are kept beyond the bound."""
    pools = Pools({"*": 0})
    if is_waited_for:
        pools.wait("first", "w", 0)
    for number in range(module._KEPT_MAX + 2):
        pools.full_one((f"p{number}",))
    assert len(pools._pools) < module._KEPT_MAX
    assert ("first" in pools._pools) == is_waited_for
