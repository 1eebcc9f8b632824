"""Late tasks: counted of each workflow, forgotten in time, and revoked again ever more seldom."""

import pytest

from dyrygentd.core.effects import Revoke
from dyrygentd.core.late import LateTask, LateTasks
from dyrygentd.core.node_spec import Signature
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import Conversation


def _revoke(task_id: str) -> Revoke:
    return Revoke(task_id, 1, Signature("t"), False, "celery")


def _some() -> LateTasks:
    """Return two late tasks of one workflow, one of which was revoked, and one of another."""
    found = LateTasks()
    found.note("v/a", LateTask("v", 0, 10.0, _revoke("v/a")))
    found.note("v/b", LateTask("v", 1, 20.0, None))
    found.note("w/a", LateTask("w", 0, 30.0, None))
    return found


def test_counted_of_each_workflow() -> None:
    """What is dropped is counted out, whichever way it goes."""
    found = _some()
    assert (found.given_up_count("v"), found.is_given_up("v/a"), found.is_given_up("v/b")) == (1, True, False)
    found.expect_end("v/a")
    assert found.given_up_count("v") == 0
    assert found.drop_beyond(2) == ["v/a"]
    assert [task_id for task_id, _ in found.drop_over(20.0)] == ["v/b"]
    assert (found.has("v"), found.has("w"), len(found)) == (False, True, 1)
    assert found.drop("w/a") is not None
    assert found.drop("w/a") is None
    found.check([])


def test_a_finished_workflow_rests_as_long_as_a_task_is_late() -> None:
    """It is kept for what its tasks do all the same, and no longer."""
    conversation = Conversation()
    conversation.submit("a")
    found, workflow = LateTasks(), conversation.workflow()
    found.rest(workflow)
    assert found.resting("w") is None
    found.note("w/a", LateTask("w", 0, 10.0, None))
    found.rest(workflow)
    assert found.resting("w") is workflow
    found.drop("w/a")
    assert found.resting("w") is None


def test_revoked_again_ever_more_seldom() -> None:
    """The pauses double up to a bound, begin anew with a new revoke, and end when nothing is left to revoke."""
    found, pauses, now = _some(), list[float](), 0.0
    found.begin_revoking(now)
    assert found.revoke_again(9.9) == []
    for _ in range(7):
        due = found.next_at()[-1]
        assert [revoke.task_id for revoke in found.revoke_again(due)] == ["v/a"]
        pauses.append(due - now)
        now = due
    assert pauses == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    found.drop("v/a")
    found.begin_revoking(now)
    assert found.next_at()[-1] == now + 10.0
    assert found.revoke_again(now + 10.0) == []
    assert found.next_at() == [20.0]


def test_a_set_clock_moves_all() -> None:
    """What is measured takes as long as it should."""
    found = _some()
    found.begin_revoking(0.0)
    found.shift_times(100.0)
    assert found.next_at() == [110.0, 110.0]


def test_one_in_flight_and_late_is_found() -> None:
    """A task that is both would have two ends."""
    with pytest.raises(InvariantBroken, match="late tasks of"):
        _some().check(["w/a"])


def test_nobody_is_late_of_a_stranger() -> None:
    """A workflow without late tasks is asked for often."""
    assert _some().given_up_count("stranger") == 0
