"""Commands that are imported when they are asked for."""

import sys

import click
import pytest

from dyrygentd.cli import main
from dyrygentd.cli.loading import LoadedCommands


def test_names_cost_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lists, counts or misspells commands imports none; who asks for one gets that one, and always the same."""
    monkeypatch.delitem(sys.modules, "dyrygentd.cli.dot", raising=False)
    commands = LoadedCommands({"draw": "dot:lines", "list": "listing:list_workflows"}, room="dyrygentd.cli")
    assert (list(commands), len(commands), "draw" in commands, "drwa" in commands) == (["draw", "list"], 2, True, False)
    assert commands.get("drwa") is None
    assert "dyrygentd.cli.dot" not in sys.modules
    assert commands["list"] is commands["list"]
    assert repr(commands) == "<LoadedCommands 1 of 2>"


def test_commands_come_and_go() -> None:
    """A program that builds on the group adds its own as to any other group."""
    commands = LoadedCommands({"list": "listing:list_workflows"}, room="dyrygentd.cli")
    own = click.Command("own")
    commands["own"] = own
    assert (list(commands), commands["own"]) == (["list", "own"], own)
    del commands["list"], commands["own"]
    assert (list(commands), commands.get("own")) == ([], None)


def test_each_command_is_where_it_is_said_to_be() -> None:
    """A name that is typed is the one that its help shows."""
    assert {name: command.name for name, command in main.commands.items()} == {name: name for name in main.commands}
