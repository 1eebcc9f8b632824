"""Verbs for what went wrong in a section, chosen as it is shown."""

from typing import Any

import click
import pytest

from tests.cli.support import Ctl, Terminal, submit
from tests.http.support import Daemon


def failing(ctl: Ctl, daemon: Daemon) -> str:
    """Return a workflow with failures in two sections, and what waits for them."""
    nodes: list[dict[str, Any]] = [
        {"name": f"{section}-{number}", "task": "fail", "section": f"hosts/{section}"} for section in "ab" for number in range(5)
    ]
    workflow = submit(
        ctl, *nodes, {"name": "good", "section": "hosts/a"}, {"name": "end", "after": ["a-0"], "section": "hosts/a"}
    )
    daemon.finish(workflow)
    return workflow


def test_what_failed_in_a_section_is_tried_again(ctl: Ctl, daemon: Daemon) -> None:
    """Neither the rest of the workflow, nor what succeeded there."""
    workflow = failing(ctl, daemon)
    # With the one that waited for one of the five.
    result = ctl("retry", workflow, "--section", "hosts/a", "--yes", "--why", "cabled")
    assert (result.exit_code, "  6 nodes  " in result.stdout) == (0, True), result.output
    daemon.finish(workflow)
    nodes = daemon.ask("GET", f"/v1/workflows/{workflow}/nodes").json["nodes"]
    assert {node["name"] for node in nodes if node.get("attempt") == 2} == {f"a-{number}" for number in range(5)}


def test_they_are_counted_and_asked_about(ctl: Ctl, daemon: Daemon) -> None:
    """Who meant another section sees it by the number and the names; where nobody can be asked nothing is done."""
    workflow = failing(ctl, daemon)
    terminal = Terminal(daemon, "skip", workflow, "--section", "hosts")
    terminal.wait_for(b"skip 10 nodes in 'hosts': 'a-0', 'a-1', 'a-2' and 7 more?")
    terminal.type(b"n\n")
    assert terminal.end() == 1
    assert "nothing was changed" in click.unstyle(terminal.seen.decode())
    result = ctl("skip", workflow, "--section", "hosts")
    assert (result.exit_code, "add --yes" in result.stderr) == (2, True)
    assert ctl("skip", workflow, "--section", "hosts", "--yes").exit_code == 0
    assert daemon.finish(workflow) == "succeeded"


def test_a_section_without_failures_is_told(slow_ctl: Ctl) -> None:
    """And so is one that there is not."""
    workflow = submit(slow_ctl, {"name": "a", "section": "x"})
    result = slow_ctl("retry", workflow, "--section", "x", "--yes")
    assert (result.exit_code, "nothing in 'x' has failed" in result.stderr) == (1, True)
    assert f"dyrygentctl show {workflow} --section x" in result.stderr
    assert "shows sections and boxes" in slow_ctl("retry", workflow, "--section", "y", "--yes").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("retry", "w", "n", "--section", "s", "--yes"),
        ("retry", "w", "--section", "s", "--cause", "1", "--yes"),
        ("retry", "--all", "--section", "s", "--yes"),
        ("skip", "w", "n", "--section", "s", "--yes"),
        ("skip", "w"),
    ],
    ids=" ".join,
)
def test_it_goes_with_one_workflow_alone(slow_ctl: Ctl, arguments: tuple[str, ...]) -> None:
    """Two choices at once would leave one to guess whether both are meant."""
    result = slow_ctl(*arguments)
    assert (result.exit_code, "--section" in result.stderr) == (2, True)
