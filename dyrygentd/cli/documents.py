"""Files with JSON or YAML in them: definitions and values of parameters."""

import importlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dyrygentd.cli.session import fail
from dyrygentd.errors import DyrygentError

YAML_SUFFIXES = (".yaml", ".yml")
SUFFIXES = (".json", *YAML_SUFFIXES)

#: Names in objects, merged ones counted where they come to stand.
_MERGED_MAX = 500_000
_WRITE_TEXT = "put it into quotation marks if text is meant"


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, or exit."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"cannot read '{path}': {error.strerror}", status=2)


@contextmanager
def naming(target: str, content: object) -> Iterator[None]:
    """Exit with the name of the file, and the place in it, if it is refused and is no JSON at all."""
    try:
        yield
    except DyrygentError:
        # Only now: to read what is right here, too, would take its time.
        if isinstance(content, bytes):
            refuse_if_no_json(target, content)
        raise


def named(target: str) -> str:
    """Say where a content came from."""
    return "what came on stdin" if target in ("-", "<stdin>") else f"'{target}'"


def refuse_if_no_json(target: str, content: bytes) -> None:
    """Exit with the name of the file, and the place in it, if its content is no JSON."""
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        fail(f"{named(target)} is no JSON: {error}", status=2)


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

        merged = 0

        def flatten_mapping(self, node: Any) -> None:
            """Merge what `<<` names, which multiplies like an alias, and at once."""
            for key, value in node.value:
                if key.tag != "tag:yaml.org,2002:merge":
                    continue
                for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(each, yaml.MappingNode):
                        self.flatten_mapping(each)
                        self.merged += len(each.value)
                    if self.merged > _MERGED_MAX:
                        words = f"with its merges it has more than {_MERGED_MAX} names"
                        raise yaml.constructor.ConstructorError(None, None, words, node.start_mark)
            super().flatten_mapping(node)

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


#: As long as the longest submission: aliases may name what is long again and again.
_CHARACTERS_MAX = 64 * 1024 * 1024


def _problem_in(document: Any) -> str | None:
    """Say what JSON cannot carry, and where; None if there is nothing. Without recursion, as aliases can make a circle.

    What aliases name is looked into once, however often it is named, and counted as often: written out it would be as long.
    """
    # How long what was looked into is when it is written out, and what is being looked into.
    lengths: dict[int, int] = {}
    inside: set[int] = set()
    stack: list[tuple[Any, str, bool]] = [(document, "$", False)]
    while stack:
        part, path, is_done = stack.pop()
        if is_done:
            lengths[id(part)] = sum(_length(each, lengths) for each in _each(part)) + 2
            inside.discard(id(part))
            if lengths[id(part)] > _CHARACTERS_MAX:
                return f"what is at {path} has more than {_CHARACTERS_MAX} characters when its aliases are written out"
        elif isinstance(part, dict | list):
            if id(part) in inside:
                return f"what is at {path} refers to itself"
            if id(part) in lengths:
                continue
            inside.add(id(part))
            stack.append((part, path, True))
            if isinstance(part, list):
                stack += [(value, f"{path}[{number}]", False) for number, value in enumerate(part)]
                continue
            wrong = next((key for key in part if not isinstance(key, str)), None)
            if wrong is not None or None in part:
                return f"the name {wrong!r} at {path} is no text"
            stack += [(value, f"{path}.{key[:100]}", False) for key, value in part.items()]
        elif not isinstance(part, str | int | float | None) or (isinstance(part, float) and not math.isfinite(part)):
            return f"the {type(part).__name__} at {path} has no form in JSON"
        elif isinstance(part, str) and not _is_text(part):
            return f"the text at {path} has half of a character in it"
    return None


def _each(part: Any) -> Any:
    return part if isinstance(part, list) else [*part.keys(), *part.values()]


def _length(part: Any, lengths: dict[int, int]) -> int:
    return len(part) + 3 if isinstance(part, str) else lengths.get(id(part), 8)


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
