"""Files with JSON or YAML in them: definitions and values of parameters."""

import importlib
import math
from pathlib import Path
from typing import Any

from dyrygentd.cli import fail

YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (".json", *YAML_SUFFIXES)

_WRITE_TEXT = "put it into quotation marks if text is meant"


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, or exit."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"cannot read '{path}': {error.strerror}", status=2)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, as JSON has it, or exit.

    Plain words are read as YAML 1.2 does: ``on``, ``yes`` and ``2030-01-31`` are texts, as they were written.
    """
    content = read_bytes(path)
    try:
        # No dependency of ours, so it is looked for where the user's modules are.
        yaml = importlib.import_module("yaml")
    except ImportError:
        fail("YAML needs the PyYAML package", next_step="`pip install 'dyrygentd[yaml]'`, or write it as JSON", status=2)
    try:
        document = yaml.load(content, Loader=_loader(yaml))
    except yaml.YAMLError as error:
        fail(f"'{path}' is no YAML: {error}", status=2)
    # What is tagged, such as `!!timestamp 2030-99-99`, is read by Python's own types, which raise their own errors.
    except (ValueError, RecursionError) as error:
        fail(f"'{path}' is no YAML that can be read: {error}", status=2)
    problem = _problem_in(document)
    if problem is not None:
        fail(f"'{path}': {problem}", next_step=_WRITE_TEXT, status=2)
    return document


def _loader(yaml: Any) -> Any:
    """Return a loader for YAML 1.2's plain words. In PyYAML's own, ``on`` (a field of retry policies) is true, 1:30 is 90."""
    import re

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads what JSON can carry."""

    Loader.yaml_implicit_resolvers = {}
    for tag, pattern, starts in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
        ("merge", r"<<", "<"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(starts))
    return Loader


def _problem_in(document: Any) -> str | None:
    """Say what JSON cannot carry, and where; None if there is nothing. Without recursion, as aliases can make a circle."""
    stack: list[tuple[Any, str]] = [(document, "$")]
    inside: set[int] = set()
    while stack:
        part, path = stack.pop()
        if path == "":
            inside.discard(part)
        elif isinstance(part, dict | list):
            if id(part) in inside:
                return f"what is at {path} refers to itself"
            inside.add(id(part))
            stack.append((id(part), ""))
            if isinstance(part, list):
                stack += [(value, f"{path}[{number}]") for number, value in enumerate(part)]
                continue
            wrong = next((key for key in part if not isinstance(key, str)), None)
            if wrong is not None or None in part:
                return f"the name {wrong!r} at {path} is no text"
            stack += [(value, f"{path}.{key}") for key, value in part.items()]
        elif not isinstance(part, str | int | float | None) or (isinstance(part, float) and not math.isfinite(part)):
            return f"the {type(part).__name__} at {path} has no form in JSON"
    return None
