"""What a command's TARGET names: an object of a module, a definition file, or JSON on stdin."""

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from dyrygentd.cli import documents, fail
from dyrygentd.errors import NotACanvas

_NAMED_MAX: Final = 8


def read(target: str) -> Any:
    """Return what stands there, as it was written: a canvas, a `Workflow`, or a definition as JSON text or a mapping."""
    content = _read_content(target)
    return _read_object(target) if content is None else content


def read_definition(target: str) -> Any:
    """Return what `Client.submit` takes."""
    content = _read_content(target)
    return _definition_of(target, _read_object(target)) if content is None else content


def _read_content(target: str) -> Any:
    """Return the definition in a file or on stdin: JSON text, or a mapping made of YAML. None if the target is neither."""
    if target == "-":
        return sys.stdin.buffer.read()
    return _read_definition_file(Path(target)) if Path(target).suffix.lower() in documents.SUFFIXES else None


def _read_object(target: str) -> Any:
    """Return an object of a module, or what it returns if it is a function. A task is none: calling it would run it here."""
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise click.BadParameter(f"'{target}' is neither module:object nor a *.json or *.yaml file", param_hint="TARGET")
    found = _load(module, name)
    if inspect.isfunction(found) or inspect.ismethod(found):
        try:
            found = found()
        except Exception as error:
            fail(f"'{target}' failed: {last_line(error)}")
    return found


def _read_definition_file(path: Path) -> Any:
    if path.suffix.lower() not in documents.YAML_SUFFIXES:
        return documents.read_bytes(path)
    document = documents.read_yaml(path)
    if not isinstance(document, dict):
        fail(f"'{path}' holds no definition", next_step="a definition is a mapping with `nodes`", status=2)
    return document


def _load(module: str, name: str) -> Any:
    # As `celery -A` and `python -m` do it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            fail(f"there is no module '{module}'", next_step="run this from the directory that holds it", status=2)
        fail(f"module '{module}' cannot be imported: {last_line(error)}")
    except Exception as error:
        fail(f"module '{module}' cannot be imported: {last_line(error)}")
    for part in name.split("."):
        if not hasattr(found, part):
            fail(f"module '{module}' has no '{name}'", next_step=_resembling(found, part), status=2)
        found = getattr(found, part)
    return found


def _definition_of(target: str, found: Any) -> Any:
    from dyrygentd.canvas import definition_of

    if type(found) is dict and "nodes" in found:
        return found
    try:
        return definition_of(found)
    except NotACanvas as error:
        fail(f"'{target}' is not a canvas: {error}", next_step=error.next_step)


def last_line(error: BaseException) -> str:
    """Return the last line of the traceback and the place from which it came."""
    import traceback

    words = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    return f"{words} ({frames[-1].filename}:{frames[-1].lineno})" if frames else words


def _resembling(found: Any, name: str) -> str:
    """Say which name may have been meant, or which ones there are that can be submitted."""
    import difflib

    close = difflib.get_close_matches(name, dir(found), n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    known = [
        each
        for each, value in getattr(found, "__dict__", {}).items()
        if not each.startswith("_") and _looks_like_a_workflow(value)
    ]
    return f"it has {', '.join(known[:_NAMED_MAX])}" if known else "it has no canvas, workflow or definition at all"


def _looks_like_a_workflow(value: Any) -> bool:
    # Signatures are mappings with a task, definitions are mappings with nodes; a `Workflow` can write its definition.
    is_document = isinstance(value, dict) and ("task" in value or "nodes" in value)
    return is_document or (callable(getattr(value, "definition", None)) and not inspect.isclass(value))
