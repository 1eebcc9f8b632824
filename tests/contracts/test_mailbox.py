"""What every mailbox promises, see `dyrygentd.ports.mailbox`. The simulation trusts in its own for behaving as PostgreSQL's.

What only a real server can show, lost connections and what is said to PostgreSQL, is in `tests/store/postgres/test_mailbox.py`.
"""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from dyrygentd.core.records import JournalEntry
from dyrygentd.core.user import User
from dyrygentd.errors import Fenced, StoreUnavailable
from dyrygentd.ports.mailbox import Footprint, Letter, LetterAnswer, LetterKind, Mailbox, MailboxBounds, MailboxFull
from tests.contracts.adapters import MailboxSetup
from tests.store.records import workflow

pytestmark = pytest.mark.anyio

_ANN, _BOB = User(1, "app1", "ann"), User(2, "app1", "bob")
_MANY = MailboxBounds()


def _letter(token: str, **fields: Any) -> Letter:
    return replace(Letter(token, LetterKind.SUBMIT, b"{}", f"w-{token}", owner=_ANN, host="app1"), **fields)


def _verb(token: str, workflow_id: str, **fields: Any) -> Letter:
    return _letter(token, kind=LetterKind.PERFORM, workflow_id=workflow_id, **fields)


def _leaders(mailing: MailboxSetup) -> Mailbox:
    assert mailing.store.mailbox is not None
    return mailing.store.mailbox


async def _taken(mailing: MailboxSetup, *in_hand: int, limit: int = 100, bytes_max: int = 1_000_000) -> list[str]:
    return [letter.token for letter in await _leaders(mailing).take(in_hand, limit=limit, bytes_max=bytes_max)]


async def test_letter_is_left_once(mailing: MailboxSetup) -> None:
    """A token that is there already, and a key that waits, lead to the letter that is there; another user's key does not."""
    box = mailing.box(_MANY)
    first = await box.leave(_letter("a", key="k", digest="d", body=b'"\x00\xff"'))
    assert (first.number > 0, first.left_at > 1.7e9) == (True, True)
    assert (await box.leave(_letter("a", key="k"))).number == first.number
    same = await mailing.box(_MANY).leave(_letter("b", key="k", host="app2"))
    assert (same.token, same.number, same.workflow_id, same.digest) == ("a", first.number, "w-a", "d")
    assert (await box.leave(_letter("c", key="k", owner=_BOB))).token == "c"
    assert await _taken(mailing) == ["a", "c"]
    (kept, _) = await _leaders(mailing).take((), limit=9, bytes_max=1000)
    assert (kept.body, kept.owner, kept.host) == (b'"\x00\xff"', _ANN, "app1")
    await _leaders(mailing).answer([LetterAnswer(first.number, b"{}")])
    assert (await box.leave(_letter("d", key="k"))).token == "d"


async def test_whose_turn_it_is(mailing: MailboxSetup) -> None:
    """Senders have turns; about one workflow nothing is taken before what was left earlier is answered, nor what follows it."""
    box = mailing.box(_MANY)
    for token in ("many0", "many1", "many2"):
        await box.leave(_letter(token))
    await box.leave(_letter("few", owner=_BOB))
    assert await _taken(mailing, limit=3) == ["many0", "many1", "few"]
    assert await _taken(mailing, 1) == ["many1", "many2", "few"]
    await box.leave(_verb("cancel", "w-few", host="app2"))
    await box.leave(_letter("later", host="app2"))
    await box.leave(_letter("bulk", kind=LetterKind.PERFORM_IN_BULK, workflow_id="", host="app3"))
    assert await _taken(mailing, 1, 2, 3, 4) == ["bulk"]
    await _leaders(mailing).answer([LetterAnswer(4, b"{}")])
    assert await _taken(mailing, 1, 2, 3) == ["cancel", "later", "bulk"]


async def test_bodies_that_are_taken_together_have_a_bound(mailing: MailboxSetup) -> None:
    """So many bytes are fetched at one time, and one letter in any case."""
    box = mailing.box(_MANY)
    for token in "abc":
        await box.leave(_letter(token, body=b"x" * 100))
    assert await _taken(mailing, bytes_max=250) == ["a", "b"]
    assert await _taken(mailing, bytes_max=10) == ["a"]


@pytest.mark.parametrize(
    "bounds",
    [{"letters_max": 2}, {"bytes_max": 25}, {"of_sender_max": 2}, {"of_sender_bytes_max": 25}],
    ids=lambda bounds: next(iter(bounds)),
)
async def test_box_is_full(mailing: MailboxSetup, bounds: dict[str, int]) -> None:
    """Beyond a bound nothing is left; what is there is found all the same, and what is answered makes room."""
    box = mailing.box(MailboxBounds(**bounds))
    for token in "ab":
        await box.leave(_letter(token, body=b"x" * 10))
    with pytest.raises(MailboxFull):
        await box.leave(_letter("c", body=b"x" * 10))
    assert (await box.leave(_letter("a"))).number == 1
    if "of_sender" in next(iter(bounds)):
        await box.leave(_letter("d", owner=_BOB))
    await _leaders(mailing).answer([LetterAnswer(1, b"{}")])
    await box.leave(_letter("c", body=b"x" * 10))
    assert (await box.look()).waiting == 2 + ("of_sender" in next(iter(bounds)))


async def test_letters_that_rest(mailing: MailboxSetup) -> None:
    """What is tried again later holds up its sender, in whose order it is, and nobody else."""
    box = mailing.box(_MANY)
    for token in ("first", "second", "third"):
        await box.leave(_letter(token))
    await box.leave(_letter("other", owner=_BOB))
    resting = await _leaders(mailing).take([2], limit=9, bytes_max=1000, resting=[2])
    assert [letter.token for letter in resting] == ["first", "other"]


async def test_verbs_do_not_wait_for_ever(mailing: MailboxSetup) -> None:
    """A verb is refused while nobody leads and the oldest letter waits for too long; a submission is not."""
    box = mailing.box(MailboxBounds(verb_wait_s=0.0))
    await box.leave(_letter("a"))
    await anyio.sleep(0.01)
    await box.leave(_verb("b", "w"))
    await mailing.store.close()
    with pytest.raises(MailboxFull):
        await box.leave(_verb("c", "w"))
    await box.leave(_letter("d"))
    assert (await box.look()).oldest_s > 0


async def test_answers_come_to_whoever_waits(mailing: MailboxSetup) -> None:
    """Who waits gets the answer, who comes later as well, and nobody what is not answered in time; it is answered once."""
    box = mailing.box(_MANY)
    first, second = await box.leave(_letter("a")), await box.leave(_letter("b"))
    heard: list[Letter | None] = []

    async def wait() -> None:
        heard.append(await box.answered(first.number, timeout_s=10))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.run)
        assert await box.answered(first.number, timeout_s=0.05) is None
        async with anyio.create_task_group() as waiters:
            waiters.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            await _leaders(mailing).answer([LetterAnswer(first.number, b"1"), LetterAnswer(second.number, b"2", True, "x")])
        await _leaders(mailing).answer([LetterAnswer(first.number, b"3")])
        late = await box.answered(second.number, timeout_s=10)
        tasks.cancel_scope.cancel()
    assert [(each.answer, each.is_refused, each.body) for each in heard if each] == [(b"1", False, b"")]
    assert late is not None
    assert (late.answer, late.is_refused, late.known_as) == (b"2", True, "x")
    assert await _taken(mailing) == []


async def test_letter_is_heard_of(mailing: MailboxSetup) -> None:
    """Whoever leads is woken by a letter."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_leaders(mailing).run)
        await _leaders(mailing).wait(10)
        with anyio.fail_after(10):
            tasks.start_soon(mailing.box(_MANY).leave, _letter("a"))
            await _leaders(mailing).wait(1000)
        tasks.cancel_scope.cancel()


async def test_nobody_answers_who_was_overtaken(mailing: MailboxSetup) -> None:
    """Who has lost the database answers nothing and deletes nothing."""
    left = await mailing.box(_MANY).leave(_letter("a"))
    await mailing.overtake()
    for _ in range(2):
        with pytest.raises((Fenced, StoreUnavailable)):
            await _leaders(mailing).answer([LetterAnswer(left.number, b"1")])
        with pytest.raises((Fenced, StoreUnavailable)):
            await _leaders(mailing).expire(kept_s=0, refused_s=0, refused_max=0)
    assert await _taken(mailing) == ["a"]


async def test_footprints_come_with_the_change(mailing: MailboxSetup) -> None:
    """What a letter has changed is there with the change, as it was noted first, and goes with the answer."""
    left = await mailing.box(_MANY).leave(_verb("a", "w"))
    entry = JournalEntry("w", 1700000000.5, "retry", "ann", nodes=("a", "b"), count=2, letter=left.number)
    await mailing.store.save([workflow("w")], [], [entry, replace(entry, letter=0)])
    await mailing.store.save([], [], [replace(entry, nodes=(), count=0)])
    assert await _leaders(mailing).footprints(left.number) == {"w": Footprint("w", ("a", "b"), 2)}
    await _leaders(mailing).answer([LetterAnswer(left.number, b"{}")])
    assert await _leaders(mailing).footprints(left.number) == {}


async def test_what_became_of_a_submission_is_found(mailing: MailboxSetup) -> None:
    """It waits, was refused, or is another workflow; there is nothing to tell if all went well."""
    box = mailing.box(_MANY)
    refused, other, taken = [await box.leave(_letter(token)) for token in "abc"]
    waiting = await box.find("w-a")
    assert waiting is not None
    assert not waiting.answer
    answers = [LetterAnswer(refused.number, b"no", True), LetterAnswer(other.number, b"{}", known_as="old")]
    await _leaders(mailing).answer([*answers, LetterAnswer(taken.number, b"{}")])
    found, known = await box.find("w-a"), await box.find("w-b")
    assert found is not None
    assert known is not None
    assert (found.is_refused, found.answer, known.known_as) == (True, b"no", "old")
    assert await box.find("w-c") is None


async def test_answered_letters_go(mailing: MailboxSetup) -> None:
    """Answered letters are deleted after a while, refused submissions later and by number; what waits stays."""
    box = mailing.box(_MANY)
    numbers = [(await box.leave(_letter(token))).number for token in "abcde"]
    await _leaders(mailing).answer([LetterAnswer(number, b"{}", is_refused=number > 2) for number in numbers[:4]])
    await anyio.sleep(0.01)
    assert await _leaders(mailing).expire(kept_s=1000, refused_s=1000, refused_max=9) == 0
    assert await _leaders(mailing).expire(kept_s=0, refused_s=1000, refused_max=1) == 3
    assert await box.find("w-d") is not None
    assert await _taken(mailing) == ["e"]
    assert await _leaders(mailing).expire(kept_s=0, refused_s=0, refused_max=9) == 1
