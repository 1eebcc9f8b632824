"""Parameters of a definition: ``${cluster}`` in its texts becomes the value of the parameter ``cluster``.

A text that is nothing but a reference becomes the value itself, whatever its type; inside a longer text it becomes its text.
``$${`` stands for ``${``. A definition without ``parameters`` is left alone, and so are the names in its objects. What was put
in is not looked at again, so a value can hold ``${`` without harm.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dyrygentd.core.bounds import DEPTH_MAX
from dyrygentd.core.options import shown
from dyrygentd.errors import BadRequest

NAME_PATTERN: Final = "[A-Za-z_][A-Za-z0-9_-]{0,99}"
#: As many bytes as the daemon reads in one submission: a long value named often must not become more than it would take.
EXPANSION_MAX: Final = 64 * 1024 * 1024

_REFERENCE: Final = re.compile(r"\$(\$)?\{([^}]*)\}")
_NAME: Final = re.compile(NAME_PATTERN)
_KNOWN_FIELDS: Final = ("type", "default", "description", "choices")
_ESCAPE: Final = "write `$${` where the text `${` is meant"


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words[text.strip().lower()]


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return int(text) if text.strip().lstrip("+-").isdecimal() else number


#: ``{type: (Python's types, how to read it from a command line)}``.
_TYPES: Final[dict[str, tuple[tuple[type, ...], Callable[[str], Any]]]] = {
    "string": ((str,), str),
    "integer": ((int,), int),
    "number": ((int, float), _number),
    "boolean": ((bool,), _boolean),
    "list": ((list,), json.loads),
    "object": ((dict,), json.loads),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as a definition declares it.

    Attributes:
        type: ``string``, ``integer``, ``number``, ``boolean``, ``list`` or ``object``.
        is_required: It has no default.
        choices: The values that are allowed; None for all of its type.
    """

    name: str
    type: str
    default: Any = None
    is_required: bool = True
    description: str = ""
    choices: tuple[Any, ...] | None = None


def declared(document: Mapping[str, Any]) -> list[Parameter]:
    """Return the parameters that a definition document declares, in its order. Raises `BadRequest`."""
    given = document.get("parameters")
    if given is None:
        return []
    if not isinstance(given, dict):
        raise BadRequest(
            f"`parameters` must be an object, and is {shown(given)}",
            path="$.parameters",
            next_step='write {"name": default} or {"name": {"type": "integer", "description": "…"}}',
        )
    return [_parameter(name, about) for name, about in given.items()]


def filling_of(document: Mapping[str, Any]) -> "Filling":
    """Return what puts the values of a definition document into its parts; of the document only these two fields are looked at.

    Raises:
        BadRequest: A value is missing, unknown or of another type.
    """
    parameters, given = declared(document), document.get("values")
    if not isinstance(given, dict | None):
        raise BadRequest(f"`values` must be an object, and is {shown(given)}", path="$.values", next_step='write {"name": value}')
    if document.get("parameters") is None:
        if given:
            raise BadRequest(
                "there are `values`, and no `parameters` to take them",
                path="$.values",
                next_step="declare them under `parameters` in the definition, or give none",
            )
        return Filling(None)
    names = sorted(parameter.name for parameter in parameters)
    unknown = sorted((given or {}).keys() - set(names))
    # First of all: a name that is not quite right is the usual reason why another has no value.
    if unknown:
        raise BadRequest(
            f"the definition has no parameter '{unknown[0]}'",
            path=f"$.values.{unknown[0]}",
            next_step=f"its parameters are {', '.join(names) or 'none'}",
        )
    return Filling({parameter.name: _value(parameter, given or {}) for parameter in parameters})


def _parameter(name: str, about: Any) -> Parameter:
    """Read a declaration; a bare value is a default."""
    path = f"$.parameters.{name}"
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"{shown(name)} is no name for a parameter",
            path="$.parameters",
            next_step="use letters, digits, _ and -, 100 at most",
        )
    if not isinstance(about, dict):
        return Parameter(name, _type_of(about), about, is_required=False)
    wrong = sorted(about.keys() - set(_KNOWN_FIELDS))
    if wrong:
        raise BadRequest(
            f"parameter '{name}' has an unknown field '{wrong[0]}'",
            path=path,
            next_step=f'use {", ".join(_KNOWN_FIELDS)}; an object as default is written {{"default": {{…}}}}',
        )
    type_name, description, choices = (
        about.get("type", _type_of(about.get("default"))),
        about.get("description", ""),
        about.get("choices"),
    )
    if not isinstance(type_name, str) or type_name not in _TYPES:
        raise BadRequest(
            f"parameter '{name}' has the unknown type {shown(type_name)}",
            path=f"{path}.type",
            next_step=f"use one of {', '.join(_TYPES)}",
        )
    if not isinstance(description, str):
        raise BadRequest(f"the description of parameter '{name}' must be text", path=f"{path}.description")
    if choices is not None:
        if not isinstance(choices, list) or not choices:
            raise BadRequest(f"the choices of parameter '{name}' must be a list of values", path=f"{path}.choices")
        for number, choice in enumerate(choices):
            if not _is_of(choice, type_name):
                raise _wrong_type(name, type_name, choice, f"{path}.choices[{number}]")
    found = Parameter(
        name, type_name, about.get("default"), "default" not in about, description, None if choices is None else tuple(choices)
    )
    if found.default is not None:
        _checked(found, found.default, f"{path}.default")
    return found


def _value(parameter: Parameter, given: Mapping[str, Any]) -> Any:
    if parameter.name in given:
        return _checked(parameter, given[parameter.name], f"$.values.{parameter.name}")
    if parameter.is_required:
        description = f" ({parameter.description})" if parameter.description else ""
        raise BadRequest(
            f"parameter '{parameter.name}'{description} has no value",
            path=f"$.values.{parameter.name}",
            next_step=f"give one: -p {parameter.name}=…",
        )
    return None if parameter.default is None else _checked(parameter, parameter.default, f"$.parameters.{parameter.name}.default")


def _checked(parameter: Parameter, value: Any, path: str) -> Any:
    """Return a value as its type; a text is read, as it comes from a command line."""
    value = _typed(parameter, value, path)
    if parameter.choices is not None and value not in parameter.choices:
        choices = ", ".join(map(shown, parameter.choices[:20]))
        raise BadRequest(f"parameter '{parameter.name}' cannot be {shown(value)}", path=path, next_step=f"use one of {choices}")
    return value


def _typed(parameter: Parameter, value: Any, path: str) -> Any:
    if _is_of(value, parameter.type):
        return value
    if isinstance(value, str):
        try:
            read = _TYPES[parameter.type][1](value)
        except (ValueError, KeyError, RecursionError):
            read = None
        if _is_of(read, parameter.type):
            return read
    raise _wrong_type(parameter.name, parameter.type, value, path)


def _is_of(value: Any, type_name: str) -> bool:
    return isinstance(value, _TYPES[type_name][0]) and (type_name == "boolean" or not isinstance(value, bool))


def _wrong_type(name: str, type_name: str, value: Any, path: str) -> BadRequest:
    next_step = 'write it as JSON: [1, 2] or {"a": 1}' if type_name in ("list", "object") else ""
    return BadRequest(f"parameter '{name}' must be of type {type_name}, and is {shown(value)}", path=path, next_step=next_step)


def _type_of(default: Any) -> str:
    """Return the type of a parameter that declares none: its default's."""
    return next((name for name in ("boolean", "integer", "number", "list", "object") if _is_of(default, name)), "string")


#: Where a part stands: what holds it, and its name or number in that. It becomes a text for an error only: written out for each
#: part, a long name would be copied as often as there is something in it.
Path = tuple["Path | None", str | int]


class Filling:
    """Puts values in. Guards: what comes out has a bound, however often a value is named.

    Args:
        values: None if the document has no parameters, and is left as it is.
    """

    def __init__(self, values: Mapping[str, Any] | None) -> None:
        self._values = values
        self._sizes: dict[str, int] = {}
        self._left = EXPANSION_MAX

    def fill(self, part: Any, path: Sequence[str | int]) -> Any:
        """Return a part of the document with its references replaced. Raises `BadRequest`."""
        if self._values is None:
            return part
        place: Path | None = None
        for each in path:
            place = place, each
        return self._fill(part, place, DEPTH_MAX)

    def _fill(self, part: Any, path: Path | None, depth_left: int) -> Any:
        if isinstance(part, str):
            return self._fill_text(part, path) if "$" in part else part
        if not isinstance(part, dict | list):
            return part
        if not depth_left:
            raise BadRequest(
                f"a definition with parameters may be nested {DEPTH_MAX} levels deep at most",
                path=_written(path)[:200],
                next_step="flatten it, or submit it without `parameters`",
            )
        if isinstance(part, dict):
            return {key: self._fill(value, (path, key), depth_left - 1) for key, value in part.items()}
        return [self._fill(value, (path, number), depth_left - 1) for number, value in enumerate(part)]

    def _fill_text(self, text: str, path: Path | None) -> Any:
        whole = _REFERENCE.fullmatch(text)
        if whole is not None and not whole[1]:
            return self._value_of(whole[2], path)

        def replace(reference: "re.Match[str]") -> str:
            if reference[1]:
                return f"${{{reference[2]}}}"
            value = self._value_of(reference[2], path)
            if isinstance(value, list | dict | None):
                raise BadRequest(
                    f"parameter '{reference[2]}' is no text, so it must stand alone",
                    path=_written(path),
                    next_step=f'write "${{{reference[2]}}}"',
                )
            return str(value).lower() if isinstance(value, bool) else str(value)

        return _REFERENCE.sub(replace, text)

    def _value_of(self, name: str, path: Path | None) -> Any:
        assert self._values is not None
        if name not in self._values:
            known = ", ".join(sorted(self._values)) or "none"
            raise BadRequest(
                f"'${{{name[:100]}}}' names no parameter",
                path=_written(path),
                next_step=f"the parameters are {known}; {_ESCAPE}",
            )
        value = self._values[name]
        if name not in self._sizes:
            self._sizes[name] = _size(name, value)
        self._left -= self._sizes[name]
        if self._left < 0:
            raise BadRequest(
                f"with its parameters put in, the definition has more than {EXPANSION_MAX} bytes",
                path=_written(path),
                next_step="pass a reference to long data instead of the data",
            )
        return value


def _written(path: Path | None) -> str:
    parts = []
    while path is not None:
        path, part = path
        parts.append(f"[{part}]" if isinstance(part, int) else f".{part[:100]}")
    return "$" + "".join(reversed(parts))


def _size(name: str, value: Any) -> int:
    """Return how many bytes a value takes in a document: a control character has six."""
    try:
        return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except (RecursionError, ValueError):
        raise BadRequest(f"the value of parameter '{name}' is nested too deeply", path=f"$.values.{name}") from None
