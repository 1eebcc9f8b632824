"""The page, as a daemon serves it."""

import gzip
import json

import pytest

from dyrygentd import page
from tests.http.support import Daemon


@pytest.mark.parametrize("target", ["/", "/page/app.js", "/page/vendor/htm.js", "/page/mode.json"])
def test_a_browser_is_held_to_the_policy(daemon: Daemon, target: str) -> None:
    """Whatever stands in a name or an error, the browser runs nothing and asks nobody else."""
    for answer in (daemon.ask("GET", target), daemon.ask_tcp("GET", target)):
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"] == page.POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_a_known_file_is_not_sent_again(daemon: Daemon) -> None:
    """A page that is opened again costs a few hundred bytes a file."""
    first = daemon.ask_tcp("GET", "/page/app.js", {"Accept-Encoding": "gzip"})
    assert gzip.decompress(first.body) == page.files()["app.js"].body
    assert first.headers["Content-Type"] == "text/javascript; charset=utf-8"
    again = daemon.ask_tcp("GET", "/page/app.js", {"If-None-Match": first.headers["ETag"], "Accept-Encoding": "gzip"})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])


def test_start_is_the_document(daemon: Daemon) -> None:
    """Who opens the address sees the page; it may do nothing there."""
    answer = daemon.ask_tcp("GET", "/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.body.startswith(b"<!doctype html>")
    assert not json.loads(daemon.ask_tcp("GET", "/page/mode.json").body)["acts"]


def test_other_names_are_not_there(daemon: Daemon) -> None:
    """Nothing else of the disk is served."""
    for target in ("/page/..%2f__init__.py", "/page/%2e%2e", "/page/vendor/preact.LICENSE", "/page/README.md", "/page/"):
        assert daemon.ask_tcp("GET", target).status == 404
