"""Tasks by id: each is in flight for one node or late, and in flight it has its places."""

import os
import subprocess
import sys

import pytest

from dyrygentd.core.effects import Batch
from dyrygentd.core.events import TaskFailed, TaskLost, TaskReported, TaskSucceeded
from dyrygentd.core.flights import as_broken
from dyrygentd.core.ids import ALL_MADE, OF_OLD, task_id_of_old
from dyrygentd.core.limits import Limits
from dyrygentd.errors import InvariantBroken
from tests.support.conversation import Conversation


def test_holders(conversation: Conversation) -> None:
    """A result is routed by this table, and the door asks it before a workflow with ids from outside is taken in."""
    conversation.submit("a; b < a")
    conversation.submit("a id=mine; b id=other countdown=9", "v")
    flights = conversation.engine.flights
    assert [flights.holder_of(task_id) for task_id in ("w/a", "mine", "nobody")] == ["w", "v", None]
    assert flights.are_held(["nobody", "mine"])
    assert not flights.are_held(["nobody"])
    conversation.ask("cancel")
    assert (flights.holder_of("w/a"), flights.is_given_up("w/a"), flights.is_late("w/a")) == ("w", True, True)
    assert (flights.given_up_count("w"), flights.has_late("w"), flights.has_late("v")) == (1, True, False)
    assert [(workflow.workflow_id, node) for workflow, node in flights.late_tasks()] == [("w", 0)]


def test_an_id_of_another_one_fails_by_name(conversation: Conversation) -> None:
    """The one in place is not touched: to let it go would mix up two results."""
    conversation.submit("a id=same", "v")
    batch = conversation.submit("a id=same; b")
    assert [message.task_id for message in batch.publish] == ["w/b"]
    assert conversation.states()["a"] == "failed"
    assert conversation.workflow().errors[0] == "task id 'same' belongs to a node of workflow 'v'"
    assert conversation.engine.flights.holder_of("same") == "v"


def test_an_id_that_is_watched_on_fails_too(conversation: Conversation) -> None:
    """Its task may still run, and store a result."""
    conversation.submit("a id=same; g gate=1", "v")
    conversation.turn(TaskLost("same", "nowhere"))
    conversation.submit("a id=same; b")
    assert conversation.states()["a"] == "failed"


def test_places_in_pools(conversation: Conversation) -> None:
    """Who has them can be told; what ends gives its own back, and the next one is called."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("a pool=p; b pool=p; c")
    flights = conversation.engine.flights
    assert [(workflow.workflow_id, node) for workflow, node in flights.holders_of("p")] == [("w", 0)]
    assert flights.holders_of("q") == []
    batch = conversation.succeed("w/a")
    assert [message.task_id for message in batch.publish] == ["w/b"]
    assert flights.in_flight_count == 2


#: Several lines, of each of which one is called in the same turn; prints who goes, and of which workflows that is told.
_FREED_TOGETHER = """
from tests.support.conversation import Conversation

names = ["gra", "sbg", "bhs", "waw", "rbx", "lim"]
conversation = Conversation(pools=dict.fromkeys(names, 1))
conversation.submit("; ".join(f"{name} pool={name}" for name in names), "first")
for name in names:
    conversation.submit(f"{name} pool={name}", "next-" + name)
batch = conversation.succeed(*(f"first/{name}" for name in names))
print(*(message.task_id.partition("/")[2] for message in batch.publish))
print(*(workflow_id.partition("-")[2] for workflow_id in batch.changed))
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_first_freed_goes_first(seed: str) -> None:
    """A run depends on its events alone: in another process, where sets of names have another order, it is the same."""
    environ = {**os.environ, "PYTHONHASHSEED": seed}
    said = subprocess.run([sys.executable, "-c", _FREED_TOGETHER], capture_output=True, env=environ, timeout=60, check=True)
    published, changed = said.stdout.decode().splitlines()
    assert published.split() == changed.split() == ["gra", "sbg", "bhs", "waw", "rbx", "lim"]


def test_a_join_needs_no_place(conversation: Conversation) -> None:
    """Only tasks are in flight."""
    conversation.submit("a; &j < a")
    assert conversation.engine.flights.pools_of(conversation.workflow(), 1, "") == ()


def test_late_tasks_are_bounded() -> None:
    """The oldest is watched no more when there are too many."""
    conversation = Conversation(Limits(late_max=2))
    conversation.submit("a; b; c")
    conversation.ask("cancel")
    assert len(conversation.engine.flights.late) == 2


def test_a_batch_forgets_what_landed_within_it(conversation: Conversation) -> None:
    """What a turn both begins and ends is neither sent nor watched."""
    conversation.submit("a")
    batch = Batch(watch=["w/a", "gone"], unwatch=["w/a", "gone"])
    conversation.engine.flights.drop_landed(batch)
    assert (batch.watch, batch.unwatch) == (["w/a"], ["gone"])


def test_a_workflow_that_contradicts_itself_leaves(conversation: Conversation) -> None:
    """Its places become free, and nothing of the others is touched."""
    conversation = Conversation(pools={"p": 1})
    conversation.submit("a pool=p; b < a", "v")
    conversation.submit("a pool=p")
    engine = conversation.engine
    engine.flights.set_aside(engine.workflows["v"], InvariantBroken("odd"), conversation.now)
    batch = conversation.turn()
    assert [message.task_id for message in batch.publish] == ["w/a"]
    assert (conversation.workflows["v"].state.value, engine.counting.counters.broken) == ("failed", 1)
    assert not engine.flights.is_in_flight("v/a")


def test_unexpected_errors_name_their_place() -> None:
    """A bug of ours is told with the line that it came from; one that says it itself stays as it is."""
    known = InvariantBroken("odd")
    assert as_broken(known) is known
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / (1 - 1)
    assert str(as_broken(caught.value)).startswith("unexpected ZeroDivisionError: division by zero (in test_unexpected")
    assert as_broken(KeyError("x")).message == "unexpected KeyError: 'x' (in )"


def test_a_doubtful_end_is_watched_on(conversation: Conversation) -> None:
    """A lost worker's task may have ended otherwise, and is in flight no more."""
    conversation.submit("a; g gate=1")
    conversation.turn(TaskFailed("w/a", "its worker was lost", "WorkerLostError"))
    flights = conversation.engine.flights
    assert (flights.is_late("w/a"), flights.is_in_flight("w/a"), flights.is_given_up("w/a")) == (True, False, False)


def test_ids_of_a_workflow_of_an_earlier_version(conversation: Conversation) -> None:
    """They were given out in a way that can be followed, so each of them is held, the next ones as well; once is enough."""
    conversation.submit("a; b < a")
    workflow, flights = conversation.workflow(), conversation.engine.flights
    flights.claims.release("w")
    workflow.attempts.ids = OF_OLD
    for _ in range(2):
        flights.claim(workflow)
        assert flights.claims.holder(task_id_of_old("w/b", 1)) == "w"
    workflow.attempts.ids = ALL_MADE
    flights.claims.release("w")
    flights.claim(workflow)
    assert not flights.claims.has("w")


def test_what_is_given_up_is_forgotten(conversation: Conversation) -> None:
    """How often they were given out is kept of tasks in flight alone; a thousand cancels must not push the others out."""
    names = [f"n{number}" for number in range(200)]
    conversation.submit("; ".join(names))
    conversation.submit("a", "v")
    conversation.tell(*(TaskReported(f"w/{name}", "STARTED", start="w1/7") for name in names))
    conversation.tell(TaskReported("v/a", "STARTED", start="w1/8"))
    flights = conversation.engine.flights
    assert repr(flights.deliveries) == "<Deliveries tasks=201 suspected=0>"
    conversation.ask("cancel")
    assert (flights.given_up_count("w"), flights.in_flight_count) == (200, 1)
    assert repr(flights.deliveries) == "<Deliveries tasks=1 suspected=0>"


def test_landing_twice_is_landing_once(conversation: Conversation) -> None:
    """Only what is in flight gives its place back."""
    conversation.submit("a; b")
    conversation.tell(TaskReported("w/a", "STARTED", start="w1/7"))
    flights = conversation.engine.flights
    assert repr(flights.deliveries) == "<Deliveries tasks=1 suspected=0>"
    conversation.succeed("w/a")
    assert repr(flights.deliveries) == "<Deliveries tasks=0 suspected=0>"
    flights.land("w/a", conversation.now)
    assert flights.in_flight_count == 1


def test_what_another_node_has_is_not_given_up() -> None:
    """An id that two nodes have is that of the one in flight; what has landed meanwhile is revoked and watched no more."""
    conversation = Conversation()
    conversation.submit("a id=same", "v")
    conversation.submit("a id=same; b")
    flights = conversation.engine.flights
    flights.give_up(conversation.workflow(), [0], conversation.now, terminate=False)
    assert flights.holder_of("same") == "v"
    flights.by_id.pop("w/b")
    flights.give_up(conversation.workflow(), [1], conversation.now, terminate=False)
    assert not flights.is_late("w/b")
    assert [revoke.task_id for revoke in conversation.engine.take_batch(conversation.now).revoke] == ["w/b"]


def test_a_late_id_flies_again(conversation: Conversation) -> None:
    """A workflow that is taken back has its task in flight again, and watches it as that alone."""
    conversation.submit("a on_lost=hold; g gate=1")
    conversation.turn(TaskLost("w/a", "nowhere"))
    assert conversation.engine.flights.is_late("w/a")
    conversation.turn(TaskSucceeded("w/a", b"1"))
    assert not conversation.engine.flights.is_late("w/a")
