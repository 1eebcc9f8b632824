"""The views, in a browser, on a real daemon."""

from tests.http.support import Daemon
from tests.page.support import Look


def test_each_view_is_there(daemon: Daemon, look: Look) -> None:
    """An address leads to its view."""
    workflow_id = daemon.submit({"name": "one", "task": "add", "args": [1, 2]}, name="some <b>name</b>")
    daemon.finish(workflow_id)
    assert look.at("#/").title() == "dyrygentd"
    assert "some <b>name</b>" in look.at("#/workflows", until="main a").inner_text("main")
    assert "some <b>name</b>" in look.at(f"#/w/{workflow_id}").inner_text("h1")
    assert "one" in look.at(f"#/w/{workflow_id}/n/one").inner_text("h1")
