"""What every dispatcher promises, see `dyrygentd.ports.Dispatcher`."""

from collections.abc import Awaitable, Callable

import pytest

from dyrygentd.core.events import MessagePublished, MessageRefused
from dyrygentd.errors import BrokerUnavailable
from dyrygentd.ports.facts import WORKFLOW_STAMP
from tests.contracts.adapters import DispatcherSetup, message, place

pytestmark = pytest.mark.anyio


async def test_each_message_is_answered_and_arrives(sending: DispatcherSetup) -> None:
    """Every message gets its answer and is in the broker when the answer comes: the node counts as dispatched from then on."""
    ids = [f"task-{number}" for number in range(250)]
    answers = await sending.dispatcher.publish([message(task_id) for task_id in ids])
    assert sorted(answer.task_id for answer in answers) == sorted(ids)
    assert all(isinstance(answer, MessagePublished) for answer in answers)
    assert await sending.arrived() == ids
    assert sending.dispatcher.statistics().published == 250


async def test_nothing_to_send_is_no_error(sending: DispatcherSetup) -> None:
    """Empty calls are answered with nothing."""
    assert list(await sending.dispatcher.publish([])) == []
    await sending.dispatcher.revoke([])
    await sending.dispatcher.revoke_stamped(WORKFLOW_STAMP, [])
    await sending.dispatcher.forget([])
    assert list(await sending.dispatcher.withdraw([])) == []


async def test_repeated_message(sending: DispatcherSetup) -> None:
    """A message that is sent again is answered again, and where the broker allows it is not sent a second time."""
    first = await sending.dispatcher.publish([message("a"), message("b")])
    again = await sending.dispatcher.publish([message("b"), message("c")])
    assert [answer.task_id for answer in (*first, *again)] == ["a", "b", "b", "c"]
    assert all(isinstance(answer, MessagePublished) for answer in again)
    arrived = await sending.arrived()
    if sending.dispatcher.statistics().exactly_once:
        assert arrived == ["a", "b", "c"]
        assert sending.dispatcher.statistics().repeated == 1
    else:
        assert set(arrived) == {"a", "b", "c"}


async def test_bad_message_is_refused_alone(sending: DispatcherSetup) -> None:
    """A message that can never be sent is refused with a reason, and its neighbours go on."""
    answers = await sending.dispatcher.publish([message("a"), sending.unsendable, message("b")])
    by_id = {answer.task_id: answer for answer in answers}
    refusal = by_id.pop(sending.unsendable.task_id)
    assert isinstance(refusal, MessageRefused)
    assert refusal.error
    assert by_id == {"a": MessagePublished("a"), "b": MessagePublished("b")}
    assert await sending.arrived() == ["a", "b"]
    assert sending.dispatcher.statistics().refused == 1


async def test_broker_away_and_back(sending: DispatcherSetup) -> None:
    """While the broker is away the call says so, and the same call works when it is back."""
    await sending.cut()
    with pytest.raises(BrokerUnavailable):
        await sending.dispatcher.publish([message("a"), message("b")])
    assert sending.dispatcher.statistics().failures == 1
    await sending.mend()
    answers = await sending.dispatcher.publish([message("a"), message("b")])
    assert [answer.task_id for answer in answers] == ["a", "b"]
    assert await sending.arrived() == ["a", "b"]


async def test_errands_about_strangers_are_harmless(sending: DispatcherSetup) -> None:
    """Revoking and forgetting what was never sent does nothing, as after a restart nobody knows exactly what was."""
    await sending.dispatcher.revoke(["stranger"])
    await sending.dispatcher.revoke(["stranger"], terminate=True)
    await sending.dispatcher.revoke_stamped(WORKFLOW_STAMP, ["stranger"], terminate=True)
    await sending.dispatcher.forget(["stranger"])
    assert list(await sending.dispatcher.withdraw([place(message("stranger"))])) == []
    assert await sending.arrived() == []


async def test_withdrawn_message_is_gone(sending: DispatcherSetup) -> None:
    """Where messages can be taken back, exactly those asked for are, and a worker that starts later will not run their tasks."""
    await sending.dispatcher.publish([message(task_id) for task_id in "abcd"])
    asked = [place(message(task_id)) for task_id in ("c", "a", "stranger")]
    withdrawn = await sending.dispatcher.withdraw(asked)
    if sending.dispatcher.statistics().exactly_once:
        assert sorted(withdrawn) == ["a", "c"]
        assert await sending.waiting() == ["b", "d"]
        assert list(await sending.dispatcher.withdraw(asked)) == []
    else:
        assert list(withdrawn) == []
        assert await sending.waiting() == ["a", "b", "c", "d"]


async def test_withdrawn_message_is_not_sent_again(sending: DispatcherSetup) -> None:
    """A message that was taken back counts as sent: the same attempt, repeated after a crash, does not bring it back."""
    await sending.dispatcher.publish([message("a"), message("b")])
    if sending.dispatcher.statistics().exactly_once:
        await sending.dispatcher.withdraw([place(message("a"))])
        await sending.dispatcher.publish([message("a")])
        assert await sending.waiting() == ["b"]


async def test_later_attempts_follow_earlier_ones(sending: DispatcherSetup) -> None:
    """A later attempt of a node is a message of its own; once it was sent, an earlier one can only be a repetition."""
    first, second = message("node"), message("node")._replace(attempt=2, task_id="second")
    await sending.dispatcher.publish([first])
    await sending.dispatcher.publish([second])
    assert await sending.arrived() == ["node", "second"]
    await sending.dispatcher.publish([first, second])
    if sending.dispatcher.statistics().exactly_once:
        assert await sending.arrived() == ["node", "second"]


@pytest.mark.parametrize("errand", ["revoke", "revoke terminating", "revoke_stamped", "withdraw"])
async def test_errand_while_the_broker_is_away(errand: str, sending: DispatcherSetup) -> None:
    """An errand that nobody could do says so, so that the caller can repeat it; where nothing can be withdrawn there is none."""
    dispatcher = sending.dispatcher
    await sending.cut()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "revoke": lambda: dispatcher.revoke(["a"]),
        "revoke terminating": lambda: dispatcher.revoke(["a"], terminate=True),
        "revoke_stamped": lambda: dispatcher.revoke_stamped(WORKFLOW_STAMP, ["a"]),
        "withdraw": lambda: dispatcher.withdraw([place(message("a"))]),
    }
    if errand == "withdraw" and not dispatcher.statistics().exactly_once:
        assert list(await dispatcher.withdraw([place(message("a"))])) == []
    elif sending.broadcasts_elsewhere:
        await calls[errand]()
    else:
        with pytest.raises(BrokerUnavailable):
            await calls[errand]()
    await sending.mend()
    await calls[errand]()


async def test_statistics_are_a_snapshot(sending: DispatcherSetup) -> None:
    """A snapshot does not change under its reader."""
    before = sending.dispatcher.statistics()
    await sending.dispatcher.publish([message("a")])
    assert before.published == 0
    assert sending.dispatcher.statistics().published == 1


async def test_closing_twice_is_harmless(sending: DispatcherSetup) -> None:
    """A dispatcher may be closed twice, also before it sent anything."""
    await sending.dispatcher.close()
    await sending.dispatcher.close()
