"""Runs of a series: what a new one does while an older one goes on, in the turn in which it comes."""

from dyrygentd.core.decisions import DAEMON
from dyrygentd.core.events import TaskSucceeded
from dyrygentd.core.policy import WorkflowPolicy
from dyrygentd.core.series import Admission, SeriesWord
from dyrygentd.core.states import WorkflowState
from dyrygentd.core.user import User
from tests.support.conversation import START, Conversation, cancel

GRAPH = "a; b < a"


def _run(conversation: Conversation, workflow_id: str, if_running: str, **options: object) -> Admission:
    """Submit one more run of series ``s``; return what was decided."""
    batch = conversation.submit(GRAPH, workflow_id, series="s", if_running=if_running, **options)
    (admission,) = batch.admissions.values()
    return admission


def _state(conversation: Conversation, workflow_id: str) -> str:
    return conversation.workflows[workflow_id].state.value


def test_allow_runs_beside(conversation: Conversation) -> None:
    """It is what happens without a series, too."""
    assert _run(conversation, "one", "allow") == _run(conversation, "two", "allow") == Admission(SeriesWord.BEGAN)
    assert not conversation.submit(GRAPH, "three").admissions
    assert {_state(conversation, each) for each in ("one", "two", "three")} == {"running"}


def test_skip(conversation: Conversation) -> None:
    """Nothing comes of it but an entry in the journal of the run that goes on; when that has ended, the next one begins."""
    assert _run(conversation, "one", "skip").word is SeriesWord.BEGAN
    batch = conversation.submit(GRAPH, "two", series="s", if_running="skip", key="k")
    assert batch.admissions == {"two": Admission(SeriesWord.SKIPPED, "one", key="k")}
    assert "two" not in {*conversation.workflows, *conversation.engine.workflows}
    (entry,) = batch.journal
    assert (entry.workflow_id, entry.verb, entry.by) == ("one", "skipped-run", DAEMON)
    assert entry.why == "a submission with key 'k' for series 's' came while this run goes on"
    conversation.succeed("one/a")
    conversation.succeed("one/b")
    assert _run(conversation, "three", "skip").word is SeriesWord.BEGAN


def test_two_at_once(conversation: Conversation) -> None:
    """Of two submissions in one turn the second finds the first."""
    batch = conversation.turn(
        conversation.submission(GRAPH, "one", series="s", if_running="skip"),
        conversation.submission(GRAPH, "two", series="s", if_running="skip"),
    )
    assert batch.admissions == {"one": Admission(SeriesWord.BEGAN), "two": Admission(SeriesWord.SKIPPED, "one")}
    assert list(batch.save_workflows) == ["one"]


def test_one_that_ends_in_this_turn_goes_on_no_more(conversation: Conversation) -> None:
    """Its end and the submission may be in one batch."""
    _run(conversation, "one", "skip")
    conversation.succeed("one/a")
    batch = conversation.turn(TaskSucceeded("one/b", b"1"), conversation.submission(GRAPH, "two", series="s", if_running="skip"))
    assert batch.admissions["two"].word is SeriesWord.BEGAN


def test_queue_one(conversation: Conversation) -> None:
    """It is scheduled, and begins in the turn in which the other one ends: both are saved together."""
    _run(conversation, "one", "queue_one")
    assert _run(conversation, "two", "queue_one") == Admission(SeriesWord.QUEUED, "one")
    assert conversation.workflows["two"].state is WorkflowState.SCHEDULED
    assert conversation.workflows["two"].queued_behind == "one"
    assert conversation.states("two") == {"a": "waiting", "b": "waiting"}
    conversation.succeed("one/a")
    batch = conversation.succeed("one/b")
    assert {name: record.state.value for name, record in batch.save_workflows.items()} == {"one": "succeeded", "two": "running"}
    assert conversation.workflows["two"].queued_behind == ""
    assert [message.task_id for message in batch.publish] == ["two/a"]


def test_the_newer_takes_the_place(conversation: Conversation) -> None:
    """One waits at most; the other one is cancelled in the same turn, and says why."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one")
    batch = conversation.submit(GRAPH, "three", series="s", if_running="queue_one")
    assert batch.admissions["three"] == Admission(SeriesWord.QUEUED, "one", ("two",))
    assert _state(conversation, "two") == "cancelled"
    assert batch.save_workflows["two"].error == "run three of its series 's' waits in its place"
    (entry,) = batch.journal
    assert (entry.workflow_id, entry.verb, entry.by, entry.count) == ("two", "cancel", DAEMON, 2)
    conversation.turn(cancel("one"))
    assert _state(conversation, "three") == "running"


def test_cancel_old(conversation: Conversation) -> None:
    """All older ones end in the turn in which it begins, one that waits, too; their tasks are revoked."""
    _run(conversation, "one", "allow")
    _run(conversation, "two", "queue_one")
    batch = conversation.submit(GRAPH, "three", series="s", if_running="cancel_old")
    assert batch.admissions["three"] == Admission(SeriesWord.BEGAN, "", ("one", "two"))
    assert {each: _state(conversation, each) for each in ("one", "two", "three")} == {
        "one": "cancelled",
        "two": "cancelled",
        "three": "running",
    }
    assert [revoke.task_id for revoke in batch.revoke] == ["one/a"]
    assert [message.task_id for message in batch.publish] == ["three/a"]
    assert "run three of its series 's' was to take its place" in batch.save_workflows["one"].error


def test_series_of_two_users_never_meet(conversation: Conversation) -> None:
    """As keys do not."""
    _run(conversation, "one", "skip", owner=1000)
    assert _run(conversation, "two", "skip", owner=1001).word is SeriesWord.BEGAN
    assert _run(conversation, "three", "skip").word is SeriesWord.BEGAN
    assert _run(conversation, "four", "skip", owner=1000) == Admission(SeriesWord.SKIPPED, "one", owner=User(1000))


def test_it_waits_over_a_crash(conversation: Conversation) -> None:
    """It is read back waiting, and begins when the other one ends."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one")
    conversation.crash()
    conversation.turn()
    assert conversation.workflow("two").state is WorkflowState.SCHEDULED
    assert _run(conversation, "three", "skip") == Admission(SeriesWord.SKIPPED, "one")
    conversation.succeed("one/a")
    conversation.succeed("one/b")
    assert conversation.workflow("two").state is WorkflowState.RUNNING


def test_it_begins_if_the_other_one_is_gone_after_a_crash(conversation: Conversation) -> None:
    """A workflow that cannot be rebuilt ends outside of the engine."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one")
    del conversation.workflows["one"]
    conversation.crash()
    conversation.turn()
    assert conversation.workflow("two").state is WorkflowState.RUNNING


def test_cancel_of_one_that_waits(conversation: Conversation) -> None:
    """Nothing begins in its place, and a retry begins at once, as a person decides that."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one")
    conversation.ask("cancel", workflow_id="two")
    assert _state(conversation, "two") == "cancelled"
    assert conversation.ask("retry", workflow_id="two").is_changed
    assert _state(conversation, "two") == "running"
    assert conversation.journal[-1].why == "run one of its series goes on, too"


def test_retry_of_an_old_run(conversation: Conversation) -> None:
    """It goes on beside the others, counts as going on, and what waits waits for it as well."""
    _run(conversation, "old", "queue_one")
    conversation.ask("cancel", workflow_id="old")
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one")
    conversation.ask("retry", workflow_id="old")
    assert (conversation.journal[-1].workflow_id, conversation.journal[-1].verb) == ("old", "beside")
    conversation.turn(cancel("one"))
    assert conversation.workflows["two"].queued_behind == "old"
    conversation.turn(cancel("old"))
    assert _state(conversation, "two") == "running"


def test_release_begins_beside(conversation: Conversation) -> None:
    """Whoever releases one that waits has it begin now; then another one may wait."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one")
    assert conversation.ask("release", workflow_id="two").is_changed
    assert _state(conversation, "two") == "running"
    assert _run(conversation, "three", "queue_one") == Admission(SeriesWord.QUEUED, "one")


def test_paused_while_it_waits(conversation: Conversation) -> None:
    """It takes its turn, and dispatches nothing until it is resumed; resumed before, it waits on."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one")
    conversation.ask("pause", workflow_id="two")
    conversation.ask("resume", workflow_id="two")
    assert _state(conversation, "two") == "scheduled"
    conversation.ask("pause", workflow_id="two")
    conversation.turn(cancel("one"))
    assert (_state(conversation, "two"), conversation.workflow("two").has_begun) == ("paused", True)
    assert conversation.ask("resume", workflow_id="two").is_changed
    assert conversation.states("two")["a"] == "dispatching"


def test_start_time_and_deadline(conversation: Conversation) -> None:
    """A start time that has not come is waited for after the other run; the deadline counts from the beginning."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one", policy=WorkflowPolicy(start_at=START + 100, deadline_s=50))
    conversation.turn(after_s=200)
    assert _state(conversation, "two") == "scheduled"
    conversation.turn(cancel("one"))
    assert (_state(conversation, "two"), conversation.workflow("two").deadline_at) == ("running", START + 250)
    conversation.turn(after_s=60)
    assert _state(conversation, "two") == "failed"


def test_it_takes_its_turn_before_its_start_time(conversation: Conversation) -> None:
    """Then it is the one that goes on, and waits for its time alone."""
    _run(conversation, "one", "queue_one")
    _run(conversation, "two", "queue_one", policy=WorkflowPolicy(start_at=START + 100))
    conversation.turn(cancel("one"))
    assert (_state(conversation, "two"), conversation.workflows["two"].queued_behind) == ("scheduled", "")
    assert _run(conversation, "three", "skip") == Admission(SeriesWord.SKIPPED, "two")
    conversation.turn(after_s=101)
    assert _state(conversation, "two") == "running"


def test_many_skipped_ones_are_few_entries(conversation: Conversation) -> None:
    """A timer of a minute and a run of a day leave no thousand entries at once."""
    _run(conversation, "one", "skip")
    before = len(conversation.journal)
    for number in range(100):
        _run(conversation, f"more-{number}", "skip")
    assert len(conversation.journal) == before + 1
    assert conversation.engine.series.counters.skipped == 100
