"""What the daemon itself decided stands in the journal, bounded, and never in the way of what people did."""

from collections.abc import Sequence

from dyrygentd.core.decisions import DAEMON, ENTRIES_MAX, PAUSE_S, Decision, Decisions
from dyrygentd.core.events import TaskFailed, TaskLost, TaskSucceeded
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.records import JournalEntry
from tests.support.conversation import Conversation


def _told(entries: Sequence[JournalEntry]) -> list[tuple[str, str, int, str]]:
    assert all(entry.by == DAEMON for entry in entries)
    return [(entry.verb, " ".join(entry.nodes), entry.count, entry.detail) for entry in entries]


def test_many_lost_tasks_are_one_entry(conversation: Conversation) -> None:
    """488 nodes that were lost together are one line, with what came of them and a bound on the names."""
    conversation.submit("; ".join(f"n{number}" for number in range(488)))
    batch = conversation.turn(*(TaskLost(f"w/n{number}", "the broker was emptied") for number in range(488)))
    [entry] = batch.journal
    assert (entry.verb, entry.count, len(entry.nodes), entry.detail) == ("lost", 488, 100, "now held")
    assert (entry.at, entry.why) == (conversation.now, "the broker was emptied")


def test_what_came_of_lost_tasks_is_told_apart(conversation: Conversation) -> None:
    """Those that wait for a person are not those that are tried again."""
    conversation.submit("a; b on_lost=retry retry=3; c on_lost=fail")
    batch = conversation.turn(*(TaskLost(f"w/{name}", "gone") for name in "abc"))
    assert _told(batch.journal) == [
        ("lost", "a", 1, "now held"),
        ("lost", "b", 1, "now retrying"),
        ("lost", "c", 1, "now failed"),
    ]


def test_timeouts_deadlines_and_what_turns_up(conversation: Conversation) -> None:
    """Each is told when it happens."""
    conversation.submit("a timeout=5; b", policy=WorkflowPolicy(deadline_s=100))
    assert _told(conversation.turn(after_s=6).journal) == [("timed-out", "a", 1, "")]
    assert _told(conversation.turn(TaskLost("w/b", "gone")).journal) == [("lost", "b", 1, "now held")]
    assert _told(conversation.turn(TaskSucceeded("w/b", b"1")).journal) == [("turned-up", "b", 1, "")]
    conversation.submit("c", "x", policy=WorkflowPolicy(deadline_s=100))
    assert _told(conversation.turn(after_s=101).journal) == [("deadline", "", 0, "")]


def test_retries_by_policy_share_entries(conversation: Conversation) -> None:
    """The first is told at once; those of the next minute are one entry, which comes by itself."""
    conversation.submit("; ".join(f"n{number} retry=3 backoff=500 jitter=0" for number in range(4)))
    assert _told(conversation.turn(TaskFailed("w/n0", "boom")).journal) == [("will-retry", "n0", 1, "")]
    for number in (1, 2):
        assert not conversation.turn(TaskFailed(f"w/n{number}", "boom"), after_s=1.0).journal
    assert conversation.engine.next_deadline() == conversation.now - 2 + PAUSE_S
    assert _told(conversation.turn(after_s=PAUSE_S).journal) == [("will-retry", "n1 n2", 2, "")]


def test_what_is_not_told_yet_is_told_at_the_end(conversation: Conversation) -> None:
    """A workflow that ends within the minute has all of it in its journal."""
    conversation.submit("a retry=3 backoff=1 jitter=0")
    conversation.turn(TaskFailed("w/a", "boom"))
    conversation.turn(after_s=2)
    task_id = conversation.engine.workflows["w"].attempts.task_id_of(0)
    conversation.turn(TaskFailed(task_id, "boom"))
    conversation.turn(after_s=10)
    batch = conversation.turn(TaskSucceeded(conversation.engine.workflows["w"].attempts.task_id_of(0), b"1"))
    assert _told(batch.journal) == [("will-retry", "a", 1, "")]
    assert conversation.engine.next_deadline() is None


def test_bounds() -> None:
    """However long it goes on, one workflow has so many entries, and another one has its own."""
    decisions, now, entries = Decisions(), 1000.0, 0
    for _ in range(3 * ENTRIES_MAX):
        decisions.note("w", Decision.RETRIED, "n", now, why="x" * 1000)
        entries += len(decisions.take(now))
        now += PAUSE_S
    assert entries == ENTRIES_MAX
    decisions.note("v", Decision.LOST, "n", now, why="x" * 1000)
    [entry] = decisions.take(now)
    assert len(entry.why) == 161
    assert not decisions.end("w", now)


def test_a_turn_looks_at_what_is_due_alone() -> None:
    """Ten thousand workflows that try again within a minute cost the turns of that minute nothing, nor does the end of one."""
    decisions, looks = Decisions(), 0

    class Counted(str):
        """The id of a workflow that counts how often it is looked up."""

        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal looks
            looks += 1
            return super().__hash__()

    ids = [Counted(number) for number in range(10_000)]
    for now in (1000.0, 1001.0):
        for each in ids:
            decisions.note(each, Decision.RETRIED, "n", now)
        decisions.take(now)
    looks = 0
    assert decisions.next_at() == 1000.0 + PAUSE_S
    assert not decisions.take(1002.0)
    [entry] = decisions.end(ids[0], 1002.0)
    assert (entry.workflow_id, entry.count) == (ids[0], 1)
    assert looks < 20
    assert len(decisions.take(1000.0 + PAUSE_S)) == 9_999
    assert decisions.next_at() is None
