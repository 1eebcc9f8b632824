"""Users: the same number at two hosts is two of them, and a name changes nothing."""

import pytest

from dyrygentd.core.user import User


@pytest.mark.parametrize("user", [User(0), User(1000), User(1000, "app1"), User(0, "app1.example", "root")])
def test_identity_leads_back(user: User) -> None:
    """What a store keeps of a user is enough to know them again; a number alone is what it always was."""
    assert User.of(user.identity, user.name) == user
    assert User.of(str(user.identity)) == user
    assert User.of(user) is user
    assert isinstance(user.identity, str) == bool(user.host)


def test_host_tells_users_apart_and_name_does_not() -> None:
    """Number 1000 is somebody else on each host, and somebody who was renamed is the same."""
    ann, renamed, other, local = User(1000, "app1", "ann"), User(1000, "app1", "anna"), User(1000, "app2"), User(1000)
    assert ann == renamed
    assert hash(ann) == hash(renamed)
    assert len({ann, other, local}) == 3
    assert len({each.identity for each in (ann, renamed, other, local)}) == 3


@pytest.mark.parametrize(
    ("user", "words"),
    [
        (User(1000, "app1", "ann"), "ann@app1"),
        (User(1000, "app1"), "1000@app1"),
        (User(1000, "", "ann"), "ann"),
        (User(1000), "uid 1000"),
    ],
)
def test_words(user: User, words: str) -> None:
    """People read a name, and where it is one."""
    assert user.words == words


@pytest.mark.parametrize("identity", [None, "", "ann@app1", "@app1", "-1", "\N{ARABIC-INDIC DIGIT ONE}@app1"])
def test_nobody(identity: str | None) -> None:
    """What is no user in a store that somebody has changed is nobody, and not an error."""
    assert User.of(identity) is None
