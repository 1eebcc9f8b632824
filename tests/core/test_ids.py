"""Task ids: those made here are known for it without a table, and those from outside have one holder."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from dyrygentd.core.ids import Claims, MadeIds, as_compared, is_made, looks_made, task_id_of_attempt, task_id_of_old


def test_made_ids_are_uuids_of_one_definition() -> None:
    """Celery's users expect UUIDs; those of one definition share their first digits, so the store presses them well."""
    make = MadeIds()
    made = [make() for _ in range(50)]
    assert len({*made}) == 50
    assert {UUID(task_id).version for task_id in made} == {4}
    assert len({task_id[:22] for task_id in made}) == 1
    assert all(map(is_made, made))
    assert MadeIds()()[:18] != made[0][:18]


@given(st.uuids(version=4).map(str))
def test_others_uuids_are_not_made_here(task_id: str) -> None:
    """Celery's own ids look alike, and are told apart by the mark."""
    assert not is_made(task_id)


def test_near_misses_are_not_made_here() -> None:
    """Whatever is changed in an id, it is another one."""
    task_id = MadeIds()()
    for changed in (task_id[:-1], task_id.upper(), f"{task_id[:14]}5{task_id[15:]}", task_id.replace("-", "_"), f"{task_id}x"):
        assert not is_made(changed)
    digit = "0" if task_id[2] != "0" else "1"
    assert not is_made(f"{task_id[:2]}{digit}{task_id[3:]}")


def test_what_a_database_takes_for_one_looks_made() -> None:
    """MySQL compares without case, accents, width and trailing blanks: such an id would overwrite another task's result."""
    task_id = MadeIds()()
    wide = "".join(chr(ord(each) + 0xFEE0) if each.isalnum() else each for each in task_id)
    for written in (task_id, task_id.upper(), f"{task_id} ", wide, task_id.replace("a", "á")):
        assert looks_made(written)
    assert not looks_made("order-4711")
    assert not looks_made("x" * 40)


def test_as_a_database_compares() -> None:
    """Two ids that are one there are one here."""
    assert as_compared("Zażółć ") == as_compared("zazołc")
    assert as_compared("ORDER-1  ") == "order-1"
    assert as_compared("order-1") != as_compared("order-2")


def test_later_attempts_have_ids_of_their_own() -> None:
    """A result that is stored under an old attempt's id must never be that of the new one, even after a restart."""
    first = MadeIds()()
    later = [task_id_of_attempt(first, attempt) for attempt in range(1, 6)]
    assert later[0] == first
    assert len({*later}) == 5
    assert later == [task_id_of_attempt(first, attempt) for attempt in range(1, 6)]
    assert all(map(is_made, later))


def test_attempts_of_earlier_versions_keep_their_names() -> None:
    """What an earlier version sent is found under the name that it gave."""
    assert task_id_of_old("mine", 1) == "mine"
    assert task_id_of_old("mine", 2) == task_id_of_old("mine", 2) != task_id_of_old("mine", 3)


def test_an_id_has_one_holder() -> None:
    """Whoever came first keeps it: two workflows with one id would take each other's results."""
    claims = Claims()
    claims.claim("v", ["a", "b", ""])
    claims.claim("w", ["b", "c"])
    assert [claims.holder(task_id) for task_id in "abcd"] == ["v", "v", "w", None]
    assert (len(claims), "b" in claims, "" in claims, claims.has("w"), claims.has("x")) == (3, True, False, True, False)
    claims.release("w")
    claims.release("w")
    assert [claims.holder(task_id) for task_id in "abc"] == ["v", "v", None]
