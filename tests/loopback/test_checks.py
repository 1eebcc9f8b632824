"""What another page in the same browser may send is told from what the page served here sends."""

import pytest

from dyrygentd.loopback.checks import check_acting, check_host, check_reading, is_link
from dyrygentd.loopback.refusals import StrangersHost, StrangersPage

_HOST = {"Host": "127.0.0.1:8600"}
_OWN = {**_HOST, "Origin": "http://127.0.0.1:8600", "Sec-Fetch-Site": "same-origin", "X-Dyrygentd-Page": "1"} | {
    "Content-Type": "application/json; charset=utf-8"
}


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "LOCALHOST:8600", "[::1]:8600"])
def test_loopback_is_the_host(host: str) -> None:
    """However a person writes it."""
    check_host(host, 8600)


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1", "127.0.0.1:8601", "evil.example:8600", "localhost.evil.example:8600", "127.0.0.1.nip.io:8600", "0:8600"],
)
def test_another_name_is_refused(host: str) -> None:
    """A page whose name leads here would be taken for ours by the browser."""
    with pytest.raises(StrangersHost, match="and this is 127"):
        check_host(host, 8600)


@pytest.mark.parametrize(
    "headers", [_OWN, {**_OWN, "Sec-Fetch-Site": ""}, {name: text for name, text in _OWN.items() if name != "Origin"}]
)
def test_the_page_may_act(headers: dict[str, str]) -> None:
    """Browsers that send only one of the two headers are served, too."""
    check_acting({name: text for name, text in headers.items() if text})
    check_reading(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        _HOST,
        {**_HOST, "X-Dyrygentd-Page": "1"},
        {**_OWN, "X-Dyrygentd-Page": ""},
        {**_OWN, "Origin": "null"},
        {**_OWN, "Origin": "http://127.0.0.1:8601"},
        {**_OWN, "Origin": "https://127.0.0.1:8600"},
        {**_OWN, "Origin": "http://evil.example"},
        {**_OWN, "Sec-Fetch-Site": "same-site"},
        {**_OWN, "Sec-Fetch-Site": "cross-site"},
        {**_OWN, "Sec-Fetch-Site": "none"},
        {**_OWN, "Content-Type": "text/plain"},
        {**_OWN, "Content-Encoding": "gzip"},
        {**_OWN, "Content-Type": "text/plain; application/json"},
    ],
)
def test_whoever_else_asks_may_not_act(headers: dict[str, str]) -> None:
    """One sign of another page is enough, and so is the lack of any sign of ours."""
    with pytest.raises(StrangersPage):
        check_acting(headers)


def test_other_pages_may_not_read() -> None:
    """Not even what they could not see: a listing costs the daemon something."""
    check_reading({})
    check_reading({"Sec-Fetch-Site": "none"})
    for site in ("same-site", "cross-site"):
        with pytest.raises(StrangersPage):
            check_reading({"Sec-Fetch-Site": site})


def test_a_link_is_known() -> None:
    """Who follows a link comes without the cookie, and is sent on once more."""
    assert is_link({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert not is_link({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})
    assert not is_link({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"})
