"""Views as plain data, for programs that hand them on: to a template, a log, a web framework."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Raw


class View:
    """What every view can do. A view is read, compared and printed like a dataclass."""

    __slots__ = ()
    __struct_fields__: tuple[str, ...]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Iterate over `to_dict`, so that ``dict(view)`` is that, and web frameworks that try it can answer with a view."""
        return iter(self.to_dict().items())

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain data that JSON can carry: ``{field: value}``, with views inside as dicts.

        Fields that were not asked for are left out, all others are there. Values of tasks become plain: a decimal or a date is
        its text. A value of a type that the program has registered with kombu, and JSON cannot carry, raises `TypeError`.
        """
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: plain(value) for name, value in found.items() if value is not UNSET and not isinstance(value, Raw)}

    def to_json(self) -> bytes:
        """Return `to_dict` as JSON text."""
        return msgspec.json.encode(self.to_dict())


def plain(value: Any) -> Any:
    """Turn a value, or views in it, into what JSON can carry."""
    match value:
        case View():
            return value.to_dict()
        case list() | tuple():
            return [plain(each) for each in value]
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
    return msgspec.to_builtins(value)
