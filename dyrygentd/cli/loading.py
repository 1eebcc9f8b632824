"""Commands that are imported when they are asked for: who lists workflows need not wait for what draws timelines."""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module

import click


class LoadedCommands(MutableMapping[str, click.Command]):
    """``{name: command}`` in the order of their homes; the module of one is imported with its first use.

    Args:
        homes: ``{name: "module:attribute"}``.
        room: The package of these modules.
    """

    def __init__(self, homes: Mapping[str, str], *, room: str) -> None:
        self._homes, self._room = dict(homes), room
        self._commands: dict[str, click.Command] = {}

    def __repr__(self) -> str:
        return f"<LoadedCommands {len(self._commands)} of {len(self)}>"

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._commands:
            module, _, attribute = self._homes[name].partition(":")
            self._commands[name] = getattr(import_module(f"{self._room}.{module}"), attribute)
        return self._commands[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._homes.setdefault(name, "")
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._homes[name]
        self._commands.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes
