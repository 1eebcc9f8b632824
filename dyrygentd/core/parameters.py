"""Parameters of a definition: ``${cluster}`` in its texts becomes the value of the parameter ``cluster``.

A text that is nothing but a reference becomes the value itself, whatever its type; inside a longer text it becomes its text.
``$${`` stands for ``${``. A definition without ``parameters`` is left alone.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from dyrygentd.errors import BadRequest

_REFERENCE: Final = re.compile(r"\$(\$)?\{([^}]*)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_KNOWN_FIELDS: Final = ("type", "default", "description", "choices")


def _boolean(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words[text.lower()]


#: ``{type: (Python's types, how to read it from a command line)}``. Lists and objects come as JSON only.
_TYPES: Final[dict[str, tuple[tuple[type, ...], Callable[[str], Any] | None]]] = {
    "string": ((str,), str),
    "integer": ((int,), int),
    "number": ((int, float), float),
    "boolean": ((bool,), _boolean),
    "list": ((list,), None),
    "object": ((dict,), None),
}


def expanded(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition document with its parameters put in, without ``parameters`` and ``values``.

    Raises:
        BadRequest: A value is missing, unknown or of another type, or a reference names no parameter.
    """
    declared, given = document.get("parameters"), document.get("values") or {}
    if not isinstance(declared, dict) or not isinstance(given, dict):
        raise BadRequest("`parameters` and `values` must be objects", path="$.parameters")
    unknown = sorted(given.keys() - declared.keys())
    if unknown:
        raise BadRequest(
            f"the definition has no parameter '{unknown[0]}'",
            path=f"$.values.{unknown[0]}",
            next_step=f"its parameters are {', '.join(sorted(declared)) or 'none'}",
        )
    values = {name: _value(name, _declaration(name, about), given) for name, about in declared.items()}
    rest = {key: value for key, value in document.items() if key not in ("parameters", "values")}
    filled: dict[str, Any] = _filled(rest, values, "$")
    return filled


def _declaration(name: str, about: Any) -> dict[str, Any]:
    """Return a parameter's declaration; a bare value is its default."""
    if not _NAME.fullmatch(name):
        raise BadRequest(f"'{name}' is no name for a parameter: letters, digits, _ and -", path="$.parameters")
    if not isinstance(about, dict):
        return {"default": about}
    wrong = sorted(about.keys() - set(_KNOWN_FIELDS))
    if wrong:
        raise BadRequest(
            f"parameter '{name}' has an unknown field '{wrong[0]}'",
            path=f"$.parameters.{name}",
            next_step=f"use {', '.join(_KNOWN_FIELDS)}",
        )
    if about.get("type", "string") not in _TYPES:
        raise BadRequest(
            f"parameter '{name}' has the unknown type '{about['type']}'",
            path=f"$.parameters.{name}.type",
            next_step=f"use one of {', '.join(_TYPES)}",
        )
    return about


def _value(name: str, about: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    if name in given:
        value, path = given[name], f"$.values.{name}"
    elif "default" in about:
        value, path = about["default"], f"$.parameters.{name}.default"
    else:
        description = f" ({about['description']})" if about.get("description") else ""
        raise BadRequest(
            f"parameter '{name}'{description} has no value", path=f"$.values.{name}", next_step=f"give one: -p {name}=…"
        )
    value = _typed(name, value, about.get("type") or _type_of(about.get("default")), path)
    choices = about.get("choices")
    if choices is not None and value not in choices:
        raise BadRequest(f"parameter '{name}' cannot be {value!r}", path=path, next_step=f"use one of {choices}")
    return value


def _type_of(default: Any) -> str:
    """Return the type of a parameter that declares none: its default's."""
    for name in ("boolean", "integer", "number", "list", "object"):
        if isinstance(default, _TYPES[name][0]):
            return name
    return "string"


def _typed(name: str, value: Any, type_name: str, path: str) -> Any:
    types, read = _TYPES[type_name]
    if isinstance(value, types) and not (isinstance(value, bool) and type_name in ("integer", "number")):
        return value
    if isinstance(value, str) and read is not None:
        try:
            return read(value)
        except (ValueError, KeyError):
            pass
    raise BadRequest(f"parameter '{name}' must be of type {type_name}, and is {value!r}", path=path)


def _filled(part: Any, values: Mapping[str, Any], path: str) -> Any:
    if isinstance(part, str):
        return _filled_text(part, values, path) if "$" in part else part
    if isinstance(part, dict):
        return {key: _filled(value, values, f"{path}.{key}") for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, values, f"{path}[{number}]") for number, value in enumerate(part)]
    return part


def _filled_text(text: str, values: Mapping[str, Any], path: str) -> Any:
    whole = _REFERENCE.fullmatch(text)
    if whole is not None and not whole[1]:
        return _looked_up(whole[2], values, path)

    def fill(reference: "re.Match[str]") -> str:
        if reference[1]:
            return f"${{{reference[2]}}}"
        value = _looked_up(reference[2], values, path)
        if isinstance(value, list | dict):
            raise BadRequest(f"parameter '{reference[2]}' is no text, so it must stand alone", path=path)
        return str(value).lower() if isinstance(value, bool) else str(value)

    return _REFERENCE.sub(fill, text)


def _looked_up(name: str, values: Mapping[str, Any], path: str) -> Any:
    if name not in values:
        raise BadRequest(
            f"'${{{name}}}' names no parameter", path=path, next_step=f"the parameters are {', '.join(sorted(values)) or 'none'}"
        )
    return values[name]
