"""Letters are left once, found, taken in order, answered by the owner of the database alone, and bounded."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from dyrygentd.core.records import JournalEntry
from dyrygentd.core.user import User
from dyrygentd.errors import Fenced, StoreUnavailable
from dyrygentd.ports.facts import Retention
from dyrygentd.ports.mailbox import Footprint, Letter, LetterAnswer, LetterKind, MailboxBounds, MailboxFull
from dyrygentd.store.postgres.mailbox import PostgresMailbox
from dyrygentd.store.postgres.store import PostgresStore
from dyrygentd.store.postgres.url import PostgresUrl
from tests.store.records import finished, workflow
from tests.support.postgres import PostgresServer
from tests.support.proxy import CuttingProxy

pytestmark = [pytest.mark.anyio, pytest.mark.long]

_BYTES_MAX = 1_000_000


def _letter(token: str, **fields: Any) -> Letter:
    return replace(Letter(token, LetterKind.SUBMIT, b"{}", f"w-{token}", owner=User(1, "app1", "ann"), host="app1"), **fields)


@pytest.fixture
async def box(url: PostgresUrl, store: PostgresStore) -> AsyncIterator[PostgresMailbox]:
    """A box of who only leaves letters, beside that of the open store."""
    box = PostgresMailbox(url)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.run)
        yield box
        tasks.cancel_scope.cancel()
    await box.close()


async def _taken(store: PostgresStore, *in_hand: int, limit: int = 100) -> list[str]:
    return [letter.token for letter in await store.mailbox.take(in_hand, limit=limit, bytes_max=_BYTES_MAX)]


async def test_letter_is_kept_as_it_was_left(store: PostgresStore, box: PostgresMailbox) -> None:
    """Who leads gets all of a letter, with its number and the time by the database's clock; odd texts and bytes included."""
    left = await box.leave(_letter("a", body=b'"\x00\xff"', owner=None, host="hóst", digest="d"))
    (taken,) = await store.mailbox.take((), limit=9, bytes_max=_BYTES_MAX)
    assert taken == left
    assert taken.number == 1
    assert taken.left_at > 1.7e9


async def test_letter_left_again_is_the_same(box: PostgresMailbox) -> None:
    """Who lost the answer to leaving may leave it again: its token tells that it is there."""
    first = await box.leave(_letter("a"))
    assert await box.leave(_letter("a")) == first
    assert (await box.look()).waiting == 1


async def test_lost_answer_to_leaving(store: PostgresStore, by_proxy: PostgresUrl, proxy: CuttingProxy) -> None:
    """A letter whose answer was lost on the way is left once, and its number is told all the same."""
    box = PostgresMailbox(by_proxy)
    await box.look()
    proxy.cut_reply_to("cut here")
    left = await box.leave(_letter("a", host="cut here"))
    assert proxy.cuts == 1
    assert left.number == 1
    assert await _taken(store) == ["a"]
    await box.close()


async def test_one_letter_waits_with_a_key(store: PostgresStore, box: PostgresMailbox) -> None:
    """Two hosts that submit with one key of one owner have one letter; another owner's is another one; later it is free."""
    first = await box.leave(_letter("a", key="k", digest="d"))
    second = await box.leave(_letter("b", key="k", host="app2"))
    assert (second.token, second.number, second.digest, second.workflow_id) == ("a", first.number, "d", "w-a")
    assert (await box.leave(_letter("c", key="k", owner=User(2)))).token == "c"
    await store.mailbox.answer([LetterAnswer(first.number, b"{}", is_refused=True)])
    assert (await box.leave(_letter("d", key="k"))).token == "d"


async def test_senders_have_turns(store: PostgresStore, box: PostgresMailbox) -> None:
    """One who leaves many letters does not keep others back; each one's come in their order, without those in hand."""
    for number in range(4):
        await box.leave(_letter(f"many{number}"))
    await box.leave(_letter("few", owner=User(2)))
    assert await _taken(store, limit=3) == ["many0", "many1", "few"]
    assert await _taken(store, 1, 5) == ["many1", "many2", "many3"]


async def test_one_rests(store: PostgresStore, box: PostgresMailbox) -> None:
    """Behind a letter that is tried again later its sender gets no further one, and others get theirs."""
    for number in range(3):
        await box.leave(_letter(f"a{number}"))
    await box.leave(_letter("b", owner=User(2)))
    taken = await store.mailbox.take((2,), limit=9, bytes_max=_BYTES_MAX, resting=(2,))
    assert [letter.token for letter in taken] == ["a0", "b"]


async def test_order_about_one_workflow(store: PostgresStore, box: PostgresMailbox) -> None:
    """A letter about a workflow waits for earlier ones about it, whoever left them, and its sender's later ones wait with it."""
    await box.leave(_letter("submit", workflow_id="w"))
    await box.leave(_letter("cancel", kind=LetterKind.PERFORM, workflow_id="w", host="app2"))
    await box.leave(_letter("later", host="app2"))
    await box.leave(_letter("bulk", kind=LetterKind.PERFORM_IN_BULK, workflow_id="", host="app3"))
    assert await _taken(store) == ["submit", "bulk"]
    assert await _taken(store, 1) == ["bulk"]
    await store.mailbox.answer([LetterAnswer(1, b"{}")])
    assert await _taken(store) == ["cancel", "later", "bulk"]


async def test_long_letters_are_taken_few_at_a_time(store: PostgresStore, box: PostgresMailbox) -> None:
    """Bodies that are fetched together have a bound; one that is longer comes alone."""
    for token in "abc":
        await box.leave(_letter(token, body=b"x" * 100))
    assert len(await store.mailbox.take((), limit=9, bytes_max=250)) == 2
    assert len(await store.mailbox.take((), limit=9, bytes_max=10)) == 1


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"letters_max": 2}, "2 letters wait, the most that may"),
        ({"bytes_max": 25}, "letters of 20 bytes wait, and 25 may"),
        ({"of_sender_max": 2}, "2 letters of yours wait"),
        ({"of_sender_bytes_max": 25}, "letters of 20 bytes of yours wait, and 25 may"),
    ],
)
async def test_full(url: PostgresUrl, store: PostgresStore, bounds: dict[str, int], reason: str) -> None:
    """Beyond a bound nothing is left, and who asks learns which one; a letter that is there already is found all the same."""
    box = PostgresMailbox(url, bounds=MailboxBounds(**bounds))
    for token in "ab":
        await box.leave(_letter(token, body=b"x" * 10))
    with pytest.raises(MailboxFull, match=reason) as refused:
        await box.leave(_letter("c", body=b"x" * 10))
    assert "dyrygentctl status" in refused.value.next_step
    assert (await box.leave(_letter("a"))).number == 1
    if "of_sender" in next(iter(bounds)):
        await box.leave(_letter("d", owner=User(2)))
    await store.mailbox.answer([LetterAnswer(1, b"{}"), LetterAnswer(2, b"{}")])
    await box.leave(_letter("c", body=b"x" * 10))
    await box.close()


@pytest.mark.parametrize(
    ("bounds", "left"),
    [
        ({}, 12),
        ({"letters_max": 7}, 7),
        ({"bytes_max": 75}, 7),
        # Of the one user who leaves ten of them, and all of the other one.
        ({"of_sender_max": 4}, 6),
        ({"of_sender_bytes_max": 45}, 6),
    ],
)
async def test_many_at_once(url: PostgresUrl, store: PostgresStore, bounds: dict[str, int], left: int) -> None:
    """Letters that are left at one time are bounded as if they came one by one, and each has its own number and answer."""
    box, kept, refused = PostgresMailbox(url, bounds=MailboxBounds(**bounds)), dict[str, Letter](), list[str]()

    async def leave(token: str, owner: int = 1) -> None:
        try:
            kept[token] = await box.leave(_letter(token, body=b"x" * 10, owner=User(owner)))
        except MailboxFull:
            refused.append(token)

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(leave, f"ann{number}")
            if number in (3, 4):
                tasks.start_soon(leave, f"bob{number}", 2)
    assert (len(kept), len(refused)) == (left, 12 - left)
    assert (await box.look()).waiting == left
    taken = {letter.token: letter for letter in await store.mailbox.take((), limit=100, bytes_max=_BYTES_MAX)}
    assert {token: (letter.number, letter.left_at, letter.owner) for token, letter in taken.items()} == {
        token: (letter.number, letter.left_at, letter.owner) for token, letter in kept.items()
    }
    anns = [kept[token].number for token in sorted(kept) if token.startswith("ann")]
    assert anns == sorted(anns)
    answers = [LetterAnswer(letter.number, token.encode()) for token, letter in kept.items()]
    await store.mailbox.answer(answers)
    read: dict[str, bytes] = {}

    async def hear(token: str, number: int) -> None:
        answered = await box.answered(number, timeout_s=0.0)
        assert answered is not None
        read[token] = answered.answer

    async with anyio.create_task_group() as tasks:
        for token, letter in kept.items():
            tasks.start_soon(hear, token, letter.number)
    assert read == {token: token.encode() for token in kept}
    await box.close()


async def test_many_with_one_key_at_once(store: PostgresStore, box: PostgresMailbox) -> None:
    """Of those that are left at one time with one key one is kept, and all others are told which."""
    kept: list[Letter] = []

    async def leave(token: str) -> None:
        kept.append(await box.leave(_letter(token, key="k")))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(leave, f"t{number}")
    assert len({letter.token for letter in kept}) == 1
    assert len(await _taken(store)) == 1


async def test_long_letter_goes_alone(store: PostgresStore, box: PostgresMailbox) -> None:
    """Long ones are not gathered in memory beside others: they are left all the same."""
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(box.leave, _letter(f"long{number}", body=b"x" * 300_000))
    assert sorted(await _taken(store)) == ["long0", "long1", "long2"]


async def test_what_may_be_done_already(store: PostgresStore, box: PostgresMailbox) -> None:
    """Who takes a letter learns whether anything of it is done: its workflow is there, or it has left a footprint."""
    await box.leave(_letter("new"))
    await box.leave(_letter("made", workflow_id="w"))
    await box.leave(_letter("verb", kind=LetterKind.PERFORM, workflow_id="v", owner=User(2)))
    begun = await box.leave(_letter("begun", kind=LetterKind.PERFORM, workflow_id="x", owner=User(3)))
    entry = JournalEntry("x", 1700000000.5, "retry", "ann", nodes=("a",), count=1, letter=begun.number)
    await store.save([workflow("w"), workflow("v"), workflow("x")], [], [entry])
    taken = await store.mailbox.take((), limit=9, bytes_max=_BYTES_MAX)
    assert {letter.token for letter in taken if letter.may_be_done} == {"made", "begun"}
    assert len(taken) == 4


async def test_ten_thousand_wait(
    url: PostgresUrl, store: PostgresStore, box: PostgresMailbox, shared_postgres: PostgresServer
) -> None:
    """With no leader for long the box is full, for everybody; what is there stays, and who leads next takes of each alike."""
    await box.leave(_letter("first"))
    shared_postgres.execute(
        f"INSERT INTO {url.schema}.letters (token, kind, workflow, owner, owner_name, host, digest, body, bytes, left_at,"
        " is_refused, known_as) SELECT 't' || n, 'submit', 'v' || n, '\"many\"', '', 'host' || n % 5, '', '{}', 2, n, false, ''"
        " FROM generate_series(1, 9999) AS n"
    )
    for kind in (LetterKind.SUBMIT, LetterKind.PERFORM):
        with pytest.raises(MailboxFull, match="10000 letters wait, the most that may"):
            await box.leave(_letter("late", kind=kind, owner=User(7)))
    assert (await box.leave(_letter("first"))).number == 1
    assert (await box.look()).waiting == 10_000
    rows = shared_postgres.execute(f"SELECT number, host FROM {url.schema}.letters")
    host_of = dict(rows)
    taken = await store.mailbox.take((), limit=121, bytes_max=_BYTES_MAX)
    assert Counter(host_of[letter.number] for letter in taken) == {"app1": 1, **{f"host{number}": 24 for number in range(5)}}


async def test_verbs_are_refused_while_nobody_leads(url: PostgresUrl, store: PostgresStore) -> None:
    """A verb that nobody would carry out soon is refused at once; a submission may wait, and who leads ends that."""
    box = PostgresMailbox(url, bounds=MailboxBounds(verb_wait_s=0.0))
    await box.leave(_letter("a"))
    await box.leave(_letter("b", kind=LetterKind.PERFORM))
    await store.close()
    with pytest.raises(MailboxFull, match="nobody leads, and a letter has been waiting for"):
        await box.leave(_letter("c", kind=LetterKind.PERFORM))
    await box.leave(_letter("d"))
    assert (await box.look()).oldest_s > 0
    await box.close()


async def test_answer_is_heard(store: PostgresStore, box: PostgresMailbox) -> None:
    """Who waits gets the answer as soon as it is written, who comes later at once, and nobody what was not answered in time."""
    first, second = await box.leave(_letter("a")), await box.leave(_letter("b", workflow_id="w"))
    assert await box.answered(first.number, timeout_s=0.01) is None
    heard: list[Letter | None] = []

    async def wait() -> None:
        heard.append(await box.answered(first.number, timeout_s=10))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        await store.mailbox.answer([LetterAnswer(first.number, b"1"), LetterAnswer(second.number, b"2", True, "x")])
    assert heard[0] is not None
    assert (heard[0].answer, heard[0].is_refused, heard[0].body) == (b"1", False, b"")
    late = await box.answered(second.number, timeout_s=10)
    assert late is not None
    assert (late.answer, late.is_refused, late.known_as) == (b"2", True, "x")
    assert await _taken(store) == []


async def test_answer_that_nobody_told(url: PostgresUrl, store: PostgresStore, shared_postgres: PostgresServer) -> None:
    """Behind a pooler, or while a connection is made again, answers are looked for."""
    box = PostgresMailbox(url, look_every_s=0.05)
    left = await box.leave(_letter("a"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(box.run)
        while not shared_postgres.execute(  # noqa: ASYNC110 - the server tells nobody
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND query LIKE 'LISTEN%%'",
            f"dyrygentd:{url.schema}",
        ):
            await anyio.sleep(0.02)
        await store.mailbox.answer([LetterAnswer(left.number, b"1")])
        answered = await box.answered(left.number, timeout_s=10)
        tasks.cancel_scope.cancel()
    assert answered is not None
    assert answered.answer == b"1"
    await box.close()


async def test_letter_wakes_who_leads(store: PostgresStore, box: PostgresMailbox) -> None:
    """Who leads is woken by a letter, and need not look for it."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.mailbox.run)
        await store.mailbox.wait(10)  # It is heard by now.
        with anyio.fail_after(10):
            tasks.start_soon(box.leave, _letter("a"))
            await store.mailbox.wait(1000)
        tasks.cancel_scope.cancel()


async def test_only_the_owner_answers(
    url: PostgresUrl, store: PostgresStore, box: PostgresMailbox, shared_postgres: PostgresServer
) -> None:
    """Who has lost the database writes no answer, and deletes none."""
    left = await box.leave(_letter("a"))
    shared_postgres.execute(f"UPDATE {url.schema}.owner SET session = session + 1, process = 'another', holder = 'another'")
    with pytest.raises((Fenced, StoreUnavailable)):
        await store.mailbox.answer([LetterAnswer(left.number, b"1")])
    with pytest.raises(Fenced):
        await store.mailbox.answer([LetterAnswer(left.number, b"1")])
    with pytest.raises(Fenced):
        await store.mailbox.expire(kept_s=0, refused_s=0, refused_max=0)
    assert await _taken(store) == ["a"]


async def test_footprints(store: PostgresStore, box: PostgresMailbox) -> None:
    """What a letter has changed is written with the change, once, and goes with the answer."""
    left = await box.leave(_letter("a", kind=LetterKind.PERFORM, workflow_id="w"))
    entry = JournalEntry("w", 1700000000.5, "retry", "ann", nodes=("a", "b"), count=2, letter=left.number)
    await store.save([workflow("w")], [], [entry, replace(entry, workflow_id="gone"), replace(entry, letter=0)])
    await store.save([], [], [entry])
    assert await store.mailbox.footprints(left.number) == {"w": Footprint("w", ("a", "b"), 2)}
    await store.mailbox.answer([LetterAnswer(left.number, b"{}")])
    assert await store.mailbox.footprints(left.number) == {}


async def test_workflow_stays_until_its_letter_is_answered(url: PostgresUrl, box: PostgresMailbox, store: PostgresStore) -> None:
    """A workflow that has ended is not deleted before the letter that made it is answered: by it that is known to be done."""
    left = await box.leave(_letter("a", workflow_id="w"))
    await store.save([workflow("w")], [])
    await store.save([finished(workflow("w"))], [])
    assert await store.expire(Retention(2e9, 2e9), limit=9) == 0
    await store.mailbox.answer([LetterAnswer(left.number, b"{}")])
    assert await store.expire(Retention(2e9, 2e9), limit=9) == 1


async def test_found_by_the_workflow(store: PostgresStore, box: PostgresMailbox) -> None:
    """Who was told an id finds what became of it: it waits, was refused, or is another workflow; not if all went well."""
    refused, other = await box.leave(_letter("a")), await box.leave(_letter("b"))
    taken = await box.leave(_letter("c"))
    found = await box.find("w-a")
    assert found is not None
    assert not found.answer
    answers = [LetterAnswer(refused.number, b"no", True), LetterAnswer(other.number, b"{}", known_as="old")]
    await store.mailbox.answer([*answers, LetterAnswer(taken.number, b"{}")])
    found, known = await box.find("w-a"), await box.find("w-b")
    assert found is not None
    assert known is not None
    assert (found.is_refused, found.answer, known.known_as) == (True, b"no", "old")
    assert await box.find("w-c") is None
    assert await box.find("nobody's") is None


async def test_answered_letters_expire(store: PostgresStore, box: PostgresMailbox) -> None:
    """Answered letters go after a while, refused submissions later and by number; what waits stays."""
    numbers = [(await box.leave(_letter(token))).number for token in "abcde"]
    await store.mailbox.answer([LetterAnswer(number, b"{}", is_refused=number > 2) for number in numbers[:4]])
    assert await store.mailbox.expire(kept_s=1000, refused_s=1000, refused_max=9) == 0
    assert await store.mailbox.expire(kept_s=0, refused_s=1000, refused_max=1) == 3
    assert await box.find("w-d") is not None
    assert await _taken(store) == ["e"]
    assert await store.mailbox.expire(kept_s=0, refused_s=0, refused_max=9) == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("kind = 'of the next version'", "not a valid LetterKind"),
        ("owner = 'ann'", "Expecting value"),
        ("owner = ''", "Expecting value"),
        ("owner = repeat('[', 100000)", "recursion"),
    ],
)
async def test_unreadable_letter(
    url: PostgresUrl, store: PostgresStore, box: PostgresMailbox, shared_postgres: PostgresServer, broken: str, reason: str
) -> None:
    """One that another version or a broken program has left keeps nobody from the others, and says why it cannot be read."""
    left = await box.leave(_letter("a"))
    shared_postgres.execute(f"UPDATE {url.schema}.letters SET {broken}")
    await box.leave(_letter("b", owner=User(2)))
    unreadable, other = await store.mailbox.take((), limit=9, bytes_max=_BYTES_MAX)
    assert (unreadable.number, unreadable.kind, unreadable.owner) == (left.number, LetterKind.UNREADABLE, None)
    assert reason in unreadable.body.decode()
    assert other.kind is LetterKind.SUBMIT


@pytest.mark.parametrize("payload", ["x", "1 ² 2", "9" * 5000, "1\n-1 0x2"])
async def test_others_say_something_where_answers_are_told(
    url: PostgresUrl, store: PostgresStore, box: PostgresMailbox, shared_postgres: PostgresServer, payload: str
) -> None:
    """PostgreSQL lets whoever may connect notify on any channel: what is no answer ends nobody, and answers go on."""
    left = await box.leave(_letter("a"))
    (place,) = shared_postgres.execute("SELECT %s::regnamespace::oid::bigint", url.schema)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(store.mailbox.run)
        await store.mailbox.wait(10)  # It is heard by now.
        shared_postgres.execute("SELECT pg_notify('dyrygentd_answers_' || %s, %s)", *place, payload)
        await store.mailbox.answer([LetterAnswer(left.number, b"1")])
        answered = await box.answered(left.number, timeout_s=10)
        tasks.cancel_scope.cancel()
    assert answered is not None
    assert answered.answer == b"1"
