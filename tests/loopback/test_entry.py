"""The token opens once, while it is fresh; whoever has not its cookie is told what to do."""

import pytest

from dyrygentd.loopback.entry import TOKEN_LIVES_S, Entry
from dyrygentd.loopback.refusals import NotLetIn


def test_token_opens_once() -> None:
    """An address that lies in a log or a history opens nothing for whoever finds it."""
    entry = Entry(8600)
    cookie = entry.exchange(entry.token)
    entry.check(["evil", cookie])
    with pytest.raises(NotLetIn, match="has been used"):
        entry.exchange(entry.token)


def test_token_grows_old() -> None:
    """An address that nobody opened is worth nothing after some minutes."""
    now = 0.0
    entry = Entry(8600, clock=lambda: now)
    now = TOKEN_LIVES_S + 1
    with pytest.raises(NotLetIn, match="too old: it opens for 10 minutes"):
        entry.exchange(entry.token)


@pytest.mark.parametrize("wrong", ["", "x", "\udce4", "é" * 1000])
def test_what_is_wrong_is_told_and_uses_up_nothing(wrong: str) -> None:
    """Whoever guesses does not shut out the one who has the address."""
    entry = Entry(8600)
    with pytest.raises(NotLetIn, match="not the one of this"):
        entry.exchange(wrong)
    with pytest.raises(NotLetIn, match="earlier `dyrygentctl ui`"):
        entry.check([wrong, wrong])
    with pytest.raises(NotLetIn, match="has not come by the address"):
        entry.check([])
    entry.exchange(entry.token)


def test_cookie_is_nobodys_before_the_token_was_used() -> None:
    """What lets in is given out, and not only known; nor is it shown in a traceback."""
    entry = Entry(8600)
    with pytest.raises(NotLetIn):
        entry.check([entry._cookie])
    assert entry.token not in repr(entry)
    assert Entry(8600).token != entry.token
